"""What of a query is compared by words."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mnemo_index.domain.wording import MOST_PHRASES, MOST_VARIANTS, MOST_WILDCARDS, Wildcard, Wording, wording_of
from mnemo_index.domain.words import Stems, names, words

STEMS = Stems()


def phrases(query: str) -> list[str]:
    return [" ".join(phrase) for phrase in wording_of(query, STEMS).phrases]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ('Who read "The Old Man and the Sea"?', ["old man sea"]),
        (
            "\u201ered wine\u201c and \u00abwhite wine\u00bb and \u300cgreen tea\u300d",
            ["red wine", "white wine", "green tea"],
        ),
        ('"red wine" "Red  wines"', ["red wine"]),
        ('"wine" "is it" "" "', []),
        ('a 24" screen', []),
        ("it's 'red wine'", []),
    ],
)
def test_phrases(query: str, expected: list[str]) -> None:
    assert phrases(query) == expected


def test_what_is_quoted_is_looked_for_as_words_too() -> None:
    assert wording_of('the "red wine" of Porto', STEMS).terms == ["red", "wine", "porto"]


def test_a_name_with_digits_is_looked_for_as_a_whole_and_by_its_parts() -> None:
    assert wording_of("Is GPT-4 out?", STEMS).terms == ["gpt", "4", "gpt4"]
    assert wording_of("comput* with x86_64", STEMS).terms == ["x86", "64", "x86_64"]


@pytest.mark.parametrize(
    ("query", "wildcards", "terms"),
    [
        ("comput* in Porto", [("comput", "comput")], ["porto"]),
        ("Happy* M\u00fcll*", [("happy", "happi"), ("mull", "mull")], []),
        ("comput* Comput*", [("comput", "comput")], []),
        ("a* 2*3 c*d **bold** * ** x*", [], ["2", "3", "c", "d", "bold", "x"]),
        ("the* theory", [("the", "")], ["theori"]),
    ],
)
def test_wildcards(query: str, wildcards: list[tuple[str, str]], terms: list[str]) -> None:
    wording = wording_of(query, STEMS)
    assert [(each.start, each.stem) for each in wording.wildcards] == wildcards
    assert wording.terms == terms
    assert wording.words == words(query)


def test_a_wildcard_stands_for_the_most_frequent_terms_that_begin_with_it() -> None:
    known = Counter({f"tea{number}": number for number in range(100)}) + Counter({"te": 500, "coffee": 900})
    known["teapot"] = 0
    (variants,) = Wording([], [], (), (Wildcard("tea", "te"),)).expanded(known, known.__getitem__).variants
    assert variants == ("te", *(f"tea{number}" for number in range(99, 100 - MOST_VARIANTS, -1)))
    assert Wildcard("teap", "teap").variants(known, known.__getitem__) == ()


@given(st.text(alphabet='ab *"\u201c\u4e00-1', max_size=60) | st.text(max_size=60))
def test_every_query_has_a_wording(query: str) -> None:
    wording = wording_of(query, STEMS)
    assert len(wording.phrases) <= MOST_PHRASES
    assert len(wording.wildcards) <= MOST_WILDCARDS
    assert all(len(phrase) > 1 for phrase in wording.phrases)
    if "*" not in query and not any(each.inside for each in wording.wildcards):
        assert wording.terms == STEMS.terms(words(query)) + names(query)
