"""Schemas of event-bus: registering versions, and what they make of events."""

from __future__ import annotations

import json
import tracemalloc
from itertools import count
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.protobuf import descriptor_pb2, struct_pb2, timestamp_pb2
from tests.event_callers import SECONDS, Caller, event, event_callers, refused

from mnemo_events.domain.agent import Agent, Description
from mnemo_events.domain.effort import Effort
from mnemo_events.domain.json_schemas import JsonSchemas
from mnemo_events.domain.platform_types import PLATFORM_TYPES
from mnemo_events.domain.schemas import Definition, Format
from mnemo_events.wire.protobuf_schemas import ProtobufSchemas
from mnemocore.clock import SystemClock
from mnemocore.errors import (
    InvalidFieldError,
    PageTokenMismatchError,
    PermissionDeniedError,
    SchemaIncompatibleError,
    SchemaNotFoundError,
)
from mnemocore.events.v1 import event_service_pb2, resources_pb2
from mnemocore.events.v1 import schema_service_pb2 as pb
from mnemocore.ids import Tenant
from mnemocore.memory.v1 import resources_pb2 as memory_pb2
from mnemocore.testing.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.event_callers import EventCallers

    from mnemocore.postgres import Database

JSON, PROTOBUF = resources_pb2.SCHEMA_FORMAT_JSON, resources_pb2.SCHEMA_FORMAT_PROTOBUF
NONE, BACKWARD, FORWARD, FULL = 1, 2, 3, 4
ORDER: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "properties": {
        "id": {"type": "string", "pattern": "^[a-z]+(-[a-z]+)*$"},
        "amount": {"type": "number", "minimum": 0},
        "lines": {"type": "array", "items": {"$ref": "#/$defs/line"}},
    },
    "required": ["id", "amount"],
    "$defs": {"line": {"type": "object", "properties": {"sku": {"type": "string"}}, "required": ["sku"]}},
}
GOOD = {"id": "a-b", "amount": 1.5, "lines": [{"sku": "x"}]}
Field = descriptor_pb2.FieldDescriptorProto


@pytest.fixture
async def bus(database: Database) -> AsyncIterator[EventCallers]:
    async with event_callers(database) as running:
        yield running


def changed(schema: dict[str, Any], **properties: Any) -> dict[str, Any]:
    """A schema with other properties; None takes one away."""
    found: dict[str, Any] = json.loads(json.dumps(schema))
    found["properties"] |= properties
    found["properties"] = {name: value for name, value in found["properties"].items() if value is not None}
    return found


async def register(
    caller: Caller, content: dict[str, Any] | bytes, type: str = "orders.created", **more: Any
) -> resources_pb2.EventSchema:
    text = content if isinstance(content, bytes) else json.dumps(content).encode()
    fields: dict[str, Any] = {"type": type, "format": JSON, "definition": text}
    request = pb.RegisterSchemaRequest(**(fields | more))
    return (await caller.schemas.RegisterSchema(request, timeout=SECONDS)).schema  # type: ignore[no-any-return]


async def get(caller: Caller, name: str) -> resources_pb2.EventSchema:
    return (await caller.schemas.GetSchema(pb.GetSchemaRequest(name=name), timeout=SECONDS)).schema  # type: ignore[no-any-return]


async def listed(caller: Caller, **query: Any) -> tuple[list[str], str]:
    response = await caller.schemas.ListSchemas(pb.ListSchemasRequest(**query), timeout=SECONDS)
    assert not any(schema.definition for schema in response.schemas)
    return [schema.name for schema in response.schemas], response.next_page_token


async def publish(caller: Caller, *events: resources_pb2.Event) -> list[int]:
    request = event_service_pb2.PublishEventsRequest(events=events)
    return list((await caller.events.PublishEvents(request, timeout=SECONDS)).positions)


async def violations(caller: Caller, *events: resources_pb2.Event) -> dict[str, str]:
    response = await caller.schemas.ValidateEvents(pb.ValidateEventsRequest(events=events), timeout=SECONDS)
    return {each.field: each.description for each in response.violations}


def order(id: str, content: Any = GOOD, **attributes: Any) -> resources_pb2.Event:
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    return event(id, data=data, **attributes)


async def test_versions_are_counted_and_the_same_again_changes_nothing(bus: EventCallers) -> None:
    first = await register(bus.admin, ORDER, description="An order was made.")
    assert (first.name, first.version, first.platform) == ("schemas/orders.created/versions/1", 1, False)
    assert first.compatibility == BACKWARD
    spelled = json.dumps(ORDER, indent=2, sort_keys=True).encode()
    assert await register(bus.admin, spelled) == first
    second = await register(bus.admin, changed(ORDER, note={"type": "string"}), compatibility=FULL)
    assert (second.version, second.compatibility) == (2, FULL)
    third = await register(bus.admin, changed(ORDER, note={"type": "string"}), closed=True)
    assert (third.version, third.compatibility, third.closed) == (3, FULL, True)
    assert await get(bus.admin, "schemas/orders.created") == third
    assert await get(bus.admin, "schemas/orders.created/versions/1") == first
    assert json.loads(first.definition) == ORDER
    with refused(SchemaNotFoundError, "orders.created/versions/4"):
        await get(bus.admin, "schemas/orders.created/versions/4")
    with refused(SchemaNotFoundError, "orders.created"):
        await get(bus.caller(tenant="other"), "schemas/orders.created")
    for name in ("schemas/orders", "schemas/orders.created/versions/0", "orders.created"):
        with refused(InvalidFieldError, "name"):
            await get(bus.admin, name)


async def test_schemas_are_listed_with_those_of_the_platform(bus: EventCallers) -> None:
    for type in ("orders.created", "zoo.opened", "a.b"):
        await register(bus.admin, ORDER, type)
    await register(bus.admin, changed(ORDER, note={"type": "string"}))
    names, token = await listed(bus.admin)
    assert token == ""
    assert names == sorted(
        [f"schemas/{each.type}/versions/1" for each in PLATFORM_TYPES]
        + ["schemas/orders.created/versions/2", "schemas/zoo.opened/versions/1", "schemas/a.b/versions/1"]
    )
    found: list[str] = []
    query: dict[str, Any] = {"page_size": 4}
    while not found or query["page_token"]:
        page, query["page_token"] = await listed(bus.admin, **query)
        found += page
    assert found == names
    versions = [f"schemas/orders.created/versions/{version}" for version in (2, 1)]
    assert (await listed(bus.admin, type="orders.created"))[0] == versions
    page, token = await listed(bus.admin, type="orders.created", page_size=1)
    assert page + (await listed(bus.admin, type="orders.created", page_size=1, page_token=token))[0] == versions
    with refused(PageTokenMismatchError):
        await listed(bus.admin, type="a.b", page_token=token)
    assert (await listed(bus.admin, type="memory.created"))[0] == ["schemas/memory.created/versions/1"]
    assert len((await listed(bus.caller(tenant="other")))[0]) == len(PLATFORM_TYPES)


async def test_types_of_the_platform_are_described_and_nobody_changes_them(bus: EventCallers) -> None:
    for each in PLATFORM_TYPES:
        found = await get(bus.caller("alice"), f"schemas/{each.type}")
        assert found.platform
        assert found.description == each.description
        assert found.message_name == each.message
    for call in (
        register(bus.admin, ORDER, "memory.created"),
        register(bus.admin, ORDER, "cognitive.own"),
        bus.admin.schemas.DeleteSchema(pb.DeleteSchemaRequest(name="schemas/space.erased"), timeout=SECONDS),
    ):
        with refused(PermissionDeniedError, "platform"):
            await call
    revision = await get(bus.admin, "schemas/memory.created/versions/1")
    shape = ProtobufSchemas().understand(
        Definition(Format.PROTOBUF, revision.definition, revision.message_name, closed=True)
    )
    data = memory_pb2.Revision(revision=1).SerializeToString()
    assert list(shape.problems(data, Effort(1000))) == []


def test_what_the_platform_tells_of_agents_is_what_the_table_says() -> None:
    now = SystemClock().now()
    said = Description(("search",), "", {})
    agent = Agent(Tenant("acme"), "a", "uid", said, "alice", 0.5, now, True, 1, 1, now)
    schemas = {each.type: each.json_schema for each in PLATFORM_TYPES if each.content}
    for notice in (agent.registered(), agent.came_online(), agent.went_offline(), agent.deregistered(now)):
        shape = JsonSchemas().understand(Definition(Format.JSON, schemas[notice.type], "", closed=True))
        assert list(shape.problems(notice.data, Effort(1000))) == []


async def test_a_type_without_a_schema_is_not_checked(bus: EventCallers) -> None:
    assert await publish(bus.admin, order("1", b"anything", dataschema="https://example.com/schema")) == [1]
    await register(bus.admin, ORDER)
    with refused(InvalidFieldError, "events[0].data"):
        await publish(bus.admin, order("2", b"anything"))
    assert await publish(bus.caller(tenant="other", scopes="*"), order("2", b"anything")) == [2]
    deleted = await bus.admin.schemas.DeleteSchema(
        pb.DeleteSchemaRequest(name="schemas/orders.created"), timeout=SECONDS
    )
    assert deleted.deleted == 1
    assert await publish(bus.admin, order("2", b"anything")) == [3]


async def test_all_that_is_wrong_with_a_batch_is_named(bus: EventCallers) -> None:
    await register(bus.admin, ORDER)
    bad = {"id": "A", "lines": [{"sku": "x"}, {"sku": 1}, {}]}
    batch = [order("1"), order("2", bad), order("3", b"{"), order("4", datacontenttype="text/plain")]
    expected = {
        "events[1].data.id": "'A' does not match '^[a-z]+(-[a-z]+)*$'",
        "events[1].data.amount": "is required",
        "events[1].data.lines[1].sku": "1 is not of type 'string'",
        "events[1].data.lines[2].sku": "is required",
        "events[2].data": "is not JSON",
        "events[3].datacontenttype": "'application/json'",
    }
    found = await violations(bus.admin, *batch)
    assert found.keys() == expected.keys()
    assert all(part in found[field] for field, part in expected.items())
    with refused(InvalidFieldError, *expected):
        await publish(bus.admin, *batch)
    response = await bus.admin.events.ReadEvents(event_service_pb2.ReadEventsRequest(), timeout=SECONDS)
    assert not response.events


async def test_dataschema_names_the_version(bus: EventCallers) -> None:
    await register(bus.admin, ORDER, compatibility=NONE)
    await register(bus.admin, {"type": "integer"})
    one, two = (f"schemas/orders.created/versions/{version}" for version in (1, 2))
    media = {"datacontenttype": "Application/JSON; charset=utf-8"}
    events = [order("1", 7), order("2", GOOD, dataschema=one), order("3", 7, dataschema=two, **media)]
    assert await publish(bus.admin, *events) == [1, 2, 3]
    response = await bus.admin.events.ReadEvents(event_service_pb2.ReadEventsRequest(), timeout=SECONDS)
    assert [each.event.dataschema for each in response.events] == [two, one, two]
    foreign = ["schemas/orders.created/versions/3", "schemas/orders.paid/versions/1", "https://x/y", "a.B"]
    found = await violations(bus.admin, *(order(name, 7, dataschema=name) for name in foreign))
    assert list(found) == [f"events[{place}].dataschema" for place in range(4)]
    assert "newest 2" in found["events[0].dataschema"]
    assert list(await violations(bus.admin, order("1", GOOD))) == ["events[0].data"]


async def test_publishing_does_not_ask_the_database_for_schemas_it_knows(bus: EventCallers, database: Database) -> None:
    await register(bus.admin, ORDER)
    kinds: tuple[dict[str, str], ...] = (
        {},
        {"dataschema": "schemas/orders.created/versions/1"},
        {"type": "without.one"},
    )
    numbers = count()

    def one_of_each() -> event_service_pb2.PublishEventsRequest:
        return event_service_pb2.PublishEventsRequest(events=[order(str(next(numbers)), **kind) for kind in kinds])

    async def does_not_ask() -> bool:
        """False if the news of the schema came in between: after that it has to ask once more."""
        await bus.admin.events.PublishEvents(one_of_each(), timeout=SECONDS)
        async with database.transaction() as connection:
            await connection.execute("LOCK TABLE events.schemas IN ACCESS EXCLUSIVE MODE")
            try:
                await bus.admin.events.PublishEvents(one_of_each(), timeout=2)
            except grpc.aio.AioRpcError as error:
                assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
                return False
        return True

    await until(does_not_ask)


async def test_what_another_replica_registers_and_deletes_counts_here(bus: EventCallers, database: Database) -> None:
    """Although which schemas there are is kept: of a type that has none, has one, has another, and has none again."""
    bad, named = (
        order("bad", {"amount": "x"}),
        order("named", {"amount": 1}, dataschema="schemas/orders.created/versions/1"),
    )
    assert await violations(bus.admin, bad, named) == {}
    async with event_callers(database) as other:
        await register(other.admin, {"type": "object", "properties": {"amount": {"type": "number"}}})
        await until(lambda: _finds(bus, bad, {"events[0].data.amount"}), SECONDS)
        assert await violations(bus.admin, named) == {}
        delete = pb.DeleteSchemaRequest(name="schemas/orders.created")
        await other.admin.schemas.DeleteSchema(delete, timeout=SECONDS)
        await register(other.admin, {"type": "object", "properties": {"amount": {"type": "string"}}})
        await until(lambda: _finds(bus, named, {"events[0].data.amount"}), SECONDS)
        await other.admin.schemas.DeleteSchema(delete, timeout=SECONDS)
        await until(lambda: _finds(bus, named, set()), SECONDS)


async def _finds(bus: EventCallers, event: resources_pb2.Event, fields: set[str]) -> bool:
    return set(await violations(bus.admin, event)) == fields


async def test_what_this_replica_registers_and_deletes_counts_at_once(bus: EventCallers) -> None:
    bad = order("bad", {"amount": "x"})
    for _ in range(3):
        assert await violations(bus.admin, bad) == {}
        await register(bus.admin, {"type": "object", "properties": {"amount": {"type": "number"}}})
        assert set(await violations(bus.admin, bad)) == {"events[0].data.amount"}
        await bus.admin.schemas.DeleteSchema(pb.DeleteSchemaRequest(name="schemas/orders.created"), timeout=SECONDS)


async def test_closed_schemas_refuse_what_they_do_not_know_on_every_level(bus: EventCallers) -> None:
    closed = ORDER | {"allOf": [{"properties": {"extra": {}, "inner": {"properties": {"a": {}}}}}]}
    closed = changed(closed, open={"type": "object", "additionalProperties": True}, any={})
    await register(bus.admin, closed, closed=True)
    good = GOOD | {"extra": 1, "open": {"x": 1}, "any": {"x": {"y": 1}}, "inner": {"a": {"b": 1}}}
    assert await violations(bus.admin, order("1", good)) == {}
    bad = good | {"lines": [{"sku": "x", "color": "red"}], "more": 1, "inner": {"b": 1}}
    found = await violations(bus.admin, order("1", bad))
    assert found.keys() == {"events[0].data.lines[0].color", "events[0].data.more", "events[0].data.inner.b"}


@pytest.mark.parametrize(
    ("definition", "part"),
    [
        (b"{", "is not JSON"),
        (b'{"a": NaN}', "NaN"),
        (b'{"type": "string", "type": "object"}', "twice"),
        (b"\xff", "UTF-8"),
        ([1], "no JSON object"),
        ({"type": "strin"}, "'strin' is not valid"),
        ({"properties": [1]}, "properties"),
        ({"properties": {"a": 1}}, "/properties/a"),
        ({"$schema": "http://json-schema.org/draft-07/schema#"}, "$schema"),
        ({"$ref": "https://example.com/schema"}, "leads out of the definition"),
        ({"$ref": "other.json#/a"}, "leads out of the definition"),
        ({"$ref": "#/$defs/missing"}, "leads to no schema"),
        ({"$ref": "#"}, "without end"),
        ({"$defs": {"a": {"anyOf": [{"$ref": "#/$defs/a"}]}}}, "without end"),
        ({"$dynamicRef": "#a"}, "$dynamicRef is not supported"),
        ({"properties": {"a": {"$id": "b"}}}, "$id"),
        ({"pattern": "(?=a)"}, "not supported"),
        ({"pattern": "(a"}, "without its ')'"),
        ({"pattern": r"(a)\1"}, "not supported"),
        ({"patternProperties": {"a{2000}{2000}": {}}}, "repeats a repetition"),
        ({"pattern": "((a{50}){50}){50}"}, "states"),
        ({"pattern": "a" * 1001}, "more than 1000 characters"),
        ({"allOf": [{}] * 2000}, "more than 2000 schemas"),
    ],
)
async def test_definitions_that_are_no_schemas_are_refused(bus: EventCallers, definition: Any, part: str) -> None:
    with refused(InvalidFieldError, "definition", part):
        await register(bus.admin, definition)


async def test_what_a_request_must_say(bus: EventCallers) -> None:
    wrong: tuple[tuple[str, dict[str, Any]], ...] = (
        ("type", {"type": "orders"}),
        ("format", {"format": 0}),
        ("message_name", {"message_name": "a.B"}),
        ("definition", {"definition": b""}),
        ("description", {"description": "a\x00"}),
    )
    for field, more in wrong:
        with refused(InvalidFieldError, field):
            await register(bus.admin, ORDER, **more)
    with refused(PermissionDeniedError, "events:admin"):
        await register(bus.caller("alice"), ORDER)


def understood(definition: Any, *, closed: bool = False) -> Any:
    return JsonSchemas().understand(Definition(Format.JSON, json.dumps(definition).encode(), "", closed))


def every_time(schema: dict[str, Any]) -> dict[str, Any]:
    """A schema that is looked at two thousand times in the same place."""
    return {"$defs": {"it": schema}, "allOf": [{"$ref": "#/$defs/it"}] * 1900}


NESTED: Any = {"v": 1}
for _ in range(60):
    NESTED = {"a": NESTED}
DOUBLING = {f"a{number}": {"allOf": [{"$ref": f"#/$defs/a{number + 1}"}] * 2} for number in range(30)} | {"a30": {}}


@pytest.mark.parametrize(
    ("definition", "data"),
    [
        ({"pattern": "^(a|a)*b$"}, json.dumps("a" * 200_000).encode()),
        ({"pattern": "a*a*a*a*b"}, json.dumps("a" * 200_000).encode()),
        ({"patternProperties": {"^(a+)+$": {}}, "unevaluatedProperties": False}, b'{"%s!": 1}' % (b"a" * 100_000)),
        ({"uniqueItems": True}, json.dumps([*range(20_000), "a", *map(str, range(20_000))]).encode()),
        ({"items": {"enum": list(range(2000, 12_000))}}, json.dumps(list(range(30_000))).encode()),
        ({"allOf": [{"properties": {"a": {"$ref": "#"}}}, {"properties": {"a": {"$ref": "#"}}}]}, NESTED),
        ({"$ref": "#/$defs/a0", "unevaluatedProperties": False, "$defs": DOUBLING}, b'{"a": 1}'),
        ({"items": {"$ref": "#"}}, b"[" * 900 + b"]" * 900),
        ({"items": {"$ref": "#"}}, b"[" * 100_000),
        (every_time({"uniqueItems": True}), json.dumps([[0] * 60_000, 1]).encode()),
        (every_time({"items": True}), json.dumps([0] * 80_000).encode()),
        (every_time({"not": {"contains": False}}), json.dumps([0] * 80_000).encode()),
        (every_time({"propertyNames": True}), json.dumps(dict.fromkeys(map(str, range(20_000)), 0)).encode()),
        (every_time({"enum": [[*[0] * 9000, 1], [0] * 9001]}), json.dumps([0] * 9001).encode()),
        (every_time({"const": [0] * 9001}), json.dumps([0] * 9001).encode()),
        (
            {"patternProperties": {f"^|{number}": True for number in range(1000)}},
            json.dumps(dict.fromkeys(map(str, range(20_000)), 0)).encode(),
        ),
        ({"multipleOf": 0.5}, b"1" + b"0" * 4000),
        ({"multipleOf": 1e-300}, b"1e999"),
        ({"type": "integer"}, b"1" * 100_000),
        ({}, b" " * 300_000),
    ],
)
def test_hostile_definitions_and_data_are_answered_in_bounded_work(definition: Any, data: Any) -> None:
    shape = understood(definition)
    text = data if isinstance(data, bytes) else json.dumps(data).encode()
    effort = Effort(300_000)
    try:
        problems = list(shape.problems(text, effort))
    except Exception as error:  # noqa: BLE001 - whatever it is, only the bound may be the reason
        assert type(error).__name__ == "EffortExhaustedError"
    else:
        assert len(problems) <= 20
        assert all(len(problem.description) <= 300 for problem in problems)


def test_regular_expressions_take_bounded_memory() -> None:
    def many(number: int) -> dict[str, Any]:
        return {"properties": {f"p{place}": {"pattern": f"{place}x{{1000}}"} for place in range(number)}}

    assert understood(many(10)).weight > 10 * 1000 * 100
    with pytest.raises(InvalidFieldError, match="more than 20000 states together"):
        understood(many(30))


@pytest.mark.parametrize("number", ["1e400", "-1e400", "[1e999]"])
def test_numbers_too_large_and_halves_of_pairs_are_no_json(number: str) -> None:
    for data in (number, '{"a": "\\ud800"}', '{"\\uDC00": 1}'):
        [problem] = understood({}).problems(data.encode(), Effort(1000))
        assert problem.description.startswith("is not JSON")
    assert list(understood({}).problems(b'"\\ud83d\\ude00"', Effort(1000))) == []
    for definition in (b'{"multipleOf": 1e400}', b'{"properties": {"\\ud800": {"pattern": "("}}}'):
        with pytest.raises(InvalidFieldError, match="is not JSON"):
            JsonSchemas().understand(Definition(Format.JSON, definition, "", closed=False))


async def test_what_is_checked_is_what_receivers_read(bus: EventCallers) -> None:
    await register(bus.admin, ORDER)
    for charset in ("utf-16", "utf-7", "utf-8x", '"utf-16"', "utf-8; charset=utf-7"):
        assert "datacontenttype" in str(
            await violations(bus.admin, order("1", datacontenttype=f"application/json; Charset={charset}"))
        )
    for media_type in ("application/json; charset=utf-8", 'application/json;charset="UTF-8"', ""):
        assert await violations(bus.admin, order("1", datacontenttype=media_type)) == {}


def test_large_schemas_are_compared_in_bounded_work() -> None:
    def places(last: int) -> dict[str, Any]:
        values = {"enum": [*range(9000), last]}
        return {"$defs": {"v": values}, "properties": {f"p{n}": {"$ref": "#/$defs/v"} for n in range(1900)}}

    problems = understood(places(-1), closed=True).refused_of(understood(places(-2), closed=True))
    assert len(problems) == 1


async def test_schemas_that_lead_on_too_far_are_not_compared(bus: EventCallers) -> None:
    def circle(length: int) -> dict[str, Any]:
        next_ = {f"d{n}": {"properties": {"n": {"$ref": f"#/$defs/d{(n + 1) % length}"}}} for n in range(length)}
        return {"$ref": "#/$defs/d0", "$defs": next_}

    await register(bus.admin, circle(401))
    with refused(SchemaIncompatibleError, "cannot be compared"):
        await register(bus.admin, circle(397))


def test_words_of_hostile_data_can_be_sent(bus: EventCallers) -> None:
    shape = understood({"type": "object", "properties": {}}, closed=True)
    for data in (b'{"\\ud800": 1}', b'{"\\u0000": "\\ud800"}', b'"\\ud800"'):
        for problem in shape.problems(data, Effort(1000)):
            pb.ValidateEventsResponse.Violation(field=problem.field, description=problem.description)


@pytest.mark.parametrize(
    ("after", "broken"),
    [
        (changed(ORDER, note={"type": "string"}), ""),
        (changed(ORDER, lines=None), ""),
        (changed(ORDER, amount={"type": ["number", "null"]}), "F"),
        (changed(ORDER, amount={"type": "integer", "minimum": 0}), "B"),
        (changed(ORDER, amount={"type": "number", "minimum": 1}), "B"),
        (changed(ORDER, amount={"type": "number", "minimum": -1}), "F"),
        (changed(ORDER, amount={"type": "number"}), "F"),
        (changed(ORDER, amount={"type": "number", "minimum": 0, "multipleOf": 1}), "B"),
        (changed(ORDER, amount={"type": "string"}), "BF"),
        (changed(ORDER, id={"type": "string"}), "F"),
        (changed(ORDER, id={"type": "string", "pattern": "^x$"}), "BF"),
        (ORDER | {"required": ["id"]}, "F"),
        (ORDER | {"required": ["id", "amount", "lines"]}, "B"),
        (ORDER | {"$defs": {"line": {"type": "object"}}}, "F"),
        (ORDER | {"title": "Order", "description": "as before"}, ""),
        (ORDER | {"not": {"required": ["lines"]}}, "BF"),
        (ORDER | {"properties": ORDER["properties"] | {"amount": {"const": 1}}}, "B"),
    ],
)
def test_what_json_schemas_may_change(after: dict[str, Any], broken: str) -> None:
    old, new = understood(ORDER), understood(after)
    assert bool(new.refused_of(old)) == ("B" in broken)
    assert bool(old.refused_of(new)) == ("F" in broken)


def test_a_closed_schema_may_neither_lose_a_property_nor_send_a_new_one_to_old_readers() -> None:
    old = understood(ORDER, closed=True)
    more = understood(changed(ORDER, note={"type": "string"}), closed=True)
    assert more.refused_of(old) == []
    assert old.refused_of(more) == [".note is not known, and no others are allowed"]
    line = understood(ORDER | {"$defs": {"line": {"required": ["sku"], "properties": {"sku": {}}}}}, closed=True)
    assert line.refused_of(old) == []


async def test_the_version_before_says_what_may_change(bus: EventCallers) -> None:
    narrow = changed(ORDER, amount={"type": "integer", "minimum": 0})
    await register(bus.admin, ORDER)
    with refused(SchemaIncompatibleError, "BACKWARD", ".amount may be number"):
        await register(bus.admin, narrow)
    with refused(SchemaIncompatibleError, "BACKWARD"):
        await register(bus.admin, narrow, compatibility=NONE)
    assert (await register(bus.admin, ORDER, compatibility=FORWARD)).version == 2
    assert (await register(bus.admin, narrow)).version == 3
    with refused(SchemaIncompatibleError, "FORWARD", "readers of version 3"):
        await register(bus.admin, ORDER)
    assert (await register(bus.admin, narrow, compatibility=FULL)).version == 4
    for other in (ORDER, narrow | {"required": ["id"]}):
        with refused(SchemaIncompatibleError, "FULL"):
            await register(bus.admin, other)
    with refused(SchemaIncompatibleError, "the format was JSON and is PROTOBUF"):
        await register(bus.admin, files(message()), format=PROTOBUF, message_name="shop.Order")
    await register(bus.admin, narrow, compatibility=NONE)
    assert (await register(bus.admin, files(message()), format=PROTOBUF, message_name="shop.Order")).version == 6


def field(name: str, number: int, type: int = Field.TYPE_STRING, **more: Any) -> descriptor_pb2.FieldDescriptorProto:
    return Field(
        **({"name": name, "number": number, "type": type, "label": Field.LABEL_OPTIONAL} | more)  # type: ignore[arg-type]
    )


def message(
    *fields: descriptor_pb2.FieldDescriptorProto, reserved: tuple[int, int] | None = None
) -> descriptor_pb2.DescriptorProto:
    """shop.Order with a line in it."""
    line = descriptor_pb2.DescriptorProto(name="Line", field=[field("sku", 1)])
    own = fields or (field("id", 1), field("amount", 2, Field.TYPE_INT32))
    lines = field("lines", 9, Field.TYPE_MESSAGE, type_name=".shop.Order.Line", label=Field.LABEL_REPEATED)
    found = descriptor_pb2.DescriptorProto(name="Order", field=[*own, lines], nested_type=[line])
    if reserved:
        found.reserved_range.add(start=reserved[0], end=reserved[1])
    return found


def files(order: descriptor_pb2.DescriptorProto, syntax: str = "proto3") -> bytes:
    file = descriptor_pb2.FileDescriptorProto(name="shop.proto", package="shop", syntax=syntax, message_type=[order])
    file.enum_type.add(name="Color").value.add(name="RED", number=0)
    return descriptor_pb2.FileDescriptorSet(file=[file]).SerializeToString()


def proto(order: descriptor_pb2.DescriptorProto, *, closed: bool = False, syntax: str = "proto3") -> Any:
    return ProtobufSchemas().understand(Definition(Format.PROTOBUF, files(order, syntax), "shop.Order", closed))


ID, AMOUNT = field("id", 1), field("amount", 2, Field.TYPE_INT32)


@pytest.mark.parametrize(
    ("after", "broken"),
    [
        (message(ID, AMOUNT, field("note", 3)), ""),
        (message(ID, field("total", 2, Field.TYPE_INT32)), ""),
        (message(ID, field("amount", 2, Field.TYPE_INT64)), "F"),
        (message(ID, field("amount", 2, Field.TYPE_STRING)), "BF"),
        (message(ID, field("amount", 2, Field.TYPE_INT32, label=Field.LABEL_REPEATED)), "BF"),
        (message(field("id", 1, Field.TYPE_BYTES), AMOUNT), "F"),
        (message(ID), "L"),
        (message(ID, reserved=(2, 3)), ""),
    ],
)
def test_what_protobuf_schemas_may_change(after: descriptor_pb2.DescriptorProto, broken: str) -> None:
    old, new = proto(message(ID, AMOUNT)), proto(after)
    assert bool(new.refused_of(old)) == ("B" in broken)
    assert bool(old.refused_of(new)) == ("F" in broken)
    assert bool(new.unsuited_after(old)) == ("L" in broken)


def test_reserved_numbers_stay_so_and_are_not_used_again() -> None:
    old = proto(message(ID, reserved=(2, 5)))
    assert proto(message(ID, reserved=(2, 9))).unsuited_after(old) == []
    assert "stay so" in proto(message(ID)).unsuited_after(old)[0]
    assert "must not be used again" in proto(message(ID, AMOUNT, reserved=(3, 5))).unsuited_after(old)[0]


def test_what_is_required_must_be_promised() -> None:
    required = field("amount", 2, Field.TYPE_INT32, label=Field.LABEL_REQUIRED)
    old, new = proto(message(ID, AMOUNT), syntax="proto2"), proto(message(ID, required), syntax="proto2")
    assert new.refused_of(old) == [".amount (2) is required, and may be missing"]
    assert old.refused_of(new) == []
    assert [problem.description for problem in new.problems(b"", Effort(10))] == ["is required"]


def test_a_closed_message_refuses_fields_it_does_not_know_on_every_level() -> None:
    known = message(ID, AMOUNT)
    known.nested_type.add(
        name="TagsEntry",
        options=descriptor_pb2.MessageOptions(map_entry=True),
        field=[field("key", 1), field("value", 2, Field.TYPE_MESSAGE, type_name=".shop.Order.Line")],
    )
    known.field.append(
        field("tags", 10, Field.TYPE_MESSAGE, type_name=".shop.Order.TagsEntry", label=Field.LABEL_REPEATED)
    )
    line = b"\x0a\x01x" + b"\x10\x05"
    entry = b"\x0a\x01k\x12" + bytes([len(line)]) + line
    data = b"\x0a\x01a" + b"\x4a" + bytes([len(line)]) + line + b"\x52" + bytes([len(entry)]) + entry + b"\x98\x06\x01"
    assert list(proto(known).problems(data, Effort(100))) == []
    found = {problem.field: problem.description for problem in proto(known, closed=True).problems(data, Effort(100))}
    assert {path: text.split(",")[0] for path, text in found.items()} == {
        "": "has the field 99",
        ".lines[0]": "has the field 2",
        ".tags['k']": "has the field 2",
    }
    assert old_readers_of(known) == [".note (3) is not known, and no others are allowed"]


def old_readers_of(known: descriptor_pb2.DescriptorProto) -> list[str]:
    more = descriptor_pb2.DescriptorProto()
    more.CopyFrom(known)
    more.field.append(field("note", 3))
    found: list[str] = proto(known, closed=True).refused_of(proto(more))
    return found


def protobuf(*found: descriptor_pb2.FileDescriptorProto, closed: bool = False) -> Any:
    content = descriptor_pb2.FileDescriptorSet(file=found).SerializeToString()
    return ProtobufSchemas().understand(Definition(Format.PROTOBUF, content, "M", closed))


def self_containing(name: str) -> descriptor_pb2.FileDescriptorProto:
    inside = field(name, 1, Field.TYPE_MESSAGE, type_name=".M", label=Field.LABEL_REPEATED)
    found = descriptor_pb2.FileDescriptorProto(name="m.proto", syntax="proto2")
    found.message_type.add(name="M", field=[inside])
    return found


def test_enums_are_compared_by_their_numbers() -> None:
    def colours(*numbers: int) -> Any:
        found = descriptor_pb2.FileDescriptorProto(name="m.proto", syntax="proto3")
        found.message_type.add(name="M", field=[field("colour", 1, Field.TYPE_ENUM, type_name=".Colour")])
        values = [descriptor_pb2.EnumValueDescriptorProto(name=f"C{number}", number=number) for number in numbers]
        found.enum_type.add(name="Colour", value=values)
        return protobuf(found)

    assert colours(0, 1).refused_of(colours(0, 1)) == []
    assert colours(0, 1, 2).refused_of(colours(0, 1)) == []
    assert colours(0, 1).refused_of(colours(0, 1, 2)) == [".colour (1) may be C2 (2), which is not known"]


def test_hostile_messages_are_answered_in_bounded_memory() -> None:
    nested = b"\x10\x01"
    for _ in range(90):
        length = len(nested)
        size = bytes([length]) if length < 128 else bytes([length % 128 + 128, length // 128])
        nested = b"\x0a" + size + nested
    tracemalloc.start()
    [problem] = protobuf(self_containing("k" * 200_000), closed=True).problems(nested, Effort(1000))
    assert len(problem.field) <= 200
    many = self_containing("k")
    demanded = [field(f"f{place}", place, Field.TYPE_INT32, label=Field.LABEL_REQUIRED) for place in range(2, 60)]
    many.message_type[0].field.extend(demanded)
    problems = list(protobuf(many).problems(b"\x0a\x00" * 20_000, Effort(100_000)))
    assert len(problems) == 20
    assert problems[0].field == ".f2"
    assert tracemalloc.get_traced_memory()[1] < 20_000_000
    tracemalloc.stop()


@pytest.mark.parametrize("name", ["ListFields", "ParseFromString", "IsInitialized", "HasField", "DESCRIPTOR"])
def test_fields_may_have_any_name(name: str) -> None:
    shape = protobuf(self_containing(name), closed=True)
    assert [problem.field for problem in shape.problems(b"\x0a\x02\x10\x01", Effort(100))] == [f".{name}[0]"]


def test_definitions_of_many_files_or_messages_are_answered() -> None:
    chain = [descriptor_pb2.FileDescriptorProto(name=f"f{n}", dependency=[f"f{n - 1}"]) for n in range(8000, 0, -1)]
    first = descriptor_pb2.FileDescriptorProto(name="f0")
    first.message_type.add(name="M")
    assert list(protobuf(*chain, first).problems(b"", Effort(10))) == []
    first.dependency.append("f8000")
    with pytest.raises(InvalidFieldError, match="import each other"):
        protobuf(*chain, first)
    deep = descriptor_pb2.FileDescriptorProto(name="deep", syntax="proto3")
    for number in range(1000):
        inner = field("n", 1, Field.TYPE_MESSAGE, type_name=f".M{number + 1 if number < 999 else ''}")
        deep.message_type.add(name=f"M{number or ''}", field=[inner])
    with pytest.raises(InvalidFieldError, match="lead on to too many others"):
        protobuf(deep)


async def test_protobuf_events_are_checked(bus: EventCallers) -> None:
    made = await register(
        bus.admin, files(message()), format=PROTOBUF, message_name="shop.Order", closed=True, description="An order."
    )
    assert (made.message_name, made.closed, made.description) == ("shop.Order", True, "An order.")
    good = b"\x0a\x01a\x10\x05"
    whole = order("1", good, datacontenttype="application/protobuf")
    assert await publish(bus.admin, whole, order("2", good)) == [1, 2]
    found = await violations(
        bus.admin, order("1", b"\x0a\xff"), order("2", b"\x98\x06\x01"), order("3", good, datacontenttype="text/plain")
    )
    assert list(found) == ["events[0].data", "events[1].data", "events[2].datacontenttype"]
    assert "shop.Order" in found["events[0].data"]
    for part, name, content in (
        ("message_name", "shop.Nothing", files(message())),
        ("message_name", "", files(message())),
        ("definition", "shop.Order", b"\xff"),
    ):
        with refused(InvalidFieldError, part):
            await register(bus.admin, content, format=PROTOBUF, message_name=name)


async def test_a_definition_must_have_all_it_imports(bus: EventCallers) -> None:
    file = descriptor_pb2.FileDescriptorProto(
        name="shop.proto", package="shop", syntax="proto3", dependency=["google/protobuf/timestamp.proto"]
    )
    stamped = field("at", 1, Field.TYPE_MESSAGE, type_name=".google.protobuf.Timestamp")
    file.message_type.add(name="Order", field=[stamped])
    lacking = descriptor_pb2.FileDescriptorSet(file=[file])
    named: dict[str, Any] = {"format": PROTOBUF, "message_name": "shop.Order"}
    with refused(InvalidFieldError, "definition", "imports"):
        await register(bus.admin, lacking.SerializeToString(), **named)
    timestamp_pb2.DESCRIPTOR.CopyToProto(lacking.file.add())
    assert (await register(bus.admin, lacking.SerializeToString(), **named)).version == 1
    lacking.file.reverse()
    lacking.file[1].source_code_info.location.add(leading_comments="a comment")
    assert (await register(bus.admin, lacking.SerializeToString(), **named)).version == 1
    struct_pb2.DESCRIPTOR.CopyToProto(lacking.file.add())
    assert (await register(bus.admin, lacking.SerializeToString(), **named)).version == 2
