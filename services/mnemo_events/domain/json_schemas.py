"""JSON Schema (draft 2020-12): understanding definitions and checking data against them.

The keywords are those of the library `jsonschema`, each counted: what a definition makes of data is bounded, whoever
wrote it. Regular expressions are matched in linear time. References lead to places in the definition itself, nothing is
ever fetched. `$dynamicRef`, `$dynamicAnchor`, `$vocabulary`, `unevaluatedItems` and an `$id` below the root are
refused; `format` says something to readers and is not checked.
"""

from __future__ import annotations

import json
from contextvars import ContextVar
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, cast
from urllib.parse import unquote

from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError
from jsonschema.validators import extend

from mnemo_events.domain.effort import Effort, EffortExhaustedError
from mnemo_events.domain.json_compatibility import refusals
from mnemo_events.domain.json_values import canonical, parsed, plain
from mnemo_events.domain.linear_patterns import KEPT, LinearPattern, Memory
from mnemo_events.domain.schemas import Shape
from mnemocore.errors import InvalidFieldError, Violation

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from mnemo_events.domain.schemas import Definition

    Keyword = Callable[[Any, Any, Any, Any], Iterator[ValidationError]]

MAX_BYTES: Final = 256 * 1024
"""Bytes of JSON that are checked."""
MAX_SUBSCHEMAS: Final = 2000
MAX_DEPTH: Final = 32
MAX_PATTERN: Final = 1000
"""Characters of a regular expression."""
MAX_STATES: Final = 20_000
"""States of all regular expressions of a definition."""
_STATE_BYTES: Final = 500
"""About what a state takes, with the steps that are kept of it."""
_STEP_BYTES: Final = 40
"""About what a state takes in a step that is kept."""
_BYTES: Final = 8
"""About what a byte of a definition takes when it is understood."""
_STEPS: Final = 1_000_000
_MAX_PROBLEMS: Final = 20
_SHOWN: Final = 60
_DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
_REFUSED: Final = (
    "$dynamicRef",
    "$dynamicAnchor",
    "$recursiveRef",
    "$recursiveAnchor",
    "$vocabulary",
    "unevaluatedItems",
)
_SINGLE: Final = (
    "additionalProperties",
    "unevaluatedProperties",
    "propertyNames",
    "items",
    "contains",
    "not",
    "if",
    "then",
    "else",
)
_LISTS: Final = ("allOf", "anyOf", "oneOf", "prefixItems")
_MAPS: Final = ("properties", "patternProperties", "dependentSchemas", "$defs", "definitions")
_IN_PLACE: Final = ("allOf", "anyOf", "oneOf", "not", "if", "then", "else", "dependentSchemas")
_UNCLOSED: Final = ("not", "if", "contains", "propertyNames")
"""Where refusing more would accept or choose something else."""
_effort: ContextVar[Effort] = ContextVar("mnemo_events_json_effort")


class JsonSchemas:
    """Implements `mnemo_events.domain.schemas.SchemaLanguage`."""

    content_type = "application/json"

    def understand(self, definition: Definition) -> JsonShape:
        """Compile a definition. Raises InvalidFieldError."""
        if definition.message_name:
            raise _wrong("message_name", "is for protobuf; allowed is nothing")
        try:
            root = parsed(definition.content)
        except ValueError as error:
            raise _wrong("definition", f"is not JSON: {error}") from None
        if not isinstance(root, dict):
            raise _wrong("definition", "is no JSON object, which a schema must be")
        try:
            document = _Document(root)
            _check_by_the_book(root)
        except (ValueError, RecursionError, ArithmeticError) as error:
            text = "is nested too deeply" if isinstance(error, RecursionError) else str(error)
            raise _wrong("definition", text) from None
        return JsonShape(document, closed=definition.closed)


class JsonShape(Shape):
    """A JSON Schema that was understood. With `closed` an object may have no fields that the schema does not name.

    Objects of which the schema says themselves what else they may have (`additionalProperties`,
    `unevaluatedProperties`) stay as they are, and so does what `true` or an empty schema describe.
    """

    def __init__(self, document: _Document, *, closed: bool) -> None:
        self._document = document
        self.root = _closed(document.root) if closed else document.root
        targets = {id(target): target for target in document.references.values()}
        inside = {key: _inside(target) if closed else target for key, target in targets.items()}
        self.references = {name: inside[id(target)] for name, target in document.references.items()}
        self._validator = _validator(_Keywords(self.references, document.patterns).all(), self.root)

    @property
    def weight(self) -> int:
        """About how many bytes of memory it takes."""
        kept = KEPT * _STEP_BYTES if self._document.patterns else 0
        return _BYTES * len(self.canonical) + _STATE_BYTES * self._document.states + kept

    @property
    def canonical(self) -> bytes:
        """The definition with sorted keys and no blanks."""
        return canonical(self._document.root)

    def problems(self, data: bytes, effort: Effort) -> Iterator[Violation]:
        """What is wrong with data, up to 20 things."""
        if len(data) > MAX_BYTES:
            yield Violation("", f"has {len(data)} bytes; of a type with a JSON schema at most {MAX_BYTES} are allowed")
            return
        try:
            instance = parsed(data)
        except ValueError as error:
            yield Violation("", f"is not JSON: {error}")
            return
        token = _effort.set(effort)
        try:
            errors = islice(self._validator.iter_errors(instance), _MAX_PROBLEMS)
            found = [Violation(_path(error.absolute_path), _described(error)) for error in errors]
        except (RecursionError, ArithmeticError):
            found = [Violation("", "cannot be checked: it is nested too deeply, or has too large a number")]
        finally:
            _effort.reset(token)
        yield from found

    def refused_of(self, writer: Shape) -> list[str]:
        """What data of `writer` may have that is refused here. See `json_compatibility`."""
        assert isinstance(writer, JsonShape)
        return refusals(self, writer)

    def unsuited_after(self, before: Shape) -> list[str]:
        """Nothing: JSON has no numbers that must not be used again."""
        return []


def _wrong(field: str, text: str) -> InvalidFieldError:
    return InvalidFieldError.of([Violation(field, text)])


@dataclass(slots=True)
class _Document:
    """A definition whose places, references and regular expressions are known. Raises ValueError."""

    root: dict[str, Any]
    places: dict[str, Any] = field(default_factory=dict)
    anchors: dict[str, Any] = field(default_factory=dict)
    references: dict[str, Any] = field(default_factory=dict)
    patterns: dict[str, LinearPattern] = field(default_factory=dict)
    states: int = 0
    memory: Memory = field(default_factory=Memory)

    def __post_init__(self) -> None:
        self._visit(self.root, "", 0)
        for name in self.references:
            self.references[name] = self._target(name)
        _Cycles(self).refuse()

    def _visit(self, schema: Any, place: str, depth: int) -> None:
        self.places[place] = schema
        if len(self.places) > MAX_SUBSCHEMAS:
            raise ValueError(f"has more than {MAX_SUBSCHEMAS} schemas in it")
        if depth > MAX_DEPTH:
            raise ValueError(f"has more than {MAX_DEPTH} schemas inside one another")
        if not isinstance(schema, dict):
            if not isinstance(schema, bool):
                raise ValueError(f"at {place or '/'}: a schema is an object, true or false")
            return
        self._note(schema, place)
        for step, inner in _subschemas(schema):
            self._visit(inner, f"{place}/{step}", depth + 1)

    def _note(self, schema: dict[str, Any], place: str) -> None:
        for keyword in _REFUSED:
            if keyword in schema:
                raise ValueError(f"at {place or '/'}: {keyword} is not supported")
        if place and "$id" in schema:
            raise ValueError(f"at {place}: $id is supported at the root only")
        if schema.get("$schema", _DIALECT) not in (_DIALECT, _DIALECT + "#"):
            raise ValueError(f"at {place or '/'}: $schema is {schema['$schema']!r}; supported is {_DIALECT!r}")
        if isinstance(anchor := schema.get("$anchor"), str):
            if anchor in self.anchors:
                raise ValueError(f"at {place or '/'}: the $anchor {anchor!r} is there twice")
            self.anchors[anchor] = schema
        if isinstance(reference := schema.get("$ref"), str):
            self.references[reference] = None
        expressions = [schema.get("pattern"), *_mapping(schema.get("patternProperties"))]
        for expression in expressions:
            if isinstance(expression, str) and expression not in self.patterns:
                self.patterns[expression] = found = _understood_pattern(expression, place, self.memory)
                self.states += found.states
                if self.states > MAX_STATES:
                    raise ValueError(f"has regular expressions that need more than {MAX_STATES} states together")

    def _target(self, reference: str) -> Any:
        if not reference.startswith("#"):
            text = f"$ref {reference!r} leads out of the definition; supported are '#', '#/...' and '#<anchor>'"
            raise ValueError(text)
        inner = unquote(reference[1:])
        table = self.places if not inner or inner.startswith("/") else self.anchors
        if inner not in table:
            raise ValueError(f"$ref {reference!r} leads to no schema of the definition")
        return table[inner]


def _understood_pattern(expression: str, place: str, memory: Memory) -> LinearPattern:
    if len(expression) > MAX_PATTERN:
        raise ValueError(f"at {place or '/'}: a regular expression has more than {MAX_PATTERN} characters")
    try:
        return LinearPattern(expression, memory)
    except ValueError as error:
        raise ValueError(f"at {place or '/'}: the regular expression {expression!r} {error}") from None


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _subschemas(schema: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """The schemas inside one, with their JSON pointers from it. Of the wrong kind: left to the check by the book."""
    for keyword, value in schema.items():
        if keyword in _SINGLE:
            yield keyword, value
        elif keyword in _LISTS and isinstance(value, list):
            yield from ((f"{keyword}/{index}", inner) for index, inner in enumerate(value))
        elif keyword in _MAPS:
            for name, inner in _mapping(value).items():
                yield f"{keyword}/{name.replace('~', '~0').replace('/', '~1')}", inner


class _Cycles:
    """Looks for schemas that apply themselves to the very same value, without end."""

    def __init__(self, document: _Document) -> None:
        self._document = document
        self._done: set[int] = set()
        self._open: set[int] = set()

    def refuse(self) -> None:
        """Raise ValueError if there is one."""
        for place, schema in self._document.places.items():
            self._visit(schema, place)

    def _visit(self, schema: Any, place: str) -> None:
        if not isinstance(schema, dict) or id(schema) in self._done:
            return
        if id(schema) in self._open:
            raise ValueError(f"at {place or '/'}: the schema refers to itself without end")
        self._open.add(id(schema))
        for inner in self._in_place(schema):
            self._visit(inner, place)
        self._open.discard(id(schema))
        self._done.add(id(schema))

    def _in_place(self, schema: dict[str, Any]) -> Iterator[Any]:
        if isinstance(reference := schema.get("$ref"), str):
            yield self._document.references[reference]
        for step, inner in _subschemas(schema):
            if step.partition("/")[0] in _IN_PLACE:
                yield inner


def _closed(schema: Any) -> Any:
    """A schema of a value, closed."""
    if not isinstance(schema, dict) or not schema:
        return schema
    found = _inside(schema)
    if "additionalProperties" not in found and "unevaluatedProperties" not in found:
        alone = "$ref" not in found and not any(keyword in found for keyword in _IN_PLACE)
        found["additionalProperties" if alone else "unevaluatedProperties"] = False
    return found


def _inside(schema: Any) -> Any:
    """A schema as a part of one of a value: what lies deeper is closed, itself it is not."""
    if not isinstance(schema, dict):
        return schema
    found = dict(schema)
    for keyword, value in schema.items():
        change = _inside if keyword in _IN_PLACE else _closed
        if keyword in _UNCLOSED:
            continue
        if keyword in _SINGLE:
            found[keyword] = change(value)
        elif keyword in _LISTS:
            found[keyword] = [change(inner) for inner in value]
        elif keyword in _MAPS:
            found[keyword] = {name: change(inner) for name, inner in value.items()}
    return found


class _Keywords:
    """The keywords of one definition: those of the library, counted, and our own for what it does without bounds."""

    def __init__(self, references: Mapping[str, Any], patterns: Mapping[str, LinearPattern]) -> None:
        self._references = references
        self._patterns = patterns
        self._enums: dict[int, frozenset[bytes]] = {}

    def all(self) -> dict[str, Keyword]:
        """Every keyword by its name."""
        own: dict[str, Keyword] = {
            "$ref": self._ref,
            "pattern": self._pattern,
            "patternProperties": self._pattern_properties,
            "additionalProperties": self._additional_properties,
            "unevaluatedProperties": self._unevaluated_properties,
            "uniqueItems": _unique_items,
            "required": _required,
            "enum": self._enum,
            "const": _const,
        }
        return {name: _counted(name, own.get(name) or function) for name, function in _LIBRARY.items()}

    def _found(self, expression: str, text: str) -> bool:
        return self._patterns[expression].found_in(text, _effort.get())

    def _ref(self, validator: Any, reference: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
        yield from validator.descend(instance, self._references[reference])

    def _pattern(self, validator: Any, expression: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
        if isinstance(instance, str) and not self._found(expression, instance):
            yield ValidationError(f"{instance!r} does not match {expression!r}")

    def _enum(self, validator: Any, values: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
        known = self._enums.get(id(values))
        if known is None:
            known = self._enums[id(values)] = frozenset(canonical(plain(value)) for value in values)
        if _spelled(instance) not in known:
            yield ValidationError(f"{instance!r} is not one of {values!r}")

    def _pattern_properties(
        self, validator: Any, expressions: Any, instance: Any, schema: Any
    ) -> Iterator[ValidationError]:
        if isinstance(instance, dict):
            for expression, inner in expressions.items():
                _effort.get().spend(len(instance) // 8)
                for name, value in instance.items():
                    if self._found(expression, name):
                        yield from validator.descend(value, inner, path=name, schema_path=expression)

    def _additional_properties(
        self, validator: Any, inner: Any, instance: Any, schema: Any
    ) -> Iterator[ValidationError]:
        if isinstance(instance, dict):
            known = self._declared(instance, schema)
            yield from _for_rest(validator, inner, instance, known)

    def _unevaluated_properties(
        self, validator: Any, inner: Any, instance: Any, schema: Any
    ) -> Iterator[ValidationError]:
        if isinstance(instance, dict):
            rest = {keyword: value for keyword, value in schema.items() if keyword != "unevaluatedProperties"}
            yield from _for_rest(validator, inner, instance, self._evaluated(validator, instance, rest))

    def _declared(self, instance: dict[str, Any], schema: dict[str, Any]) -> set[str]:
        known = _mapping(schema.get("properties")).keys() & instance.keys()
        for expression in _mapping(schema.get("patternProperties")):
            _effort.get().spend(1 + len(instance) // 8)
            known |= {name for name in instance if self._found(expression, name)}
        return set(known)

    def _evaluated(self, validator: Any, instance: dict[str, Any], schema: Any) -> set[str]:
        """The names that a schema has looked at, itself or through others that apply to the same object.

        Those that apply in any case count even if they do not hold, which is said elsewhere.
        """
        _effort.get().spend(1 + len(instance))
        if not isinstance(schema, dict):
            return set()
        if "additionalProperties" in schema or "unevaluatedProperties" in schema:
            return set(instance)
        known = self._declared(instance, schema)
        for inner in self._applied(validator, instance, schema):
            known |= self._evaluated(validator, instance, inner)
        return known

    def _applied(self, validator: Any, instance: dict[str, Any], schema: dict[str, Any]) -> Iterator[Any]:
        def holds(inner: Any) -> bool:
            _effort.get().spend()
            return bool(validator.evolve(schema=inner).is_valid(instance))

        if "$ref" in schema:
            yield self._references[schema["$ref"]]
        yield from schema.get("allOf", ())
        for keyword in ("anyOf", "oneOf"):
            yield from (inner for inner in schema.get(keyword, ()) if holds(inner))
        yield from (inner for name, inner in _mapping(schema.get("dependentSchemas")).items() if name in instance)
        if "if" in schema:
            held = holds(schema["if"])
            if held:
                yield schema["if"]
            yield schema.get("then" if held else "else", True)


def _for_rest(validator: Any, inner: Any, instance: dict[str, Any], known: set[str]) -> Iterator[ValidationError]:
    for name, value in instance.items():
        if name in known:
            continue
        if inner is False:
            yield ValidationError("is not known to the schema, which allows no others", path=[name])
        else:
            yield from validator.descend(value, inner, path=name)


def _required(validator: Any, names: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
    if isinstance(instance, dict):
        for name in names:
            if name not in instance:
                yield ValidationError("is required", path=[name])


def _unique_items(validator: Any, demanded: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
    if demanded and isinstance(instance, list):
        seen = {_spelled(item) for item in instance}
        if len(seen) < len(instance):
            yield ValidationError("has an item twice; items must differ")


def _const(validator: Any, only: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
    if _spelled(instance) != _spelled(only):
        yield ValidationError(f"{only!r} was expected")


def _spelled(value: Any) -> bytes:
    """The one spelling of equal values."""
    text = canonical(plain(value))
    _effort.get().spend(len(text) // 50)
    return text


def _counted(name: str, function: Keyword) -> Keyword:
    """A keyword that spends a step, more for what is long: what it demands, lists and objects, words of its errors."""
    demanded = 1 if name in _LISTS else 8
    looked_at = 1 if name == "contains" else 8

    def counted(validator: Any, value: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
        effort = _effort.get()
        effort.spend(1 + _length(value) // demanded + _length(instance) // looked_at)
        for error in function(validator, value, instance, schema):
            effort.spend(1 + len(error.message) // 100)
            yield error

    return counted


def _length(value: Any) -> int:
    return len(value) if isinstance(value, (list, dict)) else 0


def _validator(keywords: Mapping[str, Keyword], schema: Any) -> Any:
    """A validator of the library with other keywords."""
    made: Any = cast("Callable[..., Any]", extend)(Draft202012Validator, keywords)
    return made(schema)


_LIBRARY: Final[dict[str, Keyword]] = dict(Draft202012Validator.VALIDATORS)
_BOOK: Final = _validator(
    {name: _counted(name, function) for name, function in (_LIBRARY | {"uniqueItems": _unique_items}).items()},
    Draft202012Validator.META_SCHEMA,
)


def _check_by_the_book(root: dict[str, Any]) -> None:
    """Raise ValueError if a definition is no JSON Schema."""
    token = _effort.set(Effort(_STEPS))
    try:
        error = next(_BOOK.iter_errors(root), None)
    except EffortExhaustedError:
        raise ValueError("is too much work to check") from None
    finally:
        _effort.reset(token)
    if error is not None:
        raise ValueError(f"at {_path(error.absolute_path) or '/'}: {_described(error)}")


def _path(steps: Iterable[Any]) -> str:
    text = ""
    for step in steps:
        if isinstance(step, int):
            text += f"[{step}]"
        elif step.isidentifier():
            text += f".{step}"
        else:
            text += f"[{json.dumps(step)}]"
    return text if len(text) <= 200 else f"{text[:197]}..."


def _described(error: ValidationError) -> str:
    """The message of the library with its long words cut."""
    text, shown = error.message, repr(error.instance)
    if len(shown) > _SHOWN and text.startswith(shown):
        text = f"{shown[: _SHOWN - 3]}...{text[len(shown) :]}"
    text = text if len(text) <= 300 else f"{text[:297]}..."
    return text.encode("utf-8", "backslashreplace").decode()
