"""The servicer of `mnemocore.events.v1.WebhookService`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mnemo_events.wire.names import id_of
from mnemo_events.wire.webhooks import from_delivery, from_webhook, to_draft, to_fields
from mnemocore.calls import caller
from mnemocore.events.v1 import webhook_service_pb2 as pb
from mnemocore.events.v1 import webhook_service_pb2_grpc

if TYPE_CHECKING:
    from grpc.aio import ServicerContext

    from mnemo_events.domain.webhooks import Webhooks

    Context = ServicerContext[Any, Any]


class WebhookServicer(webhook_service_pb2_grpc.WebhookServiceServicer):
    """Converts requests, calls the domain, converts back."""

    def __init__(self, webhooks: Webhooks) -> None:
        self._webhooks = webhooks

    async def CreateWebhook(self, request: pb.CreateWebhookRequest, context: Context) -> pb.CreateWebhookResponse:
        draft = to_draft(request.webhook, caller().tenant)
        webhook = await self._webhooks.create(caller(), request.webhook_id, draft)
        return pb.CreateWebhookResponse(webhook=from_webhook(webhook, caller()))

    async def GetWebhook(self, request: pb.GetWebhookRequest, context: Context) -> pb.GetWebhookResponse:
        webhook = await self._webhooks.get(caller().tenant, id_of("webhooks", request.name))
        return pb.GetWebhookResponse(webhook=from_webhook(webhook, caller()))

    async def ListWebhooks(self, request: pb.ListWebhooksRequest, context: Context) -> pb.ListWebhooksResponse:
        page, token = await self._webhooks.list_webhooks(caller().tenant, request.page_size, request.page_token)
        return pb.ListWebhooksResponse(
            webhooks=[from_webhook(webhook, caller()) for webhook in page], next_page_token=token
        )

    async def UpdateWebhook(self, request: pb.UpdateWebhookRequest, context: Context) -> pb.UpdateWebhookResponse:
        webhook = await self._webhooks.update(
            caller(),
            id_of("webhooks", request.webhook.name, "webhook.name"),
            to_draft(request.webhook, caller().tenant),
            to_fields(request.update_mask.paths),
            request.webhook.etag,
        )
        return pb.UpdateWebhookResponse(webhook=from_webhook(webhook, caller()))

    async def DeleteWebhook(self, request: pb.DeleteWebhookRequest, context: Context) -> pb.DeleteWebhookResponse:
        deleted = await self._webhooks.delete(caller(), id_of("webhooks", request.name))
        return pb.DeleteWebhookResponse(deleted=deleted)

    async def PauseWebhook(self, request: pb.PauseWebhookRequest, context: Context) -> pb.PauseWebhookResponse:
        webhook = await self._webhooks.pause(caller(), id_of("webhooks", request.name))
        return pb.PauseWebhookResponse(webhook=from_webhook(webhook, caller()))

    async def ResumeWebhook(self, request: pb.ResumeWebhookRequest, context: Context) -> pb.ResumeWebhookResponse:
        webhook = await self._webhooks.resume(caller(), id_of("webhooks", request.name))
        return pb.ResumeWebhookResponse(webhook=from_webhook(webhook, caller()))

    async def TestWebhook(self, request: pb.TestWebhookRequest, context: Context) -> pb.TestWebhookResponse:
        delivery = await self._webhooks.test(caller(), id_of("webhooks", request.name), request.request_id)
        return pb.TestWebhookResponse(delivery=from_delivery(delivery))

    async def ListWebhookDeliveries(
        self, request: pb.ListWebhookDeliveriesRequest, context: Context
    ) -> pb.ListWebhookDeliveriesResponse:
        page, token = await self._webhooks.deliveries(
            caller(),
            id_of("webhooks", request.parent, "parent"),
            request.page_size,
            request.page_token,
            failed_only=request.failed_only,
        )
        return pb.ListWebhookDeliveriesResponse(
            deliveries=[from_delivery(delivery) for delivery in page], next_page_token=token
        )
