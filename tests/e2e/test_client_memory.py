"""Everything a program can do with memories, through the public client, on every kind of installation."""

from __future__ import annotations

import asyncio
import uuid
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from mnemocore import Connection, MemoryFilter, MemoryInput, Provenance, SpacePolicy, connect
from mnemocore.client import (
    AssociationType,
    ChangeType,
    GrantRole,
    MemoryKind,
    MemoryState,
    Modality,
    NoveltyDecision,
    Origin,
    RetentionState,
    SpaceAccess,
    SpaceLimits,
)
from mnemocore.errors import (
    AlreadySupersededError,
    CheckpointNotFoundError,
    DuplicateMemoryError,
    EtagMismatchError,
    GrantNotFoundError,
    InvalidFieldError,
    MediaNotFoundError,
    MemoryNotFoundError,
    MemoryProtectedError,
    QuotaExceededError,
    RoleRequiredError,
    SessionEndedError,
    SessionExistsError,
    SessionNotFoundError,
    SpaceEtagMismatchError,
    SpaceNotEmptyError,
    SpaceNotEncryptedError,
    SpaceNotFoundError,
    UnsupportedMediaError,
    WorkingItemNotFoundError,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.e2e.conftest import Server

    from mnemocore import Space

ABSENT = "00000000-0000-7000-8000-000000000000"
PNG = b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR\0\0\0\x01\0\0\0\x01\x08\x02\0\0\0" + bytes(range(256)) * 8
DAY = timedelta(days=1)


@pytest.fixture
def space(mnemo: Connection) -> Space:
    """A space of this test; it does not exist yet."""
    return mnemo.space(f"m-{uuid.uuid4().hex[:12]}")


async def until(condition: Callable[[], Awaitable[object]], seconds: float = 10.0) -> None:
    """Return when `condition` holds; fails if it does not within `seconds`."""
    async with asyncio.timeout(seconds):
        while not await condition():  # noqa: ASYNC110  (what it looks at is not in this process)
            await asyncio.sleep(0.02)


async def test_a_memory_with_everything_that_can_be_said(space: Space) -> None:
    now = datetime.now(UTC).replace(microsecond=0)
    source = Provenance(Origin.TOOL, ("https://example.org/1",), "planner")
    kept = await space.remember(
        "The ferry leaves at nine.",
        kind="fact",
        valid_from=now - DAY,
        valid_to=now + DAY,
        ttl=timedelta(hours=1),
        provenance=source,
        protected=True,
        importance=0.9,
        tags=["ferry"],
    )

    stored = await space.get(kept.id)
    assert (stored.valid_from, stored.valid_to, stored.provenance) == (now - DAY, now + DAY, source)
    assert stored.expires_at is not None
    assert timedelta(minutes=59) < stored.expires_at - now < timedelta(minutes=61)
    assert (stored.protected, stored.modality, stored.access_count) == (True, Modality.TEXT, 1)
    assert 0 < stored.strength <= 1
    assert stored.reliability == 0.5
    assert (stored.supersedes, stored.superseded_by, stored.media) == ("", "", None)


async def test_what_has_expired_is_out_of_recall_and_of_listings(space: Space) -> None:
    gone = await space.remember("The ferry leaves at nine.", ttl=timedelta(milliseconds=300))
    stays = await space.remember("The ferry leaves at ten.")

    async def expired() -> bool:
        return [memory.id async for memory in space.list()] == [stays.id]

    await until(expired)
    assert [hit.memory.id for hit in await space.recall("When does the ferry leave?")] == [stays.id]
    assert (await space.get(gone.id)).state is MemoryState.EXPIRED
    assert [memory.id async for memory in space.list(states=["expired"])] == [gone.id]


async def test_equal_memories(space: Space) -> None:
    first = await space.remember("The boat is blue.", kind="fact")
    again = await space.remember_with_outcome(MemoryInput("The boat is blue.", kind="fact", on_duplicate="keep"))
    assert (again.memory.id, again.duplicate) == (first.id, True)
    stronger = await space.remember_with_outcome(
        MemoryInput("The boat is blue.", kind="fact", on_duplicate="reinforce")
    )
    assert (stronger.memory.id, stronger.duplicate, stronger.memory.access_count) == (first.id, True, 2)
    with pytest.raises(DuplicateMemoryError):
        await space.remember("The boat is blue.", kind="fact", on_duplicate="reject")
    second = await space.remember("The boat is blue.", kind="fact")
    assert second.id != first.id
    many = await space.remember_many(
        [
            MemoryInput("The boat is blue.", kind="fact", on_duplicate="keep"),
            MemoryInput("The boat is red.", kind="fact"),
        ]
    )
    assert many.duplicates == [0]
    assert many.ids[0] in {first.id, second.id}


async def test_the_novelty_gate_says_what_it_decided(space: Space) -> None:
    ungated = await space.remember_with_outcome(MemoryInput("Alice works as a nurse in Porto.", kind="fact"))
    assert ungated.novelty is None
    new = await space.remember_with_outcome(MemoryInput("The harbour opens at dawn.", kind="fact", novelty_gate="on"))
    assert new.novelty is NoveltyDecision.NEW
    known = await space.remember_with_outcome(MemoryInput("The harbour opens at dawn.", kind="fact", novelty_gate="on"))
    assert (known.novelty, known.memory.id) == (NoveltyDecision.REDUNDANT, new.memory.id)


async def test_an_update_changes_what_it_names(space: Space) -> None:
    kept = await space.remember("The boat is blue.", actor="Noor", tags=["boat"], metadata={"k": 1}, importance=0.9)
    changed = await space.update(kept.id, content="The boat is green.", tags=["boat", "paint"], reason="repainted")
    assert (changed.content, changed.tags, changed.actor, changed.metadata) == (
        "The boat is green.",
        ("boat", "paint"),
        "Noor",
        {"k": 1},
    )
    emptied = await space.update(kept.id, actor=None, metadata=None, importance=None, etag=changed.etag)
    assert (emptied.actor, emptied.metadata, emptied.importance) == ("", {}, 0.5)
    with pytest.raises(EtagMismatchError):
        await space.update(kept.id, content="The boat is red.", etag=changed.etag)
    hits = await space.recall("What colour is the boat?")
    assert [hit.memory.content for hit in hits] == ["The boat is green."]
    changes = [(revision.change, revision.reason) async for revision in space.history(kept.id)]
    assert changes == [(ChangeType.CREATED, ""), (ChangeType.UPDATED, "repainted"), (ChangeType.UPDATED, "")]
    with pytest.raises(MemoryNotFoundError):
        await space.update(ABSENT, content="x")


async def test_protection(space: Space) -> None:
    kept = await space.remember("The safe is behind the painting.")
    assert (await space.protect(kept.id, reason="important")).protected
    for forgetting in (space.forget(kept.id), space.forget(kept.id, purge=True)):
        with pytest.raises(MemoryProtectedError):
            await forgetting
    assert not (await space.unprotect(kept.id)).protected
    await space.forget(kept.id)
    assert (await space.get(kept.id)).state is MemoryState.ARCHIVED


async def test_one_memory_takes_the_place_of_another(space: Space) -> None:
    now = datetime.now(UTC).replace(microsecond=0)
    old = await space.remember("Alice lives in Porto.", kind="fact", valid_from=now - 100 * DAY)
    new = await space.supersede(
        old.id, MemoryInput("Alice lives in Lisbon.", kind="fact", valid_from=now - 10 * DAY), reason="she moved"
    )
    assert (new.supersedes, new.kind) == (old.id, MemoryKind.FACT)
    replaced = await space.get(old.id)
    assert (replaced.state, replaced.superseded_by) == (MemoryState.SUPERSEDED, new.id)
    assert replaced.valid_to == now - 10 * DAY
    assert [hit.memory.id for hit in await space.recall("Where does Alice live?")] == [new.id]
    then = await space.recall("Where does Alice live?", filter=MemoryFilter(valid_at=now - 50 * DAY))
    assert [hit.memory.id for hit in then] == [old.id]
    with pytest.raises(AlreadySupersededError) as caught:
        await space.supersede(old.id, "Alice lives in Faro.")
    assert caught.value.metadata["superseded_by"].endswith(new.id)
    newest = await space.supersede(new.id, "Alice lives in Faro.")
    assert newest.kind is MemoryKind.FACT


async def test_feedback_moves_reliability(space: Space) -> None:
    kept = await space.remember("The bakery opens at six.")
    better = await space.feedback(kept.id, True)
    worse = await space.feedback(kept.id, False, weight=5, reason="it was closed")
    assert worse.reliability < 0.5 < better.reliability
    for _ in range(3):
        worse = await space.feedback(kept.id, False)
    assert "unreliable" in worse.tags


async def test_the_past_can_be_asked(space: Space) -> None:
    kept = await space.remember("The boat is blue.")
    first = await space.get(kept.id)
    await space.update(kept.id, content="The boat is green.")
    await space.remember("The boat is fast.")
    as_known = first.update_time
    assert as_known is not None
    assert (await space.get(kept.id, as_of=as_known)).content == "The boat is blue."
    assert [hit.memory.content for hit in await space.recall("boat", known_at=as_known)] == ["The boat is blue."]
    assert len([revision async for revision in space.history(as_of=as_known)]) == 1
    with pytest.raises(MemoryNotFoundError):
        await space.get(kept.id, as_of=as_known - DAY)


async def test_reading_for_use_counts(space: Space) -> None:
    kept = await space.remember("The boat is blue.")
    await space.get(kept.id, touch=True)

    async def counted() -> bool:
        memory = await space.get(kept.id)
        return memory.access_count >= 2 and memory.last_accessed_at is not None

    await until(counted)
    read = await space.get(kept.id)
    assert read.retention == pytest.approx(1.0, abs=0.2)
    assert read.retention_state == RetentionState.KEEP
    quickly = await space.get(kept.id, minimize_latency=True)
    assert (quickly.content, quickly.retention, quickly.retention_state) == ("The boat is blue.", None, None)


async def test_recall_with_states_and_a_least_score(space: Space) -> None:
    active = await space.remember("The boat is blue.")
    archived = await space.remember("The boat was red.")
    await space.forget(archived.id)
    assert {hit.memory.id for hit in await space.recall("boat", states=["active", "archived"])} == {
        active.id,
        archived.id,
    }
    assert [hit.memory.id for hit in await space.recall("boat", states=["archived"])] == [archived.id]
    hits = await space.recall("What colour is the boat?")
    assert await space.recall("What colour is the boat?", min_score=1.0) == []
    assert len(await space.recall("What colour is the boat?", min_score=0.99 * hits[-1].score)) == len(hits)


async def test_filters(space: Space) -> None:
    low = await space.remember("The boat is blue.", importance=0.1)
    high = await space.remember("The boat is fast.", importance=0.9)
    assert low.create_time is not None
    assert high.create_time is not None

    async def ids(chosen: MemoryFilter) -> list[str]:
        return [memory.id async for memory in space.list(filter=chosen)]

    assert await ids(MemoryFilter(min_importance=0.5)) == [high.id]
    assert await ids(MemoryFilter(created_from=high.create_time)) == [high.id]
    assert await ids(MemoryFilter(created_to=high.create_time)) == [low.id]
    assert await ids(MemoryFilter(modalities=["image"])) == []
    assert await ids(MemoryFilter(modalities=["text"])) == [high.id, low.id]


async def test_media(space: Space) -> None:
    uploaded = await space.upload_media(PNG)
    assert (uploaded.mime_type, uploaded.size) == ("image/png", len(PNG))
    kept = await space.remember("A map of the harbour.", media=uploaded)
    assert kept.modality is Modality.IMAGE
    assert kept.media is not None
    assert kept.media.sha256 == uploaded.sha256
    assert b"".join([part async for part in space.read_media(kept.media)]) == PNG
    assert b"".join([part async for part in space.read_media(kept.media.id, offset=100)]) == PNG[100:]
    inline = await space.remember("A note.", media=b"plain words", media_type="text/plain")
    assert inline.media is not None
    assert [hit.memory.id for hit in await space.recall("harbour map", filter=MemoryFilter(modalities=["image"]))] == [
        kept.id
    ]
    with pytest.raises(UnsupportedMediaError):
        await space.upload_media(PNG, media_type="image/jpeg")
    with pytest.raises(MediaNotFoundError):
        _ = [part async for part in space.read_media(ABSENT)]


async def test_links(space: Space) -> None:
    first, second, third = [await space.remember(f"Step {number} of the plan.") for number in range(3)]
    link = await space.associate(first.id, second.id, type=AssociationType.PRECEDES, weight=0.8)
    assert (link.source, link.target, link.weight, link.activations) == (first.id, second.id, 0.8, 1)
    stronger = await space.associate(first.id, second.id, type="precedes", reinforce=True)
    assert stronger.weight == pytest.approx(0.8 + 0.05 * 0.2)
    await space.associate(second.id, third.id, type="precedes", weight=0.5)
    listed = [(item.source, item.target) async for item in space.associations()]
    assert listed == [(first.id, second.id), (second.id, third.id)]
    outgoing = [item.target async for item in space.associations(second.id, direction="outgoing")]
    assert outgoing == [third.id]
    assert [item async for item in space.associations(second.id, types=["supports"])] == []
    (path,) = await space.paths(first.id, third.id, direction="outgoing")
    assert [item.target for item in path.associations] == [second.id, third.id]
    assert path.weight == pytest.approx(stronger.weight * 0.5)
    assert await space.paths(third.id, first.id, direction="outgoing") == []
    around = await space.neighbourhood([first.id], sessions=False)
    assert [(near.memory.id, near.hops) for near in around.neighbours] == [(second.id, 1), (third.id, 2)]
    assert {(item.source, item.target) for item in around.associations} == set(listed)
    assert await space.dissociate(first.id, second.id) == 1
    assert await space.dissociate(first.id, second.id) == 0
    with pytest.raises(MemoryNotFoundError):
        await space.associate(first.id, ABSENT)


async def test_recall_follows_links(space: Space) -> None:
    asked = await space.remember("Marta keeps bees behind the old mill.")
    linked = await space.remember("Honey is sold on Saturdays.")
    await space.remember_many([MemoryInput(f"Filler number {number} about the weather.") for number in range(20)])
    await space.associate(asked.id, linked.id, weight=1.0)
    hits = await space.recall("Who keeps bees behind the old mill?", profile="graph", limit=3)
    assert linked.id in {hit.memory.id for hit in hits}
    by_link = next(hit for hit in hits if hit.memory.id == linked.id)
    assert any(part.name == "associations" and part.contribution > 0 for part in by_link.explanation)


async def test_working_memory(space: Space) -> None:
    working = space.working_memory("planner", "s1")
    pushed = await working.push("The train leaves at nine.")
    pinned = await working.push(MemoryInput("Tickets are in the bag.", kind="fact"), protected=True)
    again = await working.push("The train leaves at nine.", ttl=timedelta(hours=1))
    assert (again.item.id, again.item.access_count) == (pushed.item.id, 2)
    assert pinned.item.expire_time is None
    assert {item.memory.content for item in await working.items()} == {
        "The train leaves at nine.",
        "Tickets are in the bag.",
    }
    assert await space.working_memory("somebody else", "s1").items() == []
    kept = await working.promote(pinned.item.id)
    assert (kept.content, kept.kind, kept.session) == ("Tickets are in the bag.", MemoryKind.FACT, "s1")
    assert [hit.memory.id for hit in await space.recall("Where are the tickets?")] == [kept.id]
    with pytest.raises(WorkingItemNotFoundError):
        await working.promote(pinned.item.id)
    assert await working.clear() == 1
    assert await working.items() == []


async def test_a_session_from_beginning_to_end(space: Space) -> None:
    session = await space.start_session("s1", agent="planner", metadata={"goal": "trip"})
    with pytest.raises(SessionExistsError):
        await space.start_session("s1")
    kept = await session.append(["We go by train.", MemoryInput("We stay three days.", kind="decision")])
    assert [(memory.session, memory.ordinal is not None) for memory in kept] == [("s1", True), ("s1", True)]
    assert [memory.kind for memory in kept] == [MemoryKind.OBSERVATION, MemoryKind.DECISION]
    assert [hit.memory.id for hit in await space.recall("How long do we stay?", limit=1)] == [kept[1].id]
    working = space.working_memory("planner", "s1")
    await working.push("Book the hotel.")
    made = await session.checkpoint({"step": 3, "done": ["train"]}, label="booked")
    assert made.working_items == 1
    await working.clear()
    (listed,) = [checkpoint async for checkpoint in session.checkpoints()]
    assert (listed.id, listed.label, listed.state) == (made.id, "booked", None)
    restored = await session.restore_checkpoint()
    assert (restored.id, restored.state) == (made.id, {"step": 3, "done": ["train"]})
    assert [item.memory.content for item in await working.items()] == ["Book the hotel."]
    with pytest.raises(CheckpointNotFoundError):
        await session.restore_checkpoint(ABSENT)
    info = await session.info()
    assert (info.agent, info.metadata, info.memories, info.end_time) == ("planner", {"goal": "trip"}, 2, None)
    assert [item.id async for item in space.sessions(open_only=True)] == ["s1"]
    assert (await session.end()).end_time is not None
    assert [item.id async for item in space.sessions(open_only=True)] == []
    assert [item.id async for item in space.sessions(agent="planner")] == ["s1"]
    with pytest.raises(SessionEndedError):
        await session.append(["One more thing."])
    with pytest.raises(SessionNotFoundError):
        await space.session("s2").info()
    assert (await space.start_session()).id


async def test_a_policy_holds(mnemo: Connection, space: Space) -> None:
    made = await mnemo.create_space(
        space.id, description="small", policy=SpacePolicy(limits=SpaceLimits(max_memories=2))
    )
    assert (made.policy.limits.max_memories, made.role, made.encrypted) == (2, GrantRole.OWNER, False)
    assert made.owner
    await space.remember_many([MemoryInput("one"), MemoryInput("two")])
    with pytest.raises(QuotaExceededError):
        await space.remember("three")
    changed = await space.set_policy(
        max_memories=None, erase_archived_after=30 * DAY, access="owner", etag=(await space.info()).etag
    )
    assert (changed.policy.limits, changed.policy.access) == (SpaceLimits(), SpaceAccess.OWNER)
    assert changed.policy.retention.erase_archived_after == 30 * DAY
    await space.remember("three")
    renamed = await space.update_space(description="larger", policy=SpacePolicy())
    assert (renamed.description, renamed.policy) == ("larger", SpacePolicy())
    with pytest.raises(SpaceEtagMismatchError):
        await space.update_space(description="x", etag=made.etag)
    with pytest.raises(SpaceNotEncryptedError):
        await space.rotate_key()


async def test_counts(space: Space) -> None:
    fact = await space.remember("The boat is blue.", kind="fact")
    await space.remember("The boat is fast.", kind="fact")
    seen = await space.remember("A boat came by.")
    await space.forget(seen.id)
    await space.associate(fact.id, seen.id)
    stats = await space.stats()
    assert stats.kinds == {MemoryKind.FACT: 2, MemoryKind.OBSERVATION: 1}
    assert stats.states == {MemoryState.ACTIVE: 2, MemoryState.ARCHIVED: 1}
    assert sum(stats.tiers.values()) == 3
    assert (stats.associations, stats.media_bytes) == (1, 0)
    assert stats.content_bytes >= len("The boat is blue.") * 3 - 10
    assert sum(day.memories for day in stats.growth) == 3


async def test_an_end_without_and_with_memories(mnemo: Connection, space: Space) -> None:
    await mnemo.create_space(space.id)
    await space.delete()
    with pytest.raises(SpaceNotFoundError):
        await space.info()
    await space.remember("The boat is blue.")
    with pytest.raises(SpaceNotEmptyError):
        await space.delete()
    with pytest.raises(InvalidFieldError):
        await space.erase(confirm="another")
    receipt = await space.erase(confirm=space.id, reason="asked for")
    assert (receipt.memories, receipt.reason) == (1, "asked for")
    with pytest.raises(SpaceNotFoundError):
        await space.recall("boat")
    assert receipt.id in [item.id async for item in mnemo.erasures()]

    async def confirmed() -> bool:
        return any([item.id == receipt.id and item.log_erase_time async for item in mnemo.erasures()])

    await until(confirmed)
    kept = await space.remember("The boat is green.")
    assert [hit.memory.id for hit in await space.recall("boat")] == [kept.id]


async def test_grants_are_made_listed_and_ended(mnemo: Connection, space: Space) -> None:
    await space.remember("The boat is blue.", tags=["boat"])
    expiry = datetime.now(UTC).replace(microsecond=0) + DAY
    grant = await space.share("reader", "read", kinds=["fact"], tags=["boat"], expire_time=expiry)
    assert (grant.space, grant.principal, grant.role) == (space.id, "reader", GrantRole.READ)
    assert (grant.kinds, grant.tags, grant.expire_time) == ((MemoryKind.FACT,), ("boat",), expiry)
    assert [item.id async for item in space.grants()] == [grant.id]
    await mnemo.delete_grant(grant.id)
    assert [item.id async for item in space.grants()] == []
    with pytest.raises(GrantNotFoundError):
        await mnemo.delete_grant(grant.id)


async def test_another_tenant_takes_what_is_shared(served: Server) -> None:
    async with AsyncExitStack() as stack:
        owner = await stack.enter_async_context(connect(served.address, api_key=served.api_key))
        scopes = ["memory:read", "memory:write"]
        key = await owner.create_api_key("guest", scopes, tenant=f"t-{uuid.uuid4().hex[:8]}")
        guest = await stack.enter_async_context(connect(served.address, api_key=key.secret))
        mine = owner.space(f"m-{uuid.uuid4().hex[:12]}")
        kept = await mine.remember("The boat is blue.", tags=["boat"])
        hidden = await mine.remember("The safe is behind the painting.")
        grant = await mine.share("guest", "read", tenant=key.api_key.tenant, tags=["boat"])
        assert [item.id async for item in guest.received_grants()] == [grant.id]
        taken = await guest.accept_grant(grant.id, "theirs")
        assert taken.accepted_as == "theirs"
        shared = guest.space("theirs")
        assert [memory.id async for memory in shared.list()] == [kept.id]
        assert [hit.memory.id for hit in await shared.recall("Where is the safe?")] == [kept.id]
        assert (await shared.info()).role is GrantRole.READ
        with pytest.raises(MemoryNotFoundError):
            await shared.get(hidden.id)
        with pytest.raises(RoleRequiredError):
            await shared.remember("The boat is green.", tags=["boat"])
        await guest.delete_grant(grant.id)
        with pytest.raises(SpaceNotFoundError):
            await shared.info()
