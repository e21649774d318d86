"""From release 0.1 to this one: an old data directory, a newer database, and both releases on one database."""

from __future__ import annotations

import asyncio
import json
import os
import random
import subprocess
import sys
import tarfile
import tempfile
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

import asyncpg
import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from mnemocore import MemoryInput, calls, connect
from mnemocore.client import InternalCredentials, as_identity, open_channel
from mnemocore.common.v1 import resources_pb2 as common_pb2
from mnemocore.free_port import free_port
from mnemocore.ids import Tenant
from mnemocore.memory.v1 import memory_service_pb2 as memory_pb2
from mnemocore.memory.v1 import memory_service_pb2_grpc, resources_pb2, space_service_pb2_grpc
from mnemocore.memory.v1 import space_service_pb2 as space_pb2
from mnemocore.postgres import EmbeddedPostgres
from mnemocore.testing.waiting import until

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping

    from tests.e2e.conftest import Server

OLD_RELEASE: Final = Path(__file__).with_name("release-0.1.tar.gz")
"""The folders `libs` and `services` as release 0.1 had them."""
ROOT: Final = Path(__file__).parents[2]
TOKEN: Final = "a token"
ADA: Final = calls.Identity(Tenant("acme"), "ada", frozenset({"*"}))
PARENT: Final = "spaces/road"
STATES: Final = resources_pb2.MemoryState.values()[1:3]
"""ACTIVE and ARCHIVED: all that release 0.1 can express."""

OLD_LIFE: Final = """
import asyncio, json, sys
from mnemocore import MemoryInput, connect

async def main(directory):
    async with connect(f"embedded:{directory}") as mnemo:
        await mnemo.create_space("home", description="where we live")
        home = mnemo.space("home")
        kept = await home.remember("The kettle is in the blue cupboard.", kind="fact", tags=["kitchen"],
            metadata={"shelf": 2}, actor="ada", session="monday")
        gone = await home.remember("The ladder stands behind the shed.")
        back = await home.remember("The bicycle needs a new chain.")
        erased = await home.remember("The safe opens with 4711.")
        await home.forget(gone.id, reason="sold")
        await home.forget(back.id)
        await home.restore(back.id)
        await home.forget(erased.id, purge=True)
        await mnemo.space("work").remember("The printer jams on Fridays.")
    async with connect(f"embedded:{directory}") as mnemo:
        many = await mnemo.space("many").remember_many(
            [MemoryInput(content=f"crate {n} holds the parts of engine {n % 13}") for n in range(1200)])
        assert (await mnemo.space("home").recall("Where is the kettle?"))[0].memory.id == kept.id
    print(json.dumps({"kept": kept.id, "gone": gone.id, "back": back.id, "erased": erased.id, "many": many.ids}))

asyncio.run(main(sys.argv[1]))
"""


@pytest.fixture(scope="session")
def old_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sources of release 0.1."""
    folder = tmp_path_factory.mktemp("release-0.1")
    with tarfile.open(OLD_RELEASE) as tree:
        tree.extractall(folder, filter="data")
    return folder


def environment_of(tree: Path) -> dict[str, str]:
    """An environment in which Python imports the sources of `tree`."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("MNEMO_")}
    return plain | {"PYTHONPATH": os.pathsep.join([str(tree / "libs"), str(tree / "services")])}


def run_python(tree: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python with the sources of `tree` to its end."""
    command = [sys.executable, "-W", "ignore", *arguments]
    return subprocess.run(
        command, env=environment_of(tree), cwd=tree, capture_output=True, text=True, timeout=100, check=False
    )


@pytest.fixture(scope="session")
def old_life(old_tree: Path) -> Iterator[tuple[Path, dict[str, str], list[str]]]:
    """A data directory that release 0.1 has written, and the ids in it. Copy it before you open it."""
    with tempfile.TemporaryDirectory(prefix="mnemo-test-") as folder:
        directory = Path(folder) / "data"
        ended = run_python(old_tree, "-c", OLD_LIFE, str(directory))
        assert ended.returncode == 0, ended.stderr
        ids = json.loads(ended.stdout)
        many = ids.pop("many")
        yield directory, ids, many


@pytest.fixture
def old_directory(old_life: tuple[Path, dict[str, str], list[str]], tmp_path: Path) -> Path:
    """A copy of what release 0.1 has written."""
    directory = tmp_path / "data"
    subprocess.run(["cp", "-a", str(old_life[0]), str(directory)], check=True)
    return directory


async def test_a_data_directory_of_the_old_release_opens_with_everything_in_it(
    old_directory: Path, old_life: tuple[Path, dict[str, str], list[str]]
) -> None:
    _, ids, many = old_life
    async with connect(f"embedded:{old_directory}") as mnemo:
        home = mnemo.space("home")
        kept, gone, back = [await home.get(ids[name]) for name in ("kept", "gone", "back")]
        assert (kept.content, kept.kind, kept.tags, kept.metadata, kept.actor, kept.session, kept.state) == (
            "The kettle is in the blue cupboard.",
            "fact",
            ("kitchen",),
            {"shelf": 2},
            "ada",
            "monday",
            "active",
        )
        assert (gone.state, back.state) == ("archived", "active")
        assert (await home.get_many([ids["erased"]])).missing == [ids["erased"]]
        assert {memory.id async for memory in home.list(states=["archived"])} == {ids["gone"]}
        info = await home.info()
        assert (info.description, info.active_memories, info.archived_memories) == ("where we live", 2, 1)
        changes = {name: [each.change async for each in home.history(memory_id)] for name, memory_id in ids.items()}
        assert changes == {
            "kept": ["created"],
            "gone": ["created", "archived"],
            "back": ["created", "archived", "restored"],
            "erased": ["created", "erased"],
        }
        assert [each.memory.content async for each in home.history(ids["erased"])] == ["", ""]
        reasons = [(each.reason, each.memory.state) async for each in home.history(ids["gone"])]
        assert reasons == [("", "active"), ("sold", "archived")]
        assert (await home.recall("Where is the kettle?"))[0].memory.id == kept.id
        assert gone.id not in {hit.memory.id for hit in await home.recall("Where is the ladder?")}
        assert [memory.id async for memory in mnemo.space("many").list(page_size=1000)] == many[::-1]


async def test_old_memories_take_part_in_what_is_new(
    old_directory: Path, old_life: tuple[Path, dict[str, str], list[str]]
) -> None:
    _, ids, many = old_life
    async with connect(f"embedded:{old_directory}") as mnemo:
        home = mnemo.space("home")
        assert (await home.restore(ids["gone"])).state == "active"
        await home.forget(ids["back"])
        changed = await home.update(ids["kept"], content="The kettle is in the red cupboard.")
        moved = await home.supersede(ids["kept"], "The kettle is broken.", etag=changed.etag)
        assert (await home.recall("What about the kettle?"))[0].memory.id == moved.id
        assert [each.change async for each in home.history(ids["kept"])] == ["created", "updated", "superseded"]
        stored = mnemo.space("many")
        item = MemoryInput(content="crate 7 holds the parts of engine 7", on_duplicate="keep")

        async def counted() -> bool:
            return (await stored.stats()).content_bytes > 40_000

        await until(counted, 60)  # the background brings old rows up to date
        again = await stored.remember_with_outcome(item)
        assert (again.duplicate, again.memory.id) == (True, many[7])
        info = await stored.info()
        assert info.active_memories == 1200


async def test_the_old_release_refuses_what_this_one_has_migrated(old_directory: Path, old_tree: Path) -> None:
    async with connect(f"embedded:{old_directory}") as mnemo:
        await mnemo.space("home").info()
    refused = await asyncio.to_thread(
        run_python, old_tree, "-m", "mnemo_cli", "serve", "--data-dir", str(old_directory), "--listen", "127.0.0.1:0"
    )
    assert refused.returncode == 1
    assert refused.stderr.splitlines()[-1].startswith("error: the database was written by a newer version: schema ")
    assert "Traceback" not in refused.stderr


async def test_a_database_of_a_newer_release_is_refused_in_one_line(
    run_server: Callable[..., Server], tmp_path: Path
) -> None:
    directory = tmp_path / "data"
    assert run_server("serve", directory).stop() == 0
    postgres = EmbeddedPostgres(directory / "postgres")
    await postgres.start()
    connection = await asyncpg.connect(postgres.url)
    await connection.execute("INSERT INTO memory.migrations VALUES (9999, '9999_future.sql', 'unknown')")
    newest = await connection.fetchval("SELECT max(number) FROM memory.migrations WHERE number < 9999")
    await connection.close()
    await postgres.stop()
    refused = await asyncio.to_thread(
        run_python, ROOT, "-m", "mnemo_cli", "serve", "--data-dir", str(directory), "--listen", "127.0.0.1:0"
    )
    assert refused.returncode == 1
    assert refused.stderr.splitlines() == [
        "error: the database was written by a newer version: schema memory has migration 9999, this version knows up "
        f"to {newest}"
    ]


# Both releases on one database


async def serves(address: str) -> bool:
    """Whether a service answers that it serves."""
    async with grpc.aio.insecure_channel(address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        with suppress(grpc.aio.AioRpcError):
            answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=2)
            return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)
    return False


@asynccontextmanager
async def service(tree: Path, name: str, **settings: str) -> AsyncIterator[str]:
    """The address of a service of a tree, as a process."""
    address, prefix = f"127.0.0.1:{free_port()}", f"MNEMO_{name.upper()}_"
    values = {"listen": address, "internal_token": TOKEN, "log_level": "ERROR", "log_format": "text"} | settings
    environment = environment_of(tree) | {prefix + key.upper(): value for key, value in values.items()}
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", f"mnemo_{name}", env=environment, cwd=tree)
    try:
        await until(lambda: _ready(process, address), 60)
        yield address
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def _ready(process: Process, address: str) -> bool:
    assert process.returncode is None, "the service has ended"
    return await serves(address)


@dataclass
class Replica:
    """One memory-core, called as the gateway calls it."""

    memories: memory_service_pb2_grpc.MemoryServiceAsyncStub
    spaces: space_service_pb2_grpc.SpaceServiceAsyncStub

    async def create(self, content: str) -> resources_pb2.Memory:
        draft = resources_pb2.MemoryInput(content=content, tags=["trip"], actor="ada", session="s")
        request = memory_pb2.CreateMemoryRequest(parent=PARENT, memory=draft)
        return (await self.memories.CreateMemory(request)).memory

    async def get(self, name: str) -> resources_pb2.Memory:
        return (await self.memories.GetMemory(memory_pb2.GetMemoryRequest(name=name))).memory

    async def archive(self, name: str) -> None:
        await self.memories.DeleteMemory(memory_pb2.DeleteMemoryRequest(name=name))

    async def erase(self, name: str) -> None:
        await self.memories.DeleteMemory(memory_pb2.DeleteMemoryRequest(name=name, purge=True))

    async def restore(self, name: str) -> None:
        await self.memories.RestoreMemory(memory_pb2.RestoreMemoryRequest(name=name))

    async def supersede(self, name: str, content: str) -> resources_pb2.Memory:
        draft = resources_pb2.MemoryInput(content=content, tags=["trip"], actor="ada", session="s")
        request = memory_pb2.SupersedeMemoryRequest(name=name, memory=draft)
        return (await self.memories.SupersedeMemory(request)).memory

    async def everything(self) -> dict[str, resources_pb2.Memory]:
        """All memories that are in a state which release 0.1 has, by name."""
        request = memory_pb2.ListMemoriesRequest(parent=PARENT, states=STATES, page_size=1000)
        found: dict[str, resources_pb2.Memory] = {}
        while True:
            page = await self.memories.ListMemories(request)
            found |= {memory.name: memory for memory in page.memories}
            if not page.next_page_token:
                return found
            request.page_token = page.next_page_token

    async def revisions(self) -> list[int]:
        request = memory_pb2.ListRevisionsRequest(parent=PARENT, page_size=1000)
        found: list[int] = []
        while True:
            page = await self.memories.ListRevisions(request)
            found += [revision.revision for revision in page.revisions]
            if not page.next_page_token:
                return found
            request.page_token = page.next_page_token

    async def recall(self, query: str) -> list[str]:
        fresh = common_pb2.Consistency(fully_consistent=True)
        request = memory_pb2.RecallMemoriesRequest(parent=PARENT, query=query, limit=5, consistency=fresh)
        return [each.memory.name for each in (await self.memories.RecallMemories(request)).results]


@dataclass
class World:
    """A PostgreSQL, an event-bus and an index of this release, for memory-cores of either."""

    url: str
    settings: Mapping[str, str]
    stack: AsyncExitStack = field(default_factory=AsyncExitStack)

    async def replica(self, tree: Path) -> Replica:
        address = await self.stack.enter_async_context(service(tree, "memory", **self.settings))
        channel = await self.stack.enter_async_context(open_channel(address, InternalCredentials(TOKEN)))
        return Replica(
            memory_service_pb2_grpc.MemoryServiceStub(channel), space_service_pb2_grpc.SpaceServiceStub(channel)
        )


@pytest.fixture
async def world() -> AsyncIterator[World]:
    with tempfile.TemporaryDirectory(prefix="mnemo-test-") as folder:
        postgres = EmbeddedPostgres(Path(folder) / "postgres")
        await postgres.start()
        async with AsyncExitStack() as stack:
            stack.push_async_callback(postgres.stop)
            events = await stack.enter_async_context(service(ROOT, "events", database_url=postgres.url))
            index = await stack.enter_async_context(
                service(ROOT, "index", data_dir=str(Path(folder) / "index"), events_target=events)
            )
            settings = {"database_url": postgres.url, "events_target": events, "index_target": index}
            built = World(postgres.url, settings | {"relay_poll_seconds": "0.05"}, stack)
            yield built


class Traffic:
    """Calls to replicas, chosen by a seed; every failure is raised. `expected` is what must be there."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._number = 0
        self.contents: dict[str, str] = {}
        self.archived: dict[str, bool] = {}

    async def call(self, writer: Replica, reader: Replica) -> None:
        """One write by `writer`, read at once by `reader`."""
        names = sorted(self.contents)
        choice = self._random.choice(["create", "create", "archive", "restore", "erase"] if names else ["create"])
        if choice == "create":
            self._number += 1
            memory = await writer.create(f"stop number {self._number} of the journey")
            name = memory.name
            self.contents[name], self.archived[name] = memory.content, False
        else:
            name = self._random.choice(names)
            if choice == "erase":
                await writer.erase(name)
                del self.contents[name], self.archived[name]
                return
            await (writer.archive(name) if choice == "archive" else writer.restore(name))
            self.archived[name] = choice == "archive"
        seen = await reader.get(name)
        assert (seen.content, seen.state) == (self.contents[name], STATES[self.archived[name]])
        assert (list(seen.tags), seen.actor, seen.session) == (["trip"], "ada", "s")


async def in_parallel(traffic: list[Traffic], writer: Replica, reader: Replica, calls_each: int) -> None:
    """Every Traffic goes its way at the same time as the others, half of its calls the other way round."""

    async def go(one: Traffic) -> None:
        for number in range(calls_each):
            await (one.call(writer, reader) if number % 2 else one.call(reader, writer))

    async with asyncio.TaskGroup() as group:
        for one in traffic:
            group.create_task(go(one))


async def test_both_releases_serve_one_database_while_replicas_are_replaced(world: World, old_tree: Path) -> None:
    with as_identity(ADA):
        old = await world.replica(old_tree)
        await old.spaces.CreateSpace(space_pb2.CreateSpaceRequest(space_id="road"))
        traffic = [Traffic(seed) for seed in range(4)]
        await in_parallel(traffic, old, old, 20)
        migrating = asyncio.create_task(world.replica(ROOT))
        while not migrating.done():
            await in_parallel(traffic, old, old, 1)  # the old one goes on writing while the schema grows
        new = await migrating
        await in_parallel(traffic, old, new, 60)
        marked = await old.create("the passport lies in the green drawer")
        successor = await new.supersede(marked.name, "the passport lies in the yellow suitcase")
        assert (await old.get(marked.name)).state == STATES[1]
        assert (await old.get(successor.name)).state == STATES[0]

        contents = {name: text for one in traffic for name, text in one.contents.items()}
        archived = {name: state for one in traffic for name, state in one.archived.items()}
        seen_by_old, seen_by_new = await old.everything(), await new.everything()
        assert set(seen_by_new) == {*contents, successor.name}
        assert set(seen_by_old) == {*contents, successor.name, marked.name}
        for name, text in contents.items():
            for seen in (seen_by_old[name], seen_by_new[name]):
                assert (seen.content, seen.state) == (text, STATES[archived[name]])
            assert seen_by_old[name].etag == seen_by_new[name].etag
        newest = (await new.revisions())[-1]
        assert await old.revisions() == await new.revisions() == list(range(1, newest + 1))
        for replica in (old, new):
            found = await replica.recall("Where is the passport?")
            assert found[0] == successor.name
            assert marked.name not in found
    await check_log(world.url, newest)


async def check_log(url: str, newest: int) -> None:
    """The event log has every revision once, in their order, and what was left unhashed is brought up to date."""
    connection = await asyncpg.connect(url)

    async def published() -> bool:
        return bool(await connection.fetchval("SELECT published_revision = $1 FROM memory.spaces", newest))

    async def hashed() -> bool:
        return not await connection.fetchval("SELECT EXISTS (SELECT FROM memory.memories WHERE content_hash IS NULL)")

    try:
        await until(published)
        logged = await connection.fetch("SELECT revision FROM events.log WHERE revision > 0 ORDER BY position")
        assert [row["revision"] for row in logged] == list(range(1, newest + 1))
        await until(hashed, 90)
        counted = await connection.fetchrow(
            "SELECT s.bytes, (SELECT sum(bytes) FROM memory.memories) AS sum, s.active, s.archived, "
            "(SELECT count(*) FROM memory.memories WHERE state = 1) AS ones, "
            "(SELECT count(*) FROM memory.memories WHERE state = 2) AS twos FROM memory.spaces s"
        )
        assert (counted["bytes"], counted["active"], counted["archived"]) == (
            counted["sum"],
            counted["ones"],
            counted["twos"],
        )
    finally:
        await connection.close()
