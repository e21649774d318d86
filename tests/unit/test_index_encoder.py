"""The default encoder: its files, its numbers, its limits."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest

from mnemo_index.storage.wordllama_encoder import MAX_CHARACTERS, WordLlamaEncoder
from mnemocore.errors import InvalidSettingError

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def encoder() -> WordLlamaEncoder:
    return WordLlamaEncoder.load()


def test_meaning_is_near_meaning(encoder: WordLlamaEncoder) -> None:
    cat, kitten, invoice = encoder.encode(["a cat sleeps", "the kitten is asleep", "the invoice was paid"])
    assert cat @ kitten > 0.4 > cat @ invoice


def test_rows_have_length_one_and_do_not_depend_on_the_batch(encoder: WordLlamaEncoder) -> None:
    texts = ["one", "a somewhat longer text", "\U0001f5fc", "x" * 3000, "'; DROP TABLE"]
    together = encoder.encode(texts)
    assert together.shape == (5, encoder.dimension)
    assert together.dtype == np.float32
    assert np.linalg.norm(together, axis=1) == pytest.approx(1.0, abs=1e-5)
    assert np.array_equal(together, np.concatenate([encoder.encode([text]) for text in texts]))


def test_an_empty_text_is_zero(encoder: WordLlamaEncoder) -> None:
    assert not encoder.encode([""]).any()
    assert encoder.encode([]).shape == (0, 256)
    assert not encoder.encode_weighted([], []).any()
    assert not encoder.encode_weighted(["word"], [0.0]).any()


def test_a_very_long_text_is_its_beginning(encoder: WordLlamaEncoder) -> None:
    text = "the quick brown fox " * 6000
    long, beginning = encoder.encode([text, text[:MAX_CHARACTERS]])
    assert np.array_equal(long, beginning)


def test_weights_say_which_words_count(encoder: WordLlamaEncoder) -> None:
    tea, chess = encoder.encode(["tea", "chess"])
    towards_tea = encoder.encode_weighted(["tea", "chess"], [5.0, 1.0])
    assert towards_tea @ tea > towards_tea @ chess
    assert np.allclose(encoder.encode_weighted(["tea", "chess"], [1.0, 0.0]), tea, atol=1e-6)


def test_the_model_is_named_by_the_hash_of_its_weights(encoder: WordLlamaEncoder) -> None:
    name, _, digest = encoder.model.partition("@")
    assert name == "wordllama/l2_supercat_256"
    assert len(digest) == 12


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidSettingError, match=r"weights/l2_supercat_256\.safetensors is missing"):
        WordLlamaEncoder.load(tmp_path)


def test_it_needs_neither_the_network_nor_the_code_of_the_wheel() -> None:
    code = """
import socket, sys
def refuse(*arguments, **options): raise AssertionError("the network was used")
socket.socket.connect = socket.getaddrinfo = socket.create_connection = refuse
from mnemo_index.storage.wordllama_encoder import WordLlamaEncoder
assert WordLlamaEncoder.load().encode(["offline"]).any()
sys.exit("wordllama" in sys.modules)
"""
    environment = {"PYTHONPATH": ":".join(sys.path)}
    assert subprocess.run([sys.executable, "-c", code], check=False, env=environment).returncode == 0
