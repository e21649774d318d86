"""The evaluation and what it compares with, against numbers made by hand."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from benchmarks.baselines import Bm25
from benchmarks.locomo import CUTS, Answer, ask_bm25, memory_of, questions_of, table, text_of

ROOT = Path(__file__).parents[2]


def turn(number: int, text: str, **fields: Any) -> dict[str, Any]:
    return {
        "id": f"D1:{number}",
        "speaker": "Ada",
        "text": text,
        "session": 1,
        "ordinal": number,
        "date": "1:56 pm on 8 May, 2023",
    } | fields


TURNS = [turn(1, "I adopted a dog"), turn(2, "Tea is ready"), turn(3, "The dog is called Biscuit")]
CONVERSATION = {
    "sample_id": "tiny",
    "turns": TURNS,
    "questions": [
        {"question": "What is the dog called?", "category": 4, "evidence": ["D1:3"]},
        {"question": "Who adopted a dog?", "category": 1, "evidence": ["D1:1", "D1:3", "D9:9"]},
        {"question": "adversarial", "category": 5, "evidence": ["D1:1"]},
        {"question": "without evidence", "category": 2, "evidence": []},
        {"question": "evidence elsewhere", "category": 2, "evidence": ["D9:9"]},
    ],
}


def test_recall_is_the_share_of_the_evidence_among_the_first() -> None:
    answer = Answer(1, frozenset({"a", "b"}), ("x", "a", "y", "z", "w", "b"))
    assert [answer.recall(cut) for cut in (0, 1, 2, 5, 6, 50)] == [0, 0, 0.5, 0.5, 1, 1]
    assert Answer(1, frozenset({"a"}), ()).recall(50) == 0


def test_the_table_has_the_means_over_all_and_of_every_category() -> None:
    answers = [
        Answer(1, frozenset({"a", "b"}), ("a", *"vwxyz", "b")),
        Answer(4, frozenset({"a"}), ("a",)),
        Answer(4, frozenset({"a"}), tuple("bcdefghijkla")),
    ]
    assert CUTS == (5, 10, 25, 50)
    assert list(table({"Mine": answers})) == [
        "                         questions     R@5    R@10    R@25    R@50",
        "Mine                             3   0.500   0.667   1.000   1.000",
        "  multi-hop                      1   0.500   1.000   1.000   1.000",
        "  single-hop                     2   0.500   0.500   1.000   1.000",
    ]


def test_a_turn_says_who_spoke_and_what_they_showed() -> None:
    assert text_of(turn(1, "Look!")) == "Ada: Look!"
    assert text_of(turn(1, "Look!", caption="a photo of a dog")) == "Ada: Look! [shares a photo of a dog]"
    assert text_of(turn(1, "Look!", caption="")) == text_of(turn(1, "Look!", caption=None)) == "Ada: Look!"


def test_a_turn_becomes_a_memory() -> None:
    memory = memory_of(turn(7, "Look!", caption="a dog"))
    assert (memory.content, memory.actor, memory.session, memory.ordinal) == (
        "Ada: Look! [shares a dog]",
        "Ada",
        "session-1",
        7,
    )
    assert memory.occurred_at == datetime(2023, 5, 8, 13, 56, tzinfo=UTC)
    assert memory.metadata == {"turn": "D1:7"}


def test_only_questions_with_evidence_count() -> None:
    assert questions_of(CONVERSATION) == [
        ("What is the dog called?", 4, frozenset({"D1:3"})),
        ("Who adopted a dog?", 1, frozenset({"D1:1", "D1:3"})),
    ]


def test_bm25_answers_a_conversation() -> None:
    called, adopted = ask_bm25(CONVERSATION)
    assert called.found[0] == "D1:3"
    assert adopted.found[:2] == ("D1:1", "D1:3")
    assert (called.recall(1), adopted.recall(2)) == (1, 1)


def test_bm25_against_numbers_made_by_hand() -> None:
    """k1 = 1.2, b = .4; lengths 2 and 3, mean 2.5."""
    bm25 = Bm25(["red apple", "red red pear"])
    first = 1 * 2.2 / (1 + 1.2 * (0.6 + 0.4 * 2 / 2.5))
    second = 2 * 2.2 / (2 + 1.2 * (0.6 + 0.4 * 3 / 2.5))
    assert [first, second] == pytest.approx([1.0456273764, 1.3349514563])
    assert bm25.scores("red").tolist() == pytest.approx([math.log(1.2) * first, math.log(1.2) * second])
    assert bm25.scores("apples").tolist() == pytest.approx([math.log(2) * first, 0])
    assert bm25.scores("the reds of apples").tolist() == pytest.approx(
        [(math.log(1.2) + math.log(2)) * first, math.log(1.2) * second]
    )
    assert bm25.scores("the").tolist() == bm25.scores("plum").tolist() == [0, 0]


def test_bm25_of_nothing() -> None:
    assert Bm25([]).scores("red").tolist() == []
    assert Bm25(["", "the"]).scores("red").tolist() == [0, 0]


def test_without_data_it_says_so_and_ends_with_2(tmp_path: Path) -> None:
    (tmp_path / "something-else.json").write_text("{}")
    path = os.pathsep.join(str(ROOT / folder) for folder in ("", "libs", "services"))
    ended = subprocess.run(
        [sys.executable, "-m", "benchmarks.locomo", "--data", str(tmp_path)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 2
    assert ended.stdout == ""
    assert ended.stderr == (
        f"no conversations (conv-*.json) in {tmp_path}; the data is not part of this project: "
        "make eval LOCOMO=<folder>\n"
    )
