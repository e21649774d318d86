"""Resource names of the contracts: their parts, and one clear error for those that are malformed."""

from __future__ import annotations

import re
from typing import Final

from mnemocore.errors import InvalidFieldError, Violation

_ID: Final = "[a-z0-9][a-z0-9._-]{0,63}"


def id_of(collection: str, name: str, field: str = "name") -> str:
    """The id in `{collection}/{id}`. Raises InvalidFieldError that names `field` for anything else."""
    if found := re.fullmatch(f"{collection}/({_ID})", name):
        return found[1]
    raise InvalidFieldError.of([Violation(field, f"{name!r} is malformed; expected '{collection}/<id>'")])


def position_of(collection: str, name: str, field: str = "name") -> tuple[str, int]:
    """Group and position in `groups/{id}/{collection}/{position}`. Raises InvalidFieldError for anything else."""
    if found := re.fullmatch(f"groups/({_ID})/{collection}/([1-9][0-9]{{0,17}})", name):
        return found[1], int(found[2])
    expected = f"expected 'groups/<id>/{collection}/<position>'"
    raise InvalidFieldError.of([Violation(field, f"{name!r} is malformed; {expected}")])
