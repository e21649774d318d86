"""Migrations that databases may have applied."""

from __future__ import annotations

import hashlib
from pathlib import Path

ROOT = Path(__file__).parents[2]
LOCK = Path(__file__).with_name("migrations.sha256")


def test_a_migration_is_never_changed() -> None:
    """A database that has applied it would be refused: another one is added, and its line to the lock (`sha256sum`)."""
    lines = (line.split() for line in LOCK.read_text().splitlines())
    locked = {path: checksum for checksum, path in lines}
    found = {
        file.relative_to(ROOT).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in ROOT.glob("services/*/storage/migrations/*.sql")
    }
    assert found
    assert found == locked
