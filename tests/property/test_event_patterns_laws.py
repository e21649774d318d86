"""Laws of the patterns of events: what covers what, and that both engines of regular expressions agree."""

from __future__ import annotations

import asyncio
import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import asyncpg
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from mnemo_events.domain.access import Action, Policy
from mnemo_events.domain.event import Event
from mnemo_events.domain.filter import Filter, check_subjects, check_types, covers
from mnemocore.errors import InvalidFieldError
from mnemocore.ids import SpaceUid, Tenant

if TYPE_CHECKING:
    from mnemocore.testing.postgres import TestPostgres

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SEGMENTS = st.sampled_from(["a", "b", "c_1"])
SUBJECT_TEXT = st.text(
    st.sampled_from("ab .+?()[]{}|^$\\-#&~\t\néß\U0001f600*")
    | st.characters(exclude_characters="/\x00", codec="utf-8"),
    min_size=1,
    max_size=4,
)


def patterns(segments: st.SearchStrategy[str], separator: str) -> st.SearchStrategy[str]:
    head = st.lists(segments | st.just("*"), min_size=0, max_size=4)
    last = segments | st.sampled_from(["*", "**"])
    return st.builds(lambda parts, end: separator.join([*parts, end]), head, last)


TYPES = patterns(SEGMENTS, ".")
SUBJECTS = patterns(st.sampled_from(["a", "b", "x.y", "c d"]), "/")


@st.composite
def literals_of(draw: st.DrawFn, pattern: str, separator: str) -> str:
    """Something that a pattern matches."""
    parts: list[str] = []
    for segment in pattern.split(separator):
        if segment == "**":
            parts += draw(st.lists(SEGMENTS, min_size=1, max_size=3))
        else:
            parts.append(draw(SEGMENTS) if segment == "*" else segment)
    return separator.join(parts)


def event(type: str = "a.b", subject: str = "") -> Event:
    return Event("1", "test", type, subject, NOW, "", "", b"", Tenant("acme"), SpaceUid(""), 0, "")


def matches_type(pattern: str, type: str) -> bool:
    return Filter(types=(pattern,)).matcher()(event(type=type))


def matches_subject(pattern: str, subject: str) -> bool:
    return Filter(subjects=(pattern,)).matcher()(event(subject=subject))


@given(TYPES, TYPES, st.data())
@example("**", "a.**", None)
def test_what_covers_a_pattern_of_types_matches_all_it_matches(allowed: str, wanted: str, data: st.DataObject) -> None:
    literal = data.draw(literals_of(wanted, ".")) if data else "a.b"
    assert matches_type(wanted, literal)
    if covers(allowed, wanted):
        assert matches_type(allowed, literal)


@given(SUBJECTS, SUBJECTS, st.data())
def test_what_covers_a_pattern_of_subjects_matches_all_it_matches(
    allowed: str, wanted: str, data: st.DataObject
) -> None:
    literal = data.draw(literals_of(wanted, "/"))
    assert matches_subject(wanted, literal)
    if covers(allowed, wanted, "/"):
        assert matches_subject(allowed, literal)


@given(TYPES, TYPES, TYPES)
def test_covering_is_an_order(one: str, other: str, third: str) -> None:
    assert covers(one, one)
    assert covers("**", one)
    if covers(one, other) and covers(other, third):
        assert covers(one, third)
    if covers(one, other) and covers(other, one):
        assert one == other


@given(TYPES, st.data())
def test_for_a_literal_covering_is_matching(pattern: str, data: st.DataObject) -> None:
    literal = ".".join(data.draw(st.lists(SEGMENTS, min_size=1, max_size=6)))
    assert covers(pattern, literal) == matches_type(pattern, literal)


@given(st.lists(SUBJECTS, max_size=3), SUBJECT_TEXT | st.just(""), st.sampled_from(["", "/", "a/", "/a", "a//b", "a"]))
def test_a_policy_allows_a_literal_subject_only_if_it_matches(allowed: list[str], text: str, around: str) -> None:
    subject = around + text
    assume(subject)
    policy = Policy(Tenant("acme"), "p", "alice", (Action.PUBLISH,), ("**",), tuple(allowed), NOW)
    if policy.allows("alice", Action.PUBLISH, "a.b", subject) and allowed and "**" not in allowed:
        assert any(matches_subject(pattern, subject) for pattern in allowed)


@pytest.mark.parametrize(
    "pattern", ["", ".", "a.", ".a", "a..b", "**.a", "a.**.b", "***", "a*", "A.b", "a.b\n", "a\x00"]
)
def test_malformed_patterns_of_types_are_refused(pattern: str) -> None:
    with pytest.raises(InvalidFieldError, match=r"filter\.types"):
        check_types([pattern])


@given(TYPES, SUBJECTS)
def test_well_formed_patterns_are_taken(type: str, subject: str) -> None:
    assert check_types([type]) == (type,)
    assert check_subjects([subject]) == (subject,)


@pytest.mark.parametrize("pattern", ["", "/", "a/", "/a", "a//b", "**/a", "a/**/b", "***", "a*", "a\x00"])
def test_malformed_patterns_of_subjects_are_refused(pattern: str) -> None:
    with pytest.raises(InvalidFieldError, match=r"filter\.subjects"):
        check_subjects([pattern])


def found_by_postgres(url: str, expressions: list[str], texts: list[str]) -> list[bool]:
    async def ask() -> list[bool]:
        connection = await asyncpg.connect(url)
        try:
            asked = "unnest($1::text[], $2::text[]) AS asked(expression, text)"
            query = f'SELECT text COLLATE "C" ~ expression AS found FROM {asked}'
            rows = await connection.fetch(query, expressions, texts)
            return [row["found"] for row in rows]
        finally:
            await connection.close()

    return asyncio.run(ask())


SUBJECT_PATTERNS = patterns(SUBJECT_TEXT.filter(lambda text: "*" not in text), "/")
TYPED = st.tuples(st.lists(TYPES, min_size=1, max_size=3), st.from_regex(r"[a-c_.1]{0,12}", fullmatch=True))
NAMED = st.tuples(
    st.lists(SUBJECT_PATTERNS, min_size=1, max_size=3),
    st.lists(SUBJECT_TEXT | st.just(""), max_size=4).map("/".join),
)


@settings(max_examples=25)
@given(st.lists(TYPED, min_size=1, max_size=40), st.lists(NAMED, min_size=1, max_size=40))
def test_python_and_postgresql_find_the_same(
    postgres: TestPostgres, types: list[tuple[list[str], str]], subjects: list[tuple[list[str], str]]
) -> None:
    asked = [(Filter(types=tuple(wanted)).type_expression, text) for wanted, text in types]
    asked += [(Filter(subjects=tuple(wanted)).subject_expression, text) for wanted, text in subjects]
    asked += [(Filter(subjects=tuple(wanted)).subject_expression, wanted[0]) for wanted, _ in subjects]
    expressions, texts = [str(expression) for expression, _ in asked], [text for _, text in asked]
    expected = [
        re.compile(expression).fullmatch(text) is not None for expression, text in zip(expressions, texts, strict=True)
    ]
    assert found_by_postgres(postgres.url_for("postgres"), expressions, texts) == expected
