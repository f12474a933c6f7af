-- Version 3 to 4: exclusions of numbers without their country, refusals in words. What each object is for stands in schema.sql.

SET LOCAL search_path = orchestrator, pg_catalog;

CREATE FUNCTION lacks_country(address text) RETURNS boolean LANGUAGE sql IMMUTABLE AS $$
    SELECT address NOT LIKE '%@%' AND address NOT LIKE 'erased:%'
       AND (orchestrator.plain_address(address) NOT LIKE '+%' OR address LIKE '%(0)%')
$$;

CREATE INDEX email_exclusions_phone ON email_exclusions (orchestrator.phone_tail(address))
    WHERE address NOT LIKE '%@%' AND address NOT LIKE 'erased:%';
CREATE INDEX messages_to_phone ON messages (orchestrator.phone_tail(to_address))
    WHERE status = 'scheduled' AND to_address IS NOT NULL AND to_address NOT LIKE '%@%';

CREATE FUNCTION exclusions_of(sent_to text, written text) RETURNS SETOF email_exclusions LANGUAGE sql STABLE AS $$
    SELECT x.* FROM orchestrator.email_exclusions x
    WHERE orchestrator.plain_address(x.address) = ANY (ARRAY[
        orchestrator.plain_address(sent_to), orchestrator.erased_hash(sent_to), orchestrator.plain_address(written), orchestrator.erased_hash(written)])
    UNION ALL
    SELECT x.* FROM orchestrator.email_exclusions x
    WHERE orchestrator.phone_tail(x.address) = orchestrator.phone_tail(sent_to) AND x.address NOT LIKE '%@%' AND x.address NOT LIKE 'erased:%'
      AND (orchestrator.lacks_country(x.address) OR orchestrator.lacks_country(sent_to))
$$;

CREATE FUNCTION covered_by(exclusion text) RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE WHEN exclusion LIKE 'erased:%' THEN 'an address that was erased'
                WHEN orchestrator.lacks_country(exclusion) THEN 'every number that ends in ' || orchestrator.phone_tail(exclusion)
                ELSE 'this address' END
$$;

CREATE OR REPLACE FUNCTION cancel_excluded() RETURNS trigger
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

CREATE FUNCTION known_zone(zone text) RETURNS boolean
LANGUAGE plpgsql SET search_path = orchestrator, pg_catalog, pg_temp SET timezone = 'UTC' AS $$
BEGIN
    RETURN set_config('timezone', zone, true) = zone AND (zone !~ '[0-9<]' OR EXISTS (SELECT FROM pg_timezone_names WHERE name = zone));
EXCEPTION WHEN invalid_parameter_value THEN
    RETURN false;
END $$;

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

CREATE TRIGGER leads_a_zone BEFORE INSERT ON leads FOR EACH ROW WHEN (NEW.timezone <> '') EXECUTE FUNCTION check_zone('timezone');
CREATE TRIGGER leads_a_new_zone BEFORE UPDATE OF timezone ON leads FOR EACH ROW
    WHEN (NEW.timezone <> '' AND NEW.timezone IS DISTINCT FROM OLD.timezone) EXECUTE FUNCTION check_zone('timezone');
CREATE TRIGGER campaigns_a_zone BEFORE INSERT ON campaigns FOR EACH ROW
    WHEN (NEW.schedule_timezone <> 'UTC') EXECUTE FUNCTION check_zone('schedule_timezone');
CREATE TRIGGER campaigns_a_new_zone BEFORE UPDATE OF schedule_timezone ON campaigns FOR EACH ROW
    WHEN (NEW.schedule_timezone <> OLD.schedule_timezone) EXECUTE FUNCTION check_zone('schedule_timezone');
CREATE TRIGGER schedules_a_zone BEFORE INSERT ON schedules FOR EACH ROW
    WHEN (NEW.timezone <> 'UTC') EXECUTE FUNCTION check_zone('timezone');
CREATE TRIGGER schedules_a_new_zone BEFORE UPDATE OF timezone ON schedules FOR EACH ROW
    WHEN (NEW.timezone <> OLD.timezone) EXECUTE FUNCTION check_zone('timezone');

CREATE OR REPLACE FUNCTION fill_in(target uuid, gone leads) RETURNS void
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

ALTER TABLE tasks RENAME CONSTRAINT tasks_payload_check TO "payload is a JSON object";
ALTER TABLE tasks RENAME CONSTRAINT tasks_priority_check TO "priority is 10, 50 or 90";
ALTER TABLE tasks RENAME CONSTRAINT tasks_status_check TO "status is available, running or dead";
ALTER TABLE tasks RENAME CONSTRAINT tasks_max_attempts_check TO "max_attempts is above 0";
ALTER TABLE tasks RENAME CONSTRAINT tasks_check TO "a running task has a lease, and no other has";
ALTER TABLE leads RENAME CONSTRAINT leads_tier_check TO "tier is high, medium or low";
ALTER TABLE leads RENAME CONSTRAINT leads_data_check TO "data is a JSON object";
ALTER TABLE replies RENAME CONSTRAINT replies_channel_check TO "channel is email or sms";
ALTER TABLE replies RENAME CONSTRAINT replies_headers_check TO "headers is a JSON object";
ALTER TABLE replies RENAME CONSTRAINT replies_category_check TO "category is a known one, such as question or unclear";
ALTER TABLE replies RENAME CONSTRAINT replies_status_check TO "status is received, routed, needs_person or ignored";
ALTER TABLE email_exclusions RENAME CONSTRAINT email_exclusions_address_check TO "address is an email address or a phone number";
ALTER TABLE email_exclusions RENAME CONSTRAINT email_exclusions_reason_check TO "reason is bounce, opt_out, complaint, hard_pass, manual, erased";
ALTER TABLE messages RENAME CONSTRAINT messages_channel_check TO "channel is email, sms or offer";
ALTER TABLE messages RENAME CONSTRAINT messages_status_check TO "status is one of a message, such as draft or scheduled";
ALTER TABLE approval_queue RENAME CONSTRAINT approval_queue_status_check TO "status is pending, approved, rejected, expired or superseded";
ALTER TABLE campaigns RENAME CONSTRAINT campaigns_name_check TO "name is not empty";
ALTER TABLE campaigns RENAME CONSTRAINT campaigns_config_check TO "config is a JSON object";
ALTER TABLE campaigns RENAME CONSTRAINT campaigns_grace_s_check TO "grace_s is 0 or more";
ALTER TABLE campaigns RENAME CONSTRAINT campaigns_status_check TO "status is active, paused, completed or error";
ALTER TABLE checkpoint_settings RENAME CONSTRAINT checkpoint_settings_mode_check TO "mode is plan or auto";
ALTER TABLE checkpoint_settings RENAME CONSTRAINT checkpoint_settings_approvals_in_a_row_check TO "approvals_in_a_row is 0 or more";
ALTER TABLE search_criteria RENAME CONSTRAINT search_criteria_criteria_check TO "criteria is a JSON object";
ALTER TABLE schedules RENAME CONSTRAINT schedules_grace_s_check TO "grace_s is 0 or more";

CREATE OR REPLACE FUNCTION decide_approval() RETURNS trigger
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

-- Runs that wait for a request which somebody has superseded end now.
INSERT INTO tasks (kind, key, payload)
SELECT 'run.decided', 'run:' || a.run_id, jsonb_build_object('approval_id', a.id, 'run_id', a.run_id)
FROM approval_queue a
JOIN campaign_runs r ON r.id = a.run_id AND r.status IN ('running', 'waiting', 'paused')
JOIN campaign_run_steps s ON s.run_id = a.run_id AND s.name = a.step AND s.status = 'waiting'
WHERE a.status = 'superseded'
  AND NOT EXISTS (SELECT FROM approval_queue p WHERE p.run_id = a.run_id AND p.step = a.step AND p.status = 'pending');

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
