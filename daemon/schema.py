"""The schema in the database: made from schema.sql, moved forward by numbered migrations."""

from importlib import resources
from pathlib import Path

from daemon.db import Connection
from daemon.errors import SchemaMismatch

MIGRATION_LOCK = 0x6F726369  # advisory: one migration at a time per database
VERSION = 4


def schema_sql() -> str:
    """The text of schema.sql: beside the package in a checkout, inside it in a wheel."""
    inside = resources.files("daemon").joinpath("schema.sql")
    if inside.is_file():
        return inside.read_text(encoding="utf-8")
    return (Path(__file__).parent.parent / "schema.sql").read_text(encoding="utf-8")


def migrations() -> dict[int, str]:
    """Version -> SQL that leads to it from the one before; there is none to 1, the first release's schema."""
    folder = resources.files("daemon").joinpath("migrations")
    if not folder.is_dir():
        return {}
    files = [f for f in folder.iterdir() if f.name.endswith(".sql")]
    return {int(f.name.split("_")[0]): f.read_text(encoding="utf-8") for f in files}


async def current_version(conn: Connection) -> int:
    """0 for an empty database."""
    if await conn.fetchval("SELECT to_regclass('orchestrator.schema_version')") is None:
        return 0
    return await conn.fetchval("SELECT coalesce(max(version), 0) FROM orchestrator.schema_version")


async def create_schema(conn: Connection) -> bool:
    """Make the schema in a database without one; False if it is there. Several may call at once."""
    async with conn.transaction():
        await conn.execute("SELECT pg_advisory_xact_lock($1)", MIGRATION_LOCK)
        if await current_version(conn):
            return False
        await conn.execute(schema_sql())
        return True


async def migrate(conn: Connection) -> list[int]:
    """Apply what is pending, each in a transaction of its own; returns the versions applied."""
    applied = []
    if await create_schema(conn):
        return [VERSION]
    for version, sql in sorted(migrations().items()):
        async with conn.transaction():
            await conn.execute("SELECT pg_advisory_xact_lock($1)", MIGRATION_LOCK)
            if await current_version(conn) >= version:
                continue
            await conn.execute(sql)
            await conn.execute("INSERT INTO orchestrator.schema_version (version) VALUES ($1)", version)
            applied.append(version)
    return applied


async def require_current(conn: Connection) -> None:
    """Raise unless the database's schema is the one of this version."""
    version = await current_version(conn)
    if version == 0:
        raise SchemaMismatch('the database has no schema: run "orchestrator db init"')
    if version < VERSION:
        raise SchemaMismatch(
            f'the schema is at version {version}, this program needs {VERSION}: run "orchestrator db migrate"'
        )
    if version > VERSION:
        raise SchemaMismatch(
            f"the schema is at version {version}, newer than this program's {VERSION}: upgrade the program"
        )
