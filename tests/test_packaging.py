"""A wheel holds all that runs; the lock files hold what pyproject.toml asks for, by hash, and name no host."""

import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
PACKAGES = ("daemon", "handlers", "campaigns")
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
LOCKS = {"requirements.lock": "build", "requirements-dev.lock": "dev"}


@pytest.fixture(scope="session")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of this checkout, unpacked as pip would."""
    built, place = tmp_path_factory.mktemp("wheel"), tmp_path_factory.mktemp("site")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", built],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    with zipfile.ZipFile(next(built.glob("*.whl"))) as wheel:
        wheel.extractall(place)
    return place


def test_the_wheel_has_every_file_of_the_packages(unpacked: Path) -> None:
    files = {
        path.relative_to(ROOT)
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert {path.suffix for path in files} >= {".py", ".sql"}
    assert {path for path in files if not (unpacked / path).is_file()} == set()


def test_the_wheel_has_nothing_else_at_its_top(unpacked: Path) -> None:
    tops = {path.name for path in unpacked.iterdir() if not path.name.endswith(".dist-info")}
    assert tops == set(PACKAGES)


def test_the_schema_is_found_in_wheel_and_checkout(unpacked: Path) -> None:
    ask = "import daemon, daemon.schema; print(daemon.__file__); print(daemon.schema.schema_sql(), end='')"
    for place in (ROOT, unpacked):
        said = subprocess.run([sys.executable, "-c", ask], cwd=place, capture_output=True, text=True, check=True)
        where, _, schema = said.stdout.partition("\n")
        assert Path(where) == place / "daemon" / "__init__.py"
        assert schema == (ROOT / "schema.sql").read_text()


def test_the_command_is_there(unpacked: Path) -> None:
    entry_points = next(unpacked.glob("*.dist-info/entry_points.txt")).read_text()
    assert "orchestrator = daemon.cli:main" in entry_points


def group(name: str) -> list[Requirement]:
    wanted = []
    for item in PROJECT["dependency-groups"][name]:
        wanted += [Requirement(item)] if isinstance(item, str) else group(item["include-group"])
    return wanted


def locked(name: str) -> dict[str, Version]:
    pins = re.findall(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)", (ROOT / name).read_text(), re.MULTILINE)
    return {canonicalize_name(package): Version(version) for package, version in pins}


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_file_satisfies_the_project(lock: str) -> None:
    pins = locked(lock)
    wanted = [*map(Requirement, PROJECT["project"]["dependencies"]), *group(LOCKS[lock])]
    unmet = [str(one) for one in wanted if pins.get(canonicalize_name(one.name), Version("0")) not in one.specifier]
    assert unmet == []


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_file_has_a_hash_for_everything_and_names_no_host(lock: str) -> None:
    text = (ROOT / lock).read_text()
    entries = re.split(r"\n(?=\w)", "\n".join(line for line in text.splitlines() if not line.startswith("#")))
    assert len(entries) == len(locked(lock))
    assert [entry for entry in entries if "--hash=sha256:" not in entry] == []
    assert re.findall(r"\w+://|^\s*-(?!-hash=)|@ |\.(?:org|com|net|io)\b", text, re.MULTILINE) == []


def test_both_lock_files_agree() -> None:
    run, dev = locked("requirements.lock"), locked("requirements-dev.lock")
    assert {name: dev.get(name) for name in run} == run


@pytest.mark.parametrize("rival", ["backoff", "python-daemon"])
def test_nothing_that_installs_over_our_packages_is_locked(rival: str) -> None:
    """Both bring a folder of the same name as one of ours or of python-backoff's."""
    assert rival not in locked("requirements-dev.lock")
