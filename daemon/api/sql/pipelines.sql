-- name: pipelines
-- $1 name, $2 name of the last one seen, $3 how many.
SELECT p.name, json_build_object(
    'name', p.name, 'initial', p.initial, 'checked', p.checked,
    'stages', (SELECT coalesce(json_agg(json_build_object(
                   'name', s.name, 'position', s.position, 'terminal', s.terminal,
                   'to', ARRAY(SELECT t.to_stage FROM transitions t JOIN stages o ON o.pipeline = t.pipeline AND o.name = t.to_stage
                               WHERE t.pipeline = s.pipeline AND t.from_stage = s.name ORDER BY o.position),
                   'entry_kind', s.entry_kind, 'required', s.required,
                   'deadlines', ARRAY(SELECT extract(epoch FROM d.age)::float8 FROM unnest(s.deadlines) WITH ORDINALITY AS d(age, n) ORDER BY d.n),
                   'counts_silence', s.counts_silence, 'on_complete', s.on_complete) ORDER BY s.position), '[]')
               FROM stages s WHERE s.pipeline = p.name))::text AS shown
FROM pipelines p
WHERE ($1::text IS NULL OR p.name = $1) AND ($2::text IS NULL OR p.name > $2)
ORDER BY p.name
LIMIT $3

-- name: known
SELECT EXISTS (SELECT FROM pipelines WHERE name = $1)

-- name: counts
SELECT stage, n FROM stage_sizes WHERE pipeline = $1 ORDER BY position

-- name: value
-- $1 pipeline, $2 our share of what is saved. A figure that is no number counts as none.
SELECT coalesce(sum(l.offer) FILTER (WHERE NOT s.terminal), 0) AS open,
       coalesce(sum(l.offer) FILTER (WHERE l.stage = 'COMPLETED'), 0) AS completed,
       coalesce(sum(l.low) FILTER (WHERE l.tier = 'high' AND NOT s.terminal), 0) * $2::float8::numeric AS open_low,
       coalesce(sum(l.mid) FILTER (WHERE l.tier = 'high' AND NOT s.terminal), 0) * $2::float8::numeric AS open_mid,
       coalesce(sum(l.high) FILTER (WHERE l.tier = 'high' AND NOT s.terminal), 0) * $2::float8::numeric AS open_high,
       coalesce(sum(l.low) FILTER (WHERE l.tier = 'high' AND l.stage = 'won'), 0) * $2::float8::numeric AS won_low,
       coalesce(sum(l.mid) FILTER (WHERE l.tier = 'high' AND l.stage = 'won'), 0) * $2::float8::numeric AS won_mid,
       coalesce(sum(l.high) FILTER (WHERE l.tier = 'high' AND l.stage = 'won'), 0) * $2::float8::numeric AS won_high
FROM (SELECT stage, tier, figure(data, 'offer_amount') AS offer, figure(data, 'savings_low') AS low,
             figure(data, 'savings_mid') AS mid, figure(data, 'savings_high') AS high
      FROM leads WHERE pipeline = $1 AND data ?| ARRAY['offer_amount', 'savings_low', 'savings_mid', 'savings_high']) l
JOIN stages s ON s.pipeline = $1 AND s.name = l.stage

-- name: activity
-- $1 pipeline, $2 id of the last one seen, $3 how many.
SELECT e.id, to_json(e)::text AS shown
FROM (
    SELECT v.id, v.lead_id, v.event_type, v.from_stage, v.to_stage, v.metadata, v.actor, v.task_id, v.created_at
    FROM pipeline_events v JOIN leads l ON l.id = v.lead_id
    WHERE l.pipeline = $1 AND ($2::bigint IS NULL OR v.id < $2)
    ORDER BY v.id DESC
    LIMIT $3
) e
ORDER BY e.id DESC
