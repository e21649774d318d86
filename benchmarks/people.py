"""Recall quality on a generated world of people, projects and companies, through the public client.

Beside it, on the same facts in the same run: BM25 alone, and cosine + BM25 in one process. Neither knows that a fact
was replaced by another. `hit@1` is the share of questions whose answer comes first, `R@10` the mean share of the facts
that the answer takes among the first ten.
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
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np

from benchmarks.baselines import Bm25, InProcess
from benchmarks.world import LEAST_MEMORIES, Kind, Question, World, generate
from mnemo_index.storage.wordllama_encoder import WordLlamaEncoder
from mnemocore import Connection, MemoryInput, Space, connect

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from benchmarks.world import Fact

CUT: Final = 10
UPDATES: Final = (Kind.RECORDED, Kind.UNRECORDED)

Found: TypeAlias = tuple[str, ...]
"""The keys of the facts that were found for a question, best first, at most CUT."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a method found for a question."""

    question: Question
    found: Found

    @property
    def hit(self) -> bool:
        """Whether the answer comes first."""
        return self.found[:1] == (self.question.answer,)

    @property
    def recall(self) -> float:
        """The share of the evidence among what was found."""
        return len(self.question.evidence.intersection(self.found)) / len(self.question.evidence)

    @property
    def misled(self) -> bool:
        """Whether an outdated fact stands above the one that is true now."""
        for key in self.found:
            if key == self.question.answer:
                return False
            if key in self.question.outdated:
                return True
        return False


def memory_of(fact: Fact) -> MemoryInput:
    """A fact as a memory."""
    return MemoryInput(content=fact.text, occurred_at=fact.at, metadata={"fact": fact.key})


async def keep(space: Space, facts: Sequence[Fact]) -> None:
    """Write the facts, and those whose update is recorded as superseding what they replace, oldest first."""
    at_once = [fact for fact in facts if not fact.recorded]
    kept = await space.remember_many([memory_of(fact) for fact in at_once])
    ids = dict(zip((fact.key for fact in at_once), kept.ids, strict=True))
    for fact in facts:
        if fact.recorded:
            ids[fact.key] = (await space.supersede(ids[fact.replaces], memory_of(fact))).id


async def ask_product(mnemo: Connection, world: World) -> tuple[list[Answer], list[float]]:
    """Answers of the product and the milliseconds each recall took."""
    space = mnemo.space("people")
    await keep(space, world.facts)
    answers, times = [], []
    for question in world.questions:
        started = time.perf_counter()
        hits = await space.recall(question.text, limit=CUT)
        times.append((time.perf_counter() - started) * 1000)
        answers.append(Answer(question, tuple(str(hit.memory.metadata["fact"]) for hit in hits)))
    return answers, times


def ask_bm25(world: World) -> list[Answer]:
    """Answers of BM25 alone, over all facts."""
    bm25 = Bm25([fact.text for fact in world.facts])
    answers = []
    for question in world.questions:
        order = np.argsort(-bm25.scores(question.text), kind="stable")[:CUT]
        answers.append(Answer(question, tuple(world.facts[place].key for place in order)))
    return answers


def ask_in_process(world: World) -> list[Answer]:
    """Answers of cosine + BM25, over all facts."""
    both = InProcess(WordLlamaEncoder.load(), [fact.text for fact in world.facts])
    return [
        Answer(question, tuple(world.facts[place].key for place in both.search(question.text, CUT)))
        for question in world.questions
    ]


def figures(answers: Iterable[Answer]) -> dict[str, dict[str, float]]:
    """By kind and over all: questions, hit@1, R@10; of updates also how often an outdated fact stands above."""
    by_kind: dict[str, list[Answer]] = defaultdict(list)
    for answer in answers:
        by_kind["all"].append(answer)
        by_kind[answer.question.kind].append(answer)
    return {
        kind: {
            "questions": len(some),
            "hit_at_1": sum(answer.hit for answer in some) / len(some),
            "recall_at_10": sum(answer.recall for answer in some) / len(some),
        }
        | ({"outdated_above": sum(answer.misled for answer in some) / len(some)} if kind in UPDATES else {})
        for kind, some in by_kind.items()
    }


def table(methods: Mapping[str, Mapping[str, Mapping[str, float]]]) -> Iterable[str]:
    """The lines of the report."""
    yield f"{'':24}{'questions':>10}{'hit@1':>8}{'R@10':>8}{'outdated above':>16}"
    for method, kinds in methods.items():
        for kind, figure in kinds.items():
            name = method if kind == "all" else f"  {kind}"
            above = f"{figure['outdated_above']:16.3f}" if "outdated_above" in figure else ""
            yield f"{name:24}{figure['questions']:>10}{figure['hit_at_1']:8.3f}{figure['recall_at_10']:8.3f}{above}"


async def run(memories: int, questions: int, seed: int) -> dict[str, Any]:
    """Measure; returns the figures of each method."""
    world = generate(memories, questions, seed)
    with tempfile.TemporaryDirectory(prefix="mnemo-people-") as data:
        async with connect(f"embedded:{data}") as mnemo:
            product, times = await ask_product(mnemo, world)
    methods = {"MnemoCore": product, "cosine + BM25": ask_in_process(world), "BM25 alone": ask_bm25(world)}
    p50, p95 = np.percentile(times, [50, 95])
    return {
        "memories": memories,
        "seed": seed,
        "methods": {method: figures(answers) for method, answers in methods.items()},
        "recall_p50_ms": float(p50),
        "recall_p95_ms": float(p95),
    }


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--memories", type=int, default=10_000, help="how many facts the world has")
    parser.add_argument("--questions", type=int, default=300, help="at most so many of each kind")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--json", action="store_true", help="print one JSON line in the place of the table")
    arguments = parser.parse_args()
    if arguments.memories < LEAST_MEMORIES or arguments.questions < 1:
        parser.error(f"--memories must be at least {LEAST_MEMORIES}, --questions at least 1")
    result = asyncio.run(run(arguments.memories, arguments.questions, arguments.seed))
    if arguments.json:
        print(json.dumps(result))
        return 0
    for line in table(result["methods"]):
        print(line)
    print(
        f"\n{result['memories']} memories, seed {result['seed']}; recall of {CUT}: "
        f"p50 {result['recall_p50_ms']:.1f} ms, p95 {result['recall_p95_ms']:.1f} ms"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
