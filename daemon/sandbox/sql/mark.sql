-- name: take_turns
-- Of several daemons that start at once, one marks the database and fills it.
SELECT pg_advisory_xact_lock(hashtext('orchestrator.sandbox.mark'))

-- name: state
SELECT coalesce(obj_description('orchestrator'::regnamespace, 'pg_namespace'), '') LIKE '%orchestrator sandbox%' AS marked,
       EXISTS (SELECT FROM orchestrator.leads) OR EXISTS (SELECT FROM orchestrator.replies)
           OR EXISTS (SELECT FROM orchestrator.messages) OR EXISTS (SELECT FROM orchestrator.engine_calls) AS used

-- name: left
-- What a sandbox has left behind: leads made up by itself or found by its engines, runs, and a clock that runs ahead.
SELECT (SELECT count(*) FROM orchestrator.leads WHERE source = 'sandbox' OR run_id IS NOT NULL) AS leads,
       (SELECT count(*) FROM orchestrator.campaign_runs WHERE status IN ('running', 'waiting', 'paused')) AS runs,
       (SELECT shift FROM orchestrator.clock_shift) AS ahead

-- name: unmark
DO $$ BEGIN
    EXECUTE format('COMMENT ON SCHEMA orchestrator IS %L', nullif(btrim(regexp_replace(
        obj_description('orchestrator'::regnamespace, 'pg_namespace'), '(^|\n)orchestrator sandbox:[^\n]*', '', 'g'), E'\n'), ''));
END $$

-- name: mark
-- A comment on the schema is durable, travels with a dump, and is seen by whoever looks at the database.
DO $$ BEGIN
    EXECUTE format('COMMENT ON SCHEMA orchestrator IS %L', concat_ws(E'\n',
        obj_description('orchestrator'::regnamespace, 'pg_namespace'), 'orchestrator sandbox: nobody in here was ever contacted'));
END $$
