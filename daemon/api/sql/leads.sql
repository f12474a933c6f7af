-- Filters that are null do not count. Every statement is planned anew for its values, so that they leave no trace
-- in the plan. A list picks its rows first and renders only those; `shown` is the row as JSON.

-- name: leads
-- $1 id, $2 pipeline, $3 stage, $4 needs_review, $5 a whole address, $6 a part of some text,
-- $7 and $8 created_at and id of the last one seen, $9 how many.
SELECT l.created_at, l.id, to_json(l)::text AS shown
FROM (
    SELECT id, pipeline, stage, name, company, email, phone, city, region, country, timezone, source, external_id, tier, score,
           scored_at, approved_at, approved_by, data, needs_review, review_reason, do_not_contact, nurture_until,
           conversation_started_at, last_inbound_at, last_outbound_at, run_id, promoted_to, stage_entered_at, deadline_at,
           archived_at, created_at, updated_at, version, stage_seq, deadline_step, moved_by, move_reason, moved_task
    FROM leads
    WHERE ($1::uuid IS NULL OR id = $1)
      AND ($2::text IS NULL OR pipeline = $2)
      AND ($3::text IS NULL OR stage = $3)
      AND ($4::boolean IS NULL OR needs_review = $4)
      AND ($5::text IS NULL OR id = ANY (ARRAY(   -- an array, or the planner guesses so many that it walks by created_at
              SELECT e.id FROM leads e
              WHERE e.email IS NOT NULL AND orchestrator.plain_address(e.email) = orchestrator.plain_address($5)
              UNION ALL
              SELECT p.id FROM leads p
              WHERE p.phone IS NOT NULL AND orchestrator.phone_tail(p.phone) = orchestrator.phone_tail($5)
                AND orchestrator.plain_address(p.phone) = orchestrator.plain_address($5))))
      AND ($6::text IS NULL OR strpos(lower(concat_ws(E'\n', name, company, email, phone, external_id)), lower($6)) > 0)
      AND ($7::timestamptz IS NULL OR (created_at <= $7 AND (created_at < $7 OR id > $8::uuid)))
    ORDER BY created_at DESC, id
    LIMIT $9
) l
ORDER BY l.created_at DESC, l.id

-- name: known_places
-- $1 pipeline: its stages, or those of all of them.
SELECT ARRAY(SELECT name FROM pipelines ORDER BY name) AS pipelines,
       ARRAY(SELECT name FROM stages WHERE $1::text IS NULL OR pipeline = $1 GROUP BY name ORDER BY min(pipeline), min(position)) AS stages

-- name: lead_known
SELECT EXISTS (SELECT FROM leads WHERE id = $1)

-- name: events
-- $1 lead, $2 id of the last one seen, $3 how many.
SELECT e.id, to_json(e)::text AS shown
FROM (
    SELECT id, lead_id, event_type, from_stage, to_stage, metadata, actor, task_id, created_at
    FROM pipeline_events
    WHERE lead_id = $1 AND ($2::bigint IS NULL OR id < $2)
    ORDER BY id DESC
    LIMIT $3
) e
ORDER BY e.id DESC

-- name: request_transition
SELECT orchestrator.request_transition($1, $2, $3, $4)

-- name: override_stage
SELECT orchestrator.override_stage($1, $2, $3, $4)

-- name: why_refused
-- $1 lead, $2 where it should have gone.
SELECT l.pipeline, l.stage,
       EXISTS (SELECT FROM transitions t
               WHERE t.pipeline = l.pipeline AND t.from_stage = l.stage AND t.to_stage = $2) AS legal,
       coalesce(orchestrator.missing_fields(l.data, s.required), '{}') AS missing,
       ARRAY(SELECT a.name FROM stages a WHERE a.pipeline = l.pipeline ORDER BY a.position) AS stages,
       ARRAY(SELECT t.to_stage FROM transitions t
             JOIN stages p ON p.pipeline = t.pipeline AND p.name = t.to_stage
             WHERE t.pipeline = l.pipeline AND t.from_stage = l.stage ORDER BY p.position) AS targets
FROM leads l LEFT JOIN stages s ON s.pipeline = l.pipeline AND s.name = $2
WHERE l.id = $1
