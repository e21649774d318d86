"""The index with its spaces in Milvus, behind its host, on a real event log and a real server: milvus-lite, by TCP."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from milvus_lite.adapter.grpc.server import start_server_in_thread
from tests.index_space import encoder
from tests.services.test_index_service import KEY, NOW, SECONDS, SPACE, TOKEN, Change, Installation, State

from mnemo_events.app import EventsApp
from mnemo_index.app import IndexApp
from mnemo_index.domain.models import Encoders
from mnemo_index.storage.generations import GenerationStore
from mnemo_index.storage.milvus_rows import in_space
from mnemo_index.storage.milvus_store import MilvusStore
from mnemocore import calls
from mnemocore.clock import SystemClock
from mnemocore.events.v1 import event_service_pb2_grpc
from mnemocore.index.v1 import index_service_pb2 as pb
from mnemocore.index.v1 import index_service_pb2_grpc
from mnemocore.sealing import SpaceCipher
from mnemocore.server import Host, InternalAuthenticator
from mnemocore.testing.clock import ManualClock

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from mnemocore.postgres import Database


class Milvus:
    """A server on a folder that can be stopped and started again at the same address."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._server: Any = None
        self._data: Any = None
        self._port = 0

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        self._server, self._data, self._port = start_server_in_thread(str(self._folder), port=self._port)

    def stop(self) -> None:
        if self._server is not None:
            self._server.stop(grace=0).wait()
            self._data.close()
            self._server = None

    def opened(self) -> MilvusStore:
        return MilvusStore.open(self.uri, "", encoder().model, encoder().dimension)

    def rows(self) -> int:
        """Number of rows of the space, the one that says how far it is included."""
        store = self.opened()
        try:
            return len(store.fields(in_space(SPACE), ("id",)))
        finally:
            store.close()


@pytest.fixture
def milvus(tmp_path: Path) -> Iterator[Milvus]:
    server = Milvus(tmp_path / "milvus")
    server.start()
    yield server
    server.stop()


@asynccontextmanager
async def running(database: Database, folder: Path, milvus: Milvus, revision: int = 0) -> AsyncIterator[Installation]:
    """The installation with an index on a folder and Milvus."""
    snapshots = await asyncio.to_thread(GenerationStore, folder)
    store = await asyncio.to_thread(milvus.opened)
    metadata = [(calls.INTERNAL_TOKEN_HEADER, TOKEN)]
    events = EventsApp(database, SystemClock())
    events_host = Host("events", events.services, authenticator=InternalAuthenticator(TOKEN))
    await events.start()
    await events_host.start([])
    app = IndexApp(Encoders(encoder()), snapshots, events_host.channel(metadata), ManualClock(NOW), milvus=store)
    host = Host("index", app.services, authenticator=InternalAuthenticator(TOKEN))
    await app.start()
    await host.start([])
    yield Installation(
        event_service_pb2_grpc.EventServiceStub(events_host.channel(metadata)),
        index_service_pb2_grpc.IndexServiceStub(host.channel(metadata)),
        revision,
    )
    await host.drain(5)
    await app.stop()
    events.drain()
    await events_host.drain(5)
    await events.stop()


async def test_what_is_written_is_found_and_what_is_erased_leaves_milvus(
    database: Database, tmp_path: Path, milvus: Milvus
) -> None:
    async with running(database, tmp_path / "index", milvus) as installation:
        await installation.say(1, content="green tea", session="s", ordinal=1)
        await installation.say(2, content="a dog", session="s", ordinal=2)
        await installation.say(3, content="black tea")
        assert (await installation.search())[:2] in ([1, 3], [3, 1])
        assert (await installation.similar("tea", 0.4)).keys() == {1, 3}
        await installation.say(3, Change.CHANGE_TYPE_ARCHIVED, content="black tea")
        await installation.erase(1)
        assert await installation.search() == [2]
        assert await installation.search(states=[State.MEMORY_STATE_ARCHIVED]) == [3]
        assert await asyncio.to_thread(milvus.rows) == 3
        status = await installation.status()
        assert (status.memories, status.applied_revision) == (1, installation.revision)
        await installation.erase_space()
        position = (await installation.index.GetIndexStatus(pb.GetIndexStatusRequest(), timeout=SECONDS)).head_position
        await installation.reaches(max(position, installation.revision))
        assert await asyncio.to_thread(milvus.rows) == 0


async def test_an_encrypted_space_never_goes_there(database: Database, tmp_path: Path, milvus: Milvus) -> None:
    cipher = SpaceCipher(SPACE, [KEY])
    async with running(database, tmp_path / "index", milvus) as installation:
        await installation.say(1, cipher=cipher, content="my password is zyzzyva")
        keys = [pb.SpaceKey(id=KEY.id, key=KEY.key)]
        assert await installation.search("password", keys=keys) == [1]
        assert await asyncio.to_thread(milvus.rows) == 0
    assert not [path for path in (tmp_path / "milvus").rglob("*") if path.is_file() and b"zyzzyva" in path.read_bytes()]


async def test_without_milvus_searches_are_refused_and_writes_wait(
    database: Database, tmp_path: Path, milvus: Milvus
) -> None:
    async with running(database, tmp_path / "index", milvus) as installation:
        await installation.say(1, content="green tea")
        assert await installation.search() == [1]
        seen = installation.revision
        await asyncio.to_thread(milvus.stop)
        with pytest.raises(grpc.aio.AioRpcError, match=r"milvus at .* does not answer") as refused:
            await installation.search(min_revision=seen)
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
        await installation.say(2, content="more green tea")
        await asyncio.to_thread(milvus.start)
        assert sorted(await installation.search()) == [1, 2]


async def test_a_restart_goes_on_and_what_milvus_lost_is_put_in_again(
    database: Database, tmp_path: Path, milvus: Milvus
) -> None:
    async with running(database, tmp_path / "index", milvus) as first:
        await first.say(1, content="green tea")
        await first.say(2, content="a dog")
        assert await first.search() == [1, 2]
        revision = first.revision
    async with running(database, tmp_path / "index", milvus, revision) as second:
        assert await second.search() == [1, 2]
        await second.say(3, content="black tea")
        assert sorted(await second.search()) == [1, 2, 3]
        revision = second.revision
    store = await asyncio.to_thread(milvus.opened)
    await asyncio.to_thread(store.forget, SPACE)
    await asyncio.to_thread(store.close)
    async with running(database, tmp_path / "index", milvus, revision) as third:
        found: list[int] = []
        async with asyncio.timeout(SECONDS):
            while len(found) < 3:
                try:
                    found = await third.search()
                except grpc.aio.AioRpcError as error:
                    assert error.code() is grpc.StatusCode.UNAVAILABLE  # it is being built
        assert sorted(found) == [1, 2, 3]
