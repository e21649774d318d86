"""Rendezvous hashing: equal shares, and nothing moves but what has to."""

from __future__ import annotations

import uuid
from collections import Counter
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from mnemo_index.domain.share import EVERYTHING, Share
from mnemocore import rendezvous
from mnemocore.ids import SpaceUid

REPLICAS = st.lists(st.text(min_size=1, max_size=12), min_size=1, max_size=8, unique=True)


def spaces(seed: int, count: int) -> list[SpaceUid]:
    """Ids of spaces."""
    chance = Random(seed)
    return [SpaceUid(str(uuid.UUID(int=chance.getrandbits(128)))) for _ in range(count)]


@settings(max_examples=30)
@given(REPLICAS, st.text(min_size=13, max_size=20), st.integers(0, 1000))
def test_who_comes_takes_its_share_and_nothing_else_moves(replicas: list[str], comes: str, seed: int) -> None:
    count, more = 400, [*replicas, comes]
    keys = spaces(seed, count)
    before = {key: rendezvous.owner(key, replicas) for key in keys}
    after = {key: rendezvous.owner(key, more) for key in keys}
    moved = [key for key in keys if before[key] != after[key]]
    assert all(after[key] == comes for key in moved)
    expected = count / len(more)
    assert abs(len(moved) - expected) < 5 * (expected * (1 - 1 / len(more))) ** 0.5  # five standard deviations


@settings(max_examples=30)
@given(REPLICAS, st.integers(0, 1000))
def test_everybody_has_about_the_same(replicas: list[str], seed: int) -> None:
    keys, n = spaces(seed, 600), len(replicas)
    shares = Counter(rendezvous.owner(key, replicas) for key in keys)
    for replica in replicas:
        assert abs(shares[replica] - 600 / n) <= 5 * (600 / n * (1 - 1 / n)) ** 0.5


@settings(max_examples=30)
@given(REPLICAS, st.integers(0, 1000), st.randoms())
def test_neither_order_nor_place_make_a_difference(replicas: list[str], seed: int, chance: Random) -> None:
    keys, shuffled = spaces(seed, 50), list(replicas)
    chance.shuffle(shuffled)
    for key in keys:
        owner = rendezvous.owner(key, replicas)
        assert owner == rendezvous.owner(key, frozenset(shuffled))
        holders = [name for name in replicas if Share(name, frozenset(replicas)).has(key)]
        assert holders == [owner]
        assert EVERYTHING.has(key)


@settings(max_examples=60)
@given(REPLICAS, REPLICAS, st.integers(0, 1000), st.data())
def test_a_share_that_lies_within_another_has_nothing_new(
    first: list[str], second: list[str], seed: int, data: st.DataObject
) -> None:
    old = data.draw(st.sampled_from([EVERYTHING, *(Share(name, frozenset(first)) for name in first)]))
    more = frozenset(first + second)
    new = data.draw(st.sampled_from([EVERYTHING, *(Share(name, more) for name in sorted(more))]))
    if new.within(old):
        assert all(old.has(key) for key in spaces(seed, 100) if new.has(key))
    assert old.within(old)
    assert new.within(EVERYTHING)


def test_the_owner_of_a_space_is_the_same_for_ever() -> None:
    replicas = ["index-0:7402", "index-1:7402", "index-2:7402"]
    keys = spaces(1, 8)
    assert [rendezvous.owner(key, replicas)[6] for key in keys] == list("12221122")


def test_names_are_listed_with_commas() -> None:
    assert rendezvous.names(" a:1, b:2,,a:1 ") == ["a:1", "b:2"]
    assert rendezvous.names("") == []
