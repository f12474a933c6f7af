-- name: how_many
-- $1 status, $2 kind; filters that are null do not count.
SELECT (SELECT count(*) FROM tasks WHERE ($1::text IS NULL OR status = $1) AND ($2::text IS NULL OR kind = $2))
     + (SELECT count(*) FROM task_log WHERE ($1::text IS NULL OR status = $1) AND ($2::text IS NULL OR kind = $2))
