-- name: load
SELECT id, campaign, criteria, run_id FROM search_criteria WHERE id = ANY ($1)

-- name: documents
SELECT name, status, config FROM campaigns WHERE name = ANY ($1) AND deleted_at IS NULL

-- name: hold
-- Rows that are gone need no lock.
SELECT held.id FROM (SELECT id FROM search_criteria WHERE id = ANY ($1) ORDER BY id FOR NO KEY UPDATE SKIP LOCKED) AS held
UNION ALL SELECT gone.id FROM unnest($1::uuid[]) AS gone(id) WHERE NOT EXISTS (SELECT FROM search_criteria s WHERE s.id = gone.id)

-- name: hold_campaigns
-- Of these names those that are free: the campaign's row is ours, or there is none.
SELECT held.name FROM (SELECT name FROM campaigns WHERE name = ANY ($1) AND deleted_at IS NULL ORDER BY id FOR NO KEY UPDATE SKIP LOCKED) AS held
UNION ALL SELECT gone.name FROM unnest($1::text[]) AS gone(name)
WHERE NOT EXISTS (SELECT FROM campaigns c WHERE c.name = gone.name AND c.deleted_at IS NULL)

-- name: going
-- Whether nothing has come of them yet.
SELECT run_id IS NULL FROM search_criteria WHERE id = $1

-- name: begun
UPDATE search_criteria SET run_id = $2 WHERE id = $1

-- name: again_at
SELECT coalesce($1, orchestrator.clock() + interval '1 minute')
