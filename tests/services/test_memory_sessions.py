"""Sessions and checkpoints on a real PostgreSQL."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from tests.memory_room import ADA, EVE, opened

from mnemo_memory.domain.consistency import decode_token
from mnemo_memory.domain.media import MediaInput
from mnemo_memory.domain.memory import Draft, Kind, Limits, Policy, Role, Space, State
from mnemo_memory.domain.ports import Request
from mnemo_memory.domain.sessions import CHECKPOINTS_KEPT, Sessions
from mnemocore.errors import (
    CheckpointNotFoundError,
    InvalidFieldError,
    MediaNotFoundError,
    MemoryExistsError,
    MnemoError,
    PageTokenMismatchError,
    QuotaExceededError,
    RequestIdReusedError,
    RoleRequiredError,
    SessionEndedError,
    SessionExistsError,
    SessionNotFoundError,
    SpaceNotFoundError,
)
from mnemocore.ids import MemoryId, is_uuid, new_uuid

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from typing import Any

    from tests.memory_room import Room

    from mnemo_memory.domain.memory import Memory
    from mnemo_memory.domain.sessions import Checkpoint, Session
    from mnemo_memory.domain.working_memory import WorkingItem
    from mnemocore.testing.postgres import TestPostgres

SECRET = "xyzzy"


class Desk:
    """The sessions of agent `a` in a space."""

    def __init__(self, room: Room, space: Space) -> None:
        self.room = room
        self.space = space
        self.sessions: Sessions = room.sessions

    async def start(
        self,
        session_id: str = "s",
        agent: str = "a",
        metadata: Mapping[str, Any] | None = None,
        request: Request | None = None,
    ) -> Session:
        return await self.sessions.start(ADA, self.space.slug, session_id, agent, metadata or {}, request)

    async def get(self, session_id: str = "s") -> Session:
        return await self.sessions.get(ADA, self.space.slug, session_id)

    async def append(self, *drafts: str | Draft, session_id: str = "s", request: Request | None = None) -> list[Memory]:
        items = [(Draft(each) if isinstance(each, str) else each, None) for each in drafts]
        _, memories, _ = await self.sessions.append(ADA, self.space.slug, session_id, items, request)
        return memories

    async def end(self, session_id: str = "s") -> Session:
        return await self.sessions.end(ADA, self.space.slug, session_id)

    async def page(
        self, size: int = 0, token: str = "", agent: str = "", *, open_only: bool = False
    ) -> tuple[list[str], str]:
        sessions, token = await self.sessions.list_sessions(
            ADA, self.space.slug, agent, size, token, open_only=open_only
        )
        return [session.id for session in sessions], token

    async def checkpoint(
        self, label: str = "", state: Mapping[str, Any] | None = None, request: Request | None = None
    ) -> Checkpoint:
        return await self.sessions.checkpoint(ADA, self.space.slug, "s", label, state or {}, request)

    async def checkpoints(self, size: int = 0, token: str = "") -> tuple[list[Checkpoint], str]:
        return await self.sessions.list_checkpoints(ADA, self.space.slug, "s", size, token)

    async def restore(self, checkpoint_id: str = "") -> Checkpoint:
        return await self.sessions.restore(ADA, self.space.slug, "s", checkpoint_id)

    async def push(
        self, text: str, *, protected: bool = False, life: float = 600, agent: str = "a", session: str = "s"
    ) -> WorkingItem:
        pushed = await self.room.working.push(
            ADA,
            self.space.slug,
            agent,
            session,
            Draft(text),
            protected=protected,
            life=timedelta(seconds=life),
            request=None,
        )
        return pushed.item

    async def items(self, agent: str = "a", session: str = "s") -> list[WorkingItem]:
        return await self.room.working.list_items(ADA, self.space.slug, agent, session)


@pytest.fixture
async def room(postgres: TestPostgres) -> AsyncIterator[Room]:
    async with opened(postgres) as made:
        yield made


@pytest.fixture(params=[False, True], ids=["open", "encrypted"])
async def desk(room: Room, request: pytest.FixtureRequest) -> Desk:
    return Desk(room, await room.make("notes", encrypted=request.param))


def a_request(digest: bytes = b"one") -> Request:
    return Request(new_uuid(datetime(2026, 1, 1, tzinfo=UTC)), digest)


# Starting, reading, ending


async def test_a_session_is_read_as_it_was_started(desk: Desk) -> None:
    started = await desk.start("s 🦊", "ada's agent", {"a": {"b": [1, 2.5, None, True]}})
    assert await desk.get("s 🦊") == started
    assert (started.id, started.agent, started.metadata) == ("s 🦊", "ada's agent", {"a": {"b": [1, 2.5, None, True]}})
    assert (started.started_at, started.ended_at, started.memories) == (desk.room.clock.now(), None, 0)


async def test_the_server_names_a_session_without_a_name(desk: Desk) -> None:
    first, second = await desk.start("", agent=""), await desk.start("", agent="")
    assert is_uuid(first.id)
    assert first.id != second.id


async def test_a_session_is_started_once(desk: Desk) -> None:
    started = await desk.start()
    with pytest.raises(SessionExistsError, match="'s'"):
        await desk.start(agent="b")
    await desk.end()
    with pytest.raises(SessionExistsError):
        await desk.start()
    assert (await desk.get()).agent == started.agent
    outcomes = await asyncio.gather(*(desk.start("t") for _ in range(10)), return_exceptions=True)
    assert sum(isinstance(outcome, SessionExistsError) for outcome in outcomes) == 9


async def test_a_repeated_start_returns_the_first_answer(desk: Desk) -> None:
    await desk.room.store.create(desk.space, [Draft("before", session="s")], (await an_author(desk)), None, each=False)
    request, nameless = a_request(), a_request()
    first = await desk.start(request=request)
    assert first.memories == 1
    made = await desk.start("", request=nameless)
    await desk.append("tea")
    await desk.end()
    await desk.end(made.id)
    assert await desk.start(request=request) == first
    assert await desk.start("", request=nameless) == made
    with pytest.raises(RequestIdReusedError):
        await desk.start(request=replace(request, digest=b"two"))
    same = a_request()
    outcomes = await asyncio.gather(*(desk.start("", request=same) for _ in range(8)))
    assert len({outcome.id for outcome in outcomes}) == 1


async def an_author(desk: Desk) -> Any:
    entry = await desk.room.access.enter(ADA, desk.space.slug, Role.WRITE)
    return entry.author(desk.room.clock.now())


async def test_what_was_not_started_is_not_found(desk: Desk) -> None:
    await desk.room.store.create(desk.space, [Draft("x", session="s")], await an_author(desk), None, each=False)
    for call in (desk.get(), desk.append("x"), desk.end(), desk.checkpoint(), desk.checkpoints(), desk.restore()):
        with pytest.raises(SessionNotFoundError, match="'s'"):
            await call


async def test_a_session_ends_once(desk: Desk) -> None:
    await desk.start()
    ended = await desk.end()
    assert ended.ended_at == desk.room.clock.now()
    await desk.room.clock.advance(60)
    assert await desk.end() == ended == await desk.get()


async def test_pages_of_sessions_are_not_disturbed(desk: Desk) -> None:
    for number in range(7):
        await desk.start(str(number), agent="ab"[number % 2])
    await desk.append("x", session_id="6")
    await desk.end("5")
    first, token = await desk.page(3)
    await desk.start("new")
    second, more = await desk.page(3, token)
    third, end = await desk.page(3, more)
    assert (first, second, third, end) == (["6", "5", "4"], ["3", "2", "1"], ["0"], "")
    assert (await desk.page(agent="b"))[0] == ["5", "3", "1"]
    assert (await desk.page(agent="b", open_only=True))[0] == ["3", "1"]
    assert (await desk.page(agent="nobody")) == ([], "")
    sessions, _ = await desk.sessions.list_sessions(ADA, "notes", "", 0, "", open_only=False)
    assert [session.memories for session in sessions] == [0, 1, 0, 0, 0, 0, 0, 0]
    for wrong in ("nonsense", token):
        with pytest.raises(PageTokenMismatchError):
            await desk.page(3, wrong, agent="b")


# Appending


async def test_memories_follow_one_another(desk: Desk) -> None:
    await desk.start()
    first = await desk.append("one", Draft("two", session="s"))
    second = await desk.append("three")
    assert [(memory.content, memory.session, memory.ordinal) for memory in (*first, *second)] == [
        ("one", "s", 0),
        ("two", "s", 1),
        ("three", "s", 2),
    ]
    assert ((await desk.get()).memories, desk.room.commits) == (3, 2)


async def test_an_append_proves_itself(desk: Desk) -> None:
    await desk.start()
    space, memories, token = await desk.sessions.append(ADA, "notes", "s", [(Draft("x"), None)], None)
    assert (space.name, [memory.revision for memory in memories]) == ("spaces/notes", [1])
    assert decode_token(token, desk.room.store.store_id, desk.space.uid) == 1


async def test_memories_of_another_session_are_refused(desk: Desk) -> None:
    await desk.start()
    with pytest.raises(InvalidFieldError) as caught:
        await desk.append("one", Draft("two", session="t"))
    assert [violation.field for violation in caught.value.violations] == ["memories[1].session"]
    twice = MemoryId(new_uuid(desk.room.clock.now()))
    with pytest.raises(InvalidFieldError, match="twice"):
        await desk.append(Draft("one", id=twice), Draft("two", id=twice))
    assert (await desk.get()).memories == 0


async def test_all_are_appended_or_none(room: Room) -> None:
    desk = Desk(room, await room.make("notes", policy=Policy(limits=Limits(max_memories=2))))
    await desk.start()
    taken = MemoryId(new_uuid(room.clock.now()))
    await desk.append(Draft("one", id=taken))
    with pytest.raises(MemoryExistsError):
        await desk.append("two", Draft("three", id=taken))
    with pytest.raises(QuotaExceededError):
        await desk.append("two", "three")
    assert (await desk.get()).memories == 1


async def test_nothing_is_appended_to_an_ended_session(desk: Desk) -> None:
    await desk.start()
    request = a_request()
    appended = await desk.append("tea", request=request)
    await desk.end()
    with pytest.raises(SessionEndedError, match="'s'"):
        await desk.append("coffee")
    assert await desk.append("tea", request=request) == appended
    assert (await desk.get()).memories == 1


async def test_no_append_is_committed_after_an_end(desk: Desk) -> None:
    await desk.start()
    outcomes = await asyncio.gather(
        *(desk.append(str(number)) for number in range(8)),
        desk.end(),
        *(desk.append(str(number)) for number in range(8, 30)),
        return_exceptions=True,
    )
    counted = (await desk.get()).memories
    with pytest.raises(SessionEndedError):
        await desk.append("late")
    written = [outcome for outcome in outcomes if isinstance(outcome, list)]
    refused = [outcome for outcome in outcomes if isinstance(outcome, MnemoError)]
    assert (len(written), len(refused)) == (counted, 30 - counted)
    assert all(isinstance(outcome, SessionEndedError) for outcome in refused)
    assert sorted(memory.ordinal or 0 for (memory,) in written) == list(range(counted))


async def test_appended_memories_may_have_media(room: Room) -> None:
    desk = Desk(room, await room.make("notes"))
    await desk.start()
    item = MediaInput(b"plain text", mime_type="text/plain")
    _, (memory,), _ = await room.sessions.append(ADA, "notes", "s", [(Draft("a text"), item)], None)
    assert memory.media is not None
    assert memory.media.size == 10
    gone = MediaInput(upload=f"spaces/notes/media/{new_uuid(room.clock.now())}")
    with pytest.raises(MediaNotFoundError):
        await room.sessions.append(ADA, "notes", "s", [(Draft("a text"), gone)], None)
    await desk.end()
    with pytest.raises(SessionEndedError):
        await room.sessions.append(ADA, "notes", "s", [(Draft("another"), replace(item, data=b"new"))], None)
    assert await room.database.fetchval("SELECT count(*) FROM memory.media") == 1


async def test_memories_of_a_session_count_in_whatever_state(desk: Desk) -> None:
    await desk.start()
    await desk.append(Draft("gone", expires_at=desk.room.clock.now()), "there")
    (_, gone) = await desk.room.memories(desk.space)
    assert (gone.state, (await desk.get()).memories) == (State.EXPIRED, 2)


# Checkpoints


async def test_a_checkpoint_brings_the_working_memory_back(desk: Desk) -> None:
    await desk.start()
    await desk.push("expired", life=5)
    await desk.push("first", life=100)
    await desk.push("second", life=50)
    await desk.push("kept", protected=True)
    await desk.push("first", life=80)
    await desk.push("not mine", agent="b")
    await desk.push("elsewhere", session="t")
    await desk.room.clock.advance(10)
    before = await desk.items()
    state = {"step": 3, "nested": {"list": [1, 2.5, None, "🦊"]}}
    made = await desk.checkpoint("halfway", state)
    assert (made.session, made.label, made.state, made.working_items) == ("s", "halfway", state, 3)
    assert (made.created_at, made.revision) == (desk.room.clock.now(), 0)
    await desk.room.clock.advance(1000)
    await desk.push("new")
    await desk.push("kept")
    assert await desk.restore(made.id) == made
    later = timedelta(seconds=1000)
    assert await desk.items() == [
        replace(item, expires_at=item.expires_at and item.expires_at + later) for item in before
    ]
    await desk.room.clock.advance(40)
    assert [item.draft.content for item in await desk.items()] == ["first", "kept"]
    await desk.push("second")
    assert [item.draft.content for item in await desk.items()] == ["second", "first", "kept"]
    assert await desk.restore() == made
    assert len(await desk.items()) == 3
    assert [item.draft.content for item in await desk.items("b")] == []


async def test_restoring_leaves_the_memories_alone(desk: Desk) -> None:
    await desk.start()
    item = await desk.push("tea")
    await desk.append("one")
    made = await desk.checkpoint()
    assert made.revision == 1
    await desk.room.working.promote(ADA, "notes", item.id, None)
    await desk.restore()
    assert [memory.content for memory in await desk.room.memories(desk.space)] == ["tea", "one"]
    assert await desk.items() == [item]
    _, memory = await desk.room.working.promote(ADA, "notes", item.id, None)
    assert memory.content == "tea"


async def test_checkpoints_are_listed_newest_first_without_their_states(desk: Desk) -> None:
    await desk.start()
    made = [await desk.checkpoint(f"label {number}", {"n": number}) for number in range(5)]
    expected = [replace(each, state=None) for each in reversed(made)]
    first, token = await desk.checkpoints(2)
    await desk.checkpoint("new")
    second, more = await desk.checkpoints(2, token)
    third, end = await desk.checkpoints(2, more)
    assert ([*first, *second, *third], end) == (expected, "")
    assert (await desk.restore()).label == "new"
    assert (await desk.restore(made[1].id)).state == {"n": 1}
    with pytest.raises(PageTokenMismatchError):
        await desk.checkpoints(2, "nonsense")


async def test_the_newest_hundred_are_kept(room: Room) -> None:
    desk = Desk(room, await room.make("notes"))
    await desk.start()
    request = a_request()
    first = await desk.checkpoint("first", {"a": 1}, request)
    for number in range(CHECKPOINTS_KEPT - 1):
        await desk.checkpoint(str(number))
    assert (await desk.restore(first.id)).state == {"a": 1}
    await desk.checkpoint("one more")
    found, _ = await desk.checkpoints(1000)
    assert (len(found), found[0].label, found[-1].label) == (CHECKPOINTS_KEPT, "one more", "0")
    with pytest.raises(CheckpointNotFoundError, match=first.id):
        await desk.restore(first.id)
    assert await desk.checkpoint("first", {"a": 1}, request) == first


async def test_a_repeated_checkpoint_returns_the_first_answer(desk: Desk) -> None:
    await desk.start()
    request = a_request()
    await desk.push("tea")
    outcomes = await asyncio.gather(*(desk.checkpoint("x", {"a": 1}, request) for _ in range(8)))
    await desk.push("coffee")
    await desk.append("one")
    await desk.room.clock.advance(10)
    outcomes.append(await desk.checkpoint("x", {"a": 1}, request))
    assert outcomes == [outcomes[0]] * 9
    assert len((await desk.checkpoints())[0]) == 1
    with pytest.raises(RequestIdReusedError):
        await desk.checkpoint("y", {"a": 1}, replace(request, digest=b"two"))


async def test_a_checkpoint_of_another_session_is_not_found(desk: Desk) -> None:
    await desk.start()
    with pytest.raises(CheckpointNotFoundError, match="newest"):
        await desk.restore()
    await desk.start("t")
    other = await desk.sessions.checkpoint(ADA, "notes", "t", "", {}, None)
    with pytest.raises(CheckpointNotFoundError):
        await desk.restore(other.id)


async def test_a_session_without_an_agent_has_no_working_memory(desk: Desk) -> None:
    await desk.start(agent="")
    await desk.push("tea")
    assert (await desk.checkpoint()).working_items == 0
    await desk.end()
    assert (await desk.restore()).working_items == 0
    assert len(await desk.items()) == 1


# Walls


async def test_no_tenant_reaches_the_sessions_of_another(room: Room) -> None:
    desk = Desk(room, await room.make("notes"))
    await desk.start()
    made = await desk.checkpoint()
    with pytest.raises(SpaceNotFoundError):
        await room.sessions.get(EVE, "notes", "s")
    await room.make("notes", EVE)
    assert await room.sessions.list_sessions(EVE, "notes", "", 0, "", open_only=False) == ([], "")
    for call in (
        room.sessions.get(EVE, "notes", "s"),
        room.sessions.append(EVE, "notes", "s", [(Draft("x"), None)], None),
        room.sessions.end(EVE, "notes", "s"),
        room.sessions.list_checkpoints(EVE, "notes", "s", 0, ""),
        room.sessions.restore(EVE, "notes", "s", made.id),
    ):
        with pytest.raises(SessionNotFoundError):
            await call
    theirs = await room.sessions.start(EVE, "notes", "s", "eve's", {}, None)
    assert (theirs.agent, (await desk.get()).agent) == ("eve's", "a")
    await desk.append("tea")
    assert (await room.sessions.get(EVE, "notes", "s")).memories == 0


async def test_roles_and_parts_of_a_shared_space(room: Room) -> None:
    desk = Desk(room, await room.make("notes"))
    await desk.start()
    await desk.checkpoint()
    sessions = room.sessions

    async def refused(slug: str) -> None:
        for call in (
            sessions.start(EVE, slug, "t", "", {}, None),
            sessions.append(EVE, slug, "s", [(Draft("x"), None)], None),
            sessions.end(EVE, slug, "s"),
            sessions.checkpoint(EVE, slug, "s", "", {}, None),
            sessions.restore(EVE, slug, "s", ""),
        ):
            with pytest.raises(RoleRequiredError):
                await call

    room.shares.share(desk.space, "theirs", Role.READ)
    await refused("theirs")
    assert (await sessions.get(EVE, "theirs", "s")).agent == "a"
    assert len((await sessions.list_checkpoints(EVE, "theirs", "s", 0, ""))[0]) == 1
    room.shares.share(desk.space, "part", Role.WRITE, kinds=(Kind.FACT,))
    await refused("part")
    for call in (
        sessions.get(EVE, "part", "s"),
        sessions.list_sessions(EVE, "part", "", 0, "", open_only=False),
        sessions.list_checkpoints(EVE, "part", "s", 0, ""),
    ):
        with pytest.raises(RoleRequiredError, match="in part"):
            await call


async def test_an_encrypted_space_shows_nothing(room: Room) -> None:
    desk = Desk(room, await room.make("notes", encrypted=True))
    sessions = room.sessions
    await sessions.start(ADA, "notes", f"id {SECRET}", f"agent {SECRET}", {SECRET: SECRET}, a_request())
    named = await sessions.start(ADA, "notes", "", SECRET, {}, a_request())
    await desk.push(SECRET, agent=f"agent {SECRET}", session=f"id {SECRET}")
    made = await sessions.checkpoint(ADA, "notes", f"id {SECRET}", f"label {SECRET}", {"a": SECRET}, a_request())
    await sessions.append(ADA, "notes", f"id {SECRET}", [(Draft(SECRET), None)], a_request())
    shown = await room.dump("sessions", "checkpoints", "working_items", "requests", "memories", "revisions")
    for text in (SECRET, named.id):
        assert text not in shown
        assert text.encode().hex() not in shown
    assert await sessions.restore(ADA, "notes", f"id {SECRET}", "") == made
    found, _ = await sessions.list_sessions(ADA, "notes", f"agent {SECRET}", 0, "", open_only=False)
    assert [(each.id, each.agent, each.metadata, each.memories) for each in found] == [
        (f"id {SECRET}", f"agent {SECRET}", {SECRET: SECRET}, 1)
    ]
