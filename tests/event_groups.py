"""The consuming half of event-bus on a database, with a clock that is moved by hand: one of these is one process."""

from __future__ import annotations

import asyncio
import random
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from mnemo_events.domain.access import Access
from mnemo_events.domain.arrivals import Arrivals
from mnemo_events.domain.consumption import MAX_HELD, Consumption
from mnemo_events.domain.dead_letters import Burials, DeadLetters
from mnemo_events.domain.eraser import Eraser
from mnemo_events.domain.event import Event
from mnemo_events.domain.filter import Filter
from mnemo_events.domain.group import Reason
from mnemo_events.domain.group_keeping import MAX_GROUPS, GroupKeeping, GroupSpec
from mnemo_events.domain.member import Done, Failed
from mnemo_events.domain.publisher import Publisher
from mnemo_events.domain.refusals import Refusals
from mnemo_events.domain.retry_schedule import RetrySchedule
from mnemo_events.domain.start import EARLIEST
from mnemo_events.storage.postgres_dead_letters import PostgresDeadLetters
from mnemo_events.storage.postgres_engine import PostgresEngine
from mnemo_events.storage.postgres_policies import PostgresPolicies, PostgresRefusals
from mnemo_events.storage.redis_engine import open_redis_engine
from mnemocore.calls import Identity
from mnemocore.ids import SpaceUid, Tenant
from mnemocore.postgres import migrate
from mnemocore.testing.clock import ManualClock

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from mnemo_events.domain.dead_letters import DeadLetterStore
    from mnemo_events.domain.group import Group
    from mnemo_events.domain.member import Delivery, Member
    from mnemo_events.domain.ports import Engine
    from mnemocore.postgres import Database
    from mnemocore.testing.postgres import TestPostgres
    from mnemocore.testing.redis import TestRedis

ACME, OTHER = Tenant("acme"), Tenant("other")
ADMIN = Identity(ACME, "admin", frozenset({"events:admin"}))
READER = Identity(ACME, "reader", frozenset({"events:read", "events:write"}))
SPACE = SpaceUid("018f0000-0000-7000-8000-00000000000a")
SECONDS = 60.0
NEVER = 1_000_000.0
"""Longer than a test lasts on the clock that is moved by hand."""


async def prepare(database: Database) -> None:
    """The schema, for a template."""
    await migrate(database, "mnemo_events.storage.migrations", schema="events")


class Stores:
    """What the processes of one event-bus share: a database, and the engine of its log."""

    def __init__(self, database: Database, open_engine: Callable[[], Engine]) -> None:
        self.database = database
        self._open_engine = open_engine
        self._engines: list[Engine] = []

    async def engine(self) -> Engine:
        """A way to the log for one process."""
        self._engines.append(self._open_engine())
        await self._engines[-1].start()
        return self._engines[-1]

    async def process(self, clock: ManualClock | None = None, **options: Any) -> Process:
        """Another process."""
        return Process(self.database, await self.engine(), clock or ManualClock(), **options)

    async def close(self) -> None:
        """Close what was opened."""
        for engine in self._engines:
            await engine.stop()


@asynccontextmanager
async def stores(kind: str, postgres: TestPostgres, redis_server: TestRedis) -> AsyncIterator[Stores]:
    """Empty stores of a kind, `postgres` or `redis`."""
    url, prefix = await postgres.create(prepare), redis_server.new_prefix()
    database = await postgres.open(url)

    def open_postgres() -> Engine:
        return PostgresEngine(database)

    def open_redis() -> Engine:
        return open_redis_engine(redis_server.url, prefix=prefix)

    opened = Stores(database, open_postgres if kind == "postgres" else open_redis)
    try:
        yield opened
    finally:
        await opened.close()
        await asyncio.to_thread(redis_server.remove, prefix)
        await database.close()
        await postgres.drop(url)


class Process:
    """What one event-bus has in memory, on stores it shares with others."""

    def __init__(
        self,
        database: Database,
        engine: Engine,
        clock: ManualClock,
        store: DeadLetterStore | None = None,
        max_held: int = MAX_HELD,
        max_groups: int = MAX_GROUPS,
    ) -> None:
        self.clock = clock
        self.engine = engine
        self.store = store or PostgresDeadLetters(database)
        self.log = self.engine.log
        self.arrivals = Arrivals()
        self.policies = PostgresPolicies(database)
        refusals = Refusals(PostgresRefusals(database), self.clock)
        self.access = Access(self.policies, refusals, self.clock, 5.0)
        self.burials = Burials(self.engine, self.store)
        schedule = RetrySchedule(random.Random(1))
        self.consumption = Consumption(self.engine, self.burials, self.arrivals, self.clock, schedule, max_held)
        self.publisher = Publisher(self.log, self.arrivals, self.clock)
        self.eraser = Eraser(self.log, self.store, self.consumption)
        self.groups = GroupKeeping(
            self.engine, self.store, self.burials, self.consumption, self.access, self.clock, max_groups
        )
        self.dead_letters = DeadLetters(self.engine, self.store, self.access, self.clock, self.consumption.changed)

    async def group(self, name: str = "workers", attempts: int = 5, lease: float = 60.0, **where: object) -> Group:
        """A group of ACME that begins with the first event."""
        filter = Filter(tenant=ACME, **where)  # type: ignore[arg-type]
        spec = GroupSpec(filter, attempts, timedelta(seconds=lease))
        return (await self.groups.create(ADMIN, name, spec, EARLIEST)).group

    async def publish(self, *events: Event) -> list[int]:
        """Their positions."""
        return await self.publisher.publish(events)

    @asynccontextmanager
    async def members(
        self, group: Group, number: int = 1, allowed: Callable[[], Awaitable[None]] | None = None
    ) -> AsyncIterator[list[Member]]:
        """So many members of a group."""
        async with AsyncExitStack() as stack:
            yield [
                await stack.enter_async_context(self.consumption.member(group, allowed=allowed)) for _ in range(number)
            ]

    async def names(self, group: Group) -> list[str]:
        """The ids of the dead letters of a group, by position."""
        return [letter.event.event.id for letter in await self.store.list_after(group, 0, None, 1000)]


def event(id: str, subject: str = "", **attributes: object) -> Event:
    """An event of ACME that is in order with those of its subject."""
    values: dict[str, object] = {
        "id": id,
        "source": "test",
        "type": "order.placed",
        "subject": subject,
        "time": datetime(2026, 1, 1, tzinfo=UTC),
        "datacontenttype": "text/plain",
        "dataschema": "",
        "data": id.encode(),
        "tenant": ACME,
        "space_uid": SpaceUid(""),
        "revision": 0,
        "traceparent": "",
    }
    return Event(**(values | attributes))  # type: ignore[arg-type]


async def take(member: Member, limit: int = 100) -> list[str]:
    """The ids of what a member is given without waiting."""
    return ids(await deliveries(member, limit))


async def deliveries(member: Member, limit: int = 100) -> list[Delivery]:
    """What a member is given without waiting."""
    return await asyncio.wait_for(member.next(limit, 0), SECONDS)


def ids(found: Sequence[Delivery]) -> list[str]:
    """The ids of events."""
    return [delivery.event.event.id for delivery in found]


def done(delivery: Delivery) -> Done:
    """It is done."""
    return Done(delivery.tag)


def failed(delivery: Delivery, reason: Reason = Reason.HANDLER_ERROR, message: str = "no luck") -> Failed:
    """It failed."""
    return Failed(delivery.tag, reason, message)
