"""The client without `async`: `connect` gives the same connection, and every method of it blocks until it is done.

    with connect("embedded:./data") as mnemo:
        mnemo.space("alice").remember("I moved to Lisbon in March.")

Nothing is written twice: `Blocking` wraps any object with async methods. Coroutines become blocking calls, async
iterators become iterators, further objects with async methods are wrapped in turn, everything else passes through. The
work is done by an event loop in a thread of its own; any number of threads may call. What a caller passes to iterate
over is iterated in the caller's own thread; callbacks are called in the other one and must not block on the connection.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import inspect
import itertools
import queue
import threading
import weakref
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Collection, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final, TypeVar

from mnemocore import client
from mnemocore.errors import CancelledError, PreconditionError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from types import TracebackType
    from typing import Self

    from mnemocore.client import TlsFiles

T = TypeVar("T")

CHUNK: Final = 256
"""Items taken from a caller's iterator at a time."""

INTERRUPT_PATIENCE: Final = 5.0
"""Seconds that interrupted work gets to end."""

_END: Final = object()


def connect(
    target: str, *, api_key: str | None = None, timeout: float | None = None, tls: bool | TlsFiles = False
) -> BlockingConnection:
    """An open connection, as `mnemocore.connect` makes it, with blocking methods. Close it with `with` or `close`."""
    return BlockingConnection(client.connect(target, api_key=api_key, timeout=timeout, tls=tls))


class Blocking:
    """`wrapped` with blocking methods in the place of its async ones; `thread` does the work."""

    def __init__(self, wrapped: object, thread: LoopThread) -> None:
        self._wrapped = wrapped
        self._thread = thread

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(f"{type(self._wrapped).__name__!r} object has no attribute {name!r}")
        value = getattr(self._wrapped, name)
        cls: Any = type(value)
        if not callable(value) or _has_async_functions(cls):
            return self._passed_on(value)

        @functools.wraps(value)
        def call(*args: Any, **kwargs: Any) -> Any:
            return self._call(value, args, kwargs)

        return call

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call what is wrapped, if it can be called."""
        wrapped: Any = self._wrapped
        return self._call(wrapped, args, kwargs)

    def __enter__(self) -> Self:
        """Enter what is wrapped, if it is an async context manager."""
        wrapped: Any = self._wrapped
        self._thread.run(_result_of(type(wrapped).__aenter__, [wrapped], {}))
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc_val: BaseException | None, exc_tb: TracebackType | None
    ) -> None:
        wrapped: Any = self._wrapped
        self._thread.run(_result_of(type(wrapped).__aexit__, [wrapped, exc_type, exc_val, exc_tb], {}))

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *(name for name in dir(self._wrapped) if not name.startswith("_"))})

    def __repr__(self) -> str:
        return f"Blocking({self._wrapped!r})"

    def _call(self, method: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        errands = Errands()
        lent_args = [errands.lend(arg) for arg in args]
        lent_kwargs = {name: errands.lend(arg) for name, arg in kwargs.items()}
        return self._passed_on(self._thread.run(_result_of(method, lent_args, lent_kwargs), errands))

    def _passed_on(self, value: Any) -> Any:
        if isinstance(value, AsyncIterator):
            return _iterate(value, self._thread)
        return Blocking(value, self._thread) if _has_async_methods(value) else value


class BlockingConnection(Blocking):
    """A connection with blocking methods. The thread behind it ends with `close`, at the latest with the program."""

    def __init__(self, connection: client.Connection) -> None:
        thread = LoopThread(connection.close)
        super().__init__(connection, thread)
        self._finalizer = weakref.finalize(self, thread.stop)
        try:
            thread.run(connection.open())
        except BaseException:
            self.close()
            raise

    def open(self) -> Self:
        """The connection: it is open already."""
        return self

    def close(self) -> None:
        """Close the connection and end its thread. Closing twice does nothing."""
        self._finalizer()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc_val: BaseException | None, exc_tb: TracebackType | None
    ) -> None:
        self.close()


class LoopThread:
    """An event loop in a thread of its own, which awaits `closing()` as the last thing it does."""

    def __init__(self, closing: Callable[[], Awaitable[None]]) -> None:
        self._closing = closing
        self._started: concurrent.futures.Future[asyncio.AbstractEventLoop] = concurrent.futures.Future()
        self._stop_asked = asyncio.Event()
        self._stopped = False
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="mnemocore-sync", daemon=True)
        self._thread.start()
        self._loop = self._started.result()

    def run(self, work: Coroutine[Any, Any, T], errands: Errands | None = None) -> T:
        """The result of `work`, done in the thread; `errands` are done here meanwhile.

        An interrupt (Ctrl-C) cancels the work and is raised when it has ended. Raises RuntimeError in the thread
        itself, PreconditionError after the end, CancelledError if the thread ends before the work.
        """
        if self._stopped or threading.current_thread() is self._thread:
            work.close()
            if self._stopped:
                raise PreconditionError("the connection is closed")
            raise RuntimeError("a callback must not call a blocking method of the connection it is called by")
        errands = errands or Errands()
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        future.add_done_callback(lambda _: errands.end())
        try:
            errands.do_until_end()
        except BaseException:
            future.cancel()
            concurrent.futures.wait([future], INTERRUPT_PATIENCE)
            raise
        try:
            return future.result()
        except concurrent.futures.CancelledError:
            raise CancelledError("the connection was closed before the answer came") from None

    def stop(self) -> None:
        """End the thread; work under way is cancelled. Raises what closing raised."""
        self._stopped = True
        self._loop.call_soon_threadsafe(self._stop_asked.set)
        if threading.current_thread() is not self._thread:
            self._thread.join()
            if self._failure is not None:
                raise self._failure

    def _work(self) -> None:
        try:
            with asyncio.Runner() as runner:
                runner.run(self._main())
        except Exception as error:  # noqa: BLE001 - nobody is above the thread; `stop` goes on and raises it
            self._failure = error

    async def _main(self) -> None:
        self._started.set_result(asyncio.get_running_loop())
        await self._stop_asked.wait()
        await self._closing()


class Errands:
    """What the thread of a caller does while it waits for an answer: it takes items from the iterators it has lent."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()

    def lend(self, argument: Any) -> Any:
        """An async iterator in the place of an iterable that is no collection; anything else as it is."""
        if isinstance(argument, Iterable) and not isinstance(argument, (Collection, AsyncIterable)):
            return self._items_of(iter(argument))
        return argument

    def do_until_end(self) -> None:
        """Do what comes, until `end`."""
        while (errand := self._queue.get()) is not None:
            errand()

    def end(self) -> None:
        """Nothing more comes."""
        self._queue.put(None)

    async def _items_of(self, items: Iterator[T]) -> AsyncIterator[T]:
        loop = asyncio.get_running_loop()
        while True:
            chunk: asyncio.Future[list[T]] = loop.create_future()
            self._queue.put(functools.partial(_take_chunk, items, chunk, loop))
            taken = await chunk
            if not taken:
                return
            for item in taken:
                yield item


def _take_chunk(items: Iterator[T], into: asyncio.Future[list[T]], loop: asyncio.AbstractEventLoop) -> None:
    try:
        taken = list(itertools.islice(items, CHUNK))
    except Exception as error:  # noqa: BLE001 - the work goes on with it: it is raised where the items are wanted
        loop.call_soon_threadsafe(_resolve, into, [], error)
    else:
        loop.call_soon_threadsafe(_resolve, into, taken, None)


def _resolve(future: asyncio.Future[list[T]], taken: list[T], error: Exception | None) -> None:
    if future.done():  # the work was cancelled meanwhile
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(taken)


def _iterate(items: AsyncIterator[T], thread: LoopThread) -> Iterator[T]:
    try:
        while (item := thread.run(_next(items))) is not _END:
            yield item  # type: ignore[misc]  # it is not the sentinel
    finally:
        closing = getattr(items, "aclose", None)
        if closing is not None:
            thread.run(closing())


async def _next(items: AsyncIterator[T]) -> T | object:
    return await anext(items, _END)


async def _result_of(method: Callable[..., Any], args: list[Any], kwargs: dict[str, Any]) -> Any:
    result = method(*args, **kwargs)
    return await result if isinstance(result, Awaitable) else result


def _has_async_methods(value: Any) -> bool:
    """Whether an object offers public coroutines or async iterators, or callables that are coroutines, as stubs do."""
    cls: Any = type(value)
    return _has_async_functions(cls) or any(
        inspect.iscoroutinefunction(type(attribute).__call__)
        for name, attribute in getattr(value, "__dict__", {}).items()
        if callable(attribute) and not name.startswith("_")
    )


@functools.cache
def _has_async_functions(cls: type[Any]) -> bool:
    members = (inspect.getattr_static(cls, name) for name in dir(cls) if not name.startswith("_"))
    return any(inspect.iscoroutinefunction(member) or inspect.isasyncgenfunction(member) for member in members)
