-- name: hold
-- $1 leads, $2 messages, $3 replies: those that could be locked at once, and those that are gone, which need no lock.
SELECT held.id FROM (SELECT id FROM leads WHERE id = ANY ($1) ORDER BY id FOR NO KEY UPDATE SKIP LOCKED) AS held
UNION ALL SELECT gone.id FROM unnest($1::uuid[]) AS gone(id) WHERE NOT EXISTS (SELECT FROM leads l WHERE l.id = gone.id)
UNION ALL SELECT held.id FROM (SELECT id FROM messages WHERE id = ANY ($2) ORDER BY id FOR NO KEY UPDATE SKIP LOCKED) AS held
UNION ALL SELECT gone.id FROM unnest($2::uuid[]) AS gone(id) WHERE NOT EXISTS (SELECT FROM messages m WHERE m.id = gone.id)
UNION ALL SELECT held.id FROM (SELECT id FROM replies WHERE id = ANY ($3) ORDER BY id FOR NO KEY UPDATE SKIP LOCKED) AS held
UNION ALL SELECT gone.id FROM unnest($3::uuid[]) AS gone(id) WHERE NOT EXISTS (SELECT FROM replies r WHERE r.id = gone.id)

-- name: change
UPDATE leads l SET
    entry_pending = l.entry_pending AND NOT (d.entry_done AND l.stage_seq = d.stage_seq),
    data = CASE WHEN d.data IS NULL THEN l.data ELSE l.data || d.data END,
    needs_review = (l.needs_review OR d.flag IS NOT NULL) AND NOT d.unflag,
    review_reason = CASE WHEN d.unflag THEN NULL ELSE coalesce(d.flag, l.review_reason) END,
    do_not_contact = l.do_not_contact OR d.do_not_contact,
    last_inbound_at = greatest(l.last_inbound_at, d.last_inbound_at),
    last_outbound_at = greatest(l.last_outbound_at, d.last_outbound_at),
    nurture_until = CASE WHEN d.nurtured THEN NULL ELSE coalesce(d.nurture_until, l.nurture_until) END,
    known_issues = CASE WHEN d.issues IS NULL THEN l.known_issues
                        ELSE ARRAY(SELECT jsonb_array_elements_text(d.issues -> 'known')) END,
    deadline_at = CASE WHEN d.set_deadline AND l.stage_seq = d.stage_seq THEN d.deadline_at ELSE l.deadline_at END,
    deadline_step = CASE WHEN d.set_deadline AND l.stage_seq = d.stage_seq THEN coalesce(d.deadline_step, l.deadline_step)
                         ELSE l.deadline_step END
FROM unnest($1::bigint[], $2::uuid[], $3::int[], $4::boolean[], $5::jsonb[], $6::text[], $7::boolean[], $8::timestamptz[],
            $9::timestamptz[], $10::timestamptz[], $11::jsonb[], $12::boolean[], $13::timestamptz[], $14::int[], $15::boolean[],
            $16::boolean[])
     AS d(task_id, lead_id, stage_seq, entry_done, data, flag, do_not_contact, last_inbound_at, last_outbound_at,
          nurture_until, issues, set_deadline, deadline_at, deadline_step, unflag, nurtured)
WHERE l.id = d.lead_id

-- name: move
-- Whoever has left that stage entry stays where it is, and isn't answered.
UPDATE leads l SET stage = d.to_stage, move_reason = d.reason, moved_by = d.actor, moved_task = d.task_id,
    data = CASE WHEN num_nulls(d.facts, d.data) = 2 THEN l.data ELSE l.data || coalesce(d.facts, '{}') || coalesce(d.data, '{}') END,
    last_outbound_at = greatest(l.last_outbound_at, d.last_outbound_at)
FROM unnest($1::bigint[], $2::uuid[], $3::int[], $4::text[], $5::text[], $6::jsonb[], $7::text[], $8::text[], $9::jsonb[],
            $10::timestamptz[])
     AS d(task_id, lead_id, stage_seq, to_stage, reason, data, actor, else_flag, facts, last_outbound_at)
WHERE l.id = d.lead_id AND l.stage_seq = d.stage_seq
RETURNING d.task_id

-- name: move_dropped
WITH d AS (
    SELECT * FROM unnest($1::bigint[], $2::uuid[], $3::int[], $4::text[], $5::text[], $6::jsonb[], $7::text[], $8::text[],
                         $9::jsonb[], $10::timestamptz[])
           AS d(task_id, lead_id, stage_seq, to_stage, reason, data, actor, else_flag, facts, last_outbound_at)
), kept AS (
    UPDATE leads l SET needs_review = l.needs_review OR d.else_flag IS NOT NULL, review_reason = coalesce(d.else_flag, l.review_reason),
        data = l.data || coalesce(d.facts, '{}'), last_outbound_at = greatest(l.last_outbound_at, d.last_outbound_at)
    FROM d WHERE l.id = d.lead_id AND num_nonnulls(d.else_flag, d.facts, d.last_outbound_at) > 0
)
INSERT INTO pipeline_events (lead_id, event_type, to_stage, metadata, actor, task_id)
SELECT lead_id, 'move_dropped', to_stage, jsonb_build_object('reason', reason, 'because', 'the lead had left that stage entry'),
       actor, task_id
FROM d

-- name: event
INSERT INTO pipeline_events (task_id, lead_id, event_type, metadata, actor, created_at)
SELECT d.*, (SELECT orchestrator.clock())
FROM unnest($1::bigint[], $2::uuid[], $3::text[], $4::jsonb[], $5::text[]) AS d

-- name: send
WITH d AS (
    SELECT * FROM unnest($1::bigint[], $2::uuid[], $3::text[], $4::text[], $5::text[], $6::text[], $7::int[], $8::text[], $9::jsonb[],
                         $10::timestamptz[], $11::boolean[])
           AS d(task_id, lead_id, template, key, channel, to_address, stage_seq, then_to, context, send_at, entry_done)
), entered AS (
    UPDATE leads l SET entry_pending = false FROM d WHERE d.entry_done AND l.id = d.lead_id AND l.stage_seq = d.stage_seq
)
INSERT INTO messages (lead_id, template, idempotency_key, channel, to_address, stage_seq, then_to, context, send_at, status)
SELECT d.lead_id, d.template, d.key, d.channel, d.to_address, d.stage_seq, d.then_to, coalesce(d.context, '{}'),
       coalesce(d.send_at, (SELECT orchestrator.clock())), 'scheduled'
FROM d
ON CONFLICT (idempotency_key) DO NOTHING

-- name: message_ended
-- A person's cancelling in mid-send doesn't undo a send. Answers whose doing it was; the event is theirs alone.
WITH ended AS (
    UPDATE messages m SET status = d.status, reason = d.reason, cost = coalesce(d.cost, m.cost),
        provider_message_id = coalesce(d.provider_message_id, m.provider_message_id), sent_at = coalesce(d.sent_at, m.sent_at)
    FROM unnest($1::bigint[], $2::uuid[], $3::text[], $4::text[], $5::text[], $6::numeric[], $7::timestamptz[], $8::jsonb[])
         AS d(task_id, message_id, status, reason, provider_message_id, cost, sent_at, told)
    WHERE m.id = d.message_id AND (m.status IN ('scheduled', 'sending', 'unknown') OR d.status = 'sent' AND m.status <> 'sent')
    RETURNING d.task_id, m.lead_id, d.told
), told AS (
    INSERT INTO pipeline_events (task_id, lead_id, event_type, metadata, actor, created_at)
    SELECT task_id, lead_id, 'message_sent', told, 'orchestrator', (SELECT orchestrator.clock())
    FROM ended WHERE told IS NOT NULL AND lead_id IS NOT NULL
    RETURNING task_id
)
SELECT task_id FROM ended WHERE (SELECT count(*) FROM told) >= 0    -- told first: what else is written at once comes after

-- name: message_waits
UPDATE messages m SET reason = d.reason, status = 'scheduled'
FROM unnest($1::bigint[], $2::uuid[], $3::text[], $4::boolean[]) AS d(task_id, message_id, reason, unsent)
WHERE m.id = d.message_id AND (m.status = 'scheduled' OR d.unsent AND m.status = 'sending')

-- name: await_sending
SELECT orchestrator.await_sending($1)

-- name: cancel_messages
UPDATE messages m SET status = 'cancelled', reason = d.reason
FROM unnest($1::bigint[], $2::uuid[], $3::text[]) AS d(task_id, lead_id, reason)
WHERE m.lead_id = d.lead_id AND m.status IN ('draft', 'awaiting_approval', 'scheduled')

-- name: reply_read
UPDATE replies r SET lead_id = coalesce(d.lead_id, r.lead_id), category = coalesce(d.category, r.category),
    confidence = coalesce(d.confidence, r.confidence), classified_by = coalesce(d.classified_by, r.classified_by),
    status = coalesce(d.status, r.status), reason = coalesce(d.reason, r.reason)
FROM unnest($1::bigint[], $2::uuid[], $3::uuid[], $4::text[], $5::float8[], $6::text[], $7::text[], $8::text[])
     AS d(task_id, reply_id, lead_id, category, confidence, classified_by, status, reason)
WHERE r.id = d.reply_id

-- name: exclude
INSERT INTO email_exclusions (address, reason, source)
SELECT d.address, d.reason, d.source FROM unnest($1::bigint[], $2::text[], $3::text[], $4::text[]) AS d(task_id, address, reason, source)
WHERE plain_address(d.address) IS NOT NULL
ON CONFLICT DO NOTHING

-- name: ask_person
INSERT INTO approval_queue (checkpoint, title, payload, lead_id)
SELECT d.checkpoint, d.title, d.payload, d.lead_id
FROM unnest($1::bigint[], $2::text[], $3::text[], $4::jsonb[], $5::uuid[]) AS d(task_id, checkpoint, title, payload, lead_id)

-- name: feedback
INSERT INTO agent_feedback (agent, feedback, approval_id, created_by)
SELECT d.agent, d.feedback, d.approval_id, d.created_by
FROM unnest($1::bigint[], $2::text[], $3::text[], $4::uuid[], $5::text[]) AS d(task_id, agent, feedback, approval_id, created_by)
ON CONFLICT (approval_id) DO NOTHING

-- name: alert
INSERT INTO alerts (type, message, severity, subject, metadata)
SELECT d.type, d.message, d.severity, d.subject, d.metadata || jsonb_build_object('task_id', d.task_id)
FROM unnest($1::bigint[], $2::text[], $3::text[], $4::text[], $5::text[], $6::jsonb[])
     AS d(task_id, type, message, severity, subject, metadata)
ON CONFLICT (type, subject) WHERE resolved_at IS NULL DO NOTHING

-- name: address_mended
-- What could not be sent for want of an address may be now; the trigger revives its task, and nobody need look any more.
WITH mended AS (
    UPDATE messages m SET status = 'scheduled', reason = NULL
    FROM unnest($1::bigint[], $2::uuid[], $3::int[], $4::text[]) AS d(task_id, lead_id, stage_seq, still)
    WHERE m.lead_id = d.lead_id AND m.stage_seq = d.stage_seq AND m.status = 'failed' AND m.reason LIKE 'no usable address%'
      AND m.reason IS DISTINCT FROM d.still AND m.to_address IS NULL AND m.channel <> 'email'
    RETURNING m.lead_id
)
UPDATE leads l SET needs_review = false, review_reason = NULL FROM mended
WHERE l.id = mended.lead_id AND l.review_reason LIKE '% could not be sent: no usable address%'
