"""Carrying whole spaces out and in."""

from __future__ import annotations

from collections.abc import AsyncIterable
from contextlib import aclosing
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from mnemocore.client.convert import enum_to_wire, filter_to_wire, invalid
from mnemocore.client.retries import pause_after, worth_retrying
from mnemocore.client.values import MemoryState
from mnemocore.errors import MnemoError, SpaceNotFoundError, UnavailableError
from mnemocore.memory.v1 import transfer_service_pb2 as pb
from mnemocore.status import from_status

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterable, Sequence

    from mnemocore.client.services import Services
    from mnemocore.client.streams import StreamCall
    from mnemocore.client.values import MemoryFilter

MAX_BATCH: Final = 500
MAX_BATCH_BYTES: Final = 1536 * 1024
"""A batch is closed before it holds more, however few records that are."""
MAX_BREAKS: Final = 6
"""Breaks of the stream in a row after which its error is raised."""


class OnConflict(StrEnum):
    """What to do with a record whose id is taken."""

    SKIP = "skip"
    OVERWRITE = "overwrite"
    MERGE = "merge"
    ERROR = "error"


_MODES: Final[dict[str, pb.OnConflict.ValueType]] = {
    OnConflict.SKIP: pb.ON_CONFLICT_SKIP,
    OnConflict.OVERWRITE: pb.ON_CONFLICT_OVERWRITE,
    OnConflict.MERGE: pb.ON_CONFLICT_MERGE,
    OnConflict.ERROR: pb.ON_CONFLICT_ERROR,
}


@dataclass(frozen=True, slots=True)
class ExportPart:
    """Some records of an export, and the `position` to go on after them; in all it has `total` memories or revisions.

    The last part has no records. `revision` is that of the space the export shows.
    """

    records: Sequence[pb.TransferRecord]
    position: str
    total: int
    revision: int


@dataclass(frozen=True, slots=True)
class Imported:
    """What became of one record: `outcome` is written, skipped, overwritten, merged, or refused with `error`."""

    outcome: str
    error: MnemoError | None = None


async def export(
    services: Services,
    space_id: str,
    *,
    filter: MemoryFilter | None,
    states: Sequence[MemoryState | str],
    history: bool,
    media: bool,
    up_to_revision: int,
    position: str,
) -> AsyncGenerator[ExportPart]:
    """The parts of an export; a broken stream is taken up again after the last part."""
    request = pb.ExportSpaceRequest(
        parent=f"spaces/{space_id}",
        filter=filter_to_wire(filter) if filter is not None else None,
        states=[enum_to_wire(MemoryState, state, "states") for state in states],
        history=history,
        media=media,
        up_to_revision=up_to_revision,
        position=position,
    )
    breaks = 0
    while True:
        call: StreamCall[Any, pb.ExportSpaceResponse]
        try:
            call = services.transfer.ExportSpace(request, timeout=services.timeout)  # type: ignore[assignment]
            try:
                async for response in call:
                    breaks = 0
                    request.position = response.position
                    yield ExportPart(response.records, response.position, response.total, response.revision)
                return
            finally:
                call.cancel()
        except UnavailableError as error:
            breaks += 1
            if not worth_retrying(error) or breaks > MAX_BREAKS:
                raise
            await services.clock.sleep(pause_after(error, breaks))


async def import_records(
    services: Services,
    space_id: str,
    records: Iterable[pb.TransferRecord] | AsyncIterable[pb.TransferRecord],
    *,
    on_conflict: OnConflict | str,
) -> AsyncGenerator[Sequence[Imported]]:
    """What became of the records, batch by batch; what was answered is durable. The space is made if it is not there.

    A batch whose answer is lost when the stream breaks is sent again only if that changes nothing: with SKIP.
    """
    mode = _MODES.get(on_conflict)
    if mode is None:
        raise invalid("on_conflict", f"{on_conflict!r} is not allowed; allowed are {', '.join(_MODES)}")
    async with aclosing(_batches(records)) as batches:
        async for batch in batches:
            request = pb.ImportRecordsRequest(parent=f"spaces/{space_id}", records=batch, on_conflict=mode)
            yield [_imported(result) for result in await _send(services, space_id, request)]


async def _send(services: Services, space_id: str, request: pb.ImportRecordsRequest) -> Sequence[pb.ImportResult]:
    breaks = 0
    while True:
        try:
            return await _answer(services, request)
        except SpaceNotFoundError:
            breaks += 1
            if breaks > 1:
                raise
            await services.ensure_space(space_id)
        except UnavailableError as error:
            breaks += 1
            repeatable = request.on_conflict == pb.ON_CONFLICT_SKIP
            if not repeatable or not worth_retrying(error) or breaks > MAX_BREAKS:
                raise
            await services.clock.sleep(pause_after(error, breaks))


async def _answer(services: Services, request: pb.ImportRecordsRequest) -> Sequence[pb.ImportResult]:
    """The answer to one batch, on a stream of its own: why a server refuses it is never lost."""
    call: StreamCall[pb.ImportRecordsRequest, pb.ImportRecordsResponse]
    call = services.transfer.ImportRecords(timeout=services.timeout)  # type: ignore[assignment]  # on a resilient channel
    try:
        await call.write(request)
        await call.done_writing()
        response = await call.read()
    finally:
        call.cancel()
    if not isinstance(response, pb.ImportRecordsResponse):
        raise UnavailableError("the server ended the stream before it had answered the batch")
    results: Sequence[pb.ImportResult] = response.results
    return results


def _imported(result: pb.ImportResult) -> Imported:
    if result.HasField("error"):
        return Imported("refused", from_status(result.error))
    return Imported(pb.ImportOutcome.Name(result.outcome).removeprefix("IMPORT_OUTCOME_").lower())


async def _batches(
    records: Iterable[pb.TransferRecord] | AsyncIterable[pb.TransferRecord],
) -> AsyncGenerator[list[pb.TransferRecord]]:
    batch: list[pb.TransferRecord] = []
    size = 0
    async with aclosing(_each(records)) as each:
        async for record in each:
            if batch and (len(batch) >= MAX_BATCH or size + record.ByteSize() > MAX_BATCH_BYTES):
                yield batch
                batch, size = [], 0
            batch.append(record)
            size += record.ByteSize()
    if batch:
        yield batch


async def _each(
    records: Iterable[pb.TransferRecord] | AsyncIterable[pb.TransferRecord],
) -> AsyncGenerator[pb.TransferRecord]:
    if isinstance(records, AsyncIterable):
        async for record in records:
            yield record
    else:
        for record in records:
            yield record
