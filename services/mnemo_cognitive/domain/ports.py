"""What cognitive needs from others: a store of jobs, memory-core, and the index."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from datetime import datetime, timedelta

    from mnemo_cognitive.domain.consolidation import Pair
    from mnemo_cognitive.domain.job import Job, Report
    from mnemocore.ids import JobId, SpaceUid, Tenant


@dataclass(frozen=True, slots=True)
class SpaceState:
    """A space as memory-core describes it: its internal id and its newest revision."""

    uid: SpaceUid
    revision: int


class JobStore(Protocol):
    """Keeps jobs and hands them to workers, one worker a job."""

    async def add(self, job: Job, request_id: str, digest: bytes) -> Job:
        """Keep a new job; a repeated request returns the job it made. Raises RequestIdReusedError."""
        ...

    async def get(self, tenant: Tenant, job_id: JobId) -> Job:
        """Read a job. Raises JobNotFoundError."""
        ...

    async def list(self, tenant: Tenant, space: str, before: JobId | None, limit: int) -> list[Job]:
        """The tenant's jobs, newest first, before `before`; of one space if `space` is not empty."""
        ...

    async def request_cancel(self, tenant: Tenant, job_id: JobId, now: datetime) -> Job:
        """End a queued job, ask a running one to end. Raises JobNotFoundError, JobStateError."""
        ...

    async def claim(self, now: datetime, lease: timedelta) -> Job | None:
        """Take the oldest job that nobody works on; it is free again when the lease ends without renewal."""
        ...

    async def progress(self, job: Job, report: Report, now: datetime, lease: timedelta) -> bool:
        """Store the report so far and renew the lease; False if the job should end."""
        ...

    async def finish(self, job: Job) -> None:
        """Store how the job ended."""
        ...


class Memories(Protocol):
    """memory-core, as the principal that asked for the job."""

    async def space(self, name: str) -> SpaceState:
        """Describe a space. Raises SpaceNotFoundError."""
        ...

    async def archive(self, name: str, reason: str, request_id: str) -> bool:
        """Take a memory out of recall; False if it no longer exists. Repeating a request id has no effect."""
        ...


class Index(Protocol):
    """The index."""

    async def near_duplicates(self, space: str, state: SpaceState, min_similarity: float) -> list[Pair]:
        """Pairs of active memories that say the same, most similar first, by public names."""
        ...
