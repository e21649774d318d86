"""Webhooks: HTTP endpoints that are sent events."""

from __future__ import annotations

from typing import TYPE_CHECKING

from google.protobuf.field_mask_pb2 import FieldMask

from mnemocore.client import convert
from mnemocore.client import event_values as values
from mnemocore.client.event_convert import delivery_from_wire, filter_to_wire, webhook_from_wire
from mnemocore.client.values import UNCHANGED, Unchanged
from mnemocore.events.v1 import webhook_service_pb2 as wire

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from mnemocore.client.services import Services


class Webhooks:
    """The webhooks of a tenant. Comes from `Connection.webhooks`.

    What cannot be delivered is a dead letter of the group `webhook-ID`; see `Events.dead_letters`.
    """

    def __init__(self, services: Services) -> None:
        self._services = services

    async def create(
        self,
        id: str,
        url: str,
        secret: str,
        *,
        types: Sequence[str] = (),
        subjects: Sequence[str] = (),
        space_uid: str = "",
        description: str = "",
    ) -> values.Webhook:
        """Make a webhook, which is sent the events of a filter from now on. The same webhook again changes nothing.

        `secret` (16 to 256 characters) signs what is sent: the endpoint verifies it with `verify_signature`. Raises
        WebhookExistsError, AccessDeniedError, InvalidFieldError for an address that is not allowed.
        """
        request = wire.CreateWebhookRequest()
        convert.assign(request, "webhook_id", id, "id")
        convert.assign(request.webhook, "url", url)
        convert.assign(request.webhook, "secret", secret)
        convert.assign(request.webhook, "description", description)
        request.webhook.filter.CopyFrom(filter_to_wire(types, subjects, space_uid))
        response = await self._services.call(self._services.webhooks.CreateWebhook, request)
        return webhook_from_wire(response.webhook)

    async def get(self, id: str) -> values.Webhook:
        """A webhook. Raises WebhookNotFoundError."""
        request = wire.GetWebhookRequest(name=_name(id))
        return webhook_from_wire((await self._services.call(self._services.webhooks.GetWebhook, request)).webhook)

    async def list(self, *, page_size: int = 0) -> AsyncIterator[values.Webhook]:
        """All webhooks, by name. Reads page by page."""
        request = wire.ListWebhooksRequest(page_size=page_size)
        async for page in self._services.pages(self._services.webhooks.ListWebhooks, request):
            for webhook in page.webhooks:
                yield webhook_from_wire(webhook)

    async def update(
        self,
        id: str,
        *,
        url: str | Unchanged = UNCHANGED,
        secret: str | Unchanged = UNCHANGED,
        types: Sequence[str] | Unchanged = UNCHANGED,
        subjects: Sequence[str] | Unchanged = UNCHANGED,
        description: str | Unchanged = UNCHANGED,
        etag: str = "",
    ) -> values.Webhook:
        """Change what is given. Of the filter, what is not given stays.

        With `etag` only if nobody has changed it since. Raises WebhookNotFoundError, WebhookEtagMismatchError.
        """
        request = wire.UpdateWebhookRequest(update_mask=FieldMask())
        request.webhook.name = _name(id)
        convert.assign(request.webhook, "etag", etag)
        for field, value in (("url", url), ("secret", secret), ("description", description)):
            if value is not UNCHANGED:
                convert.assign(request.webhook, field, value)
                request.update_mask.paths.append(field)
        if types is not UNCHANGED or subjects is not UNCHANGED:
            stored = await self.get(id)
            request.webhook.filter.CopyFrom(
                filter_to_wire(
                    stored.types if isinstance(types, Unchanged) else types,
                    stored.subjects if isinstance(subjects, Unchanged) else subjects,
                    stored.space_uid,
                )
            )
            request.webhook.etag = etag or stored.etag
            request.update_mask.paths.append("filter")
        if not request.update_mask.paths:
            raise convert.invalid("update_mask", "names no field; give at least one field to change")
        response = await self._services.call(self._services.webhooks.UpdateWebhook, request)
        return webhook_from_wire(response.webhook)

    async def delete(self, id: str) -> bool:
        """Delete a webhook, what it waits for, and its dead letters; whether there was one."""
        request = wire.DeleteWebhookRequest(name=_name(id))
        return (await self._services.call(self._services.webhooks.DeleteWebhook, request)).deleted

    async def pause(self, id: str) -> values.Webhook:
        """Send it nothing for now; events wait. Raises WebhookNotFoundError."""
        request = wire.PauseWebhookRequest(name=_name(id))
        return webhook_from_wire((await self._services.call(self._services.webhooks.PauseWebhook, request)).webhook)

    async def resume(self, id: str) -> values.Webhook:
        """Send it events again, first those that waited. Raises WebhookNotFoundError."""
        request = wire.ResumeWebhookRequest(name=_name(id))
        return webhook_from_wire((await self._services.call(self._services.webhooks.ResumeWebhook, request)).webhook)

    async def test(self, id: str) -> values.WebhookDelivery:
        """Send it an event of the type `events.webhook.test` now; what it answered. Raises WebhookNotFoundError."""
        request = wire.TestWebhookRequest(name=_name(id), request_id=self._services.request_id())
        return delivery_from_wire((await self._services.call(self._services.webhooks.TestWebhook, request)).delivery)

    async def deliveries(
        self, id: str, *, failed_only: bool = False, page_size: int = 0
    ) -> AsyncIterator[values.WebhookDelivery]:
        """What was sent to it in the last days, newest first, at most 1,000. Reads page by page."""
        request = wire.ListWebhookDeliveriesRequest(parent=_name(id), failed_only=failed_only, page_size=page_size)
        async for page in self._services.pages(self._services.webhooks.ListWebhookDeliveries, request):
            for delivery in page.deliveries:
                yield delivery_from_wire(delivery)


def _name(id: str) -> str:
    return f"webhooks/{id.removeprefix('webhooks/')}"
