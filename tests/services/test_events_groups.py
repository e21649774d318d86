"""Consumer groups on real stores, with a clock that is moved by hand."""

from __future__ import annotations

import asyncio
import random
from collections import Counter, defaultdict
from contextlib import aclosing
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
    SECONDS,
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
from mnemo_events.domain.consumer import MAX_ANSWERS, Consumer
from mnemo_events.domain.feed import MAX_BATCH
from mnemo_events.domain.filter import Filter
from mnemo_events.domain.group import MAX_WAITING, Reason
from mnemo_events.domain.group_keeping import GroupSpec
from mnemo_events.domain.member import MAX_BYTES, Done, Extended, Failed
from mnemo_events.domain.retry_schedule import RetrySchedule
from mnemo_events.domain.start import EARLIEST, AfterPosition, AtTime, Latest
from mnemocore.errors import (
    AccessDeniedError,
    EventsTrimmedError,
    GroupExistsError,
    GroupNotFoundError,
    InvalidFieldError,
    QuotaExceededError,
    ShuttingDownError,
)
from mnemocore.testing.clock import ManualClock
from mnemocore.testing.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from tests.event_groups import Stores

    from mnemo_events.domain.event import Page
    from mnemo_events.domain.member import Member, Report
    from mnemo_events.domain.ports import EventLog
    from mnemocore.testing.postgres import TestPostgres
    from mnemocore.testing.redis import TestRedis


@pytest.fixture(params=["postgres", "redis"])
async def stores(
    request: pytest.FixtureRequest, postgres: TestPostgres, redis_server: TestRedis
) -> AsyncIterator[Stores]:
    async with event_groups.stores(request.param, postgres, redis_server) as opened:
        yield opened


@pytest.fixture
async def process(stores: Stores) -> Process:
    return await stores.process()


async def test_members_share_the_events_and_each_is_done_once(process: Process) -> None:
    group = await process.group()
    await process.publish(*(event(str(number)) for number in range(100)))
    async with process.members(group, 3) as members:
        given = [await deliveries(member, limit) for member, limit in zip(members, (30, 30, 100), strict=True)]
        assert [len(each) for each in given] == [30, 30, 4]
        given.append(await deliveries(members[2]))
        assert sorted(int(name) for each in given for name in ids(each)) == list(range(100))
        for member, each in zip((*members, members[2]), given, strict=True):
            answer = await member.settle([done(delivery) for delivery in each])
            assert answer.settled == tuple(delivery.tag for delivery in each)
            assert answer.lost == ()
        assert await take(members[0]) == []
    view = await process.groups.get(ADMIN, "workers")
    assert (view.standing.in_flight, view.standing.waiting, view.dead, view.lag) == (0, 0, 0, 0)


async def test_an_event_comes_whole_and_only_what_the_filter_wants(process: Process) -> None:
    group = await process.group(types=("order.*",), subjects=("shops/*",))
    wanted = event("1", "shops/a", correlation_id="work", causation_id="0", traceparent="00-a-b-01")
    others = event("2", "shops/a", tenant=OTHER), event("3", "shops/a", type="stock.low"), event("4", "shops/a/b")
    await process.publish(wanted, *others, event("5", "shops/b"))
    async with process.members(group) as (member,):
        first, second = await deliveries(member)
    assert (first.event.event, first.attempt, first.replayed) == (wanted, 1, False)
    assert first.lease_until == process.clock.now() + timedelta(seconds=60)
    assert second.event.event.id == "5"


async def test_what_fails_comes_back_after_2_4_8_and_16_seconds_and_is_dead_after_5_attempts(process: Process) -> None:
    group = await process.group()
    await process.publish(event("1", "orders/1"))
    async with process.members(group) as (member,):
        for attempt, seconds in enumerate((2, 4, 8, 16), start=1):
            (delivery,) = await deliveries(member)
            assert delivery.attempt == attempt
            assert (await member.settle([failed(delivery)])).settled == (delivery.tag,)
            await process.clock.advance(seconds - 0.6)
            assert await take(member) == []
            await process.clock.advance(1.2)
        (delivery,) = await deliveries(member)
        assert delivery.attempt == 5
        assert (await member.settle([failed(delivery, message="the end")])).settled == (5,)
        await process.clock.advance(1000)
        assert await take(member) == []
    (letter,) = await process.store.find(group, [1])
    assert (letter.reason, letter.message, letter.attempts) == (Reason.HANDLER_ERROR, "the end", 5)
    assert letter.event.event == event("1", "orders/1")


def test_delays_double_up_to_300_seconds_with_half_a_second_of_jitter() -> None:
    schedule = RetrySchedule(random.Random(7))
    delays = [[schedule.delay(attempt).total_seconds() for _ in range(100)] for attempt in (1, 2, 3, 8, 9, 10_000)]
    for expected, found in zip((2, 4, 8, 256, 300, 300), delays, strict=True):
        assert expected - 0.5 <= min(found) < expected < max(found) <= expected + 0.5


async def test_the_member_may_say_when_it_is_tried_again(process: Process) -> None:
    group = await process.group()
    await process.publish(event("1"))
    async with process.members(group) as (member,):
        (delivery,) = await deliveries(member)
        later = Failed(delivery.tag, Reason.UNAVAILABLE, "busy", timedelta(seconds=30))
        await member.settle([later])
        await process.clock.advance(29)
        assert await take(member) == []
        await process.clock.advance(1)
        assert await take(member) == ["1"]


@pytest.mark.parametrize("reason", [reason for reason in Reason if reason.permanent])
async def test_some_reasons_make_it_a_dead_letter_at_once(process: Process, reason: Reason) -> None:
    group = await process.group()
    await process.publish(event("1"))
    async with process.members(group) as (member,):
        (delivery,) = await deliveries(member)
        await member.settle([failed(delivery, reason)])
        await process.clock.advance(NEVER)
        assert await take(member) == []
    (letter,) = await process.store.find(group, [1])
    assert (letter.reason, letter.attempts) == (reason, 1)


async def test_a_waiting_member_wakes_when_a_retry_is_due(process: Process) -> None:
    group = await process.group()
    await process.publish(event("1"))
    async with process.members(group) as (member,):
        (delivery,) = await deliveries(member)
        await member.settle([failed(delivery)])
        waiting = asyncio.ensure_future(member.next(10, NEVER))
        await until(lambda: process.clock.sleepers == 1)
        await process.clock.advance(2.5)
        assert ids(await asyncio.wait_for(waiting, SECONDS)) == ["1"]


async def test_what_only_one_of_two_members_can_be_given_wakes_that_one_when_it_is_due(process: Process) -> None:
    group = await process.group()
    await process.publish(event("1", "a"), event("2", "a"))
    async with process.members(group, 2) as (member, other):
        _, second = await deliveries(member)
        await member.settle([failed(second)])
        waiting = asyncio.create_task(member.next(10, NEVER))
        assert await take(other) == []
        others = asyncio.create_task(other.next(10, NEVER))
        await process.clock.advance(3)
        assert ids(await asyncio.wait_for(waiting, SECONDS)) == ["2"]
        others.cancel()
        await asyncio.wait([others])


async def test_an_append_wakes_a_waiting_member(process: Process) -> None:
    group = await process.group()
    async with process.members(group) as (member,):
        waiting = asyncio.ensure_future(member.next(10, NEVER))
        await until(lambda: process.clock.sleepers == 1)
        await process.publish(event("1"))
        assert ids(await asyncio.wait_for(waiting, SECONDS)) == ["1"]


async def test_the_events_of_a_killed_process_are_taken_over_when_their_lease_is_over(stores: Stores) -> None:
    killed = await stores.process()
    group = await killed.group()
    await killed.publish(event("1", "a"), event("2", "a"), event("3", "b"))
    gone = killed.consumption.member(group)
    assert await take(await gone.__aenter__()) == ["1", "2", "3"]

    process = await stores.process(killed.clock)
    async with process.members(group) as (member,):
        waiting = asyncio.ensure_future(member.next(10, NEVER))
        await until(lambda: process.clock.sleepers == 1)
        await process.clock.advance(59)
        assert not waiting.done()
        await process.clock.advance(1)
        taken = await asyncio.wait_for(waiting, SECONDS)
        assert [(delivery.event.event.id, delivery.attempt) for delivery in taken][:1] == [("1", 2)]
        taken += await deliveries(member)
        assert ids(taken) == ["1", "2", "3"]
        assert (await member.settle([done(delivery) for delivery in taken])).lost == ()
    await gone.__aexit__(None, None, None)


async def test_what_a_member_leaves_is_given_to_others_at_once_as_another_attempt(process: Process) -> None:
    group = await process.group()
    await process.publish(event("1", "a"), event("2", "a"))
    async with process.members(group) as (stays,):
        async with process.members(group) as (leaves,):
            assert await take(leaves) == ["1", "2"]
            waiting = asyncio.ensure_future(stays.next(10, NEVER))
            await until(lambda: process.clock.sleepers == 1)
        taken = await asyncio.wait_for(waiting, SECONDS)
        assert [(delivery.event.event.id, delivery.attempt) for delivery in taken] == [("1", 2), ("2", 2)]


async def test_draining_ends_members_and_their_attempts_do_not_count(stores: Stores) -> None:
    stops = await stores.process()
    group = await stops.group()
    await stops.publish(event("1"))
    with pytest.raises(ShuttingDownError):
        async with stops.members(group) as (member,):
            assert await take(member) == ["1"]
            waiting = asyncio.ensure_future(member.next(10, NEVER))
            await until(lambda: stops.clock.sleepers == 1)
            stops.consumption.drain()
            await waiting
    with pytest.raises(ShuttingDownError):
        async with stops.members(group):
            pass
    await stops.consumption.stop()
    process = await stores.process(stops.clock)
    async with process.members(group) as (member,):
        assert [delivery.attempt for delivery in await deliveries(member)] == [1]


async def test_a_cancelled_member_gives_back_what_it_had(process: Process) -> None:
    group = await process.group()
    await process.publish(event("1"))
    taken = asyncio.Event()

    async def consume() -> None:
        async with process.members(group) as (member,):
            await take(member)
            taken.set()
            await member.next(10, NEVER)

    task = asyncio.create_task(consume())
    await taken.wait()
    task.cancel()
    await asyncio.wait((task,))
    await process.consumption.stop()
    assert (await process.groups.get(ADMIN, "workers")).standing.in_flight == 0


async def test_events_of_a_key_are_done_in_their_order(process: Process) -> None:
    group = await process.group()
    await process.publish(
        event("a1", "a"),
        event("a2", "a"),
        event("b1", "b"),
        event("s1", space_uid=SPACE, subject="x"),
        event("s2", space_uid=SPACE, subject="y"),
        event("n1"),
        event("n2"),
    )
    async with process.members(group, 2) as (one, other):
        (first,) = await deliveries(one, 1)
        rest = await deliveries(other)
        assert ids([first]) == ["a1"]
        assert ids(rest) == ["b1", "s1", "s2", "n1", "n2"]
        assert await take(other) == []
        await one.settle([done(first)])
        assert await take(other) == ["a2"]


async def test_a_poison_event_holds_up_its_key_alone_and_only_for_its_attempts(process: Process) -> None:
    group = await process.group(attempts=3)
    await process.publish(*(event(f"{key}{number}", key) for number in range(3) for key in "ab"))
    finished: list[str] = []
    async with process.members(group) as (member,):
        for _ in range(4):
            while taken := await deliveries(member, 1):
                (delivery,) = taken
                name = delivery.event.event.id
                poison = name == "a0"
                if not poison:
                    finished.append(name)
                await member.settle([failed(delivery) if poison else done(delivery)])
            if len(finished) == 3:
                assert finished == ["b0", "b1", "b2"]
            await process.clock.advance(10)
    assert finished == ["b0", "b1", "b2", "a1", "a2"]
    assert await process.names(group) == ["a0"]


async def test_later_events_of_a_key_are_taken_back_when_an_earlier_one_fails(process: Process) -> None:
    group = await process.group()
    await process.publish(event("1", "a"), event("2", "a"), event("3", "b"))
    async with process.members(group) as (member,):
        first, second, third = await deliveries(member)
        answer = await member.settle([failed(first), done(second), done(third)])
        assert (answer.settled, answer.lost) == ((1, 3), (2,))
        assert await take(member) == []
        await process.clock.advance(3)
        again = await deliveries(member)
        assert [(each.event.event.id, each.attempt) for each in again] == [("1", 2), ("2", 1)]


async def test_what_was_taken_back_before_it_was_handed_over_is_not_handed_over(process: Process) -> None:
    group = await process.group()
    big = b"x" * (MAX_BYTES - 1)
    await process.publish(event("1", "a"), event("2", "b", data=big[: 1 << 20]))
    await process.publish(*(event(str(number), "a", data=big[: 1 << 20]) for number in range(3, 8)))
    async with process.members(group) as (member,):
        given = await deliveries(member)
        assert len(given) < 7
        answer = await member.settle([failed(given[0])])
        assert set(answer.lost) == {each.tag for each in given[2:]}
        assert await take(member) == []


async def test_only_what_was_delivered_and_is_still_the_members_counts(process: Process) -> None:
    group = await process.group()
    await process.publish(event("1"), event("2"))
    async with process.members(group, 2) as (one, other):
        (delivery,) = await deliveries(one, 1)
        assert (await other.settle([Done(1)])).lost == (1,)
        assert (await one.settle([Done(2), Extended(77)])).lost == (2, 77)
        answer = await one.settle([failed(delivery, Reason.REJECTED), done(delivery)])
        assert (answer.settled, answer.lost) == ((1,), ())
        assert await take(other) == ["2"]
        assert (await one.settle([done(delivery)])).lost == (1,)
    assert await process.names(group) == []


async def test_what_is_delivered_again_loses_its_former_tag_with_what_comes_after_it(process: Process) -> None:
    group = await process.group(lease=10)
    await process.publish(event("1", "a"), event("2", "a"), event("3", "b"))
    async with process.members(group) as (member,):
        first, second, third = await deliveries(member)
        assert member.take_lost() == []
        await process.clock.advance(6)
        assert (await member.settle([Extended(second.tag), Extended(third.tag)])).lost == ()
        await process.clock.advance(5)
        (again,) = await deliveries(member, 1)
        assert (again.position, again.attempt, again.tag) == (first.position, 2, 4)
        assert sorted(member.take_lost()) == [first.tag, second.tag]
        answer = await member.settle([done(first), done(second), done(third)])
        assert (answer.settled, answer.lost) == ((third.tag,), (first.tag, second.tag))
        assert (await member.settle([done(again)])).settled == (again.tag,)
        assert await take(member) == ["2"]


async def test_what_was_taken_back_takes_no_room(stores: Stores) -> None:
    process = await stores.process(max_held=3)
    group = await process.group(lease=10)
    await process.publish(event("1", "a"), event("2", "a"), event("3", "b"), event("4", "c"))
    async with process.members(group) as (member,):
        (first,) = await deliveries(member, 1)
        await process.clock.advance(6)
        assert await take(member, 2) == ["2", "3"]
        await process.clock.advance(5)
        (again,) = await deliveries(member, 1)
        assert again.position == first.position
        assert await take(member) == ["2"]


async def test_with_what_another_has_by_now_is_lost_what_comes_after_it(process: Process) -> None:
    """Else a member would go on with it, before what it failed is done elsewhere."""
    group = await process.group(lease=10)
    await process.publish(event("1", "a"), event("2", "a"), event("3", "a"), event("4", "b"))
    async with process.members(group, 2) as (late, other):
        (first,) = await deliveries(late, 1)
        await process.clock.advance(6)
        second, third, fourth = await deliveries(late, 3)
        await process.clock.advance(5)
        assert await take(other, 1) == ["1"]
        answer = await late.settle([failed(first)])
        assert (answer.settled, answer.lost) == ((), (first.tag, second.tag, third.tag))
        assert (await late.settle([done(second), done(fourth)])).settled == (fourth.tag,)


async def test_what_was_lost_before_it_was_handed_over_is_not_handed_over(process: Process) -> None:
    group = await process.group(lease=10)
    await process.publish(*(event(str(number), "a", data=bytes(1 << 20)) for number in range(8)))
    async with process.members(group, 2) as (late, other):
        first, *rest = await deliveries(late)
        assert len(rest) < 7
        await process.clock.advance(11)
        assert (await take(other))[:1] == ["0"]
        assert (await late.settle([Extended(first.tag)])).lost == tuple(each.tag for each in (first, *rest))
        assert await take(late) == []


async def test_a_member_that_has_lost_an_event_buries_nothing(stores: Stores) -> None:
    slow = await stores.process()
    quick = await stores.process(slow.clock)
    group = await slow.group(lease=5)
    await slow.publish(event("1"))
    async with slow.members(group) as (late,), quick.members(group) as (member,):
        (delivery,) = await deliveries(late)
        await slow.clock.advance(6)
        (again,) = await deliveries(member)
        assert again.attempt == 2
        assert (await late.settle([failed(delivery, Reason.REJECTED)])).lost == (delivery.tag,)
        assert await slow.names(group) == []
        assert (await member.settle([done(again)])).settled == (again.tag,)


async def test_extending_begins_the_lease_anew(process: Process) -> None:
    group = await process.group(lease=10)
    await process.publish(event("1"))
    async with process.members(group, 2) as (one, other):
        (delivery,) = await deliveries(one)
        for _ in range(3):
            await process.clock.advance(8)
            assert (await one.settle([Extended(delivery.tag)])).settled == (1,)
            assert await take(other) == []
        await process.clock.advance(11)
        assert await take(other) == ["1"]
        assert (await one.settle([Extended(delivery.tag)])).lost == (1,)


async def test_an_event_that_is_kept_too_long_every_time_is_a_dead_letter(process: Process) -> None:
    group = await process.group(attempts=2, lease=5)
    await process.publish(event("1", "a"), event("2", "a"))
    async with process.members(group) as (member,):
        for attempt in (1, 2):
            assert [(each.event.event.id, each.attempt) for each in await deliveries(member, 1)] == [("1", attempt)]
            await process.clock.advance(6)
        assert await take(member) == ["2"]
    (letter,) = await process.store.find(group, [1])
    assert (letter.reason, letter.attempts) == (Reason.LEASE_EXPIRED, 2)


async def test_no_more_than_the_limit_and_no_more_than_a_batch(process: Process) -> None:
    group = await process.group()
    for start in range(0, 1500, 500):
        await process.publish(*(event(str(number)) for number in range(start, start + 500)))
    async with process.members(group) as (member,):
        assert len(await deliveries(member, 7)) == 7
        found = 7
        while taken := await deliveries(member, 10_000):
            assert len(taken) <= MAX_BATCH
            found += len(taken)
        assert found == 1500


async def test_a_batch_is_bounded_in_bytes_whether_it_was_read_ahead_or_waited(process: Process) -> None:
    group = await process.group()
    for number in range(12):
        await process.publish(event(str(number), data=bytes(1 << 20)))
    async with process.members(group) as (member,):
        for attempt in (1, 2):
            names: list[str] = []
            while len(names) < 12:
                taken = await deliveries(member)
                assert 1 <= len(taken) <= 5
                assert {each.attempt for each in taken} == {attempt}
                names += ids(taken)
                await member.settle([failed(each) for each in taken])
            assert names == [str(number) for number in range(12)]
            await process.clock.advance(3)


async def test_a_member_that_settles_nothing_gets_no_more_than_its_bound(stores: Stores) -> None:
    process = await stores.process(max_held=20)
    group = await process.group()
    await process.publish(*(event(str(number)) for number in range(50)))
    async with process.members(group, 2) as (member, other):
        found = [each for _ in range(5) for each in await deliveries(member, 15)]
        assert len(found) == 20
        await member.settle([done(found[0])])
        assert len(await deliveries(member, 15)) == 1
        assert len(await deliveries(other, 15)) == 15


async def test_a_group_that_is_full_waits_until_there_is_room(process: Process) -> None:
    group = await process.group()
    for start in range(0, MAX_WAITING + 1500, 500):
        await process.publish(*(event(str(number), "a") for number in range(start, start + 500)))
    await process.publish(event("other", "b"))
    async with process.members(group, 2) as (one, other):
        (first,) = await deliveries(one, 1)
        assert await take(other) == []
        standing = (await process.groups.get(ADMIN, "workers")).standing
        assert MAX_WAITING <= standing.waiting < MAX_WAITING + MAX_BATCH
        assert standing.position == standing.waiting + 1
        await one.settle([done(first)])
        number = 0
        while taken := await deliveries(other):
            number += len(taken)
            await other.settle([done(each) for each in taken])
        assert number == MAX_WAITING + 1500


async def test_a_slow_member_slows_only_itself(process: Process) -> None:
    group, other_group = await process.group(), await process.group("others")
    await process.publish(*(event(str(number)) for number in range(20)))
    async with process.members(group, 2) as (slow, quick), process.members(other_group) as (other,):
        kept = await deliveries(slow, 5)
        taken = [each for _ in range(3) for each in await deliveries(quick)]
        assert len(taken) == 15
        await quick.settle([done(each) for each in taken])
        assert len(await deliveries(other)) == 20
        await process.publish(event("new"))
        assert await take(quick) == ["new"]
        assert (await slow.settle([done(each) for each in kept])).lost == ()


async def test_two_processes_share_a_group(stores: Stores) -> None:
    one = await stores.process()
    other = await stores.process(one.clock)
    group = await one.group()
    await one.publish(*(event(f"{key}{number}", f"keys/{key}") for number in range(20) for key in range(5)))
    done_in: dict[str, list[int]] = defaultdict(list)
    listening = [
        asyncio.create_task(each.engine.listen(lambda _: None, each.consumption.changed_elsewhere))
        for each in (one, other)
    ]

    async def work(member: Member) -> None:
        while sum(map(len, done_in.values())) < 100:
            taken = await asyncio.wait_for(member.next(4, 0), SECONDS)
            for delivery in taken:
                done_in[delivery.event.event.subject].append(delivery.position)
            if taken:
                assert (await member.settle([done(each) for each in taken])).lost == ()

    async with one.members(group, 2) as first, other.members(group, 2) as second:
        async with asyncio.timeout(60):
            await asyncio.gather(*map(work, (*first, *second)))
    for task in listening:
        task.cancel()
    await asyncio.wait(listening)
    assert all(positions == sorted(positions) for positions in done_in.values())
    assert Counter(map(len, done_in.values())) == {20: 5}


async def test_a_member_elsewhere_is_woken_when_something_is_due(stores: Stores) -> None:
    one = await stores.process()
    other = await stores.process(one.clock)
    group = await one.group()
    await one.publish(event("1", "a"), event("2", "a"))
    listening = asyncio.create_task(other.engine.listen(lambda _: None, other.consumption.changed_elsewhere))
    async with one.members(group) as (first,), other.members(group) as (second,):
        (delivery,) = await deliveries(first, 1)
        waiting = asyncio.ensure_future(second.next(10, NEVER))
        await until(lambda: one.clock.sleepers == 1)
        await first.settle([done(delivery)])
        assert ids(await asyncio.wait_for(waiting, SECONDS)) == ["2"]
    listening.cancel()
    await asyncio.wait((listening,))


async def test_members_of_a_deleted_group_are_told(process: Process) -> None:
    group = await process.group()
    await process.publish(event("1"))
    async with process.members(group) as (member,):
        (delivery,) = await deliveries(member)
        waiting = asyncio.ensure_future(member.next(10, NEVER))
        await until(lambda: process.clock.sleepers == 1)
        assert await process.groups.delete(ADMIN, "workers")
        with pytest.raises(GroupNotFoundError):
            await asyncio.wait_for(waiting, SECONDS)
        with pytest.raises(GroupNotFoundError):
            await member.settle([done(delivery)])
    assert not await process.groups.delete(ADMIN, "workers")


async def test_members_elsewhere_of_a_deleted_group_are_told_when_they_look_again(stores: Stores) -> None:
    one, other = await stores.process(), await stores.process()
    group = await one.group()
    async with other.members(group) as (member,):
        waiting = asyncio.ensure_future(member.next(10, NEVER))
        await until(lambda: other.clock.sleepers == 1)
        await one.groups.delete(ADMIN, "workers")
        await one.group()
        other.consumption.look_again()
        with pytest.raises(GroupNotFoundError):
            await asyncio.wait_for(waiting, SECONDS)


async def test_a_group_of_an_old_name_begins_anew(process: Process) -> None:
    group = await process.group()
    await process.publish(event("1"))
    async with process.members(group) as (member,):
        (delivery,) = await deliveries(member)
        await member.settle([failed(delivery, Reason.REJECTED)])
    assert await process.names(group) == ["1"]
    await process.groups.delete(ADMIN, "workers")
    assert await process.names(group) == []
    again = await process.group()
    assert again.uid != group.uid
    async with process.members(again) as (member,):
        assert await take(member) == ["1"]


async def test_a_policy_that_is_withdrawn_ends_its_readers(process: Process) -> None:
    policy = Policy(ACME, "p", "reader", (Action.SUBSCRIBE,), ("order.**",), (), process.clock.now())
    await process.policies.create(policy, 10)
    group = await process.group(types=("order.placed",))
    await process.publish(event("1"))

    async def allowed() -> None:
        await process.access.check(READER, Action.SUBSCRIBE, group.where.types, group.where.subjects, "ConsumeEvents")

    with pytest.raises(AccessDeniedError):
        async with process.members(group, allowed=allowed) as (member,):
            assert await take(member) == ["1"]
            waiting = asyncio.ensure_future(member.next(10, NEVER))
            await until(lambda: process.clock.sleepers == 1)
            await process.policies.delete(ACME, "p")
            process.access.forget(ACME)
            await process.publish(event("2"))
            await asyncio.wait_for(waiting, SECONDS)
    assert (await process.groups.get(ADMIN, "workers")).standing.in_flight == 0


async def test_events_that_were_erased_are_passed_over(process: Process) -> None:
    group = await process.group()
    await process.publish(*(event(str(number), space_uid=SPACE) for number in range(5)), event("other"))
    async with process.members(group) as (member,):
        first, *rest = await deliveries(member, 5)
        await member.settle([failed(each) for each in reversed((first, *rest))])
        await process.eraser.erase_space(ACME, SPACE, "")
        await process.clock.advance(10)
        assert await take(member) == ["other"]
    standing = (await process.groups.get(ADMIN, "workers")).standing
    assert (standing.in_flight, standing.waiting) == (0, 1)


async def test_what_was_read_ahead_is_not_given_when_it_is_erased_meanwhile(process: Process) -> None:
    group = await process.group()
    await process.publish(*(event(str(number), space_uid=SPACE, data=b"secret") for number in range(5)))
    async with process.members(group) as (member,):
        assert await take(member, 1) == ["0"]
        await process.eraser.redact([("acme", "test", "1")])
        (second,) = await deliveries(member, 1)
        assert (second.event.event.id, second.event.event.data) == ("1", b"")
        await process.log.remove(ACME, SPACE, "", 100)
        await process.clock.advance(6)
        assert await take(member) == []


async def test_what_is_left_of_a_batch_is_not_given_when_it_is_erased_meanwhile(process: Process) -> None:
    """Nor with a lease that was over before it was given."""
    group = await process.group(lease=10)
    await process.publish(*(event(str(number), data=bytes(3 << 20)) for number in range(4)))
    async with process.members(group) as (member,):
        await member.settle([failed(each) for each in await deliveries(member)])
        await process.clock.advance(3)
        assert await take(member) == ["0", "1"]
        await process.eraser.redact([("acme", "test", "2")])
        await process.clock.advance(9)
        third, fourth = await deliveries(member)
        assert (third.event.event.id, third.event.event.data) == ("2", b"")
        assert fourth.lease_until == third.lease_until == process.clock.now() + group.lease
        assert third.attempt == fourth.attempt == 1


async def test_what_was_left_of_a_batch_for_too_long_may_be_another_members(process: Process) -> None:
    group = await process.group(lease=10)
    await process.publish(*(event(str(number), data=bytes(3 << 20)) for number in range(4)))
    async with process.members(group, 2) as (member, other):
        await member.settle([failed(each) for each in await deliveries(member)])
        await process.clock.advance(3)
        assert await take(member) == ["0", "1"]
        await process.clock.advance(11)
        assert await take(other) == ["0", "1"]
        assert await take(other) == ["2", "3"]
        assert await take(member) == []


async def test_what_is_extended_stays_a_members_when_it_has_as_much_as_it_may(stores: Stores) -> None:
    process = await stores.process(max_held=2)
    group = await process.group()
    await process.publish(*(event(str(number)) for number in range(3)))
    async with process.members(group) as (member,):
        found = await deliveries(member)
        assert len(found) == 2
        await process.clock.advance(50)
        tags = tuple(each.tag for each in found)
        assert (await member.settle([Extended(tag) for tag in tags])).settled == tags
        await process.clock.advance(20)
        assert await take(member) == []
        assert (await member.settle([done(each) for each in found])).settled == tags


class _ForgetfulLog:
    """A log of which something is erased whenever it is read."""

    def __init__(self, log: EventLog) -> None:
        self._log = log
        self.erased: Callable[[], None] = lambda: None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)

    async def read(self, after: int, where: Filter, limit: int) -> Page:
        page = await self._log.read(after, where, limit)
        self.erased()
        return page


async def test_erasing_while_a_member_reads_ahead_disturbs_nobody(stores: Stores) -> None:
    engine = await stores.engine()
    log = _ForgetfulLog(engine.log)
    engine.log = log  # type: ignore[misc]
    process = Process(stores.database, engine, ManualClock())
    group = await process.group()
    await process.publish(event("1"), event("2"))
    async with process.members(group) as (member,):
        calls = iter([process.consumption.erased] * 2)
        log.erased = lambda: next(calls, lambda: None)()
        assert await take(member) == ["1", "2"]


async def test_a_member_that_is_cancelled_by_a_drain_loses_no_attempt(stores: Stores) -> None:
    process, other = await stores.process(), await stores.process()
    group = await process.group()
    await process.publish(event("1"))
    taken = asyncio.Event()

    async def consume() -> None:
        async with process.members(group) as (member,):
            assert await take(member) == ["1"]
            taken.set()
            await asyncio.Event().wait()

    consuming = asyncio.create_task(consume())
    await taken.wait()
    process.consumption.drain()
    consuming.cancel()
    await asyncio.wait([consuming])
    await process.consumption.stop()
    async with other.members(group) as (member,):
        assert [each.attempt for each in await deliveries(member)] == [1]


async def test_only_members_of_the_group_are_woken_when_something_is_due_elsewhere(stores: Stores) -> None:
    one, other = await stores.process(), await stores.process()
    groups = [await one.group(name) for name in ("a", "b")]
    heard: list[str | None] = []
    listening = asyncio.create_task(other.engine.listen(lambda _: None, heard.append))
    await until(lambda: heard == [None])
    await one.publish(event("1"))
    async with one.members(groups[0]) as (member,):
        await member.settle([failed(each) for each in await deliveries(member)])
    await until(lambda: groups[0].uid in heard)
    assert set(heard) == {None, groups[0].uid}
    listening.cancel()
    await asyncio.wait([listening])


async def test_idle_members_leave_the_group_at_the_head(process: Process) -> None:
    group = await process.group(types=("order.never",))
    await process.publish(*(event(str(number)) for number in range(10)))
    async with process.members(group) as (member,):
        assert await take(member) == []
        assert (member.known_lag, await member.lag()) == (0, 0)
        process.consumption.look_again()
        assert await take(member) == []
    assert (await process.groups.get(ADMIN, "workers")).standing.position == 10


@pytest.mark.parametrize("seed", range(5))
async def test_whatever_members_do_every_event_is_done_or_dead_and_in_order(stores: Stores, seed: int) -> None:
    random_ = random.Random(seed)
    processes = [await stores.process()]
    clock = processes[0].clock
    processes.append(await stores.process(clock))
    group = await processes[0].group(attempts=3, lease=3600)
    keys = ("", "a", "b", "c")
    names = [f"{number}" for number in range(80)]
    await processes[0].publish(*(event(name, random_.choice(keys)) for name in names))
    history: list[tuple[str, int]] = []
    ended: set[int] = set()

    async def work_for_a_while(member: Member) -> None:
        """Of a key only what nothing earlier is left of that the member has not done."""
        left: dict[str, set[int]] = defaultdict(set)
        positions: dict[int, int] = {}
        for _ in range(random_.randint(1, 5)):
            reports: list[Report] = []
            for each in await deliveries(member, random_.randint(1, 8)):
                positions[each.tag] = each.position
                key, fate = each.event.event.ordering_key, random_.choices("DFRN", (6, 2, 1, 1))[0]
                left[key].discard(each.position)
                is_first = not key or each.position < min(left[key], default=each.position + 1)
                if not is_first or fate in "FN":
                    left[key].add(each.position)
                if is_first and fate == "D":
                    history.append((key, each.position))
                    reports.append(done(each))
                elif is_first and fate in "FR":
                    reports.append(failed(each, Reason.REJECTED if fate == "R" else Reason.HANDLER_ERROR))
            if reports:
                settled = (await member.settle(reports)).settled
                ended.update(
                    positions[report.tag] for report in reports if isinstance(report, Done) and report.tag in settled
                )
            await clock.advance(random_.uniform(0, 4))

    async def be_a_member(process: Process) -> None:
        async with process.members(group) as (member,):
            await work_for_a_while(member)

    async with asyncio.timeout(100):
        while True:
            await asyncio.gather(*(be_a_member(random_.choice(processes)) for _ in range(3)))
            standing = (await processes[0].groups.get(ADMIN, "workers")).standing
            if standing.position == len(names) and not standing.in_flight and not standing.waiting:
                break
    dead = {letter.event.position for letter in await processes[0].store.list_after(group, 0, None, 1000)}
    assert ended | dead == set(range(1, len(names) + 1))
    assert ended & dead == set()
    for key in keys[1:]:
        positions = [position for each, position in history if each == key and position in ended]
        assert positions == sorted(positions)


async def test_a_consumer_gets_as_many_events_as_it_gives_credit(process: Process) -> None:
    group = await process.group()
    await process.publish(*(event(str(number)) for number in range(10)))
    async with process.members(group) as (member,):
        consumer = Consumer(member, process.clock, 3)
        async with aclosing(consumer.messages()) as messages:
            first = await asyncio.wait_for(anext(messages), SECONDS)
            assert ids(first.deliveries) == ["0", "1", "2"]
            waiting = asyncio.ensure_future(anext(messages))
            await until(lambda: process.clock.sleepers == 1)
            consumer.give_credit(2)
            assert ids((await asyncio.wait_for(waiting, SECONDS)).deliveries) == ["3", "4"]
            await consumer.settle([done(first.deliveries[0])])
            await consumer.settle([done(first.deliveries[0])])
            answer = await asyncio.wait_for(anext(messages), SECONDS)
            assert (answer.deliveries, answer.settled, answer.lost, answer.lag) == ((), (1,), (1,), 5)


async def test_an_idle_consumer_hears_from_the_service_every_15_seconds(process: Process) -> None:
    group = await process.group()
    await process.publish(event("1"))
    async with (
        process.members(group) as (member,),
        aclosing(Consumer(member, process.clock, 0).messages()) as messages,
    ):
        for _ in range(2):
            waiting = asyncio.ensure_future(anext(messages))
            await until(lambda: process.clock.sleepers == 1)
            await process.clock.advance(14.9)
            assert not waiting.done()
            await process.clock.advance(0.1)
            message = await asyncio.wait_for(waiting, SECONDS)
            assert (message.deliveries, message.settled, message.lost, message.lag) == ((), (), (), 1)


async def test_a_consumer_that_does_not_read_its_answers_is_not_heard(process: Process) -> None:
    group = await process.group()
    await process.publish(event("1"))
    async with process.members(group) as (member,):
        consumer = Consumer(member, process.clock, 1)
        async with aclosing(consumer.messages()) as messages:
            (delivery,) = (await asyncio.wait_for(anext(messages), SECONDS)).deliveries
            for _ in range(MAX_ANSWERS):
                await consumer.settle([done(delivery)])
            blocked = asyncio.ensure_future(consumer.settle([done(delivery)]))
            message = await asyncio.wait_for(anext(messages), SECONDS)
            assert (message.settled, len(message.lost)) == ((1,), MAX_ANSWERS - 1)
            await asyncio.wait_for(blocked, SECONDS)


async def test_a_consumer_hears_what_was_lost_before_it_is_delivered_again(process: Process) -> None:
    group = await process.group(lease=10)
    await process.publish(event("1", "a"), event("2", "a"))
    async with process.members(group) as (member,):
        consumer = Consumer(member, process.clock, 4)
        async with aclosing(consumer.messages()) as messages:
            assert ids((await asyncio.wait_for(anext(messages), SECONDS)).deliveries) == ["1", "2"]
            await process.clock.advance(11)
            message = await asyncio.wait_for(anext(messages), SECONDS)
            assert (message.deliveries, sorted(message.lost)) == ((), [1, 2])
            message = await asyncio.wait_for(anext(messages), SECONDS)
            assert ([each.tag for each in message.deliveries], message.lost) == ([3, 4], ())
            await process.groups.seek(ADMIN, "workers", Latest())
            assert sorted((await asyncio.wait_for(anext(messages), SECONDS)).lost) == [3, 4]


async def test_a_consumer_that_says_it_ends_gets_its_answers_first(process: Process) -> None:
    group = await process.group()
    await process.publish(event("1"))
    async with process.members(group) as (member,):
        consumer = Consumer(member, process.clock, 1)
        async with aclosing(consumer.messages()) as messages:
            (delivery,) = (await asyncio.wait_for(anext(messages), SECONDS)).deliveries
            await consumer.settle([done(delivery)])
            consumer.end()
            assert (await asyncio.wait_for(anext(messages), SECONDS)).settled == (1,)
            with pytest.raises(StopAsyncIteration):
                await asyncio.wait_for(anext(messages), SECONDS)


async def test_the_same_group_again_changes_nothing_and_another_is_refused(process: Process) -> None:
    first = await process.group(types=("a.b", "c.d"))
    await process.publish(event("1"))
    assert await process.group(types=("c.d", "a.b")) == first
    for spec in (
        GroupSpec(Filter(("a.b",), tenant=ACME)),
        GroupSpec(first.where, 4),
        GroupSpec(first.where, 5, timedelta(seconds=61)),
    ):
        with pytest.raises(GroupExistsError):
            await process.groups.create(ADMIN, "workers", spec, None)


async def test_where_a_group_begins(process: Process) -> None:
    times = []
    for name in "1234":
        times.append(process.clock.now())
        await process.publish(event(name))
        await process.clock.advance(10)
    spec = GroupSpec(Filter(tenant=ACME))
    for number, (start, expected) in enumerate(
        (
            (None, 4),
            (Latest(), 4),
            (EARLIEST, 0),
            (AfterPosition(3), 3),
            (AfterPosition(4), 4),
            (AtTime(times[2]), 2),
            (AtTime(times[2] + timedelta(seconds=1)), 3),
            (AtTime(times[0] - timedelta(days=1)), 0),
            (AtTime(times[3] + timedelta(days=1)), 4),
        )
    ):
        view = await process.groups.create(ADMIN, f"group-{number}", spec, start)
        assert (view.standing.position, view.lag) == (expected, 4 - expected), start
    with pytest.raises(InvalidFieldError, match=r"start_at.after_position: 5 lies beyond the head .* up to 4"):
        await process.groups.create(ADMIN, "beyond", spec, AfterPosition(5))
    await process.log.trim(None, 1, 100)
    with pytest.raises(EventsTrimmedError):
        await process.groups.create(ADMIN, "trimmed", spec, AfterPosition(2))
    assert (await process.groups.create(ADMIN, "rest", spec, EARLIEST)).standing.position == 0
    assert (await process.groups.create(ADMIN, "edge", spec, AfterPosition(3))).standing.position == 3
    of_a_space = GroupSpec(Filter(tenant=ACME, space_uid=SPACE))
    assert (await process.groups.create(ADMIN, "space", of_a_space, AfterPosition(1))).standing.position == 1


async def test_seeking_lets_go_of_everything_and_goes_on_there(process: Process) -> None:
    group = await process.group()
    await process.publish(*(event(str(number)) for number in range(1, 7)))
    async with process.members(group) as (member,):
        first, *rest = await deliveries(member, 4)
        await member.settle([failed(first), failed(rest[0], Reason.REJECTED)])
        view = await process.groups.seek(ADMIN, "workers", AfterPosition(3))
        assert (view.standing.position, view.standing.in_flight, view.standing.waiting, view.dead) == (3, 0, 0, 1)
        assert await take(member) == ["4", "5", "6"]
        assert (await member.settle([done(rest[1])])).lost == (rest[1].tag,)
        await process.groups.seek(ADMIN, "workers", EARLIEST)
        assert await take(member) == ["1", "2", "3", "4", "5", "6"]
        await process.groups.seek(ADMIN, "workers", Latest())
        assert await take(member) == []


async def test_names_that_are_reserved_are_not_for_clients(process: Process) -> None:
    spec = GroupSpec(Filter(tenant=ACME))
    group = await process.groups.create_internal(ACME, "webhook-a", spec, "owner")
    assert await process.groups.create_internal(ACME, "webhook-a", spec, "owner") == group
    with pytest.raises(GroupExistsError):
        await process.groups.create_internal(ACME, "webhook-a", GroupSpec(Filter(("a.b",), tenant=ACME)), "owner")
    with pytest.raises(InvalidFieldError, match="group_id: 'webhook-b' begins with 'webhook-'"):
        await process.groups.create(ADMIN, "webhook-b", spec, None)
    for attempt in (process.groups.delete, process.groups.open):
        with pytest.raises(InvalidFieldError, match="reserved"):
            await attempt(ADMIN, "webhook-a")
    assert (await process.groups.get(ADMIN, "webhook-a")).group == group
    views, token = await process.groups.list_page(ADMIN, 0, "")
    assert ([view.group for view in views], token) == ([group], "")
    assert [await process.groups.delete_internal(ACME, "webhook-a") for _ in range(2)] == [True, False]


async def test_a_tenant_has_so_many_groups_and_no_more(stores: Stores) -> None:
    process = await stores.process(max_groups=3)
    spec = GroupSpec(Filter(tenant=ACME))
    await process.groups.create_internal(ACME, "webhook-a", spec, "owner")
    for number in range(3):
        await process.groups.create(ADMIN, f"group-{number}", spec, None)
    with pytest.raises(QuotaExceededError):
        await process.groups.create(ADMIN, "group-3", spec, None)
    assert (await process.groups.create(ADMIN, "group-0", spec, None)).group.id == "group-0"


@pytest.mark.parametrize("seconds", [0.0, 0.999, 3600.001])
async def test_a_lease_has_bounds(process: Process, seconds: float) -> None:
    with pytest.raises(InvalidFieldError, match=r"group\.lease"):
        await process.group(lease=seconds)


async def test_making_moving_and_deleting_takes_the_right_to_read(process: Process) -> None:
    group = await process.group(types=("order.placed",))
    for attempt in (
        process.groups.create(READER, "mine", GroupSpec(group.where), None),
        process.groups.seek(READER, "workers", EARLIEST),
        process.groups.delete(READER, "workers"),
    ):
        with pytest.raises(AccessDeniedError):
            await attempt
    await process.policies.create(
        Policy(ACME, "p", "*", (Action.SUBSCRIBE,), ("order.*",), (), process.clock.now()), 10
    )
    process.access.forget(ACME)
    assert (await process.groups.create(READER, "mine", GroupSpec(group.where), None)).group.owner == "reader"
    assert await process.groups.delete(READER, "mine")
