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

from mnemocore.client import (
    UNCHANGED,
    Media,
    MemoryFilter,
    MemoryInput,
    MemoryKind,
    MemoryState,
    NoveltyDecision,
    Origin,
    Provenance,
    RecallProfile,
    RetentionPolicy,
    SpaceLimits,
    SpacePolicy,
    convert,
    values,
)
from mnemocore.client.administration import policy_from_wire, policy_to_wire, space_from_wire, stats_from_wire
from mnemocore.client.working_memory import item_from_wire
from mnemocore.errors import InvalidFieldError
from mnemocore.memory.v1 import memory_service_pb2, resources_pb2, space_service_pb2, working_memory_service_pb2

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)

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
        convert.memory_input_to_wire(MemoryInput(content="x", metadata=metadata), NOW)


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
        ({"ttl": 60}, r"^ttl: 60 is not a timedelta$"),
        ({"ttl": timedelta.max}, r"^ttl: .* is too long"),
        ({"ttl": timedelta(1), "expires_at": NOW}, r"^ttl: cannot be given together with expires_at$"),
        ({"valid_from": datetime(2026, 1, 1)}, r"^valid_from: .* has no time zone$"),  # noqa: DTZ001
        ({"media": "picture.png"}, r"^media: 'picture.png' cannot be sent"),
        ({"media_type": "image/png"}, r"^media_type: 'image/png' is given without media$"),
        ({"on_duplicate": "merge"}, r"^on_duplicate: 'merge' is not allowed; allowed are keep, reinforce, reject$"),
        ({"novelty_gate": "maybe"}, r"^novelty_gate: 'maybe' is not allowed; allowed are off, on$"),
        ({"provenance": "a book"}, r"^provenance: 'a book' is not a Provenance$"),
        ({"provenance": Provenance("rumour")}, r"^provenance\.origin: 'rumour' is not allowed"),
        ({"provenance": Provenance(sources="one")}, r"^provenance\.sources: 'one' is one text"),
        ({"occurred_at": "2026-01-01"}, r"^occurred_at: '2026-01-01' is not a datetime$"),
        ({"occurred_at": datetime(2026, 1, 1)}, r"^occurred_at: 2026-01-01T00:00:00 has no time zone$"),  # noqa: DTZ001
    ],
)
def test_a_field_that_cannot_be_sent_is_named(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidFieldError, match=message):
        convert.memory_input_to_wire(MemoryInput(**{"content": "x", **fields}), NOW)


@given(
    st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30)),  # noqa: DTZ001 - strategies take naive bounds
    st.integers(-14, 14),
)
def test_times_keep_the_moment(naive: datetime, hours: int) -> None:
    moment = naive.replace(tzinfo=timezone(timedelta(hours=hours)))
    message = convert.memory_input_to_wire(MemoryInput(content="x", occurred_at=moment), NOW)
    back = convert.time_from_wire(message, "occurred_at")
    assert back == moment
    assert back is not None
    assert back.tzinfo is UTC


def test_every_number_on_the_wire_has_a_member_and_back() -> None:
    for cls, wire in convert.WIRE_ENUMS.items():
        for number in wire.values():
            member = convert.enum_from_wire(cls, number)
            assert (member == "unknown") == (number == 0 or wire.Name(number).endswith("_UNKNOWN"))
            if number:
                assert convert.enum_to_wire(cls, member, "field") == number
        said = {name.endswith("_UNKNOWN") for name, number in wire.items() if number}
        assert len(cls) == len(wire.values()) - (True in said)
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
    message = convert.memory_input_to_wire(MemoryInput(content="x"), NOW)
    set_fields = {field.name for field, _ in message.ListFields()}
    assert set_fields == {"content", "kind"}
    zero = convert.memory_input_to_wire(MemoryInput(content="x", ordinal=0, importance=0.0, confidence=0.0), NOW)
    assert zero.HasField("ordinal")
    assert zero.HasField("importance")
    assert zero.HasField("confidence")


def test_everything_that_is_said_of_a_memory_goes_and_comes_back() -> None:
    item = MemoryInput(
        content="x",
        kind=MemoryKind.FACT,
        metadata={"k": 1},
        tags=("a", "b"),
        actor="Noor",
        session="s1",
        ordinal=3,
        occurred_at=NOW,
        importance=0.25,
        confidence=0.75,
        id="0198c5f0-7d2e-7b3c-9a41-5f0e6d2c1b7a",
        valid_from=NOW - timedelta(1),
        valid_to=NOW + timedelta(1),
        expires_at=NOW + timedelta(2),
        provenance=Provenance(Origin.TOOL, ("https://example.org",), "planner"),
        protected=True,
        on_duplicate=values.OnDuplicate.REINFORCE,
        novelty_gate=values.NoveltyGate.ON,
    )
    assert convert.memory_input_from_wire(convert.memory_input_to_wire(item, NOW)) == item


def test_a_time_to_live_becomes_a_time() -> None:
    message = convert.memory_input_to_wire(MemoryInput("x", ttl=timedelta(hours=2)), NOW)
    assert convert.time_from_wire(message, "expires_at") == NOW + timedelta(hours=2)


def test_media_of_a_new_memory() -> None:
    given = convert.memory_input_to_wire(MemoryInput("x", media=b"abc", media_type="text/plain"), NOW).media
    assert (given.WhichOneof("source"), given.data, given.mime_type) == ("data", b"abc", "text/plain")
    uploaded = Media("m", "a", "image/png", 3, "00")
    named = convert.memory_input_to_wire(MemoryInput("x", media=uploaded), NOW).media
    assert (named.WhichOneof("source"), named.upload, named.mime_type) == ("upload", "spaces/a/media/m", "")
    assert "abc" not in repr(MemoryInput("x", media=b"abc"))


def test_an_update_names_what_it_changes() -> None:
    fields = {"content": UNCHANGED, "tags": None, "metadata": {"k": 1}, "ttl": timedelta(1), "importance": None}
    message, mask = convert.update_to_wire(fields, NOW)
    assert sorted(mask.paths) == ["expires_at", "importance", "metadata", "tags"]
    assert {field.name for field, _ in message.ListFields()} == {"expires_at", "metadata"}
    assert convert.time_from_wire(message, "expires_at") == NOW + timedelta(1)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"content": UNCHANGED}, r"^update_mask: names no field"),
        ({"ttl": timedelta(1), "expires_at": None}, r"^ttl: cannot be given together with expires_at$"),
        ({"kind": "rumour"}, r"^kind: 'rumour' is not allowed"),
    ],
)
def test_an_update_that_cannot_be_sent(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidFieldError, match=message):
        convert.update_to_wire(fields, NOW)


def test_a_memory_with_everything() -> None:
    message = resources_pb2.Memory(
        name="spaces/a/memories/b",
        media=resources_pb2.Media(name="spaces/a/media/m", mime_type="image/png", size_bytes=3, sha256="00"),
        provenance=resources_pb2.Provenance(origin=resources_pb2.ORIGIN_USER, sources=["x"], agent="y"),
        supersedes="spaces/a/memories/c",
        protected=True,
        strength=0.5,
        access_count=4,
        reliability=0.75,
        tier=resources_pb2.TIER_COLD,
        modality=resources_pb2.MODALITY_IMAGE,
    )
    message.last_accessed_at.FromDatetime(NOW)
    memory = convert.memory_from_wire(message)
    assert memory.media == Media("m", "a", "image/png", 3, "00")
    assert memory.provenance == Provenance(Origin.USER, ("x",), "y")
    assert (memory.supersedes, memory.superseded_by) == ("c", "")
    assert (memory.protected, memory.strength, memory.access_count, memory.reliability) == (True, 0.5, 4, 0.75)
    assert (memory.tier, memory.modality, memory.last_accessed_at) == ("cold", "image", NOW)


def test_what_became_of_a_memory() -> None:
    message = memory_service_pb2.CreateMemoryResponse(memory=resources_pb2.Memory(name="spaces/a/memories/b"))
    assert convert.remembered_from_wire(message).novelty is None
    message.novelty = resources_pb2.NOVELTY_DECISION_UNKNOWN
    assert convert.remembered_from_wire(message).novelty is NoveltyDecision.UNKNOWN
    message.novelty = resources_pb2.NOVELTY_DECISION_REDUNDANT
    message.duplicate = True
    found = convert.remembered_from_wire(message)
    assert (found.duplicate, found.novelty) == (True, NoveltyDecision.REDUNDANT)


def test_a_policy_goes_and_comes_back() -> None:
    policy = SpacePolicy(
        values.SpaceAccess.OWNER,
        values.NoveltyGate.ON,
        RetentionPolicy(erase_expired_after=timedelta(days=7)),
        SpaceLimits(max_memories=10, max_content_bytes=1000),
    )
    assert policy_from_wire(policy_to_wire(policy)) == policy
    assert policy_from_wire(resources_pb2.SpacePolicy()) == SpacePolicy()
    with pytest.raises(InvalidFieldError, match=r"^erase_expired_after: 7 is not a timedelta$"):
        policy_to_wire(SpacePolicy(retention=RetentionPolicy(7)))  # type: ignore[arg-type]
    with pytest.raises(InvalidFieldError, match=r"^access: 'anybody' is not allowed"):
        policy_to_wire(SpacePolicy(access="anybody"))


def test_a_space_and_its_counts() -> None:
    space = space_from_wire(
        resources_pb2.Space(name="spaces/a", encrypted=True, etag="e", role=resources_pb2.GRANT_ROLE_OWNER, owner="o")
    )
    assert (space.id, space.encrypted, space.etag, space.role, space.owner) == ("a", True, "e", "owner", "o")
    message = space_service_pb2.SpaceStats(
        kinds=[space_service_pb2.KindCount(kind=resources_pb2.MEMORY_KIND_FACT, memories=2)],
        states=[space_service_pb2.StateCount(state=resources_pb2.MEMORY_STATE_EXPIRED, memories=1)],
        tiers=[space_service_pb2.TierCount(tier=resources_pb2.TIER_HOT, memories=2)],
        content_bytes=9,
    )
    message.growth.add(memories=2, content_bytes=9).day.FromDatetime(NOW.replace(hour=0))
    stats = stats_from_wire(message)
    assert (stats.kinds, stats.states, stats.tiers) == ({"fact": 2}, {"expired": 1}, {"hot": 2})
    assert stats.growth == (values.DayCount(NOW.date(), 2, 9),)


def test_an_item_of_working_memory() -> None:
    message = working_memory_service_pb2.WorkingItem(
        id="w", agent="planner", memory=resources_pb2.MemoryInput(content="x", tags=["t"]), access_count=2
    )
    item = item_from_wire(message)
    assert (item.id, item.agent, item.session, item.memory.content, item.memory.tags) == (
        "w",
        "planner",
        "",
        "x",
        ("t",),
    )
    assert (item.access_count, item.expire_time, item.protected) == (2, None, False)


def test_a_filter() -> None:
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    message = convert.filter_to_wire(
        MemoryFilter(kinds=["fact", MemoryKind.SUMMARY], actors=["A"], occurred_from=moment, metadata={"k": 1})
    )
    assert list(message.kinds) == [resources_pb2.MEMORY_KIND_FACT, resources_pb2.MEMORY_KIND_SUMMARY]
    assert list(message.actors) == ["A"]
    assert message.occurred_from.ToDatetime(tzinfo=UTC) == moment
    assert not message.HasField("occurred_to")
    assert not message.HasField("min_importance")
    more = convert.filter_to_wire(
        MemoryFilter(valid_at=moment, created_from=moment, created_to=moment, min_importance=0.0, modalities=["image"])
    )
    assert {field.name for field, _ in more.ListFields()} == {
        "valid_at",
        "created_from",
        "created_to",
        "min_importance",
        "modalities",
    }
    with pytest.raises(InvalidFieldError, match=r"^filter\.kinds: 'fact' is one text"):
        convert.filter_to_wire(MemoryFilter(kinds="fact"))
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
