"""Links a memory that says more of a known one with that one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mnemo_memory.domain.associations import AssociationType, Link, Strength

if TYPE_CHECKING:
    from mnemo_memory.domain.associations import AssociationStore
    from mnemo_memory.domain.memory import Space
    from mnemo_memory.domain.ports import Author
    from mnemocore.ids import MemoryId


class Extensions:
    """Implements `mnemo_memory.domain.novelty.Linker` on the associations."""

    def __init__(self, store: AssociationStore) -> None:
        self._store = store

    async def extend(self, space: Space, source: MemoryId, target: MemoryId, author: Author) -> None:
        """Say that one memory extends another, with the weight of a new link."""
        await self._store.put(space, Link(source, target, AssociationType.EXTENDS), Strength(), author, None)
