-- name: last_event
SELECT coalesce(max(id), 0) AS id, orchestrator.clock() AS now FROM orchestrator.pipeline_events

-- name: events
SELECT e.id, e.created_at, e.event_type, e.from_stage, e.to_stage, e.metadata, r.body,
       coalesce(l.name, l.company, l.phone, left(e.lead_id::text, 8)) AS who
FROM orchestrator.pipeline_events e
LEFT JOIN orchestrator.leads l ON l.id = e.lead_id
LEFT JOIN orchestrator.replies r ON r.id = CASE
    WHEN e.metadata ->> 'reply_id' ~ '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' THEN (e.metadata ->> 'reply_id')::uuid END
WHERE e.id > $1 ORDER BY e.id LIMIT $2
