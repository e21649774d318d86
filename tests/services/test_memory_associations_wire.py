"""AssociationService through stubs and a real server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from uuid import UUID

import grpc
import pytest
from tests.memory_room import opened
from tests.memory_wire import TOKEN, asked

from mnemo_memory.api.association_service import AssociationServicer
from mnemo_memory.domain.associations import Associations
from mnemo_memory.domain.memory import Draft, Space
from mnemo_memory.domain.ports import Author, Kept
from mnemo_memory.storage.postgres_associations import PostgresAssociations
from mnemocore.calls import Identity
from mnemocore.errors import MnemoError, QuotaExceededError
from mnemocore.ids import Tenant, new_uuid
from mnemocore.memory.v1 import association_service_pb2 as pb
from mnemocore.memory.v1 import association_service_pb2_grpc, resources_pb2
from mnemocore.server import Host, InternalAuthenticator, Service
from mnemocore.wire import to_timestamp

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.memory_room import Room

    from mnemocore.testing.postgres import TestPostgres

PARENT = "spaces/notes"


class Server:
    """The service on a socket, with memories a, b and c of one session, called as `ada` of `acme`."""

    def __init__(self, room: Room, space: Space) -> None:
        self.room = room
        self.space = space
        store = PostgresAssociations(room.database, room.vault)
        associations = Associations(store, room.store, room.access, room.clock, lambda: None)
        service = Service(
            AssociationServicer(associations),
            association_service_pb2_grpc.add_AssociationServiceServicer_to_server,
            "mnemocore.memory.v1.AssociationService",
        )
        self.host = Host("memory", [service], authenticator=InternalAuthenticator(TOKEN))
        self.a, self.b, self.c = "", "", ""

    async def start(self) -> None:
        drafts = [Draft(each, session="s") for each in "abc"]
        author = Author("ada", self.room.clock.now())
        created = await self.room.store.create(self.space, drafts, author, None, each=False)
        self.a, self.b, self.c = (kept.memory.id for kept in created.outcomes if isinstance(kept, Kept))
        (address,) = await self.host.start(["127.0.0.1:0"])
        self.channel = grpc.aio.insecure_channel(address)
        self._stub: Any = association_service_pb2_grpc.AssociationServiceStub(self.channel)

    async def stop(self) -> None:
        await self.channel.close()
        await self.host.drain(5)

    async def call(self, method: str, *, scopes: str = "memory:read,memory:write", **fields: Any) -> Any:
        request = getattr(pb, f"{method}Request")(**({"parent": PARENT} | fields))
        ada = Identity(Tenant("acme"), "ada", frozenset(scopes.split(",")))
        return await asked(getattr(self._stub, method), request, ada)

    def name(self, memory_id: str) -> str:
        return f"{PARENT}/memories/{memory_id}"


@pytest.fixture
async def server(postgres: TestPostgres) -> AsyncIterator[Server]:
    async with opened(postgres) as room:
        started = Server(room, await room.make("notes"))
        await started.start()
        yield started
        await started.stop()


async def reason(call: Any) -> str:
    """The reason a call fails with."""
    with pytest.raises(MnemoError) as caught:
        await call
    return caught.value.reason


async def test_a_learner_is_told_when_there_is_room_again(server: Server) -> None:
    room, made_at = server.room, server.room.clock.now()
    drafts = [Draft(str(number)) for number in range(501)]
    created = await room.store.create(server.space, drafts, Author("ada", made_at), None, each=False)
    ids = [UUID(kept.memory.id) for kept in created.outcomes if isinstance(kept, Kept)]
    await room.database.execute(
        "INSERT INTO memory.associations (space_uid, source, target, type, weight, created_at, updated_at, principal) "
        "SELECT $1, source, target, 9, 0.3, $4, $4, 'ada' FROM unnest($2::uuid[], $3::uuid[]) AS t(source, target)",
        UUID(server.space.uid),
        ids[:-1],
        ids[1:],
        made_at,
    )
    await room.clock.advance(1200)
    learnt = resources_pb2.ASSOCIATION_TYPE_CO_RECALLED
    with pytest.raises(QuotaExceededError) as caught:
        await server.call("Associate", source_id=server.a, target_id=server.b, type=learnt, reinforce=True)
    error = caught.value
    assert error.metadata == {"space": PARENT, "quota": "new_co_recalled_links_per_hour", "limit": "500"}
    assert error.retry_after == 2400
    assert error.message.endswith("it has room again at 2026-01-01T01:00:00+00:00")


async def test_a_link_is_made_listed_and_removed(server: Server) -> None:
    ends = {"source_id": server.a, "target_id": server.b}
    made = (await server.call("Associate", **ends)).association
    now = to_timestamp(server.room.clock.now())
    assert made == resources_pb2.Association(
        source=server.name(server.a),
        target=server.name(server.b),
        type=resources_pb2.ASSOCIATION_TYPE_RELATED,
        weight=0.3,
        activations=1,
        create_time=now,
        update_time=now,
        principal="ada",
    )
    request_id = new_uuid(server.room.clock.now())
    first, again = [await server.call("Associate", **ends, reinforce=True, request_id=request_id) for _ in range(2)]
    assert first == again
    assert (first.association.activations, round(first.association.weight, 9)) == (2, 0.335)
    strong = await server.call("Associate", **ends, weight=1.0, type=resources_pb2.ASSOCIATION_TYPE_EXTENDS)
    page = await server.call("ListAssociations", page_size=1)
    rest = await server.call("ListAssociations", page_size=1, page_token=page.next_page_token)
    assert [*page.associations, *rest.associations] == [strong.association, first.association]
    assert rest.next_page_token == ""
    some = await server.call("ListAssociations", memory_id=server.b, direction=pb.DIRECTION_OUTGOING)
    assert not some.associations
    removed = [
        (await server.call("Dissociate", **ends, type=type_)).removed
        for type_ in (resources_pb2.ASSOCIATION_TYPE_EXTENDS, resources_pb2.ASSOCIATION_TYPE_UNSPECIFIED, 0)
    ]
    assert removed == [1, 1, 0]


async def test_paths_and_neighbourhoods(server: Server) -> None:
    first = (await server.call("Associate", source_id=server.a, target_id=server.b, weight=0.5)).association
    second = (await server.call("Associate", source_id=server.c, target_id=server.b, weight=0.5)).association
    ends = {"source_id": server.a, "target_id": server.c}
    (path,) = (await server.call("FindPaths", **ends)).paths
    assert path == pb.AssociationPath(associations=[first, second], weight=0.25)
    assert not (await server.call("FindPaths", **ends, direction=pb.DIRECTION_OUTGOING)).paths
    around = await server.call("GetNeighbourhood", ids=[server.a], without_sessions=True)
    assert [(each.memory.name, each.hops) for each in around.neighbours] == [
        (server.name(server.b), 1),
        (server.name(server.c), 2),
    ]
    assert around.neighbours[0].memory.content == "b"
    assert [each.activation for each in around.neighbours] == pytest.approx([0.7, 0.49])
    assert list(around.associations) == sorted([first, second], key=lambda each: each.source)
    around = await server.call("GetNeighbourhood", ids=[server.a])
    assert [each.hops for each in around.neighbours] == [1, 1]


async def test_wrong_requests_are_refused(server: Server) -> None:
    ends = {"source_id": server.a, "target_id": server.b}
    unknown = new_uuid(server.room.clock.now())
    for method, fields, expected in (
        ("Associate", {"source_id": server.a, "target_id": server.a}, "INVALID_FIELD"),
        ("Associate", ends | {"weight": 1.5}, "INVALID_FIELD"),
        ("Associate", ends | {"weight": 0.0}, "INVALID_FIELD"),
        ("Associate", ends | {"weight": 0.5, "reinforce": True}, "INVALID_FIELD"),
        ("Associate", ends | {"type": 99}, "INVALID_FIELD"),
        ("Associate", {"source_id": server.a, "target_id": unknown}, "MEMORY_NOT_FOUND"),
        ("Associate", ends | {"parent": "spaces/other"}, "SPACE_NOT_FOUND"),
        ("ListAssociations", {"page_token": "x"}, "PAGE_TOKEN_MISMATCH"),
        ("FindPaths", ends | {"max_hops": 6}, "INVALID_FIELD"),
        ("FindPaths", {"source_id": unknown, "target_id": server.a}, "MEMORY_NOT_FOUND"),
        ("GetNeighbourhood", {"ids": []}, "INVALID_FIELD"),
        ("GetNeighbourhood", {"ids": [server.a, unknown]}, "MEMORY_NOT_FOUND"),
    ):
        assert await reason(server.call(method, **fields)) == expected, (method, fields)
