"""Schemas in protobuf: a serialised FileDescriptorSet and the name of a message in it."""

from __future__ import annotations

from graphlib import CycleError, TopologicalSorter
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError, Message
from google.protobuf.unknown_fields import UnknownFieldSet

from mnemo_events.domain.schemas import Shape
from mnemo_events.wire.protobuf_compatibility import refusals, reuses
from mnemocore.errors import InvalidFieldError, Violation

if TYPE_CHECKING:
    from collections.abc import Iterator

    from google.protobuf.descriptor import Descriptor

    from mnemo_events.domain.effort import Effort
    from mnemo_events.domain.schemas import Definition

_MAX_PROBLEMS: Final = 20
_MAX_PATH: Final = 200
_BYTES: Final = 40
"""About what a byte of a definition takes when it is understood."""


class ProtobufSchemas:
    """Implements `mnemo_events.domain.schemas.SchemaLanguage`."""

    content_type = "application/protobuf"

    def understand(self, definition: Definition) -> ProtobufShape:
        """Load a definition into a pool of its own. Raises InvalidFieldError."""
        try:
            files = descriptor_pb2.FileDescriptorSet.FromString(definition.content)
        except DecodeError:
            raise _wrong("definition", "is no serialised google.protobuf.FileDescriptorSet") from None
        if not definition.message_name:
            raise _wrong("message_name", "is empty; a protobuf schema needs the full name of its message")
        pool = _pool(files)
        try:
            descriptor = pool.FindMessageTypeByName(definition.message_name)
        except KeyError:
            text = f"{definition.message_name!r} is no message of the definition"
            raise _wrong("message_name", text) from None
        try:
            return ProtobufShape(files, descriptor, closed=definition.closed)
        except RecursionError:
            raise _wrong("definition", "has messages that lead on to too many others, one after the other") from None


class ProtobufShape(Shape):
    """A message that was understood. With `closed` it may have no fields that the descriptor does not name."""

    def __init__(self, files: descriptor_pb2.FileDescriptorSet, descriptor: Descriptor, *, closed: bool) -> None:
        self._files = files
        self.descriptor = descriptor
        self._message = message_factory.GetMessageClass(descriptor)
        self._is_closed = closed

    @property
    def weight(self) -> int:
        """About how many bytes of memory it takes."""
        return _BYTES * self._files.ByteSize()

    @property
    def canonical(self) -> bytes:
        """The files by name, without comments and places in the source."""
        found = descriptor_pb2.FileDescriptorSet(file=sorted(self._files.file, key=lambda file: file.name))
        for file in found.file:
            file.ClearField("source_code_info")
        return found.SerializeToString(deterministic=True)

    def problems(self, data: bytes, effort: Effort) -> Iterator[Violation]:
        """What is wrong with data."""
        effort.spend(1 + len(data) // 1000)
        try:
            message: Any = self._message.FromString(data)
        except DecodeError:
            yield Violation("", f"is no serialised {self.descriptor.full_name}")
            return
        if not type(message).IsInitialized(message):
            yield from (Violation(path, "is required") for path in islice(_missing(message, "", effort), _MAX_PROBLEMS))
        if self._is_closed:
            for path, number in islice(_unknown(message, "", effort), _MAX_PROBLEMS):
                yield Violation(path, f"has the field {number}, which is not known to the schema")

    def refused_of(self, writer: Shape) -> list[str]:
        """What messages of `writer` may have that is refused here. See `protobuf_compatibility`."""
        assert isinstance(writer, ProtobufShape)
        return refusals(self.descriptor, writer.descriptor, closed=self._is_closed)

    def unsuited_after(self, before: Shape) -> list[str]:
        """Numbers that are given up without being reserved, or used again."""
        assert isinstance(before, ProtobufShape)
        return reuses(self.descriptor, before.descriptor)


def _pool(files: descriptor_pb2.FileDescriptorSet) -> descriptor_pool.DescriptorPool:
    """A pool with all files, each after what it imports. Raises InvalidFieldError."""
    pool = descriptor_pool.DescriptorPool()
    waiting = {file.name: file for file in files.file}
    if len(waiting) < len(files.file):
        raise _wrong("definition", "has a file twice")
    imports = {name: [known for known in file.dependency if known in waiting] for name, file in waiting.items()}
    try:
        ordered = list(TopologicalSorter(imports).static_order())
    except CycleError as error:
        raise _wrong("definition", f"has files that import each other: {', '.join(error.args[1])[:200]}") from None
    for name in ordered:
        try:
            pool.Add(waiting[name])
        except TypeError as error:
            text = f"does not hold together: {error}; it must have all that it imports"
            raise _wrong("definition", text[:500]) from None
    return pool


def _unknown(message: Message, path: str, effort: Effort) -> Iterator[tuple[str, int]]:
    """Paths of messages with fields that are not known, and the numbers of these."""
    effort.spend()
    unknown_fields: Any = UnknownFieldSet(message)
    for unknown in unknown_fields:
        yield path, unknown.field_number
    for step, inner in _messages(message):
        yield from _unknown(inner, _joined(path, step), effort)


def _missing(message: Message, path: str, effort: Effort) -> Iterator[str]:
    """Paths of fields that are required and not there."""
    effort.spend(1 + len(message.DESCRIPTOR.fields) // 8)
    has_field = type(message).HasField
    for field in message.DESCRIPTOR.fields:
        if field.is_required and not has_field(message, field.name):
            yield _joined(path, f".{field.name}")
    for step, inner in _messages(message):
        yield from _missing(inner, _joined(path, step), effort)


def _messages(message: Message) -> Iterator[tuple[str, Message]]:
    """The messages right inside one, and the steps to them.

    Methods are taken from the class: a field may have the name of one.
    """
    for field, value in type(message).ListFields(message):
        if field.message_type is None:
            continue
        if field.message_type.GetOptions().map_entry:
            if field.message_type.fields_by_name["value"].message_type is not None:
                yield from ((f".{field.name}[{key!r}]", inner) for key, inner in value.items())
        elif field.is_repeated:
            yield from ((f".{field.name}[{index}]", inner) for index, inner in enumerate(value))
        else:
            yield f".{field.name}", value


def _joined(path: str, step: str) -> str:
    """A path with one more step, cut where it becomes too long."""
    if len(path) + len(step) <= _MAX_PATH:
        return path + step
    return path if path.endswith("...") else f"{(path + step[:_MAX_PATH])[: _MAX_PATH - 3]}..."


def _wrong(field: str, text: str) -> InvalidFieldError:
    return InvalidFieldError.of([Violation(field, text)])
