"""Concepts: bundles of role (x) filler, and analogies between them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mnemocore.hypervector.algebra import bind, bundle, invalid
from mnemocore.hypervector.codebook import Cleaned, Codebook

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mnemocore.hypervector.algebra import Hypervector, Hypervectors


def concept(roles: Hypervectors, fillers: Hypervectors) -> Hypervector:
    """The bundle of role (x) filler of each pair of rows, at least one.

    Bound to one of the roles it is like the filler of that role: `Codebook.clean_up` finds which one. Raises
    InvalidFieldError for a role that is its own filler: bound together they are all zeros and say nothing.
    """
    pairs = bind(roles, fillers)
    if not pairs.any(axis=-1).all():
        raise invalid("fillers", "has a row that equals its role; allowed is any other vector")
    return bundle(pairs)


def carried_over(first: Hypervector, second: Hypervector, third: Hypervector) -> Hypervector:
    """What is to `third` as `second` is to `first`, with noise: what binds the first two, bound to the third.

    Right for concepts, whose parts are swapped exactly, and from a filler to the filler that stands in its place
    (Kanerva 2010, "What we mean when we say 'What's the dollar of Mexico?'").
    """
    return bind(bind(first, second), third)


def moved_along(first: Hypervector, second: Hypervector, third: Hypervector) -> Hypervector:
    """What is to `third` as `second` is to `first`, with noise: the majority of not `first`, `second` and `third`.

    Right for projections of dense vectors: the signs of second - first + third (Mikolov et al. 2013), nearly.
    """
    return bundle(np.stack((first, second, third)), (-1.0, 1.0, 1.0))


class Concepts:
    """Named concepts over one set of roles and fillers; what is not given as a vector is a random one of its name."""

    def __init__(self) -> None:
        self.concepts = Codebook()
        self._roles = Codebook()
        self._fillers = Codebook()

    def define(self, name: str, attributes: Mapping[str, str]) -> Hypervector:
        """Put the bundle of role (x) filler of all `attributes` (at least one) under `name` and return it."""
        if not attributes:
            raise invalid("attributes", "is empty; allowed is at least one role")
        roles = np.stack([self._roles.symbol(f"role {role}") for role in attributes])
        fillers = np.stack([self._fillers.symbol(f"filler {filler}") for filler in attributes.values()])
        self.concepts.add(name, concept(roles, fillers))
        return self.concepts[name]

    def name_filler(self, name: str, vector: Hypervector) -> None:
        """Let the filler `name` have this vector, such as the projection of a text, in concepts defined from now on."""
        self._fillers.add(f"filler {name}", vector)

    def filler(self, concept: str, role: str) -> Cleaned:
        """What stands in `role` of `concept`: the role unbound, cleaned up among all known fillers.

        The name is the filler's; a similarity near .5 means that the concept does not have the role.
        """
        noisy = bind(self._concept(concept), self._roles.symbol(f"role {role}"))
        found = self._fillers.clean_up(noisy)
        return Cleaned(found.name.removeprefix("filler "), found.similarity, found.steps)

    def analogy(self, first: str, second: str, third: str) -> Cleaned:
        """The concept that is to `third` as `second` is to `first`; never one of the three."""
        question = carried_over(self._concept(first), self._concept(second), self._concept(third))
        return self.concepts.clean_up(question, exclude=(first, second, third))

    def _concept(self, name: str) -> Hypervector:
        if name not in self.concepts:
            raise invalid("concept", f"{name!r} is not defined; define it first")
        return self.concepts[name]
