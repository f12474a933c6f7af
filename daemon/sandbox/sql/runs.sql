-- name: runs
-- The latest runs, oldest first, with their steps; of a step's result only its figures.
SELECT * FROM (
    SELECT r.id, r.round, c.name, r.status, r.dry_run, r.started_at, r.completed_at, r.total_cost, r.errors -> -1 ->> 'error' AS error,
           orchestrator.clock() AS now,
           ARRAY(SELECT to_jsonb(t) FROM (
               SELECT s.position, s.name, s.status, s.cost, s.error, coalesce(s.completed_at, s.started_at) AS at,
                      (SELECT jsonb_object_agg(e.key, e.value)
                       FROM jsonb_each(CASE jsonb_typeof(s.result) WHEN 'object' THEN s.result ELSE '{}' END) AS e
                       WHERE jsonb_typeof(e.value) = 'number' AND e.key IN ('found', 'analyzed', 'composed', 'sent', 'scheduled', 'enriched')
                      ) AS figures
               FROM orchestrator.campaign_run_steps s WHERE s.run_id = r.id ORDER BY s.position) AS t) AS steps
    FROM orchestrator.campaign_runs r JOIN orchestrator.campaigns c ON c.id = r.campaign_id
    ORDER BY r.started_at DESC LIMIT $1) AS latest
ORDER BY started_at
