"""TransferService on the wire. Records are checked as the requests are that make such things one by one."""

from __future__ import annotations

import re
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Final

from mnemo_memory import wire
from mnemo_memory.domain.associations import Association, AssociationType, Link
from mnemo_memory.domain.media import PART_BYTES
from mnemo_memory.domain.media_types import TYPES
from mnemo_memory.domain.memory import Change, Media, Memory, Modality, Revision, State, Tier
from mnemo_memory.domain.sessions import Session
from mnemo_memory.domain.transfer import MediaPart, OnConflict, Selection
from mnemocore.calls import caller
from mnemocore.errors import InvalidFieldError, MnemoError, Violation
from mnemocore.ids import MemoryId, is_uuid
from mnemocore.memory.v1 import association_service_pb2, resources_pb2, session_service_pb2, transfer_service_pb2_grpc
from mnemocore.memory.v1 import transfer_service_pb2 as pb
from mnemocore.server.validation import Validator
from mnemocore.status import to_status
from mnemocore.wire import dict_to_struct, struct_to_dict, to_datetime, to_timestamp

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from datetime import datetime

    import grpc
    from google.protobuf.message import Message

    from mnemo_memory.domain.memory import Space
    from mnemo_memory.domain.transfer import Outcome, Page, Record, Transfer

MAX_PRINCIPAL: Final = 1024
MAX_REASON: Final = 4096
"""Characters of what a history says of its changes."""
MAX_COUNT: Final = 2**53
"""Uses of a memory, or of a link, that an import may tell of."""

_NO_PARENT: Final = "spaces/import"
_SHA256: Final = re.compile("[0-9a-f]{64}")


class TransferServicer(transfer_service_pb2_grpc.TransferServiceServicer):
    """Converts, calls the domain, converts back."""

    def __init__(self, transfer: Transfer) -> None:
        self._transfer = transfer

    async def ExportSpace(
        self, request: pb.ExportSpaceRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[pb.ExportSpaceResponse]:
        selection = Selection(
            where=wire.to_filter(request.filter),
            states=tuple(dict.fromkeys(wire.to_states(request.states))),
            history=request.history,
            media=request.media,
            up_to=request.up_to_revision,
        )
        pages = self._transfer.export(caller(), wire.space_of(request.parent), selection, request.position)
        async with aclosing(pages):
            async for space, page in pages:
                yield _from_page(space, page)

    async def ImportRecords(
        self, request_iterator: AsyncIterator[pb.ImportRecordsRequest], context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[pb.ImportRecordsResponse]:
        number = 0
        async for request in request_iterator:
            results = await self._transfer.write(
                caller(),
                wire.space_of(request.parent),
                [_checked(record, f"records[{place}]") for place, record in enumerate(request.records)],
                OnConflict(request.on_conflict or OnConflict.ERROR),
            )
            yield pb.ImportRecordsResponse(batch=number, results=[_from_result(result) for result in results])
            number += 1


# Out


def _from_page(space: Space, page: Page) -> pb.ExportSpaceResponse:
    return pb.ExportSpaceResponse(
        records=[_from_record(space, record) for record in page.records],
        position=page.position,
        total=page.total,
        revision=page.revision,
    )


def _from_record(space: Space, record: Record) -> pb.TransferRecord:
    if isinstance(record, Memory):
        return pb.TransferRecord(
            memory=_from_memory(space, record), reliability_alpha=record.alpha, reliability_beta=record.beta
        )
    if isinstance(record, Revision):
        return _from_revision(space, record)
    if isinstance(record, Association):
        return pb.TransferRecord(association=wire.from_association(space, record))
    if isinstance(record, Session):
        return pb.TransferRecord(session=_from_session(record))
    media = wire.from_media(space, record.media)
    return pb.TransferRecord(media_part=pb.MediaPart(media=media, offset=record.offset, data=record.data))


def _from_memory(space: Space, memory: Memory) -> resources_pb2.Memory:
    """A memory with its uses; its strength is left out, for it is another one at every moment."""
    message = wire.from_memory(space, memory)
    message.access_count = memory.accesses
    message.last_accessed_at.CopyFrom(to_timestamp(memory.accessed_at or memory.created_at))
    return message


def _from_revision(space: Space, revision: Revision) -> pb.TransferRecord:
    record = pb.TransferRecord(revision=wire.from_revision(space, revision))
    if revision.memory is not None:
        record.revision.memory.CopyFrom(_from_memory(space, revision.memory))
        record.reliability_alpha, record.reliability_beta = revision.memory.alpha, revision.memory.beta
    return record


def _from_session(session: Session) -> session_service_pb2.Session:
    message = session_service_pb2.Session(
        id=session.id, agent=session.agent, start_time=to_timestamp(session.started_at), memories=session.memories
    )
    if session.metadata:
        message.metadata.CopyFrom(dict_to_struct(session.metadata))
    if session.ended_at is not None:
        message.end_time.CopyFrom(to_timestamp(session.ended_at))
    return message


def _from_result(result: Outcome | MnemoError) -> pb.ImportResult:
    if isinstance(result, MnemoError):
        return pb.ImportResult(error=to_status(result))
    return pb.ImportResult(outcome=pb.ImportOutcome.ValueType(result))


# In


def _checked(record: pb.TransferRecord, path: str) -> Record | MnemoError:
    """The record, or what is wrong with it."""
    try:
        return _to_record(record, path)
    except InvalidFieldError as error:
        return error


def _to_record(record: pb.TransferRecord, path: str) -> Record:
    which = record.WhichOneof("record")
    if which == "memory":
        return _to_memory(record.memory, record, f"{path}.memory")
    if which == "revision":
        return _to_revision(record, f"{path}.revision")
    if which == "association":
        return _to_association(record.association, f"{path}.association")
    if which == "session":
        return _to_session(record.session, f"{path}.session")
    if which == "media_part":
        return _to_part(record.media_part, f"{path}.media_part")
    raise _wrong(path, "is empty")


def _to_memory(message: resources_pb2.Memory, record: pb.TransferRecord, path: str) -> Memory:
    item = resources_pb2.MemoryInput(
        id=_id(message.name, f"{path}.name"),
        kind=message.kind,
        content=message.content,
        tags=message.tags,
        actor=message.actor,
        session=message.session,
        ordinal=message.ordinal if message.HasField("ordinal") else None,
        importance=message.importance,
        confidence=message.confidence,
        protected=message.protected,
    )
    for field in ("metadata", "occurred_at", "valid_from", "valid_to", "expires_at", "provenance"):
        if message.HasField(field):
            getattr(item, field).CopyFrom(getattr(message, field))
    _validate(item, path)
    draft = wire.to_draft(item, path)
    created_at, updated_at = _time(message, "create_time", path), _time(message, "update_time", path)
    state = _state(message.state, path)
    accessed_at = _time(message, "last_accessed_at", path) if message.HasField("last_accessed_at") else None
    return Memory(
        id=MemoryId(item.id),
        kind=draft.kind,
        content=draft.content,
        metadata=draft.metadata,
        tags=draft.tags,
        actor=draft.actor,
        session=draft.session,
        ordinal=draft.ordinal if draft.session else None,
        occurred_at=draft.occurred_at or created_at,
        importance=draft.importance,
        confidence=draft.confidence,
        state=state,
        revision=message.revision,
        created_revision=0,
        created_at=created_at,
        updated_at=updated_at,
        modality=_number(Modality, message.modality or Modality.TEXT, f"{path}.modality"),
        media=_to_media(message.media, f"{path}.media") if message.HasField("media") else None,
        valid_from=draft.valid_from,
        valid_to=draft.valid_to,
        expires_at=draft.expires_at,
        archived_at=updated_at if state is State.ARCHIVED else None,
        provenance=draft.provenance,
        supersedes=MemoryId(_id(message.supersedes, f"{path}.supersedes")) if message.supersedes else None,
        superseded_by=MemoryId(_id(message.superseded_by, f"{path}.superseded_by")) if message.superseded_by else None,
        protected=draft.protected,
        alpha=_weight(record.reliability_alpha, path),
        beta=_weight(record.reliability_beta, path),
        accesses=_count(message.access_count or 1, f"{path}.access_count"),
        accessed_at=None if accessed_at == created_at else accessed_at,
        tier=_number(Tier, message.tier or Tier.WARM, f"{path}.tier"),
    )


def _to_revision(record: pb.TransferRecord, path: str) -> Revision:
    message = record.revision
    change = _number(Change, message.change, f"{path}.change")
    if change is Change.ERASED:
        raise _wrong(f"{path}.change", "is ERASED; what was erased is not imported")
    memory = _to_memory(message.memory, record, f"{path}.memory")
    return Revision(
        revision=message.revision,
        memory_id=memory.id,
        change=change,
        memory=memory,
        committed_at=_time(message, "commit_time", path),
        principal=_text(message.principal, MAX_PRINCIPAL, f"{path}.principal"),
        reason=_text(message.reason, MAX_REASON, f"{path}.reason"),
    )


def _to_association(message: resources_pb2.Association, path: str) -> Association:
    source, target = _id(message.source, f"{path}.source"), _id(message.target, f"{path}.target")
    _validate(association_service_pb2.AssociateRequest(parent=_NO_PARENT, source_id=source, target_id=target), path)
    if source == target:
        raise _wrong(f"{path}.target", "is the source too; a link has two ends")
    if not 0 < message.weight <= 1:
        raise _wrong(f"{path}.weight", f"{message.weight}; allowed is above 0 and at most 1")
    return Association(
        link=Link(MemoryId(source), MemoryId(target), _number(AssociationType, message.type, f"{path}.type")),
        weight=message.weight,
        activations=_count(message.activations, f"{path}.activations"),
        created_at=_time(message, "create_time", path),
        updated_at=_time(message, "update_time", path),
        principal=_text(message.principal, MAX_PRINCIPAL, f"{path}.principal"),
    )


def _to_session(message: session_service_pb2.Session, path: str) -> Session:
    _validate(
        session_service_pb2.StartSessionRequest(
            parent=_NO_PARENT, session_id=message.id, agent=message.agent, metadata=message.metadata
        ),
        path,
    )
    metadata = struct_to_dict(message.metadata)
    if not message.id or wire.has_nul([message.id, message.agent, metadata]):
        raise _wrong(path, "has no id, or a text with the character U+0000")
    return Session(
        id=message.id,
        agent=message.agent,
        metadata=metadata,
        started_at=_time(message, "start_time", path),
        ended_at=_time(message, "end_time", path) if message.HasField("end_time") else None,
    )


def _to_part(message: pb.MediaPart, path: str) -> MediaPart:
    media = _to_media(message.media, f"{path}.media")
    if message.offset % PART_BYTES or not 0 <= message.offset < media.size:
        raise _wrong(f"{path}.offset", f"{message.offset}; allowed are multiples of {PART_BYTES} below {media.size}")
    expected = min(PART_BYTES, media.size - message.offset)
    if len(message.data) != expected:
        raise _wrong(f"{path}.data", f"has {len(message.data)} bytes; the part has {expected}")
    return MediaPart(media, message.offset, message.data)


def _to_media(message: resources_pb2.Media, path: str) -> Media:
    kind = TYPES.get(message.mime_type)
    if kind is None:
        raise _wrong(f"{path}.mime_type", f"{message.mime_type!r}; allowed are {', '.join(TYPES)}")
    if not 0 < message.size_bytes <= kind.max_bytes:
        raise _wrong(f"{path}.size_bytes", f"{message.size_bytes}; allowed are 1 to {kind.max_bytes}")
    if not _SHA256.fullmatch(message.sha256):
        raise _wrong(f"{path}.sha256", "is no SHA-256 in hexadecimal")
    return Media(_id(message.name, f"{path}.name"), message.mime_type, message.size_bytes, message.sha256)


def _id(name: str, path: str) -> str:
    """The id at the end of a resource name, or the id alone."""
    found = name.rpartition("/")[2]
    if not is_uuid(found):
        raise _wrong(path, f"{name[:100]!r}; allowed is a name that ends in a UUID")
    return found.lower()


def _validate(message: Message, path: str) -> None:
    found = Validator.for_message(message.DESCRIPTOR).violations(message)
    if found:
        raise InvalidFieldError.of([Violation(f"{path}.{each.field}", each.description) for each in found])


def _time(message: Message, field: str, path: str) -> datetime:
    if not message.HasField(field):
        raise _wrong(f"{path}.{field}", "is required")
    try:
        return to_datetime(getattr(message, field))
    except OverflowError:
        raise _wrong(f"{path}.{field}", "is no time of the years 1 to 9999") from None


def _text(text: str, most: int, path: str) -> str:
    if len(text) > most:
        raise _wrong(path, f"has {len(text)} characters; allowed are at most {most}")
    return wire.text(path, text)


def _state(number: int, path: str) -> State:
    state: State = _number(State, number, f"{path}.state")
    if state is State.ERASED:
        raise _wrong(f"{path}.state", "is ERASED; what was erased is not imported")
    return state


def _weight(weight: float, path: str) -> float:
    """A sum of weights of feedback; the prior if there is none."""
    if not 0 <= weight < float("inf"):
        raise _wrong(path, f"has a reliability of {weight}; allowed are finite sums of weights")
    return weight or 1.0


def _count(number: int, path: str) -> int:
    """A count of uses that can go on counting."""
    if not 1 <= number <= MAX_COUNT:
        raise _wrong(path, f"{number}; allowed are 1 to {MAX_COUNT}")
    return number


def _number(kind: Any, number: int, path: str) -> Any:
    try:
        return kind(number)
    except ValueError:
        raise _wrong(path, f"{number}; allowed are {', '.join(each.name for each in kind)}") from None


def _wrong(path: str, description: str) -> InvalidFieldError:
    return InvalidFieldError.of([Violation(path, description)])
