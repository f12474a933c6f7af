-- name: inputs
-- What runs of this campaign may be given.
SELECT config -> 'inputs' FROM campaigns WHERE id = $1

-- name: taken
-- Whether somebody is at work on the run, or nobody has to be.
SELECT NOT EXISTS (SELECT FROM tasks WHERE key = 'run:' || $1::uuid AND kind = 'run.step' AND status = 'available'
                                       AND attempt = 0 AND interruptions = 0 AND run_at <= clock())

-- name: daemons
-- Whether there is a daemon: one that shows its lock, or one that can't.
SELECT EXISTS (
    SELECT FROM workers w
    WHERE NOT w.expects_lock OR EXISTS (
        SELECT FROM pg_locks l
        WHERE l.locktype = 'advisory' AND l.classid = 1869767528 AND l.objid::bigint = w.number AND l.objsubid = 2 AND l.granted
          AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())))

-- name: spent
-- $1 campaign, $2 its zone: what is spent of each of its budgets at the moment.
SELECT w.word, coalesce(b.settled + b.reserved, 0) AS spent
FROM (VALUES ('daily', 'day'), ('weekly', 'week'), ('monthly', 'month')) AS w(word, part)
LEFT JOIN budget_counters b ON b.scope = 'campaign:' || $1::uuid || ':' || w.word
                            AND b.period = date_trunc(w.part, clock() AT TIME ZONE $2::text)::date

-- name: requests
-- What the run waits for.
SELECT id, checkpoint FROM approval_queue WHERE run_id = $1 AND status = 'pending' ORDER BY created_at
