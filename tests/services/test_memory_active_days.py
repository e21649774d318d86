"""The days on which spaces are used, and what is retained of memories after them, on a real PostgreSQL."""

from __future__ import annotations

import asyncio
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

import grpc
import pytest
from tests.memory_house import ADA, EVE, NO_EDIT, ROOT, House, opened

from mnemo_memory.api.memory_service import MemoryServicer
from mnemo_memory.domain import retention
from mnemo_memory.domain.active_days import PAUSE_SECONDS, ActiveDays
from mnemo_memory.domain.memory import Draft, Filter, Role
from mnemo_memory.domain.recall import Inquiry
from mnemo_memory.domain.retention import Candidacy
from mnemo_memory.storage.postgres_active_days import PostgresActiveDays
from mnemocore import calls
from mnemocore.errors import MnemoError, RoleRequiredError, SpaceNotFoundError, StoreUnavailableError
from mnemocore.ids import SpaceUid, new_uuid
from mnemocore.memory.v1 import memory_service_pb2 as pb
from mnemocore.memory.v1 import memory_service_pb2_grpc
from mnemocore.server import Host, InternalAuthenticator, Service
from mnemocore.testing.clock import ManualClock
from mnemocore.testing.waiting import until
from mnemocore.wire import to_timestamp

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Collection

    from mnemo_memory.domain.memory import Space
    from mnemocore.testing.postgres import TestPostgres

DAY = 86_400.0
FIRST = date(2026, 1, 1)
"""The day on which the clock of the tests stands."""


@pytest.fixture
async def house(postgres: TestPostgres) -> AsyncIterator[House]:
    async with opened(postgres) as found:
        yield found


async def days_of(house: House, space: Space) -> list[date]:
    await house.active_days.write()
    found = await house.database.fetch(
        "SELECT day FROM memory.active_days WHERE space_uid = $1 ORDER BY day", UUID(space.uid)
    )
    return [row["day"] for row in found]


# Which days are active


async def recall(house: House) -> object:
    return await house.recall.recall(ADA, "notes", Inquiry("tea"))


async def look(house: House) -> object:
    memories = await house.memories.list_memories(ADA, "notes", Filter(), (), 10, "")
    return await house.memories.get_one(ADA, "notes", memories[1][0].id)


async def archive(house: House) -> object:
    _, (memory,), _ = await house.memories.list_memories(ADA, "notes", Filter(), (), 10, "")
    return await house.memories.archive(ADA, "notes", memory.id, NO_EDIT)


@pytest.mark.parametrize("use", [recall, look, archive])
async def test_a_day_on_which_memories_are_used_is_active(
    house: House, use: Callable[[House], Awaitable[object]]
) -> None:
    space = await house.make("notes")
    other = await house.make("other")
    await house.keep("notes", Draft("tea"))
    await house.clock.advance(9 * DAY)
    await use(house)
    assert await days_of(house, space) == [FIRST, FIRST + timedelta(days=9)]
    assert await days_of(house, other) == []


async def test_looking_after_a_space_is_no_use_of_it(house: House) -> None:
    space = await house.make("notes")
    await house.spaces.get(ADA, "notes")
    await house.spaces.update(ADA, "notes", lambda _, policy: ("other", policy), "")
    await house.stats.of(ADA, "notes", 0)
    await house.share("notes", EVE)
    assert await days_of(house, space) == []


async def test_who_is_not_let_in_uses_nothing(house: House) -> None:
    space = await house.make("notes")
    await house.share("notes", EVE, Role.READ)
    with pytest.raises(SpaceNotFoundError):
        await house.recall.recall(EVE, "nowhere", Inquiry("tea"))
    with pytest.raises(RoleRequiredError):
        await house.keep("notes", Draft("tea"), caller=EVE)
    assert await days_of(house, space) == []
    await house.recall.recall(EVE, "notes", Inquiry("tea"))
    assert await days_of(house, space) == [FIRST]


async def test_days_are_those_of_utc_and_written_once(house: House) -> None:
    space = await house.make("notes")
    house.active_days.note(space.uid)
    await house.clock.advance(DAY - 1)
    house.active_days.note(space.uid)
    assert await days_of(house, space) == [FIRST]
    await house.clock.advance(1)
    house.active_days.note(space.uid)
    assert await days_of(house, space) == [FIRST, FIRST + timedelta(days=1)]


async def test_noting_costs_no_statement_until_the_batch_is_written(house: House) -> None:
    kept = KeepingStore()
    days = ActiveDays(kept, house.clock)
    spaces = [SpaceUid(new_uuid(house.clock.now())) for _ in range(3)]
    for _ in range(5):
        for uid in spaces:
            days.note(uid)
    assert kept.taken == []
    await days.write()
    for uid in spaces:
        days.note(uid)
    await days.write()
    assert kept.taken == [{(uid, FIRST) for uid in spaces}]


async def test_a_space_that_is_gone_hinders_no_other(house: House) -> None:
    gone, stays = await house.make("gone"), await house.make("stays")
    house.active_days.note(gone.uid)
    house.active_days.note(stays.uid)
    await house.erasures.erase(ROOT, "gone", "gone", "", "")
    assert await days_of(house, stays) == [FIRST]
    assert await days_of(house, gone) == []


async def test_replicas_record_the_same_days_at_the_same_time(house: House) -> None:
    spaces = [await house.make(f"s{number}") for number in range(20)]
    replicas = [ActiveDays(PostgresActiveDays(house.database), house.clock) for _ in range(4)]
    for number, replica in enumerate(replicas):
        for space in spaces[::-1] if number % 2 else spaces:
            replica.note(space.uid)
    await asyncio.gather(*(replica.write() for replica in replicas))
    assert await house.database.fetchval("SELECT count(*) FROM memory.active_days") == len(spaces)


class KeepingStore:
    """Implements the port to active days: keeps what it is given, and fails when it is told to."""

    def __init__(self) -> None:
        self.failure: MnemoError | None = None
        self.taken: list[Collection[tuple[SpaceUid, date]]] = []

    async def record(self, days: Collection[tuple[SpaceUid, date]]) -> None:
        if self.failure:
            raise self.failure
        self.taken.append(set(days))

    async def count_between(self, space: object, after: object, before: object) -> list[int]:
        raise AssertionError("nobody asks in these tests")


async def test_what_cannot_be_written_waits_and_the_last_is_written_at_the_end() -> None:
    clock, store = ManualClock(), KeepingStore()
    days = ActiveDays(store, clock)
    first, second = SpaceUid("1"), SpaceUid("2")
    days.note(first)
    store.failure = StoreUnavailableError()
    running = asyncio.create_task(days.run())
    await until(lambda: clock.sleepers == 1)
    await clock.advance(PAUSE_SECONDS)
    await until(lambda: clock.sleepers == 1)
    store.failure = None
    await clock.advance(PAUSE_SECONDS)
    await until(lambda: bool(store.taken))
    days.note(second)
    running.cancel()
    await asyncio.wait([running])
    assert store.taken == [{(first, FIRST)}, {(second, FIRST)}]


async def test_what_is_known_to_be_written_is_bounded() -> None:
    store = KeepingStore()
    days = ActiveDays(store, ManualClock(), most_noted=3)
    for number in range(10):
        days.note(SpaceUid(str(number)))
    await days.write()
    assert store.taken == [{(SpaceUid(str(number)), FIRST) for number in range(3)}]
    days.note(SpaceUid("9"))
    await days.write()
    assert store.taken[1] == {(SpaceUid("9"), FIRST)}


# What is retained


async def use_on(house: House, space: Space, *days: int) -> None:
    """Note uses of a space on days after the first."""
    store = PostgresActiveDays(house.database)
    await store.record([(space.uid, FIRST + timedelta(days=day)) for day in days])


async def test_days_since_a_moment_are_those_on_which_the_space_was_used(house: House) -> None:
    space, other = await house.make("notes"), await house.make("other")
    await use_on(house, space, 0, 1, 2, 5, 9)
    await use_on(house, other, 3, 4)
    await house.clock.advance(9 * DAY + 60)
    moments = [datetime(2026, 1, 1 + day, 23, 59, tzinfo=UTC) for day in (0, 1, 2, 4, 8)]
    now = house.clock.now()
    assert await house.active_days.since(space, [*moments, now]) == [4, 3, 2, 2, 1, 0]
    assert await house.active_days.since(other, [*moments, now]) == [3, 3, 3, 1, 1, 0]


async def test_a_holiday_forgets_nothing_and_use_forgets(house: House) -> None:
    space = await house.make("notes")
    (memory,) = await house.keep("notes", Draft("tea", importance=0.5))
    await house.clock.advance(31 * DAY)
    after_holiday = await house.active_days.retained(space, memory)
    assert after_holiday == retention.retained(memory, 1)
    assert after_holiday.retention > 0.98
    await use_on(house, space, *range(1, 60))
    await house.clock.advance(30 * DAY)
    used = await house.active_days.retained(space, memory)
    assert used.retention == pytest.approx(retention.retention(60, retention.stability(0.5, 1)))
    assert used.candidacy is Candidacy.KEEP
    await use_on(house, space, *range(60, 400))
    await house.clock.advance(400 * DAY)
    assert (await house.active_days.retained(space, memory)).candidacy is Candidacy.FORGET


class Server:
    """MemoryService on a socket, called as ada."""

    def __init__(self, house: House) -> None:
        servicer = MemoryServicer(house.memories, house.recall, house.active_days, house.clock)
        add, name = memory_service_pb2_grpc.add_MemoryServiceServicer_to_server, "mnemocore.memory.v1.MemoryService"
        self.host = Host("memory", [Service(servicer, add, name)], authenticator=InternalAuthenticator("a token"))

    async def start(self) -> None:
        (address,) = await self.host.start(["127.0.0.1:0"])
        self.channel = grpc.aio.insecure_channel(address)

    async def stop(self) -> None:
        await self.channel.close()
        await self.host.drain(5)

    async def get(self, name: str, **fields: Any) -> pb.GetMemoryResponse:
        stub: Any = memory_service_pb2_grpc.MemoryServiceStub(self.channel)
        metadata = [
            (calls.INTERNAL_TOKEN_HEADER, "a token"),
            (calls.TENANT_HEADER, "acme"),
            (calls.PRINCIPAL_HEADER, "ada"),
            (calls.SCOPES_HEADER, "memory:read"),
        ]
        answer: pb.GetMemoryResponse = await stub.GetMemory(
            pb.GetMemoryRequest(name=name, **fields), metadata=metadata, timeout=10
        )
        return answer


@pytest.mark.parametrize("encrypted", [False, True], ids=["open", "encrypted"])
async def test_a_memory_that_is_read_tells_how_much_of_it_is_retained(house: House, encrypted: bool) -> None:
    space = await house.make("notes", encrypted=encrypted)
    drafts = [Draft("low", importance=0.1), Draft("high", importance=0.7), Draft("never", importance=0.95)]
    low, high, never = await house.keep("notes", *drafts)
    await use_on(house, space, *range(1, 120))
    await house.clock.advance(119 * DAY)
    server = Server(house)
    await server.start()
    names = [f"{space.name}/memories/{memory.id}" for memory in (low, high, never)]
    answers = [await server.get(name) for name in names]
    for memory, answer in zip((low, high, never), answers, strict=True):
        expected = retention.retention(119, retention.stability(memory.importance, 1))
        assert answer.retention == pytest.approx(expected)
    assert [answer.retention_state for answer in answers] == [
        pb.RETENTION_STATE_FORGET,
        pb.RETENTION_STATE_KEEP,
        pb.RETENTION_STATE_KEEP,
    ]
    quick = await server.get(names[0], consistency={"minimize_latency": True})
    then = await server.get(names[0], as_of=to_timestamp(house.clock.now()))
    assert not quick.HasField("retention")
    assert not then.HasField("retention")
    assert quick.retention_state == then.retention_state == pb.RETENTION_STATE_UNSPECIFIED
    await server.stop()


def test_the_states_are_those_of_the_contract() -> None:
    for candidacy in Candidacy:
        assert pb.RetentionState.Name(pb.RetentionState.ValueType(candidacy)) == f"RETENTION_STATE_{candidacy.name}"
