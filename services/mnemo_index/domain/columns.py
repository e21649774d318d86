"""Growing arrays: rows are appended and, once written, stay where they are until the array is replaced."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

S = TypeVar("S", bound=np.generic)


class Column(Generic[S]):
    """An array that grows along its first axis, starting from `values`, which it takes over.

    The views it gives keep showing the rows they were taken over.
    """

    __slots__ = ("_array", "_size")

    def __init__(self, values: NDArray[S]) -> None:
        self._array = values
        self._size = len(values)

    def __len__(self) -> int:
        return self._size

    @property
    def values(self) -> NDArray[S]:
        """All rows."""
        return self._array[: self._size]

    @property
    def nbytes(self) -> int:
        """Bytes taken, room for growth included."""
        return self._array.nbytes

    def extend(self, rows: NDArray[S]) -> None:
        """Append `rows`; the room grows by at least a quarter when it is full."""
        size = self._size + len(rows)
        if size > len(self._array):
            room = max(size, len(self._array) * 5 // 4)
            grown = np.empty((room, *self._array.shape[1:]), self._array.dtype)
            grown[: self._size] = self.values
            self._array = grown
        self._array[self._size : size] = rows
        self._size = size


class Names:
    """Strings and their numbers, counted from 0 in the order of their arrival."""

    __slots__ = ("_codes",)

    def __init__(self, names: list[str]) -> None:
        self._codes = {name: code for code, name in enumerate(names)}

    def __len__(self) -> int:
        return len(self._codes)

    def __contains__(self, name: str) -> bool:
        return name in self._codes

    def __iter__(self) -> Iterator[str]:
        return iter(self._codes)

    def code(self, name: str) -> int:
        """The number of `name`, given now if it is new."""
        return self._codes.setdefault(name, len(self._codes))

    def codes(self, names: Iterable[str]) -> list[int]:
        """The numbers of `names`, given now to those that are new."""
        known = self._codes
        return [known.setdefault(name, len(known)) for name in names]

    def find(self, name: str) -> int:
        """The number of `name`, -1 if it has none."""
        return self._codes.get(name, -1)

    def listed(self) -> list[str]:
        """All names in the order of their numbers."""
        return list(self._codes)
