"""When a store stops answering and when it answers again: one line in the log for each, however many ask meanwhile."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from mnemocore.clock import SystemClock
from mnemocore.errors import StoreUnavailableError

if TYPE_CHECKING:
    from mnemocore.clock import Clock

CALM_SECONDS: Final = 1.0
"""How long a store must not have failed anybody before it is said to answer again."""


class Outages:
    """The outages of one store, which `name` names in the log.

    `failed` says that somebody got no answer, `answered` that somebody got one. A store that fails some and answers
    others is out until it has failed nobody for CALM_SECONDS; what is said when it is back is how long it failed.
    """

    def __init__(self, name: str, log: logging.Logger, clock: Clock | None = None) -> None:
        self._name = name
        self._log = log
        self._clock: Clock = clock or SystemClock()
        self._since: float | None = None
        self._failed_at = 0.0

    def failed(self, error: BaseException) -> None:
        """Somebody got no answer: a warning with the cause if the store answered until now."""
        self._failed_at = self._clock.monotonic()
        if self._since is None:
            self._since = self._failed_at
            self._log.warning("%s does not answer: %s", self._name, f"{type(error).__name__}: {error}".rstrip(": "))

    def answered(self) -> None:
        """Somebody got an answer. Costs next to nothing while all is well."""
        if self._since is None or self._clock.monotonic() - self._failed_at < CALM_SECONDS:
            return
        self._log.info("%s answers again; it did not for %.1f s", self._name, self._failed_at - self._since)
        self._since = None


def level_of(failure: BaseException) -> int:
    """How loud work that goes on later logs what it failed with.

    DEBUG if its store did not answer, for that is said once by whoever asks the store; WARNING for all else.
    """
    return logging.DEBUG if isinstance(failure, StoreUnavailableError) else logging.WARNING
