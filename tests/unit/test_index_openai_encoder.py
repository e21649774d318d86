"""The remote encoder against a real server that misbehaves."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from tests.embeddings_server import Embeddings, embeddings

from mnemo_index.domain.models import EncoderChoice, parse
from mnemo_index.storage.openai_encoder import RULE, OpenAIEncoder
from mnemocore.errors import CircuitOpenError, InvalidSettingError, PeerUnavailableError, UnavailableError
from mnemocore.free_port import free_port
from mnemocore.testing.clock import ManualClock

if TYPE_CHECKING:
    from collections.abc import Iterator

KEY = "sk-zyzzyva"
TEXT = "my secret is xyzzy"


OPENED: list[OpenAIEncoder] = []


@pytest.fixture
def server() -> Iterator[Embeddings]:
    with embeddings() as running:
        yield running


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    yield
    while OPENED:
        OPENED.pop().close()


def opened(server: Embeddings, clock: ManualClock | None = None, known: int = 0, **options: Any) -> OpenAIEncoder:
    encoder = at(server.setting, known, clock, api_key=KEY, **options)
    server.requests.clear()
    return encoder


def at(setting: str, known: int = 0, clock: ManualClock | None = None, **options: Any) -> OpenAIEncoder:
    OPENED.append(OpenAIEncoder.open(parse(setting), EncoderChoice(setting, **options), known, clock))
    return OPENED[-1]


def test_texts_go_out_in_batches_with_the_key_and_come_back_in_order(server: Embeddings) -> None:
    encoder = opened(server, batch=3)
    server.edit = lambda data: data[::-1]
    texts = [f"tea number {number}" for number in range(8)]
    found = encoder.encode(texts)
    expected = server.vectors(texts)
    assert np.allclose(found, expected / np.linalg.norm(expected, axis=1, keepdims=True), atol=1e-5)
    assert [len(request.body["input"]) for request in server.requests] == [3, 3, 2]
    for request in server.requests:
        assert request.path == "/v1/embeddings"
        assert request.headers["authorization"] == f"Bearer {KEY}"
        assert request.body["model"] == "tiny"


def test_without_a_key_none_is_sent_and_nothing_is_sent_for_nothing(server: Embeddings) -> None:
    encoder = at(server.setting)
    assert "authorization" not in server.requests[0].headers
    server.requests.clear()
    assert not encoder.encode(["", "  "]).any()
    assert server.requests == []


@pytest.mark.parametrize("trouble", [429, 500, 502, 503, "drop"])
def test_trouble_that_passes_is_tried_again(server: Embeddings, trouble: Any) -> None:
    encoder = opened(server)
    server.next = deque([trouble])
    assert encoder.encode(["tea"]).any()
    assert len(server.requests) == 2


def test_the_endpoint_says_how_long_to_wait(server: Embeddings) -> None:
    encoder = opened(server)
    server.always, server.headers = 429, {"retry-after": "3600"}
    with pytest.raises(PeerUnavailableError) as caught:
        encoder.encode(["tea"])
    assert (caught.value.retry_after, len(server.requests)) == (3600.0, 1)
    server.headers = {"retry-after": "Wed, 21 Oct 2026 07:28:00 GMT"}
    with pytest.raises(UnavailableError):
        encoder.encode(["tea"])
    assert len(server.requests) == RULE.threshold


@pytest.mark.parametrize("status", [301, 401, 403, 404, 418])
def test_an_answer_that_would_come_again_is_not_asked_for_again(server: Embeddings, status: int) -> None:
    encoder = opened(server)
    server.always = status
    with pytest.raises(PeerUnavailableError, match=f"answered HTTP {status}"):
        encoder.encode(["tea"])
    assert len(server.requests) == 1


@pytest.mark.parametrize("answer", ["hang", "drip"])
def test_an_endpoint_that_does_not_answer_in_time_is_given_up(server: Embeddings, answer: str) -> None:
    encoder = opened(server, known=64, timeout=0.1)
    server.always = answer
    with pytest.raises(PeerUnavailableError, match=r"did not answer within 0\.1 s"):
        encoder.encode_query("tea")


def edited(**fields: Any) -> Any:
    return lambda data: [item | fields for item in data]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (b"not JSON", "no list of embeddings"),
        (b"[]", "no list of embeddings"),
        (b'{"data": null}', "no list of embeddings"),
        (b'{"data": [{"index": 0}]}', "no list of embeddings"),
        (b'{"data": [{"index": 0, "embedding": "AAAA"}]}', "no list of embeddings"),
        (b'{"data": []}', "1 texts with 0 embeddings"),
        (b'{"data": [{"index": 1, "embedding": [1.0]}]}', "1 texts with 1 embeddings"),
        (b'{"data": [{"index": 0, "embedding": []}]}', "0 numbers"),
        (b"x" * (2 << 20), "more than"),
        (edited(embedding=[1.0, 2.0]), "2 numbers a vector, not 64"),
        (edited(embedding=[[1.0] * 64]), "1x64 numbers"),
        (edited(embedding=[0.0] * 64), "no direction"),
        (edited(embedding=[float("nan")] * 64), "no direction"),
        (edited(embedding=[1e39] * 64), "no direction"),
    ],
)
def test_an_answer_is_checked_before_it_is_believed(server: Embeddings, wrong: Any, said: str) -> None:
    encoder = opened(server)
    if isinstance(wrong, bytes):
        server.always = wrong
    else:
        server.edit = wrong
    with pytest.raises(PeerUnavailableError, match=said):
        encoder.encode(["tea"])
    assert len(server.requests) == 1


def test_a_text_that_is_too_long_for_the_model_is_its_beginning(server: Embeddings) -> None:
    encoder = opened(server)
    server.longest = 3000
    long = "green tea " * 2000
    found = encoder.encode(["chess", long, "dog"])
    expected = encoder.encode(["chess", long[:2500], "dog"])
    assert np.allclose(found, expected, atol=1e-5)


def test_a_text_that_is_refused_has_no_vector_and_the_others_do(
    server: Embeddings, caplog: pytest.LogCaptureFixture
) -> None:
    encoder = opened(server)
    with caplog.at_level(logging.WARNING):
        found = encoder.encode(["chess", "refused", "dog"])
    assert found.any(axis=1).tolist() == [True, False, True]
    assert "refuses the texts (HTTP 400)" in caplog.text


def test_an_endpoint_that_refuses_everything_refuses_no_text(server: Embeddings) -> None:
    encoder = opened(server)
    server.always = 400
    with pytest.raises(PeerUnavailableError, match="HTTP 400"):
        encoder.encode(["chess"])
    with pytest.raises(PeerUnavailableError, match="HTTP 400"):
        encoder.encode_query("chess")


async def test_a_dead_endpoint_is_left_alone_and_asked_carefully_later(server: Embeddings) -> None:
    clock = ManualClock()
    encoder = await asyncio.to_thread(opened, server, clock)
    server.always = 404
    for _ in range(RULE.threshold):
        with pytest.raises(PeerUnavailableError, match="HTTP 404"):
            await asyncio.to_thread(encoder.encode_query, "tea")
    for _ in range(20):
        with pytest.raises(CircuitOpenError) as caught:
            await asyncio.to_thread(encoder.encode_query, "tea")
        assert caught.value.retry_after == RULE.reset
    assert len(server.requests) == RULE.threshold
    server.always = None
    await clock.advance(RULE.reset)
    for _ in range(RULE.successes + 1):
        assert (await asyncio.to_thread(encoder.encode_query, "tea")).any()


def test_neither_key_nor_text_stands_in_an_error_or_a_line_of_the_log(
    server: Embeddings, caplog: pytest.LogCaptureFixture
) -> None:
    encoder = opened(server, known=64, timeout=0.5)
    errors = []
    with caplog.at_level(logging.DEBUG):
        for answer in (401, 429, 500, "drop", b"garbage", 400, "hang"):
            server.always = answer
            for ask in (encoder.encode_query, lambda text: encoder.encode([text])):
                with pytest.raises((PeerUnavailableError, CircuitOpenError)) as caught:
                    ask(TEXT)
                errors.append(f"{caught.value!r} {caught.value.metadata}")
    said = "\n".join([*errors, caplog.text, repr(EncoderChoice(server.setting, api_key=KEY)), repr(encoder.card)])
    assert KEY not in said
    assert TEXT not in said


def test_a_start_needs_the_dimension_from_somewhere() -> None:
    setting = f"openai:http://127.0.0.1:{free_port()}/v1#tiny"
    with pytest.raises(InvalidSettingError, match=r"reached \(ConnectError\); set MNEMO_INDEX_ENCODER_DIM"):
        at(setting)
    for encoder in (at(setting, dimension=64), at(setting, known=64)):
        assert encoder.dimension == 64
        with pytest.raises(UnavailableError):
            encoder.encode(["tea"])


def test_a_start_finds_out_that_the_dimension_is_another_one(server: Embeddings) -> None:
    with pytest.raises(InvalidSettingError, match="its vectors have 64 numbers, not 256"):
        opened(server, dimension=256)
    assert opened(server).dimension == 64


def test_another_dimension_is_another_model(server: Embeddings) -> None:
    small = opened(server).card
    server.dimension = 32
    assert opened(server).card.name != small.name
