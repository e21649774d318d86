"""No tenant learns of anything of another one: memory-core, index and event-bus together, on every way to ask.

All tenants have a space of the same name, memories with the same ids and almost the same words. What a tenant writes
holds its canary; no answer and no error may hold the canary of somebody else.
"""

from __future__ import annotations

import asyncio
import re
import secrets
from contextlib import AsyncExitStack
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from mnemo_events.app import EventsApp
from mnemo_index.app import IndexApp
from mnemo_memory.app import MemoryApp
from mnemocore import calls
from mnemocore.client import InternalCredentials, ResilientChannel
from mnemocore.clock import SystemClock
from mnemocore.common.v1 import resources_pb2 as common_pb2
from mnemocore.events.v1 import event_service_pb2, event_service_pb2_grpc
from mnemocore.ids import new_uuid
from mnemocore.memory.v1 import (
    association_service_pb2,
    association_service_pb2_grpc,
    media_service_pb2,
    media_service_pb2_grpc,
    memory_service_pb2,
    memory_service_pb2_grpc,
    resources_pb2,
    session_service_pb2,
    session_service_pb2_grpc,
    space_service_pb2,
    space_service_pb2_grpc,
    working_memory_service_pb2,
    working_memory_service_pb2_grpc,
)
from mnemocore.server import Host, InternalAuthenticator
from mnemocore.wire import dict_to_struct

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from mnemocore.postgres import Database

TOKEN = "a token"
SECONDS = 60.0
NOTES = "spaces/notes"
FRESH = common_pb2.Consistency(fully_consistent=True)
BATCH = 100
CANARY = re.compile(rb"canary[0-9a-f]{16}")
STATES = [1, 2, 3, 4]
AT_ONCE = 8

SERVICES: dict[str, tuple[Any, Any]] = {
    "Memory": (memory_service_pb2, memory_service_pb2_grpc.MemoryServiceStub),
    "Space": (space_service_pb2, space_service_pb2_grpc.SpaceServiceStub),
    "Association": (association_service_pb2, association_service_pb2_grpc.AssociationServiceStub),
    "Media": (media_service_pb2, media_service_pb2_grpc.MediaServiceStub),
    "Session": (session_service_pb2, session_service_pb2_grpc.SessionServiceStub),
    "WorkingMemory": (working_memory_service_pb2, working_memory_service_pb2_grpc.WorkingMemoryServiceStub),
    "Event": (event_service_pb2, event_service_pb2_grpc.EventServiceStub),
}


class Installation:
    """memory-core, index and event-bus on a database, each as the gateway calls it."""

    def __init__(self, database: Database, folder: Path) -> None:
        self._database = database
        self._folder = folder
        self._stack = AsyncExitStack()
        self.channels: dict[str, grpc.aio.Channel] = {}

    async def start(self) -> None:
        clock = SystemClock()
        await self._serve(EventsApp(self._database, clock))
        await self._serve(await IndexApp.open(self._folder, self._inside("events"), clock))
        index, events = self._inside("index"), self._inside("events")
        await self._serve(MemoryApp(self._database, index, events, clock, consolidation_seconds=0))

    async def stop(self) -> None:
        await self._stack.aclose()

    async def _serve(self, app: EventsApp | IndexApp | MemoryApp) -> None:
        await app.start()
        self._stack.push_async_callback(app.stop)
        host = Host(app.name, app.services, authenticator=InternalAuthenticator(TOKEN))
        await host.start([])
        self._stack.push_async_callback(host.drain, 5.0)
        self.channels[app.name] = host.channel()

    def _inside(self, name: str) -> ResilientChannel:
        return ResilientChannel(self.channels[name], name, credentials=InternalCredentials(TOKEN), clock=SystemClock())


class Customer:
    """A tenant with its canary: writes it wherever it can, and looks at everything that comes back."""

    def __init__(self, installation: Installation, number: int, shared_ids: list[str]) -> None:
        self.tenant = f"tenant-{number}"
        self.canary = f"canary{secrets.token_hex(8)}"
        self.private = f"spaces/private-{number}"
        self.session = f"session-{number}"
        now = SystemClock().now()
        self.own_ids = [new_uuid(now) for _ in shared_ids]
        self.ids = [*shared_ids, *self.own_ids]
        self.media = ""
        self.answers = 0
        self._channels = installation.channels

    async def ask(self, service: str, method: str, **fields: Any) -> Any:
        """The answer to a call, None if it is an error; neither holds a foreign canary."""
        messages, stub = SERVICES[service]
        send = getattr(stub(self._channels["events" if service == "Event" else "memory"]), method)
        metadata = [
            (calls.INTERNAL_TOKEN_HEADER, TOKEN),
            (calls.TENANT_HEADER, self.tenant),
            (calls.PRINCIPAL_HEADER, "ada"),
            (calls.SCOPES_HEADER, "*"),
        ]
        if method == "UploadMedia":
            request: Any = [messages.UploadMediaRequest(**fields)]
        else:
            request = getattr(messages, f"{method}Request")(**fields)
        call = send(request, metadata=metadata, timeout=SECONDS)
        try:
            if method == "ReadMedia":
                parts = [part async for part in call]
                self.look(b"".join(part.data for part in parts))
                return parts
            answer = await call
        except grpc.aio.AioRpcError as error:
            self.look(repr((error.details(), error.trailing_metadata())).encode())
            return None
        self.look(answer.SerializeToString())
        return answer

    def look(self, text: bytes) -> None:
        """Fail if there is the canary of somebody else in a text."""
        self.answers += 1
        assert set(CANARY.findall(text)) <= {self.canary.encode()}

    def text(self, number: int) -> resources_pb2.MemoryInput:
        return resources_pb2.MemoryInput(
            id=self.ids[number],
            content=f"the budget meeting number {number} was about {self.canary}",
            metadata=dict_to_struct({"secret": self.canary, "n": number % 5}),
            tags=[self.canary, f"tag{number % 3}"],
            actor=self.canary if number % 2 else "Ada",
            session=("session" if number % 2 else self.session) if number % 4 else "",
            provenance=resources_pb2.Provenance(agent=self.canary, sources=[self.canary]),
        )

    async def fill(self) -> None:
        """Write the canary to wherever something can be written."""
        for name in (NOTES, self.private):
            slug = name.removeprefix("spaces/")
            assert await self.ask("Space", "CreateSpace", space_id=slug, description=f"a space of {self.canary}")
        for start in range(0, len(self.ids), BATCH):
            memories = [self.text(number) for number in range(start, min(start + BATCH, len(self.ids)))]
            assert await self.ask("Memory", "BatchCreateMemories", parent=NOTES, memories=memories)
        name = f"{NOTES}/memories/{self.ids[0]}"
        await self.ask("Memory", "DeleteMemory", name=f"{NOTES}/memories/{self.ids[1]}", reason=self.canary)
        changed = resources_pb2.MemoryInput(content=f"the meeting is over, says {self.canary}")
        assert await self.ask("Memory", "SupersedeMemory", name=name, memory=changed, reason=self.canary)
        await self.ask("Memory", "DeleteMemory", name=f"{NOTES}/memories/{self.ids[2]}", purge=True)
        for ids in (self.ids[3:9], self.own_ids[:9]):
            for source, target in pairwise(ids):
                await self.ask("Association", "Associate", parent=NOTES, source_id=source, target_id=target, weight=0.9)
        await self.ask(
            "Session",
            "StartSession",
            parent=NOTES,
            session_id=self.session,
            agent=self.canary,
            metadata=dict_to_struct({"secret": self.canary}),
        )
        await self.ask(
            "WorkingMemory",
            "PushWorkingItem",
            parent=NOTES,
            agent="agent",
            session="session",
            memory=resources_pb2.MemoryInput(content=f"thinking of {self.canary}"),
            protected=True,
        )
        await self.ask("Session", "CreateCheckpoint", parent=NOTES, session_id=self.session, label=f"at {self.canary}")
        uploaded = await self.ask(
            "Media", "UploadMedia", parent=NOTES, mime_type="text/plain", data=f"read {self.canary}\n".encode()
        )
        self.media = uploaded.media.name

    async def read_own(self) -> None:
        """Ask for everything there is, with the names that all tenants share."""
        now = Timestamp()
        now.GetCurrentTime()
        one = f"{NOTES}/memories/{self.ids[4]}"
        got = await self.ask("Memory", "GetMemory", name=one)
        assert self.canary in got.memory.content
        assert self.canary in (await self.ask("Memory", "GetMemory", name=one, as_of=now)).memory.content
        assert len((await self.ask("Memory", "BatchGetMemories", parent=NOTES, ids=self.ids[:100])).memories) > 10
        await self._pages("Memory", "ListMemories", "memories", parent=NOTES, states=STATES)
        assert await self._pages("Memory", "ListRevisions", "revisions", parent=NOTES) > len(self.ids)
        await self._pages("Memory", "ListRevisions", "revisions", parent=one)
        for query in ("the budget meeting", f"number {len(self.ids) - 1}", "is over"):
            for profile in (1, 2, 3, 4):
                fields = {"parent": NOTES, "query": query, "limit": 100, "consistency": FRESH, "profile": profile}
                assert (await self.ask("Memory", "RecallMemories", **fields)).results
                assert (await self.ask("Memory", "RecallMemories", **fields, states=STATES)).results
            assert (await self.ask("Memory", "RecallMemories", **fields, known_at=now)).results
            where = resources_pb2.MemoryFilter(tags=["tag1"])
            await self.ask("Memory", "RecallMemories", **fields, filter=where)
        assert await self._pages("Association", "ListAssociations", "associations", parent=NOTES) > 5
        ends = {"source_id": self.ids[3], "target_id": self.ids[5]}
        assert (await self.ask("Association", "FindPaths", parent=NOTES, **ends)).paths
        assert (
            await self.ask("Association", "GetNeighbourhood", parent=NOTES, ids=[self.ids[4]], max_hops=3)
        ).neighbours
        stats = await self.ask("Space", "GetSpaceStats", name=NOTES)
        assert len(self.ids) - 2 <= sum_of_states(stats) <= len(self.ids) + 1
        await self.ask("Space", "GetSpace", name=NOTES)
        assert len((await self.ask("Space", "ListSpaces")).spaces) == 2
        items = await self.ask("WorkingMemory", "ListWorkingItems", parent=NOTES, agent="agent", session="session")
        assert len(items.items) == 1
        assert len((await self.ask("Session", "ListSessions", parent=NOTES)).sessions) == 1
        assert await self.ask("Session", "GetSession", parent=NOTES, session_id=self.session)
        checkpoints = await self.ask("Session", "ListCheckpoints", parent=NOTES, session_id=self.session)
        assert len(checkpoints.checkpoints) == 1
        position, read = 0, 0
        while True:
            page = await self.ask("Event", "ReadEvents", after_position=position, page_size=1000)
            read += len(page.events)
            position = page.resume_position
            if position >= page.head_position or not page.events:
                break
        assert read >= len(self.ids) + 4

    async def pry(self, other: Customer) -> None:
        """Ask for what only another tenant has; nothing of it is there."""
        foreign = other.own_ids[3]
        for parent in (NOTES, other.private):
            name = f"{parent}/memories/{foreign}"
            assert await self.ask("Memory", "GetMemory", name=name) is None
            assert await self.ask("Memory", "UpdateMemory", name=name, memory=changed_text(), update_mask=MASK) is None
            assert await self.ask("Memory", "SupersedeMemory", name=name, memory=changed_text()) is None
            assert await self.ask("Memory", "DeleteMemory", name=name, purge=True) is None
            assert await self.ask("Memory", "ProtectMemory", name=name, protected=True) is None
            assert await self.ask("Memory", "RecordFeedback", name=name, positive=True) is None
            ends = {"source_id": self.own_ids[3], "target_id": foreign}
            assert await self.ask("Association", "Associate", parent=parent, **ends) is None
            for asked in (
                await self.ask("Memory", "BatchGetMemories", parent=parent, ids=other.own_ids[:50]),
                await self.ask("Memory", "ListRevisions", parent=name),
                await self.ask("Association", "ListAssociations", parent=parent, memory_id=foreign),
                await self.ask(
                    "Association", "FindPaths", parent=parent, source_id=foreign, target_id=other.own_ids[5]
                ),
                await self.ask("Association", "GetNeighbourhood", parent=parent, ids=[foreign]),
            ):
                assert asked is None or nothing_in(asked)
            assert await self.ask("Session", "GetSession", parent=parent, session_id=other.session) is None
            assert await self.ask("Session", "EndSession", parent=parent, session_id=other.session) is None
            fields = {"parent": parent, "session_id": other.session}
            assert await self.ask("Session", "AppendToSession", **fields, memories=[changed_text()]) is None
            await self.ask("Session", "ListCheckpoints", **fields)
        assert await self.ask("Media", "ReadMedia", name=other.media) is None
        for method in ("GetSpace", "GetSpaceStats", "DeleteSpace", "RepublishSpace"):
            assert await self.ask("Space", method, name=other.private) is None
        assert await self.ask("Memory", "ListMemories", parent=other.private) is None
        assert await self.ask("Memory", "RecallMemories", parent=other.private, query="budget") is None
        assert await self.ask("WorkingMemory", "ListWorkingItems", parent=other.private, agent="agent") is None

    async def _pages(self, service: str, method: str, field: str, **fields: Any) -> int:
        count, token = 0, ""
        while True:
            page = await self.ask(service, method, **fields, page_size=100, page_token=token)
            count += len(getattr(page, field))
            token = page.next_page_token
            if not token:
                return count


MASK = {"paths": ["content"]}


def changed_text() -> resources_pb2.MemoryInput:
    return resources_pb2.MemoryInput(content="changed by a stranger")


def nothing_in(answer: Any) -> bool:
    """Whether an answer lists nothing; the ids that name nothing aside."""
    return all(
        field.name == "missing" or not len(value) for field, value in answer.ListFields() if hasattr(value, "__len__")
    )


def sum_of_states(answer: Any) -> int:
    return sum(each.memories for each in answer.stats.states)


@pytest.fixture
async def installation(database: Database, tmp_path: Path) -> AsyncIterator[Installation]:
    started = Installation(database, tmp_path)
    await started.start()
    yield started
    await started.stop()


async def for_each(customers: list[Customer], work: Callable[[Customer], Any]) -> None:
    """Do something for every customer, some of them at once."""
    room = asyncio.Semaphore(AT_ONCE)

    async def do(customer: Customer) -> None:
        async with room:
            await work(customer)

    async with asyncio.TaskGroup() as group:
        for customer in customers:
            group.create_task(do(customer))


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("tenants", "memories"), [(10, 40), pytest.param(50, 200, marks=pytest.mark.slow)], ids=["some", "many"]
)
async def test_no_tenant_learns_of_another(installation: Installation, tenants: int, memories: int) -> None:
    shared_ids = [new_uuid(SystemClock().now()) for _ in range(memories // 2)]
    customers = [Customer(installation, number, shared_ids) for number in range(tenants)]
    await for_each(customers, Customer.fill)
    await for_each(customers, Customer.read_own)
    neighbours = dict(zip(customers, [*customers[1:], customers[0]], strict=True))
    await for_each(customers, lambda customer: customer.pry(neighbours[customer]))
    await for_each(customers, Customer.read_own)
    assert min(customer.answers for customer in customers) > 100
