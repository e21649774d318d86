"""GatewayService on the wire."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mnemocore.calls import caller
from mnemocore.gateway.v1 import gateway_service_pb2 as pb
from mnemocore.gateway.v1 import gateway_service_pb2_grpc
from mnemocore.ids import ApiKeyId
from mnemocore.policy import all_methods
from mnemocore.version import __version__
from mnemocore.wire import to_datetime, to_timestamp

if TYPE_CHECKING:
    import grpc

    from mnemo_gateway.domain.api_key import ApiKey
    from mnemo_gateway.domain.keyring import Keyring
    from mnemo_gateway.domain.ports import Backends


class GatewayServicer(gateway_service_pb2_grpc.GatewayServiceServicer):
    """Converts, calls the domain, converts back."""

    def __init__(self, keyring: Keyring, backends: Backends) -> None:
        self._keyring = keyring
        self._backends = backends

    async def GetCapabilities(
        self, request: pb.GetCapabilitiesRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.GetCapabilitiesResponse:
        identity = caller()
        readiness = await self._backends.readiness()
        return pb.GetCapabilitiesResponse(
            version=__version__,
            tenant=identity.tenant,
            principal=identity.principal,
            scopes=sorted(identity.scopes),
            services=[pb.ServiceStatus(service=name, ready=ready) for name, ready in sorted(readiness.items())],
            methods=sorted(method.path.removeprefix("/") for method in all_methods() if method.public),
        )

    async def CreateApiKey(
        self, request: pb.CreateApiKeyRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.CreateApiKeyResponse:
        expires_at = to_datetime(request.expire_time) if request.HasField("expire_time") else None
        key, secret = await self._keyring.create(
            caller(), request.tenant, request.principal, request.scopes, expires_at
        )
        return pb.CreateApiKeyResponse(api_key=_from_key(key), secret=secret)

    async def ListApiKeys(
        self, request: pb.ListApiKeysRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.ListApiKeysResponse:
        keys, token = await self._keyring.list(caller(), request.page_size, request.page_token)
        return pb.ListApiKeysResponse(api_keys=[_from_key(key) for key in keys], next_page_token=token)

    async def DeleteApiKey(
        self, request: pb.DeleteApiKeyRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.DeleteApiKeyResponse:
        await self._keyring.revoke(caller(), ApiKeyId(request.name.removeprefix("apiKeys/")))
        return pb.DeleteApiKeyResponse()


def _from_key(key: ApiKey) -> pb.ApiKey:
    message = pb.ApiKey(
        name=key.name,
        tenant=key.tenant,
        principal=key.principal,
        scopes=sorted(key.scopes),
        create_time=to_timestamp(key.created_at),
    )
    if key.expires_at:
        message.expire_time.CopyFrom(to_timestamp(key.expires_at))
    return message
