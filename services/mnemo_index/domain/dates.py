"""Dates: the days that a question names, in English.

Read are days (`7 May 2023`, `May 7th`, `2023-05-07`), months, seasons and years (`in May`, `summer of 2022`), what is
relative to today (`yesterday`, `last May`, `three weeks ago`, `the past 10 days`) or to another day (`the week before
9 June`, `two days after May 3`), parts (`late July`, `the second week of May`), ranges (`from May to July 2023`) and
beginnings (`since 2021`). A month, a season or a year alone counts only after a word that leads to a date: `may`,
`march`, `fall` and `April` are other words too. What is not in the calendar is left alone.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Final, NamedTuple

LONGEST_TEXT: Final = 4096
"""Characters of a text that are read."""

_MONTHS: Final = (
    *("january", "february", "march", "april", "may", "june"),
    *("july", "august", "september", "october", "november", "december"),
)
_MONTH_OF: Final = (
    {name: number for number, name in enumerate(_MONTHS, 1)}
    | {name[:3]: number for number, name in enumerate(_MONTHS, 1)}
    | {"sept": 9}
)
_WEEKDAYS: Final = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_SEASONS: Final = {"spring": 3, "summer": 6, "autumn": 9, "fall": 9, "winter": 12}
_UNITS: Final = {"day": 1, "weekend": 7, "week": 7, "month": 30, "year": 365}
_ORDINALS: Final = {"first": 0, "second": 1, "third": 2, "fourth": 3, "last": -1}
_COUNTS: Final = {
    name: count
    for count, names in enumerate(
        ("a an the last one", "two couple", "three few", "four", "five", "six", "seven", "eight", "nine", "ten"), 1
    )
    for name in names.split()
}
_PARTS: Final = {"early": 0, "start": 0, "beginning": 0, "mid": 1, "middle": 1, "late": 2, "end": 2}
_LEADS: Final = frozenset(
    (
        *("in", "during", "of", "since", "by", "until", "till", "from", "for", "on", "early", "mid", "late", "around"),
        *("before", "after", "to", "and", "through", "between", "throughout", "over", "year"),
    )
)
_TOKEN: Final = re.compile(
    r"(?P<iso>\d{4}-\d{1,2}(?:-\d{1,2})?(?![\w-])|\d{4}/\d{1,2}/\d{1,2}(?![\w/]))|(?P<other>\d+[.:]\d[\w.:]*)"
    r"|(?P<nth>\d+)(?:st|nd|rd|th)\b|[0-9]+(?![^\W\d_])|\w+|[^\w\s]"
)
_HINT: Final = re.compile(
    rf"\d|\b(?:{'|'.join((*_MONTHS, *_SEASONS))}|(?:yester|to)day|tomorrow|ago|last|past|previous|this|next|current)\b",
    re.IGNORECASE,
)
_RELATIVE: Final = {"last": -1, "past": -1, "previous": -1, "this": 0, "current": 0, "next": 1}
_BY_DAY: Final = {"yesterday": -1, "today": 0, "tomorrow": 1}
_STARTS: Final = frozenset(
    (
        *_MONTH_OF,
        *_SEASONS,
        *_COUNTS,
        *_PARTS,
        *_ORDINALS,
        *_RELATIVE,
        *_BY_DAY,
        "between",
        "from",
        "since",
        "after",
        "before",
    )
)
_MOST_DAYS: Final = 36_525
_MOST_YEARS: Final = 50
_DAY: Final = timedelta(days=1)


class Days(NamedTuple):
    """The days from `start` until before `end`."""

    start: date
    end: date


@dataclass(frozen=True, slots=True)
class _Named:
    """Days of the calendar that are named: a day, a month or a season (three months), of one year or of every year."""

    month: int
    day: int = 0
    months: int = 1
    year: int | None = None

    def of_year(self, year: int) -> Days | None:
        """The days in `year`; None if it has no such day."""
        try:
            start = date(year, self.month, self.day or 1)
            after = self.month - 1 + self.months
            return Days(start, start + _DAY if self.day else date(year + after // 12, after % 12 + 1, 1))
        except (ValueError, OverflowError):
            return None


def may_name_dates(text: str) -> bool:
    """Whether `text` may name days; quicker than to look for them."""
    return _HINT.search(text, 0, LONGEST_TEXT) is not None


def dates(text: str, today: date, first: date, last: date) -> list[Days]:
    """The days that `text` names, seen from `today`, in the order they are named; none is empty.

    A date without a year is meant in every year from that of `first` to that of `last`, at most the 50 latest; `since`
    reaches up to `last`, `before` back to `first`.
    """
    return _Reader(text[:LONGEST_TEXT], today, first, last).read()


class _Reader:
    """Reads the tokens of one text. Each method that reads takes the place of a token; the next place comes back."""

    def __init__(self, text: str, today: date, first: date, last: date) -> None:
        matches = list(_TOKEN.finditer(text.casefold()))
        self._tokens = [match["nth"] or match[0] for match in matches]
        self._today, self._first, self._last = today, first, last
        latest = max(last.year, first.year)
        self._years = range(max(first.year, latest - _MOST_YEARS + 1), latest + 1)

    def read(self) -> list[Days]:
        """All days that are named."""
        found: list[Days] = []
        place = 0
        while place < len(self._tokens):
            token = self._tokens[place]
            days, after = self._phrase(place) if token in _STARTS or token[0].isdecimal() else ([], place)
            found += [each for each in days if each.start < each.end]
            place = max(after, place + 1)
        return found

    def _at(self, place: int) -> str:
        return self._tokens[place] if 0 <= place < len(self._tokens) else ""

    def _skip(self, place: int, *words: str) -> int:
        """The first place from `place` on whose token is none of `words`."""
        while self._at(place) in words and place < len(self._tokens):
            place += 1
        return place

    def _phrase(self, place: int) -> tuple[list[Days], int]:
        """What begins at `place`: something that changes a date and the date, or a date alone; no days if neither."""
        for reading in (self._offset, self._part, self._week_of, self._range, self._open, self._point):
            days, after = reading(place)
            if after > place:
                return days, after
        return [], place

    def _offset(self, place: int) -> tuple[list[Days], int]:
        """`two weeks before 7 May`."""
        count, unit, after = self._amount(place)
        side = self._at(after)
        if not unit or side not in ("before", "after", "prior", "following"):
            return [], place
        anchor, end = self._point(self._skip(after + 1, "to", "the"), led=True)
        if end == place or not anchor:
            return [], place
        length = _UNITS[unit]
        shift = count * length * _DAY
        try:
            if side in ("before", "prior"):
                return [Days(day.start - shift, day.start - shift + length * _DAY) for day in anchor], end
            return [Days(day.end + shift - length * _DAY, day.end + shift) for day in anchor], end
        except OverflowError:
            return [], end

    def _amount(self, place: int) -> tuple[int, str, int]:
        """`two weeks`: the number, the unit and the next place; an empty unit if it is none."""
        if self._at(place) == "a" and self._at(place + 1) in ("couple", "few"):
            place += 1
        token = self._at(place)
        unit = self._at(place + 2) if self._at(place + 1) == "of" and token == "couple" else self._at(place + 1)
        after = place + 3 if unit != self._at(place + 1) else place + 2
        count = int(token) if token.isdecimal() and len(token) <= 4 else _COUNTS.get(token, 0)
        unit = unit if unit in _UNITS else unit.removesuffix("s")
        if not count or unit not in _UNITS or count * _UNITS[unit] > _MOST_DAYS:
            return 0, "", place
        return count, unit, after

    def _part(self, place: int) -> tuple[list[Days], int]:
        """`late July`, `the end of 2022`: a third of it."""
        third = _PARTS.get(self._at(place))
        if third is None:
            return [], place
        whole, after = self._point(self._skip(place + 1, "-", "of", "the"), led=True)
        if not whole:
            return [], place
        return [_part_of(days, third, 3) for days in whole], after

    def _week_of(self, place: int) -> tuple[list[Days], int]:
        """`second week of November`."""
        ordinal = _ORDINALS.get(self._at(place))
        if ordinal is None or self._at(place + 1) not in ("week", "weekend") or self._at(place + 2) not in ("of", "in"):
            return [], place
        whole, after = self._point(self._skip(place + 3, "the"), led=True)
        week = 7 * _DAY
        if ordinal < 0:
            return [Days(max(days.start, days.end - week), days.end) for days in whole], after if whole else place
        found = [Days(days.start + ordinal * week, min(days.end, days.start + (ordinal + 1) * week)) for days in whole]
        return found, after if whole else place

    def _range(self, place: int) -> tuple[list[Days], int]:
        """`between August 11 and August 15 2023`: from the first day of one to the last day of the other."""
        if self._at(place) not in ("between", "from"):
            return [], place
        opening, middle = self._named(self._skip(place + 1, "the"), led=True)
        if opening is None or self._at(middle) not in ("and", "to", "through", "until", "till", "-", "\u2013"):
            return [], place
        closing, after = self._named(self._skip(middle + 1, "the"), led=True)
        if closing is None:
            return [], place
        found = []
        for year in self._years if closing.year is None else [closing.year]:
            start, end = opening.of_year(opening.year or year), closing.of_year(year)
            if start and end and start.start >= end.end and opening.year is None:
                start = opening.of_year(year - 1)
            if start and end:
                found.append(Days(start.start, end.end))
        return found, after

    def _open(self, place: int) -> tuple[list[Days], int]:
        """`since May`, `before 2021`."""
        side = self._at(place)
        if side not in ("since", "after", "before"):
            return [], place
        anchor, after = self._point(self._skip(place + 1, "the"), led=True)
        if not anchor:
            return [], place
        if side == "before":
            return [Days(self._first, max(days.start for days in anchor))], after
        begins = min(days.start if side == "since" else days.end for days in anchor)
        try:
            return [Days(begins, self._last + _DAY)], after
        except OverflowError:
            return [], after

    def _point(self, place: int, led: bool = False) -> tuple[list[Days], int]:
        """A date; `led` if the words before lead to one."""
        for reading in (self._iso, self._relative, self._ago):
            days, after = reading(place)
            if after > place:
                return days, after
        named, after = self._named(place, led)
        if named is None:
            return [], place
        years = self._years if named.year is None else [named.year]
        return [each for year in years if (each := named.of_year(year))], after

    def _named(self, place: int, led: bool = False) -> tuple[_Named | None, int]:
        """A day, a month, a season or a year of the calendar."""
        led = led or self._at(place - 1 - (self._at(place - 1) in ("the", "-"))) in _LEADS
        token = self._at(place)
        if (day := _day(token)) and (month := _MONTH_OF.get(self._at(at := self._skip(place + 1, "of")), 0)):
            year, after = self._year(at + 1)
            return _Named(month, day, year=year), after
        if token in _MONTH_OF:
            return self._named_month(place, led)
        if token in _SEASONS:
            year, after = self._year(place + 1)
            return (_Named(_SEASONS[token], months=3, year=year), after) if led or year else (None, place)
        if led and (only := _year(token)) and not self._at(place + 1).isdecimal():
            return _Named(1, months=12, year=only), place + 1
        return None, place

    def _named_month(self, place: int, led: bool) -> tuple[_Named | None, int]:
        month, token = _MONTH_OF[self._at(place)], self._at(place)
        at = self._skip(place + 1, ".", "the")
        if day := _day(self._at(at)):
            year, after = self._year(at + 1)
            return _Named(month, day, year=year), after
        year, after = self._year(place + 1)
        if year or (led and len(token) > 3) or (led and token == "may"):
            return _Named(month, year=year), after
        return None, place

    def _year(self, place: int) -> tuple[int | None, int]:
        """The year that follows, and the next place; `place` is the next one if no year does."""
        at = self._skip(place, ",", "of", "in", ".")
        year = _year(self._at(at))
        return (year, at + 1) if year else (None, place)

    def _iso(self, place: int) -> tuple[list[Days], int]:
        """`2023-05-07`, `2023-05`."""
        parts = re.split("[-/]", self._at(place))
        if len(parts) < 2 or not all(part.isdecimal() for part in parts):
            return [], place
        year, month, day = (*map(int, parts), 0)[:3]
        found = _Named(month, day, year=year).of_year(year) if 1 <= month <= 12 else None
        return [found] if found else [], place + 1

    def _relative(self, place: int) -> tuple[list[Days], int]:
        """`yesterday`, `last week`, `the past ten days`."""
        token, following, today = self._at(place), self._at(place + 1), self._today
        try:
            if token in _BY_DAY:
                day = today + _BY_DAY[token] * _DAY
                return [Days(day, day + _DAY)], place + 1
            which = _RELATIVE.get(token)
            if which is None:
                return [], place
            if which < 0 and self._at(place - 1) == "the" and following in _UNITS:
                return [Days(today - _UNITS[following] * _DAY, today + _DAY)], place + 2
            turn = self._turn(following, which)
            if turn:
                return [turn], place + 2
            count, unit, after = self._amount(place + 1)
            if which < 0 and unit:
                return [Days(today - count * _UNITS[unit] * _DAY, today + _DAY)], after
        except (OverflowError, ValueError):
            pass  # beyond the calendar
        return [], place

    def _turn(self, name: str, which: int) -> Days | None:
        """The last (-1), this (0) or the next (1) week, year, May, Monday ... seen from today."""
        today = self._today
        if name in ("week", "weekend"):
            monday = today + (7 * which - today.weekday()) * _DAY
            return Days(monday + (5 * _DAY if name == "weekend" else 0 * _DAY), monday + 7 * _DAY)
        if name == "month":
            months = today.year * 12 + today.month - 1 + which
            return _Named(months % 12 + 1).of_year(months // 12)
        if name == "year":
            return _Named(1, months=12).of_year(today.year + which)
        if name in _WEEKDAYS:
            distance = (_WEEKDAYS.index(name) - today.weekday()) % 7
            day = today + (distance - 7 if which < 0 else distance + 7 * (distance == 0 and which > 0)) * _DAY
            return Days(day, day + _DAY)
        named = _Named(_MONTH_OF[name]) if name in _MONTHS else None
        if name in _SEASONS:
            named = _Named(_SEASONS[name], months=3)
        around = [days for year in range(-1, 2) if named and (days := named.of_year(today.year + year))]
        if which < 0:
            return max((days for days in around if days.end <= today), default=None)
        if which > 0:
            return min((days for days in around if days.start > today), default=None)
        return min(around, key=lambda days: days.start.year != today.year, default=None)

    def _ago(self, place: int) -> tuple[list[Days], int]:
        """`three weeks ago`: as long around the day as the unit is."""
        count, unit, after = self._amount(place)
        if not unit or self._at(after) != "ago":
            return [], place
        length = _UNITS[unit]
        try:
            middle = self._today - count * length * _DAY
            return [Days(middle - length // 2 * _DAY, middle + (length + 1) // 2 * _DAY)], after + 1
        except OverflowError:
            return [], after + 1


def _part_of(days: Days, part: int, parts: int) -> Days:
    """One of equal parts, of at least a day."""
    length = (days.end - days.start) / parts
    start = days.start + part * length
    return Days(start, max(start + _DAY, days.end if part == parts - 1 else days.start + (part + 1) * length))


def _day(token: str) -> int:
    return int(token) if token.isdecimal() and len(token) <= 2 and 1 <= int(token) <= 31 else 0


def _year(token: str) -> int:
    return int(token) if len(token) == 4 and token.isdecimal() and token[:2] in ("19", "20") else 0
