"""Which events a reader wants."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from mnemocore.errors import InvalidFieldError, Violation

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mnemocore.ids import SpaceUid, Tenant

_SEGMENT: Final = "[a-z0-9_]+"
_ANY_REST: Final = rf"{_SEGMENT}(\.{_SEGMENT})*"
_PATTERN: Final = re.compile(rf"(?:({_SEGMENT}|\*)\.)*({_SEGMENT}|\*|\*\*)")
_ALLOWED: Final = "segments of a-z, 0-9 and _ joined by dots; '*' stands for one segment, '**' at the end for the rest"


@dataclass(frozen=True, slots=True)
class Filter:
    """Every condition that is set must hold: one of the `types` patterns, the space, the tenant."""

    types: tuple[str, ...] = ()
    space_uid: SpaceUid | None = None
    tenant: Tenant | None = None

    @property
    def type_expression(self) -> str | None:
        """A regular expression for the whole of a wanted type, in the syntax Python and PostgreSQL share.

        None if every type is wanted.
        """
        if not self.types:
            return None
        return f"^({'|'.join(_expression(pattern) for pattern in self.types)})$"


def check_types(types: Iterable[str]) -> tuple[str, ...]:
    """The patterns, if all are well-formed. Raises InvalidFieldError that names those which are not."""
    patterns = tuple(types)
    broken = [
        Violation(f"filter.types[{index}]", f"{pattern!r}: allowed are {_ALLOWED}")
        for index, pattern in enumerate(patterns)
        if not _PATTERN.fullmatch(pattern)
    ]
    if broken:
        raise InvalidFieldError.of(broken)
    return patterns


def _expression(pattern: str) -> str:
    wildcards = {"*": _SEGMENT, "**": _ANY_REST}
    return r"\.".join(wildcards.get(segment, segment) for segment in pattern.split("."))
