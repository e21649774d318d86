"""What a member believes to have: each event it was handed, by the tag it was handed over with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


@dataclass(frozen=True, slots=True)
class HandedEvent:
    """An event that was handed over. `key`: "" if it waits for no other and no other for it."""

    tag: int
    position: int
    attempt: int
    key: str


class Handed:
    """Events that were handed over and are not over. Tags ascend from 1; none is used twice."""

    def __init__(self) -> None:
        self.last_tag = 0
        self._by_tag: dict[int, HandedEvent] = {}
        self._by_position: dict[int, HandedEvent] = {}

    def add(self, position: int, attempt: int, key: str) -> int:
        """Note that an event is handed over that is not there; its tag."""
        self.last_tag += 1
        event = HandedEvent(self.last_tag, position, attempt, key)
        self._by_tag[event.tag] = self._by_position[position] = event
        return event.tag

    def get(self, tag: int) -> HandedEvent | None:
        """The event with that tag, unless it is over."""
        return self._by_tag.get(tag)

    def at(self, position: int) -> HandedEvent | None:
        """The event at that position, unless it is over."""
        return self._by_position.get(position)

    def end(self, positions: Iterable[int]) -> list[int]:
        """What is at these positions is over; the tags of what was there."""
        over = [event for position in positions if (event := self._by_position.pop(position, None))]
        for event in over:
            del self._by_tag[event.tag]
        return [event.tag for event in over]

    def later(self, positions: Iterable[int]) -> list[HandedEvent]:
        """What comes after one of these positions and has its key."""
        firsts = _firsts(event for position in positions if (event := self.at(position)))
        if not firsts:
            return []
        return [event for event in self._by_tag.values() if event.position > firsts.get(event.key, event.position)]

    def clear(self) -> list[int]:
        """All of it is over; the tags."""
        return self.end(list(self._by_position))


def _firsts(events: Iterable[HandedEvent]) -> Mapping[str, int]:
    """The first position of each key."""
    firsts: dict[str, int] = {}
    for event in events:
        if event.key:
            firsts[event.key] = min(event.position, firsts.get(event.key, event.position))
    return firsts
