-- name: claim
-- $1 kinds, $2 room of each, $3 tries of each, $4 which of them call, $5 room for decisions, $6 for calls, $7 worker,
-- $8 lease seconds.
-- NOT EXISTS would be a join, which a plan made before the tables were first analysed may do without the index on keys.
-- Two snapshots may each miss the other's claim; the unique index on running keys then fails one of them.
-- A lease is half random, new with each claim, half the task's id: random numbers take longer to make than to write.
WITH clock AS MATERIALIZED (
    SELECT now, (extract(epoch FROM now) * 1000000)::bigint AS us, substring(uuid_send(gen_random_uuid()) FROM 1 FOR 8) AS claim
    FROM (SELECT statement_timestamp() + shift AS now FROM clock_shift) AS clock    -- as clock() says, without the call
), picked AS (
    SELECT of.id, of.tries
    FROM (VALUES (false, $5::int), (true, $6::int)) AS lane(calls, room)
    CROSS JOIN LATERAL (
        SELECT p.id, w.tries
        FROM unnest($1::text[], $2::int[], $3::int[], $4::boolean[]) AS w(kind, room, tries, calls)
        CROSS JOIN LATERAL (
            SELECT t.id
            FROM (VALUES (10::smallint), (50::smallint), (90::smallint)) AS by(priority)
            CROSS JOIN LATERAL (
                SELECT t.id FROM tasks t
                WHERE t.status = 'available' AND t.kind = w.kind AND t.priority = by.priority
                  AND t.run_at <= (SELECT now FROM clock) AND t.interruptions < 3
                  AND (SELECT r.id FROM tasks r WHERE r.status = 'running' AND r.key = t.key LIMIT 1) IS NULL
                  AND (SELECT e.id FROM tasks e WHERE e.status = 'available' AND e.key = t.key AND e.id < t.id
                                                  AND e.run_at <= (SELECT now FROM clock) LIMIT 1) IS NULL
                ORDER BY t.run_at, t.id
                LIMIT w.room
                FOR NO KEY UPDATE SKIP LOCKED
            ) AS t
            LIMIT w.room
        ) AS p
        WHERE w.calls = lane.calls
        LIMIT lane.room
    ) AS of
    -- Most claims find nothing; one look at the next due task spares them a look per kind and priority.
    WHERE (SELECT id FROM tasks WHERE status = 'available' AND attempt >= 0 AND run_at <= (SELECT now FROM clock)
           ORDER BY run_at LIMIT 1) IS NOT NULL
)
UPDATE tasks t SET status = 'running', attempt = t.attempt + 1, max_attempts = coalesce(t.max_attempts, picked.tries),
    dedup_key = NULL, worker = $7, lease_id = encode((SELECT claim FROM clock) || int8send(t.id), 'hex')::uuid, lease_expires_at = clock_timestamp() + make_interval(secs => $8),
    started_at = clock_timestamp()
FROM picked WHERE t.id = picked.id
RETURNING t.id, t.kind, t.key, t.payload, t.attempt, t.max_attempts, t.round, t.interruptions, t.lease_id,
          CASE WHEN t.attempt = 1 AND t.run_at <= (SELECT now FROM clock) - (clock_timestamp() - t.created_at) + interval '1 second'
               THEN extract(epoch FROM clock_timestamp() - t.created_at)::float8 END AS waited_s,
          (SELECT us FROM clock) AS now

-- name: claim_lonely
-- One task that has been interrupted too often to share a daemon with others.
WITH clock AS MATERIALIZED (
    SELECT now, (extract(epoch FROM now) * 1000000)::bigint AS us FROM orchestrator.clock() AS now
), picked AS (
    SELECT t.id FROM tasks t
    WHERE t.status = 'available' AND t.interruptions >= 3 AND t.run_at <= (SELECT now FROM clock) AND t.kind = ANY ($1)
      AND (SELECT r.id FROM tasks r WHERE r.status = 'running' AND r.key = t.key LIMIT 1) IS NULL
      AND (SELECT e.id FROM tasks e WHERE e.status = 'available' AND e.key = t.key AND e.id < t.id
                                      AND e.run_at <= (SELECT now FROM clock) LIMIT 1) IS NULL
    ORDER BY t.interruptions, t.run_at, t.id    -- so that the culprit doesn't keep its victims waiting
    LIMIT 1
    FOR NO KEY UPDATE SKIP LOCKED
)
UPDATE tasks t SET status = 'running', attempt = t.attempt + 1, max_attempts = coalesce(t.max_attempts, $2),
    dedup_key = NULL, worker = $3, lease_id = gen_random_uuid(), lease_expires_at = clock_timestamp() + make_interval(secs => $4),
    started_at = clock_timestamp()
FROM picked WHERE t.id = picked.id
RETURNING t.id, t.kind, t.key, t.payload, t.attempt, t.max_attempts, t.round, t.interruptions, t.lease_id,
          CASE WHEN t.attempt = 1 AND t.run_at <= (SELECT now FROM clock) - (clock_timestamp() - t.created_at) + interval '1 second'
               THEN extract(epoch FROM clock_timestamp() - t.created_at)::float8 END AS waited_s,
          (SELECT us FROM clock) AS now

-- name: settle
-- $1 ids, $2 leases, $3 results. Returns the leases that held; effects follow for those only.
WITH gone AS (
    DELETE FROM tasks t USING unnest($1::bigint[], $2::uuid[], $3::text[]) AS d(id, lease, result)
    WHERE t.id = d.id AND t.lease_id = d.lease
    RETURNING t.*, d.result
)
INSERT INTO task_log (id, kind, key, payload, priority, status, run_at, attempt, max_attempts, round, interruptions, lease_id,
                      worker, error, created_at, started_at, result, finished_at, duration_ms)
SELECT id, kind, key, payload, priority, 'done', run_at, attempt, max_attempts, round, interruptions, lease_id,
       worker, error, created_at, started_at, to_jsonb(result), clock_timestamp(),
       extract(epoch FROM clock_timestamp() - started_at) * 1000
FROM gone
RETURNING lease_id

-- name: postpone
-- $1 ids, $2 leases, $3 why, $4 seconds from now (null: at $5), $5 business times, $6 whether the attempt counts.
UPDATE tasks t SET status = 'available', lease_id = NULL, lease_expires_at = NULL, worker = NULL,
    run_at = coalesce(d.at, orchestrator.clock() + make_interval(secs => d.delay)),
    error = d.error, attempt = t.attempt - CASE WHEN d.counts THEN 0 ELSE 1 END
FROM unnest($1::bigint[], $2::uuid[], $3::text[], $4::double precision[], $5::timestamptz[], $6::boolean[])
     AS d(id, lease, error, delay, at, counts)
WHERE t.id = d.id AND t.lease_id = d.lease
RETURNING d.lease AS lease_id

-- name: give_back
-- An orderly interruption: as if the claim had never been.
UPDATE tasks t SET status = 'available', lease_id = NULL, lease_expires_at = NULL, worker = NULL, attempt = t.attempt - 1
FROM unnest($1::bigint[], $2::uuid[]) AS d(id, lease) WHERE t.id = d.id AND t.lease_id = d.lease
RETURNING t.id

-- name: kill
-- $1 ids, $2 leases, $3 errors, $4 whether for want of an answer: no more tries; a person decides. An answer that came
-- while this was being written found no dead task to revive, so it is looked for here.
UPDATE tasks t SET lease_id = NULL, lease_expires_at = NULL, worker = NULL, error = d.error,
    status = CASE WHEN d.unknown AND (SELECT c.id FROM engine_calls c WHERE c.task_id = t.id AND c.round = t.round
                                                                       AND c.status = 'ok' LIMIT 1) IS NOT NULL
                  THEN 'available' ELSE 'dead' END
FROM unnest($1::bigint[], $2::uuid[], $3::text[], $4::boolean[]) AS d(id, lease, error, unknown)
WHERE t.id = d.id AND t.lease_id = d.lease
RETURNING d.lease AS lease_id

-- name: settled_by
-- Which of these attempts this daemon has settled already (an answer to a COMMIT was lost).
SELECT l.lease_id FROM task_log l JOIN unnest($1::bigint[], $2::uuid[]) AS d(id, lease) ON l.id = d.id AND l.lease_id = d.lease

-- name: renew
-- What a commit holds at this moment is skipped: it ends.
UPDATE tasks SET lease_expires_at = clock_timestamp() + make_interval(secs => $2)
WHERE id IN (SELECT id FROM tasks WHERE status = 'running' AND worker = $1 AND id = ANY ($3) FOR NO KEY UPDATE SKIP LOCKED)

-- name: strays
-- Claimed in this daemon's name, but the answer to the claim's COMMIT was lost: nobody attempts them.
UPDATE tasks SET status = 'available', lease_id = NULL, lease_expires_at = NULL, worker = NULL, attempt = attempt - 1
WHERE id IN (SELECT id FROM tasks
             WHERE status = 'running' AND worker = $1 AND NOT id = ANY ($2) AND started_at < clock_timestamp() - interval '5 seconds'
             FOR NO KEY UPDATE SKIP LOCKED)
RETURNING id

-- name: enqueue
INSERT INTO tasks (kind, key, payload, run_at, priority, dedup_key, max_attempts)
SELECT d.kind, d.key, d.payload, coalesce(d.run_at, orchestrator.clock()), d.priority, d.dedup_key, d.tries
FROM unnest($1::text[], $2::text[], $3::jsonb[], $4::timestamptz[], $5::smallint[], $6::text[], $7::int[])
     AS d(kind, key, payload, run_at, priority, dedup_key, tries)
ON CONFLICT (dedup_key) WHERE status = 'available' AND dedup_key IS NOT NULL DO UPDATE SET run_at = least(tasks.run_at, excluded.run_at)

-- name: cancel
WITH gone AS (
    DELETE FROM tasks WHERE id = $1 AND status IN ('available', 'dead') RETURNING *
)
INSERT INTO task_log (id, kind, key, payload, priority, status, run_at, attempt, max_attempts, round, interruptions,
                      dedup_key, error, created_at, started_at, finished_at)
SELECT id, kind, key, payload, priority, 'cancelled', run_at, attempt, max_attempts, round, interruptions,
       dedup_key, error, created_at, started_at, clock_timestamp()
FROM gone
RETURNING id, kind, key, payload, attempt, max_attempts, round, interruptions

-- name: prune_log
DELETE FROM task_log WHERE id IN (
    SELECT id FROM task_log WHERE finished_at < now() - make_interval(days => $1) ORDER BY finished_at LIMIT 5000)
