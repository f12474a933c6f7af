-- name: load
SELECT r.*, c.name AS campaign_name FROM campaign_runs r JOIN campaigns c ON c.id = r.campaign_id
WHERE r.id = ANY ($1)

-- name: steps
SELECT s.*, coalesce(e.calls, 0) AS calls, e.status AS call
FROM campaign_run_steps s JOIN campaign_runs r ON r.id = s.run_id
LEFT JOIN engine_calls e ON e.idempotency_key = 'run:' || r.id || ':' || s.position || CASE WHEN r.round = 0 THEN '' ELSE '#' || r.round END
WHERE s.run_id = ANY ($1) ORDER BY s.run_id, s.position

-- name: items
SELECT i.* FROM unnest($1::uuid[], $2::int[]) AS d(run_id, position)
JOIN campaign_run_items i ON i.run_id = d.run_id AND i.position = d.position
ORDER BY i.run_id, i.n

-- name: item
SELECT i.*, coalesce(e.calls, 0) AS calls, e.status AS call
FROM unnest($1::uuid[], $2::int[], $3::uuid[]) AS d(run_id, position, lead_id)
JOIN campaign_runs r ON r.id = d.run_id
JOIN campaign_run_items i ON i.run_id = d.run_id AND i.position = d.position AND i.lead_id = d.lead_id
LEFT JOIN engine_calls e ON e.idempotency_key = 'run:' || r.id || ':' || i.position || ':' || i.lead_id
                                                || CASE WHEN r.round = 0 THEN '' ELSE '#' || r.round END

-- name: leads
-- As engines get them: the names of the table, `id` first, but for the daemon's own.
SELECT l.id, to_jsonb(l) - '{left_stage,touched,entry_pending,known_issues}'::text[] AS lead FROM leads l WHERE l.id = ANY ($1)

-- name: approvals
SELECT * FROM approval_queue WHERE id = ANY ($1)

-- name: modes
SELECT checkpoint, mode FROM checkpoint_settings

-- name: cancel
SELECT cancel_run(id) FROM campaign_runs WHERE id = $1 AND round = $2

-- name: cancel_decided
-- $2 the request; a run that has asked anew since then waits for another one.
SELECT cancel_run(a.run_id)
FROM approval_queue a JOIN campaign_run_steps s ON s.run_id = a.run_id AND s.name = a.step AND s.status = 'waiting'
WHERE a.run_id = $1 AND a.id = $2
  AND NOT EXISTS (SELECT FROM approval_queue p WHERE p.run_id = $1 AND p.step = a.step AND p.status = 'pending')

-- name: lock
-- Whether that round of the run is going on; nobody else changes this meanwhile.
SELECT status IN ('running', 'waiting', 'paused') AND round = $2 FROM campaign_runs WHERE id = $1 FOR NO KEY UPDATE
