"""What an agent has in mind for minutes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mnemocore.client import convert, values
from mnemocore.memory.v1 import working_memory_service_pb2 as wire

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import timedelta

    from mnemocore.client.services import Services


def item_from_wire(message: wire.WorkingItem) -> values.WorkingItem:
    """One item."""
    return values.WorkingItem(
        id=message.id,
        agent=message.agent,
        session=message.session,
        memory=convert.memory_input_from_wire(message.memory),
        protected=message.protected,
        access_count=message.access_count,
        create_time=convert.time_from_wire(message, "create_time"),
        expire_time=convert.time_from_wire(message, "expire_time"),
    )


class WorkingMemory:
    """The working memory of an agent in a session of a space. Comes from `Space.working_memory`.

    It holds at most 100 items: the oldest that is not protected makes room.
    """

    def __init__(self, services: Services, space_id: str, agent: str, session: str) -> None:
        self.space = space_id
        self.agent = agent
        self.session = session
        self._services = services
        self._parent = f"spaces/{space_id}"

    async def push(
        self, item: str | values.MemoryInput, *, protected: bool = False, ttl: timedelta | None = None
    ) -> values.Pushed:
        """Have something in mind for `ttl`, up to a day; 10 minutes if it is None. Makes the space if there is none.

        An equal text that is there counts one more access and lives on. With `protected` it does not expire and makes
        no room for others. Raises WorkingMemoryFullError if every item is protected.
        """
        memory = values.MemoryInput(item) if isinstance(item, str) else item
        request = wire.PushWorkingItemRequest(
            parent=self._parent,
            memory=convert.memory_input_to_wire(memory, self._services.clock.now()),
            protected=protected,
            request_id=self._services.request_id(),
        )
        convert.assign(request, "agent", self.agent)
        convert.assign(request, "session", self.session)
        if ttl is not None:
            convert.duration_to_wire(ttl, request.ttl, "ttl")
        method = self._services.working_memory.PushWorkingItem
        response = await self._services.call_in(self.space, method, request)
        return values.Pushed(item_from_wire(response.item), response.evicted_id)

    async def items(self) -> list[values.WorkingItem]:
        """What the agent has in mind, newest first."""
        request = wire.ListWorkingItemsRequest(parent=self._parent, agent=self.agent, session=self.session)
        response = await self._services.call(self._services.working_memory.ListWorkingItems, request)
        return [item_from_wire(item) for item in response.items]

    async def clear(self, ids: Sequence[str] = ()) -> int:
        """Remove the items with these ids, all without, protected ones too; returns how many there were."""
        request = wire.ClearWorkingMemoryRequest(parent=self._parent, agent=self.agent, session=self.session)
        convert.extend(request, "ids", ids)
        return (await self._services.call(self._services.working_memory.ClearWorkingMemory, request)).removed

    async def promote(self, id: str) -> values.Memory:
        """Keep an item as a memory and take it out of working memory. Raises WorkingItemNotFoundError."""
        request = wire.PromoteWorkingItemRequest(parent=self._parent, id=id, request_id=self._services.request_id())
        response = await self._services.call(self._services.working_memory.PromoteWorkingItem, request)
        self._services.freshness(self.space).note_unproven_write()
        return convert.memory_from_wire(response.memory)

    def __repr__(self) -> str:
        return f"WorkingMemory({self.space!r}, {self.agent!r}, {self.session!r})"
