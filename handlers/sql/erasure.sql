-- name: addresses
-- The lead's row stays locked, so that these are all.
WITH held AS MATERIALIZED (
    SELECT id, country, email, phone FROM leads WHERE id = $1 FOR UPDATE
)
SELECT a.address, h.country
FROM held h, LATERAL (SELECT unnest(ARRAY[h.email, h.phone])
                      UNION ALL SELECT unnest(ARRAY[c.email, c.phone]) FROM contacts c WHERE c.lead_id = h.id) AS a(address)
WHERE a.address IS NOT NULL

-- name: erase
SELECT erase_lead($1, $2, $3)
