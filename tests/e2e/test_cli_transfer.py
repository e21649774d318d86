"""`mnemo export` and `mnemo import` on a real installation, as a user types them."""

from __future__ import annotations

import json
import zipfile
from typing import TYPE_CHECKING, Any

import pytest
from tests.e2e.test_cli import Shell

from mnemocore.sync import connect

if TYPE_CHECKING:
    from pathlib import Path

    from tests.e2e.conftest import Server


@pytest.fixture
def shell(tmp_path: Path, served: Server) -> Shell:
    """Commands that find the running server by its data directory."""
    return Shell(tmp_path, served.directory)


def furnish(shell: Shell) -> None:
    lines = [json.dumps({"content": f"Thing {number} 🦊", "session": "s"}) for number in range(1200)]
    (shell.working / "in.jsonl").write_text("\n".join(lines))
    shell.good("ingest", "--space", shell.space, "in.jsonl")
    ids = [memory["id"] for memory in shell.json("list", "--space", shell.space, "--limit", "3")]
    shell.good("forget", ids[0], "--space", shell.space)
    shell.good("links", "add", "--space", shell.space, ids[1], ids[2])


def records(path: Path, space: str) -> list[Any]:
    """The records of a file, without what differs between two spaces."""
    found = [json.loads(line) for line in path.read_text().replace(f"spaces/{space}/", "spaces/_/").splitlines()]
    for record in found:
        memory = record.get("revision", record).get("memory", {})
        for field in ("revision", "etag"):
            memory.pop(field, None)
        record.get("revision", {}).pop("revision", None)
    return found


@pytest.mark.parametrize(
    ("suffix", "options"),
    [
        pytest.param("jsonl", ("--history", "--media"), id="history-jsonl"),
        pytest.param("parquet", (), id="newest-parquet"),
        pytest.param("jsonl", (), id="newest-jsonl", marks=pytest.mark.slow),
        pytest.param("parquet", ("--history", "--media"), id="history-parquet", marks=pytest.mark.slow),
    ],
)
def test_a_space_goes_out_and_comes_in(shell: Shell, suffix: str, options: tuple[str, ...]) -> None:
    furnish(shell)
    other = f"{shell.space}-2"
    done = shell.json("export", "--space", shell.space, "--to", f"out.{suffix}", *options)
    assert done["records"] == (1202 if options else 1201)
    taken = shell.json("import", "--space", other, f"out.{suffix}")
    assert (taken["written"], taken["refused"]) == (done["records"], 0)
    assert shell.json("import", "--space", other, f"out.{suffix}")["skipped"] == done["records"]
    shell.good("export", "--space", shell.space, "--to", "one.jsonl", *options)
    shell.good("export", "--space", other, "--to", "two.jsonl", *options)
    assert records(shell.working / "two.jsonl", other) == records(shell.working / "one.jsonl", shell.space)
    assert not list(shell.working.glob("*.part"))
    assert not list(shell.working.glob("*.position"))
    hits = shell.json("recall", "--space", other, "Thing 7")["hits"]
    assert hits


def test_an_interrupted_export_goes_on(shell: Shell, served: Server) -> None:
    furnish(shell)
    whole = shell.good("export", "--space", shell.space)
    with connect(served.address, api_key=served.api_key) as mnemo:
        part = next(iter(mnemo.space(shell.space).export()))
    lines = whole.encode().splitlines(keepends=True)[: len(part.records)]
    note = {
        "options": [shell.space, {"history": False, "media": False}],
        "position": part.position,
        "records": len(lines),
        "bytes": sum(len(line) for line in lines),
    }
    (shell.working / "cut.jsonl.position").write_text(json.dumps(note))
    cut = shell.working / "cut.jsonl.part"
    for there in (None, b"".join(lines)[:-1]):
        if there is not None:
            cut.write_bytes(there)
        short = shell.run("export", "--space", shell.space, "--to", "cut.jsonl", "--resume").stderr
        assert short == f"error: cut.jsonl.part: {len(there or b'')} of {note['bytes']} bytes are there; " + (
            "leave --resume out\n"
        )
    cut.write_bytes(b"".join(lines) + b'{"memory": {"na')
    assert "other options" in shell.run("export", "--space", "b", "--to", "cut.jsonl", "--resume").stderr
    assert shell.json("export", "--space", shell.space, "--to", "cut.jsonl", "--resume")["records"] == 1201
    assert (shell.working / "cut.jsonl").read_text() == whole
    shell.good("export", "--space", shell.space, "--to", "out.jsonl")
    assert (shell.working / "out.jsonl").read_text() == whole
    refused = shell.run("export", "--space", shell.space, "--to", "out.jsonl", "--resume")
    assert refused.stderr == "error: out.jsonl.position: nothing to go on with; leave --resume out\n"


def test_what_is_no_export_is_named(shell: Shell) -> None:
    (shell.working / "bad.jsonl").write_text('{"memory": {"content": 7}}\n')
    bad = shell.run("import", "--space", shell.space, "bad.jsonl")
    assert bad.returncode == 1
    assert bad.stderr.startswith("error: bad.jsonl:1: not a record of an export")
    (shell.working / "bad.parquet").write_text("no")
    assert "not a Parquet file" in shell.run("import", "--space", shell.space, "bad.parquet").stderr
    (shell.working / "empty.jsonl").write_text('{"memory": {"name": "x"}}\n')
    empty = shell.run("import", "--space", shell.space, "empty.jsonl")
    assert empty.returncode == 1
    assert "1 records were refused" in empty.stderr


def test_memories_of_other_systems(shell: Shell) -> None:
    mem0 = {"results": [{"id": "a1", "memory": "Likes tea", "user_id": "alice", "created_at": "2025-01-01T00:00:00Z"}]}
    (shell.working / "mem0.json").write_text(json.dumps(mem0))
    claude = [{"uuid": "c1", "name": "T", "chat_messages": [{"sender": "human", "text": "Hello"}]}]
    with zipfile.ZipFile(shell.working / "claude.zip", "w") as archive:
        archive.writestr("conversations.json", json.dumps(claude))
    for origin, file in (("mem0", "mem0.json"), ("claude", "claude.zip")):
        arguments = ("import", "--space", shell.space, "--from", origin, file)
        assert shell.json(*arguments)["written"] == 1
        assert shell.json(*arguments)["skipped"] == 1
    contents = {memory["content"] for memory in shell.json("list", "--space", shell.space)}
    assert contents == {"Likes tea", "human: Hello"}
