"""The consumer group of a webhook: what it waits for, its retries and its dead letters."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mnemo_events.domain.group import Group
from mnemo_events.domain.webhook import GROUP_ATTEMPTS, GROUP_LEASE

if TYPE_CHECKING:
    from mnemo_events.domain.group_keeping import GroupKeeping
    from mnemo_events.domain.ports import Engine
    from mnemo_events.domain.webhook import Webhook
    from mnemocore.clock import Clock


class WebhookQueues:
    """Makes, changes and removes the groups of webhooks, which clients cannot."""

    def __init__(self, engine: Engine, keeping: GroupKeeping, clock: Clock) -> None:
        self._log = engine.log
        self._groups = engine.groups
        self._keeping = keeping
        self._clock = clock

    async def ensure(self, webhook: Webhook) -> Group:
        """The group of a webhook, with its filter; one that is missing is made, for what comes from now on."""
        found = await self.prepare(webhook)
        if found.where == webhook.where:
            return found
        return await self._groups.refilter(found, webhook.where)

    async def prepare(self, webhook: Webhook) -> Group:
        """A group of the name of a webhook that is to be; one that is there stays as it is."""
        wanted = Group(
            uid="",
            tenant=webhook.tenant,
            id=webhook.group_id,
            where=webhook.where,
            max_attempts=GROUP_ATTEMPTS,
            lease=GROUP_LEASE,
            owner=webhook.owner,
            created_at=self._clock.now(),
        )
        return await self._groups.create(wanted, await self._log.head())

    async def remove(self, webhook: Webhook) -> None:
        """Delete the group with all it holds, and its dead letters."""
        await self._keeping.delete_internal(webhook.tenant, webhook.group_id)
