from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from mnemocore.data_directory import DataDirectory, Served
from mnemocore.errors import DataDirectoryError

if TYPE_CHECKING:
    from pathlib import Path

HOLDER = """
import sys
from pathlib import Path
from mnemocore.data_directory import DataDirectory
directory = DataDirectory.acquire(Path(sys.argv[1]))
directory.publish_address("127.0.0.1:7400")
print("held", flush=True)
sys.stdin.read()
"""


def test_a_new_directory_is_private_and_has_a_format(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "data"
    directory = DataDirectory.acquire(path)
    assert path.stat().st_mode & 0o777 == 0o700
    assert (path / "FORMAT").read_text() == "1\n"
    directory.release()


def test_nobody_serves_a_free_directory(tmp_path: Path) -> None:
    assert DataDirectory.served_by(tmp_path / "missing") is None
    DataDirectory.acquire(tmp_path).release()
    assert DataDirectory.served_by(tmp_path) is None


def test_the_holder_is_found_with_its_address(tmp_path: Path) -> None:
    directory = DataDirectory.acquire(tmp_path)
    assert DataDirectory.served_by(tmp_path) == Served(os.getpid(), "")
    directory.publish_address("127.0.0.1:12345")
    directory.publish_address("[::1]:7")
    assert DataDirectory.served_by(tmp_path) == Served(os.getpid(), "[::1]:7")
    directory.release()
    directory.release()


def test_a_second_holder_is_refused_until_the_first_lets_go(tmp_path: Path) -> None:
    first = DataDirectory.acquire(tmp_path)
    first.publish_address("127.0.0.1:7400")
    with pytest.raises(DataDirectoryError) as caught:
        DataDirectory.acquire(tmp_path)
    assert (
        str(caught.value) == f"data directory {tmp_path} is already served by process {os.getpid()} at 127.0.0.1:7400"
    )
    first.release()
    DataDirectory.acquire(tmp_path).release()


def test_another_process_is_named_and_its_death_frees_the_directory(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        assert DataDirectory.served_by(tmp_path) == Served(holder.pid, "127.0.0.1:7400")
        with pytest.raises(DataDirectoryError, match=f"process {holder.pid} at 127.0.0.1:7400"):
            DataDirectory.acquire(tmp_path)
        holder.send_signal(signal.SIGKILL)
        holder.wait(10)
    assert DataDirectory.served_by(tmp_path) is None
    DataDirectory.acquire(tmp_path).release()


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    (tmp_path / "FORMAT").write_text("2\n")
    with pytest.raises(
        DataDirectoryError, match=r"written by a newer version \(format 2, this version reads up to 1\)"
    ):
        DataDirectory.acquire(tmp_path)
    assert DataDirectory.served_by(tmp_path) is None


def test_a_damaged_format_is_refused(tmp_path: Path) -> None:
    (tmp_path / "FORMAT").write_text("one")
    with pytest.raises(DataDirectoryError, match="damaged FORMAT file: 'one'"):
        DataDirectory.acquire(tmp_path)


def test_a_path_that_cannot_be_made_is_named_with_the_reason(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    for path, reason in ((file, "File exists"), (file / "data", "Not a directory")):
        with pytest.raises(DataDirectoryError) as caught:
            DataDirectory.acquire(path)
        assert str(caught.value) == f"data directory {path} cannot be written: {reason}"
        assert caught.value.metadata == {"path": str(path)}


def test_a_lock_file_in_the_middle_of_an_update_is_read_as_unknown(tmp_path: Path) -> None:
    directory = DataDirectory.acquire(tmp_path)
    (tmp_path / "mnemo.lock").write_text("")
    assert DataDirectory.served_by(tmp_path) == Served(0, "")
    directory.publish_address("a:1")
    assert json.loads((tmp_path / "mnemo.lock").read_text())["address"] == "a:1"
    directory.release()
