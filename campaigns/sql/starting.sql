-- name: hold
-- Whoever holds a campaign's row is alone in starting runs of it. `spent`: its budget has paused it, and still does.
SELECT c.id, c.name, c.config, c.status, c.paused_reason, c.resume_at, c.deleted_at IS NOT NULL AS deleted,
       c.status = 'paused' AND coalesce(c.resume_at > orchestrator.clock(), false) AS spent,
       c.status = 'paused' AND c.resume_at IS NULL AS paused
FROM campaigns c WHERE c.id = $1 FOR NO KEY UPDATE

-- name: going_on
-- Asked once the row is ours: an earlier look could miss the run that somebody else has just started.
SELECT EXISTS (SELECT FROM campaign_runs WHERE campaign_id = $1 AND status IN ('running', 'waiting', 'paused'))

-- name: begin
-- A slot that has a row already never gets another.
INSERT INTO campaign_runs (campaign_id, trigger, scheduled_for, inputs, definition, dry_run) VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT (campaign_id, scheduled_for) DO NOTHING
RETURNING id

-- name: invalid
-- $2 why. One that a person has paused or ended stays so.
WITH broken AS (
    UPDATE campaigns SET status = 'error' WHERE id = $1 AND status = 'active'
)
INSERT INTO alerts (type, message, severity, subject, metadata)
SELECT 'CAMPAIGN_INVALID', format('campaign "%s" can''t run any more: %s', c.name, $2::text), 'HIGH', 'campaign:' || c.id, $3
FROM campaigns c WHERE c.id = $1
ON CONFLICT (type, subject) WHERE resolved_at IS NULL DO NOTHING

-- name: mended
UPDATE campaigns SET status = 'active' WHERE id = $1 AND status = 'error'
