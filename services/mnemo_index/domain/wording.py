"""Wording: what of a query is compared by words. Its terms, the phrases that it quotes, and its wildcards.

A phrase is what stands in quotes, straight or typographic, if it has two terms or more. Stop words are no terms, so
they are passed over where a phrase is looked for. A word that ends with a star is a wildcard: it stands for the terms
of a space that begin with it.
"""

from __future__ import annotations

import heapq
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, NamedTuple

from mnemo_index.domain.words import names, stands_alone, words

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from mnemo_index.domain.words import Stems

MOST_PHRASES: Final = 8
"""Phrases of a query that are looked for: the first ones."""
MOST_WILDCARDS: Final = 8
"""Wildcards of a query that are looked for: the first ones."""
MOST_VARIANTS: Final = 50
"""Terms that a wildcard stands for: the most frequent ones."""

_MARKS: Final = '"\u201c\u201d\u201e\u201f\u00ab\u00bb\u300c\u300d\u300e\u300f\uff02'
_QUOTED = re.compile(f"[{_MARKS}]([^{_MARKS}]+)[{_MARKS}]")
_STARRED = re.compile(r"(?<![\w*])([^\W_]{2,})\*(?![\w*])")


class Wildcard(NamedTuple):
    """Stands for the terms that begin with `start`, and for `stem`, which is what a text has of the word `start`.

    With `inside` also for those that have it elsewhere.
    """

    start: str
    stem: str
    inside: bool = False

    def variants(self, terms: Iterable[str], frequency: Callable[[str], int]) -> tuple[str, ...]:
        """The most frequent of the different `terms` that it stands for, those without any frequency left out."""
        start, stem = self.start, self.stem
        if self.inside:
            known = [term for term in terms if start in term]
        else:
            known = [term for term in terms if term.startswith(start) or term == stem]
        found = [(-frequency(term), term) for term in known]
        return tuple(term for count, term in heapq.nsmallest(MOST_VARIANTS, found) if count)


@dataclass(frozen=True, slots=True)
class Wording:
    """What a query asks of words.

    Its words in order; the terms that are looked for; its phrases, each at least two terms; its wildcards; and, once
    these are expanded, the variants of each, which count as one term together.
    """

    words: list[str]
    terms: list[str]
    phrases: tuple[tuple[str, ...], ...] = ()
    wildcards: tuple[Wildcard, ...] = ()
    variants: tuple[tuple[str, ...], ...] = ()

    def expanded(self, terms: Iterable[str], frequency: Callable[[str], int]) -> Wording:
        """The same with the variants of its wildcards among the different `terms`.

        A wildcard without any stands for what nobody says.
        """
        if not self.wildcards:
            return self
        known = list(terms)
        return replace(self, variants=tuple(each.variants(known, frequency) for each in self.wildcards))


def wording_of(query: str, stems: Stems) -> Wording:
    """The wording of a query, its wildcards not expanded."""
    found = words(query)
    wildcards = _wildcards(query, stems) if "*" in query else {}
    rest = _STARRED.sub(lambda match: "" if match[1] in wildcards else match[1], query) if wildcards else query
    terms = stems.terms(words(rest) if wildcards else found) + names(rest)
    # Texts have such letters in pairs: one alone stands for all pairs with it.
    alone = [Wildcard(term, term, inside=True) for term in terms if stands_alone(term)]
    kept = [term for term in terms if not stands_alone(term)] if alone else terms
    expanded = tuple(dict.fromkeys([*wildcards.values(), *alone]))[:MOST_WILDCARDS]
    return Wording(found, kept, _phrases(query, stems), expanded)


def _phrases(query: str, stems: Stems) -> tuple[tuple[str, ...], ...]:
    quoted = (tuple(stems.terms(words(text))) for text in _QUOTED.findall(query))
    return tuple(dict.fromkeys(phrase for phrase in quoted if len(phrase) > 1))[:MOST_PHRASES]


def _wildcards(query: str, stems: Stems) -> dict[str, Wildcard]:
    """What stands before a star, and what it stands for, if that is one word."""
    wildcards: dict[str, Wildcard] = {}
    for start in _STARRED.findall(query):
        found = words(start)
        if len(found) == 1 and len(wildcards) < MOST_WILDCARDS:
            wildcards[start] = Wildcard(found[0], " ".join(stems.terms(found)))
    return wildcards
