"""A channel to a server in the same event loop: the same stages and handlers, no socket.

Generated stubs work over it unchanged, and calls end as they would on the wire: the same codes, details and trailing
metadata, the same behaviour at a deadline and at a cancellation. Messages are handed over as they are, without being
serialised, so neither side may change one after it has passed it on. A stub without serialisers, as a proxy has, gets
and gives bytes. Every call runs in a task with an empty context, so nothing of the caller leaks into the handler.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NoReturn

import grpc
import grpc.aio
from google.protobuf.message import Message

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Generator, Iterable, Mapping, Sequence
    from types import TracebackType
    from typing import Self

    from mnemocore.server.chain import Handler

    Pairs = tuple[tuple[str, str | bytes], ...]
    Convert = Callable[[Any], Any]

QUEUED_MESSAGES: Final = 16
"""How many messages wait between the two ends of a stream before the writer waits for the reader."""
QUEUED_BYTES: Final = 4 * 1024 * 1024
"""The writer also waits when those messages have so many bytes together; one message may have more."""

EOF: Final = grpc.aio.EOF

_LOGGER: Final = logging.getLogger("mnemocore.server")


class Pipe:
    """Messages on their way from one end of a call to the other, in order, with a bound on their number and bytes."""

    __slots__ = ("_bytes", "_items", "_waiting", "closed")

    def __init__(self) -> None:
        self._bytes = 0
        self._items: deque[tuple[Any, int]] = deque()
        self._waiting: list[asyncio.Future[None]] = []
        self.closed = False

    @property
    def empty(self) -> bool:
        """Whether nothing is on its way."""
        return not self._items

    def put_now(self, item: Any) -> None:
        """Add a message without asking for room: for the one message of a unary side."""
        self._add(item, 0)

    async def put(self, item: Any) -> bool:
        """Add a message when there is room; False if the pipe was closed before."""
        while (len(self._items) >= QUEUED_MESSAGES or self._bytes >= QUEUED_BYTES) and not self.closed:
            await self._change()
        if self.closed:
            return False
        self._add(item, _size_of(item))
        return True

    async def get(self) -> Any:
        """The next message when there is one; EOF if the pipe is closed and empty."""
        while not self._items:
            if self.closed:
                return EOF
            await self._change()
        return self._take()

    def pop(self) -> Any:
        """The next message, EOF if there is none now."""
        return self._take() if self._items else EOF

    def close(self) -> None:
        """Take no more messages; those on their way still arrive."""
        self.closed = True
        self._wake()

    def discard(self) -> None:
        """Take no more messages and drop those on their way."""
        self._items.clear()
        self._bytes = 0
        self.close()

    def _add(self, item: Any, size: int) -> None:
        self._items.append((item, size))
        self._bytes += size
        self._wake()

    def _take(self) -> Any:
        item, size = self._items.popleft()
        self._bytes -= size
        self._wake()
        return item

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(None)

    async def _change(self) -> None:
        future = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        await future


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a call ended."""

    code: grpc.StatusCode
    details: str
    trailing: Pairs = ()


_DEADLINE: Final = Outcome(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded")
_CANCELLED: Final = Outcome(grpc.StatusCode.CANCELLED, "Locally cancelled by application!")
_ABANDONED: Final = Outcome(grpc.StatusCode.CANCELLED, "Cancelled upon garbage collection!")
_HANDLER_CANCELLED: Final = Outcome(grpc.StatusCode.CANCELLED, "the handler was cancelled")
_UNIMPLEMENTED: Final = Outcome(grpc.StatusCode.UNIMPLEMENTED, "Method not found!")
_STOPPED: Final = Outcome(grpc.StatusCode.UNAVAILABLE, "the server has stopped")
_NO_RESPONSE: Final = Outcome(grpc.StatusCode.INTERNAL, "the handler sent no response")


class Exchange:
    """What the two ends of one call share.

    `outcome` is set when the call is over for the client: at once after a cancellation, a passed deadline, or the end
    of a call with one response; otherwise when the last response has been read.
    """

    __slots__ = (
        "_callbacks",
        "_final",
        "_loop",
        "_timer",
        "_unary_response",
        "deadline",
        "initial",
        "locally_cancelled",
        "metadata",
        "outcome",
        "requests",
        "response",
        "responses",
        "task",
    )

    def __init__(self, metadata: Pairs, timeout: float | None, *, unary_response: bool) -> None:
        self._loop = asyncio.get_running_loop()
        self._unary_response = unary_response
        self._callbacks: list[Callable[[], object]] = []
        self._final: Outcome | None = None
        self._timer: asyncio.TimerHandle | None = None
        self.metadata = metadata
        self.requests = Pipe()
        self.responses = Pipe()
        self.response: Any = EOF
        self.initial: asyncio.Future[Pairs] = self._loop.create_future()
        self.outcome: asyncio.Future[Outcome] = self._loop.create_future()
        self.locally_cancelled = False
        self.task: asyncio.Task[None] | None = None
        self.deadline: float | None = None
        if timeout is not None:
            self.deadline = self._loop.time() + timeout
            self._timer = self._loop.call_at(self.deadline, self.terminate, _DEADLINE)

    @property
    def done(self) -> bool:
        """Whether the call is over for the client."""
        return self.outcome.done()

    def time_remaining(self) -> float | None:
        """Seconds until the deadline, at least 0; None without one."""
        return None if self.deadline is None else max(0.0, self.deadline - self._loop.time())

    def send_initial(self, metadata: Pairs) -> None:
        """Let the client see the initial metadata; later calls change nothing."""
        if not self.initial.done():
            self.initial.set_result(metadata)

    def finish(self, outcome: Outcome) -> None:
        """The handler has ended: no more messages in either direction, `outcome` after those that are on their way."""
        if self._final is not None or self.done:
            return
        self._final = outcome
        self.requests.discard()
        self.responses.close()
        if self._unary_response:
            self.response = self.responses.pop()
            if outcome.code is grpc.StatusCode.OK and self.response is EOF:
                self._final = _NO_RESPONSE
        self._settle_if_read()

    def terminate(self, outcome: Outcome) -> None:
        """End the call now: drop all messages and cancel the handler."""
        if self.done or self._loop.is_closed():
            return
        self.requests.discard()
        self.responses.discard()
        self._settle(outcome)
        if self.task is not None:
            self.task.cancel()

    async def read(self) -> Any:
        """The next response; EOF when there are no more and `outcome` is set."""
        response = await self.responses.get()
        self._settle_if_read()
        return response

    def on_done(self, callback: Callable[[], object]) -> None:
        """Call `callback` when the call is over; now if it is."""
        if self.done:
            callback()
        else:
            self._callbacks.append(callback)

    def _settle_if_read(self) -> None:
        if self._final is not None and self.responses.empty and not self.done:
            self._settle(self._final)

    def _settle(self, outcome: Outcome) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self.send_initial(())
        self.outcome.set_result(outcome)
        callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback()


class LocalServicerContext(grpc.aio.ServicerContext[Any, Any]):
    """What a handler may ask of and tell its call."""

    def __init__(self, exchange: Exchange, peer: str, to_client: Convert) -> None:
        self._exchange = exchange
        self._peer = peer
        self._to_client = to_client
        self._code: grpc.StatusCode | None = None
        self._details = ""
        self._trailing: Pairs = ()
        self._abort: grpc.aio.AbortError | None = None
        self._callbacks: list[Any] = []

    def outcome(self) -> Outcome:
        """How the call ends by what the handler has set."""
        return Outcome(self._code or grpc.StatusCode.OK, self._details, self._trailing)

    async def requests(self) -> AsyncIterator[Any]:
        """The messages of the client until it is done writing."""
        while (message := await self.read()) is not EOF:
            yield message

    async def read(self) -> Any:
        """The next message of the client; EOF when it is done writing."""
        self._raise_if_aborted()
        return await self._exchange.requests.get()

    async def write(self, message: Any) -> None:
        """Send a message, when the client has read enough of those before."""
        self._raise_if_aborted()
        self._exchange.send_initial(())
        if not await self._exchange.responses.put(self._to_client(message)):
            raise grpc.aio.UsageError("RPC already finished.")

    async def send_initial_metadata(self, initial_metadata: Any) -> None:
        """Send the initial metadata; once, and before the first message."""
        self._raise_if_aborted()
        if self._exchange.initial.done():
            raise grpc.aio.UsageError("Send initial metadata failed: already sent")
        self._exchange.send_initial(tuple(initial_metadata))

    async def abort(self, code: grpc.StatusCode, details: str = "", trailing_metadata: Any = ()) -> NoReturn:
        """End the call with `code`; always raises AbortError."""
        if self._abort is not None:
            raise grpc.aio.UsageError("Abort already called!")
        self._code = code
        self._details = details or self._details
        self._trailing = tuple(trailing_metadata) or self._trailing
        self._abort = grpc.aio.AbortError("Locally aborted.")
        raise self._abort

    async def abort_with_status(self, status: grpc.Status) -> NoReturn:
        """End the call with `status`; always raises AbortError."""
        await self.abort(status.code, status.details, status.trailing_metadata or ())

    def add_done_callback(self, callback: Any) -> None:
        """Call `callback(context)` when the handler has ended."""
        self._callbacks.append(callback)

    def run_done_callbacks(self) -> None:
        """Tell those who wanted to know that the handler has ended."""
        for callback in self._callbacks:
            callback(self)

    def invocation_metadata(self) -> Any:
        """The metadata of the client."""
        return self._exchange.metadata

    def set_trailing_metadata(self, trailing_metadata: Any) -> None:
        """Set what follows the last message."""
        self._trailing = tuple(trailing_metadata)

    def trailing_metadata(self) -> Any:
        """What was set to follow the last message."""
        return self._trailing

    def set_code(self, code: grpc.StatusCode) -> None:
        """Set the code the call ends with."""
        self._code = code

    def code(self) -> Any:
        """The code that was set; None if none was."""
        return self._code

    def set_details(self, details: str) -> None:
        """Set the details the call ends with."""
        self._details = details

    def details(self) -> str:
        """The details that were set."""
        return self._details

    def time_remaining(self) -> Any:
        """Seconds until the client's deadline; None without one."""
        return self._exchange.time_remaining()

    def peer(self) -> str:
        """Who calls: `inprocess:` and the name of the server."""
        return self._peer

    def peer_identities(self) -> Iterable[bytes] | None:
        """None: there is no transport security in process."""
        return None

    def peer_identity_key(self) -> str | None:
        """None: there is no transport security in process."""
        return None

    def auth_context(self) -> Mapping[str, Iterable[bytes]]:
        """Empty: there is no transport security in process."""
        return {}

    def set_compression(self, compression: grpc.Compression) -> None:
        """Nothing is compressed in process."""

    def disable_next_message_compression(self) -> None:
        """Nothing is compressed in process."""

    def cancelled(self) -> bool:
        """Whether the client cancelled the call."""
        return self._exchange.locally_cancelled

    def done(self) -> bool:
        """Whether the call is over."""
        return self._abort is not None or self._exchange.done

    def _raise_if_aborted(self) -> None:
        """A handler that swallows its own abort gets it again at the next read or write."""
        if self._abort is not None:
            raise self._abort


class LocalTransport:
    """The server's side of all in-process calls: finds handlers, owns the tasks that run them."""

    def __init__(self, name: str, resolve: Callable[[str], Handler | None]) -> None:
        self._peer = f"inprocess:{name}"
        self._resolve = resolve
        self._running: set[Exchange] = set()
        self._stopped = False

    def begin(self, path: str, exchange: Exchange, codec: Codec) -> Convert:
        """Start the handler of `path`. Returns how a message of the client is made one of the handler."""
        handler = None if self._stopped else self._resolve(path)
        if handler is None:
            exchange.finish(_STOPPED if self._stopped else _UNIMPLEMENTED)
            return _as_it_is
        context = LocalServicerContext(exchange, self._peer, codec.to_client(handler))
        self._running.add(exchange)
        exchange.task = asyncio.get_running_loop().create_task(
            self._serve(handler, exchange, context), name=f"call {path}", context=contextvars.Context()
        )
        return codec.to_handler(handler)

    async def stop(self) -> None:
        """End the calls that still run with UNAVAILABLE, wait for their handlers, and take no more."""
        self._stopped = True
        running = list(self._running)
        for exchange in running:
            exchange.terminate(_STOPPED)
        tasks = [exchange.task for exchange in running if exchange.task is not None]
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, handler: Handler, exchange: Exchange, context: LocalServicerContext) -> None:
        try:
            await _answer(handler, exchange, context)
            exchange.finish(context.outcome())
        except grpc.aio.AbortError:
            exchange.finish(context.outcome())
        except asyncio.CancelledError:
            exchange.finish(_HANDLER_CANCELLED)
            raise
        except Exception as error:  # one call fails; the channel goes on carrying the others
            _LOGGER.exception("unexpected error in an in-process call")
            exchange.finish(Outcome(grpc.StatusCode.UNKNOWN, f"Unexpected {type(error)}"))
        finally:
            self._running.discard(exchange)
            context.run_done_callbacks()


async def _answer(handler: Handler, exchange: Exchange, context: LocalServicerContext) -> None:
    request = context.requests() if handler.request_streaming else await context.read()
    if request is EOF:
        return
    behaviour: Any = handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream
    response = await behaviour(request, context)
    if not handler.response_streaming and context.outcome().code is grpc.StatusCode.OK:
        await context.write(response)


@dataclass(frozen=True, slots=True)
class Codec:
    """The serialisers of a stub's method; None on both sides for a proxy that passes bytes on."""

    serialize: Callable[[Any], bytes] | None
    deserialize: Callable[[bytes], Any] | None

    def to_handler(self, handler: Handler) -> Convert:
        """How a request of the stub is made one of the handler."""
        return _conversion(self.serialize, handler.request_deserializer)

    def to_client(self, handler: Handler) -> Convert:
        """How a response of the handler is made one of the stub."""
        return _conversion(handler.response_serializer, self.deserialize)


def _conversion(serialize: Callable[[Any], bytes] | None, deserialize: Callable[[bytes], Any] | None) -> Convert:
    if serialize is None:
        return _as_it_is if deserialize is None else deserialize
    if deserialize is None:
        return serialize

    def convert(message: Any) -> Any:
        return message if isinstance(message, Message) else deserialize(serialize(message))

    return convert


def _as_it_is(message: Any) -> Any:
    return message


def _size_of(message: Any) -> int:
    """The bytes of a message; 0 of what stands for one that could not be read."""
    return len(message) if isinstance(message, bytes) else message.ByteSize() if isinstance(message, Message) else 0


class _LocalCall(grpc.aio.Call):
    """The client's end of a call."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    def __del__(self) -> None:
        exchange = self._exchange
        if not exchange.done:
            exchange.terminate(_ABANDONED)

    def cancelled(self) -> bool:
        """Whether the call ended by a cancellation."""
        return self._exchange.done and self._exchange.outcome.result().code is grpc.StatusCode.CANCELLED

    def done(self) -> bool:
        """Whether the call is over."""
        return self._exchange.done

    def time_remaining(self) -> float | None:
        """Seconds until the deadline; None without one."""
        return self._exchange.time_remaining()

    def cancel(self) -> bool:
        """End the call now; False if it was over."""
        if self._exchange.done:
            return False
        self._exchange.locally_cancelled = True
        self._exchange.terminate(_CANCELLED)
        return True

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        """Call `callback(call)` when the call is over."""
        self._exchange.on_done(lambda: callback(self))

    async def initial_metadata(self) -> grpc.aio.Metadata:
        """The server's initial metadata, when it comes."""
        return grpc.aio.Metadata(*await asyncio.shield(self._exchange.initial))

    async def trailing_metadata(self) -> grpc.aio.Metadata:
        """The server's trailing metadata, when the call is over."""
        return grpc.aio.Metadata(*(await self._outcome()).trailing)

    async def code(self) -> grpc.StatusCode:
        """The code, when the call is over."""
        return (await self._outcome()).code

    async def details(self) -> str:
        """The details, when the call is over."""
        return (await self._outcome()).details

    async def wait_for_connection(self) -> None:
        """Return at once: there is no connection to wait for. Raises AioRpcError if the call has failed already."""
        if self._exchange.done:
            self._raise_for_status()

    async def _outcome(self) -> Outcome:
        return await asyncio.shield(self._exchange.outcome)

    def _raise_for_status(self) -> None:
        """Raise what the outcome says; the call is over."""
        if self._exchange.locally_cancelled:
            raise asyncio.CancelledError
        outcome = self._exchange.outcome.result()
        if outcome.code is not grpc.StatusCode.OK:
            raise grpc.aio.AioRpcError(
                outcome.code,
                grpc.aio.Metadata(*self._exchange.initial.result()),
                grpc.aio.Metadata(*outcome.trailing),
                details=outcome.details,
            )


class _UnaryResponse(_LocalCall):
    """The end of a call with one response."""

    def __await__(self) -> Generator[Any, None, Any]:
        try:
            yield from asyncio.shield(self._exchange.outcome).__await__()
        except asyncio.CancelledError:
            self.cancel()
            raise
        self._raise_for_status()
        return self._exchange.response


class _StreamResponse(_LocalCall):
    """The end of a call with a stream of responses."""

    async def __aiter__(self) -> AsyncIterator[Any]:
        while (message := await self.read()) is not EOF:
            yield message

    async def read(self) -> Any:
        """The next response; EOF after the last one. Raises AioRpcError if the call has failed."""
        try:
            message = await self._exchange.read()
        except asyncio.CancelledError:
            self.cancel()
            raise
        if message is EOF:
            self._raise_for_status()
        return message


class _StreamRequest(_LocalCall):
    """The end of a call with a stream of requests, written by hand or taken from an iterator."""

    def __init__(self, exchange: Exchange, convert: Convert, request_iterator: Any) -> None:
        super().__init__(exchange)
        self._convert = convert
        self._feeder: asyncio.Task[None] | None = None
        if request_iterator is not None:
            self._feeder = asyncio.get_running_loop().create_task(_feed(exchange, convert, request_iterator))
            exchange.on_done(self._feeder.cancel)

    async def write(self, request: Any) -> None:
        """Send a request, when the handler has read enough of those before."""
        self._raise_if_fed()
        self._raise_if_closed()
        try:
            written = await self._exchange.requests.put(self._convert(request))
        except asyncio.CancelledError:
            self.cancel()
            raise
        if not written and self._exchange.done:
            self._raise_for_status()

    async def done_writing(self) -> None:
        """Tell the handler that there are no more requests; again changes nothing."""
        self._raise_if_fed()
        self._exchange.requests.close()

    def _raise_if_closed(self) -> None:
        if self._exchange.done:
            raise asyncio.InvalidStateError("RPC already finished.")
        if self._exchange.requests.closed:
            raise asyncio.InvalidStateError('RPC is half closed after calling "done_writing".')

    def _raise_if_fed(self) -> None:
        if self._feeder is not None:
            raise grpc.aio.UsageError("The iterator and read/write APIs may not be mixed on a single RPC.")


async def _feed(exchange: Exchange, convert: Convert, request_iterator: Any) -> None:
    """Write all of an iterator. One that fails cancels the call, as on the wire."""
    try:
        if hasattr(request_iterator, "__aiter__"):
            async for request in request_iterator:
                if not await exchange.requests.put(convert(request)):
                    return
        else:
            for request in request_iterator:
                if not await exchange.requests.put(convert(request)):
                    return
        exchange.requests.close()
    except Exception:  # the caller's iterator failed: its call ends, and the caller's other calls go on
        _LOGGER.debug("the request iterator of an in-process call failed", exc_info=True)
        if not exchange.done:
            exchange.locally_cancelled = True
            exchange.terminate(_CANCELLED)


class LocalUnaryUnaryCall(_UnaryResponse, grpc.aio.UnaryUnaryCall[Any, Any]):
    """One request, one response."""


class LocalUnaryStreamCall(_StreamResponse, grpc.aio.UnaryStreamCall[Any, Any]):
    """One request, a stream of responses."""


class LocalStreamUnaryCall(_StreamRequest, _UnaryResponse, grpc.aio.StreamUnaryCall[Any, Any]):
    """A stream of requests, one response."""


class LocalStreamStreamCall(_StreamRequest, _StreamResponse, grpc.aio.StreamStreamCall[Any, Any]):
    """A stream of requests, a stream of responses."""


class _Method:
    """A method of a stub."""

    def __init__(self, channel: LocalChannel, path: str, codec: Codec) -> None:
        self._channel = channel
        self._path = path
        self._codec = codec

    def _begin(self, timeout: float | None, metadata: Any, *, unary_response: bool) -> tuple[Exchange, Convert]:
        return self._channel.begin(self._path, self._codec, timeout, metadata, unary_response=unary_response)

    def _send_one(self, request: Any, timeout: float | None, metadata: Any, *, unary_response: bool) -> Exchange:
        exchange, convert = self._begin(timeout, metadata, unary_response=unary_response)
        exchange.requests.put_now(convert(request))
        exchange.requests.close()
        return exchange


class _UnaryUnary(_Method, grpc.aio.UnaryUnaryMultiCallable[Any, Any]):
    def __call__(
        self, request: Any, *, timeout: float | None = None, metadata: Any = None, **transport: Any
    ) -> LocalUnaryUnaryCall:
        return LocalUnaryUnaryCall(self._send_one(request, timeout, metadata, unary_response=True))


class _UnaryStream(_Method, grpc.aio.UnaryStreamMultiCallable[Any, Any]):
    def __call__(
        self, request: Any, *, timeout: float | None = None, metadata: Any = None, **transport: Any
    ) -> LocalUnaryStreamCall:
        return LocalUnaryStreamCall(self._send_one(request, timeout, metadata, unary_response=False))


class _StreamUnary(_Method, grpc.aio.StreamUnaryMultiCallable[Any, Any]):
    def __call__(
        self,
        request_iterator: Any = None,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: Any = None,
        wait_for_ready: bool | None = None,
        compression: Any = None,
    ) -> LocalStreamUnaryCall:
        exchange, convert = self._begin(timeout, metadata, unary_response=True)
        return LocalStreamUnaryCall(exchange, convert, request_iterator)


class _StreamStream(_Method, grpc.aio.StreamStreamMultiCallable[Any, Any]):
    def __call__(
        self,
        request_iterator: Any = None,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: Any = None,
        wait_for_ready: bool | None = None,
        compression: Any = None,
    ) -> LocalStreamStreamCall:
        exchange, convert = self._begin(timeout, metadata, unary_response=False)
        return LocalStreamStreamCall(exchange, convert, request_iterator)


class LocalChannel(grpc.aio.Channel):
    """A channel for the stubs of a server in the same event loop. `metadata` goes with every call."""

    def __init__(self, transport: LocalTransport, metadata: Sequence[tuple[str, str | bytes]] = ()) -> None:
        self._transport = transport
        self._metadata: Pairs = tuple(metadata)
        self._open: set[Exchange] = set()
        self._closed = asyncio.Event()

    def begin(
        self, path: str, codec: Codec, timeout: float | None, metadata: Any, *, unary_response: bool
    ) -> tuple[Exchange, Convert]:
        """Start a call. Raises UsageError if the channel is closed."""
        if self._closed.is_set():
            raise grpc.aio.UsageError("Channel is closed.")
        exchange = Exchange((*self._metadata, *(metadata or ())), timeout, unary_response=unary_response)
        self._open.add(exchange)
        exchange.on_done(lambda: self._open.discard(exchange))
        if timeout is not None and timeout <= 0:
            exchange.terminate(_DEADLINE)
            return exchange, _as_it_is
        return exchange, self._transport.begin(path, exchange, codec)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc_val: BaseException | None, exc_tb: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self, grace: float | None = None) -> None:
        """Take no more calls; cancel those that are not over within `grace` seconds."""
        self._closed.set()
        if grace and self._open:
            with suppress(TimeoutError):
                async with asyncio.timeout(grace):
                    await asyncio.gather(*(asyncio.shield(exchange.outcome) for exchange in self._open))
        for exchange in list(self._open):
            exchange.locally_cancelled = True
            exchange.terminate(_CANCELLED)

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        """READY until the channel is closed, then SHUTDOWN."""
        return grpc.ChannelConnectivity.SHUTDOWN if self._closed.is_set() else grpc.ChannelConnectivity.READY

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        """Return when the state is another than `last_observed_state`."""
        if self.get_state() is last_observed_state:
            await self._closed.wait()

    async def channel_ready(self) -> None:
        """Return at once."""

    def unary_unary(
        self,
        method: str,
        request_serializer: Any = None,
        response_deserializer: Any = None,
        _registered_method: Any = None,
    ) -> grpc.aio.UnaryUnaryMultiCallable[Any, Any]:
        """A method with one request and one response."""
        return _UnaryUnary(self, method, Codec(request_serializer, response_deserializer))

    def unary_stream(
        self,
        method: str,
        request_serializer: Any = None,
        response_deserializer: Any = None,
        _registered_method: Any = None,
    ) -> grpc.aio.UnaryStreamMultiCallable[Any, Any]:
        """A method with one request and a stream of responses."""
        return _UnaryStream(self, method, Codec(request_serializer, response_deserializer))

    def stream_unary(
        self,
        method: str,
        request_serializer: Any = None,
        response_deserializer: Any = None,
        _registered_method: Any = None,
    ) -> grpc.aio.StreamUnaryMultiCallable[Any, Any]:
        """A method with a stream of requests and one response."""
        return _StreamUnary(self, method, Codec(request_serializer, response_deserializer))

    def stream_stream(
        self,
        method: str,
        request_serializer: Any = None,
        response_deserializer: Any = None,
        _registered_method: Any = None,
    ) -> grpc.aio.StreamStreamMultiCallable[Any, Any]:
        """A method with a stream of requests and a stream of responses."""
        return _StreamStream(self, method, Codec(request_serializer, response_deserializer))
