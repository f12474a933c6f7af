-- name: facts
-- All that tells why the lead $1 stands where it stands, in one snapshot. Its row's xmax names the transaction that
-- locks or changes it; of transactions that merely refer to the row (by a foreign key) we know that they hold up nobody.
WITH open_replies AS MATERIALIZED (
    SELECT r AS reply FROM replies r WHERE r.lead_id = $1 AND r.status IN ('received', 'needs_person')
    UNION ALL
    SELECT r FROM replies r JOIN leads l ON l.id = $1
    WHERE r.status = 'received' AND r.lead_id IS NULL
      AND plain_address(r.from_address) IN (plain_address(l.email), plain_address(l.phone))
), keys AS MATERIALIZED (
    SELECT 'lead:' || $1::uuid AS key
    UNION ALL
    SELECT 'reply:' || (reply).id FROM open_replies
), writing AS MATERIALIZED (
    SELECT k.pid, bool_or(k.relation = 'orchestrator.leads'::regclass) AS leads
    FROM pg_locks k
    WHERE k.locktype = 'relation' AND k.mode = 'RowExclusiveLock'
      AND k.database = (SELECT oid FROM pg_database WHERE datname = current_database()) AND k.relation IN ('orchestrator.leads'::regclass,
          'orchestrator.messages'::regclass, 'orchestrator.replies'::regclass, 'orchestrator.approval_queue'::regclass)
    GROUP BY k.pid
)
SELECT l AS lead, orchestrator.clock() AS now, clock_timestamp() AS real_now,
    ARRAY(SELECT x.task FROM keys, LATERAL (
              (SELECT t AS task FROM tasks t WHERE t.status = 'running' AND t.key = keys.key)
              UNION ALL
              (SELECT t FROM tasks t WHERE t.status = 'available' AND t.key = keys.key ORDER BY t.id LIMIT 100)
              UNION ALL
              (SELECT t FROM tasks t WHERE t.status = 'dead' AND t.key = keys.key ORDER BY t.id DESC LIMIT 100)) x) AS tasks,
    ARRAY(SELECT m FROM messages m
          WHERE m.lead_id = l.id AND (m.status IN ('draft', 'awaiting_approval', 'scheduled', 'sending')
                                      OR (m.status <> 'sent' AND coalesce(m.stage_seq, l.stage_seq) = l.stage_seq))
          ORDER BY m.created_at DESC, m.id LIMIT 100) AS messages,
    ARRAY(SELECT reply FROM open_replies LIMIT 100) AS replies,
    ARRAY(SELECT a FROM approval_queue a WHERE a.lead_id = l.id AND a.status = 'pending'
          ORDER BY a.created_at LIMIT 100) AS approvals,
    ARRAY(SELECT c FROM engine_calls c WHERE c.lead_id = l.id AND c.status IN ('reserved', 'unknown')
          ORDER BY c.id DESC LIMIT 100) AS calls,
    ARRAY(SELECT x     -- as they are written, and as they were spelt when a message went out
          FROM (SELECT unnest(ARRAY[l.email, l.phone]) UNION SELECT m.to_address FROM messages m WHERE m.lead_id = l.id) AS u(address),
               orchestrator.exclusions_of(u.address, u.address) AS x
          GROUP BY x
    ) AS exclusions,
    (SELECT coalesce(jsonb_agg(jsonb_build_object('id', w.id, 'host', w.host, 'pid', w.pid, 'expects_lock', w.expects_lock,
                                                  'locked', k.pid IS NOT NULL) ORDER BY w.number), '[]')
     FROM workers w LEFT JOIN pg_locks k ON k.locktype = 'advisory' AND k.classid = 1869767528 AND k.objid::bigint = w.number
          AND k.objsubid = 2 AND k.granted
          AND k.database = (SELECT oid FROM pg_database WHERE datname = current_database())) AS daemons,
    (SELECT jsonb_build_object('pid', k.pid, 'application', a.application_name, 'user', a.usename, 'since', a.xact_start)
     FROM pg_locks k LEFT JOIN pg_stat_activity a USING (pid) LEFT JOIN writing w USING (pid)
     WHERE k.locktype = 'transactionid' AND k.granted AND k.transactionid = l.xmax AND k.pid <> pg_backend_pid()
       AND coalesce(w.leads, true)
       AND (a.xact_start < clock_timestamp() - interval '1 second' OR coalesce(a.application_name, '') NOT LIKE 'orchestrator%')
     LIMIT 1) AS holder,
    (SELECT s FROM sending s WHERE s.stopped_at IS NOT NULL) AS sending,
    (SELECT s.next_slot FROM schedules s WHERE s.name = 'sweep' AND s.enabled) AS next_sweep,
    coalesce(obj_description('orchestrator'::regnamespace, 'pg_namespace'), '') LIKE '%orchestrator sandbox%' AS sandboxed
FROM leads l WHERE l.id = $1
