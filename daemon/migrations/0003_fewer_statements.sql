-- Version 2 to 3: less work for each lead that comes or moves, and outcomes that are written in one statement. What each object
-- is for stands in schema.sql.

SET LOCAL search_path = orchestrator, pg_catalog;

-- Whoever writes meanwhile waits: the differences of the old kind are folded once for all.
LOCK TABLE leads, stage_deltas;

ALTER TABLE stages ADD initial boolean NOT NULL DEFAULT false, ADD entered_from text[] NOT NULL DEFAULT '{}',
    ADD shift interval NOT NULL DEFAULT '0', ADD merges boolean NOT NULL DEFAULT false;

CREATE FUNCTION lock_declarations() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(1869767530);
    RETURN NULL;
END $$;

CREATE FUNCTION copy_to_stages() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = orchestrator, pg_catalog, pg_temp AS $$
BEGIN
    UPDATE stages s SET initial = truth.initial, entered_from = truth.entered_from, shift = truth.shift, merges = truth.merges
    FROM (SELECT d.pipeline, d.name, d.name = p.initial AS initial, c.shift,
                 ARRAY(SELECT t.from_stage FROM transitions t WHERE t.pipeline = d.pipeline AND t.to_stage = d.name ORDER BY 1) AS entered_from,
                 EXISTS (SELECT FROM merged_leads m WHERE m.pipeline = d.pipeline AND m.external_id IS NOT NULL) AS merges
          FROM stages d JOIN pipelines p ON p.name = d.pipeline CROSS JOIN clock_shift c) AS truth
    WHERE s.pipeline = truth.pipeline AND s.name = truth.name
      AND (s.initial, s.entered_from, s.shift, s.merges) IS DISTINCT FROM (truth.initial, truth.entered_from, truth.shift, truth.merges);
    RETURN NULL;
END $$;
CREATE TRIGGER pipelines_locked BEFORE UPDATE OR DELETE ON pipelines FOR EACH STATEMENT EXECUTE FUNCTION lock_declarations();
CREATE TRIGGER stages_locked BEFORE INSERT ON stages FOR EACH STATEMENT EXECUTE FUNCTION lock_declarations();
CREATE TRIGGER transitions_locked BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON transitions FOR EACH STATEMENT EXECUTE FUNCTION lock_declarations();
CREATE TRIGGER clock_locked BEFORE UPDATE ON clock_shift FOR EACH STATEMENT EXECUTE FUNCTION lock_declarations();
CREATE TRIGGER pipelines_changed AFTER UPDATE ON pipelines FOR EACH STATEMENT EXECUTE FUNCTION copy_to_stages();
CREATE TRIGGER stages_inserted AFTER INSERT ON stages FOR EACH STATEMENT EXECUTE FUNCTION copy_to_stages();
CREATE TRIGGER transitions_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON transitions FOR EACH STATEMENT EXECUTE FUNCTION copy_to_stages();
CREATE TRIGGER clock_shifted AFTER UPDATE ON clock_shift FOR EACH STATEMENT EXECUTE FUNCTION copy_to_stages();
UPDATE clock_shift SET shift = shift;   -- copies

CREATE FUNCTION refuse_place(of_pipeline text, of_stage text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM orchestrator.pipelines WHERE name = of_pipeline) THEN
        RAISE EXCEPTION 'unknown pipeline %', of_pipeline USING ERRCODE = 'PO001',
            HINT = 'pipelines: ' || coalesce((SELECT string_agg(name, ', ' ORDER BY name) FROM orchestrator.pipelines), 'none yet; run "orchestrator db init"');
    END IF;
    RAISE EXCEPTION 'pipeline % has no stage %', of_pipeline, coalesce(of_stage, '(the initial one)') USING ERRCODE = 'PO001',
        HINT = 'stages: ' || coalesce((SELECT string_agg(name, ', ' ORDER BY position) FROM orchestrator.stages WHERE pipeline = of_pipeline), 'none');
END $$;

CREATE OR REPLACE FUNCTION new_id() RETURNS uuid LANGUAGE sql VOLATILE PARALLEL SAFE AS $$
    SELECT encode(substring(int8send((extract(epoch FROM clock_timestamp()) * 1000)::bigint) FROM 3)
               || int2send((28672 | (((random() * 4095)::int # pg_backend_pid()) & 4095))::int2) -- 0x7000: version 7
               || int8send((random() * 4611686018427387904)::bigint | -9223372036854775808), 'hex')::uuid   -- the variant, 62 bits
$$;

CREATE OR REPLACE FUNCTION leads_before_insert() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = orchestrator, pg_catalog, pg_temp AS $$
DECLARE st record;
BEGIN
    SELECT s.name, s.entry_kind, s.counts_silence, s.deadlines, s.on_complete, s.initial, s.merges, statement_timestamp() + s.shift AS now INTO st
    FROM stages s WHERE s.pipeline = NEW.pipeline AND CASE WHEN NEW.stage IS NULL THEN s.initial ELSE s.name = NEW.stage END;
    IF NOT FOUND THEN
        PERFORM refuse_place(NEW.pipeline, NEW.stage);
    END IF;
    IF st.merges AND NEW.external_id IS NOT NULL THEN
        IF EXISTS (SELECT FROM merged_leads m WHERE m.pipeline = NEW.pipeline AND m.external_id = NEW.external_id
                                                AND m.source IS NOT DISTINCT FROM NEW.source) THEN
            RETURN NULL;    -- it lives on in another lead
        END IF;
    END IF;
    NEW.stage := st.name;
    NEW.version := 1; NEW.stage_seq := 1; NEW.deadline_step := 0; NEW.left_stage := NULL; NEW.known_issues := '{}';
    NEW.created_at := coalesce(NEW.created_at, st.now);
    NEW.updated_at := coalesce(NEW.updated_at, st.now);
    NEW.stage_entered_at := coalesce(NEW.stage_entered_at, st.now);
    IF st.counts_silence THEN
        NEW.conversation_started_at := coalesce(NEW.conversation_started_at, NEW.stage_entered_at);
    END IF;
    IF NEW.deadline_at IS NULL THEN
        NEW.deadline_at := st.deadlines[1]
            + CASE WHEN st.counts_silence THEN greatest(NEW.last_inbound_at, NEW.conversation_started_at) ELSE NEW.stage_entered_at END;
    END IF;
    -- An import at a later stage owes no entry action.
    NEW.entry_pending := st.entry_kind IS NOT NULL AND st.initial;
    NEW.touched := CASE WHEN st.on_complete IS NOT NULL OR coalesce(NEW.name, '') = '' OR coalesce(NEW.phone, '') = ''
                        OR NEW.data <> '{}' THEN 2 ELSE 0 END;
    RETURN NEW;
END $$;

CREATE FUNCTION owes_answer(to_lead uuid, entry int, besides uuid DEFAULT NULL) RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT EXISTS (SELECT FROM orchestrator.messages m
                   WHERE m.lead_id = to_lead AND m.stage_seq = entry AND m.id IS DISTINCT FROM besides
                     AND m.template IN ('COUNTER', 'QUESTION') AND m.status IN ('scheduled', 'sending', 'failed', 'unknown'))
$$;

CREATE OR REPLACE FUNCTION refuse_move(pipeline text, from_stage text, to_stage text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE said text := format('pipeline %s: a lead may not go from %s to %s', pipeline, from_stage, to_stage);
BEGIN
    IF NOT EXISTS (SELECT FROM orchestrator.stages s WHERE s.pipeline = refuse_move.pipeline AND s.name = to_stage) THEN
        said := format('pipeline %s has no stage %s', pipeline, coalesce(to_stage, 'NULL'));
    END IF;
    RAISE EXCEPTION '%', said USING ERRCODE = 'PO001', HINT = 'legal targets: ' || orchestrator.legal_targets(pipeline, from_stage);
END $$;

CREATE OR REPLACE FUNCTION leads_before_update() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = orchestrator, pg_catalog, pg_temp AS $$
DECLARE
    at_time timestamptz;
    st record;
    missing text[];
    named smallint := NEW.touched;  -- below
BEGIN
    IF NEW.id <> OLD.id OR NEW.pipeline <> OLD.pipeline THEN
        RAISE EXCEPTION 'a lead keeps its id and its pipeline' USING ERRCODE = 'PO001', HINT = 'insert a new lead instead';
    END IF;
    NEW.version := OLD.version + 1;
    NEW.stage_seq := OLD.stage_seq;
    NEW.left_stage := NULL;
    NEW.touched := 0;
    IF NEW.stage IS DISTINCT FROM OLD.stage THEN
        SELECT s.required, s.deadlines, s.counts_silence, s.entry_kind, s.on_complete, OLD.stage = ANY (s.entered_from) AS legal,
               statement_timestamp() + s.shift AS now INTO st
        FROM stages s WHERE s.pipeline = NEW.pipeline AND s.name = NEW.stage;
        IF NOT FOUND THEN
            PERFORM refuse_move(NEW.pipeline, OLD.stage, NEW.stage);
        END IF;
        missing := CASE WHEN st.required = '{}' THEN '{}' ELSE missing_fields(NEW.data, st.required) END;
        IF NOT st.legal OR missing <> '{}' THEN
            IF NOT use_override(NEW.id, NEW.stage) THEN
                IF NOT st.legal THEN
                    PERFORM refuse_move(NEW.pipeline, OLD.stage, NEW.stage);
                END IF;
                RAISE EXCEPTION 'a lead enters % only with: %', NEW.stage, array_to_string(missing, ', ')
                    USING ERRCODE = 'PO002', COLUMN = missing[1], HINT = 'set these keys of leads.data first';
            END IF;
        END IF;
        at_time := st.now;
        NEW.left_stage := OLD.stage;
        NEW.touched := 1;
        NEW.stage_seq := OLD.stage_seq + 1;
        NEW.stage_entered_at := at_time;
        NEW.entry_pending := st.entry_kind IS NOT NULL;
        NEW.deadline_step := 0;
        IF NEW.deadline_at IS NOT DISTINCT FROM OLD.deadline_at THEN
            NEW.deadline_at := at_time + st.deadlines[1];
        END IF;
        IF st.counts_silence AND NEW.conversation_started_at IS NOT DISTINCT FROM OLD.conversation_started_at THEN
            NEW.conversation_started_at := at_time;
        END IF;
        IF NEW.moved_task IS NOT DISTINCT FROM OLD.moved_task THEN   -- not a task's doing
            NEW.moved_task := NULL;
            IF NEW.moved_by IS NOT DISTINCT FROM OLD.moved_by AND named NOT IN (-1, -3) THEN
                NEW.moved_by := session_user;
            END IF;
            IF NEW.move_reason IS NOT DISTINCT FROM OLD.move_reason AND named NOT IN (-2, -3) THEN
                NEW.move_reason := NULL;
            END IF;
        END IF;
        IF st.on_complete IS NOT NULL THEN
            NEW.touched := 3;
        END IF;
    ELSIF NEW.last_inbound_at > coalesce(OLD.last_inbound_at, '-infinity') AND NEW.deadline_at IS NOT DISTINCT FROM OLD.deadline_at THEN
        -- The lead's own word: its silence begins anew, but not before we have answered.
        SELECT CASE WHEN NOT owes_answer(NEW.id, NEW.stage_seq) THEN NEW.last_inbound_at + s.deadlines[1] END AS at INTO st
        FROM stages s WHERE s.pipeline = NEW.pipeline AND s.name = NEW.stage;
        NEW.deadline_step := 0;
        NEW.deadline_at := st.at;
    END IF;
    IF at_time IS NULL THEN
        at_time := clock();
    END IF;
    NEW.updated_at := at_time;
    IF NEW.data IS DISTINCT FROM OLD.data THEN
        IF EXISTS (SELECT FROM pipelines p, unnest(p.checked) AS f
                   WHERE p.name = NEW.pipeline AND NEW.data -> f IS DISTINCT FROM OLD.data -> f) THEN
            NEW.touched := NEW.touched | 2;
        END IF;
    END IF;
    IF NEW.phone IS DISTINCT FROM OLD.phone OR NEW.name IS DISTINCT FROM OLD.name OR NEW.email IS DISTINCT FROM OLD.email THEN
        NEW.touched := NEW.touched | 2;
    END IF;
    IF NEW.do_not_contact AND NOT OLD.do_not_contact THEN
        NEW.touched := NEW.touched | 4;
    END IF;
    RETURN NEW;
END $$;

CREATE OR REPLACE FUNCTION leads_after_insert() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = orchestrator, pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO pipeline_events (lead_id, event_type, to_stage, actor, created_at)
    SELECT id, 'created', stage, coalesce(moved_by, session_user), created_at FROM fresh;
    INSERT INTO stage_deltas (pipeline, to_stage, n) SELECT pipeline, stage, count(*) FROM fresh GROUP BY pipeline, stage;
    INSERT INTO tasks (kind, key, payload, run_at)
    SELECT s.entry_kind, 'lead:' || f.id, jsonb_build_object('lead_id', f.id, 'stage_seq', 1), statement_timestamp() + c.shift
    FROM clock_shift c CROSS JOIN fresh f JOIN stages s ON s.pipeline = f.pipeline AND s.name = f.stage WHERE f.entry_pending
    UNION ALL
    SELECT 'lead.check', 'lead:' || f.id, jsonb_build_object('lead_id', f.id), statement_timestamp() + c.shift
    FROM clock_shift c CROSS JOIN fresh f WHERE f.touched & 2 > 0;
    RETURN NULL;
END $$;

CREATE OR REPLACE FUNCTION leads_after_update() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = orchestrator, pg_catalog, pg_temp AS $$
DECLARE any_touched int := (SELECT bit_or(touched) FROM fresh);
BEGIN
    IF any_touched & 1 > 0 THEN
        INSERT INTO pipeline_events (lead_id, event_type, from_stage, to_stage, metadata, actor, task_id, created_at)
        SELECT id, 'stage_change', left_stage, stage,
               CASE WHEN move_reason IS NULL THEN '{}' ELSE jsonb_build_object('reason', move_reason) END,
               moved_by, moved_task, stage_entered_at
        FROM fresh WHERE touched & 1 > 0;
        INSERT INTO stage_deltas (pipeline, from_stage, to_stage, n)
        SELECT pipeline, left_stage, stage, count(*) FROM fresh WHERE touched & 1 > 0 GROUP BY pipeline, left_stage, stage;
        INSERT INTO tasks (kind, key, payload, run_at)
        SELECT s.entry_kind, 'lead:' || f.id, jsonb_build_object('lead_id', f.id, 'stage_seq', f.stage_seq),
               statement_timestamp() + c.shift
        FROM clock_shift c CROSS JOIN fresh f JOIN stages s ON s.pipeline = f.pipeline AND s.name = f.stage
        WHERE f.touched & 1 > 0 AND f.entry_pending;
    END IF;
    IF any_touched & 2 > 0 THEN
        INSERT INTO tasks (kind, key, payload, dedup_key, run_at)
        SELECT 'lead.check', 'lead:' || id, jsonb_build_object('lead_id', id), 'check:' || id, clock() FROM fresh WHERE touched & 2 > 0
        ON CONFLICT (dedup_key) WHERE status = 'available' AND dedup_key IS NOT NULL DO UPDATE SET run_at = least(tasks.run_at, excluded.run_at);
    END IF;
    IF any_touched & 4 > 0 THEN
        INSERT INTO pipeline_events (lead_id, event_type, actor) SELECT id, 'dnc', session_user FROM fresh WHERE touched & 4 > 0;
        UPDATE messages SET status = 'cancelled', reason = 'do not contact'
        WHERE id IN (SELECT m.id FROM messages m JOIN fresh f ON f.id = m.lead_id
                     WHERE f.touched & 4 > 0 AND m.status = 'scheduled' FOR NO KEY UPDATE OF m SKIP LOCKED);
    END IF;
    RETURN NULL;
END $$;

INSERT INTO stage_counts AS c (pipeline, stage, n) SELECT pipeline, stage, sum(n) FROM stage_deltas GROUP BY pipeline, stage
ON CONFLICT (pipeline, stage) DO UPDATE SET n = c.n + excluded.n;
DROP VIEW stage_sizes;
DROP TABLE stage_deltas;
CREATE TABLE transition_counts (
    pipeline   text NOT NULL,
    from_stage text NOT NULL,
    to_stage   text NOT NULL,
    n          bigint NOT NULL,
    PRIMARY KEY (pipeline, from_stage, to_stage)
);
CREATE TABLE stage_deltas (
    pipeline   text NOT NULL,
    from_stage text,
    to_stage   text,
    n          bigint NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000, autovacuum_vacuum_cost_delay = 0);

CREATE VIEW stage_sizes AS
SELECT pipeline, stage, max(position) AS position, sum(n)::bigint AS n
FROM (SELECT pipeline, name AS stage, position, 0 AS n FROM stages
      UNION ALL SELECT pipeline, stage, NULL, n FROM stage_counts
      UNION ALL SELECT pipeline, to_stage, NULL, n FROM stage_deltas
      UNION ALL SELECT pipeline, from_stage, NULL, -n FROM stage_deltas) AS of_stages
GROUP BY pipeline, stage HAVING max(position) IS NOT NULL;

CREATE VIEW transition_totals AS
SELECT pipeline, from_stage, to_stage, sum(n)::bigint AS n
FROM (SELECT pipeline, from_stage, to_stage, n FROM transition_counts
      UNION ALL SELECT pipeline, from_stage, to_stage, n FROM stage_deltas WHERE num_nulls(from_stage, to_stage) = 0) AS of_ways
GROUP BY pipeline, from_stage, to_stage;

CREATE FUNCTION keep_moves() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = orchestrator, pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO transition_counts AS c (pipeline, from_stage, to_stage, n)
    SELECT pipeline, from_stage, to_stage, sum(n) FROM taken WHERE num_nulls(from_stage, to_stage) = 0
    GROUP BY pipeline, from_stage, to_stage ORDER BY pipeline, from_stage, to_stage
    ON CONFLICT (pipeline, from_stage, to_stage) DO UPDATE SET n = c.n + excluded.n;
    RETURN NULL;
END $$;
CREATE TRIGGER stage_deltas_taken AFTER DELETE ON stage_deltas REFERENCING OLD TABLE AS taken
    FOR EACH STATEMENT EXECUTE FUNCTION keep_moves();

CREATE OR REPLACE FUNCTION leads_after_delete() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = orchestrator, pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO stage_deltas (pipeline, from_stage, n) SELECT pipeline, stage, count(*) FROM gone GROUP BY pipeline, stage;
    RETURN NULL;
END $$;

CREATE OR REPLACE FUNCTION fold_stage_counts() RETURNS void
LANGUAGE plpgsql SET search_path = orchestrator, pg_catalog, pg_temp AS $$
BEGIN
    IF pg_try_advisory_xact_lock(1869767531) THEN
        WITH folded AS (DELETE FROM stage_deltas RETURNING *)
        INSERT INTO stage_counts AS c (pipeline, stage, n)
        SELECT pipeline, d.stage, sum(d.n)
        FROM folded f CROSS JOIN LATERAL (VALUES (f.to_stage, f.n), (f.from_stage, -f.n)) AS d(stage, n)
        WHERE d.stage IS NOT NULL GROUP BY pipeline, d.stage
        ON CONFLICT (pipeline, stage) DO UPDATE SET n = c.n + excluded.n;
    END IF;
END $$;

CREATE OR REPLACE FUNCTION request_transition(lead uuid, to_stage text, actor text, reason text) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = orchestrator, pg_catalog, pg_temp AS $$
DECLARE
    l leads;
    missing text[];
BEGIN
    SELECT * INTO l FROM leads WHERE id = lead FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'no lead %', lead USING ERRCODE = 'P0002';
    END IF;
    IF NOT EXISTS (SELECT FROM transitions t WHERE t.pipeline = l.pipeline AND t.from_stage = l.stage AND t.to_stage = request_transition.to_stage) THEN
        INSERT INTO pipeline_events (lead_id, event_type, from_stage, to_stage, metadata, actor)
        VALUES (lead, 'invalid_transition_attempt', l.stage, request_transition.to_stage,
                jsonb_build_object('reason', reason, 'legal_targets', legal_targets(l.pipeline, l.stage)), coalesce(actor, session_user));
        INSERT INTO stage_deltas (pipeline, from_stage, to_stage, n) VALUES (l.pipeline, l.stage, l.stage, 1);
        PERFORM flag_lead(lead, format('illegal move asked for: %s to %s', l.stage, request_transition.to_stage));
        RETURN false;
    END IF;
    SELECT missing_fields(l.data, s.required) INTO missing FROM stages s WHERE s.pipeline = l.pipeline AND s.name = request_transition.to_stage;
    IF missing <> '{}' THEN
        INSERT INTO pipeline_events (lead_id, event_type, from_stage, to_stage, metadata, actor)
        VALUES (lead, 'missing_fields', l.stage, request_transition.to_stage,
                jsonb_build_object('missing', to_jsonb(missing), 'reason', reason), coalesce(actor, session_user));
        RETURN false;
    END IF;
    UPDATE leads SET stage = request_transition.to_stage, moved_by = coalesce(actor, session_user), move_reason = reason, moved_task = NULL
    WHERE id = lead;
    RETURN true;
END $$;

CREATE FUNCTION phone_tail(address text) RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT right(orchestrator.plain_address(address), 7)
$$;
DROP INDEX leads_phone;
CREATE INDEX leads_phone ON leads (orchestrator.phone_tail(phone)) WHERE phone IS NOT NULL;
DROP INDEX contacts_phone;
CREATE INDEX contacts_phone ON contacts (orchestrator.phone_tail(phone)) WHERE phone IS NOT NULL;

CREATE OR REPLACE FUNCTION cancel_excluded() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = orchestrator, pg_catalog, pg_temp AS $$
BEGIN
    UPDATE messages m SET status = 'cancelled', reason = 'excluded: ' || hit.reason
    FROM (
        SELECT m.id, f.reason FROM fresh f JOIN messages m ON plain_address(m.to_address) = plain_address(f.address)
        WHERE m.status = 'scheduled'
        UNION ALL   -- addressed by their lead alone
        SELECT m.id, f.reason FROM fresh f
        JOIN leads l ON l.phone IS NOT NULL AND phone_tail(l.phone) = phone_tail(f.address) AND plain_address(l.phone) = plain_address(f.address)
        JOIN messages m ON m.lead_id = l.id AND m.status = 'scheduled' AND m.to_address IS NULL AND m.channel <> 'email'
        UNION ALL
        SELECT m.id, f.reason FROM fresh f
        JOIN leads l ON l.email IS NOT NULL AND plain_address(l.email) = plain_address(f.address)
        JOIN messages m ON m.lead_id = l.id AND m.status = 'scheduled' AND m.to_address IS NULL AND m.channel = 'email'
    ) hit
    WHERE m.id = hit.id AND m.id IN (SELECT id FROM messages WHERE id = hit.id AND status = 'scheduled' FOR NO KEY UPDATE SKIP LOCKED);
    RETURN NULL;
END $$;

CREATE FUNCTION expect(came bigint[], expected bigint[]) RETURNS bigint[] LANGUAGE plpgsql AS $$
BEGIN
    IF came <> expected THEN
        RAISE EXCEPTION '% rows came, expected were %', came, expected USING ERRCODE = 'PO005', HINT = 'it is written step by step';
    END IF;
    RETURN came;
END $$;

CREATE OR REPLACE FUNCTION revive(task bigint) RETURNS boolean
LANGUAGE plpgsql SET search_path = orchestrator, pg_catalog, pg_temp AS $$
BEGIN
    UPDATE tasks t SET status = 'available', run_at = clock(), error = NULL,
        round = t.round + CASE WHEN t.status = 'dead' AND EXISTS (
            SELECT FROM engine_calls c WHERE c.task_id = t.id AND c.round = t.round AND c.status = 'unknown') THEN 1 ELSE 0 END,
        attempt = CASE WHEN t.status = 'dead' THEN 0 ELSE t.attempt END,
        interruptions = CASE WHEN t.status = 'dead' THEN 0 ELSE t.interruptions END
    WHERE t.id = task AND t.status IN ('dead', 'available');
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    PERFORM wake();
    -- What its death gave cause for is over, unless something else of that subject is dead; should it die again, that is news.
    UPDATE alerts SET resolved_at = clock() WHERE id IN (
        SELECT a.id FROM alerts a
        WHERE a.resolved_at IS NULL AND a.type IN ('AGENT_FAILURE', 'UNKNOWN_OUTCOME') AND a.metadata ->> 'task_id' = task::text
          AND (SELECT t.id FROM tasks t WHERE t.status = 'dead' AND t.key = a.subject LIMIT 1) IS NULL
        FOR NO KEY UPDATE SKIP LOCKED);
    RETURN true;
END $$;

CREATE OR REPLACE FUNCTION merge_leads(lead uuid, target uuid, actor text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = orchestrator, pg_catalog, pg_temp AS $$
DECLARE
    gone leads;
    kept leads;
    known uuid;
BEGIN
    IF lead = target THEN
        RAISE EXCEPTION 'a lead can''t be merged into itself' USING ERRCODE = '22023';
    END IF;
    FOR known IN SELECT id FROM leads WHERE id IN (lead, target) ORDER BY id FOR UPDATE LOOP
        NULL;   -- two merges take the rows in one order
    END LOOP;
    SELECT * INTO gone FROM leads WHERE id = lead;
    SELECT * INTO kept FROM leads WHERE id = target;
    IF gone.id IS NULL OR kept.id IS NULL THEN
        RAISE EXCEPTION 'no lead %', CASE WHEN gone.id IS NULL THEN lead ELSE target END USING ERRCODE = 'P0002';
    ELSIF gone.pipeline <> kept.pipeline THEN
        RAISE EXCEPTION 'a lead of % can''t be merged into one of %', gone.pipeline, kept.pipeline
            USING ERRCODE = 'PO004', HINT = 'both must be in one pipeline';
    END IF;
    PERFORM move_work(lead, target);
    UPDATE messages SET lead_id = target, stage_seq = NULL, then_to = NULL,
        status = CASE WHEN status = 'sending' THEN 'unknown' WHEN status IN ('draft', 'awaiting_approval', 'scheduled') THEN 'cancelled' ELSE status END,
        reason = CASE WHEN status IN ('draft', 'awaiting_approval', 'scheduled', 'sending') THEN 'its lead was merged' ELSE reason END
    WHERE lead_id = lead;
    UPDATE replies SET lead_id = target WHERE lead_id = lead;
    UPDATE contacts SET lead_id = target WHERE lead_id = lead;
    UPDATE approval_queue SET lead_id = target WHERE lead_id = lead;
    UPDATE engine_calls SET lead_id = target WHERE lead_id = lead;
    UPDATE alerts SET resolved_at = clock() WHERE subject = 'lead:' || lead AND resolved_at IS NULL;
    UPDATE pipeline_events SET lead_id = target, metadata = metadata || jsonb_build_object('merged_from', lead),
        event_type = CASE WHEN event_type IN ('created', 'stage_change') THEN 'merged_' ELSE '' END || event_type
    WHERE lead_id = lead;
    UPDATE merged_leads SET into_id = target WHERE into_id = lead;
    INSERT INTO merged_leads (id, into_id, pipeline, source, external_id)
    VALUES (lead, target, gone.pipeline, gone.source, gone.external_id);
    UPDATE stages SET merges = true WHERE pipeline = gone.pipeline AND gone.external_id IS NOT NULL AND NOT merges;
    INSERT INTO contacts (lead_id, name, email, phone, source)
    SELECT target, gone.name, gone.email, gone.phone, 'merged'
    WHERE plain_address(gone.email) <> plain_address(kept.email) OR plain_address(gone.phone) <> plain_address(kept.phone);
    UPDATE leads SET promoted_to = target WHERE promoted_to = lead;
    DELETE FROM leads WHERE id = lead;
    PERFORM fill_in(target, gone);
    INSERT INTO pipeline_events (lead_id, event_type, metadata, actor)
    VALUES (target, 'merged', jsonb_build_object('merged', lead), coalesce(actor, session_user));
END $$;

DROP TRIGGER messages_rescheduled ON messages;
CREATE TRIGGER messages_rescheduled AFTER UPDATE OF status, send_at ON messages FOR EACH ROW
    WHEN (NEW.status = 'scheduled' AND OLD.status <> 'sending'
          AND (OLD.status, OLD.send_at) IS DISTINCT FROM (NEW.status, NEW.send_at))
    EXECUTE FUNCTION queue_message();
CREATE INDEX messages_sending ON messages (send_at) WHERE status = 'sending';

-- It is there already if a backup of an earlier version was restored: after_restore.sql has stopped sending.
CREATE TABLE IF NOT EXISTS sending (
    one        boolean PRIMARY KEY DEFAULT true CHECK (one),
    stopped_at timestamptz,
    stopped_by text,
    reason     text,
    CHECK (stopped_at IS NULL OR reason IS NOT NULL)
);
INSERT INTO sending DEFAULT VALUES ON CONFLICT DO NOTHING;

CREATE FUNCTION sending_changed() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = orchestrator, pg_catalog, pg_temp AS $$
BEGIN
    IF NEW.stopped_at IS NOT NULL THEN
        NEW.stopped_by := coalesce(NEW.stopped_by, session_user);
        NEW.reason := coalesce(NEW.reason, 'no reason given');
        RETURN NEW;
    END IF;
    NEW.stopped_by := NULL;
    NEW.reason := NULL;
    UPDATE tasks SET run_at = clock()
    WHERE status = 'available' AND attempt >= 0 AND run_at >= timestamptz '9999-01-01 00:00 UTC' AND error LIKE 'sending is stopped%';
    PERFORM wake();
    RETURN NEW;
END $$;
CREATE TRIGGER sending_changed BEFORE UPDATE ON sending FOR EACH ROW EXECUTE FUNCTION sending_changed();

CREATE FUNCTION await_sending(ids bigint[]) RETURNS void
LANGUAGE plpgsql SET search_path = orchestrator, pg_catalog, pg_temp AS $$
BEGIN
    PERFORM FROM sending WHERE stopped_at IS NOT NULL FOR SHARE SKIP LOCKED;
    IF NOT FOUND THEN
        UPDATE tasks SET run_at = clock() + interval '1 second' WHERE id = ANY (ids) AND status = 'available';
    END IF;
END $$;
