-- name: status
SELECT (SELECT count(*) FROM orchestrator.leads) AS leads,
       count(*) FILTER (WHERE status = 'available') AS available,
       count(*) FILTER (WHERE status = 'running') AS running,
       count(*) FILTER (WHERE status = 'dead') AS dead,
       (SELECT count(*) FROM orchestrator.workers) AS daemons
FROM orchestrator.tasks

-- name: occupied
-- Daemons name their sessions `orchestrator`. A pooler keeps them open, and named, when their daemon has gone.
SELECT (SELECT count(*) FROM orchestrator.leads) AS leads,
       (SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'orchestrator%'
          AND (application_name NOT LIKE '% pooled' OR state_change > clock_timestamp() - interval '5 seconds')) AS daemons

-- name: name_backup
UPDATE orchestrator.sending SET stopped_by = $1, reason = 'restored from ' || $2::text

-- name: set_aside
SELECT count(*) FILTER (WHERE status = 'awaiting_approval') AS awaiting, count(*) FILTER (WHERE status = 'unknown') AS unknown
FROM orchestrator.messages
