"""What the methods of a space send, and what they make of the answers, against a real server on a socket."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from tests.client_server import TestServer, running_server

from mnemocore import MemoryInput, connect
from mnemocore.client import MemoryFilter, Provenance, SpacePolicy
from mnemocore.errors import (
    DuplicateMemoryError,
    ForeignTokenError,
    InvalidFieldError,
    SpaceNotFoundError,
)
from mnemocore.memory.v1 import memory_service_pb2, resources_pb2

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from mnemocore import Connection, Space

MEMORY_ID = "0198c5f0-7d2e-7b3c-9a41-5f0e6d2c1b7a"
NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)


@pytest.fixture
async def server() -> AsyncIterator[TestServer]:
    async with running_server() as running:
        yield running


@pytest.fixture
async def mnemo(server: TestServer) -> AsyncIterator[Connection]:
    async with connect(server.target) as connection:
        yield connection


@pytest.fixture
async def space(mnemo: Connection) -> Space:
    await mnemo.create_space("a")
    return mnemo.space("a")


def last(server: TestServer, method: str) -> Any:
    return server.desk.calls(method)[-1].request


async def test_an_update_sends_what_is_given_and_nothing_else(server: TestServer, space: Space) -> None:
    await space.update(MEMORY_ID, content="new", tags=None, valid_to=NOON, etag="e1", reason="it moved")

    request = last(server, "UpdateMemory")
    assert request.name == f"spaces/a/memories/{MEMORY_ID}"
    assert sorted(request.update_mask.paths) == ["content", "tags", "valid_to"]
    assert (request.memory.content, list(request.memory.tags)) == ("new", [])
    assert (request.etag, request.reason) == ("e1", "it moved")
    assert request.memory.valid_to.ToDatetime(tzinfo=UTC) == NOON
    with pytest.raises(InvalidFieldError, match="update_mask"):
        await space.update(MEMORY_ID)


async def test_a_time_to_live_counts_from_now(server: TestServer, space: Space) -> None:
    before = datetime.now(UTC)
    await space.remember("x", ttl=timedelta(hours=1))
    await space.update(MEMORY_ID, ttl=timedelta(hours=1))

    for request in (last(server, "CreateMemory"), last(server, "UpdateMemory")):
        expiry = request.memory.expires_at.ToDatetime(tzinfo=UTC)
        assert before <= expiry - timedelta(hours=1) <= datetime.now(UTC)


CHANGES: dict[str, Callable[[Space], Awaitable[Any]]] = {
    "update": lambda space: space.update(MEMORY_ID, content="y"),
    "protect": lambda space: space.protect(MEMORY_ID),
    "unprotect": lambda space: space.unprotect(MEMORY_ID),
    "supersede": lambda space: space.supersede(MEMORY_ID, MemoryInput("y")),
    "feedback": lambda space: space.feedback(MEMORY_ID, False, weight=2),
    "append": lambda space: space.session("s1").append(["y", MemoryInput("z")]),
}


@pytest.mark.parametrize("name", CHANGES)
async def test_a_recall_after_a_change_asks_for_the_change(server: TestServer, space: Space, name: str) -> None:
    await CHANGES[name](space)
    await space.recall("x")

    assert last(server, "RecallMemories").consistency.at_least_as_fresh.value == "token-told"


async def test_a_recall_after_a_promotion_asks_for_everything_once(server: TestServer, space: Space) -> None:
    await space.remember("x")
    promoted = await space.working_memory("planner").promote(MEMORY_ID)
    await space.recall("x")
    await space.recall("x")

    first, second = (seen.request.consistency for seen in server.desk.calls("RecallMemories"))
    assert promoted.content == "as told"
    assert first.fully_consistent
    assert second.at_least_as_fresh.value == "token-1"


async def test_tokens_end_with_their_space(server: TestServer, mnemo: Connection, space: Space) -> None:
    await space.remember("x")
    receipt = await space.erase(confirm="a")
    await mnemo.space("a").recall("x")

    assert receipt.memories == 1
    assert last(server, "RecallMemories").consistency.WhichOneof("requirement") is None


async def test_a_space_made_anew_by_somebody_else_is_read_all_the_same(server: TestServer, space: Space) -> None:
    await space.remember("x")
    server.desk.script["RecallMemories"].append(ForeignTokenError())

    assert len(await space.recall("x")) == 1
    assert last(server, "RecallMemories").consistency.fully_consistent


async def test_recall_sends_all_it_is_asked_for(server: TestServer, space: Space) -> None:
    await space.recall(
        "x",
        profile="graph",
        states=["active", "superseded"],
        known_at=NOON,
        min_score=0.25,
        filter=MemoryFilter(valid_at=NOON, min_importance=0.5, modalities=["text"]),
    )

    request = last(server, "RecallMemories")
    assert request.profile == resources_pb2.RECALL_PROFILE_GRAPH
    assert list(request.states) == [resources_pb2.MEMORY_STATE_ACTIVE, resources_pb2.MEMORY_STATE_SUPERSEDED]
    assert (request.known_at.ToDatetime(tzinfo=UTC), request.min_score) == (NOON, 0.25)
    assert request.filter.valid_at.ToDatetime(tzinfo=UTC) == NOON


async def test_reading_at_a_time_from_the_cache_and_as_a_use(server: TestServer, space: Space) -> None:
    kept = await space.remember("x")
    await space.get(kept.id, as_of=NOON, minimize_latency=True, touch=True)
    assert [revision async for revision in space.history(as_of=NOON)]

    request = last(server, "GetMemory")
    assert (request.as_of.ToDatetime(tzinfo=UTC), request.consistency.minimize_latency, request.touch) == (
        NOON,
        True,
        True,
    )
    assert last(server, "ListRevisions").as_of.ToDatetime(tzinfo=UTC) == NOON


async def test_what_became_of_a_memory(server: TestServer, space: Space) -> None:
    item = MemoryInput("x", on_duplicate="reject", novelty_gate="on", provenance=Provenance("user"), protected=True)
    outcome = await space.remember_with_outcome(item)

    assert (outcome.memory.content, outcome.duplicate, outcome.novelty) == ("x", False, None)
    sent = last(server, "CreateMemory").memory
    assert (sent.on_duplicate, sent.novelty_gate) == (resources_pb2.ON_DUPLICATE_REJECT, resources_pb2.NOVELTY_GATE_ON)
    assert sent.protected
    server.desk.script["CreateMemory"].append(DuplicateMemoryError(memory=outcome.memory.name))
    with pytest.raises(DuplicateMemoryError, match="says the same"):
        await space.remember("x", on_duplicate="reject")


async def test_a_text_that_supersedes_keeps_the_kind(server: TestServer, space: Space) -> None:
    kept = await space.remember("Alice lives in Porto.", kind="fact")
    await space.supersede(kept.id, "Alice lives in Lisbon.", reason="she moved")

    request = last(server, "SupersedeMemory")
    assert (request.memory.kind, request.memory.content) == (
        resources_pb2.MEMORY_KIND_FACT,
        "Alice lives in Lisbon.",
    )
    assert request.reason == "she moved"


async def test_parts_of_a_policy_are_named_by_their_places(server: TestServer, space: Space) -> None:
    await space.set_policy(access="owner", max_memories=None, erase_expired_after=timedelta(days=1), etag="e1")

    request = last(server, "UpdateSpace")
    assert sorted(request.update_mask.paths) == [
        "policy.access",
        "policy.limits.max_memories",
        "policy.retention.erase_expired_after",
    ]
    assert request.policy.retention.erase_expired_after.ToTimedelta() == timedelta(days=1)
    assert request.etag == "e1"
    await space.update_space(description="new", policy=SpacePolicy())
    assert list(last(server, "UpdateSpace").update_mask.paths) == ["description", "policy"]
    for nothing in (space.update_space(), space.set_policy()):
        with pytest.raises(InvalidFieldError, match="update_mask"):
            await nothing


async def test_a_space_with_a_policy(server: TestServer, mnemo: Connection) -> None:
    await mnemo.create_space("b", description="d", policy=SpacePolicy(novelty_gate="on"), encrypted=True)

    request = last(server, "CreateSpace")
    assert (request.space_id, request.description, request.encrypted) == ("b", "d", True)
    assert request.policy.novelty_gate == resources_pb2.NOVELTY_GATE_ON


async def test_links(server: TestServer, space: Space) -> None:
    link = await space.associate("s", "t", type="supports", weight=0.5)
    assert (link.source, link.target, link.weight) == (MEMORY_ID, "b", 0.5)
    sent = last(server, "Associate")
    assert (sent.source_id, sent.target_id, sent.type) == ("s", "t", resources_pb2.ASSOCIATION_TYPE_SUPPORTS)
    assert await space.dissociate("s", "t") == 1
    assert last(server, "Dissociate").type == 0
    assert [found.target async for found in space.associations("s", direction="outgoing", types=["related"])] == ["b"]
    assert last(server, "ListAssociations").direction == 1
    paths = await space.paths("s", "t")
    assert (paths[0].weight, len(paths[0].associations)) == (0.5, 1)
    around = await space.neighbourhood(["s"], sessions=False)
    assert (around.neighbours[0].activation, around.neighbours[0].memory.id) == (0.35, MEMORY_ID)
    assert last(server, "GetNeighbourhood").without_sessions
    with pytest.raises(InvalidFieldError, match=r"^types: 'related' is one text"):
        await space.paths("s", "t", types="related")


async def test_sharing(server: TestServer, mnemo: Connection, space: Space) -> None:
    grant = await space.share("p", "annotate", tenant="other", kinds=["fact"], tags=["t"], expire_time=NOON)
    assert (grant.space, grant.role, grant.accepted_as) == ("a", "read", "")
    sent = last(server, "CreateGrant")
    assert (sent.principal, sent.tenant, sent.role) == ("p", "other", resources_pb2.GRANT_ROLE_ANNOTATE)
    assert (list(sent.kinds), list(sent.tags)) == ([resources_pb2.MEMORY_KIND_FACT], ["t"])
    assert [found.id async for found in space.grants()] == ["g"]
    assert [found.id async for found in mnemo.received_grants()] == ["g"]
    await mnemo.accept_grant("g", "theirs")
    await mnemo.delete_grant("g")
    assert last(server, "AcceptGrant").space_id == "theirs"
    with pytest.raises(InvalidFieldError, match=r"^role: 'king' is not allowed"):
        await space.share("p", "king")


@pytest.mark.parametrize(
    ("method", "first"),
    [
        ("StartSession", lambda space: space.start_session()),
        ("PushWorkingItem", lambda space: space.working_memory("planner").push("x")),
        ("UploadMedia", lambda space: space.upload_media(b"abc")),
        ("CreateMemory", lambda space: space.remember("x")),
    ],
)
async def test_the_first_thing_kept_makes_the_space(
    server: TestServer, mnemo: Connection, method: str, first: Callable[[Space], Awaitable[Any]]
) -> None:
    server.desk.script[method].append(SpaceNotFoundError(space="spaces/new"))
    await first(mnemo.space("new"))

    assert "spaces/new" in server.book.spaces
    assert len(server.desk.calls(method)) == 2


async def test_working_memory(server: TestServer, space: Space) -> None:
    working = space.working_memory("planner", "s1")
    pushed = await working.push(MemoryInput("x", kind="fact"), protected=True, ttl=timedelta(seconds=90))
    assert (pushed.evicted, pushed.item.memory.content) == ("old", "told")
    sent = last(server, "PushWorkingItem")
    assert (sent.agent, sent.session, sent.protected, sent.ttl.seconds) == ("planner", "s1", True, 90)
    assert [item.id for item in await working.items()] == ["w"]
    assert await working.clear(["w"]) == 1
    assert list(last(server, "ClearWorkingMemory").ids) == ["w"]
    with pytest.raises(InvalidFieldError, match=r"^ids: 'w' is one text"):
        await working.clear("w")


async def test_a_session(server: TestServer, space: Space) -> None:
    session = await space.start_session("s1", agent="planner", metadata={"goal": "trip"})
    assert session.id == "s1"
    assert (await session.info()).agent == "planner"
    kept = await session.append(["one", MemoryInput("two")])
    assert [memory.content for memory in kept] == ["as told"]
    assert [item.content for item in last(server, "AppendToSession").memories] == ["one", "two"]
    assert (await session.checkpoint({"step": 3}, label="third")).state == {"step": 3}
    assert last(server, "CreateCheckpoint").label == "third"
    assert [checkpoint.id async for checkpoint in session.checkpoints()] == ["c"]
    assert (await session.restore_checkpoint("c")).state == {"step": 3}
    assert (await session.end()).end_time is None
    assert [found.id async for found in space.sessions(agent="planner", open_only=True)] == ["s1"]


async def test_media_go_and_come(server: TestServer, space: Space, tmp_path: Path) -> None:
    path = tmp_path / "note.txt"
    path.write_bytes(b"from a file")
    media = await space.upload_media(path, media_type="text/plain")
    assert (media.id, media.mime_type) == ("m", "text/plain")
    assert b"".join([part async for part in space.read_media(media, offset=5)]) == b"a file"
    await space.remember("x", media=media)
    assert last(server, "CreateMemory").memory.media.upload == "spaces/a/media/m"


async def test_items_that_were_there_are_told(server: TestServer, space: Space) -> None:
    told = memory_service_pb2.IngestResult(name="spaces/a/memories/b", duplicate=True)
    server.memory.results.append([told, told])

    result = await space.remember_many([MemoryInput("x", on_duplicate="keep"), MemoryInput("y", on_duplicate="keep")])

    assert (result.ids, result.duplicates, result.errors) == (["b", "b"], [0, 1], [])
