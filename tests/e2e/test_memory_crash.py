"""kill -9 between the steps of writes: what was acknowledged is there once, and rows, log and index say the same.

A step is found by a lock: a connection of the test's own holds a table that the next step needs, and the process is
killed once PostgreSQL says that somebody waits for it.
"""

from __future__ import annotations

import asyncio
import random
import uuid
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import asyncpg
import psutil
import pytest

from mnemocore import MemoryInput, connect
from mnemocore.errors import MnemoError
from mnemocore.postgres import EmbeddedPostgres
from mnemocore.testing.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine
    from pathlib import Path

    from tests.e2e.conftest import Server

    from mnemocore import Connection, Space
    from mnemocore.memory.v1.transfer_service_pb2 import TransferRecord

pytestmark = pytest.mark.slow  # dozens of starts and kills

BEFORE_COMMIT = "LOCK TABLE memory.revisions IN EXCLUSIVE MODE"
BEFORE_PUBLISH = "LOCK TABLE events.log IN EXCLUSIVE MODE"
ROUNDS = 6
WRITERS = 4
OLD = 900
WORD = "lantern"
"""In every memory, so that one recall finds all of them."""


@asynccontextmanager
async def database_of(server: Server) -> AsyncIterator[asyncpg.Connection]:
    """A connection of the test's own to the PostgreSQL of a server; it may be dead in the end."""
    url = await asyncio.to_thread(EmbeddedPostgres.url_of_running, server.directory / "postgres")
    assert url is not None
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        connection.terminate()


async def somebody_waits(connection: asyncpg.Connection, waiting: int = 1) -> None:
    """Return when `waiting` sessions of the server wait for locks."""

    async def waits() -> bool:
        query = "SELECT count(*) FROM pg_locks WHERE NOT granted AND pid <> pg_backend_pid()"
        return int(await connection.fetchval(query)) >= waiting

    await until(waits)


async def check(server: Server, spaces: list[str]) -> None:
    """Rows, history, event log and index of the spaces agree."""
    async with database_of(server) as connection, connect(server.address) as mnemo:

        async def published() -> bool:
            return not await connection.fetchval(
                "SELECT EXISTS (SELECT FROM memory.spaces WHERE published_revision < revision)"
            )

        await until(published)
        for slug in spaces:
            await _check_rows(connection, slug)
            space = mnemo.space(slug)
            active = {memory.id async for memory in space.list(page_size=1000)}
            assert len(active) <= 1000
            assert {hit.memory.id for hit in await space.recall(WORD, limit=1000, fully_consistent=True)} == active
            info = await space.info()
            everything = [memory async for memory in space.list(states=["active", "archived", "superseded"])]
            assert (info.active_memories, info.active_memories + info.archived_memories) == (
                len(active),
                len(everything),
            )
            olds = {memory.id: memory.supersedes for memory in everything}
            for memory in everything:  # what took its place may have been erased since
                assert not memory.superseded_by or olds.get(memory.superseded_by, memory.id) == memory.id


async def _check_rows(connection: asyncpg.Connection, slug: str) -> None:
    uid, newest = await connection.fetchrow("SELECT uid, revision FROM memory.spaces WHERE slug = $1", slug)
    gapless = list(range(1, newest + 1))
    query = "SELECT revision FROM memory.revisions WHERE space_uid = $1 ORDER BY revision"
    assert [row["revision"] for row in await connection.fetch(query, uid)] == gapless
    query = "SELECT revision FROM events.log WHERE space_uid = $1 ORDER BY position"
    assert [row["revision"] for row in await connection.fetch(query, uid)] == gapless
    query = """
        SELECT count(*) FROM (SELECT DISTINCT ON (memory_id) memory_id, revision, snapshot
            FROM memory.revisions WHERE space_uid = $1 ORDER BY memory_id, revision DESC) AS last
        FULL JOIN (SELECT id, revision FROM memory.memories WHERE space_uid = $1) AS m ON m.id = last.memory_id
        WHERE m.revision IS DISTINCT FROM last.revision AND NOT (m.id IS NULL AND last.snapshot IS NULL)
    """
    assert await connection.fetchval(query, uid) == 0, "rows that differ from their newest revision"
    query = """
        SELECT count(*) FROM events.log WHERE space_uid = $1 AND data <> '' AND revision IN (
            SELECT revision FROM memory.revisions r WHERE space_uid = $1 AND snapshot IS NULL AND change <> 4)
    """
    assert await connection.fetchval(query, uid) == 0, "events that still hold what was erased"


async def killed_during(server: Server, lock: str, call: Coroutine[object, object, object]) -> None:
    """Begin a call and kill the server when somebody waits for `lock`."""
    async with database_of(server) as connection:
        await connection.execute(f"BEGIN; {lock}")
        running = asyncio.ensure_future(call)
        await somebody_waits(connection)
        await asyncio.to_thread(server.kill)
        await asyncio.wait([running])
        if "events" not in lock:
            assert isinstance(running.exception(), MnemoError)
        else:
            running.result()


@pytest.mark.parametrize("lock", [BEFORE_COMMIT, BEFORE_PUBLISH], ids=["before commit", "before publishing"])
@pytest.mark.parametrize("write", ["remember", "remember_many", "update", "supersede", "archive", "erase", "import"])
async def test_killed_between_two_steps_of_a_write(
    run_server: Callable[..., Server], tmp_path: Path, write: str, lock: str
) -> None:
    server = run_server("serve", tmp_path / "data")
    chosen = str(uuid.uuid4())
    async with connect(server.address) as mnemo:
        space = mnemo.space("s")
        old = (await space.remember(f"{WORD} on the left")).id
        await mnemo.space("other").remember_many([MemoryInput(content=_item(number)) for number in range(50)])
        await mnemo.space("other").recall(WORD, fully_consistent=True)
        records = [record async for part in mnemo.space("other").export() for record in part.records]
        await space.recall(WORD, fully_consistent=True)
        calls: dict[str, Callable[[], Coroutine[object, object, object]]] = {
            "remember": lambda: space.remember(f"{WORD} on the right", id=chosen),
            "remember_many": lambda: space.remember_many([MemoryInput(content=_item(number)) for number in range(50)]),
            "update": lambda: space.update(old, content=f"{WORD} repaired"),
            "supersede": lambda: space.supersede(old, f"{WORD} replaced"),
            "archive": lambda: space.forget(old),
            "erase": lambda: space.forget(old, purge=True),
            "import": lambda: _import(space, records),
        }
        before = await _state(space)
        await killed_during(server, lock, calls[write]())
    server = run_server("serve", tmp_path / "data")
    await check(server, ["s", "other"])
    async with connect(server.address) as mnemo:
        after = await _state(mnemo.space("s"))
    if lock == BEFORE_COMMIT:
        assert after == before
        return
    assert after != before
    number, contents = {
        "remember": (2, {"on the left", "on the right"}),
        "remember_many": (51, {"on the left", *(f"number {number}" for number in range(50))}),
        "update": (1, {"repaired"}),
        "supersede": (2, {"on the left", "replaced"}),
        "archive": (1, {"on the left"}),
        "erase": (0, set[str]()),
        "import": (51, {"on the left", *(f"number {number}" for number in range(50))}),
    }[write]
    assert (len(after), {content for content, _ in after.values()}) == (number, {f"{WORD} {text}" for text in contents})


async def _import(space: Space, records: list[TransferRecord]) -> None:
    async for results in space.import_records(records):
        assert {result.outcome for result in results} == {"written"}


def _item(number: int) -> str:
    return f"{WORD} number {number}"


async def _state(space: Space) -> dict[str, tuple[str, str]]:
    states = ["active", "archived", "superseded"]
    return {memory.id: (memory.content, memory.state) async for memory in space.list(states=states)}


async def test_killed_after_publishing_and_before_that_is_noted(
    run_server: Callable[..., Server], tmp_path: Path
) -> None:
    server = run_server("serve", tmp_path / "data")
    async with connect(server.address) as mnemo:
        space = mnemo.space("s")
        await space.remember(f"{WORD} on the left")
        await space.recall(WORD, fully_consistent=True)
        async with database_of(server) as log, database_of(server) as mark:
            async with log.transaction():
                await log.execute(BEFORE_PUBLISH)
                await space.remember(f"{WORD} on the right")
                await somebody_waits(log)
                holding = mark.transaction()
                await holding.start()
                await mark.execute("SELECT FROM memory.spaces FOR UPDATE")
            await somebody_waits(log)
            assert await log.fetchval("SELECT max(revision) FROM events.log") == 2
            assert await log.fetchval("SELECT published_revision FROM memory.spaces") == 1
            await asyncio.to_thread(server.kill)
            mark.terminate()
    server = run_server("serve", tmp_path / "data")
    await check(server, ["s"])


async def test_an_index_killed_between_publishing_and_indexing_catches_up(
    run_server: Callable[..., Server], tmp_path: Path
) -> None:
    server = run_server("up", tmp_path / "data")
    async with connect(server.address, api_key=server.api_key) as mnemo, database_of(server) as connection:
        space = mnemo.space("s")
        await space.remember(f"{WORD} on the left")
        index = next(
            child for child in psutil.Process(server.process.pid).children() if "mnemo_index" in child.cmdline()
        )
        index.suspend()
        kept = [(await space.remember(_item(number))).id for number in range(20)]

        async def published() -> bool:
            return bool(await connection.fetchval("SELECT published_revision = 21 FROM memory.spaces"))

        await until(published)
        index.kill()

        async def found() -> bool:
            try:
                hits = await space.recall(WORD, limit=100, fully_consistent=True)
            except MnemoError:  # until the index is back
                return False
            return {hit.memory.id for hit in hits} >= set(kept) and len(hits) == 21

        await until(found, 60)


class Writers:
    """Tasks that write what a seed chooses until the server dies. `acknowledged` is what every memory must be now.

    What was asked for and not answered may have happened or not: such a memory is in `unsure`.
    """

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self.acknowledged: dict[str, str | None] = {}
        self.unsure: set[str] = set()
        self.writes = 0

    async def run(self, mnemo: Connection, slug: str) -> None:
        """Write until a call fails."""
        space = mnemo.space(slug)
        mine: list[str] = []
        while True:
            choice = self._random.choice(["remember", "remember", "update", "supersede", "erase"])
            memory_id = str(uuid.UUID(int=self._random.getrandbits(128), version=4))
            if choice != "remember" and mine:
                memory_id = mine.pop(self._random.randrange(len(mine)))
            else:
                choice = "remember"
            try:
                await self._write(space, choice, memory_id, mine)
            except MnemoError:
                self.unsure.add(memory_id)
                return
            self.writes += 1

    async def _write(self, space: Space, choice: str, memory_id: str, mine: list[str]) -> None:
        text = f"{WORD} {self._random.getrandbits(40)}"
        if choice == "remember":
            await space.remember(text, id=memory_id)
        elif choice == "update":
            await space.update(memory_id, content=text)
        elif choice == "supersede":
            new = await space.supersede(memory_id, text)
            self.acknowledged[new.id] = text
            mine.append(new.id)
            return
        else:
            await space.forget(memory_id, purge=True)
            self.acknowledged[memory_id] = None
            return
        self.acknowledged[memory_id] = text
        mine.append(memory_id)

    async def check(self, mnemo: Connection, slugs: list[str]) -> None:
        """Every acknowledged write is there, and nothing is twice."""
        states = ["active", "archived", "superseded"]
        stored = [memory for slug in slugs async for memory in mnemo.space(slug).list(states=states, page_size=1000)]
        contents = {memory.id: memory.content for memory in stored}
        assert len(contents) == len(stored)
        for memory_id, content in self.acknowledged.items():
            if memory_id not in self.unsure:
                assert contents.get(memory_id) == content


async def test_killed_at_any_moment_again_and_again(run_server: Callable[..., Server], tmp_path: Path) -> None:
    schedule, directory = random.Random(20), tmp_path / "data"
    slugs = [f"s{number}" for number in range(WRITERS)]
    history: list[Writers] = []
    for number in range(ROUNDS):
        server = run_server("serve", directory)
        writers = Writers(number)
        history.append(writers)
        goal = schedule.randrange(5, 80)
        async with connect(server.address) as mnemo:
            tasks = [asyncio.create_task(writers.run(mnemo, slug)) for slug in slugs]
            await until(lambda writers=writers, goal=goal: writers.writes >= goal)
            server.process.kill()
            await asyncio.gather(*tasks)
        await asyncio.to_thread(server.process.wait, 30)
    server = run_server("serve", directory)
    await check(server, slugs)
    async with connect(server.address) as mnemo:
        for writers in history:
            await writers.check(mnemo, slugs)


async def test_killed_while_memories_change_their_tier(run_server: Callable[..., Server], tmp_path: Path) -> None:
    directory = tmp_path / "data"
    server = run_server("serve", directory)
    texts = [f"{WORD} {number} " + "of the long gallery " * 8 for number in range(OLD)]
    async with connect(server.address) as mnemo:
        await mnemo.space("s").remember_many([MemoryInput(content=text) for text in texts])
    async with database_of(server) as connection:
        await connection.execute("UPDATE memory.memories SET created_at = created_at - interval '9 years'")
        await connection.execute("UPDATE memory.memories SET updated_at = created_at")
    assert await asyncio.to_thread(server.stop) == 0
    for least in (1, 300, 600):
        server = run_server("serve", directory)
        async with database_of(server) as connection:
            await until(lambda connection=connection, least=least: _cold(connection, least))
            await asyncio.to_thread(server.kill)
    server = run_server("serve", directory)
    async with database_of(server) as connection:
        await until(lambda: _cold(connection, OLD))
        assert await connection.fetchval("SELECT count(*) FROM memory.memories WHERE packed IS NULL") == 0
    async with connect(server.address) as mnemo:
        stored = [memory.content async for memory in mnemo.space("s").list(page_size=1000)]
        assert sorted(stored) == sorted(texts)
    await check(server, ["s"])


async def _cold(connection: asyncpg.Connection, least: int) -> bool:
    return int(await connection.fetchval("SELECT count(*) FROM memory.memories WHERE tier = 3")) >= least
