"""Lifecycles and background tasks: order, rollback, signals, supervision."""

from __future__ import annotations

import asyncio
import logging
import os
import signal

import pytest

from mnemocore.clock import SystemClock
from mnemocore.errors import PeerUnavailableError, StoreFullError, StoreUnavailableError
from mnemocore.server import BackgroundTask, Lifecycle
from mnemocore.server.lifecycle import LONGEST_PAUSE

SECONDS = 60.0


class Recorded:
    """A part that writes down what happens to it, and fails or waits where it is told to."""

    def __init__(self, name: str, log: list[str], *, fails: str = "", waits: str = "") -> None:
        self.name = name
        self._log = log
        self._fails = fails
        self._waits = waits
        self.reached = asyncio.Event()

    async def start(self) -> None:
        await self._step("start")

    async def stop(self) -> None:
        await self._step("stop")

    async def _step(self, step: str) -> None:
        self._log.append(f"{step} {self.name}")
        if step == self._fails:
            raise RuntimeError(f"{self.name} cannot {step}")
        if step == self._waits:
            self.reached.set()
            await asyncio.Event().wait()


async def test_parts_start_in_order_and_stop_in_reverse() -> None:
    log: list[str] = []
    lifecycle = Lifecycle([Recorded(name, log) for name in "abc"])
    await lifecycle.start()
    await lifecycle.stop()
    await lifecycle.stop()
    assert log == ["start a", "start b", "start c", "stop c", "stop b", "stop a"]


async def test_a_failing_start_rolls_back_what_was_started() -> None:
    log: list[str] = []
    parts = [
        Recorded("a", log),
        Recorded("b", log, fails="stop"),
        Recorded("c", log, fails="start"),
        Recorded("d", log),
    ]
    with pytest.raises(RuntimeError, match="c cannot start"):
        await Lifecycle(parts).start()
    assert log == ["start a", "start b", "start c", "stop b", "stop a"]


async def test_a_failing_stop_never_keeps_the_others_from_stopping(caplog: pytest.LogCaptureFixture) -> None:
    log: list[str] = []
    parts = [Recorded("a", log, fails="stop"), Recorded("b", log), Recorded("c", log, fails="stop")]
    lifecycle = Lifecycle(parts)
    await lifecycle.start()
    with pytest.raises(ExceptionGroup) as caught:
        await lifecycle.stop()
    assert [str(error) for error in caught.value.exceptions] == ["c cannot stop", "a cannot stop"]
    assert log[3:] == ["stop c", "stop b", "stop a"]
    assert "c did not stop cleanly" in caplog.text


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_stops_everything(number: signal.Signals) -> None:
    log: list[str] = []
    lifecycle = Lifecycle([Recorded("a", log), Recorded("b", log)])
    running = lifecycle.run_until_signal(lambda: os.kill(os.getpid(), number))
    await asyncio.wait_for(running, SECONDS)
    assert log == ["start a", "start b", "stop b", "stop a"]


async def test_a_second_signal_ends_at_once() -> None:
    log: list[str] = []
    slow = Recorded("slow", log, waits="stop")
    lifecycle = Lifecycle([Recorded("a", log), slow])
    running = asyncio.ensure_future(lifecycle.run_until_signal(lambda: os.kill(os.getpid(), signal.SIGTERM)))
    await asyncio.wait_for(slow.reached.wait(), SECONDS)
    os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.wait_for(running, SECONDS)
    assert log == ["start a", "start slow", "stop slow"]


async def test_a_signal_during_the_start_rolls_it_back() -> None:
    log: list[str] = []
    slow = Recorded("slow", log, waits="start")
    running = asyncio.ensure_future(Lifecycle([Recorded("a", log), slow]).run_until_signal())
    await asyncio.wait_for(slow.reached.wait(), SECONDS)
    os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.wait_for(running, SECONDS)
    assert log == ["start a", "start slow", "stop a"]


async def test_errors_of_the_start_pass_through_the_signal_handling() -> None:
    with pytest.raises(RuntimeError, match="a cannot start"):
        await Lifecycle([Recorded("a", [], fails="start")]).run_until_signal()


class Hurried(SystemClock):
    """A clock whose pauses take no time and are written down."""

    def __init__(self) -> None:
        self.pauses: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        await asyncio.sleep(0)


async def test_background_work_that_fails_is_started_again_with_growing_pauses() -> None:
    clock, recovered, attempts = Hurried(), asyncio.Event(), 0

    async def work() -> None:
        nonlocal attempts
        attempts += 1
        if attempts <= 11:
            raise RuntimeError(f"attempt {attempts}")
        recovered.set()
        await asyncio.Event().wait()

    task = BackgroundTask("worker", work, clock=clock)
    await task.start()
    await asyncio.wait_for(recovered.wait(), SECONDS)
    assert task.running
    assert (task.failures, task.last_failure) == (11, "RuntimeError: attempt 11")
    assert clock.pauses[:3] == [0.1, 0.2, 0.4]
    assert clock.pauses[-1] == LONGEST_PAUSE
    await task.stop()
    assert not task.running


@pytest.mark.parametrize(
    ("failure", "wanted"),
    [
        (StoreUnavailableError(), []),
        (PeerUnavailableError(target="index"), [("WARNING", False)]),
        (StoreFullError(), [("WARNING", False)]),
        (RuntimeError("a bug"), [("ERROR", True)] * 6),
    ],
)
async def test_only_what_nobody_expects_is_logged_at_every_attempt_and_with_its_traceback(
    failure: Exception, wanted: list[tuple[str, bool]], caplog: pytest.LogCaptureFixture
) -> None:
    recovered, attempts = asyncio.Event(), 0

    async def work() -> None:
        nonlocal attempts
        attempts += 1
        if attempts <= 6:
            raise failure
        recovered.set()

    task = BackgroundTask("worker", work, clock=Hurried())
    with caplog.at_level(logging.INFO):
        await task.start()
        await asyncio.wait_for(recovered.wait(), SECONDS)
    await task.stop()
    assert [(record.levelname, bool(record.exc_info)) for record in caplog.records] == wanted


async def test_another_reason_to_wait_is_said(caplog: pytest.LogCaptureFixture) -> None:
    reasons = [PeerUnavailableError(target=target) for target in ("index", "index", "memory", "memory")]
    recovered = asyncio.Event()

    async def work() -> None:
        if reasons:
            raise reasons.pop(0)
        recovered.set()

    task = BackgroundTask("worker", work, clock=Hurried())
    await task.start()
    await asyncio.wait_for(recovered.wait(), SECONDS)
    await task.stop()
    assert [record.getMessage().partition(";")[0] for record in caplog.records] == [
        "worker waits: PeerUnavailableError: index does not answer",
        "worker waits: PeerUnavailableError: memory does not answer",
    ]


async def test_background_work_is_awaited_when_it_is_stopped() -> None:
    started, cleaned = asyncio.Event(), False

    async def work() -> None:
        nonlocal cleaned
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            cleaned = True

    task = BackgroundTask("worker", work)
    await task.start()
    await asyncio.wait_for(started.wait(), SECONDS)
    await task.stop()
    assert cleaned
    await task.stop()


async def test_background_work_may_end() -> None:
    done = asyncio.Event()

    async def work() -> None:
        done.set()

    task = BackgroundTask("once", work)
    await task.start()
    await asyncio.wait_for(done.wait(), SECONDS)
    await task.stop()
    assert (task.running, task.failures) == (False, 0)
