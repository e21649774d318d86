"""Jobs from their request to their end: a real store, and a small space in the place of memory-core and the index."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import pytest

from mnemo_cognitive.domain.consolidation import Pair
from mnemo_cognitive.domain.job import JobState
from mnemo_cognitive.domain.jobs import LEASE, PROGRESS_SECONDS, Jobs, Worker
from mnemo_cognitive.domain.ports import SpaceState
from mnemo_cognitive.storage.postgres_jobs import PostgresJobs
from mnemocore import calls
from mnemocore.calls import Identity
from mnemocore.errors import (
    IndexLaggingError,
    JobNotFoundError,
    JobStateError,
    MnemoError,
    PageTokenMismatchError,
    PeerUnavailableError,
    SpaceNotFoundError,
)
from mnemocore.ids import SpaceUid, Tenant
from mnemocore.postgres import migrate
from mnemocore.testing.clock import ManualClock
from mnemocore.testing.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from datetime import datetime, timedelta

    from mnemo_cognitive.domain.job import Job, Report
    from mnemocore.postgres import Database

ADA = Identity(Tenant("acme"), "ada", frozenset({"*"}))
EVE = Identity(Tenant("globex"), "eve", frozenset({"*"}))
SPACE = "spaces/a"
UID = SpaceUid("018f0000-0000-7000-8000-00000000000a")
NOBODY_COMES = 3600.0
FAMILIES = {"cat": ("cat1", "cat2"), "dog": ("dog1", "dog2", "dog3"), "fox": ("fox1",)}
ALL = [name for family in FAMILIES.values() for name in family]


class SmallSpace:
    """One space: implements the ports to memory-core and to the index. Members of a family say what its head says."""

    def __init__(self) -> None:
        self.archived: list[str] = []
        """Every effect, in order."""
        self.who: set[Identity | None] = set()
        self.before: Callable[[str], Awaitable[None]] | None = None
        """Awaited before a memory is archived; may raise."""
        self.after: Callable[[str], Awaitable[None]] | None = None
        """Awaited after a memory was archived, before it is said."""
        self.erased: set[str] = set()
        self.failure: MnemoError | None = None
        self.searches: list[tuple[SpaceState, float]] = []
        self._requests: dict[str, str] = {}

    async def space(self, name: str) -> SpaceState:
        self.who.add(calls.identity.get())
        if name != SPACE:
            raise SpaceNotFoundError(space=name)
        return SpaceState(UID, 7 + len(self.archived))

    async def archive(self, name: str, reason: str, request_id: str) -> bool:
        self.who.add(calls.identity.get())
        assert reason.startswith("duplicate of ")
        if self._requests.setdefault(request_id, name) != name:
            raise AssertionError("a request id names one request")
        if name in self.archived:
            return True
        if self.before:
            await self.before(name)
        if name in self.erased:
            return False
        self.archived.append(name)
        if self.after:
            await self.after(name)
        return True

    async def near_duplicates(self, space: str, state: SpaceState, min_similarity: float) -> list[Pair]:
        self.searches.append((state, min_similarity))
        if self.failure:
            raise self.failure
        return [
            Pair(head, name, 0.99)
            for head, family in FAMILIES.items()
            for name in family
            if name not in self.archived and name not in self.erased
        ]


class Service:
    """cognitive on a small space."""

    def __init__(self, store: PostgresJobs, clock: ManualClock) -> None:
        self.clock = clock
        self.space = SmallSpace()
        self.store = store
        self._wake = asyncio.Event()
        self.jobs = Jobs(store, self.space, clock, self._wake)

    def worker(self, poll_seconds: float = NOBODY_COMES) -> Worker:
        return Worker(self.store, self.space, self.space, self.clock, self._wake, poll_seconds)

    @asynccontextmanager
    async def at_work(self, workers: int = 1, poll_seconds: float = NOBODY_COMES) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(self.worker(poll_seconds).run()) for _ in range(workers)]
        yield
        for task in tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def ask(self, *, dry_run: bool = False, request_id: str = "", min_similarity: float | None = None) -> Job:
        return await self.jobs.consolidate(ADA, SPACE, min_similarity, dry_run, request_id, b"digest")

    async def ended(self, job: Job) -> Job:
        async def has_ended() -> bool:
            return (await self.jobs.get(ADA, job.id)).state.ended

        await until(has_ended)
        return await self.jobs.get(ADA, job.id)


@pytest.fixture
async def service(database: Database) -> Service:
    await migrate(database, "mnemo_cognitive.storage.migrations", schema="cognitive")
    return Service(PostgresJobs(database), ManualClock())


async def test_of_every_family_the_head_stays(service: Service) -> None:
    async with service.at_work():
        job = await service.ended(await service.ask())
    assert (job.state, job.error) == (JobState.SUCCEEDED, "")
    assert (job.started_at, job.ended_at) == (service.clock.now(), service.clock.now())
    assert service.space.archived == ALL
    assert job.report.archived == job.report.pairs == len(ALL)
    assert {group.kept: tuple(each.name for each in group.duplicates) for group in job.report.groups} == FAMILIES
    assert service.space.searches == [(SpaceState(UID, 7), 0.95)]


async def test_the_work_is_done_as_who_asked_for_it(service: Service) -> None:
    async with service.at_work():
        await service.ended(await service.ask())
    asked, *worked = sorted(service.space.who, key=lambda who: who is not None)
    assert asked is None
    assert worked == [Identity(ADA.tenant, "ada", frozenset({"memory:read", "memory:write"}))]
    assert calls.identity.get() is None


async def test_a_dry_run_finds_and_changes_nothing(service: Service) -> None:
    async with service.at_work():
        job = await service.ended(await service.ask(dry_run=True, min_similarity=0.8))
    assert job.state is JobState.SUCCEEDED
    assert (job.report.archived, len(job.report.groups), service.space.archived) == (0, 3, [])
    assert service.space.searches[0][1] == 0.8
    assert "nothing was changed" in job.report.markdown(SPACE)


async def test_a_memory_that_is_gone_is_not_said_to_be_archived(service: Service) -> None:
    async def erase(name: str) -> None:
        if name == "cat2":
            service.space.erased.add("cat2")

    service.space.before = erase
    async with service.at_work():
        job = await service.ended(await service.ask())
    assert job.state is JobState.SUCCEEDED
    assert {each.name: each.archived for each in job.report.groups[0].duplicates} == {"cat1": True, "cat2": False}
    assert job.report.archived == len(ALL) - 1


async def test_a_space_that_does_not_exist_is_refused_at_once(service: Service) -> None:
    with pytest.raises(SpaceNotFoundError):
        await service.jobs.consolidate(ADA, "spaces/none", None, False, "", b"")
    assert (await service.jobs.list(ADA, "", 0, ""))[0] == []


async def test_a_peer_that_fails_fails_the_job_and_not_the_worker(service: Service) -> None:
    service.space.failure = IndexLaggingError(space=UID, wanted="7", applied="3")
    async with service.at_work():
        failed = await service.ended(await service.ask())
        service.space.failure = None
        done = await service.ended(await service.ask())
    assert (failed.state, failed.error) == (JobState.FAILED, str(IndexLaggingError(space=UID, wanted="7", applied="3")))
    assert failed.ended_at is not None
    assert done.state is JobState.SUCCEEDED


@pytest.mark.parametrize("failing", ALL)
async def test_a_failed_job_reports_all_that_was_done_before(service: Service, failing: str) -> None:
    async def fail(name: str) -> None:
        if name == failing:
            raise PeerUnavailableError(target="memory")

    service.space.before = fail
    async with service.at_work():
        job = await service.ended(await service.ask())
    assert (job.state, job.error) == (JobState.FAILED, "memory does not answer")
    assert service.space.archived == ALL[: ALL.index(failing)]
    reported = [each.name for group in job.report.groups for each in group.duplicates if each.archived]
    assert reported == service.space.archived
    assert sum(len(group.duplicates) for group in job.report.groups) == len(ALL)


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("place", [0, 1, 3, 5])
async def test_after_a_crash_the_job_is_finished_by_another(service: Service, moment: str, place: int) -> None:
    crash = asyncio.Event()

    async def hang(name: str) -> None:
        if name == ALL[place]:
            crash.set()
            await asyncio.Event().wait()

    setattr(service.space, moment, hang)
    job = await service.ask()
    async with service.at_work():
        await asyncio.wait_for(crash.wait(), 60)
    setattr(service.space, moment, None)
    await service.clock.advance(LEASE.total_seconds())
    assert await service.store.claim(service.clock.now(), LEASE) is None
    await service.clock.advance(0.001)
    async with service.at_work():
        done = await service.ended(job)
    assert done.state is JobState.SUCCEEDED
    assert sorted(service.space.archived) == sorted(ALL)
    assert done.report.archived == len(ALL)
    assert done.report.pairs == len(ALL)
    assert (done.created_at, done.started_at) == (job.created_at, service.clock.now())


async def test_a_cancelled_job_ends_at_its_next_look_and_reports_what_it_did(service: Service) -> None:
    job = await service.ask()

    async def cancel(name: str) -> None:
        if name == "cat2":
            await service.jobs.cancel(ADA, job.id)
            await service.clock.advance(PROGRESS_SECONDS)

    service.space.after = cancel
    async with service.at_work():
        ended = await service.ended(job)
    assert ended.state is JobState.CANCELLED
    assert service.space.archived == ["cat1", "cat2"]
    assert ended.report.archived == 2
    assert len(ended.report.groups) == 3
    with pytest.raises(JobStateError):
        await service.jobs.cancel(ADA, job.id)


async def test_a_job_cancelled_before_its_first_step_changes_nothing(service: Service) -> None:
    job = await service.ask()
    assert (await service.jobs.cancel(ADA, job.id)).state is JobState.CANCELLED
    async with service.at_work():
        other = await service.ended(await service.ask(dry_run=True))
    assert other.state is JobState.SUCCEEDED
    assert service.space.archived == []
    assert (await service.jobs.get(ADA, job.id)).started_at is None


async def test_progress_can_be_read_while_the_job_runs(service: Service) -> None:
    reached, go_on = asyncio.Event(), asyncio.Event()

    async def pause(name: str) -> None:
        await service.clock.advance(PROGRESS_SECONDS)
        if name == "dog2":
            reached.set()
            await go_on.wait()

    service.space.before = pause
    async with service.at_work():
        job = await service.ask()
        await asyncio.wait_for(reached.wait(), 60)
        running = await service.jobs.get(ADA, job.id)
        go_on.set()
        await service.ended(job)
    assert running.state is JobState.RUNNING
    assert running.report.archived == 3


class CountingJobs(PostgresJobs):
    """The store, counting how often a report is written."""

    reports = 0

    async def progress(self, job: Job, report: Report, now: datetime, lease: timedelta) -> bool:
        self.reports += 1
        return await super().progress(job, report, now, lease)


async def test_a_report_is_not_written_after_every_step(service: Service, database: Database) -> None:
    counting = CountingJobs(database)
    quick = Service(counting, service.clock)
    async with quick.at_work():
        await quick.ended(await quick.ask())
    assert (counting.reports, quick.space.archived) == (1, ALL)


async def test_two_workers_share_the_jobs(service: Service) -> None:
    jobs = [await service.ask(dry_run=True) for _ in range(6)]
    async with service.at_work(workers=2, poll_seconds=0.05):
        ended = [await service.ended(job) for job in jobs]
    assert {job.state for job in ended} == {JobState.SUCCEEDED}
    assert len(service.space.searches) == len(jobs)


async def test_jobs_of_other_replicas_are_found_by_looking(service: Service) -> None:
    async with service.at_work(poll_seconds=0.02):
        elsewhere = Jobs(service.store, service.space, service.clock, asyncio.Event())
        job = await elsewhere.consolidate(ADA, SPACE, None, True, "", b"")
        assert (await service.ended(job)).state is JobState.SUCCEEDED


async def test_a_repeated_request_is_one_job(service: Service) -> None:
    request_id = "018f0000-0000-7000-8000-0000000000aa"
    first = await service.ask(request_id=request_id)
    assert await service.ask(request_id=request_id) == first


async def test_a_tenant_sees_its_own_jobs_in_pages(service: Service) -> None:
    jobs = []
    for _ in range(3):
        jobs.append((await service.ask()).id)
        await service.clock.advance(1)
    page, token = await service.jobs.list(ADA, SPACE, 2, "")
    rest, end = await service.jobs.list(ADA, SPACE, 2, token)
    assert ([job.id for job in (*page, *rest)], end) == (jobs[::-1], "")
    for caller, space in ((EVE, SPACE), (ADA, "")):
        with pytest.raises(PageTokenMismatchError):
            await service.jobs.list(caller, space, 2, token)
    assert (await service.jobs.list(EVE, "", 0, ""))[0] == []
    with pytest.raises(JobNotFoundError):
        await service.jobs.get(EVE, jobs[0])
    with pytest.raises(JobNotFoundError):
        await service.jobs.cancel(EVE, jobs[0])
