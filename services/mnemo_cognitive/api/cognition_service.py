"""CognitionService on the wire."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from mnemocore.calls import caller
from mnemocore.cognitive.v1 import cognition_service_pb2 as pb
from mnemocore.cognitive.v1 import cognition_service_pb2_grpc, resources_pb2
from mnemocore.ids import JobId
from mnemocore.wire import to_timestamp

if TYPE_CHECKING:
    import grpc

    from mnemo_cognitive.domain.job import Job, Report
    from mnemo_cognitive.domain.jobs import Jobs


class CognitionServicer(cognition_service_pb2_grpc.CognitionServiceServicer):
    """Converts, calls the domain, converts back."""

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs

    async def ConsolidateSpace(
        self, request: pb.ConsolidateSpaceRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.ConsolidateSpaceResponse:
        job = await self._jobs.consolidate(
            caller(),
            request.space,
            request.min_similarity if request.HasField("min_similarity") else None,
            request.dry_run,
            request.request_id,
            hashlib.blake2b(request.SerializeToString(deterministic=True), digest_size=16).digest(),
        )
        return pb.ConsolidateSpaceResponse(job=_from_job(job))

    async def GetJob(self, request: pb.GetJobRequest, context: grpc.aio.ServicerContext[Any, Any]) -> pb.GetJobResponse:
        return pb.GetJobResponse(job=_from_job(await self._jobs.get(caller(), _job_id(request.name))))

    async def ListJobs(
        self, request: pb.ListJobsRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.ListJobsResponse:
        jobs, token = await self._jobs.list(caller(), request.space, request.page_size, request.page_token)
        return pb.ListJobsResponse(jobs=[_from_job(job, brief=True) for job in jobs], next_page_token=token)

    async def CancelJob(
        self, request: pb.CancelJobRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.CancelJobResponse:
        return pb.CancelJobResponse(job=_from_job(await self._jobs.cancel(caller(), _job_id(request.name))))


def _job_id(name: str) -> JobId:
    return JobId(name.removeprefix("jobs/"))


def _from_job(job: Job, *, brief: bool = False) -> resources_pb2.Job:
    message = resources_pb2.Job(
        name=job.name,
        space=job.space,
        state=resources_pb2.JobState.ValueType(job.state),
        report=_from_report(job.report, job.space, brief=brief),
        error=job.error,
        create_time=to_timestamp(job.created_at),
    )
    if job.started_at:
        message.start_time.CopyFrom(to_timestamp(job.started_at))
    if job.ended_at:
        message.end_time.CopyFrom(to_timestamp(job.ended_at))
    return message


def _from_report(report: Report, space: str, *, brief: bool) -> resources_pb2.ConsolidationReport:
    message = resources_pb2.ConsolidationReport(
        min_similarity=report.min_similarity, dry_run=report.dry_run, pairs=report.pairs, archived=report.archived
    )
    if brief:
        return message
    message.markdown = report.markdown(space)
    for group in report.groups:
        added = message.groups.add(kept=group.kept)
        for duplicate in group.duplicates:
            added.duplicates.add(name=duplicate.name, similarity=duplicate.similarity, archived=duplicate.archived)
    return message
