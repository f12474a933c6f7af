-- name: load
SELECT m AS message, l AS lead,
       CASE WHEN m.template IN ('COUNTER', 'QUESTION') THEN owes_answer(m.lead_id, m.stage_seq, besides => m.id) END AS owes_more
FROM messages m LEFT JOIN leads l ON l.id = m.lead_id WHERE m.id = ANY ($1)

-- name: admit
-- The last word before a message goes out: $1 messages, $2 addresses. What is admitted is `sending` from now on.
WITH free AS (
    SELECT m.id FROM messages m WHERE m.id = ANY ($1) ORDER BY m.id FOR NO KEY UPDATE SKIP LOCKED
)
UPDATE messages m SET status = 'sending', reserved_at = orchestrator.clock(), reason = NULL, 
    to_address = coalesce(nullif(d.address, ''), m.to_address)
FROM unnest($1::uuid[], $2::text[]) AS d(id, address) JOIN free USING (id)
WHERE m.id = d.id AND m.status IN ('scheduled', 'sending') AND EXISTS (SELECT FROM sending WHERE stopped_at IS NULL)
  AND NOT EXISTS (SELECT FROM leads l WHERE l.id = m.lead_id AND (l.do_not_contact OR l.stage_seq <> m.stage_seq))
  AND NOT EXISTS (
      SELECT FROM (SELECT coalesce(m.to_address, (
          SELECT CASE m.channel WHEN 'email' THEN l.email ELSE l.phone END FROM leads l WHERE l.id = m.lead_id)) AS written OFFSET 0) AS w,
          orchestrator.exclusions_of(d.address, w.written))
RETURNING m.id

-- name: refusals
-- Those without `until` are final; while sending is stopped, the others wait until it resumes.
SELECT m.id, coalesce(why.reason, stopped.reason) AS reason,
       CASE WHEN why.reason IS NULL THEN coalesce(stopped.until, clock() + interval '1 second') END AS until
FROM unnest($1::uuid[], $2::text[]) AS d(id, address) JOIN messages m ON m.id = d.id
LEFT JOIN leads l ON l.id = m.lead_id
CROSS JOIN LATERAL (SELECT coalesce(m.to_address, CASE m.channel WHEN 'email' THEN l.email ELSE l.phone END)) AS w(written)
LEFT JOIN LATERAL (SELECT reason FROM orchestrator.exclusions_of(d.address, w.written) LIMIT 1) AS x ON true
CROSS JOIN LATERAL (SELECT CASE
    WHEN m.status NOT IN ('scheduled', 'sending') THEN 'the message is ' || m.status
    WHEN l.do_not_contact THEN 'do not contact'
    WHEN x.reason IS NOT NULL THEN 'excluded: ' || x.reason
    WHEN l.stage_seq <> m.stage_seq THEN 'the lead has left that stage' END AS reason) AS why
LEFT JOIN (SELECT 'sending is stopped: ' || reason AS reason, timestamptz '9999-01-01 00:00 UTC' AS until
           FROM sending WHERE stopped_at IS NOT NULL) AS stopped ON true

-- name: cancelled
UPDATE messages SET status = 'cancelled', reason = 'its task was cancelled'
WHERE id = $1 AND status IN ('scheduled', 'sending', 'failed', 'unknown')
