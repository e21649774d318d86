"""The work queue on PostgreSQL. Rows of several tasks are locked only where nobody else has them, so none waits."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from mnemo_events.domain.group import Reason
from mnemo_events.domain.task import MAX_QUEUED, Lease, Order, State, Task, Word
from mnemo_events.domain.tasks import Claim
from mnemo_events.storage.postgres_outbox import tell
from mnemocore.errors import QuotaExceededError, TaskNotFoundError
from mnemocore.ids import Tenant

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Sequence
    from datetime import datetime

    from asyncpg import Connection, Record

    from mnemo_events.domain.agent import Agent
    from mnemo_events.domain.tasks import Place
    from mnemocore.postgres import Database

CHANNEL: Final = "mnemo_events_tasks"
"""The channel on which it is notified that tasks of a tenant, which is the payload, may be claimed."""
MAX_BYTES: Final = 4 * 1024 * 1024
"""Payload after which a claim gives no further task, so that its answer is no larger than a message may be."""
SPARE: Final = 32
"""How many more tasks than asked for a claim looks at at once, since others may be claiming the same."""

_COLUMNS: Final = (
    "number, uid::text AS uid, tenant, id, type, {payload} AS payload, content_type, capabilities, priority, "
    "max_attempts, not_before, principal, created_at, state, due_at, attempts, tried_before, retries, agent, holder, "
    "lease_until, request_id::text AS request_id, {result} AS result, reason, error, ended_at, word_agent, "
    "word_holder, word_attempt, word_done"
)
_WHOLE: Final = _COLUMNS.format(payload="payload", result="result")
_LEAN: Final = _COLUMNS.format(payload="''::bytea", result="''::bytea")
_INSERT: Final = """
INSERT INTO events.tasks (uid, tenant, id, type, payload, content_type, capabilities, priority, max_attempts,
    not_before, principal, created_at, rank, state, due_at, attempts, tried_before, retries, agent, holder, result,
    reason, error, word_agent, word_holder, word_attempt, word_done)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, 1, $14, 0, 0, 0, '', '', '', 0, '', '', '', 0, false)
ON CONFLICT (tenant, id) DO NOTHING RETURNING number
"""
_FIND: Final = f"SELECT {_WHOLE} FROM events.tasks WHERE tenant = $1 AND id = $2"
_WRITE: Final = """
UPDATE events.tasks AS t SET state = b.state, due_at = b.due_at, attempts = b.attempts, tried_before = b.tried_before,
    retries = b.retries, agent = b.agent, holder = b.holder, lease_until = b.lease_until, request_id = b.request_id,
    result = b.result, reason = b.reason, error = b.error, ended_at = b.ended_at, word_agent = b.word_agent,
    word_holder = b.word_holder, word_attempt = b.word_attempt, word_done = b.word_done
FROM unnest($1::uuid[], $2::smallint[], $3::timestamptz[], $4::int[], $5::int[], $6::int[], $7::text[], $8::text[],
    $9::timestamptz[], $10::uuid[], $11::bytea[], $12::smallint[], $13::text[], $14::timestamptz[], $15::text[],
    $16::text[], $17::int[], $18::boolean[]) AS b(uid, state, due_at, attempts, tried_before, retries, agent, holder,
    lease_until, request_id, result, reason, error, ended_at, word_agent, word_holder, word_attempt, word_done)
WHERE t.uid = b.uid
"""
# A queue that has just filled looks empty to the planner, which would then read and sort all of it: no sorting for the
# rest of the transaction makes it walk the indexes, which are in order.
_AGENT: Final = """
SELECT capabilities, online, set_config('enable_sort', 'off', true) FROM events.agents
WHERE tenant = $1 AND id = $2 AND uid = $3 FOR SHARE
"""
_SAME_REQUEST: Final = f"""
SELECT {_WHOLE} FROM events.tasks WHERE tenant = $1 AND agent = $2 AND state = 2 AND request_id = $3
ORDER BY rank, number
"""
# The sets of capabilities that tasks of the tenant need are few: step from one to the next, and look at the first tasks
# of those that the agent has. So tasks that the agent cannot do cost nothing, however many wait.
_CANDIDATES: Final = """
WITH RECURSIVE needs AS (
    (SELECT capabilities FROM events.tasks WHERE tenant = $1 AND state = 1 ORDER BY capabilities LIMIT 1)
    UNION ALL
    SELECT (SELECT t.capabilities FROM events.tasks AS t
            WHERE t.tenant = $1 AND t.state = 1 AND t.capabilities > needs.capabilities
            ORDER BY t.capabilities LIMIT 1)
    FROM needs WHERE needs.capabilities IS NOT NULL
)
SELECT first.uid FROM needs CROSS JOIN LATERAL (
    SELECT t.uid, t.rank, t.number FROM events.tasks AS t
    WHERE t.tenant = $1 AND t.state = 1 AND t.capabilities = needs.capabilities AND t.due_at <= $3
        AND t.uid <> ALL($4::uuid[])
    ORDER BY t.rank, t.number LIMIT $5
) AS first
WHERE needs.capabilities <@ $2::text[] ORDER BY first.rank, first.number LIMIT $5
"""
_TAKE: Final = f"""
SELECT {_WHOLE} FROM events.tasks WHERE uid = ANY($1::uuid[]) AND state = 1 AND due_at <= $2
ORDER BY rank, number LIMIT $3 FOR UPDATE SKIP LOCKED
"""
_SIZES: Final = "SELECT uid, octet_length(payload) AS size FROM events.tasks WHERE uid = ANY($1::uuid[])"
_NEXT_DUE: Final = "SELECT min(due_at) FROM events.tasks WHERE tenant = $1 AND state = 1 AND due_at > $2"
_EXPIRED: Final = f"""
SELECT {_LEAN} FROM events.tasks WHERE state = 2 AND lease_until <= $1 AND ($2::text IS NULL OR tenant = $2)
ORDER BY lease_until LIMIT $3 FOR UPDATE SKIP LOCKED
"""
_OF_AGENTS: Final = f"""
SELECT {_LEAN} FROM events.tasks
WHERE state = 2 AND (tenant, agent) IN (SELECT * FROM unnest($1::text[], $2::text[])) ORDER BY uid FOR UPDATE
"""
_LIST: Final = f"""
SELECT {_LEAN} FROM events.tasks
WHERE tenant = $1 AND ($2::timestamptz IS NULL OR (created_at, number) < ($2, $3::bigint)) {{conditions}}
ORDER BY created_at DESC, number DESC LIMIT $4
"""
_PURGE: Final = """
DELETE FROM events.tasks WHERE uid IN (
    SELECT uid FROM events.tasks WHERE tenant = $1 AND state = $2 AND ($3::timestamptz IS NULL OR ended_at < $3)
    LIMIT $4 FOR UPDATE SKIP LOCKED)
"""
_REMOVE_ENDED: Final = """
DELETE FROM events.tasks WHERE uid IN (
    SELECT uid FROM events.tasks WHERE state IN (3, 5) AND ended_at < $1 ORDER BY ended_at LIMIT $2
    FOR UPDATE SKIP LOCKED)
"""
_COUNT: Final = "SELECT count(*) FROM (SELECT FROM events.tasks WHERE tenant = $1 AND state = 1 LIMIT $2) AS counted"


class PostgresTasks:
    """Implements `mnemo_events.domain.tasks.TaskStore`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def enqueue(self, task: Task, limit: int | None) -> Task:
        """Insert a row unless there is one."""
        async with self._database.transaction() as connection:
            if limit is not None:
                if found := await connection.fetchrow(_FIND, task.tenant, task.id):
                    return _task(found)
                await _check_room(connection, task.tenant, limit)
            while True:
                if number := await _insert(connection, task):
                    await _notify(connection, [task])
                    return replace(task, number=number)
                if found := await connection.fetchrow(_FIND, task.tenant, task.id):
                    return _task(found)

    async def claim(self, agent: Agent, limit: int, lease: Lease, now: datetime) -> Claim | None:
        """Lock the agent's row, so that it is not forgotten meanwhile, and rows that nobody else is taking."""
        async with self._database.transaction() as connection:
            known = await connection.fetchrow(_AGENT, agent.tenant, agent.id, UUID(agent.uid))
            if known is None:
                return None
            lost = await _take_expired(connection, now, agent.tenant, limit=SPARE)
            told = any(task.state.ended for task in lost)
            if not known["online"]:
                return Claim((), told=told)
            if same := await _given_before(connection, agent, lease):
                return Claim(same, told=told)
            taken = await _take(connection, agent.tenant, known["capabilities"], limit, now)
            given = [task.given(lease) for task in taken]
            await _write(connection, given)
            due = None if given else await connection.fetchval(_NEXT_DUE, agent.tenant, now)
        return Claim(tuple(given), due, told)

    async def change(self, tenant: Tenant, task_id: str, become: Callable[[Task], Task], limit: int | None) -> Task:
        """Lock a row and write it."""
        async with self._database.transaction() as connection:
            row = await connection.fetchrow(f"{_FIND} FOR UPDATE", tenant, task_id)
            if row is None:
                raise TaskNotFoundError(task=f"tasks/{task_id}")
            task = _task(row)
            after = become(task)
            if after is not task:
                if after.state is State.QUEUED and limit is not None:
                    await _check_room(connection, tenant, limit)
                await _change(connection, [after])
        return after

    async def find(self, tenant: Tenant, task_id: str) -> Task | None:
        """Read a row."""
        row = await self._database.fetchrow(_FIND, tenant, task_id)
        return None if row is None else _task(row)

    async def list_tasks(
        self, tenant: Tenant, behind: Place | None, limit: int, state: State | None, type: str
    ) -> list[Task]:
        """Read rows, the newest first."""
        values: list[Any] = [tenant, behind and behind.created_at, behind and behind.number, limit]
        conditions = ""
        for condition, value in (("state = ${}", state), ("type = ${}", type or None)):
            if value is not None:
                values.append(value)
                conditions += " AND " + condition.format(len(values))
        return [_task(row) for row in await self._database.fetch(_LIST.format(conditions=conditions), *values)]

    async def purge(self, tenant: Tenant, state: State, before: datetime | None, limit: int) -> int:
        """Delete rows."""
        return _rows(await self._database.execute(_PURGE, tenant, state, before, limit))

    async def take_expired(self, now: datetime, limit: int) -> tuple[int, Collection[Tenant]]:
        """Write rows that nobody else is writing."""
        async with self._database.transaction() as connection:
            lost = await _take_expired(connection, now, None, limit)
        return len(lost), {task.tenant for task in lost}

    async def remove_ended(self, before: datetime, limit: int) -> int:
        """Delete rows."""
        return _rows(await self._database.execute(_REMOVE_ENDED, before, limit))

    async def count_queued(self, tenant: Tenant, most: int) -> int:
        """Count rows."""
        return int(await self._database.fetchval(_COUNT, tenant, most))


async def take_back(connection: Connection, agents: Iterable[tuple[Tenant, str]], now: datetime) -> None:
    """Take all tasks of agents from them, in the transaction that locks the rows of these agents."""
    pairs = list(agents)
    rows = await connection.fetch(_OF_AGENTS, [tenant for tenant, _ in pairs], [id for _, id in pairs])
    await _change(connection, [_task(row).lost(now) for row in rows])


async def _insert(connection: Connection, task: Task) -> int | None:
    """The number of the task; None if there is one of that name."""
    order = task.order
    number: int | None = await connection.fetchval(
        _INSERT,
        UUID(task.uid),
        task.tenant,
        task.id,
        order.type,
        order.payload,
        order.content_type,
        list(order.capabilities),
        order.priority,
        order.max_attempts,
        order.not_before,
        task.principal,
        task.created_at,
        task.rank,
        task.due_at,
    )
    return number


async def _take_expired(connection: Connection, now: datetime, tenant: Tenant | None, limit: int) -> list[Task]:
    lost = [_task(row).lost(now) for row in await connection.fetch(_EXPIRED, now, tenant, limit)]
    await _change(connection, lost)
    return lost


async def _given_before(connection: Connection, agent: Agent, lease: Lease) -> tuple[Task, ...]:
    """What the agent has of the same request; a request that is under way at the same time is waited for."""
    if lease.request_id is None:
        return ()
    key = f"mnemo claim {agent.uid} {lease.request_id}"
    await connection.execute("SELECT pg_advisory_xact_lock(hashtextextended($1, 0))", key)
    rows = await connection.fetch(_SAME_REQUEST, agent.tenant, agent.id, UUID(lease.request_id))
    return tuple(_task(row) for row in rows)


async def _take(
    connection: Connection, tenant: Tenant, capabilities: Sequence[str], limit: int, now: datetime
) -> list[Task]:
    """Lock up to `limit` tasks, the least rank first, passing over those that others are locking.

    None after that with which MAX_BYTES of payload are reached.
    """
    taken: list[Task] = []
    tried: list[UUID] = []
    room = MAX_BYTES
    while len(taken) < limit and room > 0:
        asked = limit - len(taken) + SPARE
        rows = await connection.fetch(_CANDIDATES, tenant, list(capabilities), now, tried, asked)
        candidates = [row["uid"] for row in rows]
        fitting = await _fitting(connection, candidates, room) if limit > 1 else candidates
        locked = await connection.fetch(_TAKE, fitting, now, limit - len(taken)) if fitting else []
        taken.extend(_task(row) for row in locked)
        if len(fitting) < asked and len(fitting) == len(candidates):
            break
        room -= sum(len(row["payload"]) for row in locked)
        tried.extend(fitting)
    return sorted(taken, key=lambda task: (task.rank, task.number))


async def _fitting(connection: Connection, candidates: Sequence[UUID], room: int) -> list[UUID]:
    """The first of the candidates, up to that with whose payload there is no room left."""
    sizes = {row["uid"]: row["size"] for row in await connection.fetch(_SIZES, candidates)} if candidates else {}
    fitting: list[UUID] = []
    for uid in candidates:
        if room <= 0:
            break
        fitting.append(uid)
        room -= sizes.get(uid, 0)
    return fitting


async def _change(connection: Connection, tasks: Sequence[Task]) -> None:
    """Write locked tasks, and tell of those that ended and to those who wait for work."""
    if tasks:
        await _write(connection, tasks)
        await tell(connection, [task.ending() for task in tasks if task.state in (State.DONE, State.DEAD)])
        await _notify(connection, [task for task in tasks if task.state is State.QUEUED])


async def _write(connection: Connection, tasks: Sequence[Task]) -> None:
    if not tasks:
        return
    leases = [task.lease for task in tasks]
    await connection.execute(
        _WRITE,
        [UUID(task.uid) for task in tasks],
        [task.state for task in tasks],
        [task.due_at for task in tasks],
        [task.attempts for task in tasks],
        [task.tried_before for task in tasks],
        [task.retries for task in tasks],
        [lease.agent if lease else "" for lease in leases],
        [lease.holder if lease else "" for lease in leases],
        [lease and lease.until for lease in leases],
        [UUID(lease.request_id) if lease and lease.request_id else None for lease in leases],
        [task.result for task in tasks],
        [task.reason for task in tasks],
        [task.error for task in tasks],
        [task.ended_at for task in tasks],
        [task.word.agent for task in tasks],
        [task.word.holder for task in tasks],
        [task.word.attempt for task in tasks],
        [task.word.done for task in tasks],
    )


async def _notify(connection: Connection, tasks: Iterable[Task]) -> None:
    for tenant in sorted({task.tenant for task in tasks}):
        await connection.execute("SELECT pg_notify($1, $2)", CHANNEL, tenant)


async def _check_room(connection: Connection, tenant: Tenant, limit: int) -> None:
    """Raise QuotaExceededError if there is no room for one more; nobody else adds one until the commit."""
    await connection.execute("SELECT pg_advisory_xact_lock(hashtextextended($1, 0))", f"mnemo tasks {tenant}")
    if await connection.fetchval(_COUNT, tenant, limit) >= limit:
        text = f"{MAX_QUEUED} tasks of the tenant wait, the most that may; none was added"
        raise QuotaExceededError(text, quota="queued_tasks", limit=str(MAX_QUEUED))


def _rows(tag: str) -> int:
    """How many rows a command tag such as `DELETE 5` names."""
    return int(tag.rpartition(" ")[2])


def _task(row: Record) -> Task:
    lease = Lease(row["agent"], row["holder"], row["lease_until"], row["request_id"]) if row["agent"] else None
    order = Order(
        type=row["type"],
        payload=row["payload"],
        content_type=row["content_type"],
        capabilities=tuple(row["capabilities"]),
        priority=row["priority"],
        max_attempts=row["max_attempts"],
        not_before=row["not_before"],
    )
    return Task(
        tenant=Tenant(row["tenant"]),
        id=row["id"],
        uid=row["uid"],
        number=row["number"],
        order=order,
        principal=row["principal"],
        created_at=row["created_at"],
        due_at=row["due_at"],
        state=State(row["state"]),
        attempts=row["attempts"],
        tried_before=row["tried_before"],
        retries=row["retries"],
        lease=lease,
        result=row["result"],
        reason=Reason(row["reason"]),
        error=row["error"],
        ended_at=row["ended_at"],
        word=Word(row["word_agent"], row["word_holder"], row["word_attempt"], row["word_done"]),
    )
