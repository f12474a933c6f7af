-- Filters that are null do not count.

-- name: replies
-- $1 id, $2 status, $3 category, $4 lead, $5 and $6 received_at and id of the last one seen,
-- $7 and $8 channel and external_id, if there is no id; $9 how many.
SELECT r.received_at, r.id, to_json(r)::text AS shown
FROM (
    SELECT id, lead_id, channel, from_address, to_address, subject, body, headers, external_id, received_at, category, confidence,
           classified_by, status, reason
    FROM replies
    WHERE ($1::uuid IS NULL OR id = $1)
      AND ($2::text IS NULL OR status = $2)
      AND ($3::text IS NULL OR category = $3)
      AND ($4::uuid IS NULL OR lead_id = $4)
      AND ($5::timestamptz IS NULL OR (received_at <= $5 AND (received_at < $5 OR id > $6::uuid)))
      AND ($1::uuid IS NOT NULL OR $8::text IS NULL OR (channel = $7 AND external_id = $8))
    ORDER BY received_at DESC, id
    LIMIT $9
) r
ORDER BY r.received_at DESC, r.id

-- name: create
-- No id if it was handed in before.
INSERT INTO replies (channel, from_address, to_address, subject, body, headers, external_id)
SELECT d.channel, d.from_address, d.to_address, d.subject, d.body, d.headers, d.external_id
FROM jsonb_to_record($1) AS d(channel text, from_address text, to_address text, subject text, body text, headers jsonb, external_id text)
ON CONFLICT (channel, external_id) DO NOTHING
RETURNING id
