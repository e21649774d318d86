"""Clean-up and analogies: the goldens."""

from __future__ import annotations

import numpy as np
import pytest

from mnemocore.errors import InvalidFieldError
from mnemocore.hypervector import (
    DIMENSION,
    Codebook,
    Concepts,
    Match,
    bind,
    bundle,
    carried_over,
    concept,
    moved_along,
    random_hypervector,
    random_hypervectors,
)


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
    with pytest.raises(InvalidFieldError, match="fillers: has a row that equals its role"):
        concept(random_hypervectors(["a", "b"]), random_hypervectors(["c", "b"]))


def test_concepts_may_have_an_even_number_of_attributes() -> None:
    concepts = Concepts()
    for name, gender, status in (
        ("king", "male", "royal"),
        ("queen", "female", "royal"),
        ("man", "male", "common"),
        ("woman", "female", "common"),
    ):
        concepts.define(name, {"gender": gender, "status": status})
    assert concepts.analogy("king", "queen", "man").name == "woman"
    assert concepts.filler("queen", "gender").name == "female"


def test_a_filler_may_be_a_vector_of_its_own() -> None:
    concepts = Concepts()
    teal = random_hypervector("teal")
    concepts.name_filler("teal", teal)
    cup = concepts.define("cup", {"colour": "teal"})
    assert np.array_equal(bind(cup, random_hypervector("role colour")), teal)
    assert concepts.filler("cup", "colour").name == "teal"


def test_the_dollar_of_mexico() -> None:
    roles = random_hypervectors(["country", "capital", "currency"])
    states, mexico = ["United States", "Washington", "dollar"], ["Mexico", "Mexico City", "peso"]
    fillers = Codebook()
    for name in (*states, *mexico):
        fillers.symbol(name)
    first = concept(roles, np.stack([fillers[name] for name in states]))
    second = concept(roles, np.stack([fillers[name] for name in mexico]))
    for one, other in zip(states, mexico, strict=True):
        assert fillers.clean_up(carried_over(first, second, fillers[one])).name == other


def test_moving_along_a_difference_is_a_majority() -> None:
    king, queen, man = random_hypervectors(["king", "queen", "man"])
    votes = np.unpackbits(np.stack([~king, queen, man]), axis=1).sum(axis=0)
    assert np.array_equal(np.unpackbits(moved_along(king, queen, man)), votes >= 2)


def test_the_nearest_entries_come_in_order() -> None:
    codebook = Codebook()
    for name in ("a", "b", "c"):
        codebook.symbol(name)
    mixed = bundle(codebook.table, [3.0, 2.0, 2.0])
    assert codebook.nearest(mixed, 2)[0].name == "a"
    assert codebook.nearest(codebook["b"], 1) == [Match("b", 1.0)]
    assert [match.name for match in codebook.nearest(mixed, 5, exclude=["a", "z"])] in (["b", "c"], ["c", "b"])
    with pytest.raises(InvalidFieldError, match="vector: has shape"):
        codebook.add("d", codebook.table)
