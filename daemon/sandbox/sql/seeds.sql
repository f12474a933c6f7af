-- name: is_empty
SELECT NOT EXISTS (SELECT FROM orchestrator.leads)

-- name: insert
INSERT INTO orchestrator.leads (stage, name, phone, city, country, source, external_id, data, deadline_at)
SELECT s.stage, s.name, s.phone, s.city, s.country, 'sandbox', s.external_id, s.data,
       orchestrator.clock() + make_interval(secs => s.due_s)
FROM jsonb_to_recordset($1::jsonb)
     AS s(stage text, name text, phone text, city text, country text, external_id text, data jsonb, due_s float8)
