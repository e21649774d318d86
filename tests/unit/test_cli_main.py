"""The command line itself: help, wrong usage, errors, and what is loaded when."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import click
import pytest
from click.testing import CliRunner

from mnemo_cli import choices, moments
from mnemo_cli.failure import as_failure, one_line
from mnemo_cli.main import COMMANDS, cli
from mnemo_cli.policies import policy_of
from mnemo_cli.shown import plain, printable, shortened
from mnemocore.client import MemoryKind, ScorePart, event_values, values
from mnemocore.errors import MnemoError, UnauthenticatedError
from mnemocore.version import __version__

if TYPE_CHECKING:
    from enum import StrEnum

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


def test_the_version_is_known_by_both_names() -> None:
    assert CliRunner().invoke(cli, ["--version"]).output == f"mnemo {__version__}\n"
    assert CliRunner().invoke(cli, ["version"]).output.startswith(f"mnemo {__version__} (Python ")


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
        ["remember", "text"],
        ["remember", "--space", "s", "text", "--kind", "rumour"],
        ["remember", "--space", "s", "text", "--ttl", "soon"],
        ["remember", "--space", "s", "text", "--ttl", "1h", "--expires", "2030-01-01"],
        ["remember", "--space", "s", "text", "--metadata", "[1]"],
        ["remember", "--space", "s", "text", "--metadata", "{"],
        ["remember", "--space", "s", "text", "--media", "missing.png"],
        ["remember", "--space", "s", "text", "--media-type", "image/png"],
        ["recall", "--space", "s", "q", "--min-score", "2"],
        ["recall", "--space", "s", "q", "--state", "erased"],
        ["list"],
        ["history"],
        ["update", "--space", "s", "x"],
        ["update", "--space", "s", "x", "--actor", "A", "--clear", "actor"],
        ["update", "--space", "s", "x", "--ttl", "1h", "--clear", "expires_at"],
        ["supersede", "--space", "s", "x"],
        ["feedback", "--space", "s", "x"],
        ["erase", "s"],
        ["erase", "s", "--confirm", "t"],
        ["spaces", "update", "s"],
        ["spaces", "update", "s", "--max-memories", "0"],
        ["spaces", "update", "s", "--erase-expired-after", "soon"],
        ["share", "add", "s", "p", "--role", "owner"],
        ["links", "add", "a", "b"],
        ["links", "add", "--space", "s", "a", "b", "--weight", "0.5", "--reinforce"],
        ["links", "around", "--space", "s"],
        ["sessions", "show", "s1"],
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


@pytest.mark.parametrize(("text", "span"), [("0s", timedelta()), ("10m", timedelta(minutes=10)), ("2w", timedelta(14))])
def test_a_span_alone(text: str, span: timedelta) -> None:
    assert moments.span(text) == span


@pytest.mark.parametrize("text", ["", "10", "2026-01-31", "1y", "-5d"])
def test_what_is_no_span_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter, match="is not a span"):
        moments.span(text)


@pytest.mark.parametrize(
    ("chosen", "cls", "left_out"),
    [
        (choices.KINDS, values.MemoryKind, set()),
        (choices.STATES, values.MemoryState, {"erased"}),
        (choices.MODALITIES, values.Modality, set()),
        (choices.PROFILES, values.RecallProfile, set()),
        (choices.ON_DUPLICATE, values.OnDuplicate, set()),
        (choices.ORIGINS, values.Origin, set()),
        (choices.ACCESS, values.SpaceAccess, set()),
        (choices.ROLES, values.GrantRole, {"owner"}),
        (choices.LINK_TYPES, values.AssociationType, set()),
        (choices.DIRECTIONS, values.Direction, set()),
        (choices.FAILURE_REASONS, event_values.FailureReason, set()),
        (choices.SCHEMA_FORMATS, event_values.SchemaFormat, set()),
        (choices.COMPATIBILITIES, event_values.SchemaCompatibility, set()),
        (choices.EVENT_ACTIONS, event_values.AccessAction, set()),
        (choices.AGENT_STATES, event_values.AgentState, set()),
        (choices.TASK_STATES, event_values.TaskState, set()),
        (choices.ENDED_TASK_STATES, event_values.TaskState, {"queued", "running"}),
    ],
)
def test_the_choices_are_those_of_the_client(chosen: tuple[str, ...], cls: type[StrEnum], left_out: set[str]) -> None:
    assert {*chosen} == {*cls} - {"unknown"} - left_out


def test_a_policy_has_the_parts_that_were_given() -> None:
    policy = policy_of({"access": "owner", "max_bytes": 5, "erase_expired_after": timedelta(1), "max_memories": None})

    assert (policy.access, policy.novelty_gate) == ("owner", "off")
    assert policy.limits == values.SpaceLimits(max_bytes=5)
    assert policy.retention == values.RetentionPolicy(erase_expired_after=timedelta(1))


@pytest.mark.parametrize(("text", "line"), [("a\n b", "a b"), ("x" * 20, "xxxxxx ..."), ("", "")])
def test_a_text_in_a_row(text: str, line: str) -> None:
    assert shortened(text, 10) == line


def test_values_in_the_types_of_json() -> None:
    time = datetime(2026, 1, 31, 12, tzinfo=UTC)

    assert plain({"day": time.date(), "span": timedelta(minutes=1.5), "short": timedelta(microseconds=1500)}) == {
        "day": "2026-01-31",
        "span": "90s",
        "short": "0.0015s",
    }
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
