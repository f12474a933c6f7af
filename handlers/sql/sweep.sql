-- name: entries
-- Leads of a sweep step that owe their entry action and have no task that will do it.
INSERT INTO tasks (kind, key, payload)
SELECT s.entry_kind, 'lead:' || l.id, jsonb_build_object('lead_id', l.id, 'stage_seq', l.stage_seq)
FROM stages s
CROSS JOIN LATERAL (SELECT o.id, o.stage_seq FROM leads o     -- the only index for such a question: few leads are in it
                    WHERE o.entry_pending AND o.pipeline || '.' || o.stage = s.pipeline || '.' || s.name
                      AND o.archived_at IS NULL) AS l
WHERE s.sweep_step = $1 AND s.entry_kind IS NOT NULL
  AND (SELECT t.id FROM tasks t WHERE t.key = 'lead:' || l.id AND t.kind = s.entry_kind AND t.status = 'available' LIMIT 1) IS NULL
  AND (SELECT t.id FROM tasks t WHERE t.key = 'lead:' || l.id AND t.status = 'running' LIMIT 1) IS NULL
  AND (SELECT t.id FROM tasks t WHERE t.key = 'lead:' || l.id AND t.kind = s.entry_kind AND t.status = 'dead' LIMIT 1) IS NULL
LIMIT 5000

-- name: messages
INSERT INTO tasks (kind, key, payload, run_at, dedup_key)
SELECT 'message', coalesce('lead:' || m.lead_id, 'message:' || m.id),
       jsonb_build_object('message_id', m.id, 'lead_id', m.lead_id, 'stage_seq', m.stage_seq, 'template', m.template,
                          'channel', m.channel), m.send_at, 'message:' || m.id
FROM (SELECT * FROM messages WHERE status = 'scheduled' UNION ALL SELECT * FROM messages WHERE status = 'sending') AS m
WHERE m.send_at <= orchestrator.clock()
  AND (SELECT t.id FROM tasks t WHERE t.status = 'available' AND t.key = coalesce('lead:' || m.lead_id, 'message:' || m.id)
                                        AND t.kind = 'message' AND t.payload ->> 'message_id' = m.id::text LIMIT 1) IS NULL
  AND (SELECT t.id FROM tasks t WHERE t.status = 'running' AND t.key = coalesce('lead:' || m.lead_id, 'message:' || m.id) LIMIT 1) IS NULL
  AND (SELECT t.id FROM tasks t WHERE t.status = 'dead' AND t.key = coalesce('lead:' || m.lead_id, 'message:' || m.id)
                                        AND t.kind = 'message' AND t.payload ->> 'message_id' = m.id::text LIMIT 1) IS NULL
LIMIT 5000
ON CONFLICT (dedup_key) WHERE status = 'available' AND dedup_key IS NOT NULL DO NOTHING

-- name: replies
INSERT INTO tasks (kind, key, payload, priority)
SELECT 'reply', 'reply:' || r.id, jsonb_build_object('reply_id', r.id), 10
FROM replies r
WHERE r.status = 'received' AND r.received_at > '-infinity'
  AND (SELECT t.id FROM tasks t WHERE t.key IN ('reply:' || r.id, 'lead:' || r.lead_id) AND t.status = 'available'
                                        AND t.payload ->> 'reply_id' = r.id::text LIMIT 1) IS NULL
  AND (SELECT t.id FROM tasks t WHERE t.key IN ('reply:' || r.id, 'lead:' || r.lead_id) AND t.status = 'running' LIMIT 1) IS NULL
  AND (SELECT t.id FROM tasks t WHERE t.key IN ('reply:' || r.id, 'lead:' || r.lead_id) AND t.status = 'dead'
                                        AND t.payload ->> 'reply_id' = r.id::text LIMIT 1) IS NULL
LIMIT 5000

-- name: deadlines
SELECT orchestrator.fire_deadlines(1000)

-- name: doubted_messages
-- $1 tasks of calls of unknown outcome: what they were about may have been sent after all.
UPDATE messages m SET status = 'unknown', reason = 'its daemon ended in the middle of the call'
FROM task_log l
WHERE l.id = ANY ($1) AND l.kind = 'message' AND m.id = (l.payload ->> 'message_id')::uuid AND m.status IN ('sending', 'cancelled')

-- name: doubted_leads
SELECT flag_lead(held.id, 'a call for this lead is of unknown outcome: its daemon ended in the middle of it')
FROM (SELECT id FROM leads WHERE id = ANY ($1) ORDER BY id FOR NO KEY UPDATE SKIP LOCKED) AS held

-- name: archive
WITH gone AS (
    UPDATE leads SET archived_at = orchestrator.clock()
    WHERE id IN (SELECT l.id FROM leads l
                 WHERE l.stage = 'DEAD_LEAD' AND l.archived_at IS NULL
                   AND l.stage_entered_at < orchestrator.clock() - make_interval(days => $1)
                 ORDER BY l.stage_entered_at LIMIT 1000 FOR NO KEY UPDATE SKIP LOCKED)
    RETURNING id
)
INSERT INTO pipeline_events (lead_id, event_type, actor) SELECT id, 'archived', 'orchestrator' FROM gone

-- name: fold
SELECT orchestrator.fold_stage_counts()

-- name: recount
SELECT orchestrator.recount_stages()

-- name: sizes
SELECT pipeline, stage, n FROM stage_sizes ORDER BY pipeline, position

-- name: resolve
-- What a dead task gave cause for is over when the task has ended, nothing else of its subject is dead, or its lead is gone.
-- A run's unknown step kills no task, and a call outlives its own: their alerts are a person's.
UPDATE alerts SET resolved_at = orchestrator.clock()
WHERE id IN (
    SELECT a.id
    FROM alerts a
    CROSS JOIN LATERAL (SELECT CASE WHEN jsonb_typeof(a.metadata -> 'task_id') = 'number' THEN (a.metadata ->> 'task_id')::numeric::bigint END AS task_id,
                               CASE WHEN a.subject ~ '^lead:[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' THEN substr(a.subject, 6)::uuid END AS lead_id,
                               CASE WHEN a.subject ~ '^reply:[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' THEN substr(a.subject, 7)::uuid END AS reply_id) AS about
    WHERE a.resolved_at IS NULL AND a.type IN ('AGENT_FAILURE', 'UNKNOWN_OUTCOME')
      AND NOT (a.type = 'UNKNOWN_OUTCOME' AND (a.subject LIKE 'run:%' OR a.subject LIKE 'call:%'))
      -- (SELECT …) IS NULL asks an index about each alert; NOT EXISTS may be planned as a list of all that exist.
      AND ((about.lead_id IS NOT NULL AND (SELECT l.id FROM leads l WHERE l.id = about.lead_id) IS NULL)
        OR ((SELECT t.id FROM tasks t WHERE t.id = about.task_id) IS NULL
            AND (SELECT t.id FROM tasks t WHERE t.status = 'dead' AND t.key = a.subject LIMIT 1) IS NULL
            -- a reply is routed under its lead's key
            AND (SELECT t.id FROM tasks t
                 WHERE t.status = 'dead' AND t.key = 'lead:' || (SELECT r.lead_id FROM replies r WHERE r.id = about.reply_id)
                   AND t.payload ->> 'reply_id' = about.reply_id::text LIMIT 1) IS NULL))
    FOR NO KEY UPDATE OF a SKIP LOCKED)

-- name: outlived
-- An overrun is over with its period, which shows once the next one has its counter.
UPDATE alerts SET resolved_at = orchestrator.clock()
WHERE id IN (
    SELECT a.id FROM alerts a
    WHERE a.type = 'BUDGET_OVERRUN' AND a.resolved_at IS NULL
      AND a.metadata ->> 'period' < to_char((SELECT max(b.period) FROM budget_counters b WHERE b.scope = a.subject), 'YYYY-MM-DD')
    FOR NO KEY UPDATE OF a SKIP LOCKED)
