"""What can be done to a memory: pure functions from the memory before to the memory after, None for no change."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from mnemo_memory.domain.memory import State
from mnemo_memory.domain.retention import Verdict, verdict
from mnemocore.errors import InvalidFieldError, MemoryProtectedError, Violation

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime

    from mnemo_memory.domain.memory import Draft, Memory

VERIFIED: Final = "verified"
UNRELIABLE: Final = "unreliable"
UPDATABLE: Final = (
    *("content", "metadata", "tags", "actor", "kind", "occurred_at", "valid_from", "valid_to", "expires_at"),
    *("importance", "confidence", "provenance"),
)
"""The fields of a memory that can be updated."""


@dataclass(frozen=True, slots=True)
class Update:
    """New values of some fields; those of UPDATABLE."""

    values: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, memory: Memory) -> Memory | None:
        """The memory with the new values. Raises InvalidFieldError if they do not go together with the old ones."""
        after = replace(memory, **dict(self.values))
        refuse_empty_validity(after.valid_from, after.valid_to)
        return None if after == memory else after


def archive(now: datetime, name: str) -> Callable[[Memory], Memory | None]:
    """Take it out of recall. Raises MemoryProtectedError, which names `name`."""

    def alter(memory: Memory) -> Memory | None:
        if memory.archived_at is not None:
            return None
        if memory.protected:
            raise MemoryProtectedError(memory=name)
        return replace(memory, archived_at=now)

    return alter


def restore(memory: Memory) -> Memory | None:
    """Take an archived memory back; one that was superseded or has expired stays so."""
    return None if memory.archived_at is None else replace(memory, archived_at=None)


def protect(wanted: bool) -> Callable[[Memory], Memory | None]:
    """Protect it, or do so no longer."""

    def alter(memory: Memory) -> Memory | None:
        return None if memory.protected == wanted else replace(memory, protected=wanted)

    return alter


def judge(positive: bool, weight: float) -> Callable[[Memory], Memory]:
    """Record feedback: its weight is added to the good or the bad side, and the tags follow the verdict."""

    def alter(memory: Memory) -> Memory:
        alpha = memory.alpha + (weight if positive else 0.0)
        beta = memory.beta + (0.0 if positive else weight)
        return replace(memory, alpha=alpha, beta=beta, tags=_judged_tags(memory.tags, verdict(alpha, beta)))

    return alter


def reinforce(now: datetime) -> Callable[[Memory], Memory]:
    """Count one more use of it."""

    def alter(memory: Memory) -> Memory:
        return replace(memory, accesses=memory.accesses + 1, accessed_at=now)

    return alter


def close(now: datetime) -> Callable[[Memory, Draft], tuple[Memory, Draft]]:
    """The old memory and the new one, when one takes the place of the other: validity ends where the new one's begins.

    The new one is valid from its `valid_from`, or else from when it happened, or else from now.
    """

    def alter(old: Memory, draft: Draft) -> tuple[Memory, Draft]:
        start = draft.valid_from or draft.occurred_at or now
        end = start if old.valid_to is None else min(old.valid_to, start)
        if old.valid_from is not None:
            end = max(end, old.valid_from)
        new = draft if draft.valid_from is not None else replace(draft, valid_from=start)
        if new.valid_to is not None and new.valid_from is not None and new.valid_to <= new.valid_from:
            new = replace(new, valid_from=draft.valid_from)
        return replace(old, valid_to=end, state=State.SUPERSEDED), new

    return alter


def refuse_empty_validity(valid_from: datetime | None, valid_to: datetime | None, path: str = "memory") -> None:
    """Raise InvalidFieldError for a validity that ends before it begins."""
    if valid_from is not None and valid_to is not None and valid_to < valid_from:
        described = (
            f"{valid_to.isoformat()} is before valid_from, {valid_from.isoformat()}; allowed is that time or later"
        )
        raise InvalidFieldError.of([Violation(f"{path}.valid_to", described)])


def _judged_tags(tags: tuple[str, ...], found: Verdict) -> tuple[str, ...]:
    kept = tuple(tag for tag in tags if tag not in (VERIFIED, UNRELIABLE))
    if found is Verdict.VERIFIED:
        return (*kept, VERIFIED)
    return (*kept, UNRELIABLE) if found is Verdict.UNRELIABLE else kept
