-- name: overdue
-- At most $1 of what has waited for its time in vain, and how much there is: messages, and campaigns' steps that send by themselves.
SELECT count(*) OVER () AS n, to_json(o)::text AS shown
FROM (
    SELECT m.send_at AS due_at, coalesce(m.template, m.subject, m.channel) AS what, coalesce(l.name, l.company, m.to_address) AS whom,
           m.status, m.id
    FROM messages m LEFT JOIN leads l ON l.id = m.lead_id
    WHERE m.status IN ('scheduled', 'awaiting_approval') AND m.send_at <= orchestrator.clock()
    UNION ALL
    SELECT r.started_at, r.definition #>> ARRAY['steps', t.payload ->> 'position', 'name'], r.definition ->> 'name', 'run ' || r.status, r.id
    FROM tasks t JOIN campaign_runs r ON r.id = (t.payload ->> 'run_id')::uuid
    WHERE t.kind IN ('run.step', 'run.item') AND t.status = 'available' AND t.attempt >= 0
      AND t.run_at >= timestamptz '9999-01-01 00:00 UTC' AND t.error LIKE 'sending is stopped%'
) o
ORDER BY o.due_at, o.id LIMIT $1
