-- name: runs
-- $1 campaign, $2 and $3 started_at and id of the last one seen, $4 how many. What a run has sent: what its
-- engines say, and its own messages.
SELECT r.started_at, r.id, to_json(r)::text AS shown
FROM (
    SELECT id, campaign_id, trigger, scheduled_for, started_at, completed_at, status, steps_completed, steps_failed,
           run_sum(results, 'found') AS prospects_generated, run_sum(results, 'analyzed') AS leads_analyzed,
           run_sum(results, 'sent')
               + (SELECT count(*) FROM messages m WHERE m.run_id = campaign_runs.id AND m.status = 'sent') AS emails_sent,
           total_cost, errors, dry_run, round
    FROM campaign_runs
    WHERE campaign_id = $1
      AND ($2::timestamptz IS NULL OR (started_at <= $2 AND (started_at < $2 OR id > $3::uuid)))
    ORDER BY started_at DESC, id
    LIMIT $4
) r
ORDER BY r.started_at DESC, r.id

-- name: run
-- All about one.
SELECT to_json(w)::text AS shown
FROM (
    SELECT r.id, r.campaign_id, c.name AS campaign, r.trigger, r.scheduled_for, r.started_at, r.completed_at, r.status, r.steps_completed,
           r.steps_failed, run_sum(r.results, 'found') AS prospects_generated, run_sum(r.results, 'analyzed') AS leads_analyzed,
           run_sum(r.results, 'sent') + (SELECT count(*) FROM messages m WHERE m.run_id = r.id AND m.status = 'sent') AS emails_sent,
           r.total_cost, r.errors, r.dry_run, r.round, r.inputs, r.definition, r.results,
           (SELECT coalesce(json_agg(s ORDER BY s.position), '[]')
            FROM (SELECT position, name, kind, status, attempts, started_at, completed_at, result, error, cost
                  FROM campaign_run_steps WHERE run_id = r.id) s) AS steps
    FROM campaign_runs r JOIN campaigns c ON c.id = r.campaign_id
    WHERE r.id = $1
) w

-- name: cancel
SELECT cancel_run($1)

-- name: pause
SELECT pause_run($1)

-- name: resume
SELECT resume_run($1)

-- name: retry
SELECT retry_run($1, $2)

-- name: stand
-- A run's status, the names of its steps, and the other run that it may not go beside.
SELECT r.status, ARRAY(SELECT name FROM campaign_run_steps WHERE run_id = r.id ORDER BY position) AS steps,
       (SELECT o.id FROM campaign_runs o WHERE o.campaign_id = r.campaign_id AND o.id <> r.id AND r.trigger <> 'event'
                                           AND o.status IN ('running', 'waiting', 'paused') LIMIT 1) AS other
FROM campaign_runs r WHERE r.id = $1
