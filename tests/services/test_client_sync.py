"""The blocking client against a real server that runs in a thread of its own."""

from __future__ import annotations

import asyncio
import inspect
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.client_server import TestServer, serving_in_a_thread

from mnemocore import MemoryInput, __version__, client, sync
from mnemocore.client import Connection, Session, Space, WorkingMemory
from mnemocore.errors import (
    CancelledError,
    InvalidFieldError,
    MemoryNotFoundError,
    PreconditionError,
    SpaceNotFoundError,
)
from mnemocore.memory.v1 import memory_service_pb2, resources_pb2
from mnemocore.memory.v1.memory_service_pb2_grpc import MemoryServiceStub

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ABSENT = "00000000-0000-7000-8000-000000000000"


@pytest.fixture
def running() -> Iterator[tuple[TestServer, asyncio.AbstractEventLoop]]:
    with serving_in_a_thread() as pair:
        yield pair


@pytest.fixture
def server(running: tuple[TestServer, asyncio.AbstractEventLoop]) -> TestServer:
    return running[0]


@pytest.fixture
def mnemo(server: TestServer) -> Iterator[Any]:
    with sync.connect(server.target, api_key="k1") as connection:
        yield connection


def test_the_example_without_async(mnemo: Any) -> None:
    space = mnemo.space("alice")
    kept = space.remember("I moved to Lisbon in March.", actor="Alice")
    many = space.remember_many([MemoryInput(content="I like trams.")])
    hits = space.recall("Where does Alice live now?", limit=10)
    assert [hit.memory.id for hit in hits] == [kept.id, *many.ids]
    assert hits.degraded == (client.DegradedPart.ENCODER,)
    space.forget(kept.id)
    assert [memory.id for memory in space.list(page_size=1)] == [*many.ids, kept.id]
    assert next(iter(mnemo.spaces())).id == "alice"
    assert space.id == "alice"
    with pytest.raises(MemoryNotFoundError):
        space.get(ABSENT)
    with pytest.raises(SpaceNotFoundError):
        list(mnemo.space("bob").list())


CONNECTION_CALLS: dict[str, Callable[[Any, str], Any]] = {
    "open": lambda mnemo, job: mnemo.open(),
    "capabilities": lambda mnemo, job: mnemo.capabilities(),
    "create_space": lambda mnemo, job: mnemo.create_space("b"),
    "spaces": lambda mnemo, job: list(mnemo.spaces()),
    "erasures": lambda mnemo, job: list(mnemo.erasures()),
    "received_grants": lambda mnemo, job: list(mnemo.received_grants()),
    "accept_grant": lambda mnemo, job: mnemo.accept_grant(ABSENT, "theirs"),
    "delete_grant": lambda mnemo, job: mnemo.delete_grant(ABSENT),
    "create_api_key": lambda mnemo, job: mnemo.create_api_key("p", ["memory:read"]),
    "list_api_keys": lambda mnemo, job: list(mnemo.list_api_keys()),
    "delete_api_key": lambda mnemo, job: mnemo.delete_api_key(ABSENT),
    "job": lambda mnemo, job: mnemo.job(job),
    "jobs": lambda mnemo, job: list(mnemo.jobs()),
    "wait_for_job": lambda mnemo, job: mnemo.wait_for_job(job, timeout=10),
    "cancel_job": lambda mnemo, job: mnemo.cancel_job(job),
    "close": lambda mnemo, job: mnemo.close(),
}
SPACE_CALLS: dict[str, Callable[[Any, str], Any]] = {
    "remember": lambda space, id: space.remember("x"),
    "remember_with_outcome": lambda space, id: space.remember_with_outcome(MemoryInput("x")),
    "remember_many": lambda space, id: space.remember_many([MemoryInput(content="x")]),
    "recall": lambda space, id: space.recall("x"),
    "get": lambda space, id: space.get(id),
    "get_many": lambda space, id: space.get_many([id]),
    "list": lambda space, id: list(space.list()),
    "history": lambda space, id: list(space.history(id)),
    "forget": lambda space, id: space.forget(id),
    "restore": lambda space, id: space.restore(id),
    "info": lambda space, id: space.info(),
    "republish": lambda space, id: space.republish(),
    "consolidate": lambda space, id: space.consolidate(),
    "update": lambda space, id: space.update(id, content="y"),
    "protect": lambda space, id: space.protect(id),
    "unprotect": lambda space, id: space.unprotect(id),
    "supersede": lambda space, id: space.supersede(id, "z"),
    "feedback": lambda space, id: space.feedback(id, True),
    "stats": lambda space, id: space.stats(),
    "update_space": lambda space, id: space.update_space(description="d"),
    "set_policy": lambda space, id: space.set_policy(max_memories=7),
    "share": lambda space, id: space.share("p", "read"),
    "grants": lambda space, id: list(space.grants()),
    "associate": lambda space, id: space.associate(id, ABSENT),
    "dissociate": lambda space, id: space.dissociate(id, ABSENT),
    "associations": lambda space, id: list(space.associations(id)),
    "paths": lambda space, id: space.paths(id, ABSENT),
    "neighbourhood": lambda space, id: space.neighbourhood([id]),
    "start_session": lambda space, id: space.start_session("s1"),
    "sessions": lambda space, id: list(space.sessions()),
    "upload_media": lambda space, id: space.upload_media(b"abc"),
    "read_media": lambda space, id: b"".join(space.read_media(ABSENT)),
    "rotate_key": lambda space, id: space.rotate_key(),
    "erase": lambda space, id: space.erase(confirm="a"),
    "delete": lambda space, id: space.delete(),
}
WORKING_MEMORY_CALLS: dict[str, Callable[[Any], Any]] = {
    "push": lambda working: working.push("x"),
    "items": lambda working: working.items(),
    "promote": lambda working: working.promote(ABSENT),
    "clear": lambda working: working.clear(),
}
SESSION_CALLS: dict[str, Callable[[Any], Any]] = {
    "info": lambda session: session.info(),
    "append": lambda session: session.append(["x"]),
    "checkpoint": lambda session: session.checkpoint({"step": 3}),
    "checkpoints": lambda session: list(session.checkpoints()),
    "restore_checkpoint": lambda session: session.restore_checkpoint(),
    "end": lambda session: session.end(),
}


def async_methods(cls: type) -> set[str]:
    return {
        name
        for name, member in inspect.getmembers(cls)
        if not name.startswith("_") and (inspect.iscoroutinefunction(member) or inspect.isasyncgenfunction(member))
    }


def test_every_async_method_can_be_called_without_async(mnemo: Any) -> None:
    assert async_methods(Connection) == set(CONNECTION_CALLS)
    assert async_methods(Space) == set(SPACE_CALLS)
    assert async_methods(WorkingMemory) == set(WORKING_MEMORY_CALLS)
    assert async_methods(Session) == set(SESSION_CALLS)
    space = mnemo.space("a")
    kept = space.remember("x")
    job = space.consolidate()
    results = [call(space, kept.id) for call in SPACE_CALLS.values()]
    results += [call(space.working_memory("planner")) for call in WORKING_MEMORY_CALLS.values()]
    results += [call(space.start_session("s1")) for call in SESSION_CALLS.values()]
    results += [call(space.session("s1")) for call in SESSION_CALLS.values()]
    results += [call(mnemo, job.id) for call in CONNECTION_CALLS.values()]
    assert not any(inspect.isawaitable(result) or hasattr(result, "__anext__") for result in results)


def test_every_public_attribute_is_there(mnemo: Any) -> None:
    for name in dir(Connection):
        if not name.startswith("_"):
            assert hasattr(mnemo, name)
            assert name in dir(mnemo)
    assert not hasattr(mnemo, "nothing")
    assert "127.0.0.1" in repr(mnemo)
    parameters = inspect.signature(mnemo.space("a").remember).parameters
    assert ["self", *parameters] == list(inspect.signature(Space.remember).parameters)


def test_handles_block_too(server: TestServer, mnemo: Any) -> None:
    space = mnemo.space("a")
    working = space.working_memory("planner", "s1")
    assert working.push("the train leaves at nine").evicted == "old"
    assert [item.memory.content for item in working.items()] == ["told"]
    assert space.start_session(agent="planner").id == "s1"
    assert space.session("s1").restore_checkpoint().state == {"step": 3}
    media = space.upload_media(part for part in (b"ab", b"c"))
    assert b"".join(space.read_media(media, offset=1)) == b"bc"
    assert server.desk.calls("ReadMedia")[0].request.name == "spaces/a/media/m"


def test_raw_stubs_block_too(mnemo: Any) -> None:
    mnemo.create_space("a")
    stub = mnemo.stub(MemoryServiceStub)
    assert list(stub.ListMemories(memory_service_pb2.ListMemoriesRequest(parent="spaces/a")).memories) == []
    batch = memory_service_pb2.IngestMemoriesRequest(
        parent="spaces/a", memories=[resources_pb2.MemoryInput(content="x")]
    )
    assert [answer.batch for answer in stub.IngestMemories([batch, batch])] == [0, 1]


def test_items_are_taken_in_the_callers_thread(mnemo: Any) -> None:
    threads = set()
    mnemo.space("from").remember_many([MemoryInput(content=f"memory {number}") for number in range(700)])

    def items() -> Iterator[MemoryInput]:
        for memory in mnemo.space("from").list(page_size=100):  # blocks on the same connection
            threads.add(threading.get_ident())
            yield MemoryInput(content=memory.content)

    assert len(mnemo.space("to").remember_many(items()).ids) == 700
    assert threads == {threading.get_ident()}


def test_an_error_of_the_items_comes_back(mnemo: Any) -> None:
    def items() -> Iterator[MemoryInput]:
        yield MemoryInput(content="x")
        raise LookupError("no more")

    with pytest.raises(LookupError, match="no more"):
        mnemo.space("a").remember_many(items())
    with pytest.raises(InvalidFieldError, match=r"^item 1: content"):
        mnemo.space("a").remember_many([MemoryInput(content="x"), MemoryInput(content="")])


def test_a_callback_that_would_wait_for_itself_is_told(mnemo: Any) -> None:
    with pytest.raises(RuntimeError, match="callback"):
        mnemo.space("a").remember_many([MemoryInput(content="x")], on_progress=lambda _: mnemo.capabilities())


def test_many_threads_share_a_connection(server: TestServer, mnemo: Any) -> None:
    mnemo.create_space("a")
    with ThreadPoolExecutor(8) as pool:
        kept = list(pool.map(lambda number: mnemo.space("a").remember(f"memory {number}").id, range(100)))
    assert len(set(kept)) == len(server.book.spaces["spaces/a"]) == 100


def test_an_iterator_that_is_left_is_closed(mnemo: Any) -> None:
    mnemo.space("a").remember_many([MemoryInput(content="x") for _ in range(10)])
    items = mnemo.space("a").list(page_size=2)
    next(items)
    items.close()
    assert len(list(mnemo.space("a").list())) == 10


def test_after_closing(server: TestServer) -> None:
    before = threading.active_count()
    connection = sync.connect(server.target)
    space = connection.space("a")
    connection.close()
    connection.close()
    assert threading.active_count() == before
    with pytest.raises(PreconditionError, match="closed"):
        space.remember("x")


def test_closing_ends_what_other_threads_wait_for(
    running: tuple[TestServer, asyncio.AbstractEventLoop],
) -> None:
    server, _ = running
    server.desk.always["GetCapabilities"] = asyncio.Event()
    connection: Any = sync.connect(server.target)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(connection.capabilities)
        wait_until(lambda: bool(server.desk.seen))
        connection.close()
        with pytest.raises(CancelledError):
            waiting.result(60)


def test_a_bad_target_leaves_no_thread() -> None:
    before = threading.active_count()
    with pytest.raises(InvalidFieldError, match="HOST:PORT"):
        sync.connect("nowhere")
    assert threading.active_count() == before


@pytest.fixture
def heeding_ctrl_c() -> Iterator[None]:
    """A shell's background jobs ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heeding_ctrl_c")
def test_ctrl_c_ends_the_call_and_the_connection_lives(
    running: tuple[TestServer, asyncio.AbstractEventLoop],
) -> None:
    server, loop = running
    stuck = asyncio.Event()
    server.desk.script["GetCapabilities"].append(stuck)
    with sync.connect(server.target) as connection:
        mnemo: Any = connection

        def interrupt() -> None:
            wait_until(lambda: bool(server.desk.seen))
            os.kill(os.getpid(), signal.SIGINT)

        interrupter = threading.Thread(target=interrupt)
        interrupter.start()
        with pytest.raises(KeyboardInterrupt):
            mnemo.capabilities()
        interrupter.join(10)
        asyncio.run_coroutine_threadsafe(asyncio.wait_for(server.desk.cancelled.wait(), 60), loop).result(60)
        assert mnemo.capabilities().version == __version__


def test_a_program_that_forgets_to_close_still_ends(server: TestServer) -> None:
    code = f"from mnemocore import sync\nm = sync.connect({server.target!r})\nprint(m.capabilities().version)\n"
    environment = {"PYTHONPATH": str(Path(sync.__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == __version__
    assert "Traceback" not in done.stderr


def wait_until(condition: Callable[[], bool]) -> None:
    waiting = threading.Event()
    for _ in range(6000):
        if condition():
            return
        waiting.wait(0.01)
    raise AssertionError("it did not happen within a minute")
