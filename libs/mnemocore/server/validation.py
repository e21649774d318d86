"""The field rules of the protos (`mnemocore.common.v1.rules`), compiled once per message type into plain checks.

Besides the declared rules every message is checked for what no field may hold: unknown enum numbers, times outside the
years 0001 to 9999, and Struct numbers that JSON does not know.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any, Final, cast

from google.protobuf.descriptor import FieldDescriptor

from mnemocore.common.v1 import options_pb2
from mnemocore.errors import InvalidFieldError, Violation
from mnemocore.ids import is_uuid
from mnemocore.server.chain import Malformed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from google._upb._message import Descriptor as UpbDescriptor
    from google.protobuf.descriptor import Descriptor, EnumDescriptor
    from google.protobuf.message import Message
    from google.protobuf.struct_pb2 import ListValue, Struct, Value

    from mnemocore.server.chain import Proceed, ServerCall

    Check = Callable[[Message, list[Violation]], None]
    """Looks at one field of a message and appends what is wrong, with paths from that message."""
    Rule = Callable[[Any], str | None]
    """Looks at one value; the description of what is wrong with it, None if it is fine."""

SHOWN_CHARACTERS: Final = 60
"""How much of an offending value a description shows."""

_STRUCT: Final = "google.protobuf.Struct"
_TIMESTAMP: Final = "google.protobuf.Timestamp"
_FIRST_SECOND: Final = -62135596800
_LAST_SECOND: Final = 253402300799
_FLOATS: Final = (FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT)
_NUMBERS: Final = (
    *_FLOATS,
    FieldDescriptor.CPPTYPE_INT32,
    FieldDescriptor.CPPTYPE_INT64,
    FieldDescriptor.CPPTYPE_UINT32,
    FieldDescriptor.CPPTYPE_UINT64,
)


class Validator:
    """The compiled rules of one message type."""

    __slots__ = ("_checks", "_complete")

    def __init__(self, descriptor: Descriptor) -> None:
        self._checks: list[Check] = []
        # Registered before its fields are compiled, so that a message type may contain itself.
        _VALIDATORS[descriptor.full_name] = self
        self._complete = False
        self._checks.extend(check for field in descriptor.fields for check in _field_checks(field))
        self._complete = True

    @staticmethod
    def for_message(descriptor: Descriptor | UpbDescriptor) -> Validator:
        """The validator of a message type; compiled at the first call, the same object afterwards."""
        return _VALIDATORS.get(descriptor.full_name) or Validator(cast("Descriptor", descriptor))

    def violations(self, message: Message) -> list[Violation]:
        """Every broken rule of `message`, in the order of its fields; paths like `memories[3].tags`."""
        found: list[Violation] = []
        for check in self._checks:
            check(message, found)
        return found

    def validate(self, message: Message) -> None:
        """Raise InvalidFieldError that names all violations, if there are any."""
        found = self.violations(message)
        if found:
            raise InvalidFieldError.of(found)

    @property
    def empty(self) -> bool:
        """Whether no message of this type can be wrong; False while a type that contains itself is being compiled."""
        return self._complete and not self._checks


_VALIDATORS: Final[dict[str, Validator]] = {}


def _field_checks(field: FieldDescriptor) -> Iterator[Check]:
    rules = field.GetOptions().Extensions[options_pb2.rules]
    if field.is_repeated:
        yield from _list_checks(field, rules)
    elif field.message_type is not None:
        yield from _message_checks(field, field.message_type, rules)
    elif value_rules := _value_rules(field, rules):
        yield _scalar_check(field, tuple(value_rules), required=rules.required)


def _scalar_check(field: FieldDescriptor, value_rules: tuple[Rule, ...], *, required: bool) -> Check:
    name, optional = field.name, field.has_presence

    def check(message: Message, found: list[Violation]) -> None:
        if optional and not message.HasField(name):
            if required:
                found.append(Violation(name, "is required"))
            return
        value = getattr(message, name)
        for rule in value_rules:
            description = rule(value)
            if description is not None:
                found.append(Violation(name, description))
                if rule is _required:
                    return

    return check


def _message_checks(field: FieldDescriptor, descriptor: Descriptor, rules: options_pb2.FieldRules) -> Iterator[Check]:
    name, required = field.name, rules.required
    inner = None if rules.per_item else _inner_check(descriptor, rules)
    if inner is None and not required:
        return

    def check(message: Message, found: list[Violation]) -> None:
        if message.HasField(name):
            if inner is not None:
                _check_inside(inner, getattr(message, name), name, found)
        elif required:
            found.append(Violation(name, "is required"))

    yield check


def _list_checks(field: FieldDescriptor, rules: options_pb2.FieldRules) -> Iterator[Check]:
    if rules.required or rules.min_items or rules.max_items:
        yield _count_check(field.name, max(rules.min_items, int(rules.required)), rules.max_items)
    if rules.unique:
        yield _unique_check(field.name)
    if field.message_type is None:
        item_rules = _item_rules(field, rules)
        if item_rules:
            yield _items_check(field.name, item_rules)
    elif not (rules.per_item or field.message_type.GetOptions().map_entry):
        inner = _inner_check(field.message_type, rules)
        if inner is not None:
            yield _messages_check(field.name, inner)


def _count_check(name: str, min_items: int, max_items: int) -> Check:
    def check(message: Message, found: list[Violation]) -> None:
        count = len(getattr(message, name))
        if count < min_items:
            found.append(Violation(name, f"has {count} items; at least {min_items} must be given"))
        elif max_items and count > max_items:
            found.append(Violation(name, f"has {count} items; at most {max_items} are allowed"))

    return check


def _unique_check(name: str) -> Check:
    def check(message: Message, found: list[Violation]) -> None:
        items = getattr(message, name)
        if len(items) < 2 or len(set(items)) == len(items):
            return
        seen = set()
        for index, item in enumerate(items):
            if item in seen:
                found.append(Violation(f"{name}[{index}]", f"{_shown(item)} is there before; items must differ"))
            seen.add(item)

    return check


def _items_check(name: str, item_rules: tuple[Rule, ...]) -> Check:
    def check(message: Message, found: list[Violation]) -> None:
        for index, item in enumerate(getattr(message, name)):
            for rule in item_rules:
                description = rule(item)
                if description is not None:
                    found.append(Violation(f"{name}[{index}]", description))

    return check


def _messages_check(name: str, inner: Check) -> Check:
    def check(message: Message, found: list[Violation]) -> None:
        for index, item in enumerate(getattr(message, name)):
            before = len(found)
            inner(item, found)
            if len(found) > before:
                _prefix(found, before, f"{name}[{index}]")

    return check


def _check_inside(inner: Check, value: Message, name: str, found: list[Violation]) -> None:
    before = len(found)
    inner(value, found)
    if len(found) > before:
        _prefix(found, before, name)


def _prefix(found: list[Violation], start: int, prefix: str) -> None:
    """Make the paths of the violations from `start` on begin at the parent; an empty path is the value itself."""
    for index in range(start, len(found)):
        path, description = found[index].field, found[index].description
        found[index] = Violation(f"{prefix}.{path}" if path else prefix, description)


def _inner_check(descriptor: Descriptor, rules: options_pb2.FieldRules) -> Check | None:
    """What is checked inside a message of this type; None if nothing is."""
    if descriptor.full_name == _STRUCT:
        return _struct_check(rules.max_depth, rules.max_keys)
    if descriptor.full_name == _TIMESTAMP:
        return _check_timestamp
    if descriptor.full_name.startswith("google."):
        return None
    validator = Validator.for_message(descriptor)
    if validator.empty:
        return None

    def check(message: Message, found: list[Violation]) -> None:
        found.extend(validator.violations(message))

    return check


def _value_rules(field: FieldDescriptor, rules: options_pb2.FieldRules) -> list[Rule]:
    found: list[Rule] = []
    if rules.required and not field.has_presence:
        found.append(_required)
    if field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
        found.extend(_text_rules(rules))
    if field.enum_type is not None:
        found.append(_enum_rule(field.enum_type))
    if field.cpp_type in _NUMBERS and (rules.HasField("gte") or rules.HasField("lte")):
        low = rules.gte if rules.HasField("gte") else -math.inf
        high = rules.lte if rules.HasField("lte") else math.inf
        found.append(_range_rule(low, high))
    return found


def _text_rules(rules: options_pb2.FieldRules) -> Iterator[Rule]:
    if rules.min_len or rules.max_len:
        yield _length_rule(rules.min_len, rules.max_len)
    if rules.max_bytes:
        yield _bytes_rule(rules.max_bytes)
    if rules.pattern:
        yield _pattern_rule(rules.pattern)
    if rules.uuid:
        yield _uuid_or_empty


def _item_rules(field: FieldDescriptor, rules: options_pb2.FieldRules) -> tuple[Rule, ...]:
    if field.enum_type is not None:
        return (_enum_rule(field.enum_type),)
    found: list[Rule] = []
    if rules.uuid:
        found.append(_uuid)
    if rules.item_max_len:
        found.append(_item_length_rule(rules.item_max_len))
    return tuple(found)


def _required(value: object) -> str | None:
    return None if value else "is required"


def _length_rule(min_len: int, max_len: int) -> Rule:
    def rule(value: str | bytes) -> str | None:
        count = len(value)
        if count < min_len:
            return f"is {count} characters long; at least {min_len} must be given"
        if max_len and count > max_len:
            return f"is {count} characters long; at most {max_len} characters are allowed"
        return None

    return rule


def _bytes_rule(max_bytes: int) -> Rule:
    short = max_bytes // 4

    def rule(value: str | bytes) -> str | None:
        # A character takes at most 4 bytes, so most texts are known to fit without being encoded.
        if len(value) <= short:
            return None
        count = len(value) if isinstance(value, bytes) or value.isascii() else len(value.encode())
        return f"is {count} bytes long; at most {max_bytes} bytes are allowed" if count > max_bytes else None

    return rule


def _pattern_rule(pattern: str) -> Rule:
    matches = re.compile(pattern, re.ASCII).fullmatch

    def rule(value: str) -> str | None:
        return None if matches(value) else f"{_shown(value)}; text that matches {pattern} is required"

    return rule


def _uuid(value: str) -> str | None:
    return None if is_uuid(value) else f"{_shown(value)}; a lower-case UUID is required"


def _uuid_or_empty(value: str) -> str | None:
    return _uuid(value) if value else None


def _item_length_rule(max_len: int) -> Rule:
    def rule(value: str) -> str | None:
        if not value:
            return f"is empty; 1 to {max_len} characters are allowed"
        return f"is {len(value)} characters long; at most {max_len} are allowed" if len(value) > max_len else None

    return rule


def _enum_rule(enum: EnumDescriptor) -> Rule:
    known, name = frozenset(enum.values_by_number), enum.name

    def rule(value: int) -> str | None:
        return None if value in known else f"{value}; a number of the enum {name} is required"

    return rule


def _range_rule(low: float, high: float) -> Rule:
    allowed = _range_text(low, high)

    def rule(value: float) -> str | None:
        return None if low <= value <= high and value - value == 0 else f"{value}; {allowed} is allowed"

    return rule


def _range_text(low: float, high: float) -> str:
    if high == math.inf:
        return f"at least {low:.16g}"
    if low == -math.inf:
        return f"at most {high:.16g}"
    return f"{low:.16g} to {high:.16g}"


def _check_timestamp(message: Message, found: list[Violation]) -> None:
    seconds, nanos = message.seconds, message.nanos  # type: ignore[attr-defined]
    if not (_FIRST_SECOND <= seconds <= _LAST_SECOND and 0 <= nanos <= 999_999_999):
        text = f"{seconds} seconds and {nanos} nanoseconds; a time of the years 0001 to 9999 is required"
        found.append(Violation("", text))


def _struct_check(max_depth: int, max_keys: int) -> Check:
    depth_limit = max_depth or math.inf

    def check(message: Message, found: list[Violation]) -> None:
        walk = _StructWalk(depth_limit, found)
        walk.struct(message, "", 1)  # type: ignore[arg-type]
        if walk.too_deep:
            found.append(Violation(walk.too_deep, f"is nested too deeply; at most {max_depth} levels are allowed"))
        if max_keys and walk.keys > max_keys:
            found.append(Violation("", f"has {walk.keys} keys; at most {max_keys} keys are allowed"))

    return check


class _StructWalk:
    """One pass over a Struct: counts its keys, finds the first place that is too deep and every number that is none."""

    __slots__ = ("found", "keys", "limit", "too_deep")

    def __init__(self, limit: float, found: list[Violation]) -> None:
        self.limit = limit
        self.found = found
        self.keys = 0
        self.too_deep = ""

    def struct(self, struct: Struct, path: str, depth: int) -> None:
        fields = struct.fields
        self.keys += len(fields)
        for key, value in fields.items():
            self._value(value, path, key, depth)

    def _list(self, items: ListValue, path: str, depth: int) -> None:
        for index, value in enumerate(items.values):
            self._value(value, path, index, depth)

    def _value(self, value: Value, parent: str, key: str | int, depth: int) -> None:
        kind = value.WhichOneof("kind")
        if kind == "number_value":
            number = value.number_value
            if number - number != 0:
                self.found.append(Violation(_joined(parent, key), f"{number}; a finite number is required"))
        elif kind in ("struct_value", "list_value"):
            path = _joined(parent, key)
            if depth >= self.limit:
                self.too_deep = self.too_deep or path
            elif kind == "struct_value":
                self.struct(value.struct_value, path, depth + 1)
            else:
                self._list(value.list_value, path, depth + 1)
        elif kind is None:
            self.found.append(Violation(_joined(parent, key), "has no value; null is one"))


def _joined(path: str, key: str | int) -> str:
    if isinstance(key, int):
        return f"{path}[{key}]"
    shown = key if len(key) <= SHOWN_CHARACTERS else key[: SHOWN_CHARACTERS - 3] + "..."
    return f"{path}.{shown}" if path else shown


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[: SHOWN_CHARACTERS - 4]}...{text[-1]}"


class ValidationStage:
    """Refuses requests that break the rules of their fields; on request streams every message is checked as it comes.

    Handlers take the messages of a request stream from the iterator they are given, never from the context.
    """

    name = "validation"

    async def handle(self, call: ServerCall, proceed: Proceed) -> Any:
        """Check what comes in. Requests of handlers that pass bytes on are left to the server that reads them."""
        if call.info is not None and not call.raw:
            validator = Validator.for_message(call.info.request.DESCRIPTOR)
            if call.request_streaming:
                call.request = _checked(call.request, validator)
            else:
                _check_request(call.request, validator)
        return await proceed(call)


async def _checked(requests: AsyncIterator[Any], validator: Validator) -> AsyncIterator[Any]:
    async for request in requests:
        _check_request(request, validator)
        yield request


def _check_request(request: Any, validator: Validator) -> None:
    if isinstance(request, Malformed):
        raise InvalidFieldError(f"the request is not a valid {request.type_name}")
    validator.validate(request)
