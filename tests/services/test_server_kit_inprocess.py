"""The in-process channel and the wire: one servicer, the same outcomes."""

from __future__ import annotations

import asyncio
import gc
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
import pytest

from mnemocore import calls
from mnemocore.calls import Identity
from mnemocore.errors import MnemoError, SpaceNotFoundError
from mnemocore.ids import Tenant
from mnemocore.memory.v1 import space_service_pb2 as pb
from mnemocore.server import Host, InternalAuthenticator, Service
from mnemocore.server.inprocess import QUEUED_BYTES, QUEUED_MESSAGES
from mnemocore.status import from_rpc_error

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    Scenario = Callable[["Stub", "Shapes"], Awaitable[Any]]

SERVICE = "mnemocore.memory.v1.SpaceService"
IDENTITY = (
    ("mnemo-internal-token", "secret"),
    ("mnemo-tenant", "acme"),
    ("mnemo-principal", "tester"),
    ("mnemo-scopes", "memory:admin"),
    ("x-request-id", "request-1"),
)
SECONDS = 60.0
MIB = 1024 * 1024
leak: ContextVar[str] = ContextVar("leak", default="clean")


class Shapes:
    """Handlers of the four call shapes under the names of SpaceService; what they do is in the request."""

    def __init__(self) -> None:
        self.started = asyncio.Event()
        self.cancelled = asyncio.Event()
        self.released = asyncio.Event()
        self.written = 0
        self.seen: list[Any] = []

    async def unary_unary(self, request: pb.CreateSpaceRequest, context: Any) -> pb.CreateSpaceResponse:
        await self._act(request.space_id, context)
        response = pb.CreateSpaceResponse()
        response.space.name = f"spaces/{request.space_id}"
        return response

    async def unary_stream(self, request: pb.GetSpaceRequest, context: Any) -> AsyncIterator[pb.GetSpaceResponse]:
        action = request.name.removeprefix("spaces/")
        count = 1000 if action in ("flood", "heavy") else 3
        for index in range(count):
            self.written += 1
            response = pb.GetSpaceResponse()
            response.space.revision = index
            response.space.description = "x" * (MIB if action == "heavy" else 0)
            yield response
        await self._act(action, context)

    async def stream_unary(self, requests: AsyncIterator[pb.ListSpacesRequest], context: Any) -> pb.ListSpacesResponse:
        tokens = []
        async for request in requests:
            tokens.append(request.page_token)
            if request.page_token == "early":
                break
            if request.page_token == "hold":
                await self.released.wait()
            await self._act(request.page_token, context)
        return pb.ListSpacesResponse(next_page_token=",".join(tokens))

    async def stream_stream(self, requests: AsyncIterator[pb.RepublishSpaceRequest], context: Any) -> None:
        async for request in requests:
            await self._act(request.name.removeprefix("spaces/"), context)
            await context.write(pb.RepublishSpaceResponse(memories=len(request.name)))

    async def _act(self, action: str, context: Any) -> None:
        if action == "missing":
            raise SpaceNotFoundError(space="missing")
        if action == "boom":
            raise ValueError("SELECT secret FROM somewhere")
        if action == "abort":
            await context.abort(grpc.StatusCode.DATA_LOSS, "by hand", (("x-extra", "1"),))
        if action == "code":
            context.set_code(grpc.StatusCode.OUT_OF_RANGE)
            context.set_details("set by hand")
        if action == "metadata":
            await context.send_initial_metadata((("x-initial", "i"),))
            context.set_trailing_metadata((("x-trailing", "t"),))
        if action == "context":
            self.seen.append(
                (calls.identity.get(), calls.request_id.get(), leak.get(), calls.deadline.get() is not None)
            )
            leak.set("from the handler")
        if action == "slow":
            await self._wait()

    async def _wait(self) -> None:
        self.started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise


class Stub:
    """The four methods over some channel."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel = channel
        self.unary_unary = channel.unary_unary(
            f"/{SERVICE}/CreateSpace", pb.CreateSpaceRequest.SerializeToString, pb.CreateSpaceResponse.FromString
        )
        self.unary_stream = channel.unary_stream(
            f"/{SERVICE}/GetSpace", pb.GetSpaceRequest.SerializeToString, pb.GetSpaceResponse.FromString
        )
        self.stream_unary = channel.stream_unary(
            f"/{SERVICE}/ListSpaces", pb.ListSpacesRequest.SerializeToString, pb.ListSpacesResponse.FromString
        )
        self.stream_stream = channel.stream_stream(
            f"/{SERVICE}/RepublishSpace",
            pb.RepublishSpaceRequest.SerializeToString,
            pb.RepublishSpaceResponse.FromString,
        )

    def unary(self, action: str, timeout: float = SECONDS) -> Any:
        return self.unary_unary(pb.CreateSpaceRequest(space_id=action), timeout=timeout, metadata=IDENTITY)

    def down(self, action: str, timeout: float = SECONDS) -> Any:
        return self.unary_stream(pb.GetSpaceRequest(name=f"spaces/{action}"), timeout=timeout, metadata=IDENTITY)

    def up(self, requests: Any = None, timeout: float = SECONDS) -> Any:
        return self.stream_unary(requests, timeout=timeout, metadata=IDENTITY)

    def both(self, requests: Any = None, timeout: float = SECONDS) -> Any:
        return self.stream_stream(requests, timeout=timeout, metadata=IDENTITY)


def register(shapes: Shapes, server: Any) -> None:
    handlers = {
        "CreateSpace": grpc.unary_unary_rpc_method_handler(
            shapes.unary_unary, pb.CreateSpaceRequest.FromString, pb.CreateSpaceResponse.SerializeToString
        ),
        "GetSpace": grpc.unary_stream_rpc_method_handler(
            shapes.unary_stream, pb.GetSpaceRequest.FromString, pb.GetSpaceResponse.SerializeToString
        ),
        "ListSpaces": grpc.stream_unary_rpc_method_handler(
            shapes.stream_unary, pb.ListSpacesRequest.FromString, pb.ListSpacesResponse.SerializeToString
        ),
        "RepublishSpace": grpc.stream_stream_rpc_method_handler(
            shapes.stream_stream, pb.RepublishSpaceRequest.FromString, pb.RepublishSpaceResponse.SerializeToString
        ),
    }
    server.add_registered_method_handlers(SERVICE, handlers)


@asynccontextmanager
async def open_stub(kind: str) -> AsyncIterator[tuple[Stub, Shapes]]:
    shapes = Shapes()
    host = Host("spaces", [Service(shapes, register, SERVICE)], authenticator=InternalAuthenticator("secret"))
    if kind == "wire":
        [address] = await host.start(["127.0.0.1:0"])
        channel = grpc.aio.insecure_channel(address)
    else:
        await host.start()
        channel = host.channel()
    try:
        async with channel:
            yield Stub(channel), shapes
    finally:
        await host.drain(SECONDS)


async def outcome(work: Awaitable[Any]) -> Any:
    """What became of a call, in a form that can be compared."""
    try:
        return await work
    except asyncio.CancelledError:
        return "cancelled"
    except grpc.aio.AioRpcError as error:
        known = from_rpc_error(error, "server")
        trailing = sorted(error.trailing_metadata().keys())
        return type(known), str(known), error.code(), error.details(), trailing


async def collect(call: Any) -> list[Any]:
    """The messages of a response stream and how it ended."""
    messages: list[Any] = []

    async def read() -> None:
        async for message in call:
            messages.append(message)  # noqa: PERF401 - the messages before an error count

    messages.append(await outcome(read()))
    return messages


async def alternate(*tokens: str) -> AsyncIterator[pb.RepublishSpaceRequest]:
    for token in tokens:
        yield pb.RepublishSpaceRequest(name=f"spaces/{token}")


def pages(*tokens: str) -> list[pb.ListSpacesRequest]:
    return [pb.ListSpacesRequest(page_token=token) for token in tokens]


async def unary_outcomes(stub: Stub, shapes: Shapes) -> Any:
    return [await outcome(stub.unary(action)) for action in ("ok", "missing", "boom", "abort", "code", "metadata")]


async def down_outcomes(stub: Stub, shapes: Shapes) -> Any:
    return [await collect(stub.down(action)) for action in ("ok", "missing", "boom", "abort", "code", "metadata")]


async def up_outcomes(stub: Stub, shapes: Shapes) -> Any:
    """Nothing is written after what ends the call: grpc.aio may lose the status of a call that is written to then."""
    actions = ("missing", "boom", "abort", "code", "early", "metadata")
    first = await outcome(stub.up(pages()))
    return [first, *[await outcome(stub.up(iter(pages("a", action)))) for action in actions]]


async def both_outcomes(stub: Stub, shapes: Shapes) -> Any:
    actions = ("missing", "boom", "abort", "code", "metadata")
    return [await collect(stub.both(alternate("one", action))) for action in actions]


async def reads_and_writes(stub: Stub, shapes: Shapes) -> Any:
    call = stub.both()
    answers = []
    for name in ("a", "bb", "ccc"):
        await call.write(pb.RepublishSpaceRequest(name=f"spaces/{name}"))
        answers.append((await call.read()).memories)
    await call.done_writing()
    assert await call.read() is grpc.aio.EOF
    with pytest.raises(asyncio.InvalidStateError):
        await call.write(pb.RepublishSpaceRequest(name="spaces/d"))
    return answers, await call.code(), await call.details(), sorted((await call.trailing_metadata()).keys())


async def writes_then_awaits(stub: Stub, shapes: Shapes) -> Any:
    call = stub.up()
    for page in pages("a", "b"):
        await call.write(page)
    await call.done_writing()
    return await call, await call.code(), call.done(), call.cancelled()


async def mixed_styles(stub: Stub, shapes: Shapes) -> Any:
    call = stub.both(alternate("a"))
    with pytest.raises(grpc.aio.UsageError):
        await call.write(pb.RepublishSpaceRequest(name="spaces/a"))
    return await collect(call)


async def metadata_of_a_call(stub: Stub, shapes: Shapes) -> Any:
    call = stub.unary("metadata")
    await call
    initial = dict(await call.initial_metadata())
    return initial.get("x-initial"), dict(await call.trailing_metadata())


async def deadline_passes(stub: Stub, shapes: Shapes) -> Any:
    ended = [
        (await outcome(stub.unary("slow", timeout=0.2)))[0],
        (await collect(stub.down("slow", timeout=0.2)))[-1][0],
        (await outcome(stub.up(iter(pages("slow")), timeout=0.2)))[0],
        (await collect(stub.both(alternate("slow"), timeout=0.2)))[-1][0],
    ]
    await asyncio.wait_for(shapes.cancelled.wait(), SECONDS)
    return ended


async def no_time_at_all(stub: Stub, shapes: Shapes) -> Any:
    ended = (await outcome(stub.unary("ok", timeout=-1)))[0]
    return ended, shapes.seen


async def caller_cancels_the_call(stub: Stub, shapes: Shapes) -> Any:
    call = stub.unary("slow")
    await asyncio.wait_for(shapes.started.wait(), SECONDS)
    first, second = call.cancel(), call.cancel()
    ended = await outcome(call)
    await asyncio.wait_for(shapes.cancelled.wait(), SECONDS)
    return first, second, ended, await call.code(), call.cancelled(), call.done()


async def caller_cancels_a_stream(stub: Stub, shapes: Shapes) -> Any:
    call = stub.down("slow")
    first = await call.read()
    await asyncio.wait_for(shapes.started.wait(), SECONDS)
    call.cancel()
    ended = await outcome(call.read())
    await asyncio.wait_for(shapes.cancelled.wait(), SECONDS)
    return first, ended, await call.code()


async def awaiting_task_is_cancelled(stub: Stub, shapes: Shapes) -> Any:
    call = stub.unary("slow")
    waiter = asyncio.ensure_future(outcome(call))
    await asyncio.wait_for(shapes.started.wait(), SECONDS)
    waiter.cancel()
    ended = await waiter
    await asyncio.wait_for(shapes.cancelled.wait(), SECONDS)
    return ended, await call.code()


async def failing_request_iterator(stub: Stub, shapes: Shapes) -> Any:
    async def requests() -> AsyncIterator[pb.ListSpacesRequest]:
        yield pb.ListSpacesRequest(page_token="a")
        raise RuntimeError("the caller's own trouble")

    return await outcome(stub.up(requests()))


async def nothing_leaks(stub: Stub, shapes: Shapes) -> Any:
    leak.set("from the caller")
    calls.identity.set(Identity(Tenant("other"), "other", frozenset()))
    await stub.unary("context")
    return shapes.seen, leak.get(), calls.request_id.get()


async def unknown_methods(stub: Stub, shapes: Shapes) -> Any:
    paths = (f"/{SERVICE}/Nothing", "/mnemocore.index.v1.IndexService/Search", "/other.Service/Method")
    channel: Any = stub.channel
    return [await outcome(channel.unary_unary(path)(b"", timeout=SECONDS, metadata=IDENTITY)) for path in paths]


async def raw_bytes(stub: Stub, shapes: Shapes) -> Any:
    channel: Any = stub.channel
    one, many = channel.unary_unary(f"/{SERVICE}/CreateSpace"), channel.unary_stream(f"/{SERVICE}/GetSpace")
    good = pb.CreateSpaceRequest(space_id="raw").SerializeToString()
    name = pb.GetSpaceRequest(name="spaces/raw").SerializeToString()
    return (
        await one(good, timeout=SECONDS, metadata=IDENTITY),
        await outcome(one(b"\xff\xff", timeout=SECONDS, metadata=IDENTITY)),
        await collect(many(name, timeout=SECONDS, metadata=IDENTITY)),
    )


async def invalid_requests(stub: Stub, shapes: Shapes) -> Any:
    return [
        await outcome(stub.unary("Not A Name")),
        await collect(stub.down("Not A Name")),
        await outcome(stub.up(iter(pages("a", "x" * 2000)))),
        await collect(stub.both(alternate("a", "Not A Name"))),
    ]


async def refused_credentials(stub: Stub, shapes: Shapes) -> Any:
    request = pb.CreateSpaceRequest(space_id="a")
    wrong = [
        (),
        (("mnemo-internal-token", "guess"),),
        (("mnemo-internal-token", "secret"),),
        (("mnemo-internal-token", "secret"), ("mnemo-tenant", "acme"), ("mnemo-scopes", "memory:read")),
    ]
    return [await outcome(stub.unary_unary(request, timeout=SECONDS, metadata=metadata)) for metadata in wrong]


async def done_callbacks(stub: Stub, shapes: Shapes) -> Any:
    called = asyncio.Event()
    call = stub.unary("ok")
    call.add_done_callback(lambda _: called.set())
    await call
    await asyncio.wait_for(called.wait(), SECONDS)
    return await call.code()


async def no_deadline(stub: Stub, shapes: Shapes) -> Any:
    return await outcome(stub.unary_unary(pb.CreateSpaceRequest(space_id="a"), metadata=IDENTITY))


@pytest.mark.parametrize(
    "scenario",
    [
        unary_outcomes,
        down_outcomes,
        up_outcomes,
        both_outcomes,
        reads_and_writes,
        writes_then_awaits,
        mixed_styles,
        metadata_of_a_call,
        deadline_passes,
        no_time_at_all,
        caller_cancels_the_call,
        caller_cancels_a_stream,
        awaiting_task_is_cancelled,
        failing_request_iterator,
        nothing_leaks,
        unknown_methods,
        raw_bytes,
        invalid_requests,
        refused_credentials,
        done_callbacks,
        no_deadline,
    ],
)
async def test_wire_and_in_process_agree(scenario: Scenario) -> None:
    results = []
    for kind in ("wire", "local"):
        async with open_stub(kind) as (stub, shapes):
            task = asyncio.get_running_loop().create_task(_run(scenario, stub, shapes))
            results.append(await asyncio.wait_for(task, 4 * SECONDS))
    assert results[0] == results[1]


async def _run(scenario: Scenario, stub: Stub, shapes: Shapes) -> Any:
    return await scenario(stub, shapes)


@pytest.mark.parametrize("kind", ["wire", "local"])
async def test_errors_arrive_as_classes_and_defects_tell_nothing(kind: str) -> None:
    async with open_stub(kind) as (stub, _):
        missing, boom = await outcome(stub.unary("missing")), await outcome(stub.unary("boom"))
    assert missing[0] is SpaceNotFoundError
    assert missing[1] == "space 'missing' does not exist"
    assert boom[2] is grpc.StatusCode.INTERNAL
    assert "SELECT" not in str(boom)
    assert "x-request-id" in missing[4]


@pytest.mark.parametrize("kind", ["wire", "local"])
async def test_the_request_id_comes_back(kind: str) -> None:
    async with open_stub(kind) as (stub, _):
        call = stub.unary("ok")
        await call
        assert dict(await call.trailing_metadata())["x-request-id"] == "request-1"
        assert issubclass((await outcome(stub.unary("missing")))[0], MnemoError)


async def test_handlers_see_identity_and_request_but_nothing_of_the_caller() -> None:
    async with open_stub("local") as (stub, shapes):
        leak.set("from the caller")
        await stub.unary("context")
    expected = Identity(Tenant("acme"), "tester", frozenset({"memory:admin"}))
    assert shapes.seen == [(expected, "request-1", "clean", True)]
    assert leak.get() == "from the caller"


async def test_a_writer_waits_for_its_reader() -> None:
    async with open_stub("local") as (stub, shapes):
        call = stub.down("flood")
        first = await call.read()
        assert first.space.revision == 0
        await asyncio.wait_for(_until_stable(shapes), SECONDS)
        assert shapes.written <= QUEUED_MESSAGES + 3
        assert [message.space.revision async for message in call] == list(range(1, 1000))


async def test_a_writer_of_heavy_messages_waits_for_its_reader() -> None:
    async with open_stub("local") as (stub, shapes):
        call = stub.down("heavy")
        assert (await call.read()).space.revision == 0
        await asyncio.wait_for(_until_stable(shapes), SECONDS)
        assert shapes.written <= QUEUED_BYTES // MIB + 3
        assert [(await call.read()).space.revision for _ in range(20)] == list(range(1, 21))
        await asyncio.wait_for(_until_stable(shapes), SECONDS)
        assert shapes.written <= 20 + QUEUED_BYTES // MIB + 3


@pytest.mark.parametrize("raw", [False, True], ids=["messages", "bytes"])
async def test_a_sender_of_heavy_requests_waits_for_the_handler(raw: bool) -> None:
    async with open_stub("local") as (stub, shapes):
        sent = Counted(raw=raw)
        channel: Any = stub.channel
        path = f"/{SERVICE}/ListSpaces"
        call = channel.stream_unary(path)(sent, timeout=SECONDS, metadata=IDENTITY) if raw else stub.up(sent)
        await asyncio.wait_for(_until_stable(sent), SECONDS)
        assert sent.written <= QUEUED_BYTES // MIB + 3
        shapes.released.set()
        await call
        assert sent.written == 51


class Counted:
    """Requests of a mebibyte each, after one at which the handler waits; counts those that were asked for."""

    def __init__(self, *, raw: bool) -> None:
        self.written = 0
        self._raw = raw

    async def __aiter__(self) -> AsyncIterator[Any]:
        padding = b"\xfa\x3e" + b"\x80\x80\x40" + bytes(MIB)  # field 1007, which the message does not have
        for number in range(51):
            self.written += 1
            request = pb.ListSpacesRequest(page_token="" if number else "hold")
            heavy = request.SerializeToString() + (padding if number else b"")
            yield heavy if self._raw else pb.ListSpacesRequest.FromString(heavy)


async def _until_stable(shapes: Shapes | Counted) -> None:
    before = -1
    while before != shapes.written:
        before = shapes.written
        for _ in range(10):
            await asyncio.sleep(0)


async def test_a_closed_channel_takes_no_calls_and_ends_those_under_way() -> None:
    async with open_stub("local") as (stub, shapes):
        call = stub.unary("slow")
        await asyncio.wait_for(shapes.started.wait(), SECONDS)
        await stub.channel.close()
        assert await outcome(call) == "cancelled"
        await asyncio.wait_for(shapes.cancelled.wait(), SECONDS)
        assert stub.channel.get_state() is grpc.ChannelConnectivity.SHUTDOWN
        with pytest.raises(grpc.aio.UsageError):
            stub.unary("ok")


async def test_a_call_that_nobody_holds_any_more_is_cancelled() -> None:
    async with open_stub("local") as (stub, shapes):
        call = stub.down("slow", timeout=60.0)
        await call.read()
        await asyncio.wait_for(shapes.started.wait(), SECONDS)
        del call
        gc.collect()
        await asyncio.wait_for(shapes.cancelled.wait(), SECONDS)


async def test_messages_are_handed_over_without_copies() -> None:
    async with open_stub("local") as (stub, _):
        request = pb.CreateSpaceRequest(space_id="same")
        response = await stub.unary_unary(request, timeout=SECONDS, metadata=IDENTITY)
        assert type(response) is pb.CreateSpaceResponse
        assert response.space.name == "spaces/same"
