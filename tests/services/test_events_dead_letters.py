"""Dead letters on real stores: what is kept, what is replayed, and that no crash between two steps loses anything."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from tests import event_groups
from tests.event_groups import (
    ACME,
    ADMIN,
    NEVER,
    OTHER,
    READER,
    SPACE,
    Process,
    deliveries,
    done,
    event,
    failed,
    ids,
    take,
)

from mnemo_events.domain.access import Action, Policy
from mnemo_events.domain.dead_letters import MAX_REPLAYED, Death
from mnemo_events.domain.filter import Filter
from mnemo_events.domain.group import Reason
from mnemo_events.domain.group_keeping import GroupSpec
from mnemo_events.domain.member import Failed
from mnemo_events.domain.start import EARLIEST, Latest
from mnemo_events.storage.postgres_dead_letters import PostgresDeadLetters
from mnemocore.calls import Identity
from mnemocore.errors import (
    AccessDeniedError,
    DeadLetterNotFoundError,
    GroupNotFoundError,
    PageTokenMismatchError,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from tests.event_groups import Stores

    from mnemo_events.domain.dead_letters import DeadLetter
    from mnemo_events.domain.group import Group
    from mnemocore.testing.postgres import TestPostgres
    from mnemocore.testing.redis import TestRedis

OTHER_ADMIN = Identity(OTHER, "admin", frozenset({"events:admin"}))


@pytest.fixture(params=["postgres", "redis"])
async def stores(
    request: pytest.FixtureRequest, postgres: TestPostgres, redis_server: TestRedis
) -> AsyncIterator[Stores]:
    async with event_groups.stores(request.param, postgres, redis_server) as opened:
        yield opened


@pytest.fixture
async def process(stores: Stores) -> Process:
    return await stores.process()


async def reject(process: Process, group: Group, reason: Reason = Reason.REJECTED) -> None:
    """Make dead letters of all the group has not looked at."""
    async with process.members(group) as (member,):
        while taken := await deliveries(member):
            await member.settle([failed(each, reason) for each in taken])


async def letters(process: Process, caller: Identity = ADMIN) -> list[DeadLetter]:
    return (await process.dead_letters.list_page(caller, "workers", None, 1000, ""))[0]


async def test_a_dead_letter_has_all_that_is_known_of_it(process: Process) -> None:
    group = await process.group()
    sent = event(
        "1", "a/b", space_uid=SPACE, data=bytes(range(256)), correlation_id="c", revision=2**40, traceparent="t"
    )
    await process.publish(sent)
    async with process.members(group) as (member,):
        (delivery,) = await deliveries(member)
        await process.clock.advance(7)
        await member.settle([failed(delivery, Reason.INVALID_EVENT, "x" * 2000 + "\x00")])
    letter = await process.dead_letters.get(ADMIN, "workers", 1)
    assert letter.event == delivery.event
    assert letter.event.event == sent
    assert (letter.reason, letter.message, letter.attempts, letter.replays) == (Reason.INVALID_EVENT, "x" * 1000, 1, 0)
    assert letter.first_died_at == letter.died_at == process.clock.now()
    assert not letter.replaying
    for caller, position in ((ADMIN, 2), (OTHER_ADMIN, 1)):
        with pytest.raises((DeadLetterNotFoundError, GroupNotFoundError)):
            await process.dead_letters.get(caller, "workers", position)


async def test_they_are_listed_by_position_and_reason(process: Process) -> None:
    group = await process.group()
    await process.publish(*(event(str(number)) for number in range(5)))
    await reject(process, group)
    await process.publish(*(event(str(number)) for number in range(5, 8)))
    await reject(process, group, Reason.INVALID_EVENT)

    async def pages(reason: Reason | None) -> list[list[str]]:
        found: list[list[str]] = []
        token = ""
        while not found or token:
            page, token = await process.dead_letters.list_page(ADMIN, "workers", reason, 2, token)
            found.append([letter.event.event.id for letter in page])
        return found

    assert await pages(None) == [["0", "1"], ["2", "3"], ["4", "5"], ["6", "7"]]
    assert await pages(Reason.REJECTED) == [["0", "1"], ["2", "3"], ["4"]]
    assert await pages(Reason.TIMEOUT) == [[]]
    _, token = await process.dead_letters.list_page(ADMIN, "workers", None, 2, "")
    with pytest.raises(PageTokenMismatchError):
        await process.dead_letters.list_page(ADMIN, "workers", Reason.REJECTED, 2, token)


async def test_a_page_of_them_is_bounded_in_bytes(process: Process) -> None:
    group = await process.group()
    for number in range(11):
        await process.publish(event(str(number), data=bytes(1 << 20)))
    await reject(process, group)
    names: list[str] = []
    token = ""
    while True:
        page, token = await process.dead_letters.list_page(ADMIN, "workers", None, 100, token)
        assert len(page) == (4 if token else 3)
        names += [letter.event.event.id for letter in page]
        if not token:
            break
    assert names == [str(number) for number in range(11)]


async def test_a_replay_that_is_done_ends_the_dead_letter(process: Process) -> None:
    group = await process.group()
    await process.publish(event("1", "a"), event("2", "a"))
    await reject(process, group)
    async with process.members(group) as (member,):
        assert await process.dead_letters.replay(ADMIN, "workers", [1]) == (1, False)
        assert [(letter.replays, letter.replaying) for letter in await letters(process)] == [(1, True), (0, False)]
        assert await process.dead_letters.replay(ADMIN, "workers", [1]) == (0, False)
        (delivery,) = await deliveries(member)
        assert (delivery.event.event.id, delivery.attempt, delivery.replayed) == ("1", 1, True)
        assert (await member.settle([done(delivery)])).settled == (delivery.tag,)
        assert await process.names(group) == ["2"]
        await process.clock.advance(NEVER)
        assert await take(member) == []
    assert (await process.groups.get(ADMIN, "workers")).dead == 1


async def test_a_replay_has_all_attempts_again_and_they_are_added_up(process: Process) -> None:
    group = await process.group(attempts=3)
    await process.publish(event("1"))
    for replay in range(3):
        first_death = (await letters(process))[0].first_died_at if replay else None
        if replay:
            assert (await process.dead_letters.replay(ADMIN, "workers", []))[0] == 1
        async with process.members(group) as (member,):
            for attempt in (1, 2, 3):
                (delivery,) = await deliveries(member)
                assert (delivery.attempt, delivery.replayed) == (attempt, replay > 0)
                await member.settle([failed(delivery, message=f"{replay}")])
                await process.clock.advance(100)
        (letter,) = await letters(process)
        assert (letter.attempts, letter.replays, letter.replaying) == (3 * (replay + 1), replay, False)
        assert letter.message == f"{replay}"
        assert letter.first_died_at == (first_death or letter.died_at)
        assert letter.died_at == process.clock.now() - timedelta(seconds=100)


async def test_a_waiting_member_is_woken_by_a_replay(process: Process) -> None:
    group = await process.group()
    await process.publish(event("1"))
    await reject(process, group)
    async with process.members(group) as (member,):
        waiting = asyncio.ensure_future(member.next(10, NEVER))
        await process.dead_letters.replay(ADMIN, "workers", [])
        assert ids(await asyncio.wait_for(waiting, event_groups.SECONDS)) == ["1"]


async def test_what_the_log_has_trimmed_is_replayed_from_its_copy(process: Process) -> None:
    group = await process.group()
    await process.publish(event("1", data=b"kept"), event("2"), event("3"))
    await reject(process, group)
    assert await process.log.trim(None, 1, 100) == 2
    await process.dead_letters.replay(ADMIN, "workers", [1])
    async with process.members(group) as (member,):
        (delivery,) = await deliveries(member)
        assert delivery.event.event.data == b"kept"
        await member.settle([failed(delivery, Reason.REJECTED)])
    assert await process.names(group) == ["1", "2", "3"]
    await process.dead_letters.replay(ADMIN, "workers", [1])
    async with process.members(group) as (member,):
        (delivery,) = await deliveries(member)
        await member.settle([done(delivery)])
    assert await process.names(group) == ["2", "3"]


async def test_what_was_trimmed_before_its_turn_came_is_passed_over(process: Process) -> None:
    group = await process.group()
    await process.publish(event("1", "a"), event("2", "a"), event("3", "a"))
    async with process.members(group) as (member,):
        first, second, _ = await deliveries(member)
        await member.settle([failed(first)])
        await process.log.trim(None, 1, 100)
        await process.clock.advance(10)
        assert await take(member) == ["3"]
        assert await process.names(group) == []
        assert (await member.settle([done(second)])).lost == (second.tag,)


async def test_replaying_all_takes_as_many_calls_as_it_must(process: Process) -> None:
    group = await process.group()
    number = MAX_REPLAYED + 5
    for start in range(0, number, 500):
        await process.publish(*(event(str(name)) for name in range(start, min(number, start + 500))))
    await reject(process, group)
    assert await process.dead_letters.replay(ADMIN, "workers", []) == (MAX_REPLAYED, True)
    assert await process.dead_letters.replay(ADMIN, "workers", []) == (5, False)
    assert await process.dead_letters.replay(ADMIN, "workers", []) == (0, False)
    assert (await process.groups.get(ADMIN, "workers")).standing.waiting == number


async def test_purging_spares_what_is_replayed(process: Process) -> None:
    group = await process.group()
    for name in "12345":
        await process.publish(event(name))
        await reject(process, group)
        await process.clock.advance(10)
    await process.dead_letters.replay(ADMIN, "workers", [2])
    third = (await process.dead_letters.get(ADMIN, "workers", 3)).died_at
    purge = process.dead_letters.purge
    assert await purge(ADMIN, "workers", third, [1, 2, 3, 4]) == 1
    assert await process.names(group) == ["2", "3", "4", "5"]
    assert await purge(ADMIN, "workers", None, [4, 77]) == 1
    assert await purge(ADMIN, "workers", None, []) == 2
    assert await purge(ADMIN, "workers", None, []) == 0
    assert await process.names(group) == ["2"]


async def test_all_of_it_takes_the_right_to_read(process: Process) -> None:
    group = await process.group(types=("order.placed",))
    await process.publish(event("1"))
    await reject(process, group)

    async def outcomes(caller: Identity) -> list[str]:
        calls: list[Awaitable[object]] = [
            process.dead_letters.list_page(caller, "workers", None, 0, ""),
            process.dead_letters.get(caller, "workers", 1),
            process.dead_letters.replay(caller, "workers", [1]),
            process.dead_letters.purge(caller, "workers", None, [1]),
        ]
        found = []
        for call in calls:
            try:
                found.append(type(await call).__name__)
            except (AccessDeniedError, GroupNotFoundError) as error:
                found.append(type(error).__name__)
        return found

    assert await outcomes(READER) == ["AccessDeniedError"] * 4
    assert await outcomes(replace(ADMIN, tenant=OTHER)) == ["GroupNotFoundError"] * 4
    await process.policies.create(Policy(ACME, "p", "*", (Action.SUBSCRIBE,), ("**",), (), process.clock.now()), 10)
    process.access.forget(ACME)
    assert await outcomes(READER) == ["tuple", "DeadLetter", "tuple", "int"]


async def test_groups_of_one_name_of_two_tenants_have_nothing_in_common(process: Process) -> None:
    group = await process.group()
    spec = GroupSpec(Filter(tenant=OTHER))
    other = (await process.groups.create(OTHER_ADMIN, "workers", spec, EARLIEST)).group
    await process.publish(event("1"), event("1", tenant=OTHER))
    await reject(process, group)
    await reject(process, other)
    assert [letter.event.event.tenant for letter in await letters(process)] == [ACME]
    assert [letter.event.event.tenant for letter in await letters(process, OTHER_ADMIN)] == [OTHER]
    await process.eraser.redact([(OTHER, "test", "1")])
    assert [letter.event.event.data for letter in await letters(process)] == [b"1"]
    assert [letter.event.event.data for letter in await letters(process, OTHER_ADMIN)] == [b""]
    assert await process.groups.delete(ADMIN, "workers")
    assert len(await letters(process, OTHER_ADMIN)) == 1


async def test_erasing_reaches_the_copies(process: Process) -> None:
    group = await process.group()
    await process.publish(
        event("1", space_uid=SPACE), event("2", data=b"secret"), event("end", space_uid=SPACE, type="space.erased")
    )
    await reject(process, group)
    assert await process.eraser.redact([(ACME, "test", "2")]) == 1
    assert (await process.dead_letters.get(ADMIN, "workers", 2)).event.event.data == b""
    assert await process.eraser.erase_space(OTHER, SPACE, "end") == 0
    assert await process.names(group) == ["1", "2", "end"]
    assert await process.eraser.erase_space(ACME, SPACE, "end") == 1
    assert await process.names(group) == ["2", "end"]


class ErasesWhileItBuries(PostgresDeadLetters):
    """Something is erased in the log, and looked for in the copies, just before a copy is stored."""

    erase: Callable[[], Awaitable[object]]

    async def bury(self, group: Group, deaths: Sequence[Death]) -> None:
        await self.erase()
        await super().bury(group, deaths)


async def test_what_is_erased_while_it_is_copied_is_erased_in_the_copy(stores: Stores) -> None:
    store = ErasesWhileItBuries(stores.database)
    process = await stores.process(store=store)
    group = await process.group()
    await process.publish(event("1", data=b"secret"), event("2", space_uid=SPACE, data=b"secret"))

    async def erase() -> None:
        await process.eraser.redact([(ACME, "test", "1")])
        await process.eraser.erase_space(ACME, SPACE, "")

    store.erase = erase
    await reject(process, group)
    assert [(letter.event.event.id, letter.event.event.data) for letter in await letters(process)] == [("1", b"")]


async def test_a_replay_that_a_seek_lets_go_is_a_dead_letter_like_any_other(process: Process) -> None:
    group = await process.group()
    await process.publish(event("1"))
    await reject(process, group)
    assert await process.dead_letters.replay(ADMIN, "workers", []) == (1, False)
    await process.groups.seek(ADMIN, "workers", Latest())
    letter = await process.dead_letters.get(ADMIN, "workers", 1)
    assert (letter.replaying, letter.replays) == (False, 0)
    assert await process.dead_letters.purge(ADMIN, "workers", None, []) == 1


async def test_what_a_member_said_of_a_redacted_event_goes_with_it(process: Process) -> None:
    group = await process.group()
    await process.publish(event("1", data=b"secret"))
    async with process.members(group) as (member,):
        (delivery,) = await deliveries(member)
        failure = Failed(delivery.tag, Reason.REJECTED, "cannot read 'secret'")
        await member.settle([failure])
    await process.eraser.redact([(ACME, "test", "1")])
    letter = await process.dead_letters.get(ADMIN, "workers", 1)
    assert (letter.message, letter.event.event.data) == ("", b"")


async def test_a_seek_back_leaves_dead_letters_and_they_die_again(process: Process) -> None:
    group = await process.group()
    await process.publish(event("1"))
    await reject(process, group)
    await process.groups.seek(ADMIN, "workers", EARLIEST)
    async with process.members(group) as (member,):
        (delivery,) = await deliveries(member)
        assert await process.dead_letters.replay(ADMIN, "workers", []) == (0, False)
        assert not (await process.dead_letters.get(ADMIN, "workers", 1)).replaying
        await process.clock.advance(5)
        await member.settle([failed(delivery, Reason.INVALID_EVENT)])
    letter = await process.dead_letters.get(ADMIN, "workers", 1)
    assert (letter.reason, letter.died_at) == (Reason.INVALID_EVENT, process.clock.now())


class Crash(BaseException):
    """The process ends."""


class Fuse:
    """Ends a process at a step; nothing it does after that has an effect."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def step(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise Crash


class Fused:
    """A store whose every call is two steps: before it, and after it has taken effect."""

    def __init__(self, inner: Any, fuse: Fuse) -> None:
        self._inner = inner
        self._fuse = fuse

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._inner, name)

        async def call(*arguments: Any, **options: Any) -> Any:
            self._fuse.step()
            answer = await method(*arguments, **options)
            self._fuse.step()
            return answer

        return call


class FusedEngine:
    """An engine whose every call is two steps."""

    def __init__(self, inner: Any, fuse: Fuse) -> None:
        self.log: Any = Fused(inner.log, fuse)
        self.groups: Any = Fused(inner.groups, fuse)


class Survivors:
    """A process that ends at a step, and one that finishes what it has left."""

    def __init__(self, stores: Stores, process: Process, fuse: Fuse) -> None:
        self.after = process
        self.handled: list[str] = []
        """What handlers have done."""
        engine: Any = FusedEngine(process.engine, fuse)
        store: Any = Fused(process.store, fuse)
        self.doomed = Process(stores.database, engine, process.clock, store=store)

    async def finish(self, group: Group, *, well: bool) -> None:
        """After the leases are over: handle whatever there is, well or not."""
        await self.after.clock.advance(1000)
        await self.consume(self.after, group, well=well)

    async def consume(self, process: Process, group: Group, *, well: bool) -> None:
        async with process.members(group) as (member,):
            while taken := await deliveries(member):
                if well:
                    self.handled += ids(taken)
                await member.settle([done(each) if well else failed(each, Reason.REJECTED, "no") for each in taken])


async def crash_everywhere(
    stores: Stores,
    arrange: Callable[[Process], Awaitable[Group]],
    act: Callable[[Survivors, Group], Awaitable[None]],
    check: Callable[[Survivors, Group], Awaitable[None]],
) -> int:
    """Let a process end at every step of `act` in turn, each time on a group of its own; how many steps there are."""
    process = await stores.process()
    for steps in range(1000):
        fuse = Fuse(steps)
        group = await arrange(process)
        survivors = Survivors(stores, process, fuse)
        crashed = False
        try:
            await act(survivors, group)
        except Crash:
            crashed = True
        await check(survivors, group)
        await process.groups.delete(ADMIN, "workers")
        if not crashed:
            return steps
    raise AssertionError("it does not end")


async def at_rest(process: Process) -> None:
    standing = (await process.groups.get(ADMIN, "workers")).standing
    assert (standing.in_flight, standing.waiting) == (0, 0)


class Numbers:
    """Names that were not used before."""

    def __init__(self) -> None:
        self.last = 0

    def next(self) -> str:
        self.last += 1
        return f"e{self.last}"


async def one_event(process: Process, numbers: Numbers, **options: Any) -> Group:
    """A group that begins with an event."""
    head = await process.log.head()
    group = await process.group(**options)
    await process.engine.groups.seek(group, head)
    await process.publish(event(numbers.next()))
    return group


@pytest.mark.parametrize("attempts", [1, 5])
async def test_a_crash_while_an_event_dies_loses_nothing(stores: Stores, attempts: int) -> None:
    numbers = Numbers()

    async def act(survivors: Survivors, group: Group) -> None:
        await survivors.consume(survivors.doomed, group, well=False)

    async def check(survivors: Survivors, group: Group) -> None:
        await survivors.finish(group, well=False)
        (letter,) = await letters(survivors.after)
        assert letter.event.event.id == f"e{numbers.last}"
        assert letter.reason in (Reason.REJECTED, Reason.LEASE_EXPIRED)
        assert 1 <= letter.attempts <= 2
        assert (letter.replays, letter.replaying) == (0, False)
        await at_rest(survivors.after)

    steps = await crash_everywhere(stores, lambda p: one_event(p, numbers, attempts=attempts), act, check)
    assert steps > 10


async def test_a_crash_while_an_event_is_given_up_loses_nothing(stores: Stores) -> None:
    numbers = Numbers()

    async def forget(process: Process) -> Group:
        group = await one_event(process, numbers, attempts=1)
        async with process.members(group) as (member,):
            assert len(await deliveries(member)) == 1
        return group

    async def act(survivors: Survivors, group: Group) -> None:
        await survivors.consume(survivors.doomed, group, well=True)

    async def check(survivors: Survivors, group: Group) -> None:
        await survivors.finish(group, well=True)
        (letter,) = await letters(survivors.after)
        assert (letter.reason, letter.attempts) == (Reason.LEASE_EXPIRED, 1)
        assert survivors.handled == []
        await at_rest(survivors.after)

    assert await crash_everywhere(stores, forget, act, check) > 5


async def dead_letter(process: Process, numbers: Numbers) -> Group:
    """A group with a dead letter whose event the log has trimmed: there is only the copy."""
    group = await one_event(process, numbers)
    await reject(process, group)
    await process.publish(event(numbers.next()))
    await reject(process, group)
    await process.log.trim(None, 1, 1000)
    await process.store.remove(group, [await process.log.head()])
    return group


async def test_a_crash_while_a_dead_letter_is_replayed_and_done_loses_nothing(stores: Stores) -> None:
    numbers = Numbers()

    async def act(survivors: Survivors, group: Group) -> None:
        await survivors.doomed.dead_letters.replay(ADMIN, "workers", [])
        await survivors.consume(survivors.doomed, group, well=True)

    async def check(survivors: Survivors, group: Group) -> None:
        await survivors.finish(group, well=True)
        await survivors.after.dead_letters.replay(ADMIN, "workers", [])
        await survivors.finish(group, well=True)
        assert await letters(survivors.after) == []
        assert set(survivors.handled) == {f"e{numbers.last - 1}"}
        await at_rest(survivors.after)

    assert await crash_everywhere(stores, lambda p: dead_letter(p, numbers), act, check) > 15


async def test_a_crash_while_a_dead_letter_is_replayed_in_vain_loses_nothing(stores: Stores) -> None:
    numbers = Numbers()

    async def act(survivors: Survivors, group: Group) -> None:
        await survivors.doomed.dead_letters.replay(ADMIN, "workers", [])
        await survivors.consume(survivors.doomed, group, well=False)

    async def check(survivors: Survivors, group: Group) -> None:
        await survivors.finish(group, well=False)
        (letter,) = await letters(survivors.after)
        if letter.replaying or not letter.replays:
            await survivors.after.dead_letters.replay(ADMIN, "workers", [])
            await survivors.finish(group, well=False)
            (letter,) = await letters(survivors.after)
        assert not letter.replaying
        assert letter.attempts >= 2
        assert 1 <= letter.replays <= 2
        assert letter.event.event.data.decode() == letter.event.event.id == f"e{numbers.last - 1}"
        await at_rest(survivors.after)

    assert await crash_everywhere(stores, lambda p: dead_letter(p, numbers), act, check) > 15


async def test_a_crash_while_a_group_is_deleted_leaves_nothing_behind(stores: Stores) -> None:
    numbers = Numbers()

    async def act(survivors: Survivors, group: Group) -> None:
        await survivors.doomed.groups.delete(ADMIN, "workers")

    async def check(survivors: Survivors, group: Group) -> None:
        await survivors.after.groups.delete(ADMIN, "workers")
        assert await survivors.after.names(group) == []

    assert await crash_everywhere(stores, lambda p: dead_letter(p, numbers), act, check) >= 6


async def test_a_crash_while_copies_are_erased_is_made_good_by_the_next_call(stores: Stores) -> None:
    numbers = Numbers()

    async def arrange(process: Process) -> Group:
        group = await one_event(process, numbers)
        await process.publish(event(numbers.next(), space_uid=SPACE))
        await reject(process, group)
        return group

    async def erase(process: Process) -> None:
        await process.eraser.redact([(ACME, "test", f"e{numbers.last - 1}")])
        await process.eraser.erase_space(ACME, SPACE, "")

    async def act(survivors: Survivors, group: Group) -> None:
        await erase(survivors.doomed)

    async def check(survivors: Survivors, group: Group) -> None:
        await erase(survivors.after)
        (letter,) = await letters(survivors.after)
        assert (letter.event.event.id, letter.event.event.data) == (f"e{numbers.last - 1}", b"")

    assert await crash_everywhere(stores, arrange, act, check) >= 10


async def test_a_group_that_is_deleted_while_it_buries_keeps_no_dead_letters(stores: Stores) -> None:
    store = ErasesWhileItBuries(stores.database)
    process = await stores.process(store=store)
    group = await process.group()
    await process.publish(event("1"))

    async def delete() -> None:
        await process.groups.delete(ADMIN, "workers")

    store.erase = delete
    with pytest.raises(GroupNotFoundError):
        await reject(process, group)
    assert await process.names(group) == []


async def test_without_a_policy_nothing_is_shown(process: Process) -> None:
    await process.group()
    with pytest.raises(AccessDeniedError):
        await letters(process, READER)
