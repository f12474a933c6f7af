-- The schema of the pipeline orchestrator: the one truth of its tables, read from top to bottom.
--
--   1 clock      2 pipelines   3 tasks     4 leads      5 replies, messages, exclusions
--   6 engines    7 people      8 campaigns 9 schedules   10 functions for users
--   11 the daemon's own
--
-- Rules that hold throughout:
--   * A cause and the task it asks for are written in one transaction; NOTIFY is only a hint.
--   * Triggers are the only writers of stage history and of entry tasks, whoever made the change.
--   * A function that runs with its owner's rights names pg_temp last in its search_path: left out, it would come first,
--     and anybody's temporary table would be taken for ours.
--   * What a user may get wrong is a constraint whose name is the rule, because the name is what the error says.
--   * Times are timestamptz; deadlines, slots and run_at are business time (clock()), leases are real time.

CREATE SCHEMA IF NOT EXISTS orchestrator;
SET LOCAL search_path = orchestrator, pg_catalog;

CREATE TABLE schema_version (
    version    int PRIMARY KEY,
    applied_at timestamptz NOT NULL DEFAULT now()
);


-- ---------------------------------------------------------------------------------------------
-- 1 Clock. Business time may be shifted (tests, simulations); real time never is.
-- ---------------------------------------------------------------------------------------------

CREATE TABLE clock_shift (
    one   boolean PRIMARY KEY DEFAULT true CHECK (one),
    shift interval NOT NULL DEFAULT '0'
);
INSERT INTO clock_shift DEFAULT VALUES;

CREATE FUNCTION clock() RETURNS timestamptz
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = orchestrator, pg_catalog, pg_temp
AS $$ SELECT statement_timestamp() + shift FROM orchestrator.clock_shift $$;

-- An id that begins with the time (UUID version 7): what was made together lies together, and an update of recent
-- rows touches few pages of their index instead of as many as there are rows. Ids are no secrets, so that a plain random
-- number will do: a cryptographic one takes longer than all else that a row needs. Sessions that share a seed differ by their process.
CREATE FUNCTION new_id() RETURNS uuid LANGUAGE sql VOLATILE PARALLEL SAFE AS $$
    SELECT encode(substring(int8send((extract(epoch FROM clock_timestamp()) * 1000)::bigint) FROM 3)
               || int2send((28672 | (((random() * 4095)::int # pg_backend_pid()) & 4095))::int2) -- 0x7000: version 7
               || int8send((random() * 4611686018427387904)::bigint | -9223372036854775808), 'hex')::uuid   -- the variant, 62 bits
$$;

-- Wakes every daemon. The payload is constant, so that a transaction sends one at most;
-- bulk loads and the daemons themselves silence it with SET orchestrator.quiet = 'on'.
CREATE FUNCTION wake() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF coalesce(current_setting('orchestrator.quiet', true), '') <> 'on' THEN
        PERFORM pg_notify('orchestrator', '');
    END IF;
END $$;

CREATE FUNCTION wake_trigger() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = orchestrator, pg_catalog, pg_temp AS $$
BEGIN
    PERFORM wake();
    RETURN NULL;
END $$;

CREATE FUNCTION shift_clock(by interval) RETURNS timestamptz
LANGUAGE plpgsql SET search_path = orchestrator, pg_catalog, pg_temp AS $$
DECLARE moved timestamptz;
BEGIN
    UPDATE clock_shift SET shift = shift + by RETURNING statement_timestamp() + shift INTO moved;
    PERFORM pg_notify('orchestrator', '');
    RETURN moved;
END $$;

-- Whether the server knows a time zone by just this name. Setting it asks for the one file and answers how it is spelt; the
-- list of all, which takes 20 ms, tells a name with digits from an offset.
CREATE FUNCTION known_zone(zone text) RETURNS boolean
LANGUAGE plpgsql SET search_path = orchestrator, pg_catalog, pg_temp SET timezone = 'UTC' AS $$
BEGIN
    RETURN set_config('timezone', zone, true) = zone AND (zone !~ '[0-9<]' OR EXISTS (SELECT FROM pg_timezone_names WHERE name = zone));
EXCEPTION WHEN invalid_parameter_value THEN
    RETURN false;
END $$;

-- Its triggers ask only for zones that are new, so that a row without one costs nothing. TG_ARGV: the column.
CREATE FUNCTION check_zone() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = orchestrator, pg_catalog, pg_temp AS $$
DECLARE zone text := to_jsonb(NEW) ->> TG_ARGV[0];
BEGIN
    IF NOT known_zone(zone) THEN
        RAISE EXCEPTION 'unknown time zone %', zone USING ERRCODE = 'PO006', COLUMN = TG_ARGV[0],
            HINT = coalesce((SELECT 'known are ' || string_agg(name, ', ' ORDER BY name) FROM pg_timezone_names
                             WHERE starts_with(lower(name), lower(substring(zone FROM '^[^/]+/.')))), 'write it like Europe/London');
    END IF;
    RETURN NEW;
END $$;


-- ---------------------------------------------------------------------------------------------
-- 2 Pipelines. Declared in Python under handlers/; these rows are written from there at start,
--   so that the guard below needs nothing but the database.
-- ---------------------------------------------------------------------------------------------

CREATE TABLE pipelines (
    name    text PRIMARY KEY,
    initial text NOT NULL,
    checked text[] NOT NULL DEFAULT '{}'    -- keys of leads.data that a check reads
);

CREATE TABLE stages (
    pipeline       text NOT NULL REFERENCES pipelines ON DELETE CASCADE,
    name           text NOT NULL,
    position       int NOT NULL,
    terminal       boolean NOT NULL DEFAULT false,
    entry_kind     text,                            -- the kind of task that an entry owes
    required       text[] NOT NULL DEFAULT '{}',    -- fields of leads.data without which nobody enters
    deadlines      interval[] NOT NULL DEFAULT '{}',-- ages at which its deadline steps fire
    counts_silence boolean NOT NULL DEFAULT false,  -- ages count from the lead's last word, not from the entry
    on_complete    text,                            -- where a lead goes by itself once that stage's fields are there
    sweep_step     text NOT NULL DEFAULT 'stalled_conversations',
    -- Copies, kept by the triggers below, so that the guard of leads reads one row for each lead that comes or moves:
    initial        boolean NOT NULL DEFAULT false,  -- of pipelines
    entered_from   text[] NOT NULL DEFAULT '{}',    -- of transitions
    shift          interval NOT NULL DEFAULT '0',   -- of the clock
    merges         boolean NOT NULL DEFAULT false,  -- whether leads that a source knows were merged: an import looks for them
    PRIMARY KEY (pipeline, name)
);

CREATE TABLE transitions (
    pipeline   text NOT NULL,
    from_stage text NOT NULL,
    to_stage   text NOT NULL,
    PRIMARY KEY (pipeline, from_stage, to_stage),
    FOREIGN KEY (pipeline, from_stage) REFERENCES stages ON DELETE CASCADE,
    FOREIGN KEY (pipeline, to_stage) REFERENCES stages ON DELETE CASCADE
);

-- Whoever changes one of them waits here, before any row is touched, for whoever else does; a daemon that writes its
-- pipelines has this lock, too.
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


-- ---------------------------------------------------------------------------------------------
-- 3 Tasks: the one queue.
--
--   available -> running -> (gone, to task_log) | available again (retry, snooze, interruption) | dead
--
--   lease_id is the fence: each claim makes a new one and every later write of that attempt names it.
--   Equal keys never run together (a unique index says so, not only the claim), and of those that are
--   due the lower id goes first.
-- ---------------------------------------------------------------------------------------------

CREATE TABLE tasks (
    id               bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind             text NOT NULL,
    key              text,
    payload          jsonb NOT NULL DEFAULT '{}' CONSTRAINT "payload is a JSON object" CHECK (jsonb_typeof(payload) = 'object'),
    priority         smallint NOT NULL DEFAULT 50 CONSTRAINT "priority is 10, 50 or 90" CHECK (priority IN (10, 50, 90)),
    status           text NOT NULL DEFAULT 'available' CONSTRAINT "status is available, running or dead"
                     CHECK (status IN ('available', 'running', 'dead')),
    run_at           timestamptz NOT NULL DEFAULT orchestrator.clock(),
    attempt          int NOT NULL DEFAULT 0,
    max_attempts     int CONSTRAINT "max_attempts is above 0"
                     CHECK (max_attempts > 0),  -- null until the first claim: the kind's own policy
    round            int NOT NULL DEFAULT 0,     -- raised by a person's retry of an unknown outcome: part of the Idempotency-Key
    interruptions    int NOT NULL DEFAULT 0,     -- attempts that ended with their daemon
    dedup_key        text,                       -- covers a waiting task only: the claim clears it
    lease_id         uuid,
    lease_expires_at timestamptz,
    worker           uuid,
    error            text,
    created_at       timestamptz NOT NULL DEFAULT now(),
    started_at       timestamptz,
    CONSTRAINT "a running task has a lease, and no other has" CHECK ((status = 'running') = (lease_id IS NOT NULL))
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);

-- Each index says in its predicate what it is for, so that no plan, made from whatever statistics, reads all of one that
-- was meant for something else.
CREATE INDEX tasks_due ON tasks (kind, priority, run_at, id) WHERE status = 'available' AND interruptions < 3;
CREATE INDEX tasks_waiting_of_key ON tasks (key, id) WHERE status = 'available';
CREATE UNIQUE INDEX tasks_running_key ON tasks (key) WHERE status = 'running';
CREATE UNIQUE INDEX tasks_dedup ON tasks (dedup_key) WHERE status = 'available' AND dedup_key IS NOT NULL;
-- For the pulse alone. `attempt >= 0` is always true; it keeps the planner from offering this index to the claim,
-- which would then walk the due tasks of all kinds once per kind.
CREATE INDEX tasks_next ON tasks (run_at) WHERE status = 'available' AND attempt >= 0;
CREATE INDEX tasks_dead ON tasks (key) WHERE status = 'dead';
CREATE INDEX tasks_lonely ON tasks (run_at, id) WHERE status = 'available' AND interruptions >= 3;

CREATE TRIGGER tasks_wake AFTER INSERT ON tasks FOR EACH STATEMENT EXECUTE FUNCTION wake_trigger();

-- A dead task starts anew, a waiting one is due now. If the call of its last round is of unknown outcome, the next one
-- gets a new round, and with it a new Idempotency-Key.
CREATE FUNCTION revive(task bigint) RETURNS boolean
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

CREATE TABLE task_log (
    id               bigint NOT NULL,
    kind             text NOT NULL,
    key              text,
    payload          jsonb NOT NULL,
    priority         smallint NOT NULL,
    status           text NOT NULL CHECK (status IN ('done', 'cancelled')),
    run_at           timestamptz NOT NULL,
    attempt          int NOT NULL,
    max_attempts     int,
    round            int NOT NULL,
    interruptions    int NOT NULL,
    dedup_key        text,
    lease_id         uuid,
    lease_expires_at timestamptz,
    worker           uuid,
    error            text,
    created_at       timestamptz NOT NULL,
    started_at       timestamptz,
    result           jsonb,
    finished_at      timestamptz NOT NULL,
    duration_ms      double precision,
    PRIMARY KEY (id)
);
CREATE INDEX task_log_finished ON task_log (finished_at);

-- A daemon. While it lives it holds the advisory lock (class 'orch', number) on its listening connection;
-- without such a connection (expects_lock false) only the leases tell.
CREATE TABLE workers (
    id           uuid PRIMARY KEY,
    number       int GENERATED ALWAYS AS IDENTITY UNIQUE,
    host         text NOT NULL,
    pid          int NOT NULL,
    version      text NOT NULL,
    expects_lock boolean NOT NULL DEFAULT true,
    started_at   timestamptz NOT NULL DEFAULT now()
);


-- ---------------------------------------------------------------------------------------------
-- 4 Leads and their history.
-- ---------------------------------------------------------------------------------------------

-- The one spelling under which an address is compared: emails bare and in lower case, phones as + and digits; null for none.
-- What stays of an erased one stands for itself.
CREATE FUNCTION plain_address(address text) RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT nullif(CASE WHEN address LIKE 'erased:%' THEN address
                       WHEN address LIKE '%@%' THEN lower(btrim(coalesce(substring(address FROM '<([^<>]+)>'), address)))
                       ELSE regexp_replace(address, '[^0-9+]', '', 'g') END, '')
$$;

-- How numbers of one person end, however they begin: +44 7700 900123, 07700 900123. Seven digits: in some countries there are no more.
CREATE FUNCTION phone_tail(address text) RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT right(orchestrator.plain_address(address), 7)
$$;

-- Whether a phone number may be of any country: 07700 900123, 0044 7700 900123; and +44 (0)7700 900123, which has a digit too many.
CREATE FUNCTION lacks_country(address text) RETURNS boolean LANGUAGE sql IMMUTABLE AS $$
    SELECT address NOT LIKE '%@%' AND address NOT LIKE 'erased:%'
       AND (orchestrator.plain_address(address) NOT LIKE '+%' OR address LIKE '%(0)%')
$$;

CREATE TABLE leads (
    id                      uuid PRIMARY KEY DEFAULT orchestrator.new_id(),
    pipeline                text NOT NULL DEFAULT 'vendor_acquisition',
    stage                   text NOT NULL,          -- checked against stages by the guard, not by a foreign key,
                                                    -- which would lock the stage's row for every lead that moves
    name                    text,
    company                 text,
    email                   text,
    phone                   text,
    city                    text,
    region                  text,
    country                 text,
    timezone                text,
    source                  text,
    external_id             text,
    tier                    text CONSTRAINT "tier is high, medium or low" CHECK (tier IN ('high', 'medium', 'low')),
    score                   numeric,
    scored_at               timestamptz,
    approved_at             timestamptz,
    approved_by             text,
    data                    jsonb NOT NULL DEFAULT '{}' CONSTRAINT "data is a JSON object" CHECK (jsonb_typeof(data) = 'object'),
    needs_review            boolean NOT NULL DEFAULT false,
    review_reason           text,
    do_not_contact          boolean NOT NULL DEFAULT false,
    nurture_until           timestamptz,
    conversation_started_at timestamptz,
    last_inbound_at         timestamptz,
    last_outbound_at        timestamptz,
    run_id                  uuid,
    promoted_to             uuid,
    stage_entered_at        timestamptz NOT NULL,
    deadline_at             timestamptz,
    archived_at             timestamptz,
    created_at              timestamptz NOT NULL,
    updated_at              timestamptz NOT NULL,
    version                 bigint NOT NULL,
    stage_seq               int NOT NULL,
    deadline_step           int NOT NULL DEFAULT 0,
    moved_by                text,
    move_reason             text,
    moved_task              bigint,
    -- What follows is the triggers' and the daemon's own:
    left_stage              text,                       -- where the last UPDATE moved it from; null if it moved nothing
    touched                 smallint NOT NULL DEFAULT 0,-- what the last UPDATE changed: 1 stage, 2 a checked field, 4 do_not_contact
    entry_pending           boolean NOT NULL,           -- the entry action of this stage is still owed
    known_issues            text[] NOT NULL DEFAULT '{}'
) WITH (fillfactor = 80);

CREATE INDEX leads_stage ON leads (pipeline, stage);
CREATE INDEX leads_newest ON leads (created_at DESC, id);
CREATE UNIQUE INDEX leads_external ON leads (pipeline, source, external_id) WHERE external_id IS NOT NULL;
CREATE INDEX leads_deadline ON leads (deadline_at) WHERE deadline_at IS NOT NULL;
CREATE INDEX leads_entry_pending ON leads ((pipeline || '.' || stage)) WHERE entry_pending;
CREATE INDEX leads_email ON leads (orchestrator.plain_address(email)) WHERE email IS NOT NULL;
CREATE INDEX leads_phone ON leads (orchestrator.phone_tail(phone)) WHERE phone IS NOT NULL;
CREATE INDEX leads_review ON leads (created_at DESC, id) WHERE needs_review;
CREATE INDEX leads_to_archive ON leads (stage_entered_at) WHERE stage = 'DEAD_LEAD' AND archived_at IS NULL;   -- no other lead is in it

-- No foreign key to leads: history outlives an erased lead, and only triggers and outcomes write here.
CREATE TABLE pipeline_events (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    lead_id    uuid NOT NULL,
    event_type text NOT NULL,
    from_stage text,
    to_stage   text,
    metadata   jsonb NOT NULL DEFAULT '{}',
    actor      text NOT NULL DEFAULT session_user,
    task_id    bigint,
    created_at timestamptz NOT NULL DEFAULT orchestrator.clock()
);
CREATE INDEX pipeline_events_lead ON pipeline_events (lead_id, id);

-- How many leads sit in each stage, and how many have gone from one to another. Counting a million takes longer than a sweep
-- may, and one counter row per stage would make movers wait for each other: so a statement that adds, moves or deletes
-- leads adds a row per way, and the sweep folds these into the counts. The truth at any time is the sum of both:
-- stage_sizes and transition_totals.
CREATE TABLE stage_counts (
    pipeline text NOT NULL,
    stage    text NOT NULL,
    n        bigint NOT NULL,
    PRIMARY KEY (pipeline, stage)
);
CREATE TABLE transition_counts (
    pipeline   text NOT NULL,
    from_stage text NOT NULL,
    to_stage   text NOT NULL,           -- the same: an illegal move was asked for, and the lead stayed
    n          bigint NOT NULL,
    PRIMARY KEY (pipeline, from_stage, to_stage)
);
CREATE TABLE stage_deltas (
    pipeline   text NOT NULL,
    from_stage text,                    -- null: they came
    to_stage   text,                    -- null: they are gone
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

-- Whoever takes differences away has done with the sizes; the moves among them stay counted.
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

-- Further people of a lead, and the addresses of those that were merged into it.
CREATE TABLE contacts (
    id         uuid PRIMARY KEY DEFAULT orchestrator.new_id(),
    lead_id    uuid NOT NULL REFERENCES leads ON DELETE CASCADE,
    name       text,
    title      text,
    email      text,
    phone      text,
    source     text,
    created_at timestamptz NOT NULL DEFAULT orchestrator.clock()
);
CREATE INDEX contacts_lead ON contacts (lead_id);
CREATE INDEX contacts_email ON contacts (orchestrator.plain_address(email)) WHERE email IS NOT NULL;
CREATE INDEX contacts_phone ON contacts (orchestrator.phone_tail(phone)) WHERE phone IS NOT NULL;

-- Which lead a merged one lives on in. What it was known by at its source is never imported again.
CREATE TABLE merged_leads (
    id          uuid PRIMARY KEY,
    into_id     uuid NOT NULL REFERENCES leads ON DELETE CASCADE,
    pipeline    text NOT NULL,
    source      text,
    external_id text,
    merged_at   timestamptz NOT NULL DEFAULT orchestrator.clock()
);
CREATE INDEX merged_leads_into ON merged_leads (into_id);
CREATE INDEX merged_leads_external ON merged_leads (pipeline, external_id) WHERE external_id IS NOT NULL;

-- A permission for one move outside the table; override_stage writes it, the guard uses it up.
CREATE TABLE stage_overrides (
    lead_id  uuid PRIMARY KEY,
    to_stage text NOT NULL,
    txid     xid8 NOT NULL DEFAULT pg_current_xact_id()
);

CREATE FUNCTION legal_targets(of_pipeline text, of_stage text) RETURNS text LANGUAGE sql STABLE AS $$
    SELECT coalesce(string_agg(t.to_stage, ', ' ORDER BY s.position), 'none: this stage is terminal')
    FROM orchestrator.transitions t JOIN orchestrator.stages s ON s.pipeline = t.pipeline AND s.name = t.to_stage
    WHERE t.pipeline = of_pipeline AND t.from_stage = of_stage
$$;

-- Which of `fields` have no value; 0 and false are values.
CREATE FUNCTION missing_fields(data jsonb, fields text[]) RETURNS text[] LANGUAGE sql IMMUTABLE AS $$
    SELECT coalesce(array_agg(f ORDER BY n), '{}') FROM unnest(fields) WITH ORDINALITY AS u(f, n)
    WHERE coalesce(btrim(data ->> f), '') = ''
$$;

-- A number in a lead's data; null for what is no amount.
CREATE FUNCTION figure(data jsonb, field text) RETURNS numeric LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE WHEN data ->> field ~ '^-?\d{1,15}(\.\d{1,10})?$' THEN (data ->> field)::numeric END
$$;

CREATE FUNCTION refuse_place(of_pipeline text, of_stage text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM orchestrator.pipelines WHERE name = of_pipeline) THEN
        RAISE EXCEPTION 'unknown pipeline %', of_pipeline USING ERRCODE = 'PO001',
            HINT = 'pipelines: ' || coalesce((SELECT string_agg(name, ', ' ORDER BY name) FROM orchestrator.pipelines), 'none yet; run "orchestrator db init"');
    END IF;
    RAISE EXCEPTION 'pipeline % has no stage %', of_pipeline, coalesce(of_stage, '(the initial one)') USING ERRCODE = 'PO001',
        HINT = 'stages: ' || coalesce((SELECT string_agg(name, ', ' ORDER BY position) FROM orchestrator.stages WHERE pipeline = of_pipeline), 'none');
END $$;

CREATE FUNCTION leads_before_insert() RETURNS trigger
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

CREATE FUNCTION refuse_move(pipeline text, from_stage text, to_stage text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE said text := format('pipeline %s: a lead may not go from %s to %s', pipeline, from_stage, to_stage);
BEGIN
    IF NOT EXISTS (SELECT FROM orchestrator.stages s WHERE s.pipeline = refuse_move.pipeline AND s.name = to_stage) THEN
        said := format('pipeline %s has no stage %s', pipeline, coalesce(to_stage, 'NULL'));
    END IF;
    RAISE EXCEPTION '%', said USING ERRCODE = 'PO001', HINT = 'legal targets: ' || orchestrator.legal_targets(pipeline, from_stage);
END $$;

-- True once per override_stage call, in its own transaction, for that lead and target.
CREATE FUNCTION use_override(of_lead uuid, to_stage text) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM orchestrator.stage_overrides o
    WHERE o.lead_id = of_lead AND o.to_stage = use_override.to_stage AND o.txid = pg_current_xact_id();
    RETURN FOUND;
END $$;

CREATE FUNCTION leads_before_update() RETURNS trigger
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

-- An UPDATE that names the same mover or reason again can't be told from one that names none, but by the columns it
-- lists: these triggers, which come before the guard, leave it a mark (-1 mover, -2 reason, -3 both).
CREATE FUNCTION named_again() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.touched := least(NEW.touched, 0) - TG_ARGV[0]::smallint;
    RETURN NEW;
END $$;
CREATE TRIGGER leads_a_mover BEFORE UPDATE OF moved_by ON leads FOR EACH ROW
    WHEN (NEW.stage <> OLD.stage AND NEW.moved_by = OLD.moved_by AND NEW.moved_task IS NOT DISTINCT FROM OLD.moved_task)
    EXECUTE FUNCTION named_again(1);
CREATE TRIGGER leads_a_reason BEFORE UPDATE OF move_reason ON leads FOR EACH ROW
    WHEN (NEW.stage <> OLD.stage AND NEW.move_reason = OLD.move_reason AND NEW.moved_task IS NOT DISTINCT FROM OLD.moved_task)
    EXECUTE FUNCTION named_again(2);
CREATE TRIGGER leads_a_zone BEFORE INSERT ON leads FOR EACH ROW WHEN (NEW.timezone <> '') EXECUTE FUNCTION check_zone('timezone');
CREATE TRIGGER leads_a_new_zone BEFORE UPDATE OF timezone ON leads FOR EACH ROW
    WHEN (NEW.timezone <> '' AND NEW.timezone IS DISTINCT FROM OLD.timezone) EXECUTE FUNCTION check_zone('timezone');
CREATE TRIGGER leads_guard_insert BEFORE INSERT ON leads FOR EACH ROW EXECUTE FUNCTION leads_before_insert();
CREATE TRIGGER leads_guard_update BEFORE UPDATE ON leads FOR EACH ROW EXECUTE FUNCTION leads_before_update();

-- The statement triggers read NEW rows only: joining OLD and NEW transition tables lets one
-- single-row UPDATE cache a plan that takes minutes for a bulk one.
CREATE FUNCTION leads_after_insert() RETURNS trigger
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

CREATE FUNCTION leads_after_update() RETURNS trigger
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

CREATE TRIGGER leads_inserted AFTER INSERT ON leads REFERENCING NEW TABLE AS fresh
    FOR EACH STATEMENT EXECUTE FUNCTION leads_after_insert();
CREATE TRIGGER leads_updated AFTER UPDATE ON leads REFERENCING NEW TABLE AS fresh
    FOR EACH STATEMENT EXECUTE FUNCTION leads_after_update();

CREATE FUNCTION leads_after_delete() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = orchestrator, pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO stage_deltas (pipeline, from_stage, n) SELECT pipeline, stage, count(*) FROM gone GROUP BY pipeline, stage;
    RETURN NULL;
END $$;
CREATE TRIGGER leads_gone AFTER DELETE ON leads REFERENCING OLD TABLE AS gone
    FOR EACH STATEMENT EXECUTE FUNCTION leads_after_delete();

CREATE FUNCTION leads_after_truncate() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = orchestrator, pg_catalog, pg_temp AS $$
BEGIN
    DELETE FROM stage_deltas;
    DELETE FROM stage_counts;
    RETURN NULL;
END $$;
CREATE TRIGGER leads_emptied AFTER TRUNCATE ON leads FOR EACH STATEMENT EXECUTE FUNCTION leads_after_truncate();


-- ---------------------------------------------------------------------------------------------
-- 5 Replies come in, messages go out, exclusions forbid.
-- ---------------------------------------------------------------------------------------------

CREATE TABLE replies (
    id            uuid PRIMARY KEY DEFAULT orchestrator.new_id(),
    lead_id       uuid REFERENCES leads ON DELETE SET NULL,     -- null: matched by address on reception
    channel       text NOT NULL CONSTRAINT "channel is email or sms" CHECK (channel IN ('email', 'sms')),
    from_address  text,
    to_address    text,
    subject       text,
    body          text NOT NULL DEFAULT '',
    headers       jsonb NOT NULL DEFAULT '{}' CONSTRAINT "headers is a JSON object" CHECK (jsonb_typeof(headers) = 'object'),
    external_id   text,
    received_at   timestamptz NOT NULL DEFAULT orchestrator.clock(),
    category      text CONSTRAINT "category is a known one, such as question or unclear"
                  CHECK (category IN ('bounce', 'complaint', 'delivery_notice', 'auto_reply', 'out_of_office', 'opt_out',
                      'hard_pass', 'soft_pass', 'interested', 'pricing', 'acceptance', 'rejection', 'counter', 'question',
                      'referral', 'unclear')),
    confidence    double precision,
    classified_by text,
    status        text NOT NULL DEFAULT 'received' CONSTRAINT "status is received, routed, needs_person or ignored"
                  CHECK (status IN ('received', 'routed', 'needs_person', 'ignored')),
    reason        text,
    UNIQUE (channel, external_id)
);
CREATE INDEX replies_lead ON replies (lead_id);
CREATE INDEX replies_newest ON replies (received_at DESC, id);
CREATE INDEX replies_received ON replies (received_at) WHERE status = 'received';

CREATE TABLE email_exclusions (
    address    text NOT NULL CONSTRAINT "address is an email address or a phone number"
               CHECK (plain_address(address) IS NOT NULL),
    reason     text NOT NULL DEFAULT 'manual'
               CONSTRAINT "reason is bounce, opt_out, complaint, hard_pass, manual, erased"
               CHECK (reason IN ('bounce', 'opt_out', 'complaint', 'hard_pass', 'manual', 'erased')),
    source     text,
    created_at timestamptz NOT NULL DEFAULT orchestrator.clock()
);

CREATE UNIQUE INDEX email_exclusions_address ON email_exclusions (orchestrator.plain_address(address));
CREATE INDEX email_exclusions_newest ON email_exclusions (created_at DESC, address);
CREATE INDEX email_exclusions_phone ON email_exclusions (orchestrator.phone_tail(address))
    WHERE address NOT LIKE '%@%' AND address NOT LIKE 'erased:%';

-- Who was erased is never contacted again, though nothing tells who it was: of each address a keyed hash stays. The key
-- is this database's own and travels with its backups; who may not read this table can't try addresses.
CREATE TABLE erasure_key (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    key bytea NOT NULL DEFAULT sha256(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()))
);
INSERT INTO erasure_key DEFAULT VALUES;

CREATE FUNCTION erased_hash(address text) RETURNS text LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN (SELECT 'erased:' || encode(sha256(k.key || sha256(k.key || convert_to(orchestrator.plain_address(address), 'UTF8'))), 'hex')
            FROM orchestrator.erasure_key k);
END $$;

-- What forbids to write to an address, as it is sent to and as it is written. Between numbers of which one lacks its country
-- the last digits decide: rather is one silent too many. Made of columns alone, it becomes part of the query that asks.
CREATE FUNCTION exclusions_of(sent_to text, written text) RETURNS SETOF email_exclusions LANGUAGE sql STABLE AS $$
    SELECT x.* FROM orchestrator.email_exclusions x
    WHERE orchestrator.plain_address(x.address) = ANY (ARRAY[
        orchestrator.plain_address(sent_to), orchestrator.erased_hash(sent_to), orchestrator.plain_address(written), orchestrator.erased_hash(written)])
    UNION ALL
    SELECT x.* FROM orchestrator.email_exclusions x
    WHERE orchestrator.phone_tail(x.address) = orchestrator.phone_tail(sent_to) AND x.address NOT LIKE '%@%' AND x.address NOT LIKE 'erased:%'
      AND (orchestrator.lacks_country(x.address) OR orchestrator.lacks_country(sent_to))
$$;

-- Whom an exclusion protects, for a person to read.
CREATE FUNCTION covered_by(exclusion text) RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE WHEN exclusion LIKE 'erased:%' THEN 'an address that was erased'
                WHEN orchestrator.lacks_country(exclusion) THEN 'every number that ends in ' || orchestrator.phone_tail(exclusion)
                ELSE 'this address' END
$$;

-- An erased address is excluded already; it is not written down again.
CREATE FUNCTION keep_erased() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = orchestrator, pg_catalog, pg_temp AS $$
BEGIN
    IF EXISTS (SELECT FROM email_exclusions x WHERE plain_address(x.address) = erased_hash(NEW.address)) THEN
        RETURN NULL;
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER exclusions_a_erased BEFORE INSERT ON email_exclusions FOR EACH ROW
    WHEN (NEW.reason <> 'erased') EXECUTE FUNCTION keep_erased();

CREATE TABLE messages (
    id                  uuid PRIMARY KEY DEFAULT orchestrator.new_id(),
    lead_id             uuid REFERENCES leads ON DELETE SET NULL,
    run_id              uuid,
    step                text,
    channel             text NOT NULL DEFAULT 'sms' CONSTRAINT "channel is email, sms or offer"
                        CHECK (channel IN ('email', 'sms', 'offer')),
    template            text,
    to_address          text,
    from_address        text,
    subject             text,
    body                text,
    status              text NOT NULL DEFAULT 'draft' CONSTRAINT "status is one of a message, such as draft or scheduled"
                        CHECK (status IN ('draft', 'awaiting_approval', 'scheduled', 'sending',
                            'sent', 'failed', 'suppressed', 'cancelled', 'unknown')),
    reason              text,
    send_at             timestamptz NOT NULL DEFAULT orchestrator.clock(),
    sent_at             timestamptz,
    idempotency_key     text NOT NULL UNIQUE DEFAULT 'message:' || gen_random_uuid(),
    provider_message_id text,
    cost                numeric,
    created_at          timestamptz NOT NULL DEFAULT orchestrator.clock(),
    reserved_at         timestamptz,                -- when it became `sending`: limits count from here
    context             jsonb NOT NULL DEFAULT '{}',-- what the template needs besides the lead
    stage_seq           int,                        -- only worth sending in that stage entry
    then_to             text                        -- where the lead goes once this is sent
);
CREATE INDEX messages_lead ON messages (lead_id);
CREATE INDEX messages_scheduled ON messages (send_at) WHERE status = 'scheduled';
CREATE INDEX messages_sending ON messages (send_at) WHERE status = 'sending';
CREATE INDEX messages_to ON messages (orchestrator.plain_address(to_address), created_at) WHERE to_address IS NOT NULL;
CREATE INDEX messages_to_phone ON messages (orchestrator.phone_tail(to_address))
    WHERE status = 'scheduled' AND to_address IS NOT NULL AND to_address NOT LIKE '%@%';

-- Whether we owe a lead an answer in this stage entry; meanwhile its silence doesn't count.
CREATE FUNCTION owes_answer(to_lead uuid, entry int, besides uuid DEFAULT NULL) RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT EXISTS (SELECT FROM orchestrator.messages m
                   WHERE m.lead_id = to_lead AND m.stage_seq = entry AND m.id IS DISTINCT FROM besides
                     AND m.template IN ('COUNTER', 'QUESTION') AND m.status IN ('scheduled', 'sending', 'failed', 'unknown'))
$$;

-- One task per scheduled message, under its lead's key: two messages never go to one lead at once.
CREATE FUNCTION queue_messages() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = orchestrator, pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO tasks (kind, key, payload, run_at, dedup_key)
    SELECT 'message', coalesce('lead:' || lead_id, 'message:' || id),
           jsonb_build_object('message_id', id, 'lead_id', lead_id, 'stage_seq', stage_seq, 'template', template, 'channel', channel), send_at, 'message:' || id
    FROM fresh WHERE status = 'scheduled'
    ON CONFLICT (dedup_key) WHERE status = 'available' AND dedup_key IS NOT NULL DO UPDATE SET run_at = excluded.run_at;
    RETURN NULL;
END $$;
CREATE TRIGGER messages_inserted AFTER INSERT ON messages REFERENCING NEW TABLE AS fresh
    FOR EACH STATEMENT EXECUTE FUNCTION queue_messages();

-- Scheduled again by a person: its dead task starts anew; a message that never had one, or has ended, gets one.
CREATE FUNCTION queue_message() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = orchestrator, pg_catalog, pg_temp AS $$
BEGIN
    PERFORM revive(t.id) FROM tasks t
    WHERE t.status = 'dead' AND t.key = coalesce('lead:' || NEW.lead_id, 'message:' || NEW.id)
      AND t.kind = 'message' AND t.payload ->> 'message_id' = NEW.id::text;
    IF NOT FOUND THEN
        INSERT INTO tasks (kind, key, payload, run_at, dedup_key)
        VALUES ('message', coalesce('lead:' || NEW.lead_id, 'message:' || NEW.id),
                jsonb_build_object('message_id', NEW.id, 'lead_id', NEW.lead_id, 'stage_seq', NEW.stage_seq,
                                   'template', NEW.template, 'channel', NEW.channel),
                NEW.send_at, 'message:' || NEW.id)
        ON CONFLICT (dedup_key) WHERE status = 'available' AND dedup_key IS NOT NULL DO UPDATE SET run_at = excluded.run_at;
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER messages_rescheduled AFTER UPDATE OF status, send_at ON messages FOR EACH ROW
    WHEN (NEW.status = 'scheduled' AND OLD.status <> 'sending'     -- what was being sent has its task, and that its time
          AND (OLD.status, OLD.send_at) IS DISTINCT FROM (NEW.status, NEW.send_at))
    EXECUTE FUNCTION queue_message();

-- Reception has the reply's own key: an opt-out never waits behind its lead's other work.
CREATE FUNCTION queue_replies() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = orchestrator, pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO tasks (kind, key, payload, priority)
    SELECT 'reply', 'reply:' || id, jsonb_build_object('reply_id', id), 10 FROM fresh WHERE status = 'received';
    RETURN NULL;
END $$;
CREATE TRIGGER replies_inserted AFTER INSERT ON replies REFERENCING NEW TABLE AS fresh
    FOR EACH STATEMENT EXECUTE FUNCTION queue_replies();

CREATE FUNCTION cancel_of_deleted() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = orchestrator, pg_catalog, pg_temp AS $$
BEGIN
    UPDATE messages SET status = 'cancelled', reason = 'the lead was deleted'
    WHERE lead_id = OLD.id AND status IN ('draft', 'awaiting_approval', 'scheduled');
    RETURN OLD;
END $$;
CREATE TRIGGER leads_deleted BEFORE DELETE ON leads FOR EACH ROW EXECUTE FUNCTION cancel_of_deleted();

-- A message whose row somebody holds is skipped: the gate asks again before it goes out.
CREATE FUNCTION cancel_excluded() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = orchestrator, pg_catalog, pg_temp AS $$
BEGIN
    UPDATE messages m SET status = 'cancelled', reason = 'excluded: ' || hit.reason
    FROM (
        SELECT m.id, f.reason FROM fresh f JOIN messages m ON plain_address(m.to_address) = plain_address(f.address)
        WHERE m.status = 'scheduled'
        UNION ALL   -- of a number without its country: what ends like it
        SELECT m.id, f.reason FROM fresh f
        JOIN messages m ON phone_tail(m.to_address) = phone_tail(f.address) AND m.to_address IS NOT NULL AND m.to_address NOT LIKE '%@%'
        WHERE m.status = 'scheduled' AND lacks_country(f.address)
        UNION ALL   -- addressed by their lead alone
        SELECT m.id, f.reason FROM fresh f
        JOIN leads l ON l.phone IS NOT NULL AND phone_tail(l.phone) = phone_tail(f.address)
                    AND (lacks_country(f.address) OR plain_address(l.phone) = plain_address(f.address))
        JOIN messages m ON m.lead_id = l.id AND m.status = 'scheduled' AND m.to_address IS NULL AND m.channel <> 'email'
        UNION ALL
        SELECT m.id, f.reason FROM fresh f
        JOIN leads l ON l.email IS NOT NULL AND plain_address(l.email) = plain_address(f.address)
        JOIN messages m ON m.lead_id = l.id AND m.status = 'scheduled' AND m.to_address IS NULL AND m.channel = 'email'
    ) hit
    WHERE m.id = hit.id AND m.id IN (SELECT id FROM messages WHERE id = hit.id AND status = 'scheduled' FOR NO KEY UPDATE SKIP LOCKED);
    RETURN NULL;
END $$;
CREATE TRIGGER exclusions_inserted AFTER INSERT ON email_exclusions REFERENCING NEW TABLE AS fresh
    FOR EACH STATEMENT EXECUTE FUNCTION cancel_excluded();

-- The kill switch: while stopped_at is set, no message goes out. Whoever sets or clears it in SQL does what the commands do.
CREATE TABLE sending (
    one        boolean PRIMARY KEY DEFAULT true CHECK (one),
    stopped_at timestamptz,
    stopped_by text,
    reason     text,
    CHECK (stopped_at IS NULL OR reason IS NOT NULL)
);
INSERT INTO sending DEFAULT VALUES;

-- What waits for it is due again once sending resumes.
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

-- Tasks that were refused because sending is stopped wait until it resumes. With this lock whoever resumes waits for them, and so
-- finds them; if that has happened meanwhile, or happens now, their gate is asked again.
CREATE FUNCTION await_sending(ids bigint[]) RETURNS void
LANGUAGE plpgsql SET search_path = orchestrator, pg_catalog, pg_temp AS $$
BEGIN
    PERFORM FROM sending WHERE stopped_at IS NOT NULL FOR SHARE SKIP LOCKED;
    IF NOT FOUND THEN
        UPDATE tasks SET run_at = clock() + interval '1 second' WHERE id = ANY (ids) AND status = 'available';
    END IF;
END $$;


-- ---------------------------------------------------------------------------------------------
-- 6 Engines: every call and its money is a row before it is a call.
-- ---------------------------------------------------------------------------------------------

CREATE TABLE engine_calls (
    id              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    engine          text NOT NULL,
    operation       text NOT NULL,
    task_id         bigint,
    round           int NOT NULL DEFAULT 0, -- of its task
    run_id          uuid,
    campaign_id     uuid,
    lead_id         uuid,
    idempotency_key text NOT NULL UNIQUE,
    status          text NOT NULL CHECK (status IN ('reserved', 'ok', 'failed', 'unknown')),
    reserved_cost   numeric NOT NULL DEFAULT 0,
    cost            numeric,
    http_status     int,
    started_at      timestamptz NOT NULL DEFAULT now(),
    duration_ms     double precision,
    error           text,
    result          jsonb,
    lease_id        uuid,                   -- the attempt that reserved it
    calls           int NOT NULL DEFAULT 1, -- how often it went out under this key
    budgets         jsonb                   -- the counters that hold its money: {scope: first day of the period}
);
CREATE INDEX engine_calls_task ON engine_calls (task_id);
CREATE INDEX engine_calls_lead ON engine_calls (lead_id) WHERE lead_id IS NOT NULL;
CREATE INDEX engine_calls_open ON engine_calls (status) WHERE status IN ('reserved', 'unknown');

-- One counter row per scope and period: the lock under which a reservation fits or does not.
CREATE TABLE budget_counters (
    scope    text NOT NULL,                  -- engine:NAME, campaign:ID:daily, …
    period   date NOT NULL,
    reserved numeric NOT NULL DEFAULT 0 CHECK (reserved >= 0),
    settled  numeric NOT NULL DEFAULT 0 CHECK (settled >= 0),
    warned   boolean NOT NULL DEFAULT false, -- people know that little is left
    most     numeric,                        -- the limit into which its last call had to fit
    PRIMARY KEY (scope, period)
);


-- ---------------------------------------------------------------------------------------------
-- 7 People: what waits for a decision, and what they should know.
-- ---------------------------------------------------------------------------------------------

CREATE TABLE approval_queue (
    id         uuid PRIMARY KEY DEFAULT orchestrator.new_id(),
    checkpoint text NOT NULL,
    title      text NOT NULL,
    payload    jsonb NOT NULL DEFAULT '{}',
    run_id     uuid,
    step       text,
    lead_id    uuid REFERENCES leads ON DELETE SET NULL,
    status     text NOT NULL DEFAULT 'pending' CONSTRAINT "status is pending, approved, rejected, expired or superseded"
               CHECK (status IN ('pending', 'approved', 'rejected', 'expired', 'superseded')),
    decided_by text,
    decided_at timestamptz,
    comment    text,
    expires_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT orchestrator.clock()
);
CREATE INDEX approval_queue_pending ON approval_queue (created_at) WHERE status = 'pending';
CREATE INDEX approval_queue_lead ON approval_queue (lead_id);
CREATE INDEX approval_queue_newest ON approval_queue (created_at DESC, id);
CREATE INDEX approval_queue_status ON approval_queue (checkpoint, status);

CREATE FUNCTION decide_approval() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = orchestrator, pg_catalog, pg_temp AS $$
BEGIN
    IF NEW.status = OLD.status THEN
        RETURN NEW;
    ELSIF OLD.status <> 'pending' THEN
        RAISE EXCEPTION 'approval % is already %', OLD.id, OLD.status USING ERRCODE = 'PO003', HINT = 'a decision stands';
    ELSIF NEW.status = 'approved' AND NEW.checkpoint = 'extraction' AND coalesce(btrim(NEW.payload ->> 'code'), '') = '' THEN
        RAISE EXCEPTION 'approving at extraction takes the code of the second factor' USING ERRCODE = 'PO002', COLUMN = 'payload',
            HINT = 'set it in the same UPDATE: payload = payload || ''{"code": "..."}''';
    END IF;
    NEW.decided_by := coalesce(NEW.decided_by, session_user);
    NEW.decided_at := coalesce(NEW.decided_at, clock());
    IF NEW.status IN ('approved', 'rejected') AND NEW.decided_by NOT LIKE 'system (%' THEN
        UPDATE checkpoint_settings SET approvals_in_a_row = CASE NEW.status WHEN 'approved' THEN approvals_in_a_row + 1 ELSE 0 END
        WHERE checkpoint = NEW.checkpoint;
    END IF;
    IF NEW.run_id IS NULL THEN
        INSERT INTO tasks (kind, key, payload)
        VALUES ('approval', coalesce('lead:' || NEW.lead_id, 'approval:' || NEW.id),
                jsonb_build_object('approval_id', NEW.id, 'lead_id', NEW.lead_id));
    ELSIF NEW.status <> 'superseded' OR EXISTS (      -- by a person: a run that is over has superseded it itself
        SELECT FROM campaign_runs WHERE id = NEW.run_id AND status IN ('running', 'waiting', 'paused')) THEN
        INSERT INTO tasks (kind, key, payload)
        VALUES ('run.decided', 'run:' || NEW.run_id, jsonb_build_object('approval_id', NEW.id, 'run_id', NEW.run_id));
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER approvals_decided BEFORE UPDATE OF status ON approval_queue FOR EACH ROW EXECUTE FUNCTION decide_approval();

-- What a run waits for has to be decided: without its request it would wait for ever.
CREATE FUNCTION keep_awaited() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = orchestrator, pg_catalog, pg_temp AS $$
BEGIN
    IF EXISTS (SELECT FROM campaign_runs WHERE id = OLD.run_id AND status IN ('running', 'waiting', 'paused')) THEN
        RAISE EXCEPTION 'run % waits for request %', OLD.run_id, OLD.id USING ERRCODE = 'PO003',
            HINT = format('decide it, or end the run: SELECT orchestrator.cancel_run(%L)', OLD.run_id);
    END IF;
    RETURN OLD;
END $$;
CREATE TRIGGER approvals_a_awaited BEFORE DELETE ON approval_queue FOR EACH ROW
    WHEN (OLD.status = 'pending' AND OLD.run_id IS NOT NULL) EXECUTE FUNCTION keep_awaited();

-- A person learns of what waits. The task names the row only: no second copy of a lead's name to be erased.
CREATE FUNCTION tell_of_approvals() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = orchestrator, pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO tasks (kind, payload, dedup_key)
    SELECT 'notification', jsonb_build_object('event', 'approval', 'to', NULL, 'facts', jsonb_build_object('id', f.id)),
           'notification:' || f.id
    FROM fresh f WHERE f.status = 'pending'
    ON CONFLICT (dedup_key) WHERE status = 'available' AND dedup_key IS NOT NULL DO NOTHING;
    RETURN NULL;
END $$;
CREATE TRIGGER approvals_inserted AFTER INSERT ON approval_queue REFERENCING NEW TABLE AS fresh
    FOR EACH STATEMENT EXECUTE FUNCTION tell_of_approvals();

CREATE TABLE alerts (
    id              uuid PRIMARY KEY DEFAULT orchestrator.new_id(),
    type            text NOT NULL,
    message         text NOT NULL,
    severity        text NOT NULL CHECK (severity IN ('LOW', 'MEDIUM', 'HIGH')),
    subject         text NOT NULL DEFAULT '',
    metadata        jsonb NOT NULL DEFAULT '{}',
    acknowledged    boolean NOT NULL DEFAULT false,
    acknowledged_by text,
    created_at      timestamptz NOT NULL DEFAULT orchestrator.clock(),
    resolved_at     timestamptz
);
CREATE UNIQUE INDEX alerts_open ON alerts (type, subject) WHERE resolved_at IS NULL;
CREATE INDEX alerts_newest ON alerts (created_at DESC, id);
CREATE INDEX alerts_recent ON alerts (type, created_at);

CREATE FUNCTION tell_of_alerts() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = orchestrator, pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO tasks (kind, payload, dedup_key)
    SELECT 'notification', jsonb_build_object('event', 'alert', 'to', NULL, 'facts', jsonb_build_object('id', f.id)),
           'notification:' || f.id
    FROM fresh f
    ON CONFLICT (dedup_key) WHERE status = 'available' AND dedup_key IS NOT NULL DO NOTHING;
    RETURN NULL;
END $$;
CREATE TRIGGER alerts_inserted AFTER INSERT ON alerts REFERENCING NEW TABLE AS fresh
    FOR EACH STATEMENT EXECUTE FUNCTION tell_of_alerts();


-- ---------------------------------------------------------------------------------------------
-- 8 Campaigns: definitions, their runs, and the steps of these.
--
--   A run pins the definition it started with. Each finished step is recorded in the transaction that queues the
--   next one, so a run goes on at its unfinished step whatever happens. Only outcomes and the functions below write
--   here, and both hold the run's row first.
-- ---------------------------------------------------------------------------------------------

CREATE TABLE campaigns (
    id                uuid PRIMARY KEY DEFAULT orchestrator.new_id(),
    name              text NOT NULL CONSTRAINT "name is not empty" CHECK (name <> ''),
    description       text,
    config            jsonb NOT NULL DEFAULT '{}' CONSTRAINT "config is a JSON object"
                      CHECK (jsonb_typeof(config) = 'object'), -- as its user wrote it
    schedule_cron     text,                                 -- null: manual, or started by an event
    schedule_timezone text NOT NULL DEFAULT 'UTC',
    schedule_enabled  boolean NOT NULL DEFAULT true,
    grace_s           int NOT NULL DEFAULT 3600 CONSTRAINT "grace_s is 0 or more" CHECK (grace_s >= 0),
    status            text NOT NULL DEFAULT 'active' CONSTRAINT "status is active, paused, completed or error"
                      CHECK (status IN ('active', 'paused', 'completed', 'error')),
    paused_reason     text,
    resume_at         timestamptz,                          -- set by a budget that rolls over then, never by a person
    last_run_at       timestamptz,
    next_run_at       timestamptz,                          -- null: to be worked out (new or edited), or there is none
    schedule_since    timestamptz NOT NULL DEFAULT orchestrator.clock(), -- its slots count from here
    total_runs        int NOT NULL DEFAULT 0,               -- those that have ended
    total_cost        numeric NOT NULL DEFAULT 0,
    project_id        text,
    created_at        timestamptz NOT NULL DEFAULT orchestrator.clock(),
    updated_at        timestamptz NOT NULL DEFAULT orchestrator.clock(),
    deleted_at        timestamptz,                          -- no future runs, history kept
    scheduled         boolean NOT NULL GENERATED ALWAYS AS (        -- whether it has a next slot
                          status = 'active' AND schedule_enabled AND schedule_cron IS NOT NULL AND deleted_at IS NULL) STORED
);
CREATE UNIQUE INDEX campaigns_name ON campaigns (name) WHERE deleted_at IS NULL;
CREATE INDEX campaigns_next ON campaigns (next_run_at) WHERE scheduled;
CREATE INDEX campaigns_resume ON campaigns (resume_at) WHERE status = 'paused';

-- A schedule that was edited begins anew, with the slot that is due already, if there is one: nobody loses it, and
-- nobody gets one back. One that resumes by itself begins with the moment at which it should.
CREATE FUNCTION campaign_edited() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = orchestrator, pg_catalog, pg_temp AS $$
BEGIN
    NEW.updated_at := clock();
    IF (OLD.schedule_cron, OLD.schedule_timezone, OLD.schedule_enabled, OLD.status, OLD.deleted_at)
       IS DISTINCT FROM (NEW.schedule_cron, NEW.schedule_timezone, NEW.schedule_enabled, NEW.status, NEW.deleted_at) THEN
        NEW.schedule_since := least(clock(), CASE
            WHEN OLD.scheduled THEN coalesce(OLD.next_run_at - interval '1 microsecond', OLD.schedule_since)
            WHEN OLD.status = 'paused' THEN OLD.resume_at - interval '1 microsecond' END);
        NEW.next_run_at := NULL;
    END IF;
    IF NEW.status = 'active' THEN
        NEW.paused_reason := NULL;
        NEW.resume_at := NULL;
        IF OLD.status <> 'active' THEN
            UPDATE alerts SET resolved_at = clock() WHERE id IN (
                SELECT id FROM alerts
                WHERE (type, subject) IN (
                    ('BUDGET_REACHED', 'campaign:' || NEW.id), ('CAMPAIGN_INVALID', 'campaign:' || NEW.id),
                    ('BUDGET_OVERRUN', 'campaign:' || NEW.id || ':daily'), ('BUDGET_OVERRUN', 'campaign:' || NEW.id || ':weekly'),
                    ('BUDGET_OVERRUN', 'campaign:' || NEW.id || ':monthly')) AND resolved_at IS NULL
                FOR NO KEY UPDATE SKIP LOCKED);
        END IF;
    END IF;
    IF NEW.deleted_at IS NOT NULL THEN
        NEW.resume_at := NULL;
    END IF;
    PERFORM wake();
    RETURN NEW;
END $$;
CREATE TRIGGER campaigns_edited
    BEFORE UPDATE OF name, description, config, schedule_cron, schedule_timezone, schedule_enabled, grace_s, status, project_id, deleted_at
    ON campaigns FOR EACH ROW EXECUTE FUNCTION campaign_edited();

CREATE TRIGGER campaigns_a_zone BEFORE INSERT ON campaigns FOR EACH ROW
    WHEN (NEW.schedule_timezone <> 'UTC') EXECUTE FUNCTION check_zone('schedule_timezone');
CREATE TRIGGER campaigns_a_new_zone BEFORE UPDATE OF schedule_timezone ON campaigns FOR EACH ROW
    WHEN (NEW.schedule_timezone <> OLD.schedule_timezone) EXECUTE FUNCTION check_zone('schedule_timezone');

CREATE TABLE campaign_runs (
    id              uuid PRIMARY KEY DEFAULT orchestrator.new_id(),
    campaign_id     uuid NOT NULL REFERENCES campaigns,
    trigger         text NOT NULL DEFAULT 'manual' CHECK (trigger IN ('schedule', 'manual', 'event')),
    scheduled_for   timestamptz,                            -- the slot; it fires once, for there is one row for it
    inputs          jsonb NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(inputs) = 'object'),
    definition      jsonb NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(definition) = 'object'), -- normalised, pinned
    started_at      timestamptz NOT NULL DEFAULT orchestrator.clock(),
    completed_at    timestamptz,
    status          text NOT NULL DEFAULT 'running' CHECK (status IN ('running', 'waiting', 'paused', 'completed', 'partial',
                        'failed', 'aborted', 'cancelled', 'skipped', 'missed')),
    steps_completed int NOT NULL DEFAULT 0,
    steps_failed    int NOT NULL DEFAULT 0,
    results         jsonb NOT NULL DEFAULT '{}',            -- by the steps' names
    total_cost      numeric NOT NULL DEFAULT 0,             -- that of its steps
    errors          jsonb NOT NULL DEFAULT '[]',            -- [{step, error}]
    dry_run         boolean NOT NULL DEFAULT false,
    round           int NOT NULL DEFAULT 0,                 -- raised by a person's retry: part of the Idempotency-Keys
    former_ends     text[] NOT NULL DEFAULT '{}',           -- the status in which each round before ended
    UNIQUE (campaign_id, scheduled_for)
);
CREATE INDEX campaign_runs_newest ON campaign_runs (campaign_id, started_at DESC, id);
CREATE INDEX campaign_runs_live ON campaign_runs (campaign_id) WHERE status IN ('running', 'waiting', 'paused');
CREATE INDEX campaign_runs_status ON campaign_runs (campaign_id, status);
CREATE INDEX campaign_runs_retried ON campaign_runs (campaign_id) WHERE round > 0;

CREATE TABLE campaign_run_steps (
    run_id        uuid NOT NULL REFERENCES campaign_runs ON DELETE CASCADE,
    position      int NOT NULL,                             -- from 0
    name          text NOT NULL,
    kind          text NOT NULL,
    status        text NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'running', 'waiting', 'completed', 'failed',
                      'unknown', 'skipped', 'cancelled')),
    attempts      int NOT NULL DEFAULT 0,
    started_at    timestamptz,
    completed_at  timestamptz,
    result        jsonb,
    error         text,
    cost          numeric,
    children_left int,                                      -- enrichments not yet done; null: not fanned out
    PRIMARY KEY (run_id, position),
    UNIQUE (run_id, name)
) WITH (fillfactor = 80);

-- One enrichment of a step that fans out.
CREATE TABLE campaign_run_items (
    run_id   uuid NOT NULL,
    position int NOT NULL,
    lead_id  uuid NOT NULL,                                 -- no foreign key: a lead may be erased meanwhile
    n        int NOT NULL,                                  -- their order
    status   text NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'done', 'failed')),
    queued   boolean NOT NULL DEFAULT false,                -- it has its task
    result   jsonb,
    error    text,
    cost     numeric,
    PRIMARY KEY (run_id, position, lead_id),
    FOREIGN KEY (run_id, position) REFERENCES campaign_run_steps ON DELETE CASCADE
);
CREATE INDEX campaign_run_items_open ON campaign_run_items (run_id, position, queued, n) WHERE status = 'pending';
CREATE INDEX leads_run ON leads (run_id) WHERE run_id IS NOT NULL;
CREATE INDEX messages_run ON messages (run_id) WHERE run_id IS NOT NULL;

-- How often a step's task is tried; null: as its kind says.
CREATE FUNCTION step_tries(definition jsonb, at int) RETURNS int LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE WHEN definition #>> ARRAY['steps', at::text, 'kind'] = 'engine'
                THEN (definition #>> ARRAY['steps', at::text, 'retry', 'attempts'])::int END
$$;

-- The sum of a number over all results of a run: its prospects are run_sum(results, 'found').
CREATE FUNCTION run_sum(results jsonb, field text) RETURNS numeric LANGUAGE sql IMMUTABLE AS $$
    SELECT coalesce(sum((value ->> field)::numeric), 0) FROM jsonb_each(results) WHERE jsonb_typeof(value -> field) = 'number'
$$;

-- Whoever inserts a run starts it: its steps, and the task of the first one.
CREATE FUNCTION start_runs() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = orchestrator, pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO campaign_run_steps (run_id, position, name, kind, status, started_at)
    SELECT f.id, s.n - 1, s.step ->> 'name', coalesce(s.step ->> 'kind', 'engine'),
           CASE WHEN s.n = 1 THEN 'running' ELSE 'pending' END, CASE WHEN s.n = 1 THEN f.started_at END
    FROM fresh f CROSS JOIN LATERAL jsonb_array_elements(f.definition -> 'steps') WITH ORDINALITY AS s(step, n)
    WHERE f.status = 'running';
    INSERT INTO tasks (kind, key, payload, max_attempts)
    SELECT 'run.step', 'run:' || f.id, jsonb_build_object('run_id', f.id, 'position', 0, 'round', f.round), step_tries(f.definition, 0)
    FROM fresh f WHERE f.status = 'running';
    RETURN NULL;
END $$;
CREATE TRIGGER campaign_runs_started AFTER INSERT ON campaign_runs REFERENCING NEW TABLE AS fresh
    FOR EACH STATEMENT EXECUTE FUNCTION start_runs();

-- What was put off while a run was paused, and what waits for another try or its time, looks at the run again.
CREATE FUNCTION stir_run(run uuid, only_parked boolean) RETURNS void
LANGUAGE plpgsql SET search_path = orchestrator, pg_catalog, pg_temp AS $$
BEGIN
    UPDATE tasks t SET run_at = clock()
    WHERE t.status = 'available' AND (NOT only_parked OR t.run_at >= timestamptz '9999-01-01 00:00 UTC')
      AND t.key = 'run:' || run;
    UPDATE tasks t SET run_at = clock()
    FROM campaign_run_items i
    WHERE i.run_id = run AND i.status = 'pending' AND t.key = 'lead:' || i.lead_id AND t.kind = 'run.item'
      AND t.payload ->> 'run_id' = run::text
      AND t.status = 'available' AND (NOT only_parked OR t.run_at >= timestamptz '9999-01-01 00:00 UTC');
    PERFORM wake();
END $$;

-- No new step and no new call; what is being called ends.
CREATE FUNCTION pause_run(run uuid) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = orchestrator, pg_catalog, pg_temp AS $$
BEGIN
    UPDATE campaign_runs SET status = 'paused' WHERE id = run AND status IN ('running', 'waiting');
    RETURN FOUND;
END $$;

CREATE FUNCTION resume_run(run uuid) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = orchestrator, pg_catalog, pg_temp AS $$
BEGIN
    UPDATE campaign_runs SET status = CASE WHEN EXISTS (
        SELECT FROM campaign_run_steps s WHERE s.run_id = run AND s.status = 'waiting') THEN 'waiting' ELSE 'running' END
    WHERE id = run AND status = 'paused';
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    PERFORM stir_run(run, only_parked => true);
    RETURN true;
END $$;

-- What is being called ends, and its cost is booked; nothing follows from it.
CREATE FUNCTION cancel_run(run uuid) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = orchestrator, pg_catalog, pg_temp AS $$
DECLARE its campaign_runs;
BEGIN
    UPDATE campaign_runs SET status = 'cancelled', completed_at = clock()
    WHERE id = run AND status IN ('running', 'waiting', 'paused') RETURNING * INTO its;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    UPDATE campaign_run_steps SET status = CASE status WHEN 'pending' THEN 'skipped' ELSE 'cancelled' END, completed_at = clock()
    WHERE run_id = run AND status IN ('pending', 'running', 'waiting');
    UPDATE approval_queue SET status = 'superseded', comment = coalesce(comment, 'the run was cancelled')
    WHERE run_id = run AND status = 'pending';
    UPDATE campaigns SET total_runs = total_runs + 1, total_cost = total_cost + its.total_cost,
        last_run_at = greatest(last_run_at, its.started_at) WHERE id = its.campaign_id;
    PERFORM stir_run(run, only_parked => false);
    RETURN true;
END $$;

-- An ended run begins anew at a step, else at the first that did not succeed. What ran before keeps its results; every
-- call from there on has a new Idempotency-Key. Enrichments that succeeded are kept where the retry begins at their step.
-- Not while another run of the campaign is going on, unless an event has started this one: such runs go beside others.
CREATE FUNCTION retry_run(run uuid, from_step text DEFAULT NULL) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = orchestrator, pg_catalog, pg_temp AS $$
DECLARE
    its campaign_runs;
    first int;
    redone text[];
BEGIN
    SELECT * INTO its FROM campaign_runs WHERE id = run AND status IN ('completed', 'partial', 'failed', 'aborted', 'cancelled')
    FOR NO KEY UPDATE;
    PERFORM FROM campaigns WHERE id = its.campaign_id FOR NO KEY UPDATE;    -- alone, as whoever starts a run
    IF its.trigger <> 'event' AND EXISTS (SELECT FROM campaign_runs r WHERE r.campaign_id = its.campaign_id
            AND r.status IN ('running', 'waiting', 'paused')) THEN
        RETURN false;
    END IF;
    SELECT min(s.position) INTO first FROM campaign_run_steps s
    WHERE s.run_id = its.id AND CASE WHEN from_step IS NULL THEN s.status <> 'completed' ELSE s.name = from_step END;
    IF first IS NULL THEN
        RETURN false;
    END IF;
    SELECT array_agg(name) INTO redone FROM campaign_run_steps WHERE run_id = run AND position >= first;
    UPDATE campaign_run_steps SET status = CASE position WHEN first THEN 'running' ELSE 'pending' END, attempts = 0,
        started_at = CASE position WHEN first THEN clock() END, completed_at = NULL, result = NULL, error = NULL, children_left = NULL
    WHERE run_id = run AND position >= first;
    DELETE FROM campaign_run_items WHERE run_id = run AND position > first;
    UPDATE campaign_runs r SET status = 'running', completed_at = NULL, round = r.round + 1, former_ends = r.former_ends || r.status,
        results = r.results - redone,
        errors = (SELECT coalesce(jsonb_agg(e ORDER BY n), '[]') FROM jsonb_array_elements(r.errors) WITH ORDINALITY AS of(e, n)
                  WHERE NOT coalesce(e ->> 'step' = ANY (redone), false)),
        steps_completed = (SELECT count(*) FROM campaign_run_steps s WHERE s.run_id = run AND s.status = 'completed'),
        steps_failed = (SELECT count(*) FROM campaign_run_steps s WHERE s.run_id = run AND s.status IN ('failed', 'unknown'))
    WHERE r.id = run;
    UPDATE campaigns SET total_runs = total_runs - 1, total_cost = total_cost - its.total_cost WHERE id = its.campaign_id;
    INSERT INTO tasks (kind, key, payload, max_attempts)
    VALUES ('run.step', 'run:' || run, jsonb_build_object('run_id', run, 'position', first, 'round', its.round + 1),
            step_tries(its.definition, first));
    RETURN true;
END $$;

-- A call that turns out to cost `more` than its step has booked: after an answer that came late, or none at all. While its
-- task is still to end, whoever ends it asks the ledger; he holds the run's row, so that it is one or the other.
CREATE FUNCTION book_late(call bigint, more numeric) RETURNS void
LANGUAGE plpgsql SET search_path = orchestrator, pg_catalog, pg_temp AS $$
DECLARE
    its engine_calls;
    place text[];
BEGIN
    SELECT * INTO its FROM engine_calls WHERE id = call;
    place := string_to_array(split_part(its.idempotency_key, '#', 1), ':');     -- run:ID:POSITION, or run:ID:POSITION:LEAD
    PERFORM FROM campaign_runs WHERE id = its.run_id FOR NO KEY UPDATE;
    IF NOT FOUND OR coalesce(place[3], '') !~ '^[0-9]{1,9}$' OR EXISTS (SELECT FROM tasks WHERE id = its.task_id AND status <> 'dead') THEN
        RETURN;
    END IF;
    UPDATE campaign_run_items SET cost = coalesce(cost, 0) + more
    WHERE run_id = its.run_id AND position = place[3]::int AND lead_id::text = place[4];
    UPDATE campaign_run_steps SET cost = coalesce(cost, 0) + more WHERE run_id = its.run_id AND position = place[3]::int;
    UPDATE campaign_runs SET total_cost = total_cost + more WHERE id = its.run_id;
    UPDATE campaigns c SET total_cost = c.total_cost + more FROM campaign_runs r
    WHERE r.id = its.run_id AND c.id = r.campaign_id AND r.status NOT IN ('running', 'waiting', 'paused');
END $$;

CREATE INDEX approval_queue_run ON approval_queue (run_id) WHERE run_id IS NOT NULL;

-- Gates: who decides, a person (plan) or nobody (auto). A checkpoint without a row here is in plan.
CREATE TABLE checkpoint_settings (
    checkpoint         text PRIMARY KEY,
    mode               text NOT NULL DEFAULT 'plan' CONSTRAINT "mode is plan or auto" CHECK (mode IN ('plan', 'auto')),
    promotable         boolean NOT NULL DEFAULT true,       -- whether auto is ever proposed
    approvals_in_a_row int NOT NULL DEFAULT 0 CONSTRAINT "approvals_in_a_row is 0 or more" CHECK (approvals_in_a_row >= 0),
    CONSTRAINT extraction_needs_a_person CHECK (checkpoint <> 'extraction' OR mode = 'plan'),
    CONSTRAINT classification_is_automatic CHECK (checkpoint <> 'classification' OR mode = 'auto')
);
INSERT INTO checkpoint_settings (checkpoint, mode, promotable) VALUES
    ('replies', 'plan', true), ('sourcing', 'auto', true), ('extraction', 'plan', false), ('campaign', 'plan', true),
    ('classification', 'auto', false), ('leads', 'plan', true), ('emails', 'plan', true);

-- What people said when they rejected an agent's work; every later request to it carries the active ones.
CREATE TABLE agent_feedback (
    id          uuid PRIMARY KEY DEFAULT orchestrator.new_id(),
    agent       text NOT NULL,
    feedback    text NOT NULL CHECK (btrim(feedback) <> ''),
    effect      text,                                       -- what changed with its next run
    approval_id uuid UNIQUE REFERENCES approval_queue ON DELETE SET NULL,
    active      boolean NOT NULL DEFAULT true,
    created_by  text NOT NULL DEFAULT session_user,
    created_at  timestamptz NOT NULL DEFAULT orchestrator.clock()
);
CREATE INDEX agent_feedback_of ON agent_feedback (agent, created_at) WHERE active;

-- An insert starts a run of that campaign.
CREATE TABLE search_criteria (
    id         uuid PRIMARY KEY DEFAULT orchestrator.new_id(),
    campaign   text NOT NULL DEFAULT 'deal-sourcing',
    criteria   jsonb NOT NULL DEFAULT '{}' CONSTRAINT "criteria is a JSON object" CHECK (jsonb_typeof(criteria) = 'object'),
    run_id     uuid,
    created_at timestamptz NOT NULL DEFAULT orchestrator.clock()
);

CREATE FUNCTION start_searches() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = orchestrator, pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO tasks (kind, key, payload)
    SELECT 'campaign.start', 'criteria:' || id, jsonb_build_object('criteria_id', id) FROM fresh WHERE run_id IS NULL;
    RETURN NULL;
END $$;
CREATE TRIGGER search_criteria_inserted AFTER INSERT ON search_criteria REFERENCING NEW TABLE AS fresh
    FOR EACH STATEMENT EXECUTE FUNCTION start_searches();


-- ---------------------------------------------------------------------------------------------
-- 9 Schedules: the daemon's own jobs. Whoever moves next_slot on has won the slot.
-- ---------------------------------------------------------------------------------------------

CREATE TABLE schedules (
    name      text PRIMARY KEY,
    cron      text NOT NULL,
    timezone  text NOT NULL DEFAULT 'UTC',
    enabled   boolean NOT NULL DEFAULT true,
    grace_s   int NOT NULL DEFAULT 3600 CONSTRAINT "grace_s is 0 or more" CHECK (grace_s >= 0),
    last_slot timestamptz,
    next_slot timestamptz                    -- null: to be worked out (new or edited)
);

CREATE FUNCTION schedule_edited() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.next_slot := NULL;
    PERFORM orchestrator.wake();
    RETURN NEW;
END $$;
CREATE TRIGGER schedules_edited BEFORE UPDATE OF cron, timezone, enabled ON schedules FOR EACH ROW
    WHEN ((OLD.cron, OLD.timezone, OLD.enabled) IS DISTINCT FROM (NEW.cron, NEW.timezone, NEW.enabled))
    EXECUTE FUNCTION schedule_edited();
CREATE TRIGGER schedules_a_zone BEFORE INSERT ON schedules FOR EACH ROW
    WHEN (NEW.timezone <> 'UTC') EXECUTE FUNCTION check_zone('timezone');
CREATE TRIGGER schedules_a_new_zone BEFORE UPDATE OF timezone ON schedules FOR EACH ROW
    WHEN (NEW.timezone <> OLD.timezone) EXECUTE FUNCTION check_zone('timezone');


-- ---------------------------------------------------------------------------------------------
-- 10 Functions for users.
-- ---------------------------------------------------------------------------------------------

CREATE FUNCTION enqueue(kind text, payload jsonb, key text DEFAULT NULL, run_at timestamptz DEFAULT NULL) RETURNS bigint
LANGUAGE sql SECURITY DEFINER SET search_path = orchestrator, pg_catalog, pg_temp AS $$
    INSERT INTO tasks (kind, payload, key, run_at)
    VALUES (enqueue.kind, coalesce(enqueue.payload, '{}'), enqueue.key, coalesce(enqueue.run_at, clock())) RETURNING id
$$;

CREATE FUNCTION flag_lead(lead uuid, because text) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = orchestrator, pg_catalog, pg_temp AS $$
    UPDATE leads SET needs_review = true, review_reason = because WHERE id = lead
$$;

-- The polite way to move a lead: an impossible wish is recorded and answered false.
CREATE FUNCTION request_transition(lead uuid, to_stage text, actor text, reason text) RETURNS boolean
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

-- The human way round the table, for one move.
CREATE FUNCTION override_stage(lead uuid, to_stage text, actor text, reason text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = orchestrator, pg_catalog, pg_temp AS $$
DECLARE l leads;
BEGIN
    IF coalesce(btrim(actor), '') = '' OR coalesce(btrim(reason), '') = '' THEN
        RAISE EXCEPTION 'an override needs an actor and a reason' USING ERRCODE = '22023';
    END IF;
    SELECT * INTO l FROM leads WHERE id = lead FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'no lead %', lead USING ERRCODE = 'P0002';
    ELSIF l.stage = override_stage.to_stage THEN
        RAISE EXCEPTION 'the lead is in % already', l.stage USING ERRCODE = 'PO001', HINT = 'choose another stage';
    END IF;
    INSERT INTO stage_overrides (lead_id, to_stage) VALUES (lead, override_stage.to_stage)
    ON CONFLICT (lead_id) DO UPDATE SET to_stage = excluded.to_stage, txid = excluded.txid;
    INSERT INTO pipeline_events (lead_id, event_type, from_stage, to_stage, metadata, actor)
    VALUES (lead, 'stage_override', l.stage, override_stage.to_stage, jsonb_build_object('reason', reason), override_stage.actor);
    UPDATE leads SET stage = override_stage.to_stage, moved_by = override_stage.actor, move_reason = reason, moved_task = NULL WHERE id = lead;
    DELETE FROM stage_overrides WHERE lead_id = lead;
END $$;

-- A person's retry: a dead task starts anew, a waiting one is due now; false for a running or an ended one.
CREATE FUNCTION retry_task(task bigint) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = orchestrator, pg_catalog, pg_temp AS $$
BEGIN
    UPDATE messages m SET status = 'scheduled', reason = NULL FROM tasks t      -- its trigger revives the task
    WHERE t.id = task AND t.status = 'dead' AND t.kind = 'message'
      AND m.id = (t.payload ->> 'message_id')::uuid AND m.status IN ('failed', 'unknown');
    RETURN FOUND OR revive(task);
END $$;


-- A person has seen to what a lead was flagged for; false if it isn't.
CREATE FUNCTION resolve_review(lead uuid, resolution text, actor text) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = orchestrator, pg_catalog, pg_temp AS $$
DECLARE l leads;
BEGIN
    SELECT * INTO l FROM leads WHERE id = lead FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'no lead %', lead USING ERRCODE = 'P0002';
    ELSIF NOT l.needs_review THEN
        RETURN false;
    END IF;
    UPDATE leads SET needs_review = false, review_reason = NULL WHERE id = lead;
    INSERT INTO pipeline_events (lead_id, event_type, metadata, actor)
    VALUES (lead, 'review_resolved', jsonb_build_object('resolution', resolution, 'reason', l.review_reason), coalesce(actor, session_user));
    RETURN true;
END $$;

-- Two leads that are one: `lead` lives on in `target`, which keeps its stage and its words, and gets what it lacks. The
-- strictest consent wins. What was under way for `lead` is cancelled, but for its replies and requests, which move on;
-- its own moves stay apart in the history, as merged_created and merged_stage_change.
CREATE FUNCTION merge_leads(lead uuid, target uuid, actor text) RETURNS void
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

-- The tasks of a merged lead: what a person or the lead itself has said is still acted upon, for the other lead.
CREATE FUNCTION move_work(lead uuid, target uuid) RETURNS void
LANGUAGE plpgsql SET search_path = orchestrator, pg_catalog, pg_temp AS $$
BEGIN
    UPDATE tasks SET payload = payload || jsonb_build_object('lead_id', target), key = replace(key, lead::text, target::text)
    WHERE status <> 'running' AND (kind LIKE 'reply%' OR kind = 'approval') AND payload ->> 'lead_id' = lead::text;
    PERFORM drop_tasks(ARRAY['lead:' || lead]);
END $$;

-- Tasks that shall not be done any more; an item of a campaign's run is left to find that its lead is gone. No new ones
-- can be claimed meanwhile, so what runs then is all that can hold this up.
CREATE FUNCTION drop_tasks(keys text[]) RETURNS void
LANGUAGE plpgsql SET search_path = orchestrator, pg_catalog, pg_temp AS $$
BEGIN
    WITH gone AS (
        DELETE FROM tasks WHERE key = ANY (keys) AND status <> 'running' AND kind NOT LIKE 'run.%' RETURNING *
    )
    INSERT INTO task_log (id, kind, key, payload, priority, status, run_at, attempt, max_attempts, round, interruptions, error,
                          created_at, started_at, finished_at)
    SELECT id, kind, key, payload, priority, 'cancelled', run_at, attempt, max_attempts, round, interruptions, error,
           created_at, started_at, clock_timestamp()
    FROM gone;
    IF EXISTS (SELECT FROM tasks WHERE status = 'running' AND key = ANY (keys)) THEN
        RAISE EXCEPTION 'a task of this lead is running' USING ERRCODE = 'PO004', HINT = 'try again in a moment';
    END IF;
END $$;

-- What a merged lead knew and this one lacks; of a permission, the stricter one.
CREATE FUNCTION fill_in(target uuid, gone leads) RETURNS void
LANGUAGE sql SET search_path = orchestrator, pg_catalog, pg_temp AS $$
    UPDATE leads l SET
        name = coalesce(nullif(l.name, ''), gone.name), company = coalesce(nullif(l.company, ''), gone.company),
        email = coalesce(nullif(l.email, ''), gone.email), phone = coalesce(nullif(l.phone, ''), gone.phone),
        city = coalesce(nullif(l.city, ''), gone.city), region = coalesce(nullif(l.region, ''), gone.region),
        country = coalesce(nullif(l.country, ''), gone.country),
        timezone = coalesce(nullif(l.timezone, ''), CASE WHEN known_zone(gone.timezone) THEN gone.timezone END),
        tier = coalesce(l.tier, gone.tier), score = coalesce(l.score, gone.score), scored_at = coalesce(l.scored_at, gone.scored_at),
        data = gone.data || coalesce((SELECT jsonb_object_agg(d.key, d.value) FROM jsonb_each(l.data) d
                                      WHERE coalesce(btrim(l.data ->> d.key), '') <> ''), '{}'),
        needs_review = l.needs_review OR gone.needs_review, review_reason = coalesce(l.review_reason, gone.review_reason),
        do_not_contact = l.do_not_contact OR gone.do_not_contact, nurture_until = greatest(l.nurture_until, gone.nurture_until),
        conversation_started_at = least(l.conversation_started_at, gone.conversation_started_at),
        last_inbound_at = greatest(l.last_inbound_at, gone.last_inbound_at),
        last_outbound_at = greatest(l.last_outbound_at, gone.last_outbound_at)
    WHERE l.id = target
$$;

-- A person's data leaves the database: the lead, and what was said to it or of it, in whatever table. What stays are
-- figures and ids, and of each address a keyed hash, so that nobody contacts it again, imported anew or not. `spelt`:
-- its numbers as messages would go to them, which SQL can't tell. Answers other leads with one of its addresses: they
-- are left, and not contacted either.
CREATE FUNCTION erase_lead(lead uuid, actor text, spelt text[] DEFAULT '{}') RETURNS uuid[]
LANGUAGE plpgsql SECURITY DEFINER SET search_path = orchestrator, pg_catalog, pg_temp AS $$
DECLARE
    known text[];
    others uuid[];
BEGIN
    PERFORM FROM leads WHERE id = lead FOR UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'no lead %', lead USING ERRCODE = 'P0002';
    END IF;
    known := addresses_of(lead, spelt);
    others := ARRAY(SELECT id FROM leads WHERE plain_address(email) = ANY (known) AND id <> lead
                    UNION SELECT id FROM leads WHERE plain_address(phone) = ANY (known) AND id <> lead);
    PERFORM exclude_erased(known);
    PERFORM blank_lead(lead, known);
    UPDATE leads SET promoted_to = NULL WHERE promoted_to = lead;
    DELETE FROM leads WHERE id = lead;
    PERFORM forget_mentions(lead, known);
    INSERT INTO pipeline_events (lead_id, event_type, actor) VALUES (lead, 'erased', coalesce(actor, session_user));
    RETURN others;
END $$;

-- Every address that is a lead's or its contacts', that a message went to, or that it wrote from.
CREATE FUNCTION addresses_of(lead uuid, spelt text[]) RETURNS text[]
LANGUAGE sql STABLE SET search_path = orchestrator, pg_catalog, pg_temp AS $$
    SELECT coalesce(array_agg(DISTINCT plain_address(a.address)) FILTER (WHERE plain_address(a.address) IS NOT NULL), '{}')
    FROM (SELECT unnest(ARRAY[email, phone]) FROM leads WHERE id = lead
          UNION ALL SELECT unnest(ARRAY[email, phone]) FROM contacts WHERE lead_id = lead
          UNION ALL SELECT to_address FROM messages WHERE lead_id = lead
          UNION ALL SELECT from_address FROM replies
                    WHERE lead_id = lead AND coalesce(category, '') NOT IN ('bounce', 'complaint', 'delivery_notice')
          UNION ALL SELECT unnest(spelt)) AS a(address)
$$;

-- Excluded by name for a moment, which cancels what is scheduled to them, whoever's message it is; then by hash.
CREATE FUNCTION exclude_erased(known text[]) RETURNS void
LANGUAGE sql SET search_path = orchestrator, pg_catalog, pg_temp AS $$
    INSERT INTO email_exclusions (address, reason) SELECT unnest(known), 'erased' ON CONFLICT DO NOTHING;
    DELETE FROM email_exclusions WHERE plain_address(address) = ANY (known);
    INSERT INTO email_exclusions (address, reason) SELECT erased_hash(a), 'erased' FROM unnest(known) AS a ON CONFLICT DO NOTHING;
$$;

-- The rows that are about this lead keep their figures and lose their words.
CREATE FUNCTION blank_lead(lead uuid, known text[]) RETURNS void
LANGUAGE plpgsql SET search_path = orchestrator, pg_catalog, pg_temp AS $$
DECLARE
    its_replies uuid[] := ARRAY(SELECT id FROM replies WHERE lead_id = lead
                                UNION SELECT id FROM replies WHERE lead_id IS NULL AND plain_address(from_address) = ANY (known));
    keys text[] := 'lead:' || lead || ARRAY(SELECT 'reply:' || r FROM unnest(its_replies) AS r);
BEGIN
    UPDATE approval_queue SET status = 'superseded', comment = NULL
    WHERE status = 'pending' AND (lead_id = lead OR payload #>> '{reply,id}' = ANY (its_replies::text[]));
    UPDATE approval_queue SET title = 'erased', payload = '{}', comment = NULL
    WHERE lead_id = lead OR payload #>> '{reply,id}' = ANY (its_replies::text[]);
    PERFORM drop_tasks(keys);
    UPDATE task_log SET payload = '{}', result = NULL, error = NULL WHERE key = ANY (keys) OR payload ->> 'lead_id' = lead::text;
    UPDATE messages SET lead_id = NULL, to_address = NULL, subject = NULL, body = NULL, context = '{}', provider_message_id = NULL,
        idempotency_key = 'erased:' || id, then_to = NULL,
        status = CASE WHEN status = 'sending' THEN 'unknown' WHEN status IN ('draft', 'awaiting_approval', 'scheduled') THEN 'cancelled' ELSE status END,
        reason = CASE WHEN status <> 'sent' THEN 'the lead was erased' END
    WHERE lead_id = lead OR (lead_id IS NULL AND plain_address(to_address) = ANY (known));
    UPDATE replies SET lead_id = NULL, from_address = NULL, to_address = NULL, subject = NULL, body = '', headers = '{}', reason = NULL,
        status = CASE WHEN status IN ('received', 'needs_person') THEN 'ignored' ELSE status END
    WHERE id = ANY (its_replies);
    UPDATE engine_calls SET result = NULL, error = NULL, idempotency_key = 'erased:' || id WHERE lead_id = lead;
    UPDATE campaign_run_items SET result = NULL, error = NULL WHERE lead_id = lead;
    UPDATE alerts SET message = 'erased', metadata = '{}', resolved_at = coalesce(resolved_at, clock()) WHERE subject = ANY (keys);
    UPDATE pipeline_events SET metadata = '{}' WHERE lead_id = lead;
END $$;

-- Finds an address in a text, however its digits are grouped; null for one too short to be told from other numbers.
CREATE FUNCTION mention_of(address text) RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE WHEN address LIKE '%@%'
                THEN '(?<![[:alnum:]._%+-])' || regexp_replace(address, '([^[:alnum:]])', '\\\1', 'g') || '(?![[:alnum:]-]|\.[[:alnum:]])'
                WHEN length(address) >= 9
                THEN '(?<![[:digit:]])' || array_to_string(regexp_split_to_array(ltrim(address, '+'), ''), '[ ().\-/]{0,3}') || '(?![[:digit:]])' END
$$;

-- A document without the objects and words in which the pattern is found; null if it is one of these itself.
CREATE FUNCTION without_mentions(doc jsonb, pattern text) RETURNS jsonb LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    IF doc::text !~* pattern THEN
        RETURN doc;
    ELSIF jsonb_typeof(doc) = 'array' THEN
        RETURN (SELECT coalesce(jsonb_agg(e.kept ORDER BY e.n) FILTER (WHERE e.kept IS NOT NULL), '[]')
                FROM (SELECT orchestrator.without_mentions(a.value, pattern) AS kept, a.n
                      FROM jsonb_array_elements(doc) WITH ORDINALITY AS a(value, n)) e);
    ELSIF jsonb_typeof(doc) <> 'object' OR EXISTS (
        SELECT FROM jsonb_each(doc) m
        WHERE m.key ~* pattern OR (jsonb_typeof(m.value) NOT IN ('object', 'array') AND m.value::text ~* pattern)) THEN
        RETURN NULL;
    END IF;
    RETURN (SELECT jsonb_object_agg(m.key, coalesce(orchestrator.without_mentions(m.value, pattern), 'null')) FROM jsonb_each(doc) m);
END $$;

-- Takes an erased lead out of every text and document of every table that is not about another lead. It reads all of
-- them, which takes a minute where they are large.
CREATE FUNCTION forget_mentions(lead uuid, known text[]) RETURNS void
LANGUAGE plpgsql SET search_path = orchestrator, pg_catalog, pg_temp AS $$
DECLARE
    by_address text := coalesce((SELECT string_agg(mention_of(a), '|') FROM unnest(known) AS a), '$.');   -- that is nowhere
    by_any text := by_address || '|' || lead;
    of_table record;
BEGIN
    FOR of_table IN
        SELECT c.oid::regclass AS name, bool_or(a.attname = 'lead_id') AS has_lead,
               CASE WHEN c.relname = 'tasks' THEN by_address ELSE by_any END AS sought,    -- of a task its id is no person's
               string_agg(format(CASE a.atttypid
                   WHEN 'jsonb'::regtype THEN '%1$I = CASE WHEN %1$I::text ~* $2 THEN coalesce(without_mentions(%1$I, $2), ''{}'') ELSE %1$I END'
                   ELSE '%1$I = regexp_replace(%1$I, $1, ''erased'', ''gi'')' END, a.attname), ', ')
                   FILTER (WHERE a.atttypid IN ('text'::regtype, 'jsonb'::regtype)) AS changes
        FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
        WHERE c.relnamespace = 'orchestrator'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition
          AND c.relname NOT IN ('leads', 'email_exclusions', 'pipelines', 'stages', 'transitions', 'schedules', 'stage_counts', 'stage_deltas')
        GROUP BY c.oid
        HAVING bool_or(a.atttypid IN ('text'::regtype, 'jsonb'::regtype))
    LOOP
        EXECUTE format('UPDATE %s AS t SET %s WHERE t::text ~* $2 %s', of_table.name, of_table.changes,
                       CASE WHEN of_table.has_lead THEN 'AND (lead_id IS NULL OR lead_id = $3)' END)
        USING by_address, of_table.sought, lead;
    END LOOP;
END $$;


-- ---------------------------------------------------------------------------------------------
-- 11 The daemon's own.
-- ---------------------------------------------------------------------------------------------

-- What is written in one statement comes out as expected, or nothing of it happens.
CREATE FUNCTION expect(came bigint[], expected bigint[]) RETURNS bigint[] LANGUAGE plpgsql AS $$
BEGIN
    IF came <> expected THEN
        RAISE EXCEPTION '% rows came, expected were %', came, expected USING ERRCODE = 'PO005', HINT = 'it is written step by step';
    END IF;
    RETURN came;
END $$;

-- Every lead whose deadline has passed gets its task, once. While an action of this stage entry is
-- dead or unknown, its deadline waits for a person.
CREATE FUNCTION fire_deadlines(most int) RETURNS int
LANGUAGE plpgsql SET search_path = orchestrator, pg_catalog, pg_temp AS $$
DECLARE
    at_time timestamptz := clock();
    fired int;
BEGIN
    INSERT INTO tasks (kind, key, payload, dedup_key, run_at)
    SELECT 'lead.deadline', 'lead:' || l.id, jsonb_build_object('lead_id', l.id, 'stage_seq', l.stage_seq),
           'deadline:' || l.id, at_time
    FROM leads l
    WHERE l.deadline_at <= at_time AND l.archived_at IS NULL
      -- Subqueries, not NOT EXISTS, which is a join: a plan made before tasks was first analysed may join without the index.
      AND (SELECT t.id FROM tasks t WHERE t.status = 'available' AND t.key = 'lead:' || l.id AND t.kind = 'lead.deadline' LIMIT 1) IS NULL
      AND (SELECT t.id FROM tasks t WHERE t.status = 'running' AND t.key = 'lead:' || l.id AND t.kind = 'lead.deadline' LIMIT 1) IS NULL
      AND (SELECT t.id FROM tasks t WHERE t.status = 'dead' AND t.key = 'lead:' || l.id
                                      AND t.payload ->> 'stage_seq' = l.stage_seq::text LIMIT 1) IS NULL
    ORDER BY l.deadline_at LIMIT most
    ON CONFLICT (dedup_key) WHERE status = 'available' AND dedup_key IS NOT NULL DO NOTHING;
    GET DIAGNOSTICS fired = ROW_COUNT;
    RETURN fired;
END $$;

-- The differences become part of the counts. Whoever comes while another does it has nothing to do.
CREATE FUNCTION fold_stage_counts() RETURNS void
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

-- Count anew, whatever was written past the triggers. One statement sees one moment: it deletes just those differences
-- that the leads it counts have made.
CREATE FUNCTION recount_stages() RETURNS void
LANGUAGE plpgsql SET search_path = orchestrator, pg_catalog, pg_temp AS $$
BEGIN
    IF pg_try_advisory_xact_lock(1869767531) THEN
        WITH folded AS (
            DELETE FROM stage_deltas
        ), counted AS (
            SELECT pipeline, stage, count(*) AS n FROM leads GROUP BY pipeline, stage
        ), emptied AS (
            DELETE FROM stage_counts c WHERE NOT EXISTS (SELECT FROM counted f WHERE f.pipeline = c.pipeline AND f.stage = c.stage)
        )
        INSERT INTO stage_counts (pipeline, stage, n) SELECT pipeline, stage, n FROM counted
        ON CONFLICT (pipeline, stage) DO UPDATE SET n = excluded.n;
    END IF;
END $$;

-- One question a beat, on the listening connection: do I still listen, hold my lock and sit on the
-- primary; which peers are gone; what is due next. Fires deadlines on the way.
CREATE FUNCTION pulse(my_number int, OUT in_recovery boolean, OUT listening boolean, OUT locked boolean, OUT fired int,
                      OUT wait_s double precision, OUT waiting boolean, OUT lonely boolean, OUT expired boolean,
                      OUT slot_due boolean, OUT absent uuid[])
LANGUAGE plpgsql SET search_path = orchestrator, pg_catalog, pg_temp AS $$
DECLARE at_time timestamptz;
BEGIN
    in_recovery := pg_is_in_recovery();
    listening := EXISTS (SELECT FROM pg_listening_channels() c WHERE c = 'orchestrator');
    IF in_recovery THEN
        RETURN;
    END IF;
    at_time := clock();
    fired := fire_deadlines(1000);
    SELECT coalesce(bool_or(w.number = my_number AND l.pid = pg_backend_pid()), false),
           coalesce(array_agg(w.id) FILTER (WHERE w.number <> my_number AND w.expects_lock AND l.pid IS NULL), '{}')
    INTO locked, absent
    FROM workers w LEFT JOIN pg_locks l ON l.locktype = 'advisory' AND l.classid = 1869767528 AND l.objid::bigint = w.number AND l.objsubid = 2
         AND l.granted AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database());
    waiting := EXISTS (SELECT FROM tasks WHERE status = 'available' AND attempt >= 0 AND run_at <= at_time);
    lonely := waiting AND EXISTS (SELECT FROM tasks WHERE status = 'available' AND interruptions >= 3 AND run_at <= at_time);
    expired := EXISTS (SELECT FROM tasks WHERE status = 'running' AND lease_expires_at < clock_timestamp());
    slot_due := EXISTS (SELECT FROM schedules WHERE enabled AND (next_slot IS NULL OR next_slot <= at_time))
        OR EXISTS (SELECT FROM campaigns WHERE scheduled AND next_run_at <= at_time)
        OR EXISTS (SELECT FROM campaigns WHERE scheduled AND next_run_at IS NULL)
        OR EXISTS (SELECT FROM campaigns WHERE status = 'paused' AND resume_at <= at_time);
    wait_s := extract(epoch FROM least(
        (SELECT run_at FROM tasks WHERE status = 'available' AND attempt >= 0 AND run_at > at_time ORDER BY run_at LIMIT 1),
        (SELECT deadline_at FROM leads WHERE deadline_at > at_time ORDER BY deadline_at LIMIT 1),
        (SELECT min(next_slot) FROM schedules WHERE enabled AND next_slot > at_time),
        (SELECT next_run_at FROM campaigns WHERE scheduled AND next_run_at > at_time ORDER BY next_run_at LIMIT 1),
        (SELECT resume_at FROM campaigns WHERE status = 'paused' AND resume_at > at_time ORDER BY resume_at LIMIT 1)) - at_time);
END $$;

-- The tasks of a daemon that is gone become available again. Taking its lock proves that it is gone.
CREATE FUNCTION take_over(gone uuid) RETURNS int
LANGUAGE plpgsql SET search_path = orchestrator, pg_catalog, pg_temp AS $$
DECLARE
    its_number int;
    freed int;
BEGIN
    SELECT number INTO its_number FROM workers WHERE id = gone FOR UPDATE SKIP LOCKED;
    IF NOT FOUND OR NOT pg_try_advisory_xact_lock(1869767528, its_number) THEN
        RETURN 0;
    END IF;
    UPDATE tasks SET status = 'available', attempt = attempt - 1, interruptions = interruptions + 1,
        lease_id = NULL, lease_expires_at = NULL, worker = NULL, error = 'interrupted: its daemon is gone'
    -- What its last commit still holds is skipped, and looked at again at the next beat: nobody waits, so nothing deadlocks.
    WHERE id IN (SELECT id FROM tasks WHERE status = 'running' AND worker = gone FOR NO KEY UPDATE SKIP LOCKED);
    GET DIAGNOSTICS freed = ROW_COUNT;
    IF NOT EXISTS (SELECT FROM tasks WHERE status = 'running' AND worker = gone) THEN
        DELETE FROM workers WHERE id = gone;
    END IF;
    RETURN freed;
END $$;

-- Likewise for leases that nobody renewed.
CREATE FUNCTION free_expired() RETURNS int
LANGUAGE plpgsql SET search_path = orchestrator, pg_catalog, pg_temp AS $$
DECLARE freed int;
BEGIN
    UPDATE tasks SET status = 'available', attempt = attempt - 1, interruptions = interruptions + 1,
        lease_id = NULL, lease_expires_at = NULL, worker = NULL, error = 'interrupted: its lease ran out'
    WHERE id IN (SELECT id FROM tasks WHERE status = 'running' AND lease_expires_at < clock_timestamp() FOR UPDATE SKIP LOCKED);
    GET DIAGNOSTICS freed = ROW_COUNT;
    RETURN freed;
END $$;

-- They act with the owner's rights, so they are not for everybody: GRANT EXECUTE to those who may.
REVOKE EXECUTE ON FUNCTION enqueue, flag_lead, request_transition, override_stage, retry_task, shift_clock,
    resolve_review, merge_leads, erase_lead, erased_hash,
    cancel_run, pause_run, resume_run, retry_run FROM PUBLIC;

INSERT INTO schema_version (version) VALUES (4);
