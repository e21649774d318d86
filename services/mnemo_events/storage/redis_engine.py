"""The log and the groups on Redis. Nothing here imports the driver before an engine is opened."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from mnemocore.errors import InvalidSettingError

if TYPE_CHECKING:
    from collections.abc import Callable

    from mnemo_events.storage.redis_groups import RedisGroups
    from mnemo_events.storage.redis_log import RedisLog
    from mnemo_events.storage.redis_store import RedisStore

PREFIX: Final = "mnemo-events"
"""What all names of keys and channels begin with, in braces: a hash tag, which keeps them on one node of a cluster."""


class RedisEngine:
    """Implements `mnemo_events.domain.ports.Engine`."""

    def __init__(self, store: RedisStore, log: RedisLog, groups: RedisGroups) -> None:
        self.log = log
        self.groups = groups
        self._store = store

    async def start(self) -> None:
        """Look whether the server keeps what it is given, and show readers what is there."""
        with self._store.blaming_the_url():
            await self._store.prepare()
            await self.log.confirm()

    async def listen(
        self, log_grew: Callable[[int | None], None], groups_changed: Callable[[str | None], None]
    ) -> None:
        """Subscribe to the channels, again whenever the connection breaks."""

        def hear(channel: str, text: str) -> None:
            if channel == self.log.channel:
                log_grew(int(text))
            else:
                groups_changed(text)

        def may_have_missed() -> None:
            log_grew(None)
            groups_changed(None)

        await self._store.listen([self.log.channel, self.groups.channel], hear, may_have_missed)

    async def ready(self) -> bool:
        """Whether the server answers."""
        return await self._store.ready()

    async def stop(self) -> None:
        """Close the connections."""
        await self._store.close()


def open_redis_engine(url: str, *, prefix: str = PREFIX, max_connections: int = 20) -> RedisEngine:
    """An engine on the Redis at a URL: redis://, rediss:// or unix://; it connects when it starts.

    Raises InvalidSettingError for another URL, or if the driver is not installed.
    """
    try:
        from mnemo_events.storage.redis_groups import RedisGroups
        from mnemo_events.storage.redis_log import RedisLog
        from mnemo_events.storage.redis_store import RedisStore
    except ModuleNotFoundError as error:
        if error.name != "redis":
            raise
        text = 'MNEMO_EVENTS_LOG_URL names a Redis, whose driver is not installed; pip install "mnemocore[redis]"'
        raise InvalidSettingError(text, setting="MNEMO_EVENTS_LOG_URL") from None
    store = RedisStore(url, prefix, max_connections)
    return RedisEngine(store, RedisLog(store), RedisGroups(store))
