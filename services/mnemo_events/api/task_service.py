"""The servicer of `mnemocore.events.v1.TaskService`."""

from __future__ import annotations

import time
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from mnemo_events.domain.group import Reason
from mnemo_events.domain.task import State
from mnemo_events.domain.tasks import PURGED_AT_ONCE, Place
from mnemo_events.domain.texts import refuse_nul
from mnemo_events.wire.names import id_of
from mnemo_events.wire.tasks import from_task, to_lease, to_order, to_state, to_wait
from mnemocore import calls, paging
from mnemocore.calls import caller
from mnemocore.events.v1 import task_service_pb2 as pb
from mnemocore.events.v1 import task_service_pb2_grpc
from mnemocore.wire import to_datetime

if TYPE_CHECKING:
    from grpc.aio import ServicerContext

    from mnemo_events.domain.tasks import Tasks

    Context = ServicerContext[Any, Any]

LONGEST_WAIT: Final = timedelta(seconds=30)
_TO_ANSWER: Final = 0.5
"""Seconds before the deadline of a call at which a claim stops waiting."""


class TaskServicer(task_service_pb2_grpc.TaskServiceServicer):
    """Converts requests, calls the domain, converts back."""

    def __init__(self, tasks: Tasks) -> None:
        self._tasks = tasks

    async def EnqueueTask(self, request: pb.EnqueueTaskRequest, context: Context) -> pb.EnqueueTaskResponse:
        task = await self._tasks.enqueue(caller(), request.task_id, to_order(request.task))
        return pb.EnqueueTaskResponse(task=from_task(task))

    async def ClaimTasks(self, request: pb.ClaimTasksRequest, context: Context) -> pb.ClaimTasksResponse:
        tasks = await self._tasks.claim(
            caller(),
            id_of("agents", request.agent, "agent"),
            request.limit or 1,
            to_lease(request),
            min(to_wait(request, LONGEST_WAIT), _seconds_left()),
            request.request_id or None,
        )
        return pb.ClaimTasksResponse(tasks=[from_task(task) for task in tasks])

    async def CompleteTask(self, request: pb.CompleteTaskRequest, context: Context) -> pb.CompleteTaskResponse:
        task = await self._tasks.complete(caller(), *_held(request), request.result)
        return pb.CompleteTaskResponse(task=from_task(task))

    async def FailTask(self, request: pb.FailTaskRequest, context: Context) -> pb.FailTaskResponse:
        refuse_nul({"message": request.message})
        task = await self._tasks.fail(caller(), *_held(request), Reason(request.reason), request.message)
        return pb.FailTaskResponse(task=from_task(task))

    async def ExtendTask(self, request: pb.ExtendTaskRequest, context: Context) -> pb.ExtendTaskResponse:
        task = await self._tasks.extend(caller(), *_held(request), to_lease(request))
        return pb.ExtendTaskResponse(task=from_task(task))

    async def GetTask(self, request: pb.GetTaskRequest, context: Context) -> pb.GetTaskResponse:
        task = await self._tasks.get(caller().tenant, id_of("tasks", request.name))
        return pb.GetTaskResponse(task=from_task(task))

    async def ListTasks(self, request: pb.ListTasksRequest, context: Context) -> pb.ListTasksResponse:
        tenant, size = caller().tenant, paging.page_size(request.page_size)
        refuse_nul({"type": request.type})
        query = ["tasks", tenant, request.state, request.type]
        position = paging.decode(query, request.page_token)
        behind = Place(datetime.fromisoformat(position[0]), position[1]) if position else None
        found = await self._tasks.list_tasks(tenant, behind, size + 1, to_state(request.state), request.type)
        token = ""
        if len(found) > size:
            token = paging.encode(query, [found[size - 1].created_at.isoformat(), found[size - 1].number])
        return pb.ListTasksResponse(tasks=[from_task(task) for task in found[:size]], next_page_token=token)

    async def CancelTask(self, request: pb.CancelTaskRequest, context: Context) -> pb.CancelTaskResponse:
        task = await self._tasks.cancel(caller(), id_of("tasks", request.name))
        return pb.CancelTaskResponse(task=from_task(task))

    async def RetryTask(self, request: pb.RetryTaskRequest, context: Context) -> pb.RetryTaskResponse:
        task = await self._tasks.retry(caller(), id_of("tasks", request.name))
        return pb.RetryTaskResponse(task=from_task(task))

    async def PurgeTasks(self, request: pb.PurgeTasksRequest, context: Context) -> pb.PurgeTasksResponse:
        before = to_datetime(request.before) if request.HasField("before") else None
        purged = await self._tasks.purge(caller(), State(request.state), before)
        return pb.PurgeTasksResponse(purged=purged, more=purged == PURGED_AT_ONCE)


def _held(request: pb.CompleteTaskRequest | pb.FailTaskRequest | pb.ExtendTaskRequest) -> tuple[str, str, int]:
    """The id of a task, the id of who has it, and the attempt."""
    return id_of("tasks", request.name), id_of("agents", request.agent, "agent"), request.attempt


def _seconds_left() -> float:
    """How long a claim may wait, so that its answer comes before the deadline of the call."""
    deadline = calls.deadline.get()
    return LONGEST_WAIT.total_seconds() if deadline is None else max(0.0, deadline - time.monotonic() - _TO_ANSWER)
