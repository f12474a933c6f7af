-- Filters that are null do not count.

-- name: approvals
-- $1 id, $2 status, $3 checkpoint, $4 run, $5 and $6 created_at and id of the last one seen, $7 how many.
SELECT a.created_at, a.id, to_json(a)::text AS shown
FROM (
    SELECT id, checkpoint, title, payload, run_id, step, lead_id, status, decided_by, decided_at, comment, expires_at, created_at
    FROM approval_queue
    WHERE ($1::uuid IS NULL OR id = $1)
      AND ($2::text IS NULL OR status = $2)
      AND ($3::text IS NULL OR checkpoint = $3)
      AND ($4::uuid IS NULL OR run_id = $4)
      AND ($5::timestamptz IS NULL OR (created_at <= $5 AND (created_at < $5 OR id > $6::uuid)))
    ORDER BY created_at DESC, id
    LIMIT $7
) a
ORDER BY a.created_at DESC, a.id
