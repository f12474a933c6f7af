-- Version 3 to 4: exclusions of numbers without their country. What each object is for stands in schema.sql.

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
