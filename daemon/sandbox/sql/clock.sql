-- name: now
SELECT orchestrator.clock()

-- name: advance
-- Business time goes on by $1 seconds at most, no further than $2 seconds past what is due next; with $3 it waits as
-- long as something that is due is being done. A deadline is the daemon's to fire for three seconds, then it is no news.
WITH clock AS MATERIALIZED (
    SELECT orchestrator.clock() AS now
), work AS MATERIALIZED (
    SELECT EXISTS (SELECT FROM orchestrator.tasks WHERE status = 'running')
        OR EXISTS (SELECT FROM orchestrator.tasks, clock WHERE status = 'available' AND run_at <= now)
        OR EXISTS (SELECT FROM orchestrator.leads, clock
                   WHERE deadline_at <= now AND deadline_at > now - make_interval(secs => 3 + $2::float8) AND archived_at IS NULL) AS at_hand
), ahead AS MATERIALIZED (
    SELECT least((SELECT min(run_at) FROM orchestrator.tasks, clock WHERE status = 'available' AND run_at > now),
                 (SELECT min(deadline_at) FROM orchestrator.leads, clock WHERE deadline_at > now AND archived_at IS NULL)) AS due
), step AS MATERIALIZED (
    SELECT least($1::float8, extract(epoch FROM due - now)::float8 + $2::float8) AS seconds FROM clock, ahead
)
SELECT at_hand, CASE WHEN moves THEN seconds ELSE 0 END AS moved_s,
       CASE WHEN moves THEN orchestrator.shift_clock(make_interval(secs => seconds)) ELSE now END AS now
FROM clock, work, step, LATERAL (SELECT seconds > 0 AND NOT (at_hand AND $3::boolean) AS moves) AS decision
