"""What every encoder promises, run on all of them: the default one, model directories, and a remote endpoint."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pytest
from tests import tiny_models
from tests.embeddings_server import embeddings

from mnemo_index.domain.encoder import encode_question
from mnemo_index.domain.models import EncoderChoice
from mnemo_index.domain.query_cache import QueryCache, cached
from mnemo_index.storage.encoders import open_encoder

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from mnemo_index.domain.encoder import Encoder, Engine

TRANSFORMER = pytest.param("transformer", marks=pytest.mark.transformers)
ENGINES = ["wordllama", "static model", "model2vec", TRANSFORMER, "openai"]
CACHED = [f"cached {name}" for name in ("wordllama", "openai")]


@dataclass
class Subject:
    """An encoder, another one of the same setting, and what it can do."""

    encoder: Encoder
    engine: Engine
    again: Engine
    weighs: bool
    understands: bool


def choice(name: str, folder: Path, url: str) -> EncoderChoice:
    """The choice of an engine; what it needs is made."""
    if name == "wordllama":
        return EncoderChoice()
    if name == "openai":
        return EncoderChoice(url)
    make = {
        "static model": tiny_models.static_model,
        "model2vec": tiny_models.model2vec,
        "transformer": tiny_models.transformer,
    }[name]
    return EncoderChoice(f"sentence-transformers:{make(folder / 'model')}")


@pytest.fixture(params=[*ENGINES, *CACHED])
def subject(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Subject]:
    name = str(request.param).removeprefix("cached ")
    with embeddings() as server:
        chosen = choice(name, tmp_path, server.setting)
        engine, again = open_encoder(chosen, []), open_encoder(chosen, [])
        encoder: Encoder = cached(engine, QueryCache()) if request.param in CACHED else engine
        yield Subject(encoder, engine, again, name not in ("transformer", "openai"), name != "transformer")
        engine.close()
        again.close()


TEXTS = ["green tea", "the dog ate the biscuit", "Lisbon !", "tea " * 3000, "'; chess"]


def test_rows_have_length_one_and_do_not_depend_on_the_batch(subject: Subject) -> None:
    together = subject.encoder.encode(TEXTS)
    assert together.shape == (len(TEXTS), subject.encoder.dimension)
    assert together.dtype == np.float32
    assert np.linalg.norm(together, axis=1) == pytest.approx(1.0, abs=1e-5)
    alone = np.concatenate([subject.encoder.encode([text]) for text in TEXTS])
    assert np.allclose(together, alone, atol=1e-5)


def test_a_text_without_anything_is_zero(subject: Subject) -> None:
    assert subject.encoder.encode([]).shape == (0, subject.encoder.dimension)
    empty, said = subject.encoder.encode(["", "tea"])
    assert not empty.any()
    assert said.any()
    assert not subject.encoder.encode_weighted([], []).any()
    assert not subject.encoder.encode_weighted(["tea"], [0.0]).any()
    assert not encode_question(subject.encoder, "", [], []).any()


def test_meaning_is_near_meaning(subject: Subject) -> None:
    green, black, invoice = subject.encoder.encode(["green tea", "black tea", "the invoice was paid"])
    if subject.understands:
        assert green @ black > green @ invoice


def test_a_question_is_a_vector_near_texts_that_say_it(subject: Subject) -> None:
    question = encode_question(subject.encoder, "Green tea?", ["green", "tea"], [2.0, 1.0])
    assert question.shape == (subject.encoder.dimension,)
    assert np.linalg.norm(question) == pytest.approx(1.0, abs=1e-5)
    tea, train = subject.encoder.encode(["green tea", "chess train"])
    assert not subject.understands or question @ tea > question @ train


def test_weights_say_which_words_count(subject: Subject) -> None:
    tea, chess = subject.encoder.encode(["tea", "chess"])
    towards_tea = subject.encoder.encode_weighted(["tea", "chess"], [5.0, 1.0])
    only_tea = subject.encoder.encode_weighted(["tea", "chess"], [1.0, 0.0])
    assert np.allclose(only_tea, tea, atol=1e-5)
    if subject.weighs:
        assert towards_tea @ tea > towards_tea @ chess


def test_the_same_setting_is_the_same_model_and_makes_the_same_vectors(subject: Subject) -> None:
    assert subject.again.card == subject.engine.card
    assert np.allclose(subject.again.encode(TEXTS), subject.encoder.encode(TEXTS), atol=1e-6)


def test_the_model_says_what_it_is(subject: Subject) -> None:
    card = subject.engine.card
    assert card.name == subject.encoder.model == f"{card.id}@{card.version}"
    assert re.fullmatch(r"[0-9a-f]{64}", card.checksum)
    assert card.version == card.checksum[:12]
    assert card.dimension == subject.encoder.dimension
    with closing(open_encoder(EncoderChoice(card.setting), [])) as reopened:
        assert reopened.model == card.name
    assert card.remote == card.setting.startswith("openai:")


def test_many_threads_may_use_it(subject: Subject) -> None:
    expected = subject.encoder.encode(TEXTS)
    with ThreadPoolExecutor(8) as threads:
        for found in threads.map(subject.encoder.encode, [TEXTS] * 32):
            assert np.allclose(found, expected, atol=1e-5)
