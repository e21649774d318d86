"""Sending what webhooks wait for: a courier for each webhook that is active, in every replica.

Couriers of one webhook share its group, which gives an event to one of them, and of one key nothing before what comes
before it is done. A courier sends what has different keys at once and what has one key in its order. While an endpoint
fails it is sent one event at a time, after pauses that grow: an endpoint that is down for some minutes costs no event
its attempts, and one that is down for long is suspended with its events waiting.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from mnemo_events.domain.access import Action
from mnemo_events.domain.member import Done, Extended, Failed
from mnemo_events.domain.news import wait
from mnemo_events.domain.outbox import Notice
from mnemo_events.domain.webhook import GROUP_LEASE, SUSPENDED_TYPE, State
from mnemocore.errors import GroupNotFoundError, MnemoError, ShuttingDownError
from mnemocore.ids import new_uuid
from mnemocore.outages import level_of

if TYPE_CHECKING:
    from collections.abc import Collection

    from mnemo_events.domain.access import Access
    from mnemo_events.domain.consumption import Consumption
    from mnemo_events.domain.event import StoredEvent
    from mnemo_events.domain.group import Group
    from mnemo_events.domain.member import Delivery, Member, Report
    from mnemo_events.domain.ports import EventLog
    from mnemo_events.domain.webhook import Answer, Webhook, WebhookStore
    from mnemo_events.domain.webhook_post import WebhookPost
    from mnemo_events.domain.webhook_queue import WebhookQueues
    from mnemocore.clock import Clock

AT_ONCE: Final = 8
"""Events that a courier has at most."""
SUSPEND_AFTER: Final = 20
"""Requests that fail in a row before a webhook is suspended, unless the operator says otherwise."""
LONGEST_PAUSE: Final = 60.0
"""Seconds between requests to an endpoint that fails, unless it asks for more."""
IDLE_SECONDS: Final = 15.0
"""How long a courier waits for events before it looks whether all is as it was."""
_FIRST_RESTART: Final = 1.0
_LONGEST_RESTART: Final = 60.0
_log = logging.getLogger("mnemo_events.webhooks")


class Courier:
    """Sends what one webhook waits for, until it is stopped or the webhook is sent nothing more."""

    def __init__(
        self,
        webhook: Webhook,
        store: WebhookStore,
        log: EventLog,
        post: WebhookPost,
        access: Access,
        clock: Clock,
        suspend_after: int,
        stopped: asyncio.Event,
    ) -> None:
        self.webhook = webhook
        """As it is known to be; may be replaced by a later state of the same webhook with the same filter."""
        self._store = store
        self._log = log
        self._post = post
        self._access = access
        self._clock = clock
        self._suspend_after = suspend_after
        self._failures = webhook.failures
        self._not_before = clock.monotonic()
        self._pauses = 0
        self._lanes: dict[str, deque[Delivery]] = {}
        self._sending: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()
        self._member: Member | None = None
        self._stopped = stopped
        self._ending = False
        self._error: BaseException | None = None

    def stop(self) -> None:
        """Begin no other request; what is under way ends."""
        self._stopped.set()
        self._changed.set()
        if self._member is not None:
            self._member.interrupt()

    async def run(self, member: Member) -> None:
        """Send until stopped; what was not sent is still the member's when this returns."""
        self._member = member
        keeping = asyncio.create_task(self._keep_leases(member))
        try:
            while not self._stopped.is_set() and self._error is None:
                await self._take(member)
        finally:
            self._ending = True
            if self._sending:
                await asyncio.wait(self._sending)
            keeping.cancel()
        if self._error is not None:
            raise self._error

    async def _take(self, member: Member) -> None:
        """Wait until something may be sent, and begin to send it."""
        self._changed.clear()
        pause = self._not_before - self._clock.monotonic()
        if pause > 0 or not self._free():
            await wait(self._changed, pause if pause > 0 else IDLE_SECONDS, self._clock)
            return
        if not await self._may_be_sent(self.webhook):
            return
        deliveries = await member.next(self._free(), IDLE_SECONDS)
        self._drop(member.take_lost())
        for delivery in deliveries:
            self._put(member, delivery)

    def _free(self) -> int:
        held = sum(map(len, self._lanes.values()))
        return max(0, (1 if self._failures else AT_ONCE) - held)

    def _put(self, member: Member, delivery: Delivery) -> None:
        """Send it after what has the same key; what has none waits for nothing."""
        key = delivery.event.event.ordering_key or f"\x00{delivery.position}"
        if key in self._lanes:
            self._lanes[key].append(delivery)
            return
        self._lanes[key] = deque([delivery])
        task = asyncio.create_task(self._send_lane(member, key))
        self._sending.add(task)
        task.add_done_callback(self._sent)

    def _sent(self, task: asyncio.Task[None]) -> None:
        self._sending.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._error = error
            if self._member is not None:
                self._member.interrupt()
        self._changed.set()

    async def _send_lane(self, member: Member, key: str) -> None:
        """Send what has one key, in order. What has waited is read anew: it may have been erased meanwhile."""
        lane = self._lanes[key]
        stored: StoredEvent | None = lane[0].event
        try:
            while not self._ending and not self._stopped.is_set():
                delivery = lane[0]
                report = await self._send(delivery, stored)
                if report is None:
                    return
                answer = await member.settle([report])
                self._drop((delivery.tag, *answer.lost))
                self._changed.set()
                if not lane:
                    return
                stored = next(iter(await self._log.get([lane[0].position])), None)
        finally:
            del self._lanes[key]

    def _drop(self, tags: Collection[int]) -> None:
        """Leave alone what is over."""
        for lane in self._lanes.values():
            kept = [delivery for delivery in lane if delivery.tag not in tags]
            lane.clear()
            lane.extend(kept)

    async def _send(self, delivery: Delivery, stored: StoredEvent | None) -> Report | None:
        """Send one event; what to say of it, None if it stays as if it had not been given.

        What is gone is not sent, nor what waited since the webhook had another filter and does not match that of now.
        """
        webhook = self.webhook
        if not await self._may_be_sent(webhook):
            return None
        if stored is None or not webhook.where.matcher()(stored.event):
            return Done(delivery.tag)
        answer, self._failures = await self._post.send(webhook, stored, delivery.attempt)
        if answer.reason is None:
            self._not_before, self._pauses = self._clock.monotonic(), 0
            return Done(delivery.tag)
        if answer.gone:
            await self._suspend(webhook, "the endpoint says that it is gone (HTTP 410)")
            return None
        if self._failures >= self._suspend_after:
            await self._suspend(webhook, f"{self._failures} requests failed in a row; the last: {answer.error}")
            return None
        return self._failed(delivery, answer)

    def _failed(self, delivery: Delivery, answer: Answer) -> Failed:
        assert answer.reason is not None
        asked = answer.retry_after
        if not answer.reason.permanent:
            self._pause(asked or 0.0)
        retry_after = None if asked is None else timedelta(seconds=asked)
        return Failed(delivery.tag, answer.reason, answer.error, retry_after)

    def _pause(self, asked: float) -> None:
        """Send nothing for a while, longer every time; what fails together counts once."""
        now = self._clock.monotonic()
        if now >= self._not_before:
            self._not_before = now + min(LONGEST_PAUSE, 2.0 ** min(self._pauses, 10))
            self._pauses += 1
        self._not_before = max(self._not_before, now + asked)

    async def _may_be_sent(self, webhook: Webhook) -> bool:
        """Whether the owner may read what would be sent; if not, the webhook is paused."""
        if webhook.owner_is_admin or await self._owner_may_read(webhook):
            return not self._stopped.is_set()
        self._access.forget(webhook.tenant)  # it stays paused: what it was given lately in another process counts
        if await self._owner_may_read(webhook):
            return not self._stopped.is_set()
        reason = f"its owner {webhook.owner!r} may not read these events any more"
        if await self._store.stop_sending(webhook, State.PAUSED, reason, self._clock.now()):
            _log.warning("%s of tenant %s is paused: %s", webhook.name, webhook.tenant, reason)
        self.stop()
        return False

    async def _owner_may_read(self, webhook: Webhook) -> bool:
        where = webhook.where
        return await self._access.allows(webhook.tenant, webhook.owner, Action.SUBSCRIBE, where.types, where.subjects)

    async def _suspend(self, webhook: Webhook, reason: str) -> None:
        """Suspend a webhook that is still as it was when the request was sent; stop in any case, to look at it anew."""
        now = self._clock.now()
        content = {"webhook": webhook.name, "reason": reason}
        notice = Notice(webhook.tenant, new_uuid(now), SUSPENDED_TYPE, webhook.name, now, content)
        if await self._store.stop_sending(webhook, State.SUSPENDED, reason, now, notice):
            _log.warning("%s of tenant %s is suspended: %s", webhook.name, webhook.tenant, reason)
        self.stop()

    async def _keep_leases(self, member: Member) -> None:
        """Keep what is being sent, and what waits behind it, from others."""
        while True:
            await self._clock.sleep(GROUP_LEASE.total_seconds() / 3)
            held = [Extended(each.tag) for lane in self._lanes.values() for each in lane]
            if held:
                with suppress(MnemoError):  # the lease lasts for another try
                    self._drop((await member.settle(held)).lost)


@dataclass(slots=True)
class _Running:
    """A webhook that is sent events in this process, until `stopped`."""

    webhook: Webhook
    stopped: asyncio.Event
    courier: Courier | None = None

    def stop(self) -> None:
        self.stopped.set()
        if self.courier is not None:
            self.courier.stop()

    def follow(self, webhook: Webhook) -> None:
        self.webhook = webhook
        if self.courier is not None:
            self.courier.webhook = webhook


class Dispatcher:
    """Keeps a courier running for each active webhook of all tenants."""

    def __init__(
        self,
        store: WebhookStore,
        log: EventLog,
        queues: WebhookQueues,
        consumption: Consumption,
        post: WebhookPost,
        access: Access,
        clock: Clock,
        poll_seconds: float,
        suspend_after: int = SUSPEND_AFTER,
    ) -> None:
        self._store = store
        self._log = log
        self._queues = queues
        self._consumption = consumption
        self._post = post
        self._access = access
        self._clock = clock
        self._poll_seconds = poll_seconds
        self._suspend_after = suspend_after
        self._changed = asyncio.Event()
        self._running: dict[str, _Running] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._draining = False

    def wake(self) -> None:
        """Look anew which webhooks are active."""
        self._changed.set()

    def hold(self, uid: str) -> None:
        """Begin no other request of this webhook in this process, until it is found to be active again."""
        if running := self._running.pop(uid, None):
            running.stop()
        self.wake()

    async def run(self) -> None:
        """Follow the webhooks until cancelled. Raises StoreUnavailableError; what runs goes on running."""
        while not self._draining:
            self._changed.clear()
            await self._look()
            await wait(self._changed, self._poll_seconds, self._clock)

    def drain(self) -> None:
        """Begin no other request."""
        self._draining = True
        for running in self._running.values():
            running.stop()
        self.wake()

    async def stop(self) -> None:
        """Drain, and return when no request is under way and what was not sent was given back."""
        self.drain()
        while self._tasks:
            await asyncio.wait(list(self._tasks.values()))

    async def _look(self) -> None:
        active = {webhook.uid: webhook for webhook in await self._store.in_state(State.ACTIVE)}
        for uid, running in list(self._running.items()):
            webhook = active.get(uid)
            if webhook is None or webhook.where != running.webhook.where:
                del self._running[uid]
                running.stop()
            else:
                running.follow(webhook)
        for uid, webhook in active.items():
            if uid not in self._running and not self._draining:
                self._start(webhook)

    def _start(self, webhook: Webhook) -> None:
        """Begin to serve a webhook, when whoever served it before has ended what was under way."""
        running = self._running[webhook.uid] = _Running(webhook, asyncio.Event())
        work = self._supervise(running, self._tasks.get(webhook.uid))
        task = asyncio.create_task(work, name=f"courier of {webhook.name}")
        self._tasks[webhook.uid] = task
        task.add_done_callback(lambda ended: self._forget(webhook.uid, ended))

    def _forget(self, uid: str, task: asyncio.Task[None]) -> None:
        if self._tasks.get(uid) is task:
            del self._tasks[uid]

    async def _supervise(self, running: _Running, before: asyncio.Task[None] | None) -> None:
        """Serve a webhook, again after a pause if that fails."""
        if before is not None:
            await asyncio.wait((before,))
        pause, said = _FIRST_RESTART, ""
        while not running.stopped.is_set():
            began = self._clock.monotonic()
            try:
                await self._serve(running)
            except ShuttingDownError:
                return
            except GroupNotFoundError:
                _log.info("%s of tenant %s has lost its group", running.webhook.name, running.webhook.tenant)
            except Exception as error:  # noqa: BLE001
                # Other webhooks go on, and this one after a pause; nothing of it is lost.
                said = _log_failure(running.webhook, error, said)
            if self._clock.monotonic() - began > _LONGEST_RESTART:
                pause, said = _FIRST_RESTART, ""
            await wait(running.stopped, pause, self._clock)
            pause = min(_LONGEST_RESTART, 2 * pause)
        if self._running.get(running.webhook.uid) is running:
            self.hold(running.webhook.uid)

    async def _serve(self, running: _Running) -> None:
        """Send what the webhook waits for until it is stopped; what is not sent goes back as if it had stayed."""
        webhook = await self._store.current(running.webhook.uid)
        if webhook is None or webhook.state is not State.ACTIVE:
            running.stop()
            return
        group = await self._group(webhook)
        courier = running.courier = Courier(
            max(webhook, running.webhook, key=lambda each: (each.version, each.state_changes)),
            self._store,
            self._log,
            self._post,
            self._access,
            self._clock,
            self._suspend_after,
            running.stopped,
        )
        with suppress(ShuttingDownError):
            async with self._consumption.member(group, "courier") as member:
                await courier.run(member)
                raise ShuttingDownError

    async def _group(self, webhook: Webhook) -> Group:
        """The group of a webhook; none is left behind if the webhook is deleted at this moment."""
        group = await self._queues.ensure(webhook)
        if await self._store.find(webhook.tenant, webhook.id) is None:
            await self._queues.remove(webhook)
            raise GroupNotFoundError(group=group.name)
        return group


def _log_failure(webhook: Webhook, error: Exception, said: str) -> str:
    """Log why sending broke off, unless it was `said` the last time; what is said now. What nobody expects is news."""
    text = f"{type(error).__name__}: {error}"
    if not isinstance(error, MnemoError):
        _log.error("sending to %s of tenant %s failed", webhook.name, webhook.tenant, exc_info=error)
    elif text != said:
        _log.log(level_of(error), "sending to %s of tenant %s waits: %s", webhook.name, webhook.tenant, text)
    return text
