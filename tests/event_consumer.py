"""A member of a consumer group as a process of its own, with the client library: it writes down what it saw.

Every line goes to the end of one file that all members share, in one write, so that the file has them in the order in
which they happened, whoever is killed or stopped in between. The first line `done` of an event is its effect: what is
done again does nothing, as with a store that knows what it has.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import sys
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from mnemocore.calls import Identity
from mnemocore.client import InternalCredentials, as_identity, open_channel
from mnemocore.client.breaker import BreakerRule
from mnemocore.client.event_groups import Grouping
from mnemocore.client.failures import Reject, Retry
from mnemocore.client.services import Services
from mnemocore.clock import SystemClock
from mnemocore.errors import UnavailableError
from mnemocore.ids import Tenant

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from mnemocore.client.event_values import ConsumedEvent

IMPATIENT: Final = BreakerRule(reset=0.2)
"""Looks again soon whether the bus is back."""
TRANSIENT: Final = "transient"
POISON: Final = "poison"


class Recorded:
    """A running call of ConsumeEvents; notes what is given, and what is settled as done."""

    def __init__(self, call: Any, note: Callable[..., None]) -> None:
        self._call = call
        self._note = note
        self._given: dict[int, tuple[int, int]] = {}
        """By tag: position and attempt."""
        self._done: set[int] = set()

    async def write(self, request: Any) -> None:
        """Send one message."""
        for outcome in request.settle.outcomes:
            if outcome.WhichOneof("outcome") == "done":
                self._done.add(outcome.tag)
        await self._call.write(request)

    def cancel(self) -> bool:
        """End the call."""
        return bool(self._call.cancel())

    async def __aiter__(self) -> AsyncIterator[Any]:
        async for response in self._call:
            for tag in self._done.intersection(response.settled):
                position, attempt = self._given[tag]
                self._note("settled", position=position, attempt=attempt)
            for delivery in response.deliveries:
                stored = delivery.event
                self._given[delivery.tag] = stored.position, delivery.attempt
                self._note(
                    "delivered",
                    position=stored.position,
                    id=stored.event.id,
                    event_tenant=stored.event.tenant,
                    content=stored.event.data.decode(),
                    attempt=delivery.attempt,
                    replayed=delivery.replayed,
                )
            yield response


class Member:
    """One member: the first attempt at what is `transient` fails, `poison` is refused, the rest takes a moment."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self._arguments = arguments
        self._random = random.Random(arguments.seed)
        self._file = os.open(arguments.file, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    async def run(self) -> None:
        """Consume until the process is ended."""
        arguments = self._arguments
        channel = open_channel(arguments.address, InternalCredentials(arguments.token), breaker_rule=IMPATIENT)
        services = Services(channel, SystemClock(), 5.0)
        consume = services.groups.ConsumeEvents
        services.groups.ConsumeEvents = lambda: Recorded(consume(), self._note)  # type: ignore[assignment]
        with as_identity(Identity(Tenant(arguments.tenant), arguments.member, frozenset({"events:admin"}))):
            while True:
                with suppress(UnavailableError):  # it is not there yet when we begin: try again, as a supervisor would
                    await Grouping(services).consume(
                        arguments.group, self._do, concurrency=arguments.concurrency, member=arguments.member, dedup=100
                    )
                await asyncio.sleep(IMPATIENT.reset)

    async def _do(self, event: ConsumedEvent) -> None:
        content = event.data.decode()
        if content.startswith(POISON):
            raise Reject("nobody can do this")
        if content.startswith(TRANSIENT) and event.attempt == 1:
            raise Retry(after=timedelta(milliseconds=20))
        await asyncio.sleep(self._random.random() * self._arguments.slowness)
        self._note("done", id=event.id)

    def _note(self, what: str, **fields: object) -> None:
        said = {"what": what, "tenant": self._arguments.tenant, "member": self._arguments.member} | fields
        os.write(self._file, (json.dumps(said) + "\n").encode())


def main() -> int:
    """The process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("address")
    parser.add_argument("token")
    parser.add_argument("tenant")
    parser.add_argument("group")
    parser.add_argument("member")
    parser.add_argument("file")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--slowness", type=float, default=0.002, help="greatest seconds an event takes")
    parser.add_argument("--concurrency", type=int, default=8)
    asyncio.run(Member(parser.parse_args()).run())
    return 0


if __name__ == "__main__":
    sys.exit(main())
