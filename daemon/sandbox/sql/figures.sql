-- name: stages
-- Of every pipeline that has leads, each stage with its leads.
SELECT s.pipeline, s.name, coalesce(n.leads, 0) AS leads
FROM orchestrator.stages s
LEFT JOIN (SELECT pipeline, stage, count(*) AS leads FROM orchestrator.leads
           WHERE archived_at IS NULL GROUP BY pipeline, stage) AS n ON n.pipeline = s.pipeline AND n.stage = s.name
WHERE EXISTS (SELECT FROM orchestrator.leads l WHERE l.pipeline = s.pipeline)
ORDER BY s.pipeline, s.position

-- name: figures
SELECT orchestrator.clock() AS now,
       (SELECT jsonb_object_agg(status, n) FROM (SELECT status, count(*) AS n FROM orchestrator.messages GROUP BY status) AS m) AS messages,
       (SELECT jsonb_object_agg(status, n) FROM (SELECT status, count(*) AS n FROM orchestrator.tasks GROUP BY status) AS t) AS tasks,
       (SELECT jsonb_object_agg(engine, spent) FROM (
           SELECT engine, sum(coalesce(cost, reserved_cost)) AS spent FROM orchestrator.engine_calls GROUP BY engine) AS c) AS money,
       (SELECT count(*) FROM orchestrator.replies) AS replies,
       (SELECT count(*) FROM orchestrator.leads WHERE needs_review) AS review,
       (SELECT jsonb_object_agg(status, n) FROM (
           SELECT status, count(*) AS n FROM orchestrator.campaign_runs GROUP BY status) AS r) AS runs,
       (SELECT jsonb_object_agg(status, n) FROM (
           SELECT r.status, count(*) AS n FROM orchestrator.campaign_run_steps s JOIN orchestrator.campaign_runs r ON r.id = s.run_id
           WHERE s.status = 'unknown' GROUP BY r.status) AS u) AS unknown_steps
