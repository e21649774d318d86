"""Webhooks and their deliveries as messages."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from google.protobuf.duration_pb2 import Duration

from mnemo_events.domain.webhooks import Draft
from mnemo_events.wire.events import from_filter, to_filter
from mnemocore.errors import InvalidFieldError, Violation
from mnemocore.events.v1 import resources_pb2
from mnemocore.wire import to_timestamp

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mnemo_events.domain.webhook import Delivery, Webhook
    from mnemocore.calls import Identity
    from mnemocore.ids import Tenant

UPDATABLE: Final = ("url", "filter", "secret", "description")
"""What an update may name."""


def to_draft(message: resources_pb2.Webhook, tenant: Tenant) -> Draft:
    """What a caller says of a webhook. Raises InvalidFieldError for a malformed filter."""
    return Draft(message.url, to_filter(message.filter, tenant, "webhook.filter"), message.secret, message.description)


def to_fields(paths: Iterable[str]) -> frozenset[str]:
    """What a mask names. Raises InvalidFieldError for what cannot be changed."""
    named = list(dict.fromkeys(paths))
    unknown = [path for path in named if path not in UPDATABLE]
    if unknown or not named:
        described = f"names {', '.join(unknown) or 'nothing'}; allowed are {', '.join(UPDATABLE)}"
        raise InvalidFieldError.of([Violation("update_mask", described)])
    return frozenset(named)


def from_webhook(webhook: Webhook, reader: Identity) -> resources_pb2.Webhook:
    """A webhook for an answer, without its secret.

    What comes after the host in a URL often opens something: only the owner and `events:admin` are shown it.
    """
    whole = reader.principal == webhook.owner or reader.allows("events:admin")
    return resources_pb2.Webhook(
        name=webhook.name,
        url=webhook.url if whole else _origin(webhook.url),
        filter=from_filter(webhook.where),
        description=webhook.description,
        state=resources_pb2.WebhookState.ValueType(webhook.state),
        pause_reason=webhook.pause_reason,
        failures=webhook.failures,
        owner=webhook.owner,
        create_time=to_timestamp(webhook.created_at),
        update_time=to_timestamp(webhook.updated_at),
        etag=webhook.etag,
    )


def from_delivery(delivery: Delivery) -> resources_pb2.WebhookDelivery:
    """A delivery for an answer."""
    duration = Duration()
    duration.FromTimedelta(timedelta(seconds=delivery.seconds))
    return resources_pb2.WebhookDelivery(
        position=delivery.position,
        event_id=delivery.event_id,
        type=delivery.type,
        attempt=delivery.attempt,
        time=to_timestamp(delivery.at),
        duration=duration,
        status=delivery.status,
        delivered=delivery.delivered,
        error=delivery.error,
    )


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}/..."
