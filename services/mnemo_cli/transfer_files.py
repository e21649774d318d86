"""Records of an export in files: JSON lines, or Parquet with a column for each field and one for the whole record."""

from __future__ import annotations

import importlib
import json
from typing import TYPE_CHECKING, Any, Final, Protocol

from google.protobuf.json_format import MessageToDict, ParseDict, ParseError

from mnemo_cli.failure import Failure
from mnemocore.memory.v1 import transfer_service_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path
    from typing import BinaryIO

ROW_GROUP: Final = 1000
PARQUET: Final = ".parquet"

_COLUMNS: Final = (
    "id",
    "kind",
    "content",
    "tags",
    "actor",
    "session",
    "occurredAt",
    "importance",
    "confidence",
    "state",
)
_NUMBERS: Final = ("importance", "confidence")


class Writer(Protocol):
    """Writes records to a file."""

    def write(self, records: Sequence[pb.TransferRecord]) -> None:
        """Append records."""
        ...

    def close(self) -> None:
        """Finish the file."""
        ...


class LineWriter:
    """JSON lines; what was written is in the file when `write` returns."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def write(self, records: Sequence[pb.TransferRecord]) -> None:
        """Append records."""
        self._file.write(b"".join(to_line(record) for record in records))
        self._file.flush()

    def close(self) -> None:
        """Nothing is left to do."""


class ParquetWriter:
    """Parquet in row groups of 1,000 records; readable once it is closed."""

    def __init__(self, file: BinaryIO) -> None:
        self._pa, self._parquet = arrow()
        texts = [(name, self._pa.string()) for name in _COLUMNS if name not in (*_NUMBERS, "tags")]
        numbers = [(name, self._pa.float64()) for name in _NUMBERS]
        tags = [("tags", self._pa.list_(self._pa.string()))]
        whole = [("type", self._pa.string()), ("record", self._pa.string())]
        self._schema = self._pa.schema([*texts, *numbers, *tags, *whole])
        self._writer = self._parquet.ParquetWriter(file, self._schema, compression="zstd")
        self._rows: list[dict[str, Any]] = []

    def write(self, records: Sequence[pb.TransferRecord]) -> None:
        """Append records."""
        self._rows += [_row(record) for record in records]
        while len(self._rows) >= ROW_GROUP:
            self._write_group()

    def close(self) -> None:
        """Write what is left, and the end of the file."""
        while self._rows:
            self._write_group()
        self._writer.close()

    def _write_group(self) -> None:
        group, self._rows = self._rows[:ROW_GROUP], self._rows[ROW_GROUP:]
        self._writer.write_table(self._pa.Table.from_pylist(group, schema=self._schema), row_group_size=ROW_GROUP)


def arrow() -> tuple[Any, Any]:
    """The library for Parquet. Raises Failure that says how to install it."""
    try:
        pyarrow, parquet = importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    except ImportError:
        raise Failure("Parquet needs pyarrow; install it with: pip install mnemocore[parquet]") from None
    return pyarrow, parquet


def read(path: Path) -> Iterator[pb.TransferRecord]:
    """The records of a file. Raises Failure that names the place of a broken one."""
    return _read_parquet(path) if path.suffix == PARQUET else _read_lines(path)


def to_line(record: pb.TransferRecord) -> bytes:
    """A record as a line of JSON."""
    fields = MessageToDict(record)
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass") + b"\n"


def from_line(line: str | bytes, place: str) -> pb.TransferRecord:
    """The record of a line; fields that are not known are passed over. Raises Failure that names `place`."""
    try:
        return ParseDict(json.loads(line), pb.TransferRecord(), ignore_unknown_fields=True)
    except (ValueError, ParseError, AttributeError, TypeError) as error:
        raise Failure(f"{place}: not a record of an export: {error}") from None


def _read_lines(path: Path) -> Iterator[pb.TransferRecord]:
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield from_line(line, f"{path}:{number}")


def _read_parquet(path: Path) -> Iterator[pb.TransferRecord]:
    library, parquet = arrow()
    try:
        with parquet.ParquetFile(path) as file:
            for group in range(file.num_row_groups):
                column = file.read_row_group(group, columns=["record"]).column("record")
                for number, record in enumerate(column.to_pylist()):
                    yield from_line(record, f"{path}, row {group * ROW_GROUP + number + 1}")
    except (library.ArrowInvalid, KeyError) as error:
        raise Failure(f"{path}: not a Parquet file of an export: {error}") from None


def _row(record: pb.TransferRecord) -> dict[str, Any]:
    which = record.WhichOneof("record") or ""
    message = record.revision.memory if which == "revision" else record.memory
    fields = MessageToDict(message) if which in ("memory", "revision") else {}
    fields["id"] = fields.get("name", "").rpartition("/")[2]
    row: dict[str, Any] = {name: fields.get(name) for name in _COLUMNS}
    return {**row, "type": which, "record": to_line(record).decode("utf-8", "surrogatepass").rstrip("\n")}
