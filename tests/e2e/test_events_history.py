"""What clients of the event-bus saw while it, its engine and its consumers were killed, stopped and slow.

Two tenants publish; members of a group of each, processes of their own with the client library, do the events. The
history of a run must keep every promise of `tests.event_history`.
"""

from __future__ import annotations

import asyncio
import json
import random
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from tests.event_consumer import POISON, TRANSIENT
from tests.event_history import Delivered, History, Published, Settled, violations
from tests.event_processes import TOKEN, BusProcess, ConsumerProcess, PostgresEngine, RedisEngine

from mnemocore import calls
from mnemocore.events.v1 import (
    event_service_pb2,
    event_service_pb2_grpc,
    group_service_pb2,
    group_service_pb2_grpc,
    resources_pb2,
)
from mnemocore.testing.waiting import until

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from typing import Self

    from tests.event_processes import Engine

TENANTS: Final = ("acme", "other")
GROUP: Final = "workers"
EVENTS: Final = 400
KEYS: Final = 6
LEASE_SECONDS: Final = 1
SECONDS: Final = 120.0
OUTAGES: Final = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
"""What calls may answer while something is down."""
GIVES_UP: Final = 0.02
"""How often a publisher that was not answered does not try again."""


class Run:
    """One bus with its publishers and members, and what was seen."""

    def __init__(self, bus: BusProcess, engine: Engine, file: Path, seed: int, *, events: int) -> None:
        self.bus = bus
        self.engine = engine
        self.events = events
        self.random = random.Random(seed)
        self.members: list[ConsumerProcess] = []
        self.slowness = 0.002
        self.poison = 0.03
        self._file = file
        self._seed = seed
        self._history = History()
        self._channel = grpc.aio.insecure_channel(bus.address, [("grpc.max_reconnect_backoff_ms", 200)])

    async def __aenter__(self) -> Self:
        await self.bus.start()
        for tenant in TENANTS:
            await self._ask(
                tenant,
                group_service_pb2_grpc.GroupServiceStub(self._channel).CreateGroup,
                group_service_pb2.CreateGroupRequest(
                    group_id=GROUP, group=resources_pb2.Group(max_attempts=100, lease=Duration(seconds=LEASE_SECONDS))
                ),
            )
        return self

    async def __aexit__(self, *_: object) -> None:
        for member in self.members:
            await member.kill()
        await self._channel.close()
        await self.bus.kill()

    async def join(self, tenant: str, **options: object) -> ConsumerProcess:
        """One more member."""
        name = f"{tenant}-{len(self.members)}"
        options = {"seed": self._seed + len(self.members), "slowness": self.slowness} | options
        member = await ConsumerProcess.start(self.bus, tenant, GROUP, name, self._file, **options)
        self.members.append(member)
        return member

    async def work(self, fault: Callable[[Run], Awaitable[None]]) -> History:
        """Publish and consume while the fault happens; the history when nothing is left to do."""
        for tenant in (*TENANTS, TENANTS[0]):
            await self.join(tenant)
        async with asyncio.timeout(SECONDS), asyncio.TaskGroup() as tasks:
            for tenant in TENANTS:
                for publisher in range(2):
                    tasks.create_task(self._publish(tenant, publisher))
            tasks.create_task(_awaited(fault(self)))
        await until(self._all_is_done, SECONDS)
        for tenant in TENANTS:
            self._history.dead[tenant] = await self._dead_letters(tenant)
        return self._seen()

    def done(self) -> int:
        """How many effects there are so far, of all tenants."""
        return self._file.read_text().count('"done"') if self._file.exists() else 0

    async def reached(self, share: float) -> None:
        """Return when this share of all events is done."""
        await until(lambda: self.done() >= share * self.events, SECONDS)

    async def _publish(self, tenant: str, publisher: int) -> None:
        chance = random.Random(f"{self._seed}/{tenant}/{publisher}")
        number = 0
        while number < self.events // 4:
            size = min(chance.randint(1, 5), self.events // 4 - number)
            contents = {f"{tenant}-{publisher}-{number + place}": self._content(chance) for place in range(size)}
            keys = {id: chance.choice(["", *(f"keys/{key}" for key in range(KEYS))]) for id in contents}
            number += size
            began = time.monotonic()
            positions = await self._until_answered(tenant, contents, keys, chance)
            ended = time.monotonic()
            self._history.published += [
                Published(id, tenant, keys[id], content, began, ended, position)
                for (id, content), position in zip(contents.items(), positions, strict=True)
            ]
            await asyncio.sleep(chance.random() * 0.01)

    def _content(self, chance: random.Random) -> str:
        kind = POISON if chance.random() < self.poison else TRANSIENT if chance.random() < 0.05 else "plain"
        return f"{kind} {chance.getrandbits(64):x}"

    async def _until_answered(
        self, tenant: str, contents: dict[str, str], keys: dict[str, str], chance: random.Random
    ) -> list[int | None]:
        batch = [
            resources_pb2.Event(
                id=id,
                source="publisher",
                type="work.wanted",
                subject=keys[id],
                time=Timestamp(seconds=1_700_000_000),
                data=content.encode(),
            )
            for id, content in contents.items()
        ]
        stub = event_service_pb2_grpc.EventServiceStub(self._channel)
        while True:
            try:
                answer = await self._ask(
                    tenant, stub.PublishEvents, event_service_pb2.PublishEventsRequest(events=batch)
                )
            except grpc.aio.AioRpcError as error:
                assert error.code() in OUTAGES, error
                if chance.random() < GIVES_UP:
                    return [None] * len(batch)
                await asyncio.sleep(0.05)
            else:
                return list(answer.positions)

    async def _all_is_done(self) -> bool:
        """Whether the groups have nothing left: not ahead, not in hand, not waiting."""
        assert not any(member.ended for member in self.members), "a member gave up"
        stub = group_service_pb2_grpc.GroupServiceStub(self._channel)
        for tenant in TENANTS:
            try:
                answer = await self._ask(
                    tenant, stub.GetGroup, group_service_pb2.GetGroupRequest(name=f"groups/{GROUP}")
                )
            except grpc.aio.AioRpcError as error:
                assert error.code() in OUTAGES, error
                return False
            if answer.group.lag or answer.group.in_flight or answer.group.waiting:
                return False
        return True

    async def _dead_letters(self, tenant: str) -> list[int]:
        stub = group_service_pb2_grpc.GroupServiceStub(self._channel)
        found: list[int] = []
        token = ""
        while True:
            request = group_service_pb2.ListDeadLettersRequest(parent=f"groups/{GROUP}", page_token=token)
            page = await self._ask(tenant, stub.ListDeadLetters, request)
            found += [letter.event.position for letter in page.dead_letters]
            token = page.next_page_token
            if not token:
                return found

    async def _ask(self, tenant: str, method: Any, request: Any) -> Any:
        metadata = [
            (calls.INTERNAL_TOKEN_HEADER, TOKEN),
            (calls.TENANT_HEADER, tenant),
            (calls.PRINCIPAL_HEADER, "ada"),
            (calls.SCOPES_HEADER, "events:admin"),
        ]
        return await method(request, metadata=metadata, timeout=5)

    def _seen(self) -> History:
        """The history with what the members wrote down."""
        history = self._history
        history.poison = frozenset(event.id for event in history.published if event.content.startswith(POISON))
        for line in self._file.read_text().splitlines():
            said = json.loads(line)
            what, member = said.pop("what"), said.pop("member")
            if what == "delivered":
                history.delivered.append(Delivered(member, **said))
            elif what == "settled":
                history.settled.append(Settled(**said))
            elif said["id"] not in history.effects.setdefault(said["tenant"], []):
                history.effects[said["tenant"]].append(said["id"])
        return history


async def _awaited(fault: Awaitable[None]) -> None:
    await fault


async def nothing(run: Run) -> None:
    """All is well."""


async def bus_killed(run: Run) -> None:
    """kill -9 of the bus, twice."""
    for share in (0.2, 0.6):
        await run.reached(share)
        await run.bus.kill()
        await run.bus.start()


async def engine_killed(run: Run) -> None:
    """kill -9 of PostgreSQL or Redis, twice."""
    for share in (0.2, 0.6):
        await run.reached(share)
        await run.engine.kill()


async def member_killed(run: Run) -> None:
    """kill -9 of members, each with another in its place."""
    for share in (0.2, 0.4, 0.6):
        await run.reached(share)
        member = run.members.pop(0)
        await member.kill()
        await run.join(member.tenant)


async def member_stopped(run: Run) -> None:
    """SIGSTOP of a member until others have what it had, for longer than the lease; then it goes on."""
    for share in (0.2, 0.5):
        await run.reached(share)
        run.members[0].pause()
        before = time.monotonic()
        await until(lambda before=before: time.monotonic() > before + 1.5 * LEASE_SECONDS)
        run.members[0].resume()


async def slow_member(run: Run) -> None:
    """One more member of each tenant, that takes its time."""
    for tenant in TENANTS:
        await run.join(tenant, slowness=0.3)


async def everything(run: Run) -> None:
    """Faults of all kinds, one after the other, at random."""
    faults = [bus_killed, engine_killed, member_killed, member_stopped, slow_member]
    run.random.shuffle(faults)
    for fault in faults:
        await fault(run)


@pytest.fixture(scope="module", params=["postgres", "redis"])
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    with tempfile.TemporaryDirectory(prefix="mnemo-test-") as folder:
        started = (PostgresEngine if request.param == "postgres" else RedisEngine)(Path(folder))
        asyncio.run(started.start())
        yield started
        asyncio.run(started.stop())


@pytest.fixture
async def bus(engine: Engine, tmp_path: Path) -> BusProcess:
    return BusProcess(tmp_path / "log", **await engine.settings())


@pytest.mark.parametrize("fault", [nothing, bus_killed, engine_killed, member_killed, member_stopped, slow_member])
async def test_every_promise_holds(
    fault: Callable[[Run], Awaitable[None]], bus: BusProcess, engine: Engine, tmp_path: Path
) -> None:
    async with Run(bus, engine, tmp_path / "seen", seed=1, events=EVENTS) as run:
        history = await run.work(fault)
    check(history)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2, 8))
async def test_every_promise_holds_whatever_happens(seed: int, bus: BusProcess, engine: Engine, tmp_path: Path) -> None:
    async with Run(bus, engine, tmp_path / "seen", seed, events=2 * EVENTS) as run:
        history = await run.work(everything)
    check(history)


async def test_events_that_nobody_can_do_hold_up_no_other(bus: BusProcess, engine: Engine, tmp_path: Path) -> None:
    async with Run(bus, engine, tmp_path / "seen", seed=1, events=EVENTS) as run:
        run.poison = 0.4
        history = await run.work(nothing)
    check(history)
    assert sum(map(len, history.dead.values())) > EVENTS / 4


def check(history: History) -> None:
    """The history keeps every promise, and something happened in it."""
    assert violations(history) == []
    answered = sum(event.position is not None for event in history.published)
    assert answered > 0.5 * len(history.published)
    assert len(history.settled) > 0.4 * answered
