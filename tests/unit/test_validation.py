"""The field rules: every kind, and every violation at once."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest
from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp

from mnemocore.cognitive.v1 import cognition_service_pb2
from mnemocore.errors import InvalidFieldError
from mnemocore.events.v1 import event_service_pb2 as events
from mnemocore.events.v1 import resources_pb2 as event_resources
from mnemocore.gateway.v1 import gateway_service_pb2 as gateway
from mnemocore.index.v1 import index_service_pb2 as index
from mnemocore.memory.v1 import memory_service_pb2 as memory
from mnemocore.memory.v1 import resources_pb2 as resources
from mnemocore.memory.v1 import space_service_pb2 as spaces
from mnemocore.policy import all_methods
from mnemocore.server import Validator

if TYPE_CHECKING:
    from google.protobuf.message import Message

UNKNOWN_STATES: Any = [1, 7]
UUID = "018bcfe5-687b-7b68-8d0a-77dd0706dce2"


def found(message: Message) -> dict[str, str]:
    violations = Validator.for_message(message.DESCRIPTOR).violations(message)
    paths = [violation.field for violation in violations]
    assert len(paths) == len(set(paths)), violations
    return {violation.field: violation.description for violation in violations}


def item(**fields: object) -> resources.MemoryInput:
    return resources.MemoryInput(**{"content": "text", **fields})  # type: ignore[arg-type]


def struct(content: dict[str, Any]) -> Struct:
    made = Struct()
    made.update(content)
    return made


def test_every_request_of_every_method_compiles() -> None:
    for method in all_methods():
        assert Validator.for_message(method.request.DESCRIPTOR) is Validator.for_message(method.request.DESCRIPTOR)


@pytest.mark.parametrize(
    "message",
    [
        item(),
        item(id=UUID, kind=1, tags=["a", "b"], actor="ä" * 256, ordinal=0, importance=0, confidence=1),
        item(content="ü" * 51200),
        item(metadata=struct({"a": {"b": {"c": 1}}, "d": [1, {"e": None}]})),
        item(occurred_at=Timestamp(seconds=-62135596800)),
        spaces.CreateSpaceRequest(space_id="a" * 63),
        memory.BatchGetMemoriesRequest(parent="spaces/a", ids=[UUID]),
        index.SearchRequest(space_uid=UUID, query="q", limit=2000),
        memory.ListRevisionsRequest(parent="spaces/a"),
        memory.ListRevisionsRequest(parent=f"spaces/a/memories/{UUID}"),
        gateway.CreateApiKeyRequest(principal="alice", scopes=["memory:read"]),
        events.SubscribeEventsRequest(),
        events.SubscribeEventsRequest(credit=events.SubscribeEventsRequest.Credit(events=1)),
    ],
)
def test_good_messages_pass(message: Message) -> None:
    assert found(message) == {}


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (item(content=""), {"content": "is required"}),
        (item(content="x" * 103424), {"content": "is 103424 bytes long; at most 102400 bytes are allowed"}),
        (item(content="ü" * 51201), {"content": "is 102402 bytes long; at most 102400 bytes are allowed"}),
        (item(id="abc"), {"id": "'abc'; a lower-case UUID is required"}),
        (item(id=UUID.upper()), {"id": f"'{UUID.upper()}'; a lower-case UUID is required"}),
        (item(kind=99), {"kind": "99; a number of the enum MemoryKind is required"}),
        (item(actor="x" * 257), {"actor": "is 257 characters long; at most 256 characters are allowed"}),
        (item(ordinal=-1), {"ordinal": "-1; 0 to 9007199254740992 is allowed"}),
        (item(importance=1.5), {"importance": "1.5; 0 to 1 is allowed"}),
        (item(importance=math.nan), {"importance": "nan; 0 to 1 is allowed"}),
        (item(confidence=-math.inf), {"confidence": "-inf; 0 to 1 is allowed"}),
        (item(tags=["a", "b", "a"]), {"tags[2]": "'a' is there before; items must differ"}),
        (
            item(tags=["", "x" * 65]),
            {
                "tags[0]": "is empty; 1 to 64 characters are allowed",
                "tags[1]": "is 65 characters long; at most 64 are allowed",
            },
        ),
        (item(tags=[str(number) for number in range(33)]), {"tags": "has 33 items; at most 32 are allowed"}),
        (
            item(occurred_at=Timestamp(seconds=253402300800)),
            {"occurred_at": "253402300800 seconds and 0 nanoseconds; a time of the years 0001 to 9999 is required"},
        ),
        (
            item(occurred_at=Timestamp(nanos=-1)),
            {"occurred_at": "0 seconds and -1 nanoseconds; a time of the years 0001 to 9999 is required"},
        ),
        (
            item(metadata=struct({"a": {"b": {"c": {"d": 1}}}})),
            {"metadata.a.b.c": "is nested too deeply; at most 3 levels are allowed"},
        ),
        (
            item(metadata=struct({str(number): number for number in range(65)})),
            {"metadata": "has 65 keys; at most 64 keys are allowed"},
        ),
        (item(metadata=struct({"a": [1, {"b": math.nan}]})), {"metadata.a[1].b": "nan; a finite number is required"}),
        (item(metadata=struct({"a": math.inf})), {"metadata.a": "inf; a finite number is required"}),
        (
            spaces.CreateSpaceRequest(space_id="Bad Id"),
            {"space_id": "'Bad Id'; text that matches [a-z0-9][a-z0-9_-]{0,62} is required"},
        ),
        (
            spaces.CreateSpaceRequest(space_id="good\n"),
            {"space_id": "'good\\n'; text that matches [a-z0-9][a-z0-9_-]{0,62} is required"},
        ),
        (spaces.ListSpacesRequest(page_size=-1), {"page_size": "-1; at least 0 is allowed"}),
        (memory.CreateMemoryRequest(parent="spaces/a"), {"memory": "is required"}),
        (memory.CreateMemoryRequest(), {"parent": "is required", "memory": "is required"}),
        (
            memory.CreateMemoryRequest(parent="spaces/a", memory=item(id="abc")),
            {"memory.id": "'abc'; a lower-case UUID is required"},
        ),
        (memory.BatchGetMemoriesRequest(parent="spaces/a"), {"ids": "has 0 items; at least 1 must be given"}),
        (
            memory.BatchGetMemoriesRequest(parent="spaces/a", ids=[UUID, ""]),
            {"ids[1]": "''; a lower-case UUID is required"},
        ),
        (
            memory.ListMemoriesRequest(parent="spaces/a", states=UNKNOWN_STATES),
            {"states[1]": "7; a number of the enum MemoryState is required"},
        ),
        (
            memory.RecallMemoriesRequest(parent="spaces/a", query="q", filter=resources.MemoryFilter(tags=[""])),
            {"filter.tags[0]": "is empty; 1 to 64 characters are allowed"},
        ),
        (index.SearchRequest(space_uid=UUID, query="q"), {"limit": "0; 1 to 2000 is allowed"}),
        (cognition_service_pb2.GetJobRequest(), {"name": "is required"}),
        (
            events.SubscribeEventsRequest(start=events.SubscribeEventsRequest.Start(credit=-5)),
            {"start.credit": "-5; 0 to 100000 is allowed"},
        ),
        (
            events.PublishEventsRequest(events=[event_resources.Event()]),
            {
                "events[0].id": "is required",
                "events[0].type": "is required",
                "events[0].time": "is required",
            },
        ),
    ],
)
def test_bad_messages_are_told_where_and_why(message: Message, expected: dict[str, str]) -> None:
    assert found(message) == expected


def test_a_value_is_shortened() -> None:
    description = found(memory.GetMemoryRequest(name="x" * 500))["name"]
    assert description.startswith("'xxxx")
    assert len(description.partition(";")[0]) == 60


def test_all_violations_are_reported_at_once() -> None:
    request = memory.BatchCreateMemoriesRequest(
        parent="nowhere", memories=[item(), item(content="", id="x"), item(tags=["", "a"])], request_id="y"
    )
    assert set(found(request)) == {
        "parent",
        "memories[1].content",
        "memories[1].id",
        "memories[2].tags[0]",
        "request_id",
    }
    with pytest.raises(InvalidFieldError) as caught:
        Validator.for_message(request.DESCRIPTOR).validate(request)
    assert len(caught.value.violations) == 5
    assert caught.value.metadata == {"field": "parent"}


def test_items_that_are_reported_one_by_one_are_left_to_the_handler() -> None:
    request = memory.IngestMemoriesRequest(parent="spaces/a", memories=[item(content="")])
    assert found(request) == {}
    assert set(found(memory.IngestMemoriesRequest(parent="spaces/a"))) == {"memories"}
    assert set(found(request.memories[0])) == {"content"}


def test_a_struct_value_without_a_kind_is_refused() -> None:
    made = Struct()
    made.fields["a"].SetInParent()
    assert found(item(metadata=made)) == {"metadata.a": "has no value; null is one"}


def test_messages_without_rules_cost_nothing() -> None:
    assert Validator.for_message(gateway.GetCapabilitiesRequest.DESCRIPTOR).empty
