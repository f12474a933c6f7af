"""One engine to its callers: how many calls at once, how many a second, and which way they go."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import aiohttp

from daemon import answers
from daemon.answers import Answer, Failed
from daemon.settings import EngineSettings
from daemon.transport.command import Command
from daemon.transport.http import Http
from daemon.transport.request import Health, Request, Settled, Transport


class Engine:
    """One configured engine: its slots, its rate and its transport."""

    def __init__(self, settings: EngineSettings, session: aiohttp.ClientSession) -> None:
        self.name = settings.name
        self._settings = settings
        self._slots = asyncio.Semaphore(settings.max_concurrency)
        self._spacing_s = 1 / settings.rate_per_s if settings.rate_per_s else 0.0
        self._next_start = 0.0
        self._token = settings.token.get_secret_value() if settings.token else ""
        self._transport = _transport(settings, self._token, session)

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """One of the engine's places, at its pace; kept until the answer, polls included."""
        async with self._slots:
            await self._pace()
            yield

    async def call(
        self,
        operation: str,
        body: Mapping[str, Any],
        *,
        key: str,
        traceparent: str,
        timeout_s: float | None = None,
        method: str = "POST",
        url: str | None = None,
        prompt: str = "",
        settled: Settled | None = None,
    ) -> Answer:
        """One call, made from within a slot; one time limit over all of it. `settled`: what a webhook tells of it."""
        limit_s = self._settings.timeout_s if timeout_s is None else timeout_s
        request = Request(operation, body, key, traceparent, limit_s, method.upper(), url, prompt, settled)
        return self._clean(await self._transport.exchange(request))

    async def health(self) -> Health:
        """Whether the engine is there (GET its URL + `/health`, or find its command)."""
        return await self._transport.health()

    async def _pace(self) -> None:
        if self._spacing_s:
            now = asyncio.get_running_loop().time()
            start = max(now, self._next_start)
            self._next_start = start + self._spacing_s
            await asyncio.sleep(start - now)

    def _clean(self, answer: Answer) -> Answer:
        if isinstance(answer, answers.Answered):
            return answer
        error = answer.error.replace(self._token, "***") if self._token else answer.error
        return replace(answer, error=answers.tidy(f"{self.name}: {error}"))


def _transport(settings: EngineSettings, token: str, session: aiohttp.ClientSession) -> Transport:
    if settings.command:
        return Command(settings.command, token, settings.claude_code_path)
    return Http(settings.url, token, session) if settings.url else _Nowhere()


class _Nowhere:
    """An engine that is named, but has neither URL nor command."""

    async def exchange(self, request: Request) -> Answer:
        return Failed("neither a URL nor a command is set for this engine", retryable=False)

    async def health(self) -> Health:
        return Health(False, "neither a URL nor a command is set", 0.0)
