"""The documents say what is so: their commands, settings, queries, links, tables and made blocks against the code."""

import ast
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest
import typer
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from daemon.cli import application
from daemon.db import Connection
from daemon.errors import SettingsError
from daemon.metrics import Metrics
from daemon.settings import describe, load_settings
from tests.support.documents import DOCUMENTS, ROOT, Block, blocks, drifted

TEXTS = {document.name: document.read_text(encoding="utf-8") for document in DOCUMENTS}
OPERATIONS = blocks(ROOT / "deploy" / "OPERATIONS.md")
PACKAGES = ("daemon", "handlers", "campaigns")
ENGINE_FIELDS = r"__(URL|TOKEN|TIMEOUT_S|MAX_CONCURRENCY|RATE_PER_S|IDEMPOTENT|COST_PER_CALL|DAILY_BUDGET|COMMAND)\b"


def one_line(block: Block) -> str:
    return f"line {block.line}"


# -- made blocks, links


def test_blocks_that_are_made_from_code_are_as_the_code_makes_them() -> None:
    assert list(drifted()) == [], "make them anew: .venv/bin/python -m tests.support.documents"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.name)
def test_links_lead_somewhere(document: Path) -> None:
    links = [link for link in re.findall(r"\]\(([^)#]+)", TEXTS[document.name]) if "://" not in link]
    assert [link for link in links if not (document.parent / link).exists()] == []


def test_every_promise_names_its_proof() -> None:
    promises = re.findall(r"^\| (\d+) \|.*\| (.*) \|$", TEXTS["README.md"], re.MULTILINE)
    assert [int(number) for number, _ in promises] == list(range(1, len(promises) + 1))
    assert len(promises) >= 15
    for number, proofs in promises:
        files = re.findall(r"\]\((tests/[^)]+)\)", proofs)
        assert files, f"promise {number} has no proof"
        assert all("def test_" in (ROOT / file).read_text() for file in files)


# -- commands and settings


def commands() -> dict[str, set[str]]:
    """Each command, as it is typed, with its options."""
    root = typer.main.get_command(application([]))
    found: dict[str, set[str]] = {}
    for name, command in root.commands.items():  # type: ignore[attr-defined] # typer says Command of a Group
        for sub, one in getattr(command, "commands", {"": command}).items():
            found[f"{name} {sub}".strip()] = {option for parameter in one.params for option in parameter.opts}
    return found


COMMANDS = commands()


def said() -> Iterator[tuple[str, str]]:
    """Every `orchestrator …` in a document: in a block's line, or between backquotes."""
    for name, text in TEXTS.items():
        plain = re.sub(r"^<!--.*-->$", "", text, flags=re.MULTILINE)
        for found in re.finditer(r"(?<![./\w])orchestrator ((?:[a-z][a-z-]*)(?: [^`\n#;&|)]*)?)", plain):
            yield name, found[1].strip()


def test_every_command_in_the_documents_exists() -> None:
    groups = {command.split()[0] for command in COMMANDS}
    checked = 0
    for name, words in said():
        if words.split()[0] not in groups:
            continue  # "orchestrator sandbox" and the like are prose
        checked += 1
        names = [words.split()[0]]
        if names[0] not in COMMANDS:
            names = [f"{names[0]} {sub}" for sub in re.findall(r"(?:^\S+ | · )([a-z]+)", words)]
            assert names, f"{name}: orchestrator {words}"
        assert set(names) <= COMMANDS.keys(), f"{name}: orchestrator {words}"
        options = set(re.findall(r"(?<!\S)\[?(--[a-z][a-z-]*)", words.partition(" -- ")[0]))
        assert options <= set().union(*(COMMANDS[one] for one in names)), f"{name}: orchestrator {words}"
    assert checked > 30


def test_the_readme_lists_every_command() -> None:
    table = re.findall(r"^\| `orchestrator ([a-z-]+)(?: ([a-z ·]+?))?(?: \[.*)?` \|", TEXTS["README.md"], re.MULTILINE)
    listed = {f"{group} {sub}".strip() for group, subs in table for sub in (subs or "").split(" · ")}
    assert listed == COMMANDS.keys()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.name)
def test_every_setting_in_the_documents_is_one(document: Path) -> None:
    names = set(re.findall(r"\bORCHESTRATOR_[A-Z0-9_]+", TEXTS[document.name]))
    for name in names:
        with pytest.raises(SettingsError) as refused:
            load_settings({name: "\0 no value at all", "ORCHESTRATOR_NONE": "1"})
        assert not re.search(rf"^{name}: is no setting", str(refused.value), re.MULTILINE), name


def test_fields_of_engines_that_are_named_alone_exist() -> None:
    for text in TEXTS.values():
        for field in re.findall(r"`(__[A-Z_]+)(?:=\w+)?`", text):
            assert re.match(ENGINE_FIELDS, field), field


def test_the_environment_template_shows_the_defaults() -> None:
    template = (ROOT / "deploy" / "environment.template").read_text()
    shown = dict(re.findall(r"^#([A-Z][A-Z0-9_]+)=(.*)$", template, re.MULTILINE))
    defaults = {
        name: "" if value == "unset" else value
        for name, value, _ in describe(load_settings({}))
        if "_ENGINES__" not in name
    }
    assert {name: shown.get(name) for name in defaults} == defaults


# -- the operations page


@pytest.mark.parametrize("block", [b for b in OPERATIONS if b.language == "sql"], ids=one_line)
async def test_a_query_of_the_operations_page_runs(block: Block, conn: Connection) -> None:
    async with conn.transaction():
        for statement in filter(str.strip, block.text.split(";\n")):
            await conn.fetch(statement)


async def test_the_commands_of_the_operations_page_run(dsn: str, conn: Connection, home: Path) -> None:
    await conn.execute("INSERT INTO leads (name, stage) VALUES ('Ann', 'AI_CONVERSATION')")
    await conn.close()
    ours = home / "orchestrator"
    ours.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m daemon "$@"\n')
    ours.chmod(0o755)
    environ = {
        **os.environ, "PATH": f"{home}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT), "DATABASE_URL": dsn,
        "ORCHESTRATOR_HOME": str(home / "home"),
    }  # fmt: skip
    script = "set -ex\n" + "".join(b.text for b in OPERATIONS if b.language == "sh" and not b.marked("not here"))
    done = subprocess.run(  # noqa: ASYNC221 - nothing else runs meanwhile
        ["bash", "-c", script], cwd=home, env=environ, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "restored monday.dump" in done.stdout
    assert "nothing to do" in done.stdout


def alert_types() -> set[str]:
    """Every type that an alert in the code may have."""
    files = [file for package in PACKAGES for file in (ROOT / package).rglob("*")]
    found = set()
    for file in files:
        if file.suffix == ".py":
            found |= set(_types_in_python(file))
        elif file.suffix == ".sql":
            found |= set(_types_in_sql(file.read_text()))
    return found | set(_types_in_sql((ROOT / "schema.sql").read_text()))


def _types_in_python(file: Path) -> Iterator[str]:
    """The first argument of each Alert(…): a word, or a name whose values are words in the same function."""
    for scope in ast.walk(ast.parse(file.read_text())):
        if not isinstance(scope, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        for call in ast.walk(scope):
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "Alert":
                words = list(_words(call.args[0], scope)) if call.args else []
                assert words, f"{file.relative_to(ROOT)}:{call.lineno}: which types may this alert have?"
                yield from words


def _words(node: ast.expr, scope: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Constant):
        yield str(node.value)
    elif isinstance(node, ast.IfExp):
        yield from _words(node.body, scope)
        yield from _words(node.orelse, scope)
    elif isinstance(node, ast.Name):
        for given in ast.walk(scope):
            if isinstance(given, ast.Assign) and any(ast.dump(t) == ast.dump(_stored(node)) for t in given.targets):
                yield from _words(given.value, scope)


def _stored(node: ast.Name) -> ast.Name:
    return ast.Name(node.id, ast.Store())


def _types_in_sql(text: str) -> Iterator[str]:
    for insert in re.finditer(
        r"INSERT INTO (?:orchestrator\.)?alerts\b[^)]*\)\s*(.*?)(?:;|\Z|-- name:)", text, re.DOTALL
    ):
        first = re.match(r"(?:SELECT(?: DISTINCT(?: ON \([^)]*\))?)?|VALUES \()\s*(?:'(\w+)'|d\.type\b)", insert[1])
        assert first, f"which type may this alert have? {insert[1][:100]}"
        if first[1]:
            yield first[1]


def test_every_alert_has_its_section_with_a_query_and_no_other_has() -> None:
    alerts = TEXTS["OPERATIONS.md"].partition("\n## Alerts\n")[2].partition("\n## ")[0]
    sections = re.findall(r"^### (\w+)$", alerts, re.MULTILINE)
    assert sorted(sections) == sorted(alert_types())
    with_query = {block.section for block in OPERATIONS if block.language == "sql"}
    assert set(sections) <= with_query


def test_every_metric_is_explained_and_no_other_is() -> None:
    table = TEXTS["OPERATIONS.md"].partition("\n## Metrics\n")[2].partition("\n## ")[0]
    explained = re.findall(
        r"`([a-z_]+)(?:\{[a-z_,]+\})?`", "\n".join(re.findall(r"^\| (`.*?) \|", table, re.MULTILINE))
    )
    counters = {
        f"{family.name}{'_total' if family.type == 'counter' else ''}".removeprefix("orchestrator_")
        for family in Metrics("0").registry.collect()
    }
    assert sorted(explained) == sorted(counters)


# -- architecture


def test_every_dependency_has_its_reason_and_no_other_has() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    needed = {canonicalize_name(Requirement(line).name) for line in project["project"]["dependencies"]}
    table = TEXTS["ARCHITECTURE.md"].partition("\n## Dependencies\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| ([a-z][\w, -]*?)(?: \([^)]*\))? \| (\S.*?) \|", table, re.MULTILINE)
    explained = [canonicalize_name(name) for names, _ in rows if names != "package" for name in names.split(", ")]
    assert sorted(explained) == sorted(needed)


def test_every_module_has_its_room() -> None:
    rooms = TEXTS["ARCHITECTURE.md"].partition("\n## Who knows what\n")[2].partition("\n## ")[0]
    for package in PACKAGES:
        there = {
            path.stem
            for path in (ROOT / package).iterdir()
            if not path.name.startswith("_") and (path.suffix == ".py" or (path / "__init__.py").exists())
        }
        row = " ".join(re.findall(rf"^\| [^|]* \| `{package}/`:? ([^|]*) \|", rooms, re.MULTILINE))
        named = set(re.findall(r"[a-z_]+", row))
        assert named == there, f"{package}: not named {sorted(there - named)}, not there {sorted(named - there)}"


def test_nothing_in_the_documents_is_left_open() -> None:
    for name, text in TEXTS.items():
        assert not re.search(r"TODO|FIXME|XXX|still to be written", text), name


async def test_a_query_that_is_wrong_would_be_noticed(conn: Connection) -> None:
    with pytest.raises(asyncpg.UndefinedColumnError):
        await conn.fetch("SELECT no_such_column FROM orchestrator.alerts")
