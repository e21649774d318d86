"""WorkingMemoryService and SessionService through stubs and a real server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from tests.memory_room import opened
from tests.memory_wire import TOKEN, asked

from mnemo_memory.api.session_service import SessionServicer
from mnemo_memory.api.working_memory_service import WorkingMemoryServicer
from mnemocore.calls import Identity
from mnemocore.errors import InvalidFieldError, MnemoError
from mnemocore.ids import Tenant, new_uuid
from mnemocore.memory.v1 import (
    resources_pb2,
    session_service_pb2,
    session_service_pb2_grpc,
    working_memory_service_pb2,
    working_memory_service_pb2_grpc,
)
from mnemocore.server import Host, InternalAuthenticator, Service
from mnemocore.wire import dict_to_struct, struct_to_dict, to_datetime

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from google.protobuf.message import Message
    from tests.memory_room import Room

    from mnemocore.testing.postgres import TestPostgres

SECONDS = 60.0
PARENT = "spaces/notes"
METADATA: dict[str, Any] = {"n": 1.5, "whole": 3, "none": None, "yes": True, "list": [1, {}], "empty": {}, "fox": "🦊"}
STATE: dict[str, Any] = METADATA | {"deep": [[{"deep": [[[{}]]]}]]}


class Server:
    """Both services on a socket, called as `ada` of `acme`."""

    def __init__(self, room: Room) -> None:
        self.room = room
        services = [
            Service(
                WorkingMemoryServicer(room.working),
                working_memory_service_pb2_grpc.add_WorkingMemoryServiceServicer_to_server,
                "mnemocore.memory.v1.WorkingMemoryService",
            ),
            Service(
                SessionServicer(room.sessions),
                session_service_pb2_grpc.add_SessionServiceServicer_to_server,
                "mnemocore.memory.v1.SessionService",
            ),
        ]
        self.host = Host("memory", services, authenticator=InternalAuthenticator(TOKEN))

    async def start(self) -> None:
        (address,) = await self.host.start(["127.0.0.1:0"])
        self.channel = grpc.aio.insecure_channel(address)
        self._working: Any = working_memory_service_pb2_grpc.WorkingMemoryServiceStub(self.channel)
        self._sessions: Any = session_service_pb2_grpc.SessionServiceStub(self.channel)

    async def stop(self) -> None:
        await self.channel.close()
        await self.host.drain(5)

    async def working(self, method: str, *, scopes: str = "memory:read,memory:write", **fields: Any) -> Any:
        request = getattr(working_memory_service_pb2, f"{method}Request")(**({"parent": PARENT} | fields))
        return await self._call(getattr(self._working, method), request, scopes)

    async def session(self, method: str, *, scopes: str = "memory:read,memory:write", **fields: Any) -> Any:
        request = getattr(session_service_pb2, f"{method}Request")(**({"parent": PARENT} | fields))
        return await self._call(getattr(self._sessions, method), request, scopes)

    async def _call(self, method: Any, request: Message, scopes: str) -> Any:
        return await asked(method, request, Identity(Tenant("acme"), "ada", frozenset(scopes.split(","))))

    def id(self) -> str:
        return new_uuid(self.room.clock.now())


@pytest.fixture
async def server(postgres: TestPostgres) -> AsyncIterator[Server]:
    async with opened(postgres) as room:
        await room.make("notes")
        started = Server(room)
        await started.start()
        yield started
        await started.stop()


async def reason(call: Any) -> str:
    """The reason a call fails with."""
    with pytest.raises(MnemoError) as caught:
        await call
    return caught.value.reason


def text(content: str, **fields: Any) -> resources_pb2.MemoryInput:
    return resources_pb2.MemoryInput(content=content, **fields)


# Working memory


async def test_pushing_listing_clearing(server: Server) -> None:
    memory = text(
        "tea",
        kind=resources_pb2.MEMORY_KIND_FACT,
        metadata=dict_to_struct(METADATA),
        tags=["a", "b"],
        actor="Ada",
        importance=0.25,
        occurred_at=Timestamp(seconds=1, nanos=2000),
    )
    pushed = await server.working(
        "PushWorkingItem", agent="a", session="s", memory=memory, ttl=Duration(seconds=5, nanos=500_000_000)
    )
    item = pushed.item
    assert (item.agent, item.session, item.protected, item.access_count, pushed.evicted_id) == ("a", "s", False, 1, "")
    assert to_datetime(item.create_time) == server.room.clock.now()
    assert (to_datetime(item.expire_time) - server.room.clock.now()).total_seconds() == 5.5
    assert struct_to_dict(item.memory.metadata) == METADATA
    for field in ("kind", "content", "tags", "actor", "importance", "occurred_at"):
        assert getattr(item.memory, field) == getattr(memory, field)
    protected = (
        await server.working("PushWorkingItem", agent="a", session="s", memory=text("kept"), protected=True)
    ).item
    assert (protected.protected, protected.HasField("expire_time")) == (True, False)
    listed = await server.working("ListWorkingItems", agent="a", session="s")
    assert list(listed.items) == [protected, item]
    cleared = await server.working("ClearWorkingMemory", agent="a", session="s", ids=[item.id])
    assert cleared.removed == 1
    assert (await server.working("ClearWorkingMemory", agent="a", session="s")).removed == 1
    assert not (await server.working("ListWorkingItems", agent="a", session="s")).items


async def test_promoting(server: Server) -> None:
    item = (await server.working("PushWorkingItem", agent="a", session="s", memory=text("tea"))).item
    request_id = server.id()
    first = await server.working("PromoteWorkingItem", id=item.id, request_id=request_id)
    assert (first.memory.content, first.memory.session, first.memory.revision) == ("tea", "s", 1)
    assert await server.working("PromoteWorkingItem", id=item.id, request_id=request_id) == first
    assert await reason(server.working("PromoteWorkingItem", id=item.id)) == "WORKING_ITEM_NOT_FOUND"


async def test_a_push_that_is_sent_again_returns_the_first_answer(server: Server) -> None:
    fields: dict[str, Any] = {"agent": "a", "memory": text("tea"), "request_id": server.id()}
    first = await server.working("PushWorkingItem", **fields)
    assert await server.working("PushWorkingItem", **fields) == first
    fields["memory"] = text("coffee")
    assert await reason(server.working("PushWorkingItem", **fields)) == "REQUEST_ID_REUSED"


async def test_wrong_pushes(server: Server) -> None:
    fields: dict[str, Any]
    right: dict[str, Any] = {"agent": "a", "memory": text("tea")}
    picture = text("a picture", media=resources_pb2.MediaInput(data=b"x"))
    for field, fields in (
        ("memory.media", {"memory": picture}),
        ("agent", {"agent": "a\x00"}),
        ("agent", {"agent": ""}),
        ("session", {"session": "\x00"}),
        ("memory.content", {"memory": text("\x00")}),
        ("ttl", {"ttl": Duration()}),
        ("ttl", {"ttl": Duration(seconds=86400, nanos=1000)}),
        ("ttl", {"ttl": Duration(seconds=2**62)}),
        ("request_id", {"request_id": "x"}),
    ):
        with pytest.raises(InvalidFieldError) as caught:
            await server.working("PushWorkingItem", **(right | fields))
        assert [violation.field for violation in caught.value.violations] == [field]
    assert await reason(server.working("PromoteWorkingItem", id="x")) == "INVALID_FIELD"
    assert await reason(server.working("ListWorkingItems", agent="a", parent="spaces/none")) == "SPACE_NOT_FOUND"


async def test_a_full_working_memory(server: Server) -> None:
    for number in range(100):
        await server.working("PushWorkingItem", agent="a", memory=text(str(number)), protected=True)
    assert await reason(server.working("PushWorkingItem", agent="a", memory=text("more"))) == "WORKING_MEMORY_FULL"


@pytest.mark.parametrize(
    ("method", "fields"),
    [
        ("PushWorkingItem", {"agent": "a", "memory": text("tea")}),
        ("ClearWorkingMemory", {"agent": "a"}),
        ("PromoteWorkingItem", {"id": "018f0000-0000-7000-8000-00000000000a"}),
    ],
)
async def test_writing_working_memory_needs_its_scope(server: Server, method: str, fields: dict[str, Any]) -> None:
    assert await reason(server.working(method, scopes="memory:read", **fields)) == "PERMISSION_DENIED"


# Sessions


async def test_the_life_of_a_session(server: Server) -> None:
    request_id = server.id()
    fields: dict[str, Any] = {
        "session_id": "s",
        "agent": "a",
        "metadata": dict_to_struct(METADATA),
        "request_id": request_id,
    }
    started = (await server.session("StartSession", **fields)).session
    assert (started.id, started.agent, started.memories) == ("s", "a", 0)
    assert (struct_to_dict(started.metadata), started.HasField("end_time")) == (METADATA, False)
    assert to_datetime(started.start_time) == server.room.clock.now()
    assert await reason(server.session("StartSession", session_id="s")) == "SESSION_EXISTS"

    appended = await server.session("AppendToSession", session_id="s", memories=[text("one"), text("two", session="s")])
    assert [(memory.content, memory.session, memory.ordinal) for memory in appended.memories] == [
        ("one", "s", 0),
        ("two", "s", 1),
    ]
    assert appended.written_at.value
    assert (await server.session("GetSession", session_id="s")).session.memories == 2

    ended = (await server.session("EndSession", session_id="s")).session
    assert (to_datetime(ended.end_time), ended.memories) == (server.room.clock.now(), 2)
    assert await reason(server.session("AppendToSession", session_id="s", memories=[text("x")])) == "SESSION_ENDED"
    assert (await server.session("StartSession", **fields)).session == started
    for method in ("GetSession", "EndSession"):
        assert await reason(server.session(method, session_id="none")) == "SESSION_NOT_FOUND"


async def test_listing_sessions(server: Server) -> None:
    names = [(await server.session("StartSession", agent="ab"[number % 2])).session.id for number in range(3)]
    page = await server.session("ListSessions", page_size=2)
    rest = await server.session("ListSessions", page_size=2, page_token=page.next_page_token)
    found = [session.id for session in (*page.sessions, *rest.sessions)]
    assert (found, rest.next_page_token) == (names[::-1], "")
    await server.session("EndSession", session_id=names[0])
    open_ones = await server.session("ListSessions", agent="a", open_only=True)
    assert [session.id for session in open_ones.sessions] == [names[2]]
    assert await reason(server.session("ListSessions", page_token="x")) == "PAGE_TOKEN_MISMATCH"


async def test_checkpoints(server: Server) -> None:
    await server.session("StartSession", session_id="s", agent="a")
    item = (await server.working("PushWorkingItem", agent="a", session="s", memory=text("tea"))).item
    made = (
        await server.session("CreateCheckpoint", session_id="s", label="halfway", state=dict_to_struct(STATE))
    ).checkpoint
    assert (made.session, made.label, made.working_items, made.revision) == ("s", "halfway", 1, 0)
    assert struct_to_dict(made.state) == STATE
    await server.working("ClearWorkingMemory", agent="a", session="s")
    (listed,) = (await server.session("ListCheckpoints", session_id="s")).checkpoints
    assert (listed.id, listed.label, listed.HasField("state")) == (made.id, "halfway", False)
    for checkpoint_id in (made.id, ""):
        restored = await server.session("RestoreCheckpoint", session_id="s", checkpoint_id=checkpoint_id)
        assert restored.checkpoint == made
    assert list((await server.working("ListWorkingItems", agent="a", session="s")).items) == [item]
    unknown = server.session("RestoreCheckpoint", session_id="s", checkpoint_id=server.id())
    assert await reason(unknown) == "CHECKPOINT_NOT_FOUND"
    for method in ("CreateCheckpoint", "ListCheckpoints", "RestoreCheckpoint"):
        assert await reason(server.session(method, session_id="none")) == "SESSION_NOT_FOUND"


async def test_the_state_of_a_checkpoint_has_a_bound(server: Server) -> None:
    await server.session("StartSession", session_id="s")
    most = 1024 * 1024 - len('{"a":""}')
    await server.session("CreateCheckpoint", session_id="s", state=dict_to_struct({"a": "x" * most}))
    with pytest.raises(InvalidFieldError, match="1048577 bytes as JSON; allowed are at most 1048576") as caught:
        await server.session("CreateCheckpoint", session_id="s", state=dict_to_struct({"a": "x" * (most + 1)}))
    assert caught.value.metadata == {"field": "state"}
    restored = await server.session("RestoreCheckpoint", session_id="s")
    assert len(restored.checkpoint.state["a"]) == most


async def test_wrong_sessions(server: Server) -> None:
    await server.session("StartSession", session_id="s")
    fields: dict[str, Any]
    for method, field, fields in (
        ("StartSession", "metadata", {"metadata": dict_to_struct({"a": {"b": ["\x00"]}})}),
        ("StartSession", "metadata", {"metadata": dict_to_struct({"\x00": 1})}),
        ("StartSession", "metadata", {"metadata": dict_to_struct({"a": "x" * 102_400})}),
        ("StartSession", "session_id", {"session_id": "\x00"}),
        ("StartSession", "agent", {"agent": "\x00"}),
        ("GetSession", "session_id", {"session_id": ""}),
        ("ListSessions", "agent", {"agent": "\x00"}),
        ("AppendToSession", "memories", {"session_id": "s"}),
        (
            "AppendToSession",
            "memories[1].session",
            {"session_id": "s", "memories": [text("x"), text("y", session="t")]},
        ),
        ("AppendToSession", "memories[0].content", {"session_id": "s", "memories": [text("\x00")]}),
        ("CreateCheckpoint", "label", {"session_id": "s", "label": "\x00"}),
        ("CreateCheckpoint", "state", {"session_id": "s", "state": dict_to_struct({"a": ["\x00"]})}),
        ("RestoreCheckpoint", "checkpoint_id", {"session_id": "s", "checkpoint_id": "x"}),
    ):
        with pytest.raises(InvalidFieldError) as caught:
            await server.session(method, **fields)
        assert [violation.field for violation in caught.value.violations] == [field]
    backslash = dict_to_struct({"path": "C:\\u0000"})
    made = await server.session("CreateCheckpoint", session_id="s", state=backslash)
    assert made.checkpoint.state["path"] == "C:\\u0000"


@pytest.mark.parametrize(
    "method", ["StartSession", "AppendToSession", "EndSession", "CreateCheckpoint", "RestoreCheckpoint"]
)
async def test_writing_sessions_needs_its_scope(server: Server, method: str) -> None:
    fields: dict[str, Any] = {"memories": [text("x")]} if method == "AppendToSession" else {}
    refused = server.session(method, scopes="memory:read", session_id="s", **fields)
    assert await reason(refused) == "PERMISSION_DENIED"
