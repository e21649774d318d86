"""Readers of an event-bus in a process of their own, for `benchmarks.events`.

Prints `ready` when all streams are open, then one JSON line when every reader, or a group together, has had the events
it waits for. Idle and stalled readers stay until their input is closed. What takes long tells on the standard error how
far it is.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from array import array
from typing import TYPE_CHECKING, Any, Final

import grpc
import numpy as np
import uvloop

from mnemocore import calls
from mnemocore.events.v1 import (
    event_service_pb2,
    event_service_pb2_grpc,
    group_service_pb2,
    group_service_pb2_grpc,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable

TENANT: Final = "bench"
SCOPES: Final = "events:admin"
CREDIT: Final = 4096
STALLED_CREDIT: Final = 10_000
PATIENCE_SECONDS: Final = 600.0
LEAST_RATE: Final = 500
"""Events a second; readers that are slower are given up, but not before PATIENCE_SECONDS."""
PROGRESS_SECONDS: Final = 10.0
STAMP_BYTES: Final = 8
"""The payload of an event begins with the time it was due, in nanoseconds of the system's monotonic clock."""


def headers(token: str) -> list[tuple[str, str]]:
    """What the gateway sends along for an administrator of events."""
    return [
        (calls.INTERNAL_TOKEN_HEADER, token),
        (calls.TENANT_HEADER, TENANT),
        (calls.PRINCIPAL_HEADER, "bench"),
        (calls.SCOPES_HEADER, SCOPES),
    ]


class Readers:
    """Reads from one bus until enough came; every reader has a connection of its own."""

    def __init__(self, address: str, token: str, after: int, wanted: int) -> None:
        self._address = address
        self._metadata = headers(token)
        self._after = after
        self._wanted = wanted
        self._opened = 0
        self._more = asyncio.Event()
        self.latencies = array("q")
        self.last = 0
        self.received = 0
        self.again = 0
        self.settled = 0

    async def run(self, readers: int, kind: str) -> None:
        """Let so many readers read; returns when they have had what they wait for."""
        read = {"plain": self._plain, "group": self._member, "idle": self._idle, "stalled": self._stalled}[kind]
        await self._all(readers, read)

    async def _all(self, readers: int, read: Callable[[grpc.aio.Channel, int], Coroutine[Any, Any, None]]) -> None:
        self._readers = readers
        channels = [
            grpc.aio.insecure_channel(self._address, options=[("grpc.use_local_subchannel_pool", 1)])
            for _ in range(readers)
        ]
        tasks: list[asyncio.Task[None]] = [
            asyncio.create_task(read(channel, place)) for place, channel in enumerate(channels)
        ]
        progress = asyncio.create_task(self._tell_progress())
        if read == self._member:
            tasks.append(asyncio.create_task(self._group_had_all()))
        try:
            waits = asyncio.FIRST_COMPLETED if read == self._member else asyncio.FIRST_EXCEPTION
            done, _ = await asyncio.wait(tasks, return_when=waits)
            for task in done:
                task.result()
        finally:
            for task in (*tasks, progress):
                task.cancel()
            await asyncio.gather(*tasks, progress, return_exceptions=True)
            for channel in channels:
                await channel.close()

    async def _subscribe(self, channel: grpc.aio.Channel, credit: int) -> Any:
        call = event_service_pb2_grpc.EventServiceStub(channel).SubscribeEvents(metadata=self._metadata)
        start = event_service_pb2.SubscribeEventsRequest.Start(
            after_position=self._after, credit=credit, head_at_once=True
        )
        await call.write(event_service_pb2.SubscribeEventsRequest(start=start))
        return call

    async def _plain(self, channel: grpc.aio.Channel, place: int) -> None:
        call = await self._subscribe(channel, CREDIT)
        had, spent = 0, 0
        page = await call.read()
        self._ready()
        while True:
            self._take(stored.event.data for stored in page.events)
            had += len(page.events)
            spent += len(page.events)
            if had >= self._wanted:
                call.cancel()
                return
            if spent >= CREDIT // 4:
                credit = event_service_pb2.SubscribeEventsRequest.Credit(events=spent)
                await call.write(event_service_pb2.SubscribeEventsRequest(credit=credit))
                spent = 0
            page = await call.read()

    async def _member(self, channel: grpc.aio.Channel, place: int) -> None:
        call: Any = group_service_pb2_grpc.GroupServiceStub(channel).ConsumeEvents(metadata=self._metadata)
        request = group_service_pb2.ConsumeEventsRequest
        start = request.Start(name="groups/bench", member=f"member-{place}", credit=CREDIT)
        await call.write(request(start=start))
        self._ready()
        while True:
            answer = await call.read()
            deliveries = answer.deliveries
            self._settle(len(answer.settled))
            if not deliveries:
                continue
            self._take(delivery.event.event.data for delivery in deliveries if delivery.attempt == 1)
            self.again += sum(delivery.attempt > 1 for delivery in deliveries)
            for begin in range(0, len(deliveries), 1000):
                outcomes = [
                    request.Outcome(tag=delivery.tag, done=request.Done())
                    for delivery in deliveries[begin : begin + 1000]
                ]
                await call.write(request(settle=request.Settle(outcomes=outcomes)))
            await call.write(request(credit=request.Credit(events=len(deliveries))))

    async def _group_had_all(self) -> None:
        while self.settled < self._wanted:
            self._more.clear()
            await self._more.wait()

    async def _idle(self, channel: grpc.aio.Channel, place: int) -> None:
        call = await self._subscribe(channel, CREDIT)
        await call.read()
        self._ready()
        await _until_input_ends()
        call.cancel()

    async def _stalled(self, channel: grpc.aio.Channel, place: int) -> None:
        call = await self._subscribe(channel, STALLED_CREDIT)
        self._ready()
        await _until_input_ends()
        call.cancel()

    async def _tell_progress(self) -> None:
        while True:
            await asyncio.sleep(PROGRESS_SECONDS)
            if self._wanted:
                print(f"    received {self.received}, each reader or the group wants {self._wanted}", file=sys.stderr)

    def _ready(self) -> None:
        self._opened += 1
        if self._opened == self._readers:
            print("ready", flush=True)

    def _settle(self, count: int) -> None:
        self.settled += count
        self.last = time.monotonic_ns()
        self._more.set()

    def _take(self, payloads: Iterable[bytes]) -> None:
        now = time.monotonic_ns()
        ages = [now - int.from_bytes(data[:STAMP_BYTES], "big") for data in payloads]
        if ages:
            self.last = now
            self.received += len(ages)
            self.latencies.extend(ages)


async def _until_input_ends() -> None:
    await asyncio.to_thread(sys.stdin.read)


async def follow(arguments: argparse.Namespace) -> None:
    """Read, and print what was seen."""
    readers = Readers(arguments.address, arguments.token, arguments.after, arguments.wanted)
    began = time.monotonic_ns()
    async with asyncio.timeout(max(PATIENCE_SECONDS, arguments.wanted / LEAST_RATE)):
        await readers.run(arguments.readers, arguments.kind)
    found = {"received": readers.received, "again": readers.again, "seconds": (readers.last - began) / 1e9}
    if readers.latencies:
        milliseconds = np.frombuffer(readers.latencies, np.int64) / 1e6
        found |= {f"p{share}_ms": float(np.percentile(milliseconds, share)) for share in (50, 95, 99)}
    print(json.dumps(found), flush=True)


def main() -> int:
    """The process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("address")
    parser.add_argument("token")
    parser.add_argument("kind", choices=("plain", "group", "idle", "stalled"))
    parser.add_argument("--readers", type=int, default=1)
    parser.add_argument("--after", type=int, default=0, help="the position after which plain readers begin")
    parser.add_argument("--wanted", type=int, default=0, help="events of each plain reader, or of the group")
    try:
        uvloop.run(follow(parser.parse_args()))
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
