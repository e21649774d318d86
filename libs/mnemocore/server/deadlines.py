"""The deadline stage: no unary call without an end, none longer than its method allows."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from mnemocore import calls
from mnemocore.errors import DeadlineExceededError, DeadlineRequiredError

if TYPE_CHECKING:
    from mnemocore.server.chain import Proceed, ServerCall


class DeadlineStage:
    """Sets `calls.deadline` and cancels the handler when it passes.

    A unary call without a deadline is refused, a longer one than the method's `max_deadline` is shortened to it.
    Streams may live without.
    """

    name = "deadline"

    async def handle(self, call: ServerCall, proceed: Proceed) -> Any:
        """Run the call within its time."""
        seconds = _allowed_seconds(call)
        if seconds is None:
            return await proceed(call)
        calls.deadline.set(time.monotonic() + seconds)
        try:
            async with asyncio.timeout(seconds) as scope:
                return await proceed(call)
        except TimeoutError:
            if scope.expired():
                raise DeadlineExceededError from None
            raise


def _allowed_seconds(call: ServerCall) -> float | None:
    # None on calls without a deadline, which the type of the context does not say.
    remaining: float | None = call.context.time_remaining()
    info = call.info
    if info is None:
        return remaining
    if remaining is None:
        if info.unary:
            raise DeadlineRequiredError
        return None
    return remaining if info.max_deadline is None else min(remaining, info.max_deadline)
