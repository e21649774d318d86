"""The engines of consumer groups against their suite."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from mnemo_events.domain.filter import Filter, check_subjects, check_types
from mnemo_events.domain.group import MAX_WAITING, Fresh, Group, Outcome
from mnemo_events.storage.postgres_groups import PostgresGroups
from mnemocore.ids import SpaceUid, Tenant
from mnemocore.postgres import Database, migrate
from mnemocore.testing.conformance.event_groups import EventGroupsConformance, Sample

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from mnemocore.testing.postgres import TestPostgres


async def prepare(database: Database) -> None:
    await migrate(database, "mnemo_events.storage.migrations", schema="events")


class GroupsOfTheDomain(EventGroupsConformance):
    """The suite with the values of the domain, for every engine."""

    max_waiting = MAX_WAITING

    def group(self, sample: Sample) -> Group:
        return Group(
            uid="",
            tenant=Tenant(sample.tenant),
            id=sample.id,
            where=Filter(
                check_types(sample.types),
                SpaceUid(sample.space_uid) if sample.space_uid else None,
                Tenant(sample.tenant),
                check_subjects(sample.subjects),
            ),
            max_attempts=sample.max_attempts,
            lease=timedelta(seconds=59.5),
            owner=sample.owner,
            created_at=datetime(2026, 1, 1, 12, 30, 15, 123456, tzinfo=UTC),
        )

    def fresh(self, after: int, upto: int, events: tuple[tuple[int, str], ...]) -> Fresh:
        return Fresh(after, upto, events)

    def outcome(self, position: int, attempt: int, *, done: bool, retry_at: datetime | None) -> Outcome:
        return Outcome(position, attempt, done, retry_at)


class TestPostgresGroups(GroupsOfTheDomain):
    @pytest.fixture(autouse=True)
    async def _databases(self, postgres: TestPostgres) -> AsyncIterator[None]:
        self._postgres = postgres
        self._url = await postgres.create(prepare)
        self._opened: list[Database] = []
        yield
        for database in self._opened:
            await database.close()
        await postgres.drop(self._url)

    async def open_groups(self) -> PostgresGroups:
        database = await self._postgres.open(self._url)
        self._opened.append(database)
        return PostgresGroups(database)
