
-- A backup doesn't know what was sent after it was made.
UPDATE orchestrator.messages SET status = 'awaiting_approval', reason = 'restored from a backup: decide again'
WHERE status = 'scheduled' AND send_at <= orchestrator.clock();
UPDATE orchestrator.messages SET status = 'unknown', reason = 'restored from a backup: it was being sent'
WHERE status = 'sending';
