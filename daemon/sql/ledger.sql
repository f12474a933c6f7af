-- name: reserve
-- Those whose key is new; what the ledger knows of the others is asked for next.
INSERT INTO engine_calls (engine, operation, task_id, lead_id, run_id, campaign_id, idempotency_key, status, reserved_cost,
                          lease_id, budgets, round)
SELECT d.engine, d.operation, d.task_id, d.lead_id, d.run_id, d.campaign_id, d.key, 'reserved', d.cost, d.lease, d.budgets, d.round
FROM unnest($1::text[], $2::text[], $3::bigint[], $4::uuid[], $5::uuid[], $6::uuid[], $7::text[], $8::numeric[], $9::uuid[],
            $10::jsonb[], $11::int[]) AS d(engine, operation, task_id, lead_id, run_id, campaign_id, key, cost, lease, budgets, round)
ON CONFLICT (idempotency_key) DO NOTHING
RETURNING idempotency_key

-- name: unreserve
DELETE FROM engine_calls WHERE idempotency_key = ANY ($1) AND status = 'reserved'

-- name: known
-- What the ledger knows of these keys; the lock makes two attempts under one key take turns. `alive`: the attempt that
-- reserved it still runs.
SELECT c.idempotency_key, c.status, c.result, c.http_status, c.lease_id, c.error, c.calls, c.budgets, c.reserved_cost, c.cost,
       (SELECT t.id FROM tasks t WHERE t.id = c.task_id AND t.lease_id = c.lease_id) IS NOT NULL AS alive,
       orchestrator.clock() + interval '1 second' AS again_at
FROM engine_calls c WHERE c.idempotency_key = ANY ($1) ORDER BY c.idempotency_key FOR NO KEY UPDATE OF c

-- name: doubt
-- Reserved by an attempt that is gone: it may have been made.
UPDATE engine_calls SET status = 'unknown', cost = reserved_cost, error = 'the attempt that made this call is gone'
WHERE idempotency_key = ANY ($1) AND status = 'reserved'
RETURNING budgets, reserved_cost

-- name: reserve_again
-- A failed call, or one of an engine that honours the key: the same row, reserved by this attempt.
UPDATE engine_calls c SET status = 'reserved', reserved_cost = d.cost, cost = NULL, error = NULL, http_status = NULL,
    started_at = now(), duration_ms = NULL, lease_id = d.lease, budgets = d.budgets, task_id = d.task_id, round = d.round,
    calls = c.calls + 1
FROM unnest($1::text[], $2::numeric[], $3::uuid[], $4::jsonb[], $5::bigint[], $6::int[])
     AS d(key, cost, lease, budgets, task_id, round)
WHERE c.idempotency_key = d.key

-- name: settle
-- $8: in which states. A late answer settles an unknown call too; the task that died of it is told by the caller.
WITH before AS (
    SELECT c.id, c.status AS was, c.budgets, c.reserved_cost, c.cost AS charged, d.*
    FROM engine_calls c JOIN unnest($1::text[], $2::text[], $3::numeric[], $4::int[], $5::float8[], $6::text[], $7::jsonb[])
         AS d(key, status, new_cost, http, ms, err, res) ON c.idempotency_key = d.key
    WHERE c.status = ANY ($8)
    ORDER BY c.idempotency_key FOR NO KEY UPDATE OF c
)
UPDATE engine_calls c SET status = b.status, cost = b.new_cost, http_status = b.http, duration_ms = b.ms, error = b.err, result = b.res
FROM before b WHERE c.id = b.id
RETURNING c.id, c.idempotency_key AS key, c.budgets, c.task_id, c.run_id, b.was, b.status, c.reserved_cost, b.charged, c.cost

-- name: revive_answered
SELECT orchestrator.revive(t.id) FROM tasks t WHERE t.id = ANY ($1) AND t.status = 'dead'

-- name: book_late
SELECT orchestrator.book_late(d.id, d.more) FROM unnest($1::bigint[], $2::numeric[]) AS d(id, more)

-- name: doubt_abandoned
-- Reserved by an attempt whose task has ended without it, so that nobody asks any more: a daemon died, then the task was
-- cancelled. It may have been made, and a person is told; what was reserved is charged.
WITH abandoned AS (
    UPDATE engine_calls SET status = 'unknown', cost = reserved_cost, error = 'its daemon ended in the middle of the call, and then its task'
    WHERE id IN (SELECT c.id FROM engine_calls c
                 WHERE c.status = 'reserved' AND c.task_id IS NOT NULL
                   AND (SELECT t.id FROM tasks t WHERE t.id = c.task_id AND t.status <> 'dead') IS NULL
                 LIMIT 1000 FOR NO KEY UPDATE SKIP LOCKED)
    RETURNING id, engine, operation, task_id, lead_id, run_id, budgets, reserved_cost
), told AS (
    INSERT INTO alerts (type, message, severity, subject, metadata)
    SELECT 'UNKNOWN_OUTCOME', format('%s %s: its daemon ended in the middle of the call, and then its task', engine, operation),
           'HIGH', 'call:' || id, jsonb_build_object('task_id', task_id, 'lead_id', lead_id, 'run_id', run_id)
    FROM abandoned
    ON CONFLICT (type, subject) WHERE resolved_at IS NULL DO NOTHING
)
SELECT id, task_id, lead_id, run_id, budgets, reserved_cost FROM abandoned
