"""Erasing in the log, and wherever else this service has what was in it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from mnemo_events.domain.texts import refuse_nul

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mnemo_events.domain.dead_letters import DeadLetterStore
    from mnemo_events.domain.ports import EventLog
    from mnemocore.ids import SpaceUid, Tenant

BATCH: Final = 1000
"""Events removed at once, so that nobody waits long for what that locks."""


class ReadsAhead(Protocol):
    """Whoever has events of the log in memory."""

    def erased(self) -> None:
        """Events were erased in the log: give none that was read before to anybody."""
        ...


class Eraser:
    """Erases payloads and events: first in the log, then in the copies of dead letters.

    A call that is cut short is finished by the next one. Methods raise InvalidFieldError for a text with the character
    U+0000.
    """

    def __init__(self, log: EventLog, dead_letters: DeadLetterStore, *readers: ReadsAhead) -> None:
        self._log = log
        self._dead_letters = dead_letters
        self._readers = readers

    async def redact(self, keys: Sequence[tuple[str, str, str]]) -> int:
        """Take the payload out of events (tenant, source, id); how many events of the log lost one now."""
        names = ("tenant", "source", "id")
        refuse_nul(
            {
                f"keys[{index}].{name}": text
                for index, key in enumerate(keys)
                for name, text in zip(names, key, strict=True)
            }
        )
        redacted = await self._log.redact(keys)
        self._tell_readers()
        await self._dead_letters.redact(keys)
        return redacted

    async def erase_space(self, tenant: Tenant, space_uid: SpaceUid, keep_id: str) -> int:
        """Remove every event of a space but the one with the id `keep_id`; how many were removed from the log now."""
        refuse_nul({"tenant": tenant, "keep_id": keep_id})
        total = 0
        while removed := await self._log.remove(tenant, space_uid, keep_id, BATCH):
            total += removed
        self._tell_readers()
        while await self._dead_letters.remove_space(tenant, space_uid, keep_id, BATCH):
            pass
        return total

    def _tell_readers(self) -> None:
        for reader in self._readers:
            reader.erased()
