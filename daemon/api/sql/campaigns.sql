-- Filters that are null do not count.

-- name: campaigns
-- $1 status, $2 and $3 created_at and id of the last one seen, $4 how many.
SELECT c.created_at, c.id, to_json(c)::text AS shown
FROM (
    SELECT id, name, schedule_cron AS schedule, status, last_run_at AS "lastRun", next_run_at AS "nextRun", total_runs AS "totalRuns",
           total_cost AS "totalCost", schedule_timezone, schedule_enabled, paused_reason, resume_at, created_at
    FROM campaigns
    WHERE deleted_at IS NULL
      AND ($1::text IS NULL OR status = $1)
      AND ($2::timestamptz IS NULL OR (created_at <= $2 AND (created_at < $2 OR id > $3::uuid)))
    ORDER BY created_at DESC, id
    LIMIT $4
) c
ORDER BY c.created_at DESC, c.id

-- name: campaign
SELECT to_json(c)::text AS shown
FROM (
    SELECT id, name, description, config, schedule_cron AS schedule, schedule_timezone, schedule_enabled, grace_s, status, paused_reason,
           resume_at, last_run_at AS "lastRun", next_run_at AS "nextRun", total_runs AS "totalRuns", total_cost AS "totalCost", project_id,
           created_at, updated_at
    FROM campaigns WHERE id = $1 AND deleted_at IS NULL
) c

-- name: summary
SELECT name, status, to_json(c)::text AS shown
FROM (SELECT id, name, status, next_run_at AS "nextRun" FROM campaigns WHERE id = $1 AND deleted_at IS NULL) c

-- name: ever_known
-- Deleted or not.
SELECT EXISTS (SELECT FROM campaigns WHERE id = $1)
