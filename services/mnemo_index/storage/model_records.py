"""What the index writes down beside its snapshots: the models it has used, and where the re-encoding is.

Small JSON files, replaced as a whole. No key is ever in them.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
from typing import TYPE_CHECKING, Any, Final

from mnemo_index.domain.models import Model
from mnemo_index.domain.reencoding import Plan

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

MODELS: Final = "models.json"
PLAN: Final = "reencoding.json"
_log = logging.getLogger(__name__)


class ModelRecords:
    """The models that vectors of an index were ever made with. Blocking."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / MODELS

    def load(self) -> list[Model]:
        """The recorded models; none if there is no file, or it is damaged."""
        try:
            return [Model(**fields) for fields in _read(self._path) or []]
        except TypeError:
            _log.error("file %s is damaged; older models are not known", self._path.name)
            return []

    def add(self, models: Iterable[Model]) -> list[Model]:
        """Record `models`, and give all that are recorded."""
        known = {model.name: model for model in self.load()}
        found = known | {model.name: model for model in models}
        if found != known:
            _write(self._path, [dataclasses.asdict(model) for model in found.values()])
        return list(found.values())


class PlanFile:
    """Where the re-encoding is, across restarts. Blocking."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / PLAN

    def load(self) -> Plan:
        """What was written last; the plan of a new index if there is nothing, or it is damaged."""
        fields = _read(self._path)
        try:
            return Plan(**fields) if fields else Plan()
        except TypeError:
            _log.error("file %s is damaged; the re-encoding is planned anew", self._path.name)
            return Plan()

    def save(self, plan: Plan) -> None:
        """Write the plan durably; raises OSError if the disk is full."""
        _write(self._path, dataclasses.asdict(plan))


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except ValueError:
        _log.error("file %s is damaged", path.name)
        return None


def _write(path: Path, value: object) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    written = path.with_name(f"{path.name}.tmp")
    with written.open("w") as file:
        json.dump(value, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    written.replace(path)
