-- `_between`: ids that begin alike, from $1 to $2. `_beside`: the ids just below and above each of $1.

-- name: lead_between
SELECT id FROM leads WHERE id BETWEEN $1 AND $2 ORDER BY id LIMIT 10

-- name: lead_beside
SELECT w.id, (SELECT b.id FROM leads b WHERE b.id < w.id ORDER BY b.id DESC LIMIT 1) AS before,
       (SELECT a.id FROM leads a WHERE a.id > w.id ORDER BY a.id LIMIT 1) AS after
FROM unnest($1::uuid[]) AS w(id)

-- name: request_between
SELECT id FROM approval_queue WHERE id BETWEEN $1 AND $2 ORDER BY id LIMIT 10

-- name: request_beside
SELECT w.id, (SELECT b.id FROM approval_queue b WHERE b.id < w.id ORDER BY b.id DESC LIMIT 1) AS before,
       (SELECT a.id FROM approval_queue a WHERE a.id > w.id ORDER BY a.id LIMIT 1) AS after
FROM unnest($1::uuid[]) AS w(id)

-- name: run_between
SELECT id FROM campaign_runs WHERE id BETWEEN $1 AND $2 ORDER BY id LIMIT 10

-- name: run_beside
SELECT w.id, (SELECT b.id FROM campaign_runs b WHERE b.id < w.id ORDER BY b.id DESC LIMIT 1) AS before,
       (SELECT a.id FROM campaign_runs a WHERE a.id > w.id ORDER BY a.id LIMIT 1) AS after
FROM unnest($1::uuid[]) AS w(id)

-- name: names
SELECT id, coalesce(nullif(name, ''), company, email, phone) AS name FROM leads WHERE id = ANY ($1::uuid[])

-- name: called
-- $1 a name, or a whole address; which leads it is that of.
SELECT id FROM leads WHERE lower(name) = lower($1)
UNION
SELECT id FROM leads WHERE email IS NOT NULL AND orchestrator.plain_address(email) = orchestrator.plain_address($1)
UNION
SELECT id FROM leads WHERE phone IS NOT NULL AND orchestrator.plain_address(phone) = orchestrator.plain_address($1)
ORDER BY id LIMIT 10
