"""The associations of memory-core on PostgreSQL.

Whoever changes links of a space locks it first, so that of two reinforcements at the same time both count. Reading
takes no locks. Which memories conduct is said by the same conditions as everywhere; ids tell nothing, so links of
encrypted spaces are stored as they are.
"""

from __future__ import annotations

import json
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from mnemo_memory.domain.associations import (
    LEARNING_WINDOW,
    NEW_LEARNT_LINKS,
    Association,
    AssociationType,
    Direction,
    Link,
)
from mnemo_memory.domain.associations import LINKS_A_MEMORY as LINKS_A_SOURCE
from mnemo_memory.domain.memory import State
from mnemo_memory.domain.spreading import Edge
from mnemo_memory.storage import rows, transactions
from mnemo_memory.storage.conditions import Conditions
from mnemo_memory.storage.fresh_keys import with_fresh_keys
from mnemocore.errors import MemoryNotFoundError, QuotaExceededError
from mnemocore.ids import MemoryId

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from asyncpg import Connection, Record

    from mnemo_memory.domain.associations import Conduct, LinkFilter, Place, Strength
    from mnemo_memory.domain.memory import Filter, Space
    from mnemo_memory.domain.ports import Author, Request, Vault
    from mnemocore.postgres import Database
    from mnemocore.sealing import SpaceCipher

_COLUMNS: Final = "source, target, type, weight, activations, created_at, updated_at, principal"
_ORDER: Final = "weight DESC, source, target, type"
_KEY: Final = "space_uid = $1 AND source = $2 AND target = $3 AND type = $4"
_PUT: Final = f"""
INSERT INTO memory.associations (space_uid, source, target, type, weight, created_at, updated_at, principal)
VALUES ($1, $2, $3, $4, $5, $7, $7, $8)
ON CONFLICT (space_uid, source, target, type) DO UPDATE
SET weight = excluded.weight, activations = associations.activations + $6, updated_at = excluded.updated_at
RETURNING {_COLUMNS}
"""
_LEAVE_STRONGEST: Final = """
DELETE FROM memory.associations AS a USING (
    SELECT target, type FROM memory.associations WHERE space_uid = $1 AND source = $2 AND (target, type) <> ($3, $4)
    ORDER BY weight DESC, updated_at DESC, target, type OFFSET $5
) AS surplus
WHERE a.space_uid = $1 AND a.source = $2 AND a.target = surplus.target AND a.type = surplus.type
"""
_NEWEST_LEARNT: Final = f"""
SELECT created_at FROM memory.associations WHERE space_uid = $1 AND type = {AssociationType.CO_RECALLED.value}
AND created_at > $2 AND created_at <= $3 ORDER BY created_at DESC OFFSET $4 LIMIT 1
"""
QUOTA_OF_LEARNT: Final = "new_co_recalled_links_per_hour"
"""What the limit of new links of the type CO_RECALLED is called in errors."""
_ENDS: Final = {
    Direction.OUTGOING: (("source", "target"),),
    Direction.INCOMING: (("target", "source"),),
    Direction.BOTH: (("source", "target"), ("target", "source")),
}
"""For each direction the columns of the memory one comes from and of the one that is reached."""


class PostgresAssociations:
    """Implements `mnemo_memory.domain.associations.AssociationStore`."""

    def __init__(self, database: Database, vault: Vault) -> None:
        self._database = database
        self._vault = vault

    async def put(
        self, space: Space, link: Link, strength: Strength, author: Author, request: Request | None
    ) -> Association:
        """Set or reinforce a link; the weakest other link of its source goes if there are too many."""
        async with self._database.transaction() as connection:
            locked = await transactions.lock(connection, space)
            await _require_memories(connection, space, [link.source, link.target])
            if record := await transactions.earlier(connection, space.tenant, request):
                return _answered(link, json.loads(record["duplicates"])["0"])
            put = await _put(connection, space, link, strength, author)
            last = locked.revision
            answer = {0: _answer(put)}
            await transactions.remember(connection, space, request, last + 1, last, author.at, duplicates=answer)
            return put

    async def remove(self, space: Space, source: MemoryId, target: MemoryId, type: AssociationType | None) -> int:
        """Remove the link of one type, or of all; returns the number."""
        async with self._database.transaction() as connection:
            await transactions.lock(connection, space)
            status: str = await connection.execute(
                "DELETE FROM memory.associations WHERE space_uid = $1 AND source = $2 AND target = $3 "
                "AND ($4::smallint IS NULL OR type = $4)",
                UUID(space.uid),
                UUID(source),
                UUID(target),
                type,
            )
            return int(status.rpartition(" ")[2])

    @with_fresh_keys
    async def list_links(
        self, space: Space, where: LinkFilter, part: Filter, after: Place | None, limit: int
    ) -> list[Association]:
        """Links between memories in `part`, in whatever state, after a place of the listing."""
        conditions = Conditions(UUID(space.uid), limit)
        if where.memory_id is not None:
            named = conditions.parameter(UUID(where.memory_id))
            conditions.add(f"({' OR '.join(f'{end} = {named}' for end, _ in _ENDS[where.direction])})")
        if where.types:
            conditions.add("type = ANY({}::smallint[])", list(where.types))
        if where.min_weight:
            conditions.add("weight >= {}", where.min_weight)
        if after is not None:
            link = (UUID(after.link.source), UUID(after.link.target), int(after.link.type))
            conditions.add("weight <= {}", after.weight)
            conditions.add("(weight < {} OR (source, target, type) > ({}, {}, {}::smallint))", after.weight, *link)
        visible = _memories_in(part, await self._vault.cipher(space), conditions)
        found = await self._database.fetch(
            f"SELECT {_COLUMNS} FROM memory.associations AS a WHERE a.space_uid = $1 AND {conditions.sql} "
            f"AND {visible.format('source')} AND {visible.format('target')} ORDER BY {_ORDER} LIMIT $2",
            *conditions.values,
        )
        return [association_of(row) for row in found]

    @with_fresh_keys
    async def links_of(
        self, space: Space, ids: Sequence[MemoryId], direction: Direction, conduct: Conduct, limit: int
    ) -> list[Association]:
        """The strongest links of each of some memories, at most `limit` a memory, with what conducts."""
        values = Conditions(UUID(space.uid), [UUID(each) for each in ids], limit)
        conducts = await self._conducts(space, conduct, values)
        links = _links_of_node(direction, conduct, values, conducts)
        found = await self._database.fetch(
            "SELECT DISTINCT e.* FROM unnest($2::uuid[]) AS f(node) CROSS JOIN LATERAL ("
            f"SELECT {_COLUMNS} FROM ({links}) AS linked ORDER BY {_ORDER} LIMIT $3) AS e",
            *values.values,
        )
        return [association_of(row) for row in found]

    @with_fresh_keys
    async def edges_of(
        self,
        space: Space,
        ids: Sequence[MemoryId],
        passed: Collection[MemoryId],
        conduct: Conduct,
        limit: int,
        session_weights: Sequence[float],
    ) -> list[Edge]:
        """Where activation flows from each of some memories: over links in both directions and sessions."""
        values = Conditions(UUID(space.uid), [UUID(each) for each in ids], limit)
        left_out = values.parameter([UUID(each) for each in passed])
        conducts = f"{{0}} <> ALL({left_out}::uuid[]) AND {await self._conducts(space, conduct, values)}"
        links = _links_of_node(Direction.BOTH, conduct, values, conducts)
        query = (
            "SELECT f.node, e.other, e.weight FROM unnest($2::uuid[]) AS f(node) CROSS JOIN LATERAL ("
            f"SELECT other, weight FROM ({links}) AS linked ORDER BY {_ORDER} LIMIT $3) AS e"
        )
        if session_weights:
            weights = f"{values.parameter(list(session_weights))}::float8[]"
            active = await self._active(space, conduct, values)
            query += f" UNION ALL {_session_neighbours(active, weights)}"
        found = await self._database.fetch(query, *values.values)
        return [Edge(MemoryId(str(row["node"])), MemoryId(str(row["other"])), row["weight"]) for row in found]

    async def links_among(
        self, space: Space, ids: Sequence[MemoryId], types: Sequence[AssociationType], limit: int
    ) -> list[Association]:
        """The strongest links that have both ends in `ids`."""
        found = await self._database.fetch(
            f"SELECT {_COLUMNS} FROM memory.associations WHERE space_uid = $1 AND source = ANY($2::uuid[]) "
            "AND target = ANY($2::uuid[]) AND (cardinality($3::smallint[]) = 0 OR type = ANY($3)) "
            f"ORDER BY {_ORDER} LIMIT $4",
            UUID(space.uid),
            [UUID(each) for each in ids],
            list(types),
            limit,
        )
        return [association_of(row) for row in found]

    @with_fresh_keys
    async def _active(self, space: Space, conduct: Conduct, values: Conditions) -> str:
        """The condition that a row of memories conducts; its parameters are added to `values`."""
        conditions = Conditions(*values.values)
        conditions.filter(rows.blinded(conduct.part, await self._vault.cipher(space)))
        conditions.states([State.ACTIVE], conduct.now)
        values.values = conditions.values
        return conditions.sql

    async def _conducts(self, space: Space, conduct: Conduct, values: Conditions) -> str:
        """A condition with a place `{}` for the column of a memory's id: that it conducts."""
        active = await self._active(space, conduct, values)
        found = f"EXISTS (SELECT FROM memory.memories WHERE space_uid = $1 AND id = {{0}} AND {active})"
        if not conduct.also:
            return found
        return f"({{0}} = ANY({values.parameter([UUID(each) for each in conduct.also])}::uuid[]) OR {found})"


def _links_of_node(direction: Direction, conduct: Conduct, values: Conditions, conducts: str) -> str:
    """The $3 strongest links of the memory `f.node` each way; the column `other` is the memory at their other end."""
    types = ""
    if conduct.types:
        types = f" AND type = ANY({values.parameter(list(conduct.types))}::smallint[])"
    return " UNION ALL ".join(
        f"(SELECT {_COLUMNS}, {other} AS other FROM memory.associations AS a "
        f"WHERE space_uid = $1 AND {end} = f.node{types} AND {conducts.format(f'a.{other}')} "
        f"ORDER BY {_ORDER} LIMIT $3)"
        for end, other in _ENDS[direction]
    )


def _session_neighbours(active: str, weights: str) -> str:
    """The neighbours of the memories $2 in their sessions, before and after, the n-th with the n-th weight."""
    sides = " UNION ALL ".join(
        f"SELECT id AS other, row_number() OVER (ORDER BY ordinal {order}, id {order}) AS place FROM ("
        "SELECT id, ordinal FROM memory.memories WHERE space_uid = $1 AND session = n.session AND session <> '' "
        f"AND (ordinal, id) {compared} (n.ordinal, n.id) AND {active} "
        f"ORDER BY ordinal {order}, id {order} LIMIT cardinality({weights})) AS side"
        for compared, order in ((">", "ASC"), ("<", "DESC"))
    )
    return (
        f"SELECT n.id, near.other, ({weights})[near.place::integer] FROM memory.memories AS n "
        f"CROSS JOIN LATERAL ({sides}) AS near WHERE n.space_uid = $1 AND n.id = ANY($2::uuid[]) AND n.session <> ''"
    )


def _memories_in(part: Filter, cipher: SpaceCipher | None, values: Conditions) -> str:
    """A condition with a place `{}` for the column of a memory's id: that it lies in `part`."""
    conditions = Conditions(*values.values)
    conditions.filter(rows.blinded(part, cipher))
    values.values = conditions.values
    if conditions.sql == "true":
        return "true"
    return f"EXISTS (SELECT FROM memory.memories WHERE space_uid = $1 AND id = a.{{0}} AND {conditions.sql})"


async def _require_memories(connection: Connection[Record], space: Space, ids: Sequence[MemoryId]) -> None:
    found = await connection.fetch(
        "SELECT id FROM memory.memories WHERE space_uid = $1 AND id = ANY($2::uuid[])",
        UUID(space.uid),
        [UUID(each) for each in ids],
    )
    known = {str(row["id"]) for row in found}
    for memory_id in ids:
        if memory_id not in known:
            raise MemoryNotFoundError(memory=f"{space.name}/memories/{memory_id}")


async def _put(
    connection: Connection[Record], space: Space, link: Link, strength: Strength, author: Author
) -> Association:
    """Set or reinforce a link of a locked space."""
    key = (UUID(space.uid), UUID(link.source), UUID(link.target), int(link.type))
    before = await connection.fetchval(f"SELECT weight FROM memory.associations WHERE {_KEY}", *key)
    if before is None and link.type is AssociationType.CO_RECALLED:
        await _refuse_too_many(connection, space, author.at)
    row = await connection.fetchrow(
        _PUT, *key, strength.after(before), int(strength.reinforce), author.at, author.principal
    )
    if before is None:
        await connection.execute(_LEAVE_STRONGEST, *key, LINKS_A_SOURCE - 1)
    assert row is not None, "an upsert that returns has a row"
    return association_of(row)


async def _refuse_too_many(connection: Connection[Record], space: Space, now: datetime) -> None:
    """Raise QuotaExceededError if so many links were learnt in the locked space that there is no room for another."""
    since = now - LEARNING_WINDOW
    oldest: datetime | None = await connection.fetchval(
        _NEWEST_LEARNT, UUID(space.uid), since, now, NEW_LEARNT_LINKS - 1
    )
    if oldest is not None:
        free_at = oldest + LEARNING_WINDOW
        raise QuotaExceededError(
            f"space {space.name!r} has reached its limit {QUOTA_OF_LEARNT} of {NEW_LEARNT_LINKS}; "
            f"it has room again at {free_at.isoformat()}",
            retry_after=(free_at - now).total_seconds(),
            space=space.name,
            quota=QUOTA_OF_LEARNT,
            limit=str(NEW_LEARNT_LINKS),
        )


def association_of(row: Mapping[str, Any]) -> Association:
    """An association from a row of its table."""
    return Association(
        link=Link(MemoryId(str(row["source"])), MemoryId(str(row["target"])), AssociationType(row["type"])),
        weight=row["weight"],
        activations=row["activations"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
        principal=row["principal"],
    )


def _answer(association: Association) -> list[Any]:
    """What the record of a request keeps, for the answer to its repetition."""
    times = (association.created_at.isoformat(), association.updated_at.isoformat())
    return [association.weight, association.activations, *times, association.principal]


def _answered(link: Link, answer: list[Any]) -> Association:
    weight, activations, created_at, updated_at, principal = answer
    times = (datetime.fromisoformat(created_at), datetime.fromisoformat(updated_at))
    return Association(link, weight, activations, *times, principal)
