"""Wrong input on the wire: one clear error each, nothing half-written."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

import grpc
import pytest

from mnemocore import connect
from mnemocore.client import open_channel
from mnemocore.common.v1 import resources_pb2 as common_pb2
from mnemocore.errors import (
    DeadlineRequiredError,
    ForeignTokenError,
    InvalidFieldError,
    MethodNotFoundError,
    MnemoError,
    PageTokenMismatchError,
    PermissionDeniedError,
    RequestIdReusedError,
    SpaceNotFoundError,
    UnauthenticatedError,
)
from mnemocore.events.v1 import event_service_pb2, event_service_pb2_grpc
from mnemocore.index.v1 import index_service_pb2, index_service_pb2_grpc
from mnemocore.memory.v1 import memory_service_pb2 as pb
from mnemocore.memory.v1 import memory_service_pb2_grpc, resources_pb2
from mnemocore.status import from_rpc_error

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from google.protobuf.message import Message
    from tests.e2e.conftest import Server

    from mnemocore import Connection

PARENT = "spaces/wrong-input"
GHOST = f"{PARENT}/memories/{uuid.UUID(int=1)}"


@pytest.fixture
async def connection(served: Server) -> AsyncIterator[Connection]:
    async with connect(served.address) as opened:
        await opened.space("wrong-input").remember("the only memory")
        yield opened


def create(**fields: object) -> pb.CreateMemoryRequest:
    return pb.CreateMemoryRequest(parent=PARENT, memory=resources_pb2.MemoryInput(**fields))  # type: ignore[arg-type]


WRONG: dict[str, tuple[str, Message, type[MnemoError], str]] = {
    "unknown space": (
        "RecallMemories",
        pb.RecallMemoriesRequest(parent="spaces/nowhere", query="x"),
        SpaceNotFoundError,
        "space 'spaces/nowhere' does not exist",
    ),
    "empty content": ("CreateMemory", create(content=""), InvalidFieldError, "memory.content"),
    "101 KiB": ("CreateMemory", create(content="x" * 103_424), InvalidFieldError, "103424 bytes"),
    "nul": ("CreateMemory", create(content="a\x00b"), InvalidFieldError, r"U\+0000"),
    "importance": ("CreateMemory", create(content="x", importance=1.5), InvalidFieldError, "memory.importance"),
    "not a number": (
        "CreateMemory",
        create(content="x", importance=float("nan")),
        InvalidFieldError,
        "memory.importance",
    ),
    "kind": ("CreateMemory", create(content="x", kind=99), InvalidFieldError, "memory.kind"),
    "tags": ("CreateMemory", create(content="x", tags=["a", "a"]), InvalidFieldError, "memory.tags"),
    "bad id": ("CreateMemory", create(content="x", id="ABC"), InvalidFieldError, "memory.id"),
    "bad request id": (
        "CreateMemory",
        pb.CreateMemoryRequest(parent=PARENT, memory=resources_pb2.MemoryInput(content="x"), request_id="1"),
        InvalidFieldError,
        "request_id",
    ),
    "no memory": ("CreateMemory", pb.CreateMemoryRequest(parent=PARENT), InvalidFieldError, "memory"),
    "bad parent": ("ListMemories", pb.ListMemoriesRequest(parent="spaces/UPPER"), InvalidFieldError, "parent"),
    "page_size": ("ListMemories", pb.ListMemoriesRequest(parent=PARENT, page_size=-1), InvalidFieldError, "page_size"),
    "page_token": (
        "ListMemories",
        pb.ListMemoriesRequest(parent=PARENT, page_token="bm9uc2Vuc2U"),
        PageTokenMismatchError,
        "page_token",
    ),
    "foreign token": (
        "RecallMemories",
        pb.RecallMemoriesRequest(
            parent=PARENT,
            query="x",
            consistency=common_pb2.Consistency(at_least_as_fresh=common_pb2.ConsistencyToken(value="bm9uc2Vuc2U=")),
        ),
        ForeignTokenError,
        "token",
    ),
    "negative limit": (
        "RecallMemories",
        pb.RecallMemoriesRequest(parent=PARENT, query="x", limit=-1),
        InvalidFieldError,
        "limit",
    ),
    "empty query": ("RecallMemories", pb.RecallMemoriesRequest(parent=PARENT), InvalidFieldError, "query"),
    "bad name": ("GetMemory", pb.GetMemoryRequest(name=f"{PARENT}/memories/1"), InvalidFieldError, "name"),
    "no ids": ("BatchGetMemories", pb.BatchGetMemoriesRequest(parent=PARENT), InvalidFieldError, "ids"),
    "empty batch": ("BatchCreateMemories", pb.BatchCreateMemoriesRequest(parent=PARENT), InvalidFieldError, "memories"),
}


@pytest.mark.parametrize(("method", "request_message", "error", "words"), WRONG.values(), ids=WRONG)
async def test_wrong_input_gets_one_clear_error(
    connection: Connection, method: str, request_message: Message, error: type[MnemoError], words: str
) -> None:
    stub = connection.stub(memory_service_pb2_grpc.MemoryServiceStub)
    with pytest.raises(error, match=words) as raised:
        await getattr(stub, method)(request_message)
    assert "\n" not in str(raised.value)
    assert (await connection.space("wrong-input").info()).active_memories >= 1


async def test_all_broken_rules_are_reported_at_once(connection: Connection) -> None:
    stub = connection.stub(memory_service_pb2_grpc.MemoryServiceStub)
    with pytest.raises(InvalidFieldError) as raised:
        await stub.CreateMemory(create(content="", importance=2, tags=[""]))
    fields = {violation.field for violation in raised.value.violations}
    assert {"memory.content", "memory.importance"} <= fields
    assert any(field.startswith("memory.tags") for field in fields)


async def test_a_call_without_a_deadline_is_refused(served: Server) -> None:
    async with grpc.aio.insecure_channel(served.address) as channel:
        stub = memory_service_pb2_grpc.MemoryServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await stub.GetMemory(pb.GetMemoryRequest(name=GHOST))
    assert isinstance(from_rpc_error(raised.value, "server"), DeadlineRequiredError)


async def test_a_token_of_another_space_is_foreign(connection: Connection) -> None:
    stub = connection.stub(memory_service_pb2_grpc.MemoryServiceStub)
    other = connection.space("wrong-input-other")
    await other.remember("x")
    answer = await stub.RecallMemories(pb.RecallMemoriesRequest(parent="spaces/wrong-input-other", query="x"))
    consistency = common_pb2.Consistency(at_least_as_fresh=answer.read_at)
    with pytest.raises(ForeignTokenError):
        await stub.RecallMemories(pb.RecallMemoriesRequest(parent=PARENT, query="x", consistency=consistency))


async def test_a_request_id_belongs_to_one_request(connection: Connection) -> None:
    stub = connection.stub(memory_service_pb2_grpc.MemoryServiceStub)
    request = create(content="once")
    request.request_id = str(uuid.uuid4())
    first = await stub.CreateMemory(request)
    again = await stub.CreateMemory(request)
    again.memory.strength = first.memory.strength  # it fades as time goes by
    assert again.memory == first.memory
    request.memory.content = "twice"
    with pytest.raises(RequestIdReusedError):
        await stub.CreateMemory(request)


async def test_internal_methods_do_not_exist_at_the_gateway(connection: Connection) -> None:
    with pytest.raises(MethodNotFoundError):
        await connection.stub(index_service_pb2_grpc.IndexServiceStub).GetIndexStatus(
            index_service_pb2.GetIndexStatusRequest()
        )
    with pytest.raises(MethodNotFoundError):
        await connection.stub(event_service_pb2_grpc.EventServiceStub).RedactEvents(
            event_service_pb2.RedactEventsRequest()
        )


async def test_bytes_that_are_no_message_are_refused(served: Server) -> None:
    async with open_channel(served.address) as channel:
        call = channel.unary_unary("/mnemocore.memory.v1.MemoryService/GetMemory")
        with pytest.raises(InvalidFieldError, match="GetMemoryRequest"):
            await call(b"\xff\xff\xff")


async def test_five_processes_want_a_key(processes: Server) -> None:
    async with connect(processes.address) as nobody:
        with pytest.raises(UnauthenticatedError):
            await nobody.capabilities()
    async with connect(processes.address, api_key="mnemo_0_wrong") as liar:
        with pytest.raises(UnauthenticatedError):
            await liar.capabilities()


async def test_keys_open_what_they_say_and_no_more(processes: Server) -> None:
    async with connect(processes.address, api_key=processes.api_key) as admin:
        await admin.space("shared-name").remember("the admin's memory")
        reader = await admin.create_api_key("reader", ["memory:read"])
        stranger = await admin.create_api_key("stranger", ["memory:read", "memory:write"], tenant="elsewhere")
        async with connect(processes.address, api_key=reader.secret) as mnemo:
            assert len(await mnemo.space("shared-name").recall("memory")) == 1
            with pytest.raises(PermissionDeniedError, match="memory:write"):
                await mnemo.space("shared-name").remember("not allowed")
            with pytest.raises(PermissionDeniedError):
                await mnemo.create_api_key("friend", ["memory:read"])
        async with connect(processes.address, api_key=stranger.secret) as mnemo:
            with pytest.raises(SpaceNotFoundError):
                await mnemo.space("shared-name").recall("memory")
            assert [info.id async for info in mnemo.spaces()] == []
        assert {key.principal async for key in admin.list_api_keys()} >= {"reader", "stranger"}
        await admin.delete_api_key(reader.api_key.id)
    async with connect(processes.address, api_key=reader.secret) as mnemo:
        with pytest.raises(UnauthenticatedError):
            await mnemo.capabilities()
