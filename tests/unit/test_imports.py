"""What an import loads: the algebra needs no wire, and the package itself needs next to nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

LIBRARIES = Path(__file__).parents[2] / "libs"


def loaded_by(statement: str, wanted: set[str]) -> set[str]:
    """Which of the modules `wanted` a fresh interpreter has loaded after `statement`."""
    program = f"import sys; {statement}; print(*({wanted!r} & set(sys.modules)))"
    environ = os.environ | {"PYTHONPATH": str(LIBRARIES)}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environ, capture_output=True, text=True, timeout=60, check=True
    )
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "package", ["mnemocore.hypervector", "mnemocore.errors", "mnemocore.ids", "mnemocore.settings"]
)
def test_what_needs_no_wire_loads_none(package: str) -> None:
    assert loaded_by(f"import {package}", {"grpc", "google.protobuf", "asyncpg", "faiss"}) == set()


def test_the_package_itself_loads_neither_grpc_nor_numpy() -> None:
    assert loaded_by("import mnemocore", {"grpc", "google.protobuf", "numpy", "opentelemetry"}) == set()


def test_a_name_loads_what_it_needs_when_it_is_used() -> None:
    assert loaded_by("import mnemocore; mnemocore.connect", {"grpc"}) == {"grpc"}
