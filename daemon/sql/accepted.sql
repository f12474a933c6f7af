-- name: settled
SELECT status, result, http_status, error FROM engine_calls WHERE idempotency_key = $1 AND status IN ('ok', 'failed')

-- name: call
SELECT status IN ('ok', 'failed') AS settled, reserved_cost,
       extract(epoch FROM clock_timestamp() - started_at)::float8 * 1000 AS ms
FROM engine_calls WHERE idempotency_key = $1 AND engine = $2
