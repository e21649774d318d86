"""A disk that is nearly full: writes are refused before PostgreSQL ends for want of space, reads go on."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mnemo_embedded.installation import Installation
from mnemocore.client import ResilientChannel
from mnemocore.errors import StoreFullError
from mnemocore.memory.v1 import memory_service_pb2 as pb
from mnemocore.memory.v1 import memory_service_pb2_grpc, resources_pb2, space_service_pb2, space_service_pb2_grpc
from mnemocore.postgres import DiskReserve
from mnemocore.testing.clock import ManualClock
from mnemocore.testing.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator

MORE_THAN_ANY_DISK = 2**62


@pytest.fixture
def folder() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="mnemo-test-"))
    yield path
    shutil.rmtree(path)


@pytest.mark.parametrize(("reserve", "full"), [(0, False), (MORE_THAN_ANY_DISK, True)])
async def test_the_reserve_is_compared_with_what_is_free(folder: Path, reserve: int, full: bool) -> None:
    clock = ManualClock()
    disk = DiskReserve(folder, clock, reserve)
    disk.check()
    watch = asyncio.create_task(disk.watch())
    await until(lambda: clock.sleepers == 1)
    if full:
        with pytest.raises(StoreFullError, match="are kept in reserve"):
            disk.check()
    else:
        disk.check()
    watch.cancel()


async def test_writes_are_refused_and_reads_go_on(folder: Path) -> None:
    memory = resources_pb2.MemoryInput(content="written while there was room")
    async with Installation(folder) as installation:
        channel = ResilientChannel(installation.channel, "embedded")
        spaces = space_service_pb2_grpc.SpaceServiceStub(channel)
        await spaces.CreateSpace(space_service_pb2.CreateSpaceRequest(space_id="s"))
        memories = memory_service_pb2_grpc.MemoryServiceStub(channel)
        await memories.CreateMemory(pb.CreateMemoryRequest(parent="spaces/s", memory=memory))
    async with Installation(folder, reserve_bytes=MORE_THAN_ANY_DISK) as installation:
        memories = memory_service_pb2_grpc.MemoryServiceStub(ResilientChannel(installation.channel, "embedded"))

        async def is_refused() -> bool:
            try:
                await memories.CreateMemory(pb.CreateMemoryRequest(parent="spaces/s", memory=memory))
            except StoreFullError:
                return True
            return False

        await until(is_refused)
        listed = await memories.ListMemories(pb.ListMemoriesRequest(parent="spaces/s"))
        assert listed.memories[0].content == memory.content
        name = listed.memories[0].name
        await memories.DeleteMemory(pb.DeleteMemoryRequest(name=name, purge=True))
