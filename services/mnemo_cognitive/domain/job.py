"""Jobs and the reports they make."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime

    from mnemocore.ids import JobId, Tenant


class JobState(IntEnum):
    """Where a job is. The numbers are those of the contract and of the database."""

    QUEUED = 1
    RUNNING = 2
    SUCCEEDED = 3
    FAILED = 4
    CANCELLED = 5

    @property
    def ended(self) -> bool:
        """Whether nothing will change any more."""
        return self >= JobState.SUCCEEDED


@dataclass(frozen=True, slots=True)
class Duplicate:
    """A memory that says what the kept one says."""

    name: str
    similarity: float
    archived: bool = False


@dataclass(frozen=True, slots=True)
class DuplicateGroup:
    """A kept memory and those that say the same."""

    kept: str
    duplicates: tuple[Duplicate, ...]


@dataclass(frozen=True, slots=True)
class Report:
    """What a consolidation found and did so far."""

    min_similarity: float
    dry_run: bool
    pairs: int = 0
    groups: tuple[DuplicateGroup, ...] = ()

    @property
    def archived(self) -> int:
        """Number of memories archived."""
        return sum(duplicate.archived for group in self.groups for duplicate in group.duplicates)

    def markdown(self, space: str) -> str:
        """The report for people."""
        found = sum(len(group.duplicates) for group in self.groups)
        lines = [
            f"# Consolidation of {space}",
            "",
            f"- similarity from {self.min_similarity:g} on",
            f"- {self.pairs} pairs, {len(self.groups)} groups, {found} duplicates",
            f"- {self.archived} archived" + (" (dry run: nothing was changed)" if self.dry_run else ""),
        ]
        for group in self.groups:
            lines += ["", f"## Kept: {group.kept}", ""]
            lines += [
                f"- {duplicate.name} ({duplicate.similarity:.3f}{', archived' if duplicate.archived else ''})"
                for duplicate in group.duplicates
            ]
        return "\n".join(lines) + "\n"


@dataclass(frozen=True, slots=True)
class Job:
    """A consolidation of one space, asked for by `principal` of `tenant`."""

    id: JobId
    tenant: Tenant
    principal: str
    space: str
    state: JobState
    report: Report
    created_at: datetime
    started_at: datetime | None = None
    ended_at: datetime | None = None
    error: str = ""
    cancel_requested: bool = field(default=False)

    @property
    def name(self) -> str:
        """The public resource name."""
        return f"jobs/{self.id}"
