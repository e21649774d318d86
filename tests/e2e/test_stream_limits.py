"""How many streams an installation on a laptop holds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from mnemocore import connect
from mnemocore.errors import OverloadedError
from mnemocore.events.v1 import event_service_pb2 as pb
from mnemocore.events.v1 import event_service_pb2_grpc

if TYPE_CHECKING:
    from pathlib import Path

    from mnemocore import Connection


async def test_the_environment_says_how_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MNEMO_GATEWAY_MAX_STREAMS", "2")
    async with connect(f"embedded:{tmp_path}") as mnemo:
        open_ones = [await subscribed(mnemo) for _ in range(2)]
        with pytest.raises(OverloadedError):
            await subscribed(mnemo)
        open_ones.pop().cancel()


async def subscribed(mnemo: Connection) -> Any:
    """A stream that has been taken."""
    call = mnemo.stub(event_service_pb2_grpc.EventServiceStub).SubscribeEvents()
    start = pb.SubscribeEventsRequest.Start(credit=1, head_at_once=True)
    await call.write(pb.SubscribeEventsRequest(start=start))
    await call.read()
    return call
