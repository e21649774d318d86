"""What every method asks for, read from the options in its descriptor: the one place servers, clients and docs look."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Final

from google.protobuf.descriptor_pb2 import MethodOptions
from google.protobuf.message_factory import GetMessageClass

from mnemocore.cognitive.v1 import cognition_service_pb2
from mnemocore.common.v1 import options_pb2
from mnemocore.events.v1 import (
    access_service_pb2,
    agent_service_pb2,
    event_service_pb2,
    group_service_pb2,
    schema_service_pb2,
    task_service_pb2,
    webhook_service_pb2,
)
from mnemocore.gateway.v1 import gateway_service_pb2
from mnemocore.index.v1 import encoder_service_pb2, hypervector_service_pb2, index_service_pb2
from mnemocore.memory.v1 import (
    association_service_pb2,
    grant_service_pb2,
    media_service_pb2,
    memory_service_pb2,
    session_service_pb2,
    space_service_pb2,
    transfer_service_pb2,
    working_memory_service_pb2,
)

if TYPE_CHECKING:
    from google.protobuf.descriptor import FileDescriptor, MethodDescriptor, ServiceDescriptor
    from google.protobuf.message import Message

SERVICE_FILES: Final[tuple[FileDescriptor, ...]] = (
    memory_service_pb2.DESCRIPTOR,
    space_service_pb2.DESCRIPTOR,
    association_service_pb2.DESCRIPTOR,
    grant_service_pb2.DESCRIPTOR,
    media_service_pb2.DESCRIPTOR,
    working_memory_service_pb2.DESCRIPTOR,
    session_service_pb2.DESCRIPTOR,
    transfer_service_pb2.DESCRIPTOR,
    index_service_pb2.DESCRIPTOR,
    hypervector_service_pb2.DESCRIPTOR,
    encoder_service_pb2.DESCRIPTOR,
    event_service_pb2.DESCRIPTOR,
    group_service_pb2.DESCRIPTOR,
    schema_service_pb2.DESCRIPTOR,
    access_service_pb2.DESCRIPTOR,
    webhook_service_pb2.DESCRIPTOR,
    agent_service_pb2.DESCRIPTOR,
    task_service_pb2.DESCRIPTOR,
    cognition_service_pb2.DESCRIPTOR,
    gateway_service_pb2.DESCRIPTOR,
)
"""Every proto file that declares a service."""


@dataclass(frozen=True, slots=True)
class MethodInfo:
    """One method and its policy.

    `path` is the name on the wire, `/mnemocore.memory.v1.MemoryService/GetMemory`. Deadlines are in seconds, None where
    the proto sets none. `idempotent` says that the method may be called again safely (NO_SIDE_EFFECTS or IDEMPOTENT),
    `has_request_id` that its request can carry one. `without_tenant` says that the services of one installation may
    call it for no tenant: every internal method, and public ones that declare it. `cost` is at least 1.
    """

    path: str
    scope: str
    public: bool
    without_tenant: bool
    destructive: bool
    cost: int
    default_deadline: float | None
    max_deadline: float | None
    idempotent: bool
    has_request_id: bool
    client_streaming: bool
    server_streaming: bool
    request: type[Message]
    response: type[Message]

    @property
    def unary(self) -> bool:
        """Whether one request is answered by one response."""
        return not (self.client_streaming or self.server_streaming)


def methods_of(service: ServiceDescriptor) -> tuple[MethodInfo, ...]:
    """The methods of one service, in the order of the proto file."""
    return tuple(_method_info(service, method) for method in service.methods)


@cache
def all_methods() -> tuple[MethodInfo, ...]:
    """Every method of every service."""
    return tuple(
        info for file in SERVICE_FILES for service in file.services_by_name.values() for info in methods_of(service)
    )


def method_info(path: str) -> MethodInfo | None:
    """The method with this name on the wire (`/package.Service/Method`), None if no proto declares it."""
    return _by_path().get(path)


@cache
def _by_path() -> dict[str, MethodInfo]:
    return {info.path: info for info in all_methods()}


def _method_info(service: ServiceDescriptor, method: MethodDescriptor) -> MethodInfo:
    options = method.GetOptions()
    policy = options.Extensions[options_pb2.policy]
    return MethodInfo(
        path=f"/{service.full_name}/{method.name}",
        scope=policy.scope,
        public=policy.visibility == options_pb2.VISIBILITY_PUBLIC,
        without_tenant=policy.without_tenant or policy.visibility == options_pb2.VISIBILITY_INTERNAL,
        destructive=policy.destructive,
        cost=max(1, policy.cost),
        default_deadline=_seconds(policy, "default_deadline"),
        max_deadline=_seconds(policy, "max_deadline"),
        idempotent=options.idempotency_level in (MethodOptions.NO_SIDE_EFFECTS, MethodOptions.IDEMPOTENT),
        has_request_id="request_id" in method.input_type.fields_by_name,
        client_streaming=method.client_streaming,
        server_streaming=method.server_streaming,
        request=GetMessageClass(method.input_type),
        response=GetMessageClass(method.output_type),
    )


def _seconds(policy: options_pb2.MethodPolicy, field: str) -> float | None:
    if not policy.HasField(field):  # type: ignore[arg-type]
        return None
    duration = getattr(policy, field)
    return float(duration.seconds + duration.nanos / 1e9)
