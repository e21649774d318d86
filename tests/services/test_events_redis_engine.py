"""The Redis engine of event-bus beside real servers: which it takes, what survives, what it says when they fail."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from mnemo_events.domain.event import Event
from mnemo_events.domain.filter import Filter
from mnemo_events.domain.group import Fresh, Group, Outcome
from mnemo_events.storage.redis_engine import RedisEngine, open_redis_engine
from mnemocore import calls
from mnemocore.errors import (
    DeadlineExceededError,
    InvalidSettingError,
    StoreFullError,
    StoreUnavailableError,
)
from mnemocore.ids import SpaceUid, Tenant
from mnemocore.testing.redis import TestRedis
from mnemocore.testing.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

NOW = datetime(2026, 2, 3, 4, 5, 6, 789000, tzinfo=UTC)
ACME = Tenant("acme")


def event(name: str, data: bytes = b"payload") -> Event:
    return Event(name, "tests", "memory.created", "a", NOW, "", "", data, ACME, SpaceUid(""), 0, "")


def group(name: str = "workers") -> Group:
    return Group("", ACME, name, Filter(tenant=ACME), 5, timedelta(seconds=30), "alice", NOW)


@asynccontextmanager
async def server(settings: dict[str, str] | None = None) -> AsyncIterator[TestRedis]:
    """A server of this test's own."""
    running = TestRedis(settings, own=True)
    try:
        await asyncio.to_thread(running.start)
        yield running
    finally:
        await asyncio.to_thread(running.stop)


@asynccontextmanager
async def engine(url: str, prefix: str = "test") -> AsyncIterator[RedisEngine]:
    """An engine that has started."""
    opened = open_redis_engine(url, prefix=prefix)
    try:
        await opened.start()
        yield opened
    finally:
        await opened.stop()


@contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """A call that must be answered in so many seconds."""
    token = calls.deadline.set(time.monotonic() + seconds)
    try:
        yield
    finally:
        calls.deadline.reset(token)


async def ids(engine: RedisEngine) -> list[str]:
    """The ids of all events of the log; the positions have no gaps."""
    found: list[str] = []
    while True:
        page = await engine.log.read(len(found), Filter(), 100)
        assert [place.position for place in page.events] == list(
            range(len(found) + 1, len(found) + 1 + len(page.events))
        )
        found += [place.event.id for place in page.events]
        if page.resume == page.head:
            return found


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        ({"appendonly": "no"}, "append-only file"),
        ({"appendfsync": "no"}, "appendfsync no"),
        ({"no-appendfsync-on-rewrite": "yes"}, "no-appendfsync-on-rewrite yes"),
        ({"maxmemory-policy": "allkeys-lru"}, "maxmemory-policy allkeys-lru"),
    ],
)
async def test_a_server_that_may_lose_events_is_refused(settings: dict[str, str], wanted: str) -> None:
    async with server(settings) as running:
        opened = open_redis_engine(running.url)
        with pytest.raises(InvalidSettingError, match=f"MNEMO_EVENTS_LOG_URL.*{wanted}.*allowed is"):
            await opened.start()
        await opened.stop()


@pytest.mark.parametrize("hidden", [False, True])
async def test_a_server_that_writes_later_than_it_answers(hidden: bool) -> None:
    """Or does not tell: refused where no WAITAOF can be relied on, else waited for; then all see what was appended."""
    async with server({"appendfsync": "everysec"}) as running:
        if hidden:
            await asyncio.to_thread(running.command, "ACL", "SETUSER", "default", "-config")
        info = await asyncio.to_thread(running.command, "INFO", "server")
        version = tuple(map(int, info["redis_version"].split(".")[:2]))
        if "valkey_version" in info or not (version == (7, 2) or version >= (8, 0)):
            opened = open_redis_engine(running.url)
            with pytest.raises(InvalidSettingError, match=r"MNEMO_EVENTS_LOG_URL.*everysec on Redis 7\.2, or 8"):
                await opened.start()
            await opened.stop()
            return
        async with engine(running.url) as one, engine(running.url) as other:
            assert await one.log.append([event("a"), event("b")], NOW) == [1, 2]
            made = await one.groups.create(group(), 2)
            assert await other.log.append([event("b"), event("c")], NOW) == [2, 3]
            await asyncio.to_thread(running.kill)
            await asyncio.to_thread(running.start)
            assert await ids(one) == ["a", "b", "c"]
            assert await other.groups.find(ACME, "workers") == made


async def test_readers_see_nothing_that_is_not_on_disk() -> None:
    """What was appended by one that died before it was sure becomes visible when another starts."""
    async with server() as running, engine(running.url) as one:
        await one.log.append([event("a")], NOW)
        await asyncio.to_thread(running.command, "SET", "{test}:durable", "0")
        assert (await one.log.head(), await ids(one), await one.log.get([1])) == (0, [], [])
        assert await one.log.position_before(NOW + timedelta(days=1)) == 0
        async with engine(running.url) as other:
            assert (await other.log.head(), await ids(one)) == (1, ["a"])


@pytest.mark.parametrize(
    "url", ["http://localhost", "redis://localhost:port", "unix:///tmp/none?db=x", "", "redis://h?x=y"]
)
async def test_a_url_of_something_else_is_refused(url: str) -> None:
    with pytest.raises(InvalidSettingError, match=r"MNEMO_EVENTS_LOG_URL .* allowed is redis://"):
        open_redis_engine(url)


async def test_a_wrong_password_is_refused() -> None:
    """Without saying it, and so is a database that is not there."""
    async with server() as running:
        await asyncio.to_thread(running.command, "CONFIG", "SET", "requirepass", "right")
        for wrong in ("?password=wr0ng", "", "?password=right&db=99"):
            opened = open_redis_engine(running.url + wrong)
            with pytest.raises(InvalidSettingError, match="MNEMO_EVENTS_LOG_URL") as refusal:
                await opened.start()
            assert "wr0ng" not in str(refusal.value)
            await opened.stop()
        async with engine(running.url + "?password=right&db=3") as opened:
            assert await opened.ready()


@pytest.mark.parametrize(
    "rights", ["~* &* +@all -evalsha", "~* resetchannels +@all", "~other* &* +@all", "~* &* +@read"]
)
async def test_a_user_without_the_rights_is_refused(rights: str) -> None:
    """When it starts, not when the first event is published."""
    async with server() as running:
        await asyncio.to_thread(running.command, "ACL", "SETUSER", "poor", "on", ">secret", *rights.split())
        opened = open_redis_engine(running.url.replace("unix://", "unix://poor@") + "?password=secret")
        with pytest.raises(InvalidSettingError, match="MNEMO_EVENTS_LOG_URL"):
            await opened.start()
        await opened.stop()


async def test_a_replica_is_not_written_to() -> None:
    """It may become the master: that is no matter of the setting."""
    async with server() as running, engine(running.url) as opened:
        await asyncio.to_thread(running.command, "REPLICAOF", "127.0.0.1", "1")
        with pytest.raises(StoreUnavailableError):
            await opened.log.append([event("a")], NOW)
        with pytest.raises(StoreUnavailableError):
            async with engine(running.url):
                pass
        await asyncio.to_thread(running.command, "REPLICAOF", "NO", "ONE")
        assert await opened.log.append([event("a")], NOW) == [1]


def run_python(code: str) -> str:
    """What a program of its own prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_without_the_driver_it_says_what_to_install() -> None:
    code = """
import sys
sys.path[:0] = %r
sys.modules["redis"] = None
from mnemo_events.storage.redis_engine import open_redis_engine
try:
    open_redis_engine("redis://localhost")
except Exception as error:
    print(type(error).__name__, error)
"""
    said = run_python(code % sys.path)
    assert said.startswith("InvalidSettingError MNEMO_EVENTS_LOG_URL")
    assert 'pip install "mnemocore[redis]"' in said


def test_the_driver_is_imported_when_it_is_used() -> None:
    code = "import sys; sys.path[:0] = %r; import mnemo_events.storage.redis_engine; print('redis' in sys.modules)"
    assert run_python(code % sys.path) == "False"


async def test_what_was_acknowledged_survives_a_kill() -> None:
    """Killed again and again beside appends: what was answered is there, all of a batch or nothing, and it goes on."""
    async with server() as running, engine(running.url) as opened:
        acknowledged: list[str] = []
        pieces = 0

        async def append() -> None:
            nonlocal pieces
            while True:
                names = [f"{pieces}:{n}" for n in range(7)]
                pieces += 1
                try:
                    await opened.log.append([event(name) for name in names], NOW)
                    acknowledged.extend(names)
                except StoreUnavailableError as error:
                    assert error.retry_after
                await asyncio.sleep(0)

        for _ in range(3):
            before = len(acknowledged)
            work = asyncio.create_task(append())
            await until(lambda before=before: len(acknowledged) > before + 100)
            await asyncio.to_thread(running.kill)
            work.cancel()
            await asyncio.wait([work])
            with pytest.raises(StoreUnavailableError):
                await opened.log.head()
            assert not await opened.ready()
            await asyncio.to_thread(running.start)
            assert await opened.ready()
            found = await ids(opened)
            assert set(acknowledged) <= set(found)
            assert len(set(found)) == len(found)
            assert len(found) % 7 == 0
            assert await opened.log.head() == len(found)


async def test_what_a_group_holds_survives_a_kill() -> None:
    async with server() as running, engine(running.url) as opened:
        made = await opened.groups.create(group(), 0)
        until_then = NOW + timedelta(seconds=30)
        fresh = Fresh(0, 5, ((1, "x"), (2, "x"), (3, ""), (4, "y")))
        await opened.groups.claim(made, "a", 3, NOW, until_then, fresh)
        await opened.groups.settle(made, "a", [Outcome(1, 1, done=True), Outcome(3, 1, retry_at=NOW)], NOW, until_then)
        await asyncio.to_thread(running.kill)
        await asyncio.to_thread(running.start)
        standing = await opened.groups.standing(made)
        assert (standing.position, standing.in_flight, standing.waiting) == (3, 1, 1)
        claim = await opened.groups.claim(made, "b", 9, NOW, until_then, Fresh(3, 5, ((4, "y"),)))
        assert [(each.position, each.attempt) for each in claim.claimed] == [(3, 2), (4, 1)]
        assert await opened.groups.find(ACME, "workers") == made


async def test_engines_hear_each_other(redis_server: TestRedis, redis_prefix: str) -> None:
    """Appends with the new head, and that something of a group may be due; first that news may have been missed."""
    heads: list[int | None] = []
    changes: list[str] = []
    async with engine(redis_server.url, redis_prefix) as one, engine(redis_server.url, redis_prefix) as other:
        listening = asyncio.create_task(other.listen(heads.append, lambda _: changes.append("changed")))
        await until(lambda: heads == [None] and len(changes) == 1)
        await one.log.append([event("a"), event("b")], NOW)
        await until(lambda: heads == [None, 2])
        await one.log.append([event("b")], NOW)
        made = await one.groups.create(group(), 0)
        later = NOW + timedelta(seconds=30)
        await one.groups.claim(made, "a", 1, NOW, later, Fresh(0, 3, ((1, "x"), (2, "x"), (3, "x"))))
        await one.groups.release(made, "a", counted=False)
        await until(lambda: len(changes) == 2)
        await one.log.append([event("c")], NOW)
        await until(lambda: heads == [None, 2, 3])
        assert len(changes) == 2
        listening.cancel()
        await asyncio.wait([listening])


async def test_listening_goes_on_after_a_kill() -> None:
    """It says that news may have been missed."""
    heads: list[int | None] = []
    async with server() as running, engine(running.url) as opened:
        listening = asyncio.create_task(opened.listen(heads.append, lambda _: None))
        await until(lambda: heads == [None])
        await asyncio.to_thread(running.kill)
        await asyncio.to_thread(running.start)
        await until(lambda: heads == [None, None])
        await opened.log.append([event("a")], NOW)
        await until(lambda: heads == [None, None, 1])
        listening.cancel()
        await asyncio.wait([listening])


async def test_a_full_server_takes_no_more_and_can_be_read() -> None:
    """Nothing of a batch is stored, work that is done can be settled, and it recovers by itself."""
    async with server() as running, engine(running.url) as opened:
        await opened.log.append([event("a"), event("b")], NOW)
        made = await opened.groups.create(group(), 0)
        later = NOW + timedelta(seconds=30)
        await opened.groups.claim(made, "a", 9, NOW, later, Fresh(0, 2, ((1, "x"), (2, "x"))))
        await asyncio.to_thread(running.command, "CONFIG", "SET", "maxmemory", "1mb")
        await asyncio.to_thread(running.command, "CONFIG", "SET", "maxmemory", "1")
        with pytest.raises(StoreFullError, match=r"^[^@]*$"):
            await opened.log.append([event("c"), event("d")], NOW)
        assert await ids(opened) == ["a", "b"]
        settled = await opened.groups.settle(
            made, "a", [Outcome(1, 1, done=True), Outcome(2, 1, done=True)], NOW, later
        )
        assert settled.settled == (1, 2)
        await asyncio.to_thread(running.command, "CONFIG", "SET", "maxmemory", "0")
        assert await opened.log.append([event("c"), event("d")], NOW) == [3, 4]


async def test_a_server_that_hangs_is_left_at_the_deadline() -> None:
    """And the answers that come late are nobody else's."""
    async with server() as running, engine(running.url) as opened:
        await opened.log.append([event("a")], NOW)
        running.pause()
        hung: list[asyncio.Task[object]] = []
        with deadline(0.2):
            hung = [asyncio.create_task(opened.log.append([event(f"{n}")], NOW)) for n in range(5)]
            hung.append(asyncio.create_task(opened.log.head()))
        ended = await asyncio.gather(*hung, return_exceptions=True)
        assert [type(end) for end in ended] == [DeadlineExceededError] * 6
        assert not await opened.ready()
        running.go_on()
        await until(opened.ready)
        assert await opened.log.trimmed() == 0
        assert len(await opened.log.append([event(f"{n}") for n in range(5)], NOW)) == 5
        assert await opened.log.head() == 6


async def test_calls_that_are_cancelled_leave_no_answers_behind(redis_server: TestRedis, redis_prefix: str) -> None:
    """Wherever they are cut: the next call on the connection gets its own answer."""
    async with engine(redis_server.url, redis_prefix) as opened:
        await opened.log.append([event(f"{n}") for n in range(10)], NOW)
        made = await opened.groups.create(group(), 3)
        for step in range(60):
            task: asyncio.Task[object] = asyncio.create_task(
                opened.log.append([event(f"more {step}")], NOW) if step % 2 else opened.groups.standing(made)
            )
            await asyncio.wait([task], timeout=0.00002 * step)
            task.cancel()
            answers = await asyncio.gather(
                opened.log.trimmed(),
                opened.log.get([1]),
                opened.groups.find(ACME, "workers"),
                opened.groups.standing(made),
            )
            assert (answers[0], len(answers[1]), answers[2], answers[3].position) == (0, 1, made, 3)
            await asyncio.wait([task])


async def test_scripts_are_brought_again_when_the_server_forgets_them() -> None:
    async with server() as running, engine(running.url) as opened:
        await opened.log.append([event("a")], NOW)
        await asyncio.to_thread(running.command, "SCRIPT", "FLUSH")
        assert await opened.log.append([event("b")], NOW) == [2]


async def test_a_server_that_comes_back_with_another_configuration() -> None:
    """It may lose what it is given now, so nothing is acknowledged."""
    async with server() as running, engine(running.url) as opened:
        await opened.log.append([event("a")], NOW)
        await asyncio.to_thread(running.kill)
        running.settings["appendfsync"] = "no"
        await asyncio.to_thread(running.start)
        with pytest.raises(StoreUnavailableError, match=r"^the store does not answer$"):
            await opened.log.append([event("b")], NOW)
        assert not await opened.ready()
        await asyncio.to_thread(running.command, "CONFIG", "SET", "appendfsync", "always")
        assert await opened.log.append([event("b")], NOW) == [2]


async def test_payloads_that_are_taken_out_are_gone_from_the_server() -> None:
    """Nothing of them is in its memory or, once the file is rewritten, on its disk."""
    async with server() as running, engine(running.url) as opened:
        secret = b"a secret of the house"
        await opened.log.append([event("a", secret), event("b", b"kept")], NOW)
        assert await opened.log.redact([event("a").key]) == 1
        keys = await asyncio.to_thread(running.command, "HGETALL", "{test}:data")
        assert keys == {"2": "kept"}
        await asyncio.to_thread(running.command, "BGREWRITEAOF")
        await until(lambda: asyncio.to_thread(rewritten, running))
        assert not await asyncio.to_thread(running.holds, secret)
        assert await asyncio.to_thread(running.holds, b"kept")


def rewritten(running: TestRedis) -> bool:
    info = running.command("INFO", "persistence")
    return not (info["aof_rewrite_in_progress"] or info["aof_rewrite_scheduled"])
