"""NOTIFY of PostgreSQL as a call-back, over a connection that is opened again when it breaks."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, Final

import asyncpg

from mnemocore.errors import MnemoError

if TYPE_CHECKING:
    from collections.abc import Callable

    from asyncpg import Connection

    from mnemocore.postgres.database import Database

_RECONNECT_SECONDS: Final = 1.0

_log = logging.getLogger("mnemocore.postgres")


class Listener:
    """Calls `notify` with the payload of each notification of `channel`, and with None after each gap in listening.

    Listening begins with such a gap. Run `run` as a task; it ends only by being cancelled.
    """

    def __init__(self, database: Database, channel: str, notify: Callable[[str | None], None]) -> None:
        self._database = database
        self._channel = channel
        self._notify = notify

    async def run(self) -> None:
        """Listen for ever."""
        while True:
            try:
                await self._listen()
            except (MnemoError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
                _log.debug("listening on %s broke off: %s", self._channel, error)
            await asyncio.sleep(_RECONNECT_SECONDS)

    async def _listen(self) -> None:
        """Listen until the connection is gone."""
        connection = await self._database.connect()
        try:
            gone = asyncio.Event()
            connection.add_termination_listener(lambda _: gone.set())
            await connection.add_listener(self._channel, self._receive)
            self._notify(None)
            await gone.wait()
        finally:
            connection.terminate()

    def _receive(self, connection: Connection, pid: int, channel: str, payload: Any) -> None:
        self._notify(str(payload))
