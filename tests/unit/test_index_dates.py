"""Which days a question names, and how near a memory is to them."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mnemo_index.domain.dates import LONGEST_TEXT, Days, dates, may_name_dates
from mnemo_index.domain.documents import microseconds
from mnemo_index.domain.nearness import nearness

TODAY = date(2024, 2, 15)  # a Thursday
FIRST, LAST = date(2023, 3, 1), date(2024, 2, 10)


def named(text: str) -> list[str]:
    """The days a text names: each as its first day, or as its first and its last."""
    found = []
    for start, end in dates(text, TODAY, FIRST, LAST):
        last = end - timedelta(days=1)
        found.append(f"{start}" if start == last else f"{start}..{last}")
    return found


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("What happened on 7 May 2023?", ["2023-05-07"]),
        ("What happened on May 7, 2023?", ["2023-05-07"]),
        ("What happened on May 7th 2023?", ["2023-05-07"]),
        ("the 7th of May, 2023", ["2023-05-07"]),
        ("Dec. 1,2023", ["2023-12-01"]),
        ("on 2023-05-07", ["2023-05-07"]),
        ("on 2023/5/7", ["2023-05-07"]),
        ("during 2023-05", ["2023-05-01..2023-05-31"]),
        ("29 February 2024", ["2024-02-29"]),
        ("on the 3rd of march", ["2023-03-03", "2024-03-03"]),
        ("29 Feb", ["2024-02-29"]),
        ("in July 2023", ["2023-07-01..2023-07-31"]),
        ("July of 2023", ["2023-07-01..2023-07-31"]),
        ("Sept 2023", ["2023-09-01..2023-09-30"]),
        ("What did she do in May?", ["2023-05-01..2023-05-31", "2024-05-01..2024-05-31"]),
        ("the summer of 2023", ["2023-06-01..2023-08-31"]),
        ("winter 2023", ["2023-12-01..2024-02-29"]),
        ("during the summer", ["2023-06-01..2023-08-31", "2024-06-01..2024-08-31"]),
        ("in 2023", ["2023-01-01..2023-12-31"]),
        ("since 2022", ["2022-01-01..2024-02-10"]),
        ("since May 2023", ["2023-05-01..2024-02-10"]),
        ("after May 2023", ["2023-06-01..2024-02-10"]),
        ("before May 2023", ["2023-03-01..2023-04-30"]),
        ("between August 11 and August 15 2023", ["2023-08-11..2023-08-15"]),
        ("from May to July 2023", ["2023-05-01..2023-07-31"]),
        ("from November 2022 to February 2023", ["2022-11-01..2023-02-28"]),
        ("from November to February 2024", ["2023-11-01..2024-02-29"]),
        ("early July 2023", ["2023-07-01..2023-07-10"]),
        ("mid-July 2023", ["2023-07-11..2023-07-20"]),
        ("late July 2023", ["2023-07-21..2023-07-31"]),
        ("towards the end of summer 2023", ["2023-08-01..2023-08-31"]),
        ("the second week of November 2023", ["2023-11-08..2023-11-14"]),
        ("the last week of November 2023", ["2023-11-24..2023-11-30"]),
        ("the week before 9 June 2023", ["2023-06-02..2023-06-08"]),
        ("two weeks before 9 June 2023", ["2023-05-26..2023-06-01"]),
        ("two days after May 3, 2023", ["2023-05-05"]),
        ("a couple of days prior to May 3, 2023", ["2023-05-01"]),
        ("last weekend before April 10, 2023", ["2023-04-03..2023-04-09"]),
        ("today", ["2024-02-15"]),
        ("yesterday", ["2024-02-14"]),
        ("tomorrow", ["2024-02-16"]),
        ("last week", ["2024-02-05..2024-02-11"]),
        ("this weekend", ["2024-02-17..2024-02-18"]),
        ("the past week", ["2024-02-08..2024-02-15"]),
        ("the past 10 days", ["2024-02-05..2024-02-15"]),
        ("in the last three months", ["2023-11-17..2024-02-15"]),
        ("last month", ["2024-01-01..2024-01-31"]),
        ("this month", ["2024-02-01..2024-02-29"]),
        ("next month", ["2024-03-01..2024-03-31"]),
        ("last year", ["2023-01-01..2023-12-31"]),
        ("in the last year", ["2023-02-15..2024-02-15"]),
        ("last May", ["2023-05-01..2023-05-31"]),
        ("next May", ["2024-05-01..2024-05-31"]),
        ("this May", ["2024-05-01..2024-05-31"]),
        ("last summer", ["2023-06-01..2023-08-31"]),
        ("last Thursday", ["2024-02-08"]),
        ("last Friday", ["2024-02-09"]),
        ("this Thursday", ["2024-02-15"]),
        ("next Thursday", ["2024-02-22"]),
        ("next Friday", ["2024-02-16"]),
        ("three days ago", ["2024-02-12"]),
        ("three weeks ago", ["2024-01-22..2024-01-28"]),
        ("a year ago", ["2022-08-17..2023-08-16"]),
        ("on May 3, 2023 and on 2023-07-01", ["2023-05-03", "2023-07-01"]),
    ],
)
def test_the_days_a_text_names(text: str, expected: list[str]) -> None:
    assert may_name_dates(text)
    assert named(text) == expected
    assert named(f"Well, {text.upper()}!") == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "What may I do?",
        "The march of time",
        "Did April call?",
        "Leaves fall, spring rolls taste",
        "Who is August Wilson?",
        "When did James try Cyberpunk 2077?",
        "the 1968 Kustom guitar",
        "31 February 2023",
        "2023-13-01",
        "2023-02-30",
        "version 2.10.1 at 10:30",
        "two weeks",
        "the last book",
        "9999 years ago",
        "in 20234",
        "room 101",
        "before March 2023",  # nothing was before
    ],
)
def test_what_is_no_date_is_left_alone(text: str) -> None:
    assert named(text) == []


def test_only_the_beginning_of_a_long_text_is_read() -> None:
    assert named("." * LONGEST_TEXT + " 7 May 2023") == []
    assert len(dates("7 May", TODAY, date(1, 1, 1), date(9999, 12, 31))) == 50


WORDS = (
    *(
        "last",
        "next",
        "this",
        "past",
        "the",
        "a",
        "of",
        "in",
        "on",
        "before",
        "after",
        "since",
        "between",
        "from",
        "to",
    ),
    *(
        "and",
        "until",
        "early",
        "late",
        "end",
        "first",
        "second",
        "week",
        "weekend",
        "day",
        "days",
        "month",
        "year",
        "ago",
    ),
    *("may", "May", "March", "summer", "winter", "Monday", "yesterday", "couple", "few", "ten", "prior", ",", ".", "-"),
    *(
        "7",
        "31",
        "29",
        "0",
        "12th",
        "2023",
        "9999",
        "1900",
        "2023-05-07",
        "2023/5/1",
        "\u0661\u0662",
        "\u00b2",
        "\u00bd",
    ),
)


@given(
    st.one_of(st.text(max_size=60), st.lists(st.sampled_from(WORDS), max_size=12).map(" ".join)),
    st.dates(),
    st.dates(),
    st.dates(),
)
@example("since 9999", date.max, date.max, date.max)
@example("9 years ago, two weeks before 1 January 1900", date.min, date.min, date.min)
def test_any_text_is_read_and_what_is_found_are_days(text: str, today: date, one: date, other: date) -> None:
    for start, end in dates(text, today, min(one, other), max(one, other)):
        assert start < end


def test_nearness_halves_with_the_distance() -> None:
    day = datetime(2023, 5, 7, tzinfo=UTC)
    at = [day + timedelta(days=days) for days in (0, 0.9, 1, 2, 4, -2, 60)]
    near = nearness(np.array([microseconds(each) for each in at]), [Days(date(2023, 5, 7), date(2023, 5, 8))])
    assert near.tolist() == pytest.approx([1, 1, 2**-0.5, 0.5, 0.25, 0.5, 0], abs=1e-6)


def test_the_longer_the_days_named_the_slower_nearness_fades() -> None:
    at = [datetime(2023, month, 1, tzinfo=UTC) for month in (5, 6, 7)]
    moments = np.array([microseconds(each) for each in at])
    june = [Days(date(2023, 6, 1), date(2023, 7, 1))]
    assert nearness(moments, june).tolist() == pytest.approx([2**-3.1, 1, 2**-0.1], abs=1e-6)
    both = [*june, Days(date(2023, 5, 1), date(2023, 5, 2))]
    assert nearness(moments, both).tolist() == pytest.approx([1, 1, 2**-0.1], abs=1e-6)
    assert nearness(moments, []).tolist() == [0, 0, 0]
