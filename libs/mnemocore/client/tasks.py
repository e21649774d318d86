"""Tasks: work for agents that can do it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mnemocore.client import convert
from mnemocore.client import event_values as values
from mnemocore.client.agents import Agents, agent_name
from mnemocore.client.event_convert import payload_to_wire, task_from_wire
from mnemocore.client.working import Worker
from mnemocore.events.v1 import task_service_pb2 as wire

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from datetime import datetime, timedelta
    from typing import Any, NoReturn

    from mnemocore.client.services import Services


class Tasks:
    """The tasks of a tenant. Comes from `Connection.tasks`."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def enqueue(
        self,
        type: str,
        payload: values.Payload = None,
        *,
        id: str = "",
        content_type: str = "",
        capabilities: Sequence[str] = (),
        priority: int = 0,
        max_attempts: int = 0,
        not_before: datetime | None = None,
    ) -> values.Task:
        """Put a task into the queue, for an agent that has all `capabilities`. `id` is made if it is empty.

        `priority` is 0 to 9, the higher the sooner; each step is worth a minute of waiting. It is tried `max_attempts`
        times (0: 5), not before `not_before`. The same task again changes nothing. Raises TaskExistsError if there is
        another of that name.
        """
        request = wire.EnqueueTaskRequest()
        convert.assign(request, "task_id", id or self._services.request_id(), "id")
        data, found_type = payload_to_wire(payload, content_type, "payload")
        task = request.task
        convert.assign(task, "type", type)
        convert.assign(task, "payload", data)
        convert.assign(task, "content_type", found_type)
        convert.extend(task, "capabilities", capabilities)
        convert.assign(task, "priority", priority)
        convert.assign(task, "max_attempts", max_attempts)
        if not_before is not None:
            convert.time_to_wire(not_before, task.not_before, "not_before")
        return task_from_wire((await self._services.call(self._services.tasks.EnqueueTask, request)).task)

    async def claim(
        self,
        agent: str,
        *,
        limit: int = 1,
        lease: timedelta | None = None,
        wait: timedelta | None = None,
    ) -> list[values.Task]:
        """Give an agent up to `limit` (100) tasks it can do, most urgent first, for `lease` (None: 60 s).

        Waits up to `wait` (30 s; None: not at all) for the first; empty if there was none. Raises AgentNotFoundError.
        """
        request = wire.ClaimTasksRequest(agent=agent_name(agent), request_id=self._services.request_id())
        convert.assign(request, "limit", limit)
        if lease is not None:
            convert.duration_to_wire(lease, request.lease, "lease")
        if wait is not None:
            convert.duration_to_wire(wait, request.wait, "wait")
        response = await self._services.call(self._services.tasks.ClaimTasks, request)
        return [task_from_wire(task) for task in response.tasks]

    async def complete(self, task: values.Task, result: values.Payload = None) -> values.Task:
        """Say that a task, as it was claimed, is done, and what came out. The same again changes nothing.

        Raises TaskNotFoundError, LeaseLostError if it is not this agent's any more.
        """
        data, _ = payload_to_wire(result, "", "result")
        request = wire.CompleteTaskRequest(name=_name(task.id), agent=agent_name(task.agent), attempt=task.attempts)
        convert.assign(request, "result", data)
        return task_from_wire((await self._services.call(self._services.tasks.CompleteTask, request)).task)

    async def fail(
        self, task: values.Task, message: str = "", *, reason: values.FailureReason | str = "handler_error"
    ) -> values.Task:
        """Say that an attempt failed; `reason` decides whether there is another. Raises LeaseLostError."""
        request = wire.FailTaskRequest(
            name=_name(task.id),
            agent=agent_name(task.agent),
            attempt=task.attempts,
            reason=convert.enum_to_wire(values.FailureReason, reason, "reason"),
        )
        convert.assign(request, "message", message)
        return task_from_wire((await self._services.call(self._services.tasks.FailTask, request)).task)

    async def extend(self, task: values.Task, lease: timedelta | None = None) -> values.Task:
        """Have a task for another `lease` from now on (None: 60 s). Raises LeaseLostError."""
        request = wire.ExtendTaskRequest(name=_name(task.id), agent=agent_name(task.agent), attempt=task.attempts)
        if lease is not None:
            convert.duration_to_wire(lease, request.lease, "lease")
        return task_from_wire((await self._services.call(self._services.tasks.ExtendTask, request)).task)

    async def get(self, id: str) -> values.Task:
        """A task with its payload and result. Raises TaskNotFoundError."""
        request = wire.GetTaskRequest(name=_name(id))
        return task_from_wire((await self._services.call(self._services.tasks.GetTask, request)).task)

    async def list(
        self, *, state: values.TaskState | str | None = None, type: str = "", page_size: int = 0
    ) -> AsyncIterator[values.Task]:
        """All tasks, newest first, or those in a state or of a type, without payloads. Reads page by page."""
        request = wire.ListTasksRequest(page_size=page_size)
        convert.assign(request, "type", type)
        if state is not None:
            request.state = convert.enum_to_wire(values.TaskState, state, "state")
        async for page in self._services.pages(self._services.tasks.ListTasks, request):
            for task in page.tasks:
                yield task_from_wire(task)

    async def cancel(self, id: str) -> values.Task:
        """Take a task out of the queue, or from its agent. Raises TaskNotFoundError, TaskStateError if it has ended."""
        request = wire.CancelTaskRequest(name=_name(id))
        return task_from_wire((await self._services.call(self._services.tasks.CancelTask, request)).task)

    async def retry(self, id: str) -> values.Task:
        """Put a dead task into the queue again, with as many attempts as a new one. Raises TaskStateError."""
        request = wire.RetryTaskRequest(name=_name(id))
        return task_from_wire((await self._services.call(self._services.tasks.RetryTask, request)).task)

    async def purge(self, state: values.TaskState | str, *, before: datetime | None = None) -> int:
        """Remove the tasks that ended in a state, or those of them that ended before a time; how many."""
        request = wire.PurgeTasksRequest(state=convert.enum_to_wire(values.TaskState, state, "state"))
        if before is not None:
            convert.time_to_wire(before, request.before, "before")
        purged = 0
        while True:
            response = await self._services.call(self._services.tasks.PurgeTasks, request)
            purged += response.purged
            if not response.more or not response.purged:
                return purged

    async def work(
        self,
        agent: str,
        handler: Callable[[values.Task], Any],
        *,
        capabilities: Sequence[str] = (),
        concurrency: int = 1,
        lease: timedelta | None = None,
        description: str = "",
        deregister: bool = True,
    ) -> NoReturn:
        """Be an agent and do tasks, up to `concurrency` (100) side by side, until cancelled. `handler(task)` does one.

        A coroutine is awaited; any other function runs in a thread and may block. What it returns is the result; what
        it raises decides whether there is another attempt, as in `Events.consume`. While it runs the lease is extended.
        The agent registers, says with its heartbeats how busy it is, and is forgotten at the end, unless not
        `deregister`: what it had goes to others at once. Nobody answering is no end: it tries again.
        """
        if not 1 <= concurrency <= 100:
            raise convert.invalid("concurrency", f"{concurrency}; allowed is 1 to 100")
        presence = Agents(self._services).agent(agent, capabilities, description=description, deregister=deregister)
        await Worker(self, self._services, presence, handler, concurrency, lease).run()


def _name(id: str) -> str:
    return f"tasks/{id.removeprefix('tasks/')}"
