-- name: load
SELECT l.* FROM leads l WHERE l.id = ANY ($1)

-- name: still_due
SELECT id FROM leads WHERE id = ANY ($1) AND deadline_at <= orchestrator.clock()

-- name: entry_cancelled
UPDATE leads SET entry_pending = false WHERE id = $1 AND stage_seq = $2

-- name: lock_declarations
SELECT set_config('lock_timeout', '10s', true), pg_advisory_xact_lock(1869767530)

-- name: sync_pipeline
INSERT INTO pipelines (name, initial, checked) VALUES ($1, $2, $3)
ON CONFLICT (name) DO UPDATE SET initial = excluded.initial, checked = excluded.checked

-- name: sync_stages
INSERT INTO stages (pipeline, name, position, terminal, entry_kind, required, deadlines, counts_silence, on_complete, sweep_step)
SELECT $1, d.name, d.position, d.terminal, d.entry_kind,
       ARRAY(SELECT jsonb_array_elements_text(d.lists -> 'required')),
       ARRAY(SELECT jsonb_array_elements_text(d.lists -> 'deadlines')::interval), d.counts_silence, d.on_complete, d.sweep_step
FROM unnest($2::text[], $3::int[], $4::boolean[], $5::text[], $6::jsonb[], $7::boolean[], $8::text[], $9::text[])
     AS d(name, position, terminal, entry_kind, lists, counts_silence, on_complete, sweep_step)
ON CONFLICT (pipeline, name) DO UPDATE SET position = excluded.position, terminal = excluded.terminal,
    entry_kind = excluded.entry_kind, required = excluded.required, deadlines = excluded.deadlines,
    counts_silence = excluded.counts_silence, on_complete = excluded.on_complete, sweep_step = excluded.sweep_step

-- name: drop_stages
DELETE FROM stages WHERE pipeline = $1 AND name <> ALL ($2)

-- name: sync_transitions
WITH declared AS (
    SELECT * FROM unnest($2::text[], $3::text[]) AS d(from_stage, to_stage)
), gone AS (
    DELETE FROM transitions t WHERE t.pipeline = $1
    AND NOT EXISTS (SELECT FROM declared d WHERE d.from_stage = t.from_stage AND d.to_stage = t.to_stage)
)
INSERT INTO transitions (pipeline, from_stage, to_stage) SELECT $1, from_stage, to_stage FROM declared ON CONFLICT DO NOTHING

-- name: strangers
-- Live leads in stages that are declared no more.
SELECT pipeline, stage, count(*) AS n FROM leads l
WHERE NOT EXISTS (SELECT FROM stages s WHERE s.pipeline = l.pipeline AND s.name = l.stage)
GROUP BY pipeline, stage ORDER BY pipeline, stage

-- name: in_order
-- $1 the id after which, $2 days without an update that are an issue, $3 how many are looked at.
SELECT l.id, l.updated_at < orchestrator.clock() - make_interval(days => $2) AS stale,
       coalesce(NOT s.terminal, false) AND l.archived_at IS NULL
       AND (SELECT t.id FROM tasks t WHERE t.status = 'available' AND t.key = 'lead:' || l.id AND t.dedup_key = 'check:' || l.id) IS NULL
       AS to_check
FROM (SELECT id, pipeline, stage, updated_at, archived_at FROM leads WHERE id > $1 ORDER BY id LIMIT $3) l
LEFT JOIN stages s ON s.pipeline = l.pipeline AND s.name = l.stage
ORDER BY l.id
