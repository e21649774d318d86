"""Consumer groups on PostgreSQL.

Whatever changes a group, or what it holds, locks the group's row until its commit. So all that happens to a group
happens one after the other, through however many replicas; groups do not wait for one another.

Of a key (but ""), what a group holds is always this, by position: events that one member has, then events that wait.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final
from uuid import UUID

from mnemo_events.domain.filter import Filter
from mnemo_events.domain.group import MAX_WAITING, Claim, Claimed, Group, Settled, Standing
from mnemocore.errors import GroupNotFoundError
from mnemocore.ids import SpaceUid, Tenant

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from asyncpg import Connection, Record

    from mnemo_events.domain.group import Fresh, Outcome
    from mnemocore.postgres import Database

GROUPS_CHANNEL: Final = "mnemo_events_groups"
"""The channel on which it is notified that something that waited may be due; the payload is the uid of the group."""

_AT_ONCE: Final = datetime.min.replace(tzinfo=UTC)
_AT_ONCE_SQL: Final = "timestamptz '0001-01-01 00:00:00+00'"

_COLUMNS: Final = "uid, tenant, id, types, subjects, space_uid, max_attempts, lease, owner, created_at"
_CREATE: Final = f"""
INSERT INTO events.groups (tenant, id, types, subjects, space_uid, max_attempts, lease, owner, created_at, position)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) ON CONFLICT (tenant, id) DO NOTHING RETURNING {_COLUMNS}
"""
_FIND: Final = f"SELECT {_COLUMNS} FROM events.groups WHERE tenant = $1 AND id = $2"
_LIST: Final = f"SELECT {_COLUMNS} FROM events.groups WHERE tenant = $1 AND id > $2 ORDER BY id LIMIT $3"
_STANDING: Final = """
SELECT groups.position, count(held.member) AS in_flight, count(held.attempt) - count(held.member) AS waiting
FROM events.groups LEFT JOIN events.held ON group_uid = uid WHERE uid = $1 GROUP BY uid
"""
_REFILTER: Final = f"""
UPDATE events.groups SET types = $2, subjects = $3, space_uid = $4 WHERE uid = $1 RETURNING {_COLUMNS}
"""
# What a group holds changes faster than what PostgreSQL knows of it: no plan may build on there being little. So rows
# are looked up one by one, in LATERAL with a LIMIT, and changed by their place (`ctid`), which stays while the group is
# locked. `member IS NOT DISTINCT FROM` is no condition for an index, and shall be none.
_LOCK: Final = """
SELECT uid, position, held_from, due_from, set_config('enable_seqscan', 'off', true),
    set_config('enable_hashjoin', 'off', true), set_config('enable_mergejoin', 'off', true)
FROM events.groups WHERE uid = $1 FOR UPDATE
"""
_MOVE: Final = "UPDATE events.groups SET position = $2, held_from = $3, due_from = $4 WHERE uid = $1"
_NOTIFY: Final = f"SELECT pg_notify('{GROUPS_CHANNEL}', $1::bigint::text)"

_CLAIMABLE: Final = """
WITH mine AS MATERIALIZED (
    SELECT DISTINCT key FROM events.held WHERE group_uid = $1 AND member = $2 AND due >= $6 AND key <> ''
    AND EXISTS (SELECT FROM events.held WHERE group_uid = $1 AND member IS NULL)
), open AS MATERIALIZED (
    SELECT position, key FROM events.held WHERE group_uid = $1 AND due BETWEEN $6 AND $3
    AND (is_first OR member IS NOT NULL) AND (is_first OR member = $2)
    UNION ALL
    SELECT behind.position, key FROM mine CROSS JOIN LATERAL (
        SELECT position, due FROM events.held
        WHERE group_uid = $1 AND key = mine.key AND position >= $5 AND member IS NULL ORDER BY position LIMIT 1
    ) AS behind WHERE due <= $3
), gates AS MATERIALIZED (
    SELECT min(position) AS position, key FROM open
    GROUP BY key, CASE WHEN key = '' THEN position END ORDER BY min(position) LIMIT $4
)
SELECT gate, position, key, attempt, replayed, waits FROM (
    SELECT gates.position AS gate, chain.*,
        bool_or(waits AND due > $3) OVER (PARTITION BY gates.key ORDER BY chain.position) AS is_barred
    FROM gates CROSS JOIN LATERAL (
        SELECT position, key, member IS NULL AS waits, due, attempt, replayed FROM events.held
        WHERE group_uid = $1 AND key = gates.key AND key <> '' AND position >= gates.position ORDER BY position LIMIT $4
    ) AS chain
    UNION ALL
    SELECT gates.position AS gate, single.*, false FROM gates CROSS JOIN LATERAL (
        SELECT position, key, member IS NULL AS waits, due, attempt, replayed FROM events.held
        WHERE group_uid = $1 AND position = gates.position AND gates.key = '' LIMIT 1
    ) AS single
) AS candidates
WHERE NOT is_barred ORDER BY position LIMIT $4
"""
_TAKE_BACK: Final = f"""
UPDATE events.held SET member = NULL, due = {_AT_ONCE_SQL}, attempt = held.attempt - 1
FROM unnest($2::text[], $3::bigint[]) AS broken (key, position) CROSS JOIN LATERAL (
    SELECT ctid AS place FROM events.held
    WHERE group_uid = $1 AND held.key = broken.key AND held.key <> '' AND held.position > broken.position
        AND member IS NOT NULL
    OFFSET 0
) AS later
WHERE held.ctid = place AND member IS NOT NULL
RETURNING held.position
"""
_GIVE: Final = """
UPDATE events.held SET member = $2, due = $3, attempt = given.attempt
FROM unnest($4::bigint[], $5::integer[]) AS given (position, attempt) CROSS JOIN LATERAL (
    SELECT ctid AS place FROM events.held WHERE group_uid = $1 AND held.position = given.position LIMIT 1
) AS found
WHERE held.ctid = place
"""
_ROOM: Final = f"""
SELECT (SELECT count(*) FROM (
    SELECT FROM events.held WHERE group_uid = $1 AND member IS NULL LIMIT {MAX_WAITING}) AS those) AS waiting,
    ARRAY(SELECT position FROM events.held WHERE group_uid = $1 AND position > $2) AS ahead
"""
_KNOWN_KEYS: Final = """
SELECT key, (
    SELECT true FROM events.held
    WHERE group_uid = $1 AND held.key = wanted.key AND held.key <> '' AND position >= $5
        AND (member = $2 AND due > $3) IS NOT TRUE LIMIT 1) AS is_barred
FROM unnest($4::text[]) AS wanted (key) CROSS JOIN LATERAL (
    SELECT FROM events.held
    WHERE group_uid = $1 AND held.key = wanted.key AND held.key <> '' AND position >= $5 LIMIT 1
) AS some_event
"""
_INSERT: Final = f"""
INSERT INTO events.held (group_uid, position, key, is_first, member, due, attempt, replayed)
SELECT $1, position, key, is_first, CASE WHEN is_given THEN $2::text END,
    CASE WHEN is_given THEN $3::timestamptz ELSE {_AT_ONCE_SQL} END,
    is_given::integer, false
FROM unnest($4::bigint[], $5::text[], $6::boolean[], $7::boolean[]) AS fresh (position, key, is_first, is_given)
"""
_BOUNDS: Final = """
SELECT (SELECT min(position) FROM events.held WHERE group_uid = $1 AND position >= $3) AS held_from,
    (SELECT min(due) FROM events.held WHERE group_uid = $1 AND due >= $4
        AND (is_first OR member IS NOT NULL)) AS due_from,
    least(
        (SELECT min(due) FROM events.held WHERE group_uid = $1 AND due >= $4
            AND (is_first OR member IS NOT NULL) AND (is_first OR member = $2)),
        (SELECT min(behind.due) FROM (
            SELECT DISTINCT key FROM events.held WHERE group_uid = $1 AND member = $2 AND due >= $4 AND key <> ''
            AND EXISTS (SELECT FROM events.held WHERE group_uid = $1 AND member IS NULL)
        ) AS mine CROSS JOIN LATERAL (
            SELECT due FROM events.held
            WHERE group_uid = $1 AND key = mine.key AND position >= $3 AND member IS NULL ORDER BY position LIMIT 1
        ) AS behind)) AS next_due
"""
_LOOK_UP: Final = """
CROSS JOIN LATERAL (
    SELECT ctid AS place, key FROM events.held
    WHERE group_uid = $1 AND held.position = said.position AND held.attempt = said.attempt
        AND member IS NOT DISTINCT FROM $2 LIMIT 1
) AS had
"""
_HAS: Final = f"""
SELECT said.position, key FROM unnest($3::bigint[], $4::integer[]) AS said (position, attempt) {_LOOK_UP}
"""
_DONE: Final = f"""
DELETE FROM events.held USING unnest($3::bigint[], $4::integer[]) AS said (position, attempt) {_LOOK_UP}
WHERE held.ctid = place RETURNING held.position, held.key, is_first
"""
_EXTENDED: Final = f"""
UPDATE events.held SET due = $5 FROM unnest($3::bigint[], $4::integer[]) AS said (position, attempt) {_LOOK_UP}
WHERE held.ctid = place RETURNING held.position
"""
_FAILED: Final = f"""
UPDATE events.held SET member = NULL, due = said.due
FROM unnest($3::bigint[], $4::integer[], $5::timestamptz[]) AS said (position, attempt, due) {_LOOK_UP}
WHERE held.ctid = place RETURNING held.position, held.key
"""
_COME_FIRST: Final = """
UPDATE events.held SET is_first = true
FROM unnest($2::text[], $3::bigint[]) AS over (key, position) CROSS JOIN LATERAL (
    SELECT ctid AS place FROM events.held
    WHERE group_uid = $1 AND held.key = over.key AND held.key <> '' AND held.position > over.position
    ORDER BY position LIMIT 1
) AS next
WHERE held.ctid = place RETURNING member, due
"""
_RELEASE: Final = f"""
UPDATE events.held SET member = NULL, due = {_AT_ONCE_SQL}, attempt = attempt - $3
WHERE group_uid = $1 AND member = $2
"""
_REVIVE: Final = """
INSERT INTO events.held (group_uid, position, key, is_first, due, attempt, replayed)
SELECT DISTINCT $1::bigint, position, '', true, $3::timestamptz, 0, true FROM unnest($2::bigint[]) AS dead (position)
ON CONFLICT DO NOTHING RETURNING position
"""


@dataclass(frozen=True, slots=True)
class _Locked:
    """A group that nobody else changes until the transaction ends; see the table for the bounds."""

    uid: int
    position: int
    held_from: int
    due_from: datetime

    async def move(
        self,
        connection: Connection,
        *,
        position: int | None = None,
        held_from: int | None = None,
        due_from: datetime | None = None,
    ) -> None:
        """Change what is given, if it is another."""
        moved = (
            self.position if position is None else position,
            self.held_from if held_from is None else held_from,
            self.due_from if due_from is None else due_from,
        )
        if moved != (self.position, self.held_from, self.due_from):
            await connection.execute(_MOVE, self.uid, *moved)


@dataclass(frozen=True, slots=True)
class _Candidate:
    """An event that is held and may be given to a member; `was_kept`: from one that had it for too long."""

    position: int
    key: str
    attempt: int
    replayed: bool
    was_kept: bool


class PostgresGroups:
    """Implements `mnemo_events.domain.ports.Groups`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def create(self, group: Group, position: int) -> Group:
        """Insert a row, unless there is one."""
        where = group.where
        values = (
            group.tenant,
            group.id,
            list(where.types),
            list(where.subjects),
            UUID(where.space_uid) if where.space_uid else None,
            group.max_attempts,
            group.lease,
            group.owner,
            group.created_at,
            position,
        )
        while True:
            if row := await self._database.fetchrow(_CREATE, *values):
                return _group(row)
            if found := await self.find(group.tenant, group.id):
                return found

    async def find(self, tenant: Tenant, group_id: str) -> Group | None:
        """A row by its name."""
        row = await self._database.fetchrow(_FIND, tenant, group_id)
        return _group(row) if row else None

    async def list_groups(self, tenant: Tenant, after_id: str, limit: int) -> list[Group]:
        """Rows by id."""
        return [_group(row) for row in await self._database.fetch(_LIST, tenant, after_id, limit)]

    async def refilter(self, group: Group, where: Filter) -> Group:
        """Update the row."""
        space_uid = UUID(where.space_uid) if where.space_uid else None
        values = (int(group.uid), list(where.types), list(where.subjects), space_uid)
        row = await self._database.fetchrow(_REFILTER, *values)
        if row is None:
            raise GroupNotFoundError(group=group.name)
        return _group(row)

    async def delete(self, group: Group) -> bool:
        """Delete the row, then what the group holds, which no one else can change any more."""
        async with self._database.transaction() as connection:
            uid = int(group.uid)
            was_there: bool = await connection.fetchval("DELETE FROM events.groups WHERE uid = $1 RETURNING true", uid)
            await connection.execute("DELETE FROM events.held WHERE group_uid = $1", uid)
            await connection.execute(_NOTIFY, uid)
        return bool(was_there)

    async def standing(self, group: Group) -> Standing:
        """Count what the group holds."""
        row = await self._database.fetchrow(_STANDING, int(group.uid))
        if row is None:
            raise GroupNotFoundError(group=group.name)
        return Standing(row["position"], row["in_flight"], row["waiting"])

    async def seek(self, group: Group, position: int) -> None:
        """Move the group and delete what it holds."""
        async with self._database.transaction() as connection:
            locked = await _lock(connection, group)
            await connection.execute("DELETE FROM events.held WHERE group_uid = $1", locked.uid)
            await locked.move(connection, position=position, held_from=0, due_from=_AT_ONCE)
            await connection.execute(_NOTIFY, locked.uid)

    async def claim(
        self, group: Group, member: str, limit: int, now: datetime, lease_until: datetime, fresh: Fresh | None
    ) -> Claim:
        """Look through what is held, then through what is fresh."""
        async with self._database.transaction() as connection:
            locked = await _lock(connection, group)
            chosen = await _choose(connection, locked, member, limit, now)
            if chosen:
                await _give(connection, locked.uid, member, lease_until, chosen)
            claimed = [Claimed(each.position, each.attempt, lease_until, each.replayed) for each in chosen]
            position = locked.position
            if fresh is not None and fresh.after == position:
                intake = await _Intake.open(connection, locked, member, limit - len(chosen), now, fresh)
                position = intake.take(fresh)
                await intake.store(connection, locked.uid, member, lease_until)
                claimed += [Claimed(each, 1, lease_until, replayed=False) for each in intake.given()]
            due_from = min(locked.due_from, lease_until) if claimed else locked.due_from
            bounds = await connection.fetchrow(_BOUNDS, locked.uid, member, locked.held_from, due_from)
            if claimed or position != locked.position:
                held_from = position if bounds["held_from"] is None else bounds["held_from"]
                await locked.move(
                    connection, position=position, held_from=held_from, due_from=bounds["due_from"] or due_from
                )
        due: datetime | None = bounds["next_due"]
        return Claim(tuple(claimed), position, max(due, now) if due else None)

    async def settle(
        self, group: Group, member: str, outcomes: Sequence[Outcome], now: datetime, lease_until: datetime
    ) -> Settled:
        """Delete what is done, and change the rest."""
        last = _last_of_each(outcomes)
        async with self._database.transaction() as connection:
            locked = await _lock(connection, group)
            counting = await _that_count(connection, locked.uid, member, last)
            done = await _finish(connection, locked.uid, member, [each for each in counting if each.done])
            extended = [each for each in counting if not each.done and each.retry_at is None]
            going_on = await _extend(connection, locked.uid, member, extended, lease_until)
            failed, taken_back = await _let_fail(connection, locked.uid, member, counting)
            next_ones = await _come_first(connection, locked.uid, done)
            dues = [each.retry_at for each in counting if each.retry_at is not None]
            dues += [row["due"] for row in next_ones] + [lease_until] * bool(extended)
            await locked.move(connection, due_from=min(locked.due_from, *dues) if dues else None)
            if failed or any(row["member"] is None for row in next_ones):
                await connection.execute(_NOTIFY, locked.uid)
        settled = {row["position"] for row in done} | going_on | failed
        lost = {each.position for each in last} - settled | taken_back
        return Settled(tuple(sorted(settled - taken_back)), tuple(sorted(lost)))

    async def release(self, group: Group, member: str, *, counted: bool) -> int:
        """Update what the member has."""
        async with self._database.transaction() as connection:
            locked = await _lock(connection, group)
            tag = await connection.execute(_RELEASE, locked.uid, member, 0 if counted else 1)
            released = int(tag.rpartition(" ")[2])
            if released:
                await locked.move(connection, due_from=_AT_ONCE)
                await connection.execute(_NOTIFY, locked.uid)
        return released

    async def revive(self, group: Group, positions: Sequence[int], now: datetime) -> list[int]:
        """Insert rows, but for those that are there."""
        async with self._database.transaction() as connection:
            locked = await _lock(connection, group)
            revived = [row["position"] for row in await connection.fetch(_REVIVE, locked.uid, list(positions), now)]
            if revived:
                held_from, due_from = min(locked.held_from, *revived), min(locked.due_from, now)
                await locked.move(connection, held_from=held_from, due_from=due_from)
                await connection.execute(_NOTIFY, locked.uid)
        return sorted(revived)


class _Intake:
    """Sorts fresh events into those a member is given and those that are put aside."""

    def __init__(self, room: int, waiting: int, ahead: set[int], barred: dict[str, bool]) -> None:
        self._room = room
        self._waiting = waiting
        self._ahead = ahead
        self._barred = barred
        """Of the keys of which the group holds events already: whether others have or wait for them."""
        self._taken: list[tuple[int, str, bool, bool]] = []
        """Position, key, whether it is the first of the key, whether it is given."""

    @classmethod
    async def open(
        cls, connection: Connection, locked: _Locked, member: str, room: int, now: datetime, fresh: Fresh
    ) -> _Intake:
        """What the group holds already of what these events have to do with."""
        keys = list({key for _, key in fresh.events if key})
        held = await connection.fetchrow(_ROOM, locked.uid, fresh.after) if fresh.events else None
        known = await connection.fetch(_KNOWN_KEYS, locked.uid, member, now, keys, locked.held_from) if keys else []
        waiting, ahead = (held["waiting"], set(held["ahead"])) if held else (0, set())
        return cls(room, waiting, ahead, {row["key"]: bool(row["is_barred"]) for row in known})

    def take(self, fresh: Fresh) -> int:
        """Sort events until one must stay; the position up to which none did."""
        reached = fresh.after
        for position, key in fresh.events:
            if position not in self._ahead:
                is_barred = bool(key) and self._barred.get(key, False)
                if self._waiting >= MAX_WAITING or not (is_barred or self._room):
                    return reached
                self._add(position, key, is_barred=is_barred)
            reached = position
        return fresh.upto

    def _add(self, position: int, key: str, *, is_barred: bool) -> None:
        self._taken.append((position, key, not key or key not in self._barred, not is_barred))
        self._barred.setdefault(key, False)
        if is_barred:
            self._waiting += 1
        else:
            self._room -= 1

    def given(self) -> Iterator[int]:
        """The positions that are given."""
        return (position for position, _, _, is_given in self._taken if is_given)

    async def store(self, connection: Connection, uid: int, member: str, lease_until: datetime) -> None:
        """Insert what was sorted."""
        if self._taken:
            await connection.execute(_INSERT, uid, member, lease_until, *map(list, zip(*self._taken, strict=True)))


async def _lock(connection: Connection, group: Group) -> _Locked:
    row = await connection.fetchrow(_LOCK, int(group.uid))
    if row is None:
        raise GroupNotFoundError(group=group.name)
    return _Locked(row["uid"], row["position"], row["held_from"], row["due_from"])


async def _choose(connection: Connection, locked: _Locked, member: str, limit: int, now: datetime) -> list[_Candidate]:
    """The oldest of what is held and may be given to a member."""
    rows = await connection.fetch(_CLAIMABLE, locked.uid, member, now, limit, locked.held_from, locked.due_from)
    return [_candidate(row) for row in rows]


def _candidate(row: Record) -> _Candidate:
    """What may be given. Of a key, the first may have been kept too long; the later ones its member had were not.

    Their attempts are not counted.
    """
    is_gate, waits = row["position"] == row["gate"], row["waits"]
    attempt = row["attempt"] + (waits or is_gate)
    return _Candidate(row["position"], row["key"], attempt, row["replayed"], was_kept=is_gate and not waits)


async def _give(
    connection: Connection, uid: int, member: str, lease_until: datetime, chosen: Sequence[_Candidate]
) -> None:
    if broken := [each for each in chosen if each.was_kept and each.key]:
        await _take_back(connection, uid, [(each.key, each.position) for each in broken])
    positions, attempts = [each.position for each in chosen], [each.attempt for each in chosen]
    await connection.execute(_GIVE, uid, member, lease_until, positions, attempts)


async def _take_back(connection: Connection, uid: int, broken: Sequence[tuple[str, int]]) -> set[int]:
    """Take later events of these keys from whoever has them; their positions."""
    keys, positions = zip(*broken, strict=True)
    return {row["position"] for row in await connection.fetch(_TAKE_BACK, uid, list(keys), list(positions))}


def _last_of_each(outcomes: Sequence[Outcome]) -> list[Outcome]:
    last: dict[int, Outcome] = {}
    for outcome in outcomes:
        last.pop(outcome.position, None)
        last[outcome.position] = outcome
    return list(last.values())


async def _that_count(connection: Connection, uid: int, member: str, outcomes: list[Outcome]) -> list[Outcome]:
    """Without those that come after the failure of an earlier event of their key."""
    if all(outcome.retry_at is None for outcome in outcomes):
        return outcomes
    keys = {row["position"]: row["key"] for row in await connection.fetch(_HAS, uid, member, *_said(outcomes))}
    failed: dict[str, int] = {}
    counting = []
    for outcome in outcomes:
        key = keys.get(outcome.position, "")
        if key and outcome.position > failed.get(key, outcome.position):
            continue
        counting.append(outcome)
        if outcome.retry_at is not None and outcome.position in keys and key:
            failed[key] = outcome.position
    return counting


async def _finish(connection: Connection, uid: int, member: str, outcomes: Sequence[Outcome]) -> list[Record]:
    return list(await connection.fetch(_DONE, uid, member, *_said(outcomes))) if outcomes else []


async def _extend(
    connection: Connection, uid: int, member: str, outcomes: Sequence[Outcome], lease_until: datetime
) -> set[int]:
    rows = await connection.fetch(_EXTENDED, uid, member, *_said(outcomes), lease_until) if outcomes else []
    return {row["position"] for row in rows}


async def _let_fail(
    connection: Connection, uid: int, member: str, outcomes: Sequence[Outcome]
) -> tuple[set[int], set[int]]:
    """The positions that failed, and those that were taken back."""
    failing = [each for each in outcomes if not each.done and each.retry_at is not None]
    if not failing:
        return set(), set()
    rows = await connection.fetch(_FAILED, uid, member, *_said(failing), [each.retry_at for each in failing])
    broken = [(row["key"], row["position"]) for row in rows if row["key"]]
    taken_back = await _take_back(connection, uid, broken) if broken else set()
    return {row["position"] for row in rows}, taken_back


async def _come_first(connection: Connection, uid: int, done: Sequence[Record]) -> list[Record]:
    """Let what comes next of the keys of events that are done be the first; what that is."""
    over = {row["key"]: row["position"] for row in done if row["is_first"] and row["key"]}
    return list(await connection.fetch(_COME_FIRST, uid, list(over), list(over.values()))) if over else []


def _said(outcomes: Sequence[Outcome]) -> tuple[list[int], list[int]]:
    return [outcome.position for outcome in outcomes], [outcome.attempt for outcome in outcomes]


def _group(row: Record) -> Group:
    tenant = Tenant(row["tenant"])
    space_uid = SpaceUid(str(row["space_uid"])) if row["space_uid"] else None
    return Group(
        uid=str(row["uid"]),
        tenant=tenant,
        id=row["id"],
        where=Filter(tuple(row["types"]), space_uid, tenant, tuple(row["subjects"])),
        max_attempts=row["max_attempts"],
        lease=row["lease"],
        owner=row["owner"],
        created_at=row["created_at"],
    )
