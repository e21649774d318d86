"""Installations to test against: in this process, served by one process, and in five processes."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from mnemocore import Connection, connect
from mnemocore.data_directory import DataDirectory

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

READY_SECONDS = 60.0


@dataclass
class Server:
    """A running `mnemo serve` or `mnemo up`."""

    directory: Path
    address: str
    process: subprocess.Popen[bytes]

    @property
    def api_key(self) -> str:
        """The key of the owner of the data directory."""
        return (self.directory / "admin.key").read_text().strip()

    def stop(self) -> int:
        """End it as Ctrl-C does; returns its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        return self.process.wait(READY_SECONDS)

    def kill(self) -> None:
        """End it with kill -9."""
        self.process.kill()
        self.process.wait(READY_SECONDS)


def start_server(command: str, directory: Path, listen: str = "127.0.0.1:0") -> Server:
    """Start `mnemo COMMAND` on a directory and wait until it has published its address."""
    process = subprocess.Popen(
        [sys.executable, "-m", "mnemo_cli", command, "--data-dir", str(directory), "--listen", listen],
        stdout=subprocess.DEVNULL,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )

    def address() -> str:
        served = DataDirectory.served_by(directory)
        return served.address if served and served.pid == process.pid else ""

    wait_until(lambda: process.poll() is not None or bool(address()), READY_SECONDS)
    if process.poll() is None and (ready := address()):
        return Server(directory, ready, process)
    process.kill()
    raise AssertionError(f"mnemo {command} did not become ready; exit code {process.wait()}")


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One `mnemo serve` for the session."""
    server = start_server("serve", tmp_path_factory.mktemp("served"))
    yield server
    assert server.stop() == 0


@pytest.fixture(scope="session")
def processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One `mnemo up` for the session."""
    server = start_server("up", tmp_path_factory.mktemp("processes"))
    yield server
    assert server.stop() == 0


@pytest.fixture(scope="session")
def embedded_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory for installations in this process, used by one test after the other."""
    return tmp_path_factory.mktemp("embedded")


@pytest.fixture
def run_server() -> Iterator[Callable[..., Server]]:
    """Starts servers of the test's own; they are ended with the test."""
    started: list[Server] = []

    def start(command: str, directory: Path, listen: str = "127.0.0.1:0") -> Server:
        server = start_server(command, directory, listen)
        started.append(server)
        return server

    yield start
    for server in started:
        if server.process.poll() is None:
            server.kill()


@pytest.fixture(params=["embedded", "served", "processes"])
async def mnemo(request: pytest.FixtureRequest) -> AsyncIterator[Connection]:
    """A connection to each kind of installation in turn: the same scenarios must end the same way on all."""
    async with AsyncExitStack() as stack:
        if request.param == "embedded":
            target, key = f"embedded:{request.getfixturevalue('embedded_directory')}", None
        else:
            server: Server = request.getfixturevalue(request.param)
            target, key = server.address, server.api_key
        yield await stack.enter_async_context(connect(target, api_key=key))


def wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    """Whether `condition`, which looks at another process, holds within `seconds`."""
    give_up = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > give_up:
            return False
        time.sleep(0.02)
    return True


async def eventually(condition: Callable[[], object], seconds: float = 60.0) -> None:
    """Return when `condition` holds; fails if it does not within `seconds`."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110  (what it looks at is not in this process)
            await asyncio.sleep(0.01)
