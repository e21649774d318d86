"""Webhooks as values, and what the domain needs to keep them and to send."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from enum import IntEnum
from typing import TYPE_CHECKING, Final, Protocol

from mnemo_events.domain.group_keeping import RESERVED

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import datetime

    from mnemo_events.domain.event import StoredEvent
    from mnemo_events.domain.filter import Filter
    from mnemo_events.domain.group import Reason
    from mnemo_events.domain.outbox import Notice
    from mnemocore.ids import Tenant

GROUP_ATTEMPTS: Final = 20
"""How often an event is tried before it is a dead letter: for about an hour. A webhook that takes nothing any more is
paused before."""
GROUP_LEASE: Final = timedelta(seconds=60)
"""After so long without a word of who sends an event, it is sent by another."""
TEST_TYPE: Final = "events.webhook.test"
"""The type of the event that tries a webhook."""
SUSPENDED_TYPE: Final = "events.webhook.suspended"
"""The type of the event that tells of a webhook that failed so often that it was paused."""


class State(IntEnum):
    """Whether a webhook is sent events. The numbers are those of the contract and of the database.

    One that is DELETED has not been cleared away yet, and is shown to nobody.
    """

    ACTIVE = 1
    PAUSED = 2
    SUSPENDED = 3
    DELETED = 4


@dataclass(frozen=True, slots=True)
class SealedSecret:
    """A secret, encrypted with the master key of this id."""

    master_key_id: str
    sealed: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Webhook:
    """A webhook of a tenant. `where` names the tenant too; `uid` is a UUID of this very webhook.

    A webhook that is deleted and made again has another `uid`. `owner` is who said last where events go and which;
    `owner_is_admin` whether by the scope `events:admin`. `failures` counts those since the last success. `version`
    grows with every change by a caller, `state_changes` with every change of the state. `former` signs too, until
    `former_until`.
    """

    uid: str
    tenant: Tenant
    id: str
    url: str
    where: Filter
    description: str
    secret: SealedSecret
    owner: str
    owner_is_admin: bool
    created_at: datetime
    updated_at: datetime
    state: State = State.ACTIVE
    pause_reason: str = ""
    failures: int = 0
    version: int = 1
    state_changes: int = 0
    former: SealedSecret | None = None
    former_until: datetime | None = None

    @property
    def name(self) -> str:
        """The public resource name."""
        return f"webhooks/{self.id}"

    @property
    def group_id(self) -> str:
        """The id of the consumer group that holds what it is to be sent."""
        return RESERVED + self.id

    @property
    def etag(self) -> str:
        """Changes with every change by a caller."""
        return f"{self.uid}-{self.version}"


@dataclass(frozen=True, slots=True)
class Delivery:
    """One attempt to send an event. `position` is 0 for a test, `status` 0 if there was no answer, `seconds` its time.

    `error` is empty if it was delivered. `number` orders the deliveries of a webhook; the store gives it.
    """

    position: int
    event_id: str
    type: str
    attempt: int
    at: datetime
    seconds: float
    status: int
    delivered: bool
    error: str
    number: int = 0


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of a request. `error` is one line, empty if it was taken; `reason` says why it was not.

    `status` is that of the last answer, 0 if there was none. `retry_after` is the number of seconds that the endpoint
    asks for, None if it asks for none.
    """

    status: int
    seconds: float
    error: str = ""
    reason: Reason | None = None
    retry_after: float | None = None

    @property
    def delivered(self) -> bool:
        """Whether the endpoint took it."""
        return self.reason is None

    @property
    def gone(self) -> bool:
        """Whether the endpoint says that it is no more (HTTP 410)."""
        return self.status == 410


class AddressNotAllowedError(Exception):
    """A URL that no event may be sent to. The text is one line that names what is wrong and what is allowed."""


class AddressGuard(Protocol):
    """Says where events may be sent."""

    async def check(self, tenant: Tenant, url: str) -> object:
        """Return if a URL of a tenant is well-formed and leads to what is allowed. Raises AddressNotAllowedError."""
        ...


class Sender(Protocol):
    """Sends over HTTP, to allowed addresses only, within limits of time and number."""

    async def send(self, tenant: Tenant, url: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """POST a body; what goes wrong is in the answer. Waits while too many requests are under way."""
        ...


class Envelope(Protocol):
    """Writes an event as the body of a request."""

    content_type: str

    async def write(self, stored: StoredEvent) -> bytes:
        """The body."""
        ...


class WebhookStore(Protocol):
    """Where webhooks and what was sent to them are kept. Methods raise StoreUnavailableError.

    A change wakes whoever listens for changes in other processes.
    """

    async def create(self, webhook: Webhook, limit: int) -> Webhook | None:
        """Make a webhook; one of that name that is there stays, and is returned then.

        None if the tenant has `limit` webhooks already.
        """
        ...

    async def find(self, tenant: Tenant, webhook_id: str) -> Webhook | None:
        """The webhook of that name, also if it is DELETED."""
        ...

    async def list_webhooks(self, tenant: Tenant, after_id: str, limit: int) -> list[Webhook]:
        """Up to `limit` webhooks that are not DELETED, whose ids come after `after_id`, by id."""
        ...

    async def in_state(self, state: State) -> list[Webhook]:
        """All webhooks of all tenants in a state."""
        ...

    async def current(self, uid: str) -> Webhook | None:
        """This very webhook as it is now."""
        ...

    async def replace(self, webhook: Webhook, version: int) -> Webhook | None:
        """Store what callers say of a webhook, as version + 1, if it is at `version` still; None if it is not.

        Its state, pause reason and failures stay as they are.
        """
        ...

    async def set_state(
        self,
        uid: str,
        state: State,
        reason: str,
        at: datetime,
        only_from: Sequence[State],
    ) -> Webhook | None:
        """Change the state, if it is one of `only_from`, and count failures anew; None if it is not, or is gone.

        The version stays.
        """
        ...

    async def stop_sending(
        self, seen: Webhook, state: State, reason: str, at: datetime, notice: Notice | None = None
    ) -> bool:
        """Change the state of an ACTIVE webhook; nothing, and False, if it is not any more what was `seen`.

        What callers say of it and how often its state was changed must be as it was: what was found out about an
        endpoint, or decided, before somebody resumed the webhook holds no longer. Failures are counted anew. A
        `notice` is told in the same transaction. The version stays.
        """
        ...

    async def sealed_otherwise(self, master_key_id: str, limit: int) -> list[Webhook]:
        """Up to `limit` webhooks with a secret that is sealed with another master key."""
        ...

    async def reseal(self, webhook: Webhook, secret: SealedSecret, former: SealedSecret | None) -> None:
        """Store the same secrets, sealed anew, if the webhook still is at its version. The version stays."""
        ...

    async def delete(self, uid: str) -> bool:
        """Clear away this very webhook with its deliveries; whether it was there."""
        ...

    async def record(self, uid: str, delivery: Delivery, *, counts: bool) -> int:
        """Note a delivery; returns the failures since the last that did not fail, this one included if it `counts`."""
        ...

    async def deliveries(
        self, uid: str, before: int, since: datetime, limit: int, *, failed_only: bool
    ) -> list[Delivery]:
        """Up to `limit` deliveries, newest first, with numbers less than `before` (0: all), sent at `since` or later.

        Only the newest 1,000 are looked at.
        """
        ...

    async def prune(self, before: datetime) -> int:
        """Forget deliveries sent before a time, and all but the newest 1,000 of a webhook; how many."""
        ...

    async def listen(self, changed: Callable[[], None]) -> None:
        """Report changes, also those of other processes, until cancelled; also when some may have been missed."""
        ...
