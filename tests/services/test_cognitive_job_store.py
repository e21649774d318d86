"""The store of jobs on a real PostgreSQL, with a clock that is turned."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from mnemo_cognitive.domain.job import Duplicate, DuplicateGroup, Job, JobState, Report
from mnemo_cognitive.storage.postgres_jobs import PostgresJobs
from mnemocore.errors import JobNotFoundError, JobStateError, RequestIdReusedError
from mnemocore.ids import JobId, Tenant, new_uuid
from mnemocore.postgres import migrate
from mnemocore.testing.clock import ManualClock

if TYPE_CHECKING:
    from mnemocore.postgres import Database

ACME, GLOBEX = Tenant("acme"), Tenant("globex")
LEASE = timedelta(seconds=60)
REQUEST = "018f0000-0000-7000-8000-0000000000aa"
FOUND = Report(
    0.9,
    False,
    3,
    (DuplicateGroup("spaces/a/memories/1", (Duplicate("\u6771 '\"\\", 0.97, True), Duplicate("3", 1.0))),),
)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def store(database: Database) -> PostgresJobs:
    await migrate(database, "mnemo_cognitive.storage.migrations", schema="cognitive")
    return PostgresJobs(database)


async def queued(
    store: PostgresJobs, clock: ManualClock, *, tenant: Tenant = ACME, space: str = "spaces/a", request: str = ""
) -> Job:
    await clock.advance(0.001)
    now = clock.now()
    job = Job(JobId(new_uuid(now)), tenant, "ada", space, JobState.QUEUED, Report(0.95, False), now)
    return await store.add(job, request, b"digest")


async def claimed(store: PostgresJobs, clock: ManualClock) -> Job:
    job = await store.claim(clock.now(), LEASE)
    assert job is not None
    return job


async def test_a_job_is_read_back_as_it_was(store: PostgresJobs, clock: ManualClock) -> None:
    job = await queued(store, clock)
    assert await store.get(ACME, job.id) == job
    for tenant, job_id in ((GLOBEX, job.id), (ACME, JobId(new_uuid(clock.now())))):
        with pytest.raises(JobNotFoundError):
            await store.get(tenant, job_id)


async def test_one_job_goes_to_one_worker(store: PostgresJobs, clock: ManualClock) -> None:
    jobs = [await queued(store, clock) for _ in range(5)]
    taken = await asyncio.gather(*(store.claim(clock.now(), LEASE) for _ in range(8)))
    found = [job for job in taken if job is not None]
    assert sorted(job.id for job in found) == [job.id for job in jobs]
    assert {(job.state, job.started_at) for job in found} == {(JobState.RUNNING, clock.now())}


async def test_the_oldest_job_comes_first(store: PostgresJobs, clock: ManualClock) -> None:
    jobs = [await queued(store, clock) for _ in range(3)]
    assert [(await claimed(store, clock)).id for _ in jobs] == [job.id for job in jobs]


async def test_a_job_is_free_again_when_its_lease_ends(store: PostgresJobs, clock: ManualClock) -> None:
    job = await queued(store, clock)
    await claimed(store, clock)
    await clock.advance(60)
    assert await store.claim(clock.now(), LEASE) is None
    await clock.advance(0.001)
    taken_over = await claimed(store, clock)
    assert (taken_over.id, taken_over.started_at) == (job.id, clock.now())
    assert await store.claim(clock.now(), LEASE) is None


async def test_progress_is_kept_and_renews_the_lease(store: PostgresJobs, clock: ManualClock) -> None:
    job = await queued(store, clock)
    await claimed(store, clock)
    await clock.advance(59)
    assert await store.progress(job, FOUND, clock.now(), LEASE)
    await clock.advance(59)
    assert await store.claim(clock.now(), LEASE) is None
    await clock.advance(2)
    assert (await claimed(store, clock)).report == FOUND


async def test_a_queued_job_is_cancelled_at_once(store: PostgresJobs, clock: ManualClock) -> None:
    job = await queued(store, clock)
    cancelled = await store.request_cancel(ACME, job.id, clock.now())
    assert (cancelled.state, cancelled.ended_at) == (JobState.CANCELLED, clock.now())
    assert await store.claim(clock.now(), LEASE) is None


async def test_a_running_job_is_asked_to_end(store: PostgresJobs, clock: ManualClock) -> None:
    job = await queued(store, clock)
    await claimed(store, clock)
    asked = await store.request_cancel(ACME, job.id, clock.now())
    assert (asked.state, asked.cancel_requested, asked.ended_at) == (JobState.RUNNING, True, None)
    assert (await store.request_cancel(ACME, job.id, clock.now())).cancel_requested
    assert not await store.progress(job, FOUND, clock.now(), LEASE)
    assert (await store.get(ACME, job.id)).report == FOUND


async def test_a_job_that_has_ended_stays_as_it_is(store: PostgresJobs, clock: ManualClock) -> None:
    job = await queued(store, clock)
    await claimed(store, clock)
    ended = replace(job, state=JobState.FAILED, report=FOUND, error="no answer", ended_at=clock.now())
    await store.finish(ended)
    with pytest.raises(JobStateError, match="is FAILED"):
        await store.request_cancel(ACME, job.id, clock.now())
    await store.finish(replace(job, state=JobState.SUCCEEDED))
    assert not await store.progress(job, Report(0.95, False), clock.now(), LEASE)
    await clock.advance(3600)
    assert await store.claim(clock.now(), LEASE) is None
    found = await store.get(ACME, job.id)
    assert (found.state, found.report, found.error) == (JobState.FAILED, FOUND, "no answer")
    assert found.ended_at == ended.ended_at


async def test_only_the_tenant_cancels(store: PostgresJobs, clock: ManualClock) -> None:
    job = await queued(store, clock)
    with pytest.raises(JobNotFoundError):
        await store.request_cancel(GLOBEX, job.id, clock.now())
    assert (await store.get(ACME, job.id)).state is JobState.QUEUED


async def test_a_repeated_request_returns_its_job(store: PostgresJobs, clock: ManualClock) -> None:
    job = await queued(store, clock, request=REQUEST)
    await claimed(store, clock)
    again = await queued(store, clock, request=REQUEST)
    assert (again.id, again.state) == (job.id, JobState.RUNNING)
    other = await queued(store, clock, tenant=GLOBEX, request=REQUEST)
    assert other.id != job.id
    assert [each.id for each in await store.list(ACME, "", None, 10)] == [job.id]


async def test_a_request_sent_by_many_at_once_makes_one_job(store: PostgresJobs, clock: ManualClock) -> None:
    jobs = await asyncio.gather(*(queued(store, clock, request=REQUEST) for _ in range(8)))
    assert len({job.id for job in jobs}) == 1


async def test_a_request_id_belongs_to_one_request(store: PostgresJobs, clock: ManualClock) -> None:
    job = await queued(store, clock, request=REQUEST)
    with pytest.raises(RequestIdReusedError):
        await store.add(replace(job, id=JobId(new_uuid(clock.now()))), REQUEST, b"another")


async def test_jobs_are_listed_newest_first(store: PostgresJobs, clock: ManualClock) -> None:
    first = await queued(store, clock)
    elsewhere = await queued(store, clock, space="spaces/b")
    last = await queued(store, clock)
    await queued(store, clock, tenant=GLOBEX)
    listed = await store.list(ACME, "", None, 2)
    assert [job.id for job in listed] == [last.id, elsewhere.id]
    assert [job.id for job in await store.list(ACME, "", listed[-1].id, 2)] == [first.id]
    assert [job.id for job in await store.list(ACME, "spaces/a", None, 9)] == [last.id, first.id]
