"""Replicas of the index that share the spaces, as real servers over one event log."""

from __future__ import annotations

import asyncio
import tempfile
from contextlib import AsyncExitStack, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.index_space import memory_id

from mnemo_events.app import EventsApp
from mnemo_index.app import IndexApp
from mnemo_index.domain.share import Share
from mnemo_index.settings import PREFIX, IndexSettings, share_of
from mnemocore import rendezvous
from mnemocore.client import InternalCredentials, open_channel, open_shared_channel
from mnemocore.client.shared_channel import SharedChannel
from mnemocore.clock import SystemClock
from mnemocore.errors import (
    CancelledError,
    DeadlineExceededError,
    IndexRebuildingError,
    InvalidSettingError,
    UnavailableError,
    WrongReplicaError,
)
from mnemocore.events.v1 import event_service_pb2, event_service_pb2_grpc
from mnemocore.events.v1 import resources_pb2 as events_pb2
from mnemocore.ids import SpaceUid
from mnemocore.index.v1 import index_service_pb2 as pb
from mnemocore.index.v1 import index_service_pb2_grpc
from mnemocore.memory.v1 import resources_pb2
from mnemocore.server import Host, InternalAuthenticator
from mnemocore.settings import load
from mnemocore.testing.waiting import until
from mnemocore.wire import to_timestamp

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from mnemocore.client import ResilientChannel
    from mnemocore.postgres import Database

TOKEN = "a token"
NOW = to_timestamp(datetime(2026, 5, 1, tzinfo=UTC))
SPACES = [SpaceUid(f"018f0000-0000-7000-8000-{number:012x}") for number in range(40)]
TEXTS = ("green tea", "a dog called Biscuit")


class Fleet:
    """An event log, and replicas of the index by their addresses, each with a folder of its own."""

    def __init__(self, events: ResilientChannel, folder: Path, stack: AsyncExitStack) -> None:
        self.addresses = [f"unix:{folder}/{name}" for name in "abcd"]
        self.apps: dict[str, IndexApp] = {}
        self.revisions = dict.fromkeys(SPACES, 0)
        self._events = events
        self._log = event_service_pb2_grpc.EventServiceStub(events)
        self._folder = folder
        self._stack = stack
        self._running: dict[str, AsyncExitStack] = {}

    async def start(self, address: str, replicas: Sequence[str]) -> None:
        """Run a replica as one of `replicas`, in the folder that it left."""
        stack = AsyncExitStack()
        share, folder = Share(address, frozenset(replicas)), self._folder / f"data-{address[-1]}"
        app = await IndexApp.open(folder, self._events, SystemClock(), share=share)
        await app.start()
        stack.push_async_callback(app.stop)
        host = Host("index", app.services, authenticator=InternalAuthenticator(TOKEN))
        await host.start([address])
        stack.push_async_callback(host.drain, 5.0)
        self.apps[address], self._running[address] = app, stack
        self._stack.push_async_callback(self.stop, address)

    async def stop(self, address: str) -> None:
        await self._running.pop(address, AsyncExitStack()).aclose()

    def stub(self, replicas: Sequence[str]) -> Any:
        """The service, as callers see it who know these replicas."""
        return index_service_pb2_grpc.IndexServiceStub(self._channel(replicas))

    async def connected(self, replicas: Sequence[str]) -> Any:
        """The service, as `stub`, when all of them are connected.

        Channels of one process share connections: a new one may begin in the pause after another one's failure.
        """
        channel = self._channel(replicas)
        await channel.channel_ready()
        return index_service_pb2_grpc.IndexServiceStub(channel)

    def stub_of(self, address: str) -> Any:
        """One replica."""
        channel = open_channel(address, InternalCredentials(TOKEN))
        self._stack.push_async_callback(channel.close)
        return index_service_pb2_grpc.IndexServiceStub(channel)

    async def say(self, space_uid: SpaceUid, text: str) -> None:
        """Publish a memory, as memory-core does."""
        revision = self.revisions[space_uid] + 1
        name = f"spaces/alice/memories/{memory_id(revision)}"
        memory = resources_pb2.Memory(
            name=name, content=text, state=resources_pb2.MEMORY_STATE_ACTIVE, occurred_at=NOW, create_time=NOW
        )
        event = events_pb2.Event(
            id=f"{space_uid}:{revision}",
            source="mnemocore/memory",
            type="memory.created",
            subject=name,
            time=NOW,
            data=resources_pb2.Revision(revision=revision, memory=memory).SerializeToString(),
            tenant="acme",
            space_uid=space_uid,
            revision=revision,
        )
        await self._log.PublishEvents(event_service_pb2.PublishEventsRequest(events=[event]))
        self.revisions[space_uid] = revision

    async def search(self, stub: Any, space_uid: SpaceUid, revision: int | None = None) -> set[str]:
        request = pb.SearchRequest(
            space_uid=space_uid,
            query="tea",
            limit=100,
            min_revision=self.revisions[space_uid] if revision is None else revision,
        )
        return {hit.memory_id for hit in (await stub.Search(request)).hits}

    def everything(self, space_uid: SpaceUid) -> set[str]:
        return {memory_id(number) for number in range(1, self.revisions[space_uid] + 1)}

    def _channel(self, replicas: Sequence[str]) -> ResilientChannel | SharedChannel:
        channel = open_shared_channel(",".join(replicas), InternalCredentials(TOKEN))
        self._stack.push_async_callback(channel.close)
        return channel

    def held(self, address: str) -> set[SpaceUid]:
        """The spaces of which a replica knows anything."""
        return {uid for uid in SPACES if self.apps[address].projection.status(uid) is not None}

    async def caught_up(self, address: str) -> None:
        projection = self.apps[address].projection
        await until(lambda: projection.applied_position == sum(self.revisions.values()))


@pytest.fixture
async def fleet(database: Database) -> AsyncIterator[Fleet]:
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mnemo-")))
        events = EventsApp(database, SystemClock())
        await events.start()
        stack.push_async_callback(events.stop)
        host = Host("events", events.services, authenticator=InternalAuthenticator(TOKEN))
        (address,) = await host.start([f"unix:{folder}/events"])
        stack.push_async_callback(host.drain, 5.0)
        stack.callback(events.drain)
        channel = open_channel(address, InternalCredentials(TOKEN))
        stack.push_async_callback(channel.close)
        yield Fleet(channel, folder, stack)


async def test_each_space_is_held_by_one_replica_and_asked_of_it(fleet: Fleet) -> None:
    three = fleet.addresses[:3]
    for address in three:
        await fleet.start(address, three)
    for space_uid in SPACES:
        for text in TEXTS:
            await fleet.say(space_uid, text)
    stub = fleet.stub(three)
    for space_uid in SPACES:
        assert await fleet.search(stub, space_uid) == fleet.everything(space_uid)
    for address in three:
        await fleet.caught_up(address)
        assert fleet.held(address) == {uid for uid in SPACES if rendezvous.owner(uid, three) == address}
        assert len(fleet.held(address)) > 3
    (other, owner) = (three[0], next(uid for uid in SPACES if rendezvous.owner(uid, three) == three[1]))
    with pytest.raises(WrongReplicaError) as caught:
        await fleet.search(fleet.stub_of(other), owner, 0)
    assert caught.value.metadata == {"space": owner, "replica": three[1]}
    nobodys = SpaceUid("018f0000-0000-7000-8000-0000000000ff")
    fleet.revisions[nobodys] = 0
    assert await fleet.search(stub, nobodys) == set()
    for request in ("EncodeTexts", "GetIndexStatus"):  # about no space: any replica
        message = pb.EncodeTextsRequest(texts=["tea"]) if request == "EncodeTexts" else pb.GetIndexStatusRequest()
        assert (await getattr(stub, request)(message)).model == fleet.apps[other].projection.model


async def test_a_replica_that_comes_takes_its_share_and_nothing_else_moves(fleet: Fleet) -> None:
    three, four = fleet.addresses[:3], fleet.addresses
    for address in three:
        await fleet.start(address, three)
    for space_uid in SPACES:
        for text in TEXTS:
            await fleet.say(space_uid, text)
    for address in three:
        await fleet.caught_up(address)
    before = {address: fleet.held(address) for address in three}
    stubs, done, right = [fleet.stub(three), fleet.stub(four)], asyncio.Event(), [0]

    async def ask(stub: Any) -> None:
        """Answers are whole whatever moves: everything that was written before, or an error that says try again."""
        while not done.is_set():
            for space_uid in SPACES:
                least = fleet.everything(space_uid)
                try:
                    found = await fleet.search(stub, space_uid, 0)
                except (UnavailableError, DeadlineExceededError, CancelledError):  # the last from a server that stops
                    continue
                assert found >= least
                right[0] += 1

    asking = [asyncio.create_task(ask(stub)) for stub in stubs]
    await fleet.start(four[3], four)
    for address in three:  # one after the other, as they are rolled out
        await fleet.stop(address)
        await fleet.start(address, four)
        assert fleet.apps[address].projection.applied_position >= 2 * len(SPACES), "nothing is read again"
    for address in four:
        await fleet.caught_up(address)
    done.set()
    await asyncio.gather(*asking)
    assert right[0] > 0
    moved = {uid for uid in SPACES if rendezvous.owner(uid, four) == four[3]}
    assert fleet.held(four[3]) == moved
    assert 0 < len(moved) < len(SPACES) / 2
    for address in three:
        assert fleet.held(address) == before[address] - moved
        kept = {path.name.removesuffix(".snapshot") for path in _files(fleet, address)}
        assert kept == fleet.held(address)
    after, stale = await fleet.connected(four), await fleet.connected(three)
    for space_uid in SPACES:
        await fleet.say(space_uid, "written after the move")
        assert await fleet.search(after, space_uid) == fleet.everything(space_uid)
    for space_uid in moved:
        with pytest.raises(WrongReplicaError):
            await fleet.search(stale, space_uid)


def _files(fleet: Fleet, address: str) -> list[Path]:
    return sorted(Path(address.removeprefix("unix:")).parent.glob(f"data-{address[-1]}/*.snapshot"))


async def test_what_a_replica_takes_over_is_not_answered_before_it_is_whole(fleet: Fleet) -> None:
    two, one = fleet.addresses[:2], fleet.addresses[:1]
    await fleet.start(two[0], two)
    for space_uid in SPACES:
        for text in TEXTS:
            await fleet.say(space_uid, text)
    await fleet.caught_up(two[0])
    own = fleet.held(two[0])
    await fleet.stop(two[0])
    await fleet.start(one[0], one)
    assert fleet.apps[one[0]].projection.applied_position in (0, 2 * len(SPACES))
    stub = fleet.stub(one)
    for space_uid in SPACES:
        with suppress(IndexRebuildingError):
            assert await fleet.search(stub, space_uid, 0) == fleet.everything(space_uid)
    for space_uid in SPACES:
        assert await fleet.search(stub, space_uid) == fleet.everything(space_uid)
    assert own < fleet.held(one[0]) == set(SPACES)


def test_a_share_is_chosen_by_settings() -> None:
    required = {f"{PREFIX}DATA_DIR": "data", f"{PREFIX}INTERNAL_TOKEN": TOKEN}

    def chosen(**given: str) -> Share:
        return share_of(load(IndexSettings, PREFIX, required | {PREFIX + key: value for key, value in given.items()}))

    assert chosen() == Share()
    assert chosen(REPLICAS="a:1, b:2", REPLICA="b:2") == Share("b:2", frozenset({"a:1", "b:2"}))
    for wrong in ({"REPLICAS": "a:1,b:2"}, {"REPLICAS": "a:1", "REPLICA": "b:2"}, {"REPLICA": "a:1"}):
        with pytest.raises(InvalidSettingError, match="REPLICA = "):
            chosen(**wrong)


async def test_one_target_needs_no_sharing() -> None:
    one, two = open_shared_channel("a:1"), open_shared_channel("a:1,b:2")
    assert not isinstance(one, SharedChannel)
    assert isinstance(two, SharedChannel)
    await one.close()
    await two.close()
