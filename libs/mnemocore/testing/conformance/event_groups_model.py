"""What a consumer group does, said as simply as possible: engines are compared with it, step by step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

NEVER_GIVEN = float("-inf")
"""When that is due which may be given at once."""


@dataclass(slots=True)
class Held:
    """An event that a group holds: a member has it until `due`, or it waits until then."""

    position: int
    key: str
    member: str | None
    due: float
    attempt: int
    replayed: bool = False

    def let_go(self, *, counted: bool, due: float = NEVER_GIVEN) -> None:
        """Take it from its member."""
        self.member, self.due, self.attempt = None, due, self.attempt - (not counted)


Said = tuple[int, int, str, float]
"""An outcome: position, attempt, one of "done", "failed" and "extended", and the time of the next attempt."""


class GroupModel:
    """One group, in memory. Times are seconds. Nothing of it is fast."""

    def __init__(self, max_waiting: int) -> None:
        self.position = 0
        self.held: dict[int, Held] = {}
        self._max_waiting = max_waiting

    def standing(self) -> tuple[int, int, int]:
        """Position, in flight and waiting."""
        return self.position, len(self._where(lambda each: each.member is not None)), self._waiting()

    def claim(
        self,
        member: str,
        limit: int,
        now: float,
        lease: float,
        fresh: tuple[int, int, Sequence[tuple[int, str]]] | None,
    ) -> tuple[list[tuple[int, int, bool]], float | None]:
        """Position, attempt and whether it was revived, of each event that is given; and when something is due next."""
        given: list[Held] = []
        for each in self._sorted():
            if len(given) < limit and each.due <= now and self._is_open(each, member, now):
                if each.member is not None:
                    self._take_back(each)
                each.member, each.due, each.attempt = member, now + lease, each.attempt + 1
                given.append(each)
        if fresh is not None and fresh[0] == self.position:
            self._look_at(member, limit, now, lease, fresh[1], fresh[2], given)
        return [(each.position, each.attempt, each.replayed) for each in given], self._next_due(member, now)

    def settle(self, member: str, outcomes: Iterable[Said], now: float, lease: float) -> tuple[list[int], list[int]]:
        """Positions whose outcomes counted, and those that were lost."""
        last: dict[int, Said] = {}
        for said in outcomes:
            last.pop(said[0], None)
            last[said[0]] = said
        settled, lost = set(), set()
        for position, attempt, what, due in last.values():
            each = self.held.get(position)
            if each is None or (each.member, each.attempt) != (member, attempt):
                lost.add(position)
                continue
            settled.add(position)
            if what == "done":
                del self.held[position]
            elif what == "extended":
                each.due = now + lease
            else:
                each.let_go(counted=True, due=due)
                lost |= self._take_back(each)
        return sorted(settled - lost), sorted(lost)

    def release(self, member: str, *, counted: bool) -> int:
        """Let go of what a member has."""
        having = self._where(lambda each: each.member == member)
        for each in having:
            each.let_go(counted=counted)
        return len(having)

    def revive(self, positions: Iterable[int], now: float) -> list[int]:
        """Take in what is not held."""
        revived = sorted(set(positions) - self.held.keys())
        for position in revived:
            self.held[position] = Held(position, "", None, now, 0, replayed=True)
        return revived

    def seek(self, position: int) -> None:
        """Go on elsewhere, with nothing."""
        self.position = position
        self.held.clear()

    def _look_at(
        self,
        member: str,
        limit: int,
        now: float,
        lease: float,
        upto: int,
        events: Sequence[tuple[int, str]],
        given: list[Held],
    ) -> None:
        for position, key in events:
            if position not in self.held:
                if self._waiting() >= self._max_waiting:
                    return
                each = Held(position, key, None, NEVER_GIVEN, 0)
                if self._is_open(each, member, now):
                    if len(given) >= limit:
                        return
                    each = Held(position, key, member, now + lease, 1)
                    given.append(each)
                self.held[position] = each
            self.position = position
        self.position = upto

    def _is_open(self, each: Held, member: str, now: float) -> bool:
        """Whether everything earlier of its key is with the member, within the lease."""
        return all(
            earlier.member == member and earlier.due > now
            for earlier in self.held.values()
            if earlier.key == each.key != "" and earlier.position < each.position
        )

    def _take_back(self, broken: Held) -> set[int]:
        """Take later events of the key from whoever has them."""
        later = self._where(
            lambda each: each.key == broken.key != "" and each.position > broken.position and each.member is not None
        )
        for each in later:
            each.let_go(counted=False)
        return {each.position for each in later}

    def _next_due(self, member: str, now: float) -> float | None:
        dues = []
        for each in self._sorted():
            behind = [
                other for other in self._sorted() if other.key == each.key != "" and other.position < each.position
            ]
            if all(other.member == member for other in behind):
                dues.append(max(each.due, now))
        return min(dues, default=None)

    def _sorted(self) -> list[Held]:
        return sorted(self.held.values(), key=lambda each: each.position)

    def _where(self, is_wanted: Callable[[Held], bool]) -> list[Held]:
        return [each for each in self._sorted() if is_wanted(each)]

    def _waiting(self) -> int:
        return len(self._where(lambda each: each.member is None))
