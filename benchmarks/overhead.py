"""What the shared library adds to a call: the policy of the channel, the field rules, and an open circuit's refusal.

The channel stands over a transport that answers at once; beside it, the same transport without the channel. The times
are those of the fastest of several rounds.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import grpc

from benchmarks.speed import sentences
from mnemocore.client import ResilientChannel
from mnemocore.errors import CircuitOpenError, MnemoError
from mnemocore.memory.v1 import memory_service_pb2, resources_pb2, space_service_pb2
from mnemocore.memory.v1.space_service_pb2_grpc import SpaceServiceStub
from mnemocore.server import Validator
from mnemocore.wire import to_timestamp

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

CALLS: Final = 2_000
BATCH: Final = 1_000
ROUNDS: Final = 5

_REQUEST: Final = space_service_pb2.GetSpaceRequest(name="spaces/a")


class Immediate:
    """A transport whose calls end at once: with the request, or with UNAVAILABLE."""

    def __init__(self, *, dead: bool = False) -> None:
        self._dead = dead

    def unary_unary(self, *_: Any) -> Any:
        """A method with one request and one response."""

        async def answer(request: Any, **_: Any) -> Any:
            if self._dead:
                nothing = grpc.aio.Metadata()
                raise grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, nothing, nothing)
            return request

        return answer


async def microseconds(call: Callable[[], Awaitable[object]]) -> float:
    """The time of one of CALLS calls, made one after the other, in the fastest of ROUNDS rounds."""
    fastest = float("inf")
    for _ in range(ROUNDS):
        started = time.perf_counter()
        for _ in range(CALLS):
            await call()
        fastest = min(fastest, time.perf_counter() - started)
    return fastest / CALLS * 1e6


def _stub(transport: Immediate) -> Any:
    return SpaceServiceStub(ResilientChannel(transport, "benchmark"))  # type: ignore[arg-type]  # as much as is asked of it


async def channel() -> tuple[float, float]:
    """Microseconds of a call without and with the channel."""
    bare, stub = Immediate().unary_unary(), _stub(Immediate())
    return await microseconds(lambda: bare(_REQUEST)), await microseconds(lambda: stub.GetSpace(_REQUEST))


async def refusal() -> float:
    """Microseconds until an open circuit has refused a call."""
    stub = _stub(Immediate(dead=True))

    async def refused() -> None:
        try:
            await stub.GetSpace(_REQUEST)
        except CircuitOpenError:
            return
        raise SystemExit("the circuit is not open")

    for _ in range(5):
        try:
            await stub.GetSpace(_REQUEST)
        except MnemoError:
            continue
    return await microseconds(refused)


async def field_rules() -> float:
    """Microseconds to check one of BATCH memories of a request."""
    memories = [
        resources_pb2.MemoryInput(
            content=text,
            tags=["a", "b"],
            actor="Ada",
            session="s1",
            occurred_at=to_timestamp(datetime(2026, 1, 1, tzinfo=UTC)),
        )
        for text in sentences(BATCH, seed=1)
    ]
    request = memory_service_pb2.BatchCreateMemoriesRequest(parent="spaces/a", memories=memories)
    validator = Validator.for_message(request.DESCRIPTOR)
    if found := validator.violations(request):
        raise SystemExit(f"the request is not valid: {found[0]}")
    fastest = float("inf")
    for _ in range(ROUNDS):
        started = time.perf_counter()
        validator.violations(request)
        fastest = min(fastest, time.perf_counter() - started)
    return fastest / BATCH * 1e6


async def measure() -> dict[str, float]:
    """All figures, in microseconds."""
    bare, whole = await channel()
    return {
        "call_without_channel": bare,
        "call_through_channel": whole,
        "refusal_by_open_circuit": await refusal(),
        "field_rules_per_memory": await field_rules(),
    }


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overhead", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    arguments = parser.parse_args()
    figures = asyncio.run(measure())
    if arguments.json:
        print(json.dumps(figures))
    else:
        for name, value in figures.items():
            print(f"{name.replace('_', ' '):<26} {value:8.2f} us")
    return 0


if __name__ == "__main__":
    sys.exit(main())
