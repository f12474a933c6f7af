-- name: sandboxed
SELECT coalesce(obj_description('orchestrator'::regnamespace, 'pg_namespace'), '') LIKE '%orchestrator sandbox%'
