"""The main job through the public client, on every kind of installation: the outcomes must be the same."""

from __future__ import annotations

import asyncio
import uuid
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

import pytest

from mnemocore import MemoryInput
from mnemocore.client import MemoryFilter, MemoryKind, MemoryState
from mnemocore.errors import (
    DeadlineExceededError,
    EtagMismatchError,
    IndexLaggingError,
    InvalidFieldError,
    JobNotFoundError,
    MemoryExistsError,
    MemoryNotFoundError,
    SpaceExistsError,
    SpaceNotFoundError,
)
from mnemocore.memory.v1 import memory_service_pb2, memory_service_pb2_grpc
from mnemocore.testing.waiting import until

if TYPE_CHECKING:
    from mnemocore import Connection, Space

FACTS = [
    "Alice moved to Lisbon in March.",
    "Bob is allergic to peanuts and always carries an injector.",
    "The quarterly report is due on the fourteenth of October.",
    "Carol's greyhound is called Pixel.",
    "We chose PostgreSQL because the team knows it well.",
    "The spare key lies under the blue flower pot.",
    "Dave plays the trombone in a brass band on Thursdays.",
    "The heating in the attic was repaired last winter.",
]


@pytest.fixture
def space(mnemo: Connection) -> Space:
    return mnemo.space(f"t-{uuid.uuid4().hex[:12]}")


async def test_a_memory_is_found_by_the_next_recall(space: Space) -> None:
    kept = await space.remember(FACTS[0], actor="Alice", session="s1", tags=["home"], metadata={"turn": 1})
    hits = await space.recall("Where does Alice live now?")
    assert [hit.memory.id for hit in hits] == [kept.id]
    assert hits[0].memory == await space.get(kept.id) == kept
    assert (kept.actor, kept.session, kept.ordinal, kept.tags, kept.metadata) == (
        "Alice",
        "s1",
        0,
        ("home",),
        {"turn": 1},
    )


async def test_what_one_has_written_another_finds_without_a_token(mnemo: Connection, space: Space) -> None:
    stub = mnemo.stub(memory_service_pb2_grpc.MemoryServiceStub)
    request = memory_service_pb2.RecallMemoriesRequest(parent=f"spaces/{space.id}", query="Where does Alice live now?")
    for fact in FACTS:
        kept = await space.remember(fact)

        async def found(name: str = kept.name) -> bool:  # at once, but on a machine with more to do than it can
            return name in {result.memory.name for result in (await stub.RecallMemories(request)).results}

        await until(found)


async def test_the_best_memory_comes_first_and_the_score_is_explained(space: Space) -> None:
    await space.remember_many([MemoryInput(content=fact) for fact in FACTS])
    for question, answer in [
        ("Who must not eat peanuts?", 1),
        ("What is the name of Carol's dog?", 3),
        ("Why PostgreSQL?", 4),
        ("Where is the spare key?", 5),
    ]:
        hits = await space.recall(question, limit=3)
        assert hits[0].memory.content == FACTS[answer]
        assert len(hits) == 3
        assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
        for hit in hits:
            assert 0 <= hit.score <= 1
            assert abs(sum(part.contribution for part in hit.explanation) - hit.score) < 1e-9


async def test_many_memories_are_kept_in_order_and_all_are_found(space: Space) -> None:
    items = [MemoryInput(content=f"Item number {number} is stored in box {100_000 + number}") for number in range(700)]
    progress: list[int] = []
    kept = await space.remember_many(items, batch_size=128, on_progress=progress.append)
    assert len(kept.ids) == 700
    assert not kept.errors
    assert progress[-1] == 700
    listed = [memory.content async for memory in space.list(page_size=333)]
    assert listed == [item.content for item in reversed(items)]
    for number in (0, 350, 699):
        hits = await space.recall(f"item number {number}", limit=1)
        assert hits[0].memory.content == items[number].content


async def test_filters_apply_before_ranking(space: Space) -> None:
    await space.remember_many(
        [
            MemoryInput(
                content=f"note {number} about the garden",
                actor="Ada" if number % 10 == 0 else "Bo",
                kind=MemoryKind.FACT if number % 2 else MemoryKind.OBSERVATION,
                tags=["rare"] if number % 50 == 0 else [],
                occurred_at=datetime(2026, 1, 1 + number % 28, tzinfo=UTC),
                metadata={"n": number % 5},
            )
            for number in range(100)
        ]
    )
    assert {hit.memory.actor for hit in await space.recall("garden", filter=MemoryFilter(actors=["Ada"]))} == {"Ada"}
    assert len(await space.recall("garden", filter=MemoryFilter(actors=["Ada"]), limit=50)) == 10
    assert len(await space.recall("something else", filter=MemoryFilter(tags=["rare"]))) == 2
    hits = await space.recall("garden", filter=MemoryFilter(metadata={"n": 3}, kinds=["fact"]), limit=50)
    assert len(hits) == 10
    window = MemoryFilter(occurred_from=datetime(2026, 1, 5, tzinfo=UTC), occurred_to=datetime(2026, 1, 6, tzinfo=UTC))
    assert len(await space.recall("garden", filter=window, limit=50)) == 4


async def test_forgetting_hides_and_restoring_brings_back(space: Space) -> None:
    kept = await space.remember(FACTS[5])
    other = await space.remember(FACTS[6])
    await space.forget(kept.id, reason="moved house")
    assert kept.id not in [hit.memory.id for hit in await space.recall("spare key")]
    assert (await space.get(kept.id)).state is MemoryState.ARCHIVED
    assert [memory.id async for memory in space.list()] == [other.id]
    restored = await space.restore(kept.id)
    assert restored.state is MemoryState.ACTIVE
    assert (await space.recall("spare key"))[0].memory.id == kept.id
    changes = [(revision.change.value, revision.reason) async for revision in space.history(kept.id)]
    assert changes == [("created", ""), ("archived", "moved house"), ("restored", "")]


async def test_purging_erases(mnemo: Connection, space: Space) -> None:
    kept = await space.remember("the code word is xyzzy")
    await space.recall("code word")
    await space.forget(kept.id, purge=True)
    with pytest.raises(MemoryNotFoundError):
        await space.get(kept.id)
    assert await space.recall("code word") == []
    assert [revision.memory.content async for revision in space.history()] == ["", ""]

    async def is_gone_from_the_log() -> bool:
        return not [event async for event in mnemo.events() if b"xyzzy" in event.data]

    await until(is_gone_from_the_log)


async def test_etags_guard_against_lost_changes(space: Space) -> None:
    kept = await space.remember(FACTS[0])
    await space.forget(kept.id, etag=kept.etag)
    with pytest.raises(EtagMismatchError):
        await space.restore(kept.id, etag=kept.etag)


async def test_chosen_ids_make_imports_repeatable(space: Space) -> None:
    items = [MemoryInput(content=fact, id=str(uuid.uuid4())) for fact in FACTS]
    first = await space.remember_many(items)
    assert first.ids == [item.id for item in items]
    again = await space.remember_many(items, on_error="collect")
    assert again.ids == []
    assert [type(error.error) for error in again.errors] == [MemoryExistsError] * len(items)
    assert (await space.info()).active_memories == len(items)


async def test_a_bad_item_does_not_fail_its_neighbours(space: Space) -> None:
    items = [MemoryInput(content="good"), MemoryInput(content=""), MemoryInput(content="also good")]
    kept = await space.remember_many(items, on_error="collect")
    assert len(kept.ids) == 2
    assert [error.index for error in kept.errors] == [1]
    assert isinstance(kept.errors[0].error, InvalidFieldError)
    assert "content" in str(kept.errors[0].error)


@pytest.mark.parametrize(
    "content",
    [
        "🦊",
        "x" * 102_400,
        "'; DROP TABLE memory.memories; --",
        "\u202eevil\ufeff",
        "名前は田中です",
        "a\r\n\tb",
        "\\x00",
    ],
    ids=["emoji", "100 KiB", "sql", "direction marks", "cjk", "line ends", "escape"],
)
async def test_any_text_is_stored_literally(space: Space, content: str) -> None:
    kept = await space.remember(content)
    assert (await space.get(kept.id)).content == content
    assert (await space.recall(content[:2000]))[0].memory.id == kept.id


async def test_many_large_memories_come_in_short_pages(space: Space) -> None:
    texts = [f"{number} " + "é" * 51_000 for number in range(200)]
    await space.remember_many([MemoryInput(content=text) for text in texts])
    assert [memory.content async for memory in space.list(page_size=1000)] == texts[::-1]
    assert len([revision async for revision in space.history(page_size=1000)]) == 200
    ids = [memory.id async for memory in space.list()]
    assert len((await space.get_many(ids[:50])).memories) == 50
    with pytest.raises(InvalidFieldError, match="ask for fewer"):
        await space.get_many(ids)
    await until(partial(is_indexed, space))
    with pytest.raises(InvalidFieldError, match="ask for fewer"):
        await space.recall("é", limit=1000)


async def is_indexed(space: Space) -> bool:
    """Whether the index has everything that was written, however slow the machine is."""
    try:
        await space.recall("anything", limit=1)
    except (IndexLaggingError, DeadlineExceededError):
        return False
    return True


async def test_the_year_one_and_the_year_9999(space: Space) -> None:
    for year in (1, 9999):
        moment = datetime(year, 1, 1, tzinfo=UTC)
        kept = await space.remember("long ago or far away", occurred_at=moment)
        assert (await space.get(kept.id)).occurred_at == moment
    assert len(await space.recall("far away")) == 2


async def test_spaces_are_listed_and_walled(mnemo: Connection, space: Space) -> None:
    await space.remember(FACTS[0])
    other = mnemo.space(space.id + "-other")
    kept = await other.remember("Alice moved to Porto.")
    assert {info.id async for info in mnemo.spaces()} >= {space.id, other.id}
    assert [hit.memory.content for hit in await space.recall("Where is Alice?")] == [FACTS[0]]
    with pytest.raises(MemoryNotFoundError):
        await space.get(kept.id)
    with pytest.raises(SpaceExistsError):
        await mnemo.create_space(space.id)


async def test_consolidation_archives_near_duplicates_and_reports(mnemo: Connection, space: Space) -> None:
    first = await space.remember("Bob is allergic to peanuts.")
    second = await space.remember("Bob is allergic to peanuts!")
    negated = await space.remember("Bob is not allergic to peanuts.")
    await space.remember("The meeting starts at nine.")
    dry = await mnemo.wait_for_job((await space.consolidate(dry_run=True)).id, timeout=60)
    assert (dry.state.value, dry.report.archived, dry.report.pairs) == ("succeeded", 0, 1)
    job = await mnemo.wait_for_job((await space.consolidate()).id, timeout=60)
    assert (job.state.value, job.report.archived, job.error) == ("succeeded", 1, "")
    assert [(group.kept, [each.id for each in group.duplicates]) for group in job.report.groups] == [
        (first.id, [second.id])
    ]
    assert first.id in job.report.markdown
    found = {hit.memory.id for hit in await space.recall("peanuts")}
    assert first.id in found
    assert negated.id in found
    assert second.id not in found
    again = await mnemo.wait_for_job((await space.consolidate()).id, timeout=60)
    assert again.report.pairs == 0
    await space.restore(second.id)
    assert [listed.id async for listed in mnemo.jobs(space=space.id)] == [again.id, job.id, dry.id]


async def test_events_tell_what_happened(mnemo: Connection, space: Space) -> None:
    kept = await space.remember(FACTS[0])
    await space.forget(kept.id)
    await space.recall("anything")  # waits until the index, and so the log, has the newest change
    events = [event async for event in mnemo.events(types=["memory.*"]) if event.subject == kept.name]
    assert [event.type for event in events] == ["memory.created", "memory.archived"]


async def test_republishing_changes_nothing_that_is_found(space: Space) -> None:
    await space.remember_many([MemoryInput(content=fact) for fact in FACTS])
    before = [(hit.memory.id, hit.score) for hit in await space.recall("spare key")]
    assert await space.republish() == len(FACTS)
    await space.remember("one more, so that the next recall waits for everything before it")
    after = {hit.memory.id: hit.score for hit in await space.recall("spare key", limit=20)}
    assert before[0][0] == next(iter(after))
    assert set(after) >= {memory_id for memory_id, _ in before}


async def test_what_does_not_exist_is_said_clearly(mnemo: Connection, space: Space) -> None:
    with pytest.raises(SpaceNotFoundError, match=space.id):
        await space.recall("anything")
    with pytest.raises(SpaceNotFoundError):
        await space.info()
    with pytest.raises(JobNotFoundError):
        await mnemo.job(str(uuid.uuid4()))
    await space.remember("something")
    with pytest.raises(MemoryNotFoundError):
        await space.get(str(uuid.uuid4()))
    with pytest.raises(InvalidFieldError, match="not-a-uuid"):
        await space.get("not-a-uuid")


async def test_concurrent_writers_lose_nothing(space: Space) -> None:
    await asyncio.gather(*[space.remember(f"writer {number} was here") for number in range(40)])
    assert (await space.info()).active_memories == 40
    assert len(await space.recall("writer", limit=100)) == 40


async def test_capabilities_name_all_services(mnemo: Connection) -> None:
    capabilities = await mnemo.capabilities()
    assert capabilities.services == {
        f"mnemocore.{name}.v1": True for name in ("cognitive", "events", "index", "memory")
    }
    assert "mnemocore.memory.v1.MemoryService/RecallMemories" in capabilities.methods
    assert not [method for method in capabilities.methods if "IndexService" in method]
