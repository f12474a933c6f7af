"""Gates: whoever only looks decides nothing; whoever decides, by whatever road, decides once.

Mutants that these tests kill (each one line, tried by hand):
  gates.sql: `decide` without its status; approval_links: `_require_token` doing nothing; links: `fault_of` without the
  thing in its content; approval_page: a value that isn't escaped
"""

import asyncio
import re
import time
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

import pytest

from daemon.links import LASTS_S, fault_of, token_of
from daemon.settings import secret_key
from tests.support.api import Client, Reply, serving
from tests.support.engines import Asked, Engines, Result
from tests.support.postgres import Server
from tests.support.processes import until

NOBODY = UUID(int=0)
FORM = {"Content-Type": "application/x-www-form-urlencoded"}
BROWSER = {"Accept": "text/html,application/xhtml+xml"}
STATE = """
SELECT md5(string_agg(t::text, '|' ORDER BY t::text))
FROM (SELECT a::text FROM approval_queue a UNION ALL SELECT k::text FROM tasks k WHERE kind LIKE 'run.%'
      UNION ALL SELECT c::text FROM checkpoint_settings c UNION ALL SELECT f::text FROM agent_feedback f) AS t(t)
"""


@pytest.fixture(scope="module")
async def api(server: Server) -> AsyncIterator[Client]:
    """One daemon; every test has its own requests."""
    dsn = await server.clone()
    async with serving(dsn, WORKER__PULSE_S="0.05", SECRET_KEY="the key of the tests") as client:
        yield client
    await server.drop(dsn)


async def asked(api: Client, checkpoint: str = "campaign", **columns: Any) -> UUID:
    """A request that waits."""
    row = {"checkpoint": checkpoint, "title": "Look at it", "payload": {"campaign": "Weekly"}} | columns
    names, places = ", ".join(row), ", ".join(f"${n}" for n in range(1, len(row) + 1))
    sql = f"INSERT INTO approval_queue ({names}) VALUES ({places}) RETURNING id"
    found: UUID = await api.conn.fetchval(sql, *row.values())
    return found


async def waiting_run(api: Client, checkpoint: str = "campaign") -> tuple[str, UUID]:
    """A run that waits at a gate, and its request."""
    steps = [{"kind": "checkpoint", "name": "look", "checkpoint": checkpoint}]
    made = await api.post("/api/campaigns", {"name": f"gated {uuid4()}", "steps": steps})
    run: str = (await api.post(f"/api/campaigns/{made.json['campaign']['id']}/run")).json["runId"]
    sql = "SELECT id FROM approval_queue WHERE run_id = $1 AND status = 'pending'"
    return run, await until(lambda: api.conn.fetchval(sql, UUID(run)), 10.0, "the request")


async def run_is(api: Client, run: str, status: str) -> None:
    """Wait until the run has that status."""

    async def so() -> bool:
        found: bool = (await api.get(f"/api/runs/{run}"))["run"]["status"] == status
        return found

    await until(so, 10.0, f"the run is {status}")


def link(api: Client, request: UUID, *, lasts_s: float = 60) -> str:
    """The signed link to a request."""
    key = secret_key(api.daemon.settings).get_secret_value()
    return f"/approve/{request}?token={token_of(key, 'approve', request, int(time.time() + lasts_s))}"


async def follow(api: Client, path: str, method: str = "GET", form: str = "", **headers: str) -> Reply:
    """What somebody without an account sees."""
    data = form.encode() if method == "POST" else None
    return await api.ask(method, path, token=None, data=data, headers={**(FORM if data else {}), **headers})


async def row(api: Client, request: UUID) -> Any:
    """The request's row."""
    return await api.conn.fetchrow("SELECT * FROM approval_queue WHERE id = $1", request)


# -- the link


async def test_a_link_shows_the_request_and_looking_changes_nothing(api: Client) -> None:
    run, request = await waiting_run(api)
    path, before = link(api, request), await api.conn.fetchval(STATE)
    for method in ("GET", "HEAD", "GET"):
        reply = await follow(api, path, method)
        assert reply.status == 200
        assert reply.headers["Content-Type"] == "text/html; charset=utf-8"
    for more in ("&decision=approve", "&decision=approve&by=scanner"):
        assert (await follow(api, path + more)).status == 422
    html = (await follow(api, path)).raw.decode()
    assert all(part in html for part in ('<form method="post">', 'value="approve"', 'value="reject"', "gated"))
    assert await api.conn.fetchval(STATE) == before
    await run_is(api, run, "waiting")


async def test_its_form_approves_and_the_run_goes_on(api: Client) -> None:
    run, request = await waiting_run(api)
    reply = await follow(api, link(api, request), "POST", "decision=approve&by=Ann+%C3%9Cnal&comment=&code=")
    assert reply.status == 200
    assert "This is approved by Ann Ünal." in reply.raw.decode()
    await run_is(api, run, "completed")
    assert (await follow(api, link(api, request), "POST", "decision=reject&by=ben")).problem(409)
    again = await follow(api, link(api, request))
    assert again.status == 200
    assert "<form" not in again.raw.decode()


async def test_its_form_rejects_and_the_run_is_aborted(api: Client) -> None:
    run, request = await waiting_run(api)
    assert (await follow(api, link(api, request), "POST", "decision=reject&by=ann&comment=Too+narrow")).status == 200
    await run_is(api, run, "aborted")
    (said,) = await api.conn.fetch("SELECT * FROM agent_feedback WHERE approval_id = $1", request)
    assert (said["agent"], said["feedback"], said["created_by"]) == ("campaign", "Too narrow", "ann")


async def test_a_link_opens_nothing_but_its_request_and_not_for_ever(api: Client) -> None:
    request, other = await asked(api), await asked(api)
    good, key = link(api, request), secret_key(api.daemon.settings).get_secret_value()
    expires = int(time.time()) + 60
    signature = token_of(key, "approve", request, expires).partition(".")[2]
    bad = {
        "another's": good.replace(str(request), str(other)),
        "expired": link(api, request, lasts_s=-1),
        "none": f"/approve/{request}",
        "empty": f"/approve/{request}?token=",
        "cut": good[:-1],
        "prolonged": f"/approve/{request}?token={expires + 9}.{signature}",
        "for something else": f"/approve/{request}?token={token_of(key, 'unsubscribe', request, expires)}",
        "another key's": f"/approve/{request}?token={token_of('k', 'approve', request, expires)}",
        "not ASCII": f"/approve/{request}?token={expires}.é",
        "huge": f"/approve/{request}?token={'9' * 150}.a",
    }
    for path in bad.values():
        for method in ("GET", "POST"):
            (await follow(api, path, method, "decision=approve&by=eve")).problem(403)
    assert (await row(api, request))["status"] == (await row(api, other))["status"] == "pending"
    page = await follow(api, bad["expired"], Accept=BROWSER["Accept"])
    assert (page.status, page.headers["Content-Type"]) == (403, "text/html; charset=utf-8")
    assert "expired" in page.raw.decode()
    (await follow(api, link(api, NOBODY))).problem(404)


async def test_a_form_that_lacks_something_comes_back_with_what_was_typed(api: Client) -> None:
    request = await asked(api, "extraction")
    path = link(api, request)
    for form in ("", "by=ann", "decision=maybe&by=ann", "decision=approve", "decision=approve&by=%00", "decision=%FF"):
        (await follow(api, path, "POST", form)).problem(422)
    (await follow(api, path, "POST", "decision=approve&by=system+(auto)")).problem(422)
    reply = await follow(api, path, "POST", "decision=approve&by=%22%3Eann&comment=%3Cb%3E", Accept=BROWSER["Accept"])
    html = reply.raw.decode()
    assert (reply.status, 'role="alert"' in html, "code" in html) == (422, True, True)
    assert 'value="&quot;&gt;ann"' in html
    assert "&lt;b&gt;</textarea>" in html
    assert (await row(api, request))["status"] == "pending"
    assert (await follow(api, path, "POST", "decision=approve&by=ann&code=123456")).status == 200
    assert (await row(api, request))["payload"]["code"] == "123456"


async def test_the_page_loads_nothing_and_shows_texts_as_texts(api: Client) -> None:
    evil = "<script>alert(1)</script>"
    request = await asked(api, title=evil, payload={evil: evil, "list": [{"a": evil}], "n": None}, checkpoint=evil)
    reply = await follow(api, link(api, request))
    html, policy = reply.raw.decode(), reply.headers["Content-Security-Policy"]
    assert "<script" not in html
    assert "&lt;script&gt;" in html
    assert not re.search(r"\s(?:src|href|style|on\w+)=", html)
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "unsafe" not in policy
    assert "form-action 'self'" in policy
    assert reply.headers["Referrer-Policy"] == "no-referrer"
    assert reply.headers["Cache-Control"] == "no-store"


def test_a_token_is_good_for_its_time_only() -> None:
    token = token_of("key", "approve", 7, 1000)
    assert fault_of("key", "approve", 7, token, 999.9) is None
    assert fault_of("key", "approve", 7, token, 1000) == "the link has expired"
    assert LASTS_S > 30 * 86_400


class Post(Engines):
    """An engine that mails go out by."""

    def _usual(self, asked: Asked) -> Result:
        return {"message_id": "m", "cost": 0}


async def test_people_are_told_with_a_link_that_works_and_is_in_no_row(dsn: str) -> None:
    async with (
        Post().serving() as post,
        serving(dsn, NOTIFY__ADMIN_EMAIL="boss@example.com", ENGINES__OUTREACH__URL=post.url("outreach")) as api,
    ):
        run, request = await waiting_run(api)

        async def told() -> Any:
            return [a.body["body"] for a in post.asked if str(request) in a.body["body"]]

        (text, *_) = await until(told, 10.0, "the mail")
        base = api.daemon.settings.public_url
        (found,) = re.findall(rf"{base}(/approve/{request}\?token=\S+)", text)
        assert (await follow(api, found, "POST", "decision=approve&by=boss")).status == 200
        await run_is(api, run, "completed")
        token = found.partition("token=")[2]
        for table in ("tasks", "task_log", "engine_calls", "approval_queue"):
            assert not await api.conn.fetchval(f"SELECT count(*) FROM {table} t WHERE strpos(t::text, $1) > 0", token)


# -- deciding by API


async def test_requests_are_listed_and_decided_once(api: Client) -> None:
    run, request = await waiting_run(api)
    listed = (await api.get("/api/approvals", status="pending", run_id=run))["approvals"]
    assert [(a["id"], a["status"], a["step"]) for a in listed] == [(str(request), "pending", "look")]
    reply = await api.post(f"/api/approvals/{request}/approve", {"by": "ann"})
    assert (reply.status, reply.json["approval"]["status"], reply.json["approval"]["decided_by"]) == (
        200, "approved", "ann",
    )  # fmt: skip
    await run_is(api, run, "completed")
    for wish, body in (("approve", {"by": "ben"}), ("reject", {"by": "ben", "comment": "no"})):
        problem = (await api.post(f"/api/approvals/{request}/{wish}", body)).problem(409)
        assert "approved already by ann" in problem["detail"]
    assert (await api.get("/api/approvals", status="pending", run_id=run))["approvals"] == []


async def test_a_decision_says_who_and_a_rejection_why(api: Client) -> None:
    request = await asked(api)
    assert (await api.post(f"/api/approvals/{request}/approve")).problem(422)["errors"][0]["loc"] == ["by"]
    assert (await api.post(f"/api/approvals/{request}/reject", {"by": "ann"})).problem(422)["errors"][0]["loc"] == [
        "comment"
    ]
    (await api.post(f"/api/approvals/{NOBODY}/approve", {"by": "ann"})).problem(404)
    assert (await row(api, request))["status"] == "pending"


async def test_extraction_takes_the_code_that_its_provider_has_shown(api: Client) -> None:
    run, request = await waiting_run(api, "extraction")
    problem = (await api.post(f"/api/approvals/{request}/approve", {"by": "ann"})).problem(422)
    assert problem["errors"][0]["loc"] == ["code"]
    assert (await api.post(f"/api/approvals/{request}/approve", {"by": "ann", "code": "42"})).status == 200
    await run_is(api, run, "completed")
    assert (await api.get(f"/api/runs/{run}"))["run"]["results"]["look"]["code"] == "42"


async def test_of_two_people_at_once_one_decides_whatever_road_they_take(api: Client) -> None:
    for _ in range(5):
        run, request = await waiting_run(api)
        by_api = api.post(f"/api/approvals/{request}/approve", {"by": "ann"})
        by_api_too = api.post(f"/api/approvals/{request}/reject", {"by": "ben", "comment": "no"})
        by_link = follow(api, link(api, request), "POST", "decision=reject&by=cy")
        replies = await asyncio.gather(by_api, by_api_too, by_link)
        assert sorted(reply.status for reply in replies) == [200, 409, 409]
        status = (await row(api, request))["status"]
        await run_is(api, run, "completed" if status == "approved" else "aborted")


async def test_a_decision_by_sql_is_one_like_any(api: Client) -> None:
    run, request = await waiting_run(api)
    await api.conn.execute("UPDATE approval_queue SET status = 'approved' WHERE id = $1", request)
    await run_is(api, run, "completed")
    (await follow(api, link(api, request), "POST", "decision=reject&by=ben")).problem(409)
    page = (await follow(api, link(api, request))).raw.decode()
    assert "This is approved by " in page


async def test_what_has_run_out_cannot_be_approved_any_more(api: Client) -> None:
    request = await asked(api)
    await api.conn.execute("UPDATE approval_queue SET expires_at = clock() - interval '1 s' WHERE id = $1", request)
    assert "time is up" in (await api.post(f"/api/approvals/{request}/approve", {"by": "ann"})).problem(409)["detail"]


# -- checkpoints, feedback


async def test_checkpoints_are_set_to_plan_and_auto(dsn: str) -> None:
    async with serving(dsn) as api:
        seven = {c["checkpoint"]: c for c in (await api.get("/api/checkpoints"))["checkpoints"]}
        assert {name: c["mode"] for name, c in seven.items()} == {
            "replies": "plan", "sourcing": "auto", "extraction": "plan", "campaign": "plan", "classification": "auto",
            "leads": "plan", "emails": "plan",
        }  # fmt: skip
        assert seven["extraction"]["promotable"] is False
        reply = await api.ask("PUT", "/api/checkpoints/campaign", json={"mode": "auto"})
        assert (reply.status, reply.json["checkpoint"]["mode"]) == (200, "auto")
        steps = [{"kind": "checkpoint", "name": "look", "checkpoint": "campaign"}]
        made = (await api.post("/api/campaigns", {"name": "gated", "steps": steps})).json["campaign"]["id"]
        run = (await api.post(f"/api/campaigns/{made}/run")).json["runId"]
        await run_is(api, run, "completed")
        (auto,) = (await api.get("/api/approvals", run_id=run))["approvals"]
        assert (auto["status"], auto["decided_by"]) == ("approved", "system (auto)")
        for name, mode in (("extraction", "auto"), ("classification", "plan")):
            (await api.ask("PUT", f"/api/checkpoints/{name}", json={"mode": mode})).problem(409)
        (await api.ask("PUT", "/api/checkpoints/campaign", json={"mode": "semi"})).problem(422)
        (await api.ask("PUT", "/api/checkpoints/nowhere", json={"mode": "auto"})).problem(404)
        await asked(api, "of mine")
        assert (await api.ask("PUT", "/api/checkpoints/of%20mine", json={"mode": "auto"})).status == 200


async def test_feedback_is_given_and_listed(api: Client) -> None:
    reply = await api.post("/api/feedback", {"agent": "scout", "feedback": "Too narrow, add OC", "created_by": "ann"})
    assert (reply.status, reply.json["feedback"]["active"]) == (201, True)
    (said,) = (await api.get("/api/feedback", agent="scout"))["feedback"]
    assert (said["feedback"], said["created_by"], said["effect"]) == ("Too narrow, add OC", "ann", None)
    (await api.post("/api/feedback", {"agent": "scout", "feedback": "  "})).problem(422)
