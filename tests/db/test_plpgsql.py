"""Every PL/pgSQL function is read by plpgsql_check, which alone sees a wrong column in a trigger that never ran.

It needs PostgreSQL 15 with that extension (Debian: postgresql-15-plpgsql-check; `make test` installs it where it can).
"""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from daemon import schema
from daemon.db import Connection, connect
from daemon.embedded import programs
from tests.support.postgres import serve

EXTENSION = "/usr/share/postgresql/{}/extension/plpgsql_check.control"
FINDINGS = """
SELECT p.oid::regprocedure || coalesce(' on ' || t.tgrelid::regclass, '') AS place, f.lineno, f.level, f.message
FROM pg_proc p
JOIN pg_language l ON l.oid = p.prolang AND l.lanname = 'plpgsql'
LEFT JOIN pg_trigger t ON t.tgfoid = p.oid
CROSS JOIN LATERAL plpgsql_check_function_tb(
    p.oid, coalesce(t.tgrelid, 0), newtable => t.tgnewtable, oldtable => t.tgoldtable,
    extra_warnings => false, performance_warnings => false) AS f
WHERE p.pronamespace = 'orchestrator'::regnamespace AND (p.prorettype <> 'trigger'::regtype OR t.oid IS NOT NULL)
"""
BROKEN = """
CREATE FUNCTION broken() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.name = 'never' THEN
        NEW.no_such_column := 1;
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER broken BEFORE UPDATE ON leads FOR EACH ROW EXECUTE FUNCTION broken();
"""


def _able() -> list[programs.Installation]:
    return [one for one in programs.installations() if Path(EXTENSION.format(one.major)).exists()]


@pytest.fixture
async def checker(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Connection]:
    """The schema on a server that has the extension."""
    able = _able()
    if not able:
        pytest.skip(
            "!!! NOT CHECKED: no PostgreSQL with plpgsql_check; as root: apt-get install postgresql-15-plpgsql-check"
        )
    monkeypatch.setattr(programs, "installations", lambda: iter(able))
    home = tmp_path_factory.mktemp("checker")
    with serve(home) as server:
        conn = await connect(server.dsn)
        await conn.execute("CREATE EXTENSION plpgsql_check SCHEMA pg_catalog")
        await schema.create_schema(conn)
        yield conn
        await conn.close()


async def _findings(conn: Connection) -> list[str]:
    return [f"{r['place']}:{r['lineno']}: {r['level']}: {r['message']}" for r in await conn.fetch(FINDINGS)]


async def test_nothing_is_wrong_and_what_is_wrong_would_be_found(checker: Connection) -> None:
    assert await _findings(checker) == []
    await checker.execute(BROKEN)
    [found] = await _findings(checker)
    assert "broken() on leads" in found
    assert "no_such_column" in found
