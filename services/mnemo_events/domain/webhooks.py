"""The webhooks of a tenant, for those who set them up."""

from __future__ import annotations

import hmac
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Final, Protocol

from mnemo_events.domain.access import ADMIN_SCOPE, Action
from mnemo_events.domain.outbox import Notice, notice_as_event
from mnemo_events.domain.texts import refuse_nul
from mnemo_events.domain.webhook import TEST_TYPE, AddressNotAllowedError, Delivery, State, Webhook
from mnemo_events.domain.webhook_secrets import check_secret
from mnemocore import paging
from mnemocore.errors import (
    InvalidFieldError,
    KeyUnavailableError,
    QuotaExceededError,
    Violation,
    WebhookEtagMismatchError,
    WebhookExistsError,
    WebhookNotFoundError,
)
from mnemocore.ids import new_uuid

if TYPE_CHECKING:
    from collections.abc import Collection

    from mnemo_events.domain.access import Access
    from mnemo_events.domain.filter import Filter
    from mnemo_events.domain.webhook import AddressGuard, WebhookStore
    from mnemo_events.domain.webhook_post import WebhookPost
    from mnemo_events.domain.webhook_queue import WebhookQueues
    from mnemo_events.domain.webhook_secrets import WebhookSecrets
    from mnemocore.calls import Identity
    from mnemocore.clock import Clock
    from mnemocore.ids import Tenant

MAX_WEBHOOKS: Final = 100
"""Webhooks of a tenant."""
FORMER_SIGNS: Final = timedelta(hours=24)
"""How long a secret signs too after it was changed."""
KEPT_FOR: Final = timedelta(days=7)
"""How long it is known what was sent."""
PAUSED_BY_REQUEST: Final = "paused on request"
_VISIBLE: Final = (State.ACTIVE, State.PAUSED, State.SUSPENDED)
_ATTEMPTS: Final = 5
"""How often a change is tried that others make at the same time."""


@dataclass(frozen=True, slots=True)
class Draft:
    """What a caller says of a webhook. `where` names the tenant too."""

    url: str
    where: Filter
    secret: str
    description: str

    def __repr__(self) -> str:
        return f"Draft({self.url!r}, {self.where})"


class Couriers(Protocol):
    """Whoever sends what webhooks wait for."""

    def hold(self, uid: str) -> None:
        """Begin no other request of this webhook in this process, until it is looked at anew."""
        ...

    def wake(self) -> None:
        """Look anew which webhooks are sent events."""
        ...


class Webhooks:
    """Makes, changes and removes webhooks. To touch one takes the right to read what it is sent, or to be its owner.

    Methods raise AccessDeniedError, and those that name a webhook WebhookNotFoundError.
    """

    def __init__(
        self,
        store: WebhookStore,
        queues: WebhookQueues,
        secrets: WebhookSecrets,
        guard: AddressGuard,
        post: WebhookPost,
        couriers: Couriers,
        access: Access,
        clock: Clock,
    ) -> None:
        self._store = store
        self._queues = queues
        self._secrets = secrets
        self._guard = guard
        self._post = post
        self._couriers = couriers
        self._access = access
        self._clock = clock

    async def create(self, caller: Identity, webhook_id: str, draft: Draft) -> Webhook:
        """Make a webhook; the same one again changes nothing. It is sent what comes from now on.

        Raises InvalidFieldError, WebhookExistsError if there is another of that name, QuotaExceededError if the tenant
        has MAX_WEBHOOKS, and KeyUnavailableError if there is no master key.
        """
        refuse_nul({"webhook.description": draft.description})
        check_secret(draft.secret)
        await self._check_access(caller, draft.where, "CreateWebhook")
        await self._check_url(caller.tenant, draft.url)
        known = await self._store.find(caller.tenant, webhook_id)
        if known is not None and known.state is State.DELETED:
            await self._clear(known)
            known = None
        if known is None:
            made = await self._drafted(caller, webhook_id, draft)
            if len(await self._store.list_webhooks(caller.tenant, "", MAX_WEBHOOKS)) < MAX_WEBHOOKS:
                await self._queues.prepare(made)
            known = await self._store.create(made, MAX_WEBHOOKS)
            if known is None:
                text = f"the tenant has {MAX_WEBHOOKS} webhooks, as many as are allowed; delete some first"
                raise QuotaExceededError(text, quota="webhooks", limit=str(MAX_WEBHOOKS))
        if not await self._is_same(known, caller, draft):
            raise WebhookExistsError(webhook=webhook_id)
        await self._queues.ensure(known)
        self._couriers.wake()
        return known

    async def get(self, tenant: Tenant, webhook_id: str) -> Webhook:
        """A webhook."""
        found = await self._store.find(tenant, webhook_id)
        if found is None or found.state is State.DELETED:
            raise WebhookNotFoundError(webhook=webhook_id)
        return found

    async def list_webhooks(self, tenant: Tenant, size: int, token: str) -> tuple[list[Webhook], str]:
        """A page of webhooks by their ids, and the token of the next one. Raises PageTokenMismatchError."""
        query = ["webhooks", tenant]
        after = paging.decode(query, token)
        limit = paging.page_size(size)
        found = await self._store.list_webhooks(tenant, str(after[0]) if after else "", limit + 1)
        page = found[:limit]
        return page, paging.encode(query, [page[-1].id]) if len(found) > limit else ""

    async def update(
        self, caller: Identity, webhook_id: str, draft: Draft, fields: Collection[str], etag: str
    ) -> Webhook:
        """Change the `fields` (of url, filter, secret, description) to those of the draft.

        What is so already is not changed. Whoever changes more than the description is the owner from then on.
        Raises InvalidFieldError, KeyUnavailableError, and WebhookEtagMismatchError if there is an etag and it is not
        the webhook's.
        """
        refuse_nul({"webhook.description": draft.description})
        if "secret" in fields:
            check_secret(draft.secret)
        if "url" in fields:
            await self._check_url(caller.tenant, draft.url)
        for _ in range(_ATTEMPTS):
            known = await self._touched(caller, webhook_id, "UpdateWebhook")
            if "filter" in fields:
                await self._check_access(caller, draft.where, "UpdateWebhook")
            changed = await self._changed(known, caller, draft, fields)
            if changed == known:
                return known
            if etag and etag != known.etag:
                break
            if stored := await self._store.replace(changed, known.version):
                if stored.where != known.where:
                    self._couriers.hold(stored.uid)
                await self._queues.ensure(stored)
                self._couriers.wake()
                return stored
        raise WebhookEtagMismatchError(webhook=webhook_id)

    async def delete(self, caller: Identity, webhook_id: str) -> bool:
        """Delete a webhook with all it waits for and its dead letters; whether there was one."""
        found = await self._store.find(caller.tenant, webhook_id)
        if found is None:
            return False
        if found.state is not State.DELETED:
            await self._check_touch(caller, found, "DeleteWebhook")
        await self._store.set_state(found.uid, State.DELETED, "", self._clock.now(), _VISIBLE)
        await self._clear(found)
        return found.state is not State.DELETED

    async def pause(self, caller: Identity, webhook_id: str) -> Webhook:
        """Send it nothing; what is under way in this process now may still arrive, in others for a moment more."""
        found = await self._touched(caller, webhook_id, "PauseWebhook")
        changed = await self._set_state(found, State.PAUSED, PAUSED_BY_REQUEST, (State.ACTIVE, State.SUSPENDED))
        self._couriers.hold(found.uid)
        return changed

    async def resume(self, caller: Identity, webhook_id: str) -> Webhook:
        """Send it events again, first those that waited."""
        found = await self._touched(caller, webhook_id, "ResumeWebhook")
        await self._queues.ensure(found)
        changed = await self._set_state(found, State.ACTIVE, "", (State.PAUSED, State.SUSPENDED))
        self._couriers.wake()
        return changed

    async def test(self, caller: Identity, webhook_id: str, request_id: str) -> Delivery:
        """Send it an event of its own now, whatever its state; nothing depends on what comes of it.

        `request_id` is the id of the event; "": a new one. Raises KeyUnavailableError.
        """
        found = await self._touched(caller, webhook_id, "TestWebhook")
        now = self._clock.now()
        notice = Notice(found.tenant, request_id or new_uuid(now), TEST_TYPE, found.name, now, {"webhook": found.name})
        event = notice_as_event(notice.tenant, notice.id, notice.type, notice.subject, notice.time, notice.data)
        return await self._post.send_test(found, event)

    async def deliveries(
        self, caller: Identity, webhook_id: str, size: int, token: str, *, failed_only: bool
    ) -> tuple[list[Delivery], str]:
        """A page of what was sent lately, newest first, and the token of the next. Raises PageTokenMismatchError."""
        found = await self._touched(caller, webhook_id, "ListWebhookDeliveries")
        query = ["deliveries", found.uid, failed_only]
        before = paging.decode(query, token)
        limit = paging.page_size(size)
        since = self._clock.now() - KEPT_FOR
        rows = await self._store.deliveries(
            found.uid, int(before[0]) if before else 0, since, limit + 1, failed_only=failed_only
        )
        page = rows[:limit]
        return page, paging.encode(query, [page[-1].number]) if len(rows) > limit else ""

    async def clear_deleted(self) -> None:
        """Finish deletions that broke off."""
        for webhook in await self._store.in_state(State.DELETED):
            await self._clear(webhook)

    async def _drafted(self, caller: Identity, webhook_id: str, draft: Draft) -> Webhook:
        now = self._clock.now()
        uid = new_uuid(now)
        return Webhook(
            uid=uid,
            tenant=caller.tenant,
            id=webhook_id,
            url=draft.url,
            where=draft.where,
            description=draft.description,
            secret=await self._secrets.seal(uid, draft.secret),
            owner=caller.principal,
            owner_is_admin=caller.allows(ADMIN_SCOPE),
            created_at=now,
            updated_at=now,
        )

    async def _is_same(self, known: Webhook, caller: Identity, draft: Draft) -> bool:
        said = (known.url, known.where, known.description, known.owner)
        return said == (draft.url, draft.where, draft.description, caller.principal) and await self._has_secret(
            known, draft.secret
        )

    async def _has_secret(self, webhook: Webhook, secret: str) -> bool:
        known = await self._secrets.open(webhook.uid, webhook.secret)
        return hmac.compare_digest(known.encode(), secret.encode())

    async def _is_signed_with(self, webhook: Webhook, secret: str) -> bool:
        """As `_has_secret`; a secret that does not open any more is another."""
        try:
            return await self._has_secret(webhook, secret)
        except KeyUnavailableError:
            return False

    async def _changed(self, known: Webhook, caller: Identity, draft: Draft, fields: Collection[str]) -> Webhook:
        """The webhook as it is to be; the very same if nothing is to change."""
        now = self._clock.now()
        new = replace(
            known,
            url=draft.url if "url" in fields else known.url,
            where=draft.where if "filter" in fields else known.where,
            description=draft.description if "description" in fields else known.description,
        )
        is_owner = caller.principal == known.owner  # nobody else learns whether a secret is the one it has
        if "secret" in fields and not (is_owner and await self._is_signed_with(known, draft.secret)):
            sealed = await self._secrets.seal(known.uid, draft.secret)
            new = replace(new, secret=sealed, former=known.secret, former_until=now + FORMER_SIGNS)
        if (new.url, new.where, new.secret) != (known.url, known.where, known.secret):
            new = replace(new, owner=caller.principal, owner_is_admin=caller.allows(ADMIN_SCOPE))
        return new if new == known else replace(new, updated_at=now)

    async def _set_state(self, webhook: Webhook, state: State, reason: str, only_from: Collection[State]) -> Webhook:
        changed = await self._store.set_state(webhook.uid, state, reason, self._clock.now(), tuple(only_from))
        return changed or await self.get(webhook.tenant, webhook.id)

    async def _clear(self, webhook: Webhook) -> None:
        self._couriers.hold(webhook.uid)
        await self._queues.remove(webhook)
        await self._store.delete(webhook.uid)

    async def _touched(self, caller: Identity, webhook_id: str, method: str) -> Webhook:
        found = await self.get(caller.tenant, webhook_id)
        await self._check_touch(caller, found, method)
        return found

    async def _check_touch(self, caller: Identity, webhook: Webhook, method: str) -> None:
        if caller.principal != webhook.owner:
            await self._check_access(caller, webhook.where, method)

    async def _check_access(self, caller: Identity, where: Filter, method: str) -> None:
        await self._access.check(caller, Action.SUBSCRIBE, where.types, where.subjects, method)

    async def _check_url(self, tenant: Tenant, url: str) -> None:
        try:
            await self._guard.check(tenant, url)
        except AddressNotAllowedError as error:
            raise InvalidFieldError.of([Violation("webhook.url", str(error))]) from None
