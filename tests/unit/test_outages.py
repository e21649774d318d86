"""What is said of a store that stops answering."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from mnemocore.errors import PeerUnavailableError, StoreUnavailableError
from mnemocore.outages import CALM_SECONDS, Outages, level_of
from mnemocore.testing.clock import ManualClock

if TYPE_CHECKING:
    import pytest

LOG = logging.getLogger("test.outages")


async def test_an_outage_is_two_lines_however_many_ask(caplog: pytest.LogCaptureFixture) -> None:
    clock = ManualClock()
    outages = Outages("The store", LOG, clock)
    with caplog.at_level(logging.DEBUG):
        outages.answered()
        for number in range(20):
            outages.failed(ConnectionError(f"refused {number}"))
            await clock.advance(0.5)
        await clock.advance(CALM_SECONDS)
        for _ in range(20):
            outages.answered()
    assert [(record.levelname, record.getMessage(), record.exc_info) for record in caplog.records] == [
        ("WARNING", "The store does not answer: ConnectionError: refused 0", None),
        ("INFO", "The store answers again; it did not for 9.5 s", None),
    ]


async def test_a_store_that_answers_only_some_is_out_until_it_fails_nobody(caplog: pytest.LogCaptureFixture) -> None:
    clock = ManualClock()
    outages = Outages("The store", LOG, clock)
    with caplog.at_level(logging.DEBUG):
        for _ in range(50):
            outages.failed(ConnectionError("too many connections"))
            await clock.advance(CALM_SECONDS / 2)
            outages.answered()
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        await clock.advance(CALM_SECONDS)
        outages.answered()
        outages.failed(ConnectionError("gone once more"))
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO", "WARNING"]


def test_work_leaves_it_to_the_store_to_be_loud() -> None:
    assert level_of(StoreUnavailableError()) == logging.DEBUG
    assert level_of(PeerUnavailableError(target="index")) == logging.WARNING
