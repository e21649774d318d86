"""When a stream that broke is opened again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from mnemocore.client.retries import MAX_ATTEMPTS, pause_after, worth_retrying
from mnemocore.errors import DeadlineExceededError, MnemoError, OverloadedError, PeerUnavailableError, UnavailableError

if TYPE_CHECKING:
    from mnemocore.client.services import Services

BREAKS: Final = (UnavailableError, DeadlineExceededError, OverloadedError)
"""What ends a stream, or keeps it from being opened, and may be over a moment later."""

PATIENCE: Final = 60.0
"""Seconds for which a stream that was answered once is opened again and again, unless the caller says otherwise."""


_COUNTED: Final = 10
"""Breaks in a row that make the next pause longer."""


class Reconnecting:
    """The breaks of one stream.

    Until it is answered for the first time it is tried as often as any other call. Once it was, it is opened again
    after every break, until nobody has answered for `patience` seconds; None: for ever.
    """

    def __init__(self, services: Services, patience: float | None) -> None:
        self._services = services
        self._clock = services.clock
        self._patience = patience
        self._answered = False
        self._breaks = 0
        self._silent_since: float | None = None

    def answered(self) -> None:
        """The server has sent something."""
        self._answered = True
        self._breaks = 0
        self._silent_since = None

    async def pause(self, error: MnemoError) -> None:
        """Return when the stream may be opened again after a break with `error`. Raises `error` to give up."""
        self._breaks += 1
        if not (self._may_go_on() if self._answered else worth_retrying(error) and self._breaks < MAX_ATTEMPTS):
            raise error
        await self._clock.sleep(pause_after(error, min(self._breaks, _COUNTED)))
        if self._answered:
            await self._services.connected(self._seconds_left())

    def _may_go_on(self) -> bool:
        if self._patience is None:
            return True
        now = self._clock.monotonic()
        if self._silent_since is None:
            self._silent_since = now
        return now - self._silent_since < self._patience

    def _seconds_left(self) -> float:
        if self._patience is None or self._silent_since is None:
            return PATIENCE
        return max(0.0, self._silent_since + self._patience - self._clock.monotonic())


def stream_ended(target: str) -> PeerUnavailableError:
    """The break of a stream that the server ended without a word."""
    return PeerUnavailableError(f"{target} ended the stream", target=target)
