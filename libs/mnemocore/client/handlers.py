"""Calling what a program gives to handle events and tasks."""

from __future__ import annotations

import asyncio
import functools
import inspect
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


async def call_handler(handler: Callable[[Any], Any], item: Any) -> Any:
    """What `handler(item)` returns, awaited. A function that is not a coroutine runs in a thread, and may block."""
    if _is_coroutine_function(handler):
        return await handler(item)
    result = await asyncio.to_thread(handler, item)
    return await result if inspect.isawaitable(result) else result


def _is_coroutine_function(handler: Callable[[Any], Any]) -> bool:
    while isinstance(handler, functools.partial):
        handler = handler.func
    return inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(type(handler).__call__)
