"""The public client against a real server on a socket."""

from __future__ import annotations

import asyncio
import dataclasses
import inspect
import sys
import uuid
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from tests.client_server import Book, TestServer, running_server

import mnemocore
from mnemocore import MemoryInput, __version__, client, connect
from mnemocore.client import JobState, MemoryFilter, MemoryKind, Space
from mnemocore.errors import (
    ApiKeyNotFoundError,
    CircuitOpenError,
    DeadlineExceededError,
    InvalidFieldError,
    JobNotFoundError,
    MemoryNotFoundError,
    PeerUnavailableError,
    PermissionDeniedError,
    PreconditionError,
    SpaceExistsError,
    SpaceNotFoundError,
    StoreUnavailableError,
)
from mnemocore.memory.v1 import memory_service_pb2, space_service_pb2
from mnemocore.memory.v1.memory_service_pb2_grpc import MemoryServiceStub
from mnemocore.memory.v1.space_service_pb2_grpc import SpaceServiceStub
from mnemocore.testing.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from mnemocore import Connection

ABSENT = "00000000-0000-7000-8000-000000000000"


@pytest.fixture
async def server() -> AsyncIterator[TestServer]:
    async with running_server() as running:
        yield running


@pytest.fixture
async def mnemo(server: TestServer) -> AsyncIterator[Connection]:
    async with connect(server.target, api_key="k1") as connection:
        yield connection


async def test_the_example_of_the_contract(mnemo: Connection) -> None:
    space = mnemo.space("alice")
    kept = await space.remember("I moved to Lisbon in March.", actor="Alice", session="s1")
    many = await space.remember_many(
        [
            MemoryInput(
                content="I like trams.",
                actor="Alice",
                session="s1",
                occurred_at=datetime(2026, 3, 1, tzinfo=timezone(timedelta(hours=1))),
                metadata={"mood": "good", "count": 3, "ratio": 0.5, "deep": {"list": [1, None, True]}},
            )
        ]
    )
    hits = await space.recall("Where does Alice live now?", limit=10)
    assert [hit.memory.id for hit in hits] == [kept.id, *many.ids]
    assert hits.degraded == (client.DegradedPart.ENCODER,)
    second = hits[1]
    assert second.memory.metadata == {"mood": "good", "count": 3, "ratio": 0.5, "deep": {"list": [1, None, True]}}
    assert isinstance(second.memory.metadata["count"], int)
    assert second.memory.occurred_at == datetime(2026, 2, 28, 23, tzinfo=UTC)
    assert second.memory.occurred_at is not None
    assert second.memory.occurred_at.tzinfo is UTC
    assert second.memory.kind is MemoryKind.OBSERVATION
    assert second.score == pytest.approx(sum(part.contribution for part in second.explanation))
    await space.forget(kept.id, reason="outdated")
    assert [hit.memory.id for hit in await space.recall("Lisbon")] == many.ids


async def test_the_first_write_makes_the_space_and_reads_do_not(server: TestServer, mnemo: Connection) -> None:
    space = mnemo.space("new")
    for reading in (space.recall("x"), space.get(ABSENT), space.get_many([ABSENT]), space.info()):
        with pytest.raises(SpaceNotFoundError):
            await reading
    with pytest.raises(SpaceNotFoundError):
        await anext(space.list())
    with pytest.raises(SpaceNotFoundError):
        await space.forget(ABSENT)
    assert server.book.spaces == {}
    await space.remember("a")
    assert len(server.book.spaces["spaces/new"]) == 1


async def test_a_space_made_by_somebody_else_in_between_is_no_error(server: TestServer, mnemo: Connection) -> None:
    space = mnemo.space("race")
    server.desk.script["CreateMemory"].append(SpaceNotFoundError(space="race"))
    server.book.spaces["spaces/race"] = {}
    await space.remember("a")
    assert len(server.book.spaces["spaces/race"]) == 1


async def test_every_write_has_a_request_id_of_its_own(server: TestServer, mnemo: Connection) -> None:
    space = mnemo.space("a")
    kept = await space.remember("one")
    await space.remember("two")
    await space.forget(kept.id)
    await space.restore(kept.id)
    await space.consolidate()
    writes = [seen for seen in server.desk.seen if seen.method != "GetSpace"]
    ids = [seen.request.request_id for seen in writes]
    assert all(str(uuid.UUID(id)) == id for id in ids)
    # The first CreateMemory found no space and was sent again as it was.
    assert len(set(ids)) == len(ids) - 1


async def test_a_write_is_repeated_under_its_id_when_nobody_answers(server: TestServer, mnemo: Connection) -> None:
    await mnemo.create_space("a")
    server.desk.script["CreateMemory"].extend([grpc.StatusCode.UNAVAILABLE, StoreUnavailableError(retry_after=0.01)])
    await mnemo.space("a").remember("one")
    calls = server.desk.calls("CreateMemory")
    assert len(calls) == 3
    assert len({seen.request.request_id for seen in calls}) == 1


async def test_the_caller_is_named_and_every_call_has_a_deadline(server: TestServer, mnemo: Connection) -> None:
    await mnemo.space("a").remember("one")
    await mnemo.space("a").recall("one")
    assert all(seen.metadata["authorization"] == "Bearer k1" for seen in server.desk.seen)
    assert all(seen.metadata["x-request-id"] for seen in server.desk.seen)
    remaining = {seen.method: seen.time_remaining for seen in server.desk.seen}
    assert remaining["CreateMemory"] is not None
    assert 0 < remaining["CreateMemory"] < 5.1  # the wire rounds up
    assert remaining["RecallMemories"] is not None
    assert 5.1 < remaining["RecallMemories"] < 10.1


async def test_the_timeout_of_the_connection_shortens_every_call(server: TestServer) -> None:
    server.desk.always["GetSpace"] = asyncio.Event()
    async with connect(server.target, timeout=0.1) as mnemo:
        with pytest.raises(DeadlineExceededError):
            await mnemo.space("a").info()
        await asyncio.wait_for(server.desk.cancelled.wait(), 60)


async def test_recall_asks_for_what_this_connection_wrote(server: TestServer, mnemo: Connection) -> None:
    space = mnemo.space("a")
    await mnemo.create_space("a")
    await space.recall("nothing yet")
    await space.remember("one")
    await mnemo.space("a").recall("through another handle")
    first, second = (seen.request.consistency for seen in server.desk.calls("RecallMemories"))
    assert first.WhichOneof("requirement") is None
    assert second.at_least_as_fresh.value == "token-1"
    await asyncio.gather(space.remember("two"), space.remember("three"))
    await space.recall("after two at once")
    await space.recall("and again")
    third, fourth = (seen.request.consistency for seen in server.desk.calls("RecallMemories")[2:])
    assert third.fully_consistent
    assert fourth.at_least_as_fresh.value == "token-3"


async def test_reading_listing_and_history(mnemo: Connection) -> None:
    space = mnemo.space("a")
    kept = [await space.remember(f"memory {number}", kind="fact", tags=["t"]) for number in range(5)]
    assert (await space.get(kept[0].id)).kind is MemoryKind.FACT
    found = await space.get_many([kept[1].id, ABSENT])
    assert [memory.id for memory in found.memories] == [kept[1].id]
    assert found.missing == [ABSENT]
    listed = [memory.id async for memory in space.list(page_size=2, filter=MemoryFilter(kinds=["fact"], tags=["t"]))]
    assert listed == [memory.id for memory in reversed(kept)]
    history = [revision async for revision in space.history(kept[2].id)]
    assert [(revision.change, revision.memory.id) for revision in history] == [("created", kept[2].id)]
    assert len([revision async for revision in space.history()]) == 5
    assert (await space.info()).active_memories == 5
    assert await space.republish() == 5
    assert [info.id async for info in mnemo.spaces()] == ["a"]
    with pytest.raises(MemoryNotFoundError, match=ABSENT):
        await space.get(ABSENT)
    with pytest.raises(SpaceExistsError):
        await mnemo.create_space("a")


async def test_jobs(mnemo: Connection) -> None:
    space = mnemo.space("a")
    job = await space.consolidate(min_similarity=0.9, dry_run=True)
    assert job.report.min_similarity == 0.9
    assert job.report.groups[0].duplicates[0].id == "b"
    assert (await mnemo.wait_for_job(job.id, timeout=10)).state is JobState.SUCCEEDED
    assert [item.id async for item in mnemo.jobs(space="a")] == [job.id]
    assert [item async for item in mnemo.jobs(space="b")] == []
    other = await space.consolidate()
    assert (await mnemo.cancel_job(other.id)).state is JobState.CANCELLED
    with pytest.raises(JobNotFoundError):
        await mnemo.job(ABSENT)
    third = await space.consolidate()
    with pytest.raises(DeadlineExceededError, match=third.id):
        await mnemo.wait_for_job(third.id, timeout=0.01)


async def test_api_keys_capabilities_and_events(server: TestServer, mnemo: Connection) -> None:
    expiry = datetime(2030, 1, 1, tzinfo=UTC)
    made = await mnemo.create_api_key("robot", ["memory:read"], expire_time=expiry)
    assert made.secret not in repr(made)
    assert made.api_key.expire_time == expiry
    assert [key.id async for key in mnemo.list_api_keys()] == [made.api_key.id]
    await mnemo.delete_api_key(made.api_key.id)
    server.desk.script["DeleteApiKey"].append(ApiKeyNotFoundError(api_key=made.api_key.id))
    with pytest.raises(ApiKeyNotFoundError):
        await mnemo.delete_api_key(made.api_key.id)
    assert (await mnemo.capabilities()).services == {"mnemocore.memory.v1": True}
    assert [event.position async for event in mnemo.events(after=3, page_size=10)] == list(range(4, 26))
    assert [event async for event in mnemo.events(after=25)] == []


async def test_a_key_is_never_made_twice(server: TestServer, mnemo: Connection) -> None:
    server.desk.script["CreateApiKey"].append(grpc.StatusCode.UNAVAILABLE)
    with pytest.raises(PeerUnavailableError):
        await mnemo.create_api_key("robot", ["memory:read"])
    assert len(server.desk.calls("CreateApiKey")) == 1


async def test_a_time_without_a_zone_is_refused_by_name(mnemo: Connection) -> None:
    with pytest.raises(InvalidFieldError, match=r"^occurred_at: 2026-01-01T00:00:00 has no time zone$"):
        await mnemo.space("a").remember("x", occurred_at=datetime(2026, 1, 1))  # noqa: DTZ001 - that is the point
    with pytest.raises(InvalidFieldError, match=r"^filter\.occurred_to: .* has no time zone$"):
        await mnemo.space("a").recall("x", filter=MemoryFilter(occurred_to=datetime(2026, 1, 1)))  # noqa: DTZ001


async def test_raw_stubs_keep_the_same_policy(server: TestServer, mnemo: Connection) -> None:
    await mnemo.create_space("a")
    stub = mnemo.stub(MemoryServiceStub)
    server.desk.script["ListMemories"].append(grpc.StatusCode.UNAVAILABLE)
    response = await stub.ListMemories(memory_service_pb2.ListMemoriesRequest(parent="spaces/a"))
    assert response.memories == []
    assert len(server.desk.calls("ListMemories")) == 2


async def test_a_connection_must_be_open(server: TestServer) -> None:
    connection = connect(server.target)
    with pytest.raises(PreconditionError, match="not open"):
        connection.space("a")
    with pytest.raises(PreconditionError, match="not open"):
        _ = connection.channel
    await connection.open()
    assert await connection.open() is connection
    assert (await connection.capabilities()).version == __version__
    await connection.close()
    await connection.close()


@pytest.mark.parametrize("target", ["localhost", "http://localhost:80", "host:port", ""])
async def test_a_target_that_is_no_address_is_refused(target: str) -> None:
    with pytest.raises(InvalidFieldError, match="HOST:PORT"):
        await connect(target).open()


async def test_a_unix_socket(tmp_path: Path) -> None:
    async with running_server(f"unix:{tmp_path}/s") as server, connect(server.target) as mnemo:
        assert (await mnemo.space("a").remember("x")).content == "x"


async def test_nobody_there(unused_tcp_port: int) -> None:
    async with connect(f"127.0.0.1:{unused_tcp_port}") as mnemo:
        with pytest.raises(PeerUnavailableError, match=rf"^127\.0\.0\.1:{unused_tcp_port} does not answer$"):
            await mnemo.capabilities()
        with pytest.raises(CircuitOpenError):
            await mnemo.capabilities()


@pytest.mark.parametrize("on_error", ["raise", "collect"])
async def test_many_memories_one_of_them_bad(mnemo: Connection, on_error: Any) -> None:
    items = [MemoryInput(content="" if number == 7 else f"memory {number}") for number in range(20)]
    items[9] = MemoryInput(content="x", metadata={"when": datetime.now(UTC)})  # type: ignore[dict-item]
    progress: list[int] = []
    writing = mnemo.space("a").remember_many(items, batch_size=4, on_progress=progress.append, on_error=on_error)
    if on_error == "raise":
        with pytest.raises(InvalidFieldError, match=r"^item (7: content|9: metadata\.when)"):
            await writing
        return
    result = await writing
    assert [error.index for error in result.errors] == [7, 9]
    assert len(result.ids) == 18
    assert progress[-1] == 20
    contents = {memory.content async for memory in mnemo.space("a").list()}
    assert contents == {f"memory {number}" for number in range(20)} - {"memory 7", "memory 9"}


async def test_many_memories_from_an_async_iterator(server: TestServer, mnemo: Connection) -> None:
    async def items() -> AsyncIterator[MemoryInput]:
        for number in range(1000):
            yield MemoryInput(content=f"memory {number}", ordinal=number)

    result = await mnemo.space("a").remember_many(items(), batch_size=100)
    stored = server.book.spaces["spaces/a"]
    assert [stored[id].ordinal for id in result.ids] == list(range(1000))
    assert result.errors == []


@pytest.mark.parametrize("error", [StoreUnavailableError(), SpaceNotFoundError(space="other"), ValueError("broken")])
async def test_an_error_of_the_items_is_the_callers(server: TestServer, mnemo: Connection, error: Exception) -> None:
    def items() -> Iterator[MemoryInput]:
        for number in range(25):
            yield MemoryInput(content=f"memory {number}")
        raise error

    with pytest.raises(type(error)) as caught:
        await mnemo.space("a").remember_many(items(), batch_size=10)
    assert caught.value is error
    assert len(server.book.spaces["spaces/a"]) == 20
    assert len(server.desk.calls("CreateSpace")) == 1


async def test_a_server_that_refuses_the_stream_says_why(server: TestServer, mnemo: Connection) -> None:
    await mnemo.create_space("a")
    server.desk.script["IngestMemories"].extend(
        [_set_event(), _set_event(), PermissionDeniedError(scope="memory:write")]
    )
    server.desk.always["IngestMemories"] = PermissionDeniedError(scope="memory:write")
    with pytest.raises(PermissionDeniedError, match="memory:write"):
        await mnemo.space("a").remember_many((MemoryInput(content="x") for _ in range(100)), batch_size=5)


async def test_a_cancelled_bulk_write_ends_on_the_server(server: TestServer, mnemo: Connection) -> None:
    await mnemo.create_space("a")
    server.desk.arrived.clear()
    server.desk.always["IngestMemories"] = asyncio.Event()
    writing = asyncio.create_task(mnemo.space("a").remember_many([MemoryInput(content="x")]))
    await asyncio.wait_for(server.desk.arrived.wait(), 60)
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    await asyncio.wait_for(server.desk.cancelled.wait(), 60)


async def test_no_memories_at_all_make_no_space(server: TestServer, mnemo: Connection) -> None:
    assert (await mnemo.space("a").remember_many([])).ids == []
    assert server.book.spaces == {}


async def test_large_memories_are_spread_over_batches(server: TestServer, mnemo: Connection) -> None:
    await mnemo.create_space("a")
    result = await mnemo.space("a").remember_many(MemoryInput(content="x" * 100_000) for _ in range(50))
    assert len(result.ids) == 50
    assert max(seen.request.ByteSize() for seen in server.desk.calls("IngestMemories")) < 3 * 1024 * 1024


@pytest.mark.parametrize("breaks", [[0], [2], [0, 1, 2, 0, 1], [3, 3, 3]])
async def test_a_broken_stream_loses_nothing_and_doubles_nothing(
    server: TestServer, mnemo: Connection, breaks: list[int]
) -> None:
    await mnemo.create_space("a")
    server.memory.break_streams.extend(breaks)
    items = [MemoryInput(content=f"memory {number}") for number in range(100)]
    result = await mnemo.space("a").remember_many(items, batch_size=10)
    stored = server.book.spaces["spaces/a"]
    assert [stored[id].content for id in result.ids] == [item.content for item in items]
    assert len(stored) == 100
    assert server.memory.streams == len(breaks) + 1


async def test_a_stream_that_always_breaks_ends_with_its_error(server: TestServer, mnemo: Connection) -> None:
    await mnemo.create_space("a")
    server.memory.break_streams.extend([0] * 50)
    with pytest.raises((PeerUnavailableError, CircuitOpenError)):
        await mnemo.space("a").remember_many([MemoryInput(content="x")])
    assert server.memory.streams <= 7


async def test_a_server_that_restarts_during_a_bulk_write(tmp_path: Path) -> None:
    address = f"unix:{tmp_path}/s"
    book = Book()
    progress: asyncio.Queue[int] = asyncio.Queue()
    async with connect(address) as mnemo:
        async with running_server(address, book) as first:
            gate = asyncio.Event()
            first.desk.always["IngestMemories"] = gate
            await mnemo.create_space("a")
            writing = asyncio.create_task(
                mnemo.space("a").remember_many(
                    (MemoryInput(content=f"memory {number}") for number in range(500)),
                    batch_size=10,
                    on_progress=progress.put_nowait,
                )
            )
            first.desk.script["IngestMemories"].extend([_set_event()] * 5)
            await asyncio.wait_for(progress.get(), 60)
        async with running_server(address, book) as second:
            result = await asyncio.wait_for(writing, 60)
            assert len(second.desk.calls("IngestMemories")) > 0
    assert len(result.ids) == len(set(result.ids)) == len(book.spaces["spaces/a"]) == 500


def _set_event() -> asyncio.Event:
    event = asyncio.Event()
    event.set()
    return event


@pytest.mark.parametrize("inside", [True, False], ids=["in this process", "served by another process"])
async def test_embedded_finds_its_server_by_name(
    server: TestServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inside: bool
) -> None:
    module = type(sys)("mnemo_embedded")
    opened: list[tuple[str, Path]] = []

    @dataclasses.dataclass
    class Embedded:
        channel: grpc.aio.Channel | None
        target: str
        api_key: str

    @asynccontextmanager
    async def open_embedded(directory: Path) -> AsyncIterator[Embedded]:
        opened.append(("open", directory))
        async with server.local_channel() as channel:
            yield Embedded(channel if inside else None, server.target, "owner")
        opened.append(("closed", directory))

    module.open_embedded = open_embedded  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "mnemo_embedded", module)
    async with connect(f"embedded:{tmp_path}") as mnemo:
        space = mnemo.space("a")
        kept = await space.remember("x", metadata={"n": 1})
        server.memory.break_streams.extend([2, 0])
        result = await space.remember_many((MemoryInput(content=f"memory {n}") for n in range(100)), batch_size=10)
        assert len(set(result.ids)) == len(server.book.spaces["spaces/a"]) - 1 == 100
        assert (await space.get(kept.id)).metadata == {"n": 1}
        server.desk.script["RecallMemories"].append(grpc.StatusCode.UNAVAILABLE)
        assert len(await space.recall("x", limit=3)) == 3
        server.desk.script["RecallMemories"].append(SpaceNotFoundError(space="a"))
        with pytest.raises(SpaceNotFoundError):
            await space.recall("x")
        with pytest.raises(PermissionDeniedError):
            server.desk.script["IngestMemories"].append(PermissionDeniedError(scope="memory:write"))
            await space.remember_many([MemoryInput(content="x")])
        server.desk.always["GetSpace"] = asyncio.Event()
        stub = mnemo.stub(SpaceServiceStub)
        with pytest.raises(DeadlineExceededError):
            await stub.GetSpace(space_service_pb2.GetSpaceRequest(name="spaces/a"), timeout=0.05)
        await until(server.desk.cancelled.is_set)
        assert len([event async for event in mnemo.events()]) == 25
    assert opened == [("open", tmp_path), ("closed", tmp_path)]
    assert all(seen.metadata["authorization"] == "Bearer owner" for seen in server.desk.seen)
    assert all(seen.time_remaining is not None for seen in server.desk.calls("CreateMemory"))


async def test_an_error_of_the_progress_callback_is_the_callers(server: TestServer, mnemo: Connection) -> None:
    def refuse(done: int) -> None:
        raise StoreUnavailableError(f"after {done}")

    with pytest.raises(StoreUnavailableError, match="after 10"):
        await mnemo.space("a").remember_many(
            (MemoryInput(content="x") for _ in range(100)), batch_size=10, on_progress=refuse
        )
    assert server.memory.streams == 2  # the first one found no space


def test_remember_takes_what_a_memory_input_has() -> None:
    parameters = inspect.signature(Space.remember).parameters
    fields = {field.name: field for field in dataclasses.fields(MemoryInput)}
    assert set(parameters) - {"self"} == set(fields)
    for name in set(fields) - {"content", "metadata"}:
        assert parameters[name].default == fields[name].default


def test_the_package_exports_the_client() -> None:
    for name in ("Connection", "Memory", "MemoryInput", "RecallHit", "Space", "connect"):
        assert getattr(mnemocore, name) is getattr(client, name)
