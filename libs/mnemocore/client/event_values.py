"""What the client takes and gives of events, groups, schemas, policies, webhooks, agents and tasks.

Plain, frozen values, under the rules of `mnemocore.client.values`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Literal, TypeAlias

from mnemocore.client.failures import InvalidEvent

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime, timedelta

    from mnemocore.client.values import Json

Payload: TypeAlias = "bytes | str | bool | int | float | Sequence[Json] | Mapping[str, Json] | None"
"""What events and tasks carry: bytes, text (`text/plain`), or anything else that is JSON (`application/json`)."""

Start: TypeAlias = "int | datetime | Literal['earliest', 'latest']"
"""Where a reader begins: after a position, at a time, with the oldest event, or with what comes from now on."""


class FailureReason(StrEnum):
    """Why an attempt failed."""

    UNKNOWN = "unknown"
    HANDLER_ERROR = "handler_error"
    UNAVAILABLE = "unavailable"
    TIMEOUT = "timeout"
    LEASE_EXPIRED = "lease_expired"
    INVALID_EVENT = "invalid_event"
    REJECTED = "rejected"
    REFUSED_BY_TARGET = "refused_by_target"


class SchemaFormat(StrEnum):
    """In what a schema is written."""

    UNKNOWN = "unknown"
    JSON = "json"
    PROTOBUF = "protobuf"


class SchemaCompatibility(StrEnum):
    """What a new version of a schema may change: BACKWARD means that its readers understand older events."""

    UNKNOWN = "unknown"
    NONE = "none"
    BACKWARD = "backward"
    FORWARD = "forward"
    FULL = "full"


class AccessAction(StrEnum):
    """What is done with events."""

    UNKNOWN = "unknown"
    PUBLISH = "publish"
    SUBSCRIBE = "subscribe"


class WebhookState(StrEnum):
    """Whether a webhook is sent events. SUSPENDED: it failed so often that it was paused."""

    UNKNOWN = "unknown"
    ACTIVE = "active"
    PAUSED = "paused"
    SUSPENDED = "suspended"


class AgentState(StrEnum):
    """Whether an agent was heard in the last 60 s."""

    UNKNOWN = "unknown"
    ONLINE = "online"
    OFFLINE = "offline"


class TaskState(StrEnum):
    """How a task stands."""

    UNKNOWN = "unknown"
    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    DEAD = "dead"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        """Whether nobody works on it any more, and nobody will unless it is retried."""
        return self in (TaskState.DONE, TaskState.DEAD, TaskState.CANCELLED)


@dataclass(frozen=True, slots=True)
class EventInput:
    """An event to publish. `type` is 2 to 5 lower-case segments joined by dots, such as `order.placed`.

    `id` is made if it is empty, `time` is now, `source` our principal. `datacontenttype` says what `data` is if it is
    given: bytes and text are then sent as they are. Events of one `subject` are kept in their order.
    """

    type: str
    data: Payload = None
    subject: str = ""
    id: str = ""
    time: datetime | None = None
    source: str = ""
    datacontenttype: str = ""
    dataschema: str = ""
    correlation_id: str = ""
    causation_id: str = ""


@dataclass(frozen=True, slots=True)
class Published:
    """Where an event is in the log: an id that was published before keeps its first position."""

    id: str
    position: int


@dataclass(frozen=True, slots=True)
class Event:
    """An event of the log, with the attributes of CloudEvents; `position` is its place."""

    position: int
    id: str
    source: str
    type: str
    subject: str
    time: datetime | None
    datacontenttype: str
    dataschema: str
    data: bytes
    space_uid: str
    revision: int
    stored_at: datetime | None
    traceparent: str = ""
    correlation_id: str = ""
    causation_id: str = ""

    def json(self) -> Json:
        """The payload as JSON. Raises InvalidEvent if it is not."""
        try:
            found: Json = json.loads(self.data)
        except ValueError as error:
            raise InvalidEvent(f"the data of event {self.id} is not JSON: {error}") from None
        return found

    def text(self) -> str:
        """The payload as text. Raises InvalidEvent if it is not UTF-8."""
        try:
            return self.data.decode()
        except UnicodeDecodeError as error:
            raise InvalidEvent(f"the data of event {self.id} is not UTF-8 (byte {error.start})") from None


@dataclass(frozen=True, slots=True)
class ConsumedEvent(Event):
    """An event that a member of a group is given, the `attempt`-th time; `replayed` if it was a dead letter."""

    attempt: int = 1
    replayed: bool = False


@dataclass(frozen=True, slots=True)
class EventPage:
    """A stretch of the log. Pass `resume_position` to go on after it; `head_position` is the newest of the log."""

    events: tuple[Event, ...]
    resume_position: int
    head_position: int


@dataclass(frozen=True, slots=True)
class ConsumerGroup:
    """Members that share the events of a filter, and how far they are.

    `position`: everything up to here was given out or does not match. `in_flight` events are with a member, `waiting`
    ones wait for an attempt or an earlier event, `dead` ones are dead letters; `lag` positions are not looked at yet.
    """

    id: str
    types: tuple[str, ...]
    subjects: tuple[str, ...]
    space_uid: str
    max_attempts: int
    lease: timedelta | None
    owner: str
    create_time: datetime | None
    position: int
    in_flight: int
    waiting: int
    dead: int
    lag: int


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """An event that a group could not do, and what was last said of it. `attempts` counts over all replays."""

    group: str
    event: Event
    reason: FailureReason
    message: str
    attempts: int
    replays: int
    first_death_time: datetime | None
    death_time: datetime | None
    replaying: bool

    @property
    def position(self) -> int:
        """The position of the event, which names the dead letter."""
        return self.event.position


@dataclass(frozen=True, slots=True)
class EventSchema:
    """What events of a type must look like. `definition` is JSON text or a serialised FileDescriptorSet.

    `closed`: fields that it does not know are refused. `platform`: it is the platform's own.
    """

    type: str
    version: int
    format: SchemaFormat
    definition: bytes
    message_name: str
    compatibility: SchemaCompatibility
    closed: bool
    create_time: datetime | None
    platform: bool
    description: str

    @property
    def name(self) -> str:
        """The resource name, which an event gives as its `dataschema`."""
        return f"schemas/{self.type}/versions/{self.version}"


@dataclass(frozen=True, slots=True)
class AccessPolicy:
    """Allows a principal (`*`: every one) to do something with events of these types, of these subjects or of any."""

    id: str
    principal: str
    actions: tuple[AccessAction, ...]
    types: tuple[str, ...]
    subjects: tuple[str, ...]
    create_time: datetime | None


@dataclass(frozen=True, slots=True)
class AccessDecision:
    """Whether something is allowed, and by which policy; None if nothing or the scope allows it."""

    allowed: bool
    policy: AccessPolicy | None


@dataclass(frozen=True, slots=True)
class Refusal:
    """What was refused because no policy allows it, counted by the hour."""

    principal: str
    action: AccessAction
    target: str
    method: str
    count: int
    first_time: datetime | None
    last_time: datetime | None


@dataclass(frozen=True, slots=True)
class Webhook:
    """An HTTP endpoint that is sent events. `failures` counts deliveries since the last that was taken."""

    id: str
    url: str
    types: tuple[str, ...]
    subjects: tuple[str, ...]
    space_uid: str
    description: str
    state: WebhookState
    pause_reason: str
    failures: int
    owner: str
    create_time: datetime | None
    update_time: datetime | None
    etag: str


@dataclass(frozen=True, slots=True)
class WebhookDelivery:
    """One attempt to send an event to a webhook. `status` is that of HTTP, 0 if there was no answer."""

    position: int
    event_id: str
    type: str
    attempt: int
    time: datetime | None
    duration: timedelta | None
    status: int
    delivered: bool
    error: str


@dataclass(frozen=True, slots=True)
class Agent:
    """A program that works for the tenant. `load` is what it said last: 0 idle, 1 full."""

    id: str
    capabilities: tuple[str, ...]
    description: str
    metadata: Mapping[str, Json]
    state: AgentState
    load: float
    last_heartbeat_time: datetime | None
    create_time: datetime | None
    principal: str


@dataclass(frozen=True, slots=True)
class AgentChanges:
    """Agents that are new or changed, and ids of those that are gone. `complete` once, when all are known."""

    agents: tuple[Agent, ...]
    gone: tuple[str, ...]
    complete: bool


@dataclass(frozen=True, slots=True)
class Task:
    """A piece of work for an agent that has all its `capabilities`. `priority` is 0 to 9, the higher the sooner.

    `agent` has it until `lease_until`. `result` is what came out; `reason` and `error` say why the last attempt failed.
    Listings leave `payload` and `result` out.
    """

    id: str
    type: str
    payload: bytes
    content_type: str
    capabilities: tuple[str, ...]
    priority: int
    max_attempts: int
    not_before: datetime | None
    state: TaskState
    attempts: int
    agent: str
    lease_until: datetime | None
    result: bytes
    reason: FailureReason
    error: str
    principal: str
    create_time: datetime | None
    end_time: datetime | None
    retries: int

    def json(self) -> Json:
        """The payload as JSON. Raises InvalidEvent if it is not."""
        try:
            found: Json = json.loads(self.payload)
        except ValueError as error:
            raise InvalidEvent(f"the payload of task {self.id} is not JSON: {error}") from None
        return found
