-- name: hold_runs
-- A run that is gone needs no lock.
SELECT held.id, held.status, held.round
FROM (SELECT id, status, round FROM campaign_runs WHERE id = ANY ($1) ORDER BY id FOR NO KEY UPDATE SKIP LOCKED) AS held
UNION ALL SELECT gone.id, NULL, NULL FROM unnest($1::uuid[]) AS gone(id)
WHERE NOT EXISTS (SELECT FROM campaign_runs r WHERE r.id = gone.id)

-- name: hold_campaigns
-- The campaigns of these runs.
SELECT held.id FROM (SELECT r.id FROM campaign_runs r JOIN campaigns c ON c.id = r.campaign_id WHERE r.id = ANY ($1)
                     ORDER BY c.id FOR NO KEY UPDATE OF c SKIP LOCKED) AS held
UNION ALL SELECT gone.id FROM unnest($1::uuid[]) AS gone(id) WHERE NOT EXISTS (SELECT FROM campaign_runs r WHERE r.id = gone.id)

-- name: hold_leads
SELECT held.id FROM (SELECT id FROM leads WHERE id = ANY ($1) ORDER BY id FOR NO KEY UPDATE SKIP LOCKED) AS held
UNION ALL SELECT gone.id FROM unnest($1::uuid[]) AS gone(id) WHERE NOT EXISTS (SELECT FROM leads l WHERE l.id = gone.id)

-- name: hold_approvals
SELECT held.id FROM (SELECT id FROM approval_queue WHERE id = ANY ($1) ORDER BY id FOR NO KEY UPDATE SKIP LOCKED) AS held
UNION ALL SELECT gone.id FROM unnest($1::uuid[]) AS gone(id) WHERE NOT EXISTS (SELECT FROM approval_queue a WHERE a.id = gone.id)

-- name: hold_stored
-- $1 pipelines, $2 sources, $3 external ids: the leads of these names that are there, and the names that are free.
SELECT held.pipeline, held.source, held.external_id
FROM (SELECT l.pipeline, l.source, l.external_id FROM unnest($1::text[], $2::text[], $3::text[]) AS d(pipeline, source, external_id)
      JOIN leads l ON l.pipeline = d.pipeline AND l.source = d.source AND l.external_id = d.external_id
      ORDER BY l.id FOR NO KEY UPDATE OF l SKIP LOCKED) AS held
UNION ALL SELECT d.* FROM unnest($1::text[], $2::text[], $3::text[]) AS d(pipeline, source, external_id)
WHERE NOT EXISTS (SELECT FROM leads l WHERE l.pipeline = d.pipeline AND l.source = d.source AND l.external_id = d.external_id)

-- name: live
SELECT id, round FROM campaign_runs WHERE id = ANY ($1) AND status IN ('running', 'waiting', 'paused')

-- name: spent
-- Money that came too late for its run: booked with its step, its run, and, if that has ended, its campaign.
WITH d AS (
    SELECT d.run_id, d.position, sum(coalesce(e.cost, d.cost)) AS cost
    FROM unnest($1::bigint[], $2::uuid[], $3::int[], $4::numeric[], $5::text[]) AS d(task_id, run_id, position, cost, call)
    LEFT JOIN engine_calls e ON e.idempotency_key = d.call
    GROUP BY d.run_id, d.position
), steps AS (
    UPDATE campaign_run_steps s SET cost = coalesce(s.cost, 0) + d.cost FROM d
    WHERE s.run_id = d.run_id AND s.position = d.position
), runs AS (
    UPDATE campaign_runs r SET total_cost = r.total_cost + d.cost
    FROM (SELECT run_id, sum(cost) AS cost FROM d GROUP BY run_id) AS d WHERE r.id = d.run_id
    RETURNING r.campaign_id, d.cost, r.status IN ('running', 'waiting', 'paused') AS live
)
UPDATE campaigns c SET total_cost = c.total_cost + r.cost
FROM (SELECT campaign_id, sum(cost) AS cost FROM runs WHERE NOT live GROUP BY campaign_id) AS r WHERE c.id = r.campaign_id

-- name: step_ended
-- What a call has cost, and how often it went out, is the ledger's to say.
WITH d AS (
    SELECT d.run_id, d.position, d.status, d.result, d.error, coalesce(e.cost, d.cost) AS cost, coalesce(e.calls, d.attempts) AS attempts
    FROM unnest($1::bigint[], $2::uuid[], $3::int[], $4::int[], $5::text[], $6::jsonb[], $7::text[], $8::numeric[], $9::int[], $10::text[])
         AS d(task_id, run_id, round, position, status, result, error, cost, attempts, call)
    LEFT JOIN engine_calls e ON e.idempotency_key = d.call
), ended AS (
    UPDATE campaign_run_steps s SET status = d.status, result = d.result, error = d.error, cost = coalesce(s.cost, 0) + d.cost,
        attempts = d.attempts, completed_at = clock()
    FROM d WHERE s.run_id = d.run_id AND s.position = d.position
    RETURNING s.run_id, s.name, s.status, s.result, s.error, d.cost
)
UPDATE campaign_runs r SET total_cost = r.total_cost + e.cost,
    steps_completed = r.steps_completed + CASE WHEN e.status = 'completed' THEN 1 ELSE 0 END,
    steps_failed = r.steps_failed + CASE WHEN e.status IN ('failed', 'unknown') THEN 1 ELSE 0 END,
    results = CASE WHEN e.result IS NULL THEN r.results ELSE r.results || jsonb_build_object(e.name, e.result) END,
    errors = CASE WHEN e.error IS NULL THEN r.errors ELSE r.errors || jsonb_build_object('step', e.name, 'error', e.error) END
FROM ended e WHERE r.id = e.run_id

-- name: step_begun
WITH begun AS (
    UPDATE campaign_run_steps s SET status = 'running', started_at = clock()
    FROM unnest($1::bigint[], $2::uuid[], $3::int[], $4::int[]) AS d(task_id, run_id, round, position)
    WHERE s.run_id = d.run_id AND s.position = d.position AND s.status = 'pending'
    RETURNING s.run_id, s.position, d.round
), going AS (
    UPDATE campaign_runs r SET status = 'running' FROM begun b WHERE r.id = b.run_id AND r.status = 'waiting'
)
INSERT INTO tasks (kind, key, payload, max_attempts)
SELECT 'run.step', 'run:' || b.run_id, jsonb_build_object('run_id', b.run_id, 'position', b.position, 'round', b.round),
       step_tries(r.definition, b.position)
FROM begun b JOIN campaign_runs r ON r.id = b.run_id

-- name: run_ended
-- What did not run is skipped; the campaign counts; its people are told, or else the admin.
WITH d AS (
    SELECT DISTINCT ON (d.run_id) d.*
    FROM unnest($1::bigint[], $2::uuid[], $3::int[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[])
         AS d(task_id, run_id, round, status, event, hears, step, error)
    ORDER BY d.run_id, d.task_id
), ended AS (
    UPDATE campaign_runs r SET status = d.status, completed_at = clock(),
        errors = CASE WHEN d.error IS NULL THEN r.errors ELSE r.errors || jsonb_build_object('step', d.step, 'error', d.error) END
    FROM d WHERE r.id = d.run_id AND r.status IN ('running', 'waiting', 'paused')
    RETURNING r.id, r.campaign_id, r.status, r.definition, r.results, r.total_cost, r.steps_failed, r.errors, r.started_at, r.round,
              d.event, d.hears
), unfinished AS (
    UPDATE campaign_run_steps s SET status = CASE s.status WHEN 'pending' THEN 'skipped' ELSE 'cancelled' END, completed_at = clock()
    FROM ended e WHERE s.run_id = e.id AND s.status IN ('pending', 'running', 'waiting')
), counted AS (
    UPDATE campaigns c SET total_runs = c.total_runs + e.runs, total_cost = c.total_cost + e.cost,
        last_run_at = greatest(c.last_run_at, e.started_at)
    FROM (SELECT campaign_id, count(*) AS runs, sum(total_cost) AS cost, max(started_at) AS started_at FROM ended GROUP BY campaign_id) AS e
    WHERE c.id = e.campaign_id
)
INSERT INTO tasks (kind, payload, dedup_key)
SELECT 'notification', jsonb_build_object('event', e.event, 'to', e.definition -> 'notifications' -> e.hears, 'facts', jsonb_build_object(
           'name', c.name, 'run_id', e.id, 'status', e.status, 'prospects', run_sum(e.results, 'found'),
           'analyzed', run_sum(e.results, 'analyzed'), 'sent', run_sum(e.results, 'sent'), 'cost', e.total_cost,
           'steps_failed', e.steps_failed, 'error', e.errors -> -1 ->> 'error', 'errors', e.errors)),
       'notification:run:' || e.id || ':' || e.round
FROM ended e JOIN campaigns c ON c.id = e.campaign_id
WHERE e.event <> 'budget'   -- that one is told with the pause
ON CONFLICT (dedup_key) WHERE status = 'available' AND dedup_key IS NOT NULL DO NOTHING

-- name: campaign_paused
-- Once for all of its runs that the budget stopped; one that a person has paused or ended stays so, but is told, too.
WITH d AS (
    SELECT DISTINCT ON (r.campaign_id) r.campaign_id, r.id AS run_id, r.definition, d.reason, d."window", d.resume_at
    FROM unnest($1::bigint[], $2::uuid[], $3::text[], $4::text[], $5::timestamptz[]) AS d(task_id, run_id, reason, "window", resume_at)
    JOIN campaign_runs r ON r.id = d.run_id
    ORDER BY r.campaign_id, d.resume_at DESC
), paused AS (
    UPDATE campaigns c SET status = 'paused', paused_reason = d.reason, resume_at = d.resume_at
    FROM d WHERE c.id = d.campaign_id AND (c.status = 'active' OR (c.status = 'paused' AND c.resume_at < d.resume_at))
    RETURNING c.id
), news AS (
    SELECT c.id, c.name, d.* FROM d JOIN campaigns c ON c.id = d.campaign_id WHERE c.status <> 'paused' OR c.resume_at IS NULL
), told AS (
    INSERT INTO alerts (type, message, severity, subject, metadata)
    SELECT 'BUDGET_REACHED', format('campaign "%s" is paused: %s', n.name, n.reason), 'MEDIUM', 'campaign:' || n.id,
           jsonb_build_object('run_id', n.run_id, 'resume_at', n.resume_at)
    FROM news n JOIN paused p ON p.id = n.id ORDER BY n.id
    ON CONFLICT (type, subject) WHERE resolved_at IS NULL DO NOTHING
)
INSERT INTO tasks (kind, payload)
SELECT 'notification', jsonb_build_object('event', 'budget', 'to', n.definition -> 'notifications' -> 'onBudget', 'facts',
           jsonb_build_object('name', n.name, 'run_id', n.run_id, 'window', n."window", 'reason', n.reason, 'resume_at', n.resume_at))
FROM news n

-- name: asked
-- A pending request makes its step and its run wait, and ends by itself; people are told by its trigger.
WITH d AS (
    SELECT * FROM unnest($1::bigint[], $2::uuid[], $3::int[], $4::int[], $5::uuid[], $6::text[], $7::text[], $8::jsonb[], $9::text[],
                         $10::text[], $11::text[], $12::timestamptz[])
         AS d(task_id, run_id, round, position, approval_id, checkpoint, title, payload, step, status, decided_by, expires_at)
), asked AS (
    INSERT INTO approval_queue (id, checkpoint, title, payload, run_id, step, status, decided_by, decided_at, expires_at)
    SELECT d.approval_id, d.checkpoint, d.title, d.payload, d.run_id, d.step, d.status, d.decided_by,
           CASE WHEN d.status <> 'pending' THEN clock() END, d.expires_at FROM d
), steps AS (
    UPDATE campaign_run_steps s SET status = 'waiting' FROM d
    WHERE s.run_id = d.run_id AND s.position = d.position AND d.status = 'pending'
), runs AS (
    UPDATE campaign_runs r SET status = 'waiting' FROM d WHERE r.id = d.run_id AND r.status = 'running' AND d.status = 'pending'
)
INSERT INTO tasks (kind, key, payload, run_at)
SELECT 'run.expiry', 'run:' || d.run_id, jsonb_build_object('approval_id', d.approval_id, 'run_id', d.run_id), d.expires_at
FROM d WHERE d.status = 'pending' AND d.expires_at IS NOT NULL

-- name: expired
UPDATE approval_queue a SET status = 'expired', decided_by = 'system (expired)'
FROM unnest($1::bigint[], $2::uuid[]) AS d(task_id, approval_id) WHERE a.id = d.approval_id AND a.status = 'pending'

-- name: feedback
INSERT INTO agent_feedback (agent, feedback, approval_id, created_by)
SELECT d.agent, d.feedback, d.approval_id, d.created_by
FROM unnest($1::bigint[], $2::text[], $3::text[], $4::uuid[], $5::text[]) AS d(task_id, agent, feedback, approval_id, created_by)
ON CONFLICT (approval_id) DO NOTHING

-- name: lead_found
-- A lead that is there already gets what it lacks; nobody who wants no contact is made to want it.
INSERT INTO leads AS l (pipeline, source, external_id, name, company, email, phone, city, region, country, timezone, tier, score,
                        do_not_contact, data, run_id)
SELECT d.pipeline, d.source, d.external_id, d.of ->> 'name', d.of ->> 'company', d.of ->> 'email', d.of ->> 'phone', d.of ->> 'city',
       d.of ->> 'region', d.of ->> 'country', d.of ->> 'timezone', d.of ->> 'tier', (d.of ->> 'score')::numeric,
       coalesce((d.of ->> 'do_not_contact')::boolean, false), coalesce(d.of -> 'data', '{}'), d.run_id
FROM unnest($1::bigint[], $2::uuid[], $3::int[], $4::int[], $5::int[], $6::text[], $7::text[], $8::text[], $9::jsonb[])
     AS d(task_id, run_id, round, position, n, pipeline, source, external_id, of)
ORDER BY d.pipeline, d.source, d.external_id
ON CONFLICT (pipeline, source, external_id) WHERE external_id IS NOT NULL DO UPDATE SET
    name = coalesce(nullif(l.name, ''), excluded.name), company = coalesce(nullif(l.company, ''), excluded.company),
    email = coalesce(nullif(l.email, ''), excluded.email), phone = coalesce(nullif(l.phone, ''), excluded.phone),
    city = coalesce(nullif(l.city, ''), excluded.city), region = coalesce(nullif(l.region, ''), excluded.region),
    country = coalesce(nullif(l.country, ''), excluded.country), timezone = coalesce(nullif(l.timezone, ''), excluded.timezone),
    tier = coalesce(l.tier, excluded.tier), score = coalesce(l.score, excluded.score),
    do_not_contact = l.do_not_contact OR excluded.do_not_contact,
    data = excluded.data || (SELECT coalesce(jsonb_object_agg(key, value), '{}') FROM jsonb_each(l.data) WHERE value NOT IN ('null', '""'))

-- name: leads_told
-- $1 runs, $2 positions, $3 places, $4 pipelines, $5 sources, $6 external ids: the leads as they are stored now join their
-- step's result. Not one statement with the INSERT, whose rows no index could find: thousands would be compared one by one.
WITH d AS (
    SELECT * FROM unnest($1::uuid[], $2::int[], $3::int[], $4::text[], $5::text[], $6::text[])
         AS d(run_id, position, n, pipeline, source, external_id)
), summed AS (
    SELECT d.run_id, d.position, count(*) FILTER (WHERE s.version = 1) AS created, count(*) FILTER (WHERE s.version > 1) AS updated,
           jsonb_agg(jsonb_build_object('id', s.id, 'pipeline', s.pipeline, 'stage', s.stage, 'name', s.name, 'company', s.company,
               'email', s.email, 'phone', s.phone, 'city', s.city, 'region', s.region, 'country', s.country, 'timezone', s.timezone,
               'source', s.source, 'external_id', s.external_id, 'tier', s.tier, 'score', s.score, 'data', s.data) ORDER BY d.n) AS leads
    FROM d JOIN leads s ON s.pipeline = d.pipeline AND s.source = d.source AND s.external_id = d.external_id
    GROUP BY d.run_id, d.position
), steps AS (
    UPDATE campaign_run_steps t
    SET result = t.result || jsonb_build_object('created', s.created, 'updated', s.updated, 'leads', s.leads)
    FROM summed s WHERE t.run_id = s.run_id AND t.position = s.position
    RETURNING t.run_id, t.name, t.result
)
UPDATE campaign_runs r SET results = r.results || jsonb_build_object(t.name, t.result) FROM steps t WHERE r.id = t.run_id

-- name: item_wanted
INSERT INTO campaign_run_items AS i (run_id, position, lead_id, n)
SELECT d.run_id, d.position, d.lead_id, d.n
FROM unnest($1::bigint[], $2::uuid[], $3::int[], $4::int[], $5::int[], $6::uuid[]) AS d(task_id, run_id, round, position, n, lead_id)
ON CONFLICT (run_id, position, lead_id) DO UPDATE SET status = 'pending', queued = false, error = NULL, n = excluded.n
WHERE i.status <> 'done'

-- name: item_ended
WITH d AS (
    SELECT d.run_id, d.position, d.lead_id, d.status, d.result, d.error, coalesce(e.cost, d.cost) AS cost
    FROM unnest($1::bigint[], $2::uuid[], $3::int[], $4::int[], $5::uuid[], $6::text[], $7::jsonb[], $8::text[], $9::numeric[], $10::text[])
         AS d(task_id, run_id, round, position, lead_id, status, result, error, cost, call)
    LEFT JOIN engine_calls e ON e.idempotency_key = d.call
), ended AS (
    UPDATE campaign_run_items i SET status = d.status, result = d.result, error = d.error, cost = coalesce(i.cost, 0) + d.cost
    FROM d WHERE i.run_id = d.run_id AND i.position = d.position AND i.lead_id = d.lead_id AND i.status = 'pending'
    RETURNING i.run_id, i.position, d.cost
), steps AS (
    UPDATE campaign_run_steps s SET cost = coalesce(s.cost, 0) + e.cost
    FROM (SELECT run_id, position, sum(cost) AS cost FROM ended GROUP BY run_id, position) AS e
    WHERE s.run_id = e.run_id AND s.position = e.position
)
UPDATE campaign_runs r SET total_cost = r.total_cost + e.cost
FROM (SELECT run_id, sum(cost) AS cost FROM ended GROUP BY run_id) AS e WHERE r.id = e.run_id

-- name: count_children
-- The last one done queues the step itself, once: the run's row is ours.
WITH counted AS (
    UPDATE campaign_run_steps s SET children_left = c.n
    FROM (SELECT d.run_id, d.position, (SELECT count(*) FROM campaign_run_items i
                                        WHERE i.run_id = d.run_id AND i.position = d.position AND i.status = 'pending') AS n
          FROM unnest($1::uuid[], $2::int[]) AS d(run_id, position)) AS c
    WHERE s.run_id = c.run_id AND s.position = c.position AND s.children_left IS DISTINCT FROM c.n
    RETURNING s.run_id, s.position, s.children_left
)
INSERT INTO tasks (kind, key, payload)
SELECT 'run.step', 'run:' || c.run_id, jsonb_build_object('run_id', c.run_id, 'position', c.position, 'round', r.round)
FROM counted c JOIN campaign_runs r ON r.id = c.run_id
WHERE c.children_left = 0 AND r.status IN ('running', 'waiting', 'paused')

-- name: more_items
-- At most ten of a step at once.
WITH next AS (
    SELECT i.run_id, i.position, i.lead_id
    FROM unnest($1::uuid[], $2::int[]) AS d(run_id, position)
    CROSS JOIN LATERAL (
        SELECT i.* FROM campaign_run_items i
        WHERE i.run_id = d.run_id AND i.position = d.position AND i.status = 'pending' AND NOT i.queued
        ORDER BY i.n
        LIMIT greatest(0, 10 - (SELECT count(*) FROM campaign_run_items q
                                WHERE q.run_id = d.run_id AND q.position = d.position AND q.status = 'pending' AND q.queued))) AS i
), queued AS (
    UPDATE campaign_run_items i SET queued = true FROM next n
    WHERE i.run_id = n.run_id AND i.position = n.position AND i.lead_id = n.lead_id
)
INSERT INTO tasks (kind, key, payload, priority, max_attempts)
SELECT 'run.item', 'lead:' || n.lead_id,
       jsonb_build_object('run_id', n.run_id, 'position', n.position, 'round', r.round, 'lead_id', n.lead_id),
       CASE step ->> 'priority' WHEN 'high' THEN 10 WHEN 'low' THEN 90 ELSE 50 END, (step #>> '{retry,attempts}')::int
FROM next n JOIN campaign_runs r ON r.id = n.run_id CROSS JOIN LATERAL (SELECT r.definition -> 'steps' -> n.position AS step) AS s
WHERE r.status IN ('running', 'waiting', 'paused')

-- name: lead_enriched
UPDATE leads l SET data = l.data || d.data, phone = coalesce(nullif(l.phone, ''), d.phone), email = coalesce(nullif(l.email, ''), d.email)
FROM unnest($1::bigint[], $2::uuid[], $3::jsonb[], $4::text[], $5::text[]) AS d(task_id, lead_id, data, phone, email)
WHERE l.id = d.lead_id

-- name: message_planned
-- One per lead and step, whatever is retried; what has one already, and whose lead is gone, is skipped.
WITH d AS (
    SELECT * FROM unnest($1::bigint[], $2::uuid[], $3::int[], $4::int[], $5::text[], $6::uuid[], $7::text[], $8::text[], $9::text[],
                         $10::text[], $11::text[], $12::text[])
         AS d(task_id, run_id, round, position, key, lead_id, step, channel, template, to_address, subject, body)
), planned AS (
    INSERT INTO messages (lead_id, run_id, step, channel, template, to_address, subject, body, status, idempotency_key)
    SELECT d.lead_id, d.run_id, d.step, d.channel, d.template, d.to_address, d.subject, d.body, 'scheduled', d.key
    FROM d JOIN leads l ON l.id = d.lead_id
    ON CONFLICT (idempotency_key) DO NOTHING
    RETURNING run_id, step
), counted AS (
    SELECT wanted.*, (SELECT count(*) FROM planned p WHERE (p.run_id, p.step) = (wanted.run_id, wanted.step)) AS scheduled
    FROM (SELECT run_id, position, step, count(*) AS n FROM d GROUP BY run_id, position, step) AS wanted
), steps AS (
    UPDATE campaign_run_steps t SET result = t.result || jsonb_build_object('scheduled', c.scheduled,
        'skipped', c.n - c.scheduled + coalesce((t.result ->> 'skipped')::bigint, 0))
    FROM counted c WHERE t.run_id = c.run_id AND t.position = c.position
    RETURNING t.run_id, t.name, t.result
)
UPDATE campaign_runs r SET results = r.results || jsonb_build_object(t.name, t.result) FROM steps t WHERE r.id = t.run_id

-- name: parked
UPDATE tasks t SET run_at = clock()
FROM unnest($1::bigint[], $2::uuid[]) AS d(task_id, run_id) JOIN campaign_runs r ON r.id = d.run_id
WHERE t.id = d.task_id AND t.status = 'available' AND r.status <> 'paused'

-- name: pinned
UPDATE tasks t SET payload = t.payload || d.facts
FROM unnest($1::bigint[], $2::jsonb[]) AS d(task_id, facts) WHERE t.id = d.task_id AND t.status = 'available'

-- name: await_sending
SELECT orchestrator.await_sending($1)

-- name: alert
INSERT INTO alerts (type, message, severity, subject, metadata)
SELECT d.type, d.message, d.severity, d.subject, d.metadata || jsonb_build_object('task_id', d.task_id)
FROM unnest($1::bigint[], $2::text[], $3::text[], $4::text[], $5::text[], $6::jsonb[])
     AS d(task_id, type, message, severity, subject, metadata)
ON CONFLICT (type, subject) WHERE resolved_at IS NULL DO NOTHING
