"""Speed of the main job: keeping, finding, reading and exporting through the public client over gRPC.

Each size has a `mnemo serve` of its own, in a process of its own, on an empty directory. Baselines of the same run: the
smallest gRPC call to the same server (its health check), an fsync of a short append to a file beside the database, and
cosine + BM25 over the same texts in this process, without any server or storage.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import sys
import tempfile
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import grpc
import numpy as np
from grpc_health.v1 import health_pb2, health_pb2_grpc

from benchmarks.baselines import InProcess
from mnemo_index.storage.wordllama_encoder import WordLlamaEncoder
from mnemocore import Connection, MemoryInput, Space, connect
from mnemocore.data_directory import DataDirectory
from mnemocore.memory.v1 import memory_service_pb2, memory_service_pb2_grpc, resources_pb2

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

SIZES: Final = (1_000, 10_000)
LARGE: Final = 100_000
QUERIES: Final = 400
READS: Final = 500
PAGES: Final = 50
WRITES: Final = 300
BATCH: Final = 500
ECHOES: Final = 1000

_NAMES: Final = [
    "Ada",
    "Bruno",
    "Chiara",
    "Dmitri",
    "Elif",
    "Farid",
    "Greta",
    "Hugo",
    "Ines",
    "Jonas",
    "Kofi",
    "Lena",
    "Mina",
    "Nils",
    "Olga",
    "Priya",
    "Quim",
    "Rosa",
]
_THINGS: Final = [
    "boat",
    "bicycle",
    "piano",
    "garden",
    "kitchen",
    "thesis",
    "recipe",
    "camera",
    "tent",
    "guitar",
    "novel",
    "engine",
    "quilt",
    "drone",
    "kayak",
]
_PLACES: Final = [
    "Lisbon",
    "Tartu",
    "Ghent",
    "Porto",
    "Oslo",
    "Kyoto",
    "Lima",
    "Accra",
    "Turin",
    "Cork",
    "Graz",
    "Bergen",
    "Utrecht",
    "Split",
    "Valencia",
]
_ACTS: Final = [
    "repaired",
    "bought",
    "sold",
    "painted",
    "lost",
    "found",
    "borrowed",
    "photographed",
    "finished",
    "postponed",
    "cleaned",
    "lent",
]
_ENDS: Final = (
    "because the old one had broken during the long winter",
    "and now wants to show it to everybody at the summer party",
    "although the weather was terrible and the train came late",
    "which took the whole weekend and two pots of strong coffee",
    "after a friend had recommended it in a letter from abroad",
)


@dataclass(frozen=True, slots=True)
class Times:
    """Durations in milliseconds."""

    values: tuple[float, ...]

    def percentile(self, share: float) -> float:
        """The duration that `share` per cent do not exceed."""
        return float(np.percentile(self.values, share))

    def __str__(self) -> str:
        p50, p95, p99 = (self.percentile(share) for share in (50, 95, 99))
        return f"p50 {p50:8.2f} ms   p95 {p95:8.2f} ms   p99 {p99:8.2f} ms"


def sentences(count: int, seed: int) -> list[str]:
    """Made-up sentences of about 120 characters."""
    rng = random.Random(seed)
    return [
        f"{rng.choice(_NAMES)} {rng.choice(_ACTS)} the {rng.choice(_THINGS)} number {rng.randrange(10_000)} in "
        f"{rng.choice(_PLACES)} {rng.choice(_ENDS)}."
        for _ in range(count)
    ]


def questions(count: int, seed: int) -> list[str]:
    """Made-up questions about such sentences."""
    rng = random.Random(seed)
    return [
        f"Who {rng.choice(_ACTS)} a {rng.choice(_THINGS)} in {rng.choice(_PLACES)} with {rng.choice(_NAMES)}?"
        for _ in range(count)
    ]


@dataclass(frozen=True, slots=True)
class Served:
    """A running server."""

    address: str
    pid: int

    def peak_mib(self) -> float:
        """The most memory its Python process has held since it started, or since `forget_peak`, in MiB."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) / 1024

    def forget_peak(self) -> None:
        """Measure the peak from now on."""
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")


@asynccontextmanager
async def served(directory: Path) -> AsyncIterator[Served]:
    """A `mnemo serve` of its own on an empty directory; ended with SIGINT."""
    command = [sys.executable, "-m", "mnemo_cli", "serve", "--data-dir", str(directory), "--listen", "127.0.0.1:0"]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.DEVNULL)
    try:
        async with asyncio.timeout(60):
            while not (found := DataDirectory.served_by(directory)) or not found.address:
                if process.returncode is not None:
                    raise SystemExit(f"mnemo serve ended with code {process.returncode}")
                await asyncio.sleep(0.05)
        yield Served(found.address, process.pid)
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGINT)
        await process.wait()


async def timed(calls: Sequence[Callable[[], Awaitable[object]]]) -> Times:
    """The duration of each call, made one after the other."""
    values = []
    for call in calls:
        started = time.perf_counter()
        await call()
        values.append((time.perf_counter() - started) * 1000)
    return Times(tuple(values))


async def stream(space: Space, texts: Sequence[str]) -> tuple[float, float]:
    """Seconds until every memory sent in one stream is acknowledged, and until all of them are searchable."""
    items = [
        MemoryInput(content=text, actor=text.split()[0], session=f"s{place // 50}", ordinal=place % 50)
        for place, text in enumerate(texts)
    ]
    started = time.perf_counter()
    kept = await space.remember_many(items)
    acknowledged = time.perf_counter() - started
    if kept.errors:
        raise SystemExit(str(kept.errors[0].error))
    await space.recall(texts[-1], limit=1)  # read-your-writes: waits until the index has applied everything
    return acknowledged, time.perf_counter() - started


async def batches(mnemo: Connection, texts: Sequence[str]) -> float:
    """Seconds until memories sent in calls of BATCH, one after the other, are searchable."""
    stub = mnemo.stub(memory_service_pb2_grpc.MemoryServiceStub)
    started = time.perf_counter()
    for begin in range(0, len(texts), BATCH):
        memories = [resources_pb2.MemoryInput(content=text) for text in texts[begin : begin + BATCH]]
        request = memory_service_pb2.BatchCreateMemoriesRequest(parent="spaces/batches", memories=memories)
        await stub.BatchCreateMemories(request, timeout=60)
    await mnemo.space("batches").recall(texts[-1], limit=1, fully_consistent=True)
    return time.perf_counter() - started


def synced(directory: Path) -> Times:
    """The duration of an fsync after an append of 200 bytes: no durable write can be faster."""
    values = []
    with (directory / "fsync").open("ab", buffering=0) as file:
        for _ in range(WRITES):
            started = time.perf_counter()
            file.write(bytes(200))
            os.fsync(file.fileno())
            values.append((time.perf_counter() - started) * 1000)
    return Times(tuple(values))


async def pages(space: Space) -> Times:
    """The duration of each page of 100 memories, through up to PAGES pages."""
    values: list[float] = []
    listed, started = 0, time.perf_counter()
    async for _ in space.list(page_size=100):
        if listed % 100 == 0:
            values.append((time.perf_counter() - started) * 1000)
        listed += 1
        if listed % 100 == 0:
            if len(values) == PAGES:
                break
            started = time.perf_counter()
    return Times(tuple(values))


async def history(space: Space, memory_id: str) -> int:
    """Read the whole history of a memory; returns the number of its revisions."""
    return len([revision async for revision in space.history(memory_id)])


async def exported(address: str) -> dict[str, float]:
    """Export the space `bench` by a client in a process of its own; what `exporting` says of it."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks.exporting", address, "bench", stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    if process.returncode:
        raise SystemExit("the export failed")
    figures: dict[str, float] = json.loads(out)
    return figures


async def echo(address: str) -> Times:
    """Round trips of the smallest call the server answers."""
    async with grpc.aio.insecure_channel(address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        request = health_pb2.HealthCheckRequest()
        await stub.Check(request, timeout=5)
        return await timed([lambda: stub.Check(request, timeout=5)] * ECHOES)


async def run(count: int, seed: int) -> dict[str, float]:
    """Measure with `count` memories; prints a table and returns its figures."""
    texts, asked = sentences(count, seed), questions(QUERIES, seed + 1)
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory(prefix="mnemo-bench-") as data:
        async with served(Path(data)) as server, connect(server.address) as mnemo:
            space = mnemo.space("bench")
            for name in ("bench", "batches", "single"):
                await mnemo.create_space(name)
            await space.remember("warm up")
            acknowledged, searchable = await stream(space, texts)
            batched = await batches(mnemo, texts)
            await space.recall(asked[0])
            recall = await timed([partial(space.recall, query) for query in asked])
            single = await timed([partial(mnemo.space("single").remember, text) for text in texts[:WRITES]])
            ids = [memory.id async for memory in space.list(page_size=1000)]
            read = await timed([partial(space.get, rng.choice(ids)) for _ in range(READS)])
            listed = await pages(space)
            histories = await timed([partial(history, space, rng.choice(ids)) for _ in range(READS)])
            empty = await echo(server.address)
            before = server.peak_mib()
            server.forget_peak()
            resting = server.peak_mib()
            export = await exported(server.address)
            exporting = server.peak_mib()
        disk = synced(Path(data))
    encoder = WordLlamaEncoder.load()
    started = time.perf_counter()
    baseline = InProcess(encoder, texts)
    built = time.perf_counter() - started
    plain = []
    for query in asked:
        began = time.perf_counter()
        baseline.search(query, 10)
        plain.append((time.perf_counter() - began) * 1000)
    in_process = Times(tuple(plain))
    print(f"{count} memories, one client, `mnemo serve`, over gRPC")
    print(f"  stream, acknowledged         {count / acknowledged:10.0f} memories/s")
    print(f"  stream, all searchable       {count / searchable:10.0f} memories/s")
    print(f"  batches, all searchable      {count / batched:10.0f} memories/s")
    print(f"  in-process build (baseline)  {count / built:10.0f} memories/s")
    print(f"  single durable write         {single}")
    print(f"  fsync of a file (baseline)   {disk}")
    print(f"  recall of 10                 {recall}")
    print(f"  in-process search (baseline) {in_process}")
    print(f"  get                          {read}")
    print(f"  page of 100                  {listed}")
    print(f"  history of one               {histories}")
    print(f"  empty gRPC call (baseline)   {empty}")
    print(
        f"  recall / (in-process search + empty call), p50: "
        f"{recall.percentile(50) / (in_process.percentile(50) + empty.percentile(50)):.2f}"
    )
    print(f"  export                       {export['memories'] / export['seconds']:10.0f} memories/s")
    print(f"  peak memory of the exporting client {export['peak_mib']:.0f} MiB")
    print(f"  peak memory of the server    {before:.0f} MiB before, {resting:.0f} at rest, {exporting:.0f} exporting")
    return {
        "memories": count,
        "stream_acknowledged_per_s": count / acknowledged,
        "stream_searchable_per_s": count / searchable,
        "batches_searchable_per_s": count / batched,
        "baseline_build_per_s": count / built,
        "export_per_s": export["memories"] / export["seconds"],
        "export_client_peak_mib": export["peak_mib"],
        "export_server_peak_mib": exporting,
        "server_rest_mib": resting,
    } | {
        f"{name}_p{share}_ms": times.percentile(share)
        for name, times in {
            "single_write": single,
            "baseline_fsync": disk,
            "recall": recall,
            "baseline_search": in_process,
            "get": read,
            "page": listed,
            "history": histories,
            "empty_call": empty,
        }.items()
        for share in (50, 95, 99)
    }


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--memories", type=int, nargs="+", default=[], help="sizes to measure; default 1000 and 10000")
    parser.add_argument("--large", action="store_true", help=f"measure {LARGE} memories too")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--json", action="store_true", help="print the figures of each size as one JSON line")
    arguments = parser.parse_args()
    for count in [*(arguments.memories or SIZES), *([LARGE] if arguments.large else [])]:
        figures = asyncio.run(run(count, arguments.seed))
        if arguments.json:
            print(json.dumps(figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())
