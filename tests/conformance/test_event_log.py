"""The engines of the event log against their suite."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from mnemo_events.domain.event import Event
from mnemo_events.domain.filter import Filter, check_subjects, check_types
from mnemo_events.storage.postgres_log import PostgresLog
from mnemocore.ids import SpaceUid, Tenant
from mnemocore.postgres import Database, migrate
from mnemocore.testing.conformance.event_log import EventLogConformance, Sample

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from mnemocore.testing.postgres import TestPostgres


async def prepare(database: Database) -> None:
    await migrate(database, "mnemo_events.storage.migrations", schema="events")


class LogOfTheDomain(EventLogConformance):
    """The suite with the values of the domain, for every engine."""

    def event(self, sample: Sample) -> Event:
        return Event(
            id=sample.id,
            source=sample.source,
            type=sample.type,
            subject=sample.subject,
            time=datetime(2026, 1, 1, 12, 30, 15, 123456, tzinfo=UTC),
            datacontenttype="application/protobuf",
            dataschema="",
            data=sample.data,
            tenant=Tenant(sample.tenant),
            space_uid=SpaceUid(sample.space_uid),
            revision=2**40,
            traceparent="",
            correlation_id=sample.correlation_id,
            causation_id=sample.causation_id,
        )

    def where(
        self,
        *,
        types: tuple[str, ...] = (),
        space_uid: str = "",
        tenant: str = "",
        subjects: tuple[str, ...] = (),
    ) -> Filter:
        return Filter(
            check_types(types),
            SpaceUid(space_uid) if space_uid else None,
            Tenant(tenant) if tenant else None,
            check_subjects(subjects),
        )


class TestPostgresLog(LogOfTheDomain):
    @pytest.fixture(autouse=True)
    async def _databases(self, postgres: TestPostgres) -> AsyncIterator[None]:
        self._postgres = postgres
        self._url = await postgres.create(prepare)
        self._opened: list[Database] = []
        yield
        for database in self._opened:
            await database.close()
        await postgres.drop(self._url)

    async def open_log(self) -> PostgresLog:
        database = await self._postgres.open(self._url)
        self._opened.append(database)
        return PostgresLog(database)
