"""Laws of schemas: what is compatible is understood, closed is narrower, and expressions are matched as by `re`."""

from __future__ import annotations

import json
import re
from typing import Any

from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from mnemo_events.domain.effort import Effort
from mnemo_events.domain.json_schemas import JsonSchemas, JsonShape
from mnemo_events.domain.linear_patterns import LinearPattern
from mnemo_events.domain.schemas import Definition, Format

NAMES = st.sampled_from(["a", "b", "c"])
SCALARS = st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from([0.5, 1.0, "", "x", "yy"])
SMALL = st.integers(0, 3)
TYPES = st.sampled_from(["null", "boolean", "integer", "number", "string", "array", "object"])


def some(keywords: dict[str, st.SearchStrategy[Any]]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=keywords)


WORDS = some(
    {
        "type": TYPES | st.lists(TYPES, min_size=1, max_size=3, unique=True),
        "enum": st.lists(SCALARS, min_size=1, max_size=3),
        "const": SCALARS,
        "minimum": st.integers(-2, 2),
        "exclusiveMinimum": st.integers(-2, 2),
        "maximum": st.integers(-2, 2),
        "exclusiveMaximum": st.integers(-2, 2),
        "multipleOf": st.sampled_from([1, 2, 3, 0.5]),
        "minLength": SMALL,
        "maxLength": SMALL,
        "minItems": SMALL,
        "maxItems": SMALL,
        "uniqueItems": st.booleans(),
        "pattern": st.sampled_from(["^x", "y"]),
        "title": st.sampled_from(["one", "other"]),
    }
)
LEAVES = st.booleans() | WORDS


def nested(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return some(
        {
            "type": TYPES,
            "properties": st.dictionaries(NAMES, inner, max_size=3),
            "required": st.lists(NAMES, max_size=2, unique=True),
            "additionalProperties": inner,
            "items": inner,
            "minProperties": SMALL,
            "maxProperties": SMALL,
            "anyOf": st.lists(inner, min_size=1, max_size=2),
            "not": inner,
            "patternProperties": st.dictionaries(st.sampled_from(["^a", "b"]), inner, max_size=1),
            "$ref": st.sampled_from(["#/$defs/one", "#/$defs/other"]),
            "propertyNames": inner,
            "contains": inner,
        }
    )


SCHEMAS = st.builds(
    lambda root, one, other: {**root, "$defs": {"one": one, "other": other}},
    st.recursive(LEAVES, nested, max_leaves=5).filter(lambda schema: isinstance(schema, dict)),
    LEAVES,
    LEAVES,
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3), max_leaves=5
)


def understood(schema: dict[str, Any], *, closed: bool) -> JsonShape:
    return JsonSchemas().understand(Definition(Format.JSON, json.dumps(schema).encode(), "", closed))


def accepts(shape: JsonShape, value: Any) -> bool:
    return not list(shape.problems(json.dumps(value).encode(), Effort(1_000_000)))


@settings(max_examples=150)
@given(SCHEMAS, SCHEMAS, st.booleans(), st.booleans(), st.booleans(), st.data())
def test_what_a_compatible_writer_writes_its_reader_understands(
    written: dict[str, Any], read: dict[str, Any], closed: bool, similar: bool, reader_closed: bool, data: st.DataObject
) -> None:
    if similar:
        gone = data.draw(st.sets(st.sampled_from(sorted(written))))
        kept = {keyword: value for keyword, value in written.items() if keyword not in gone - {"$defs"}}
        read = kept | data.draw(WORDS)
    writer, reader = understood(written, closed=closed), understood(read, closed=reader_closed)
    if reader.refused_of(writer):
        return
    declared = understood(written, closed=True)
    for value in data.draw(st.lists(VALUES, min_size=1, max_size=20)):
        if accepts(writer, value) and accepts(declared, value):
            assert accepts(reader, value), value


@given(SCHEMAS, st.booleans(), st.data())
def test_a_schema_understands_itself_and_closed_it_takes_no_more(
    schema: dict[str, Any], closed: bool, data: st.DataObject
) -> None:
    shape = understood(schema, closed=closed)
    assert shape.refused_of(understood(schema, closed=closed)) == []
    assert shape.canonical == understood(dict(reversed(schema.items())), closed=closed).canonical
    assume("not" not in json.dumps(schema))
    value = data.draw(VALUES)
    if accepts(understood(schema, closed=True), value):
        assert accepts(understood(schema, closed=False), value)


LITERALS = st.sampled_from(["a", "b", "c", ".", r"\.", r"\d", r"\W", "[ab]", "[^a]", "[a-c1]", r"[\d.]", r"\x61"])


def composed(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    repeated = st.tuples(inner, st.sampled_from(["*", "+", "?", "{2}", "{1,}", "{0,2}", "*?"]))
    return (
        st.lists(inner, max_size=3).map("".join)
        | st.lists(inner, min_size=1, max_size=3).map("|".join).map("(?:{})".format)
        | repeated.map(lambda parts: f"(?:{parts[0]}){parts[1]}")
        | inner.map("^{}".format)
        | inner.map("{}$".format)
    )


EXPRESSIONS = st.recursive(LITERALS, composed, max_leaves=6)


@settings(max_examples=250)
@given(EXPRESSIONS, st.text("abc1.-", max_size=8))
@example("(?:a*)*$", "ab")
@example("^(?:a|b)??$", "")
def test_linear_patterns_find_what_re_finds(expression: str, text: str) -> None:
    expected = re.search(expression.replace("$", r"\Z"), text, re.ASCII) is not None
    assert LinearPattern(expression).found_in(text, Effort(1_000_000)) == expected


@given(EXPRESSIONS)
def test_linear_patterns_take_steps_in_proportion_to_the_text(expression: str) -> None:
    pattern = LinearPattern(expression)
    spent = []
    for length in (1000, 2000):
        effort = Effort(10_000_000)
        pattern.found_in("a" * length + "-", effort)
        spent.append(10_000_000 - effort.left)
    assert spent[1] <= 2 * spent[0] + 100
