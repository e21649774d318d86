"""Consumer groups as values: what one is, what its members have, and what became of it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from datetime import datetime, timedelta

    from mnemo_events.domain.filter import Filter
    from mnemocore.ids import Tenant

MAX_WAITING: Final = 10_000
"""Events that wait in a group; while there are so many it looks at no new ones.

More can only come to wait by being let go of: by members, or by dead letters that are revived.
"""


class Reason(IntEnum):
    """Why an attempt failed. The numbers are those of the contract and of the database."""

    UNSPECIFIED = 0
    HANDLER_ERROR = 1
    UNAVAILABLE = 2
    TIMEOUT = 3
    LEASE_EXPIRED = 4
    INVALID_EVENT = 5
    REJECTED = 6
    REFUSED_BY_TARGET = 7

    @property
    def permanent(self) -> bool:
        """Whether no other attempt can help."""
        return self >= Reason.INVALID_EVENT


@dataclass(frozen=True, slots=True)
class Group:
    """A consumer group of a tenant. `where` names the tenant too; `uid` is the engine's own name of this very group.

    A group that is deleted and made again has another `uid`.
    """

    uid: str
    tenant: Tenant
    id: str
    where: Filter
    max_attempts: int
    lease: timedelta
    owner: str
    created_at: datetime

    @property
    def name(self) -> str:
        """The public resource name."""
        return f"groups/{self.id}"


@dataclass(frozen=True, slots=True)
class Standing:
    """How a group stands: where it is in the log, how many events its members have, and how many wait.

    What is over its lease is with its member until somebody else is given it.
    """

    position: int
    in_flight: int
    waiting: int


@dataclass(frozen=True, slots=True)
class Fresh:
    """Events that match a group's filter and lie after its position, as (position, ordering key) in their order.

    `after` is the position they were read from, `upto` the position up to which there are no others.
    """

    after: int
    upto: int
    events: tuple[tuple[int, str], ...]


@dataclass(frozen=True, slots=True)
class Claimed:
    """An event a member has from now on. `attempt` counts from 1; it may be one more than the group allows.

    Then the last attempt's lease was over, and the event is not to be tried again but a dead letter.
    """

    position: int
    attempt: int
    lease_until: datetime
    replayed: bool


@dataclass(frozen=True, slots=True)
class Claim:
    """What a claim gave: what had waited or was over its lease, then what is fresh, both by position.

    `position` is where the group is in the log now. `next_due` is when this member can be given something that the
    group holds at the earliest, should nobody settle or release anything until then: the next attempt of what failed,
    or the end of a lease. It is the `now` of the claim if there was more than `limit`, and None if the group holds
    nothing.
    """

    claimed: tuple[Claimed, ...]
    position: int
    next_due: datetime | None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a member says of an event it was given as `attempt`.

    `done`: it is done, or a dead letter by now. `retry_at`: it failed and is due then. Neither: the lease begins anew.
    """

    position: int
    attempt: int
    done: bool = False
    retry_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Settled:
    """Of which outcomes the word counted, and of which not, since another has the event or will have it.

    `lost` also names later events of the key of one that failed: they are taken back, for they come after it. Both
    are in ascending order, and no position is in both.
    """

    settled: tuple[int, ...]
    lost: tuple[int, ...]
