"""The main job in one command: a conversation and this project's documentation go in, the right memories come out.

Everything runs in this process on the data directory (`.mnemo` unless `MNEMO_DATA_DIR` says otherwise): five services,
PostgreSQL, no LLM, no network. Run it again and it adds nothing: the memories have stable ids.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import textwrap
import time
import uuid
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from rich.console import Console
from rich.text import Text

from mnemo_cli.files import File
from mnemo_cli.sources.record import SourceError
from mnemocore import MemoryInput, MnemoError, RecallHit, Space, connect

if TYPE_CHECKING:
    from collections.abc import Iterator

HOME: Final = Path(__file__).parent.parent
CONVERSATION: Final = HOME / "examples" / "conversation.jsonl"
QUESTIONS: Final = HOME / "examples" / "questions.json"
SPACE: Final = "demo"
SHOWN: Final = 3
WIDTH: Final = 118
_NAMESPACE: Final = uuid.UUID("0e4ae5a4-1d5c-5f0c-9c0a-6d6e656d6f31")


@dataclass(frozen=True, slots=True)
class Question:
    """A question, what sort it is, the answer for people, and where it stands."""

    question: str
    type: str
    answer: str
    expected: dict[str, Any]

    def is_answered_by(self, hit: RecallHit) -> bool:
        """Whether a memory is one of those that hold the answer."""
        metadata = hit.memory.metadata
        if "turns" in self.expected:
            return metadata.get("turn") in self.expected["turns"]
        heading = str(metadata.get("heading", ""))
        return metadata.get("source") == self.expected["document"] and heading.endswith(self.expected["heading"])


def memories() -> Iterator[MemoryInput]:
    """The conversation turn by turn, and the documentation section by section."""
    for path in [CONVERSATION, HOME / "README.md", *sorted((HOME / "docs").rglob("*.md"))]:
        if path.is_relative_to(HOME / "docs" / "reference"):
            continue  # tables for looking things up, not prose
        name = path.relative_to(HOME).as_posix()
        form = "markdown" if path.suffix == ".md" else "jsonl"
        for place, item in File(path, name, form, path.stat().st_size).records():
            if isinstance(item, SourceError):
                raise SystemExit(f"error: {item}")
            key = f"{place.source}\n{place.line}\n{item.content}"
            yield replace(item, id=str(uuid.uuid5(_NAMESPACE, key)))


def questions() -> list[Question]:
    """What is asked."""
    return [Question(**each) for each in json.loads(QUESTIONS.read_text(encoding="utf-8"))]


async def keep(space: Space, console: Console) -> None:
    """Keep the memories, and take out those of an earlier run that are no longer in the files."""
    items = list(memories())
    started = time.perf_counter()
    kept = await space.remember_many(items, on_error="collect")
    known = [error for error in kept.errors if error.error.reason == "MEMORY_EXISTS"]
    if len(known) < len(kept.errors):
        raise next(error.error for error in kept.errors if error not in known)
    current = {item.id for item in items}
    for stale in [memory.id async for memory in space.list() if memory.id not in current]:
        await space.forget(stale, reason="no longer in the files")
    seconds = time.perf_counter() - started
    console.print(f"Kept {len(kept.ids)} memories, {len(known)} were already there ({seconds:.2f} s).")


def show(console: Console, question: Question, hits: list[RecallHit], milliseconds: float) -> bool:
    """Print a question and its best memories; whether the right one is first."""
    right = bool(hits) and question.is_answered_by(hits[0])
    console.print()
    console.print(Text.assemble((question.question, "bold"), f"  ({question.type}, {milliseconds:.1f} ms)"))
    for place, hit in enumerate(hits[:SHOWN], 1):
        mark = "=>" if question.is_answered_by(hit) else "  "
        source = hit.memory.metadata.get("source") or f"{hit.memory.occurred_at:%Y-%m-%d}"
        content = textwrap.shorten(hit.memory.content, 2 * WIDTH - 30, placeholder=" ...")
        lines = textwrap.wrap(f"[{source}] {content}", WIDTH - 15)
        console.print(Text(f"{mark} {place}. {hit.score:.3f}  {lines[0]}"))
        for line in lines[1:]:
            console.print(Text(f"{'':13}{line}"))
        parts = sorted(hit.explanation, key=lambda part: -part.contribution)
        why = " + ".join(f"{part.name} {part.contribution:.3f}" for part in parts if part.contribution >= 0.0005)
        console.print(Text(f"{'':13}why: {why}", "dim"))
    console.print(Text(f"   answer: {question.answer}", "green" if right else "red"))
    return right


async def main() -> int:
    """Run the demo; the exit code is 1 if fewer than five of six questions have the right memory first."""
    console = Console(highlight=False, soft_wrap=True)
    directory = Path(os.environ.get("MNEMO_DATA_DIR", HOME / ".mnemo"))
    started = time.perf_counter()
    async with connect(f"embedded:{directory}") as mnemo:
        console.print(f"Five services and PostgreSQL are up ({time.perf_counter() - started:.2f} s).")
        space = mnemo.space(SPACE)
        await keep(space, console)
        await space.recall("warm up")
        asked, right = questions(), 0
        for question in asked:
            began = time.perf_counter()
            hits = await space.recall(question.question, limit=10)
            right += show(console, question, hits, (time.perf_counter() - began) * 1000)
    console.print()
    console.print(f"{right} of {len(asked)} questions have the right memory first.")
    console.print(
        "\nGo on:\n"
        f'  .venv/bin/mnemo recall --space {SPACE} "Who takes care of the dog?"   ask it yourself\n'
        "  .venv/bin/mnemo ingest --space mine NOTES.md                      keep your own files\n"
        "  .venv/bin/mnemo serve                                             serve gRPC on 127.0.0.1:7400\n"
        "  docs/tutorial/first-memory.md                                     the Python client, step by step"
    )
    return 0 if 6 * right >= 5 * len(asked) else 1


if __name__ == "__main__":
    try:
        sys.exit(asyncio.run(main()))
    except MnemoError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
