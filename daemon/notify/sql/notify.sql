-- name: alerts
-- $1 ids, $2 how many of a type are told within the hour: each alert, and how many of its type came before it in that time.
SELECT a.id, a.type, a.severity, a.message, a.subject, a.resolved_at IS NULL AS open,
       (SELECT count(*) FROM (SELECT FROM alerts b
                              WHERE b.type = a.type AND b.created_at > a.created_at - interval '1 hour'
                                AND (b.created_at, b.id) < (a.created_at, a.id) LIMIT $2) AS of_the_hour)::int AS before
FROM alerts a WHERE a.id = ANY ($1)

-- name: approvals
SELECT id, checkpoint, title, expires_at, status = 'pending' AS open FROM approval_queue WHERE id = ANY ($1)

-- name: undeliverable
-- $1 subjects, $2 messages, $3 tasks: one open alert per target, which is also the key of its tasks.
INSERT INTO alerts (type, message, severity, subject, metadata)
SELECT 'AGENT_FAILURE', d.message, 'HIGH', d.subject, jsonb_build_object('task_id', d.task_id)
FROM unnest($1::text[], $2::text[], $3::bigint[]) AS d(subject, message, task_id)
ON CONFLICT (type, subject) WHERE resolved_at IS NULL DO NOTHING

-- name: delivered
-- $1 subjects: the target hears us again.
UPDATE alerts SET resolved_at = clock()
WHERE id IN (SELECT id FROM alerts WHERE type = 'AGENT_FAILURE' AND subject = ANY ($1) AND resolved_at IS NULL
             FOR NO KEY UPDATE SKIP LOCKED)
