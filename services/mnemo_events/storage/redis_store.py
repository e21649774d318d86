"""A Redis server: its connections, the scripts that run on it, whether it keeps what is written, and its errors.

Every call takes one connection for itself, and ends by the deadline of the running call or after 5 s. One that is cut
short costs its connection, so that no answer is ever taken for another's; what had reached the server by then takes
effect as a whole or not at all.
"""

from __future__ import annotations

import asyncio
import hashlib
import importlib.resources
import logging
import re
import time
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from redis import exceptions as failures
from redis.asyncio import ConnectionPool

from mnemocore import calls
from mnemocore.errors import DeadlineExceededError, InvalidSettingError, StoreFullError, StoreUnavailableError
from mnemocore.outages import Outages

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping

    from redis.asyncio.connection import AbstractConnection

RETRY_AFTER: Final = 1.0
"""Seconds after which a caller may ask again a store that did not answer."""
SETTING: Final = "MNEMO_EVENTS_LOG_URL"

_SCRIPTS: Final = "mnemo_events.storage.redis_scripts"
_OLDEST: Final = (6, 2)
_LIMIT: Final = 5.0
"""Seconds for a call without a deadline, and for connecting."""
_READY_LIMIT: Final = 1.0
_QUIET_SECONDS: Final = 5.0
"""Without news for so long the server is asked whether it is still there."""
_RECONNECT_SECONDS: Final = 1.0
_ALLOWED: Final = "allowed is appendonly yes with appendfsync always, or with everysec on Redis 7.2, or 8 and newer"
_FULL: Final = re.compile(r"\bOOM\b|No space left on device")
_NOT_NOW: Final = re.compile(
    r"\b(BUSY|LOADING|READONLY|MASTERDOWN|NOREPLICAS|CLUSTERDOWN|TRYAGAIN|MOVED|ASK|UNKILLABLE|NOAUTH|NOPERM|MISCONF)\b"
)

_log = logging.getLogger("mnemo_events.redis")


@dataclass(frozen=True, slots=True)
class _Script:
    source: str
    sha1: str

    @classmethod
    def of(cls, *parts: str) -> _Script:
        source = "\n".join(parts)
        return cls(source, hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest())


class RedisStore:
    """A server by its URL, and a place in it: all names of keys and channels begin with `{prefix}:`.

    Methods raise StoreUnavailableError when the server does not answer or cannot write now, StoreFullError when its
    memory or disk is full, and DeadlineExceededError.
    """

    def __init__(self, url: str, prefix: str, max_connections: int) -> None:
        self.base = f"{{{prefix}}}:"
        self.waits_for_disk = False
        """Whether the server writes to disk later than it answers, so that we have to wait for it."""
        try:
            self._connections = ConnectionPool.from_url(
                url,
                protocol=2,
                driver_info=None,
                socket_timeout=None,
                socket_connect_timeout=_LIMIT,
            )
            self._idle = [self._new_connection()]
        except (ValueError, TypeError) as error:
            raise refused("is not the URL of a Redis; allowed is redis://user:password@host:port/db") from error
        self._outages = Outages("Redis", _log)
        self._slots = asyncio.Semaphore(max_connections)
        self._patient_slots = asyncio.Semaphore(max_connections)
        self._scripts: Mapping[str, _Script] = {}
        self._is_closed = False

    async def prepare(self) -> None:
        """Read the scripts, and connect. Raises InvalidSettingError for a server that may lose what it is given."""
        self._scripts = await asyncio.to_thread(_read_scripts)
        async with self._connection():
            pass

    @contextmanager
    def blaming_the_url(self) -> Iterator[None]:
        """Raise InvalidSettingError for what the server refuses to do, for any reason that does not pass by itself."""
        try:
            yield
        except (StoreUnavailableError, failures.ResponseError) as error:
            if reason := _reason_to_refuse(error):
                raise refused(reason) from error
            raise

    async def run(self, script: str, *arguments: str | bytes | int, durable: bool = False) -> Any:
        """The answer of a script, by its name. `durable`: then what it wrote, or found written, is on disk."""
        try:
            async with self._connection(patient=durable and self.waits_for_disk) as connection:
                answer = await _evaluate(connection, self._scripts[script], self.base, arguments)
                if durable and self.waits_for_disk:
                    await _wait_for_disk(connection, self.base)
                return answer
        except InvalidSettingError as error:  # it was another server, or another configuration, when we started
            raise _unavailable(error, self._outages) from error

    async def ready(self) -> bool:
        """Whether the server answers within a second."""
        try:
            async with self._connection(_READY_LIMIT) as connection:
                await _command(connection, "PING")
        except (StoreUnavailableError, StoreFullError, DeadlineExceededError, InvalidSettingError):
            return False
        return True

    async def listen(
        self, channels: list[str], hear: Callable[[str, str], None], may_have_missed: Callable[[], None]
    ) -> None:
        """Give `hear` the channel and the text of all news, until cancelled.

        `may_have_missed` is called whenever listening begins, also again after it broke off.
        """
        said = ""
        while True:
            try:
                await self._listen(channels, hear, may_have_missed)
            except (failures.RedisError, OSError) as error:
                text = f"{type(error).__name__}: {error}"
                is_news = isinstance(error, failures.ResponseError) and text != said
                _log.log(logging.WARNING if is_news else logging.DEBUG, "listening to Redis broke off: %s", text)
                said = text
            await asyncio.sleep(_RECONNECT_SECONDS)

    async def close(self) -> None:
        """Close the connections; those in use when they are not any more."""
        self._is_closed = True
        while self._idle:
            await self._idle.pop().disconnect(nowait=True)

    async def _listen(
        self, channels: list[str], hear: Callable[[str, str], None], may_have_missed: Callable[[], None]
    ) -> None:
        connection = self._new_connection()
        try:
            async with asyncio.timeout(_LIMIT):
                await _connect(connection)
                await connection.send_command("SUBSCRIBE", *channels)
                for _ in channels:
                    await connection.read_response()
            may_have_missed()
            asked = False
            while True:
                news = await connection.read_response(timeout=_QUIET_SECONDS)
                if news is None:
                    if asked:
                        raise failures.ConnectionError("no answer")
                    await connection.send_command("PING")
                elif news[0] == b"message":
                    hear(news[1].decode(), news[2].decode())
                asked = news is None
        finally:
            await connection.disconnect(nowait=True)

    def _new_connection(self) -> AbstractConnection:
        connection: AbstractConnection = self._connections.make_connection()  # type: ignore[no-untyped-call]
        return connection

    @asynccontextmanager
    async def _connection(self, seconds: float = _LIMIT, *, patient: bool = False) -> AsyncIterator[AbstractConnection]:
        """A connection for one caller at a time. Those who wait for the disk do not keep others waiting."""
        with _translated(self._outages):
            async with asyncio.timeout(_budget(seconds)), self._patient_slots if patient else self._slots:
                connection = self._idle.pop() if self._idle else self._new_connection()
                try:
                    if await _connect(connection):
                        self.waits_for_disk = await _must_wait_for_disk(connection, self.base)
                    yield connection
                except failures.ResponseError:  # an answer like any other: nothing is left to read
                    raise
                except BaseException:  # whatever it is, an answer may still come that nobody waits for
                    await connection.disconnect(nowait=True)
                    raise
                finally:
                    if self._is_closed:
                        await connection.disconnect(nowait=True)
                    else:
                        self._idle.append(connection)


def _read_scripts() -> dict[str, _Script]:
    """The scripts by their names, with what they have in common: with all, and with those about the same thing."""
    files = [file for file in importlib.resources.files(_SCRIPTS).iterdir() if file.name.endswith(".lua")]
    texts = {file.name.removesuffix(".lua"): file.read_text(encoding="utf-8") for file in files}
    areas = {name: texts.get(f"prelude_{name.partition('_')[0]}", "") for name in texts}
    return {name: _Script.of(texts["prelude"], areas[name], text) for name, text in texts.items()}


def _reason_to_refuse(error: BaseException | None) -> str | None:
    """What is wrong with the URL, if it is that. The driver may have wrapped the answer of the server."""
    while error is not None:
        if isinstance(error, failures.AuthenticationError):
            return "names a user or password that the server refuses"
        if isinstance(error, failures.NoPermissionError):
            return "names a user that may not do what is needed; allowed is one with the rights that the README lists"
        if isinstance(error, failures.MovedError):
            return "leads to a node of a cluster that does not hold the keys; allowed is the node that does"
        if isinstance(error, failures.ResponseError) and not _NOT_NOW.search(_text(error)):
            return "leads to a server that does not do what is needed; allowed is a database of Redis 6.2 or newer"
        error = error.__cause__
    return None


def refused(reason: str) -> InvalidSettingError:
    """The error for a URL that cannot be used."""
    return InvalidSettingError(f"{SETTING} (hidden) {reason}", setting=SETTING)


async def _connect(connection: AbstractConnection) -> bool:
    """Connect where it is not, or where the other side has hung up since it was used; whether that was so."""
    if connection.is_connected:
        if not await connection.can_read():
            return False
        await connection.disconnect(nowait=True)
    await connection.connect()  # type: ignore[no-untyped-call]
    return True


async def _command(connection: AbstractConnection, *arguments: str | bytes | int) -> Any:
    await connection.send_command(*arguments)
    return await connection.read_response()


async def _evaluate(
    connection: AbstractConnection, script: _Script, base: str, arguments: tuple[str | bytes | int, ...]
) -> Any:
    try:
        return await _command(connection, "EVALSHA", script.sha1, 1, base, *arguments)
    except failures.NoScriptError:
        return await _command(connection, "EVAL", script.source, 1, base, *arguments)


async def _wait_for_disk(connection: AbstractConnection, base: str) -> None:
    """Return when the disk has all that was written so far; bounded by the timeout of the caller."""
    await _command(connection, "SET", f"{base}touched", 1)  # it waits for what this connection has written only
    local, _ = await _command(connection, "WAITAOF", 1, 0, 0)
    if local < 1:
        raise failures.ConnectionError("the append-only file does not have it")


async def _must_wait_for_disk(connection: AbstractConnection, base: str) -> bool:
    """Whether WAITAOF is needed for what is written to be on disk. Raises InvalidSettingError if nothing helps."""
    info = _fields(await _command(connection, "INFO"))
    if _version(info.get("redis_version", "")) < _OLDEST:
        raise refused(f"leads to Redis {info.get('redis_version', 'of no version')}; allowed is 6.2 or newer")
    if info.get("role") != "master":
        raise failures.ReadOnlyError("the server is a replica", status_code="READONLY")
    if info.get("aof_enabled") != "1":
        raise refused(f"leads to a Redis without an append-only file, which loses what it was given; {_ALLOWED}")
    policy = info.get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        raise refused(
            f"leads to a Redis with maxmemory-policy {policy}, which throws events away; allowed is noeviction"
        )
    if await _config(connection, "no-appendfsync-on-rewrite") == "yes":
        raise refused(
            "leads to a Redis with no-appendfsync-on-rewrite yes, which may lose what it was given; allowed is no"
        )
    appendfsync = await _config(connection, "appendfsync")
    if appendfsync == "always":
        return False
    if appendfsync == "no":
        raise refused(f"leads to a Redis with appendfsync no, which may lose what it was given; {_ALLOWED}")
    if not _has_true_waitaof(info):
        found = f"appendfsync {appendfsync}" if appendfsync else "CONFIG forbidden, so that appendfsync is not known,"
        raise refused(
            f"leads to a Redis {info['redis_version']} with {found} which may lose what it was given; {_ALLOWED}"
        )
    await _wait_for_disk(connection, base)
    return True


def _has_true_waitaof(info: dict[str, str]) -> bool:
    """Whether WAITAOF waits. That of Redis 7.4 and Valkey 8 and 9 answers before the disk has it, with everysec."""
    if "valkey_version" in info:
        return _version(info["valkey_version"]) == (7, 2)
    version = _version(info["redis_version"])
    return version == (7, 2) or version >= (8, 0)


def _version(text: str) -> tuple[int, ...]:
    """Major and minor version."""
    return tuple(int(number) for number in re.findall(r"\d+", text)[:2])


async def _config(connection: AbstractConnection, name: str) -> str | None:
    """The value of a setting of the server; None where it is not told."""
    try:
        answer = await _command(connection, "CONFIG", "GET", name)
    except failures.ResponseError:
        return None
    return answer[1].decode() if answer else None


def _fields(info: bytes) -> dict[str, str]:
    lines = (line.partition(":") for line in info.decode().splitlines())
    return {name: value for name, colon, value in lines if colon}


def _budget(seconds: float) -> float:
    deadline = calls.deadline.get()
    if deadline is None:
        return seconds
    left = deadline - time.monotonic()
    if left <= 0:
        raise DeadlineExceededError
    return left


@contextmanager
def _translated(outages: Outages) -> Iterator[None]:
    """Raise the project's errors for what is not the command's own fault; the driver's text goes to the log only.

    A block that ends well is an answer.
    """
    try:
        yield
    except TimeoutError as error:
        deadline = calls.deadline.get()
        if deadline is not None and time.monotonic() >= deadline - 0.005:
            raise DeadlineExceededError from error
        raise _unavailable(error, outages) from error
    except failures.ResponseError as error:
        if _FULL.search(_text(error)):
            raise StoreFullError("the store cannot take more data: its memory or disk is full") from error
        if not _NOT_NOW.search(_text(error)):
            raise
        raise _unavailable(error, outages) from error
    except (failures.RedisError, OSError) as error:
        raise _unavailable(error, outages) from error
    outages.answered()


def _text(error: failures.ResponseError) -> str:
    """What the server said, with the code that the driver takes away from some of it."""
    return f"{error.status_code or ''} {error}"


def _unavailable(error: Exception, outages: Outages) -> StoreUnavailableError:
    outages.failed(error)
    return StoreUnavailableError(retry_after=RETRY_AFTER)
