"""Connections to Postgres: hosts, pool, codecs, and the named statements of the `sql/` folders."""

import asyncio
import re
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from importlib import resources
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import asyncpg
import orjson

from daemon.errors import DatabaseUnavailable, SettingsError

if TYPE_CHECKING:
    Connection: TypeAlias = asyncpg.Connection[Any]
else:
    Connection = asyncpg.Connection  # generic in its stubs only

CONNECT_TIMEOUT_S = 4.0
"""Per host. Hosts are walked one by one: asyncpg's own walk shares one time-out and stops at "starting up"."""

DIRECT = {"orchestrator.direct": "on"}
"""A setting of ours that tells whether the settings of a session arrive."""
NOT_KEPT = "unsupported startup parameter"
NO_TRANSACTIONS = "transaction blocks not allowed"
NOT_LET_IN = ("authentication failed", "no such database", "no such user")
"""What PgBouncer says, always with the same SQLSTATE: to settings at the start of a session; with pool_mode = statement
to BEGIN; to those whom it doesn't know."""

DISCONNECTED = (
    OSError,
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.ReadOnlySQLTransactionError,  # the connection sits on a demoted primary
    asyncpg.TooManyConnectionsError,
    TimeoutError,
)
"""What says that the connection is at fault, not the statement."""

CLIENT_CONFUSED = (asyncpg.InterfaceError, asyncpg.InternalClientError, AttributeError)
"""What the client raises when its connection is terminated under it; or for bad input, if that is still open."""

PASSING = {"08", "40", "53", "55", "57", "58"}
"""Classes of SQLSTATE: connection, conflict, resources, lock, intervention, system."""

UNREACHABLE = (*DISCONNECTED, DatabaseUnavailable)
RECONNECT_S = (0.05, 0.1, 0.2, 0.5, 1.0)
"""Pauses between tries to reach the database again."""

DAEMON_SESSION = {
    "application_name": "orchestrator",
    "timezone": "UTC",
    "orchestrator.quiet": "on",  # the daemon wakes itself; its peers see its follow-up tasks at their pulse
    # A queue that is mostly empty has statistics that say so, and the next burst would meet a plan for no rows.
    "plan_cache_mode": "force_generic_plan",
    "enable_seqscan": "off",
    "enable_bitmapscan": "off",
    "enable_mergejoin": "off",
    "enable_hashjoin": "off",
    "enable_material": "off",
    "jit": "off",
    "lock_timeout": "250ms",
    "idle_in_transaction_session_timeout": "15s",
}


def passing(error: Exception) -> bool:
    """Whether the same statement may fare better in a moment."""
    if isinstance(error, asyncpg.InternalClientError | asyncpg.InvalidCachedStatementError | OSError | TimeoutError):
        return True
    return isinstance(error, asyncpg.PostgresError) and str(error.sqlstate or "")[:2] in {
        "08",
        "0A",
        "40",
        "53",
        "55",
        "57",
        "58",
    }


class Statements(Mapping[str, str]):
    """The named statements of one `.sql` file: blocks that begin with `-- name: NAME`."""

    def __init__(self, package: str, file: str) -> None:
        text = resources.files(package).joinpath("sql", file).read_text(encoding="utf-8")
        blocks = re.split(r"^-- name: (\w+)\n", text, flags=re.MULTILINE)[1:]
        self._texts = {name: body.strip() for name, body in zip(blocks[::2], blocks[1::2], strict=True)}

    def __getitem__(self, name: str) -> str:
        return self._texts[name]

    def __iter__(self) -> Any:
        return iter(self._texts)

    def __len__(self) -> int:
        return len(self._texts)


def _decode_jsonb(raw: bytes) -> Any:
    return orjson.loads(raw[1:])


def _encode_jsonb(value: Any) -> bytes:
    return b"\x01" + orjson.dumps(value, default=str)


async def set_codecs(conn: Connection) -> None:
    """Let jsonb travel as Python values (binary format: a version byte, then the text)."""
    await conn.set_type_codec(
        "jsonb", schema="pg_catalog", format="binary", encoder=_encode_jsonb, decoder=_decode_jsonb
    )


def hosts_of(dsn: str) -> list[str]:
    """One DSN per host of a DSN that may list several (`postgresql://h1:5432,h2:5432/db`)."""
    parts = urlsplit(dsn)
    credentials, _, hosts = parts.netloc.rpartition("@")
    prefix = f"{credentials}@" if credentials else ""
    query = [(k, v) for k, v in parse_qsl(parts.query) if k != "target_session_attrs"]
    queries = [
        [*[p for p in query if p[0] != "host"], ("host", h)] for k, v in query if k == "host" for h in v.split(",")
    ]
    return [
        urlunsplit(parts._replace(netloc=prefix + host, query=urlencode(q)))
        for host in hosts.split(",")
        for q in (queries or [query])
    ]


async def _open(dsn: str, session: Mapping[str, str]) -> Connection:
    """A connection with these settings; if they don't arrive, one that gets along without a session."""
    options: dict[str, Any] = {"timeout": CONNECT_TIMEOUT_S, "command_timeout": 60}
    try:
        conn: Connection = await asyncpg.connect(dsn, server_settings={**session, **DIRECT}, **options)
        if await _arrived(conn):
            return conn
        conn.terminate()
    except asyncpg.ProtocolViolationError as error:
        if NOT_KEPT not in str(error):
            raise
    from daemon import pooler  # noqa: PLC0415 - most have none

    return await pooler.connect(dsn, session, **options)


async def _arrived(conn: Connection) -> bool:
    """Whether the session was set as we asked; a pooler may have been told to ignore that. Nothing is prepared."""
    asked = "SELECT WHERE current_setting('orchestrator.direct', true) = 'on'"
    with _ended_by_failure(conn):
        return await conn.execute(asked, timeout=CONNECT_TIMEOUT_S) == "SELECT 1"


@contextmanager
def _ended_by_failure(conn: Connection) -> Iterator[None]:
    try:
        yield
    except CLIENT_CONFUSED as error:
        conn.terminate()
        raise ConnectionResetError(str(error)) from error
    except BaseException:
        conn.terminate()
        raise


async def _connect_writable(dsn: str, session: Mapping[str, str]) -> Connection:
    conn = await _open(dsn, session)
    with _ended_by_failure(conn):
        if await conn.fetchval("SELECT pg_is_in_recovery()", timeout=CONNECT_TIMEOUT_S):
            raise DatabaseUnavailable("is a standby")
        await set_codecs(conn)
    return conn


async def connect(dsn: str, *, session: Mapping[str, str] | None = None) -> Connection:
    """A connection to the first host that is a writable primary."""
    settings = {"search_path": "orchestrator", **(session or {})}
    why = []
    for host_dsn in hosts_of(dsn):
        try:
            return await _connect_writable(host_dsn, settings)
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, DatabaseUnavailable, TimeoutError) as error:
            _require_transactions(host_dsn, error)
            why.append(f"{display(host_dsn)}: {str(error) or type(error).__name__}")
    raise DatabaseUnavailable("can't reach Postgres: " + "; ".join(why))


def _require_transactions(host_dsn: str, error: Exception) -> None:
    if NO_TRANSACTIONS in str(error):
        raise SettingsError(
            f"{display(host_dsn)} pools single statements: set pool_mode = transaction in PgBouncer"
        ) from error


def display(dsn: str) -> str:
    """The DSN as it may be shown: without its password."""
    parts = urlsplit(dsn)
    netloc = re.sub(r":[^:@]*@", "@", parts.netloc)
    query = urlencode([(k, v) for k, v in parse_qsl(parts.query) if k != "password"], safe="/")
    return urlunsplit(parts._replace(netloc=netloc, query=query))


def is_direct(conn: Connection) -> bool:
    """Whether a process of the server is this connection's alone; if not, there is a pooler in between."""
    return type(conn) is asyncpg.Connection


def backends(connections: Iterable[Connection]) -> list[int]:
    """The server's processes behind these connections; what a pooler says they are is made up."""
    return [conn.get_server_pid() for conn in connections if is_direct(conn) and not conn.is_closed()]


class Pool:
    """A few connections that heal: a broken one is thrown away and made anew at its next use."""

    def __init__(self, dsn: str, size: int, *, session: Mapping[str, str] = DAEMON_SESSION) -> None:
        self._dsn, self._session = dsn, session
        self._free: list[Connection] = []
        self._lent: set[Connection] = set()
        self._slots = asyncio.Semaphore(size)

    @asynccontextmanager
    async def acquire(self) -> AsyncIterator[Connection]:
        """Lend a connection; one that failed inside, or was cancelled in mid-transaction, never comes back."""
        async with self._slots:
            conn = await self._take()
            self._lent.add(conn)
            try:
                yield conn
            except DISCONNECTED:
                conn.terminate()
                raise
            except CLIENT_CONFUSED as error:
                # The client's way of saying that the server hung up, or is about to; else it is about bad input.
                if conn.is_closed() or isinstance(error, asyncpg.InternalClientError):
                    conn.terminate()
                    raise ConnectionResetError(str(error)) from error
                raise
            finally:
                self._lent.discard(conn)
                self._give_back(conn)

    async def _take(self) -> Connection:
        while self._free:
            conn = self._free.pop()
            if not conn.is_closed():
                return conn
        return await connect(self._dsn, session=self._session)

    def _give_back(self, conn: Connection) -> None:
        if conn.is_closed() or conn.is_in_transaction():
            conn.terminate()
        else:
            self._free.append(conn)

    def doubt(self) -> list[int]:
        """The path to the server is in doubt (a half-open connection never errs by itself): begin anew everywhere.

        Answers the backends that may still sit there.
        """
        left = backends([*self._free, *self._lent])
        self.close()
        for conn in self._lent:
            conn.terminate()
        return left

    def close(self) -> None:
        """Drop what is idle; connections that are lent out end with their borrower."""
        while self._free:
            self._free.pop().terminate()
