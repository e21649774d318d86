"""How finding and keeping grow with the number of memories and of spaces, beside what else finds vectors.

A text goes in, ranked memories come out: through the client of a `mnemo serve`, inside the index service, and, on the
same texts with the same encoder in the same run, by exact cosine in numpy, by Chroma and by Qdrant's local mode. The
last two are measured if they are installed (`make bench-scale`). Each is measured in a process of its own. The texts
are the facts of a generated world: many share their subject, many their words.

RAM is what the processes take more than when they were empty; the texts are not part of it for numpy. Restart is the
time until the first search is answered; for the client it begins with the start of `mnemo serve`, for the others when
Python and the encoder are loaded. `exact` is the share of the exact ten nearest vectors that are found.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import gc
import json
import random
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import psutil

from benchmarks.chart import Chart, svg
from benchmarks.contenders import BATCH, CONTENDERS, Contender, nearest
from benchmarks.speed import Times, served
from benchmarks.world import generate
from mnemo_index.storage.wordllama_encoder import WordLlamaEncoder
from mnemocore import MemoryInput, connect
from mnemocore.errors import IndexLaggingError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from mnemocore import Connection, Space

    Figures = dict[str, Any]

SIZES: Final = (1_000, 10_000, 100_000)
LARGE: Final = 1_000_000
SPACES: Final = (1, 10, 100, 1_000)
MANY_SPACES: Final = 10_000
IN_A_SPACE: Final = 10
CLIENTS: Final = (1, 8)
CUT: Final = 10
CLIENT: Final = "client"

_QUERIES: Final = 400
_SECONDS: Final = 8.0
_UPDATES: Final = 1_000
_CHECKED: Final = 100
_WARM_UP: Final = 10
_MEASURABLE: Final = 100
"""Fewer spaces take less RAM than what a server holds varies by."""


def texts_of(count: int, seed: int) -> tuple[list[str], list[str]]:
    """`count` texts, and questions after some of them."""
    world = generate(count, 100, seed)
    questions = [question.text for question in world.questions]
    random.Random(seed).shuffle(questions)
    return [fact.text for fact in world.facts], questions


def parts(texts: Sequence[str], first: int = 0) -> Iterator[dict[int, str]]:
    """The texts with their numbers, in batches."""
    for start in range(0, len(texts), BATCH):
        yield dict(enumerate(texts[start : start + BATCH], first + start))


def changed_texts(texts: Sequence[str], seed: int) -> dict[int, str]:
    """New texts for up to _UPDATES numbers: those of others."""
    chosen = random.Random(seed).sample(range(len(texts)), min(_UPDATES, len(texts) // 10))
    return {number: texts[(number + 1) % len(texts)] for number in chosen}


def measured(name: str, count: int, seed: int, directory: Path) -> Figures:
    """What a contender does in this process."""
    texts, queries = texts_of(count, seed)
    encoder = WordLlamaEncoder.load()
    encoder.encode(texts[:BATCH])
    contender = CONTENDERS[name](encoder, directory)
    contender.create()
    before = _held()
    started = time.perf_counter()
    for part in parts(texts):
        contender.put(part)
    built = time.perf_counter() - started
    updates = changed_texts(texts, seed)
    started = time.perf_counter()
    numbers = list(updates)
    for start in range(0, len(numbers), BATCH):
        contender.put({number: updates[number] for number in numbers[start : start + BATCH]})
    updated = time.perf_counter() - started
    figures: Figures = {"method": name, "memories": count, "build_per_s": count / built}
    figures["update_per_s"] = len(updates) / updated
    for clients in CLIENTS:
        times, seconds = searched(contender, queries, clients)
        figures |= _search_figures(clients, times, seconds)
    contender.save()
    figures["ram_bytes"] = (_held() - before) / count
    figures["disk_bytes"] = _size(directory) / count
    if contender.ranks_by_vector:
        for number, text in updates.items():
            texts[number] = text
        exact = nearest(encoder, texts, queries[:_CHECKED], CUT)
        found = [set(contender.search(query, CUT)) for query in queries[:_CHECKED]]
        figures["exact"] = sum(len(a & b) for a, b in zip(exact, found, strict=True)) / (CUT * len(exact))
    return figures


def searched(contender: Contender, queries: Sequence[str], clients: int) -> tuple[Times, float]:
    """The milliseconds of up to _QUERIES searches by so many threads, at most _SECONDS long, and the seconds of all."""
    for query in queries[:_WARM_UP]:
        contender.search(query, CUT)
    until = time.perf_counter() + _SECONDS

    def work(client: int) -> list[float]:
        taken = []
        for number in range(client, _QUERIES, clients):
            started = time.perf_counter()
            contender.search(queries[number % len(queries)], CUT)
            taken.append((time.perf_counter() - started) * 1000)
            if time.perf_counter() > until:
                break
        return taken

    started = time.perf_counter()
    with ThreadPoolExecutor(clients) as threads:
        times = [taken for some in threads.map(work, range(clients)) for taken in some]
    return Times(tuple(times)), time.perf_counter() - started


def reopened(name: str, query: str, directory: Path) -> Figures:
    """The seconds until a contender that was saved answers, in this process."""
    contender = CONTENDERS[name](WordLlamaEncoder.load(), directory)
    started = time.perf_counter()
    contender.open()
    contender.search(query, CUT)
    return {"restart_s": time.perf_counter() - started}


async def measured_client(count: int, seed: int, directory: Path) -> Figures:
    """What `mnemo serve` does, through the client of this process."""
    texts, queries = texts_of(count, seed)
    figures: Figures = {"method": CLIENT, "memories": count}
    async with served(directory) as server, connect(server.address) as mnemo:
        await mnemo.space("warm").remember("warm up")
        await mnemo.space("warm").recall("warm up")
        before, disk = _held_by_all(server.pid), _size(directory)
        space = mnemo.space("scale")
        started = time.perf_counter()
        kept = await space.remember_many(MemoryInput(content=text) for text in texts)
        await space.recall(queries[0])
        figures["build_per_s"] = count / (time.perf_counter() - started)
        updates = changed_texts(texts, seed)
        started = time.perf_counter()
        for number, text in updates.items():
            await space.update(kept.ids[number], content=text)
        await space.recall(queries[0])
        figures["update_per_s"] = len(updates) / (time.perf_counter() - started)
        for clients in CLIENTS:
            times, seconds = await recalled([space], queries, clients)
            figures |= _search_figures(clients, times, seconds)
        figures["ram_bytes"] = (_held_by_all(server.pid) - before) / count
    figures["disk_bytes"] = (_size(directory) - disk) / count
    started = time.perf_counter()
    async with served(directory) as server, connect(server.address) as mnemo:
        await mnemo.space("scale").recall(queries[0], fully_consistent=True)
        figures["restart_s"] = time.perf_counter() - started
    return figures


async def recalled(spaces: Sequence[Space], queries: Sequence[str], clients: int) -> tuple[Times, float]:
    """The milliseconds of up to _QUERIES recalls by so many callers, at most _SECONDS long, and the seconds of all."""
    for query in queries[:_WARM_UP]:
        await spaces[0].recall(query)
    until = time.perf_counter() + _SECONDS
    times: list[float] = []

    async def work(client: int) -> None:
        for number in range(client, _QUERIES, clients):
            started = time.perf_counter()
            await spaces[number % len(spaces)].recall(queries[number % len(queries)], limit=CUT)
            times.append((time.perf_counter() - started) * 1000)
            if time.perf_counter() > until:
                break

    started = time.perf_counter()
    await asyncio.gather(*(work(client) for client in range(clients)))
    return Times(tuple(times)), time.perf_counter() - started


async def measured_spaces(counts: Sequence[int], seed: int, directory: Path) -> list[Figures]:
    """Recall in a space of IN_A_SPACE memories while the number of such spaces grows, through the client."""
    texts, queries = texts_of(1_000, seed)
    rng = random.Random(seed)
    rows: list[Figures] = []
    async with served(directory) as server, connect(server.address) as mnemo:
        await mnemo.space("warm").remember("warm up")
        before, done = _held_by_all(server.pid), 0
        for count in counts:
            started = time.perf_counter()
            await _fill_spaces(mnemo, range(done, count), texts)
            acknowledged = time.perf_counter() - started
            await _caught_up(mnemo, queries[0])
            seconds = time.perf_counter() - started
            spaces = [mnemo.space(f"space-{rng.randrange(count)}") for _ in range(_QUERIES)]
            times, _ = await recalled(spaces, queries, 1)
            rows.append(
                {
                    "spaces": count,
                    "made_per_s": (count - done) / acknowledged,
                    "searchable_per_s": (count - done) / seconds,
                    "p50_ms": times.percentile(50),
                    "p95_ms": times.percentile(95),
                }
            )
            if count >= _MEASURABLE:
                rows[-1]["ram_bytes"] = (_held_by_all(server.pid) - before) / count
            done = count
    started = time.perf_counter()
    async with served(directory) as server, connect(server.address) as mnemo:
        await mnemo.space("space-0").recall(queries[0], fully_consistent=True)
        rows[-1]["restart_s"] = time.perf_counter() - started
    return rows


async def _fill_spaces(mnemo: Connection, numbers: range, texts: Sequence[str]) -> None:
    async def work(mine: Sequence[int]) -> None:
        for number in mine:
            start = number * IN_A_SPACE % len(texts)
            items = [MemoryInput(content=text) for text in texts[start : start + IN_A_SPACE]]
            await mnemo.space(f"space-{number}").remember_many(items)

    callers = CLIENTS[-1]
    await asyncio.gather(*(work(numbers[caller::callers]) for caller in range(callers)))


async def _caught_up(mnemo: Connection, query: str) -> None:
    """Return when everything that was written before is searchable: what is written now is so after it."""
    space = mnemo.space("warm")
    await space.remember("everything before is searchable now")
    while True:
        with suppress(IndexLaggingError):  # the recall itself has waited
            if not (await space.recall(query)).degraded:
                return


def _search_figures(clients: int, times: Times, seconds: float) -> Figures:
    return {
        f"p50_ms_{clients}": times.percentile(50),
        f"p95_ms_{clients}": times.percentile(95),
        f"queries_per_s_{clients}": len(times.values) / seconds,
    }


def _held() -> int:
    """Bytes of RAM that this process holds, once it has given back what it does not need."""
    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)
    return int(psutil.Process().memory_info().rss)


def _held_by_all(pid: int) -> int:
    """Bytes of RAM that a process and its descendants hold; what they share counts once."""
    found = psutil.Process(pid)
    return sum(int(process.memory_full_info().pss) for process in [found, *found.children(recursive=True)])


def _size(directory: Path) -> int:
    """Bytes of all files in a directory."""
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file() and not path.is_symlink())


def _in_own_process(*arguments: object) -> Figures:
    """What `--measure` prints."""
    command = [sys.executable, "-m", "benchmarks.scale", *map(str, arguments)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"failed: {' '.join(command)}")
    figures: Figures = json.loads(done.stdout.splitlines()[-1])
    return figures


def measure_all(count: int, seed: int) -> Iterator[Figures]:
    """The figures of each contender that is there and made for so many texts, each in a process of its own."""
    for name in (CLIENT, *CONTENDERS):
        if name != CLIENT:
            contender = CONTENDERS[name]
            if not contender.installed():
                print(f"{name}: skipped, {contender.needs} is not installed (make bench-scale installs it)")
                continue
            if count > contender.most:
                print(f"{name}: skipped, it is not made for more than {contender.most:,} texts")
                continue
        with tempfile.TemporaryDirectory(prefix="mnemo-scale-") as directory:
            common = ("--memories", count, "--seed", seed, "--directory", directory)
            figures = _in_own_process("--measure", name, *common)
            if name != CLIENT:
                figures |= _in_own_process("--reopen", name, *common)
        yield figures


def header() -> str:
    """The line above the figures."""
    return (
        f"{'':15}{'build/s':>9}{'update/s':>10}"
        + "".join(f"{f'p50 ms x{clients}':>11}{f'p95 ms x{clients}':>11}{'queries/s':>11}" for clients in CLIENTS)
        + f"{'RAM B':>8}{'disk B':>8}{'restart s':>11}{'exact':>7}"
    )


def row(figures: Mapping[str, Any]) -> str:
    """The figures in one line."""
    searches = "".join(
        f"{figures[f'p50_ms_{clients}']:11.2f}{figures[f'p95_ms_{clients}']:11.2f}"
        f"{figures[f'queries_per_s_{clients}']:11.0f}"
        for clients in CLIENTS
    )
    exact = f"{figures['exact']:7.3f}" if "exact" in figures else ""
    return (
        f"{figures['method']:15}{figures['build_per_s']:9.0f}{figures['update_per_s']:10.0f}{searches}"
        f"{figures['ram_bytes']:8.0f}{figures['disk_bytes']:8.0f}{figures['restart_s']:11.2f}{exact}"
    )


def drawn(rows: Sequence[Mapping[str, Any]], spaces: Sequence[Mapping[str, Any]]) -> str:
    """The growth as SVG."""
    memories: dict[str, list[tuple[float, float]]] = {}
    for figures in rows:
        memories.setdefault(str(figures["method"]), []).append((figures["memories"], figures["p50_ms_1"]))
    by_space = {share: [(figures["spaces"], figures[f"{share}_ms"]) for figures in spaces] for share in ("p50", "p95")}
    charts = [Chart("Search in one space, p50", "memories in the space", memories)]
    if spaces:
        lines = {f"{CLIENT}, {share}": points for share, points in by_space.items()}
        charts.append(Chart(f"Recall in one of many spaces of {IN_A_SPACE}", "spaces", lines))
    return svg(charts)


def run(sizes: Sequence[int], spaces: Sequence[int], seed: int, chart: Path | None) -> Figures:
    """Measure and print; with `chart` draw too. Returns all figures."""
    rows: list[Figures] = []
    for count in sizes:
        print(f"\n{count:,} memories in one space; RAM and disk a memory\n{header()}", flush=True)
        for figures in measure_all(count, seed):
            rows.append(figures)
            print(row(figures), flush=True)
    space_rows: list[Figures] = []
    if spaces:
        print(f"\nspaces of {IN_A_SPACE} memories, through the client; RAM a space", flush=True)
        with tempfile.TemporaryDirectory(prefix="mnemo-scale-") as directory:
            space_rows = asyncio.run(measured_spaces(spaces, seed, Path(directory)))
        print(f"{'spaces':>8}{'made/s':>9}{'found/s':>9}{'p50 ms':>9}{'p95 ms':>9}{'RAM B':>9}")
        for each in space_rows:
            ram = f"{each['ram_bytes']:9.0f}" if "ram_bytes" in each else ""
            print(
                f"{each['spaces']:>8}{each['made_per_s']:9.0f}{each['searchable_per_s']:9.0f}"
                f"{each['p50_ms']:9.2f}{each['p95_ms']:9.2f}{ram}"
            )
        print(f"restart with all of them: {space_rows[-1]['restart_s']:.2f} s")
    if chart is not None:
        chart.write_text(drawn(rows, space_rows))
    return {"seed": seed, "memories": rows, "spaces": space_rows}


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--memories", type=int, nargs="+", default=[], help=f"sizes to measure; default {SIZES}")
    parser.add_argument(
        "--large", action="store_true", help=f"measure {LARGE:,} memories and {MANY_SPACES:,} spaces too"
    )
    parser.add_argument(
        "--spaces", type=int, nargs="*", default=list(SPACES), help="numbers of spaces to measure, growing"
    )
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--chart", type=Path, help="draw the growth into this SVG file")
    parser.add_argument("--json", action="store_true", help="print all figures as one JSON line at the end")
    parser.add_argument("--measure", choices=(CLIENT, *CONTENDERS), help=argparse.SUPPRESS)
    parser.add_argument("--reopen", choices=CONTENDERS, help=argparse.SUPPRESS)
    parser.add_argument("--directory", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    sizes = [*(arguments.memories or SIZES), *([LARGE] if arguments.large else [])]
    if arguments.measure == CLIENT:
        print(json.dumps(asyncio.run(measured_client(sizes[0], arguments.seed, arguments.directory))))
    elif arguments.measure:
        print(json.dumps(measured(arguments.measure, sizes[0], arguments.seed, arguments.directory)))
    elif arguments.reopen:
        question = texts_of(1_000, arguments.seed)[1][0]
        print(json.dumps(reopened(arguments.reopen, question, arguments.directory)))
    else:
        spaces = [*arguments.spaces, *([MANY_SPACES] if arguments.large else [])]
        figures = run(sizes, spaces, arguments.seed, arguments.chart)
        if arguments.json:
            print(json.dumps(figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())
