"""From text to terms."""

from __future__ import annotations

import threading

import pytest

from mnemo_index.domain.words import LANGUAGES, LONGEST_TERM, Stems, asks, guard, names, words


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Don't! Can't, won't; CANNOT.", ["do", "not", "can", "not", "will", "not", "can", "not"]),
        ("Caroline's O\u2019Brien", ["caroline", "o", "brien"]),
        ("1,000.50 at 10:30, GPT-4o v1.2", ["1000.50", "at", "10:30", "gpt", "4o", "v1", "2"]),
        ("Caf\u00e9 STRA\u00dfE \uff21\uff22\uff23", ["cafe", "strasse", "abc"]),
        (
            "\u6771\u4eac tower \U0001f5fc\U0001f44d\U0001f3fd",
            ["\u6771", "\u4eac", "tower", "\U0001f5fc", "\U0001f44d"],
        ),
        (
            "\u0939\u093f\u0928\u094d\u0926\u0940 \u0401\u043b\u043a\u0430",
            ["\u0939\u093f\u0928\u094d\u0926\u0940", "\u0435\u043b\u043a\u0430"],
        ),
        ("'; DROP TABLE memories; --", ["drop", "table", "memories"]),
        ("...", []),
    ],
)
def test_words(text: str, expected: list[str]) -> None:
    assert words(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("GPT-4, v2.3.1, B\u201152s, I-95 and COVID\u201319", ["gpt4", "v2.3.1", "b52s", "i95", "covid19"]),
        ("x86_64 weighs 3-5kg, a 19-year-old, 10.5mm", ["x86_64", "3-5kg", "19year-old", "10.5mm"]),
        ("RTX4090 0x1F 2023-05-07 10:30 well-known and/or e.g. 1,000.50", []),
        ("\u0422-34 Caf\u00e9-9 \uff21\uff0d\uff11", ["\u044234", "cafe9", "a1"]),
        ("a-1" * 100, [("a1" + "a1" * 99)[:LONGEST_TERM]]),
    ],
)
def test_names_with_digits(text: str, expected: list[str]) -> None:
    assert names(text) == expected


@pytest.mark.parametrize(
    ("language", "text", "expected"),
    [
        ("german", "Die H\u00e4user und die Katzen", ["die", "haus", "und", "die", "katz"]),
        ("russian", "\u043a\u043e\u0448\u043a\u0438 \u043a\u043e\u0448\u043a\u0430", ["\u043a\u043e\u0448\u043a"] * 2),
        ("russian", "\u043d\u043e\u0432\u044b\u0439 \u043d\u043e\u0432\u044b\u0435", ["\u043d\u043e\u0432"] * 2),
        ("none", "The cats", ["the", "cats"]),
        ("english", "The cats \u043a\u043e\u0448\u043a\u0438", ["cat", "\u043a\u043e\u0448\u043a\u0438"]),
    ],
)
def test_terms_of_other_languages(language: str, text: str, expected: list[str]) -> None:
    assert Stems(language).terms(words(text)) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("\u5317\u4eac\u5927\u5b66", ["\u5317\u4eac", "\u4eac\u5927", "\u5927\u5b66"]),
        ("\u732b", ["\u732b"]),
        ("the \u732b and dogs \u6771\u4eac\U0001f5fc\u6771", ["\u732b", "dog", "\u6771\u4eac", "\U0001f5fc", "\u6771"]),
        ("\u0e41\u0e21\u0e27", ["\u0e41\u0e21", "\u0e21\u0e27"]),
        ("\u30c6\u30b9\u30c8", ["\u30c6\u30b9", "\u30b9\u30c8"]),
    ],
)
def test_letters_without_spaces_are_terms_in_pairs(text: str, expected: list[str]) -> None:
    assert Stems().terms(words(text)) == expected


def test_every_language_has_stems() -> None:
    assert {"english", "german", "russian", "none"} <= set(LANGUAGES)
    for language in LANGUAGES:
        assert len(Stems(language).terms(["abc", "1a", "\u0430\u0431\u0432"])) == 3


def test_a_contracted_negation_is_not() -> None:
    assert words("I can't") == ["i", "can", "not"]
    assert words("She doesn't") == ["she", "does", "not"]


def test_endless_words_are_cut() -> None:
    (word,) = words("a1" * 500)
    assert len(word) == LONGEST_TERM


def test_terms_are_stems_without_stop_words() -> None:
    stems = Stems()
    assert stems.terms(words("What are the cameras that Caroline was repairing?")) == ["camera", "carolin", "repair"]
    assert stems.terms(words("who is it")) == []


def test_one_guard_for_one_statement() -> None:
    assert guard(words("It costs 40 euros")) == guard(words("Euros: 40, it costs"))
    assert guard(words("She doesn't like tea")) == guard(words("She does not like tea"))
    different = [
        "It costs 40",
        "It costs 50",
        "It does not cost 40",
        "It never costs 40, not once",
        "It costs forty",
        "It costs",
    ]
    assert len({guard(words(text)) for text in different}) == len(different)
    assert guard(words("on Monday in room 4b")) != guard(words("on Tuesday in room 4b"))
    assert guard(words("on Monday in room 4b")) != guard(words("on Monday in room 4c"))


def test_stems_are_shared_by_threads() -> None:
    stems, results = Stems(), list[list[str]]()
    found = [f"{first}{second}ing" for first in "abcdefgh" for second in ("alk", "ook", "atch", "eep")]
    threads = [threading.Thread(target=lambda: results.append(stems.terms(found))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(result == Stems().terms(found) for result in results)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("How are you?", True),
        ("How are you?! \U0001f600 ", True),
        ('She said "why?"', True),
        ("What is it? [a photo of a dog]", True),
        ("\u4f60\u597d\u5417\uff1f", True),
        ("How are you? I am fine.", False),
        ("Fine.", False),
        ("Fine [is it?]", False),
        ("", False),
        ("?" + "[" * 1000, True),
    ],
)
def test_whether_a_text_ends_with_a_question(text: str, expected: bool) -> None:
    assert asks(text) == expected


@pytest.mark.parametrize("unit", ["x1", "1", "a1-", "x", "1.", "\u6f22", "é1"])
def test_a_long_run_of_one_thing_is_read_in_linear_time(unit: str) -> None:
    """A million characters: what tries again from each of them does not come to an end within the limit of a test."""
    text = unit * (1_000_000 // len(unit))
    assert len(names(text)) <= 1
    assert words(text)
