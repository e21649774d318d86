"""The order in which a consumer does what it is given."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from mnemocore.client.lanes import Lanes


@dataclass(eq=False)
class Item:
    lane: str
    position: int


def test_one_of_a_lane_at_a_time_by_position() -> None:
    lanes: Lanes[Item] = Lanes()
    for lane, position in (("a", 2), ("a", 1), ("b", 3)):
        lanes.put(Item(lane, position))
    first, second = lanes.take(), lanes.take()
    assert first is not None
    assert second is not None
    assert ((first.lane, first.position), (second.lane, second.position)) == (("a", 1), ("b", 3))
    assert lanes.take() is None
    lanes.open("b")
    lanes.open("b")
    assert lanes.take() is None
    lanes.open("a")
    third = lanes.take()
    assert third is not None
    assert third.position == 2


def test_what_is_put_into_a_closed_lane_waits_until_it_is_opened() -> None:
    lanes: Lanes[Item] = Lanes()
    lanes.put(Item("a", 1))
    lanes.take()
    lanes.put(Item("a", 2))
    assert lanes.take() is None
    lanes.clear()
    lanes.open("a")
    assert lanes.take() is None
    lanes.put(Item("a", 3))
    assert lanes.take() is not None


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["put", "take", "open", "drop"])), max_size=60))
def test_nothing_is_lost_doubled_or_taken_beside_another_of_its_lane(steps: list[tuple[str, str]]) -> None:
    lanes: Lanes[Item] = Lanes()
    waiting: dict[str, list[Item]] = {"a": [], "b": [], "c": []}
    closed: set[str] = set()
    for position, (lane, step) in enumerate(steps):
        if step == "put":
            item = Item(lane, position)
            waiting[lane].append(item)
            lanes.put(item)
        elif step == "open":
            closed.discard(lane)
            lanes.open(lane)
        elif step == "drop" and waiting[lane]:
            lanes.remove(waiting[lane].pop())
        elif step == "take":
            taken = lanes.take()
            if taken is None:
                assert all(not items or name in closed for name, items in waiting.items())
            else:
                assert taken.lane not in closed
                assert taken is waiting[taken.lane].pop(0)
                closed.add(taken.lane)
