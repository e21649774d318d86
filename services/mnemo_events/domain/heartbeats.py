"""Signs of life of agents, many of which become durable together."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Final

from mnemocore.errors import DeadlineExceededError, MnemoError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from mnemo_events.domain.agent import Agent
    from mnemocore.calls import Identity

BATCH: Final = 256
"""Heartbeats of one transaction."""


@dataclass(frozen=True, slots=True)
class Beat:
    """A sign of life. `load` is None if it says nothing of it."""

    speaker: Identity
    agent_id: str
    load: float | None


@dataclass(frozen=True, slots=True)
class Heard:
    """An agent after a sign of life, and whether it was offline before. Unchanged if another's."""

    agent: Agent
    revived: bool


class Heartbeats:
    """Commits the heartbeats that come while a transaction runs in the next one, all together."""

    def __init__(self, hear: Callable[[Sequence[Beat]], Awaitable[list[Heard | None]]]) -> None:
        self._hear = hear
        self._queue: dict[asyncio.Future[Heard | None], Beat] = {}
        self._turn = asyncio.Lock()

    async def add(self, beat: Beat) -> Heard | None:
        """What came of the heartbeat when it is durable."""
        answer: asyncio.Future[Heard | None] = asyncio.get_running_loop().create_future()
        self._queue[answer] = beat
        try:
            async with self._turn:
                if not answer.done():
                    await self._commit()
            return answer.result()
        finally:
            self._queue.pop(answer, None)

    async def _commit(self) -> None:
        """Commit the oldest and tell those who wait. If only this caller has no time left, the others try again."""
        batch = dict(islice(self._queue.items(), BATCH))
        try:
            heard = await self._hear(list(batch.values()))
        except DeadlineExceededError:
            raise
        except MnemoError as error:
            for answer in batch:
                self._queue.pop(answer, None)
                answer.set_exception(error)
                answer.exception()  # who was cancelled meanwhile does not ask for it
            return
        for answer, each in zip(batch, heard, strict=True):
            self._queue.pop(answer, None)
            answer.set_result(each)
