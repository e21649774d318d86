"""Identifiers: one form, in the order of time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mnemocore.ids import is_uuid, new_uuid

MOMENTS = st.datetimes(datetime(1970, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001


@given(MOMENTS)
def test_an_id_holds_the_millisecond_it_was_made(now: datetime) -> None:
    made = new_uuid(now)
    assert is_uuid(made)
    assert UUID(made).version == 7
    assert UUID(made).int >> 80 == (now - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)


@given(MOMENTS, MOMENTS)
def test_ids_sort_by_time(one: datetime, other: datetime) -> None:
    earlier, later = sorted((one, other))
    if later - earlier >= timedelta(milliseconds=1):
        assert new_uuid(earlier) < new_uuid(later)


def test_no_two_ids_are_the_same() -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    assert len({new_uuid(now) for _ in range(10_000)}) == 10_000


@given(st.uuids())
def test_every_uuid_has_one_accepted_form(uuid: UUID) -> None:
    assert is_uuid(str(uuid))
    for other in (str(uuid).replace("-", ""), f"{{{uuid}}}", uuid.urn, f"{uuid}\n", f" {uuid}"):
        assert not is_uuid(other)
    assert is_uuid(str(uuid).upper()) == (str(uuid).upper() == str(uuid))


@given(st.text(alphabet=st.characters()))
def test_any_text_is_a_uuid_or_not(text: str) -> None:
    if is_uuid(text):
        assert str(UUID(text)) == text


@pytest.mark.parametrize("digit", ["\u0661", "\uff11", "g", "-"])
def test_only_the_sixteen_digits_count(digit: str) -> None:
    assert not is_uuid("018f0000-0000-7000-8000-00000000000" + digit)
