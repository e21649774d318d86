"""Webhooks of event-bus: behind its host, to a real HTTP server, over real stores."""

from __future__ import annotations

import asyncio
import json
import logging
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from tests.webhook_server import Endpoint, endpoint

from mnemo_events.app import EventsApp, WebhookOptions
from mnemo_events.clients.http_sender import Limits
from mnemo_events.storage.redis_engine import open_redis_engine
from mnemocore import calls
from mnemocore.client.signatures import verify_signature
from mnemocore.clock import SystemClock
from mnemocore.events.v1 import access_service_pb2 as access_pb
from mnemocore.events.v1 import (
    access_service_pb2_grpc,
    event_service_pb2_grpc,
    group_service_pb2_grpc,
    resources_pb2,
    webhook_service_pb2_grpc,
)
from mnemocore.events.v1 import event_service_pb2 as event_pb
from mnemocore.events.v1 import group_service_pb2 as group_pb
from mnemocore.events.v1 import webhook_service_pb2 as pb
from mnemocore.master_keys import FixedMasterKeys
from mnemocore.sealing import MasterKey, MasterKeys
from mnemocore.server import Host, InternalAuthenticator
from mnemocore.testing.clock import ManualClock
from mnemocore.testing.waiting import until
from mnemocore.version import __version__
from mnemocore.wire import to_timestamp

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from mnemo_events.domain.ports import Engine
    from mnemocore.clock import Clock
    from mnemocore.postgres import Database
    from mnemocore.testing.postgres import TestPostgres
    from mnemocore.testing.redis import TestRedis

TOKEN = "a token"
SECRET = "a secret that nobody may see"
OTHER_SECRET = "another secret, not to be seen"
SPACE = "018f0000-0000-7000-8000-00000000000a"
OTHER_SPACE = "018f0000-0000-7000-8000-00000000000b"
TIME = datetime(2026, 2, 3, 4, 5, 6, tzinfo=UTC)
SECONDS = 60.0
SUSPENDED = "webhooks/all of tenant acme is suspended: the endpoint says that it is gone (HTTP 410)"
FULL = "events:read,events:write,events:admin"
STATES = resources_pb2.WebhookState


class Keys:
    """Master keys that a test exchanges. Implements `MasterKeySource`."""

    def __init__(self, *ids: str) -> None:
        self.ids = ids

    async def keys(self) -> MasterKeys:
        return MasterKeys([MasterKey(id, id.encode().ljust(32)) for id in self.ids])


class Names:
    """A resolver whose answers a test gives."""

    def __init__(self, **answers: list[str]) -> None:
        self.answers = {name.replace("_", "."): addresses for name, addresses in answers.items()}

    async def addresses(self, host: str) -> list[str]:
        if host not in self.answers:
            raise OSError("no such host")
        return self.answers[host]


class Replica:
    """One event-bus on a database."""

    def __init__(self, database: Database, clock: Clock, engine: Engine | None = None, **options: Any) -> None:
        chosen: dict[str, Any] = {
            "master_keys": Keys("first"),
            "allow": "127.0.0.0/8",
            "limits": Limits(total_seconds=5),
        } | options
        self.app = EventsApp(database, clock, 60.0, engine, webhooks=WebhookOptions(**chosen))
        self.host = Host(
            "events", self.app.services, authenticator=InternalAuthenticator(TOKEN), readiness=self.app.ready
        )

    async def start(self) -> None:
        await self.app.start()
        await self.host.start(["127.0.0.1:0"])

    async def stop(self) -> None:
        self.app.drain()
        await self.host.drain(5)
        await self.app.stop()

    def channel(self, tenant: str = "acme", principal: str = "ada", scopes: str = FULL) -> grpc.aio.Channel:
        metadata = [(calls.INTERNAL_TOKEN_HEADER, TOKEN)]
        if tenant:
            metadata += [
                (calls.TENANT_HEADER, tenant),
                (calls.PRINCIPAL_HEADER, principal),
                (calls.SCOPES_HEADER, scopes),
            ]
        return self.host.channel(metadata)

    def webhooks(self, tenant: str = "acme", principal: str = "ada", scopes: str = FULL) -> Any:
        return webhook_service_pb2_grpc.WebhookServiceStub(self.channel(tenant, principal, scopes))

    def groups(self, tenant: str = "acme") -> Any:
        return group_service_pb2_grpc.GroupServiceStub(self.channel(tenant))

    def events(self) -> Any:
        return event_service_pb2_grpc.EventServiceStub(self.channel(""))

    def access(self) -> Any:
        return access_service_pb2_grpc.AccessServiceStub(self.channel())

    async def publish(self, *events: resources_pb2.Event) -> list[int]:
        request = event_pb.PublishEventsRequest(events=events)
        return list((await self.events().PublishEvents(request, timeout=SECONDS)).positions)

    async def create(self, id: str, url: str, *, stub: Any = None, **attributes: Any) -> resources_pb2.Webhook:
        webhook = resources_pb2.Webhook(**{"url": url, "secret": SECRET, **attributes})
        request = pb.CreateWebhookRequest(webhook_id=id, webhook=webhook)
        made: resources_pb2.Webhook = (await (stub or self.webhooks()).CreateWebhook(request, timeout=SECONDS)).webhook
        return made

    async def get(self, id: str) -> resources_pb2.Webhook:
        request = pb.GetWebhookRequest(name=f"webhooks/{id}")
        found: resources_pb2.Webhook = (await self.webhooks().GetWebhook(request, timeout=SECONDS)).webhook
        return found

    async def call(self, method: str, id: str, stub: Any = None) -> Any:
        request = getattr(pb, f"{method}Request")(name=f"webhooks/{id}")
        return await getattr(stub or self.webhooks(), method)(request, timeout=SECONDS)

    async def update(self, id: str, *paths: str, stub: Any = None, **attributes: Any) -> resources_pb2.Webhook:
        webhook = resources_pb2.Webhook(name=f"webhooks/{id}", **attributes)
        request = pb.UpdateWebhookRequest(webhook=webhook, update_mask=FieldMask(paths=paths))
        changed: resources_pb2.Webhook = (
            await (stub or self.webhooks()).UpdateWebhook(request, timeout=SECONDS)
        ).webhook
        return changed

    async def deliveries(self, id: str, **fields: Any) -> pb.ListWebhookDeliveriesResponse:
        request = pb.ListWebhookDeliveriesRequest(parent=f"webhooks/{id}", **fields)
        found: pb.ListWebhookDeliveriesResponse = await self.webhooks().ListWebhookDeliveries(request, timeout=SECONDS)
        return found

    async def standing(self, id: str) -> resources_pb2.Group:
        request = group_pb.GetGroupRequest(name=f"groups/webhook-{id}")
        found: resources_pb2.Group = (await self.groups().GetGroup(request, timeout=SECONDS)).group
        return found

    async def has_state(self, id: str, state: STATES.ValueType) -> bool:
        return (await self.get(id)).state == state


@asynccontextmanager
async def running(database: Database, clock: Clock | None = None, **options: Any) -> AsyncIterator[Replica]:
    replica = Replica(database, clock or ManualClock(), **options)
    await replica.start()
    try:
        yield replica
    finally:
        await replica.stop()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def replica(database: Database, clock: ManualClock) -> AsyncIterator[Replica]:
    async with running(database, clock) as started:
        yield started


@pytest.fixture
def server() -> Iterator[Endpoint]:
    with endpoint() as started:
        yield started


def event(id: str, **attributes: Any) -> resources_pb2.Event:
    attributes = {"type": "memory.created", "tenant": "acme", "space_uid": SPACE} | attributes
    return resources_pb2.Event(id=id, source="test", time=to_timestamp(TIME), **attributes)


async def pass_time(clock: ManualClock, condition: Callable[[], Any], step: float = 0.5) -> None:
    """Move the clock in steps until a condition holds."""

    async def moved() -> bool:
        found = condition()
        if await found if asyncio.iscoroutine(found) else found:
            return True
        await clock.advance(step)
        return False

    await until(moved, 60)


def couriers(id: str) -> set[asyncio.Task[Any]]:
    """The tasks of all replicas that send what a webhook waits for."""
    return {task for task in asyncio.all_tasks() if task.get_name() == f"courier of webhooks/{id}"}


async def failure(call: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code(), caught.value.details() or ""


# Sending.


async def test_an_event_arrives_as_a_signed_cloud_event(replica: Replica, server: Endpoint) -> None:
    made = await replica.create("orders", server.url, filter={"types": ["order.*"]}, description="the shop")
    assert (made.name, made.state, made.owner, made.secret) == (
        "webhooks/orders",
        STATES.WEBHOOK_STATE_ACTIVE,
        "ada",
        "",
    )
    wanted = event(
        "1",
        type="order.placed",
        space_uid="",
        subject="orders/7",
        data=b'{"total": 12.50}',
        datacontenttype="application/json",
        correlation_id="c",
    )
    (_, position) = await replica.publish(event("0"), wanted)
    await until(lambda: len(server.requests) == 1)
    (request,) = server.requests
    assert request.headers["content-type"] == "application/cloudevents+json; charset=utf-8"
    assert request.headers["user-agent"] == f"mnemocore/{__version__}"
    assert request.headers["x-mnemocore-delivery"] == f"webhook-orders/{position}/1"
    signed = request.headers["x-mnemocore-signature"]
    assert verify_signature(SECRET, signed, request.body, now=ManualClock().now())
    assert not verify_signature(OTHER_SECRET, signed, request.body, now=ManualClock().now())
    assert request.json == {
        "specversion": "1.0",
        "id": "1",
        "source": "test",
        "type": "order.placed",
        "subject": "orders/7",
        "time": "2026-02-03T04:05:06Z",
        "datacontenttype": "application/json",
        "correlationid": "c",
        "tenant": "acme",
        "position": str(position),
        "data": {"total": 12.5},
    }


async def test_only_what_comes_after_the_creation_is_sent(replica: Replica, server: Endpoint) -> None:
    await replica.publish(event("before"))
    await replica.create("all", server.url)
    await replica.publish(event("after"))
    await until(lambda: server.ids == ["after"])


async def test_one_key_in_order_and_others_at_once(replica: Replica, server: Endpoint) -> None:
    await replica.create("all", server.url)
    server.always = "slow"
    keys = [f"018f0000-0000-7000-8000-0000000000{key:02x}" for key in range(16)]
    await replica.publish(*(event(f"{key[-2:]}-{n}", space_uid=key) for n in range(5) for key in keys))
    await until(lambda: len(server.requests) == 80)
    for key in keys:
        assert [id for id in server.ids if id.startswith(key[-2:])] == [f"{key[-2:]}-{n}" for n in range(5)]
        of_key = [request for request in server.requests if request.json["spaceuid"] == key]
        assert all(one.answered <= two.came for one, two in pairwise(of_key))
    assert 1 < server.most_at_once <= 8


async def test_what_fails_is_tried_again_before_what_comes_after_it(
    replica: Replica, server: Endpoint, clock: ManualClock
) -> None:
    await replica.create("all", server.url)
    server.next.extend([500, 503, 429])
    await replica.publish(event("1"), event("2"), event("3"))
    await pass_time(clock, lambda: len(server.requests) == 6)
    assert server.ids == ["1", "1", "1", "1", "2", "3"]
    attempts = [request.headers["x-mnemocore-delivery"].rpartition("/")[2] for request in server.requests]
    assert attempts == ["1", "2", "3", "4", "1", "1"]
    await until(lambda: done(replica, "all"))
    listed = list((await replica.deliveries("all")).deliveries)
    assert [delivery.status for delivery in listed] == [200, 200, 200, 429, 503, 500]
    assert (await replica.get("all")).failures == 0


async def done(replica: Replica, id: str) -> bool:
    standing = await replica.standing(id)
    return (standing.in_flight, standing.waiting, standing.lag) == (0, 0, 0)


async def test_what_is_refused_is_a_dead_letter_at_once(replica: Replica, server: Endpoint) -> None:
    await replica.create("all", server.url)
    server.next.append(422)
    positions = await replica.publish(event("1"), event("2"))
    await until(lambda: server.ids == ["1", "2"])
    await until(lambda: done(replica, "all"))
    request = group_pb.ListDeadLettersRequest(parent="groups/webhook-all")
    (dead,) = (await replica.groups().ListDeadLetters(request, timeout=SECONDS)).dead_letters
    assert dead.event.position == positions[0]
    assert dead.reason == resources_pb2.FAILURE_REASON_REFUSED_BY_TARGET
    assert dead.message == "answered HTTP 422"
    replay = group_pb.ReplayDeadLettersRequest(parent="groups/webhook-all")
    await replica.groups().ReplayDeadLetters(replay, timeout=SECONDS)
    await until(lambda: server.ids == ["1", "2", "1"])


@pytest.mark.parametrize("answer", ["hang", "reset", "garbage"])
async def test_no_answer_is_tried_again(database: Database, server: Endpoint, clock: ManualClock, answer: str) -> None:
    async with running(database, clock, limits=Limits(total_seconds=0.3)) as replica:
        await replica.create("all", server.url)
        server.next.append(answer)
        await replica.publish(event("1"), event("2"))
        await pass_time(clock, lambda: server.ids == ["1", "1", "2"], 0.05)
        (failed,) = (await replica.deliveries("all", failed_only=True)).deliveries
        assert (failed.status, failed.delivered, failed.attempt) == (0, False, 1)
        assert failed.error


async def test_an_endpoint_that_asks_for_a_pause_gets_it(
    replica: Replica, server: Endpoint, clock: ManualClock
) -> None:
    await replica.create("all", server.url)
    server.next.append((503, {"retry-after": "100"}))
    await replica.publish(event("1"))
    await until(lambda: waits(replica, "all"))
    await replica.publish(event("2", space_uid=OTHER_SPACE))
    await pass_time(clock, lambda: len(server.requests) == 3)
    assert clock.monotonic() >= 100


async def test_while_it_fails_it_is_sent_one_event_at_a_time(
    replica: Replica, server: Endpoint, clock: ManualClock
) -> None:
    """An endpoint that is down costs few attempts, however much waits."""
    await replica.create("all", server.url)
    server.always = 503
    keys = [f"018f0000-0000-7000-8000-0000000000{key:02x}" for key in range(50)]
    await replica.publish(*(event(key, space_uid=key) for key in keys))
    await until(lambda: failed(replica, "all", 8))
    await pass_time(clock, lambda: clock.monotonic() > 60)
    assert 8 < len(server.requests) <= 8 + 6
    server.always = 200
    await pass_time(clock, lambda: done(replica, "all"), 2)
    assert set(server.ids) == set(keys)
    dead = group_pb.ListDeadLettersRequest(parent="groups/webhook-all")
    assert not (await replica.groups().ListDeadLetters(dead, timeout=SECONDS)).dead_letters


async def test_redirects(replica: Replica, server: Endpoint, clock: ManualClock) -> None:
    """307 is followed where it may lead; 302 is not, nor a way into the network of the operator."""
    await replica.create("all", server.url)
    server.next.extend([(307, {"location": "/moved"}), 200, (302, {"location": "/moved"})])
    server.next.extend([(307, {"location": "http://10.1.2.3/"}), 200])
    await replica.publish(event("1"), event("2"))
    await pass_time(clock, lambda: len(server.requests) == 5)
    assert [request.path for request in server.requests] == ["/events", "/moved", "/events", "/events", "/events"]
    await until(lambda: done(replica, "all"))
    errors = [delivery.error for delivery in (await replica.deliveries("all", failed_only=True)).deliveries]
    assert errors[1] == "answered HTTP 302; followed are 307 and 308"
    assert errors[0].startswith("redirect not followed: ")


async def test_a_name_that_leads_elsewhere_later(database: Database, server: Endpoint, clock: ManualClock) -> None:
    """Judged when it was set up, and again at every request: what leads into the network gets nothing."""
    names = Names(a_example=["127.0.0.1"])
    async with running(database, clock, allow="127.0.0.1", resolver=names) as replica:
        await replica.create("all", f"http://a.example:{server.port}/events")
        names.answers["a.example"] = ["10.0.0.1"]
        await replica.publish(event("1"))
        await until(lambda: failed(replica, "all", 1))
        assert server.requests == []
        names.answers["a.example"] = ["127.0.0.1"]
        await pass_time(clock, lambda: server.ids == ["1"])


async def failed(replica: Replica, id: str, times: int) -> bool:
    return (await replica.get(id)).failures == times


# Suspending, pausing and resuming.


async def test_what_fails_for_long_is_suspended_and_loses_nothing(
    database: Database, server: Endpoint, clock: ManualClock
) -> None:
    async with running(database, clock, suspend_after=6) as replica:
        await replica.create("all", server.url, filter={"types": ["memory.*"]})
        server.always = 500
        await replica.publish(event("1"), event("2", space_uid=OTHER_SPACE), event("3"))
        await pass_time(clock, lambda: replica.has_state("all", STATES.WEBHOOK_STATE_SUSPENDED))
        sent = len(server.requests)
        assert 6 <= sent <= 7
        reason = (await replica.get("all")).pause_reason
        assert reason == "6 requests failed in a row; the last: answered HTTP 500"
        server.always = 200
        await pass_time(clock, lambda: clock.monotonic() > 1000, 5)
        assert len(server.requests) == sent
        await replica.publish(event("4"))
        resumed = (await replica.call("ResumeWebhook", "all")).webhook
        assert (resumed.state, resumed.pause_reason, resumed.failures) == (STATES.WEBHOOK_STATE_ACTIVE, "", 0)
        await pass_time(clock, lambda: done(replica, "all"))
        arrived = server.ids[sent:]
        assert sorted(arrived) == ["1", "2", "3", "4"]
        assert [id for id in arrived if id != "2"] == ["1", "3", "4"]


async def test_the_suspension_is_told(database: Database, server: Endpoint, clock: ManualClock) -> None:
    async with running(database, clock, suspend_after=1) as replica:
        await replica.create("all", server.url)
        with endpoint() as watcher:
            await replica.create("watch", watcher.url, filter={"types": ["events.webhook.*"]})
            server.always = 500
            await replica.publish(event("1"))
            await pass_time(clock, lambda: len(watcher.requests) == 1)
            told = watcher.requests[0].json
            assert (told["type"], told["subject"]) == ("events.webhook.suspended", "webhooks/all")
            assert told["data"]["webhook"] == "webhooks/all"


async def test_an_endpoint_that_is_gone_is_suspended_at_once(replica: Replica, server: Endpoint) -> None:
    await replica.create("all", server.url)
    server.next.append(410)
    await replica.publish(event("1"))
    await until(lambda: replica.has_state("all", STATES.WEBHOOK_STATE_SUSPENDED))
    assert "410" in (await replica.get("all")).pause_reason
    await replica.call("ResumeWebhook", "all")
    await until(lambda: server.ids == ["1", "1"])


async def test_what_was_answered_to_an_earlier_request_does_not_suspend_what_was_resumed(
    replica: Replica, server: Endpoint, caplog: pytest.LogCaptureFixture
) -> None:
    await replica.create("all", server.url)
    server.next.append("late")
    await replica.publish(event("1"))
    await until(lambda: len(server.requests) == 1)
    server.next.append(410)
    await replica.publish(event("2", space_uid=OTHER_SPACE))
    await until(lambda: replica.has_state("all", STATES.WEBHOOK_STATE_SUSPENDED))
    await replica.call("ResumeWebhook", "all")
    server.released.set()
    await until(lambda: done(replica, "all"))
    assert server.ids[:2] == ["1", "2"]
    assert sorted(server.ids[2:]) == ["1", "2"]
    assert [record.message for record in caplog.records].count(SUSPENDED) == 1


async def test_a_pause_holds_events_back(replica: Replica, server: Endpoint, clock: ManualClock) -> None:
    await replica.create("all", server.url)
    paused = (await replica.call("PauseWebhook", "all")).webhook
    assert (paused.state, paused.pause_reason) == (STATES.WEBHOOK_STATE_PAUSED, "paused on request")
    assert (await replica.call("PauseWebhook", "all")).webhook == paused
    await replica.publish(event("1"), event("2"))
    await pass_time(clock, lambda: clock.monotonic() > 300, 5)
    assert server.requests == []
    await replica.call("ResumeWebhook", "all")
    await until(lambda: server.ids == ["1", "2"])
    await replica.call("ResumeWebhook", "all")


async def test_a_pause_takes_effect_in_other_replicas(database: Database, server: Endpoint) -> None:
    async with running(database) as one, running(database) as two:
        await one.create("all", server.url)
        await two.publish(event("1"))
        await until(lambda: server.ids == ["1"])
        await two.call("PauseWebhook", "all")
        await until(lambda: not couriers("all"))
        await one.publish(event("2"))
        await one.call("ResumeWebhook", "all")
        await until(lambda: server.ids == ["1", "2"])


# Changing and deleting.


async def test_changes_take_effect(replica: Replica, server: Endpoint) -> None:
    made = await replica.create("all", server.url, filter={"types": ["a.*"]}, description="first")
    await until(lambda: bool(couriers("all")))
    before = couriers("all")
    with endpoint() as other:
        changed = await replica.update(
            "all", "url", "filter", "description", url=other.url, filter={"types": ["b.*"]}, description="second"
        )
        assert (changed.url, list(changed.filter.types), changed.description) == (other.url, ["b.*"], "second")
        assert changed.etag != made.etag
        assert await replica.update("all", "url", url=other.url) == changed
        await until(lambda: bool(couriers("all")) and not couriers("all") & before)
        await replica.publish(event("1", type="a.x"), event("2", type="b.x"))
        await until(lambda: other.ids == ["2"])
        assert server.requests == []
        assert list((await replica.standing("all")).filter.types) == ["b.*"]


async def test_another_filter_keeps_what_waits_if_it_matches(replica: Replica, server: Endpoint) -> None:
    await replica.create("all", server.url, filter={"types": ["a.*"]})
    server.next.append(410)
    await replica.publish(event("1", type="a.x"), event("2", type="a.y"))
    await until(lambda: replica.has_state("all", STATES.WEBHOOK_STATE_SUSPENDED))
    await replica.update("all", "filter", filter={"types": ["b.*", "a.x"]})
    await replica.publish(event("3", type="a.y"), event("4", type="b.x"))
    await replica.call("ResumeWebhook", "all")
    await until(lambda: done(replica, "all"))
    assert server.ids == ["1", "1", "4"]


async def test_who_comes_too_late_with_another_changes_nothing(replica: Replica, server: Endpoint) -> None:
    wanted = [{"types": [f"a.n{n}"]} for n in range(8)]
    results = await asyncio.gather(
        *(replica.create("all", server.url, filter=where) for where in wanted), return_exceptions=True
    )
    made = [result for result in results if isinstance(result, resources_pb2.Webhook)]
    assert len(made) == 1
    assert (await replica.standing("all")).filter == made[0].filter == (await replica.get("all")).filter


async def test_a_new_secret_and_for_a_day_the_former(replica: Replica, server: Endpoint, clock: ManualClock) -> None:
    await replica.create("all", server.url)
    assert (await replica.update("all", "secret", secret=OTHER_SECRET)).secret == ""
    await replica.call("TestWebhook", "all")
    await clock.advance(24 * 3600)
    await replica.call("TestWebhook", "all")
    now = clock.now().timestamp()
    signed = [(request.headers["x-mnemocore-signature"], request.body) for request in server.requests]
    for secret, believed in ((OTHER_SECRET, [True, True]), (SECRET, [True, False])):
        assert [verify_signature(secret, *each, now=now, tolerance=90_000) for each in signed] == believed


async def test_etags(replica: Replica, server: Endpoint) -> None:
    made = await replica.create("all", server.url)
    changed = await replica.update("all", "description", description="x", etag=made.etag)
    code, details = await failure(replica.update("all", "description", description="y", etag=made.etag))
    assert (code, "all" in details) == (grpc.StatusCode.ABORTED, True)
    assert await replica.update("all", "description", description="x", etag=made.etag) == changed


@pytest.mark.parametrize("paths", [(), ("name",), ("url", "owner"), ("filter.types",)])
async def test_masks_that_are_refused(replica: Replica, server: Endpoint, paths: tuple[str, ...]) -> None:
    await replica.create("all", server.url)
    code, details = await failure(replica.update("all", *paths, url=server.url))
    assert (code, "update_mask" in details) == (grpc.StatusCode.INVALID_ARGUMENT, True)


async def test_deleting_leaves_nothing(replica: Replica, server: Endpoint, database: Database) -> None:
    await replica.create("all", server.url)
    server.next.append(400)
    await replica.publish(event("1"))
    await until(lambda: server.ids == ["1"])
    await until(lambda: done(replica, "all"))
    assert (await replica.call("DeleteWebhook", "all")).deleted
    assert not (await replica.call("DeleteWebhook", "all")).deleted
    code, _ = await failure(replica.get("all"))
    assert code is grpc.StatusCode.NOT_FOUND
    for table in ("webhooks", "webhook_deliveries", "groups", "held", "dead_letters"):
        assert await database.fetchval(f"SELECT count(*) FROM events.{table}") == 0
    await replica.publish(event("2"))
    await replica.create("all", server.url, filter={"types": ["a.*"]})
    await replica.publish(event("3"), event("4", type="a.x"))
    await until(lambda: server.ids == ["1", "4"])


async def test_a_deletion_that_broke_off_is_finished(database: Database, server: Endpoint) -> None:
    async with running(database) as replica:
        await replica.create("one", server.url)
        await replica.create("two", server.url)
        await database.execute("UPDATE events.webhooks SET state = 4")
        assert not (await replica.webhooks().ListWebhooks(pb.ListWebhooksRequest(), timeout=SECONDS)).webhooks
        code, _ = await failure(replica.get("one"))
        assert code is grpc.StatusCode.NOT_FOUND
        await replica.create("one", server.url, description="another")
    async with running(database) as replica:
        await until(lambda: counted(database, 1))
        assert await database.fetchval("SELECT count(*) FROM events.groups") == 1
        assert (await replica.get("one")).description == "another"


async def counted(database: Database, number: int) -> bool:
    return bool(await database.fetchval("SELECT count(*) = $1 FROM events.webhooks", number))


# What is refused.


async def test_the_same_again_and_another(replica: Replica, server: Endpoint) -> None:
    made = await replica.create("all", server.url)
    assert await replica.create("all", server.url) == made
    for other in (
        {"secret": OTHER_SECRET},
        {"description": "x"},
        {"filter": {"types": ["a.*"]}},
        {"stub": replica.webhooks(principal="bob")},
    ):
        code, _ = await failure(replica.create("all", server.url, **other))
        assert code is grpc.StatusCode.ALREADY_EXISTS
    many = await asyncio.gather(*(replica.create("many", server.url) for _ in range(5)))
    assert all(each == many[0] for each in many)


@pytest.mark.parametrize(
    ("field", "attributes"),
    [
        ("webhook.url", {"url": ""}),
        ("webhook.url", {"url": "https://10.0.0.1/"}),
        ("webhook.url", {"url": "https://localhost:1/"}),
        ("webhook.url", {"url": "http://93.184.216.34/"}),
        ("webhook.url", {"url": "https://user:pass@93.184.216.34/"}),
        ("webhook.url", {"url": "https://2130706433/"}),
        ("webhook.url", {"url": "https://93.184.216.34/\x00"}),
        ("webhook.secret", {"secret": ""}),
        ("webhook.secret", {"secret": "short"}),
        ("webhook.secret", {"secret": "x" * 257}),
        ("webhook.secret", {"secret": "\x00" + SECRET}),
        ("webhook.description", {"description": "\x00"}),
        ("webhook.filter.types[0]", {"filter": {"types": ["A b"]}}),
        ("webhook.filter.subjects[0]", {"filter": {"subjects": ["\x00"]}}),
    ],
)
async def test_what_is_refused(database: Database, field: str, attributes: dict[str, Any]) -> None:
    """With the field's name, and nothing is made; nor is it changed so."""
    async with running(database, allow="") as replica:
        code, details = await failure(replica.create("all", **({"url": "https://93.184.216.34/"} | attributes)))
        assert (code, field in details) == (grpc.StatusCode.INVALID_ARGUMENT, True)
        assert await database.fetchval("SELECT count(*) FROM events.groups") == 0
        await replica.create("all", "https://93.184.216.34/")
        code, details = await failure(replica.update("all", *attributes, **attributes))
        assert (code, field in details) == (grpc.StatusCode.INVALID_ARGUMENT, True)


@pytest.mark.parametrize("id", ["", "A", "-a", "a/b", "x" * 49, "\x00"])
async def test_names_that_are_refused(replica: Replica, server: Endpoint, id: str) -> None:
    code, _ = await failure(replica.create(id, server.url))
    assert code is grpc.StatusCode.INVALID_ARGUMENT


async def test_so_many_and_no_more(replica: Replica, server: Endpoint, database: Database) -> None:
    for n in range(100):
        await replica.create(f"w{n:02}", server.url)
    code, details = await failure(replica.create("more", server.url))
    assert (code, "100 webhooks" in details) == (grpc.StatusCode.RESOURCE_EXHAUSTED, True)
    assert await database.fetchval("SELECT count(*) FROM events.groups") == 100
    await replica.create("w00", server.url)
    await replica.create("theirs", server.url, stub=replica.webhooks("other"))
    first = await replica.webhooks().ListWebhooks(pb.ListWebhooksRequest(page_size=60), timeout=SECONDS)
    request = pb.ListWebhooksRequest(page_size=60, page_token=first.next_page_token)
    second = await replica.webhooks().ListWebhooks(request, timeout=SECONDS)
    names = [webhook.name for webhook in (*first.webhooks, *second.webhooks)]
    assert names == [f"webhooks/w{n:02}" for n in range(100)]
    assert second.next_page_token == ""


@pytest.mark.parametrize(
    "method", ["GetWebhook", "PauseWebhook", "ResumeWebhook", "TestWebhook", "ListWebhookDeliveries", "UpdateWebhook"]
)
async def test_tenants_are_apart(replica: Replica, server: Endpoint, method: str) -> None:
    await replica.create("all", server.url)
    stub = replica.webhooks("other")
    if method == "ListWebhookDeliveries":
        call = stub.ListWebhookDeliveries(pb.ListWebhookDeliveriesRequest(parent="webhooks/all"), timeout=SECONDS)
    elif method == "UpdateWebhook":
        call = replica.update("all", "description", description="x", stub=stub)
    else:
        call = replica.call(method, "all", stub)
    code, _ = await failure(call)
    assert code is grpc.StatusCode.NOT_FOUND
    assert not (await replica.call("DeleteWebhook", "all", stub)).deleted
    assert not (await stub.ListWebhooks(pb.ListWebhooksRequest(), timeout=SECONDS)).webhooks
    await replica.create("all", server.url + "/theirs", stub=stub)
    await replica.publish(event("1"), event("2", tenant="other"))
    await until(lambda: len(server.requests) == 2)
    assert {(request.path, request.json["tenant"]) for request in server.requests} == {
        ("/events", "acme"),
        ("/events/theirs", "other"),
    }


# Access.


async def test_the_path_of_a_url_is_for_its_owner(replica: Replica, server: Endpoint) -> None:
    await replica.create("all", server.url, stub=replica.webhooks(principal="bob"))
    origin = server.url.removesuffix("/events") + "/..."
    seen = (("bob", "events:read", server.url), ("eve", "events:read", origin), ("ada", FULL, server.url))
    for principal, scopes, url in seen:
        stub = replica.webhooks(principal=principal, scopes=scopes)
        assert (await replica.call("GetWebhook", "all", stub)).webhook.url == url
        (listed,) = (await stub.ListWebhooks(pb.ListWebhooksRequest(), timeout=SECONDS)).webhooks
        assert listed.url == url


async def allow(replica: Replica, id: str, principal: str, *types: str) -> None:
    policy = resources_pb2.AccessPolicy(
        principal=principal, actions=[resources_pb2.ACCESS_ACTION_SUBSCRIBE], types=types
    )
    request = access_pb.CreatePolicyRequest(policy_id=id, policy=policy)
    await replica.access().CreatePolicy(request, timeout=SECONDS)


async def test_it_takes_the_right_to_read(replica: Replica, server: Endpoint) -> None:
    bob = replica.webhooks(principal="bob", scopes="events:read,events:write")
    only_a = {"types": ["a.*"]}
    code, _ = await failure(replica.create("mine", server.url, stub=bob, filter=only_a))
    assert code is grpc.StatusCode.PERMISSION_DENIED
    await allow(replica, "bob", "bob", "a.**")
    await replica.create("mine", server.url, stub=bob, filter=only_a)
    code, _ = await failure(replica.create("more", server.url, stub=bob))
    assert code is grpc.StatusCode.PERMISSION_DENIED
    code, _ = await failure(replica.update("mine", "filter", stub=bob, filter={"types": ["**"]}))
    assert code is grpc.StatusCode.PERMISSION_DENIED
    await replica.create("other", server.url, filter={"types": ["b.*"]})
    for method in ("PauseWebhook", "ResumeWebhook", "DeleteWebhook", "TestWebhook"):
        code, _ = await failure(replica.call(method, "other", bob))
        assert code is grpc.StatusCode.PERMISSION_DENIED
    code, _ = await failure(replica.update("other", "url", stub=bob, url=server.url + "/bob"))
    assert code is grpc.StatusCode.PERMISSION_DENIED


async def test_whoever_says_where_events_go_is_the_owner(replica: Replica, server: Endpoint) -> None:
    """Else somebody's events would go on by the rights of another."""
    await replica.create("all", server.url, filter={"types": ["a.*"]})
    await allow(replica, "bob", "bob", "a.*")
    bob = replica.webhooks(principal="bob", scopes="events:read,events:write")
    assert (await replica.update("all", "description", stub=bob, description="x")).owner == "ada"
    assert (await replica.update("all", "url", stub=bob, url=server.url + "/bob")).owner == "bob"


async def test_nobody_but_the_owner_can_guess_the_secret(replica: Replica, server: Endpoint) -> None:
    await replica.create("all", server.url, filter={"types": ["a.*"]}, secret="the very secret of ada")
    await allow(replica, "bob", "bob", "a.*")
    bob = replica.webhooks(principal="bob", scopes="events:read,events:write")
    for guess in ("the very secret of ada", "another secret of ada"):
        request = replica.update("all", "secret", stub=bob, secret=guess, etag="an old one")
        assert (await failure(request))[0] is grpc.StatusCode.ABORTED
    assert (await replica.update("all", "secret", secret="the very secret of ada", etag="an old one")).owner == "ada"
    assert (await replica.update("all", "secret", stub=bob, secret="the very secret of ada")).owner == "bob"
    assert (await replica.update("all", "secret", stub=bob, secret="the very secret of ada", etag="old")).owner == "bob"


async def test_a_right_that_is_withdrawn_ends_the_sending(replica: Replica, server: Endpoint) -> None:
    await allow(replica, "bob", "bob", "a.*")
    bob = replica.webhooks(principal="bob", scopes="events:read,events:write")
    await replica.create("all", server.url, stub=bob, filter={"types": ["a.*"]})
    await replica.publish(event("1", type="a.x"))
    await until(lambda: server.ids == ["1"])
    request = access_pb.DeletePolicyRequest(name="policies/bob")
    await replica.access().DeletePolicy(request, timeout=SECONDS)
    await replica.publish(event("2", type="a.x"))
    await until(lambda: replica.has_state("all", STATES.WEBHOOK_STATE_PAUSED))
    found = await replica.get("all")
    assert found.pause_reason == "its owner 'bob' may not read these events any more"
    assert server.ids == ["1"]
    await allow(replica, "bob", "bob", "a.*")
    await replica.call("ResumeWebhook", "all", bob)
    await until(lambda: server.ids == ["1", "2"])


async def test_a_right_that_was_given_elsewhere_a_moment_ago_counts(
    database: Database, replica: Replica, server: Endpoint
) -> None:
    await allow(replica, "bob", "bob", "a.*")
    bob = replica.webhooks(principal="bob", scopes="events:read,events:write")
    await replica.create("all", server.url, stub=bob, filter={"types": ["a.*"]})
    await replica.access().DeletePolicy(access_pb.DeletePolicyRequest(name="policies/bob"), timeout=SECONDS)
    await replica.publish(event("1", type="a.x"))
    await until(lambda: replica.has_state("all", STATES.WEBHOOK_STATE_PAUSED))
    await database.execute(  # what another process does, before this one is notified
        "INSERT INTO events.policies (tenant, id, principal, actions, types, subjects, created_at) "
        "VALUES ('acme', 'bob', 'bob', '{2}', '{a.*}', '{}', now())"
    )
    await replica.call("ResumeWebhook", "all")
    await until(lambda: server.ids == ["1"])


# Erasing.


async def test_what_is_erased_is_not_sent(replica: Replica, server: Endpoint) -> None:
    await replica.create("all", server.url)
    await replica.call("PauseWebhook", "all")
    secret = {"data": b'"hidden"', "datacontenttype": "application/json"}
    await replica.publish(event("1", **secret), event("2", space_uid=OTHER_SPACE, **secret), event("3"))
    erase = event_pb.EraseSpaceEventsRequest(tenant="acme", space_uid=SPACE)
    await replica.events().EraseSpaceEvents(erase, timeout=SECONDS)
    key = resources_pb2.EventKey(tenant="acme", source="test", id="2")
    await replica.events().RedactEvents(event_pb.RedactEventsRequest(keys=[key]), timeout=SECONDS)
    await replica.call("ResumeWebhook", "all")
    await until(lambda: done(replica, "all"))
    await until(lambda: len(server.requests) == 1)
    assert server.ids == ["2"]
    assert "data" not in server.requests[0].json
    assert b"hidden" not in server.requests[0].body


async def test_what_is_erased_while_it_waits_for_another_attempt_is_not_sent(
    replica: Replica, server: Endpoint, clock: ManualClock
) -> None:
    await replica.create("all", server.url)
    server.next.append(500)
    await replica.publish(event("1"), event("2"))
    await until(lambda: server.ids == ["1"])
    await until(lambda: waits(replica, "all"))
    erase = event_pb.EraseSpaceEventsRequest(tenant="acme", space_uid=SPACE)
    await replica.events().EraseSpaceEvents(erase, timeout=SECONDS)
    await replica.publish(event("3", space_uid=OTHER_SPACE))
    await pass_time(clock, lambda: done(replica, "all"))
    assert server.ids == ["1", "3"]


async def test_what_is_erased_while_it_waits_behind_another_is_not_sent(
    replica: Replica, server: Endpoint, clock: ManualClock
) -> None:
    """It was given to the one who sends already."""
    await replica.create("all", server.url)
    server.next.append("hang")
    await replica.publish(*(event(str(n)) for n in range(4)))
    await until(lambda: server.ids == ["0"])
    erase = event_pb.EraseSpaceEventsRequest(tenant="acme", space_uid=SPACE)
    await replica.events().EraseSpaceEvents(erase, timeout=SECONDS)
    server.released.set()
    await pass_time(clock, lambda: done(replica, "all"))
    assert server.ids == ["0"]


async def waits(replica: Replica, id: str) -> bool:
    standing = await replica.standing(id)
    return standing.in_flight == 0 and standing.waiting > 0


# Replicas.


async def test_two_replicas_send_each_event_once_and_in_order(database: Database, server: Endpoint) -> None:
    async with running(database) as one, running(database) as two:
        await one.create("all", server.url)
        await until(lambda: len(couriers("all")) == 2)
        server.always = "slow"
        keys = [f"018f0000-0000-7000-8000-0000000000{key:02x}" for key in range(10)]
        for n in range(6):
            await (one, two)[n % 2].publish(*(event(f"{key[-2:]}-{n}", space_uid=key) for key in keys))
        await until(lambda: len(server.requests) >= 60)
        await until(lambda: done(one, "all"))
        assert len(server.requests) == 60
        for key in keys:
            assert [id for id in server.ids if id.startswith(key[-2:])] == [f"{key[-2:]}-{n}" for n in range(6)]


async def test_a_restart_goes_on(database: Database, server: Endpoint) -> None:
    async with running(database) as replica:
        await replica.create("all", server.url)
        await replica.publish(event("1"))
        await until(lambda: server.ids == ["1"])
    async with running(database) as replica:
        await replica.publish(event("2"))
        await until(lambda: server.ids == ["1", "2"])


async def test_stopping_waits_for_what_is_under_way(database: Database, server: Endpoint) -> None:
    """And gives back what was not sent, as if it had never been given."""
    async with running(database) as replica:
        await replica.create("all", server.url)
        server.always = "slow"
        await replica.publish(*(event(str(n)) for n in range(6)))
        await until(lambda: len(server.requests) >= 2)
    sent = list(server.ids)
    held = await database.fetch("SELECT attempt, member FROM events.held")
    assert all(row["attempt"] == 0 and row["member"] is None for row in held)
    async with running(database) as replica:
        await until(lambda: done(replica, "all"))
    assert server.ids == [str(n) for n in range(6)]
    assert server.ids[: len(sent)] == sent


async def test_the_log_on_redis(
    database: Database, redis_server: TestRedis, redis_prefix: str, server: Endpoint, clock: ManualClock
) -> None:
    engine = open_redis_engine(redis_server.url, prefix=redis_prefix)
    async with running(database, clock, engine=engine) as replica:
        await replica.create("all", server.url, filter={"types": ["a.*"]})
        server.next.extend([500, 503, 422])
        await replica.publish(event("1", type="a.x"), event("2", type="b.x"), event("3", type="a.x"))
        await pass_time(clock, lambda: server.ids == ["1", "1", "1", "3"])
        await until(lambda: done(replica, "all"))
        dead = group_pb.ListDeadLettersRequest(parent="groups/webhook-all")
        letters = (await replica.groups().ListDeadLetters(dead, timeout=SECONDS)).dead_letters
        assert [letter.event.event.id for letter in letters] == ["1"]
        await replica.call("PauseWebhook", "all")
        await replica.update("all", "filter", filter={"types": ["b.*"]})
        await replica.publish(event("4", type="a.x"), event("5", type="b.x"))
        await replica.call("ResumeWebhook", "all")
        await until(lambda: server.ids[4:] == ["5"])
        assert (await replica.call("DeleteWebhook", "all")).deleted
        code, _ = await failure(replica.standing("all"))
        assert code is grpc.StatusCode.NOT_FOUND
    await engine.stop()


# Tests and the record of deliveries.


async def test_a_test_is_sent_at_once_whatever_the_state(replica: Replica, server: Endpoint) -> None:
    await replica.create("all", server.url, filter={"types": ["never.sent"]})
    await replica.call("PauseWebhook", "all")
    request_id = "018f0000-0000-7000-8000-0000000000ff"
    request = pb.TestWebhookRequest(name="webhooks/all", request_id=request_id)
    delivery = (await replica.webhooks().TestWebhook(request, timeout=SECONDS)).delivery
    assert (delivery.delivered, delivery.status, delivery.position, delivery.attempt) == (True, 200, 0, 1)
    assert (delivery.event_id, delivery.type) == (request_id, "events.webhook.test")
    (received,) = server.requests
    assert received.headers["x-mnemocore-delivery"] == "webhook-all/0/1"
    assert verify_signature(SECRET, received.headers["x-mnemocore-signature"], received.body, now=ManualClock().now())
    assert (received.json["id"], received.json["data"]) == (request_id, {"webhook": "webhooks/all"})
    server.always = 500
    delivery = (await replica.call("TestWebhook", "all")).delivery
    assert (delivery.delivered, delivery.status, delivery.error) == (False, 500, "answered HTTP 500")
    assert (await replica.get("all")).failures == 0
    listed = (await replica.deliveries("all")).deliveries
    assert [each.delivered for each in listed] == [False, True]


async def test_deliveries_are_listed_newest_first(replica: Replica, server: Endpoint, clock: ManualClock) -> None:
    await replica.create("all", server.url)
    server.by_type = lambda sent: 400 if int(sent["id"]) % 3 == 0 else None
    await replica.publish(*(event(str(n)) for n in range(10)))
    await until(lambda: len(server.requests) == 10)
    await until(lambda: done(replica, "all"))
    found, token = [], ""
    while True:
        page = await replica.deliveries("all", page_size=4, page_token=token)
        found += [each.event_id for each in page.deliveries]
        token = page.next_page_token
        if not token:
            break
    assert found == [str(n) for n in reversed(range(10))]
    failed = await replica.deliveries("all", failed_only=True)
    assert [(each.event_id, each.status) for each in failed.deliveries] == [(n, 400) for n in "9630"]
    first = await replica.deliveries("all", page_size=2)
    code, _ = await failure(replica.deliveries("all", failed_only=True, page_token=first.next_page_token))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    await clock.advance(7 * 86_400 + 1)
    assert not (await replica.deliveries("all")).deliveries


async def test_of_deliveries_the_newest_are_kept(replica: Replica, server: Endpoint, database: Database) -> None:
    await replica.create("all", server.url)
    await replica.create("other", server.url)
    await replica.call("TestWebhook", "other")
    await database.execute(
        "INSERT INTO events.webhook_deliveries (webhook_uid, position, event_id, type, attempt, at, seconds, status, "
        "delivered, error) SELECT uid, n, n::text, 'a.b', 1, $1, 0.1, 200, true, '' "
        "FROM events.webhooks, generate_series(1, 1500) AS n WHERE id = 'all'",
        ManualClock().now(),
    )
    page = await replica.deliveries("all", page_size=1000)
    assert [each.position for each in page.deliveries] == list(range(1500, 500, -1))
    assert page.next_page_token == ""
    async with running(database):
        await until(lambda: kept(database, 1001))


async def kept(database: Database, number: int) -> bool:
    return bool(await database.fetchval("SELECT count(*) = $1 FROM events.webhook_deliveries", number))


# Secrets.


async def test_a_secret_is_nowhere_to_be_seen(
    replica: Replica, server: Endpoint, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    shown = [await replica.create("all", server.url)]
    shown.append(await replica.update("all", "secret", secret=OTHER_SECRET))
    shown.append(await replica.get("all"))
    shown += (await replica.webhooks().ListWebhooks(pb.ListWebhooksRequest(), timeout=SECONDS)).webhooks
    server.always = 500
    await replica.publish(event("1"))
    await until(lambda: len(server.requests) == 1)
    await replica.call("TestWebhook", "all")
    _, refused = await failure(replica.create("all", server.url, secret=SECRET + "!"))
    rows = [
        dict(row)
        for table in ("webhooks", "webhook_deliveries")
        for row in await database.fetch(f"SELECT * FROM events.{table}")
    ]
    everything = "\n".join([*map(str, shown), refused, str(rows), caplog.text, *map(repr, server.requests)])
    for secret in (SECRET, OTHER_SECRET):
        assert secret not in everything
        assert secret.encode().hex() not in everything
        assert not any(secret.encode() in value for row in rows for value in row.values() if isinstance(value, bytes))


async def test_without_a_master_key_none_is_made(database: Database, server: Endpoint) -> None:
    async with running(database, master_keys=FixedMasterKeys(MasterKeys())) as replica:
        code, details = await failure(replica.create("all", server.url))
        assert code is grpc.StatusCode.FAILED_PRECONDITION
        assert "MNEMO_EVENTS_MASTER_KEYS" in details
        assert await database.fetchval("SELECT count(*) FROM events.groups") == 0


async def test_another_master_key_seals_anew(database: Database, server: Endpoint) -> None:
    async with running(database) as replica:
        await replica.create("all", server.url)
        await replica.update("all", "secret", secret=OTHER_SECRET)
        before = await replica.get("all")
    async with running(database, master_keys=Keys("second", "first")) as replica:
        await until(lambda: sealed_with(database, "second"))
        assert await replica.get("all") == before
    async with running(database, master_keys=Keys("second")) as replica:
        await replica.publish(event("1"))
        await until(lambda: server.ids == ["1"])


async def sealed_with(database: Database, key: str) -> bool:
    query = "SELECT bool_and(master_key_id = $1 AND former_master_key_id = $1) FROM events.webhooks"
    return bool(await database.fetchval(query, key))


async def test_without_its_master_key_nothing_is_sent_until_it_is_back(
    database: Database, server: Endpoint, clock: ManualClock
) -> None:
    async with running(database) as replica:
        await replica.create("all", server.url)
    keys = Keys("second")
    async with running(database, clock, master_keys=keys) as replica:
        await replica.publish(event("1"))
        code, details = await failure(replica.call("TestWebhook", "all"))
        assert (code, "'first'" in details) == (grpc.StatusCode.FAILED_PRECONDITION, True)
        assert (await replica.get("all")).state == STATES.WEBHOOK_STATE_ACTIVE
        keys.ids = ("second", "first")
        await pass_time(clock, lambda: server.ids == ["1"])


async def test_a_secret_whose_master_key_is_lost_can_be_replaced(database: Database, server: Endpoint) -> None:
    async with running(database) as replica:
        await replica.create("all", server.url)
    async with running(database, master_keys=Keys("second")) as replica:
        await replica.update("all", "secret", secret=OTHER_SECRET)
        assert (await replica.call("TestWebhook", "all")).delivery.delivered
        signed = server.requests[0].headers["x-mnemocore-signature"]
        assert verify_signature(OTHER_SECRET, signed, server.requests[0].body, now=ManualClock().now())


# Faults.


async def test_a_store_that_is_away_for_a_while(postgres: TestPostgres, database_url: str, server: Endpoint) -> None:
    """Sending goes on when it is back; nothing is lost."""
    database = await postgres.open(database_url)
    async with running(database, SystemClock()) as replica:
        await replica.create("all", server.url)
        await replica.publish(event("1"))
        await until(lambda: server.ids == ["1"])
        other = await postgres.open(database_url)
        await other.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        await other.close()
        await until(lambda: published(replica, "2"))
        await until(lambda: "2" in server.ids)
    await database.close()


async def published(replica: Replica, id: str) -> bool:
    try:
        await replica.publish(event(id, space_uid=OTHER_SPACE))
    except grpc.aio.AioRpcError:
        return False
    return True


async def test_large_and_binary_payloads(replica: Replica, server: Endpoint) -> None:
    await replica.create("all", server.url)
    text = json.dumps({"text": "\u00fc" * 100_000}).encode()
    await replica.publish(
        event("1", data=text, datacontenttype="application/json"),
        event("2", data=bytes(range(256)) * 4000, datacontenttype="application/octet-stream"),
    )
    await until(lambda: server.ids == ["1", "2"])
    assert server.requests[0].json["data"] == json.loads(text)
    assert len(server.requests[1].json["data_base64"]) > 1_000_000
