"""A generated world: what is known of made-up people, projects and companies, and questions with their answers.

The same seed gives the same world. Every person has the same kinds of things said of them, in words that many others
share, beside statements that sound alike and answer nothing. Some facts are replaced by newer ones.
"""

from __future__ import annotations

import random
from collections import defaultdict
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from benchmarks import world_words as words

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.world_words import Happening, Relation

LEAST_MEMORIES: Final = 110
"""The smallest world."""

_A_PERSON_TAKES: Final = 31
_SPARE: Final = 16
_NEAR_FACTS: Final = 4
_HAPPENINGS: Final = 2
_START: Final = datetime(2023, 1, 1, 8, tzinfo=UTC)
_DAYS: Final = 910
_VERSION_DAYS: Final = 300
_MOST_DAYS_LATE: Final = 20


class Kind(StrEnum):
    """What a question asks for."""

    DIRECT = "direct"
    REPHRASED = "rephrased"
    DATED = "month, day is said"
    UNDATED = "month, day is known"
    TWO_HOP = "two hops"
    RECORDED = "update, recorded"
    UNRECORDED = "update, not recorded"


@dataclass(frozen=True, slots=True)
class Fact:
    """One memory. `replaces` is the key of the fact that it makes outdated, empty if there is none.

    If that is `recorded`, it is to be written as superseding that fact.
    """

    key: str
    text: str
    at: datetime
    replaces: str = ""
    recorded: bool = False


@dataclass(frozen=True, slots=True)
class Question:
    """A question, the fact that answers it, all facts that the answer takes, and the outdated ones."""

    kind: Kind
    text: str
    answer: str
    evidence: frozenset[str]
    outdated: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class World:
    """Facts in the order in which they were written, and questions by kind."""

    facts: tuple[Fact, ...]
    questions: tuple[Question, ...]


def generate(memories: int, questions_a_kind: int, seed: int) -> World:
    """A world of exactly `memories` facts, at least LEAST_MEMORIES, and up to so many questions of each kind.

    Raises ValueError if there are to be fewer facts.
    """
    if memories < LEAST_MEMORIES:
        raise ValueError(f"memories is {memories}; allowed is at least {LEAST_MEMORIES}")
    making = _Making(memories, random.Random(seed))
    return making.world(questions_a_kind)


class _Making:
    """A world in the making."""

    def __init__(self, memories: int, rng: random.Random) -> None:
        self._memories = memories
        self._rng = rng
        count = (memories - _SPARE) // _A_PERSON_TAKES
        self._people = self._names(count)
        self._projects = self._pairs("Project ", words.COMPANY_STARTS, " ", words.PROJECT_NAMES, max(2, count // 6))
        self._companies = self._pairs("", words.COMPANY_STARTS, "", words.COMPANY_ENDS, max(4, count // 8))
        self._facts: list[Fact] = []
        self._said: dict[tuple[str, str], tuple[str, str]] = {}
        self._questions: dict[Kind, list[Question]] = defaultdict(list)

    def world(self, questions_a_kind: int) -> World:
        """Everything that is known, and a sample of the questions."""
        for place, person in enumerate(self._people):
            spouse = self._people[place + 1] if place % 2 == 0 and place + 1 < len(self._people) else ""
            self._describe(person, spouse)
        for subjects, relations in ((self._projects, words.PROJECT), (self._companies, words.COMPANY)):
            for subject in subjects:
                for relation in relations:
                    self._fact(subject, relation, self._value(relation))
                self._near(subject, self._rng.choice(relations))
        for person in self._people:
            self._chained(person)
        while len(self._facts) < self._memories:
            self._small_talk()
        chosen = [
            question
            for kind in Kind
            for question in self._rng.sample(self._questions[kind], min(questions_a_kind, len(self._questions[kind])))
        ]
        return World(tuple(sorted(self._facts, key=lambda fact: (fact.at, fact.key))), tuple(chosen))

    def _describe(self, person: str, spouse: str) -> None:
        relations = [relation for relation in words.PERSON if relation.name != "partner" or spouse]
        recorded, unrecorded = self._rng.sample([relation for relation in relations if relation.changing], 2)
        for relation in relations:
            if relation is recorded or relation is unrecorded:
                self._update(person, relation, recorded=relation is recorded)
            else:
                self._fact(person, relation, spouse if relation.name == "partner" else self._value(relation, person))
        for relation in self._rng.sample(relations, _NEAR_FACTS):
            self._near(person, relation)
        for happening in words.HAPPENINGS:
            self._happen(person, happening)

    def _fact(self, subject: str, relation: Relation, value: str) -> None:
        """Something that is true all the time, and a direct and a rephrased question."""
        key = self._state(subject, relation, value, self._moment(_START, _DAYS))
        for kind, templates in ((Kind.DIRECT, relation.direct), (Kind.REPHRASED, relation.rephrased)):
            self._ask(kind, self._rng.choice(templates).format(name=subject), key)
        self._said[subject, relation.name] = (key, value)

    def _update(self, subject: str, relation: Relation, *, recorded: bool) -> None:
        """Something that was said anew, once or twice, and a question after what is true now."""
        values: list[str] = []
        keys: list[str] = []
        for version in range(self._rng.choice((2, 2, 3))):
            values.append(self._value(relation, subject, values))
            at = self._moment(_START + timedelta(days=version * _VERSION_DAYS), _VERSION_DAYS)
            keys.append(
                self._state(subject, relation, values[-1], at, replaces=keys[-1] if keys else "", recorded=recorded)
            )
        text = self._rng.choice(relation.direct + relation.rephrased).format(name=subject)
        self._ask(Kind.RECORDED if recorded else Kind.UNRECORDED, text, keys[-1], outdated=keys[:-1])
        self._said[subject, relation.name] = ("", values[-1])

    def _near(self, subject: str, relation: Relation) -> None:
        """Something that sounds like a fact of this relation; its value is another one."""
        _, value = self._said[subject, relation.name]
        said = self._rng.choice(relation.near).format(name=subject, value=self._value(relation, subject, [value]))
        self._keep(said, self._moment(_START, _DAYS))

    def _happen(self, person: str, happening: Happening) -> None:
        """What happened in two different months; half of it says when, the rest is written on the day itself."""
        months = self._rng.sample(range(29), _HAPPENINGS)
        for month, value in zip(months, self._rng.sample(happening.values, _HAPPENINGS), strict=True):
            first = datetime(2023 + month // 12, month % 12 + 1, 1, 8, tzinfo=UTC)
            day = self._moment(first, 28)
            if dated := self._rng.random() < 0.5:
                said = self._rng.choice(happening.dated).format(name=person, value=value, when=self._day(day))
                key = self._keep(said, day + timedelta(days=self._rng.randint(0, _MOST_DAYS_LATE)))
            else:
                key = self._keep(self._rng.choice(happening.undated).format(name=person, value=value), day)
            when = f"{words.MONTHS[day.month - 1]} {day.year}"
            text = self._rng.choice(happening.questions).format(name=person, when=when)
            self._ask(Kind.DATED if dated else Kind.UNDATED, text, key)

    def _chained(self, person: str) -> None:
        """Questions that take two facts, neither of which was ever replaced."""
        for chain in words.CHAINS:
            first, between = self._said.get((person, chain.first), ("", ""))
            second, _ = self._said.get((between, chain.second), ("", ""))
            if first and second:
                text = self._rng.choice(chain.questions).format(name=person)
                self._ask(Kind.TWO_HOP, text, second, also=[first])

    def _small_talk(self) -> None:
        text = self._rng.choice(words.SMALL_TALK)
        said = text.format(number=self._rng.randint(2, 90), place=self._rng.choice(words.PLACES))
        self._keep(said, self._moment(_START, _DAYS))

    def _state(
        self, subject: str, relation: Relation, value: str, at: datetime, *, replaces: str = "", recorded: bool = False
    ) -> str:
        text = self._rng.choice(relation.statements).format(name=subject, value=value)
        return self._keep(text, at, replaces, recorded=recorded and bool(replaces))

    def _keep(self, text: str, at: datetime, replaces: str = "", *, recorded: bool = False) -> str:
        key = f"fact-{len(self._facts)}"
        self._facts.append(Fact(key, text, at, replaces, recorded))
        return key

    def _ask(
        self, kind: Kind, text: str, answer: str, *, also: Sequence[str] = (), outdated: Sequence[str] = ()
    ) -> None:
        self._questions[kind].append(Question(kind, text, answer, frozenset([answer, *also]), frozenset(outdated)))

    def _value(self, relation: Relation, subject: str = "", but: Sequence[str] = ()) -> str:
        """A value of a relation that is none of `but` and not the subject itself."""
        while (value := self._any_value(relation)) in but or value == subject:
            pass
        return value

    def _any_value(self, relation: Relation) -> str:
        if relation.values:
            return self._rng.choice(relation.values)
        match relation.name:
            case "employer":
                return self._rng.choice(self._companies)
            case "project":
                return self._rng.choice(self._projects)
            case "birthday":
                return self._day(self._moment(datetime(1950, 1, 1, tzinfo=UTC), 20_000))
            case "deadline":
                return self._day(self._moment(datetime(2025, 7, 1, tzinfo=UTC), 700))
            case _:
                return self._rng.choice(self._people)

    def _moment(self, start: datetime, days: int) -> datetime:
        """A time of a working day within `days` of `start`."""
        return start + timedelta(days=self._rng.randrange(days), minutes=self._rng.randrange(600))

    def _day(self, moment: datetime) -> str:
        """The date in one of the ways in which people write it."""
        month = words.MONTHS[moment.month - 1]
        return self._rng.choice(
            (f"{moment.day} {month} {moment.year}", f"{month} {moment.day}, {moment.year}", moment.date().isoformat())
        )

    def _names(self, count: int) -> list[str]:
        """Different full names; first and last names are shared by many."""
        firsts, starts, ends = words.FIRST_NAMES, words.LAST_STARTS, words.LAST_ENDS
        chosen = self._rng.sample(range(len(firsts) * len(starts) * len(ends)), count)
        names = []
        for number in chosen:
            rest, end = divmod(number, len(ends))
            first, start = divmod(rest, len(starts))
            names.append(f"{firsts[first]} {starts[start]}{ends[end]}")
        return names

    def _pairs(self, prefix: str, starts: Sequence[str], between: str, ends: Sequence[str], count: int) -> list[str]:
        """Different names of two parts, as many as there can be but at most `count`."""
        names = [f"{prefix}{start}{between}{end}" for start in starts for end in ends]
        return self._rng.sample(names, min(count, len(names)))
