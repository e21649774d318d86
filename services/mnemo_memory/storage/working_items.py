"""Working items as database rows and as JSON, in the open or sealed."""

from __future__ import annotations

import json
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from mnemo_memory.domain.memory import Draft, Kind, Modality, NoveltyGate, OnDuplicate, Origin, Provenance
from mnemo_memory.domain.working_memory import WorkingItem
from mnemo_memory.storage import rows
from mnemocore.ids import MemoryId

if TYPE_CHECKING:
    from collections.abc import Mapping

    from asyncpg import Connection, Record

    from mnemo_memory.domain.memory import Space
    from mnemocore.sealing import SpaceCipher

COLUMNS: Final = "id, item::text, sealed, protected, accesses, created_at, expires_at"
LIVE: Final = "(expires_at IS NULL OR expires_at > {})"
"""The condition that an item's time is not over, with a place for the time."""
OWNED: Final = "space_uid = $1 AND agent = $2 AND session = $3"

_INSERT: Final = f"""
INSERT INTO memory.working_items (
    space_uid, agent, session, id, item, sealed, content_hash, protected, accesses, created_at, expires_at, position)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11,
    (SELECT coalesce(max(position), 0) + 1 FROM memory.working_items WHERE {OWNED}))
"""


def owner(space: Space, agent: str, session: str, cipher: SpaceCipher | None) -> tuple[UUID, str, str]:
    """The values of OWNED: whose working memory it is, as the columns show it."""
    if cipher is None:
        return UUID(space.uid), agent, session
    return UUID(space.uid), cipher.blind(agent), cipher.blind(session)


async def live(
    connection: Connection[Record],
    space: Space,
    agent: str,
    session: str,
    now: datetime,
    cipher: SpaceCipher | None,
) -> list[WorkingItem]:
    """The items of an agent and session, the one that was pushed last first."""
    found = await connection.fetch(
        f"SELECT {COLUMNS} FROM memory.working_items WHERE {OWNED} AND {LIVE.format('$4')} ORDER BY position DESC",
        *owner(space, agent, session, cipher),
        now,
    )
    return [to_item(row, cipher) for row in found]


async def insert(connection: Connection[Record], space: Space, item: WorkingItem, cipher: SpaceCipher | None) -> None:
    """Put an item before the others of its agent and session. The space is locked."""
    described = rows.to_json([item.agent, item.session, from_draft(item.draft)])
    await connection.execute(
        _INSERT,
        *owner(space, item.agent, item.session, cipher),
        UUID(item.id),
        described if cipher is None else None,
        None if cipher is None else cipher.seal(_subject(item.id), described.encode("utf-8", "surrogatepass")),
        rows.content_hash(item.draft, cipher),
        item.protected,
        item.accesses,
        item.created_at,
        item.expires_at,
    )


def to_item(row: Mapping[str, Any], cipher: SpaceCipher | None) -> WorkingItem:
    """An item from a row of COLUMNS."""
    described = row["item"]
    if cipher is not None:
        described = cipher.open(_subject(str(row["id"])), row["sealed"]).decode("utf-8", "surrogatepass")
    agent, session, draft = json.loads(described)
    return WorkingItem(
        str(row["id"]),
        agent,
        session,
        to_draft(draft),
        row["protected"],
        row["accesses"],
        row["created_at"],
        row["expires_at"],
    )


def from_item(item: WorkingItem) -> list[Any]:
    """An item as JSON values, the agent and session aside; `item_of` is the inverse."""
    return [
        item.id,
        from_draft(item.draft),
        item.protected,
        item.accesses,
        item.created_at.isoformat(),
        _from_time(item.expires_at),
    ]


def item_of(fields: list[Any], agent: str, session: str) -> WorkingItem:
    """The item of `from_item`."""
    id, draft, protected, accesses, created_at, expires_at = fields
    created = datetime.fromisoformat(created_at)
    return WorkingItem(id, agent, session, to_draft(draft), protected, accesses, created, _to_time(expires_at))


def from_draft(draft: Draft) -> dict[str, Any]:
    """A draft without a medium as JSON values; `to_draft` is the inverse."""
    return {
        "content": draft.content,
        "id": draft.id,
        "kind": draft.kind,
        "metadata": draft.metadata,
        "tags": draft.tags,
        "actor": draft.actor,
        "session": draft.session,
        "ordinal": draft.ordinal,
        "occurred_at": _from_time(draft.occurred_at),
        "importance": draft.importance,
        "confidence": draft.confidence,
        "modality": draft.modality,
        "valid_from": _from_time(draft.valid_from),
        "valid_to": _from_time(draft.valid_to),
        "expires_at": _from_time(draft.expires_at),
        "provenance": [draft.provenance.origin, draft.provenance.sources, draft.provenance.agent],
        "protected": draft.protected,
        "on_duplicate": draft.on_duplicate,
        "novelty_gate": draft.novelty_gate,
    }


def to_draft(fields: Mapping[str, Any]) -> Draft:
    """The draft of `from_draft`."""
    origin, sources, agent = fields["provenance"]
    return Draft(
        content=fields["content"],
        id=None if fields["id"] is None else MemoryId(fields["id"]),
        kind=Kind(fields["kind"]),
        metadata=fields["metadata"],
        tags=tuple(fields["tags"]),
        actor=fields["actor"],
        session=fields["session"],
        ordinal=fields["ordinal"],
        occurred_at=_to_time(fields["occurred_at"]),
        importance=fields["importance"],
        confidence=fields["confidence"],
        modality=Modality(fields["modality"]),
        valid_from=_to_time(fields["valid_from"]),
        valid_to=_to_time(fields["valid_to"]),
        expires_at=_to_time(fields["expires_at"]),
        provenance=Provenance(Origin(origin), tuple(sources), agent),
        protected=fields["protected"],
        on_duplicate=OnDuplicate(fields["on_duplicate"]),
        novelty_gate=NoveltyGate(fields["novelty_gate"]),
    )


def _subject(item_id: str) -> str:
    return f"working-item/{item_id}"


def _from_time(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()


def _to_time(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)
