"""What has to be done for webhooks from time to time: old deliveries, other master keys, deletions that broke off."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from mnemo_events.domain.webhooks import KEPT_FOR
from mnemocore.errors import KeyUnavailableError

if TYPE_CHECKING:
    from mnemo_events.domain.webhook import WebhookStore
    from mnemo_events.domain.webhook_secrets import WebhookSecrets
    from mnemo_events.domain.webhooks import Webhooks
    from mnemocore.clock import Clock

ROUND_SECONDS: Final = 60.0
_BATCH: Final = 1000
_log = logging.getLogger("mnemo_events.webhooks")


class WebhookUpkeep:
    """Does it, every minute; every replica may."""

    def __init__(self, store: WebhookStore, webhooks: Webhooks, secrets: WebhookSecrets, clock: Clock) -> None:
        self._store = store
        self._webhooks = webhooks
        self._secrets = secrets
        self._clock = clock

    async def run(self) -> None:
        """Go on until cancelled. Raises StoreUnavailableError; the next round makes up for it."""
        while True:
            await self.round()
            await self._clock.sleep(ROUND_SECONDS)

    async def round(self) -> None:
        """Do what there is to do now."""
        await self._store.prune(self._clock.now() - KEPT_FOR)
        await self._webhooks.clear_deleted()
        await self._seal_anew()

    async def _seal_anew(self) -> None:
        """Encrypt with the current master key what is encrypted with another one, so that that one can be removed."""
        key_id = await self._secrets.current_key()
        if not key_id:
            return
        for webhook in await self._store.sealed_otherwise(key_id, _BATCH):
            try:
                secret = await self._secrets.renewed(webhook.uid, webhook.secret)
                former = webhook.former and await self._secrets.renewed(webhook.uid, webhook.former)
            except KeyUnavailableError as error:
                _log.error("the secret of %s of tenant %s does not open: %s", webhook.name, webhook.tenant, error)
                continue
            if (secret, former) != (webhook.secret, webhook.former):
                await self._store.reseal(webhook, secret, former)
