-- name: stop
-- $1 who, $2 why. Who has stopped it first stays on record.
UPDATE sending SET stopped_at = orchestrator.clock(), stopped_by = $1, reason = $2 WHERE stopped_at IS NULL

-- name: resume
UPDATE sending SET stopped_at = NULL WHERE stopped_at IS NOT NULL

-- name: state
SELECT stopped_at IS NOT NULL AS stopped, stopped_at, stopped_by, reason,
       (SELECT count(*) FROM messages WHERE status = 'scheduled' AND send_at <= orchestrator.clock()) AS overdue
FROM sending

-- name: admit
-- A row for each of $1 calls, unless sending is stopped.
SELECT n FROM generate_series(1, $1::int) AS n WHERE EXISTS (SELECT FROM sending WHERE stopped_at IS NULL)

-- name: refusal
SELECT 'sending is stopped: ' || reason FROM sending WHERE stopped_at IS NOT NULL
