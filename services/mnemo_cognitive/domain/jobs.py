"""Asking for jobs and doing them."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Final
from uuid import NAMESPACE_URL, uuid5

from mnemo_cognitive.domain.consolidation import group_duplicates
from mnemo_cognitive.domain.job import Job, JobState, Report
from mnemocore import calls, paging
from mnemocore.calls import Identity
from mnemocore.errors import MnemoError
from mnemocore.ids import JobId, new_uuid

if TYPE_CHECKING:
    from mnemo_cognitive.domain.ports import Index, JobStore, Memories
    from mnemocore.clock import Clock

DEFAULT_MIN_SIMILARITY: Final = 0.95
LEASE: Final = timedelta(seconds=60)
PROGRESS_SECONDS: Final = 1.0
"""How often a job stores its report and looks whether it was cancelled."""
_log = logging.getLogger(__name__)


class Jobs:
    """The jobs of all tenants; every call is made for one of them."""

    def __init__(self, store: JobStore, memories: Memories, clock: Clock, wake: asyncio.Event) -> None:
        self._store = store
        self._memories = memories
        self._clock = clock
        self._wake = wake

    async def consolidate(
        self,
        caller: Identity,
        space: str,
        min_similarity: float | None,
        dry_run: bool,
        request_id: str,
        digest: bytes,
    ) -> Job:
        """Queue a consolidation. Raises SpaceNotFoundError, RequestIdReusedError."""
        await self._memories.space(space)
        now = self._clock.now()
        report = Report(DEFAULT_MIN_SIMILARITY if min_similarity is None else min_similarity, dry_run)
        job = Job(JobId(new_uuid(now)), caller.tenant, caller.principal, space, JobState.QUEUED, report, now)
        job = await self._store.add(job, request_id, digest)
        self._wake.set()
        return job

    async def get(self, caller: Identity, job_id: JobId) -> Job:
        """Read a job. Raises JobNotFoundError."""
        return await self._store.get(caller.tenant, job_id)

    async def list(self, caller: Identity, space: str, page_size: int, page_token: str) -> tuple[list[Job], str]:
        """One page, newest first, and the token of the next."""
        query = ["jobs", caller.tenant, space]
        position = paging.decode(query, page_token)
        size = paging.page_size(page_size)
        jobs = await self._store.list(caller.tenant, space, JobId(position[0]) if position else None, size + 1)
        page, more = jobs[:size], len(jobs) > size
        return page, paging.encode(query, [page[-1].id]) if more else ""

    async def cancel(self, caller: Identity, job_id: JobId) -> Job:
        """End a job at its next step. Raises JobNotFoundError, JobStateError."""
        return await self._store.request_cancel(caller.tenant, job_id, self._clock.now())


class Worker:
    """Does the jobs of all tenants, one after the other."""

    def __init__(
        self,
        store: JobStore,
        memories: Memories,
        index: Index,
        clock: Clock,
        wake: asyncio.Event,
        poll_seconds: float,
    ) -> None:
        self._store = store
        self._memories = memories
        self._index = index
        self._clock = clock
        self._wake = wake
        self._poll_seconds = poll_seconds

    async def run(self) -> None:
        """Work until cancelled. Jobs left over by a crash are taken up again when their lease ends."""
        while True:
            self._wake.clear()
            job = await self._store.claim(self._clock.now(), LEASE)
            if job is not None:
                await self._do(job)
                continue
            try:
                async with asyncio.timeout(self._poll_seconds):
                    await self._wake.wait()
            except TimeoutError:
                continue

    async def _do(self, job: Job) -> None:
        scopes = frozenset({"memory:read", "memory:write"})
        token = calls.identity.set(Identity(job.tenant, job.principal, scopes))
        work = _Consolidation(job, self._store, self._memories, self._index, self._clock)
        try:
            state, error = await work.run(), ""
        except MnemoError as failure:
            _log.warning("job failed", extra={"job": job.name, "reason": failure.reason})
            state, error = JobState.FAILED, str(failure)
        finally:
            calls.identity.reset(token)
        await self._store.finish(replace(job, state=state, report=work.report, error=error, ended_at=self._clock.now()))


class _Consolidation:
    """The work of one job. `report` is always what it has found and done so far."""

    def __init__(self, job: Job, store: JobStore, memories: Memories, index: Index, clock: Clock) -> None:
        self.report = job.report
        self._job = job
        self._store = store
        self._memories = memories
        self._index = index
        self._clock = clock
        self._stored_at = 0.0

    async def run(self) -> JobState:
        """Do what is left; returns how the job ended. Raises the MnemoError of a peer.

        A job that was taken over goes on with the groups it had found: what is archived would not be found again.
        """
        if not self.report.groups:
            await self._find()
        going = await self._store_report()
        if self.report.dry_run:
            return JobState.SUCCEEDED if going else JobState.CANCELLED
        for place, group in enumerate(self.report.groups):
            for number, duplicate in enumerate(group.duplicates):
                if not going:
                    return JobState.CANCELLED
                if not duplicate.archived:
                    await self._archive(place, number)
                    going = await self._store_report_in_time()
        return JobState.SUCCEEDED

    async def _find(self) -> None:
        state = await self._memories.space(self._job.space)
        pairs = await self._index.near_duplicates(self._job.space, state, self.report.min_similarity)
        self.report = replace(self.report, pairs=len(pairs), groups=group_duplicates(pairs))

    async def _archive(self, place: int, number: int) -> None:
        groups = list(self.report.groups)
        duplicates = list(groups[place].duplicates)
        name = duplicates[number].name
        request_id = str(uuid5(NAMESPACE_URL, f"{self._job.name}/{name}"))
        archived = await self._memories.archive(name, f"duplicate of {groups[place].kept}", request_id)
        duplicates[number] = replace(duplicates[number], archived=archived)
        groups[place] = replace(groups[place], duplicates=tuple(duplicates))
        self.report = replace(self.report, groups=tuple(groups))

    async def _store_report_in_time(self) -> bool:
        """Store the report once a second: writing it after every step would take the square of its length."""
        if self._clock.monotonic() - self._stored_at < PROGRESS_SECONDS:
            return True
        return await self._store_report()

    async def _store_report(self) -> bool:
        """Store the report and renew the lease; False if the job should end."""
        self._stored_at = self._clock.monotonic()
        return await self._store.progress(self._job, self.report, self._clock.now(), LEASE)
