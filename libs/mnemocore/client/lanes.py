"""Work in order: what has the same key one after the other, different keys side by side."""

from __future__ import annotations

from bisect import insort
from collections import deque
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Hashable


class Placed(Protocol):
    """Something with a place in its lane."""

    @property
    def lane(self) -> Hashable:
        """The key."""
        ...

    @property
    def position(self) -> int:
        """What comes before and after it: no two of a lane have the same."""
        ...


T = TypeVar("T", bound=Placed)


class Lanes(Generic[T]):
    """Items that wait in the lane of their key, by position. A lane is closed from a `take` until it is opened."""

    def __init__(self) -> None:
        self._lanes: dict[Hashable, list[T]] = {}  # only those where something waits
        self._closed: set[Hashable] = set()
        self._ready: deque[Hashable] = deque()  # lanes to take from; some may be empty or closed by now

    def put(self, item: T) -> None:
        """Add an item to its lane."""
        lane = self._lanes.setdefault(item.lane, [])
        insort(lane, item, key=lambda placed: placed.position)
        if len(lane) == 1 and item.lane not in self._closed:
            self._ready.append(item.lane)

    def take(self) -> T | None:
        """The first item of an open lane, which is closed now; None if there is none. Lanes take turns."""
        while self._ready:
            key = self._ready.popleft()
            if key in self._lanes and key not in self._closed:
                self._closed.add(key)
                item = self._lanes[key][0]
                self.remove(item)
                return item
        return None

    def open(self, key: Hashable) -> None:
        """Let the next item of a lane be taken. Opening an open lane does nothing."""
        if key in self._closed:
            self._closed.discard(key)
            if key in self._lanes:
                self._ready.append(key)

    def remove(self, item: T) -> None:
        """Take a waiting item out of its lane."""
        lane = self._lanes[item.lane]
        lane.remove(item)
        if not lane:
            del self._lanes[item.lane]

    def clear(self) -> None:
        """Take every waiting item out; closed lanes stay closed."""
        self._lanes.clear()
        self._ready.clear()
