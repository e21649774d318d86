"""The `mnemo` command against real installations, as a user types it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.e2e.conftest import wait_until

from mnemocore.sync import connect

if TYPE_CHECKING:
    from tests.e2e.conftest import Server

ROOT = Path(__file__).parents[2]
SECONDS = 60.0
COMMAND = (sys.executable, "-m", "mnemo_cli")
ENVIRON = {name: value for name, value in os.environ.items() if not name.startswith("MNEMO_")} | {
    "PYTHONPATH": os.pathsep.join([str(ROOT / "libs"), str(ROOT / "services")])
}


class Shell:
    """Runs `mnemo` in a working directory, on one data directory."""

    def __init__(self, working: Path, data_dir: Path) -> None:
        self.working = working
        self.space = f"cli-{uuid.uuid4().hex[:8]}"
        self.environ = ENVIRON | {"MNEMO_DATA_DIR": str(data_dir)}

    def run(self, *arguments: str, stdin: str | bytes = b"") -> subprocess.CompletedProcess[str]:
        """The end of `mnemo ARGUMENTS`; its standard error never holds a traceback."""
        done = subprocess.run(
            [*COMMAND, *arguments],
            cwd=self.working,
            env=self.environ,
            input=stdin if isinstance(stdin, bytes) else stdin.encode(),
            capture_output=True,
            timeout=SECONDS,
            check=False,
        )
        text = subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())
        assert "Traceback" not in text.stderr, text.stderr
        return text

    def good(self, *arguments: str, stdin: str | bytes = b"") -> str:
        """The output of a command that must succeed."""
        done = self.run(*arguments, stdin=stdin)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def json(self, *arguments: str) -> Any:
        """The JSON document a command prints."""
        return json.loads(self.good(*arguments, "--json"))

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """A running `mnemo ARGUMENTS` with pipes."""
        return subprocess.Popen(
            [*COMMAND, *arguments],
            cwd=self.working,
            env=self.environ,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )


@pytest.fixture
def shell(tmp_path: Path, served: Server) -> Shell:
    """Commands that find the running server by its data directory."""
    return Shell(tmp_path, served.directory)


def test_ingest_recall_and_ingest_again(shell: Shell) -> None:
    files = [str(ROOT / "examples" / "conversation.jsonl"), str(ROOT / "docs" / "how-to")]

    first = shell.json("ingest", "--space", shell.space, *files)
    again = shell.json("ingest", "--space", shell.space, *files)

    assert first["kept"] > 253
    assert (first["already_there"], first["refused"]) == (0, 0)
    assert (again["kept"], again["already_there"], again["refused"]) == (0, first["kept"], 0)
    found = shell.json("recall", "--space", shell.space, "How many stairs lead to the waterfall?", "--limit", "3")
    assert any("553 steps" in hit["memory"]["content"] for hit in found["hits"])
    key = shell.json("recall", "--space", shell.space, "How do I revoke a key?", "--limit", "3")
    assert any(hit["memory"]["metadata"].get("heading") == "Revoke a key" for hit in key["hits"])


def test_recall_for_people(shell: Shell) -> None:
    shell.good("ingest", "--space", shell.space, "-", stdin='{"content": "The boat\\u001b is blue.", "actor": "Noor"}')

    plain = shell.good("recall", "--space", shell.space, "boat", "--explain")

    assert plain.startswith(" 1. ")
    assert "Noor" in plain
    assert "The boat\ufffd is blue." in plain
    assert "semantic" in plain
    assert shell.good("recall", "--space", shell.space, "boat", "--actor", "Maren") == "nothing found\n"
    assert shell.good("recall", "--space", shell.space, "boat", "--to", "2020-01-01") == "nothing found\n"


def test_a_space_that_is_not_there_is_one_line_with_those_that_are(shell: Shell) -> None:
    shell.good("spaces", "create", shell.space)

    done = shell.run("recall", "--space", "nowhere-at-all", "hello")

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: space 'spaces/nowhere-at-all' does not exist; existing: ")
    assert len(done.stderr.splitlines()) == 1


def test_a_broken_line_stops_the_ingest_and_what_was_before_is_kept(shell: Shell) -> None:
    (shell.working / "notes.jsonl").write_text('{"content": "a"}\n{"content": "b"\n{"content": "c"}\n')

    done = shell.run("ingest", "--space", shell.space, "notes.jsonl")

    assert done.returncode == 1
    assert done.stdout.startswith("kept 1, already there 0, refused 1")
    assert done.stderr.startswith("error: notes.jsonl:2: not valid JSON: ")
    assert len(done.stderr.splitlines()) == 1


def test_a_broken_line_can_be_skipped(shell: Shell) -> None:
    lines = ['{"content": "a"}', *(["{"] * 12), '{"content": "c"}']
    (shell.working / "notes.jsonl").write_text("\n".join(lines))

    done = shell.run("ingest", "--space", shell.space, "--on-error", "skip", "notes.jsonl")

    assert done.returncode == 0
    assert done.stdout.startswith("kept 2, already there 0, refused 12")
    warnings = done.stderr.splitlines()
    assert warnings[0].startswith("warning: left out: notes.jsonl:2: not valid JSON: ")
    assert warnings[10:] == ["warning: left out: 2 more"]


def test_what_the_server_refuses_is_named_with_its_place(shell: Shell) -> None:
    tags = json.dumps([f"tag{number}" for number in range(33)])
    (shell.working / "notes.jsonl").write_text(f'{{"content": "a"}}\n\n{{"content": "b", "tags": {tags}}}\n')

    done = shell.run("ingest", "--space", shell.space, "notes.jsonl")

    assert done.returncode == 1
    assert done.stdout.startswith("kept 1, already there 0, refused 1")
    assert done.stderr.startswith("error: notes.jsonl:3: ")
    assert "tags" in done.stderr


def test_text_that_is_inserted_is_all_that_is_added(shell: Shell) -> None:
    file = shell.working / "diary.txt"
    file.write_text("Monday: rain.\n\nTuesday: sun.\n\nMonday: rain.\n")
    shell.good("ingest", "--space", shell.space, "diary.txt", "--tag", "diary")
    file.write_text("Sunday: snow.\n\nMonday: rain.\n\nTuesday: sun.\n\nMonday: rain.\n")

    outcome = shell.json("ingest", "--space", shell.space, "diary.txt")

    assert (outcome["kept"], outcome["already_there"]) == (1, 3)


def test_a_dry_run_keeps_nothing(shell: Shell) -> None:
    shell.good("spaces", "create", shell.space, "--description", "for a dry run")

    assert shell.good("ingest", "--space", shell.space, "--dry-run", "-", stdin='{"content": "a"}').startswith("would")
    assert shell.json("spaces", "show", shell.space)["active_memories"] == 0


def test_interrupted_it_keeps_what_came_until_then(shell: Shell, served: Server) -> None:
    with shell.start("ingest", "--space", shell.space, "-") as process:
        assert process.stdin and process.stdout and process.stderr
        process.stdin.write(b'{"content": "again and again"}\n' * 300)
        process.stdin.flush()
        with connect(served.address, api_key=served.api_key) as mnemo:
            assert wait_until(
                lambda: any(s.active_memories == 300 for s in mnemo.spaces() if s.id == shell.space), SECONDS
            )
        process.send_signal(signal.SIGINT)

        assert process.wait(SECONDS) == 130
        assert process.stdout.read().startswith(b"kept 300, already there 0, refused 0")
        assert process.stderr.read() == b"interrupted: run it again to go on, nothing is added twice\n"


def test_a_reader_that_goes_away_is_no_error(shell: Shell) -> None:
    shell.good("ingest", "--space", shell.space, "-", stdin=b'{"content": "again and again and again"}\n' * 900)
    command = f"{' '.join(COMMAND)} recall --space {shell.space} --limit 900 --json again | head -n 1"

    done = subprocess.run(
        ["/bin/sh", "-c", command], env=shell.environ, capture_output=True, timeout=SECONDS, check=False
    )

    assert (done.stdout, done.stderr) == (b"{\n", b"")


def test_one_memory_from_the_cradle_to_the_grave(shell: Shell) -> None:
    chosen = str(uuid.uuid4())
    line = {"content": "Short life.", "id": chosen, "metadata": {"why": "test"}, "importance": 0.9}
    shell.good("ingest", "--space", shell.space, "-", stdin=json.dumps(line))
    name = f"spaces/{shell.space}/memories/{chosen}"

    assert "metadata.why: test" in shell.good("get", name)
    assert shell.good("forget", chosen, "--space", shell.space, "--reason", "enough") == f"archived {chosen}\n"
    assert shell.json("get", name)["state"] == "archived"
    assert shell.good("restore", name) == f"restored {chosen}\n"
    assert shell.run("forget", name, "--purge", stdin="n\n").returncode == 1
    assert shell.json("get", name)["state"] == "active"
    assert shell.good("forget", name, "--purge", "--yes") == f"erased {chosen}\n"
    gone = shell.run("get", name)
    assert (gone.returncode, len(gone.stderr.splitlines())) == (1, 1)
    assert gone.stderr.startswith("error: memory ")


def test_spaces(shell: Shell) -> None:
    shell.good("spaces", "create", shell.space, "--description", "a room")
    shell.good("ingest", "--space", shell.space, "-", stdin='{"content": "a"}\n{"content": "b"}')

    assert shell.space in [space["id"] for space in shell.json("spaces", "list")]
    assert "a room" in shell.good("spaces", "list")
    assert "memories: 2 active, 0 archived" in shell.good("spaces", "show", shell.space)
    assert shell.good("spaces", "republish", shell.space) == "published 2 memories again\n"
    taken = shell.run("spaces", "create", shell.space)
    assert (taken.returncode, taken.stderr) == (1, f"error: space 'spaces/{shell.space}' exists already\n")


def test_consolidation_and_its_job(shell: Shell) -> None:
    shell.good("ingest", "--space", shell.space, "-", stdin='{"content": "The same."}\n' * 3)

    dry = shell.good("consolidate", "--space", shell.space, "--dry-run")
    job = shell.json("consolidate", "--space", shell.space, "--min-similarity", "0.9")

    assert dry.startswith("# Consolidation")
    assert (job["state"], job["report"]["archived"]) == ("succeeded", 2)
    assert shell.json("spaces", "show", shell.space)["archived_memories"] == 2
    assert next(found["id"] for found in shell.json("jobs", "list", "--space", shell.space)) == job["id"]
    assert f"job {job['id']} on space {shell.space}: succeeded" in shell.good("jobs", "show", job["id"])
    ended = shell.run("jobs", "cancel", job["id"])
    assert (ended.returncode, len(ended.stderr.splitlines())) == (1, 1)


def test_keys_open_a_server_and_nothing_more(shell: Shell, served: Server) -> None:
    made = shell.json("keys", "create", "--principal", "reader", "--scope", "memory:read", "--expires", "1h")
    key_id, secret = made["api_key"]["id"], made["secret"]
    (shell.working / "key").write_text(f"{secret}\n")
    here = ("--address", served.address, "--api-key-file", "key")

    assert made["api_key"]["expire_time"] is not None
    assert key_id in shell.good("keys", "list")
    assert secret not in shell.good("keys", "list", "--json")
    shell.good("spaces", "list", *here)
    refused = shell.run("spaces", "create", shell.space, *here)
    assert refused.returncode == 1
    assert "memory:write" in refused.stderr
    assert shell.good("keys", "revoke", key_id) == f"revoked {key_id}\n"
    assert wait_until(lambda: shell.run("spaces", "list", *here).returncode == 1, SECONDS)
    assert "--api-key" in shell.run("spaces", "list", *here).stderr


def test_the_doctor_is_content(shell: Shell, served: Server) -> None:
    shell.good("spaces", "create", shell.space)

    report = shell.json("doctor")

    assert report["level"] == "ok"
    checks = {finding["check"]: finding["detail"] for finding in report["findings"]}
    assert f"served by process {served.process.pid} at {served.address}" in checks["data directory"]
    assert {"python", "packages", "disk", "encoder", "postgresql", "connection", f"space {shell.space}"} <= set(checks)


def test_the_doctor_makes_no_data_directory(shell: Shell) -> None:
    done = shell.run("doctor", "--data-dir", "none")

    assert done.returncode == 0
    assert not (shell.working / "none").exists()


def test_the_doctor_finds_what_is_wrong(shell: Shell) -> None:
    (shell.working / "data").mkdir()
    (shell.working / "data" / "FORMAT").write_text("999\n")

    damaged = shell.run("doctor", "--data-dir", "data")
    silent = shell.run("doctor", "--address", "127.0.0.1:1", "--json")

    assert damaged.returncode == 2
    assert "was written by a newer version (format 999" in damaged.stdout
    assert silent.returncode == 2
    assert json.loads(silent.stdout)["findings"][-1] == {
        "check": "connection",
        "level": "error",
        "detail": "127.0.0.1:1 does not answer",
    }


def test_without_a_server_a_command_opens_the_data_directory(tmp_path: Path) -> None:
    shell = Shell(tmp_path, tmp_path / "data")

    shell.good("ingest", "--space", "s", "-", stdin='{"content": "It rains in Porto."}')

    assert "It rains in Porto." in shell.good("recall", "--space", "s", "weather in Porto")
    assert shell.json("doctor")["level"] == "ok"


@pytest.mark.parametrize("command", ["serve", "up"])
def test_a_server_says_where_it_is_and_ends_with_ctrl_c(tmp_path: Path, command: str) -> None:
    shell = Shell(tmp_path, tmp_path / "data")

    with shell.start(command, "--listen", "127.0.0.1:0") as process:
        assert process.stdout and process.stderr
        lines = [process.stdout.readline().decode() for _ in range(3)]
        second = shell.run(command, "--listen", "127.0.0.1:0")
        process.send_signal(signal.SIGINT)

        assert process.wait(SECONDS) == 0, process.stderr.read()
        assert " listens on 127.0.0.1:" in lines[0]
        assert lines[1:] == [f"data directory: {tmp_path / 'data'}\n", "stop it with Ctrl-C\n"]
    assert second.returncode == 1
    assert second.stderr.startswith(f"error: data directory {tmp_path / 'data'} is already served by process ")
