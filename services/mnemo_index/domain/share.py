"""Which spaces a replica holds: all of them, or a share of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from mnemocore import rendezvous

if TYPE_CHECKING:
    from mnemocore.ids import SpaceUid


@dataclass(frozen=True, slots=True)
class Share:
    """The spaces that fall to `replica` among `replicas`, of which it is one; without `replicas` all spaces."""

    replica: str = ""
    replicas: frozenset[str] = frozenset()

    def has(self, space_uid: SpaceUid) -> bool:
        """Whether the space belongs to the share."""
        return not self.replicas or self.owner(space_uid) == self.replica

    def owner(self, space_uid: SpaceUid) -> str:
        """The replica that a space falls to; only where spaces are shared."""
        return rendezvous.owner(space_uid, self.replicas)

    def within(self, other: Share) -> bool:
        """Whether every space of this share certainly belongs to `other` too: nothing is taken where replicas come."""
        if not other.replicas:
            return True
        return self.replica == other.replica and other.replicas <= self.replicas


EVERYTHING: Final = Share()
"""All spaces."""
