"""Tasks of the contract as values of the domain, and back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mnemo_events.domain.task import DEFAULT_ATTEMPTS, DEFAULT_LEASE, LONGEST_LEASE, SHORTEST_LEASE, Order, State
from mnemo_events.domain.texts import refuse_nul
from mnemo_events.wire.agents import to_capabilities
from mnemocore.errors import InvalidFieldError, Violation
from mnemocore.events.v1 import resources_pb2
from mnemocore.wire import to_datetime, to_timestamp

if TYPE_CHECKING:
    from datetime import timedelta

    from google.protobuf.duration_pb2 import Duration
    from google.protobuf.message import Message

    from mnemo_events.domain.task import Task


def to_order(message: resources_pb2.Task, field: str = "task") -> Order:
    """What is to be done. Raises InvalidFieldError."""
    refuse_nul({f"{field}.content_type": message.content_type})
    return Order(
        type=message.type,
        payload=message.payload,
        content_type=message.content_type,
        capabilities=to_capabilities(f"{field}.capabilities", message.capabilities),
        priority=message.priority,
        max_attempts=message.max_attempts or DEFAULT_ATTEMPTS,
        not_before=to_datetime(message.not_before) if message.HasField("not_before") else None,
    )


def to_lease(request: Message) -> timedelta:
    """The lease of a request. Raises InvalidFieldError unless it is 1 s to 1 h."""
    lease = to_span(request, "lease")
    if lease is None:
        return DEFAULT_LEASE
    if not SHORTEST_LEASE <= lease <= LONGEST_LEASE:
        allowed = f"is {lease.total_seconds():g} s; allowed is 1 s to 3600 s"
        raise InvalidFieldError.of([Violation("lease", allowed)])
    return lease


def to_wait(request: Message, longest: timedelta) -> float:
    """The seconds to wait of a request. Raises InvalidFieldError for more than `longest`, or less than none."""
    span = to_span(request, "wait")
    seconds = span.total_seconds() if span else 0.0
    if not 0 <= seconds <= longest.total_seconds():
        allowed = f"is {seconds:g} s; allowed is 0 s to {longest.total_seconds():g} s"
        raise InvalidFieldError.of([Violation("wait", allowed)])
    return seconds


def to_span(request: Message, field: str) -> timedelta | None:
    """The duration in a field; None if it is not set. Raises InvalidFieldError for one of more than 10,000 years."""
    if not request.HasField(field):
        return None
    duration: Duration = getattr(request, field)
    try:
        return duration.ToTimedelta()
    except (ValueError, OverflowError):
        raise InvalidFieldError.of([Violation(field, "is not a duration")]) from None


def to_state(state: int) -> State | None:
    """The state of a request; None if it is not set."""
    return State(state) if state else None


def from_task(task: Task) -> resources_pb2.Task:
    """A task for an answer."""
    order, lease = task.order, task.lease
    return resources_pb2.Task(
        name=task.name,
        type=order.type,
        payload=order.payload,
        content_type=order.content_type,
        capabilities=order.capabilities,
        priority=order.priority,
        max_attempts=order.max_attempts,
        not_before=to_timestamp(order.not_before) if order.not_before else None,
        state=resources_pb2.TaskState.ValueType(task.state),
        attempts=task.attempts,
        agent=f"agents/{lease.agent}" if lease else "",
        lease_until=to_timestamp(lease.until) if lease else None,
        result=task.result,
        reason=resources_pb2.FailureReason.ValueType(task.reason),
        error=task.error,
        principal=task.principal,
        create_time=to_timestamp(task.created_at),
        end_time=to_timestamp(task.ended_at) if task.ended_at else None,
        retries=task.retries,
    )
