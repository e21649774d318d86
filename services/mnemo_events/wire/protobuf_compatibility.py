"""Whether readers of one protobuf message understand what is written as another.

Messages are compared field by field, by their numbers, also inside one another:

- A field of both has the same type, or one that reads the other's on the wire without loss: int32 as int64, uint32 as
  uint64, sint32 as sint64, string as bytes. It is repeated (or a map) in both or in neither, and in the same oneof.
- An enum of the reader knows every number of the writer's.
- A field that only the writer has must not meet a reader that is closed.
- What the reader requires (proto2), the writer requires too.

Names of fields, messages and enums do not matter: they are not on the wire. From version to version a number that is no
longer used must be reserved, and a reserved one stays so.
"""

from __future__ import annotations

from bisect import bisect_right
from operator import itemgetter
from typing import TYPE_CHECKING, Final

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.descriptor_pb2 import DescriptorProto

if TYPE_CHECKING:
    from collections.abc import Iterator

    from google.protobuf.descriptor import Descriptor, EnumDescriptor

_NAMES: Final = {
    value: name.removeprefix("TYPE_").lower()
    for name, value in vars(FieldDescriptor).items()
    if name.startswith("TYPE_")
}
_READS: Final = {
    FieldDescriptor.TYPE_INT64: {FieldDescriptor.TYPE_INT32},
    FieldDescriptor.TYPE_UINT64: {FieldDescriptor.TYPE_UINT32},
    FieldDescriptor.TYPE_SINT64: {FieldDescriptor.TYPE_SINT32},
    FieldDescriptor.TYPE_BYTES: {FieldDescriptor.TYPE_STRING},
}
"""Types that read what was written as others."""


def refusals(reader: Descriptor, writer: Descriptor, *, closed: bool) -> list[str]:
    """What a message of `writer` may have that `reader` does not understand, or refuses as it is closed."""
    return list(_Comparison(closed=closed).messages("", reader, writer))


def reuses(after: Descriptor, before: Descriptor) -> list[str]:
    """Numbers that `after` gives up without reserving them, or uses though `before` reserved them."""
    return list(_reuses("", after, before, set()))


class _Comparison:
    """Compares messages; those that come up again inside themselves are looked at once."""

    def __init__(self, *, closed: bool) -> None:
        self._closed = closed
        self._seen: set[tuple[str, str]] = set()

    def messages(self, place: str, reader: Descriptor, writer: Descriptor) -> Iterator[str]:
        """What is not understood of a message."""
        if (reader.full_name, writer.full_name) in self._seen:
            return
        self._seen.add((reader.full_name, writer.full_name))
        for number, written in sorted(writer.fields_by_number.items()):
            known = reader.fields_by_number.get(number)
            if known is not None:
                yield from self._fields(f"{place}.{written.name}", known, written)
            elif self._closed:
                yield f"{place}.{written.name} ({number}) is not known, and no others are allowed"
        for number, known in sorted(reader.fields_by_number.items()):
            promised = writer.fields_by_number.get(number)
            if known.is_required and not (promised is not None and promised.is_required):
                yield f"{place}.{known.name} ({number}) is required, and may be missing"

    def _fields(self, place: str, reader: FieldDescriptor, writer: FieldDescriptor) -> Iterator[str]:
        name = f"{place} ({writer.number})"
        if reader.is_repeated != writer.is_repeated or _is_map(reader) != _is_map(writer):
            yield f"{name} is {_cardinality(writer)}, expected is {_cardinality(reader)}"
            return
        if _oneof(reader) != _oneof(writer):
            yield f"{name} is in {_oneof(writer) or 'no oneof'}, expected is {_oneof(reader) or 'no oneof'}"
        if reader.type != writer.type and writer.type not in _READS.get(reader.type, ()):
            yield f"{name} is {_NAMES[writer.type]}, expected is {_NAMES[reader.type]}"
        elif reader.message_type is not None and writer.message_type is not None:
            yield from self.messages(place, reader.message_type, writer.message_type)
        elif reader.enum_type is not None and writer.enum_type is not None:
            yield from _enums(name, reader.enum_type, writer.enum_type)


def _enums(name: str, reader: EnumDescriptor, writer: EnumDescriptor) -> Iterator[str]:
    for number in sorted(set(writer.values_by_number) - set(reader.values_by_number)):
        yield f"{name} may be {writer.values_by_number[number].name} ({number}), which is not known"


def _reuses(place: str, after: Descriptor, before: Descriptor, seen: set[tuple[str, str]]) -> Iterator[str]:
    if (after.full_name, before.full_name) in seen:
        return
    seen.add((after.full_name, before.full_name))
    reserved, reserved_before = _reserved(after), _reserved(before)
    for number, field in sorted(before.fields_by_number.items()):
        kept = after.fields_by_number.get(number)
        if kept is None and not _within(number, reserved):
            yield f"{place}.{field.name}: the number {number} is no longer used and must be reserved"
        elif kept is not None and kept.message_type is not None and field.message_type is not None:
            yield from _reuses(f"{place}.{field.name}", kept.message_type, field.message_type, seen)
    for number, field in sorted(after.fields_by_number.items()):
        if _within(number, reserved_before):
            yield f"{place}.{field.name}: the number {number} was reserved and must not be used again"
    for start, end in reserved_before:
        if not _all_taken(start, end, reserved, after):
            yield f"{place or 'the message'}: numbers {start} to {end - 1} were reserved and must stay so"


def _reserved(descriptor: Descriptor) -> list[tuple[int, int]]:
    """Ranges of reserved numbers, each without its end, in order and apart from each other."""
    proto = DescriptorProto()
    descriptor.CopyToProto(proto)
    found: list[tuple[int, int]] = []
    for start, end in sorted((each.start, each.end) for each in proto.reserved_range):
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(end, found[-1][1]))
        else:
            found.append((start, end))
    return found


def _within(number: int, ranges: list[tuple[int, int]]) -> bool:
    return _end_around(number, ranges) > number


def _all_taken(start: int, end: int, ranges: list[tuple[int, int]], after: Descriptor) -> bool:
    """Whether each number of a range lies in some of the ranges, or is used, which is named elsewhere."""
    used = after.fields_by_number
    while start < end:
        if start in used:
            start += 1
        elif _within(start, ranges):
            start = _end_around(start, ranges)
        else:
            return False
    return True


def _end_around(number: int, ranges: list[tuple[int, int]]) -> int:
    """The end of the last range that does not begin after a number; 0 if there is none."""
    place = bisect_right(ranges, number, key=itemgetter(0))
    return ranges[place - 1][1] if place else 0


def _is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and field.message_type.GetOptions().map_entry


def _cardinality(field: FieldDescriptor) -> str:
    return "a map" if _is_map(field) else "repeated" if field.is_repeated else "singular"


def _oneof(field: FieldDescriptor) -> str:
    """The oneof a field is in; "" for none, and for one that only says that the field may be missing."""
    oneof = field.containing_oneof
    if oneof is None or oneof.name == f"_{field.name}":
        return ""
    return str(oneof.name)
