"""Protobuf's well-known types as plain Python values, and back.

Struct <-> dict (integral numbers come back as int: a Struct only knows doubles), Timestamp <-> aware datetime in UTC.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from google.protobuf.struct_pb2 import ListValue, Struct, Value
from google.protobuf.timestamp_pb2 import Timestamp

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LARGEST_EXACT_INTEGER = 2.0**53


def struct_to_dict(struct: Struct) -> dict[str, Any]:
    """The content of `struct` as dict, list, str, bool, None, int (integral numbers up to 2**53) and float."""
    return {key: _from_value(value) for key, value in struct.fields.items()}


def dict_to_struct(content: Mapping[str, Any]) -> Struct:
    """A Struct with `content`. Raises TypeError for what JSON has no place for."""
    struct = Struct()
    _fill_struct(struct, content)
    return struct


def to_datetime(timestamp: Timestamp) -> datetime:
    """The moment of `timestamp`, cut to microseconds; years 1 to 9999."""
    return _EPOCH + timedelta(seconds=timestamp.seconds, microseconds=timestamp.nanos // 1000)


def to_timestamp(moment: datetime) -> Timestamp:
    """The Timestamp of an aware datetime. Raises ValueError for one without a time zone."""
    if moment.tzinfo is None:
        raise ValueError(f"{moment.isoformat()} has no time zone")
    elapsed = moment - _EPOCH
    return Timestamp(seconds=elapsed.days * 86400 + elapsed.seconds, nanos=elapsed.microseconds * 1000)


def _from_value(value: Value) -> Any:
    kind = value.WhichOneof("kind")
    if kind == "string_value":
        return value.string_value
    if kind == "number_value":
        number = value.number_value
        return int(number) if number.is_integer() and abs(number) <= _LARGEST_EXACT_INTEGER else number
    if kind == "bool_value":
        return value.bool_value
    if kind == "struct_value":
        return struct_to_dict(value.struct_value)
    if kind == "list_value":
        return [_from_value(item) for item in value.list_value.values]
    return None


def _fill_struct(struct: Struct, content: Mapping[str, Any]) -> None:
    for key, item in content.items():
        if not isinstance(key, str):
            raise TypeError(f"key {key!r} is not a string")
        _fill_value(struct.fields[key], item)


def _fill_list(target: ListValue, items: Sequence[Any]) -> None:
    for item in items:
        _fill_value(target.values.add(), item)


def _fill_value(value: Value, item: Any) -> None:
    if item is None:
        value.null_value = 0  # type: ignore[assignment]
    elif isinstance(item, bool):
        value.bool_value = item
    elif isinstance(item, (int, float)):
        value.number_value = float(item)
    elif isinstance(item, str):
        value.string_value = item
    elif isinstance(item, dict):
        _fill_struct(value.struct_value, item)
        value.struct_value.SetInParent()
    elif isinstance(item, (list, tuple)):
        _fill_list(value.list_value, item)
        value.list_value.SetInParent()
    else:
        raise TypeError(f"{item!r} is of type {type(item).__name__}; allowed are JSON values")
