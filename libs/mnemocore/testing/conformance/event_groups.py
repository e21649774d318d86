"""What every engine of consumer groups promises.

A test class inherits `EventGroupsConformance` and implements `open_groups`, `group`, `fresh` and `outcome`.
`open_groups` is asked several times: all it returns look at the same store, as replicas do. Groups know positions and
keys of events, not the events; so the suite makes them up and no log is needed.
"""

from __future__ import annotations

import asyncio
import os
import random
from abc import ABC, abstractmethod
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, Protocol

import pytest

from mnemocore.errors import GroupNotFoundError
from mnemocore.testing.conformance.event_groups_model import GroupModel

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from mnemocore.testing.conformance.event_groups_model import Said

STRESS: Final = int(os.environ.get("MNEMO_STRESS", "1"))
"""How many times the rounds with many members are run."""
START: Final = datetime(2026, 2, 3, 4, 5, 6, 789000, tzinfo=UTC)
LEASE: Final = 60.0
"""Seconds of every lease that a case does not choose."""


def at(seconds: float) -> datetime:
    """A time of the suite."""
    return START + timedelta(seconds=seconds)


class Given(Protocol):
    """An event that a member was given."""

    position: int
    attempt: int
    lease_until: datetime
    replayed: bool


class Groups(Protocol):
    """The port."""

    async def create(self, group: Any, position: int) -> Any:
        """Make a group."""

    async def find(self, tenant: Any, group_id: str) -> Any:
        """A group by its name."""

    async def list_groups(self, tenant: Any, after_id: str, limit: int) -> list[Any]:
        """Groups by id."""

    async def refilter(self, group: Any, where: Any) -> Any:
        """Give a group another filter."""

    async def delete(self, group: Any) -> bool:
        """Delete a group."""

    async def standing(self, group: Any) -> Any:
        """How a group stands."""

    async def seek(self, group: Any, position: int) -> None:
        """Go on from another place."""

    async def claim(self, group: Any, member: str, limit: int, now: datetime, lease_until: datetime, fresh: Any) -> Any:
        """Give events to a member."""

    async def settle(
        self, group: Any, member: str, outcomes: Sequence[Any], now: datetime, lease_until: datetime
    ) -> Any:
        """Take the word of a member."""

    async def release(self, group: Any, member: str, *, counted: bool) -> int:
        """Let go of what a member has."""

    async def revive(self, group: Any, positions: Sequence[int], now: datetime) -> list[int]:
        """Take dead letters in again."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What the suite chooses of a group; the rest is the engine test's choice."""

    id: str = "workers"
    tenant: str = "acme"
    owner: str = "alice"
    types: tuple[str, ...] = ("memory.*",)
    subjects: tuple[str, ...] = ()
    space_uid: str = ""
    max_attempts: int = 5


class EventGroupsConformance(ABC):
    """The suite. Every case starts with an empty store."""

    max_waiting: int
    """The engine's MAX_WAITING."""

    @abstractmethod
    async def open_groups(self) -> Groups:
        """A view of the groups of this case."""

    @abstractmethod
    def group(self, sample: Sample) -> Any:
        """A group of the engine's domain with the sample's attributes, as it is before it is created."""

    @abstractmethod
    def fresh(self, after: int, upto: int, events: tuple[tuple[int, str], ...]) -> Any:
        """Fresh events for a claim."""

    @abstractmethod
    def outcome(self, position: int, attempt: int, *, done: bool, retry_at: datetime | None) -> Any:
        """What a member says of an event."""

    async def begin(self, position: int = 0, sample: Sample | None = None) -> tuple[Groups, Any]:
        """An engine and a group on it."""
        groups = await self.open_groups()
        return groups, await groups.create(self.group(sample or Sample()), position)

    async def claim(
        self, groups: Groups, group: Any, member: str = "a", limit: int = 100, now: float = 0, fresh: Any = None
    ) -> list[tuple[int, int]]:
        """Positions and attempts a member is given at `now`, leased for LEASE seconds."""
        claim = await groups.claim(group, member, limit, at(now), at(now + LEASE), fresh)
        assert len(claim.claimed) <= limit
        assert {given.lease_until for given in claim.claimed} <= {at(now + LEASE)}
        return [(given.position, given.attempt) for given in claim.claimed]

    def keyed(self, keys: str, after: int = 0) -> Any:
        """Fresh events after a position, one for each letter: its key; "-" stands for no key, " " for no event."""
        events = [(after + n, "" if key == "-" else key) for n, key in enumerate(keys, 1) if key != " "]
        return self.fresh(after, after + len(keys), tuple(events))

    def done(self, *given: tuple[int, int]) -> list[Any]:
        """Outcomes of events that are done."""
        return [self.outcome(position, attempt, done=True, retry_at=None) for position, attempt in given]

    def failed(self, position: int, attempt: int, retry_at: float) -> Any:
        """The outcome of an event that failed."""
        return self.outcome(position, attempt, done=False, retry_at=at(retry_at))

    def extended(self, *given: tuple[int, int]) -> list[Any]:
        """Outcomes of events that take longer."""
        return [self.outcome(position, attempt, done=False, retry_at=None) for position, attempt in given]

    async def settle(
        self, groups: Groups, group: Any, member: str, outcomes: Sequence[Any], now: float = 1
    ) -> tuple[list[int], list[int]]:
        """The positions whose outcomes counted, and those that were lost."""
        settled = await groups.settle(group, member, outcomes, at(now), at(now + LEASE))
        return list(settled.settled), list(settled.lost)

    async def stands(self, groups: Groups, group: Any) -> tuple[int, int, int]:
        """Position, in flight and waiting."""
        standing = await groups.standing(group)
        return standing.position, standing.in_flight, standing.waiting

    async def next_due(self, groups: Groups, group: Any, member: str, now: float, limit: int = 100) -> Any:
        """When `member`, which is given nothing at `now`, can be given something."""
        claim = await groups.claim(group, member, limit, at(now), at(now + LEASE), None)
        assert claim.claimed == ()
        return claim.next_due

    async def test_a_group_comes_back_as_it_was_made(self) -> None:
        """With a uid of its own, also with unusual attributes; the other things are as they were said."""
        groups = await self.open_groups()
        samples = [
            Sample("plain", types=()),
            Sample(
                "every.thing_-1",
                owner="'; DROP TABLE events.groups; -- \u00fc\u4f60\U0001f600",
                types=("memory.*", "session.**"),
                subjects=("spaces/\u00fc/*", "agents/**", "a'b\"c\\d"),
                space_uid="018f0000-0000-7000-8000-00000000000a",
                max_attempts=100,
            ),
        ]
        for sample in samples:
            wanted = self.group(sample)
            made = await groups.create(wanted, 7)
            assert made.uid
            for name in ("tenant", "id", "where", "max_attempts", "lease", "owner", "created_at"):
                assert getattr(made, name) == getattr(wanted, name)
            assert await groups.find(made.tenant, made.id) == made
            assert await self.stands(groups, made) == (7, 0, 0)

    async def test_creating_again_changes_nothing(self) -> None:
        """The first stays as it is, with what it holds; also when many create at once."""
        groups, group = await self.begin()
        await self.claim(groups, group, fresh=self.keyed("x"))
        other = await self.open_groups()
        assert await other.create(self.group(Sample(owner="mallory", max_attempts=1)), 50) == group
        assert await self.stands(groups, group) == (1, 1, 0)
        made = await asyncio.gather(
            *(each.create(self.group(Sample("new", owner=str(n))), n) for n in range(5) for each in (groups, other))
        )
        assert all(each == made[0] for each in made)
        assert await groups.find("acme", "new") == made[0]

    async def test_finding_and_listing(self) -> None:
        """By id, page by page, of one tenant; what is not there is not found."""
        groups = await self.open_groups()
        ids = ["a", "b-1", "b.1", "b1", "b_1", "ba", "c"]
        made = {id: await groups.create(self.group(Sample(id)), 0) for id in reversed(ids)}
        theirs = await groups.create(self.group(Sample("b", tenant="other")), 0)
        assert await groups.list_groups("acme", "", 100) == [made[id] for id in ids]
        assert await groups.list_groups("acme", "", 3) == [made[id] for id in ids[:3]]
        assert await groups.list_groups("acme", "b.1", 3) == [made[id] for id in ids[3:6]]
        assert await groups.list_groups("acme", "b2", 3) == [made[id] for id in ids[4:]]
        assert await groups.list_groups("acme", "c", 3) == []
        assert await groups.list_groups("other", "", 3) == [theirs]
        assert await groups.list_groups("nobody", "", 3) == []
        assert await groups.find("acme", "b") is None
        assert await groups.find("nobody", "a") is None

    async def test_tenants_have_groups_of_their_own(self) -> None:
        """The same id of another tenant is another group, with another uid, that holds other things."""
        groups, mine = await self.begin()
        theirs = await groups.create(self.group(Sample(tenant="other")), 3)
        assert mine.uid != theirs.uid
        await self.claim(groups, mine, fresh=self.keyed("xy"))
        assert await self.stands(groups, theirs) == (3, 0, 0)
        assert await self.claim(groups, theirs, now=100) == []
        assert await groups.delete(theirs)
        assert await self.stands(groups, mine) == (2, 2, 0)
        assert await groups.find("acme", "workers") == mine
        assert await groups.find("other", "workers") is None

    async def test_groups_of_a_tenant_are_apart(self) -> None:
        """Each gets every event, and settles for itself."""
        groups, first = await self.begin()
        second = await groups.create(self.group(Sample("second")), 0)
        for group in (first, second):
            assert await self.claim(groups, group, fresh=self.keyed("xx")) == [(1, 1), (2, 1)]
        assert await self.settle(groups, first, "a", self.done((1, 1), (2, 1))) == ([1, 2], [])
        assert await self.stands(groups, first) == (2, 0, 0)
        assert await self.stands(groups, second) == (2, 2, 0)

    async def test_another_filter(self) -> None:
        """It is the same group otherwise, at its place, with what it holds."""
        groups, group = await self.begin()
        await self.claim(groups, group, fresh=self.keyed("xy"))
        sample = Sample(types=("task.**",), subjects=("a/*",), space_uid="018f0000-0000-7000-8000-00000000000a")
        where = self.group(sample).where
        changed = await groups.refilter(group, where)
        assert (changed.uid, changed.id, changed.where) == (group.uid, group.id, where)
        assert await (await self.open_groups()).find("acme", "workers") == changed
        assert await self.stands(groups, changed) == (2, 2, 0)
        assert await self.settle(groups, changed, "a", self.done((1, 1))) == ([1], [])
        assert await groups.refilter(changed, group.where) == group

    async def test_deleting(self) -> None:
        """Once; then nothing of the group is there, and one made anew under the name has another uid and is empty."""
        groups, group = await self.begin()
        await self.claim(groups, group, limit=1, fresh=self.keyed("xx"))
        other = await self.open_groups()
        assert [await other.delete(group), await groups.delete(group)] == [True, False]
        assert await groups.find("acme", "workers") is None
        assert await groups.list_groups("acme", "", 10) == []
        again = await groups.create(self.group(Sample()), 0)
        assert again.uid != group.uid
        assert await self.stands(groups, again) == (0, 0, 0)
        assert await self.claim(groups, again, now=100) == []
        assert not await groups.delete(group)
        assert await groups.find("acme", "workers") == again

    @pytest.mark.parametrize("made_again", [False, True])
    async def test_a_group_that_is_gone(self, made_again: bool) -> None:
        """Members learn that it is, also if there is another of the name."""
        groups, group = await self.begin()
        await self.claim(groups, group, fresh=self.keyed("xx"))
        await groups.delete(group)
        if made_again:
            await groups.create(self.group(Sample()), 0)
        for call in (
            lambda: groups.claim(group, "a", 1, at(1), at(2), None),
            lambda: groups.claim(group, "a", 1, at(1), at(2), self.keyed("x")),
            lambda: groups.settle(group, "a", self.done((1, 1)), at(1), at(2)),
            lambda: groups.release(group, "a", counted=True),
            lambda: groups.revive(group, [1], at(1)),
            lambda: groups.seek(group, 0),
            lambda: groups.standing(group),
            lambda: groups.refilter(group, group.where),
        ):
            with pytest.raises(GroupNotFoundError, match="workers"):
                await call()

    async def test_a_claim_gives_the_oldest_first_up_to_its_limit(self) -> None:
        """The group moves on to the last that was given, and past all that does not match if all were."""
        groups, group = await self.begin()
        claim = await groups.claim(group, "a", 2, at(0), at(60), self.keyed(" x y z "))
        assert [(each.position, each.attempt, each.replayed) for each in claim.claimed] == [
            (2, 1, False),
            (4, 1, False),
        ]
        assert claim.position == 4
        claim = await groups.claim(group, "b", 2, at(0), at(60), self.fresh(4, 7, ((6, "z"),)))
        assert [(each.position, each.attempt) for each in claim.claimed] == [(6, 1)]
        assert claim.position == 7
        assert await self.stands(groups, group) == (7, 3, 0)

    async def test_fresh_events_of_another_position_are_passed_over(self) -> None:
        """Behind the group and ahead of it; the claim says where the group is."""
        groups, group = await self.begin(position=5)
        for stale in (self.fresh(4, 9, ((5, "x"), (6, "y"))), self.fresh(6, 9, ((7, "x"),))):
            claim = await groups.claim(group, "a", 10, at(0), at(60), stale)
            assert (claim.claimed, claim.position, claim.next_due) == ((), 5, None)
        assert await self.stands(groups, group) == (5, 0, 0)

    async def test_where_nothing_matches_the_group_moves_on(self) -> None:
        """Without an event in hand, in every claim that says so."""
        groups, group = await self.begin()
        for after, upto in ((0, 50), (50, 50), (50, 1_000_000_000_000)):
            claim = await groups.claim(group, "a", 10, at(0), at(60), self.fresh(after, upto, ()))
            assert (claim.claimed, claim.position, claim.next_due) == ((), upto, None)

    async def test_what_is_done_is_gone(self) -> None:
        """It is given to nobody again; what is not done stays."""
        groups, group = await self.begin()
        await self.claim(groups, group, fresh=self.keyed("x-y"))
        assert await self.settle(groups, group, "a", self.done((2, 1))) == ([2], [])
        assert await self.settle(groups, group, "a", self.done((2, 1))) == ([], [2])
        assert await self.settle(groups, group, "a", self.done((3, 1), (1, 1))) == ([1, 3], [])
        assert await self.stands(groups, group) == (3, 0, 0)
        assert await self.claim(groups, group, "b", now=100) == []

    async def test_many_at_once(self) -> None:
        """Thousands of events in one claim, of few keys and of none, and in one word about them."""
        groups, group = await self.begin()
        keys = [f"key {number % 7}" if number % 3 else "" for number in range(1, 2501)]
        fresh = self.fresh(0, 2500, tuple(enumerate(keys, 1)))
        given = await self.claim(groups, group, limit=2400, fresh=fresh)
        assert given == [(position, 1) for position in range(1, 2401)]
        assert await self.stands(groups, group) == (2400, 2400, 0)
        assert await self.settle(groups, group, "a", self.done(*given[:1500])) == (list(range(1, 1501)), [])
        rest = self.fresh(2400, 2500, tuple((position, keys[position - 1]) for position in range(2401, 2501)))
        others = await self.claim(groups, group, "b", fresh=rest)
        assert others == [(position, 1) for position in range(2401, 2501) if not keys[position - 1]]
        assert await self.settle(groups, group, "a", self.done(*given[1500:])) == (list(range(1501, 2401)), [])
        waiting = [(position, 1) for position in range(2401, 2501) if keys[position - 1]]
        assert await self.claim(groups, group, "b") == waiting
        assert await self.settle(groups, group, "b", self.done(*others, *waiting)) == (list(range(2401, 2501)), [])
        assert await self.stands(groups, group) == (2500, 0, 0)

    async def test_a_member_gets_several_of_a_key_in_their_order(self) -> None:
        """In one claim and in later ones, also while it has earlier ones."""
        groups, group = await self.begin()
        assert await self.claim(groups, group, limit=3, fresh=self.keyed("xyxx")) == [(1, 1), (2, 1), (3, 1)]
        assert await self.claim(groups, group, fresh=self.fresh(3, 4, ((4, "x"),))) == [(4, 1)]
        assert await self.settle(groups, group, "a", self.done((1, 1))) == ([1], [])
        assert await self.claim(groups, group, fresh=self.keyed("x", 4)) == [(5, 1)]
        assert await self.stands(groups, group) == (5, 4, 0)

    async def test_of_a_key_another_has_earlier_events_of_nothing_is_given(self) -> None:
        """They are put aside; other keys, and events without, go on."""
        groups, group = await self.begin()
        await self.claim(groups, group, "a", fresh=self.keyed("x-"))
        assert await self.claim(groups, group, "b", limit=2, fresh=self.keyed("xyxx-z", 2)) == [(4, 1), (7, 1)]
        assert await self.stands(groups, group) == (7, 4, 3)
        assert await self.claim(groups, group, "c", fresh=self.keyed("z", 7)) == [(8, 1)]
        for member in "bc":
            assert await self.claim(groups, group, member) == []

    async def test_what_was_put_aside_comes_when_the_earlier_is_done(self) -> None:
        """To whoever asks, as the first attempt, in order; the rest of the key follows."""
        groups, group = await self.begin()
        await self.claim(groups, group, "a", fresh=self.keyed("x"))
        await self.claim(groups, group, "b", fresh=self.keyed("xyx", 1))
        assert await self.settle(groups, group, "a", self.done((1, 1))) == ([1], [])
        assert await self.claim(groups, group, "c", limit=1) == [(2, 1)]
        assert await self.claim(groups, group, "b") == []
        assert await self.claim(groups, group, "b", fresh=self.keyed("x", 4)) == []
        assert await self.settle(groups, group, "c", self.done((2, 1))) == ([2], [])
        assert await self.claim(groups, group, "b") == [(4, 1), (5, 1)]
        assert await self.stands(groups, group) == (5, 3, 0)

    async def test_what_waits_behind_the_members_own_is_given_to_it(self) -> None:
        """What was put aside for another member is not in the way of the one that has the key."""
        groups, group = await self.begin()
        await self.claim(groups, group, "a", fresh=self.keyed("x"))
        await self.claim(groups, group, "b", fresh=self.keyed("xx", 1))
        assert await self.claim(groups, group, "b") == []
        assert await self.claim(groups, group, "a", limit=1) == [(2, 1)]
        assert await self.claim(groups, group, "a", fresh=self.keyed("x", 3)) == [(3, 1), (4, 1)]

    async def test_while_too_many_wait_the_group_looks_at_no_new_ones(self) -> None:
        """It stops at the limit, and goes on when some wait no more."""
        groups, group = await self.begin()
        await self.claim(groups, group, "a", fresh=self.keyed("x"))
        upto = self.max_waiting + 100
        many = self.fresh(1, upto, tuple((n, "x") for n in range(2, upto + 1)))
        claim = await groups.claim(group, "b", 10, at(0), at(60), many)
        assert (claim.claimed, claim.position) == ((), self.max_waiting + 1)
        assert await self.stands(groups, group) == (self.max_waiting + 1, 1, self.max_waiting)
        more = self.fresh(self.max_waiting + 1, upto, ((self.max_waiting + 2, "free"),))
        claim = await groups.claim(group, "b", 10, at(0), at(60), more)
        assert (claim.claimed, claim.position) == ((), self.max_waiting + 1)
        await self.settle(groups, group, "a", self.done((1, 1)))
        given = await self.claim(groups, group, "b", 5, fresh=more)
        assert given == [(n, 1) for n in range(2, 7)]
        assert await self.claim(groups, group, "c", 5, fresh=more) == [(self.max_waiting + 2, 1)]
        assert await self.stands(groups, group) == (upto, 6, self.max_waiting - 5)

    async def test_what_failed_comes_again_when_it_is_due(self) -> None:
        """Not before, at that very moment, to anybody, as the next attempt."""
        groups, group = await self.begin()
        await self.claim(groups, group, "a", fresh=self.keyed("-y"))
        outcomes = [self.failed(1, 1, 10), self.failed(2, 1, 20)]
        assert await self.settle(groups, group, "a", outcomes) == ([1, 2], [])
        assert await self.stands(groups, group) == (2, 0, 2)
        assert await self.claim(groups, group, "b", now=9.999) == []
        assert await self.claim(groups, group, "b", now=10) == [(1, 2)]
        assert await self.claim(groups, group, "a", now=20) == [(2, 2)]
        assert await self.settle(groups, group, "b", [self.failed(1, 2, 30)], now=21) == ([1], [])
        assert await self.claim(groups, group, "b", now=30) == [(1, 3)]

    async def test_what_waits_for_its_next_attempt_holds_up_its_key(self) -> None:
        """Fresh events of the key are put aside until it is done, others go on."""
        groups, group = await self.begin()
        await self.claim(groups, group, "a", fresh=self.keyed("x"))
        await self.settle(groups, group, "a", [self.failed(1, 1, 10)])
        for member in "ab":
            assert await self.claim(groups, group, member, fresh=self.keyed("xy", 1)) == (
                [(3, 1)] if member == "a" else []
            )
        assert await self.stands(groups, group) == (3, 1, 2)
        assert await self.claim(groups, group, "b", now=10, limit=1) == [(1, 2)]
        assert await self.claim(groups, group, "a", now=10) == []
        assert await self.claim(groups, group, "b", now=11) == [(2, 1)]

    async def test_a_failure_takes_back_later_events_of_the_key(self) -> None:
        """Their attempts are not counted; earlier ones and other keys stay with the member."""
        groups, group = await self.begin()
        await self.claim(groups, group, "a", fresh=self.keyed("xxyxx-"))
        assert await self.settle(groups, group, "a", [self.failed(2, 1, 10)]) == ([2], [4, 5])
        assert await self.stands(groups, group) == (6, 3, 3)
        assert await self.settle(groups, group, "a", self.done((4, 1), (1, 1), (3, 1))) == ([1, 3], [4])
        assert await self.claim(groups, group, "b", now=5) == []
        assert await self.claim(groups, group, "b", now=10) == [(2, 2), (4, 1), (5, 1)]
        assert await self.settle(groups, group, "a", self.done((4, 1)), now=11) == ([], [4])

    async def test_a_failure_and_later_outcomes_at_once(self) -> None:
        """Later events of the key are lost if their outcomes come after it, and count if they come before."""
        groups, group = await self.begin()
        await self.claim(groups, group, "a", fresh=self.keyed("xxxyy-"))
        outcomes = [
            *self.done((2, 1)),
            self.failed(1, 1, 10),
            *self.done((3, 1), (5, 1)),
            self.failed(4, 1, 5),
            self.failed(6, 1, 5),
        ]
        assert await self.settle(groups, group, "a", outcomes) == ([1, 2, 4, 5, 6], [3])
        assert await self.stands(groups, group) == (6, 0, 4)
        assert await self.claim(groups, group, "a", now=10) == [(1, 2), (3, 1), (4, 2), (6, 2)]

    async def test_two_of_a_key_fail(self) -> None:
        """The earlier one takes back the later one, whose own failure counts only if it was said before."""
        groups, group = await self.begin()
        await self.claim(groups, group, "a", fresh=self.keyed("xxyy"))
        outcomes = [self.failed(1, 1, 10), self.failed(2, 1, 99), self.failed(4, 1, 30), self.failed(3, 1, 20)]
        assert await self.settle(groups, group, "a", outcomes) == ([1, 3, 4], [2])
        assert await self.claim(groups, group, "b", now=29) == [(1, 2), (2, 1), (3, 2)]
        assert await self.claim(groups, group, "b", now=30) == [(4, 2)]

    async def test_of_several_outcomes_for_one_event_the_last_counts(self) -> None:
        """Once."""
        groups, group = await self.begin()
        await self.claim(groups, group, "a", fresh=self.keyed("xy"))
        outcomes = [*self.extended((1, 1)), self.failed(2, 1, 5), *self.done((1, 1)), *self.extended((2, 1))]
        assert await self.settle(groups, group, "a", outcomes) == ([1, 2], [])
        assert await self.stands(groups, group) == (2, 1, 0)
        assert await self.settle(groups, group, "a", self.done((2, 1), (2, 1))) == ([2], [])

    async def test_what_was_extended_before_an_earlier_one_failed(self) -> None:
        """Is lost, and no more with the member."""
        groups, group = await self.begin()
        await self.claim(groups, group, "a", fresh=self.keyed("xx"))
        outcomes = [*self.extended((2, 1)), self.failed(1, 1, 5)]
        assert await self.settle(groups, group, "a", outcomes) == ([1], [2])
        assert await self.stands(groups, group) == (2, 0, 2)

    async def test_only_the_member_that_has_it_as_that_attempt_is_heard(self) -> None:
        """Others and what was never given are lost, and change nothing."""
        groups, group = await self.begin()
        await self.claim(groups, group, "a", limit=1, fresh=self.keyed("xx"))
        for member, given in (("b", (1, 1)), ("a", (1, 2)), ("a", (2, 1)), ("a", (99, 1))):
            for outcome in (*self.done(given), self.failed(*given, 5), *self.extended(given)):
                assert await self.settle(groups, group, member, [outcome]) == ([], [given[0]])
        assert await self.stands(groups, group) == (1, 1, 0)
        assert await self.settle(groups, group, "a", self.done((1, 1))) == ([1], [])

    async def test_a_lease_that_is_over(self) -> None:
        """At its end, not before, the event is another's, as the next attempt; the first member has lost it."""
        groups, group = await self.begin()
        await self.claim(groups, group, "a", fresh=self.keyed("-"))
        assert await self.claim(groups, group, "b", now=LEASE - 0.001) == []
        assert await self.claim(groups, group, "b", now=LEASE) == [(1, 2)]
        assert await self.settle(groups, group, "a", self.done((1, 1)), now=LEASE) == ([], [1])
        assert await self.settle(groups, group, "b", self.done((1, 2)), now=LEASE + 1) == ([1], [])

    async def test_a_lease_that_is_over_takes_back_later_events_of_the_key(self) -> None:
        """Though their own leases run: they come after it, their attempts not counted; other keys stay."""
        groups, group = await self.begin()
        await self.claim(groups, group, "a", fresh=self.keyed("x"))
        await self.claim(groups, group, "a", now=30, fresh=self.keyed("xxyx", 1))
        assert await self.claim(groups, group, "b", now=60, limit=2) == [(1, 2), (2, 1)]
        assert await self.stands(groups, group) == (5, 3, 2)
        assert await self.settle(groups, group, "a", self.done((3, 1), (2, 1), (4, 1)), now=61) == ([4], [2, 3])
        assert await self.claim(groups, group, "a", now=61) == []
        assert await self.claim(groups, group, "b", now=62) == [(3, 1), (5, 1)]

    async def test_of_a_key_only_the_first_attempt_that_took_too_long_counts(self) -> None:
        """Whoever does a key in its order had not come to the later ones."""
        groups, group = await self.begin()
        await self.claim(groups, group, "a", fresh=self.keyed("xxx"))
        assert await self.claim(groups, group, "b", now=LEASE + 5, limit=2) == [(1, 2), (2, 1)]
        assert await self.settle(groups, group, "a", self.done((3, 1)), now=LEASE + 6) == ([], [3])
        assert await self.claim(groups, group, "b", now=LEASE + 7) == [(3, 1)]

    async def test_of_leases_that_are_over_only_what_is_given_away_is_lost(self) -> None:
        """What the limit left stays with its member; what it says still counts, and it can go on for longer."""
        groups, group = await self.begin()
        await self.claim(groups, group, "a", fresh=self.keyed("wxyz"))
        assert await self.claim(groups, group, "b", now=70, limit=1) == [(1, 2)]
        assert await self.stands(groups, group) == (4, 4, 0)
        outcomes = [*self.done((1, 1), (2, 1)), *self.extended((3, 1)), self.failed(4, 1, 80)]
        assert await self.settle(groups, group, "a", outcomes, now=75) == ([2, 3, 4], [1])
        assert await self.claim(groups, group, "b", now=80) == [(4, 2)]
        assert await self.claim(groups, group, "b", now=75 + LEASE - 0.001) == [(1, 3)]
        assert await self.claim(groups, group, "c", now=75 + LEASE) == [(3, 2)]

    async def test_the_only_member_gets_again_what_it_kept_too_long(self) -> None:
        """As the next attempt; what it says of the earlier one is lost. Later ones of the key come along, uncounted."""
        groups, group = await self.begin()
        await self.claim(groups, group, "a", fresh=self.keyed("xx"))
        await self.settle(groups, group, "a", self.extended((2, 1)), now=30)
        assert await self.claim(groups, group, "a", now=60) == [(1, 2), (2, 1)]
        assert await self.settle(groups, group, "a", self.done((1, 1)), now=61) == ([], [1])
        assert await self.settle(groups, group, "a", self.done((1, 2), (2, 1)), now=61) == ([1, 2], [])

    async def test_a_lease_that_begins_anew(self) -> None:
        """Counts from the extension, which other outcomes do not give."""
        groups, group = await self.begin()
        await self.claim(groups, group, "a", fresh=self.keyed("xy-"))
        assert await self.settle(groups, group, "a", [*self.extended((1, 1)), *self.done((3, 1))], now=40) == (
            [1, 3],
            [],
        )
        assert await self.claim(groups, group, "b", now=60) == [(2, 2)]
        assert await self.claim(groups, group, "b", now=99.999) == []
        assert await self.claim(groups, group, "b", now=100) == [(1, 2)]

    async def test_when_something_is_due_next(self) -> None:
        """The next attempt or end of a lease, of what is not behind others; the claim's own time if more is due."""
        groups, group = await self.begin()
        assert await self.next_due(groups, group, "b", 0) is None
        claim = await groups.claim(group, "a", 10, at(0), at(60), self.keyed("x"))
        assert claim.next_due == at(60)
        claim = await groups.claim(group, "b", 1, at(10), at(70), self.keyed("xxy", 1))
        assert ([each.position for each in claim.claimed], claim.next_due) == ([4], at(60))
        assert await self.next_due(groups, group, "c", 20) == at(60)
        await self.settle(groups, group, "a", [self.failed(1, 1, 30)])
        assert await self.next_due(groups, group, "c", 20) == at(30)
        claim = await groups.claim(group, "c", 1, at(30), at(90), None)
        assert ([each.position for each in claim.claimed], claim.next_due) == ([1], at(30))
        assert await self.next_due(groups, group, "b", 30) == at(70)
        await self.settle(groups, group, "b", self.done((4, 1)), now=31)
        assert await self.next_due(groups, group, "b", 31) == at(90)
        claim = await groups.claim(group, "c", 10, at(40), at(95), None)
        assert ([each.position for each in claim.claimed], claim.next_due) == ([2, 3], at(90))
        await self.settle(groups, group, "c", self.done((1, 2), (2, 1)), now=50)
        assert await self.next_due(groups, group, "b", 50) == at(95)
        await self.settle(groups, group, "c", self.done((3, 1)), now=50)
        assert await self.next_due(groups, group, "b", 50) is None

    async def test_due_next_for_the_member_that_has_the_key(self) -> None:
        """What waits behind its own can be given to it, and to nobody else."""
        groups, group = await self.begin()
        await self.claim(groups, group, "a", fresh=self.keyed("xxx"))
        await self.settle(groups, group, "a", [self.failed(2, 1, 20)])
        assert await self.next_due(groups, group, "a", 5) == at(20)
        assert await self.next_due(groups, group, "b", 5) == at(60)
        assert await self.claim(groups, group, "b", now=20) == []
        assert await self.claim(groups, group, "a", now=20) == [(2, 2), (3, 1)]

    async def test_releasing(self) -> None:
        """What a member had is due at once, counted as an attempt or as if never given; others keep theirs."""
        groups, group = await self.begin()
        await self.claim(groups, group, "a", fresh=self.keyed("xx-"))
        await self.claim(groups, group, "b", fresh=self.keyed("xy", 3))
        assert await groups.release(group, "a", counted=False) == 3
        assert await self.stands(groups, group) == (5, 1, 4)
        assert await groups.release(group, "a", counted=True) == 0
        assert await self.settle(groups, group, "a", self.done((1, 1))) == ([], [1])
        assert await self.claim(groups, group, "c", limit=3) == [(1, 1), (2, 1), (3, 1)]
        assert await groups.release(group, "c", counted=True) == 3
        assert await groups.release(group, "nobody", counted=True) == 0
        assert await self.claim(groups, group, "b") == [(1, 2), (2, 2), (3, 2), (4, 1)]
        assert await self.stands(groups, group) == (5, 5, 0)

    async def test_reviving(self) -> None:
        """Due now, from the first attempt, marked, out of the order of any key; what the group holds is passed over."""
        groups, group = await self.begin()
        await self.claim(groups, group, "a", fresh=self.keyed("xxxx"))
        await self.settle(groups, group, "a", self.done((1, 1), (2, 1)))
        assert await groups.revive(group, [], at(5)) == []
        assert await groups.revive(group, [2, 3, 1, 2], at(5)) == [1, 2]
        assert await groups.revive(group, [1, 2], at(5)) == []
        assert await self.stands(groups, group) == (4, 2, 2)
        claim = await groups.claim(group, "b", 10, at(5), at(65), None)
        assert [(each.position, each.attempt, each.replayed) for each in claim.claimed] == [(1, 1, True), (2, 1, True)]
        assert await self.settle(groups, group, "b", [self.failed(1, 1, 10)], now=6) == ([1], [])
        assert await self.settle(groups, group, "b", self.extended((2, 1)), now=6) == ([2], [])
        claim = await groups.claim(group, "a", 10, at(10), at(70), self.keyed("x", 4))
        assert [(each.position, each.attempt, each.replayed) for each in claim.claimed] == [(1, 2, True), (5, 1, False)]
        assert await self.settle(groups, group, "a", self.done((1, 2)), now=11) == ([1], [])
        assert await groups.revive(group, [1], at(12)) == [1]

    async def test_revived_ahead_of_the_group(self) -> None:
        """After going back: the event is held already and not given a second time when the group comes by."""
        groups, group = await self.begin(position=3)
        await groups.seek(group, 0)
        assert await groups.revive(group, [2], at(0)) == [2]
        claim = await groups.claim(group, "a", 10, at(0), at(60), self.keyed("xxx"))
        assert [(each.position, each.replayed) for each in claim.claimed] == [(2, True), (1, False), (3, False)]
        assert await self.stands(groups, group) == (3, 3, 0)

    @pytest.mark.parametrize("position", [0, 2, 1_000_000_000_000])
    async def test_seeking(self, position: int) -> None:
        """Back and ahead: the group goes on after the position; what it held is let go, its members have lost it."""
        groups, group = await self.begin()
        await self.claim(groups, group, "a", fresh=self.keyed("xyz"))
        await self.claim(groups, group, "b", fresh=self.keyed("xx", 3))
        await self.settle(groups, group, "a", [self.failed(3, 1, 10)])
        await groups.revive(group, [7], at(1))
        await groups.seek(group, position)
        assert await self.stands(groups, group) == (position, 0, 0)
        assert await self.next_due(groups, group, "b", 100) is None
        assert await self.settle(groups, group, "a", self.done((1, 1), (2, 1))) == ([], [1, 2])
        assert await self.claim(groups, group, "b", fresh=self.keyed("x", 5)) == []
        assert await self.claim(groups, group, "b", fresh=self.keyed("xy", position)) == [
            (position + 1, 1),
            (position + 2, 1),
        ]

    async def test_replicas_see_the_same(self) -> None:
        """What one did is there for the other at once."""
        (one, group), two = await self.begin(), await self.open_groups()
        assert await self.claim(one, group, "a", fresh=self.keyed("xy")) == [(1, 1), (2, 1)]
        assert await self.claim(two, group, "b", fresh=self.keyed("xy")) == []
        assert await self.claim(two, group, "b", fresh=self.keyed("xz", 2)) == [(4, 1)]
        assert await self.settle(two, group, "a", self.done((1, 1))) == ([1], [])
        assert await self.claim(one, group, "b") == [(3, 1)]
        assert await two.release(group, "b", counted=False) == 2
        assert await self.stands(one, group) == (4, 1, 2)

    async def test_names_of_members_and_keys_are_taken_literally(self) -> None:
        """Whatever characters they have."""
        groups, group = await self.begin()
        names = ["a b", "'; --", "\u00fc\u4f60\U0001f600", "*", "a:b", "{a}", "%s", "a\\", "\n", "x" * 512]
        events = tuple((n, name) for n, name in enumerate(names, 1))
        for n, name in enumerate(names, 1):
            claim = self.fresh(n - 1, n, (events[n - 1],))
            assert await self.claim(groups, group, name, fresh=claim) == [(n, 1)]
        again = tuple((n + 100, name) for n, name in enumerate(names, 1))
        assert await self.claim(groups, group, "b", fresh=self.fresh(len(names), 200, again)) == []
        for n, name in enumerate(names, 1):
            assert await self.settle(groups, group, name, self.done((n, 1))) == ([n], [])
            assert await self.claim(groups, group, name) == [(n + 100, 1)]

    async def test_a_cancelled_claim_leaves_all_or_nothing(self) -> None:
        """And the group goes on."""
        groups, group = await self.begin()
        for attempt in range(12):
            position, held, _ = await self.stands(groups, group)
            events = self.fresh(position, position + 100, tuple((position + n, f"{n % 7}") for n in range(1, 101)))
            await self.cut(groups.claim(group, "a", 100, at(0), at(60), events), attempt)
            now_at, now_held, waiting = await self.stands(groups, group)
            assert (now_at - position, now_held - held, waiting) in {(0, 0, 0), (100, 100, 0)}
        position, held, _ = await self.stands(groups, group)
        assert held == position
        given: list[tuple[int, int]] = []
        while len(given) < held:
            given += await self.claim(groups, group, "b", 30, now=60)
        assert sorted(position for position, _ in given) == list(range(1, held + 1))

    async def test_a_cancelled_settle_leaves_all_or_nothing(self) -> None:
        """And the group goes on."""
        groups, group = await self.begin()
        for attempt in range(12):
            await groups.seek(group, 0)
            await self.claim(groups, group, "a", fresh=self.keyed("xyz" * 30))
            outcomes = [*self.done(*((n, 1) for n in range(1, 61))), *(self.failed(n, 1, 10) for n in range(61, 91))]
            await self.cut(groups.settle(group, "a", outcomes, at(1), at(61)), attempt)
            assert await self.stands(groups, group) in {(90, 90, 0), (90, 0, 30)}
        await groups.release(group, "a", counted=True)
        left = (await self.stands(groups, group))[2]
        assert len(await self.claim(groups, group, "b", now=10)) == left

    async def cut(self, call: Any, step: int) -> None:
        """Run a call, but cancel it, at another moment for every `step`."""
        task = asyncio.ensure_future(call)
        await asyncio.wait([task], timeout=0.0006 * step)
        task.cancel()
        await asyncio.wait([task])

    async def test_deleting_while_members_work(self) -> None:
        """All of them are told, whatever they do at the moment, and nothing of the group stays."""
        groups, group = await self.begin()
        engines = [groups, await self.open_groups()]
        working = asyncio.Event()

        async def work(engine: Groups, member: str) -> None:
            while True:
                position, *_ = await self.stands(engine, group)
                given = await self.claim(engine, group, member, 5, fresh=self.keyed("wxyz-", position))
                await self.settle(engine, group, member, self.done(*given[:3]))
                working.set()

        members = [asyncio.create_task(work(engines[n % 2], f"{n}")) for n in range(4)]
        async with asyncio.timeout(60):
            await working.wait()
            assert await engines[1].delete(group)
            ends = await asyncio.gather(*members, return_exceptions=True)
        assert [type(end) for end in ends] == [GroupNotFoundError] * 4
        again = await groups.create(self.group(Sample()), 0)
        assert await self.claim(groups, again, now=1000) == []

    @pytest.mark.parametrize("seed", range(5 * STRESS))
    async def test_as_the_model_does(self, seed: int) -> None:
        """Whatever members do one after the other, the engine answers as the model."""
        groups, group = await self.begin()
        walk = Walk(self, groups, group, random.Random(seed))
        for _ in range(120):
            await walk.step()

    @pytest.mark.parametrize("seed", range(2 * STRESS))
    async def test_many_members(self, seed: int) -> None:
        """Each event is done once in effect, those of a key in their order, whoever fails, dies or dawdles."""
        groups, group = await self.begin()
        engines = [groups, await self.open_groups(), await self.open_groups()]
        crowd = Crowd(self, group, random.Random(seed), events=250)
        async with asyncio.timeout(100):
            await asyncio.gather(*(crowd.work(engines[n % 3], n) for n in range(6)))
        assert sorted(crowd.settled) == crowd.positions
        assert await self.stands(groups, group) == (crowd.head, 0, 0)
        assert await self.claim(groups, group, "b", now=1_000_000) == []


class Walk:
    """A random walk of few members, keys and positions, which the engine and the model take side by side."""

    def __init__(self, suite: EventGroupsConformance, groups: Groups, group: Any, source: random.Random) -> None:
        self._suite = suite
        self._groups = groups
        self._group = group
        self._random = source
        self._model = GroupModel(suite.max_waiting)
        self._keys = [source.choice(["", "x", "y", "z"]) for _ in range(1000)]
        self._now = 0.0

    async def step(self) -> None:
        """Do something, and compare."""
        self._now += self._random.choice([0, 0, 1, 5, 30])
        member = self._random.choice("abc")
        await self._random.choices(
            (self._claim, self._settle, self._release, self._revive, self._seek), weights=(10, 10, 1, 1, 0.2)
        )[0](member)
        assert await self._suite.stands(self._groups, self._group) == self._model.standing()

    async def _claim(self, member: str) -> None:
        limit, ahead = self._random.randint(1, 6), self._random.randint(0, 8)
        after = self._model.position + self._random.choice([0] * 9 + [1])
        events = tuple((n, self._keys[n]) for n in range(after + 1, after + ahead + 1) if n % 4)
        fresh = (after, after + ahead, events) if self._random.random() < 0.8 else None
        claim = await self._groups.claim(
            self._group,
            member,
            limit,
            at(self._now),
            at(self._now + LEASE),
            self._suite.fresh(*fresh) if fresh else None,
        )
        given, due = self._model.claim(member, limit, self._now, LEASE, fresh)
        assert [(each.position, each.attempt, each.replayed) for each in claim.claimed] == given
        assert claim.position == self._model.position
        assert claim.next_due == (None if due is None else at(due))

    async def _settle(self, member: str) -> None:
        held = [each for each in self._model.held.values() if each.member == member or self._random.random() < 0.1]
        chosen = self._random.sample(held, self._random.randint(0, len(held)))
        said: list[Said] = []
        for each in chosen + chosen[:1]:
            what = self._random.choice(("done", "done", "failed", "extended"))
            attempt = each.attempt if self._random.random() < 0.95 else each.attempt + 1
            said.append((each.position, attempt, what, self._now + self._random.choice([0, 3, 40])))
        outcomes = [
            self._suite.outcome(position, attempt, done=what == "done", retry_at=at(due) if what == "failed" else None)
            for position, attempt, what, due in said
        ]
        heard = await self._suite.settle(self._groups, self._group, member, outcomes, self._now)
        assert heard == self._model.settle(member, said, self._now, LEASE)

    async def _release(self, member: str) -> None:
        counted = self._random.random() < 0.5
        released = await self._groups.release(self._group, member, counted=counted)
        assert released == self._model.release(member, counted=counted)

    async def _revive(self, _: str) -> None:
        positions = [self._random.randint(1, self._model.position + 2) for _ in range(3)]
        revived = await self._groups.revive(self._group, positions, at(self._now))
        assert revived == self._model.revive(positions, self._now)

    async def _seek(self, _: str) -> None:
        position = self._random.randint(0, self._model.position + 3)
        await self._groups.seek(self._group, position)
        self._model.seek(position)


class Crowd:
    """Members of one group, of which some fail, die and are late; and the history of what they were given and said.

    Time stands still but for their own steps. Every engine may be asked by several of them at once.
    """

    def __init__(self, suite: EventGroupsConformance, group: Any, source: random.Random, events: int) -> None:
        self.positions = sorted(source.sample(range(1, 2 * events), events))
        self.head = 2 * events
        self.settled: list[int] = []
        """Positions whose being done counted, in the order of the answers."""
        self._keys = {position: source.choice(["", "", *"uvwxyz"]) for position in self.positions}
        self._being_settled: Counter[int] = Counter()
        self._holder: dict[int, str] = {}
        self._time = 0.0
        self._suite = suite
        self._group = group
        self._random = source

    async def work(self, groups: Groups, number: int) -> None:
        """Be a member, and another one after each death, until everything is done."""
        life, position = 0, 0
        while len(self.settled) < len(self.positions):
            member = f"{number}.{life}"
            self._time += 1
            given, position = await self._claim(groups, member, position)
            fate = self._random.random()
            if fate < 0.05:
                life += 1
            elif fate < 0.1:
                await groups.release(self._group, member, counted=self._random.random() < 0.5)
            elif given:
                if fate < 0.15:
                    self._time += LEASE
                await self._settle(groups, member, given)
            await asyncio.sleep(0)

    async def _claim(self, groups: Groups, member: str, position: int) -> tuple[list[Given], int]:
        seen = [(each, self._keys[each]) for each in self.positions if position < each <= position + 30]
        fresh = self._suite.fresh(position, min(position + 30, self.head), tuple(seen))
        limit, now = self._random.randint(1, 20), self._time
        claim = await groups.claim(self._group, member, limit, at(now), at(now + LEASE), fresh)
        for given in claim.claimed:
            self._holder[given.position] = member
            self._check_order(given.position, member)
        return list(claim.claimed), claim.position

    def _check_order(self, position: int, member: str) -> None:
        """Earlier events of the key are done, or are being settled at the moment, or the member has them too."""
        if self._keys[position]:
            for earlier in self._of_key(self._keys[position]):
                if earlier < position:
                    over = earlier in self.settled or self._being_settled[earlier]
                    assert over or self._holder[earlier] == member

    def _of_key(self, key: str) -> Iterable[int]:
        return (position for position in self.positions if self._keys[position] == key)

    async def _settle(self, groups: Groups, member: str, given: list[Given]) -> None:
        outcomes, done = [], set()
        broken: set[str] = set()
        for each in given:
            key = self._keys[each.position]
            if key in broken:
                continue
            if self._random.random() < 0.15:
                broken |= {key} - {""}
                outcomes.append(self._suite.failed(each.position, each.attempt, self._time + 3))
            else:
                done.add(each.position)
                outcomes += self._suite.done((each.position, each.attempt))
        self._being_settled.update(done)
        settled, _ = await self._suite.settle(groups, self._group, member, outcomes, self._time)
        self._being_settled.subtract(done)
        assert not set(self.settled) & set(settled) & done, "done a second time"
        self.settled += done & set(settled)
