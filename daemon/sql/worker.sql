-- name: register
INSERT INTO workers (id, host, pid, version, expects_lock) VALUES ($1, $2, $3, $4, $5) RETURNING number

-- name: registered
SELECT EXISTS (SELECT FROM workers WHERE id = $1)

-- name: deregister
-- Whatever it still holds is given back: nobody would take over from a daemon that isn't missed.
WITH held AS (
    UPDATE tasks SET status = 'available', lease_id = NULL, lease_expires_at = NULL, worker = NULL, attempt = attempt - 1
    WHERE status = 'running' AND worker = $1
)
DELETE FROM workers WHERE id = $1

-- name: end_abandoned
-- Sessions of ours whose client is gone: behind a half-open connection the server keeps their locks until it notices.
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE pid = ANY ($1) AND pid <> pg_backend_pid() AND application_name = 'orchestrator' AND usename = current_user
  AND datname = current_database()

-- name: try_lock
SELECT pg_try_advisory_lock(1869767528, $1)

-- name: pulse
SELECT * FROM orchestrator.pulse($1)

-- name: take_over
SELECT orchestrator.take_over($1)

-- name: free_expired
SELECT orchestrator.free_expired()

-- name: due_schedules
SELECT name, cron, timezone, grace_s, last_slot, next_slot, orchestrator.clock() AS now
FROM schedules WHERE enabled AND (next_slot IS NULL OR next_slot <= orchestrator.clock())

-- name: advance_schedule
-- Whoever moves next_slot on has won the slot.
UPDATE schedules SET last_slot = coalesce($4, last_slot), next_slot = $3 WHERE name = $1 AND next_slot IS NOT DISTINCT FROM $2
RETURNING name

-- name: seed_schedule
INSERT INTO schedules (name, cron, timezone) VALUES ($1, $2, $3) ON CONFLICT (name) DO NOTHING
