"""Which files an ingest reads and how."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
import pytest

from mnemo_cli.files import find
from mnemo_cli.ingesting import Outcome, Plan, Run
from mnemo_cli.sources.record import SourceError
from mnemocore.client import MemoryInput

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def memories(plan: Plan) -> list[MemoryInput]:
    return [found for _, found in plan.records() if isinstance(found, MemoryInput)]


def test_a_directory_stands_for_what_can_be_read_in_it(working_directory: Path) -> None:
    for name in ("b.md", "a/c.TXT", "a/d.jsonl", "a/e.json", "a/f.py", ".hidden/g.md", ".h.md"):
        file = working_directory / "notes" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("x")

    found = find(["notes"], "auto")

    assert [(file.name, file.format) for file in found] == [
        ("notes/b.md", "markdown"),
        ("notes/a/c.TXT", "text"),
        ("notes/a/d.jsonl", "jsonl"),
    ]


def test_a_file_has_one_name_however_it_is_typed(working_directory: Path) -> None:
    (working_directory / "a.md").write_text("x")
    outside = working_directory.parent / "out.md"
    outside.write_text("x")

    names = [file.name for file in find(["a.md", "./a.md", str(working_directory / "a.md"), "../out.md"], "auto")]

    assert names == ["a.md", str(outside)]


@pytest.mark.parametrize(
    ("argument", "problem"),
    [
        ("missing.md", "missing.md does not exist"),
        ("empty", r"directory empty holds no \*.md, \*.txt, \*.jsonl"),
        ("a.py", "a.py: the ending '.py' says nothing of the format; give --format jsonl|markdown|text|chat"),
    ],
)
def test_what_cannot_be_read_is_a_wrong_argument(working_directory: Path, argument: str, problem: str) -> None:
    (working_directory / "empty").mkdir()
    (working_directory / "a.py").write_text("x")

    with pytest.raises(click.UsageError, match=problem.replace("|", r"\|")):
        find([argument], "auto")


def test_a_chosen_format_wins_over_the_ending(working_directory: Path) -> None:
    (working_directory / "a.py").write_text("one\n\ntwo")

    assert len(memories(Plan("s", find(["a.py"], "text")))) == 2


def test_a_chat_in_jsonl_is_recognised(working_directory: Path) -> None:
    (working_directory / "a.jsonl").write_text('\n{"role": "user", "content": "hi"}\n')

    assert [memory.content for memory in memories(Plan("s", find(["a.jsonl"], "auto")))] == ["user: hi"]


def test_defaults_are_for_memories_that_name_nothing_themselves(working_directory: Path) -> None:
    (working_directory / "a.jsonl").write_text(
        '{"content": "x", "actor": "A", "session": "s1", "ordinal": 4}\n{"content": "y"}'
    )
    (working_directory / "b.txt").write_text("z")
    plan = Plan("s", find(["a.jsonl", "b.txt"], "auto"), actor="B", session="s2", tags=("t", "t"))

    found = [(item.actor, item.session, item.ordinal, item.tags) for item in memories(plan)]

    assert found == [("A", "s1", 4, ("t",)), ("B", "s2", None, ("t",)), ("B", "s2", None, ("t",))]


def test_places_count_the_bytes_of_all_files(working_directory: Path) -> None:
    for name in ("a.txt", "b.txt"):
        (working_directory / name).write_text("one\n\ntwo\n")

    ends = [place.end for place, _ in Plan("s", find(["a.txt", "b.txt"], "auto")).records()]

    assert ends[-1] == 18
    assert ends == sorted(ends)


def test_a_file_that_is_no_text_says_nothing_of_the_next(working_directory: Path) -> None:
    (working_directory / "a.txt").write_bytes(b"fine\n\n\xff\n\nmore")
    (working_directory / "b.txt").write_text("fine too")

    found = [found for _, found in Plan("s", find(["a.txt", "b.txt"], "auto")).records()]

    assert [type(one) for one in found] == [MemoryInput, SourceError, MemoryInput]
    assert str(found[1]).startswith("a.txt:3: not UTF-8: byte 0xff at offset 6")


def test_a_file_that_is_gone_is_named(working_directory: Path) -> None:
    (working_directory / "a.txt").write_text("x")
    plan = Plan("s", find(["a.txt"], "auto"))
    (working_directory / "a.txt").unlink()

    assert [str(found) for _, found in plan.records()] == ["a.txt: cannot be read: No such file or directory"]


@pytest.mark.parametrize(("skip", "kept", "refused"), [(False, 1, 1), (True, 2, 2)])
def test_a_dry_run_counts_what_would_be_kept(working_directory: Path, skip: bool, kept: int, refused: int) -> None:
    (working_directory / "a.jsonl").write_text('{"content": "x"}\n{\n{"content": "y"}\n[]\n')
    outcome = Outcome()

    Run(Plan("s", find(["a.jsonl"], "auto"), skip_broken=skip), outcome, lambda done_bytes, kept: None).count()

    assert (outcome.kept, outcome.refused, len(outcome.problems)) == (kept, refused, refused)
