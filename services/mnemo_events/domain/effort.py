"""A bound on work whose cost is chosen by whoever sends the input."""

from __future__ import annotations


class EffortExhaustedError(Exception):
    """The work would take more steps than it may; it never leaves the domain."""


class Effort:
    """So many steps may be taken. A step is a few operations, at most some microseconds."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def spend(self, steps: int = 1) -> None:
        """Take steps. Raises EffortExhaustedError if there are none left."""
        self.left -= steps
        if self.left < 0:
            raise EffortExhaustedError
