-- What a database of version 1 may hold: leads in several stages, tasks of each status, one running with a daemon that is
-- gone, messages of each sort, calls with their money, requests and alerts.

INSERT INTO pipelines (name, initial, checked) VALUES ('vendor_acquisition', 'NEW_LEAD', '{asking_price}');

INSERT INTO stages (pipeline, name, position, terminal, entry_kind, deadlines, counts_silence, sweep_step)
SELECT 'vendor_acquisition', name, position, name = 'DEAD_LEAD', entry_kind, deadlines::interval[], name = 'AI_CONVERSATION', sweep_step
FROM (VALUES
    ('NEW_LEAD', 0, 'vendor_acquisition.NEW_LEAD', '{}', 'new_leads'),
    ('AI_CONVERSATION', 1, NULL, '{24:00:00,48:00:00,72:00:00}', 'stalled_conversations'),
    ('OFFER_MADE', 2, 'vendor_acquisition.OFFER_MADE', '{48:00:00}', 'offer_timeouts'),
    ('VIDEO_SENT', 3, 'vendor_acquisition.VIDEO_SENT', '{48:00:00}', 'offer_timeouts'),
    ('DEAD_LEAD', 4, NULL, '{}', 'stalled_conversations')) AS s(name, position, entry_kind, deadlines, sweep_step);

INSERT INTO transitions (pipeline, from_stage, to_stage) VALUES
    ('vendor_acquisition', 'NEW_LEAD', 'AI_CONVERSATION'), ('vendor_acquisition', 'NEW_LEAD', 'DEAD_LEAD'),
    ('vendor_acquisition', 'AI_CONVERSATION', 'DEAD_LEAD'), ('vendor_acquisition', 'OFFER_MADE', 'VIDEO_SENT'),
    ('vendor_acquisition', 'OFFER_MADE', 'DEAD_LEAD'), ('vendor_acquisition', 'VIDEO_SENT', 'DEAD_LEAD');

INSERT INTO schedules (name, cron, timezone) VALUES ('sweep', '*/15 * * * *', 'UTC'), ('daily', '0 6 * * *', 'UTC');
INSERT INTO workers (id, host, pid, version) VALUES ('00000000-0000-4000-8000-00000000dead', 'gone', 1, '0.1.0');

INSERT INTO leads (name, stage, phone, email, source, external_id, data, deadline_at) VALUES
    ('new', NULL, '+14155550100', NULL, NULL, NULL, '{}', NULL),
    ('claimed', NULL, '+14155550101', NULL, NULL, NULL, '{}', NULL),
    ('talking', 'AI_CONVERSATION', '+14155550102', 'Talking <T@x.test>', 'list', '17', '{"asking_price": 180000}', NULL),
    ('offered', 'OFFER_MADE', '+14155550103', NULL, NULL, NULL, '{"offer_amount": 150000}', NULL),
    ('overdue', 'OFFER_MADE', '+14155550104', NULL, NULL, NULL, '{"offer_amount": 150000}', clock() - interval '1 hour'),
    ('lost', 'AI_CONVERSATION', '+14155550105', NULL, NULL, NULL, '{}', NULL);
UPDATE leads SET stage = 'DEAD_LEAD', move_reason = 'never answered' WHERE name = 'lost';
UPDATE leads SET needs_review = true, review_reason = 'a look, please' WHERE name = 'offered';

DELETE FROM tasks WHERE kind = 'lead.check';
UPDATE tasks SET status = 'running', attempt = 1, max_attempts = 3, lease_id = gen_random_uuid(), worker = '00000000-0000-4000-8000-00000000dead',
    lease_expires_at = clock_timestamp() - interval '1 minute', started_at = clock_timestamp() - interval '2 minutes'
WHERE payload ->> 'lead_id' = (SELECT id::text FROM leads WHERE name = 'claimed');

INSERT INTO tasks (kind, key, payload, status, attempt, max_attempts, error)
SELECT 'lead.check', 'lead:' || id, jsonb_build_object('lead_id', id), 'dead', 3, 3, 'it broke' FROM leads WHERE name = 'offered';
INSERT INTO tasks (kind, key, payload, run_at, dedup_key)
SELECT 'lead.check', 'lead:' || id, jsonb_build_object('lead_id', id), clock() + interval '1 day', 'check:' || id FROM leads WHERE name = 'talking';
INSERT INTO task_log (id, kind, payload, priority, status, run_at, attempt, round, interruptions, created_at, finished_at)
SELECT 1000000, 'lead.check', '{}', 50, 'done', now(), 1, 0, 0, now(), now();

INSERT INTO messages (lead_id, template, status, send_at, to_address)
SELECT id, m.template, m.status, clock() + due::interval, '+14155550102'
FROM leads, (VALUES ('DUE', 'scheduled', '-1 minute'), ('LATER', 'scheduled', '1 day'), ('SENT', 'sent', '-1 day'), ('UNKNOWN', 'unknown', '-1 day'),
                    ('DRAFT', 'draft', '0'), ('CANCELLED', 'cancelled', '-1 day')) AS m(template, status, due)
WHERE name = 'talking';

INSERT INTO replies (lead_id, channel, from_address, body, category, status, external_id)
SELECT id, 'sms', phone, 'Yes?', 'interested', 'routed', 'sms-1' FROM leads WHERE name = 'talking';
DELETE FROM tasks WHERE kind LIKE 'reply%';
INSERT INTO email_exclusions (address, reason) VALUES ('Never <never@x.test>', 'opt_out'), ('+14155550199', 'manual');

INSERT INTO engine_calls (engine, operation, idempotency_key, status, reserved_cost, cost, budget_day, result) VALUES
    ('sms', '/api/send', 'paid', 'ok', 1, 0.75, '2026-03-01', '{"id": "1"}'),
    ('sms', '/api/send', 'doubtful', 'unknown', 1, 1, '2026-03-01', NULL),
    ('sms', '/api/send', 'under way', 'reserved', 1, NULL, '2026-03-02', NULL),
    ('classifier', '/api/classify', 'free', 'ok', 0, 0, NULL, '{}');
INSERT INTO budget_counters (scope, period, reserved, settled) VALUES
    ('engine:sms', '2026-03-01', 0, 1.75), ('engine:sms', '2026-03-02', 1, 0);

INSERT INTO approval_queue (checkpoint, title, status, lead_id, payload)
SELECT 'replies', d.title, d.status, r.lead_id, jsonb_build_object('reply', jsonb_build_object('id', r.id, 'body', r.body))
FROM replies r, (VALUES ('Open', 'pending'), ('Done', 'approved')) AS d(title, status);
INSERT INTO alerts (type, message, severity, subject, resolved_at) VALUES
    ('AGENT_FAILURE', 'it is down', 'HIGH', 'engine:sms', NULL), ('AGENT_FAILURE', 'it was down', 'HIGH', 'engine:classifier', clock());
INSERT INTO stage_overrides (lead_id, to_stage) SELECT id, 'DEAD_LEAD' FROM leads WHERE name = 'talking';
