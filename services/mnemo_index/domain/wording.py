"""Wording: what of a query is compared by words. Its terms, and the phrases that it quotes.

A phrase is what stands in quotes, straight or typographic, if it has two terms or more. Stop words are no terms, so
they are passed over where a phrase is looked for.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from mnemo_index.domain.words import words

if TYPE_CHECKING:
    from mnemo_index.domain.words import Stems

MOST_PHRASES: Final = 8
"""Phrases of a query that are looked for: the first ones."""

_MARKS: Final = '"\u201c\u201d\u201e\u201f\u00ab\u00bb\u300c\u300d\u300e\u300f\uff02'
_QUOTED = re.compile(f"[{_MARKS}]([^{_MARKS}]+)[{_MARKS}]")


@dataclass(frozen=True, slots=True)
class Wording:
    """The words of a query in order, the terms that are looked for, and its phrases, each at least two terms."""

    words: list[str]
    terms: list[str]
    phrases: tuple[tuple[str, ...], ...] = ()


def wording_of(query: str, stems: Stems) -> Wording:
    """The wording of a query."""
    found = words(query)
    return Wording(found, stems.terms(found), _phrases(query, stems))


def _phrases(query: str, stems: Stems) -> tuple[tuple[str, ...], ...]:
    quoted = (tuple(stems.terms(words(text))) for text in _QUOTED.findall(query))
    return tuple(dict.fromkeys(phrase for phrase in quoted if len(phrase) > 1))[:MOST_PHRASES]
