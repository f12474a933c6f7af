-- name: periods
-- $1 windows (day, week, month), $2 zones: the period of each that is going on, and when it ends.
SELECT d.window, d.timezone, date_trunc(d.window, local.now)::date AS first,
       (date_trunc(d.window, local.now) + ('1 ' || d.window)::interval) AT TIME ZONE d.timezone AS until
FROM unnest($1::text[], $2::text[]) AS d("window", timezone)
CROSS JOIN LATERAL (SELECT orchestrator.clock() AT TIME ZONE d.timezone AS now) AS local

-- name: open_counters
INSERT INTO budget_counters (scope, period, most) SELECT * FROM unnest($1::text[], $2::date[], $3::numeric[]) ON CONFLICT DO NOTHING

-- name: lock_counters
SELECT b.scope, b.period, b.reserved + b.settled AS used, b.most
FROM budget_counters b JOIN unnest($1::text[], $2::date[]) AS d(scope, period) ON b.scope = d.scope AND b.period = d.period
ORDER BY b.scope, b.period FOR NO KEY UPDATE OF b

-- name: limit_counters
-- Their budgets have changed.
UPDATE budget_counters b SET most = d.most FROM unnest($1::text[], $2::date[], $3::numeric[]) AS d(scope, period, most)
WHERE b.scope = d.scope AND b.period = d.period

-- name: add_to_counters
UPDATE budget_counters b SET reserved = b.reserved + d.reserved, settled = b.settled + d.settled
FROM unnest($1::text[], $2::date[], $3::numeric[], $4::numeric[]) AS d(scope, period, reserved, settled)
WHERE b.scope = d.scope AND b.period = d.period

-- name: outlive_overruns
-- $1 scopes, $2 periods: what was told of an earlier period is over, and keeps quiet about no other.
UPDATE alerts a SET resolved_at = orchestrator.clock()
FROM unnest($1::text[], $2::date[]) AS d(scope, period)
WHERE a.type = 'BUDGET_OVERRUN' AND a.subject = d.scope AND a.resolved_at IS NULL
  AND a.metadata ->> 'period' < to_char(d.period, 'YYYY-MM-DD')

-- name: alert_overrun
-- $1 scopes, $2 periods: those past their limits.
INSERT INTO alerts (type, message, severity, subject, metadata)
SELECT DISTINCT ON (b.scope) 'BUDGET_OVERRUN', format('%s: %s spent of %s since %s', b.scope, b.settled, b.most, b.period), 'HIGH', b.scope,
       jsonb_build_object('period', b.period, 'settled', b.settled, 'limit', b.most)
FROM unnest($1::text[], $2::date[]) AS d(scope, period)
JOIN budget_counters b ON b.scope = d.scope AND b.period = d.period AND b.settled > b.most
ON CONFLICT (type, subject) WHERE resolved_at IS NULL DO NOTHING
