"""The store of jobs on PostgreSQL."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from mnemo_cognitive.domain.job import Duplicate, DuplicateGroup, Job, JobState, Report
from mnemocore.errors import JobNotFoundError, JobStateError, RequestIdReusedError
from mnemocore.ids import JobId, Tenant

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime, timedelta

    from mnemocore.postgres import Database

_COLUMNS: Final = (
    "id, tenant, principal, space, state, report::text, error, cancel_requested, created_at, started_at, ended_at"
)


class PostgresJobs:
    """Implements `mnemo_cognitive.domain.ports.JobStore`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, job: Job, request_id: str, digest: bytes) -> Job:
        """Keep a new job; a repeated request returns the job it made. Raises RequestIdReusedError."""
        row = await self._database.fetchrow(
            "INSERT INTO cognitive.jobs (id, tenant, principal, space, state, report, created_at, request_id, "
            "request_digest) VALUES ($1, $2, $3, $4, $5, $6::text::jsonb, $7, $8, $9) "
            f"ON CONFLICT (tenant, request_id) DO NOTHING RETURNING {_COLUMNS}",
            UUID(job.id),
            job.tenant,
            job.principal,
            job.space,
            job.state,
            _to_json(job.report),
            job.created_at,
            UUID(request_id) if request_id else None,
            digest,
        )
        if row is not None:
            return _to_job(row)
        row = await self._database.fetchrow(
            f"SELECT {_COLUMNS} FROM cognitive.jobs WHERE tenant = $1 AND request_id = $2 AND request_digest = $3",
            job.tenant,
            UUID(request_id),
            digest,
        )
        if row is None:
            raise RequestIdReusedError
        return _to_job(row)

    async def get(self, tenant: Tenant, job_id: JobId) -> Job:
        """Read a job. Raises JobNotFoundError."""
        row = await self._database.fetchrow(
            f"SELECT {_COLUMNS} FROM cognitive.jobs WHERE tenant = $1 AND id = $2", tenant, UUID(job_id)
        )
        if row is None:
            raise JobNotFoundError(job=f"jobs/{job_id}")
        return _to_job(row)

    async def list(self, tenant: Tenant, space: str, before: JobId | None, limit: int) -> list[Job]:
        """The tenant's jobs, newest first, before `before`; of one space if `space` is not empty."""
        found = await self._database.fetch(
            f"SELECT {_COLUMNS} FROM cognitive.jobs WHERE tenant = $1 AND ($2::text = '' OR space = $2) "
            "AND ($3::uuid IS NULL OR id < $3) ORDER BY id DESC LIMIT $4",
            tenant,
            space,
            UUID(before) if before else None,
            limit,
        )
        return [_to_job(row) for row in found]

    async def request_cancel(self, tenant: Tenant, job_id: JobId, now: datetime) -> Job:
        """End a queued job, ask a running one to end. Raises JobNotFoundError, JobStateError."""
        row = await self._database.fetchrow(
            "UPDATE cognitive.jobs SET cancel_requested = true, "
            "state = CASE WHEN state = $3 THEN $4 ELSE state END, "
            "ended_at = CASE WHEN state = $3 THEN $5 ELSE ended_at END "
            f"WHERE tenant = $1 AND id = $2 AND state < $6 RETURNING {_COLUMNS}",
            tenant,
            UUID(job_id),
            JobState.QUEUED,
            JobState.CANCELLED,
            now,
            JobState.SUCCEEDED,
        )
        if row is not None:
            return _to_job(row)
        job = await self.get(tenant, job_id)
        raise JobStateError(job=job.name, state=job.state.name)

    async def claim(self, now: datetime, lease: timedelta) -> Job | None:
        """Take the oldest job that nobody works on; it is free again when the lease ends without renewal."""
        row = await self._database.fetchrow(
            "UPDATE cognitive.jobs SET state = $3, started_at = $1, lease_until = $2 WHERE id = ("
            "SELECT id FROM cognitive.jobs WHERE state = $4 OR (state = $3 AND lease_until < $1) "
            f"ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED) RETURNING {_COLUMNS}",
            now,
            now + lease,
            JobState.RUNNING,
            JobState.QUEUED,
        )
        return None if row is None else _to_job(row)

    async def progress(self, job: Job, report: Report, now: datetime, lease: timedelta) -> bool:
        """Store the report so far and renew the lease; False if the job should end."""
        cancelled = await self._database.fetchval(
            "UPDATE cognitive.jobs SET report = $2::text::jsonb, lease_until = $3 WHERE id = $1 AND state = $4 "
            "RETURNING cancel_requested",
            UUID(job.id),
            _to_json(report),
            now + lease,
            JobState.RUNNING,
        )
        return cancelled is False

    async def finish(self, job: Job) -> None:
        """Store how the job ended."""
        await self._database.execute(
            "UPDATE cognitive.jobs SET state = $2, report = $3::text::jsonb, error = $4, ended_at = $5, "
            "lease_until = NULL WHERE id = $1 AND state = $6",
            UUID(job.id),
            job.state,
            _to_json(job.report),
            job.error,
            job.ended_at,
            JobState.RUNNING,
        )


def _to_json(report: Report) -> str:
    return json.dumps(asdict(report), ensure_ascii=False)


def _to_report(text: str) -> Report:
    content = json.loads(text)
    groups = tuple(
        DuplicateGroup(group["kept"], tuple(Duplicate(**duplicate) for duplicate in group["duplicates"]))
        for group in content["groups"]
    )
    return Report(content["min_similarity"], content["dry_run"], content["pairs"], groups)


def _to_job(row: Mapping[str, Any]) -> Job:
    return Job(
        id=JobId(str(row["id"])),
        tenant=Tenant(row["tenant"]),
        principal=row["principal"],
        space=row["space"],
        state=JobState(row["state"]),
        report=_to_report(row["report"]),
        created_at=row["created_at"],
        started_at=row["started_at"],
        ended_at=row["ended_at"],
        error=row["error"],
        cancel_requested=row["cancel_requested"],
    )
