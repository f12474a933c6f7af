-- name: stages_of
-- $1 pipeline; no stages if there is no such one.
SELECT (SELECT array_agg(name ORDER BY position) FROM stages WHERE pipeline = $1) AS stages,
       ARRAY(SELECT name FROM pipelines ORDER BY name) AS pipelines

-- name: known_as
-- $1 pipeline, $2 source, $3 external_id, $4 a lead that may have them itself.
SELECT id FROM leads
WHERE pipeline = $1 AND source IS NOT DISTINCT FROM $2 AND external_id = $3 AND id IS DISTINCT FROM $4
UNION ALL
SELECT into_id FROM merged_leads
WHERE pipeline = $1 AND source IS NOT DISTINCT FROM $2 AND external_id = $3
LIMIT 1

-- name: create
INSERT INTO leads (pipeline, stage, name, company, email, phone, city, region, country, timezone, source, external_id, tier, score,
                   data, do_not_contact, nurture_until, deadline_at, moved_by)
SELECT d.pipeline, d.stage, d.name, d.company, d.email, d.phone, d.city, d.region, d.country, d.timezone, d.source, d.external_id,
       d.tier, d.score, coalesce(d.data, '{}'), coalesce(d.do_not_contact, false), d.nurture_until, d.deadline_at, d.moved_by
FROM jsonb_to_record($1) AS d(pipeline text, stage text, name text, company text, email text, phone text, city text, region text,
     country text, timezone text, source text, external_id text, tier text, score numeric, data jsonb, do_not_contact boolean,
     nurture_until timestamptz, deadline_at timestamptz, moved_by text)
ON CONFLICT (pipeline, source, external_id) WHERE external_id IS NOT NULL DO NOTHING
RETURNING id

-- name: held
SELECT pipeline, source, external_id, country, do_not_contact, do_not_contact AS was_do_not_contact
FROM leads WHERE id = $1 FOR NO KEY UPDATE

-- name: change
-- $2 the fields that were given; a null in `data` takes its key out.
UPDATE leads l SET
    name = CASE WHEN given.fields ? 'name' THEN given.fields ->> 'name' ELSE l.name END,
    company = CASE WHEN given.fields ? 'company' THEN given.fields ->> 'company' ELSE l.company END,
    email = CASE WHEN given.fields ? 'email' THEN given.fields ->> 'email' ELSE l.email END,
    phone = CASE WHEN given.fields ? 'phone' THEN given.fields ->> 'phone' ELSE l.phone END,
    city = CASE WHEN given.fields ? 'city' THEN given.fields ->> 'city' ELSE l.city END,
    region = CASE WHEN given.fields ? 'region' THEN given.fields ->> 'region' ELSE l.region END,
    country = CASE WHEN given.fields ? 'country' THEN given.fields ->> 'country' ELSE l.country END,
    timezone = CASE WHEN given.fields ? 'timezone' THEN given.fields ->> 'timezone' ELSE l.timezone END,
    source = CASE WHEN given.fields ? 'source' THEN given.fields ->> 'source' ELSE l.source END,
    external_id = CASE WHEN given.fields ? 'external_id' THEN given.fields ->> 'external_id' ELSE l.external_id END,
    tier = CASE WHEN given.fields ? 'tier' THEN given.fields ->> 'tier' ELSE l.tier END,
    score = CASE WHEN given.fields ? 'score' THEN (given.fields ->> 'score')::numeric ELSE l.score END,
    data = CASE WHEN given.fields ? 'data'
                THEN (l.data || (given.fields -> 'data')) - ARRAY(SELECT key FROM jsonb_each(given.fields -> 'data') WHERE value = 'null')
                ELSE l.data END,
    do_not_contact = l.do_not_contact OR coalesce((given.fields ->> 'do_not_contact')::boolean, false),
    nurture_until = CASE WHEN given.fields ? 'nurture_until' THEN (given.fields ->> 'nurture_until')::timestamptz ELSE l.nurture_until END,
    deadline_at = CASE WHEN given.fields ? 'deadline_at' THEN (given.fields ->> 'deadline_at')::timestamptz ELSE l.deadline_at END
FROM (SELECT $2::jsonb AS fields) AS given
WHERE l.id = $1

-- name: resolve_review
SELECT resolve_review($1, $2, $3)

-- name: do_not_contact
UPDATE leads SET do_not_contact = true WHERE id = $1 AND NOT do_not_contact

-- name: merge
SELECT merge_leads($1, $2, $3)

-- name: patiently
SELECT set_config('statement_timeout', '55s', true)
