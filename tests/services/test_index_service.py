"""The index behind its host, on a real event log: what its calls answer, and what it makes of the events."""

from __future__ import annotations

import asyncio
import logging
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from tests.index_space import encoder, memory_id

from mnemo_events.app import EventsApp
from mnemo_index.app import IndexApp
from mnemo_index.domain.models import Encoders
from mnemo_index.storage.generations import GenerationStore
from mnemocore import calls
from mnemocore.clock import SystemClock
from mnemocore.events.v1 import event_service_pb2, event_service_pb2_grpc
from mnemocore.events.v1 import resources_pb2 as events_pb2
from mnemocore.ids import SpaceUid
from mnemocore.index.v1 import index_service_pb2 as pb
from mnemocore.index.v1 import index_service_pb2_grpc
from mnemocore.memory.v1 import resources_pb2
from mnemocore.sealing import DataKey, SpaceCipher
from mnemocore.server import Host, InternalAuthenticator
from mnemocore.testing.clock import ManualClock
from mnemocore.testing.waiting import until
from mnemocore.wire import to_timestamp

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from mnemocore.postgres import Database

TOKEN = "a token"
SPACE = SpaceUid("018f0000-0000-7000-8000-00000000000a")
NOW = datetime(2026, 5, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
SECONDS = 60.0
KEY = DataKey("00000000-0000-4000-8000-000000000001", b"zyzzyva key of thirty-two bytes!")
WRONG = DataKey(KEY.id, b"x" * 32)

State = resources_pb2.MemoryState
Change = resources_pb2.ChangeType


class Installation:
    """An index and the event log it follows."""

    def __init__(self, events: Any, index: Any, revision: int) -> None:
        self._events = events
        self.index = index
        self.revision = revision

    async def say(
        self, number: int, change: int = Change.CHANGE_TYPE_CREATED, *, cipher: SpaceCipher | None = None, **fields: Any
    ) -> None:
        """Publish a revision of a memory, as memory-core does."""
        self.revision += 1
        name = f"spaces/alice/memories/{memory_id(number)}"
        usual: dict[str, Any] = {"name": name, "state": State.MEMORY_STATE_ACTIVE, "occurred_at": to_timestamp(NOW)}
        memory = resources_pb2.Memory(**(usual | {"create_time": to_timestamp(NOW - HOUR)} | fields))
        revision = resources_pb2.Revision(revision=self.revision, change=change)  # type: ignore[arg-type]
        if cipher is None:
            revision.memory.CopyFrom(memory)
        else:
            revision.memory.CopyFrom(resources_pb2.Memory(name=name, state=memory.state, revision=self.revision))
            revision.sealed = cipher.seal(f"{memory_id(number)}@{self.revision}", memory.SerializeToString())
        await self.publish("memory.changed", name, revision.SerializeToString())

    async def erase(self, number: int) -> None:
        """Publish that nothing is left of a memory."""
        self.revision += 1
        name = f"spaces/alice/memories/{memory_id(number)}"
        revision = resources_pb2.Revision(change=Change.CHANGE_TYPE_ERASED, memory=resources_pb2.Memory(name=name))
        await self.publish("memory.erased", name, revision.SerializeToString())

    async def erase_space(self) -> None:
        """Publish that nothing is left of the space, and take its events out of the log."""
        self.revision += 1
        await self.publish("space.erased", f"spaces/{SPACE}", b"")
        request = event_service_pb2.EraseSpaceEventsRequest(
            tenant="acme", space_uid=SPACE, keep_id=f"{SPACE}:{self.revision}"
        )
        await self._events.EraseSpaceEvents(request, timeout=60)

    async def publish(self, type: str, subject: str, data: bytes) -> None:
        event = events_pb2.Event(
            id=f"{SPACE}:{self.revision}",
            source="mnemocore/memory",
            type=type,
            subject=subject,
            time=to_timestamp(NOW),
            data=data,
            tenant="acme",
            space_uid=SPACE,
            revision=self.revision,
        )
        await self._events.PublishEvents(event_service_pb2.PublishEventsRequest(events=[event]), timeout=SECONDS)

    async def search(self, query: str = "tea", **fields: Any) -> list[int]:
        """The numbers of the memories found, once the index is up to date."""
        usual: dict[str, Any] = {"space_uid": SPACE, "query": query, "limit": 10, "min_revision": self.revision}
        found = await self.index.Search(pb.SearchRequest(**(usual | fields)), timeout=SECONDS)
        return [int(hit.memory_id[-12:], 16) for hit in found.hits]

    async def similar(self, text: str, least: float, **fields: Any) -> dict[int, float]:
        """The memories that say something like a text, with their similarities, in order."""
        fields = {"limit": 10, "min_revision": self.revision} | fields
        request = pb.FindSimilarRequest(space_uid=SPACE, text=text, min_similarity=least, **fields)
        response = await self.index.FindSimilar(request, timeout=SECONDS)
        assert response.applied_revision == self.revision
        return {int(each.memory_id[-12:], 16): each.similarity for each in response.memories}

    async def duplicates(self) -> int:
        """Number of pairs of near-duplicates."""
        request = pb.FindNearDuplicatesRequest(
            space_uid=SPACE, min_similarity=0.9, limit=10, min_revision=self.revision
        )
        return len((await self.index.FindNearDuplicates(request, timeout=SECONDS)).pairs)

    async def status(self) -> Any:
        return await self.index.GetIndexStatus(pb.GetIndexStatusRequest(space_uid=SPACE), timeout=SECONDS)

    async def reaches(self, position: int) -> None:
        """Return when the index has applied the log up to a position."""
        async with asyncio.timeout(SECONDS):
            applied = -1
            while applied < position:
                status = await self.index.GetIndexStatus(pb.GetIndexStatusRequest(), timeout=SECONDS)
                applied = status.applied_position


@asynccontextmanager
async def running(
    database: Database, directory: Path, clock: ManualClock, revision: int = 0
) -> AsyncIterator[Installation]:
    """The installation on a database and a folder."""
    words = await asyncio.to_thread(encoder)
    snapshots = await asyncio.to_thread(GenerationStore, directory)
    metadata = [(calls.INTERNAL_TOKEN_HEADER, TOKEN)]
    events = EventsApp(database, SystemClock())
    events_host = Host("events", events.services, authenticator=InternalAuthenticator(TOKEN))
    await events.start()
    await events_host.start([])
    app = IndexApp(Encoders(words), snapshots, events_host.channel(metadata), clock)
    host = Host("index", app.services, authenticator=InternalAuthenticator(TOKEN))
    await app.start()
    await host.start([])
    installation = Installation(
        event_service_pb2_grpc.EventServiceStub(events_host.channel(metadata)),
        index_service_pb2_grpc.IndexServiceStub(host.channel(metadata)),
        revision,
    )
    yield installation
    await host.drain(5)
    await app.stop()
    events.drain()
    await events_host.drain(5)
    await events.stop()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOW)


@pytest.fixture
async def installation(database: Database, tmp_path: Path, clock: ManualClock) -> AsyncIterator[Installation]:
    async with running(database, tmp_path, clock) as started:
        yield started


def contents(directory: Path) -> bytes:
    """All bytes of all files."""
    return b"".join(path.read_bytes() for path in directory.iterdir())


def keys(*given: DataKey) -> list[pb.SpaceKey]:
    return [pb.SpaceKey(id=key.id, key=key.key) for key in given]


async def refused(call: Any) -> str:
    """The status and the message of a call that fails."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return f"{caught.value.code().name} {caught.value.details()}"


async def test_memories_are_found_in_the_states_that_are_asked_for(installation: Installation) -> None:
    await installation.say(1, content="tea")
    await installation.say(2, content="tea", state=State.MEMORY_STATE_ARCHIVED)
    await installation.say(3, content="tea", superseded_by="spaces/alice/memories/x")
    await installation.say(4, content="tea", state=State.MEMORY_STATE_SUPERSEDED)
    await installation.say(5, content="tea", expires_at=to_timestamp(NOW))
    await installation.say(6, content="tea", expires_at=to_timestamp(NOW + HOUR))
    await installation.say(7, content="tea", expires_at=to_timestamp(NOW), state=State.MEMORY_STATE_ARCHIVED)
    await installation.say(8, content="tea", expires_at=to_timestamp(NOW - HOUR), superseded_by="x")
    await installation.say(9, content="tea", state=77)
    await installation.say(10, content="tea")
    await installation.erase(10)
    assert sorted(await installation.search()) == [1, 6]
    assert sorted(await installation.search(states=[0])) == [1, 6]
    both = [State.MEMORY_STATE_ACTIVE, State.MEMORY_STATE_ARCHIVED]
    assert sorted(await installation.search(states=both)) == [1, 2, 6, 7]
    assert sorted(await installation.search(states=[State.MEMORY_STATE_SUPERSEDED])) == [3, 4]
    assert sorted(await installation.search(states=[State.MEMORY_STATE_EXPIRED])) == [5, 8]
    assert await installation.search(states=[State.MEMORY_STATE_ERASED]) == []
    later = to_timestamp(NOW + HOUR)
    assert sorted(await installation.search(now=later)) == [1]
    assert sorted(await installation.search(states=[State.MEMORY_STATE_EXPIRED], now=later)) == [5, 6, 8]
    assert sorted(await installation.search(now=to_timestamp(NOW - 2 * HOUR))) == [1, 5, 6]
    assert list(await installation.similar("tea", 0.9)) == [6, 1]
    assert await installation.duplicates() == 1
    status = await installation.status()
    assert (status.applied_revision, status.memories) == (11, 3)


async def test_its_own_clock_counts_if_no_time_is_named(installation: Installation, clock: ManualClock) -> None:
    await installation.say(1, content="green tea", expires_at=to_timestamp(NOW + HOUR))
    await installation.say(2, content="green tea")
    assert (await installation.search(), await installation.duplicates()) == ([2, 1], 1)
    await clock.advance(3600)
    assert (await installation.search(), await installation.duplicates()) == ([2], 0)
    assert list(await installation.similar("green tea", 0.5)) == [2]
    assert list(await installation.similar("green tea", 0.5, now=to_timestamp(NOW))) == [2, 1]


async def test_whatever_a_change_is_called_its_content_counts(installation: Installation) -> None:
    await installation.say(1, content="tea")
    await installation.say(2, content="coffee")
    for change in (*range(5, 12), 99):
        await installation.say(1, change, content=f"tea of change {change}")
        assert await installation.search("change") == [1, 2]
    await installation.say(1, Change.CHANGE_TYPE_ARCHIVED, content="tea", state=0)  # as the first version said it
    assert await installation.search() == [2]
    await installation.say(1, Change.CHANGE_TYPE_RESTORED, content="tea", state=0)
    assert await installation.search() == [1, 2]
    await installation.say(1, Change.CHANGE_TYPE_ERASED, content="tea")
    assert await installation.search() == [2]
    await installation.say(2, Change.CHANGE_TYPE_UPDATED, content="")
    assert await installation.search() == []


async def test_filters_apply_to_every_question(installation: Installation) -> None:
    await installation.say(1, content="tea", importance=0.2, modality=resources_pb2.MODALITY_IMAGE)
    await installation.say(2, content="tea", importance=0.7, valid_from=to_timestamp(NOW))
    await installation.say(3, content="tea", importance=0.7, valid_to=to_timestamp(NOW), create_time=to_timestamp(NOW))
    cases: list[tuple[dict[str, Any], list[int]]] = [
        ({"min_importance": 0.7}, [2, 3]),
        ({"valid_at": to_timestamp(NOW)}, [1, 2]),
        ({"valid_at": to_timestamp(NOW - HOUR)}, [1, 3]),
        ({"created_from": to_timestamp(NOW)}, [3]),
        ({"created_to": to_timestamp(NOW)}, [1, 2]),
        ({"modalities": [resources_pb2.MODALITY_IMAGE]}, [1]),
        ({"modalities": [resources_pb2.MODALITY_TEXT], "created_to": to_timestamp(NOW)}, [2]),
    ]
    for where, wanted in cases:
        filter = resources_pb2.MemoryFilter(**where)
        assert sorted(await installation.search(filter=filter)) == wanted
        assert sorted(await installation.similar("tea", 0.5, filter=filter)) == wanted


async def test_similar_memories_come_with_their_cosines(installation: Installation) -> None:
    texts = ["I like green tea", "I like tea", "The train to Lisbon", "I like green tea"]
    for number, text in enumerate(texts, 1):
        await installation.say(number, content=text)
    query, *vectors = encoder().encode([texts[0], *texts])
    found = await installation.similar(texts[0], 0.0)
    assert list(found)[:3] == [4, 1, 2]
    for number, similarity in found.items():
        assert similarity == pytest.approx(float(query @ vectors[number - 1]), abs=1e-3)
    assert list(await installation.similar(texts[0], 1.0)) == [4, 1]
    assert list(await installation.similar(texts[0], 0.5, limit=1)) == [4]
    other = pb.FindSimilarRequest(space_uid=str(memory_id(1)), text="tea", limit=1)
    assert list((await installation.index.FindSimilar(other, timeout=SECONDS)).memories) == []


async def test_an_encrypted_space_needs_its_keys(installation: Installation, caplog: pytest.LogCaptureFixture) -> None:
    cipher = SpaceCipher(SPACE, [KEY])
    await installation.erase(9)
    await installation.say(1, cipher=cipher, content="my password is zyzzyva", session="s", ordinal=1)
    await installation.say(2, cipher=cipher, content="tea", state=State.MEMORY_STATE_ARCHIVED)
    with caplog.at_level(logging.DEBUG):
        assert "FAILED_PRECONDITION" in await refused(installation.search("password"))
        assert "FAILED_PRECONDITION" in await refused(installation.search("password", keys=keys(WRONG)))
        assert "FAILED_PRECONDITION" in await refused(installation.similar("password", 0.5, keys=keys(WRONG)))
        assert "FAILED_PRECONDITION" in await refused(installation.duplicates())
        for size in (1, 31, 33):
            short = [pb.SpaceKey(id=KEY.id, key=b"z" * size)]
            assert "INVALID_ARGUMENT keys[0].key" in await refused(installation.search(keys=short))
        assert await installation.search("password", keys=keys(KEY)) == [1]
        assert (await installation.status()).memories == 1
        await installation.say(3, cipher=cipher, content="the password again")
        assert await installation.search("password", keys=keys(KEY)) == [3, 1]
        assert list(await installation.similar("the password again", 0.9, keys=keys(KEY))) == [3]
        assert await installation.duplicates() == 0
        assert "FAILED_PRECONDITION" in await refused(installation.search("password"))
    for secret in ("zyzzyva", "password", KEY.key.hex(), str(KEY.key)):
        assert secret not in caplog.text


async def test_after_a_restart_an_encrypted_space_is_locked_again(
    database: Database, tmp_path: Path, clock: ManualClock
) -> None:
    cipher = SpaceCipher(SPACE, [KEY])
    async with running(database, tmp_path, clock) as first:
        await first.say(1, cipher=cipher, content="my password is zyzzyva", actor="Xavier", tags=["tagged"])
        assert await first.search(keys=keys(KEY)) == [1]
    kept = await asyncio.to_thread(contents, tmp_path)
    assert len(kept) > 500
    for word in (b"zyzzyva", b"password", b"Xavier", b"xavier", b"tagged", b"alice", KEY.key):
        assert word not in kept
    async with running(database, tmp_path, clock, revision=1) as second:
        assert "FAILED_PRECONDITION" in await refused(second.search())
        assert await second.search("password", keys=keys(KEY)) == [1]


@pytest.mark.parametrize("encrypted", [False, True])
async def test_an_erased_space_is_gone(
    database: Database, tmp_path: Path, clock: ManualClock, encrypted: bool, caplog: pytest.LogCaptureFixture
) -> None:
    cipher = SpaceCipher(SPACE, [KEY]) if encrypted else None
    async with running(database, tmp_path, clock) as first:
        for number in range(1, 20):
            await first.say(number, cipher=cipher, content=f"tea {number}")
        assert await first.search(keys=keys(KEY))
    async with running(database, tmp_path, clock, revision=19) as second:
        assert (tmp_path / f"{SPACE}.snapshot").exists()
        await second.erase_space()
        await until(lambda: not (tmp_path / f"{SPACE}.snapshot").exists())
        status = await second.status()
        assert (status.memories, status.memory_bytes, status.applied_revision) == (0, 0, 0)
        assert await second.search(keys=keys(KEY), min_revision=0) == []
    with caplog.at_level(logging.INFO):
        (tmp_path / "position").unlink()  # the whole log is read again
        async with running(database, tmp_path, clock) as third:
            await third.reaches(second.revision)
            assert await third.search(min_revision=0, keys=keys(KEY)) == []
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
