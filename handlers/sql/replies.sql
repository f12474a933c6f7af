-- name: load
-- A reply with its lead: the one it names, else the one we know by the sender's address (the latest contacted).
SELECT r.id AS reply_id, r.lead_id, r.channel, r.from_address, r.to_address, r.subject, r.body, r.headers, r.external_id,
       r.received_at, r.category, r.confidence, r.classified_by, r.status, l AS lead
FROM replies r
LEFT JOIN LATERAL (
    SELECT s.id
    FROM (SELECT * FROM leads WHERE email IS NOT NULL AND plain_address(email) = plain_address(r.from_address)
          UNION ALL
          SELECT * FROM leads WHERE phone IS NOT NULL AND plain_address(phone) = plain_address(r.from_address)
          UNION ALL
          SELECT * FROM leads WHERE id IN (SELECT lead_id FROM contacts WHERE email IS NOT NULL
              AND plain_address(email) = plain_address(r.from_address))
          UNION ALL
          SELECT * FROM leads WHERE id IN (SELECT lead_id FROM contacts WHERE phone IS NOT NULL
              AND plain_address(phone) = plain_address(r.from_address))
          UNION ALL     -- however its address is spelt: whom we wrote to there
          SELECT * FROM leads WHERE id IN (SELECT m.lead_id FROM messages m WHERE m.to_address IS NOT NULL
              AND plain_address(m.to_address) = plain_address(r.from_address) ORDER BY m.created_at DESC LIMIT 20)) s
    WHERE r.lead_id IS NULL AND r.from_address IS NOT NULL
    ORDER BY s.archived_at IS NOT NULL, s.last_outbound_at DESC NULLS LAST, s.created_at DESC LIMIT 1
) m ON true
LEFT JOIN leads l ON l.id = coalesce(r.lead_id, m.id)
WHERE r.id = ANY ($1)

-- name: handled
UPDATE replies SET status = 'ignored', reason = 'its task was cancelled' WHERE id = $1 AND status = 'received'

-- name: approval
SELECT a.id, a.checkpoint, a.status, a.payload, a.lead_id FROM approval_queue a WHERE a.id = ANY ($1)
