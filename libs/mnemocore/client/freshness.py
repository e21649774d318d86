"""Read your own writes: how fresh the next read of a space must be, given the writes that were answered.

Tokens are opaque, so of two writes that were under way at the same time nobody outside can tell which is newer. Then a
read asks for full consistency, once; its own token takes the place of the two.
"""

from __future__ import annotations

from mnemocore.common.v1.resources_pb2 import Consistency, ConsistencyToken


class Freshness:
    """The newest token seen in one space."""

    def __init__(self) -> None:
        self._answered = 0  # writes answered so far
        self._token = ""
        self._ambiguous = False

    def begin_write(self) -> PendingWrite:
        """Call it before a write is sent."""
        return PendingWrite(self)

    def requirement(self) -> Consistency | None:
        """What the next read must ask for; None if nothing was written or read yet."""
        if self._ambiguous:
            return Consistency(fully_consistent=True)
        if not self._token:
            return None
        return Consistency(at_least_as_fresh=ConsistencyToken(value=self._token))

    @property
    def answered(self) -> int:
        """How many writes were answered; give it to `note_read` as of the start of the read."""
        return self._answered

    def note_read(self, token: str, answered_at_start: int) -> None:
        """A read was answered. It settles an ambiguity if no write was answered while it was under way."""
        if self._ambiguous and token and answered_at_start == self._answered:
            self._token = token
            self._ambiguous = False

    def note_write(self, token: str, answered_at_start: int) -> None:
        """A write was answered that was begun after `answered_at_start` others had been answered."""
        if answered_at_start == self._answered:
            self._ambiguous = False
        else:
            self._ambiguous = True
        self._answered += 1
        self._token = token

    def note_unproven_write(self) -> None:
        """A write was answered without a token: the next read asks for full consistency."""
        self._ambiguous = True
        self._answered += 1

    def forget(self) -> None:
        """The space is gone, and what its tokens prove with it."""
        self._token = ""
        self._ambiguous = False


class PendingWrite:
    """A write under way. A stream of writes, answered in their order, is one of these with several answers."""

    def __init__(self, freshness: Freshness) -> None:
        self._freshness = freshness
        self._answered_at_start = freshness.answered

    def answered(self, token: str) -> None:
        """The write, or the next part of it, is durable; an empty token says nothing."""
        if token:
            self._freshness.note_write(token, self._answered_at_start)
            self._answered_at_start += 1
