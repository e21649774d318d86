"""The composition root of the index."""

from __future__ import annotations

import asyncio
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Final

from mnemo_index import wire
from mnemo_index.api.encoder_service import EncoderServicer
from mnemo_index.api.hypervector_service import HypervectorServicer
from mnemo_index.api.index_service import IndexServicer
from mnemo_index.clients.feed_client import FeedClient
from mnemo_index.domain.backlog import Backlog, Bell
from mnemo_index.domain.encoder import AbsentEncoder
from mnemo_index.domain.hypervectors import HypervectorAlgebra
from mnemo_index.domain.models import VARIABLE, EncoderChoice
from mnemo_index.domain.projection import Projection
from mnemo_index.domain.query_cache import QueryCache
from mnemo_index.domain.reencoding import Reencoding
from mnemo_index.domain.revisions import Revisions
from mnemo_index.domain.sealed_space import SealedSpace
from mnemo_index.domain.share import EVERYTHING, Share
from mnemo_index.domain.space_index import SpaceIndex
from mnemo_index.domain.waiting_texts import WaitingTexts
from mnemo_index.domain.words import DEFAULT_LANGUAGE, Stems
from mnemo_index.storage.encoders import open_encoders
from mnemo_index.storage.generations import GenerationStore
from mnemo_index.storage.hamming_scan import hamming_distances
from mnemo_index.storage.milvus_spaces import MilvusSpaces
from mnemo_index.storage.milvus_store import MilvusStore
from mnemo_index.storage.model_records import ModelRecords
from mnemocore.errors import InvalidSettingError
from mnemocore.index.v1 import encoder_service_pb2_grpc, hypervector_service_pb2_grpc, index_service_pb2_grpc
from mnemocore.server import BackgroundTask, Service
from mnemocore.telemetry import counter, gauge

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import grpc

    from mnemo_index.domain.encoder import Encoder
    from mnemo_index.domain.models import Encoders
    from mnemo_index.domain.residents import Held
    from mnemo_index.domain.state import SpaceState
    from mnemocore.clock import Clock
    from mnemocore.ids import SpaceUid


KEEP_REPLACED: Final = timedelta(days=7)
"""How long older vectors are kept for a rollback."""
QUESTION_THREADS: Final = 16
"""Questions that may be with a remote encoder at the same time."""
DEFAULT_CHOICE: Final = EncoderChoice()


class IndexApp:
    """The index with its encoder and snapshots, and a channel to the event-bus.

    `memory_budget` is in bytes; 0: no limit. `share` says which spaces are held.
    """

    name = "index"

    def __init__(
        self,
        encoders: Encoders,
        snapshots: GenerationStore,
        events_channel: grpc.aio.Channel,
        clock: Clock,
        search_threads: int = 2,
        save_seconds: float = 30.0,
        memory_budget: int = 0,
        share: Share = EVERYTHING,
        milvus: MilvusStore | None = None,
        keep_replaced: timedelta = KEEP_REPLACED,
        language: str = DEFAULT_LANGUAGE,
    ) -> None:
        self._encoders = encoders
        encoder, feed, bell = encoders.chosen, FeedClient(events_channel), Bell()
        self._executor = ThreadPoolExecutor(search_threads + 1, thread_name_prefix="mnemo-index")
        # A thread of its own: however much is asked of the algebra, searches are not kept waiting.
        self._algebra_executor = ThreadPoolExecutor(1, thread_name_prefix="mnemo-hypervector")
        # Remote encoders keep neither searches nor one another waiting: a thread for each question under way.
        self._question_executor = ThreadPoolExecutor(QUESTION_THREADS, thread_name_prefix="mnemo-question")
        self._encoding_executor = ThreadPoolExecutor(2, thread_name_prefix="mnemo-encoding")
        self._milvus = milvus
        stems = Stems(language)
        local = _Spaces(encoders, stems, bell.ring)
        self.projection = Projection(
            local if milvus is None else MilvusSpaces(local, milvus, encoder, stems, hamming_distances),
            snapshots,
            feed,
            clock,
            self._executor,
            gauge("mnemo.index.lag").set,
            partial(counter("mnemo.index.drift").add, 1),
            gauge("mnemo.index.resident").set,
            memory_budget,
            share,
            bell.ring,
        )
        waiting = gauge("mnemo.index.waiting").set
        self._backlog = Backlog(self.projection, feed, clock, self._encoding_executor, bell, waiting)
        self._reencoding = Reencoding(
            self.projection,
            local,
            snapshots.building,
            snapshots.replaced,
            snapshots.plans,
            feed,
            clock,
            self._encoding_executor,
            keep_replaced,
            encoders.openable,
        )
        self._tasks = [
            BackgroundTask("projection", self.projection.follow),
            BackgroundTask("snapshots", lambda: self.projection.keep_saving(save_seconds)),
            BackgroundTask("lost spaces", self.projection.keep_healing),
            BackgroundTask("vectors", self._backlog.work),
            BackgroundTask("re-encoding", self._reencoding.work),
            BackgroundTask("replaced vectors", self._reencoding.keep_expiring),
        ]
        self.services = [
            Service(
                IndexServicer(self.projection, encoders, self._backlog, self._question_executor, clock),
                index_service_pb2_grpc.add_IndexServiceServicer_to_server,
                "mnemocore.index.v1.IndexService",
            ),
            Service(
                HypervectorServicer(HypervectorAlgebra(encoder), self._algebra_executor),
                hypervector_service_pb2_grpc.add_HypervectorServiceServicer_to_server,
                "mnemocore.index.v1.HypervectorService",
            ),
            Service(
                EncoderServicer(self.projection, encoders, self._backlog, self._reencoding),
                encoder_service_pb2_grpc.add_EncoderServiceServicer_to_server,
                "mnemocore.index.v1.EncoderService",
            ),
        ]

    @classmethod
    async def open(
        cls,
        directory: Path,
        events_channel: grpc.aio.Channel,
        clock: Clock,
        search_threads: int = 2,
        save_seconds: float = 30.0,
        memory_budget: int = 0,
        share: Share = EVERYTHING,
        milvus: tuple[str, str] | None = None,
        choice: EncoderChoice = DEFAULT_CHOICE,
        keep_replaced: timedelta = KEEP_REPLACED,
        language: str = DEFAULT_LANGUAGE,
    ) -> IndexApp:
        """The index with the snapshots of `directory` and the encoder that is chosen.

        With `milvus`, an address and a token, spaces are held there. Raises InvalidSettingError for an address or an
        encoder that is none, PeerUnavailableError if Milvus does not answer.
        """
        encoders = await asyncio.to_thread(_encoders, directory, choice, clock)
        encoder = encoders.chosen
        if milvus and encoders.remote(encoder.model):
            text = (
                f"{VARIABLE} = {choice.setting!r}: with Milvus allowed is wordllama or sentence-transformers:DIRECTORY"
            )
            raise InvalidSettingError(text, setting=VARIABLE)
        snapshots = await asyncio.to_thread(GenerationStore, directory, language)
        store = None
        if milvus:
            uri, token = milvus
            made_for = (encoder.model, encoder.dimension, language)
            store = await asyncio.to_thread(MilvusStore.open, uri, token, *made_for)
        rest = (search_threads, save_seconds, memory_budget, share, store, keep_replaced, language)
        return cls(encoders, snapshots, events_channel, clock, *rest)

    async def start(self) -> None:
        """Load the snapshots and follow the event log from there."""
        await self.projection.load()
        await self._reencoding.load()
        for task in self._tasks:
            await task.start()

    async def stop(self) -> None:
        """Stop following and write the snapshots."""
        try:
            for task in reversed(self._tasks):
                await task.stop()
            await self.projection.save()
        finally:
            await asyncio.to_thread(self._encoders.close)
            await asyncio.to_thread(self._question_executor.shutdown)
            await asyncio.to_thread(self._encoding_executor.shutdown)
            await asyncio.to_thread(self._algebra_executor.shutdown)
            await asyncio.to_thread(self._executor.shutdown)
            if self._milvus is not None:
                await asyncio.to_thread(self._milvus.close)

    async def ready(self) -> bool:
        """Whether the snapshots are loaded: the index answers from what it has and says how far that is."""
        return True


def _encoders(directory: Path, choice: EncoderChoice, clock: Clock) -> Encoders:
    questions = counter("mnemo.index.query_cache")
    cache = QueryCache(count=lambda found: questions.add(1, {"outcome": "hit" if found else "miss"}))
    return open_encoders(choice, ModelRecords(directory), cache, clock)


class _Spaces:
    """Makes indexes with the encoders of their vectors, one set of stems and the fast scan.

    `arrived` is called when a memory waits for its vector.
    """

    def __init__(self, encoders: Encoders, stems: Stems, arrived: Callable[[], object]) -> None:
        self._encoders = encoders
        self._arrived = arrived
        self._stems = stems

    @property
    def model(self) -> str:
        """The model of what is new."""
        return self._encoders.chosen.model

    def reads(self, model: str) -> bool:
        """Whether states of a model can be restored: of every one that is on record, if need be without its encoder."""
        return not model or self._encoders.knows(model)

    def new(self, space_uid: SpaceUid, after: int = 0) -> SpaceIndex:
        """An empty index for changes after a revision."""
        encoder = self._encoders.chosen
        waiting = WaitingTexts(arrived=self._arrived)
        index = SpaceIndex(
            encoder, self._stems, hamming_distances, deferred=self._may_take_long(encoder), waiting=waiting
        )
        index.revisions = Revisions(after)
        return index

    def sealed(self, space_uid: SpaceUid, revisions: Revisions) -> SealedSpace:
        """An encrypted space without memories."""
        return SealedSpace(space_uid, self._opened(), wire.read_document, revisions)

    def restored(self, space_uid: SpaceUid, state: SpaceState) -> Held:
        """What a state was taken of, with the encoder of its model; an encrypted space is locked."""
        if state.sealed:
            return SealedSpace.restored(space_uid, state, self._opened(), wire.read_document)
        encoder = self._encoders.of(state.model, state.arrays["vectors"].shape[1])
        waiting, deferred = WaitingTexts(arrived=self._arrived), self._may_take_long(encoder)
        return SpaceIndex.restored(state, encoder, self._stems, hamming_distances, deferred=deferred, waiting=waiting)

    def _opened(self) -> SpaceIndex:
        """An empty index for what is opened of an encrypted space: its texts are not in the log, so all are kept."""
        encoder = self._encoders.encrypted
        waiting = WaitingTexts(sys.maxsize, self._arrived)
        return SpaceIndex(
            encoder, self._stems, hamming_distances, deferred=self._may_take_long(encoder), waiting=waiting
        )

    def _may_take_long(self, encoder: Encoder) -> bool:
        return isinstance(encoder, AbsentEncoder) or self._encoders.remote(encoder.model)

    def forget(self, space_uid: SpaceUid) -> None:
        """Nothing of an erased space is anywhere else."""
