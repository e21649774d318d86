"""Clean-up and analogies: the goldens."""

from __future__ import annotations

import numpy as np
import pytest

from mnemocore.errors import InvalidFieldError
from mnemocore.hypervector import DIMENSION, Codebook, Concepts, bundle, random_hypervector


def royalty() -> Concepts:
    concepts = Concepts()
    for name, gender, status in (
        ("king", "male", "royal"),
        ("queen", "female", "royal"),
        ("man", "male", "common"),
        ("woman", "female", "common"),
        ("prince", "male", "heir"),
        ("princess", "female", "heir"),
    ):
        concepts.define(name, {"species": "human", "gender": gender, "status": status})
    return concepts


def test_king_is_to_queen_as_man_is_to_woman() -> None:
    concepts = royalty()
    assert concepts.analogy("king", "queen", "man").name == "woman"
    assert concepts.analogy("man", "woman", "king").name == "queen"
    assert concepts.analogy("king", "prince", "queen").name == "princess"


def test_fillers_are_read_back_from_their_roles() -> None:
    concepts = royalty()
    assert concepts.filler("queen", "status").name == "royal"
    assert concepts.filler("prince", "gender").name == "male"
    assert concepts.filler("queen", "status").similarity > 0.7
    assert concepts.filler("queen", "colour").similarity < 0.53


def test_a_thousand_vectors_come_back_from_thirty_percent_noise() -> None:
    codebook = Codebook()
    for number in range(1000):
        codebook.symbol(f"v{number}")
    draw = np.random.default_rng(3)
    for number in range(1000):
        bits = np.unpackbits(codebook[f"v{number}"])
        bits[draw.choice(DIMENSION, DIMENSION * 3 // 10, replace=False)] ^= 1
        cleaned = codebook.clean_up(np.packbits(bits))
        assert cleaned.name == f"v{number}"
        assert cleaned.similarity == pytest.approx(0.7, abs=1e-3)


def test_clean_up_of_noise_ends_and_says_how_unlike_it_is() -> None:
    codebook = Codebook()
    codebook.symbol("a")
    codebook.symbol("b")
    cleaned = codebook.clean_up(random_hypervector("something else"))
    assert cleaned.steps == 0
    assert cleaned.similarity < 0.52


def test_an_entry_can_be_replaced_and_left_out() -> None:
    codebook = Codebook()
    codebook.symbol("a")
    codebook.add("b", random_hypervector("x"))
    codebook.add("b", random_hypervector("y"))
    assert list(codebook) == ["a", "b"]
    assert "b" in codebook
    assert len(codebook) == 2
    assert codebook.clean_up(random_hypervector("y")).name == "b"
    mixed = bundle(codebook.table, [2.0, 1.0])
    assert codebook.clean_up(mixed, exclude=["a"]).name == "b"
    with pytest.raises(InvalidFieldError, match="codebook"):
        codebook.clean_up(mixed, exclude=["a", "b"])


def test_unknown_concepts_and_empty_definitions_are_refused() -> None:
    concepts = royalty()
    with pytest.raises(InvalidFieldError, match="'emperor' is not defined"):
        concepts.analogy("king", "queen", "emperor")
    with pytest.raises(InvalidFieldError, match="attributes"):
        concepts.define("nothing", {})
