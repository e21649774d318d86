"""Reading in a thread, some items ahead of whoever needs them."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType
    from typing import Self

T = TypeVar("T")


class ReadAhead(Generic[T]):
    """Takes items from an iterator in a thread, at most `limit` ahead; an async context manager of one event loop.

    The thread may wait for a pipe for ever: leaving the context does not wait for it, and neither does the process.
    """

    def __init__(self, items: Iterator[T], limit: int) -> None:
        self._items = items
        self._limit = limit
        self._ready: list[T] = []
        self._ended = False
        self._closed = False
        self._error: BaseException | None = None
        self._changed = threading.Condition()
        self._news = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        threading.Thread(target=self._read, name="mnemo-reader", daemon=True).start()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc_val: BaseException | None, exc_tb: TracebackType | None
    ) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify()

    async def take(self) -> list[T]:
        """All items that are ready, at least one; none at the end. Raises what the iterator raised, after its items."""
        while True:
            self._news.clear()
            with self._changed:
                taken, self._ready = self._ready, []
                self._changed.notify()
                if taken:
                    return taken
                if self._error is not None:
                    raise self._error
                if self._ended:
                    return []
            await self._news.wait()

    def _read(self) -> None:
        try:
            for item in self._items:
                if not self._offer(item):
                    return
        except BaseException as error:  # noqa: BLE001 - `take` goes on with it in the thread that waits
            self._error = error
        with self._changed:
            self._ended = True
            self._tell()

    def _offer(self, item: T) -> bool:
        """Add an item once there is room; False if nobody takes items any more."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or len(self._ready) < self._limit)
            if not self._closed:
                self._ready.append(item)
                if len(self._ready) == 1:
                    self._tell()
            return not self._closed

    def _tell(self) -> None:
        """Wake `take`; only while the context is open, so that the loop is."""
        if not self._closed and self._loop is not None:
            self._loop.call_soon_threadsafe(self._news.set)
