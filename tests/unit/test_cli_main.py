"""The command line itself: help, wrong usage, errors, and what is loaded when."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from mnemo_cli import moments
from mnemo_cli.failure import as_failure, one_line
from mnemo_cli.main import COMMANDS, cli
from mnemo_cli.shown import plain, printable
from mnemocore.client import MemoryKind, ScorePart
from mnemocore.errors import MnemoError, UnauthenticatedError

ROOT = Path(__file__).parents[2]
ENVIRON = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT / "libs"), str(ROOT / "services")])}


def mnemo(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mnemo_cli", *arguments]
    return subprocess.run(command, env=ENVIRON, capture_output=True, text=True, timeout=60, check=False)


def leaves(command: click.Command, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    context = click.Context(command)
    if not isinstance(command, click.Group):
        return [path]
    found = [command.get_command(context, name) for name in command.list_commands(context)]
    return [leaf for inner in found if inner and inner.name for leaf in leaves(inner, (*path, inner.name))]


def test_every_command_of_the_table_is_there_under_its_name() -> None:
    context = click.Context(cli)

    assert [command.name for name in COMMANDS if (command := cli.get_command(context, name))] == list(COMMANDS)


@pytest.mark.parametrize("path", leaves(cli), ids=" ".join)
def test_every_command_explains_itself(path: tuple[str, ...]) -> None:
    result = CliRunner().invoke(cli, [*path, "--help"])

    assert result.exit_code == 0
    assert "Usage: " in result.output
    assert len(result.output.splitlines()) > 4


def test_help_loads_nothing_heavy() -> None:
    program = (
        "import sys; from mnemo_cli.main import cli; cli(['--help'], standalone_mode=False);"
        "print('loaded', {'grpc', 'numpy', 'rich', 'asyncpg', 'google.protobuf'} & set(sys.modules))"
    )

    done = subprocess.run(
        [sys.executable, "-c", program], env=ENVIRON, capture_output=True, text=True, timeout=60, check=True
    )

    assert done.stdout.splitlines()[-1] == "loaded set()"


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["recall", "query"],
        ["ingest", "--space", "s"],
        ["ingest", "--space", "s", "missing.md"],
        ["recall", "--space", "s", "q", "--limit", "0"],
        ["recall", "--space", "s", "q", "--from", "2026-01-31T12:00"],
        ["get", "0198c5f0-7d2e-7b3c-9a41-5f0e6d2c1b7a"],
        ["get", "--space", "a", "spaces/b/memories/x"],
        ["keys", "create", "--principal", "p", "--scope", "*", "--expires", "soon"],
        ["consolidate", "--space", "s", "--min-similarity", "0.1"],
    ],
    ids=" ".join,
)
def test_wrong_usage_has_exit_code_2(arguments: list[str]) -> None:
    result = CliRunner().invoke(cli, arguments)

    assert result.exit_code == 2
    assert "Error: " in result.output


def test_what_is_not_there_is_one_line_and_makes_nothing(tmp_path: Path) -> None:
    done = mnemo("recall", "--space", "s", "--data-dir", str(tmp_path / "none"), "hello")

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"error: data directory {tmp_path / 'none'} does not exist; ")
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "none").exists()


def test_a_server_that_is_not_there_is_one_line() -> None:
    done = mnemo("spaces", "list", "--address", "127.0.0.1:1")

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "error: 127.0.0.1:1 does not answer\n"


def test_a_wrong_address_is_one_line() -> None:
    done = mnemo("spaces", "list", "--address", "nowhere")

    assert done.returncode == 1
    assert done.stderr.startswith("error: target: 'nowhere' is not an address; ")
    assert len(done.stderr.splitlines()) == 1


def test_debug_shows_where_it_failed() -> None:
    done = mnemo("--debug", "spaces", "list", "--address", "nowhere")

    assert done.returncode == 1
    assert "Traceback" in done.stderr


def test_a_missing_key_file_is_one_line() -> None:
    done = mnemo("spaces", "list", "--address", "127.0.0.1:1", "--api-key-file", "/nowhere/key")

    assert (done.returncode, done.stderr) == (1, "error: /nowhere/key: No such file or directory\n")


def test_a_reader_that_goes_away_is_no_error() -> None:
    command = ["/bin/sh", "-c", f"{sys.executable} -m mnemo_cli ingest --help | exec true"]

    done = subprocess.run(command, env=ENVIRON, capture_output=True, text=True, timeout=60, check=False)

    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (MnemoError("two\nlines \x1b[31mred"), "two lines [31mred"),
        (UnauthenticatedError("no key"), "no key (give --api-key or --api-key-file, or set MNEMO_API_KEY)"),
        (FileNotFoundError(2, "No such file", "f"), "f: No such file"),
        (KeyError("x"), "unexpected KeyError: 'x'; 'mnemo --debug ...' shows where"),
    ],
)
def test_every_error_is_one_clear_line(error: Exception, line: str) -> None:
    assert one_line(as_failure(error).message) == line


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("2026-01-31", datetime(2026, 1, 31, tzinfo=UTC)),
        ("2026-01-31T12:00:00Z", datetime(2026, 1, 31, 12, tzinfo=UTC)),
        ("2026-01-31T12:00:00+02:00", datetime(2026, 1, 31, 10, tzinfo=UTC)),
    ],
)
def test_times(text: str, time: datetime) -> None:
    assert moments.time(text) == moments.expiry(text) == time


@pytest.mark.parametrize(
    ("text", "span"),
    [("90s", timedelta(seconds=90)), ("5m", timedelta(minutes=5)), ("30d", timedelta(days=30)), ("2w", timedelta(14))],
)
def test_spans(text: str, span: timedelta) -> None:
    before = datetime.now(UTC)

    assert before + span <= moments.expiry(text) <= datetime.now(UTC) + span


@pytest.mark.parametrize("text", ["", "x", "30", "-5d", "999999w", "12:00", "2026-02-30"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter):
        moments.expiry(text)


def test_values_in_the_types_of_json() -> None:
    time = datetime(2026, 1, 31, 12, tzinfo=UTC)

    assert plain({"kind": MemoryKind.FACT, "time": time, "path": Path("a"), "many": (1, None, 0.5, True)}) == {
        "kind": "fact",
        "time": "2026-01-31T12:00:00Z",
        "path": "a",
        "many": [1, None, 0.5, True],
    }
    part = {"name": "semantic", "value": 1.0, "weight": 0.5, "contribution": 0.5}
    assert plain(ScorePart("semantic", 1.0, 0.5, 0.5)) == part


def test_nothing_steers_the_terminal() -> None:
    assert printable("a\x1b[2Jb\r\n\tc\x00") == "a\ufffd[2Jb\ufffd\n\tc\ufffd"
