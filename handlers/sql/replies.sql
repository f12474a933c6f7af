-- name: load
-- A reply with the lead it names, else with those that we know by the sender's address (the latest contacted first).
-- `spelt`: a number that only ends like the sender's; whether both are one in the lead's country, SQL can't tell.
SELECT r.id AS reply_id, r.lead_id, r.channel, r.from_address, r.to_address, r.subject, r.body, r.headers, r.external_id,
       r.received_at, r.category, r.confidence, r.classified_by, r.status, l AS lead, m.spelt
FROM replies r
LEFT JOIN LATERAL (
    SELECT DISTINCT ON (s.spelt, l.country) s.spelt, l.id, l.archived_at, l.last_outbound_at, l.created_at
    FROM (SELECT id, NULL AS spelt FROM leads WHERE email IS NOT NULL AND plain_address(email) = plain_address(r.from_address)
          UNION ALL
          SELECT id, phone FROM leads WHERE phone IS NOT NULL AND phone_tail(phone) = phone_tail(r.from_address)
          UNION ALL
          SELECT lead_id, NULL FROM contacts WHERE email IS NOT NULL AND plain_address(email) = plain_address(r.from_address)
          UNION ALL
          SELECT lead_id, phone FROM contacts WHERE phone IS NOT NULL AND phone_tail(phone) = phone_tail(r.from_address)
          UNION ALL     -- however its address is spelt: whom we wrote to there
          SELECT w.lead_id, NULL FROM (SELECT m.lead_id FROM messages m WHERE m.to_address IS NOT NULL
              AND plain_address(m.to_address) = plain_address(r.from_address) ORDER BY m.created_at DESC LIMIT 20) w) f
    CROSS JOIN LATERAL (SELECT CASE WHEN plain_address(f.spelt) <> plain_address(r.from_address) THEN f.spelt END) AS s(spelt)
    JOIN leads l ON l.id = f.id
    WHERE r.lead_id IS NULL AND r.from_address IS NOT NULL
    ORDER BY s.spelt, l.country, l.archived_at IS NOT NULL, l.last_outbound_at DESC NULLS LAST, l.created_at DESC
) m ON true
LEFT JOIN leads l ON l.id = coalesce(r.lead_id, m.id)
WHERE r.id = ANY ($1)
ORDER BY r.id, m.archived_at IS NOT NULL, m.last_outbound_at DESC NULLS LAST, m.created_at DESC

-- name: handled
UPDATE replies SET status = 'ignored', reason = 'its task was cancelled' WHERE id = $1 AND status = 'received'

-- name: approval
SELECT a.id, a.checkpoint, a.status, a.payload, a.lead_id, a.comment, a.decided_by FROM approval_queue a WHERE a.id = ANY ($1)
