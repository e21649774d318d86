"""Whatever is done to a space, in whatever order: the store says what a model in memory says."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from tests.memory_room import Room, migrated

from mnemo_memory.domain import changes
from mnemo_memory.domain.memory import Change, Draft, Filter, Kind, Memory, OnDuplicate, State
from mnemo_memory.domain.ports import Author, Kept, ListPosition
from mnemocore.errors import (
    AlreadySupersededError,
    DuplicateMemoryError,
    EtagMismatchError,
    MemoryNotFoundError,
    MemoryProtectedError,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from datetime import datetime

    from mnemocore.ids import MemoryId
    from mnemocore.testing.postgres import TestPostgres

T = TypeVar("T")
NEWEST: Final = ListPosition(2**62, 2**62)
IN_TURN: Final = st.integers(0, 30)
CONTENTS: Final = st.sampled_from(["tea", "coffee", "naïve 🦊", "\u202e'; --"])
FILTERS: Final = st.sampled_from(
    [
        Filter(),
        Filter(kinds=(Kind.FACT,)),
        Filter(tags=("x",)),
        Filter(tags=("x", "y")),
        Filter(actors=("Ada", "")),
        Filter(metadata={"n": 1}),
        Filter(min_importance=0.5),
        Filter(kinds=(Kind.FACT, Kind.OBSERVATION), tags=("y",)),
        Filter(nothing=True),
    ]
)


@st.composite
def drafts(draw: st.DrawFn) -> Draft:
    """A memory that looks like others."""
    return Draft(
        draw(CONTENTS),
        kind=draw(st.sampled_from([Kind.OBSERVATION, Kind.FACT])),
        metadata=draw(st.sampled_from([{}, {"n": 1}, {"n": 1, "deep": {"k": [1, None, "x"]}}, {"n": 2.5}])),
        tags=draw(st.sampled_from([(), ("x",), ("y", "x")])),
        actor=draw(st.sampled_from(["", "Ada"])),
        importance=draw(st.sampled_from([0.25, 0.5, 1.0])),
        on_duplicate=draw(st.sampled_from(list(OnDuplicate))),
    )


@dataclass
class Model:
    """What a space should hold. `history` are the revisions: number, memory, change, what it was then."""

    memories: dict[MemoryId, Memory] = field(default_factory=dict)
    history: list[tuple[MemoryId, Change, Memory | None, datetime]] = field(default_factory=list)

    def record(self, memory: Memory, change: Change, at: datetime) -> None:
        """Take over what a memory has become."""
        self.memories[memory.id] = memory
        self.history.append((memory.id, change, memory, at))

    def expected(self, memory: Memory, at: datetime) -> Memory:
        """A memory the next change makes, at a time."""
        changed = replace(memory, revision=len(self.history) + 1, updated_at=at)
        return replace(changed, state=changed.state_at(at))

    def erase(self, memory_id: MemoryId, at: datetime) -> None:
        """Forget a memory and what it was."""
        del self.memories[memory_id]
        self.history = [
            (each, change, None if each == memory_id else was, when) for each, change, was, when in self.history
        ]
        self.history.append((memory_id, Change.ERASED, None, at))

    def equal(self, draft: Draft, now: datetime) -> Memory | None:
        """The oldest active memory that equals a draft."""
        found = [
            memory
            for memory in self.memories.values()
            if (memory.kind, memory.actor, memory.content) == (draft.kind, draft.actor, draft.content)
            and memory.state_at(now) is State.ACTIVE
        ]
        return min(found, key=lambda memory: memory.created_revision, default=None)

    def as_of(self, memory_id: MemoryId, at: datetime) -> Memory | None:
        """What a memory was at a time."""
        was = [memory for each, _, memory, when in self.history if each == memory_id and when <= at]
        return replace(was[-1], state=was[-1].state_at(at)) if was and was[-1] is not None else None


class SpaceMachine(RuleBasedStateMachine):
    """One space, and the model of it."""

    loop: asyncio.AbstractEventLoop
    postgres: TestPostgres
    encrypted: bool

    def run(self, work: Awaitable[T]) -> T:
        """Do it on the loop that the database lives on."""
        return self.loop.run_until_complete(work)

    @initialize()
    def make(self) -> None:
        self.url = self.run(self.postgres.create(migrated))
        self.database = self.run(self.postgres.open(self.url, max_size=2))
        self.room = Room(self.database)
        self.model = Model()
        self.start = self.room.clock.now()
        self.space = self.run(self.room.make("notes", encrypted=self.encrypted))

    def teardown(self) -> None:
        self.run(self.database.close())
        self.run(self.postgres.drop(self.url))

    @property
    def now(self) -> datetime:
        return self.room.clock.now()

    @property
    def author(self) -> Author:
        return Author("ada", self.now, "because")

    def one(self, turn: int) -> Memory:
        """One of the memories."""
        known = list(self.model.memories.values())
        return known[turn % len(known)]

    def has_memories(self) -> bool:
        return bool(self.model.memories)

    @rule(draft=drafts(), lives=st.sampled_from([None, None, 10, 100]))
    def create(self, draft: Draft, lives: int | None) -> None:
        if lives is not None:
            draft = replace(draft, expires_at=self.now + timedelta(seconds=lives))
        there = self.model.equal(draft, self.now) if draft.on_duplicate is not OnDuplicate.ALLOW else None
        create = self.room.store.create(self.space, [draft], self.author, None, each=False)
        if there is not None and draft.on_duplicate is OnDuplicate.REJECT:
            with pytest.raises(DuplicateMemoryError, match=there.id):
                self.run(create)
            return
        created = self.run(create)
        (outcome,) = created.outcomes
        assert isinstance(outcome, Kept)
        assert outcome.duplicate == (there is not None)
        if there is None:
            memory = outcome.memory
            assert memory.created_revision == memory.revision == len(self.model.history) + 1
            assert (memory.content, memory.metadata, memory.tags) == (draft.content, draft.metadata, draft.tags)
            assert (memory.kind, memory.actor, memory.expires_at) == (draft.kind, draft.actor, draft.expires_at)
            self.model.record(memory, Change.CREATED, self.now)
        elif draft.on_duplicate is OnDuplicate.REINFORCE:
            used = replace(there, accesses=there.accesses + 1, accessed_at=self.now)
            expected = self.model.expected(used, self.now)
            assert outcome.memory == expected
            self.model.record(expected, Change.REINFORCED, self.now)
        else:
            assert outcome.memory == there
        assert created.revision == len(self.model.history)

    def change(self, before: Memory, change: Change, alter: Callable[[Memory], Memory | None], etag: str = "") -> None:
        """Change a memory in the store and in the model."""
        mutate = self.room.store.mutate(self.space, before.id, etag, change, alter, self.author, None)
        try:
            altered = alter(replace(before, state=before.state_at(self.now)))
        except MemoryProtectedError:
            with pytest.raises(MemoryProtectedError):
                self.run(mutate)
            return
        written = self.run(mutate)
        if altered is not None:
            self.model.record(self.model.expected(altered, self.now), change, self.now)
        (after,) = written.memories
        current = self.model.memories[before.id]
        assert after == replace(current, state=current.state_at(self.now))
        assert written.revision == len(self.model.history)

    @precondition(has_memories)
    @rule(turn=IN_TURN, content=CONTENTS, lives=st.sampled_from([None, -5, 0, 10]), tags=st.sampled_from([(), ("x",)]))
    def update(self, turn: int, content: str, lives: int | None, tags: tuple[str, ...]) -> None:
        before = self.one(turn)
        values: dict[str, Any] = {"content": content, "tags": tags}
        values["expires_at"] = None if lives is None else self.now + timedelta(seconds=lives)
        self.change(before, Change.UPDATED, changes.Update(values), before.etag)

    @precondition(has_memories)
    @rule(turn=IN_TURN)
    def archive(self, turn: int) -> None:
        self.change(self.one(turn), Change.ARCHIVED, changes.archive(self.now, "it"))

    @precondition(has_memories)
    @rule(turn=IN_TURN)
    def restore(self, turn: int) -> None:
        self.change(self.one(turn), Change.RESTORED, changes.restore)

    @precondition(has_memories)
    @rule(turn=IN_TURN, wanted=st.booleans())
    def protect(self, turn: int, wanted: bool) -> None:
        self.change(self.one(turn), Change.PROTECTED, changes.protect(wanted))

    @precondition(has_memories)
    @rule(turn=IN_TURN, positive=st.booleans(), weight=st.sampled_from([0.5, 3.0]))
    def judge(self, turn: int, positive: bool, weight: float) -> None:
        self.change(self.one(turn), Change.FEEDBACK, changes.judge(positive, weight))

    @precondition(has_memories)
    @rule(turn=IN_TURN, content=CONTENTS)
    def change_what_was_changed_meanwhile(self, turn: int, content: str) -> None:
        memory = self.one(turn)
        alter = changes.Update({"content": content})
        with pytest.raises(EtagMismatchError):
            self.run(self.room.store.mutate(self.space, memory.id, "stale", Change.UPDATED, alter, self.author, None))

    @precondition(has_memories)
    @rule(turn=IN_TURN)
    def erase(self, turn: int) -> None:
        memory = self.one(turn)
        erase = self.room.store.erase(self.space, memory.id, memory.etag, self.author, None)
        if memory.protected:
            with pytest.raises(MemoryProtectedError):
                self.run(erase)
            return
        self.run(erase)
        self.model.erase(memory.id, self.now)
        with pytest.raises(MemoryNotFoundError):
            self.run(self.room.store.erase(self.space, memory.id, "", self.author, None))

    @precondition(has_memories)
    @rule(turn=IN_TURN, draft=drafts())
    def supersede(self, turn: int, draft: Draft) -> None:
        old, close = self.one(turn), changes.close(self.now)
        supersede = self.room.store.supersede(self.space, old.id, old.etag, draft, close, self.author, None)
        if old.superseded_by is not None or old.protected:
            with pytest.raises((AlreadySupersededError, MemoryProtectedError)):
                self.run(supersede)
            return
        new, closed = self.run(supersede).memories
        assert (new.supersedes, new.content, new.revision) == (old.id, draft.content, len(self.model.history) + 1)
        self.model.record(new, Change.CREATED, self.now)
        expected = self.model.expected(replace(close(old, draft)[0], superseded_by=new.id), self.now)
        assert closed == expected
        self.model.record(expected, Change.SUPERSEDED, self.now)

    @rule(seconds=st.sampled_from([1, 10, 60]))
    def wait(self, seconds: int) -> None:
        self.run(self.room.clock.advance(seconds))

    @rule()
    def sweep(self) -> None:
        due = [
            memory
            for memory in self.model.memories.values()
            if memory.state is State.ACTIVE and memory.state_at(self.now) is State.EXPIRED
        ]
        assert self.run(self.room.store.sweep(self.now, 1000)) == len(due)
        revisions = self.run(self.room.store.list_revisions(self.space, None, len(self.model.history), 1000))
        assert {each.memory_id for each in revisions} == {memory.id for memory in due}
        for each in revisions:
            expected = self.model.expected(self.model.memories[each.memory_id], self.now)
            self.model.record(expected, Change.EXPIRED, self.now)

    @rule(where=FILTERS, states=st.lists(st.sampled_from(list(State)), unique=True), limit=st.integers(1, 5))
    def list_memories(self, where: Filter, states: list[State], limit: int) -> None:
        found = self.run(self.room.store.list_memories(self.space, where, states, NEWEST, limit, self.now))
        current = [replace(each, state=each.state_at(self.now)) for each in self.model.memories.values()]
        matching = [each for each in current if each.state in states and where.matches(each)]
        assert found == sorted(matching, key=lambda memory: -memory.created_revision)[:limit]

    @rule(back=st.integers(0, 100))
    def look_back(self, back: int) -> None:
        at = max(self.start, self.now - timedelta(seconds=back))
        then = {each: self.model.as_of(each, at) for each in {memory_id for memory_id, *_ in self.model.history}}
        found = self.run(self.room.store.get_as_of(self.space, sorted(then), at))
        # uses are counted, but are no part of a memory's history
        assert found == {
            memory_id: replace(was, accesses=1, accessed_at=None) for memory_id, was in then.items() if was is not None
        }

    @rule()
    def republish(self) -> None:
        ordered = sorted(self.model.memories.values(), key=lambda memory: memory.created_revision)
        assert self.run(self.room.store.republish(self.space, self.author)) == len(ordered)
        for memory in ordered:
            again = replace(memory, revision=len(self.model.history) + 1)
            self.model.record(again, Change.REPUBLISHED, self.now)

    @invariant()
    def everything_is_as_expected(self) -> None:
        found = self.run(self.room.store.get(self.space, list(self.model.memories), self.now))
        assert found == {
            memory_id: replace(memory, state=memory.state_at(self.now))
            for memory_id, memory in self.model.memories.items()
        }
        revisions = self.run(self.room.store.list_revisions(self.space, None, 0, 10_000))
        assert [each.revision for each in revisions] == list(range(1, len(self.model.history) + 1))
        assert [(each.memory_id, each.change, each.memory is None) for each in revisions] == [
            (memory_id, change, memory is None) for memory_id, change, memory, _ in self.model.history
        ]
        counted = self.run(self.room.spaces.get_space(self.space.tenant, self.space.slug))
        active = sum(memory.state is State.ACTIVE for memory in self.model.memories.values())
        assert (counted.active, counted.archived) == (active, len(self.model.memories) - active)
        assert counted.revision == len(self.model.history)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("encrypted", [False, True], ids=["open", "encrypted"])
def test_the_store_and_the_model_agree(postgres: TestPostgres, encrypted: bool) -> None:
    loop = asyncio.new_event_loop()
    machine = type("Machine", (SpaceMachine,), {"loop": loop, "postgres": postgres, "encrypted": encrypted})
    steps = settings(max_examples=15, stateful_step_count=25, suppress_health_check=list(HealthCheck))
    run_state_machine_as_test(machine, settings=steps)
    loop.close()
