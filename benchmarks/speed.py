"""Speed of the main job: ingestion and recall through the public client over gRPC, against baselines of the same run.

The server is `mnemo serve` in a process of its own. Baselines: the smallest gRPC call to the same server (its health
check), and cosine + BM25 over the same texts in this process, without any server or storage.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import signal
import sys
import tempfile
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import grpc
import numpy as np
from grpc_health.v1 import health_pb2, health_pb2_grpc

from benchmarks.baselines import InProcess
from mnemo_index.storage.wordllama_encoder import WordLlamaEncoder
from mnemocore import MemoryInput, Space, connect
from mnemocore.postgres import DataDirectory

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

QUERIES: Final = 400
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
        return f"p50 {self.percentile(50):8.2f} ms   p95 {self.percentile(95):8.2f} ms"


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


@asynccontextmanager
async def served(directory: Path) -> AsyncIterator[str]:
    """The address of a `mnemo serve` of its own on an empty directory; ended with SIGINT."""
    command = [sys.executable, "-m", "mnemo_cli", "serve", "--data-dir", str(directory), "--listen", "127.0.0.1:0"]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.DEVNULL)
    try:
        async with asyncio.timeout(60):
            while not (found := DataDirectory.served_by(directory)) or not found.address:
                if process.returncode is not None:
                    raise SystemExit(f"mnemo serve ended with code {process.returncode}")
                await asyncio.sleep(0.05)
        yield found.address
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


async def ingest(space: Space, texts: Sequence[str]) -> tuple[float, float]:
    """Seconds until every memory is acknowledged, and until all of them are searchable."""
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


async def echo(address: str) -> Times:
    """Round trips of the smallest call the server answers."""
    async with grpc.aio.insecure_channel(address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        request = health_pb2.HealthCheckRequest()
        await stub.Check(request, timeout=5)
        return await timed([lambda: stub.Check(request, timeout=5)] * ECHOES)


async def run(count: int, seed: int) -> dict[str, float]:
    """Measure; prints a table and returns its figures."""
    texts, asked = sentences(count, seed), questions(QUERIES, seed + 1)
    with tempfile.TemporaryDirectory(prefix="mnemo-bench-") as data:
        async with served(Path(data)) as address, connect(address) as mnemo:
            space = mnemo.space("bench")
            await mnemo.create_space("bench")
            await space.remember("warm up")
            acknowledged, searchable = await ingest(space, texts)
            await space.recall(asked[0])
            recall = await timed([lambda query=query: space.recall(query) for query in asked])  # type: ignore[misc]
            single = await timed([lambda text=text: space.remember(text) for text in texts[:200]])  # type: ignore[misc]
            empty = await echo(address)
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
    print(f"  ingest, acknowledged         {count / acknowledged:10.0f} memories/s")
    print(f"  ingest, all searchable       {count / searchable:10.0f} memories/s")
    print(f"  in-process build (baseline)  {count / built:10.0f} memories/s")
    print(f"  recall of 10                 {recall}")
    print(f"  in-process search (baseline) {in_process}")
    print(f"  empty gRPC call (baseline)   {empty}")
    print(f"  single durable write         {single}")
    print(
        f"  recall / (in-process search + empty call), p50: "
        f"{recall.percentile(50) / (in_process.percentile(50) + empty.percentile(50)):.2f}"
    )
    return {
        "memories": count,
        "ingest_searchable_per_s": count / searchable,
        "recall_p50_ms": recall.percentile(50),
        "recall_p95_ms": recall.percentile(95),
        "baseline_search_p50_ms": in_process.percentile(50),
        "empty_call_p50_ms": empty.percentile(50),
        "single_write_p50_ms": single.percentile(50),
    }


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--memories", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--json", action="store_true", help="print the figures as one JSON line at the end")
    arguments = parser.parse_args()
    figures = asyncio.run(run(arguments.memories, arguments.seed))
    if arguments.json:
        print(json.dumps(figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())
