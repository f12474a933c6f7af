-- name: by_name
SELECT id FROM campaigns WHERE name = $1 AND deleted_at IS NULL

-- name: store
INSERT INTO campaigns (name, description, config, schedule_cron, schedule_timezone, schedule_enabled, grace_s, project_id)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
ON CONFLICT (name) WHERE deleted_at IS NULL DO NOTHING
RETURNING id
