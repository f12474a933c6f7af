"""Many callers, one write: whatever comes in while a write is under way shares the next one."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

I = TypeVar("I")  # noqa: E741  # item in
O = TypeVar("O")  # noqa: E741  # answer out
LARGEST = 500


@dataclass(slots=True)
class Grouped(Generic[I, O]):
    """`write` gets all items at hand and answers in their order; one that it refuses alone reaches its caller."""

    write: Callable[[Sequence[I]], Awaitable[Sequence[O]]]
    refusals: tuple[type[Exception], ...]
    _waiting: list[tuple[I, "asyncio.Future[O]"]] = field(default_factory=list)
    _offered: asyncio.Event = field(default_factory=asyncio.Event)

    async def submit(self, item: I) -> O:
        """Have the item written together with its contemporaries."""
        answer: asyncio.Future[O] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, answer))
        self._offered.set()
        return await answer

    async def run(self) -> None:
        """Write groups until cancelled."""
        while True:
            await self._offered.wait()
            self._offered.clear()
            while self._waiting:
                group, self._waiting = self._waiting[:LARGEST], self._waiting[LARGEST:]
                await self._write(group)

    async def _write(self, group: Sequence[tuple[I, "asyncio.Future[O]"]]) -> None:
        try:
            answers = await self.write([item for item, _ in group])
        except self.refusals as error:
            if len(group) == 1:
                _answer(group[0][1], error)
            else:  # one bad item must not harm the others
                for one in group:
                    await self._write([one])
            return
        except BaseException:  # nobody may wait for a write that has ended
            for _, future in group:
                _answer(future, ConnectionResetError("the write was interrupted"))
            raise
        for (_, future), answer in zip(group, answers, strict=True):
            _answer(future, answer)


def _answer(future: "asyncio.Future[O]", answer: O | Exception) -> None:
    if future.done():  # its caller was cancelled
        return
    if isinstance(answer, Exception):
        future.set_exception(answer)
    else:
        future.set_result(answer)
