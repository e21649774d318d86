"""Whether readers of one JSON Schema understand what is written by another.

The question is asked of what writers may write, place by place:

- `type`, `enum` and `const`: every value the writer may write, the reader takes.
- Bounds (`minimum` to `maxProperties`, `multipleOf`, `uniqueItems`): the reader's is no tighter.
- `required`: what the reader demands, the writer promises.
- `properties`: those of both are compared. A property that only the writer has must not meet a reader that is closed.
  One that only the reader has is taken for not written, unless the writer says what else it may write
  (`additionalProperties` other than false).
- `items`, `additionalProperties` and references are compared like the places they describe.
- Everything else that narrows or branches (`pattern`, `allOf`, `anyOf`, `oneOf`, `not`, `if`, `patternProperties`,
  `prefixItems`, `contains` ...) cannot be compared: it must be the same in both.

Words for readers (`title`, `description`, `default`, `examples`, `format` ...) do not matter.
"""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any, Final, Protocol

from mnemo_events.domain.json_values import canonical, plain

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

_TYPES: Final = ("null", "boolean", "integer", "number", "string", "array", "object")
_LEAST: Final = {
    "minimum": "number",
    "exclusiveMinimum": "number",
    "minLength": "string",
    "minItems": "array",
    "minProperties": "object",
}
"""Bounds below, and the type of the values they are about."""
_GREATEST: Final = {
    "maximum": "number",
    "exclusiveMaximum": "number",
    "maxLength": "string",
    "maxItems": "array",
    "maxProperties": "object",
}
_OTHER_BOUNDS: Final = {
    "minimum": "exclusiveMinimum",
    "exclusiveMinimum": "minimum",
    "maximum": "exclusiveMaximum",
    "exclusiveMaximum": "maximum",
}
_SAME_IF_READER_HAS: Final = {
    "pattern": "string",
    "contains": "array",
    "minContains": "array",
    "maxContains": "array",
    "propertyNames": "object",
    "dependentRequired": "object",
}
_SAME: Final = (
    "allOf",
    "anyOf",
    "oneOf",
    "not",
    "if",
    "then",
    "else",
    "dependentSchemas",
    "patternProperties",
    "prefixItems",
)
"""What branches, or describes parts of the value in a way that is not compared."""
_REFERENCES: Final = 64


class Understood(Protocol):
    """A JSON Schema that was understood."""

    @property
    def root(self) -> Any:
        """The schema of the whole value."""
        ...

    @property
    def references(self) -> Mapping[str, Any]:
        """The schemas that references lead to."""
        ...


def refusals(reader: Understood, writer: Understood) -> list[str]:
    """What a value that `writer` allows may have that `reader` refuses; empty only if there is no such value."""
    if reader.root == writer.root and reader.references == writer.references:
        return []
    found = _Comparison(reader, writer).at("", reader.root, writer.root)
    return list(dict.fromkeys(found))


class _Comparison:
    """Compares places of two schemas; those that come up again inside themselves are looked at once."""

    def __init__(self, reader: Understood, writer: Understood) -> None:
        self._reader = reader
        self._writer = writer
        self._same_references = reader.references == writer.references
        self._seen: set[tuple[int, int]] = set()
        self._closed: dict[int, dict[str, Any]] = {}

    def at(self, place: str, reader: Any, writer: Any) -> Iterator[str]:
        """What is refused at a place."""
        reader = self._followed(reader, self._reader.references)
        writer = self._followed(writer, self._writer.references)
        if isinstance(reader, dict) and isinstance(writer, dict):
            if (id(reader), id(writer)) in self._seen:
                return
            self._seen.add((id(reader), id(writer)))
        name = place or "the value"
        if reader is True or reader == {} or writer is False:
            return
        if reader is False:
            yield f"{name} is not allowed"
            return
        yield from self._compared(place, name, reader, {} if writer is True else writer)

    def _followed(self, schema: Any, references: Mapping[str, Any]) -> Any:
        """Where a schema leads that is a reference: alone, or with no more beside it than that it is closed."""
        for _ in range(_REFERENCES):
            if not (isinstance(schema, dict) and "$ref" in schema):
                break
            beside = _beside_reference(schema)
            target = references[schema["$ref"]]
            if beside == {"unevaluatedProperties": False} and isinstance(target, dict):
                schema = self._closed.setdefault(id(target), beside | target)
            elif beside:
                break
            else:
                schema = target
        return schema

    def _compared(self, place: str, name: str, reader: dict[str, Any], writer: dict[str, Any]) -> Iterator[str]:
        if "$ref" in reader or "$ref" in writer:
            if not self._same(reader, writer):
                yield f"{name}: $ref beside other keywords cannot be compared"
            return
        kinds = _kinds(writer)
        yield from _types(name, reader, kinds)
        yield from _enumerated(name, reader, writer)
        yield from _bounds(name, reader, writer, kinds)
        yield from self._opaque(name, reader, writer, kinds)
        if "object" in kinds:
            yield from self._objects(place, name, reader, writer)
        if "array" in kinds:
            yield from self._arrays(place, reader, writer)

    def _opaque(self, name: str, reader: dict[str, Any], writer: dict[str, Any], kinds: set[str]) -> Iterator[str]:
        for keyword in _SAME:
            if (keyword in reader or keyword in writer) and not self._same_keyword(keyword, reader, writer):
                yield f"{name}: {keyword} was changed, which cannot be compared"
        for keyword, kind in _SAME_IF_READER_HAS.items():
            if keyword in reader and kind in kinds and not self._same_keyword(keyword, reader, writer):
                yield f"{name}: {keyword} is another, which cannot be compared"

    def _same_keyword(self, keyword: str, reader: dict[str, Any], writer: dict[str, Any]) -> bool:
        return keyword in reader and keyword in writer and self._same(reader[keyword], writer[keyword])

    def _same(self, one: Any, other: Any) -> bool:
        """Whether two schemas are written alike, and lead to the same if they refer to others."""
        text = canonical(one)
        return text == canonical(other) and (self._same_references or b'"$ref"' not in text)

    def _objects(self, place: str, name: str, reader: dict[str, Any], writer: dict[str, Any]) -> Iterator[str]:
        promised = set(writer.get("required", ()))
        for missing in sorted(set(reader.get("required", ())) - promised):
            yield f"{place}.{missing} is required, and may be missing"
        known, written = reader.get("properties", {}), writer.get("properties", {})
        rest = _rest(reader)
        for property, inner in sorted(written.items()):
            where = f"{place}.{property}"
            if property in known:
                yield from self.at(where, known[property], inner)
            elif rest is False:
                yield f"{where} is not known, and no others are allowed"
            else:
                yield from self.at(where, rest, inner)
        others = writer.get("additionalProperties", writer.get("unevaluatedProperties", False))
        if others is not False:
            for property in sorted(known.keys() - written.keys()):
                yield from self.at(f"{place}.{property}", known[property], others)
            if rest is False:
                yield f"{name} may have other properties, and none are allowed"
            else:
                yield from self.at(f"{place}.*", rest, others)

    def _arrays(self, place: str, reader: dict[str, Any], writer: dict[str, Any]) -> Iterator[str]:
        if "items" in reader:
            yield from self.at(f"{place}[]", reader["items"], writer.get("items", True))


def _beside_reference(schema: dict[str, Any]) -> dict[str, Any]:
    """What says something about values beside `$ref`."""
    words = {"$ref", "$comment", "$defs", "definitions", "$schema", "$id", "$anchor"}
    words |= {"title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly", "format"}
    return {keyword: value for keyword, value in schema.items() if keyword not in words}


def _rest(schema: dict[str, Any]) -> Any:
    """What a schema says of properties that it does not name."""
    return schema.get("additionalProperties", schema.get("unevaluatedProperties", True))


def _kinds(schema: dict[str, Any]) -> set[str]:
    """The types of what a schema allows; a number may be an integer."""
    declared = schema.get("type", list(_TYPES))
    found = {declared} if isinstance(declared, str) else set(declared)
    found |= {"integer"} if "number" in found else set()
    values = _values(schema)
    return found if values is None else found & {_kind(value) for value in values}


def _kind(value: Any) -> str:
    value = plain(value)
    kinds: dict[type, str] = {bool: "boolean", int: "integer", float: "number", str: "string", list: "array"}
    return "null" if value is None else kinds.get(type(value), "object")


def _values(schema: dict[str, Any]) -> list[Any] | None:
    """The only values a schema allows; None if it does not name them."""
    named: list[Any] | None = schema.get("enum")
    if "const" not in schema:
        return named
    only = canonical(plain(schema["const"]))
    return [schema["const"]] if named is None or any(canonical(plain(value)) == only for value in named) else []


def _types(name: str, reader: dict[str, Any], kinds: set[str]) -> Iterator[str]:
    taken = _kinds({"type": reader["type"]} if "type" in reader else {})
    if refused := sorted(kinds - taken):
        yield f"{name} may be {' or '.join(refused)}, allowed is {' or '.join(sorted(taken))}"


def _enumerated(name: str, reader: dict[str, Any], writer: dict[str, Any]) -> Iterator[str]:
    taken = _values(reader)
    if taken is None:
        return
    written = _values(writer)
    if written is None:
        yield f"{name} may be any value, allowed are some only"
        return
    known = {canonical(plain(value)) for value in taken}
    for value in written:
        if (text := canonical(plain(value))) not in known:
            yield f"{name} may be {text.decode()[:60]}, which is not among those allowed"


def _bounds(name: str, reader: dict[str, Any], writer: dict[str, Any], kinds: set[str]) -> Iterator[str]:
    numeric = kinds | ({"number"} if "integer" in kinds else set())
    for table, suits in ((_LEAST, operator.ge), (_GREATEST, operator.le)):
        for keyword, kind in table.items():
            if keyword in reader and kind in numeric and not _bound_holds(keyword, kind, reader, writer, suits):
                yield f"{name}: {keyword} {reader[keyword]} is tighter than {writer.get(keyword, 'none')}"
    if "multipleOf" in reader and "number" in numeric and not _multiple(reader["multipleOf"], writer):
        yield f"{name}: multipleOf {reader['multipleOf']} is tighter than {writer.get('multipleOf', 'none')}"
    if reader.get("uniqueItems") and "array" in kinds and not writer.get("uniqueItems"):
        yield f"{name}: items must differ, and need not"


def _bound_holds(
    keyword: str, kind: str, reader: dict[str, Any], writer: dict[str, Any], suits: Callable[[Any, Any], bool]
) -> bool:
    """Whether what the writer promises is enough for a bound of the reader."""
    if (values := _values(writer)) is not None:
        sizes = [size for value in values if (size := _size(value, kind)) is not None]
        strict = keyword.startswith("exclusive")
        return all(suits(size, reader[keyword]) and not (strict and size == reader[keyword]) for size in sizes)
    if keyword in writer and suits(writer[keyword], reader[keyword]):
        return True
    other = _OTHER_BOUNDS.get(keyword)
    if other in writer and suits(writer[other], reader[keyword]):
        return not (keyword.startswith("exclusive") and writer[other] == reader[keyword])
    return bool(keyword in ("minLength", "minItems", "minProperties") and reader[keyword] == 0)


def _size(value: Any, kind: str) -> Any:
    """What a bound for values of a type is about: a number itself, the length of others; None for another type."""
    if kind == "number":
        return value if _kind(value) in ("integer", "number") else None
    return len(value) if _kind(value) == kind else None


def _multiple(of: Any, writer: dict[str, Any]) -> bool:
    written = writer.get("multipleOf")
    if written == of:
        return True
    if written is None:
        return False
    return isinstance(of, int) and isinstance(written, int) and written % of == 0
