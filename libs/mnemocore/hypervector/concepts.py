"""Concepts: bundles of role (x) filler, and analogies between them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mnemocore.errors import InvalidFieldError, Violation
from mnemocore.hypervector.algebra import bind, bundle
from mnemocore.hypervector.codebook import Codebook

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mnemocore.hypervector.algebra import Hypervector
    from mnemocore.hypervector.codebook import Cleaned


class Concepts:
    """Named concepts over one set of roles and fillers, each role and filler a random vector of its name."""

    def __init__(self) -> None:
        self.concepts = Codebook()
        self._roles = Codebook()
        self._fillers = Codebook()

    def define(self, name: str, attributes: Mapping[str, str]) -> Hypervector:
        """Put the bundle of role (x) filler of all `attributes` (at least one) under `name` and return it."""
        if not attributes:
            raise InvalidFieldError.of([Violation("attributes", "is empty; allowed is at least one role")])
        pairs = [
            bind(self._roles.symbol(f"role {role}"), self._fillers.symbol(f"filler {filler}"))
            for role, filler in sorted(attributes.items())
        ]
        self.concepts.add(name, bundle(np.stack(pairs)))
        return self.concepts[name]

    def filler(self, concept: str, role: str) -> Cleaned:
        """What stands in `role` of `concept`: the role unbound, cleaned up among all known fillers.

        The name is the filler's; a similarity near .5 means that the concept does not have the role.
        """
        noisy = bind(self._concept(concept), self._roles.symbol(f"role {role}"))
        found = self._fillers.clean_up(noisy)
        return type(found)(found.name.removeprefix("filler "), found.similarity, found.steps)

    def analogy(self, first: str, second: str, third: str) -> Cleaned:
        """The concept that is to `third` as `second` is to `first`; never one of the three."""
        change = bind(self._concept(first), self._concept(second))
        question = bind(change, self._concept(third))
        return self.concepts.clean_up(question, exclude=(first, second, third))

    def _concept(self, name: str) -> Hypervector:
        if name not in self.concepts:
            raise InvalidFieldError.of([Violation("concept", f"{name!r} is not defined; define it first")])
        return self.concepts[name]
