"""Schemathesis asks a daemon with real rows whatever the OpenAPI document allows, and more (guarantee 16)."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from copy import deepcopy
from pathlib import Path

import pytest

from daemon.api.application import ROUTES
from daemon.api.openapi import Document
from tests.support.api import TOKEN, Client, serving
from tests.support.populated import path_parameters, populate, values
from tests.support.postgres import Server

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "missing_required_header",
    "unsupported_method",
    "allow_header_conformance",
    "ignored_auth",
    "negative_data_rejection",
)
FEW = 6
PARTS = 4
NOWHERE = {(str, "uuid"): "00000000-0000-0000-0000-000000000000", (str, None): "nowhere", (int, None): 2**62}
"""What is not there, by the type and the format of its name."""


@pytest.fixture(scope="module")
async def api(server: Server) -> AsyncIterator[Client]:
    """One daemon with something of everything; it calls nobody."""
    dsn = await server.clone()
    async with serving(dsn, DRY_RUN="true") as client:
        await populate(client)
        yield client
    await server.drop(dsn)


async def known(api: Client) -> Document:
    """The document, with what is there, and one thing that isn't, as the values of its path parameters."""
    document: Document = deepcopy(await api.get("/api/openapi.json"))
    for route in ROUTES:
        for parameter, schema in path_parameters(document, route).items():
            if found := await values(api.conn, route, parameter):
                named = [value if isinstance(value, int) else str(value) for value in found]
                nowhere = NOWHERE[type(named[0]), schema.get("format")]
                schema |= {"enum": [*named, nowhere], "examples": [named[0], nowhere]}
    return document


def locked(document: Document) -> Document:
    """The document as a stranger finds it: what isn't open answers 401 and nothing else."""
    for methods in document["paths"].values():
        for operation in methods.values():
            if operation.get("security") != []:
                operation["responses"] = {"401": operation["responses"]["401"]}
    return document


async def ask(api: Client, place: Path, document: Document, *options: str) -> None:
    """Let schemathesis ask, in a process of its own; its report is the failure."""
    file = place / "openapi.json"
    file.write_text(json.dumps(document))
    asking = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "schemathesis.cli", "run", str(file), f"--url=http://127.0.0.1:{api.port}",
        f"--checks={','.join(CHECKS)}", "--no-color", "--generation-deterministic", "--suppress-health-check=all",
        "--warnings=off", "--request-timeout=10", "--workers=1", *options,
        cwd=place, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    said, _ = await asking.communicate()
    if asking.returncode != 0:
        pytest.fail(said.decode(), pytrace=False)


@pytest.mark.parametrize("part", range(PARTS))
async def test_whatever_is_asked_is_answered_as_documented(api: Client, tmp_path: Path, part: int) -> None:
    """Guarantee 16. Mutant: a KeyError instead of a 404 in any handler."""
    document = await known(api)
    document["paths"] = dict(sorted(document["paths"].items())[part::PARTS])
    token = f"--header=Authorization: Bearer {TOKEN}"
    await ask(api, tmp_path, document, token, "--phases=examples,coverage,fuzzing", f"--max-examples={FEW}")


async def test_without_the_token_only_open_routes_answer(api: Client, tmp_path: Path) -> None:
    """Guarantee 17. Mutant: Resource.is_open answers True."""
    document = locked(await known(api))
    await ask(api, tmp_path, document, "--phases=fuzzing", "--mode=positive", "--max-examples=4")
