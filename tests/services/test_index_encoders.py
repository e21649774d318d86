"""The index with other encoders than the default one: a remote one that comes and goes, and the change of models."""

from __future__ import annotations

import asyncio
import json
import shutil
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from tests import tiny_models
from tests.embeddings_server import Embeddings, embeddings
from tests.index_space import encoder, memory_id
from tests.services.test_index_service import KEY, NOW, SECONDS, SPACE, TOKEN, Change, Installation, keys

from mnemo_events.app import EventsApp
from mnemo_index.app import IndexApp
from mnemo_index.domain.models import EncoderChoice
from mnemocore import calls
from mnemocore.clock import SystemClock
from mnemocore.common.v1 import resources_pb2 as common_pb2
from mnemocore.errors import InvalidSettingError
from mnemocore.events.v1 import event_service_pb2_grpc
from mnemocore.index.v1 import encoder_service_pb2 as pb
from mnemocore.index.v1 import encoder_service_pb2_grpc, index_service_pb2, index_service_pb2_grpc
from mnemocore.sealing import SpaceCipher
from mnemocore.server import Host, InternalAuthenticator
from mnemocore.testing.clock import ManualClock
from mnemocore.testing.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from mnemocore.postgres import Database

TEXTS = (
    "green tea with lemon",
    "a dog called Biscuit",
    "chess on Sundays",
    "the train to Lisbon leaves at 9",
    "black coffee in the morning",
)
LOCAL = EncoderChoice()
DONE, RUNNING, PAUSED = pb.REENCODING_STATE_DONE, pb.REENCODING_STATE_RUNNING, pb.REENCODING_STATE_PAUSED
ROLLED_BACK = pb.REENCODING_STATE_ROLLED_BACK


class Life(Installation):
    """One life of the index on a folder, and what an operator asks of it."""

    def __init__(self, events: Any, channel: Any, app: IndexApp, clock: ManualClock, revision: int) -> None:
        super().__init__(events, index_service_pb2_grpc.IndexServiceStub(channel), revision)
        self.models = encoder_service_pb2_grpc.EncoderServiceStub(channel)
        self.app = app
        self.clock = clock

    async def say_all(self, *texts: str, first: int = 1) -> None:
        for number, text in enumerate(texts, first):
            await self.say(number, content=text, session="s", ordinal=number)

        async def applied() -> bool:
            status = await self.index.GetIndexStatus(
                index_service_pb2.GetIndexStatusRequest(space_uid=SPACE), timeout=SECONDS
            )
            return bool(status.applied_revision >= self.revision)

        await until(applied)

    async def found(self, query: str, **fields: Any) -> tuple[list[int], bool]:
        """The memories found by meaning or words, best first, and whether only words were searched."""
        usual: dict[str, Any] = {"space_uid": SPACE, "query": query, "limit": 10, "min_revision": self.revision}
        answer = await self.index.Search(index_service_pb2.SearchRequest(**(usual | fields)), timeout=SECONDS)
        hits = [int(hit.memory_id[-12:], 16) for hit in answer.hits if hit.relevance > 0]
        return hits, common_pb2.DEGRADED_PART_ENCODER in answer.degraded

    async def semantic(self, query: str) -> dict[int, float]:
        """The semantic signals of the memories found."""
        request = index_service_pb2.SearchRequest(space_uid=SPACE, query=query, limit=10, min_revision=self.revision)
        answer = await self.index.Search(request, timeout=SECONDS)
        return {
            int(hit.memory_id[-12:], 16): part.value
            for hit in answer.hits
            for part in hit.components
            if part.name == "semantic"
        }

    async def waiting(self) -> int:
        return int((await self.status()).waiting_memories)

    async def encoded(self) -> None:
        """Return when all is applied and nothing waits for its vector; the clock runs meanwhile."""

        async def done() -> bool:
            await self.clock.advance(30)
            status = await self.status()
            return bool(status.applied_revision == self.revision and status.waiting_memories == 0)

        await until(done)

    async def reencoding(self) -> pb.Reencoding:
        response: pb.GetReencodingResponse = await self.models.GetReencoding(pb.GetReencodingRequest(), timeout=SECONDS)
        return response.reencoding

    async def comes_to(self, state: int) -> pb.Reencoding:
        """Return when the re-encoding is in a state; the clock runs meanwhile."""

        async def there() -> bool:
            await self.clock.advance(30)
            return (await self.reencoding()).state == state

        await until(there)
        return await self.reencoding()

    async def spaces_of(self) -> dict[str, int]:
        """How many spaces have vectors of each engine."""
        listed = (await self.models.ListModels(pb.ListModelsRequest(), timeout=SECONDS)).models
        return {model.setting.partition(":")[0]: model.spaces for model in listed if model.spaces}


class Lives:
    """Starts lives of the index, one after the other, on one event log and one folder."""

    def __init__(self, events: Any, channel: Any, folder: Path) -> None:
        self._events = events
        self._channel = channel
        self.folder = folder
        self.revision = 0

    @asynccontextmanager
    async def life(self, choice: EncoderChoice, *, killed: bool = False, **options: Any) -> AsyncIterator[Life]:
        """An index with an encoder; `killed`: what it writes when it ends is lost."""
        clock = ManualClock(NOW)
        app = await IndexApp.open(self.folder, self._channel, clock, choice=choice, **options)
        host = Host("index", app.services, authenticator=InternalAuthenticator(TOKEN))
        await app.start()
        await host.start([])
        life = Life(
            self._events, host.channel([(calls.INTERNAL_TOKEN_HEADER, TOKEN), *IDENTITY]), app, clock, self.revision
        )
        try:
            yield life
        finally:
            self.revision = life.revision
            await host.drain(5)
            left = self.folder.with_name("left")
            if killed:
                await asyncio.to_thread(shutil.copytree, self.folder, left)
            await app.stop()
            if killed:  # what follows finds the files as they were before it could stop
                await asyncio.to_thread(shutil.rmtree, self.folder)
                await asyncio.to_thread(left.rename, self.folder)


IDENTITY = [(calls.TENANT_HEADER, "acme"), (calls.PRINCIPAL_HEADER, "root"), (calls.SCOPES_HEADER, "gateway:admin")]


@pytest.fixture
async def lives(database: Database, tmp_path: Path) -> AsyncIterator[Lives]:
    metadata = [(calls.INTERNAL_TOKEN_HEADER, TOKEN)]
    async with AsyncExitStack() as stack:
        events = EventsApp(database, SystemClock())
        host = Host("events", events.services, authenticator=InternalAuthenticator(TOKEN))
        await events.start()
        stack.push_async_callback(events.stop)
        await host.start([])
        stack.push_async_callback(host.drain, 5)
        stack.callback(events.drain)
        channel = host.channel(metadata)
        yield Lives(event_service_pb2_grpc.EventServiceStub(channel), channel, tmp_path / "index")


@pytest.fixture
def server() -> Iterator[Embeddings]:
    encoder()
    with embeddings() as running:
        yield running


def remote(server: Embeddings, **options: Any) -> EncoderChoice:
    return EncoderChoice(server.setting, timeout=options.pop("timeout", 1.0), **options)


async def test_a_remote_encoder_encodes_memories_and_questions(lives: Lives, server: Embeddings) -> None:
    async with lives.life(remote(server)) as life:
        await life.say_all(*TEXTS)
        await life.encoded()
        assert max((signals := await life.semantic("hot drinks: tea")), key=lambda number: signals[number]) == 1
        found, by_words_only = await life.found("tea")
        assert (found[0], by_words_only) == (1, False)
        assert 1 in await life.similar("green tea with lemon", 0.95)
        asked = server.texts.count("tea")
        for _ in range(5):
            await life.found("tea")
        assert server.texts.count("tea") == asked
    async with lives.life(remote(server)) as life:
        server.requests.clear()
        assert await life.waiting() == 0
        assert (await life.found("tea"))[0][0] == 1
        assert server.texts == ["tea"]


async def test_what_comes_while_the_encoder_is_down_is_found_by_words_at_once_and_encoded_later(
    lives: Lives, server: Embeddings
) -> None:
    async with lives.life(remote(server)) as life:
        await life.say_all(*TEXTS[:2])
        await life.encoded()
        server.always = 503
        await life.say_all(*TEXTS[2:], first=3)
        found, by_words_only = await life.found("Lisbon")
        assert (found[0], by_words_only) == (4, True)
        assert await life.waiting() == 3
        assert not {3, 4, 5} & (await life.semantic("Lisbon")).keys()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await life.similar("Lisbon", 0.5)
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
        assert await life.duplicates() == 0
        await life.say(3, Change.CHANGE_TYPE_UPDATED, content="checkers on Mondays")
        await life.erase(5)
        assert (await life.found("checkers"))[0][0] == 3
        assert await life.waiting() == 2
    server.always = None
    async with lives.life(remote(server)) as life:  # the texts are in the log only
        assert await life.waiting() in (0, 2)
        await life.encoded()
        assert set(await life.similar("checkers on Mondays", 0.9)) == {3}
        assert set(await life.similar("the train to Lisbon leaves at 9", 0.9)) == {4}
        assert await life.similar("black coffee in the morning", 0.9) == {}


async def test_a_slow_encoder_keeps_nobody_waiting_who_does_not_ask_it(lives: Lives, server: Embeddings) -> None:
    async with lives.life(remote(server, timeout=2.0)) as life:
        await life.say(1, content="green tea")
        await life.encoded()
        server.always = "hang"
        questions = [asyncio.create_task(life.found(f"tea {number}")) for number in range(8)]
        await life.say(2, content="chess")
        assert (await life.status()).applied_revision <= 2
        await until(lambda: len(server.requests) > 3)
        server.released.set()
        for question in questions:
            found, _ = await question
            assert found[:1] == [1]


async def test_an_encrypted_space_is_not_sent_anywhere_unless_that_is_allowed(lives: Lives, server: Embeddings) -> None:
    cipher = SpaceCipher(SPACE, [KEY])
    async with lives.life(remote(server)) as life:
        await life.say(1, cipher=cipher, content="my password is zyzzyva")
        await life.say(2, cipher=cipher, content="green tea")
        assert (await life.found("secret code word", keys=keys(KEY)))[1] is False
        assert set(await life.similar("my password is zyzzyva", 0.95, keys=keys(KEY))) == {1}
        assert server.texts == ["dimension"]
    async with lives.life(remote(server, remote_for_encrypted=True)) as life:
        await life.found("tea", keys=keys(KEY))
        await until(lambda: "my password is zyzzyva" in server.texts)
    for path in lives.folder.rglob("*"):
        assert path.is_dir() or b"zyzzyva" not in path.read_bytes()


async def test_another_encoder_takes_over_once_it_has_caught_up(lives: Lives, server: Embeddings) -> None:
    async with lives.life(LOCAL) as life:
        await life.say_all(*TEXTS)
        before = await life.similar(TEXTS[0], 0.0)
        assert (await life.comes_to(DONE)).revisions_done == len(TEXTS)
        assert await life.spaces_of() == {"wordllama": 1}
    server.always = 503
    async with lives.life(remote(server, dimension=64)) as life:
        assert await life.similar(TEXTS[0], 0.0) == pytest.approx(before)  # the old vectors and their encoder serve
        assert (await life.found("tea"))[1] is False
        await life.say(6, content="a cat called Tea")
        assert 6 in (await life.found("cat"))[0]
        await until_cause(life)
        progress = await life.reencoding()
        assert (progress.state, progress.spaces, progress.spaces_done) == (RUNNING, 1, 0)
        server.always = None
        progress = await life.comes_to(DONE)
        assert (progress.revisions, progress.revisions_done, progress.spaces_kept) == (6, 6, 1)
        assert await life.spaces_of() == {"openai": 1}
        assert await life.similar(TEXTS[0], 0.0) != pytest.approx(before)
    async with lives.life(remote(server)) as life:
        assert (await life.reencoding()).state == DONE
        assert await life.spaces_of() == {"openai": 1}
        assert (await life.found("Lisbon"))[0][0] == 4


async def until_cause(life: Life) -> None:
    async def caused() -> bool:
        return bool((await life.reencoding()).cause)

    await until(caused)


async def test_a_re_encoding_is_paused_resumed_rolled_back_and_committed(lives: Lives, tmp_path: Path) -> None:
    other = EncoderChoice(f"sentence-transformers:{tiny_models.static_model(tmp_path / 'tiny')}")
    async with lives.life(LOCAL) as life:
        await life.say_all(*TEXTS)
        before = await life.similar(TEXTS[0], 0.0)
    async with lives.life(other) as life:
        await life.models.PauseReencoding(pb.PauseReencodingRequest(), timeout=SECONDS)
    async with lives.life(other) as life:
        state = (await life.reencoding()).state
        assert state in (PAUSED, DONE)  # done, if it was faster than the pause
        resumed = await life.models.ResumeReencoding(pb.ResumeReencodingRequest(), timeout=SECONDS)
        assert resumed.reencoding.state in (RUNNING, DONE)
        await life.comes_to(DONE)
        assert await life.spaces_of() == {"sentence-transformers": 1}
        await life.say(6, content="written between")
        await life.erase(2)
        await life.models.RollbackReencoding(pb.RollbackReencodingRequest(), timeout=SECONDS)
        progress = await life.comes_to(ROLLED_BACK)
        assert (progress.spaces_kept, progress.spaces_done) == (0, 0)
        assert await life.spaces_of() == {"wordllama": 1}
        expected = {number: cosine for number, cosine in before.items() if number != 2}
        found = await life.similar(TEXTS[0], 0.0)
        assert {number: found[number] for number in expected} == pytest.approx(expected)
        assert 2 not in found
        assert 6 in await life.similar("written between", 0.95)
    async with lives.life(other) as life:
        assert (await life.reencoding()).state == ROLLED_BACK
        assert await life.spaces_of() == {"wordllama": 1}
        await life.models.ResumeReencoding(pb.ResumeReencodingRequest(), timeout=SECONDS)
        assert (await life.comes_to(DONE)).spaces_kept == 1
        committed = await life.models.CommitReencoding(pb.CommitReencodingRequest(), timeout=SECONDS)
        assert committed.spaces == 1
        assert (await life.reencoding()).spaces_kept == 0
        left = {f"{SPACE}.snapshot", "models.json", "position", "reencoding.json"}
        await until(lambda: {path.name for path in lives.folder.iterdir()} == left)


async def test_the_plan_is_kept_whole_whoever_changes_it_at_once(lives: Lives) -> None:
    async with lives.life(LOCAL) as life:
        await life.say_all(*TEXTS)
        changes = [
            change
            for _ in range(50)
            for change in (
                life.models.PauseReencoding(pb.PauseReencodingRequest(), timeout=SECONDS),
                life.models.ResumeReencoding(pb.ResumeReencodingRequest(), timeout=SECONDS),
                life.models.CommitReencoding(pb.CommitReencodingRequest(), timeout=SECONDS),
            )
        ]
        for change in asyncio.as_completed(changes):
            await change
        await life.models.PauseReencoding(pb.PauseReencodingRequest(), timeout=SECONDS)
    assert json.loads((lives.folder / "reencoding.json").read_text())["phase"] == "paused"


async def test_older_vectors_are_kept_for_a_time_and_hold_nothing_that_was_erased(lives: Lives, tmp_path: Path) -> None:
    other = EncoderChoice(f"sentence-transformers:{tiny_models.static_model(tmp_path / 'tiny')}")
    async with lives.life(LOCAL) as life:
        await life.say_all(*TEXTS[:2], "my password is zyzzyva")
    async with lives.life(other) as life:
        await life.comes_to(DONE)
        aside = lives.folder / "replaced" / f"{SPACE}.snapshot"
        assert b"zyzzyva" in aside.read_bytes()
        await life.erase(3)
        await life.reaches(4)
        await life.app.projection.save()
        assert b"zyzzyva" not in aside.read_bytes()
        assert memory_id(3).encode() not in aside.read_bytes()
    async with lives.life(other, keep_replaced=timedelta(hours=1)) as life:
        assert (await life.reencoding()).spaces_kept == 1

        async def gone() -> bool:
            await life.clock.advance(600)
            return (await life.reencoding()).spaces_kept == 0

        await until(gone)
        assert not aside.exists()


async def test_an_erased_space_leaves_every_generation(lives: Lives, tmp_path: Path) -> None:
    other = EncoderChoice(f"sentence-transformers:{tiny_models.static_model(tmp_path / 'tiny')}")
    async with lives.life(LOCAL) as life:
        await life.say_all(*TEXTS)
    async with lives.life(other) as life:
        await life.comes_to(DONE)
        await life.erase_space()
        await life.reaches(6)
        assert (await life.reencoding()).spaces == 0
        assert [path for path in lives.folder.rglob("*") if SPACE in path.name] == []


async def test_a_crash_while_it_re_encodes_costs_nothing(lives: Lives, server: Embeddings) -> None:
    async with lives.life(LOCAL) as life:
        await life.say_all(*TEXTS)
        before = await life.similar(TEXTS[0], 0.0)
    chosen = remote(server, dimension=64, batch=1)
    for answered in (2, 4):
        server.next.clear()
        server.next.extend([None] * (1 + answered) + [503] * 1000)  # the first one is the question at the start
        async with lives.life(chosen, killed=True) as life:
            await until_cause(life)
            assert await life.similar(TEXTS[0], 0.0) == pytest.approx(before)
            assert await life.spaces_of() == {"wordllama": 1}
    server.next.clear()
    async with lives.life(chosen) as life:
        assert (await life.comes_to(DONE)).revisions_done == len(TEXTS)
        assert await life.spaces_of() == {"openai": 1}
        assert (await life.found("Lisbon"))[0][0] == 4


async def test_vectors_whose_encoder_is_gone_are_found_by_words(
    lives: Lives, server: Embeddings, tmp_path: Path
) -> None:
    folder = tiny_models.static_model(tmp_path / "tiny")
    async with lives.life(EncoderChoice(f"sentence-transformers:{folder}")) as life:
        await life.say_all(*TEXTS)
        await life.found("tea")
    (folder / "modules.json").unlink()
    async with lives.life(remote(server)) as life:
        await life.models.PauseReencoding(pb.PauseReencodingRequest(), timeout=SECONDS)
        if (await life.reencoding()).state == PAUSED:  # unless it was faster
            found, by_words_only = await life.found("Lisbon")
            assert (found[0], by_words_only) == (4, True)
        await life.models.ResumeReencoding(pb.ResumeReencodingRequest(), timeout=SECONDS)
        await life.comes_to(DONE)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await life.models.RollbackReencoding(pb.RollbackReencodingRequest(), timeout=SECONDS)
        assert caught.value.code() == grpc.StatusCode.FAILED_PRECONDITION
        assert (await life.found("Lisbon"))[1] is False


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("word2vec", "allowed is wordllama, sentence-transformers:DIRECTORY or openai:https://HOST/v1#MODEL"),
        ("sentence-transformers:/nowhere", "there is no such directory"),
        ("openai:https://api.example.com/v1", "allowed is"),
        ("openai:ftp://api.example.com/v1#m", "allowed is"),
        ("openai:https://me:pw@api.example.com/v1#m", "MNEMO_INDEX_ENCODER_API_KEY"),
        ("openai:http://127.0.0.1:1/v1#m", "set MNEMO_INDEX_ENCODER_DIMENSION to start without it"),
    ],
)
async def test_a_wrong_encoder_is_refused_at_the_start(lives: Lives, setting: str, said: str) -> None:
    with pytest.raises(InvalidSettingError, match=said) as caught:
        async with lives.life(EncoderChoice(setting)):
            pass
    assert "pw" not in str(caught.value)
