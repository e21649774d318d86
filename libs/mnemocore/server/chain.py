"""The chain of stages every call passes through, on the wire and in process alike.

A stage is a named piece of policy around a call. The stages of a server are composed once per method into one wrapped
handler, so a call pays for nine plain coroutine calls and no lookups. All four call shapes become one: a coroutine that
takes a request (or an async iterator of requests) and either returns the response or writes responses to the context.
"""

from __future__ import annotations

import inspect
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Protocol

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from mnemocore.errors import MethodNotFoundError
from mnemocore.policy import method_info

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence

    from mnemocore.calls import Identity
    from mnemocore.policy import MethodInfo

    Proceed = Callable[["ServerCall"], Awaitable[Any]]
    Behaviour = Callable[[Any, Any], Coroutine[Any, Any, Any]]
    Handler = grpc.RpcMethodHandler[Any, Any]

ORDER: Final = (
    "request id",
    "tracing",
    "metrics",
    "access log",
    "errors",
    "admission",
    "deadline",
    "identity",
    "validation",
)
"""The names of the stages, outermost first."""

EXEMPT_SERVICES: Final = ("grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection")
"""Services for probes and tools: they pass through the errors stage alone."""

_OWN_PATHS: Final = "/mnemocore."


class Malformed:
    """Stands for a request whose bytes are no message of the expected type."""

    __slots__ = ("type_name",)

    def __init__(self, type_name: str) -> None:
        self.type_name = type_name


@dataclass(frozen=True, slots=True)
class Encoded:
    """A response that is encoded already, for a handler that gives many callers the same."""

    data: bytes


@dataclass(slots=True)
class ServerCall:
    """One call on its way through the stages.

    `info` is None if no proto declares the method. `request` is a message, an async iterator of messages, or, if the
    handler takes raw bytes (`raw`), bytes or an iterator of them. `status` is the name of the gRPC code once the call
    is over.
    """

    path: str
    info: MethodInfo | None
    context: grpc.aio.ServicerContext[Any, Any]
    metadata: Mapping[str, str]
    request: Any
    request_streaming: bool
    raw: bool
    request_id: str = ""
    identity: Identity | None = None
    status: str = "OK"

    @property
    def label(self) -> str:
        """The method's name without the leading slash; `unknown` for undeclared ones: callers cannot make up labels."""
        return self.path[1:] if self.info is not None else "unknown"


class Stage(Protocol):
    """One piece of policy around a call."""

    name: str

    async def handle(self, call: ServerCall, proceed: Proceed) -> Any:
        """Do what comes before, `return await proceed(call)`, do what comes after; or raise to refuse the call."""
        ...


class Chain(grpc.aio.ServerInterceptor):
    """Wraps handlers in stages. Raises ValueError if the stages are not those of ORDER in that order."""

    def __init__(self, stages: Sequence[Stage]) -> None:
        names = tuple(stage.name for stage in stages)
        if names != ORDER:
            raise ValueError(f"the stages are {names}; they must be {ORDER}")
        self._stages = tuple(stages)
        self._exempt_stages = tuple(stage for stage in stages if stage.name == "errors")
        self._wrapped: dict[str, Handler] = {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """The wrapped handler of the method; resolved and wrapped at the method's first call."""
        path = handler_call_details.method
        return self._wrapped.get(path) or self.wrap(path, await continuation(handler_call_details))

    def wrap(self, path: str, handler: Handler | None) -> Handler | None:
        """`handler` within the stages; wrapped once for each path.

        A method of this project without a handler is answered with METHOD_NOT_FOUND, any other one by None, which gRPC
        answers with UNIMPLEMENTED. Raises TypeError for a handler that is not asynchronous.
        """
        if handler is None and not path.startswith(_OWN_PATHS):
            return None
        known = self._wrapped.get(path)
        if known is not None:
            return known
        wrapped = _missing(path, self._stages) if handler is None else self._wrap_known(path, handler)
        if handler is not None:
            self._wrapped[path] = wrapped
        return wrapped

    def _wrap_known(self, path: str, handler: Handler) -> Handler:
        exempt = path[1:].partition("/")[0] in EXEMPT_SERVICES
        stages = self._exempt_stages if exempt else self._stages
        behaviour = _behaviour(handler)
        answer = _missing_answer if _is_inherited(behaviour) else _answer(path, behaviour, handler.response_streaming)
        return _rpc_handler(_entry(path, stages, answer, handler), handler)


def _entry(path: str, stages: Sequence[Stage], answer: Proceed, handler: Handler) -> Behaviour:
    """The coroutine function that starts a call: outermost stage first, `answer` last."""
    proceed = answer
    for stage in reversed(stages):
        proceed = partial(stage.handle, proceed=proceed)
    info, streaming, raw = method_info(path), handler.request_streaming, handler.request_deserializer is None

    async def entry(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        metadata = {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}
        return await proceed(ServerCall(path, info, context, metadata, request, streaming, raw))

    return entry


def _answer(path: str, behaviour: Any, response_streaming: bool) -> Proceed:
    """The innermost step: the servicer's own method."""
    if response_streaming and inspect.isasyncgenfunction(behaviour):
        return partial(_write_all, behaviour)
    if not inspect.iscoroutinefunction(behaviour):
        raise TypeError(f"the handler of {path} is not asynchronous; it must be `async def`")
    return partial(_call, behaviour)


async def _call(behaviour: Behaviour, call: ServerCall) -> Any:
    return await behaviour(call.request, call.context)


async def _write_all(behaviour: Any, call: ServerCall) -> None:
    async with aclosing(behaviour(call.request, call.context)) as responses:
        async for response in responses:
            await call.context.write(response)


async def _missing_answer(call: ServerCall) -> Any:
    raise MethodNotFoundError(method=call.path)


def _missing(path: str, stages: Sequence[Stage]) -> Handler:
    """A handler that takes any shape of call and answers that the method does not exist."""
    bytes_handler: Handler = grpc.stream_stream_rpc_method_handler(_nothing)
    return _rpc_handler(_entry(path, stages, _missing_answer, bytes_handler), bytes_handler)


async def _nothing(request: Any, context: Any) -> None:
    """What a handler without behaviour of its own does."""


def _behaviour(handler: Handler) -> Any:
    for behaviour in (handler.unary_unary, handler.unary_stream, handler.stream_unary, handler.stream_stream):
        if behaviour is not None:
            return behaviour
    raise TypeError("a handler has no behaviour")


def _is_inherited(behaviour: Any) -> bool:
    """Whether the servicer left the method to the generated base class, which does not answer it."""
    return getattr(behaviour, "__module__", "").endswith("_pb2_grpc")


def _rpc_handler(entry: Any, like: Handler) -> Handler:
    """An RPC handler of the same shape and serialisation as `like`."""
    make = {
        (False, False): grpc.unary_unary_rpc_method_handler,
        (False, True): grpc.unary_stream_rpc_method_handler,
        (True, False): grpc.stream_unary_rpc_method_handler,
        (True, True): grpc.stream_stream_rpc_method_handler,
    }[like.request_streaming, like.response_streaming]
    decode = like.request_deserializer
    tolerant = None if decode is None else partial(_decode_or_malformed, decode)
    encode = None if like.response_serializer is None else partial(_encode, like.response_serializer)
    return make(entry, request_deserializer=tolerant, response_serializer=encode)


def _encode(encode: Callable[[Any], bytes], response: Any) -> bytes:
    return response.data if isinstance(response, Encoded) else encode(response)


def _decode_or_malformed(decode: Callable[[bytes], Any], data: bytes) -> Any:
    """The message in `data`. Bad bytes are the caller's fault: a stage refuses them, the runtime does not fail."""
    try:
        return decode(data)
    except DecodeError:
        return Malformed(getattr(getattr(decode, "__self__", None), "__name__", "message"))
