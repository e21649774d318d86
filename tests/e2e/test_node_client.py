"""A client that is not Python: its stubs are generated from the protos, and @grpc/grpc-js calls the gateway."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import uuid
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pytest

if TYPE_CHECKING:
    from collections.abc import Sequence

ROOT = Path(__file__).parents[2]
CLIENT = Path(__file__).parent / "node"
SECONDS = 90


class Served(Protocol):
    """A running server that lets callers on this machine in without a key."""

    address: str


def run(command: Sequence[str], folder: Path) -> str:
    """What `command` prints, with the tools of the environment first on its path. It must succeed."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        command,
        cwd=folder,
        env=os.environ | {"PATH": path},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, f"{command[0]} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="session")
def packages() -> Path:
    """The folder `node_modules` with what the lock file names; installed once for each content of the lock file."""
    digest = hashlib.sha256((CLIENT / "package-lock.json").read_bytes()).hexdigest()[:16]
    home = Path(sys.prefix, "node-e2e", digest)
    if not home.exists():
        home.parent.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=home.parent) as folder:
            fresh = Path(folder, "project")
            fresh.mkdir()
            for name in ("package.json", "package-lock.json", ".npmrc"):
                shutil.copy(CLIENT / name, fresh)
            run(["npm", "ci", "--ignore-scripts", "--no-progress"], fresh)
            fresh.rename(home)
    return home / "node_modules"


@pytest.fixture
def project(packages: Path, tmp_path: Path) -> Path:
    """A Node project with its packages and freshly generated stubs."""
    (tmp_path / "node_modules").symlink_to(packages)
    for name in ("package.json", "client.js", "buf.gen.yaml"):
        shutil.copy(CLIENT / name, tmp_path)
    shutil.copytree(ROOT / "protos", tmp_path / "protos", ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    # The protos of error details are Google's; other languages find them in their own package of googleapis.
    details = resources.files("google.rpc").joinpath("error_details.proto")
    (tmp_path / "protos/google/rpc/error_details.proto").write_text(details.read_text())
    run(["buf", "generate"], tmp_path)
    return tmp_path


def test_node_remembers_recalls_and_understands_errors(project: Path, served: Served) -> None:
    space = f"node-{uuid.uuid4().hex[:8]}"

    printed: dict[str, Any] = json.loads(run(["node", "client.js", served.address, space], project))

    assert len(set(printed["stored"])) == 3
    assert all(name.startswith(f"spaces/{space}/memories/") for name in printed["stored"])
    assert printed["hits"][0]["content"] == "I moved to Lisbon in March."
    assert printed["hits"][0]["name"] == printed["stored"][0]
    error = printed["error"]
    assert (error["code"], error["reason"], error["domain"]) == ("NOT_FOUND", "SPACE_NOT_FOUND", "mnemocore.dev")
    assert error["metadata"] == {"space": "spaces/nowhere"}
    assert "nowhere" in error["message"]
