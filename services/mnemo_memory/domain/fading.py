"""Links that were learnt from recall fade while they are not recalled; what is stated does not.

Every day on which a space was used weakens its CO_RECALLED links once, when the day is over: those that were reinforced
or set on that day or later excepted. The law is that of `hebbian`; days on which the space was not used do nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from mnemocore.errors import SpaceNotFoundError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from datetime import date

    from mnemo_memory.domain.memory import Space
    from mnemocore.clock import Clock
    from mnemocore.ids import SpaceUid

SLICE: Final = 200
"""Links looked at in one transaction: how long a writer of the space may have to wait."""
SPACES_A_PAGE: Final = 100
PAUSE_SECONDS: Final = 0.2
"""Rest after every slice."""
ROUND_SECONDS: Final = 300.0
"""Rest after all spaces."""


@dataclass(frozen=True, slots=True)
class Faded:
    """What one slice did: links that became weaker, links that were dropped, and whether the space has more to do."""

    weakened: int
    pruned: int
    more: bool


class FadingStore(Protocol):
    """The links that fade, and which active days have weakened them."""

    async def spaces_to_fade(self, before: date, after: SpaceUid | None, limit: int) -> list[Space]:
        """Spaces of all tenants by uid, after `after`, with active days before `before` that have not faded yet."""
        ...

    async def fade(self, space: Space, before: date, limit: int) -> Faded:
        """Let active days before `before` weaken the next `limit` links, and remember in the same transaction that
        they did: each day weakens each link once, whoever else is at it and whatever ends in between.

        Raises SpaceNotFoundError.
        """
        ...


class Fading:
    """Lets links fade, `slice` by slice with a rest after each. Several may run beside one another."""

    def __init__(self, store: FadingStore, clock: Clock, slice: int = SLICE) -> None:
        self._store = store
        self._clock = clock
        self._slice = slice

    async def run(self) -> None:
        """Go on until cancelled. Ends with the error of the store; nothing is lost by starting again."""
        while True:
            await self._round()
            await self._clock.sleep(ROUND_SECONDS)

    async def fade(self, space: Space) -> int:
        """Let the links of one space fade for all days that are over, without rest; how many weakened or dropped."""
        return sum([each.weakened + each.pruned async for each in self._slices(space)])

    async def _round(self) -> None:
        last: SpaceUid | None = None
        while spaces := await self._store.spaces_to_fade(self._clock.now().date(), last, SPACES_A_PAGE):
            for space in spaces:
                async for _ in self._slices(space):
                    await self._clock.sleep(PAUSE_SECONDS)
            last = spaces[-1].uid

    async def _slices(self, space: Space) -> AsyncIterator[Faded]:
        more = True
        while more:
            try:
                faded = await self._store.fade(space, self._clock.now().date(), self._slice)
            except SpaceNotFoundError:  # erased meanwhile, and its links with it
                return
            yield faded
            more = faded.more
