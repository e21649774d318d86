"""A channel that keeps the policy of every method: deadline, identity, retries, circuit breaker, errors.

It wraps any `grpc.aio.Channel`, and generated stubs work on it unchanged, with two differences: a unary call is a
coroutine (it is sent when it is awaited), and every failure is a `MnemoError`. What a method allows is read from its
descriptor.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, TypeVar

import grpc
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from mnemocore import calls
from mnemocore.client.breaker import DEFAULT_RULE, BreakerRule, BreakerState, CircuitBreaker, Outcome, Permit
from mnemocore.client.call_policy import UNDECLARED_DEADLINE, CallPolicy
from mnemocore.client.credentials import Credentials, NoCredentials
from mnemocore.client.retries import RetryBudget, retry_after_failure, worth_retrying
from mnemocore.client.streams import StreamCall, UploadCall
from mnemocore.clock import Clock, SystemClock
from mnemocore.errors import DeadlineExceededError, MnemoError, UnavailableError
from mnemocore.ids import new_uuid
from mnemocore.telemetry import counter, histogram

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterable
    from types import TracebackType
    from typing import Self

Req = TypeVar("Req")
Res = TypeVar("Res")

_TRACE_CONTEXT = TraceContextTextMapPropagator()


class ResilientChannel(grpc.aio.Channel):
    """`inner` with the policy of every method; `target` names the other side in errors and metrics.

    Owns `inner`: closing closes it. `credentials` is asked for headers in the context of every call. The breakers and
    the pauses between attempts go by `clock`, deadlines by the machine's.
    """

    def __init__(
        self,
        inner: grpc.aio.Channel,
        target: str,
        *,
        credentials: Credentials | None = None,
        clock: Clock | None = None,
        breaker_rule: BreakerRule = DEFAULT_RULE,
    ) -> None:
        self.target = target
        self.retry_budget = RetryBudget()
        self.clock: Clock = clock or SystemClock()
        self._inner = inner
        self._credentials: Credentials = credentials or NoCredentials()
        self._breaker_rule = breaker_rule
        self._breakers: dict[str, CircuitBreaker] = {}

    def breaker(self, service: str) -> CircuitBreaker:
        """The breaker of one service, by its full proto name."""
        breaker = self._breakers.get(service)
        if breaker is None:
            breaker = CircuitBreaker(self.target, self.clock, self._breaker_rule, self._count_change)
            self._breakers[service] = breaker
        return breaker

    def policy(self, path: str) -> CallPolicy:
        """The policy of one method, by its name on the wire."""
        service = path.removeprefix("/").partition("/")[0]
        return CallPolicy(path, self.target, self.breaker(service))

    def headers(self, metadata: Iterable[tuple[str, str | bytes]] | None) -> list[tuple[str, str | bytes]]:
        """The headers of one call; what the caller gives in `metadata` wins over what the channel would send."""
        headers: list[tuple[str, str | bytes]] = [
            (calls.REQUEST_ID_HEADER, calls.request_id.get() or new_uuid(self.clock.now())),
            *self._credentials.metadata(),
        ]
        carrier: dict[str, str] = {}
        _TRACE_CONTEXT.inject(carrier)
        if calls.TRACEPARENT_HEADER in carrier:
            headers.append((calls.TRACEPARENT_HEADER, carrier[calls.TRACEPARENT_HEADER]))
        if metadata is None:
            return headers
        own = list(metadata)
        given = {key for key, _ in own}
        return [header for header in headers if header[0] not in given] + own

    def unary_unary(
        self, method: str, request_serializer: Any = None, response_deserializer: Any = None, *_: Any, **__: Any
    ) -> UnaryUnary[Any, Any]:
        """A method with one request and one response."""
        return UnaryUnary(self, method, self._inner.unary_unary(method, request_serializer, response_deserializer))

    def unary_stream(
        self, method: str, request_serializer: Any = None, response_deserializer: Any = None, *_: Any, **__: Any
    ) -> UnaryStream[Any, Any]:
        """A method with one request and many responses."""
        return UnaryStream(self, method, self._inner.unary_stream(method, request_serializer, response_deserializer))

    def stream_unary(
        self, method: str, request_serializer: Any = None, response_deserializer: Any = None, *_: Any, **__: Any
    ) -> StreamUnary[Any, Any]:
        """A method with many requests and one response."""
        return StreamUnary(self, method, self._inner.stream_unary(method, request_serializer, response_deserializer))

    def stream_stream(
        self, method: str, request_serializer: Any = None, response_deserializer: Any = None, *_: Any, **__: Any
    ) -> StreamStream[Any, Any]:
        """A method with many requests and many responses."""
        return StreamStream(self, method, self._inner.stream_stream(method, request_serializer, response_deserializer))

    async def close(self, grace: float | None = None) -> None:
        """Close the inner channel; calls under way have `grace` seconds to end."""
        await self._inner.close(grace)

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        """The connectivity of the inner channel."""
        return self._inner.get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        """Return when the connectivity of the inner channel is another one."""
        await self._inner.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        """Return when the inner channel is connected."""
        await self._inner.channel_ready()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc_val: BaseException | None, exc_tb: TracebackType | None
    ) -> None:
        await self.close()

    def _count_change(self, state: BreakerState) -> None:
        counter("mnemo.client.breaker.changes").add(1, {"target": self.target, "state": state})


class UnaryUnary(grpc.aio.UnaryUnaryMultiCallable[Req, Res]):
    """A method with one request and one response."""

    def __init__(self, channel: ResilientChannel, path: str, inner: grpc.aio.UnaryUnaryMultiCallable[Req, Res]) -> None:
        self._channel = channel
        self._path = path
        self._policy = channel.policy(path)
        self._inner = inner

    async def __call__(  # type: ignore[override]  # a coroutine in the place of a call object
        self, request: Req, *, timeout: float | None = None, metadata: Any = None, **options: Any
    ) -> Res:
        """The response. Raises the MnemoError of the last attempt.

        Nothing is sent if the circuit is open (CircuitOpenError) or no time is left (DeadlineExceededError).
        """
        started = time.monotonic()
        status = "OK"
        try:
            return await self._call(request, timeout, metadata, options)
        except MnemoError as error:
            status = error.status.name
            raise
        except asyncio.CancelledError:
            status = "CANCELLED"
            raise
        finally:
            labels = {"method": self._path, "status": status}
            counter("mnemo.client.calls").add(1, labels)
            histogram("mnemo.client.duration").record(time.monotonic() - started, labels)

    async def _call(self, request: Req, timeout: float | None, metadata: Any, options: dict[str, Any]) -> Res:
        channel = self._channel
        seconds = self._policy.time_left(timeout)
        expiry = time.monotonic() + (UNDECLARED_DEADLINE if seconds is None else seconds)
        headers = channel.headers(metadata)
        channel.retry_budget.deposit()
        try:
            return await self._attempt(request, expiry, headers, options)
        except UnavailableError as error:
            if not (worth_retrying(error) and self._policy.is_repeatable(request)):
                raise
            failure = error

        def attempt_again() -> Awaitable[Res]:
            counter("mnemo.client.retries").add(1, {"method": self._path})
            return self._attempt(request, expiry, headers, options)

        return await retry_after_failure(
            failure, attempt_again, expiry=expiry, budget=channel.retry_budget, clock=channel.clock
        )

    async def _attempt(self, request: Req, expiry: float, headers: Any, options: dict[str, Any]) -> Res:
        breaker = self._policy.breaker
        permit = breaker.admit() or await breaker.acquire(expiry - time.monotonic())
        try:
            seconds = expiry - time.monotonic()
            if seconds <= 0:
                raise DeadlineExceededError
            try:
                response = await self._inner(request, timeout=seconds, metadata=headers, **options)
            except grpc.aio.AioRpcError as raw:
                raise self._policy.failure(raw, permit, seconds) from None
            permit.settle(Outcome.SUCCESS)
            return response
        finally:
            permit.settle(Outcome.NEUTRAL)  # if nothing was settled: cancelled, or no time left


class _Streaming:
    """A method with a stream in at least one direction."""

    def __init__(self, channel: ResilientChannel, path: str, inner: Any) -> None:
        self._channel = channel
        self._policy = channel.policy(path)
        self._inner = inner

    def _start(
        self, request: Any, timeout: float | None, metadata: Any, options: dict[str, Any]
    ) -> tuple[CallPolicy, Any, Permit, float | None]:
        seconds = self._policy.time_left(timeout)
        permit = self._policy.breaker.admit_at_once()
        inner = self._inner(request, timeout=seconds, metadata=self._channel.headers(metadata), **options)
        return self._policy, inner, permit, seconds


class UnaryStream(_Streaming, grpc.aio.UnaryStreamMultiCallable[Req, Res]):
    """A method with one request and many responses."""

    def __call__(  # type: ignore[override]  # the part of a call object that is of use
        self, request: Req, *, timeout: float | None = None, metadata: Any = None, **options: Any
    ) -> StreamCall[Req, Res]:
        """The running call. Raises CircuitOpenError, or DeadlineExceededError if no time is left."""
        return StreamCall(*self._start(request, timeout, metadata, options))


class StreamUnary(_Streaming, grpc.aio.StreamUnaryMultiCallable[Req, Res]):
    """A method with many requests and one response."""

    def __call__(  # type: ignore[override]  # the part of a call object that is of use
        self, request_iterator: Any = None, timeout: float | None = None, metadata: Any = None, **options: Any
    ) -> UploadCall[Req, Res]:
        """The running call. Raises CircuitOpenError, or DeadlineExceededError if no time is left."""
        return UploadCall(*self._start(request_iterator, timeout, metadata, options))


class StreamStream(_Streaming, grpc.aio.StreamStreamMultiCallable[Req, Res]):
    """A method with many requests and many responses."""

    def __call__(  # type: ignore[override]  # the part of a call object that is of use
        self, request_iterator: Any = None, timeout: float | None = None, metadata: Any = None, **options: Any
    ) -> StreamCall[Req, Res]:
        """The running call. Raises CircuitOpenError, or DeadlineExceededError if no time is left."""
        return StreamCall(*self._start(request_iterator, timeout, metadata, options))
