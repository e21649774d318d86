"""The master key of a data directory for the secrets of webhooks."""

from __future__ import annotations

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from mnemo_embedded.webhook_key import FILE_NAME, master_keys_file
from mnemocore.errors import DataDirectoryError
from mnemocore.master_keys import parse

if TYPE_CHECKING:
    from pathlib import Path

AT_ONCE = 8
PROGRAM = """
import sys
from pathlib import Path
sys.path[:0] = {path!r}
from mnemo_embedded.webhook_key import master_keys_file
print("ready", flush=True)
sys.stdin.readline()
print(Path(master_keys_file(Path({directory!r}), {{}})).read_text(), end="")
"""


def test_the_key_is_made_once_and_only_its_owner_reads_it(tmp_path: Path) -> None:
    path = master_keys_file(tmp_path, {})
    assert path == str(tmp_path / FILE_NAME)
    content = (tmp_path / FILE_NAME).read_text()
    assert len(parse(content.splitlines(), "the file").ids) == 1
    assert (tmp_path / FILE_NAME).stat().st_mode & 0o777 == 0o600
    assert master_keys_file(tmp_path, {}) == path
    assert (tmp_path / FILE_NAME).read_text() == content


def test_threads_that_make_it_at_once_read_the_same_key(tmp_path: Path) -> None:
    for number in range(30):
        directory = tmp_path / str(number)
        directory.mkdir()
        together = threading.Barrier(AT_ONCE)

        def make(directory: Path = directory, together: threading.Barrier = together) -> str:
            together.wait()
            master_keys_file(directory, {})
            return (directory / FILE_NAME).read_text()

        with ThreadPoolExecutor(AT_ONCE) as threads:
            read = set(threads.map(lambda _, make=make: make(), range(AT_ONCE)))
        assert len(read) == 1
        assert [file.name for file in directory.iterdir()] == [FILE_NAME]


def test_processes_that_make_it_at_once_read_the_same_key(tmp_path: Path) -> None:
    program = PROGRAM.format(path=sys.path, directory=str(tmp_path))
    command = [sys.executable, "-c", program]
    started = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    for process in started:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in started:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    read = {process.communicate()[0] for process in started}
    assert read == {(tmp_path / FILE_NAME).read_text()}
    assert [file.name for file in tmp_path.iterdir()] == [FILE_NAME]


def test_a_directory_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataDirectoryError, match=r"webhooks\.key: No such file"):
        master_keys_file(tmp_path / "none", {})


def test_other_keys_are_left_alone(tmp_path: Path) -> None:
    assert master_keys_file(tmp_path, {"MNEMO_EVENTS_MASTER_KEYS": "one:x"}) == ""
    assert master_keys_file(tmp_path, {"MNEMO_EVENTS_MASTER_KEYS_FILE": "/else"}) == "/else"
    assert not list(tmp_path.iterdir())
