"""Finds spaces of which the index holds something else than the store, and has them healed.

Both sides say how many memories they hold at the same revision, and a checksum of their ids and revisions. Where they
differ the index builds the space anew from the event log by itself. If it differs then as well, the log lacks
something: every memory of the space is published again, and the index forgets what came before.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Final, Protocol

from mnemo_memory.domain.ports import Author
from mnemocore.errors import IndexLaggingError, IndexRebuildingError, MnemoError, SpaceNotFoundError, UnavailableError

if TYPE_CHECKING:
    import random
    from collections.abc import Awaitable, Callable
    from datetime import datetime

    from mnemo_memory.domain.memory import Space
    from mnemocore.clock import Clock
    from mnemocore.ids import SpaceUid

PRINCIPAL: Final = "index-check"
"""Who publishes memories again."""
SPACES_A_PAGE: Final = 100
LEAST_PAUSE_SECONDS: Final = 0.05
PAUSE_SHARE: Final = 19.0
"""Rest after each space, as a multiple of what comparing it took: a twentieth of the time is used at most."""
JITTER: Final = 0.5
"""Rounds begin up to this share of the pause earlier or later, so that replicas do not go in step."""
LOOKS: Final = 60
LOOK_SECONDS: Final = 1.0
"""A space that is built anew is looked at so often, and with so much time in between, before it is left for later."""
REPUBLISHED_ONCE_IN: Final = timedelta(days=1)
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Contents:
    """The memories of a space at a revision: their number, and a checksum of their ids and last revisions."""

    revision: int
    memories: int
    checksum: int


class ContentsStore(Protocol):
    """What the store holds."""

    async def spaces_after(self, after: SpaceUid | None, limit: int) -> list[Space]:
        """Spaces of all tenants by uid, after `after`."""
        ...

    async def contents(self, space: Space) -> Contents | None:
        """What a space holds now; None while not everything is published, or if there is no such space."""
        ...


class ComparingIndex(Protocol):
    """What the index holds."""

    async def compare(self, space: Space, contents: Contents, base: int) -> Contents | None:
        """What the index holds, at the revision of `contents` or a later one; None if it is still reading the log.

        If it differs at that revision the index builds the space anew: from what was published after revision `base`.
        Raises UnavailableError.
        """
        ...


class IndexCheck:
    """Compares every space once in `seconds`, give or take. Several may run beside one another.

    `republish` publishes every memory of a space again.
    """

    def __init__(
        self,
        store: ContentsStore,
        index: ComparingIndex,
        republish: Callable[[Space, Author], Awaitable[int]],
        clock: Clock,
        seconds: float,
        chance: random.Random,
    ) -> None:
        self._store = store
        self._index = index
        self._republish = republish
        self._clock = clock
        self._seconds = seconds
        self._chance = chance
        self._republished: dict[SpaceUid, datetime] = {}

    async def run(self) -> None:
        """Go on until cancelled. Ends with the error of the store; nothing is lost by starting again."""
        while True:
            await self._clock.sleep(self._seconds * (1 + self._chance.uniform(-JITTER, JITTER)))
            await self._round()

    async def check(self, space: Space) -> bool | None:
        """Compare a space, and heal it if it differs.

        Whether both sides hold the same now; None if that cannot be told: too much is going on, or being built.
        """
        alike = await self._alike(space, 0)
        if alike is False:
            alike = await self._alike_in_the_end(space, 0)
        if alike is False and self._may_republish(space):
            contents = await self._store.contents(space)
            base = contents.revision if contents else space.revision
            number = await self._republish(space, Author(PRINCIPAL, self._clock.now(), "the index differs"))
            _log.warning(
                "space %s: the index cannot get it from the log; %d memories published again", space.uid, number
            )
            alike = await self._alike_in_the_end(space, base)
        if alike is False:
            _log.error("space %s: the index differs from the store, and could not be healed", space.uid)
        return alike

    async def _round(self) -> None:
        last: SpaceUid | None = None
        while spaces := await self._store.spaces_after(last, SPACES_A_PAGE):
            for space in spaces:
                started = self._clock.monotonic()
                await self._check(space)
                taken = self._clock.monotonic() - started
                await self._clock.sleep(max(LEAST_PAUSE_SECONDS, PAUSE_SHARE * min(taken, LOOK_SECONDS)))
            last = spaces[-1].uid

    async def _check(self, space: Space) -> None:
        try:
            await self.check(space)
        except SpaceNotFoundError:
            return  # it was erased meanwhile
        except UnavailableError as error:
            _log.info("space %s is not compared with the index: %s", space.uid, error)
        except MnemoError as error:
            _log.error("space %s cannot be compared with the index, the others go on: %s", space.uid, error)

    async def _alike(self, space: Space, base: int) -> bool | None:
        """Whether both sides hold the same; None if they do not speak of the same revision."""
        contents = await self._store.contents(space)
        if contents is None:
            return None
        held = await self._index.compare(space, contents, base)
        return None if held is None or held.revision > contents.revision else held == contents

    async def _alike_in_the_end(self, space: Space, base: int) -> bool | None:
        """Whether both sides hold the same once the index has built the space anew; None if that takes too long."""
        for _ in range(LOOKS):
            await self._clock.sleep(LOOK_SECONDS)
            try:
                alike = await self._alike(space, base)
            except (IndexLaggingError, IndexRebuildingError):
                continue
            if alike or (alike is False and base == 0):
                return alike
        return None

    def _may_republish(self, space: Space) -> bool:
        now = self._clock.now()
        before = self._republished.get(space.uid)
        if before is not None and now - before < REPUBLISHED_ONCE_IN:
            return False
        self._republished = {uid: at for uid, at in self._republished.items() if now - at < REPUBLISHED_ONCE_IN}
        self._republished[space.uid] = now
        return True
