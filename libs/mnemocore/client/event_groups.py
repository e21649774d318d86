"""Consumer groups and their dead letters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from mnemocore.client import convert
from mnemocore.client import event_values as values
from mnemocore.client.consuming import Consumer
from mnemocore.client.event_convert import dead_letter_from_wire, filter_to_wire, group_from_wire, start_to_wire
from mnemocore.events.v1 import group_service_pb2 as wire

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Sequence
    from datetime import datetime, timedelta
    from typing import Any, NoReturn

    from mnemocore.client.services import Services

MAX_AT_ONCE: Final = 5000
"""Handlers that may run side by side, and events that may be asked for ahead of them."""

MAX_POSITIONS: Final = 1000
"""Positions in one request."""


class Grouping:
    """The consumer groups of a tenant: members share events, each of which is done by one of them, at least once."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def create_group(
        self,
        id: str,
        *,
        types: Sequence[str] = (),
        subjects: Sequence[str] = (),
        space_uid: str = "",
        max_attempts: int = 0,
        lease: timedelta | None = None,
        start: values.Start = "latest",
    ) -> values.ConsumerGroup:
        """Make a group for the events of a filter, as `Events.read` has it. The same group again changes nothing.

        An event is tried `max_attempts` times (0: 5) before it is a dead letter; a member has it for `lease` (None:
        60 s) before another is given it. Raises GroupExistsError if there is another of that name, AccessDeniedError,
        EventsTrimmedError.
        """
        request = wire.CreateGroupRequest(start_at=start_to_wire(start, "start"))
        convert.assign(request, "group_id", id, "id")
        request.group.filter.CopyFrom(filter_to_wire(types, subjects, space_uid))
        convert.assign(request.group, "max_attempts", max_attempts)
        if lease is not None:
            convert.duration_to_wire(lease, request.group.lease, "lease")
        return group_from_wire((await self._services.call(self._services.groups.CreateGroup, request)).group)

    async def group(self, id: str) -> values.ConsumerGroup:
        """A group and how it stands. Raises GroupNotFoundError."""
        request = wire.GetGroupRequest(name=_name(id))
        return group_from_wire((await self._services.call(self._services.groups.GetGroup, request)).group)

    async def groups(self, *, page_size: int = 0) -> AsyncIterator[values.ConsumerGroup]:
        """All groups, by name. Reads page by page."""
        request = wire.ListGroupsRequest(page_size=page_size)
        async for page in self._services.pages(self._services.groups.ListGroups, request):
            for group in page.groups:
                yield group_from_wire(group)

    async def delete_group(self, id: str) -> bool:
        """Delete a group with its dead letters; whether there was one. Its members are told GroupNotFoundError."""
        request = wire.DeleteGroupRequest(name=_name(id))
        return (await self._services.call(self._services.groups.DeleteGroup, request)).deleted

    async def seek_group(self, id: str, start: values.Start) -> values.ConsumerGroup:
        """Let a group go on from another place: back to do events again, ahead to leave some out.

        Dead letters stay. Raises GroupNotFoundError, EventsTrimmedError.
        """
        request = wire.SeekGroupRequest(name=_name(id), start_at=start_to_wire(start, "start"))
        return group_from_wire((await self._services.call(self._services.groups.SeekGroup, request)).group)

    async def consume(
        self,
        group: str,
        handler: Callable[[values.ConsumedEvent], Any],
        *,
        concurrency: int = 1,
        prefetch: int = 0,
        dedup: int = 10_000,
        member: str = "",
        timeout: float | None = None,
        patience: float | None = None,
    ) -> NoReturn:
        """Do the events of a group as one of its members, until cancelled. `handler(event)` does one.

        A coroutine is awaited; any other function runs in a thread and may block. It returns: the event is done. It
        raises: another attempt is made later, or none, by the reason. `Retry(after=...)` says when, `Reject(reason)`
        and `InvalidEvent(reason)` make it a dead letter at once, anything else is `handler_error`, `timeout` or
        `unavailable`; longer than `timeout` seconds is `timeout` (None: as long as it takes).

        Events of one space, else of one subject, are done in their order; of different ones up to `concurrency` side by
        side, and `prefetch` more are on their way (0: as many as `concurrency`). While we have an event its lease is
        extended. Of the last `dedup` events that were done here, none is done again because it was delivered again. A
        stream that breaks is opened again, until nobody has answered for `patience` seconds (None: for ever). When it
        is cancelled it stops the handlers, waits a moment for what is done to be stored, and leaves.

        Raises GroupNotFoundError, also when the group is deleted; AccessDeniedError, also when the policy is withdrawn.
        """
        _check_range("concurrency", concurrency, 1, MAX_AT_ONCE)
        _check_range("prefetch", prefetch, 0, MAX_AT_ONCE)
        _check_range("dedup", dedup, 0, None)
        consumer = Consumer(
            self._services,
            group,
            handler,
            concurrency=concurrency,
            prefetch=prefetch,
            dedup=dedup,
            member=member,
            timeout=timeout,
            patience=patience,
        )
        await consumer.run()

    async def dead_letters(
        self, group: str, *, reason: values.FailureReason | str | None = None, page_size: int = 0
    ) -> AsyncIterator[values.DeadLetter]:
        """The dead letters of a group, oldest event first, or those of one reason. Reads page by page."""
        request = wire.ListDeadLettersRequest(parent=_name(group), page_size=page_size)
        if reason is not None:
            request.reason = convert.enum_to_wire(values.FailureReason, reason, "reason")
        async for page in self._services.pages(self._services.groups.ListDeadLetters, request):
            for letter in page.dead_letters:
                yield dead_letter_from_wire(letter)

    async def dead_letter(self, group: str, position: int) -> values.DeadLetter:
        """The dead letter of the event at a position. Raises DeadLetterNotFoundError."""
        request = wire.GetDeadLetterRequest(name=f"{_name(group)}/deadLetters/{position}")
        response = await self._services.call(self._services.groups.GetDeadLetter, request)
        return dead_letter_from_wire(response.dead_letter)

    async def replay_dead_letters(self, group: str, positions: Iterable[int] | None = None) -> int:
        """Give dead letters (None: all) to the group again, with as many attempts as new events have; how many.

        Those that are replayed already are passed over.
        """
        if positions is not None:
            return sum([(await self._replay(group, part)).replayed for part in _parts(positions)])
        replayed = 0
        while True:
            response = await self._replay(group, [])
            replayed += response.replayed
            if not response.more or not response.replayed:
                return replayed

    async def purge_dead_letters(
        self, group: str, positions: Iterable[int] | None = None, *, before: datetime | None = None
    ) -> int:
        """Remove dead letters (None: all) for good, or those of them that died last before a time; how many.

        Those that are being replayed stay.
        """
        if positions is None:
            return await self._purge(group, [], before)
        return sum([await self._purge(group, part, before) for part in _parts(positions)])

    async def _replay(self, group: str, positions: list[int]) -> wire.ReplayDeadLettersResponse:
        request = wire.ReplayDeadLettersRequest(parent=_name(group))
        convert.extend(request, "positions", positions)
        return await self._services.call(self._services.groups.ReplayDeadLetters, request)

    async def _purge(self, group: str, positions: list[int], before: datetime | None) -> int:
        request = wire.PurgeDeadLettersRequest(parent=_name(group))
        convert.extend(request, "positions", positions)
        if before is not None:
            convert.time_to_wire(before, request.before, "before")
        return (await self._services.call(self._services.groups.PurgeDeadLetters, request)).purged


def _name(id: str) -> str:
    return f"groups/{id.removeprefix('groups/')}"


def _parts(positions: Iterable[int]) -> list[list[int]]:
    """Positions in portions that a request takes; each once."""
    wanted = list(dict.fromkeys(positions))
    return [wanted[start : start + MAX_POSITIONS] for start in range(0, len(wanted), MAX_POSITIONS)]


def _check_range(field: str, value: int, least: int, greatest: int | None) -> None:
    if value < least or (greatest is not None and value > greatest):
        allowed = f"{least} and more" if greatest is None else f"{least} to {greatest}"
        raise convert.invalid(field, f"{value}; allowed is {allowed}")
