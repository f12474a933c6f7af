-- name: resume
-- What a budget has paused goes on when that budget renews.
UPDATE campaigns SET status = 'active' WHERE id IN (
    SELECT id FROM campaigns WHERE status = 'paused' AND resume_at <= orchestrator.clock()
    FOR NO KEY UPDATE SKIP LOCKED)

-- name: unplanned
-- New or edited: their next slot is to be worked out. $1 null: of all campaigns. What somebody holds waits.
SELECT id, schedule_cron AS cron, schedule_timezone AS timezone, schedule_since AS since
FROM campaigns WHERE scheduled AND next_run_at IS NULL AND ($1::uuid[] IS NULL OR id = ANY ($1))
FOR NO KEY UPDATE SKIP LOCKED

-- name: plan
UPDATE campaigns c SET next_run_at = d.at FROM unnest($1::uuid[], $2::timestamptz[]) AS d(id, at) WHERE c.id = d.id

-- name: unreadable
-- A schedule that nobody can read never fires.
WITH d AS (
    SELECT * FROM unnest($1::uuid[], $2::text[]) AS d(id, error)
), broken AS (
    UPDATE campaigns c SET status = 'error' FROM d WHERE c.id = d.id RETURNING c.id, c.name, d.error
)
INSERT INTO alerts (type, message, severity, subject)
SELECT 'CAMPAIGN_INVALID', format('campaign "%s" can''t run any more: its schedule %s', b.name, b.error), 'HIGH', 'campaign:' || b.id
FROM broken b
ON CONFLICT (type, subject) WHERE resolved_at IS NULL DO NOTHING

-- name: due
SELECT id, name, schedule_cron AS cron, schedule_timezone AS timezone, grace_s, next_run_at AS next_slot, orchestrator.clock() AS now
FROM campaigns WHERE scheduled AND next_run_at <= orchestrator.clock()
ORDER BY next_run_at

-- name: hold
-- Whoever holds the row while its slot is still the next one has won it; what somebody else holds is looked at again soon.
SELECT id FROM campaigns
WHERE id = $1 AND scheduled AND next_run_at = $2 AND schedule_cron = $3 AND schedule_timezone = $4
FOR NO KEY UPDATE SKIP LOCKED

-- name: move_on
UPDATE campaigns SET next_run_at = $2 WHERE id = $1

-- name: record
-- A slot without a run: skipped or missed, and why.
INSERT INTO campaign_runs (campaign_id, trigger, scheduled_for, status, completed_at, errors)
VALUES ($1, 'schedule', $2, $3, orchestrator.clock(), jsonb_build_array(jsonb_build_object('step', NULL, 'error', $4::text)))
ON CONFLICT (campaign_id, scheduled_for) DO NOTHING

-- name: stopped
SELECT id, config, schedule_cron AS cron, schedule_timezone AS timezone FROM campaigns WHERE status = 'error' AND deleted_at IS NULL

-- name: mended
UPDATE campaigns SET status = 'active' WHERE id IN (
    SELECT id FROM campaigns WHERE id = ANY ($1) AND status = 'error' FOR NO KEY UPDATE SKIP LOCKED)
