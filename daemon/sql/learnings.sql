-- name: learnings
-- $1 agents: what is active, written by people; no more of it than the settings may ask for.
SELECT a.agent, said.feedback, said.effect
FROM unnest($1::text[]) AS a(agent)
CROSS JOIN LATERAL (
    SELECT left(f.feedback, 20000) AS feedback, left(f.effect, 20000) AS effect, f.created_at, f.id
    FROM agent_feedback f
    WHERE f.agent = a.agent AND f.active AND f.created_by NOT LIKE 'system (%'
    ORDER BY f.created_at DESC, f.id
    LIMIT 100) AS said
ORDER BY said.created_at DESC, said.id
