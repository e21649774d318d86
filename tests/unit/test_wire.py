"""Structs and timestamps: what goes onto the wire comes back."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from mnemocore.wire import dict_to_struct, struct_to_dict, to_datetime, to_timestamp

TEXT = st.text(alphabet=st.characters(exclude_categories=["Cs"]))
NUMBERS = st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)
CONTENTS = st.dictionaries(TEXT, VALUES, max_size=5)
ZONES = st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
FIRST, LAST = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)


@given(CONTENTS)
def test_a_dict_comes_back_from_the_wire(content: dict[str, Any]) -> None:
    sent = dict_to_struct(content).SerializeToString()
    received = struct_to_dict(Struct.FromString(sent))
    assert received == content
    assert types_of(received) == types_of(content)


def types_of(value: Any) -> Any:
    """The shape of a value: booleans apart from numbers, which JSON does not divide into int and float."""
    if isinstance(value, dict):
        return {key: types_of(item) for key, item in value.items()}
    if isinstance(value, list):
        return [types_of(item) for item in value]
    return "number" if isinstance(value, (int, float)) and not isinstance(value, bool) else type(value)


@pytest.mark.parametrize(
    ("sent", "received"),
    [
        (1, 1),
        (1.0, 1),
        (1.5, 1.5),
        (2**53, 2**53),
        (-(2**53), -(2**53)),
        (1e300, 1e300),
        (True, True),
        ((1, 2), [1, 2]),
    ],
)
def test_whole_numbers_come_back_as_int(sent: Any, received: Any) -> None:
    found = struct_to_dict(dict_to_struct({"k": sent}))["k"]
    assert found == received
    assert type(found) is type(received)


def test_empty_values_are_kept() -> None:
    content: dict[str, Any] = {"": "", "none": None, "list": [], "dict": {}, "inside": [[], {}, None, {"x": {}}]}
    assert struct_to_dict(Struct.FromString(dict_to_struct(content).SerializeToString())) == content
    assert struct_to_dict(dict_to_struct({})) == {}


@pytest.mark.parametrize("value", [object(), {1, 2}, b"bytes", datetime(2026, 1, 1, tzinfo=UTC), [object()]])
def test_what_json_does_not_know_is_refused(value: object) -> None:
    with pytest.raises(TypeError, match="allowed are JSON values"):
        dict_to_struct({"k": value})


def test_a_key_is_a_string() -> None:
    with pytest.raises(TypeError, match="key 7 is not a string"):
        dict_to_struct({"outer": {7: "x"}})


@given(st.datetimes(timezones=st.just(UTC)))
def test_a_moment_comes_back_from_the_wire(moment: datetime) -> None:
    received = Timestamp.FromString(to_timestamp(moment).SerializeToString())
    assert 0 <= received.nanos < 10**9
    assert to_datetime(received) == moment
    assert to_datetime(received).tzinfo is UTC


@given(st.datetimes(datetime(2, 1, 1), datetime(9998, 1, 1), timezones=ZONES))  # noqa: DTZ001
def test_a_moment_is_the_same_in_every_zone(moment: datetime) -> None:
    assert to_datetime(to_timestamp(moment)) == moment


@given(st.integers(-62135596800, 253402300799), st.integers(0, 10**9 - 1))
def test_a_timestamp_is_cut_to_microseconds(seconds: int, nanos: int) -> None:
    moment = to_datetime(Timestamp(seconds=seconds, nanos=nanos))
    assert to_timestamp(moment) == Timestamp(seconds=seconds, nanos=nanos // 1000 * 1000)


def test_the_first_and_the_last_moment() -> None:
    assert to_timestamp(FIRST) == Timestamp(seconds=-62135596800)
    assert to_timestamp(LAST) == Timestamp(seconds=253402300799, nanos=999_999_000)
    assert (to_datetime(to_timestamp(FIRST)), to_datetime(to_timestamp(LAST))) == (FIRST, LAST)


def test_a_moment_without_a_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="has no time zone"):
        to_timestamp(datetime(2026, 1, 1))  # noqa: DTZ001
