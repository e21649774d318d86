"""Running calls with streams, whose failures are MnemoErrors.

Each holds a permit of its circuit breaker until it shows how the service is: by its first message, its end or its
failure. A call that is cancelled or dropped before gives the permit back.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar, cast

import grpc

from mnemocore.client.breaker import Outcome
from mnemocore.errors import PeerUnavailableError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Coroutine, Generator
    from typing import Self

    from mnemocore.client.breaker import Permit
    from mnemocore.client.call_policy import CallPolicy

Req = TypeVar("Req")
Res = TypeVar("Res")
T = TypeVar("T")

LOST_STATUS: Final = "Internal error from Core"
"""The details of the status that grpc.aio sets itself when it cannot send a message."""


class RunningCall(Generic[Req]):
    """A call under way: what can be done with it whatever it answers. `seconds` is the time it was given."""

    def __init__(self, policy: CallPolicy, inner: Any, permit: Permit, seconds: float | None) -> None:
        self._policy = policy
        self._inner = inner
        self._permit = permit
        self._seconds = seconds

    async def write(self, request: Req) -> None:
        """Send one request. Raises the error that ended the call if it has ended, PeerUnavailableError if that error is
        lost because the call ended at the same time.
        """
        try:
            await self._guarded(self._inner.write(request))
        except asyncio.InvalidStateError:
            if not self.done():
                raise
            await self._guarded(self._final_answer())  # raises why the call ended
            raise self._ended() from None

    async def done_writing(self) -> None:
        """Tell the server that no more requests follow."""
        await self._guarded(self._inner.done_writing())

    def cancel(self) -> bool:
        """End the call; False if it had ended before."""
        self._permit.settle(Outcome.NEUTRAL)
        return bool(self._inner.cancel())

    def done(self) -> bool:
        """Whether the call has ended."""
        return bool(self._inner.done())

    def cancelled(self) -> bool:
        """Whether the call was ended by `cancel`."""
        return bool(self._inner.cancelled())

    def _final_answer(self) -> Awaitable[Any]:
        """What the ended call answers from now on, or raises."""
        return cast("Awaitable[Any]", self._inner.read())

    def _ended(self) -> PeerUnavailableError:
        return PeerUnavailableError(f"{self._policy.target} ended the stream", target=self._policy.target)

    async def _guarded(self, step: Awaitable[T]) -> T:
        try:
            return await step
        except grpc.aio.AioRpcError as raw:
            said = await self._recovered() if _is_lost_status(raw) else raw
            if said is None:
                self._permit.settle(Outcome.NEUTRAL)
                raise self._ended() from None
            raise self._policy.failure(said, self._permit, self._seconds) from None

    async def _recovered(self) -> grpc.aio.AioRpcError | None:
        """The status that the server has sent if another one stands in its place; None if it is gone."""
        return None


def _is_lost_status(raw: grpc.aio.AioRpcError) -> bool:
    """Whether grpc.aio put a status of its own in the place of the server's.

    It does so when a message is written at the moment the server ends the stream; what the server said is gone then.
    """
    return raw.code() is grpc.StatusCode.INTERNAL and raw.details() == LOST_STATUS


class StreamCall(RunningCall[Req], Generic[Req, Res]):
    """A call with streamed responses: read it with `async for` or with `read`, not with both."""

    def __init__(self, policy: CallPolicy, inner: Any, permit: Permit, seconds: float | None) -> None:
        super().__init__(policy, inner, permit, seconds)
        self._messages: AsyncIterator[Res] | None = None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Res:
        if self._messages is None:
            self._messages = aiter(self._inner)
        try:
            message: Res = await self._guarded(anext(self._messages))
        except StopAsyncIteration:
            self._permit.settle(Outcome.SUCCESS)
            raise
        self._permit.settle(Outcome.SUCCESS)
        return message

    async def read(self) -> Any:
        """The next response, or `grpc.aio.EOF` after the last one."""
        message = await self._guarded(self._inner.read())
        self._permit.settle(Outcome.SUCCESS)
        return message


class UploadCall(RunningCall[Req], Generic[Req, Res]):
    """A call with streamed requests and one response: await it for the response.

    What the server says when it ends the call in the midst of the requests is not lost: it is either the first status
    that the call has, or the one it has in the end.
    """

    def __init__(self, policy: CallPolicy, inner: Any, permit: Permit, seconds: float | None) -> None:
        super().__init__(policy, inner, permit, seconds)
        self._first: grpc.aio.AioRpcError | None = None
        inner.add_done_callback(self._note_first)

    def __await__(self) -> Generator[Any, None, Res]:
        return self._response().__await__()

    def _final_answer(self) -> Awaitable[Any]:
        return cast("Awaitable[Any]", self._inner)

    def _note_first(self, inner: Any) -> None:
        if self._first is None:
            code, details = _at_once(inner.code()), _at_once(inner.details())
            trailing = _at_once(inner.trailing_metadata())
            self._first = grpc.aio.AioRpcError(code, grpc.aio.Metadata(), trailing, details=details)

    async def _recovered(self) -> grpc.aio.AioRpcError | None:
        if self._first is not None and not _is_lost_status(self._first):
            return self._first
        try:
            await self._inner
        except grpc.aio.AioRpcError as raw:
            return None if _is_lost_status(raw) else raw
        return None

    async def _response(self) -> Res:
        response: Res = await self._guarded(self._inner)
        self._permit.settle(Outcome.SUCCESS)
        return response


def _at_once(answer: Coroutine[Any, Any, T]) -> T:
    """What a coroutine of a call that is over returns; it has nothing to wait for."""
    try:
        answer.send(None)
    except StopIteration as end:
        value: T = end.value
        return value
    answer.close()
    raise RuntimeError("the call is not over")
