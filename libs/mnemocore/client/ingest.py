"""Writing many memories: batches over one stream, a few of them unanswered at any time.

A batch is sent again, under the same request id, when the stream breaks before its answer, so that nothing is lost and
nothing is written twice.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal

from mnemocore.client import values
from mnemocore.client.convert import last_part, memory_input_to_wire
from mnemocore.client.retries import pause_after, worth_retrying
from mnemocore.errors import InternalError, InvalidFieldError, MnemoError, SpaceNotFoundError, UnavailableError
from mnemocore.memory.v1 import memory_service_pb2
from mnemocore.status import from_status

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable

    from mnemocore.client.services import Services
    from mnemocore.client.streams import StreamCall
    from mnemocore.memory.v1 import resources_pb2

WINDOW: Final = 4
"""Batches under way at most."""

MAX_BATCH_BYTES: Final = 2 * 1024 * 1024
"""A batch is closed when it holds so much, however few items that are."""

MAX_BREAKS: Final = 6
"""Breaks of the stream in a row, without an answer in between, after which its error is raised."""

OnError = Literal["raise", "collect"]


@dataclass(slots=True)
class _Batch:
    request: memory_service_pb2.IngestMemoriesRequest
    indexes: list[int] = field(default_factory=list)
    size: int = 0

    def add(self, index: int, item: resources_pb2.MemoryInput, size: int) -> None:
        self.request.memories.append(item)
        self.indexes.append(index)
        self.size += size


class Ingestion:
    """One run of `remember_many`: call `run` once."""

    def __init__(
        self,
        services: Services,
        space_id: str,
        *,
        batch_size: int,
        on_progress: Callable[[int], None] | None,
        on_error: OnError,
    ) -> None:
        self._services = services
        self._space_id = space_id
        self._batch_size = batch_size
        self._on_progress = on_progress
        self._on_error = on_error
        self._write = services.freshness(space_id).begin_write()
        self._unanswered: deque[_Batch] = deque()
        self._result = values.RememberedMany([], [])
        self._breaks = 0
        self._failure: Exception | None = None  # of an item or of the source: ends the run, but not the stream

    async def run(
        self, items: Iterable[values.MemoryInput] | AsyncIterable[values.MemoryInput]
    ) -> values.RememberedMany:
        """Write all items. Raises the error of the first refused item unless errors are collected."""
        batches = self._batches(items)
        await self._take_batch(batches)
        space_made = False
        while self._unanswered:
            try:
                await self._stream(batches)
            except SpaceNotFoundError:
                if space_made:
                    raise
                await self._services.ensure_space(self._space_id)
                space_made = True
            except UnavailableError as error:
                self._breaks += 1
                if not worth_retrying(error) or self._breaks > MAX_BREAKS:
                    raise
                await self._services.clock.sleep(pause_after(error, self._breaks))
        if self._failure is not None:
            raise self._failure
        self._result.errors.sort(key=lambda item: item.index)
        return self._result

    async def _stream(self, batches: AsyncIterator[_Batch]) -> None:
        """One stream, from the first unanswered batch to the end of the items."""
        call: StreamCall[memory_service_pb2.IngestMemoriesRequest, memory_service_pb2.IngestMemoriesResponse]
        call = self._services.memory.IngestMemories()  # type: ignore[assignment]  # on a resilient channel
        answered = 0
        try:
            # The first batch goes alone: why a server refuses it is lost if another message is on its way to it.
            await call.write(self._unanswered[0].request)
            waiting = list(self._unanswered)[1:]
            while self._unanswered:
                self._take_answer(await call.read(), expected=answered)
                answered += 1
                for batch in waiting:
                    await call.write(batch.request)
                waiting = []
                await self._fill_window(call, batches)
            with suppress(MnemoError):  # everything is durable, however the stream ends
                await call.done_writing()
                await call.read()
        finally:
            call.cancel()

    async def _fill_window(
        self,
        call: StreamCall[memory_service_pb2.IngestMemoriesRequest, memory_service_pb2.IngestMemoriesResponse],
        batches: AsyncIterator[_Batch],
    ) -> None:
        while len(self._unanswered) < WINDOW and await self._take_batch(batches):
            await call.write(self._unanswered[-1].request)

    async def _take_batch(self, batches: AsyncIterator[_Batch]) -> bool:
        """Add the next batch to the unanswered ones; False if there is none, or the run has failed."""
        if self._failure is not None:
            return False
        try:
            batch = await anext(batches, None)
        except Exception as error:  # noqa: BLE001 - of the caller's items: what was sent is brought home before it is raised
            self._failure = error
            return False
        if batch is not None:
            self._unanswered.append(batch)
        return batch is not None

    def _take_answer(self, response: memory_service_pb2.IngestMemoriesResponse | object, *, expected: int) -> None:
        if not isinstance(response, memory_service_pb2.IngestMemoriesResponse):
            raise UnavailableError("the server ended the stream before it had answered all batches")
        batch = self._unanswered[0]
        if response.batch != expected or len(response.results) != len(batch.indexes):
            raise InternalError(
                f"batch {expected} of {len(batch.indexes)} items was answered as batch {response.batch}"
                f" of {len(response.results)} items"
            )
        self._unanswered.popleft()
        self._breaks = 0
        self._write.answered(response.written_at.value)
        for index, result in zip(batch.indexes, response.results, strict=True):
            if result.WhichOneof("outcome") == "error":
                self._refused(index, from_status(result.error))
                continue
            self._result.ids.append(last_part(result.name))
            if result.duplicate:
                self._result.duplicates.append(index)
        self._report_progress()

    def _report_progress(self) -> None:
        if self._on_progress is None:
            return
        try:
            self._on_progress(len(self._result.ids) + len(self._result.errors))
        except Exception as error:  # noqa: BLE001 - of the caller: what was sent is brought home before it is raised
            self._failure = self._failure or error

    def _refused(self, index: int, error: MnemoError) -> None:
        if self._on_error == "collect":
            self._result.errors.append(values.ItemError(index, error))
        elif self._failure is None:
            self._failure = type(error)(
                f"item {index}: {error}", violations=error.violations, retry_after=error.retry_after, **error.metadata
            )

    async def _batches(
        self, items: Iterable[values.MemoryInput] | AsyncIterable[values.MemoryInput]
    ) -> AsyncIterator[_Batch]:
        batch = self._new_batch()
        index = -1
        async for item in _each(items):
            index += 1
            try:
                message = memory_input_to_wire(item, self._services.clock.now())
            except InvalidFieldError as error:
                self._refused(index, error)
                if self._failure is not None:
                    break
                continue
            size = message.ByteSize()
            if batch.indexes and batch.size + size > MAX_BATCH_BYTES:
                yield batch
                batch = self._new_batch()
            batch.add(index, message, size)
            if len(batch.indexes) >= self._batch_size:
                yield batch
                batch = self._new_batch()
        if batch.indexes:
            yield batch

    def _new_batch(self) -> _Batch:
        request = memory_service_pb2.IngestMemoriesRequest(
            parent=f"spaces/{self._space_id}", request_id=self._services.request_id()
        )
        return _Batch(request)


async def _each(
    items: Iterable[values.MemoryInput] | AsyncIterable[values.MemoryInput],
) -> AsyncIterator[values.MemoryInput]:
    if isinstance(items, AsyncIterable):
        async for item in items:
            yield item
    else:
        for item in items:
            yield item
