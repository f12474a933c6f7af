-- name: hold
-- Nobody starts a run of it meanwhile.
SELECT id FROM campaigns WHERE id = $1 AND deleted_at IS NULL FOR NO KEY UPDATE

-- name: by_name
SELECT id FROM campaigns WHERE name = $1 AND deleted_at IS NULL

-- name: known
-- By id, else by name.
SELECT id FROM campaigns WHERE deleted_at IS NULL AND (id = $1 OR name = $2) ORDER BY id = $1 DESC LIMIT 1

-- name: budgets
-- What each campaign may spend, and in which zone, as its user wrote it.
SELECT id, name, config -> 'budget' AS budget, config #>> '{schedule,timezone}' AS timezone
FROM campaigns WHERE deleted_at IS NULL AND jsonb_typeof(config -> 'budget') = 'object'

-- name: status
SELECT status FROM campaigns WHERE id = $1 AND deleted_at IS NULL

-- name: replace
-- Its document is valid again.
UPDATE campaigns SET name = $2, description = $3, config = $4, schedule_cron = $5, schedule_timezone = $6, schedule_enabled = $7,
    grace_s = $8, project_id = $9, status = CASE status WHEN 'error' THEN 'active' ELSE status END
WHERE id = $1

-- name: delete
UPDATE campaigns SET deleted_at = clock() WHERE id = $1 AND deleted_at IS NULL RETURNING name

-- name: live_runs
SELECT id FROM campaign_runs WHERE campaign_id = $1 AND status IN ('running', 'waiting', 'paused') ORDER BY started_at

-- name: pause
-- A person's pause has no end of its own.
UPDATE campaigns SET status = 'paused', paused_reason = $2, resume_at = NULL
WHERE id = $1 AND deleted_at IS NULL AND status IN ('active', 'paused') RETURNING id

-- name: resume
UPDATE campaigns SET status = 'active' WHERE id = $1 AND deleted_at IS NULL AND status IN ('active', 'paused', 'completed') RETURNING id
