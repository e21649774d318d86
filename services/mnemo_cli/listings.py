"""Listings of the client that end at a limit."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

T = TypeVar("T")


async def at_most(limit: int, items: AsyncIterator[T]) -> list[T]:
    """The first `limit` (at least 1) of `items`; no more of them are read."""
    found: list[T] = []
    async for item in items:
        found.append(item)
        if len(found) == limit:
            break
    return found
