"""Agents on PostgreSQL. Whoever changes an agent locks its row first, then the rows of its tasks."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from mnemo_events.domain.agent import MAX_AGENTS, SILENCE, Agent, Description, Presence
from mnemo_events.domain.agents import Changes
from mnemo_events.domain.heartbeats import Heard
from mnemo_events.storage.postgres_outbox import tell
from mnemo_events.storage.postgres_tasks import take_back
from mnemocore.errors import QuotaExceededError
from mnemocore.ids import Tenant

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime

    from asyncpg import Connection, Record

    from mnemo_events.domain.heartbeats import Beat
    from mnemocore.calls import Identity
    from mnemocore.postgres import Database

_COLUMNS: Final = (
    "tenant, id, uid::text AS uid, capabilities, description, metadata::text AS metadata, principal, load, heard_at, "
    "online, period, edition, created_at"
)
_INSERT: Final = f"""
INSERT INTO events.agents (tenant, id, uid, capabilities, description, metadata, principal, load, heard_at, online,
    period, edition, created_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, 0, $8, true, 1, 1, $8) ON CONFLICT DO NOTHING RETURNING {_COLUMNS}
"""
_DESCRIBE: Final = """
UPDATE events.agents SET capabilities = $3, description = $4, metadata = $5, edition = edition + 1
WHERE tenant = $1 AND id = $2
"""
_LOCK: Final = f"""
SELECT {_COLUMNS} FROM events.agents WHERE (tenant, id) IN (SELECT * FROM unnest($1::text[], $2::text[]))
ORDER BY tenant, id FOR UPDATE
"""
_HEAR: Final = """
UPDATE events.agents AS a SET load = b.load, heard_at = b.heard_at, online = true, period = b.period,
    change = pg_current_xact_id()::text::bigint
FROM unnest($1::text[], $2::text[], $3::float8[], $4::timestamptz[], $5::bigint[])
    AS b(tenant, id, load, heard_at, period)
WHERE a.tenant = b.tenant AND a.id = b.id
"""
_FIND_ALL: Final = f"SELECT {_COLUMNS} FROM events.agents WHERE tenant = $1 AND id = ANY($2::text[]) ORDER BY id"
_LIST: Final = f"""
SELECT {_COLUMNS} FROM events.agents WHERE tenant = $1 AND id > $2 AND capabilities @> $3::text[]
    AND ($4::boolean IS NULL OR (online AND heard_at >= $5) = $4)
ORDER BY id LIMIT $6
"""
_SILENT: Final = f"""
SELECT {_COLUMNS} FROM events.agents WHERE online AND heard_at < $1
ORDER BY heard_at LIMIT $2 FOR UPDATE SKIP LOCKED
"""
_END: Final = """
UPDATE events.agents SET online = false, change = pg_current_xact_id()::text::bigint
WHERE (tenant, id) IN (SELECT * FROM unnest($1::text[], $2::text[]))
"""
_GONE: Final = """
INSERT INTO events.agents_gone (tenant, id, gone_at) VALUES ($1, $2, $3)
ON CONFLICT (tenant, id) DO UPDATE SET gone_at = excluded.gone_at, change = excluded.change
"""
_CHANGES: Final = f"SELECT {_COLUMNS} FROM events.agents WHERE tenant = $1 AND change >= $2 ORDER BY id"
_CHANGES_GONE: Final = """
SELECT id FROM events.agents_gone AS gone WHERE tenant = $1 AND change >= $2
AND NOT EXISTS (SELECT FROM events.agents AS a WHERE a.tenant = $1 AND a.id = gone.id) ORDER BY id
"""
_HORIZON: Final = "SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint"
_COUNT: Final = "SELECT count(*) FROM (SELECT FROM events.agents WHERE tenant = $1 LIMIT $2) AS counted"


class PostgresAgents:
    """Implements `mnemo_events.domain.agents.AgentStore`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def register(
        self, speaker: Identity, agent_id: str, said: Description, uid: str, now: datetime, limit: int | None
    ) -> Agent:
        """Insert or change a row."""
        described = (list(said.capabilities), said.description, json.dumps(said.metadata))
        async with self._database.transaction() as connection:
            # Between the two statements somebody else may register it, and forget it.
            while not (found := await _lock(connection, [(speaker.tenant, agent_id)])):
                await _check_room(connection, speaker.tenant, limit)
                row = await connection.fetchrow(
                    _INSERT, speaker.tenant, agent_id, UUID(uid), *described, speaker.principal, now
                )
                if row is not None:
                    await tell(connection, [_agent(row).registered()])
                    return _agent(row)
            known = found[0]
            known.check_speaker(speaker)
            await connection.execute(_DESCRIBE, speaker.tenant, agent_id, *described)
            described_now = replace(known, description=said, edition=known.edition + 1)
            return (await _hear(connection, [(described_now, None)], now))[0]

    async def hear(self, beats: Sequence[Beat], now: datetime) -> list[Heard | None]:
        """Update rows in one transaction."""
        async with self._database.transaction() as connection:
            found = await _lock(connection, {(beat.speaker.tenant, beat.agent_id) for beat in beats})
            known = {(agent.tenant, agent.id): agent for agent in found}
            loads: dict[tuple[Tenant, str], float | None] = {}
            for beat in beats:
                key = (beat.speaker.tenant, beat.agent_id)
                if key in known and known[key].is_speaker(beat.speaker):
                    loads[key] = loads.get(key) if beat.load is None else beat.load
            heard = await _hear(connection, [(known[key], load) for key, load in loads.items()], now)
        before, known = known, known | {(agent.tenant, agent.id): agent for agent in heard}
        answers: list[Heard | None] = []
        for beat in beats:
            key = (beat.speaker.tenant, beat.agent_id)
            agent = known.get(key)
            answers.append(Heard(agent, revived=agent.period != before[key].period) if agent else None)
        return answers

    async def find(self, tenant: Tenant, agent_id: str) -> Agent | None:
        """Read a row."""
        found = await self.find_all(tenant, [agent_id])
        return found[0] if found else None

    async def find_all(self, tenant: Tenant, ids: Sequence[str]) -> list[Agent]:
        """Read rows."""
        return [_agent(row) for row in await self._database.fetch(_FIND_ALL, tenant, list(ids))]

    async def list_agents(
        self,
        tenant: Tenant,
        after_id: str,
        limit: int,
        capabilities: Sequence[str],
        presence: Presence | None,
        now: datetime,
    ) -> list[Agent]:
        """Read rows by id."""
        online = None if presence is None else presence is Presence.ONLINE
        rows = await self._database.fetch(_LIST, tenant, after_id, list(capabilities), online, now - SILENCE, limit)
        return [_agent(row) for row in rows]

    async def deregister(self, speaker: Identity, agent_id: str, now: datetime) -> bool:
        """Delete a row; if the agent was silent for too long, that is told before."""
        async with self._database.transaction() as connection:
            found = await _lock(connection, [(speaker.tenant, agent_id)])
            if not found:
                return False
            agent = found[0]
            agent.check_speaker(speaker)
            notices = [agent.deregistered(now)]
            if agent.online and agent.presence_at(now) is Presence.OFFLINE:
                notices.insert(0, agent.went_offline())
            await tell(connection, notices)
            await take_back(connection, [(agent.tenant, agent.id)], now)
            await connection.execute("DELETE FROM events.agents WHERE tenant = $1 AND id = $2", agent.tenant, agent.id)
            await connection.execute(_GONE, agent.tenant, agent.id, now)
        return True

    async def end_silent(self, now: datetime, limit: int) -> list[Agent]:
        """Mark rows that nobody else is marking."""
        async with self._database.transaction() as connection:
            silent = [_agent(row) for row in await connection.fetch(_SILENT, now - SILENCE, limit)]
            if silent:
                keys = [(agent.tenant, agent.id) for agent in silent]
                await connection.execute(_END, *_arrays(keys))
                await _end(connection, silent, now)
        return [replace(agent, online=False) for agent in silent]

    async def count(self, tenant: Tenant, most: int) -> int:
        """Count rows."""
        return int(await self._database.fetchval(_COUNT, tenant, most))

    async def horizon(self) -> int:
        """The oldest transaction that may still commit."""
        return int(await self._database.fetchval(_HORIZON))

    async def changes(self, tenant: Tenant, since: int) -> Changes:
        """Rows that transactions from `since` on have written, from one snapshot."""
        async with self._database.transaction(isolation="repeatable_read", readonly=True) as connection:
            horizon = await connection.fetchval(_HORIZON)
            rows = await connection.fetch(_CHANGES, tenant, since)
            gone = await connection.fetch(_CHANGES_GONE, tenant, since)
        return Changes(tuple(_agent(row) for row in rows), tuple(row["id"] for row in gone), horizon)

    async def forget_gone(self, before: datetime) -> None:
        """Delete rows."""
        await self._database.execute("DELETE FROM events.agents_gone WHERE gone_at < $1", before)


async def _lock(connection: Connection, keys: Iterable[tuple[Tenant, str]]) -> list[Agent]:
    """Lock the rows that are there, in the one order that everybody does."""
    return [_agent(row) for row in await connection.fetch(_LOCK, *_arrays(keys))]


async def _check_room(connection: Connection, tenant: Tenant, limit: int | None) -> None:
    """Raise QuotaExceededError if there is no room for one more; nobody else adds one until the commit."""
    if limit is None:
        return
    await connection.execute("SELECT pg_advisory_xact_lock(hashtextextended($1, 0))", f"mnemo agents {tenant}")
    if await connection.fetchval(_COUNT, tenant, limit) >= limit:
        text = f"the tenant has {MAX_AGENTS} agents, the most there may be; deregister those that are gone"
        raise QuotaExceededError(text, quota="agents", limit=str(MAX_AGENTS))


async def _hear(connection: Connection, said: Sequence[tuple[Agent, float | None]], now: datetime) -> list[Agent]:
    """Take signs of life of locked agents, with a load or the one there is; the agents as they are then."""
    heard, silent, notices = [], [], []
    for agent, load in said:
        present = replace(
            agent, load=agent.load if load is None else load, heard_at=max(now, agent.heard_at), online=True
        )
        if agent.presence_at(now) is Presence.OFFLINE:
            present = replace(present, period=agent.period + 1)
            notices.append(present.came_online())
            if agent.online:
                silent.append(agent)
        heard.append(present)
    await _end(connection, silent, now)
    await tell(connection, notices)
    await connection.execute(
        _HEAR,
        [agent.tenant for agent in heard],
        [agent.id for agent in heard],
        [agent.load for agent in heard],
        [agent.heard_at for agent in heard],
        [agent.period for agent in heard],
    )
    return heard


async def _end(connection: Connection, silent: Sequence[Agent], now: datetime) -> None:
    """Tell that locked agents went offline, and take their tasks."""
    if silent:
        await tell(connection, [agent.went_offline() for agent in silent])
        await take_back(connection, [(agent.tenant, agent.id) for agent in silent], now)


def _arrays(keys: Iterable[tuple[Tenant, str]]) -> tuple[list[str], list[str]]:
    pairs = list(keys)
    return [tenant for tenant, _ in pairs], [id for _, id in pairs]


def _agent(row: Record) -> Agent:
    metadata: dict[str, Any] = json.loads(row["metadata"])
    return Agent(
        tenant=Tenant(row["tenant"]),
        id=row["id"],
        uid=row["uid"],
        description=Description(tuple(row["capabilities"]), row["description"], metadata),
        principal=row["principal"],
        load=row["load"],
        heard_at=row["heard_at"],
        online=row["online"],
        period=row["period"],
        edition=row["edition"],
        created_at=row["created_at"],
    )
