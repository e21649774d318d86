"""The composition root of the index."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from mnemo_index import wire
from mnemo_index.api.index_service import IndexServicer
from mnemo_index.clients.feed_client import FeedClient
from mnemo_index.domain.projection import Projection
from mnemo_index.domain.sealed_space import SealedSpace
from mnemo_index.domain.space_index import SpaceIndex
from mnemo_index.domain.words import Stems
from mnemo_index.storage.hamming_scan import hamming_distances
from mnemo_index.storage.snapshots import SnapshotStore
from mnemo_index.storage.wordllama_encoder import WordLlamaEncoder
from mnemocore.index.v1 import index_service_pb2_grpc
from mnemocore.server import BackgroundTask, Service
from mnemocore.telemetry import gauge

if TYPE_CHECKING:
    from pathlib import Path

    import grpc

    from mnemo_index.domain.encoder import Encoder
    from mnemo_index.domain.projection import Held
    from mnemo_index.domain.revisions import Revisions
    from mnemo_index.domain.state import SpaceState
    from mnemocore.clock import Clock
    from mnemocore.ids import SpaceUid


class IndexApp:
    """The index with its encoder and snapshots, and a channel to the event-bus."""

    name = "index"

    def __init__(
        self,
        encoder: Encoder,
        snapshots: SnapshotStore,
        events_channel: grpc.aio.Channel,
        clock: Clock,
        search_threads: int = 2,
        save_seconds: float = 30.0,
    ) -> None:
        self._executor = ThreadPoolExecutor(search_threads + 1, thread_name_prefix="mnemo-index")
        self._projection = Projection(
            _Spaces(encoder),
            snapshots,
            FeedClient(events_channel),
            clock,
            self._executor,
            gauge("mnemo.index.lag").set,
        )
        self._tasks = [
            BackgroundTask("projection", self._projection.follow),
            BackgroundTask("snapshots", lambda: self._projection.keep_saving(save_seconds)),
        ]
        self.services = [
            Service(
                IndexServicer(self._projection, encoder, clock),
                index_service_pb2_grpc.add_IndexServiceServicer_to_server,
                "mnemocore.index.v1.IndexService",
            )
        ]

    @classmethod
    async def open(
        cls,
        directory: Path,
        events_channel: grpc.aio.Channel,
        clock: Clock,
        search_threads: int = 2,
        save_seconds: float = 30.0,
    ) -> IndexApp:
        """The index with the snapshots of `directory` and the default encoder."""
        encoder = await asyncio.to_thread(WordLlamaEncoder.load)
        snapshots = await asyncio.to_thread(SnapshotStore, directory)
        return cls(encoder, snapshots, events_channel, clock, search_threads, save_seconds)

    async def start(self) -> None:
        """Load the snapshots and follow the event log from there."""
        await self._projection.load()
        for task in self._tasks:
            await task.start()

    async def stop(self) -> None:
        """Stop following and write the snapshots."""
        try:
            for task in reversed(self._tasks):
                await task.stop()
            await self._projection.save()
        finally:
            await asyncio.to_thread(self._executor.shutdown)

    async def ready(self) -> bool:
        """Whether the snapshots are loaded: the index answers from what it has and says how far that is."""
        return True


class _Spaces:
    """Makes indexes with one encoder, one set of stems and the fast scan."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self._stems = Stems()

    @property
    def model(self) -> str:
        """The model of the encoder."""
        return self._encoder.model

    def new(self) -> SpaceIndex:
        """An empty index."""
        return SpaceIndex(self._encoder, self._stems, hamming_distances)

    def sealed(self, space_uid: SpaceUid, revisions: Revisions) -> SealedSpace:
        """An encrypted space without memories."""
        return SealedSpace(space_uid, self.new(), wire.read_document, revisions)

    def restored(self, space_uid: SpaceUid, state: SpaceState) -> Held:
        """What a state was taken of; an encrypted space is locked. Raises ValueError if it is of another model."""
        if state.sealed:
            return SealedSpace.restored(space_uid, state, self.new(), wire.read_document)
        return SpaceIndex.restored(state, self._encoder, self._stems, hamming_distances)
