-- name: say
-- What leads answer, as their phone company would report it: once per message answered.
INSERT INTO orchestrator.replies (lead_id, channel, from_address, body, external_id)
SELECT l.id, 'sms', l.phone, d.body, d.external_id
FROM unnest($1::uuid[], $2::text[], $3::text[]) AS d(lead_id, body, external_id)
JOIN orchestrator.leads l ON l.id = d.lead_id
ON CONFLICT (channel, external_id) DO NOTHING
