-- Version 1 to 2: campaigns with runs, gates, budgets and schedules; notices of requests and alerts; merge and erasure;
-- counts of stages. What each object is for stands in schema.sql.

SET LOCAL search_path = orchestrator, pg_catalog;

-- Whoever writes meanwhile waits: first the causes are locked, then the tasks, as the triggers do it.
LOCK TABLE leads, email_exclusions, messages, replies, engine_calls, approval_queue, alerts, pipeline_events, tasks;


-- Tasks.

DROP INDEX tasks_due;
CREATE INDEX tasks_due ON tasks (kind, priority, run_at, id) WHERE status = 'available' AND interruptions < 3;

DROP INDEX tasks_dedup;
CREATE UNIQUE INDEX tasks_dedup ON tasks (dedup_key) WHERE status = 'available' AND dedup_key IS NOT NULL;


-- Leads and their history.

CREATE OR REPLACE FUNCTION plain_address(address text) RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT nullif(CASE WHEN address LIKE 'erased:%' THEN address
                       WHEN address LIKE '%@%' THEN lower(btrim(coalesce(substring(address FROM '<([^<>]+)>'), address)))
                       ELSE regexp_replace(address, '[^0-9+]', '', 'g') END, '')
$$;

ALTER TABLE leads RENAME from_stage TO left_stage;

DROP INDEX leads_entry_pending;
CREATE INDEX leads_entry_pending ON leads ((pipeline || '.' || stage)) WHERE entry_pending;

DROP INDEX leads_review;
CREATE INDEX leads_review ON leads (created_at DESC, id) WHERE needs_review;

CREATE INDEX leads_to_archive ON leads (stage_entered_at) WHERE stage = 'DEAD_LEAD' AND archived_at IS NULL;

CREATE TABLE stage_counts (
    pipeline text NOT NULL,
    stage    text NOT NULL,
    n        bigint NOT NULL,
    PRIMARY KEY (pipeline, stage)
);

CREATE TABLE stage_deltas (
    pipeline text NOT NULL,
    stage    text NOT NULL,
    n        bigint NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000, autovacuum_vacuum_cost_delay = 0);

CREATE VIEW stage_sizes AS
SELECT pipeline, stage, max(position) AS position, sum(n)::bigint AS n
FROM (SELECT pipeline, name AS stage, position, 0 AS n FROM stages
      UNION ALL SELECT pipeline, stage, NULL, n FROM stage_counts
      UNION ALL SELECT pipeline, stage, NULL, n FROM stage_deltas) AS of_stages
GROUP BY pipeline, stage HAVING max(position) IS NOT NULL;

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
CREATE INDEX contacts_phone ON contacts (orchestrator.plain_address(phone)) WHERE phone IS NOT NULL;

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

CREATE FUNCTION figure(data jsonb, field text) RETURNS numeric LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE WHEN data ->> field ~ '^-?\d{1,15}(\.\d{1,10})?$' THEN (data ->> field)::numeric END
$$;

CREATE OR REPLACE FUNCTION leads_before_insert() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = orchestrator, pg_catalog, pg_temp AS $$
DECLARE
    at_time timestamptz := (SELECT statement_timestamp() + shift FROM clock_shift);
    st record;
BEGIN
    SELECT s.*, p.initial INTO st FROM pipelines p
    LEFT JOIN stages s ON s.pipeline = p.name AND s.name = coalesce(NEW.stage, p.initial) WHERE p.name = NEW.pipeline;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'unknown pipeline %', NEW.pipeline USING ERRCODE = 'PO001',
            HINT = 'pipelines: ' || coalesce((SELECT string_agg(name, ', ' ORDER BY name) FROM pipelines), 'none yet; run "orchestrator db init"');
    ELSIF st.name IS NULL THEN
        RAISE EXCEPTION 'pipeline % has no stage %', NEW.pipeline, NEW.stage USING ERRCODE = 'PO001',
            HINT = 'stages: ' || (SELECT string_agg(name, ', ' ORDER BY position) FROM stages WHERE pipeline = NEW.pipeline);
    END IF;
    IF NEW.external_id IS NOT NULL AND EXISTS (SELECT FROM merged_leads m WHERE m.pipeline = NEW.pipeline
            AND m.external_id = NEW.external_id AND m.source IS NOT DISTINCT FROM NEW.source) THEN
        RETURN NULL;    -- it lives on in another lead
    END IF;
    NEW.stage := st.name;
    NEW.version := 1; NEW.stage_seq := 1; NEW.deadline_step := 0; NEW.left_stage := NULL; NEW.known_issues := '{}';
    NEW.created_at := coalesce(NEW.created_at, at_time);
    NEW.updated_at := coalesce(NEW.updated_at, at_time);
    NEW.stage_entered_at := coalesce(NEW.stage_entered_at, at_time);
    IF st.counts_silence THEN
        NEW.conversation_started_at := coalesce(NEW.conversation_started_at, NEW.stage_entered_at);
    END IF;
    IF NEW.deadline_at IS NULL THEN
        NEW.deadline_at := st.deadlines[1]
            + CASE WHEN st.counts_silence THEN greatest(NEW.last_inbound_at, NEW.conversation_started_at) ELSE NEW.stage_entered_at END;
    END IF;
    -- An import at a later stage owes no entry action.
    NEW.entry_pending := st.entry_kind IS NOT NULL AND st.name = st.initial;
    NEW.touched := CASE WHEN st.on_complete IS NOT NULL OR coalesce(NEW.name, '') = '' OR coalesce(NEW.phone, '') = ''
                        OR NEW.data <> '{}' THEN 2 ELSE 0 END;
    RETURN NEW;
END $$;

CREATE OR REPLACE FUNCTION leads_before_update() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = orchestrator, pg_catalog, pg_temp AS $$
DECLARE
    at_time timestamptz;
    st record;
    missing text[];
    mover_named boolean;
    reason_named boolean;
BEGIN
    IF NEW.id <> OLD.id OR NEW.pipeline <> OLD.pipeline THEN
        RAISE EXCEPTION 'a lead keeps its id and its pipeline' USING ERRCODE = 'PO001', HINT = 'insert a new lead instead';
    END IF;
    NEW.version := OLD.version + 1;
    NEW.stage_seq := OLD.stage_seq;
    mover_named := NEW.touched IN (-1, -3);
    reason_named := NEW.touched IN (-2, -3);
    NEW.left_stage := NULL;
    NEW.touched := 0;
    IF NEW.stage IS DISTINCT FROM OLD.stage THEN
        SELECT s.required, s.deadlines, s.counts_silence, s.entry_kind, s.on_complete, t.to_stage IS NOT NULL AS legal,
               statement_timestamp() + c.shift AS now INTO st
        FROM clock_shift c CROSS JOIN stages s
        LEFT JOIN transitions t ON t.pipeline = s.pipeline AND t.from_stage = OLD.stage AND t.to_stage = s.name
        WHERE s.pipeline = NEW.pipeline AND s.name = NEW.stage;
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
            IF NEW.moved_by IS NOT DISTINCT FROM OLD.moved_by AND NOT mover_named THEN
                NEW.moved_by := session_user;
            END IF;
            IF NEW.move_reason IS NOT DISTINCT FROM OLD.move_reason AND NOT reason_named THEN
                NEW.move_reason := NULL;
            END IF;
        END IF;
        IF st.on_complete IS NOT NULL THEN
            NEW.touched := 3;
        END IF;
    ELSIF NEW.last_inbound_at > coalesce(OLD.last_inbound_at, '-infinity') AND NEW.deadline_at IS NOT DISTINCT FROM OLD.deadline_at THEN
        -- The lead's own word: its silence begins anew.
        SELECT NEW.last_inbound_at + s.deadlines[1] AS at INTO st FROM stages s WHERE s.pipeline = NEW.pipeline AND s.name = NEW.stage;
        NEW.deadline_step := 0;
        NEW.deadline_at := st.at;
    END IF;
    NEW.updated_at := coalesce(at_time, (SELECT statement_timestamp() + shift FROM clock_shift));
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
DECLARE at_time timestamptz := clock();
BEGIN
    INSERT INTO pipeline_events (lead_id, event_type, to_stage, actor, created_at)
    SELECT id, 'created', stage, coalesce(moved_by, session_user), created_at FROM fresh;
    INSERT INTO stage_deltas (pipeline, stage, n) SELECT pipeline, stage, count(*) FROM fresh GROUP BY pipeline, stage;
    INSERT INTO tasks (kind, key, payload, run_at)
    SELECT s.entry_kind, 'lead:' || f.id, jsonb_build_object('lead_id', f.id, 'stage_seq', 1), at_time
    FROM fresh f JOIN stages s ON s.pipeline = f.pipeline AND s.name = f.stage WHERE f.entry_pending;
    IF EXISTS (SELECT FROM fresh WHERE touched & 2 > 0) THEN
        INSERT INTO tasks (kind, key, payload, run_at)
        SELECT 'lead.check', 'lead:' || id, jsonb_build_object('lead_id', id), at_time FROM fresh WHERE touched & 2 > 0;
    END IF;
    RETURN NULL;
END $$;

CREATE OR REPLACE FUNCTION leads_after_update() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = orchestrator, pg_catalog, pg_temp AS $$
DECLARE
    any_touched int := (SELECT bit_or(touched) FROM fresh);
    at_time timestamptz;
BEGIN
    IF coalesce(any_touched, 0) = 0 THEN
        RETURN NULL;
    END IF;
    at_time := clock();
    IF any_touched & 1 > 0 THEN
        INSERT INTO pipeline_events (lead_id, event_type, from_stage, to_stage, metadata, actor, task_id, created_at)
        SELECT id, 'stage_change', left_stage, stage,
               CASE WHEN move_reason IS NULL THEN '{}' ELSE jsonb_build_object('reason', move_reason) END,
               moved_by, moved_task, stage_entered_at
        FROM fresh WHERE touched & 1 > 0;
        INSERT INTO stage_deltas (pipeline, stage, n)
        SELECT f.pipeline, d.stage, sum(d.n) FROM fresh f CROSS JOIN LATERAL (VALUES (f.stage, 1), (f.left_stage, -1)) AS d(stage, n)
        WHERE f.touched & 1 > 0 GROUP BY f.pipeline, d.stage HAVING sum(d.n) <> 0;
        INSERT INTO tasks (kind, key, payload, run_at)
        SELECT s.entry_kind, 'lead:' || f.id, jsonb_build_object('lead_id', f.id, 'stage_seq', f.stage_seq), at_time
        FROM fresh f JOIN stages s ON s.pipeline = f.pipeline AND s.name = f.stage
        WHERE f.touched & 1 > 0 AND f.entry_pending;
    END IF;
    IF any_touched & 2 > 0 THEN
        INSERT INTO tasks (kind, key, payload, dedup_key, run_at)
        SELECT 'lead.check', 'lead:' || id, jsonb_build_object('lead_id', id), 'check:' || id, at_time FROM fresh WHERE touched & 2 > 0
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

CREATE FUNCTION leads_after_delete() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = orchestrator, pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO stage_deltas (pipeline, stage, n) SELECT pipeline, stage, -count(*) FROM gone GROUP BY pipeline, stage;
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


-- Replies come in, messages go out, exclusions forbid.

CREATE INDEX replies_newest ON replies (received_at DESC, id);
CREATE INDEX email_exclusions_newest ON email_exclusions (created_at DESC, address);

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

CREATE OR REPLACE FUNCTION queue_messages() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = orchestrator, pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO tasks (kind, key, payload, run_at, dedup_key)
    SELECT 'message', coalesce('lead:' || lead_id, 'message:' || id),
           jsonb_build_object('message_id', id, 'lead_id', lead_id, 'stage_seq', stage_seq, 'template', template, 'channel', channel), send_at, 'message:' || id
    FROM fresh WHERE status = 'scheduled'
    ON CONFLICT (dedup_key) WHERE status = 'available' AND dedup_key IS NOT NULL DO UPDATE SET run_at = excluded.run_at;
    RETURN NULL;
END $$;

CREATE OR REPLACE FUNCTION queue_message() RETURNS trigger
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


-- Engines.

ALTER TABLE engine_calls ADD calls int NOT NULL DEFAULT 1, ADD budgets jsonb;
UPDATE engine_calls SET budgets = jsonb_build_object('engine:' || engine, budget_day) WHERE budget_day IS NOT NULL;
ALTER TABLE engine_calls DROP budget_day;

ALTER TABLE budget_counters ADD warned boolean NOT NULL DEFAULT false, ADD most numeric;


-- People.

CREATE INDEX approval_queue_newest ON approval_queue (created_at DESC, id);
CREATE INDEX approval_queue_status ON approval_queue (checkpoint, status);

CREATE OR REPLACE FUNCTION decide_approval() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = orchestrator, pg_catalog, pg_temp AS $$
BEGIN
    IF NEW.status = OLD.status THEN
        RETURN NEW;
    ELSIF OLD.status <> 'pending' THEN
        RAISE EXCEPTION 'approval % is already %', OLD.id, OLD.status USING ERRCODE = 'PO003', HINT = 'a decision stands';
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
    ELSIF NEW.status <> 'superseded' THEN
        INSERT INTO tasks (kind, key, payload)
        VALUES ('run.decided', 'run:' || NEW.run_id, jsonb_build_object('approval_id', NEW.id, 'run_id', NEW.run_id));
    END IF;
    RETURN NEW;
END $$;

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


-- Campaigns.

CREATE TABLE campaigns (
    id                uuid PRIMARY KEY DEFAULT orchestrator.new_id(),
    name              text NOT NULL CHECK (name <> ''),
    description       text,
    config            jsonb NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(config) = 'object'),
    schedule_cron     text,
    schedule_timezone text NOT NULL DEFAULT 'UTC',
    schedule_enabled  boolean NOT NULL DEFAULT true,
    grace_s           int NOT NULL DEFAULT 3600 CHECK (grace_s >= 0),
    status            text NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'paused', 'completed', 'error')),
    paused_reason     text,
    resume_at         timestamptz,
    last_run_at       timestamptz,
    next_run_at       timestamptz,
    schedule_since    timestamptz NOT NULL DEFAULT orchestrator.clock(),
    total_runs        int NOT NULL DEFAULT 0,
    total_cost        numeric NOT NULL DEFAULT 0,
    project_id        text,
    created_at        timestamptz NOT NULL DEFAULT orchestrator.clock(),
    updated_at        timestamptz NOT NULL DEFAULT orchestrator.clock(),
    deleted_at        timestamptz,
    scheduled         boolean NOT NULL GENERATED ALWAYS AS (
                          status = 'active' AND schedule_enabled AND schedule_cron IS NOT NULL AND deleted_at IS NULL) STORED
);

CREATE UNIQUE INDEX campaigns_name ON campaigns (name) WHERE deleted_at IS NULL;
CREATE INDEX campaigns_next ON campaigns (next_run_at) WHERE scheduled;
CREATE INDEX campaigns_resume ON campaigns (resume_at) WHERE status = 'paused';

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

CREATE TABLE campaign_runs (
    id              uuid PRIMARY KEY DEFAULT orchestrator.new_id(),
    campaign_id     uuid NOT NULL REFERENCES campaigns,
    trigger         text NOT NULL DEFAULT 'manual' CHECK (trigger IN ('schedule', 'manual', 'event')),
    scheduled_for   timestamptz,
    inputs          jsonb NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(inputs) = 'object'),
    definition      jsonb NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(definition) = 'object'),
    started_at      timestamptz NOT NULL DEFAULT orchestrator.clock(),
    completed_at    timestamptz,
    status          text NOT NULL DEFAULT 'running' CHECK (status IN ('running', 'waiting', 'paused', 'completed', 'partial',
                        'failed', 'aborted', 'cancelled', 'skipped', 'missed')),
    steps_completed int NOT NULL DEFAULT 0,
    steps_failed    int NOT NULL DEFAULT 0,
    results         jsonb NOT NULL DEFAULT '{}',
    total_cost      numeric NOT NULL DEFAULT 0,
    errors          jsonb NOT NULL DEFAULT '[]',
    dry_run         boolean NOT NULL DEFAULT false,
    round           int NOT NULL DEFAULT 0,
    former_ends     text[] NOT NULL DEFAULT '{}',
    UNIQUE (campaign_id, scheduled_for)
);

CREATE INDEX campaign_runs_newest ON campaign_runs (campaign_id, started_at DESC, id);
CREATE INDEX campaign_runs_live ON campaign_runs (campaign_id) WHERE status IN ('running', 'waiting', 'paused');
CREATE INDEX campaign_runs_status ON campaign_runs (campaign_id, status);
CREATE INDEX campaign_runs_retried ON campaign_runs (campaign_id) WHERE round > 0;

CREATE TABLE campaign_run_steps (
    run_id        uuid NOT NULL REFERENCES campaign_runs ON DELETE CASCADE,
    position      int NOT NULL,
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
    children_left int,
    PRIMARY KEY (run_id, position),
    UNIQUE (run_id, name)
) WITH (fillfactor = 80);

CREATE TABLE campaign_run_items (
    run_id   uuid NOT NULL,
    position int NOT NULL,
    lead_id  uuid NOT NULL,
    n        int NOT NULL,
    status   text NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'done', 'failed')),
    queued   boolean NOT NULL DEFAULT false,
    result   jsonb,
    error    text,
    cost     numeric,
    PRIMARY KEY (run_id, position, lead_id),
    FOREIGN KEY (run_id, position) REFERENCES campaign_run_steps ON DELETE CASCADE
);

CREATE INDEX campaign_run_items_open ON campaign_run_items (run_id, position, queued, n) WHERE status = 'pending';
CREATE INDEX leads_run ON leads (run_id) WHERE run_id IS NOT NULL;
CREATE INDEX messages_run ON messages (run_id) WHERE run_id IS NOT NULL;

CREATE FUNCTION step_tries(definition jsonb, at int) RETURNS int LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE WHEN definition #>> ARRAY['steps', at::text, 'kind'] = 'engine'
                THEN (definition #>> ARRAY['steps', at::text, 'retry', 'attempts'])::int END
$$;

CREATE FUNCTION run_sum(results jsonb, field text) RETURNS numeric LANGUAGE sql IMMUTABLE AS $$
    SELECT coalesce(sum((value ->> field)::numeric), 0) FROM jsonb_each(results) WHERE jsonb_typeof(value -> field) = 'number'
$$;

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

CREATE INDEX approval_queue_run ON approval_queue (run_id) WHERE run_id IS NOT NULL;

CREATE TABLE checkpoint_settings (
    checkpoint         text PRIMARY KEY,
    mode               text NOT NULL DEFAULT 'plan' CHECK (mode IN ('plan', 'auto')),
    promotable         boolean NOT NULL DEFAULT true,
    approvals_in_a_row int NOT NULL DEFAULT 0 CHECK (approvals_in_a_row >= 0),
    CONSTRAINT extraction_needs_a_person CHECK (checkpoint <> 'extraction' OR mode = 'plan'),
    CONSTRAINT classification_is_automatic CHECK (checkpoint <> 'classification' OR mode = 'auto')
);

INSERT INTO checkpoint_settings (checkpoint, mode, promotable) VALUES
    ('replies', 'plan', true), ('sourcing', 'auto', true), ('extraction', 'plan', false), ('campaign', 'plan', true),
    ('classification', 'auto', false), ('leads', 'plan', true), ('emails', 'plan', true);

CREATE TABLE agent_feedback (
    id          uuid PRIMARY KEY DEFAULT orchestrator.new_id(),
    agent       text NOT NULL,
    feedback    text NOT NULL CHECK (btrim(feedback) <> ''),
    effect      text,
    approval_id uuid UNIQUE REFERENCES approval_queue ON DELETE SET NULL,
    active      boolean NOT NULL DEFAULT true,
    created_by  text NOT NULL DEFAULT session_user,
    created_at  timestamptz NOT NULL DEFAULT orchestrator.clock()
);

CREATE INDEX agent_feedback_of ON agent_feedback (agent, created_at) WHERE active;

CREATE TABLE search_criteria (
    id         uuid PRIMARY KEY DEFAULT orchestrator.new_id(),
    campaign   text NOT NULL DEFAULT 'deal-sourcing',
    criteria   jsonb NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(criteria) = 'object'),
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


-- Functions for users.

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
    INSERT INTO contacts (lead_id, name, email, phone, source)
    SELECT target, gone.name, gone.email, gone.phone, 'merged'
    WHERE plain_address(gone.email) <> plain_address(kept.email) OR plain_address(gone.phone) <> plain_address(kept.phone);
    UPDATE leads SET promoted_to = target WHERE promoted_to = lead;
    DELETE FROM leads WHERE id = lead;
    PERFORM fill_in(target, gone);
    INSERT INTO pipeline_events (lead_id, event_type, metadata, actor)
    VALUES (target, 'merged', jsonb_build_object('merged', lead), coalesce(actor, session_user));
END $$;

CREATE FUNCTION move_work(lead uuid, target uuid) RETURNS void
LANGUAGE plpgsql SET search_path = orchestrator, pg_catalog, pg_temp AS $$
BEGIN
    UPDATE tasks SET payload = payload || jsonb_build_object('lead_id', target), key = replace(key, lead::text, target::text)
    WHERE status <> 'running' AND (kind LIKE 'reply%' OR kind = 'approval') AND payload ->> 'lead_id' = lead::text;
    PERFORM drop_tasks(ARRAY['lead:' || lead]);
END $$;

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

CREATE FUNCTION fill_in(target uuid, gone leads) RETURNS void
LANGUAGE sql SET search_path = orchestrator, pg_catalog, pg_temp AS $$
    UPDATE leads l SET
        name = coalesce(nullif(l.name, ''), gone.name), company = coalesce(nullif(l.company, ''), gone.company),
        email = coalesce(nullif(l.email, ''), gone.email), phone = coalesce(nullif(l.phone, ''), gone.phone),
        city = coalesce(nullif(l.city, ''), gone.city), region = coalesce(nullif(l.region, ''), gone.region),
        country = coalesce(nullif(l.country, ''), gone.country), timezone = coalesce(nullif(l.timezone, ''), gone.timezone),
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

CREATE FUNCTION exclude_erased(known text[]) RETURNS void
LANGUAGE sql SET search_path = orchestrator, pg_catalog, pg_temp AS $$
    INSERT INTO email_exclusions (address, reason) SELECT unnest(known), 'erased' ON CONFLICT DO NOTHING;
    DELETE FROM email_exclusions WHERE plain_address(address) = ANY (known);
    INSERT INTO email_exclusions (address, reason) SELECT erased_hash(a), 'erased' FROM unnest(known) AS a ON CONFLICT DO NOTHING;
$$;

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

CREATE FUNCTION mention_of(address text) RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE WHEN address LIKE '%@%'
                THEN '(?<![[:alnum:]._%+-])' || regexp_replace(address, '([^[:alnum:]])', '\\\1', 'g') || '(?![[:alnum:]-]|\.[[:alnum:]])'
                WHEN length(address) >= 9
                THEN '(?<![[:digit:]])' || array_to_string(regexp_split_to_array(ltrim(address, '+'), ''), '[ ().\-/]{0,3}') || '(?![[:digit:]])' END
$$;

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


-- The daemon's own.

CREATE OR REPLACE FUNCTION fire_deadlines(most int) RETURNS int
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

CREATE FUNCTION fold_stage_counts() RETURNS void
LANGUAGE plpgsql SET search_path = orchestrator, pg_catalog, pg_temp AS $$
BEGIN
    IF pg_try_advisory_xact_lock(1869767531) THEN
        WITH folded AS (DELETE FROM stage_deltas RETURNING *)
        INSERT INTO stage_counts AS c (pipeline, stage, n)
        SELECT pipeline, stage, sum(n) FROM folded GROUP BY pipeline, stage
        ON CONFLICT (pipeline, stage) DO UPDATE SET n = c.n + excluded.n;
    END IF;
END $$;

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

CREATE OR REPLACE FUNCTION pulse(my_number int, OUT in_recovery boolean, OUT listening boolean, OUT locked boolean, OUT fired int,
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

REVOKE EXECUTE ON FUNCTION resolve_review, merge_leads, erase_lead, erased_hash, cancel_run, pause_run, resume_run,
    retry_run FROM PUBLIC;


-- The rows that are there.

SELECT recount_stages();

INSERT INTO tasks (kind, payload, dedup_key)
SELECT 'notification', jsonb_build_object('event', d.event, 'to', NULL, 'facts', jsonb_build_object('id', d.id)), 'notification:' || d.id
FROM (SELECT 'approval' AS event, id FROM approval_queue WHERE status = 'pending'
      UNION ALL SELECT 'alert', id FROM alerts WHERE resolved_at IS NULL) AS d;
