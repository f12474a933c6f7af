-- name: take_turns
-- Of several daemons that start at once, one marks the database and fills it.
SELECT pg_advisory_xact_lock(hashtext('orchestrator.sandbox.mark'))

-- name: state
SELECT coalesce(obj_description('orchestrator'::regnamespace, 'pg_namespace'), '') LIKE '%orchestrator sandbox%' AS marked,
       EXISTS (SELECT FROM orchestrator.leads) OR EXISTS (SELECT FROM orchestrator.replies)
           OR EXISTS (SELECT FROM orchestrator.messages) OR EXISTS (SELECT FROM orchestrator.engine_calls) AS used

-- name: left
-- What a sandbox has left behind: leads that it made up, found, told something or asked its engines about; runs; and a
-- clock that runs ahead. `others`: those leads that somebody else put in, by name.
WITH touched AS MATERIALIZED (
    SELECT coalesce(l.name, l.company, l.phone, l.email, left(l.id::text, 8)) AS name,
           l.source IS NOT DISTINCT FROM 'sandbox' OR l.run_id IS NOT NULL AS its_own
    FROM orchestrator.leads l
    WHERE l.source = 'sandbox' OR l.run_id IS NOT NULL
       OR EXISTS (SELECT FROM orchestrator.engine_calls c WHERE c.lead_id = l.id)
       OR EXISTS (SELECT FROM orchestrator.messages m WHERE m.lead_id = l.id AND m.status IN ('sending', 'sent', 'unknown'))
)
SELECT (SELECT count(*) FROM touched) AS leads,
       ARRAY(SELECT name FROM touched WHERE NOT its_own ORDER BY name) AS others,
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
