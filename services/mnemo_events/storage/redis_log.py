"""The event log on Redis: a stream, whose entries are the positions, and what finds them.

The names of keys begin with `{prefix}:`. `log` is the stream; the entry of position N has the id `N-0` and holds the
attributes. Payloads are apart, in the hash `data`, for entries of a stream cannot be changed: what is redacted is gone
there. `keys` finds events that are published again, `ends` the spaces that have ended, and `space:{uid}` the events of
a space, of no space under the empty uid; the payloads of these have `bytes_of_no_space` together. Positions are given
inside the script that appends, so they have no gaps. Readers see the log up to `durable`, what is known to be on disk.
"""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from mnemo_events.domain.event import SPACE_ERASED, Event, Page, StoredEvent
from mnemocore.ids import SpaceUid, Tenant

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from mnemo_events.domain.filter import Filter
    from mnemo_events.storage.redis_store import RedisStore

STRETCH: Final = 10_000
"""Events one read looks at."""
MAX_BYTES: Final = 4 * 1024 * 1024
"""Payload after which a page ends."""

_CHUNK: Final = 200
"""Events a script looks at in one go, so that nobody else waits long."""
_CHUNK_BYTES: Final = 1024 * 1024
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)


def microseconds(time: datetime) -> int:
    """A time as Redis has it."""
    return (time - _EPOCH) // _MICROSECOND


def moment(text: str | bytes | int) -> datetime:
    """A time that Redis has."""
    return _EPOCH + int(text) * _MICROSECOND


class RedisLog:
    """Implements `mnemo_events.domain.ports.EventLog`."""

    def __init__(self, store: RedisStore) -> None:
        self._store = store
        self.channel = f"{store.base}news:log"
        """The channel on which every append is told; the text is the new head."""

    async def append(self, events: Sequence[Event], stored_at: datetime) -> list[int]:
        """Append a batch in one script."""
        head, places = await self._append(microseconds(stored_at), events)
        if self._store.waits_for_disk:
            await self._store.run("log_confirm", head, self.channel)
        return [int(place) for place in places.split()]

    async def confirm(self) -> None:
        """Let readers see what was appended by those who could not say any more that it is on disk."""
        head, _ = await self._append(0, ())
        await self._store.run("log_confirm", head, self.channel)

    async def redact(self, keys: Sequence[tuple[str, str, str]]) -> int:
        """Remove payloads, in portions."""
        portions = [keys[first : first + _CHUNK] for first in range(0, len(keys), _CHUNK)]
        return sum([await self._store.run("log_redact", *map(_key, portion), durable=True) for portion in portions])

    async def remove(self, tenant: Tenant, space_uid: SpaceUid, keep_id: str, limit: int) -> int:
        """Remove events, in portions."""
        removed, after = 0, "0"
        while after and removed < limit:
            count, last = await self._store.run(
                "log_remove", space_uid, tenant, keep_id, limit - removed, after, _CHUNK, durable=True
            )
            removed, after = removed + count, last.decode()
        return removed

    async def trim(
        self, stored_before: datetime | None, keep: int | None, limit: int, *, keep_bytes: int | None = None
    ) -> int:
        """Remove events of no space, in portions."""
        before = None if stored_before is None else microseconds(stored_before)
        wishes = ["" if wish is None else wish for wish in (before, keep, keep_bytes)]
        removed = 0
        while removed < limit:
            wanted = min(_CHUNK, limit - removed)
            count = await self._store.run("log_trim", *wishes, wanted, durable=True)
            removed += count
            if count < wanted:
                break
        return removed

    async def trimmed(self) -> int:
        """The newest position that was trimmed."""
        return int(await self._store.run("log_position", "trimmed"))

    async def read(self, after: int, where: Filter, limit: int) -> Page:
        """A page, in portions: what is behind a position does not change, but for what is taken out."""
        wanted = where.matcher()
        found: list[StoredEvent] = []
        size = 0
        for _ in range(STRETCH // _CHUNK):
            head, upto, trimmed, records = await self._look(after, where.space_uid)
            room = limit - len(found)
            matching = [each for each in _records(*records, where.tenant) if wanted(each.event())][:room]
            if matching:
                places, looked_at, trimmed = await self._fill(matching, MAX_BYTES - size)
                found += places
                size += sum(len(place.event.data) for place in places)
                if looked_at < len(matching) or len(matching) == room or size >= MAX_BYTES:
                    return Page(tuple(found), matching[looked_at - 1].position, head, trimmed)
            after = max(after, upto)
            if after >= head:
                break
        return Page(tuple(found), after, head, trimmed)

    async def get(self, positions: Sequence[int]) -> list[StoredEvent]:
        """The events, in portions."""
        found: list[StoredEvent] = []
        ordered = sorted(set(positions))
        for first in range(0, len(ordered), _CHUNK):
            sizes, body = await self._store.run("log_entries", _joined(ordered[first : first + _CHUNK]))
            rest = list(_records(sizes, body, None))
            while rest:
                places, looked_at, _ = await self._fill(rest, MAX_BYTES)
                found += places
                rest = rest[looked_at:]
        return found

    async def position_before(self, time: datetime) -> int:
        """Found by halving."""
        return int(await self._store.run("log_bisect", microseconds(time)))

    async def head(self) -> int:
        """The newest position."""
        return int(await self._store.run("log_position", "durable"))

    async def _append(self, stored_at: int, events: Sequence[Event]) -> tuple[bytes, bytes]:
        at_once = int(not self._store.waits_for_disk)
        sizes, body = await _packed(events)
        head, places = await self._store.run("log_append", stored_at, at_once, self.channel, sizes, body, durable=True)
        return head, places

    async def _look(self, after: int, space_uid: SpaceUid | None) -> tuple[int, int, int, tuple[bytes, bytes]]:
        """The head, the position up to which was looked, what was trimmed, and the records of what is there."""
        space = () if space_uid is None else (space_uid,)
        head, upto, trimmed, sizes, body = await self._store.run("log_scan", after, _CHUNK, _CHUNK_BYTES, *space)
        return int(head), int(upto), int(trimmed), (sizes, body)

    async def _fill(self, records: list[_Record], budget: int) -> tuple[list[StoredEvent], int, int]:
        """Events with their payloads, up to and with the first that exceeds the budget; how many were looked at.

        What was removed meanwhile is left out; the last number is what is trimmed by now.
        """
        trimmed, sizes, payloads = await self._store.run(
            "log_payloads", budget, _joined(each.position for each in records)
        )
        filled, start = [], 0
        lengths = [int(size) for size in sizes.split()]
        for record, length in zip(records, lengths, strict=False):
            if length >= 0:
                event = record.event(payloads[start : start + length])
                filled.append(StoredEvent(record.position, event, moment(record.stored_at)))
                start += length
        return filled, len(lengths), int(trimmed)


class _Record(NamedTuple):
    """An event as the stream has it."""

    position: int
    key: list[str]
    space_uid: str
    attributes: list[Any]
    stored_at: bytes

    def event(self, data: bytes = b"") -> Event:
        """The event with its payload."""
        kind, subject, time, datacontenttype, dataschema, revision, traceparent, correlated, caused = self.attributes
        tenant, source, event_id = self.key
        return Event(
            id=event_id,
            source=source,
            type=kind,
            subject=subject,
            time=moment(time),
            datacontenttype=datacontenttype,
            dataschema=dataschema,
            data=data,
            tenant=Tenant(tenant),
            space_uid=SpaceUid(self.space_uid),
            revision=revision,
            traceparent=traceparent,
            correlation_id=correlated,
            causation_id=caused,
        )


def _key(key: tuple[str, str, str]) -> str:
    """No text of an event has the character U+0000."""
    return "\0".join(key)


async def _packed(events: Sequence[Event]) -> tuple[str, bytes]:
    """What the script that appends takes of events; others get their turn meanwhile."""
    sizes: list[str] = []
    pieces: list[bytes] = []
    for index, event in enumerate(events, 1):
        fields = (_key(event.key).encode(), event.space_uid.encode(), _attributes(event).encode(), event.data)
        sizes.append(f"{' '.join(str(len(field)) for field in fields)} {int(event.type == SPACE_ERASED)}")
        pieces.extend(fields)
        if index % _CHUNK == 0:
            await asyncio.sleep(0)
    return " ".join(sizes), b"".join(pieces)


def _attributes(event: Event) -> str:
    attributes = [
        event.type,
        event.subject,
        microseconds(event.time),
        event.datacontenttype,
        event.dataschema,
        event.revision,
        event.traceparent,
        event.correlation_id,
        event.causation_id,
    ]
    return json.dumps(attributes, ensure_ascii=False)


def _joined(positions: Iterable[int]) -> str:
    return " ".join(map(str, positions))


def _records(sizes: bytes, body: bytes, tenant: Tenant | None) -> Iterator[_Record]:
    """What a script has packed; what is of other tenants is passed over unread."""
    numbers = iter([int(number) for number in sizes.split()])
    start = 0
    for position, key, space, attributes, stored_at in zip(numbers, numbers, numbers, numbers, numbers, strict=True):
        space_at, attributes_at = start + key, start + key + space
        stored_at_at = attributes_at + attributes
        names = body[start:space_at].decode().split("\0")
        start = stored_at_at + stored_at
        if tenant is None or names[0] == tenant:
            yield _Record(
                position,
                names,
                body[space_at:attributes_at].decode(),
                json.loads(body[attributes_at:stored_at_at].decode()),
                body[stored_at_at:start],
            )
