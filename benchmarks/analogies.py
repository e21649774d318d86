"""How many analogies among single words come out right: by cosines of the embeddings, and by their hypervectors.

Each analogy takes two pairs of one family, and has to find the last word among all words of all families but the three
it names.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from typing import TYPE_CHECKING, Final

import numpy as np

from mnemo_index.storage.wordllama_encoder import WordLlamaEncoder
from mnemocore.hypervector import Codebook, SignProjection, carried_over, moved_along

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mnemocore.hypervector import Hypervector

FAMILIES: Final = {
    "people": "king queen man woman boy girl father mother brother sister uncle aunt prince princess husband wife "
    "actor actress waiter waitress",
    "capitals": "France Paris Germany Berlin Italy Rome Spain Madrid Japan Tokyo Russia Moscow China Beijing "
    "Egypt Cairo Greece Athens Portugal Lisbon",
    "comparatives": "big bigger small smaller fast faster slow slower tall taller cold colder warm warmer "
    "strong stronger old older young younger",
    "plurals": "cat cats dog dogs house houses car cars tree trees bird birds book books hand hands apple apples "
    "child children",
    "past tenses": "walk walked talk talked play played jump jumped work worked open opened cook cooked "
    "clean cleaned paint painted kick kicked",
}
"""Pairs of words, one after the other."""


def analogies(family: str) -> Iterator[tuple[str, str, str, str]]:
    """Every ordered pair of different pairs of a family, as a : b :: c : d."""
    words = FAMILIES[family].split()
    pairs = list(zip(words[::2], words[1::2], strict=True))
    for (a, b), (c, d) in itertools.permutations(pairs, 2):
        yield a, b, c, d


def main() -> int:
    """The command."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    words = list(dict.fromkeys(" ".join(FAMILIES.values()).split()))
    encoder = WordLlamaEncoder.load()
    dense = encoder.encode(words)
    row = {word: place for place, word in enumerate(words)}
    codebook = Codebook()
    for word, vector in zip(words, SignProjection(encoder.dimension).project(dense), strict=True):
        codebook.add(word, vector)

    def by_cosine(a: str, b: str, c: str) -> str:
        cosines = dense @ (dense[row[b]] - dense[row[a]] + dense[row[c]])
        cosines[[row[a], row[b], row[c]]] = -np.inf
        return words[int(cosines.argmax())]

    def by(question: Callable[[Hypervector, Hypervector, Hypervector], Hypervector]) -> Callable[[str, str, str], str]:
        return lambda a, b, c: (
            codebook.clean_up(question(codebook[a], codebook[b], codebook[c]), exclude=(a, b, c)).name
        )

    methods = {"cosines": by_cosine, "difference": by(moved_along), "binding": by(carried_over)}
    print(f"{'right of':14} {'all':>5} " + " ".join(f"{name:>11}" for name in methods))
    totals = dict.fromkeys(("all", *methods), 0)
    for family in FAMILIES:
        asked = list(analogies(family))
        right = {name: sum(solve(a, b, c) == d for a, b, c, d in asked) for name, solve in methods.items()}
        counts = {"all": len(asked)} | right
        totals = {name: totals[name] + counts[name] for name in totals}
        print(f"{family:14} {counts['all']:5} " + " ".join(f"{right[name]:11}" for name in methods))
    print(f"{'together':14} {totals['all']:5} " + " ".join(f"{totals[name]:11}" for name in methods))
    return 0


if __name__ == "__main__":
    sys.exit(main())
