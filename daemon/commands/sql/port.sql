-- name: neighbour
-- The oldest live daemon of host $1; its lock proves that it lives.
SELECT w.pid
FROM workers w JOIN pg_locks l ON l.locktype = 'advisory' AND l.classid = 1869767528 AND l.objid::bigint = w.number AND l.objsubid = 2
     AND l.granted AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
WHERE w.host = $1 ORDER BY w.started_at LIMIT 1
