-- What a person may paste into psql; here so that a test prepares each of them. Placeholders are filled in as literals.

-- name: set_phone
UPDATE orchestrator.leads SET phone = '+…' WHERE id = $1

-- name: set_email
UPDATE orchestrator.leads SET email = '…' WHERE id = $1

-- name: add_data
UPDATE orchestrator.leads SET data = data || $2 WHERE id = $1

-- name: check_lead
SELECT orchestrator.enqueue('lead.check', jsonb_build_object('lead_id', $1::text), 'lead:' || $1)

-- name: set_deadline
UPDATE orchestrator.leads SET deadline_at = orchestrator.clock() + interval '1 day' WHERE id = $1

-- name: resolve_review
UPDATE orchestrator.leads SET needs_review = false, review_reason = NULL WHERE id = $1

-- name: allow_contact
UPDATE orchestrator.leads SET do_not_contact = false WHERE id = $1

-- name: lift_exclusion
DELETE FROM orchestrator.email_exclusions WHERE address = $1

-- name: unarchive
UPDATE orchestrator.leads SET archived_at = NULL WHERE id = $1

-- name: send_message
UPDATE orchestrator.messages SET status = 'scheduled' WHERE id = $1

-- name: send_message_now
UPDATE orchestrator.messages SET send_at = orchestrator.clock() WHERE id = $1

-- name: cancel_message
UPDATE orchestrator.messages SET status = 'cancelled' WHERE id = $1

-- name: approve
UPDATE orchestrator.approval_queue SET status = 'approved' WHERE id = $1

-- name: reply_handled
UPDATE orchestrator.replies SET status = 'routed' WHERE id = $1

-- name: end_session
SELECT pg_terminate_backend($1)
