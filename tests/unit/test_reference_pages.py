"""The committed reference pages are what their sources generate."""

from __future__ import annotations

import filecmp
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
COMMITTED = ROOT / "docs" / "reference"


def test_the_committed_pages_are_what_the_sources_generate(tmp_path: Path) -> None:
    subprocess.run([sys.executable, ROOT / "docs" / "generate_reference.py", tmp_path], check=True, timeout=60)

    fresh = sorted(path.name for path in tmp_path.iterdir())
    committed = sorted(path.name for path in COMMITTED.glob("*.md"))
    _, differing, missing = filecmp.cmpfiles(tmp_path, COMMITTED, fresh, shallow=False)

    assert (committed, differing, missing) == (fresh, [], []), "run `make docs`"
