"""The composition root of event-bus."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from mnemo_events.api.access_service import AccessServicer
from mnemo_events.api.agent_service import AgentServicer
from mnemo_events.api.event_service import EventServicer
from mnemo_events.api.group_service import GroupServicer
from mnemo_events.api.platform_schemas import platform_schemas
from mnemo_events.api.schema_service import SchemaServicer
from mnemo_events.api.task_service import TaskServicer
from mnemo_events.api.webhook_service import WebhookServicer
from mnemo_events.clients.address_guard import AddressGuard, Allowed, SystemResolver
from mnemo_events.clients.http_sender import HttpSender, Limits
from mnemo_events.domain.access import Access
from mnemo_events.domain.agent_watch import AgentWatches
from mnemo_events.domain.agents import Agents
from mnemo_events.domain.arrivals import Arrivals
from mnemo_events.domain.consumption import Consumption
from mnemo_events.domain.dead_letters import Burials, DeadLetters
from mnemo_events.domain.eraser import Eraser
from mnemo_events.domain.group_keeping import GroupKeeping
from mnemo_events.domain.json_schemas import JsonSchemas
from mnemo_events.domain.news import News
from mnemo_events.domain.outbox import OutboxRelay
from mnemo_events.domain.policies import Policies
from mnemo_events.domain.publication import Publication
from mnemo_events.domain.publisher import Publisher
from mnemo_events.domain.refusals import Refusals
from mnemo_events.domain.retention import Keep, Retention
from mnemo_events.domain.retry_schedule import RetrySchedule
from mnemo_events.domain.schemas import Format, Schemas
from mnemo_events.domain.subscription import Subscriptions
from mnemo_events.domain.tasks import Tasks
from mnemo_events.domain.webhook_delivery import SUSPEND_AFTER, Dispatcher
from mnemo_events.domain.webhook_post import WebhookPost
from mnemo_events.domain.webhook_queue import WebhookQueues
from mnemo_events.domain.webhook_secrets import MASTER_KEYS, WebhookSecrets
from mnemo_events.domain.webhook_upkeep import WebhookUpkeep
from mnemo_events.domain.webhooks import Webhooks
from mnemo_events.settings import MAX_STREAMS
from mnemo_events.storage.postgres_agents import PostgresAgents
from mnemo_events.storage.postgres_dead_letters import PostgresDeadLetters
from mnemo_events.storage.postgres_engine import PostgresEngine
from mnemo_events.storage.postgres_outbox import PostgresOutbox
from mnemo_events.storage.postgres_policies import CHANNEL as POLICIES_CHANNEL
from mnemo_events.storage.postgres_policies import PostgresPolicies, PostgresRefusals
from mnemo_events.storage.postgres_schemas import CHANNEL as SCHEMAS_CHANNEL
from mnemo_events.storage.postgres_schemas import PostgresSchemas
from mnemo_events.storage.postgres_tasks import CHANNEL as TASKS_CHANNEL
from mnemo_events.storage.postgres_tasks import PostgresTasks
from mnemo_events.storage.postgres_webhooks import PostgresWebhooks
from mnemo_events.storage.redis_engine import open_redis_engine
from mnemo_events.wire.cloud_events import CloudEvents
from mnemo_events.wire.protobuf_schemas import ProtobufSchemas
from mnemocore import master_keys
from mnemocore.errors import InvalidSettingError
from mnemocore.events.v1 import (
    access_service_pb2_grpc,
    agent_service_pb2_grpc,
    event_service_pb2_grpc,
    group_service_pb2_grpc,
    schema_service_pb2_grpc,
    task_service_pb2_grpc,
    webhook_service_pb2_grpc,
)
from mnemocore.ids import Tenant
from mnemocore.master_keys import FixedMasterKeys
from mnemocore.postgres import Listener, migrate
from mnemocore.sealing import MasterKeys
from mnemocore.server import AdmissionLimits, BackgroundTask, Service

if TYPE_CHECKING:
    from mnemo_events.clients.address_guard import Resolver
    from mnemo_events.domain.ports import Engine
    from mnemo_events.domain.schemas import SchemaLanguage
    from mnemo_events.settings import EventsSettings
    from mnemocore.clock import Clock
    from mnemocore.master_keys import MasterKeySource
    from mnemocore.postgres import Database


REDIS_SCHEMES: Final = ("redis", "rediss", "unix")


def open_engine(log_url: str, database: Database) -> Engine:
    """The engine that a URL names: a Redis, or the PostgreSQL of `database` for the empty one.

    Raises InvalidSettingError for any other URL.
    """
    if not log_url:
        return PostgresEngine(database)
    if urlsplit(log_url).scheme in REDIS_SCHEMES:
        return open_redis_engine(log_url)
    allowed = ", ".join(f"{scheme}://" for scheme in REDIS_SCHEMES)
    text = f"MNEMO_EVENTS_LOG_URL = (hidden): allowed is a URL that begins with one of {allowed}, or nothing"
    raise InvalidSettingError(text, setting="MNEMO_EVENTS_LOG_URL")


@dataclass(frozen=True, slots=True)
class WebhookOptions:
    """The master keys of the secrets of webhooks (without one none can be made), and how they are sent events.

    `allow` says where they may lead besides public addresses, as the setting does; `resolver` replaces the machine's.
    """

    master_keys: MasterKeySource = FixedMasterKeys(MasterKeys())  # noqa: RUF009
    allow: str = ""
    limits: Limits = Limits()  # noqa: RUF009
    suspend_after: int = SUSPEND_AFTER
    resolver: Resolver | None = None


class EventsApp:
    """event-bus on a database, and on an engine for the log and the groups: the same database if none is given.

    The engine is started here, and stopped by whoever opened it. `keep` says what of the events of no space is kept,
    `max_streams` how many readers, members of groups and watches there are at once at most.
    """

    name = "events"

    def __init__(
        self,
        database: Database,
        clock: Clock,
        poll_seconds: float = 5.0,
        engine: Engine | None = None,
        keep: Keep = Keep(),  # noqa: B008
        webhooks: WebhookOptions = WebhookOptions(),
        max_streams: int = MAX_STREAMS,
    ) -> None:
        self.limits = AdmissionLimits(stream_running=max_streams)
        self._database = database
        self._clock = clock
        self._poll_seconds = poll_seconds
        self._engine = engine = engine or PostgresEngine(database)
        self._arrivals = Arrivals()
        self._subscriptions = Subscriptions(engine.log, self._arrivals, clock)
        self._refusals = refusals = Refusals(PostgresRefusals(database), clock)
        policies = PostgresPolicies(database)
        self._access = access = Access(policies, refusals, clock, poll_seconds)
        dead_letters = PostgresDeadLetters(database)
        burials = Burials(engine, dead_letters)
        schedule = RetrySchedule(random.Random())
        self._consumption = Consumption(engine, burials, self._arrivals, clock, schedule)
        publisher = Publisher(engine.log, self._arrivals, clock)
        languages: dict[Format, SchemaLanguage] = {Format.JSON: JsonSchemas(), Format.PROTOBUF: ProtobufSchemas()}
        self._schemas = schemas = Schemas(PostgresSchemas(database), languages, platform_schemas(), clock, poll_seconds)
        publication = Publication(publisher, access, schemas)
        eraser = Eraser(engine.log, dead_letters, self._consumption, self._subscriptions)
        groups = GroupKeeping(engine, dead_letters, burials, self._consumption, access, clock)
        replays = DeadLetters(engine, dead_letters, access, clock, self._consumption.changed)
        self._webhooks = _WebhookRoom(
            database, engine, self._consumption, groups, access, clock, poll_seconds, webhooks
        )
        self._work = _WorkRoom(database, publisher, clock, schedule, poll_seconds)
        self._tasks = [
            *self._webhooks.tasks,
            *self._work.tasks,
            BackgroundTask("news of other replicas", self._listen),
            BackgroundTask("look for missed news", self._poll),
            BackgroundTask("retention", Retention(engine.log, keep, clock).run),
            BackgroundTask("refusals", refusals.run),
            BackgroundTask("policies of other replicas", Listener(database, POLICIES_CHANNEL, self._hear_policies).run),
            BackgroundTask("schemas of other replicas", Listener(database, SCHEMAS_CHANNEL, self._hear_schemas).run),
        ]
        self.services = [
            self._webhooks.service,
            *self._work.services,
            Service(
                EventServicer(engine.log, publication, self._subscriptions, eraser, access),
                event_service_pb2_grpc.add_EventServiceServicer_to_server,
                "mnemocore.events.v1.EventService",
            ),
            Service(
                GroupServicer(groups, replays, self._consumption, access, clock),
                group_service_pb2_grpc.add_GroupServiceServicer_to_server,
                "mnemocore.events.v1.GroupService",
            ),
            Service(
                AccessServicer(Policies(policies, access, clock), refusals),
                access_service_pb2_grpc.add_AccessServiceServicer_to_server,
                "mnemocore.events.v1.AccessService",
            ),
            Service(
                SchemaServicer(schemas, publication),
                schema_service_pb2_grpc.add_SchemaServiceServicer_to_server,
                "mnemocore.events.v1.SchemaService",
            ),
        ]

    @classmethod
    def of(cls, settings: EventsSettings, database: Database, clock: Clock, engine: Engine) -> EventsApp:
        """event-bus as its settings want it. Raises InvalidSettingError."""
        webhooks = WebhookOptions(
            master_keys.source(settings.master_keys, settings.master_keys_file, MASTER_KEYS),
            settings.webhook_allow,
            Limits(settings.webhook_connect_seconds, settings.webhook_seconds),
            settings.webhook_suspend_after,
        )
        keep = Keep(settings.keep_days, settings.keep_events, settings.keep_mib)
        return cls(database, clock, settings.poll_seconds, engine, keep, webhooks, settings.max_streams)

    async def start(self) -> None:
        """Migrate the database, prepare the engine, and listen for what other replicas do."""
        await migrate(self._database, "mnemo_events.storage.migrations", schema="events")
        await self._engine.start()
        for task in self._tasks:
            await task.start()

    @property
    def waiting_claims(self) -> int:
        """How many claims of agents wait for tasks at this replica."""
        return self._work.waiting_claims

    def drain(self) -> None:
        """End the streams of all subscribers and members; they go on at another replica, or here after the restart."""
        self._subscriptions.drain()
        self._webhooks.dispatcher.drain()
        self._work.drain()
        self._consumption.drain()

    async def stop(self) -> None:
        """End the streams that are left, give back what members had, and write what was refused."""
        self.drain()
        await self._webhooks.stop()
        await self._consumption.stop()
        for task in reversed(self._tasks):
            await task.stop()
        await self._refusals.finish()

    async def ready(self) -> bool:
        """Whether the stores answer."""
        return await self._database.ready() and await self._engine.ready()

    async def _listen(self) -> None:
        await self._engine.listen(self._hear, self._consumption.changed_elsewhere)

    def _hear(self, head: int | None) -> None:
        if head is None:
            self._arrivals.look_again()
        else:
            self._arrivals.advance(head)

    def _hear_policies(self, tenant: str | None) -> None:
        self._access.forget(None if tenant is None else Tenant(tenant))

    def _hear_schemas(self, tenant: str | None) -> None:
        self._schemas.forget(None if tenant is None else Tenant(tenant))

    async def _poll(self) -> None:
        while True:
            await self._clock.sleep(self._poll_seconds)
            self._arrivals.look_again()
            self._consumption.look_again()


class _WebhookRoom:
    """Webhooks: their service, and what runs for them."""

    def __init__(
        self,
        database: Database,
        engine: Engine,
        consumption: Consumption,
        groups: GroupKeeping,
        access: Access,
        clock: Clock,
        poll_seconds: float,
        options: WebhookOptions,
    ) -> None:
        self._resolver = SystemResolver()
        guard = AddressGuard(Allowed.parse(options.allow), options.resolver or self._resolver)
        self._sender = HttpSender(guard, clock, options.limits)
        store = PostgresWebhooks(database)
        queues = WebhookQueues(engine, groups, clock)
        secrets = WebhookSecrets(options.master_keys)
        post = WebhookPost(self._sender, CloudEvents(), secrets, store, clock)
        self.dispatcher = Dispatcher(
            store, engine.log, queues, consumption, post, access, clock, poll_seconds, options.suspend_after
        )
        webhooks = Webhooks(store, queues, secrets, guard, post, self.dispatcher, access, clock)
        self.service = Service(
            WebhookServicer(webhooks),
            webhook_service_pb2_grpc.add_WebhookServiceServicer_to_server,
            "mnemocore.events.v1.WebhookService",
        )

        async def listen() -> None:
            await store.listen(self.dispatcher.wake)

        self.tasks = [
            BackgroundTask("webhooks", self.dispatcher.run),
            BackgroundTask("webhooks of other replicas", listen),
            BackgroundTask("upkeep of webhooks", WebhookUpkeep(store, webhooks, secrets, clock).run),
        ]

    async def stop(self) -> None:
        """End what is under way."""
        await self.dispatcher.stop()
        await self._sender.close()
        self._resolver.close()


class _WorkRoom:
    """Agents and tasks: their services, and what runs for them."""

    def __init__(
        self, database: Database, publisher: Publisher, clock: Clock, schedule: RetrySchedule, poll_seconds: float
    ) -> None:
        relay = OutboxRelay(PostgresOutbox(database), publisher, clock)
        agent_news, task_news = News(), News()
        store = PostgresAgents(database)
        agents = Agents(store, agent_news, task_news, clock, relay.wake)
        self._watches = AgentWatches(store, agent_news, clock, poll_seconds)
        self._work = Tasks(PostgresTasks(database), agents, task_news, clock, schedule, relay.wake, poll_seconds)
        self.services = (
            Service(
                AgentServicer(agents, self._watches, clock),
                agent_service_pb2_grpc.add_AgentServiceServicer_to_server,
                "mnemocore.events.v1.AgentService",
            ),
            Service(
                TaskServicer(self._work),
                task_service_pb2_grpc.add_TaskServiceServicer_to_server,
                "mnemocore.events.v1.TaskService",
            ),
        )
        self.tasks = (
            BackgroundTask("events of agents and tasks", relay.run),
            BackgroundTask("silent agents", agents.run_sweeps),
            BackgroundTask("leases of tasks", self._work.run_sweeps),
            BackgroundTask("tasks of other replicas", Listener(database, TASKS_CHANNEL, task_news.hear).run),
        )

    @property
    def waiting_claims(self) -> int:
        """How many claims wait for tasks."""
        return self._work.waiting

    def drain(self) -> None:
        """End what waits and what watches."""
        self._watches.drain()
        self._work.drain()
