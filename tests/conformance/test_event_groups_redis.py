"""Consumer groups on Redis against their suite."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.conformance.test_event_groups import GroupsOfTheDomain

from mnemo_events.storage.redis_engine import RedisEngine, open_redis_engine

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from mnemo_events.storage.redis_groups import RedisGroups
    from mnemocore.testing.redis import TestRedis


class TestRedisGroups(GroupsOfTheDomain):
    @pytest.fixture(autouse=True)
    async def _engines(self, redis_server: TestRedis, redis_prefix: str) -> AsyncIterator[None]:
        self._url, self._prefix = redis_server.url, redis_prefix
        self._opened: list[RedisEngine] = []
        yield
        for engine in self._opened:
            await engine.stop()

    async def open_groups(self) -> RedisGroups:
        engine = open_redis_engine(self._url, prefix=self._prefix)
        self._opened.append(engine)
        await engine.start()
        return engine.groups
