"""The way to an engine that is a program: started for each call, limited, and killed whole."""

import asyncio
import contextlib
import os
import shutil
import signal
from collections.abc import Iterable
from dataclasses import replace
from typing import cast

from daemon import answers
from daemon.answers import Answer, Failed, Unknown
from daemon.transport.documents import as_json, read_object
from daemon.transport.request import NO_REQUEST, Health, Progress, Request, explain

STDOUT, STDERR = 1, 2
OUTPUT_LIMITS = {STDOUT: 2**20, STDERR: 64 * 2**10}
LAST_LINES = 5
TEMPORARY_FAILURE = os.EX_TEMPFAIL
ENVIRONMENT = (
    *("PATH", "HOME", "USER", "LOGNAME", "SHELL", "TMPDIR", "TZ", "LANG", "LC_ALL", "LC_CTYPE"),
    *("XDG_CONFIG_HOME", "XDG_CACHE_HOME", "SSL_CERT_FILE", "SSL_CERT_DIR"),
)
"""What a program inherits; it is told the rest."""
_LEFTOVERS_S = 1.0


class Command:
    """Runs the engine as a program: one JSON object in, one out.

    Exit 75 (EX_TEMPFAIL) is a failure worth a retry, any other exit but 0 one that is not. Death by a signal, too
    much output and time-out leave the outcome unknown.
    """

    def __init__(self, command: Iterable[str], token: str, claude_code_path: str) -> None:
        self._command = tuple(command)
        self._told = {"ENGINE_TOKEN": token, "CLAUDE_CODE_PATH": claude_code_path}

    async def exchange(self, request: Request) -> Answer:
        """Make the call and say what became of it."""
        if request.url is not None:
            return Failed("a command engine has no URLs", retryable=False)
        progress = Progress(sent=False)
        try:
            async with asyncio.timeout(request.timeout_s):
                return await self._run(_question(request), request.traceparent, progress)
        except TimeoutError:
            return progress.lost(f"no answer within {request.timeout_s:g} s; killed")
        except OSError as error:
            absent = isinstance(error, FileNotFoundError | PermissionError | NotADirectoryError)
            return progress.lost(explain(error), retryable=not absent)
        except NO_REQUEST as error:
            return progress.lost(f"the request can't be sent: {explain(error)}", retryable=False)

    async def health(self) -> Health:
        """Whether there is such a program."""
        found = shutil.which(self._command[0])
        return Health(found is not None, "command found" if found else f"no command {self._command[0]}", 0.0)

    async def _run(self, question: bytes, traceparent: str, progress: Progress) -> Answer:
        loop = asyncio.get_running_loop()
        environment = self._environment(traceparent)
        transport, child = await loop.subprocess_exec(_Child, *self._command, start_new_session=True, env=environment)
        try:
            progress.sent = True
            child.ask(question)
            await child.ended
            return _verdict(child, transport.get_returncode())
        finally:
            if transport.get_returncode() is None:
                _kill_group(transport.get_pid())
            transport.close()

    def _environment(self, traceparent: str) -> dict[str, str]:
        told = {**self._told, "TRACEPARENT": traceparent}
        inherited = {name: os.environ[name] for name in ENVIRONMENT if name in os.environ}
        return inherited | {name: value for name, value in told.items() if value}


class _Child(asyncio.SubprocessProtocol):
    """Listens to the program until it has ended or said too much."""

    def __init__(self) -> None:
        self.said = {STDOUT: bytearray(), STDERR: bytearray()}
        self.flooded = False
        self.ended = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.SubprocessTransport", transport)

    def ask(self, question: bytes) -> None:
        """Hands over the one object on stdin."""
        stdin = cast("asyncio.WriteTransport", self._transport.get_pipe_transport(0))
        stdin.write(question)
        stdin.write_eof()

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        self.said[fd] += data
        self.flooded = self.flooded or len(self.said[fd]) > OUTPUT_LIMITS[fd]
        if self.flooded:
            self._end()

    def process_exited(self) -> None:
        _kill_group(self._transport.get_pid())  # what it left behind would hold the pipes open
        asyncio.get_running_loop().call_later(_LEFTOVERS_S, self._end)

    def connection_lost(self, exc: Exception | None) -> None:
        self._end()

    def _end(self) -> None:
        if not self.ended.done():
            self.ended.set_result(None)


def _question(request: Request) -> bytes:
    return as_json(
        {
            "operation": request.operation,
            "prompt": request.prompt,
            "request": request.body,
            "idempotency_key": request.key,
        }
    )


def _verdict(child: _Child, code: int | None) -> Answer:
    if child.flooded:
        return Unknown("it wrote more than it may; killed")
    if code is None or code < 0:
        return Unknown(f"ended by signal {-code}" if code else "ended without an exit code")
    if code:
        last_words = child.said[STDERR].decode("utf-8", "replace").splitlines()[-LAST_LINES:]
        return Failed(f"exit {code}: {' '.join(last_words)}", retryable=code == TEMPORARY_FAILURE)
    answer = answers.read_result(read_object(bytes(child.said[STDOUT])), 200)
    return replace(answer, http_status=None) if isinstance(answer, Unknown) else answer


def _kill_group(leader: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)
