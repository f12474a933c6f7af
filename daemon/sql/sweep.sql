-- A kind that nobody knows: a word misspelt, a pipeline taken out, or a daemon to come. Its tasks would stand before others
-- of their keys and keep everybody looking; a hundred years ahead they do neither, and say when they were due.

-- name: strange_kinds
-- The kinds of waiting tasks that are none of $1, by a step along the index for each kind. Daemons of another version than
-- $2 may know more.
WITH RECURSIVE kinds AS (
    (SELECT kind FROM tasks WHERE status = 'available' AND interruptions < 3 AND kind > '' ORDER BY kind LIMIT 1)
    UNION ALL
    SELECT (SELECT t.kind FROM tasks t WHERE t.status = 'available' AND t.interruptions < 3 AND t.kind > k.kind ORDER BY t.kind LIMIT 1)
    FROM kinds k WHERE k.kind IS NOT NULL
)
SELECT kind FROM kinds WHERE kind <> ALL ($1::text[]) AND NOT EXISTS (SELECT FROM workers WHERE version <> $2)

-- name: set_aside
-- $1 kinds; whoever knew them would have claimed them within the minute.
UPDATE tasks SET run_at = run_at + interval '876000 hours', error = 'set aside: no daemon knows this kind'
WHERE id IN (SELECT t.id
             FROM unnest($1::text[]) AS of(kind) CROSS JOIN (VALUES (10::smallint), (50::smallint), (90::smallint)) AS by(priority)
             CROSS JOIN LATERAL (
                 SELECT id FROM tasks
                 WHERE status = 'available' AND interruptions < 3 AND kind = of.kind AND priority = by.priority
                   AND run_at < orchestrator.clock() - interval '1 minute'
                 ORDER BY run_at, id LIMIT 5000 FOR NO KEY UPDATE SKIP LOCKED) AS t)

-- name: take_up
-- $1 kinds that are known now.
UPDATE tasks SET run_at = run_at - interval '876000 hours', error = NULL
WHERE id IN (SELECT id FROM tasks
             WHERE status = 'available' AND attempt >= 0 AND run_at > orchestrator.clock() + interval '438000 hours'
               AND kind = ANY ($1::text[]) AND error = 'set aside: no daemon knows this kind'
             ORDER BY run_at LIMIT 5000 FOR NO KEY UPDATE SKIP LOCKED)
