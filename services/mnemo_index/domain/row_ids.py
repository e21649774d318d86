"""The ids of numbered rows: 16 bytes each, and a hash table of row numbers to find them by.

That is about 26 bytes a row, where a string, its place in a dictionary and its number are more than 200.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from mnemocore.ids import MemoryId

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

_WIDTH: Final = 16
_EMPTY: Final = -1
_LEAST_PLACES: Final = 8
_DIGITS: Final = np.array([place for place in range(36) if place not in (8, 13, 18, 23)])
"""Where a UUID has digits and not dashes."""


class RowIds:
    """The ids of rows, in the order of their numbers. Of the rows of one id the last one is found.

    It begins with the rows of `ids`, of which those with the numbers `found`, each of another id, can be found. Not
    safe for use by several threads, except that ids may be read while others are added.
    """

    __slots__ = ("_bytes", "_known", "_places")

    def __init__(self, ids: Sequence[str], found: NDArray[np.intp]) -> None:
        self._bytes = bytearray.fromhex("".join(ids).replace("-", ""))
        self._known = len(found)
        self._places = self._placed(found.astype(np.int32))

    def __len__(self) -> int:
        return len(self._bytes) // _WIDTH

    def __getitem__(self, row: int) -> MemoryId:
        digits = self._key(row).hex()
        return MemoryId(f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}")

    @property
    def nbytes(self) -> int:
        """Bytes taken, room for growth included."""
        return self._bytes.__sizeof__() + self._places.nbytes

    def listed(self, count: int) -> list[str]:
        """The ids of the first `count` rows."""
        digits = np.frombuffer(self._bytes[: count * _WIDTH].hex().encode(), dtype=np.uint8).reshape(count, 2 * _WIDTH)
        spelled = np.full((count, 36), ord("-"), dtype=np.uint8)
        spelled[:, _DIGITS] = digits
        text = spelled.tobytes().decode()
        return [text[start : start + 36] for start in range(0, len(text), 36)]

    def find(self, memory_id: str) -> int:
        """The number of the last row of an id; -1 if there is none."""
        key = bytes.fromhex(memory_id.replace("-", ""))
        return self._places.item(self._place(key))

    def append(self, memory_id: str) -> None:
        """Add the next row."""
        key = bytes.fromhex(memory_id.replace("-", ""))
        place = self._place(key)
        self._known += self._places.item(place) == _EMPTY
        self._places[place] = len(self)
        self._bytes += key
        if 3 * self._known > 2 * len(self._places):
            self._places = self._placed(self._places[self._places != _EMPTY])

    def _key(self, row: int) -> bytes:
        return bytes(self._bytes[row * _WIDTH : (row + 1) * _WIDTH])

    def _place(self, key: bytes) -> int:
        """Where the number of the last row of an id is or would be: the first such or free place from its hash on."""
        places, last = self._places, len(self._places) - 1
        place = hash(key) & last
        while (row := places.item(place)) != _EMPTY and self._key(row) != key:
            place = (place + 1) & last
        return place

    def _placed(self, rows: NDArray[np.int32]) -> NDArray[np.int32]:
        """A table that is filled to between a third and two thirds with the numbers of `rows`, each of another id."""
        size = _LEAST_PLACES
        while 3 * len(rows) > size:
            size *= 2
        places = np.full(size, _EMPTY, dtype=np.int32)
        hashes = np.fromiter((hash(self._key(row)) for row in rows.tolist()), np.int64, len(rows))
        wanted = hashes & (size - 1)
        while len(rows):  # all at once: who does not get its place goes one further, where others got theirs
            free = places[wanted] == _EMPTY
            places[wanted[free]] = rows[free]
            left = places[wanted] != rows
            rows, wanted = rows[left], (wanted[left] + 1) & (size - 1)
        return places
