"""Who is waiting for the log to grow, and the news that it did."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator


class Waiter(Protocol):
    """Whoever is told, such as an asyncio.Event."""

    def set(self) -> None:
        """The log may have grown; never waits."""
        ...


class Arrivals:
    """Wakes waiters when the log has grown: by an append here, by the word of another replica, or to look again."""

    def __init__(self) -> None:
        self._head = 0
        self._waiters: set[Waiter] = set()

    def add(self, waiter: Waiter) -> None:
        """Set `waiter` at every arrival from now on."""
        self._waiters.add(waiter)

    @contextmanager
    def watch(self, waiter: Waiter) -> Iterator[None]:
        """Set `waiter` at every arrival inside the block."""
        self.add(waiter)
        try:
            yield
        finally:
            self._waiters.discard(waiter)

    def advance(self, head: int) -> None:
        """The log is known to reach `head`; wakes nobody if that is no news."""
        if head > self._head:
            self._head = head
            self.look_again()

    def look_again(self) -> None:
        """News may have been missed: wake everybody."""
        for waiter in self._waiters:
            waiter.set()
