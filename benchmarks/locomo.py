"""Recall quality on LoCoMo, through the public client, with BM25 alone in the same run.

The data is not part of this project: give the folder that holds one JSON file a conversation. Each turn is one memory;
for every question of category 1 to 4 with evidence, R@k is the mean share of the evidence turns among the first k.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from benchmarks.baselines import Bm25
from mnemocore import Connection, MemoryInput, connect

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

CUTS: Final = (5, 10, 25, 50)
CATEGORIES: Final = {1: "multi-hop", 2: "temporal", 3: "open-domain", 4: "single-hop"}


@dataclass(frozen=True, slots=True)
class Answer:
    """The turns a method found for one question, best first, and the turns that hold the answer."""

    category: int
    evidence: frozenset[str]
    found: tuple[str, ...]

    def recall(self, cut: int) -> float:
        """The share of the evidence among the first `cut`."""
        return len(self.evidence.intersection(self.found[:cut])) / len(self.evidence)


def text_of(turn: Mapping[str, Any]) -> str:
    """The content of a turn's memory."""
    caption = f" [shares {turn['caption']}]" if turn.get("caption") else ""
    return f"{turn['speaker']}: {turn['text']}{caption}"


def memory_of(turn: Mapping[str, Any]) -> MemoryInput:
    """A turn as a memory."""
    return MemoryInput(
        content=text_of(turn),
        actor=turn["speaker"],
        session=f"session-{turn['session']}",
        ordinal=turn["ordinal"],
        occurred_at=datetime.strptime(turn["date"], "%I:%M %p on %d %B, %Y").replace(tzinfo=UTC),
        metadata={"turn": turn["id"]},
    )


def questions_of(conversation: Mapping[str, Any]) -> list[tuple[str, int, frozenset[str]]]:
    """Question, category and evidence of the questions that count."""
    turns = frozenset(turn["id"] for turn in conversation["turns"])
    return [
        (question["question"], question["category"], evidence)
        for question in conversation["questions"]
        if question["category"] in CATEGORIES and (evidence := turns.intersection(question["evidence"]))
    ]


async def ask_product(mnemo: Connection, conversation: Mapping[str, Any]) -> tuple[list[Answer], list[float]]:
    """Answers of the product and the milliseconds each recall took."""
    space = mnemo.space(f"locomo-{conversation['sample_id']}")
    kept = await space.remember_many([memory_of(turn) for turn in conversation["turns"]])
    if kept.errors:
        raise SystemExit(f"{conversation['sample_id']}: {kept.errors[0].error}")
    answers, times = [], []
    for question, category, evidence in questions_of(conversation):
        started = time.perf_counter()
        hits = await space.recall(question, limit=max(CUTS))
        times.append((time.perf_counter() - started) * 1000)
        found = tuple(str(hit.memory.metadata["turn"]) for hit in hits)
        answers.append(Answer(category, evidence, found))
    return answers, times


def ask_bm25(conversation: Mapping[str, Any]) -> list[Answer]:
    """Answers of BM25 alone."""
    turns = [turn["id"] for turn in conversation["turns"]]
    bm25 = Bm25([text_of(turn) for turn in conversation["turns"]])
    answers = []
    for question, category, evidence in questions_of(conversation):
        order = np.argsort(-bm25.scores(question), kind="stable")[: max(CUTS)]
        answers.append(Answer(category, evidence, tuple(turns[place] for place in order)))
    return answers


def table(methods: Mapping[str, Sequence[Answer]]) -> Iterable[str]:
    """The lines of the report."""
    yield f"{'':24}{'questions':>10}" + "".join(f"{f'R@{cut}':>8}" for cut in CUTS)
    for method, answers in methods.items():
        yield _row(method, answers)
        by_category = defaultdict(list)
        for answer in answers:
            by_category[answer.category].append(answer)
        for category, name in CATEGORIES.items():
            if by_category[category]:
                yield _row(f"  {name}", by_category[category])


def _row(name: str, answers: Sequence[Answer]) -> str:
    means = [sum(answer.recall(cut) for answer in answers) / len(answers) for cut in CUTS]
    return f"{name:24}{len(answers):>10}" + "".join(f"{mean:8.3f}" for mean in means)


async def run(conversations: Sequence[Mapping[str, Any]], minimum: float) -> int:
    """Print the table; returns the exit code: 1 if R@10 of the product is below `minimum`."""
    product: list[Answer] = []
    times: list[float] = []
    with tempfile.TemporaryDirectory(prefix="mnemo-eval-") as data:
        async with connect(f"embedded:{data}") as mnemo:
            for conversation in conversations:
                answers, taken = await ask_product(mnemo, conversation)
                product += answers
                times += taken
    bm25 = [answer for conversation in conversations for answer in ask_bm25(conversation)]
    for line in table({"MnemoCore": product, "BM25 alone": bm25}):
        print(line)
    middle, tail = np.percentile(times, [50, 95])
    print(f"\n{len(conversations)} conversations; recall of {max(CUTS)}: p50 {middle:.1f} ms, p95 {tail:.1f} ms")
    reached = sum(answer.recall(10) for answer in product) / len(product)
    if reached < minimum:
        print(f"R@10 is {reached:.3f}, at least {minimum:.3f} is required")
        return 1
    return 0


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with the conversations, conv-*.json")
    parser.add_argument("--minimum", type=float, default=0.0, help="least R@10 of the product; below it exits with 1")
    arguments = parser.parse_args()
    if not any(arguments.data.glob("conv-*.json")):
        print(
            f"no conversations (conv-*.json) in {arguments.data}; the data is not part of this project: "
            "make eval LOCOMO=<folder>",
            file=sys.stderr,
        )
        return 2
    conversations = [json.loads(path.read_text()) for path in sorted(arguments.data.glob("conv-*.json"))]
    return asyncio.run(run(conversations, arguments.minimum))


if __name__ == "__main__":
    sys.exit(main())
