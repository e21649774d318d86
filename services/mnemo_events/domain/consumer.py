"""A member on a stream: events as it gives credit, answers to what it says of them, a sign of life when idle."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from mnemocore.errors import InvalidFieldError, Violation

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from mnemo_events.domain.member import Delivery, Member, Report
    from mnemocore.clock import Clock
    from mnemocore.errors import MnemoError

HEARTBEAT_SECONDS: Final = 15.0
MAX_CREDIT: Final = 1_000_000
"""Credit beyond this is not counted."""
MAX_ANSWERS: Final = 10_000
"""Answers that wait to be sent; while there are so many no further word is taken."""


@dataclass(frozen=True, slots=True)
class Message:
    """What the stream says at once; `settled` and `lost` are tags of deliveries that came before.

    `lag`: how many positions of the log the group has not looked at.
    """

    deliveries: tuple[Delivery, ...]
    settled: tuple[int, ...]
    lost: tuple[int, ...]
    lag: int


class Consumer:
    """Drives a member by what its stream says. It holds one batch of events at a time, whatever the credit."""

    def __init__(self, member: Member, clock: Clock, credit: int) -> None:
        self._member = member
        self._clock = clock
        self._credit = credit
        self._ended = False
        self._error: MnemoError | None = None
        self._settled: list[int] = []
        self._lost: list[int] = []
        self._sent = asyncio.Event()

    def give_credit(self, events: int) -> None:
        """The member takes so many more events."""
        self._credit = min(MAX_CREDIT, self._credit + events)
        self._member.interrupt()

    async def settle(self, reports: Sequence[Report]) -> None:
        """Take the word of the member; waits while it does not read the answers.

        Raises as `Member.settle`, and InvalidFieldError for tags that no delivery had.
        """
        _refuse_invented(reports, self._member.last_tag)
        while len(self._settled) + len(self._lost) >= MAX_ANSWERS:
            self._sent.clear()
            await self._sent.wait()
        answer = await self._member.settle(reports)
        self._settled += answer.settled
        self._lost += answer.lost
        self._member.interrupt()

    def end(self) -> None:
        """The member says nothing more: when it has its answers, the stream is over."""
        self._ended = True
        self._member.interrupt()

    def fail(self, error: MnemoError) -> None:
        """End the messages with `error`, when the member has its answers."""
        self._error = error
        self.end()

    async def messages(self) -> AsyncGenerator[Message]:
        """Messages with events or answers, and one with neither whenever there was nothing to send for 15 s.

        Raises as `Member.next`, and the error given to `fail`.
        """
        sent_at = self._clock.monotonic()
        while True:
            if answers := self._take_answers():
                yield Message((), *answers, self._member.known_lag)
                sent_at = self._clock.monotonic()
            if self._ended and not self._settled and not self._lost:
                break
            idle_until = sent_at + HEARTBEAT_SECONDS
            deliveries = await self._member.next(self._credit, idle_until - self._clock.monotonic())
            if deliveries:
                self._credit -= len(deliveries)
                if answers := self._take_answers():  # what was lost comes before it is delivered again
                    yield Message((), *answers, self._member.known_lag)
                yield Message(tuple(deliveries), (), (), self._member.known_lag)
                sent_at = self._clock.monotonic()
            elif self._clock.monotonic() >= idle_until:
                yield Message((), (), (), await self._member.lag())
                sent_at = self._clock.monotonic()
        if self._error is not None:
            raise self._error

    def _take_answers(self) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
        answers = tuple(self._settled), (*self._lost, *self._member.take_lost())
        self._settled.clear()
        self._lost.clear()
        self._sent.set()
        return answers if any(answers) else None


def _refuse_invented(reports: Sequence[Report], last_tag: int) -> None:
    allowed = f"this stream has had the tags 1 to {last_tag}" if last_tag else "this stream has had no delivery yet"
    if invented := [
        Violation(f"settle.outcomes[{index}].tag", f"{report.tag}: {allowed}")
        for index, report in enumerate(reports)
        if not 1 <= report.tag <= last_tag
    ]:
        raise InvalidFieldError.of(invented)
