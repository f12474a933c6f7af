-- name: pipeline
INSERT INTO orchestrator.pipelines (name, initial, checked) VALUES ($1, $2, $3::text[])

-- name: stage
INSERT INTO orchestrator.stages (pipeline, name, position, terminal, entry_kind, required, deadlines, counts_silence, on_complete, sweep_step)
VALUES ($1, $2, $3, $4, $5, $6::text[], $7::interval[], $8, $9, $10)

-- name: transition
INSERT INTO orchestrator.transitions (pipeline, from_stage, to_stage) VALUES ($1, $2, $3)
