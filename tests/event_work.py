"""Replicas of the event-bus's agents and tasks on one database, for tests: real stores and a real host."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

from mnemo_events.api.agent_service import AgentServicer
from mnemo_events.api.task_service import TaskServicer
from mnemo_events.domain.agent_watch import AgentWatches
from mnemo_events.domain.agents import Agents
from mnemo_events.domain.arrivals import Arrivals
from mnemo_events.domain.filter import Filter
from mnemo_events.domain.news import News
from mnemo_events.domain.outbox import SOURCE, OutboxRelay
from mnemo_events.domain.publisher import Publisher
from mnemo_events.domain.retry_schedule import RetrySchedule
from mnemo_events.domain.tasks import MAX_WAITING, Tasks
from mnemo_events.storage.postgres_agents import PostgresAgents
from mnemo_events.storage.postgres_log import PostgresLog
from mnemo_events.storage.postgres_outbox import PostgresOutbox
from mnemo_events.storage.postgres_tasks import PostgresTasks
from mnemocore import calls
from mnemocore.calls import Identity
from mnemocore.events.v1 import agent_service_pb2_grpc, task_service_pb2_grpc
from mnemocore.ids import Tenant
from mnemocore.postgres import migrate
from mnemocore.server import Host, InternalAuthenticator, Service

if TYPE_CHECKING:
    from mnemo_events.domain.event import Event
    from mnemocore.clock import Clock
    from mnemocore.postgres import Database

TOKEN = "a token"
POLL_SECONDS = 5.0


def person(principal: str = "ada", tenant: str = "acme", *scopes: str) -> Identity:
    """A caller."""
    return Identity(Tenant(tenant), principal, frozenset(scopes or ("events:read", "events:write")))


def headers(principal: str, tenant: str, scopes: str) -> list[tuple[str, str | bytes]]:
    """What a call of a principal carries; scopes are joined by commas."""
    return [
        (calls.INTERNAL_TOKEN_HEADER, TOKEN),
        (calls.TENANT_HEADER, tenant),
        (calls.PRINCIPAL_HEADER, principal),
        (calls.SCOPES_HEADER, scopes),
    ]


async def migrated(database: Database) -> None:
    """Prepare a database."""
    await migrate(database, "mnemo_events.storage.migrations", schema="events")


class Replica:
    """Agents and tasks of one replica. Nothing runs in the background: tests sweep and publish by hand."""

    def __init__(self, database: Database, clock: Clock, *, max_waiting: int = MAX_WAITING) -> None:
        self.clock = clock
        self.agent_news, self.task_news = News(), News()
        self.agent_store, self.task_store = PostgresAgents(database), PostgresTasks(database)
        self.outbox = PostgresOutbox(database)
        self.log = PostgresLog(database)
        self.relay = OutboxRelay(self.outbox, Publisher(self.log, Arrivals(), clock), clock)
        self.agents = Agents(self.agent_store, self.agent_news, self.task_news, clock, self.relay.wake)
        self.watches = AgentWatches(self.agent_store, self.agent_news, clock, POLL_SECONDS)
        self.tasks = Tasks(
            self.task_store,
            self.agents,
            self.task_news,
            clock,
            RetrySchedule(random.Random(7)),
            self.relay.wake,
            POLL_SECONDS,
            max_waiting,
        )
        self.host = Host(
            "events",
            [
                Service(
                    AgentServicer(self.agents, self.watches, clock),
                    agent_service_pb2_grpc.add_AgentServiceServicer_to_server,
                    "mnemocore.events.v1.AgentService",
                ),
                Service(
                    TaskServicer(self.tasks),
                    task_service_pb2_grpc.add_TaskServiceServicer_to_server,
                    "mnemocore.events.v1.TaskService",
                ),
            ],
            authenticator=InternalAuthenticator(TOKEN),
        )

    def agents_stub(
        self, principal: str = "ada", tenant: str = "acme", scopes: str = "events:read,events:write"
    ) -> Any:
        """A stub for agents."""
        return agent_service_pb2_grpc.AgentServiceStub(self.host.channel(headers(principal, tenant, scopes)))

    def tasks_stub(self, principal: str = "ada", tenant: str = "acme", scopes: str = "events:read,events:write") -> Any:
        """A stub for tasks."""
        return task_service_pb2_grpc.TaskServiceStub(self.host.channel(headers(principal, tenant, scopes)))

    async def events(self) -> list[Event]:
        """What the log has of this room, after publishing all there is."""
        await self.relay.publish_pending()
        return await self.logged()

    async def logged(self) -> list[Event]:
        """What the log has of this room."""
        found: list[Event] = []
        after, head = 0, 1
        while after < head:
            page = await self.log.read(after, Filter(), 1000)
            found += [stored.event for stored in page.events if stored.event.source == SOURCE]
            after, head = page.resume, page.head
        return found
