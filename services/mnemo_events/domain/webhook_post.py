"""One request to a webhook: the event as a CloudEvent, signed, and a note of what came of it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from mnemo_events.domain.event import StoredEvent
from mnemo_events.domain.signature import HEADER, signature
from mnemo_events.domain.webhook import Delivery
from mnemocore.errors import KeyUnavailableError
from mnemocore.telemetry import counter, histogram
from mnemocore.version import __version__

if TYPE_CHECKING:
    from mnemo_events.domain.event import Event
    from mnemo_events.domain.webhook import Answer, Envelope, Sender, Webhook, WebhookStore
    from mnemo_events.domain.webhook_secrets import WebhookSecrets
    from mnemocore.clock import Clock

DELIVERY_HEADER: Final = "X-MnemoCore-Delivery"
"""The header that names an attempt: `<group>/<position>/<attempt>`."""
_log = logging.getLogger("mnemo_events.webhooks")


class WebhookPost:
    """Sends events to webhooks, one at a time."""

    def __init__(
        self, sender: Sender, envelope: Envelope, secrets: WebhookSecrets, store: WebhookStore, clock: Clock
    ) -> None:
        self._sender = sender
        self._envelope = envelope
        self._secrets = secrets
        self._store = store
        self._clock = clock

    async def send(self, webhook: Webhook, stored: StoredEvent, attempt: int) -> tuple[Answer, int]:
        """Send an event; what came of it, and how many requests have failed in a row, this one included.

        Raises KeyUnavailableError if the secret does not open; nothing is sent then.
        """
        answer, delivery = await self._send(webhook, stored, attempt)
        return answer, await self._store.record(webhook.uid, delivery, counts=True)

    async def send_test(self, webhook: Webhook, event: Event) -> Delivery:
        """Send an event that is not in the log; a failure is none of those in a row. Raises KeyUnavailableError."""
        _, delivery = await self._send(webhook, StoredEvent(0, event, event.time), 1)
        await self._store.record(webhook.uid, delivery, counts=False)
        return delivery

    async def _send(self, webhook: Webhook, stored: StoredEvent, attempt: int) -> tuple[Answer, Delivery]:
        body = await self._envelope.write(stored)
        secrets = await self._signing(webhook)
        at = self._clock.now()
        headers = {
            "Content-Type": self._envelope.content_type,
            "User-Agent": f"mnemocore/{__version__}",
            HEADER: signature(secrets, body, int(at.timestamp())),
            DELIVERY_HEADER: f"{webhook.group_id}/{stored.position}/{attempt}",
        }
        answer = await self._sender.send(webhook.tenant, webhook.url, headers, body)
        _measure(answer)
        delivery = Delivery(
            position=stored.position,
            event_id=stored.event.id,
            type=stored.event.type,
            attempt=attempt,
            at=at,
            seconds=answer.seconds,
            status=answer.status,
            delivered=answer.delivered,
            error=answer.error,
        )
        return answer, delivery

    async def _signing(self, webhook: Webhook) -> list[str]:
        """The secrets that sign now: its own, and for a while the one it had before, if that still opens."""
        secrets = [await self._secrets.open(webhook.uid, webhook.secret)]
        if webhook.former and webhook.former_until and webhook.former_until > self._clock.now():
            try:
                secrets.append(await self._secrets.open(webhook.uid, webhook.former))
            except KeyUnavailableError as error:
                _log.warning(
                    "the former secret of %s of tenant %s does not sign: %s", webhook.name, webhook.tenant, error
                )
        return secrets


def _measure(answer: Answer) -> None:
    outcome = {"outcome": "delivered" if answer.reason is None else answer.reason.name.lower()}
    counter("mnemo.webhook.deliveries").add(1, outcome)
    histogram("mnemo.webhook.duration").record(answer.seconds, outcome)
