-- name: entries
-- Leads of a sweep step that owe their entry action and have no task that will do it.
INSERT INTO tasks (kind, key, payload)
SELECT s.entry_kind, 'lead:' || l.id, jsonb_build_object('lead_id', l.id, 'stage_seq', l.stage_seq)
FROM leads l JOIN stages s ON s.pipeline = l.pipeline AND s.name = l.stage AND s.entry_kind IS NOT NULL
WHERE l.entry_pending AND l.archived_at IS NULL AND s.sweep_step = $1
  AND NOT EXISTS (SELECT FROM tasks t WHERE t.key = 'lead:' || l.id AND t.kind = s.entry_kind AND t.status = 'available')
  AND NOT EXISTS (SELECT FROM tasks t WHERE t.key = 'lead:' || l.id AND t.status = 'running')
  AND NOT EXISTS (SELECT FROM tasks t WHERE t.key = 'lead:' || l.id AND t.kind = s.entry_kind AND t.status = 'dead')
LIMIT 5000

-- name: messages
INSERT INTO tasks (kind, key, payload, run_at, dedup_key)
SELECT 'message', coalesce('lead:' || m.lead_id, 'message:' || m.id),
       jsonb_build_object('message_id', m.id, 'lead_id', m.lead_id, 'stage_seq', m.stage_seq, 'template', m.template,
                          'channel', m.channel), m.send_at, 'message:' || m.id
FROM messages m
WHERE m.status = 'scheduled' AND m.send_at <= orchestrator.clock()
  AND NOT EXISTS (SELECT FROM tasks t WHERE t.status = 'available' AND t.key = coalesce('lead:' || m.lead_id, 'message:' || m.id)
                                        AND t.kind = 'message' AND t.payload ->> 'message_id' = m.id::text)
  AND NOT EXISTS (SELECT FROM tasks t WHERE t.status = 'running' AND t.key = coalesce('lead:' || m.lead_id, 'message:' || m.id))
  AND NOT EXISTS (SELECT FROM tasks t WHERE t.status = 'dead' AND t.key = coalesce('lead:' || m.lead_id, 'message:' || m.id)
                                        AND t.kind = 'message' AND t.payload ->> 'message_id' = m.id::text)
LIMIT 5000
ON CONFLICT (dedup_key) WHERE status = 'available' DO NOTHING

-- name: replies
INSERT INTO tasks (kind, key, payload, priority)
SELECT 'reply', 'reply:' || r.id, jsonb_build_object('reply_id', r.id), 10
FROM replies r
WHERE r.status = 'received' AND r.received_at > '-infinity'
  AND NOT EXISTS (SELECT FROM tasks t WHERE t.key IN ('reply:' || r.id, 'lead:' || r.lead_id) AND t.status = 'available'
                                        AND t.payload ->> 'reply_id' = r.id::text)
  AND NOT EXISTS (SELECT FROM tasks t WHERE t.key IN ('reply:' || r.id, 'lead:' || r.lead_id) AND t.status = 'running')
  AND NOT EXISTS (SELECT FROM tasks t WHERE t.key IN ('reply:' || r.id, 'lead:' || r.lead_id) AND t.status = 'dead'
                                        AND t.payload ->> 'reply_id' = r.id::text)
LIMIT 5000

-- name: deadlines
SELECT orchestrator.fire_deadlines(1000)

-- name: archive
UPDATE leads SET archived_at = orchestrator.clock()
WHERE id IN (SELECT l.id FROM leads l
             WHERE l.pipeline = 'vendor_acquisition' AND l.stage = 'DEAD_LEAD' AND l.archived_at IS NULL
               AND l.stage_entered_at < orchestrator.clock() - make_interval(days => $1)
             LIMIT 1000 FOR NO KEY UPDATE SKIP LOCKED)

-- name: gauges
SELECT checkpoint, count(*) AS n FROM approval_queue WHERE status = 'pending' GROUP BY checkpoint

-- name: alerts
SELECT type, severity, count(*) AS n FROM alerts WHERE resolved_at IS NULL GROUP BY type, severity
