"""Laws of spreading activation, of the best paths, and of weights that are learned."""

from __future__ import annotations

import asyncio
import math
from datetime import date
from itertools import pairwise, permutations
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mnemo_memory.domain import hebbian
from mnemo_memory.domain.paths import Path, best_paths
from mnemo_memory.domain.spreading import LEAST_ACTIVATION, MAX_FRONTIER, PASSED_ON, Activation, Edge, pass_on, spread
from mnemocore.ids import MemoryId

if TYPE_CHECKING:
    import random
    from collections.abc import Collection, Mapping, Sequence

IDS = [MemoryId(letter) for letter in "abcdefg"]
WEIGHTS = st.floats(1e-6, 1)
A_YEAR = st.dates(date(2026, 1, 1), date(2026, 12, 31))
EDGES = st.lists(st.builds(Edge, st.sampled_from(IDS), st.sampled_from(IDS), WEIGHTS), max_size=40)
SEEDS = st.dictionaries(st.sampled_from(IDS), st.floats(0, 1), max_size=4)


class Graph:
    """Answers what is linked with what, and remembers what it was asked."""

    def __init__(self, edges: Sequence[Edge]) -> None:
        self.edges = edges
        self.asked: list[list[MemoryId]] = []

    async def load(self, ids: Sequence[MemoryId], passed: Collection[MemoryId]) -> list[Edge]:
        assert not set(ids) - set(passed)
        self.asked.append(list(ids))
        return [edge for edge in self.edges if edge.origin in ids]


def spread_over(edges: Sequence[Edge], seeds: Mapping[MemoryId, float], hops: int = 3) -> dict[MemoryId, Activation]:
    return asyncio.run(spread(seeds, Graph(edges).load, hops))


def edges(*pairs: tuple[str, str, float]) -> list[Edge]:
    return [Edge(MemoryId(origin), MemoryId(goal), weight) for origin, goal, weight in pairs]


@given(EDGES, SEEDS)
def test_a_hop_never_adds_energy(links: list[Edge], energies: dict[MemoryId, float]) -> None:
    arrived = pass_on(energies, [edge for edge in links if edge.origin in energies], energies.keys())
    assert math.fsum(arrived.values()) <= PASSED_ON * math.fsum(energies.values()) + 1e-9
    assert all(energy >= 0 for energy in arrived.values())


@given(EDGES, SEEDS, st.integers(0, 3))
def test_what_is_reached_is_bounded_by_the_seeds(links: list[Edge], seeds: dict[MemoryId, float], hops: int) -> None:
    reached = spread_over(links, seeds, hops)
    total = math.fsum(seeds.values())
    for hop in range(1, hops + 1):
        arrived = math.fsum(found.energy for found in reached.values() if found.hops == hop)
        assert arrived <= PASSED_ON**hop * total + 1e-9
    assert not reached.keys() & seeds.keys()
    assert all(found.energy >= LEAST_ACTIVATION and 1 <= found.hops <= hops for found in reached.values())


@given(EDGES, SEEDS, st.randoms(use_true_random=False))
def test_the_order_of_links_and_seeds_is_of_no_effect(
    links: list[Edge], seeds: dict[MemoryId, float], chance: random.Random
) -> None:
    mixed = chance.sample(links, len(links))
    turned = dict(chance.sample(list(seeds.items()), len(seeds)))
    assert spread_over(mixed, turned) == spread_over(links, seeds)


def test_a_chain_passes_on_less_and_less_for_three_hops() -> None:
    chain = edges(("a", "b", 0.1), ("b", "a", 0.1), ("b", "c", 1.0), ("c", "d", 0.5), ("d", "e", 1.0))
    reached = spread_over(chain, {MemoryId("a"): 1.0})
    assert {each: (round(found.energy, 9), found.hops) for each, found in reached.items()} == {
        "b": (0.7, 1),
        "c": (0.49, 2),
        "d": (0.343, 3),
    }


def test_activation_is_split_by_the_weights_and_adds_up_where_it_meets() -> None:
    fan = edges(("a", "x", 0.3), ("a", "y", 0.1), ("b", "x", 1.0))
    reached = spread_over(fan, {MemoryId("a"): 1.0, MemoryId("b"): 0.5}, 1)
    assert {each: found.energy for each, found in reached.items()} == pytest.approx({"x": 0.525 + 0.35, "y": 0.175})


def test_only_the_most_active_pass_on() -> None:
    graph = Graph([])
    seeds = {MemoryId(f"{number:03}"): 0.5 + number / 1000 for number in range(150)}
    asyncio.run(spread({**seeds, MemoryId("weak"): 0.009}, graph.load))
    assert [len(ids) for ids in graph.asked] == [MAX_FRONTIER]
    assert set(graph.asked[0]) == {f"{number:03}" for number in range(50, 150)}


# Paths


@given(EDGES, st.integers(1, 5), st.integers(1, 10))
def test_the_best_paths_are_those_of_a_search_through_all(links: list[Edge], max_hops: int, limit: int) -> None:
    steps: dict[MemoryId, dict[MemoryId, float]] = {}
    for edge in links:
        if edge.origin != edge.goal:
            steps.setdefault(edge.origin, {})[edge.goal] = edge.weight
    found = best_paths(steps, IDS[0], IDS[1], max_hops, limit)
    expected = all_paths(steps, max_hops)
    assert [path.weight for path in found] == pytest.approx([path.weight for path in expected[:limit]])
    assert len({path.memories for path in found}) == len(found)
    assert {path.memories for path in found} <= {path.memories for path in expected}


def all_paths(steps: Mapping[MemoryId, Mapping[MemoryId, float]], max_hops: int) -> list[Path]:
    between = IDS[2:]
    found = []
    for count in range(max_hops):
        for middle in permutations(between, count):
            memories = (IDS[0], *middle, IDS[1])
            weights = [steps.get(origin, {}).get(goal, 0.0) for origin, goal in pairwise(memories)]
            if all(weights):
                found.append(Path(memories, math.prod(weights)))
    return sorted(found, key=lambda path: (-path.weight, len(path.memories), path.memories))


def test_of_equal_paths_the_shorter_comes_first() -> None:
    a, b, c = IDS[:3]
    steps = {a: {c: 1.0, b: 1.0}, c: {b: 1.0}}
    assert best_paths(steps, a, b, 5, 5) == [Path((a, b), 1.0), Path((a, c, b), 1.0)]


def test_a_graph_that_is_hard_to_search_is_searched_in_bounded_time() -> None:
    crowd = [MemoryId(f"x{number:03}") for number in range(100)]
    start, gate, end = MemoryId("start"), MemoryId("gate"), MemoryId("zend")
    steps = {each: {other: 1.0 for other in [*crowd, gate] if other != each} for each in crowd}
    steps[start] = {gate: 1.0}
    steps[gate] = {**dict.fromkeys(crowd, 1.0), end: 0.001}
    assert best_paths(steps, start, end, 5, 10) == [Path((start, gate, end), 0.001)]


# Weights


def test_weights_that_are_reinforced() -> None:
    first = hebbian.reinforced(None)
    second = hebbian.reinforced(first)
    assert (first, second, hebbian.reinforced(second)) == pytest.approx((0.3, 0.335, 0.36825))
    assert hebbian.reinforced(0.3, positive=True) == pytest.approx(0.37)


@given(WEIGHTS, st.booleans())
def test_reinforcing_never_weakens_and_never_exceeds_1(weight: float, positive: bool) -> None:
    assert weight <= hebbian.reinforced(weight, positive=positive) <= 1.0


@given(WEIGHTS, st.floats(0, 1000), st.floats(0, 1000))
def test_decay_halves_every_thirty_days_and_does_not_depend_on_when_it_is_applied(
    weight: float, days: float, more: float
) -> None:
    assert hebbian.decayed(weight, days + 30) == pytest.approx(hebbian.decayed(weight, days) / 2)
    in_two = hebbian.decayed(hebbian.decayed(weight, days), more)
    assert in_two == pytest.approx(hebbian.decayed(weight, days + more))


@given(WEIGHTS, st.sets(A_YEAR), A_YEAR)
def test_a_link_fades_by_the_active_days_after_its_last_step(weight: float, days: set[date], stepped_on: date) -> None:
    later = [day for day in days if day > stepped_on]
    assert hebbian.faded(weight, stepped_on, days) == hebbian.decayed(weight, len(later))
    day_by_day = weight
    for day in days:
        day_by_day = hebbian.faded(day_by_day, stepped_on, [day])
    assert day_by_day == pytest.approx(hebbian.faded(weight, stepped_on, days))


def test_pruning() -> None:
    assert hebbian.is_pruned(0.0499)
    assert not hebbian.is_pruned(0.05)
