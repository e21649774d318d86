"""Speed and memory of the event-bus, on PostgreSQL and on Redis, beside what the engines themselves do.

For each engine an `event-bus` of its own (`python -m mnemo_events`) on an empty durable store, spoken to over gRPC as
the gateway speaks to it: with the token of the installation and the identity of an administrator of events. Readers run
in a process of their own, each with a connection of its own. Everything shares the machine: publisher, readers, bus and
engine. Latencies are from when an event was due to be published, so a publisher that falls behind is seen, to the
reader's handler. Baselines of the same run: INSERT of the same columns and SELECT; XADD, XREAD and XREADGROUP.

Figures go to the standard output, what is being done to the standard error. Beside speeds stands what an event cost the
bus and Redis in computing time: on a machine that others use too, speeds fall and costs hardly do. Ctrl-C ends it all.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import socket
import sys
import tempfile
import time
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

import asyncpg
import grpc
import psutil
import redis.asyncio
import uvloop
from grpc_health.v1 import health_pb2, health_pb2_grpc

from benchmarks.following import STAMP_BYTES, headers
from mnemocore.events.v1 import (
    event_service_pb2,
    event_service_pb2_grpc,
    group_service_pb2,
    group_service_pb2_grpc,
    resources_pb2,
)
from mnemocore.ids import new_uuid
from mnemocore.postgres import EmbeddedPostgres
from mnemocore.testing.redis import TestRedis
from mnemocore.wire import to_timestamp

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

TOKEN: Final = "the token of a benchmark"
BATCHES: Final = (1, 100, 1000)
AT_ONCE: Final = 16
"""Callers of the publishing that is measured with several at once."""
PUBLISH_SECONDS: Final = 3.0
RATE: Final = 1000
"""Events a second while latencies are measured, in batches of RATE_BATCH."""
RATE_BATCH: Final = 10
RATE_SECONDS: Final = 5.0
READERS: Final = (1, 10, 100)
GROUPS: Final = (("group", 1), ("group", 4))
"""Groups by the number of their members."""
BACKLOG: Final = 100_000
LARGE_BACKLOG: Final = 1_000_000
IDLE_READERS: Final = 100
STALL_EVENTS: Final = 50_000
PAYLOAD_BYTES: Final = 200
READ_PAGE: Final = 512
SUBJECTS: Final = 1000
PATIENCE_SECONDS: Final = 60.0
PROGRESS_STEPS: Final = 10
"""Times that the publishing of a backlog tells how far it is."""

Figures = dict[str, float]


class Batches:
    """Makes batches of events: each of about PAYLOAD_BYTES, with an id of its own, over SUBJECTS subjects."""

    def __init__(self) -> None:
        self.made = 0
        self._run = new_uuid(datetime.now(UTC))
        self._padding = os.urandom(PAYLOAD_BYTES - STAMP_BYTES)

    def payload(self, due: int) -> bytes:
        """What an event says: when it was due."""
        return due.to_bytes(STAMP_BYTES, "big") + self._padding

    def take(self, size: int, due: int | None = None) -> event_service_pb2.PublishEventsRequest:
        """The next batch; `due` is in nanoseconds of the system's monotonic clock, now by default."""
        first, self.made = self.made, self.made + size
        data = self.payload(time.monotonic_ns() if due is None else due)
        at = to_timestamp(datetime.now(UTC))
        return event_service_pb2.PublishEventsRequest(
            events=[
                resources_pb2.Event(
                    id=f"{self._run}:{number}",
                    source="bench",
                    type="bench.measured",
                    subject=f"things/{number % SUBJECTS}",
                    time=at,
                    datacontenttype="application/octet-stream",
                    data=data,
                )
                for number in range(first, first + size)
            ]
        )


class Engine(Protocol):
    """A store for the bus, on its own."""

    name: str
    environment: dict[str, str]
    """What the bus is told of it."""

    async def start(self) -> None:
        """Start it on an empty folder."""

    async def stop(self) -> None:
        """End it, also if it was not, or not all, started."""

    def cpu_seconds(self) -> float:
        """What the server of the log has computed since its start; nan where that is many processes."""

    async def raw(self, backlog: int) -> Figures:
        """What it does without the bus: `publish_{batch}_per_s`, `read_per_s`, and what else it offers."""


class Postgres:
    """The embedded PostgreSQL as it comes: durable."""

    name = "postgres"

    def __init__(self, folder: Path) -> None:
        self._server = EmbeddedPostgres(folder / "postgres")
        self.environment: dict[str, str] = {}

    async def start(self) -> None:
        """Start it; when cancelled, no server is left."""
        await self._server.start()
        self.environment = {"DATABASE_URL": self._server.url}

    async def stop(self) -> None:
        """End it."""
        await self._server.stop()

    def cpu_seconds(self) -> float:
        """It is many processes."""
        return float("nan")

    async def raw(self, backlog: int) -> Figures:
        """INSERT of the same columns from arrays by one session, a batch a transaction; SELECT by pages."""
        connection = await asyncpg.connect(self._server.url)
        await connection.execute(_RAW_TABLE)
        figures: Figures = {}
        made = 0

        async def insert(size: int) -> None:
            nonlocal made
            ids = [f"event-{number:012}" for number in range(made, made + size)]
            made += size
            at = datetime.now(UTC)
            await connection.execute(
                _RAW_INSERT, ids, ["bench.measured"] * size, [at] * size, [bytes(PAYLOAD_BYTES)] * size
            )

        for size in BATCHES:
            figures[f"publish_{size}_per_s"] = await _rate_of(partial(insert, size), size)
        while made < backlog:
            await insert(1000)
        began, after, read = time.perf_counter(), 0, 0
        while rows := await connection.fetch(_RAW_SELECT, after, READ_PAGE):
            after, read = rows[-1]["position"], read + len(rows)
            if read >= backlog:
                break
        figures["read_per_s"] = read / (time.perf_counter() - began)
        await connection.execute("DROP TABLE raw")
        await connection.close()
        return figures


_RAW_TABLE: Final = """
CREATE TABLE raw (
    position bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, tenant text NOT NULL, source text NOT NULL,
    id text NOT NULL, type text NOT NULL, subject text NOT NULL, occurred_at timestamptz NOT NULL,
    data bytea NOT NULL, UNIQUE (tenant, source, id))
"""
_RAW_INSERT: Final = """
INSERT INTO raw (tenant, source, id, type, subject, occurred_at, data)
SELECT 'bench', 'bench', id, type, 'things/1', occurred_at, data
FROM unnest($1::text[], $2::text[], $3::timestamptz[], $4::bytea[]) AS t(id, type, occurred_at, data)
"""
_RAW_SELECT: Final = "SELECT * FROM raw WHERE position > $1 ORDER BY position LIMIT $2"


class Redis:
    """A Redis server that writes every command to disk before it answers."""

    name = "redis"

    def __init__(self, folder: Path) -> None:
        self._server = TestRedis(own=True)
        self._rest = Postgres(folder)
        self._process = psutil.Process()
        self.environment: dict[str, str] = {}

    async def start(self) -> None:
        """Start it, and a PostgreSQL for what is not the log."""
        await self._rest.start()
        self._server.start()  # blocks for some milliseconds, so that nothing can cut it short
        self._process = psutil.Process(int(self._server.command("INFO", "server")["process_id"]))
        self.environment = self._rest.environment | {"LOG_URL": self._server.url}

    async def stop(self) -> None:
        """End both."""
        self._server.stop()
        await self._rest.stop()

    def cpu_seconds(self) -> float:
        """Those of the server itself; rewriting the append-only file is the work of its children."""
        times = self._process.cpu_times()
        return float(times.user + times.system)

    async def raw(self, backlog: int) -> Figures:
        """XADD by one client, a batch a transaction; XREAD by pages; XREADGROUP with XACK of each page."""
        client: Any = redis.asyncio.Redis.from_url(self._server.url)
        await client.delete("raw")
        figures: Figures = {}
        entry = {b"id": b"event-000000000000", b"type": b"bench.measured", b"data": bytes(PAYLOAD_BYTES)}

        async def add(size: int) -> None:
            pipeline = client.pipeline(transaction=size > 1)
            for _ in range(size):
                pipeline.xadd("raw", entry)
            await pipeline.execute()

        for size in BATCHES:
            figures[f"publish_{size}_per_s"] = await _rate_of(partial(add, size), size)
        while await client.xlen("raw") < backlog:
            await add(1000)
        began, read, after = time.perf_counter(), 0, b"0"
        while read < backlog:
            ((_, entries),) = await client.xread({"raw": after}, count=READ_PAGE)
            read, after = read + len(entries), entries[-1][0]
        figures["read_per_s"] = read / (time.perf_counter() - began)
        await client.xgroup_create("raw", "group", "0")
        began, read = time.perf_counter(), 0
        while read < backlog:
            ((_, entries),) = await client.xreadgroup("group", "member", {"raw": ">"}, count=READ_PAGE)
            await client.xack("raw", "group", *(name for name, _ in entries))
            read += len(entries)
        figures["group_per_s"] = read / (time.perf_counter() - began)
        await client.delete("raw")
        await client.aclose()
        return figures


async def _rate_of(publish: Callable[[], Awaitable[object]], size: int, at_once: int = 1) -> float:
    """Events a second that `at_once` callers publish, each a batch after the other, for PUBLISH_SECONDS."""
    done, began = 0, time.perf_counter()

    async def caller() -> None:
        nonlocal done
        while time.perf_counter() - began < PUBLISH_SECONDS:
            await publish()
            done += size

    await asyncio.gather(*(caller() for _ in range(at_once)))
    return done / (time.perf_counter() - began)


@dataclass
class Bus:
    """A running event-bus."""

    address: str
    process: psutil.Process
    channel: grpc.aio.Channel
    batches: Batches = field(default_factory=Batches)

    def __post_init__(self) -> None:
        self._metadata = headers(TOKEN)
        self._events = event_service_pb2_grpc.EventServiceStub(self.channel)
        self._groups = group_service_pb2_grpc.GroupServiceStub(self.channel)

    def resident_mib(self) -> float:
        """The memory of the process."""
        return float(self.process.memory_info().rss) / 2**20

    def cpu_seconds(self) -> float:
        """What it has computed since its start."""
        times = self.process.cpu_times()
        return float(times.user + times.system)

    async def publish(self, size: int, due: int | None = None) -> int:
        """Publish the next batch; the position of its last event."""
        answer = await self._events.PublishEvents(
            self.batches.take(size, due), metadata=self._metadata, timeout=PATIENCE_SECONDS
        )
        return int(answer.positions[-1])

    async def publish_all(self, count: int, progress: Callable[[int], None] = lambda done: None) -> None:
        """Publish so many events in the largest batches, two at a time; `progress` is told how many there are."""
        left, done = count, 0

        async def caller() -> None:
            nonlocal left, done
            while left > 0:
                size = min(left, BATCHES[-1])
                left -= size
                await self.publish(size)
                done += size
                progress(done)

        async with asyncio.TaskGroup() as callers:
            callers.create_task(caller())
            callers.create_task(caller())

    async def publish_at_rate(self) -> float:
        """Publish RATE events a second in batches of RATE_BATCH, whatever earlier ones take; how late the last was, s.

        Batches are due at fixed times; one that has to wait for others is late, and its events know.
        """
        began, pause = time.monotonic(), RATE_BATCH / RATE
        calls: set[asyncio.Task[int]] = set()
        late = 0.0
        for place in range(int(RATE_SECONDS / pause)):
            due = began + place * pause
            late = time.monotonic() - due
            if late < 0:
                await asyncio.sleep(-late)
            calls.add(asyncio.create_task(self.publish(RATE_BATCH, int(due * 1e9))))
        for call in asyncio.as_completed(calls):
            await call
        return max(0.0, late)

    async def head(self) -> int:
        """The newest position."""
        request = event_service_pb2.ReadEventsRequest(page_size=1)
        answer = await self._events.ReadEvents(request, metadata=self._metadata, timeout=PATIENCE_SECONDS)
        return int(answer.head_position)

    async def make_group(self, after: int) -> None:
        """The group `bench` anew, which begins after a position."""
        delete = group_service_pb2.DeleteGroupRequest(name="groups/bench")
        await self._groups.DeleteGroup(delete, metadata=self._metadata, timeout=PATIENCE_SECONDS)
        create = group_service_pb2.CreateGroupRequest(
            group_id="bench", start_at=resources_pb2.StartAt(after_position=after)
        )
        await self._groups.CreateGroup(create, metadata=self._metadata, timeout=PATIENCE_SECONDS)

    @asynccontextmanager
    async def readers(self, kind: str, readers: int, after: int, wanted: int) -> AsyncIterator[Readers]:
        """A process of readers, whose streams are open."""
        command = [sys.executable, "-m", "benchmarks.following", self.address, TOKEN, kind]
        command += ["--readers", str(readers), "--after", str(after), "--wanted", str(wanted)]
        process = await asyncio.create_subprocess_exec(
            *command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
        )
        try:
            assert process.stdout is not None
            async with asyncio.timeout(PATIENCE_SECONDS):
                line = await process.stdout.readline()
            if line != b"ready\n":
                raise SystemExit("the readers did not begin")
            yield Readers(process)
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()


@dataclass
class Readers:
    """A process of readers."""

    process: asyncio.subprocess.Process

    async def result(self) -> Figures:
        """What they saw, when they had all."""
        assert self.process.stdout is not None
        line = await self.process.stdout.readline()
        if not line:
            raise SystemExit("the readers ended early")
        found: Figures = json.loads(line)
        return found


@asynccontextmanager
async def bus_on(engine: Engine) -> AsyncIterator[Bus]:
    """An event-bus of its own, ended with SIGTERM."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MNEMO_")}
    settings = engine.environment | {"INTERNAL_TOKEN": TOKEN, "LISTEN": address, "LOG_LEVEL": "WARNING"}
    environment |= {f"MNEMO_EVENTS_{name}": value for name, value in settings.items()}
    environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "mnemo_events", env=environment)
    try:
        async with grpc.aio.insecure_channel(address) as channel:
            async with asyncio.timeout(PATIENCE_SECONDS):
                while not await _serves(channel):
                    if process.returncode is not None:
                        raise SystemExit(f"the event-bus ended with code {process.returncode}")
                    await asyncio.sleep(0.05)
            yield Bus(address, psutil.Process(process.pid), channel)
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def _serves(channel: grpc.aio.Channel) -> bool:
    try:
        answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=1)
    except grpc.aio.AioRpcError:
        return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


async def publishing(bus: Bus) -> Figures:
    """Events a second by the size of batches, by one caller and by AT_ONCE."""
    figures: Figures = {}
    await bus.publish(1)
    for size in BATCHES:
        figures[f"publish_{size}_per_s"] = await _rate_of(partial(bus.publish, size), size)
    figures[f"publish_1_at_once_{AT_ONCE}_per_s"] = await _rate_of(partial(bus.publish, 1), 1, AT_ONCE)
    figures["publish_1000_at_once_2_per_s"] = await _rate_of(partial(bus.publish, 1000), 1000, 2)
    return figures


async def latencies(bus: Bus, kind: str, readers: int) -> Figures:
    """How long events take to the handlers of so many readers, or of a group's members, at RATE events a second."""
    after = await bus.head()
    events = int(RATE_SECONDS * RATE)
    if kind == "group":
        await bus.make_group(after)
    name = f"{kind}_{readers}"
    async with bus.readers(kind, readers, after, events) as following:
        cpu, began = bus.cpu_seconds(), time.monotonic()
        late = await bus.publish_at_rate()
        seen = await following.result()
        busy = (bus.cpu_seconds() - cpu) / (time.monotonic() - began)
    return {f"{name}_p{share}_ms": seen[f"p{share}_ms"] for share in (50, 95, 99)} | {
        f"{name}_publisher_late_ms": late * 1000,
        f"{name}_bus_cores": busy,
    }


async def publishing_backlog(engine: Engine, bus: Bus, backlog: int) -> Figures:
    """Events a second in the largest batches by two callers, and what one cost, until the backlog is there."""
    step, told = max(1, backlog // PROGRESS_STEPS), 0

    def progress(done: int) -> None:
        nonlocal told
        if done // step > told:
            told = done // step
            say(f"published {done} of {backlog}")

    with _costs(engine, bus, backlog) as costs:
        await bus.publish_all(backlog, progress)
    return {f"publish_backlog_{name}": value for name, value in costs.items()}


async def catching_up(engine: Engine, bus: Bus, after: int, backlog: int, kind: str, readers: int) -> Figures:
    """Events a second to a reader, or to a group that says of each that it is done, which begins behind a backlog."""
    if kind == "group":
        await bus.make_group(after)
    with _costs(engine, bus, backlog) as costs:
        async with bus.readers(kind, readers, after, backlog) as following:
            seen = await following.result()
    costs["per_s"] = seen["received"] / seen["seconds"]
    return {f"catch_up_{kind}_{readers}_{name}": value for name, value in costs.items()}


@contextmanager
def _costs(engine: Engine, bus: Bus, events: int) -> Iterator[Figures]:
    """Filled in at the end of the block: `per_s`, and microseconds of the bus and of the engine for each event."""
    costs: Figures = {}
    began, bus_before, engine_before = time.perf_counter(), bus.cpu_seconds(), engine.cpu_seconds()
    yield costs
    costs["per_s"] = events / (time.perf_counter() - began)
    costs["bus_us"] = (bus.cpu_seconds() - bus_before) / events * 1e6
    costs["engine_us"] = (engine.cpu_seconds() - engine_before) / events * 1e6


async def memory(bus: Bus) -> Figures:
    """Memory of the bus: with idle readers, and what a reader costs that reads no more while events pour in."""
    head = await bus.head()
    figures = {"resident_mib": bus.resident_mib()}
    async with bus.readers("idle", IDLE_READERS, head, 0):
        figures["idle_readers_mib"] = bus.resident_mib()
    before = bus.resident_mib()
    async with bus.readers("stalled", 1, head, 0):
        await bus.publish_all(STALL_EVENTS)
        figures["stalled_reader_mib"] = bus.resident_mib()
        figures["stalled_reader_adds_mib"] = bus.resident_mib() - before
    return figures


async def measure(engine: Engine, backlog: int, *, large: bool) -> Figures:
    """Everything about one engine, or only what depends on the backlog; prints as it goes."""
    say(f"{engine.name} alone")
    figures = {f"raw_{name}": value for name, value in (await engine.raw(backlog)).items()}
    if not large:
        async with bus_on(engine) as bus:
            figures |= {"start_mib": bus.resident_mib()} | await publishing(bus)
            report_publishing(figures)
    async with bus_on(engine) as bus:
        if not large:
            figures |= await memory(bus)
            report_memory(figures)
            for kind, readers in (*(("plain", readers) for readers in READERS), *GROUPS):
                figures |= await latencies(bus, kind, readers)
                report_latency(figures, kind, readers)
        after = await bus.head()
        figures |= await publishing_backlog(engine, bus, backlog)
        report_backlog(figures, backlog)
        for kind, readers in (("plain", 1), *GROUPS):
            say(f"{_who(kind, readers)} catches up {backlog}")
            figures |= await catching_up(engine, bus, after, backlog, kind, readers)
            report_catching_up(figures, backlog, kind, readers)
    return figures


def say(text: str) -> None:
    """Tell on the standard error what is being done."""
    print(f"    {datetime.now(UTC):%H:%M:%S} {text}", file=sys.stderr, flush=True)


def report_publishing(figures: Figures) -> None:
    """Print what publishing does."""
    for size in BATCHES:
        name = f"publish_{size}_per_s"
        print(f"  publish, batches of {size:<5}   {figures[name]:9.0f} events/s   raw {figures[f'raw_{name}']:9.0f}")
    print(f"  publish, 1 by {AT_ONCE} at once     {figures[f'publish_1_at_once_{AT_ONCE}_per_s']:9.0f} events/s")
    print(f"  publish, 1,000 by 2 at once {figures['publish_1000_at_once_2_per_s']:9.0f} events/s", flush=True)


def report_memory(figures: Figures) -> None:
    """Print what the process holds."""
    idle = figures["idle_readers_mib"] - figures["resident_mib"]
    print(f"  memory, at rest             {figures['resident_mib']:9.0f} MiB")
    print(f"  memory, {IDLE_READERS} idle readers    {figures['idle_readers_mib']:9.0f} MiB   they add {idle:.0f}")
    print(
        f"  memory, a stalled reader    {figures['stalled_reader_mib']:9.0f} MiB   {STALL_EVENTS} events meanwhile "
        f"add {figures['stalled_reader_adds_mib']:.0f}",
        flush=True,
    )


def report_latency(figures: Figures, kind: str, readers: int) -> None:
    """Print how long events take."""
    what = f"{readers} reader(s)" if kind == "plain" else f"group of {readers}"
    name = f"{kind}_{readers}"
    p50, p95, p99 = (figures[f"{name}_p{share}_ms"] for share in (50, 95, 99))
    print(
        f"  {RATE} events/s, {what:<12} p50 {p50:8.2f} ms   p95 {p95:8.2f} ms   p99 {p99:8.2f} ms   "
        f"bus {figures[f'{name}_bus_cores']:.2f} cores",
        flush=True,
    )


def report_backlog(figures: Figures, backlog: int) -> None:
    """Print how fast a backlog was published."""
    print(
        f"  {backlog} published, 1,000 by 2 {figures['publish_backlog_per_s']:9.0f} events/s   "
        f"raw {figures['raw_publish_1000_per_s']:9.0f}   {_cost(figures, 'publish_backlog')}",
        flush=True,
    )


def report_catching_up(figures: Figures, backlog: int, kind: str, readers: int) -> None:
    """Print how fast a backlog was read."""
    raw = figures["raw_read_per_s"] if kind == "plain" else figures.get("raw_group_per_s", float("nan"))
    name = f"catch_up_{kind}_{readers}"
    print(
        f"  {backlog} behind, {_who(kind, readers):<12} {figures[f'{name}_per_s']:9.0f} events/s   raw {raw:9.0f}   "
        f"{_cost(figures, name)}",
        flush=True,
    )


def _who(kind: str, readers: int) -> str:
    return "a reader" if kind == "plain" else f"group of {readers}"


def _cost(figures: Figures, name: str) -> str:
    bus, engine = figures[f"{name}_bus_us"], figures[f"{name}_engine_us"]
    return f"bus {bus:.0f} us/event" + ("" if math.isnan(engine) else f", engine {engine:.0f}")


async def run(engines: list[str], backlog: int, *, large: bool) -> dict[str, Figures]:
    """Measure the engines one after the other; whatever ends it, their servers are ended and their files removed."""
    found: dict[str, Figures] = {}
    for name in engines:
        async with AsyncExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mnemo-bench-")))
            engine: Engine = (Postgres if name == "postgres" else Redis)(folder)
            stack.push_async_callback(engine.stop)
            await engine.start()
            print(f"event-bus on {name}", flush=True)
            found[name] = await measure(engine, backlog, large=large)
    return found


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engines", nargs="+", choices=("postgres", "redis"), default=["postgres", "redis"])
    parser.add_argument(
        "--large", action="store_true", help="measure only what depends on the backlog, on a large one; no latencies"
    )
    parser.add_argument(
        "--backlog", type=int, help=f"events to catch up; {BACKLOG} if not given, {LARGE_BACKLOG} with --large"
    )
    parser.add_argument("--json", action="store_true", help="print the figures of all engines as one JSON line")
    arguments = parser.parse_args()
    backlog = arguments.backlog or (LARGE_BACKLOG if arguments.large else BACKLOG)
    try:
        found = uvloop.run(run(arguments.engines, backlog, large=arguments.large))
    except KeyboardInterrupt:
        say("ended by Ctrl-C; no process is left")
        return 130
    if arguments.json:
        print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
