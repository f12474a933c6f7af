-- name: stages
-- In the order of the declaration.
SELECT pipeline, name, terminal, entry_kind, required, deadlines, counts_silence, on_complete, sweep_step
FROM orchestrator.stages ORDER BY pipeline, position

-- name: transitions
SELECT pipeline, from_stage, to_stage FROM orchestrator.transitions

-- name: strangers
-- Leads in stages that are not among $1 (`pipeline.stage`).
SELECT pipeline || '.' || stage AS place, count(*) AS n FROM orchestrator.leads
GROUP BY pipeline, stage HAVING pipeline || '.' || stage <> ALL ($1::text[]) ORDER BY 1

-- name: unknown_kinds
SELECT kind, count(*) AS n FROM orchestrator.tasks GROUP BY kind HAVING kind <> ALL ($1::text[]) ORDER BY kind

-- name: long_queues
SELECT key, count(*) AS n FROM orchestrator.tasks WHERE status = 'available' AND key IS NOT NULL
GROUP BY key HAVING count(*) > $1 ORDER BY n DESC, key LIMIT 20

-- name: stopped
SELECT stopped_by, reason FROM orchestrator.sending WHERE stopped_at IS NOT NULL

-- name: sandboxed
SELECT coalesce(obj_description('orchestrator'::regnamespace, 'pg_namespace'), '') LIKE '%orchestrator sandbox%'

-- name: campaigns
SELECT id, name, status, config FROM orchestrator.campaigns WHERE deleted_at IS NULL ORDER BY name
