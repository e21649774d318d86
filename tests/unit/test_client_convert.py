"""Values and messages, there and back."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from google.protobuf.struct_pb2 import Struct
from hypothesis import given
from hypothesis import strategies as st

from mnemocore.client import MemoryFilter, MemoryInput, MemoryKind, MemoryState, RecallProfile, convert, values
from mnemocore.errors import InvalidFieldError
from mnemocore.memory.v1 import resources_pb2

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**53), 2**53),
    st.floats(allow_nan=False, allow_infinity=False),
    texts,
)
json_values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4), max_leaves=12
)


@given(st.dictionaries(texts, json_values, max_size=5))
def test_metadata_comes_back_as_it_went(metadata: dict[str, Any]) -> None:
    struct = Struct()
    convert.struct_to_wire(metadata, struct, "metadata")
    back = convert.struct_from_wire(Struct.FromString(struct.SerializeToString()))
    assert back == metadata


def test_integers_stay_integers() -> None:
    struct = Struct()
    convert.struct_to_wire({"a": 3, "b": 3.0, "c": 0.5, "d": True, "e": (1, 2)}, struct, "metadata")
    back = convert.struct_from_wire(struct)
    assert back == {"a": 3, "b": 3, "c": 0.5, "d": True, "e": [1, 2]}
    assert isinstance(back["a"], int)
    assert back["d"] is True


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"a": {"b": [1, object()]}}, r"^metadata\.a\.b\[1\]: object is not JSON$"),
        ({"a": b"bytes"}, r"^metadata\.a: bytes is not JSON$"),
        ({"a": float("nan")}, r"^metadata\.a: nan is not a finite number$"),
        ({"a": 2**53 + 1}, r"^metadata\.a: 9007199254740993 is beyond 2\*\*53"),
        ({1: "a"}, r"^metadata: the key 1 is not a text$"),
        ({"a": "\ud800"}, r"^metadata\.a: is not valid Unicode"),
        ({"a": {1, 2}}, r"^metadata\.a: set is not JSON$"),
        (["a"], r"^metadata: list is not a mapping$"),
    ],
)
def test_metadata_that_cannot_be_sent_is_named(metadata: Any, message: str) -> None:
    with pytest.raises(InvalidFieldError, match=message):
        convert.memory_input_to_wire(MemoryInput(content="x", metadata=metadata))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"content": 5}, r"^content: 5 cannot be sent"),
        ({"content": "\ud800"}, r"^content: is not valid Unicode"),
        ({"tags": "one"}, r"^tags: 'one' is one text; give a list of texts$"),
        ({"tags": [1]}, r"^tags: \[1\] cannot be sent"),
        ({"importance": "high"}, r"^importance: 'high' cannot be sent"),
        ({"ordinal": 2**70}, r"^ordinal: "),
        ({"kind": "rumour"}, r"^kind: 'rumour' is not allowed; allowed are observation, fact, "),
        ({"occurred_at": "2026-01-01"}, r"^occurred_at: '2026-01-01' is not a datetime$"),
        ({"occurred_at": datetime(2026, 1, 1)}, r"^occurred_at: 2026-01-01T00:00:00 has no time zone$"),  # noqa: DTZ001
    ],
)
def test_a_field_that_cannot_be_sent_is_named(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidFieldError, match=message):
        convert.memory_input_to_wire(MemoryInput(**{"content": "x", **fields}))


@given(
    st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30)),  # noqa: DTZ001 - strategies take naive bounds
    st.integers(-14, 14),
)
def test_times_keep_the_moment(naive: datetime, hours: int) -> None:
    moment = naive.replace(tzinfo=timezone(timedelta(hours=hours)))
    message = convert.memory_input_to_wire(MemoryInput(content="x", occurred_at=moment))
    back = convert.time_from_wire(message, "occurred_at")
    assert back == moment
    assert back is not None
    assert back.tzinfo is UTC


def test_every_number_on_the_wire_has_a_member_and_back() -> None:
    for cls, wire in convert.WIRE_ENUMS.items():
        for number in wire.values():
            member = convert.enum_from_wire(cls, number)
            assert (member == "unknown") == (number == 0)
            if number:
                assert convert.enum_to_wire(cls, member, "field") == number
        assert len(cls) == len(wire.values())
        assert convert.enum_from_wire(cls, 9999) == "unknown"


def test_unknown_cannot_be_asked_for() -> None:
    with pytest.raises(InvalidFieldError, match=r"^profile: "):
        convert.enum_to_wire(RecallProfile, RecallProfile.UNKNOWN, "profile")


def test_a_memory_of_a_newer_server() -> None:
    message = resources_pb2.Memory(name="spaces/a/memories/b", content="x")
    message.kind = 99  # type: ignore[assignment]
    memory = convert.memory_from_wire(message)
    assert (memory.id, memory.space, memory.name) == ("b", "a", "spaces/a/memories/b")
    assert memory.kind is MemoryKind.UNKNOWN
    assert memory.state is MemoryState.UNKNOWN
    assert memory.ordinal is None
    assert memory.occurred_at is None
    assert hash(memory) == hash(convert.memory_from_wire(message))


def test_what_is_not_said_is_left_to_the_server() -> None:
    message = convert.memory_input_to_wire(MemoryInput(content="x"))
    set_fields = {field.name for field, _ in message.ListFields()}
    assert set_fields == {"content", "kind"}
    zero = convert.memory_input_to_wire(MemoryInput(content="x", ordinal=0, importance=0.0, confidence=0.0))
    assert zero.HasField("ordinal")
    assert zero.HasField("importance")
    assert zero.HasField("confidence")


def test_a_filter() -> None:
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    message = convert.filter_to_wire(
        MemoryFilter(kinds=["fact", MemoryKind.SUMMARY], actors=["A"], occurred_from=moment, metadata={"k": 1})
    )
    assert list(message.kinds) == [resources_pb2.MEMORY_KIND_FACT, resources_pb2.MEMORY_KIND_SUMMARY]
    assert list(message.actors) == ["A"]
    assert message.occurred_from.ToDatetime(tzinfo=UTC) == moment
    assert not message.HasField("occurred_to")
    with pytest.raises(InvalidFieldError, match=r"^filter\.actors: 'Alice' is one text"):
        convert.filter_to_wire(MemoryFilter(actors="Alice"))


def test_secrets_are_not_printed() -> None:
    key = values.ApiKey("i", "t", "p", (), None, None)
    assert "hush" not in repr(values.NewApiKey(key, "hush"))


def test_importing_the_package_loads_no_grpc() -> None:
    code = (
        "import sys, mnemocore, mnemocore.errors, mnemocore.calls\n"
        "heavy = {'grpc', 'numpy', 'google.protobuf'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "assert mnemocore.connect is not None\n"
        "assert 'grpc' in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, env={"PYTHONPATH": ":".join(sys.path)})
