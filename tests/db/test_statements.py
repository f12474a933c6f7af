"""Every named statement fits the schema, and every one is used under the name that it has."""

import ast
import asyncio
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import daemon
from daemon.db import Connection, Statements

ROOT = Path(daemon.__file__).parent.parent
PACKAGES = ("daemon", "handlers", "campaigns")
EVERY = sorted(f for package in PACKAGES for f in (ROOT / package).glob("**/sql/*.sql"))
FILES = [f for f in EVERY if "-- name:" in f.read_text(encoding="utf-8")]
SCRIPTS = [f for f in EVERY if f not in FILES]
"""Run as a whole, by psql."""


@dataclass(frozen=True, slots=True)
class Use:
    """A named statement, by its file, as some line of Python asks for it."""

    file: Path
    name: str
    where: str


def _named(file: Path) -> Statements:
    package = ".".join(file.parent.parent.relative_to(ROOT).parts)
    return Statements(package, file.name)


def _modules() -> Iterator[tuple[str, ast.Module]]:
    for package in PACKAGES:
        for file in sorted((ROOT / package).glob("**/*.py")):
            parts = file.relative_to(ROOT).with_suffix("").parts
            yield ".".join(parts).removesuffix(".__init__"), ast.parse(file.read_text(encoding="utf-8"))


MODULES = dict(_modules())


def _opened(module: str) -> dict[str, Path]:
    """The variables of a module that hold statements: SQL = Statements("handlers", "leads.sql")."""
    found = {}
    for node in MODULES[module].body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call):
            call, target = node.value, node.targets[0]
            if isinstance(call.func, ast.Name) and call.func.id == "Statements" and isinstance(target, ast.Name):
                package, name = (ast.literal_eval(argument) for argument in call.args)
                found[target.id] = ROOT.joinpath(*package.split("."), "sql", name)
    return found


OPENED = {module: _opened(module) for module in MODULES}


def _known_here(module: str) -> dict[str, Path]:
    """What holds statements in a module, as it is written there: SQL, or leads.SQL for another module's."""
    known = dict(OPENED[module])
    for node in ast.walk(MODULES[module]):
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                here = alias.asname or alias.name
                if alias.name in OPENED.get(node.module, {}):
                    known[here] = OPENED[node.module][alias.name]
                for variable, file in OPENED.get(f"{node.module}.{alias.name}", {}).items():
                    known[f"{here}.{variable}"] = file
    return known


def _uses(module: str) -> Iterator[Use]:
    known = _known_here(module)
    for node in ast.walk(MODULES[module]):
        if isinstance(node, ast.Subscript) and ast.unparse(node.value) in known:
            file, where = known[ast.unparse(node.value)], f"{module}:{node.lineno}"
            yield from (Use(file, name, where) for name in _names(module, file, node.slice))


def _names(module: str, file: Path, subscript: ast.expr) -> list[str]:
    """The names that a subscript may stand for: what it says, else every name that the module says somewhere."""
    if isinstance(subscript, ast.Constant):
        return [str(subscript.value)]
    if isinstance(subscript, ast.IfExp):
        return [*_names(module, file, subscript.body), *_names(module, file, subscript.orelse)]
    if isinstance(subscript, ast.JoinedStr):
        parts = [re.escape(str(p.value)) if isinstance(p, ast.Constant) else ".+" for p in subscript.values]
        said = "".join(parts)
        return [name for name in _named(file) if re.fullmatch(said, name)]
    if isinstance(subscript, ast.Attribute):
        return _class_constants(module, subscript.attr)
    return _strings(module)


def _class_constants(module: str, attribute: str) -> list[str]:
    """The values that the classes of a module give to `attribute`."""
    return [
        str(node.value.value)
        for node in ast.walk(MODULES[module])
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id == attribute
        if isinstance(node.value, ast.Constant)
    ]


def _strings(module: str) -> list[str]:
    """Every string of a module that is a statement's name: a subscript that is worked out may be any of them."""
    every = {name for file in set(_known_here(module).values()) for name in _named(file)}
    words = {n.value for n in ast.walk(MODULES[module]) if isinstance(n, ast.Constant) and isinstance(n.value, str)}
    return sorted(words & every)


USES = [use for module in MODULES for use in _uses(module)]


def test_each_file_of_statements_is_opened_by_somebody() -> None:
    assert FILES
    opened = {file for variables in OPENED.values() for file in variables.values()}
    assert set(FILES) == opened


@pytest.mark.parametrize("file", SCRIPTS, ids=lambda f: str(f.relative_to(ROOT)))
async def test_every_script_runs_against_the_schema_and_is_asked_for(conn: Connection, file: Path) -> None:
    text = await asyncio.to_thread(file.read_text, encoding="utf-8")
    await conn.execute(f"BEGIN; {text}; ROLLBACK")
    words = {n.value for tree in MODULES.values() for n in ast.walk(tree) if isinstance(n, ast.Constant)}
    assert file.name in words


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(ROOT)))
async def test_every_statement_can_be_prepared_against_the_schema(conn: Connection, file: Path) -> None:
    for name, text in _named(file).items():
        try:
            await conn.prepare(text)
        except Exception as error:
            error.add_note(f"{file.relative_to(ROOT)}: {name}")
            raise


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(ROOT)))
def test_no_name_is_given_twice_in_a_file_and_nothing_stands_before_the_first(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    names = re.findall(r"^-- name: (.*)$", text, flags=re.MULTILINE)
    assert sorted(names) == sorted(_named(file))
    before = text.split("-- name:", 1)[0]
    assert all(not line or line.startswith("--") for line in before.splitlines())


def test_every_name_that_is_asked_for_exists() -> None:
    assert [use for use in USES if use.name not in _named(use.file)] == []


def test_every_statement_is_asked_for_somewhere() -> None:
    asked = {(use.file, use.name) for use in USES}
    dead = [f"{f.relative_to(ROOT)}: {name}" for f in FILES for name in _named(f) if (f, name) not in asked]
    assert dead == []
