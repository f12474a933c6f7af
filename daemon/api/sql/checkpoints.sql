-- name: checkpoints
-- $1 checkpoint, $2 the last one seen, $3 how many.
SELECT c.checkpoint, to_json(c)::text AS shown
FROM (
    SELECT checkpoint, mode, promotable, approvals_in_a_row
    FROM checkpoint_settings
    WHERE ($1::text IS NULL OR checkpoint = $1) AND ($2::text IS NULL OR checkpoint > $2)
    ORDER BY checkpoint
    LIMIT $3
) c
ORDER BY c.checkpoint

-- name: set_mode
-- A checkpoint of somebody's own campaign gets its row with the first change; there is none that was never asked at.
INSERT INTO checkpoint_settings (checkpoint, mode)
SELECT $1::text, $2::text
WHERE EXISTS (SELECT FROM checkpoint_settings WHERE checkpoint = $1) OR EXISTS (SELECT FROM approval_queue WHERE checkpoint = $1)
ON CONFLICT (checkpoint) DO UPDATE SET mode = excluded.mode
RETURNING true

-- name: feedback
-- $1 id, $2 agent, $3 active, $4 and $5 created_at and id of the last one seen, $6 how many.
SELECT f.created_at, f.id, to_json(f)::text AS shown
FROM (
    SELECT id, agent, feedback, effect, approval_id, active, created_by, created_at
    FROM agent_feedback
    WHERE ($1::uuid IS NULL OR id = $1)
      AND ($2::text IS NULL OR agent = $2)
      AND ($3::boolean IS NULL OR active = $3)
      AND ($4::timestamptz IS NULL OR (created_at <= $4 AND (created_at < $4 OR id > $5::uuid)))
    ORDER BY created_at DESC, id
    LIMIT $6
) f
ORDER BY f.created_at DESC, f.id

-- name: give_feedback
INSERT INTO agent_feedback (agent, feedback, effect, active, created_by) VALUES ($1, $2, $3, $4, $5) RETURNING id
