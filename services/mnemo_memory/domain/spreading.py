"""Spreading activation: what is active makes active what it is linked with.

Each hop passes on 0.7 of the activation of a memory, split over its links by their weights; what arrives at one memory
over several links adds up. Activation never flows back: a memory passes on what it got at the hop that reached it, and
only to memories that no earlier hop has reached, so a hop never adds energy and every sum is bounded by the seeds.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence

    from mnemocore.ids import MemoryId

PASSED_ON: Final = 0.7
"""Of the activation of a memory, each hop."""
MAX_HOPS: Final = 3
LEAST_ACTIVATION: Final = 0.01
"""What is less has no effect."""
MAX_FRONTIER: Final = 100
"""Memories that pass on at one hop: the most active ones."""
LINKS_A_MEMORY: Final = 100
"""Links of a memory that conduct: the strongest ones."""
SESSION_WEIGHTS: Final = (0.5, 0.25)
"""Weights of the links with the next and the next but one in a session, before and after: a turn of a conversation
stands for a link that was reinforced a few times, the turn behind it for one as weak as a new link."""


@dataclass(frozen=True, slots=True)
class Edge:
    """A link that conducts from `origin` to `goal`."""

    origin: MemoryId
    goal: MemoryId
    weight: float


@dataclass(frozen=True, slots=True)
class Activation:
    """How much activation reached a memory, and after how many hops."""

    energy: float
    hops: int


async def spread(
    seeds: Mapping[MemoryId, float],
    load: Callable[[Sequence[MemoryId], Collection[MemoryId]], Awaitable[Iterable[Edge]]],
    max_hops: int = MAX_HOPS,
) -> dict[MemoryId, Activation]:
    """What the seeds, each with its activation, reach within `max_hops` hops, without the seeds themselves.

    `load` returns the edges that leave the memories of its first argument; those to memories of the second, which have
    passed on already, are of no use. The same seeds and edges, in whatever order, give the same result.
    """
    reached: dict[MemoryId, Activation] = {}
    passed: set[MemoryId] = set(seeds)
    frontier = strongest(seeds)
    for hop in range(1, max_hops + 1):
        if not frontier:
            break
        edges = await load(list(frontier), passed)
        arrived = {
            memory_id: energy
            for memory_id, energy in pass_on(frontier, edges, seeds.keys() | reached.keys()).items()
            if energy >= LEAST_ACTIVATION
        }
        reached.update((memory_id, Activation(energy, hop)) for memory_id, energy in arrived.items())
        frontier = strongest(arrived)
        passed |= frontier.keys()
    return reached


def pass_on(
    energies: Mapping[MemoryId, float], edges: Iterable[Edge], reached: Collection[MemoryId]
) -> dict[MemoryId, float]:
    """What arrives after one hop; edges to memories that were reached before do not conduct."""
    by_origin: dict[MemoryId, list[Edge]] = defaultdict(list)
    for edge in edges:
        if edge.goal not in reached and edge.weight > 0:
            by_origin[edge.origin].append(edge)
    arrived: dict[MemoryId, float] = defaultdict(float)
    for origin in sorted(by_origin):
        outgoing = sorted(by_origin[origin], key=lambda edge: (edge.goal, edge.weight))
        total = sum(edge.weight for edge in outgoing)
        for edge in outgoing:
            arrived[edge.goal] += PASSED_ON * energies[origin] * edge.weight / total
    return dict(arrived)


def strongest(energies: Mapping[MemoryId, float], limit: int = MAX_FRONTIER) -> dict[MemoryId, float]:
    """The `limit` memories with the most activation, the most active first, without those that have too little."""
    ranked = sorted(energies.items(), key=lambda item: (-item[1], item[0]))
    return {memory_id: energy for memory_id, energy in ranked[:limit] if energy >= LEAST_ACTIVATION}
