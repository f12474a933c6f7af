-- $1 pipeline, $2 age beyond which a lead or a message counts as stuck.

-- name: new
SELECT count(*) FROM leads l JOIN pipelines p ON p.name = l.pipeline AND p.initial = l.stage
WHERE l.pipeline = $1 AND l.archived_at IS NULL AND l.stage_entered_at < orchestrator.clock() - $2::interval

-- name: unapproved
-- In the pipelines that have a stage for what is approved: still in a stage before that one. Stage by stage, so that no plan
-- reads the leads of all others.
SELECT coalesce(sum(waiting.n), 0)::bigint
FROM stages a JOIN stages s ON s.pipeline = a.pipeline AND s.position < a.position
CROSS JOIN LATERAL (
    SELECT count(*) AS n FROM leads l
    WHERE l.pipeline = s.pipeline AND l.stage = s.name AND l.tier = 'high' AND l.approved_at IS NULL AND l.archived_at IS NULL
      AND coalesce(l.scored_at, l.stage_entered_at) < orchestrator.clock() - $2::interval) AS waiting
WHERE a.pipeline = $1 AND a.name = 'approved'

-- name: unsent
SELECT count(*) FROM messages m JOIN leads l ON l.id = m.lead_id
WHERE m.status = 'scheduled' AND m.send_at < orchestrator.clock() - $2::interval AND l.pipeline = $1

-- name: nothing_sent
-- $3 the business's time zone: what was due on a weekday on which nothing at all has gone out. What waits for a time later
-- today is not due yet; what was due before today counts from midnight. Messages that went out are found by their tasks,
-- for no index knows sent_at; these ended in real time, and are only looked for if something was due.
WITH today AS (
    SELECT c.now, c.now - $2::interval AS by, date_trunc('day', c.now AT TIME ZONE $3) AT TIME ZONE $3 AS began,
           date_trunc('day', c.now AT TIME ZONE $3 + interval '1 day') AT TIME ZONE $3 AS ends,
           extract(isodow FROM c.now AT TIME ZONE $3) <= 5 AS weekday
    FROM (SELECT orchestrator.clock() AS now) AS c
), of_dead AS (
    SELECT CASE WHEN payload ->> 'message_id' ~ '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' THEN (payload ->> 'message_id')::uuid END AS id
    FROM tasks WHERE status = 'dead' AND kind = 'message'
), due AS (
    SELECT count(*) AS n
    FROM today d CROSS JOIN LATERAL (
        SELECT m.lead_id FROM messages m
        WHERE m.status = 'scheduled' AND m.send_at < d.by
          AND NOT EXISTS (SELECT FROM tasks t WHERE t.status = 'available' AND t.key = 'lead:' || m.lead_id AND t.kind = 'message'
                            AND t.payload ->> 'message_id' = m.id::text AND t.run_at > d.now AND t.run_at < d.ends)
        UNION ALL
        SELECT m.lead_id FROM of_dead t JOIN messages m ON m.id = t.id
        WHERE m.status IN ('failed', 'unknown') AND m.send_at >= d.began AND m.send_at < d.by
    ) AS m JOIN leads l ON l.id = m.lead_id AND l.pipeline = $1
    WHERE d.weekday AND d.began < d.by
), ended AS (
    SELECT d.began, CASE WHEN t.payload ->> 'message_id' ~ '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' THEN (t.payload ->> 'message_id')::uuid END AS id
    FROM today d JOIN task_log t ON t.finished_at >= d.began - (d.now - statement_timestamp()) AND t.kind = 'message' AND t.status = 'done'
), sent AS (
    SELECT FROM ended t JOIN messages m ON m.id = t.id AND m.sent_at >= t.began JOIN leads l ON l.id = m.lead_id AND l.pipeline = $1
    LIMIT 1
)
SELECT CASE WHEN n = 0 OR EXISTS (SELECT FROM sent) THEN 0 ELSE n END FROM due

-- name: deadline
SELECT count(*) FROM leads l JOIN stages s ON s.pipeline = l.pipeline AND s.name = l.stage
WHERE l.pipeline = $1 AND NOT s.terminal AND l.archived_at IS NULL AND l.deadline_at < orchestrator.clock() - $2::interval

-- name: entry_dead
SELECT count(*) FROM leads l JOIN stages s ON s.pipeline = l.pipeline AND s.name = l.stage
WHERE l.pipeline = $1 AND l.entry_pending AND EXISTS (
    SELECT FROM tasks t WHERE t.status = 'dead' AND t.key = 'lead:' || l.id AND t.kind = s.entry_kind
      AND t.created_at <= clock_timestamp() - $2::interval)

-- name: review
SELECT count(*) FROM leads WHERE pipeline = $1 AND needs_review AND updated_at < orchestrator.clock() - $2::interval
