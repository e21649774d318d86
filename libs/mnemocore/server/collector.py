"""Python's collector of reference cycles, set up for a process that serves."""

from __future__ import annotations

import gc
from typing import Final

ALLOCATIONS: Final = 50_000
"""So many objects more than were let go begin a collection of the youngest; Python's own figure is 700."""
GENERATIONS: Final = 25
"""So many collections of one generation begin one of the next."""


def settle() -> None:
    """Look less often for cycles, and no more at what is there now. To be called once everything is started.

    What a call makes is gone when it ends, mostly without cycles: looking for them every 700 objects took a fifteenth
    of the time of writing many memories.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(ALLOCATIONS, GENERATIONS, GENERATIONS)
