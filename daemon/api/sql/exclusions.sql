-- name: exclusions
-- $1 reason, $2 and $3 created_at and address of the last one seen, $4 how many.
SELECT x.created_at, x.address, to_json(x)::text AS shown
FROM (
    SELECT address, reason, source, created_at, covered_by(address) AS covers
    FROM email_exclusions
    WHERE ($1::text IS NULL OR reason = $1)
      AND ($2::timestamptz IS NULL OR (created_at <= $2 AND (created_at < $2 OR address > $3::text)))
    ORDER BY created_at DESC, address
    LIMIT $4
) x
ORDER BY x.created_at DESC, x.address

-- name: one
SELECT to_json(x)::text AS shown
FROM (SELECT address, reason, source, created_at, covered_by(address) AS covers FROM email_exclusions
      WHERE plain_address(address) IN (plain_address($1), erased_hash($1))) x
LIMIT 1

-- name: create
INSERT INTO email_exclusions (address, reason, source) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING RETURNING true

-- name: lift
-- $1 as it is spelt, $2 as messages go to it.
WITH lifted AS (
    DELETE FROM email_exclusions
    WHERE plain_address(address) IN (plain_address($1), plain_address($2)) AND reason <> 'erased' RETURNING address
)
SELECT EXISTS (SELECT FROM lifted)

-- name: covering
-- Another exclusion that forbids to write to the address, $1 as it is spelt, $2 as messages go to it.
SELECT address FROM orchestrator.exclusions_of($2, $1) WHERE reason <> 'erased' LIMIT 1
