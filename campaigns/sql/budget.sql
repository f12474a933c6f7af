-- name: counters
-- $1 scopes, $2 periods: what these counters hold, as they are now.
SELECT b.scope, b.period, b.reserved, b.settled
FROM budget_counters b JOIN unnest($1::text[], $2::date[]) AS d(scope, period) ON b.scope = d.scope AND b.period = d.period

-- name: warn
-- $1 runs, $2 scopes, $3 periods, $4 words for their windows, $5 limits, $6 when they renew: little is left, which is said
-- once. A counter that a reservation holds at this moment is left to whoever is charged next.
WITH d AS (
    SELECT DISTINCT ON (d.scope) d.*
    FROM unnest($1::uuid[], $2::text[], $3::date[], $4::text[], $5::numeric[], $6::timestamptz[])
         AS d(run_id, scope, period, word, most, resume_at)
    ORDER BY d.scope, d.run_id
), near AS (
    SELECT b.scope, b.period FROM budget_counters b JOIN d ON b.scope = d.scope AND b.period = d.period
    WHERE NOT b.warned ORDER BY b.scope, b.period FOR NO KEY UPDATE OF b SKIP LOCKED
), warned AS (
    UPDATE budget_counters b SET warned = true FROM near n WHERE b.scope = n.scope AND b.period = n.period
    RETURNING b.scope, b.settled
)
INSERT INTO tasks (kind, payload)
SELECT 'notification', jsonb_build_object('event', 'budget_warning', 'to', r.definition -> 'notifications' -> 'onBudget', 'facts',
           jsonb_build_object('name', c.name, 'run_id', r.id, 'window', d.word, 'spent', w.settled, 'limit', d.most, 'resume_at', d.resume_at))
FROM warned w JOIN d ON d.scope = w.scope JOIN campaign_runs r ON r.id = d.run_id JOIN campaigns c ON c.id = r.campaign_id
