"""Consumer groups on Redis: what a group holds is one hash, and sorted sets say whose turn it is; see the scripts.

Every method is one script, so it happens as a whole or not at all, one after the other. What is settled and claimed is
on disk a moment later where the server writes later than it answers: what is lost then is given once more.
"""

from __future__ import annotations

import dataclasses
import json
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from mnemo_events.domain.filter import Filter
from mnemo_events.domain.group import MAX_WAITING, Claim, Claimed, Group, Settled, Standing
from mnemo_events.storage.redis_log import microseconds, moment
from mnemocore.errors import GroupNotFoundError
from mnemocore.ids import SpaceUid, Tenant, new_uuid

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime

    from mnemo_events.domain.group import Fresh, Outcome
    from mnemo_events.storage.redis_store import RedisStore

_MICROSECOND: Final = timedelta(microseconds=1)


class RedisGroups:
    """Implements `mnemo_events.domain.ports.Groups`."""

    def __init__(self, store: RedisStore) -> None:
        self._store = store
        self.channel = f"{store.base}news:groups"
        """The channel on which is told that something that waits may be due; the text is the uid of the group."""

    async def create(self, group: Group, position: int) -> Group:
        """Make it where no other of the name is."""
        made = dataclasses.replace(group, uid=new_uuid(group.created_at))
        definition = await self._store.run(
            "group_create", made.uid, made.tenant, made.id, _definition(made), position, durable=True
        )
        return _group(definition)

    async def find(self, tenant: Tenant, group_id: str) -> Group | None:
        """The group of that name."""
        definition = await self._store.run("group_find", tenant, group_id)
        return None if definition is None else _group(definition)

    async def list_groups(self, tenant: Tenant, after_id: str, limit: int) -> list[Group]:
        """From a sorted set of the tenant."""
        return [_group(definition) for definition in await self._store.run("group_list", tenant, after_id, limit)]

    async def refilter(self, group: Group, where: Filter) -> Group:
        """Write its definition anew."""
        changed = dataclasses.replace(group, where=where)
        await self._run("group_refilter", group, _definition(changed), durable=True)
        return changed

    async def delete(self, group: Group) -> bool:
        """Delete all its keys."""
        deleted = await self._store.run("group_delete", group.uid, group.tenant, group.id, self.channel, durable=True)
        return bool(deleted)

    async def standing(self, group: Group) -> Standing:
        """How a group stands."""
        position, in_flight, waiting = await self._run("group_standing", group)
        return Standing(int(position), in_flight, waiting)

    async def seek(self, group: Group, position: int) -> None:
        """Delete what it holds."""
        await self._run("group_seek", group, position, self.channel, durable=True)

    async def claim(
        self, group: Group, member: str, limit: int, now: datetime, lease_until: datetime, fresh: Fresh | None
    ) -> Claim:
        """Work through the queues, then through what is fresh."""
        position, due, given = await self._run(
            "group_claim",
            group,
            member,
            limit,
            microseconds(now),
            microseconds(lease_until),
            MAX_WAITING,
            self.channel,
            *_columns(fresh),
        )
        return Claim(tuple(_claimed(given, lease_until)), int(position), moment(due) if due else None)

    async def settle(
        self, group: Group, member: str, outcomes: Sequence[Outcome], now: datetime, lease_until: datetime
    ) -> Settled:
        """Take outcomes one after the other."""
        last = {outcome.position: index for index, outcome in enumerate(outcomes)}
        said = [outcomes[index] for index in sorted(last.values())]
        columns = [column for each in said for column in (each.position, each.attempt, _verdict(each))]
        answer = await self._run("group_settle", group, member, microseconds(lease_until), self.channel, *columns)
        settled, lost = (tuple(sorted(int(position) for position in text.split())) for text in answer)
        return Settled(settled, lost)

    async def release(self, group: Group, member: str, *, counted: bool) -> int:
        """Let all that a member has wait."""
        return int(await self._run("group_release", group, member, int(counted), self.channel))

    async def revive(self, group: Group, positions: Sequence[int], now: datetime) -> list[int]:
        """Let events wait."""
        revived = await self._run("group_revive", group, microseconds(now), self.channel, *positions, durable=True)
        return sorted(int(position) for position in revived.split())

    async def _run(self, script: str, group: Group, *arguments: str | bytes | int, durable: bool = False) -> Any:
        answer = await self._store.run(script, group.uid, *arguments, durable=durable)
        if answer is None:
            raise GroupNotFoundError(group=group.name)
        return answer


def _columns(fresh: Fresh | None) -> list[str | bytes | int]:
    if fresh is None:
        return []
    return [fresh.after, fresh.upto, *(column for event in fresh.events for column in event)]


def _verdict(outcome: Outcome) -> str | int:
    if outcome.done:
        return "done"
    return "again" if outcome.retry_at is None else microseconds(outcome.retry_at)


def _claimed(given: bytes, lease_until: datetime) -> Iterator[Claimed]:
    numbers = [int(number) for number in given.split()]
    for first in range(0, len(numbers), 3):
        position, attempt, replayed = numbers[first : first + 3]
        yield Claimed(position, attempt, lease_until, bool(replayed))


def _definition(group: Group) -> str:
    fields = dataclasses.asdict(group)
    fields["lease"] = group.lease // _MICROSECOND
    fields["created_at"] = microseconds(group.created_at)
    return json.dumps(fields, ensure_ascii=False)


def _group(definition: bytes) -> Group:
    fields = json.loads(definition)
    where = fields["where"]
    return Group(
        uid=fields["uid"],
        tenant=Tenant(fields["tenant"]),
        id=fields["id"],
        where=Filter(
            types=tuple(where["types"]),
            space_uid=None if where["space_uid"] is None else SpaceUid(where["space_uid"]),
            tenant=None if where["tenant"] is None else Tenant(where["tenant"]),
            subjects=tuple(where["subjects"]),
        ),
        max_attempts=fields["max_attempts"],
        lease=fields["lease"] * _MICROSECOND,
        owner=fields["owner"],
        created_at=moment(fields["created_at"]),
    )
