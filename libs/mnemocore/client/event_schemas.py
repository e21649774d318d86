"""Schemas: what events of a type must look like."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

from mnemocore.client import convert
from mnemocore.client import event_values as values
from mnemocore.client.event_convert import event_to_wire, schema_from_wire
from mnemocore.errors import Violation
from mnemocore.events.v1 import schema_service_pb2 as wire

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from mnemocore.client.services import Services
    from mnemocore.client.values import Json


class Schemas:
    """The schemas of a tenant, and the platform's own. Comes from `Events.schemas`."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def register(
        self,
        type: str,
        definition: Mapping[str, Json] | str | bytes,
        *,
        format: values.SchemaFormat | str = values.SchemaFormat.JSON,
        message_name: str = "",
        compatibility: values.SchemaCompatibility | str | None = None,
        closed: bool = False,
        description: str = "",
    ) -> values.EventSchema:
        """Register the next version of a type's schema. The definition of the newest version again changes nothing.

        `definition` is JSON Schema (draft 2020-12), as a mapping or text, or with the format `protobuf` a serialised
        FileDescriptorSet, in which `message_name` names the message. `compatibility` says what later versions may
        change: None: as before, `backward` for the first. `closed` refuses fields that the schema does not know.

        Raises SchemaIncompatibleError, PermissionDeniedError for types of the platform.
        """
        request = wire.RegisterSchemaRequest(
            format=convert.enum_to_wire(values.SchemaFormat, format, "format"), closed=closed
        )
        convert.assign(request, "type", type)
        convert.assign(request, "definition", _definition(definition))
        convert.assign(request, "message_name", message_name)
        convert.assign(request, "description", description)
        if compatibility is not None:
            request.compatibility = convert.enum_to_wire(values.SchemaCompatibility, compatibility, "compatibility")
        response = await self._services.call(self._services.schemas.RegisterSchema, request)
        return schema_from_wire(response.schema)

    async def get(self, type: str, version: int | None = None) -> values.EventSchema:
        """A version of a type's schema; None: the newest. Raises SchemaNotFoundError."""
        name = f"schemas/{type}" if version is None else f"schemas/{type}/versions/{version}"
        request = wire.GetSchemaRequest()
        convert.assign(request, "name", name, "type")
        return schema_from_wire((await self._services.call(self._services.schemas.GetSchema, request)).schema)

    async def list(self, type: str = "", *, page_size: int = 0) -> AsyncIterator[values.EventSchema]:
        """The newest version of every type by type, or all versions of one type, newest first. Reads page by page."""
        request = wire.ListSchemasRequest(page_size=page_size)
        convert.assign(request, "type", type)
        async for page in self._services.pages(self._services.schemas.ListSchemas, request):
            for schema in page.schemas:
                yield schema_from_wire(schema)

    async def delete(self, type: str) -> int:
        """Delete all versions of a type, whose events are not checked any more; how many there were."""
        request = wire.DeleteSchemaRequest()
        convert.assign(request, "name", f"schemas/{type}", "type")
        return (await self._services.call(self._services.schemas.DeleteSchema, request)).deleted

    async def validate(self, items: Iterable[values.EventInput]) -> tuple[Violation, ...]:
        """What publishing up to 1,000 events would refuse; empty: nothing. Publishes nothing."""
        now = self._services.clock.now()
        events = [event_to_wire(item, self._services.request_id(), now) for item in items]
        request = wire.ValidateEventsRequest(events=events)
        response = await self._services.call(self._services.schemas.ValidateEvents, request)
        return tuple(Violation(found.field, found.description) for found in response.violations)


def _definition(definition: Mapping[str, Json] | str | bytes) -> bytes:
    if isinstance(definition, bytes):
        return definition
    try:
        text = json.dumps(definition) if isinstance(definition, Mapping) else definition
        return text.encode()
    except (TypeError, ValueError, AttributeError) as error:
        raise convert.invalid("definition", f"is neither JSON nor bytes: {error}") from None
