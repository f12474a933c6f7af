SET LOCAL lock_timeout = '5s';
SET LOCAL client_min_messages = 'warning';
DROP SCHEMA IF EXISTS orchestrator CASCADE;
