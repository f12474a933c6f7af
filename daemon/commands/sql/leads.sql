-- name: session
SELECT set_config('timezone', 'UTC', false), set_config('application_name', 'orchestrator command', false)

-- name: messages
SELECT to_json(m)::text AS shown
FROM (SELECT id, run_id, step, channel, template, to_address, from_address, subject, body, status, reason, send_at, sent_at,
             idempotency_key, provider_message_id, cost
      FROM messages WHERE lead_id = $1 ORDER BY created_at DESC, id LIMIT $2) m
