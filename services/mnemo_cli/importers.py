"""Memories of other systems as records: exports of mem0, and the conversations of ChatGPT and Claude.

The ids are made from what the memories say, so that importing a file twice adds nothing.
"""

from __future__ import annotations

import uuid
import zipfile
from datetime import UTC, datetime
from typing import IO, TYPE_CHECKING, Any, BinaryIO, Final, cast

from mnemo_cli.failure import Failure
from mnemo_cli.sources import chat
from mnemo_cli.sources.json_stream import read_elements
from mnemo_cli.sources.passages import cut
from mnemo_cli.sources.record import SourceError
from mnemo_cli.stable_ids import StableIds
from mnemocore.client.convert import struct_to_wire
from mnemocore.client.values import MemoryInput
from mnemocore.ids import is_uuid
from mnemocore.memory.v1 import resources_pb2
from mnemocore.memory.v1 import transfer_service_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

CONVERSATIONS: Final = "conversations.json"
_LISTS: Final = ("results", "memories", "data")
_MEM0_TEXT: Final = ("memory", "text", "content", "data")
_MEM0_KEPT: Final = ("user_id", "agent_id", "app_id", "hash", "score", "categories")
_UNDATED: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MAX_TEXT: Final = 8000


def read_foreign(path: Path, space: str, origin: str) -> Iterator[pb.TransferRecord]:
    """The records of a file of `mem0`, `chatgpt` or `claude`; of an archive (*.zip) the conversations in it.

    Raises Failure that names what is broken.
    """
    ids = StableIds(space, origin)
    try:
        with _opened(path) as opened:
            file = cast("BinaryIO", opened)
            items = _mem0(file, path.name) if origin == "mem0" else _conversations(file, origin)
            for item in items:
                yield _record(ids.assign(item))
    except SourceError as error:
        raise Failure(str(error)) from None


def _opened(path: Path) -> IO[bytes]:
    if not zipfile.is_zipfile(path):
        return path.open("rb")
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if name.rpartition("/")[2] == CONVERSATIONS]
        if not names:
            raise Failure(f"{path}: the archive has no {CONVERSATIONS}")
        return archive.open(names[0])


def _conversations(file: BinaryIO, origin: str) -> Iterator[MemoryInput]:
    for _, found in chat.read_document(file, origin):
        if isinstance(found, SourceError):
            raise found
        yield found


def _mem0(file: BinaryIO, source: str) -> Iterator[MemoryInput]:
    for place, value in read_elements(file, source):
        nested = next((value[name] for name in _LISTS if isinstance(value.get(name), list)), None)
        for fields in [value] if nested is None else nested:
            if not isinstance(fields, dict):
                raise SourceError(place, f"a memory is not a JSON object but {str(fields)[:40]!r}")
            text = next((fields[name] for name in _MEM0_TEXT if isinstance(fields.get(name), str)), "").strip()
            if not text:
                raise SourceError(place, f"a memory has none of the fields {', '.join(_MEM0_TEXT)}")
            yield from _mem0_memories(fields, text)


def _mem0_memories(fields: Mapping[str, Any], text: str) -> Iterator[MemoryInput]:
    own = fields.get("metadata")
    metadata = {
        **(own if isinstance(own, dict) else {}),
        **{name: fields[name] for name in _MEM0_KEPT if fields.get(name) is not None},
        "source": "mem0",
    }
    given = str(fields.get("id") or "")
    for number, piece in enumerate(cut(text, _MAX_TEXT)):
        id = given if is_uuid(given) else str(uuid.uuid5(uuid.NAMESPACE_URL, f"mem0:{given}")) if given else ""
        if id and number:
            id = str(uuid.uuid5(uuid.UUID(id), str(number)))
        yield MemoryInput(
            content=piece,
            id=id.lower(),
            kind="fact",
            actor=str(fields.get("user_id") or ""),
            session=str(fields.get("run_id") or ""),
            occurred_at=_time(fields.get("created_at")),
            metadata=metadata,
        )


def _time(value: object) -> datetime | None:
    try:
        time = datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        return None
    return time if time is None or time.tzinfo else time.replace(tzinfo=UTC)


def _record(item: MemoryInput) -> pb.TransferRecord:
    memory = resources_pb2.Memory(
        name=f"spaces/import/memories/{item.id}",
        kind=resources_pb2.MemoryKind.Value(f"MEMORY_KIND_{str(item.kind).upper()}"),
        content=item.content,
        tags=item.tags,
        actor=item.actor,
        session=item.session,
        ordinal=item.ordinal,
        importance=0.5,
        confidence=1.0,
        state=resources_pb2.MEMORY_STATE_ACTIVE,
        access_count=1,
    )
    at = (item.occurred_at or _UNDATED).astimezone(UTC)
    for stamp in (memory.occurred_at, memory.create_time, memory.update_time):
        stamp.FromDatetime(at)
    struct_to_wire(item.metadata, memory.metadata, "metadata")
    memory.provenance.origin = resources_pb2.ORIGIN_IMPORT
    return pb.TransferRecord(memory=memory)
