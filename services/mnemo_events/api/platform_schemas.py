"""The platform's own event types as schemas, with the descriptors of the contracts as their definitions."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from google.protobuf import descriptor_pb2

from mnemo_events.domain.platform_types import PLATFORM_TYPES
from mnemo_events.domain.schemas import Compatibility, Definition, Format, Schema
from mnemocore.ids import Tenant
from mnemocore.memory.v1 import resources_pb2

if TYPE_CHECKING:
    from google.protobuf.descriptor import FileDescriptor

    from mnemo_events.domain.platform_types import PlatformType

_MESSAGES = {message.full_name: message for message in (resources_pb2.Revision.DESCRIPTOR,)}
"""The messages that events carry."""


def platform_schemas() -> list[Schema]:
    """A schema for each type of the platform; they belong to no tenant."""
    return [
        Schema(Tenant(""), each.type, 1, _definition(each), Compatibility.BACKWARD, each.description, None)
        for each in PLATFORM_TYPES
    ]


def _definition(each: PlatformType) -> Definition:
    if each.message:
        return Definition(Format.PROTOBUF, _descriptors(each.message), each.message, closed=False)
    if each.content:
        return Definition(Format.JSON, each.json_schema, "", closed=False)
    return Definition(Format.NOTHING, b"", "", closed=False)


@cache
def _descriptors(message: str) -> bytes:
    """A serialised FileDescriptorSet with the file of a message and all it imports."""
    files: dict[str, FileDescriptor] = {}
    _collect(_MESSAGES[message].file, files)
    found = descriptor_pb2.FileDescriptorSet()
    for file in files.values():
        file.CopyToProto(found.file.add())
    return found.SerializeToString(deterministic=True)


def _collect(file: FileDescriptor, files: dict[str, FileDescriptor]) -> None:
    for needed in file.dependencies:
        if needed.name not in files:
            _collect(needed, files)
    files[file.name] = file
