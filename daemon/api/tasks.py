"""Tasks: list, one, a person's retry and cancelling."""

from typing import Any, Literal, NoReturn
from uuid import UUID

import orjson
from pydantic import AwareDatetime, BaseModel

from daemon import queue
from daemon.api.paging import IdCursor, Page, page_of
from daemon.api.problems import Problem
from daemon.api.route import Answer, Api, Given, Input, Nothing, Route, RowId, Success, Text
from daemon.db import Connection, Statements

SQL = Statements("daemon.api", "tasks.sql")
Status = Literal["available", "running", "dead", "done", "cancelled"]


class TaskId(Input):
    """Which task."""

    id: RowId


class TasksQuery(Page):
    """Which tasks; ended ones are done or cancelled."""

    status: Status | None = None
    kind: Text | None = None
    cursor: IdCursor | None = None


class Task(BaseModel):
    """A task, waiting, running, dead or ended; only an ended one has its last three fields."""

    id: int
    kind: str
    key: str | None
    payload: dict[str, Any]
    priority: int
    status: Status
    run_at: AwareDatetime
    attempt: int
    max_attempts: int | None
    dedup_key: str | None
    lease_id: UUID | None
    lease_expires_at: AwareDatetime | None
    worker: UUID | None
    error: str | None
    created_at: AwareDatetime
    started_at: AwareDatetime | None
    result: Any
    finished_at: AwareDatetime | None
    duration_ms: float | None


class OneTask(Success):
    """A task."""

    task: Task


class ManyTasks(Success):
    """A page of tasks."""

    tasks: list[Task]
    nextCursor: str | None  # noqa: N815 - public name


async def list_tasks(api: Api, given: Given[Nothing, TasksQuery, Nothing]) -> Answer:
    """Tasks, newest first, those in the queue and those that have ended."""
    query = given.query
    async with api.reading() as conn:
        rows = await conn.fetch(SQL["tasks"], None, query.status, query.kind, query.cursor, query.limit + 1)
    page, following = page_of(rows, query.limit, lambda row: row["id"])
    return Answer({"success": True, "tasks": [orjson.Fragment(row["shown"]) for row in page], "nextCursor": following})


async def show_task(api: Api, given: Given[TaskId, Nothing, Nothing]) -> Answer:
    """One task."""
    async with api.reading() as conn:
        return await _answer(conn, given.path.id)


async def _answer(conn: Connection, task: int) -> Answer:
    row = await conn.fetchrow(SQL["tasks"], task, None, None, None, 1)
    if row is None:
        raise Problem(404, f"there is no task {task}")
    return Answer({"success": True, "task": orjson.Fragment(row["shown"])})


async def retry_task(api: Api, given: Given[TaskId, Nothing, Nothing]) -> Answer:
    """Start a dead task anew, or a waiting one at once."""
    async with api.writing() as conn:
        if not await queue.retry(conn, given.path.id):
            await _refuse(conn, given.path.id, "retried")
        return await _answer(conn, given.path.id)


async def cancel_task(api: Api, given: Given[TaskId, Nothing, Nothing]) -> Answer:
    """Cancel a task that is not running; what it was about learns of it."""
    async with api.writing() as conn:
        if not await queue.cancel(conn, api.daemon.worker.kinds, given.path.id):
            await _refuse(conn, given.path.id, "cancelled")
        return await _answer(conn, given.path.id)


async def _refuse(conn: Connection, task: int, wish: str) -> NoReturn:
    status = await conn.fetchval(SQL["task_status"], task)
    if status is None:
        raise Problem(404, f"there is no task {task}")
    raise Problem(409, f"task {task} is {status}: it can't be {wish}", taskStatus=status)


_ONE = "/api/tasks/{id}"
ROUTES = (
    Route("GET", "/api/tasks", list_tasks, {200: ManyTasks}, query=TasksQuery),
    Route("GET", _ONE, show_task, {200: OneTask}, TaskId, problems=(404,)),
    Route("POST", f"{_ONE}/retry", retry_task, {200: OneTask}, TaskId, problems=(404, 409)),
    Route("POST", f"{_ONE}/cancel", cancel_task, {200: OneTask}, TaskId, problems=(404, 409)),
)
