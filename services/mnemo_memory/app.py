"""The composition root of memory-core."""

from __future__ import annotations

import random
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Final

from mnemo_memory.api.association_service import AssociationServicer
from mnemo_memory.api.grant_service import GrantServicer
from mnemo_memory.api.media_service import MediaServicer
from mnemo_memory.api.memory_service import MemoryServicer
from mnemo_memory.api.session_service import SessionServicer
from mnemo_memory.api.space_service import SpaceServicer
from mnemo_memory.api.transfer_service import TransferServicer
from mnemo_memory.api.working_memory_service import WorkingMemoryServicer
from mnemo_memory.clients.event_log_client import EventLogClient
from mnemo_memory.clients.index_client import IndexClient
from mnemo_memory.domain.access import Access
from mnemo_memory.domain.active_days import ActiveDays
from mnemo_memory.domain.associations import Associations
from mnemo_memory.domain.erasure import ErasureRelay, Erasures
from mnemo_memory.domain.extensions import Extensions
from mnemo_memory.domain.fading import Fading
from mnemo_memory.domain.grants import Grants
from mnemo_memory.domain.hot_cache import HotCache
from mnemo_memory.domain.index_check import IndexCheck
from mnemo_memory.domain.media import MediaLibrary
from mnemo_memory.domain.memories import Memories
from mnemo_memory.domain.novelty import Novelty
from mnemo_memory.domain.recall import Recall
from mnemo_memory.domain.relay import Relay
from mnemo_memory.domain.sessions import Sessions
from mnemo_memory.domain.spaces import Spaces
from mnemo_memory.domain.stats import SpaceStats
from mnemo_memory.domain.tiers import TierKeeper
from mnemo_memory.domain.transfer import Transfer
from mnemo_memory.domain.uses import Uses
from mnemo_memory.domain.working_memory import WorkingMemory
from mnemo_memory.storage.change_notices import ChangeNotices
from mnemo_memory.storage.key_rotation import KeyRotation
from mnemo_memory.storage.master_rotation import MasterRotation
from mnemo_memory.storage.outdated_rows import OutdatedRows
from mnemo_memory.storage.postgres_active_days import PostgresActiveDays
from mnemo_memory.storage.postgres_associations import PostgresAssociations
from mnemo_memory.storage.postgres_contents import PostgresContents
from mnemo_memory.storage.postgres_erasure import PostgresErasures
from mnemo_memory.storage.postgres_fading import PostgresFading
from mnemo_memory.storage.postgres_grants import PostgresGrants
from mnemo_memory.storage.postgres_media import PostgresMedia
from mnemo_memory.storage.postgres_sessions import PostgresSessions
from mnemo_memory.storage.postgres_spaces import PostgresSpaces
from mnemo_memory.storage.postgres_stats import PostgresStats
from mnemo_memory.storage.postgres_store import REQUEST_LIFE_HOURS, PostgresStore
from mnemo_memory.storage.postgres_tiers import PostgresTiers
from mnemo_memory.storage.postgres_transfer import PostgresTransfer
from mnemo_memory.storage.postgres_vault import PostgresVault
from mnemo_memory.storage.postgres_working_memory import PostgresWorkingMemory
from mnemocore.master_keys import FixedMasterKeys
from mnemocore.memory.v1 import (
    association_service_pb2_grpc,
    grant_service_pb2_grpc,
    media_service_pb2_grpc,
    memory_service_pb2_grpc,
    session_service_pb2_grpc,
    space_service_pb2_grpc,
    transfer_service_pb2_grpc,
    working_memory_service_pb2_grpc,
)
from mnemocore.postgres import migrate
from mnemocore.sealing import MasterKeys
from mnemocore.server import BackgroundTask, Service
from mnemocore.telemetry import gauge

if TYPE_CHECKING:
    import grpc

    from mnemo_memory.domain.memory import Space
    from mnemo_memory.domain.ports import Author
    from mnemocore.clock import Clock
    from mnemocore.ids import SpaceUid
    from mnemocore.master_keys import MasterKeySource
    from mnemocore.postgres import Database, DiskReserve

_CLEANING_SECONDS: Final = 3600.0
_SWEEPING_SECONDS: Final = 5.0
_SWEPT_AT_ONCE: Final = 500
_WORKING_MEMORY_CLEANING_SECONDS: Final = 60.0


class MemoryApp:
    """memory-core on a database, with channels to the index and the event-bus.

    `reserve` watches the disk of a database on this machine. `consolidation_seconds` and `index_check_seconds` 0 mean
    never.
    """

    name = "memory"

    def __init__(
        self,
        database: Database,
        index_channel: grpc.aio.Channel,
        events_channel: grpc.aio.Channel,
        clock: Clock,
        relay_poll_seconds: float = 1.0,
        reserve: DiskReserve | None = None,
        master_keys: MasterKeySource | None = None,
        consolidation_seconds: float = 60.0,
        index_check_seconds: float = 3600.0,
    ) -> None:
        self._database = database
        self._clock = clock
        keys = master_keys or FixedMasterKeys(MasterKeys())
        check_room = reserve.check if reserve else _always_room
        self._vault = PostgresVault(database, keys)
        self._store = PostgresStore(database, self._vault)
        spaces, grants = PostgresSpaces(database, self._vault), PostgresGrants(database, self._vault)
        erasure_store = PostgresErasures(database)
        index, log = IndexClient(index_channel, self._vault, clock), EventLogClient(events_channel, self._vault)
        self._relay = Relay(spaces, self._store, log, clock, relay_poll_seconds, gauge("mnemo.relay.lag").set)
        erasure_relay = ErasureRelay(erasure_store, log, clock, relay_poll_seconds)
        active_days = ActiveDays(PostgresActiveDays(database), clock)
        access = Access(spaces, grants, clock, active_days.note)
        looking_after = Access(spaces, grants, clock)
        self._grants = Grants(grants, looking_after, clock)
        notices = ChangeNotices(database)
        cache = self._cache = HotCache(clock, notices.announce)
        self._uses = Uses(self._store, clock)
        association_store = PostgresAssociations(database, self._vault)
        associations = Associations(association_store, self._store, access, clock, check_room)
        novelty = Novelty(index, self._store, Extensions(association_store), clock)
        media_store = PostgresMedia(database, self._vault)
        self._media = MediaLibrary(media_store, self._store, access, clock, check_room)
        wake = self._relay.wake
        memories = Memories(self._store, access, self._media, novelty, self._uses, cache, clock, wake, check_room)
        recall = Recall(self._store, index, access, associations, self._uses, clock)
        working_memory = WorkingMemory(
            PostgresWorkingMemory(database, self._vault, self._store), access, clock, novelty, wake, check_room
        )
        sessions = Sessions(
            PostgresSessions(database, self._vault, self._store), access, self._media, clock, wake, check_room
        )
        transfer = Transfer(
            PostgresTransfer(database, self._vault), media_store, looking_after, clock, wake, cache.drop, check_room
        )
        rotation = KeyRotation(database, self._vault, self._republish, index.settled)

        def removed(space_uid: SpaceUid) -> None:
            cache.drop_space(space_uid)
            self._vault.forget(space_uid)
            erasure_relay.wake()

        self._tasks = [
            BackgroundTask("relay", self._relay.run),
            BackgroundTask("erasures", erasure_relay.run),
            BackgroundTask("reclaiming", erasure_relay.reclaim),
            BackgroundTask("change notices", notices.send),
            BackgroundTask("change listener", partial(notices.listen, cache)),
            BackgroundTask("uses", self._uses.run),
            BackgroundTask("active days", active_days.run),
            BackgroundTask("fading", Fading(PostgresFading(database), clock).run),
            BackgroundTask("sweeper", self._sweep),
            BackgroundTask("tiers", TierKeeper(PostgresTiers(database), clock, cache.drop).run),
            BackgroundTask("outdated rows", OutdatedRows(database, clock).run),
            BackgroundTask("master keys", MasterRotation(database, keys, clock).run),
            BackgroundTask("working memory", partial(working_memory.keep_clean, _WORKING_MEMORY_CLEANING_SECONDS)),
            BackgroundTask("cleaning", self._clean),
        ]
        if index_check_seconds:
            check = IndexCheck(
                PostgresContents(database), index, self._republish, clock, index_check_seconds, random.Random()
            )
            self._tasks.append(BackgroundTask("index check", check.run))
        if consolidation_seconds:
            keep = partial(working_memory.keep_consolidating, consolidation_seconds)
            self._tasks.append(BackgroundTask("consolidation", keep))
        if reserve:
            self._tasks.append(BackgroundTask("disk reserve", reserve.watch))
        self.services = [
            Service(
                MemoryServicer(memories, recall, active_days, clock),
                memory_service_pb2_grpc.add_MemoryServiceServicer_to_server,
                "mnemocore.memory.v1.MemoryService",
            ),
            Service(
                SpaceServicer(
                    Spaces(spaces, self._store, rotation, looking_after, clock, wake),
                    SpaceStats(PostgresStats(database, self._vault), looking_after, clock),
                    Erasures(erasure_store, looking_after, clock, removed),
                ),
                space_service_pb2_grpc.add_SpaceServiceServicer_to_server,
                "mnemocore.memory.v1.SpaceService",
            ),
            Service(
                GrantServicer(self._grants),
                grant_service_pb2_grpc.add_GrantServiceServicer_to_server,
                "mnemocore.memory.v1.GrantService",
            ),
            Service(
                AssociationServicer(associations),
                association_service_pb2_grpc.add_AssociationServiceServicer_to_server,
                "mnemocore.memory.v1.AssociationService",
            ),
            Service(
                MediaServicer(self._media),
                media_service_pb2_grpc.add_MediaServiceServicer_to_server,
                "mnemocore.memory.v1.MediaService",
            ),
            Service(
                WorkingMemoryServicer(working_memory),
                working_memory_service_pb2_grpc.add_WorkingMemoryServiceServicer_to_server,
                "mnemocore.memory.v1.WorkingMemoryService",
            ),
            Service(
                SessionServicer(sessions),
                session_service_pb2_grpc.add_SessionServiceServicer_to_server,
                "mnemocore.memory.v1.SessionService",
            ),
            Service(
                TransferServicer(transfer),
                transfer_service_pb2_grpc.add_TransferServiceServicer_to_server,
                "mnemocore.memory.v1.TransferService",
            ),
        ]

    async def start(self) -> None:
        """Migrate the database and start the relay."""
        await migrate(self._database, "mnemo_memory.storage.migrations", schema="memory")
        await self._store.open()
        await self._vault.open()
        for task in self._tasks:
            await task.start()

    async def stop(self) -> None:
        """Stop the relay. What is not published yet is published after the next start."""
        for task in reversed(self._tasks):
            await task.stop()
        await self._media.close()

    async def ready(self) -> bool:
        """Whether the store answers."""
        return await self._database.ready()

    async def _republish(self, space: Space, author: Author) -> int:
        count = await self._store.republish(space, author)
        self._relay.wake()
        return count

    async def _sweep(self) -> None:
        while True:
            if await self._store.sweep(self._clock.now(), _SWEPT_AT_ONCE, self._cache.drop):
                self._relay.wake()
            else:
                await self._clock.sleep(_SWEEPING_SECONDS)

    async def _clean(self) -> None:
        while True:
            now = self._clock.now()
            await self._store.forget_old_requests(now - timedelta(hours=REQUEST_LIFE_HOURS))
            await self._media.clean(now)
            await self._grants.forget_expired()
            await self._clock.sleep(_CLEANING_SECONDS)


def _always_room() -> None:
    """The disk of a database elsewhere is not ours to watch."""
