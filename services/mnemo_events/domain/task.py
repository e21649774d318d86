"""Tasks as values: what one is, and what becomes of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta
from enum import IntEnum
from typing import TYPE_CHECKING, Final

from mnemo_events.domain.agent import check_speaker
from mnemo_events.domain.group import Reason
from mnemo_events.domain.outbox import Notice
from mnemocore.errors import LeaseLostError, TaskStateError

if TYPE_CHECKING:
    from datetime import datetime

    from mnemo_events.domain.retry_schedule import RetrySchedule
    from mnemocore.calls import Identity
    from mnemocore.ids import Tenant

MAX_QUEUED: Final = 100_000
"""Tasks of a tenant that wait."""
DEFAULT_ATTEMPTS: Final = 5
STEP: Final = timedelta(seconds=60)
"""What a step of priority is worth in waiting."""
DEFAULT_LEASE: Final = timedelta(seconds=60)
SHORTEST_LEASE: Final = timedelta(seconds=1)
LONGEST_LEASE: Final = timedelta(hours=1)
KEPT: Final = timedelta(days=7)
"""How long done and cancelled tasks are kept."""
LOST: Final = "the agent left, was silent, or kept the task longer than its lease"
"""What a task says of an attempt that nobody settled."""


class State(IntEnum):
    """How a task stands. The numbers are those of the contract and of the database."""

    QUEUED = 1
    RUNNING = 2
    DONE = 3
    DEAD = 4
    CANCELLED = 5

    @property
    def ended(self) -> bool:
        """Whether nothing happens to it by itself any more."""
        return self >= State.DONE


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be done; `capabilities` are sorted and each is there once, `max_attempts` is at least 1."""

    type: str
    payload: bytes
    content_type: str
    capabilities: tuple[str, ...]
    priority: int
    max_attempts: int
    not_before: datetime | None


@dataclass(frozen=True, slots=True)
class Word:
    """What an agent, registered by `holder`, said last: that it did the task in that attempt, or that it failed."""

    agent: str
    holder: str
    attempt: int
    done: bool


NO_WORD: Final = Word("", "", 0, done=False)


@dataclass(frozen=True, slots=True)
class Lease:
    """Who has a task: the id of an agent, who registered it, until when, and the request it was given for."""

    agent: str
    holder: str
    until: datetime
    request_id: str | None = None


@dataclass(frozen=True, slots=True)
class Task:
    """A piece of work.

    `uid` names this very task. `attempts` counts all of them and never starts again, so that one number is given once;
    `tried_before` are those before the last retry. `due_at` is when it may be given at the earliest. `number` comes
    from the store, in the order of arrival; 0 before. Tasks are values: the methods that change one return what it
    becomes.
    """

    tenant: Tenant
    id: str
    uid: str
    order: Order
    principal: str
    created_at: datetime
    due_at: datetime
    state: State = State.QUEUED
    attempts: int = 0
    tried_before: int = 0
    retries: int = 0
    lease: Lease | None = None
    result: bytes = b""
    reason: Reason = Reason.UNSPECIFIED
    error: str = ""
    ended_at: datetime | None = None
    word: Word = NO_WORD
    number: int = 0

    @property
    def name(self) -> str:
        """The public resource name."""
        return f"tasks/{self.id}"

    @property
    def rank(self) -> datetime:
        """Tasks are given in this order, the least first: a step of priority is worth a minute of waiting."""
        return self.created_at - self.order.priority * STEP

    @property
    def tries(self) -> int:
        """Attempts since it was enqueued or retried."""
        return self.attempts - self.tried_before

    def given(self, lease: Lease) -> Task:
        """With an agent: one more attempt."""
        return replace(self, state=State.RUNNING, attempts=self.attempts + 1, lease=lease)

    def completed(self, agent: str, attempt: int, speaker: Identity, result: bytes, now: datetime) -> Task:
        """Done. The same again changes nothing. Raises LeaseLostError, PermissionDeniedError."""
        if self._said(agent, attempt, speaker, done=True):
            return self
        lease = self._held(agent, attempt, speaker)
        word = Word(agent, lease.holder, attempt, done=True)
        done = replace(self, state=State.DONE, lease=None, result=result, ended_at=now, word=word)
        return replace(done, reason=Reason.UNSPECIFIED, error="")

    def failed(
        self,
        agent: str,
        attempt: int,
        speaker: Identity,
        reason: Reason,
        error: str,
        now: datetime,
        schedule: RetrySchedule,
    ) -> Task:
        """Due again later, or dead. The same again changes nothing. Raises LeaseLostError, PermissionDeniedError."""
        if self._said(agent, attempt, speaker, done=False):
            return self
        lease = self._held(agent, attempt, speaker)
        word = Word(agent, lease.holder, attempt, done=False)
        if reason.permanent:
            return replace(self._dead(reason, error, now), word=word)
        return replace(self._tried(reason, error, now, now + schedule.delay(self.tries)), word=word)

    def extended(self, agent: str, attempt: int, speaker: Identity, until: datetime) -> Task:
        """With a lease that begins anew. Raises LeaseLostError, PermissionDeniedError."""
        return replace(self, lease=replace(self._held(agent, attempt, speaker), until=until))

    def lost(self, now: datetime) -> Task:
        """Taken from its agent: due again at once, or dead."""
        return self._tried(Reason.LEASE_EXPIRED, LOST, now, now)

    def cancelled(self, now: datetime) -> Task:
        """Never to be given again; itself if it is so already. Raises TaskStateError if it is done or dead."""
        if self.state is State.CANCELLED:
            return self
        if self.state.ended:
            raise self._wrong_state("; only one that waits or runs is cancelled")
        return replace(self, state=State.CANCELLED, lease=None, ended_at=now)

    def retried(self, now: datetime) -> Task:
        """In the queue again; itself if it has not ended. Raises TaskStateError if it is done or cancelled."""
        if not self.state.ended:
            return self
        if self.state is not State.DEAD:
            raise self._wrong_state("; only a dead one is retried")
        again = replace(self, state=State.QUEUED, ended_at=None, due_at=now)
        return replace(again, retries=self.retries + 1, tried_before=self.attempts)

    def ending(self) -> Notice:
        """Tells that it is done or dead."""
        done = self.state is State.DONE
        content = {
            "name": self.name,
            "type": self.order.type,
            "principal": self.principal,
            "agent": f"agents/{self.word.agent}" if done else "",
            "attempts": self.attempts,
            "retries": self.retries,
        }
        if not done:
            content["reason"] = self.reason.name
        id = f"{self.uid}/done" if done else f"{self.uid}/{self.retries}/dead"
        time = self.ended_at or self.due_at
        return Notice(self.tenant, id, "task.done" if done else "task.dead", self.name, time, content)

    def _said(self, agent: str, attempt: int, speaker: Identity, *, done: bool) -> bool:
        """Whether the agent has said so before."""
        if (self.word.agent, self.word.attempt, self.word.done) != (agent, attempt, done):
            return False
        check_speaker(f"agents/{agent}", self.word.holder, speaker)
        return True

    def _held(self, agent: str, attempt: int, speaker: Identity) -> Lease:
        """The lease, if the agent has it in that attempt."""
        if self.lease is None or (self.lease.agent, self.attempts) != (agent, attempt):
            raise LeaseLostError(name=self.name)
        check_speaker(f"agents/{agent}", self.lease.holder, speaker)
        return self.lease

    def _tried(self, reason: Reason, error: str, now: datetime, due_at: datetime) -> Task:
        if self.tries >= self.order.max_attempts:
            return self._dead(reason, error, now)
        return replace(self, state=State.QUEUED, lease=None, reason=reason, error=error, due_at=due_at)

    def _dead(self, reason: Reason, error: str, now: datetime) -> Task:
        return replace(self, state=State.DEAD, lease=None, reason=reason, error=error, ended_at=now)

    def _wrong_state(self, allowed: str) -> TaskStateError:
        state = self.state.name.lower()
        return TaskStateError(f"task {self.name!r} is {state}{allowed}", task=self.name, state=state)
