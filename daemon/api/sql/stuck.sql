-- $1 pipeline, $2 age beyond which a lead counts as stuck.

-- name: new
SELECT count(*) FROM leads l JOIN pipelines p ON p.name = l.pipeline AND p.initial = l.stage
WHERE l.pipeline = $1 AND l.archived_at IS NULL AND l.stage_entered_at < orchestrator.clock() - $2::interval

-- name: deadline
SELECT count(*) FROM leads l JOIN stages s ON s.pipeline = l.pipeline AND s.name = l.stage
WHERE l.pipeline = $1 AND NOT s.terminal AND l.archived_at IS NULL AND l.deadline_at < orchestrator.clock() - $2::interval

-- name: entry_dead
SELECT count(*) FROM leads l JOIN stages s ON s.pipeline = l.pipeline AND s.name = l.stage
WHERE l.pipeline = $1 AND l.entry_pending AND EXISTS (
    SELECT FROM tasks t WHERE t.status = 'dead' AND t.key = 'lead:' || l.id AND t.kind = s.entry_kind
      AND t.created_at <= clock_timestamp() - $2::interval)

-- name: review
SELECT count(*) FROM leads WHERE pipeline = $1 AND needs_review AND updated_at < orchestrator.clock() - $2::interval
