-- Filters that are null do not count. Every statement is planned anew for its values, so that they leave no trace
-- in the plan. A list picks its rows first and renders only those; `shown` is the row as JSON.

-- name: tasks
-- $1 id, $2 status, $3 kind, $4 id of the last one seen, $5 how many.
SELECT t.id, to_json(t)::text AS shown
FROM (
    (SELECT id, kind, key, payload, priority, status, run_at, attempt, max_attempts, dedup_key, lease_id, lease_expires_at,
            worker, error, created_at, started_at,
            NULL::jsonb AS result, NULL::timestamptz AS finished_at, NULL::float8 AS duration_ms
     FROM tasks
     WHERE ($1::bigint IS NULL OR id = $1)
       AND ($2::text IS NULL OR ($2 IN ('available', 'running', 'dead') AND status = $2))
       AND ($3::text IS NULL OR kind = $3)
       AND ($4::bigint IS NULL OR id < $4)
     ORDER BY id DESC
     LIMIT $5)
    UNION ALL
    (SELECT id, kind, key, payload, priority, status, run_at, attempt, max_attempts, dedup_key, lease_id, lease_expires_at,
            worker, error, created_at, started_at, result, finished_at, duration_ms
     FROM task_log
     WHERE ($1::bigint IS NULL OR id = $1)
       AND ($2::text IS NULL OR ($2 IN ('done', 'cancelled') AND status = $2))
       AND ($3::text IS NULL OR kind = $3)
       AND ($4::bigint IS NULL OR id < $4)
     ORDER BY id DESC
     LIMIT $5)
    ORDER BY id DESC
    LIMIT $5
) t
ORDER BY t.id DESC

-- name: task_status
SELECT status FROM tasks WHERE id = $1 UNION ALL SELECT status FROM task_log WHERE id = $1
