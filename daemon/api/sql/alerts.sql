-- Filters that are null do not count.

-- name: alerts
-- $1 id, $2 acknowledged, $3 severity, $4 type, $5 open, $6 and $7 created_at and id of the last one seen, $8 how many.
SELECT a.created_at, a.id, to_json(a)::text AS shown
FROM (
    SELECT id, type, message, severity, subject, metadata, acknowledged, acknowledged_by, created_at, resolved_at
    FROM alerts
    WHERE ($1::uuid IS NULL OR id = $1)
      AND ($2::boolean IS NULL OR acknowledged = $2)
      AND ($3::text IS NULL OR severity = $3)
      AND ($4::text IS NULL OR type = $4)
      AND ($5::boolean IS NULL OR (resolved_at IS NULL) = $5)
      AND ($6::timestamptz IS NULL OR (created_at <= $6 AND (created_at < $6 OR id > $7::uuid)))
    ORDER BY created_at DESC, id
    LIMIT $8
) a
ORDER BY a.created_at DESC, a.id

-- name: acknowledge
UPDATE alerts SET acknowledged = true, acknowledged_by = $2 WHERE id = $1 AND NOT acknowledged
