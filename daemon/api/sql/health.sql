-- name: ready
SELECT true

-- name: queue_state
SELECT count(*) FILTER (WHERE t.status = 'available') AS available,
       count(*) FILTER (WHERE t.status = 'running') AS running,
       count(*) FILTER (WHERE t.status = 'dead') AS dead,
       coalesce((SELECT extract(epoch FROM orchestrator.clock() - d.run_at)::float8 FROM tasks d
                 WHERE d.status = 'available' AND d.run_at <= orchestrator.clock()
                 ORDER BY d.run_at LIMIT 1), 0) AS oldest_age_s,
       (SELECT count(*) FROM campaigns WHERE status = 'active' AND deleted_at IS NULL) AS active_campaigns,
       (SELECT count(*) FROM campaigns WHERE scheduled AND next_run_at <= orchestrator.clock() + interval '24 hours') AS slots_today
FROM tasks t

-- name: runs_ended
-- By campaign and status; one that was begun anew counts each time it has ended.
SELECT c.name AS campaign, e.status, sum(e.n)::bigint AS n
FROM (SELECT campaign_id, status, count(*) AS n FROM campaign_runs GROUP BY campaign_id, status
      UNION ALL SELECT r.campaign_id, f.status, count(*) FROM campaign_runs r CROSS JOIN LATERAL unnest(r.former_ends) AS f(status)
                WHERE r.round > 0 GROUP BY r.campaign_id, f.status) AS e
JOIN campaigns c ON c.id = e.campaign_id
WHERE e.status NOT IN ('running', 'waiting', 'paused')
GROUP BY c.name, e.status

-- name: approvals_decided
SELECT checkpoint, status AS decision, count(*) AS n FROM approval_queue WHERE status <> 'pending' GROUP BY checkpoint, status

-- name: approvals_pending
SELECT checkpoint, count(*) AS n FROM approval_queue WHERE status = 'pending' GROUP BY checkpoint

-- name: alerts_active
SELECT type, severity, count(*) AS n FROM alerts WHERE resolved_at IS NULL GROUP BY type, severity

-- name: leads_by_stage
SELECT pipeline, stage, n FROM stage_sizes

-- name: transitions
SELECT pipeline, from_stage, to_stage, n FROM transition_totals WHERE from_stage <> to_stage

-- name: invalid_transitions
-- From nought on, or the first one would be no growth.
SELECT p.name, coalesce(sum(t.n), 0)::bigint AS n
FROM pipelines p LEFT JOIN transition_totals t ON t.pipeline = p.name AND t.from_stage = t.to_stage
GROUP BY p.name
