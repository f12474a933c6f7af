-- name: stand
SELECT checkpoint, status, decided_by FROM approval_queue WHERE id = $1

-- name: decide
-- $1 id, $2 approved or rejected, $3 by whom, $4 why, $5 code. Of several people at once the first has decided; the row's
-- trigger queues what follows.
UPDATE approval_queue SET status = $2, decided_by = $3, comment = coalesce($4, comment),
    payload = CASE WHEN $5::text IS NULL THEN payload ELSE payload || jsonb_build_object('code', $5::text) END
WHERE id = $1 AND status = 'pending' AND (expires_at IS NULL OR expires_at > clock())
RETURNING true
