"""The README's tour, done word for word as a newcomer would: two terminals, a fresh home, hardly a program in PATH."""

import asyncio
import fcntl
import os
import pty
import re
import shutil
import signal
import struct
import sys
import termios
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import pytest

from tests.support.commands import free_port
from tests.support.documents import ROOT, Block, blocks, difference
from tests.support.processes import until

README = blocks(ROOT / "README.md")
PROGRAMS = ("bash", "curl", "grep", "sh", "env")
"""All that a newcomer's machine needs besides Python; no psql among them."""
READS = re.compile(r"\s*(SELECT|WITH)\b", re.IGNORECASE)
ENDED = re.compile(rb"\n<<(\d+)>>\n")
PATIENCE_S = 60.0
pytestmark = pytest.mark.timeout(400)


@dataclass(slots=True)
class Machine:
    """A newcomer's: a checkout, the few programs in PATH, a daemon's terminal and a second one."""

    checkout: Path
    port: int = field(default_factory=free_port)
    screen: bytearray = field(default_factory=bytearray)
    shell: "asyncio.subprocess.Process" = field(init=False)
    blocks_run: int = 0

    def set_up(self) -> None:
        """What `make run` would have installed."""
        programs, ours = self.checkout / "programs", self.checkout / ".venv" / "bin"
        for folder in (programs, ours):
            folder.mkdir(parents=True)
        for name in PROGRAMS:
            (programs / name).symlink_to(shutil.which(name) or f"/no/{name}")
        _script(ours / "orchestrator", f'exec {sys.executable} -m daemon "$@"')
        _script(programs / "make", f'[ "$*" = run ] && exec .venv/bin/{_made("run")}')

    @property
    def environ(self) -> dict[str, str]:
        """Nothing of the tests' own but where the packages are; a port of our own, for 3020 may be taken."""
        kept = {name: os.environ[name] for name in ("HOME", "LANG", "USER") if name in os.environ}
        ours = {"PYTHONPATH": str(self._packages), "ORCHESTRATOR_API__PORT": str(self.port), "TERM": "xterm"}
        return {**kept, **ours, "PATH": str(self.checkout / "programs"), "PYTHONDONTWRITEBYTECODE": "1"}

    @property
    def _packages(self) -> Path:
        return self.checkout if (self.checkout / "daemon").exists() else ROOT

    # -- the first terminal: the daemon

    @asynccontextmanager
    async def daemon(self, block: Block) -> AsyncIterator[None]:
        """The daemon, started as the block says, until the end; it is ready."""
        mine, its = pty.openpty()
        fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 200, 0, 0))
        process = await asyncio.create_subprocess_exec(
            str(self.checkout / "programs" / "bash"), "-c", block.text, cwd=self.checkout, env=self.environ,
            stdin=its, stdout=its, stderr=its, start_new_session=True,
        )  # fmt: skip
        os.close(its)
        os.set_blocking(mine, False)
        loop = asyncio.get_running_loop()
        loop.add_reader(mine, self._watch, mine)
        try:
            await until(lambda: self._ready(process), PATIENCE_S, f"a daemon that is ready; it said: {self.screen!r}")
            yield
        finally:
            await _end(process)
            loop.remove_reader(mine)
            os.close(mine)

    def _watch(self, terminal: int) -> None:
        try:
            self.screen.extend(os.read(terminal, 1 << 16))
        except OSError:
            asyncio.get_running_loop().remove_reader(terminal)

    async def _ready(self, process: "asyncio.subprocess.Process") -> bool:
        assert process.returncode is None, f"it ended with {process.returncode}: {self.screen.decode()}"
        try:
            async with aiohttp.request("GET", f"http://localhost:{self.port}/readyz") as answer:
                return answer.status == 200
        except aiohttp.ClientConnectionError:
            return False

    # -- the second terminal: whatever the reader types

    @asynccontextmanager
    async def terminal(self) -> AsyncIterator[None]:
        """A shell that remembers what it was told."""
        self.shell = await asyncio.create_subprocess_exec(
            str(self.checkout / "programs" / "bash"), "--norc", cwd=self.checkout, env=self.environ,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip
        try:
            yield
        finally:
            await _end(self.shell)

    async def run(self, block: Block) -> None:
        """Type it, and see what is shown."""
        where = f"README.md:{block.line}: {block.text}"
        if block.marked("again"):
            assert block.language == "sh" or READS.match(block.text), f"{where} doesn't only look"
        said = [""]

        async def as_shown() -> bool:
            code, said[0] = await self._type(block)
            refused = code != 0 or "ERROR:" in said[0]
            wrong = refused != block.marked("fails") or (block.shown and difference(block.shown, said[0]))
            assert block.marked("again") or not wrong, f"{where} said {code}:\n{said[0]}\nnot: {wrong}"
            return not wrong

        try:
            await until(as_shown, PATIENCE_S, where, pause=0.2)
        except AssertionError as never:
            raise AssertionError(f"{never}\nit said: {said[0]}\nnot: {block.shown and block.shown.text}") from None

    async def _type(self, block: Block) -> tuple[int, str]:
        """The exit code and what was said."""
        assert self.shell.stdin is not None
        assert self.shell.stdout is not None
        self.blocks_run += 1
        text = block.text.replace("localhost:3020", f"localhost:{self.port}")
        if block.marked("from the screen"):
            text = self._from_screen(text)
        file = self.checkout / f"block-{self.blocks_run}"
        file.write_text(text)
        command = (
            f"source ./{file.name} </dev/null" if block.language == "sh" else f"orchestrator db shell <{file.name}"
        )
        self.shell.stdin.write(f"{command}; printf '\\n<<%s>>\\n' $?\n".encode())
        said = b""
        async with asyncio.timeout(PATIENCE_S):
            while not (end := ENDED.search(said)):
                said += await self.shell.stdout.read(1 << 16) or b"\n<<99>>\n"
        return int(end[1]), said[: end.start()].decode()

    def _from_screen(self, assignment: str) -> str:
        """NAME=VALUE with the value that the screen shows beside that name."""
        name, _, example = assignment.strip().partition("=")
        path = urlsplit(example.split()[0]).path
        seen = self.screen.decode(errors="replace")
        shown = re.search(rf"{name}\s+(http://\S+?{re.escape(path)})", seen, re.IGNORECASE)
        assert shown, f"the screen shows no {name}: {seen!r}"
        return f"{name}={shown[1]}"


def _script(file: Path, line: str) -> None:
    file.write_text(f"#!/bin/sh\n{line}\n")
    file.chmod(0o755)


def _made(target: str) -> str:
    """What `make TARGET` runs in the end."""
    recipe = re.search(rf"^{target}: setup\n\t@exec \$\(BIN\)/(.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert recipe, f"the Makefile makes no {target}"
    return recipe[1]


async def _end(process: "asyncio.subprocess.Process") -> None:
    if process.returncode is None:
        os.killpg(process.pid, signal.SIGTERM)
    try:
        async with asyncio.timeout(30.0):
            await process.wait()
    except TimeoutError:
        os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


def tour(section: str) -> list[Block]:
    """What is to be done in that section, in order."""
    return [b for b in README if b.section == section and b.language in ("sh", "sql") and not b.marked("not here")]


async def walk(machine: Machine, steps: list[Block], parts: AsyncExitStack) -> None:
    """Do one after the other."""
    for block in steps:
        if block.marked("start"):
            await parts.enter_async_context(machine.daemon(block))
        else:
            await machine.run(block)


async def test_the_tour(home: Path) -> None:
    machine = Machine(home)
    machine.set_up()
    async with AsyncExitStack() as parts:
        await parts.enter_async_context(machine.terminal())
        await walk(machine, tour("Five minutes"), parts)
    assert machine.blocks_run >= len(tour("Five minutes")) - 1


async def test_a_pipeline_of_ones_own(home: Path) -> None:
    """In a copy of the packages: one new file, one registration."""
    machine = Machine(home)
    machine.set_up()
    for package in ("daemon", "handlers", "campaigns"):
        shutil.copytree(ROOT / package, home / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "schema.sql", home)
    [written] = [b for b in README if b.marks and b.marks[0].startswith("file ")]
    name = written.marks[0].removeprefix("file ")
    (home / name).write_text(written.text)
    lines = [
        line for line in written.text.splitlines() if line.strip() and not line.startswith(("import", "from", '"""'))
    ]
    assert len(lines) <= 34, f"thirty lines, it says: {len(lines)}"
    _register(home / "handlers" / "registry.py", Path(name).stem, "SURVEY")
    async with AsyncExitStack() as parts:
        await parts.enter_async_context(machine.terminal())
        await machine.run(Block("sh", 'export PATH="$PWD/.venv/bin:$PATH"\n', 0))
        await walk(machine, tour("A pipeline of your own, in thirty lines"), parts)


def _register(registry: Path, module: str, name: str) -> None:
    """Import it there and add it to PIPELINES, as the README says."""
    source, imported = registry.read_text(), f"from handlers.{module} import {name}"
    source, times = re.subn(r"^(PIPELINES\b.+=) \((.*?),?\)$", rf"\1 (\2, {name})", source, flags=re.MULTILINE)
    assert times == 1, "PIPELINES is no tuple of one line any more"
    registry.write_text(
        source.replace("from handlers.pipeline import", f"{imported}\nfrom handlers.pipeline import", 1)
    )
