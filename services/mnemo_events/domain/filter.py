"""Which events a reader wants."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from mnemocore.errors import InvalidFieldError, Violation

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from mnemo_events.domain.event import Event
    from mnemocore.ids import SpaceUid, Tenant

_SEGMENT: Final = "[a-z0-9_]+"
_ANY_REST: Final = rf"{_SEGMENT}(\.{_SEGMENT})*"
_PATTERN: Final = re.compile(rf"(?:({_SEGMENT}|\*)\.)*({_SEGMENT}|\*|\*\*)")
_ANY_CHARACTERS: Final = "[^/]+"
_ANY_PATH: Final = f"{_ANY_CHARACTERS}(/{_ANY_CHARACTERS})*"
_SUBJECT_PATTERN: Final = re.compile(r"(?:[^/*]+|\*)(?:/(?:[^/*]+|\*))*(?:/\*\*)?|\*\*")
_ALLOWED_SUBJECTS: Final = "segments joined by '/'; '*' stands for one segment, '**' at the end for the rest"
_ALLOWED: Final = "segments of a-z, 0-9 and _ joined by dots; '*' stands for one segment, '**' at the end for the rest"


@dataclass(frozen=True, slots=True)
class Filter:
    """Every condition that is set must hold: one of the `types`, the space, the tenant, one of the `subjects`."""

    types: tuple[str, ...] = ()
    space_uid: SpaceUid | None = None
    tenant: Tenant | None = None
    subjects: tuple[str, ...] = ()

    @property
    def type_expression(self) -> str | None:
        """A regular expression for the whole of a wanted type, in the syntax Python and PostgreSQL share.

        None if every type is wanted.
        """
        if not self.types:
            return None
        return f"^({'|'.join(_expression(pattern) for pattern in self.types)})$"

    @property
    def subject_expression(self) -> str | None:
        """A regular expression for the whole of a wanted subject, as `type_expression`; None if every one is wanted."""
        if not self.subjects:
            return None
        return f"^({'|'.join(_subject_expression(pattern) for pattern in self.subjects)})$"

    def matcher(self) -> Callable[[Event], bool]:
        """A function that says whether an event is wanted, for engines that do not filter themselves.

        Equal filters have the very same one, mostly.
        """
        return _matcher(self)


@lru_cache(1024)
def _matcher(where: Filter) -> Callable[[Event], bool]:
    types = re.compile(where.type_expression) if where.type_expression else None
    subjects = re.compile(where.subject_expression) if where.subject_expression else None

    def wanted(event: Event) -> bool:
        return (
            (where.tenant is None or event.tenant == where.tenant)
            and (where.space_uid is None or event.space_uid == where.space_uid)
            and (types is None or types.fullmatch(event.type) is not None)
            and (subjects is None or subjects.fullmatch(event.subject) is not None)
        )

    return wanted


def check_types(types: Iterable[str], field: str = "filter.types") -> tuple[str, ...]:
    """The patterns of types, if all are well-formed. Raises InvalidFieldError that names those which are not."""
    return _checked(types, field, _PATTERN, _ALLOWED)


def check_subjects(subjects: Iterable[str], field: str = "filter.subjects") -> tuple[str, ...]:
    """The patterns of subjects, if all are well-formed. Raises InvalidFieldError that names those which are not."""
    return _checked(subjects, field, _SUBJECT_PATTERN, _ALLOWED_SUBJECTS)


def covers(allowed: str, wanted: str, separator: str = ".") -> bool:
    """Whether everything that the pattern `wanted` matches is matched by `allowed` too.

    Both are well-formed patterns of types (separator ".") or of subjects ("/"), or a literal.
    """
    if "*" not in allowed:
        return allowed == wanted
    outer, inner = allowed.split(separator), wanted.split(separator)
    for index, segment in enumerate(outer):
        if segment == "**":
            return len(inner) > index
        if index >= len(inner) or inner[index] == "**" or segment not in ("*", inner[index]):
            return False
    return len(inner) == len(outer)


def _checked(patterns: Iterable[str], field: str, expression: re.Pattern[str], allowed: str) -> tuple[str, ...]:
    found = tuple(patterns)
    broken = [
        Violation(f"{field}[{index}]", f"{pattern!r}: allowed are {allowed}")
        for index, pattern in enumerate(found)
        if "\x00" in pattern or not expression.fullmatch(pattern)
    ]
    if broken:
        raise InvalidFieldError.of(broken)
    return found


def _expression(pattern: str) -> str:
    wildcards = {"*": _SEGMENT, "**": _ANY_REST}
    return r"\.".join(wildcards.get(segment, segment) for segment in pattern.split("."))


def _subject_expression(pattern: str) -> str:
    wildcards = {"*": _ANY_CHARACTERS, "**": _ANY_PATH}
    return "/".join(wildcards.get(segment) or re.escape(segment) for segment in pattern.split("/"))
