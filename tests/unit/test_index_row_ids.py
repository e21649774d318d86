"""The ids of rows."""

from __future__ import annotations

import uuid

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mnemo_index.domain.row_ids import RowIds

UUIDS = [str(uuid.uuid5(uuid.NAMESPACE_DNS, str(number))) for number in range(40)]


@given(st.lists(st.sampled_from(UUIDS[:30])), st.integers(0, 60))
def test_the_last_row_of_an_id_is_found(names: list[str], begun: int) -> None:
    first = names[:begun]
    last = {name: row for row, name in enumerate(first)}
    ids = RowIds(first, np.array(sorted(last.values()), dtype=np.intp))
    for name in names[begun:]:
        ids.append(name)
    assert len(ids) == len(names)
    assert ids.listed(len(names)) == names == [ids[row] for row in range(len(names))]
    last = {name: row for row, name in enumerate(names)}
    assert [ids.find(name) for name in UUIDS] == [last.get(name, -1) for name in UUIDS]


def test_rows_that_are_not_to_be_found_are_not() -> None:
    ids = RowIds(UUIDS, np.arange(0, 40, 2))
    assert [ids.find(name) for name in UUIDS] == [row if row % 2 == 0 else -1 for row in range(40)]
    ids.append(UUIDS[1])
    assert (ids.find(UUIDS[1]), ids[1], ids[40]) == (40, UUIDS[1], UUIDS[1])


def test_many_ids_take_little_room() -> None:
    names = [f"00000000-0000-7000-8000-{number:012x}" for number in range(20_000)]
    ids, loaded = RowIds([], np.empty(0, dtype=np.intp)), RowIds(names, np.arange(20_000))
    for name in names:
        ids.append(name)
    for each in (ids, loaded):
        assert [each.find(name) for name in names] == list(range(20_000))
        assert each.nbytes < 32 * 20_000
    assert ids.find("00000000-0000-7000-8000-0000000fffff") == -1
