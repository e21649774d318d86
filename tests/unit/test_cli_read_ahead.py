"""Reading in a thread: order, bounds, errors, and a reader that never comes back."""

from __future__ import annotations

import asyncio
import itertools
import threading
from typing import TYPE_CHECKING

import pytest

from mnemo_cli.read_ahead import ReadAhead

if TYPE_CHECKING:
    from collections.abc import Iterator

SECONDS = 60.0


async def everything(reading: ReadAhead[int]) -> list[int]:
    found: list[int] = []
    async with asyncio.timeout(SECONDS):
        while taken := await reading.take():
            found += taken
    return found


@pytest.mark.parametrize("limit", [1, 3, 1000])
@pytest.mark.parametrize("count", [0, 1, 500])
async def test_everything_comes_in_order(count: int, limit: int) -> None:
    async with ReadAhead(iter(range(count)), limit) as reading:
        assert await everything(reading) == list(range(count))
        assert await reading.take() == []


async def test_no_more_is_read_than_was_asked_for() -> None:
    read: list[int] = []
    full = threading.Event()

    def items() -> Iterator[int]:
        for number in itertools.count():
            read.append(number)
            if number == 5:
                full.set()
            yield number

    async with ReadAhead(items(), 5) as reading:
        assert await asyncio.to_thread(full.wait, SECONDS)
        assert len(read) == 6  # five are ready, one waits for room
        first = await reading.take()
        assert first == [0, 1, 2, 3, 4]


async def test_what_is_there_is_given_before_more_comes() -> None:
    more = threading.Event()

    def items() -> Iterator[int]:
        yield 1
        assert more.wait(SECONDS)
        yield 2

    async with ReadAhead(items(), 10) as reading, asyncio.timeout(SECONDS):
        assert await reading.take() == [1]
        more.set()
        assert await reading.take() == [2]
        assert await reading.take() == []


async def test_an_error_comes_after_the_items_before_it() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise OSError("gone")

    async with ReadAhead(items(), 10) as reading, asyncio.timeout(SECONDS):
        assert await reading.take() == [1]
        with pytest.raises(OSError, match="gone"):
            await reading.take()


async def test_leaving_does_not_wait_for_the_reader() -> None:
    release, ended = threading.Event(), threading.Event()

    def items() -> Iterator[int]:
        try:
            assert release.wait(SECONDS)
            yield 1
        finally:
            ended.set()

    async with asyncio.timeout(SECONDS), ReadAhead(items(), 10):
        pass
    release.set()
    assert await asyncio.to_thread(ended.wait, SECONDS)
