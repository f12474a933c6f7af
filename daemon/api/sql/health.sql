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

-- name: leads_by_stage
SELECT pipeline, stage, n FROM stage_sizes
