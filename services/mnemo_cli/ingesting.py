"""A run of `mnemo ingest`: reads ahead in a thread, sends in batches, counts what became of each memory."""

from __future__ import annotations

import asyncio
import dataclasses
import signal
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

from mnemo_cli.read_ahead import ReadAhead
from mnemo_cli.sources.record import SourceError
from mnemo_cli.stable_ids import StableIds
from mnemocore.errors import MemoryExistsError

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator, Sequence

    from mnemo_cli.files import File
    from mnemo_cli.sources.record import Item, Record
    from mnemocore.client import Connection, MemoryInput, Space

READ_AHEAD: Final = 2048
"""Memories that are read at most while others are sent."""

PROBLEMS_LISTED: Final = 10


@dataclass(frozen=True, slots=True)
class Plan:
    """What to ingest, and how. `actor` and `session` are for memories that name none; `tags` are added to all."""

    space: str
    files: Sequence[File]
    actor: str = ""
    session: str = ""
    tags: tuple[str, ...] = ()
    batch_size: int = 256
    skip_broken: bool = False

    def records(self) -> Iterator[Record]:
        """Every record of every file, as it will be sent; the `end` of a place counts the bytes of all files."""
        before = 0
        for file in self.files:
            ids = StableIds(self.space, file.name)
            for place, found in file.records():
                whole = dataclasses.replace(place, end=before + place.end)
                yield whole, found if isinstance(found, SourceError) else ids.assign(self._completed(found, file.name))
            before += file.size or 0

    def _completed(self, item: MemoryInput, source: str) -> MemoryInput:
        session, ordinal = item.session, item.ordinal
        if self.session and session in ("", source):
            # Several files may share the session, so the order of arrival takes the place of the order in the file.
            session, ordinal = self.session, ordinal if item.session != source else None
        tags = tuple(dict.fromkeys([*item.tags, *self.tags]))
        return dataclasses.replace(item, actor=item.actor or self.actor, session=session, ordinal=ordinal, tags=tags)


@dataclass(slots=True)
class Outcome:
    """What became of the memories so far. `problems` names the first ones that were refused.

    `uncounted` were acknowledged in a request that failed later: nobody knows which of them were there already.
    """

    kept: int = 0
    already_there: int = 0
    refused: int = 0
    uncounted: int = 0
    problems: list[str] = field(default_factory=list)
    interrupted: bool = False
    seconds: float = 0.0

    def refuse(self, problem: str) -> None:
        """Count a memory that cannot be kept."""
        self.refused += 1
        if len(self.problems) < PROBLEMS_LISTED:
            self.problems.append(problem)


class Progress(Protocol):
    """Is told how far the run is."""

    def __call__(self, done_bytes: int, kept: int) -> None:
        """`done_bytes` of all files are acknowledged, `kept` memories in all."""
        ...


class Run:
    """One run of a plan. `outcome` is kept right at any time; `stop` ends the run after what is under way."""

    def __init__(self, plan: Plan, outcome: Outcome, progress: Progress) -> None:
        self.outcome = outcome
        self._plan = plan
        self._progress = progress
        self._stopped = asyncio.Event()

    def stop(self) -> None:
        """Read no further. What was sent is waited for."""
        self.outcome.interrupted = True
        self._stopped.set()

    async def send(self, mnemo: Connection) -> None:
        """Send everything. Raises the error that ends it; `outcome` tells what was kept before."""
        started = time.monotonic()
        space = mnemo.space(self._plan.space)
        try:
            async with ReadAhead(self._plan.records(), READ_AHEAD) as reading:
                while records := await self._unless_stopped(reading.take()):
                    await self._send_records(space, self._good(records))
                    if self._must_end():
                        return
        finally:
            self.outcome.seconds = time.monotonic() - started

    def count(self) -> None:
        """Read everything, send nothing: `outcome` says what would be sent and what is broken."""
        for place, found in self._plan.records():
            if isinstance(found, SourceError):
                self.outcome.refuse(str(found))
                if self._must_end():
                    return
            else:
                self.outcome.kept += 1
                self._progress(place.end, self.outcome.kept)

    def _must_end(self) -> bool:
        return self._stopped.is_set() or bool(self.outcome.refused and not self._plan.skip_broken)

    def _good(self, records: list[Record]) -> list[Item]:
        """The memories among `records`, up to the first broken record unless those are skipped."""
        good: list[Item] = []
        for place, found in records:
            if not isinstance(found, SourceError):
                good.append((place, found))
                continue
            self.outcome.refuse(str(found))
            if not self._plan.skip_broken:
                break
        return good

    async def _send_records(self, space: Space, items: list[Item]) -> None:
        places = [place for place, _ in items]
        kept = self.outcome.kept

        def acknowledged(count: int) -> None:
            self.outcome.uncounted = count
            self._progress(places[count - 1].end, kept + count)

        result = await space.remember_many(
            [item for _, item in items],
            batch_size=self._plan.batch_size,
            on_progress=acknowledged,
            on_error="collect",
        )
        self.outcome.uncounted = 0
        self.outcome.kept += len(result.ids) - len(result.duplicates)
        self.outcome.already_there += len(result.duplicates)
        for refused in result.errors:
            if isinstance(refused.error, MemoryExistsError):
                self.outcome.already_there += 1
            else:
                self.outcome.refuse(f"{places[refused.index]}: {refused.error}")

    async def _unless_stopped(self, taking: Coroutine[Any, Any, list[Record]]) -> list[Record]:
        """What was read; nothing once the run is stopped."""
        taken = asyncio.create_task(taking)
        stopped = asyncio.create_task(self._stopped.wait())
        await asyncio.wait([cast("asyncio.Task[Any]", taken), stopped], return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        if self._stopped.is_set():
            taken.cancel()
            return []
        return taken.result()


async def send_until_interrupted(run: Run, mnemo: Connection) -> None:
    """Send everything; Ctrl-C stops the run instead of ending the process, a second Ctrl-C ends it as usual."""
    loop = asyncio.get_running_loop()

    def interrupt() -> None:
        run.stop()
        loop.remove_signal_handler(signal.SIGINT)

    loop.add_signal_handler(signal.SIGINT, interrupt)
    try:
        await run.send(mnemo)
    finally:
        loop.remove_signal_handler(signal.SIGINT)
