"""What no text may contain."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from mnemocore.errors import InvalidFieldError, Violation

if TYPE_CHECKING:
    from collections.abc import Mapping

NUL: Final = "\x00"
"""The character that no store holds."""
NUL_REFUSED: Final = "contains the character U+0000, which no text may contain"


def refuse_nul(texts: Mapping[str, str]) -> None:
    """Raise InvalidFieldError that names those of the texts, by field, with the character U+0000 in them."""
    if broken := [Violation(field, NUL_REFUSED) for field, text in texts.items() if NUL in text]:
        raise InvalidFieldError.of(broken)
