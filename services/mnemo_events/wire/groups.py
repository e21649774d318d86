"""Messages of groups, members and dead letters as values of the domain, and back."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Final

from mnemo_events.domain.group import Reason
from mnemo_events.domain.group_keeping import DEFAULT_ATTEMPTS, DEFAULT_LEASE, GroupSpec
from mnemo_events.domain.member import Done, Extended, Failed
from mnemo_events.domain.start import EARLIEST, AfterPosition, AtTime, Latest
from mnemo_events.wire.events import from_filter, from_stored, to_filter
from mnemocore.errors import InvalidFieldError, Violation
from mnemocore.events.v1 import group_service_pb2, resources_pb2
from mnemocore.wire import to_datetime, to_timestamp

if TYPE_CHECKING:
    from collections.abc import Iterator

    from google.protobuf.duration_pb2 import Duration

    from mnemo_events.domain.consumer import Message
    from mnemo_events.domain.dead_letters import DeadLetter
    from mnemo_events.domain.group import Group
    from mnemo_events.domain.group_keeping import GroupView
    from mnemo_events.domain.member import Delivery, Report
    from mnemo_events.domain.start import Start
    from mnemocore.ids import Tenant

LONGEST_RETRY: Final = timedelta(hours=24)
_NANOS_A_MICRO: Final = 1000


def to_spec(message: resources_pb2.Group, tenant: Tenant) -> GroupSpec:
    """What a group is to be. Raises InvalidFieldError if its filter or lease is malformed."""
    where = to_filter(message.filter, tenant, "group.filter")
    lease = _duration(message.lease) if message.HasField("lease") else DEFAULT_LEASE
    return GroupSpec(where, message.max_attempts or DEFAULT_ATTEMPTS, lease)


def to_start(message: resources_pb2.StartAt, field: str) -> Start:
    """Where to start. Raises InvalidFieldError that names `field` if nothing is said."""
    match message.WhichOneof("at"):
        case "after_position":
            return AfterPosition(message.after_position)
        case "time":
            return AtTime(to_datetime(message.time))
        case "earliest":
            return EARLIEST
        case "latest":
            return Latest()
        case _:
            allowed = "one of after_position, time, earliest, latest"
            raise InvalidFieldError.of([Violation(field, f"says nothing; it must be {allowed}")])


def to_reports(message: group_service_pb2.ConsumeEventsRequest.Settle) -> list[Report]:
    """What a member says of events. Raises InvalidFieldError that names what is missing or not allowed."""
    found: list[Report] = []
    broken: list[Violation] = []
    for index, outcome in enumerate(message.outcomes):
        field = f"settle.outcomes[{index}]"
        broken += _violations(outcome, field)
        if not broken:
            found.append(_report(outcome))
    if broken:
        raise InvalidFieldError.of(broken)
    return found


def from_group(group: Group) -> resources_pb2.Group:
    """A group for an answer, without how it stands."""
    lease = resources_pb2.Group().lease
    lease.FromTimedelta(group.lease)
    return resources_pb2.Group(
        name=group.name,
        filter=from_filter(group.where),
        max_attempts=group.max_attempts,
        lease=lease,
        owner=group.owner,
        create_time=to_timestamp(group.created_at),
    )


def from_view(view: GroupView) -> resources_pb2.Group:
    """A group for an answer, with how it stands."""
    message = from_group(view.group)
    message.position = view.standing.position
    message.in_flight = view.standing.in_flight
    message.waiting = view.standing.waiting
    message.dead = view.dead
    message.lag = view.lag
    return message


def from_message(message: Message) -> group_service_pb2.ConsumeEventsResponse:
    """What a stream says to its member."""
    return group_service_pb2.ConsumeEventsResponse(
        deliveries=[_from_delivery(delivery) for delivery in message.deliveries],
        settled=message.settled,
        lost=message.lost,
        lag=message.lag,
    )


def from_dead_letter(group_id: str, letter: DeadLetter) -> resources_pb2.DeadLetter:
    """A dead letter for an answer."""
    return resources_pb2.DeadLetter(
        name=f"groups/{group_id}/deadLetters/{letter.event.position}",
        event=from_stored(letter.event),
        reason=resources_pb2.FailureReason.ValueType(letter.reason),
        message=letter.message,
        attempts=letter.attempts,
        replays=letter.replays,
        first_death_time=to_timestamp(letter.first_died_at),
        death_time=to_timestamp(letter.died_at),
        replaying=letter.replaying,
    )


def _violations(outcome: group_service_pb2.ConsumeEventsRequest.Outcome, field: str) -> Iterator[Violation]:
    kind = outcome.WhichOneof("outcome")
    if kind is None:
        yield Violation(f"{field}.outcome", "is missing; it must be one of done, failed, extended")
    if kind != "failed":
        return
    if "\x00" in outcome.failed.message:
        yield Violation(f"{field}.failed.message", "contains the character U+0000, which no text may contain")
    if outcome.failed.HasField("retry_after"):
        asked = outcome.failed.retry_after
        if not timedelta(0) <= _duration(asked) <= LONGEST_RETRY:
            text = f"{asked.seconds} s: allowed is 0 s to {LONGEST_RETRY.total_seconds():.0f} s"
            yield Violation(f"{field}.failed.retry_after", text)


def _report(outcome: group_service_pb2.ConsumeEventsRequest.Outcome) -> Report:
    if outcome.HasField("done"):
        return Done(outcome.tag)
    if outcome.HasField("extended"):
        return Extended(outcome.tag)
    failed = outcome.failed
    retry_after = _duration(failed.retry_after) if failed.HasField("retry_after") else None
    return Failed(outcome.tag, Reason(failed.reason), failed.message, retry_after)


def _from_delivery(delivery: Delivery) -> group_service_pb2.ConsumeEventsResponse.Delivery:
    return group_service_pb2.ConsumeEventsResponse.Delivery(
        tag=delivery.tag,
        event=from_stored(delivery.event),
        attempt=delivery.attempt,
        lease_until=to_timestamp(delivery.lease_until),
        replayed=delivery.replayed,
    )


def _duration(message: Duration) -> timedelta:
    """Cut to microseconds; what Python cannot hold is as long as it can be."""
    try:
        return timedelta(seconds=message.seconds, microseconds=message.nanos // _NANOS_A_MICRO)
    except OverflowError:
        return timedelta.max if message.seconds > 0 else timedelta.min
