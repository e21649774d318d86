"""Killed and started again: every acknowledged memory is there once and is found."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import uuid
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

import psutil
import pytest
from tests.e2e.conftest import eventually

from mnemocore import MemoryInput, connect
from mnemocore.errors import DataDirectoryError, DeadlineExceededError, MnemoError, UnavailableError
from mnemocore.testing.waiting import until

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from tests.e2e.conftest import Server

    from mnemocore.client import RecallHits

T = TypeVar("T")


def items_of(count: int) -> list[MemoryInput]:
    return [
        MemoryInput(
            content=f"parcel {number} lies on shelf {number % 97}", id=str(uuid.uuid5(uuid.NAMESPACE_OID, str(number)))
        )
        for number in range(count)
    ]


@pytest.mark.parametrize(
    "kill_after", [pytest.param(1, marks=pytest.mark.slow), 600, pytest.param(2500, marks=pytest.mark.slow)]
)
async def test_kill_9_during_ingestion_loses_and_doubles_nothing(
    run_server: Callable[..., Server], tmp_path: Path, kill_after: int
) -> None:
    directory = tmp_path / "data"
    server = run_server("serve", directory)
    items, acknowledged = items_of(6000), 0

    def count(total: int) -> None:
        nonlocal acknowledged
        acknowledged = total
        if total >= kill_after:
            server.process.kill()

    async with connect(server.address) as mnemo:
        with pytest.raises(MnemoError):
            await mnemo.space("crash").remember_many(items, batch_size=100, on_progress=count)
    server.process.wait(30)
    assert acknowledged >= kill_after
    server = run_server("serve", directory)
    async with connect(server.address) as mnemo:
        space = mnemo.space("crash")
        stored = [memory.id async for memory in space.list(page_size=1000)]
        assert len(stored) == len(set(stored))
        assert set(stored) >= {item.id for item in items[:acknowledged]}
        for number in (0, acknowledged // 2, acknowledged - 1):
            hits = await space.recall(items[number].content, limit=1)
            assert hits[0].memory.id == items[number].id
        rest = await space.remember_many(items, on_error="collect")
        assert len(rest.ids) == len(items) - len(stored)
        assert len({hit.memory.id for hit in await space.recall("parcel shelf", limit=1000)}) == 1000
        assert (await space.info()).active_memories == len(items)
    assert server.stop() == 0


async def test_ctrl_c_drains_and_loses_nothing(run_server: Callable[..., Server], tmp_path: Path) -> None:
    directory = tmp_path / "data"
    server = run_server("serve", directory)
    acknowledged: list[str] = []

    async def write() -> None:
        async with connect(server.address) as mnemo:
            for number in range(10_000):
                kept = await mnemo.space("s").remember(f"line {number}")
                acknowledged.append(kept.id)

    writer = asyncio.create_task(write())
    await eventually(lambda: len(acknowledged) > 50)
    assert await asyncio.to_thread(server.stop) == 0
    with pytest.raises(MnemoError):
        await writer
    async with connect(f"embedded:{directory}") as mnemo:
        stored = {memory.id async for memory in mnemo.space("s").list(page_size=1000)}
        assert stored >= set(acknowledged)
        assert len(stored) <= len(acknowledged) + 1
        assert len(await mnemo.space("s").recall("line", limit=1000)) == len(stored)


@pytest.mark.slow
async def test_no_process_is_left_behind(run_server: Callable[..., Server], tmp_path: Path) -> None:
    directory = tmp_path / "data"
    for command, end in (("serve", "stop"), ("serve", "kill"), ("up", "stop"), ("up", "kill")):
        server = run_server(command, directory)
        family = psutil.Process(server.process.pid).children(recursive=True)
        assert family
        getattr(server, end)()
        await asyncio.to_thread(psutil.wait_procs, family, 45)
        assert [process for process in family if process.is_running()] == []


@pytest.mark.slow  # five installations of five processes
@pytest.mark.parametrize("service", ["mnemo_events", "mnemo_index", "mnemo_memory", "mnemo_cognitive", "mnemo_gateway"])
async def test_a_service_that_dies_is_started_again(
    run_server: Callable[..., Server], tmp_path: Path, service: str
) -> None:
    server = run_server("up", tmp_path / "data")
    async with connect(server.address, api_key=server.api_key) as mnemo:
        space = mnemo.space("s")
        kept = await space.remember("the kettle is in the cupboard")
        _process_of(server, service).kill()
        second = await _patiently(lambda: space.remember("the teapot is broken"))
        found: list[RecallHits] = []

        async def whole() -> bool:
            found.append(await _patiently(lambda: space.recall("Where is the kettle?")))
            return not found[-1].degraded

        await until(whole, 60)
        assert [hit.memory.id for hit in found[-1]] == [kept.id, second.id]
        assert all(hits[0].memory.id == kept.id for hits in found)  # by words alone too


def _process_of(server: Server, service: str) -> psutil.Process:
    """The process of one service of `mnemo up`."""
    for process in psutil.Process(server.process.pid).children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if service in process.cmdline():
                return process
    raise AssertionError(f"{service} does not run")


async def _patiently(call: Callable[[], Awaitable[T]]) -> T:
    """The first answer of `call` that is no UnavailableError; a client whose breaker has opened waits for 30 s."""
    async with asyncio.timeout(60):
        while True:
            try:
                return await call()
            except (UnavailableError, DeadlineExceededError):
                await asyncio.sleep(0.05)


def serve_once(
    directory: Path, command: str = "serve", listen: str = "127.0.0.1:0"
) -> subprocess.CompletedProcess[str]:
    """Run `mnemo serve` until it gives up."""
    return subprocess.run(
        [sys.executable, "-m", "mnemo_cli", command, "--data-dir", str(directory), "--listen", listen],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


async def test_one_directory_has_one_server(run_server: Callable[..., Server], tmp_path: Path) -> None:
    server = run_server("serve", tmp_path)
    second = await asyncio.to_thread(serve_once, tmp_path)
    assert second.returncode == 1
    assert second.stderr.count("\n") == 1
    assert str(server.process.pid) in second.stderr
    assert server.address in second.stderr
    async with connect(f"embedded:{tmp_path}") as through_the_server:
        await through_the_server.space("s").remember("kept by the running server")


@pytest.mark.parametrize("command", ["serve", "up"])
async def test_an_address_in_use_or_out_of_range_is_refused(
    run_server: Callable[..., Server], tmp_path: Path, command: str
) -> None:
    server = run_server("serve", tmp_path / "first")
    for listen in (server.address, "127.0.0.1:99999", "nonsense"):
        refused = await asyncio.to_thread(serve_once, tmp_path / "second", command, listen)
        assert refused.returncode == 1
        assert refused.stderr.strip().splitlines()[-1].startswith(f"error: listen = {listen!r}")


@pytest.mark.slow
async def test_commands_at_the_same_time_wait_for_each_other(tmp_path: Path) -> None:
    script = "import asyncio, sys; from tests.e2e.test_crash import keep; asyncio.run(keep(*sys.argv[1:]))"
    processes = [
        await asyncio.create_subprocess_exec(sys.executable, "-c", script, str(tmp_path), str(number))
        for number in range(4)
    ]
    assert [await process.wait() for process in processes] == [0, 0, 0, 0]
    async with connect(f"embedded:{tmp_path}") as mnemo:
        assert {memory.content async for memory in mnemo.space("s").list()} == {f"note {n}" for n in range(4)}
        with pytest.raises(DataDirectoryError, match="this process itself"):
            await keep(str(tmp_path), "5")


async def keep(directory: str, number: str) -> None:
    """What each of several short programs does."""
    async with connect(f"embedded:{directory}") as mnemo:
        await mnemo.space("s").remember(f"note {number}")


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # forking with threads is what is tested
async def test_a_forked_child_keeps_nothing_open(tmp_path: Path) -> None:
    async with connect(f"embedded:{tmp_path}") as mnemo:
        await mnemo.space("s").remember("before the fork")
        child = os.fork()
        if child == 0:
            signal.pause()
            os._exit(0)
    try:
        async with connect(f"embedded:{tmp_path}") as mnemo:
            assert (await mnemo.space("s").info()).active_memories == 1
    finally:
        os.kill(child, signal.SIGKILL)
        await asyncio.to_thread(os.waitpid, child, 0)


@pytest.mark.parametrize("trouble", ["newer", "file", "read only"])
def test_a_data_directory_that_cannot_be_used_is_one_clear_line(tmp_path: Path, trouble: str) -> None:
    directory = tmp_path / "data"
    if trouble == "newer":
        directory.mkdir()
        (directory / "FORMAT").write_text("99\n")
    elif trouble == "file":
        directory.write_text("not a folder")
    else:
        (tmp_path / "plain").write_text("")
        directory = tmp_path / "plain" / "data"
    refused = serve_once(directory)
    assert refused.returncode == 1
    assert refused.stderr.startswith("error: ")
    assert refused.stderr.count("\n") == 1
    assert str(directory) in refused.stderr
