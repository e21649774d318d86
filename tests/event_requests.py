"""A request to every public method of event-bus, about the things of a tenant.

The tables are complete: `tests.services.test_events_isolation` fails for a method that is not in them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.timestamp_pb2 import Timestamp

from mnemocore.events.v1 import access_service_pb2 as access
from mnemocore.events.v1 import agent_service_pb2 as agents
from mnemocore.events.v1 import event_service_pb2 as events
from mnemocore.events.v1 import group_service_pb2 as groups
from mnemocore.events.v1 import resources_pb2 as resources
from mnemocore.events.v1 import schema_service_pb2 as schemas
from mnemocore.events.v1 import task_service_pb2 as tasks
from mnemocore.events.v1 import webhook_service_pb2 as webhooks
from mnemocore.wire import dict_to_struct

PACKAGE: Final = "/mnemocore.events.v1."
_NOW: Final = Timestamp(seconds=1_800_000_000)
_EARLIEST: Final = resources.StartAt(earliest=resources.StartAt.Earliest())


@dataclass(frozen=True)
class Things:
    """The things that requests are about: a group, an agent, ... all of the id `id`, and what is written into them.

    `attempt` and `position` are of an event that was delivered, or of a task.
    """

    id: str
    canary: str
    type: str = "made.shared"
    position: int = 1
    attempt: int = 1
    url: str = "https://example.com/"
    number: int = 0

    @property
    def subject(self) -> str:
        """What its events are about."""
        return f"things/{self.canary}"

    def event(self) -> resources.Event:
        """An event of it."""
        return resources.Event(
            id=f"{self.id}-{self.number}",
            source="shared" if self.number % 2 else "",
            type=self.type,
            subject=self.subject,
            time=_NOW,
            datacontenttype="application/json",
            data=f'{{"text": "{self.canary}"}}'.encode(),
            correlation_id=self.canary,
            causation_id=self.canary,
        )

    def group(self) -> resources.Group:
        """A group for its events."""
        return resources.Group(filter={"types": [self.type], "subjects": [self.subject]}, max_attempts=1)  # type: ignore[arg-type]

    def policy(self) -> resources.AccessPolicy:
        """A policy for its events."""
        return resources.AccessPolicy(principal=self.canary, actions=[1, 2], types=[self.type], subjects=[self.subject])  # type: ignore[list-item]

    def webhook(self) -> resources.Webhook:
        """A webhook for its events."""
        return resources.Webhook(
            name=f"webhooks/{self.id}",
            url=f"{self.url}{self.canary}",
            filter={"types": [self.type], "subjects": [self.subject]},  # type: ignore[arg-type]
            secret=f"the secret of {self.canary}",
            description=f"told to {self.canary}",
        )

    def agent(self) -> resources.Agent:
        """An agent."""
        return resources.Agent(
            capabilities=["search", self.canary],
            description=f"works for {self.canary}",
            metadata=dict_to_struct({"secret": self.canary}),
        )

    def task(self) -> resources.Task:
        """A task for it."""
        return resources.Task(
            type="search", payload=self.canary.encode(), content_type=self.canary, capabilities=["search"]
        )

    def schema(self) -> schemas.RegisterSchemaRequest:
        """A schema of its events."""
        definition = f'{{"type": "object", "title": "{self.canary}", "properties": {{"text": {{"type": "string"}}}}}}'
        return schemas.RegisterSchemaRequest(
            type=self.type,
            format=resources.SCHEMA_FORMAT_JSON,
            definition=definition.encode(),
            description=f"of {self.canary}",
        )


Request: TypeAlias = Callable[[Things], Any]
"""Makes the request; for a method with a stream of requests the messages of the client."""

REQUESTS: Final[dict[str, Request]] = {
    "EventService/PublishEvents": lambda it: events.PublishEventsRequest(events=[it.event()]),
    "EventService/SubscribeEvents": lambda it: [
        events.SubscribeEventsRequest(
            start=events.SubscribeEventsRequest.Start(credit=1000, head_at_once=True, start_at=_EARLIEST)
        )
    ],
    "EventService/ReadEvents": lambda it: events.ReadEventsRequest(page_size=1000),
    "GroupService/CreateGroup": lambda it: groups.CreateGroupRequest(
        group_id=it.id, group=it.group(), start_at=_EARLIEST
    ),
    "GroupService/GetGroup": lambda it: groups.GetGroupRequest(name=f"groups/{it.id}"),
    "GroupService/ListGroups": lambda it: groups.ListGroupsRequest(),
    "GroupService/DeleteGroup": lambda it: groups.DeleteGroupRequest(name=f"groups/{it.id}"),
    "GroupService/SeekGroup": lambda it: groups.SeekGroupRequest(name=f"groups/{it.id}", start_at=_EARLIEST),
    "GroupService/ConsumeEvents": lambda it: [
        groups.ConsumeEventsRequest(
            start=groups.ConsumeEventsRequest.Start(name=f"groups/{it.id}", member=it.canary, credit=10)
        )
    ],
    "GroupService/ListDeadLetters": lambda it: groups.ListDeadLettersRequest(parent=f"groups/{it.id}"),
    "GroupService/GetDeadLetter": lambda it: groups.GetDeadLetterRequest(
        name=f"groups/{it.id}/deadLetters/{it.position}"
    ),
    "GroupService/ReplayDeadLetters": lambda it: groups.ReplayDeadLettersRequest(
        parent=f"groups/{it.id}", positions=[it.position]
    ),
    "GroupService/PurgeDeadLetters": lambda it: groups.PurgeDeadLettersRequest(
        parent=f"groups/{it.id}", positions=[it.position]
    ),
    "SchemaService/RegisterSchema": lambda it: it.schema(),
    "SchemaService/GetSchema": lambda it: schemas.GetSchemaRequest(name=f"schemas/{it.type}"),
    "SchemaService/ListSchemas": lambda it: schemas.ListSchemasRequest(type=it.type),
    "SchemaService/DeleteSchema": lambda it: schemas.DeleteSchemaRequest(name=f"schemas/{it.type}"),
    "SchemaService/ValidateEvents": lambda it: schemas.ValidateEventsRequest(events=[it.event()]),
    "AccessService/CreatePolicy": lambda it: access.CreatePolicyRequest(policy_id=it.id, policy=it.policy()),
    "AccessService/ListPolicies": lambda it: access.ListPoliciesRequest(),
    "AccessService/DeletePolicy": lambda it: access.DeletePolicyRequest(name=f"policies/{it.id}"),
    "AccessService/ListRefusals": lambda it: access.ListRefusalsRequest(),
    "AccessService/CheckAccess": lambda it: access.CheckAccessRequest(
        principal=it.canary, action=resources.ACCESS_ACTION_SUBSCRIBE, type=it.type, subject=it.subject
    ),
    "WebhookService/CreateWebhook": lambda it: webhooks.CreateWebhookRequest(webhook_id=it.id, webhook=it.webhook()),
    "WebhookService/GetWebhook": lambda it: webhooks.GetWebhookRequest(name=f"webhooks/{it.id}"),
    "WebhookService/ListWebhooks": lambda it: webhooks.ListWebhooksRequest(),
    "WebhookService/UpdateWebhook": lambda it: webhooks.UpdateWebhookRequest(
        webhook=it.webhook(), update_mask=FieldMask(paths=["filter", "description"])
    ),
    "WebhookService/DeleteWebhook": lambda it: webhooks.DeleteWebhookRequest(name=f"webhooks/{it.id}"),
    "WebhookService/PauseWebhook": lambda it: webhooks.PauseWebhookRequest(name=f"webhooks/{it.id}"),
    "WebhookService/ResumeWebhook": lambda it: webhooks.ResumeWebhookRequest(name=f"webhooks/{it.id}"),
    "WebhookService/TestWebhook": lambda it: webhooks.TestWebhookRequest(name=f"webhooks/{it.id}"),
    "WebhookService/ListWebhookDeliveries": lambda it: webhooks.ListWebhookDeliveriesRequest(
        parent=f"webhooks/{it.id}"
    ),
    "AgentService/RegisterAgent": lambda it: agents.RegisterAgentRequest(agent_id=it.id, agent=it.agent()),
    "AgentService/Heartbeat": lambda it: agents.HeartbeatRequest(name=f"agents/{it.id}", load=0.5),
    "AgentService/GetAgent": lambda it: agents.GetAgentRequest(name=f"agents/{it.id}"),
    "AgentService/ListAgents": lambda it: agents.ListAgentsRequest(),
    "AgentService/DeregisterAgent": lambda it: agents.DeregisterAgentRequest(name=f"agents/{it.id}"),
    "AgentService/WatchAgents": lambda it: agents.WatchAgentsRequest(),
    "TaskService/EnqueueTask": lambda it: tasks.EnqueueTaskRequest(task_id=it.id, task=it.task()),
    "TaskService/ClaimTasks": lambda it: tasks.ClaimTasksRequest(
        agent=f"agents/{it.id}", limit=10, lease=Duration(seconds=60)
    ),
    "TaskService/CompleteTask": lambda it: tasks.CompleteTaskRequest(
        name=f"tasks/{it.id}", agent=f"agents/{it.id}", attempt=it.attempt, result=it.canary.encode()
    ),
    "TaskService/FailTask": lambda it: tasks.FailTaskRequest(
        name=f"tasks/{it.id}", agent=f"agents/{it.id}", attempt=it.attempt, message=it.canary
    ),
    "TaskService/ExtendTask": lambda it: tasks.ExtendTaskRequest(
        name=f"tasks/{it.id}", agent=f"agents/{it.id}", attempt=it.attempt
    ),
    "TaskService/GetTask": lambda it: tasks.GetTaskRequest(name=f"tasks/{it.id}"),
    "TaskService/ListTasks": lambda it: tasks.ListTasksRequest(),
    "TaskService/CancelTask": lambda it: tasks.CancelTaskRequest(name=f"tasks/{it.id}"),
    "TaskService/RetryTask": lambda it: tasks.RetryTaskRequest(name=f"tasks/{it.id}"),
    "TaskService/PurgeTasks": lambda it: tasks.PurgeTasksRequest(state=resources.TASK_STATE_CANCELLED),
}
"""By the name of the method on the wire without its package."""

SHOWS_OR_TAKES_EVENTS: Final = frozenset(
    {
        "EventService/PublishEvents",
        "EventService/SubscribeEvents",
        "EventService/ReadEvents",
        "GroupService/CreateGroup",
        "GroupService/DeleteGroup",
        "GroupService/SeekGroup",
        "GroupService/ConsumeEvents",
        "GroupService/ListDeadLetters",
        "GroupService/GetDeadLetter",
        "GroupService/ReplayDeadLetters",
        "GroupService/PurgeDeadLetters",
        "WebhookService/CreateWebhook",
        "WebhookService/UpdateWebhook",
    }
)
"""Methods that need a policy besides their scope."""
