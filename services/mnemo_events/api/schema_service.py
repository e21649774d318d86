"""The servicer of `mnemocore.events.v1.SchemaService`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mnemo_events.wire.events import to_event
from mnemo_events.wire.schemas import from_schema, to_compatibility, to_definition, type_and_version, type_of
from mnemocore.calls import caller
from mnemocore.events.v1 import schema_service_pb2 as pb
from mnemocore.events.v1 import schema_service_pb2_grpc

if TYPE_CHECKING:
    from grpc.aio import ServicerContext

    from mnemo_events.domain.publication import Publication
    from mnemo_events.domain.schemas import Schemas

    Context = ServicerContext[Any, Any]


class SchemaServicer(schema_service_pb2_grpc.SchemaServiceServicer):
    """Converts requests, calls the domain, converts back."""

    def __init__(self, schemas: Schemas, publication: Publication) -> None:
        self._schemas = schemas
        self._publication = publication

    async def RegisterSchema(self, request: pb.RegisterSchemaRequest, context: Context) -> pb.RegisterSchemaResponse:
        schema = await self._schemas.register(
            caller().tenant,
            request.type,
            to_definition(request),
            to_compatibility(request.compatibility),
            request.description,
        )
        return pb.RegisterSchemaResponse(schema=from_schema(schema))

    async def GetSchema(self, request: pb.GetSchemaRequest, context: Context) -> pb.GetSchemaResponse:
        schema = await self._schemas.get(caller().tenant, *type_and_version(request.name))
        return pb.GetSchemaResponse(schema=from_schema(schema))

    async def ListSchemas(self, request: pb.ListSchemasRequest, context: Context) -> pb.ListSchemasResponse:
        page, token = await self._schemas.list_schemas(
            caller().tenant, request.type, request.page_size, request.page_token
        )
        return pb.ListSchemasResponse(schemas=[from_schema(schema) for schema in page], next_page_token=token)

    async def DeleteSchema(self, request: pb.DeleteSchemaRequest, context: Context) -> pb.DeleteSchemaResponse:
        deleted = await self._schemas.delete(caller().tenant, type_of(request.name))
        return pb.DeleteSchemaResponse(deleted=deleted)

    async def ValidateEvents(self, request: pb.ValidateEventsRequest, context: Context) -> pb.ValidateEventsResponse:
        violations = await self._publication.violations(caller(), [to_event(event) for event in request.events])
        return pb.ValidateEventsResponse(
            violations=[
                pb.ValidateEventsResponse.Violation(field=violation.field, description=violation.description)
                for violation in violations
            ]
        )
