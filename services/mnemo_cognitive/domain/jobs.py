"""Asking for jobs and doing them."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Final
from uuid import NAMESPACE_URL, uuid5

from mnemo_cognitive.domain.consolidation import group_duplicates
from mnemo_cognitive.domain.job import Duplicate, Job, JobState, Report
from mnemocore import calls, paging
from mnemocore.calls import Identity
from mnemocore.errors import MnemoError
from mnemocore.ids import JobId, new_uuid

if TYPE_CHECKING:
    from mnemo_cognitive.domain.ports import Index, JobStore, Memories
    from mnemocore.clock import Clock

DEFAULT_MIN_SIMILARITY: Final = 0.95
LEASE: Final = timedelta(seconds=60)
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
        try:
            ended = await self._consolidate(job)
        except MnemoError as error:
            _log.warning("job failed", extra={"job": job.name, "reason": error.reason})
            ended = replace(await self._store.get(job.tenant, job.id), state=JobState.FAILED, error=str(error))
        finally:
            calls.identity.reset(token)
        await self._store.finish(replace(ended, ended_at=self._clock.now()))

    async def _consolidate(self, job: Job) -> Job:
        state = await self._memories.space(job.space)
        pairs = await self._index.near_duplicates(job.space, state, job.report.min_similarity)
        report = replace(job.report, pairs=len(pairs), groups=group_duplicates(pairs))
        going = await self._store.progress(job, report, self._clock.now(), LEASE)
        if job.report.dry_run:
            return replace(job, report=report, state=JobState.SUCCEEDED if going else JobState.CANCELLED)
        for place, group in enumerate(report.groups):
            if not going:
                return replace(job, report=report, state=JobState.CANCELLED)
            done = tuple([await self._archive(job, group.kept, duplicate) for duplicate in group.duplicates])
            groups = (*report.groups[:place], replace(group, duplicates=done), *report.groups[place + 1 :])
            report = replace(report, groups=groups)
            going = await self._store.progress(job, report, self._clock.now(), LEASE)
        return replace(job, report=report, state=JobState.SUCCEEDED)

    async def _archive(self, job: Job, kept: str, duplicate: Duplicate) -> Duplicate:
        request_id = str(uuid5(NAMESPACE_URL, f"{job.name}/{duplicate.name}"))
        archived = await self._memories.archive(duplicate.name, f"duplicate of {kept}", request_id)
        return replace(duplicate, archived=archived)
