from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from mnemocore.postgres import Listener
from mnemocore.testing.waiting import until

if TYPE_CHECKING:
    from mnemocore.postgres import Database


LISTENERS = "FROM pg_stat_activity WHERE query LIKE 'LISTEN%' AND datname = current_database()"


async def test_news_arrive_and_gaps_are_told(database: Database) -> None:
    heard: list[str | None] = []
    task = asyncio.create_task(Listener(database, "news", heard.append).run())
    await until(lambda: heard == [None])
    await database.execute("NOTIFY news, 'first'")
    await until(lambda: heard == [None, "first"])
    await database.execute(f"SELECT pg_terminate_backend(pid) {LISTENERS}")
    await until(lambda: heard == [None, "first", None])
    await database.execute("NOTIFY news, 'second'")
    await until(lambda: heard == [None, "first", None, "second"])
    task.cancel()
    await asyncio.wait([task])

    async def is_gone() -> bool:
        return bool(await database.fetchval(f"SELECT count(*) = 0 {LISTENERS}"))

    await until(is_gone)
