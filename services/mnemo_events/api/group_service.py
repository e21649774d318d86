"""The servicer of `mnemocore.events.v1.GroupService`."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING, Any

from mnemo_events.domain.access import Action
from mnemo_events.domain.consumer import Consumer
from mnemo_events.domain.group import Reason
from mnemo_events.domain.texts import refuse_nul
from mnemo_events.wire.groups import from_dead_letter, from_message, from_view, to_reports, to_spec, to_start
from mnemo_events.wire.names import id_of, position_of
from mnemocore.calls import caller
from mnemocore.errors import InvalidFieldError, MnemoError, Violation
from mnemocore.events.v1 import group_service_pb2 as pb
from mnemocore.events.v1 import group_service_pb2_grpc
from mnemocore.wire import to_datetime

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from grpc.aio import ServicerContext

    from mnemo_events.domain.access import Access
    from mnemo_events.domain.consumption import Consumption
    from mnemo_events.domain.dead_letters import DeadLetters
    from mnemo_events.domain.group_keeping import GroupKeeping
    from mnemocore.clock import Clock

    Context = ServicerContext[Any, Any]

_GROUPS = "groups"
_DEAD_LETTERS = "deadLetters"


class GroupServicer(group_service_pb2_grpc.GroupServiceServicer):
    """Converts requests, calls the domain, converts back."""

    def __init__(
        self, groups: GroupKeeping, dead_letters: DeadLetters, consumption: Consumption, access: Access, clock: Clock
    ) -> None:
        self._groups = groups
        self._dead_letters = dead_letters
        self._consumption = consumption
        self._access = access
        self._clock = clock

    async def CreateGroup(self, request: pb.CreateGroupRequest, context: Context) -> pb.CreateGroupResponse:
        spec = to_spec(request.group, caller().tenant)
        start = to_start(request.start_at, "start_at") if request.HasField("start_at") else None
        return pb.CreateGroupResponse(
            group=from_view(await self._groups.create(caller(), request.group_id, spec, start))
        )

    async def GetGroup(self, request: pb.GetGroupRequest, context: Context) -> pb.GetGroupResponse:
        return pb.GetGroupResponse(group=from_view(await self._groups.get(caller(), id_of(_GROUPS, request.name))))

    async def ListGroups(self, request: pb.ListGroupsRequest, context: Context) -> pb.ListGroupsResponse:
        page, token = await self._groups.list_page(caller(), request.page_size, request.page_token)
        return pb.ListGroupsResponse(groups=[from_view(view) for view in page], next_page_token=token)

    async def DeleteGroup(self, request: pb.DeleteGroupRequest, context: Context) -> pb.DeleteGroupResponse:
        return pb.DeleteGroupResponse(deleted=await self._groups.delete(caller(), id_of(_GROUPS, request.name)))

    async def SeekGroup(self, request: pb.SeekGroupRequest, context: Context) -> pb.SeekGroupResponse:
        start = to_start(request.start_at, "start_at")
        return pb.SeekGroupResponse(
            group=from_view(await self._groups.seek(caller(), id_of(_GROUPS, request.name), start))
        )

    async def ConsumeEvents(
        self, request_iterator: AsyncIterator[pb.ConsumeEventsRequest], context: Context
    ) -> AsyncIterator[pb.ConsumeEventsResponse]:
        """Stream events to a member."""
        start = await _start_of(request_iterator)
        refuse_nul({"start.member": start.member})
        group = await self._groups.open(caller(), id_of(_GROUPS, start.name, "start.name"))
        types, subjects = group.where.types, group.where.subjects
        allowed = partial(self._access.check, caller(), Action.SUBSCRIBE, types, subjects, "ConsumeEvents")
        async with self._consumption.member(group, start.member, allowed) as member:
            consumer = Consumer(member, self._clock, start.credit)
            listening = asyncio.create_task(_listen(request_iterator, consumer))
            try:
                async with aclosing(consumer.messages()) as messages:
                    async for message in messages:
                        yield from_message(message)
                member.took_leave = True
            finally:
                listening.cancel()
                await asyncio.wait((listening,))
            if not listening.cancelled():
                listening.result()

    async def ListDeadLetters(self, request: pb.ListDeadLettersRequest, context: Context) -> pb.ListDeadLettersResponse:
        group_id = id_of(_GROUPS, request.parent, "parent")
        reason = Reason(request.reason) if request.reason else None
        page, token = await self._dead_letters.list_page(
            caller(), group_id, reason, request.page_size, request.page_token
        )
        return pb.ListDeadLettersResponse(
            dead_letters=[from_dead_letter(group_id, letter) for letter in page], next_page_token=token
        )

    async def GetDeadLetter(self, request: pb.GetDeadLetterRequest, context: Context) -> pb.GetDeadLetterResponse:
        group_id, position = position_of(_DEAD_LETTERS, request.name)
        letter = await self._dead_letters.get(caller(), group_id, position)
        return pb.GetDeadLetterResponse(dead_letter=from_dead_letter(group_id, letter))

    async def ReplayDeadLetters(
        self, request: pb.ReplayDeadLettersRequest, context: Context
    ) -> pb.ReplayDeadLettersResponse:
        group_id, positions = id_of(_GROUPS, request.parent, "parent"), _positions(request.positions)
        replayed, more = await self._dead_letters.replay(caller(), group_id, positions)
        return pb.ReplayDeadLettersResponse(replayed=replayed, more=more)

    async def PurgeDeadLetters(
        self, request: pb.PurgeDeadLettersRequest, context: Context
    ) -> pb.PurgeDeadLettersResponse:
        group_id, positions = id_of(_GROUPS, request.parent, "parent"), _positions(request.positions)
        before = to_datetime(request.before) if request.HasField("before") else None
        return pb.PurgeDeadLettersResponse(purged=await self._dead_letters.purge(caller(), group_id, before, positions))


def _positions(positions: Iterable[int]) -> list[int]:
    found = list(positions)
    if broken := [
        Violation(f"positions[{index}]", f"{position}: allowed is 1 or more")
        for index, position in enumerate(found)
        if position < 1
    ]:
        raise InvalidFieldError.of(broken)
    return found


async def _start_of(requests: AsyncIterator[pb.ConsumeEventsRequest]) -> pb.ConsumeEventsRequest.Start:
    async for request in requests:
        if request.WhichOneof("message") == "start":
            return request.start
        break
    raise InvalidFieldError.of([Violation("start", "is missing; the first message must be start")])


async def _listen(requests: AsyncIterator[pb.ConsumeEventsRequest], consumer: Consumer) -> None:
    """Pass on what the member says until it says no more."""
    try:
        async for request in requests:
            match request.WhichOneof("message"):
                case "credit":
                    consumer.give_credit(request.credit.events)
                case "settle":
                    await consumer.settle(to_reports(request.settle))
                case _:
                    text = "is missing; after the first message it must be credit or settle"
                    raise InvalidFieldError.of([Violation("message", text)])
    except MnemoError as error:
        consumer.fail(error)
    finally:
        consumer.end()
