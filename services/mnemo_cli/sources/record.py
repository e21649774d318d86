"""What readers give: memories and where they stand, or what is wrong there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from mnemocore.client.values import MemoryInput


@dataclass(frozen=True, slots=True)
class Place:
    """A line of a source, from 1 (0: the source as a whole). `end` is how many of its bytes are read by then."""

    source: str
    line: int
    end: int = 0

    def __str__(self) -> str:
        return f"{self.source}:{self.line}" if self.line else self.source


class SourceError(Exception):
    """Something in a source cannot be read; `str(error)` names the place and the problem."""

    def __init__(self, place: Place, problem: str) -> None:
        super().__init__(f"{place}: {problem}")
        self.place = place
        self.problem = problem


Item: TypeAlias = "tuple[Place, MemoryInput]"
"""A memory, and where it begins."""

Record: TypeAlias = "tuple[Place, MemoryInput | SourceError]"
"""A memory or what is wrong with it, and where."""
