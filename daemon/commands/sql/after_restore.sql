-- Nothing is sent until a person says so. A backup of an earlier version has no such table: its migration keeps this one.
CREATE TABLE IF NOT EXISTS orchestrator.sending (
    one        boolean PRIMARY KEY DEFAULT true CHECK (one),
    stopped_at timestamptz,
    stopped_by text,
    reason     text,
    CHECK (stopped_at IS NULL OR reason IS NOT NULL)
);
INSERT INTO orchestrator.sending (stopped_at, stopped_by, reason) VALUES (orchestrator.clock(), session_user, 'restored from a backup')
ON CONFLICT (one) DO UPDATE SET stopped_at = excluded.stopped_at, stopped_by = excluded.stopped_by, reason = excluded.reason;

-- A backup doesn't know what was sent after it was made.
UPDATE orchestrator.messages SET status = 'awaiting_approval', reason = 'restored from a backup: decide again'
WHERE status = 'scheduled' AND send_at <= orchestrator.clock();
UPDATE orchestrator.messages SET status = 'unknown', reason = 'restored from a backup: it was being sent'
WHERE status = 'sending';
