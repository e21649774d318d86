"""Schemas as messages."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from mnemo_events.domain.schemas import Compatibility, Definition, Format
from mnemocore.errors import InvalidFieldError, Violation
from mnemocore.events.v1 import resources_pb2
from mnemocore.wire import to_timestamp

if TYPE_CHECKING:
    from mnemo_events.domain.schemas import Schema
    from mnemocore.events.v1 import schema_service_pb2

_NAME: Final = re.compile(r"schemas/([a-z0-9_]+(?:\.[a-z0-9_]+){1,4})(?:/versions/([1-9][0-9]{0,8}))?")


def to_definition(request: schema_service_pb2.RegisterSchemaRequest) -> Definition:
    """The definition in a request."""
    return Definition(Format(request.format), request.definition, request.message_name, request.closed)


def to_compatibility(number: int) -> Compatibility | None:
    """What a request says of compatibility; None if nothing."""
    return Compatibility(number) if number else None


def type_and_version(name: str) -> tuple[str, int | None]:
    """Type and version in `schemas/{type}/versions/{version}` or `schemas/{type}`. Raises InvalidFieldError."""
    if found := _NAME.fullmatch(name):
        return found[1], int(found[2]) if found[2] else None
    expected = "expected 'schemas/<type>' or 'schemas/<type>/versions/<version>'"
    raise InvalidFieldError.of([Violation("name", f"{name!r} is malformed; {expected}")])


def type_of(name: str) -> str:
    """The type in `schemas/{type}`. Raises InvalidFieldError."""
    type, version = type_and_version(name)
    if version is not None:
        raise InvalidFieldError.of([Violation("name", f"{name!r} is one version; expected 'schemas/<type>'")])
    return type


def from_schema(schema: Schema) -> resources_pb2.EventSchema:
    """A schema for an answer."""
    created = schema.created_at
    return resources_pb2.EventSchema(
        name=schema.name,
        type=schema.type,
        version=schema.version,
        format=resources_pb2.SchemaFormat.ValueType(schema.definition.format),
        definition=schema.definition.content,
        message_name=schema.definition.message_name,
        compatibility=resources_pb2.SchemaCompatibility.ValueType(schema.compatibility),
        closed=schema.definition.closed,
        create_time=to_timestamp(created) if created is not None else None,
        platform=created is None,
        description=schema.description,
    )
