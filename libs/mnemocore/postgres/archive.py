"""The file format of backups: sections of bytes, each compressed and with its own checksum, in one file.

    preamble   MAGIC, length of the header, the header (JSON), SHA-256 of these three
    body       frames; in an encrypted archive the frames are cut into sealed chunks
    digest     SHA-256 of everything before it

A frame is its kind, the length of its content, a CRC-32 of these and the content, and the content. A section is a BEGIN
frame (JSON: name and what the writer says of it), DATA frames (one zstandard stream) and an END frame (JSON: rows,
bytes and SHA-256 of what was compressed). The last section is the manifest. Rows are counted by line feeds.

The header can always be read; it tells the format, the version of the product, the time, and how the key is derived. A
sealed chunk is AES-256-GCM under a key that scrypt makes from a passphrase and the archive's own salt. Its nonce is its
number and whether it is the last one, its associated data are the preamble: a chunk that is changed, left out, moved,
repeated or brought from another archive does not open, and an archive that is cut off has no last chunk.

Everything here blocks; memory use does not grow with the size of an archive.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import hmac
import io
import json
import os
import zlib
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, BinaryIO, Final, Protocol

import zstandard
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from mnemocore.errors import (
    BackupDamagedError,
    DataDirectoryError,
    KeyUnavailableError,
    StoreFullError,
    StoreUnavailableError,
)
from mnemocore.version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path
    from types import TracebackType
    from typing import Self

MAGIC: Final = b"MNEMOBK\n"
FORMAT: Final = 1
"""The newest format this version reads, and the one it writes."""
MANIFEST: Final = "manifest"
"""The name of the last section."""
BLOCK: Final = 1 << 20
"""Greatest number of bytes of a frame, of a chunk before it is sealed, and of what `SectionReader.read` returns."""
PARTIAL_SUFFIX: Final = ".partial"
"""What the name of an archive ends with while it is written."""

_LEVEL: Final = 3
_LARGEST_WINDOW: Final = 8 << 20
_LARGEST_HEADER: Final = 64 << 10
_LARGEST_MANIFEST: Final = 256 << 20
_DIGEST: Final = hashlib.sha256().digest_size
_TAG: Final = 16
_LAST: Final = 1 << 31
_SCRYPT_COST: Final = 1 << 17
"""128 MiB and a few tenths of a second for each guess at a passphrase."""
_LARGEST_COST: Final = 1 << 20
_HEAD: Final = 9
_BEGIN, _DATA, _END = 1, 2, 3


@dataclass(frozen=True, slots=True)
class Header:
    """What can be read of an archive without its key. `created_at` is the time of the snapshot, UTC."""

    format: int
    product: str
    created_at: datetime
    encrypted: bool


@dataclass(frozen=True, slots=True)
class Section:
    """A section: its name and what the writer says of it."""

    name: str
    about: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class SectionEnd:
    """What a whole section held."""

    rows: int
    bytes: int
    sha256: str


class ArchiveWriter:
    """Writes an archive beside `path` and puts it in its place as a whole at `finish`.

    Making it raises OSError. Methods raise StoreFullError when the disk is full, StoreUnavailableError when it fails;
    after any error, and after `abort`, no trace is left.
    """

    def __init__(self, path: Path, created_at: datetime, passphrase: bytes | None = None) -> None:
        self._path = path
        self._partial = path.with_name(f".{path.name}{PARTIAL_SUFFIX}")
        header: dict[str, Any] = {"format": FORMAT, "product": __version__, "created_at": created_at.isoformat()}
        cipher = None
        if passphrase is not None:
            salt = os.urandom(16)
            key, check = _derive(passphrase, salt, _SCRYPT_COST)
            header["key"] = {"scrypt": _SCRYPT_COST, "salt": salt.hex(), "check": check, "cipher": "AES-256-GCM"}
            cipher = AESGCM(key)
        encoded = json.dumps(header).encode()
        preamble = MAGIC + len(encoded).to_bytes(4, "big") + encoded
        preamble += hashlib.sha256(preamble).digest()
        self._file = _HashedOutput(_new_file(self._partial, path))
        self._body: _Body = self._file if cipher is None else _Sealing(self._file, cipher, preamble)
        self._section: _OpenSection | None = None
        self._named = False
        with self._removed_on_error():
            self._file.write(preamble)

    def begin(self, name: str, about: Mapping[str, Any]) -> None:
        """Begin a section; the one before has ended."""
        with self._removed_on_error():
            self._frame(_BEGIN, json.dumps({"name": name, "about": dict(about)}).encode())
            self._section = _OpenSection()

    def write(self, data: bytes) -> None:
        """Append to the section."""
        assert self._section is not None
        with self._removed_on_error():
            self._write_data(self._section.add(data))

    def end(self) -> SectionEnd:
        """End the section; returns what it held."""
        assert self._section is not None
        with self._removed_on_error():
            self._write_data(self._section.rest())
            end = self._section.end()
            self._frame(_END, json.dumps({"rows": end.rows, "bytes": end.bytes, "sha256": end.sha256}).encode())
            self._section = None
            return end

    def finish(self, manifest: Mapping[str, Any]) -> None:
        """Write the manifest, make the archive durable and give it its name."""
        self.begin(MANIFEST, {})
        self.write(json.dumps(manifest).encode())
        self.end()
        with self._removed_on_error():
            self._body.close()
            self._file.finish()
            self._partial.rename(self._path)
            self._named = True
            _make_durable(self._path.parent)

    def abort(self) -> None:
        """Remove what was written, also if it is finished. A second call does nothing."""
        self._file.discard()
        self._partial.unlink(missing_ok=True)
        if self._named:
            self._path.unlink(missing_ok=True)
            self._named = False

    def _write_data(self, compressed: bytes) -> None:
        for start in range(0, len(compressed), BLOCK):
            self._frame(_DATA, compressed[start : start + BLOCK])

    def _frame(self, kind: int, payload: bytes) -> None:
        self._body.write(_frame_head(kind, payload) + payload)

    @contextlib.contextmanager
    def _removed_on_error(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.abort()
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise StoreFullError(f"no backup was made: the disk of {self._path.parent} is full") from error
            text = f"no backup was made: {self._path.parent}: {error.strerror}"
            raise StoreUnavailableError(text) from error
        except BaseException:  # also a cancellation leaves no half archive behind
            self.abort()
            raise


class ArchiveReader:
    """Reads an archive from its beginning to its end, checking everything on the way; use it as a context manager.

    Making it raises BackupDamagedError for what is no archive or has another passphrase, KeyUnavailableError if it is
    encrypted and there is none, DataDirectoryError if a newer version wrote it. What was read is only known to be whole
    when `next_section` has returned None.
    """

    def __init__(self, path: Path, passphrase: bytes | None = None) -> None:
        self._path = path
        self._file = path.open("rb")
        try:
            preamble, fields = _preamble(self._file, path)
            self.header = _header(fields, path)
            cipher = _cipher(fields.get("key"), passphrase, path)
            size = os.fstat(self._file.fileno()).st_size
            self._input = _HashedInput(self._file, preamble, size - _DIGEST, path)
            self._body: _Source = self._input if cipher is None else _Opening(self._input, cipher, preamble, path)
        except BaseException:  # whatever it is, nobody else has the file to close it
            self._file.close()
            raise
        self._reading: _SectionSource | None = None
        self.manifest: Mapping[str, Any] = {}
        """What the writer said last; complete once `next_section` has returned None."""

    @property
    def done_bytes(self) -> int:
        """Bytes of the file that were read."""
        return self._input.done

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self._input.end + _DIGEST

    def next_section(self) -> Section | None:
        """The next section; the one before was read to its end. None when everything was read and is whole.

        Raises BackupDamagedError.
        """
        assert self._reading is None
        kind, payload = self._frame()
        if kind != _BEGIN:
            raise self.damaged("a section is missing")
        fields = self._json(payload, "name", "about")
        self._reading = _SectionSource(self)
        if fields["name"] != MANIFEST:
            return Section(fields["name"], fields["about"])
        self.manifest = self._read_manifest()
        self._body.expect_end()
        self._input.expect_digest()
        return None

    def read(self) -> bytes:
        """The next bytes of the section, at most BLOCK; b"" at its end. Raises BackupDamagedError."""
        assert self._reading is not None
        data = self._reading.read()
        if not data:
            self._reading = None
        return data

    def section_end(self) -> SectionEnd:
        """What the section held that was read last."""
        return self._last_end

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc_val: BaseException | None, exc_tb: TracebackType | None
    ) -> None:
        self.close()

    def next_data(self) -> bytes | None:
        """The next compressed bytes of the section; None at its END frame, which `ended` then holds."""
        kind, payload = self._frame()
        if kind == _DATA:
            return payload
        if kind != _END:
            raise self.damaged("a section does not end")
        fields = self._json(payload, "rows", "bytes", "sha256")
        self._last_end = SectionEnd(fields["rows"], fields["bytes"], fields["sha256"])
        return None

    def _read_manifest(self) -> Mapping[str, Any]:
        text = bytearray()
        while data := self.read():
            text += data
            if len(text) > _LARGEST_MANIFEST:
                raise self.damaged("its manifest is too large")
        return self._json(bytes(text))

    def _frame(self) -> tuple[int, bytes]:
        head = self._body.read(_HEAD)
        length = int.from_bytes(head[1:5], "big")
        if length > BLOCK:
            raise self.damaged("a frame is longer than any frame can be")
        payload = self._body.read(length)
        if head != _frame_head(head[0], payload):
            raise self.damaged("a frame differs from its checksum")
        return head[0], payload

    def _json(self, text: bytes, *keys: str) -> Mapping[str, Any]:
        """A JSON object that has these keys."""
        with contextlib.suppress(ValueError):
            value = json.loads(text)
            if isinstance(value, dict) and value.keys() >= set(keys):
                return value
        raise self.damaged("a description cannot be read")

    def damaged(self, what: str) -> BackupDamagedError:
        """The error that says what is wrong with this archive."""
        return _damaged(self._path, what)


def read_header(path: Path) -> Header:
    """What can be read of an archive without its key. Raises BackupDamagedError, DataDirectoryError, OSError."""
    with path.open("rb") as file:
        return _header(_preamble(file, path)[1], path)


class _Body(Protocol):
    """Takes the bytes of the body."""

    def write(self, data: bytes) -> None: ...

    def close(self) -> None: ...


class _Source(Protocol):
    """Gives the bytes of the body: exactly as many as asked for."""

    def read(self, count: int) -> bytes: ...

    def expect_end(self) -> None: ...


class _OpenSection:
    """A section that is being written: compresses and counts."""

    def __init__(self) -> None:
        self._compressor = zstandard.ZstdCompressor(level=_LEVEL).compressobj()
        self._tally = _Tally()

    def add(self, data: bytes) -> bytes:
        self._tally.add(data)
        return self._compressor.compress(data)

    def rest(self) -> bytes:
        return self._compressor.flush()

    def end(self) -> SectionEnd:
        return self._tally.end()


class _Tally:
    """Counts the bytes and lines of a section and digests them."""

    def __init__(self) -> None:
        self._rows = self._bytes = 0
        self._digest = hashlib.sha256()

    def add(self, data: bytes) -> None:
        self._rows += data.count(b"\n")
        self._bytes += len(data)
        self._digest.update(data)

    def end(self) -> SectionEnd:
        return SectionEnd(self._rows, self._bytes, self._digest.hexdigest())


class _SectionSource:
    """A section that is being read: decompresses, counts, and compares at the end."""

    def __init__(self, archive: ArchiveReader) -> None:
        self._archive = archive
        self._waiting = memoryview(b"")
        self._ended = False
        self._tally = _Tally()
        decompressor = zstandard.ZstdDecompressor(max_window_size=_LARGEST_WINDOW)
        self._source = io.BufferedReader(_Compressed(self._compressed), BLOCK)
        self._plain = decompressor.stream_reader(self._source, read_size=BLOCK)

    def read(self) -> bytes:
        try:
            data = bytes(self._plain.read(BLOCK))
        except zstandard.ZstdError as error:
            raise self._archive.damaged(f"a section cannot be decompressed: {error}") from None
        if data:
            self._tally.add(data)
        elif self._source.read(1) or self._tally.end() != self._archive.section_end():
            raise self._archive.damaged("a section differs from its checksum")
        return data

    def _compressed(self, count: int) -> bytes:
        """The next compressed bytes of the section, at most `count`; b"" at its end."""
        while not self._waiting and not self._ended:
            data = self._archive.next_data()
            self._ended = data is None
            self._waiting = memoryview(data or b"")
        part, self._waiting = bytes(self._waiting[:count]), self._waiting[count:]
        return part


class _Compressed(io.RawIOBase):
    """The compressed bytes of a section as the decompressor wants them."""

    def __init__(self, take: Callable[[int], bytes]) -> None:
        self._take = take

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        view = memoryview(buffer)
        data = self._take(len(view))
        view[: len(data)] = data
        return len(data)


class _HashedOutput:
    """A file that ends with the digest of what was written to it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._digest = hashlib.sha256()

    def write(self, data: bytes) -> None:
        self._digest.update(data)
        self._file.write(data)

    def close(self) -> None:
        """The body needs no end of its own."""

    def finish(self) -> None:
        self._file.write(self._digest.digest())
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()

    def discard(self) -> None:
        with contextlib.suppress(OSError):  # what cannot be flushed is thrown away anyway
            self._file.close()


class _HashedInput:
    """The body of a file, up to `end`, and the digest behind it."""

    def __init__(self, file: BinaryIO, preamble: bytes, end: int, path: Path) -> None:
        self.end = end
        self.done = len(preamble)
        self._file = file
        self._path = path
        self._digest = hashlib.sha256(preamble)

    def read(self, count: int) -> bytes:
        try:
            data = self._file.read(count) if self.done + count <= self.end else b""
        except OSError as error:
            raise _damaged(self._path, f"it cannot be read: {error.strerror}") from error
        if len(data) != count:
            raise _damaged(self._path, "it is cut off")
        self._digest.update(data)
        self.done += count
        return data

    def expect_end(self) -> None:
        if self.done != self.end:
            raise _damaged(self._path, "there is something behind its end")

    def expect_digest(self) -> None:
        self.expect_end()
        if self._file.read() != self._digest.digest():
            raise _damaged(self._path, "it differs from its checksum")


class _Sealing:
    """Cuts the body into chunks and seals each."""

    def __init__(self, output: _HashedOutput, cipher: AESGCM, preamble: bytes) -> None:
        self._output = output
        self._cipher = cipher
        self._preamble = preamble
        self._waiting = bytearray()
        self._number = 0

    def write(self, data: bytes) -> None:
        self._waiting += data
        while len(self._waiting) > BLOCK:
            self._seal(bytes(self._waiting[:BLOCK]), last=False)
            del self._waiting[:BLOCK]

    def close(self) -> None:
        self._seal(bytes(self._waiting), last=True)

    def _seal(self, plain: bytes, *, last: bool) -> None:
        sealed = self._cipher.encrypt(_nonce(self._number, last=last), plain, self._preamble)
        self._number += 1
        self._output.write((len(sealed) | (_LAST if last else 0)).to_bytes(4, "big") + sealed)


class _Opening:
    """Opens sealed chunks one after the other."""

    def __init__(self, source: _HashedInput, cipher: AESGCM, preamble: bytes, path: Path) -> None:
        self._source = source
        self._cipher = cipher
        self._preamble = preamble
        self._path = path
        self._waiting = memoryview(b"")
        self._number = 0
        self._last = False

    def read(self, count: int) -> bytes:
        data = bytearray()
        while len(data) < count:
            if not self._waiting:
                self._open_next()
            missing = count - len(data)
            data += self._waiting[:missing]
            self._waiting = self._waiting[missing:]
        return bytes(data)

    def expect_end(self) -> None:
        if self._waiting or not self._last:
            raise _damaged(self._path, "there is something behind its end")

    def _open_next(self) -> None:
        if self._last:
            raise _damaged(self._path, "it is cut off")
        mark = int.from_bytes(self._source.read(4), "big")
        self._last, length = bool(mark & _LAST), mark & ~_LAST
        if length > BLOCK + _TAG:
            raise _damaged(self._path, "a chunk is longer than any chunk can be")
        sealed = self._source.read(length)
        try:
            plain = self._cipher.decrypt(_nonce(self._number, last=self._last), sealed, self._preamble)
        except InvalidTag:
            raise _damaged(self._path, f"chunk {self._number} was changed or does not belong there") from None
        self._waiting = memoryview(plain)
        self._number += 1


def _frame_head(kind: int, payload: bytes) -> bytes:
    start = kind.to_bytes(1, "big") + len(payload).to_bytes(4, "big")
    return start + zlib.crc32(payload, zlib.crc32(start)).to_bytes(4, "big")


def _nonce(number: int, *, last: bool) -> bytes:
    return number.to_bytes(11, "big") + (b"\x01" if last else b"\x00")


def _derive(passphrase: bytes, salt: bytes, cost: int) -> tuple[bytes, str]:
    """A key of 32 bytes, and 16 hexadecimal digits by which a wrong passphrase is told from damage."""
    both = Scrypt(salt=salt, length=64, n=cost, r=8, p=1).derive(passphrase)
    return both[:32], hashlib.sha256(both[32:]).hexdigest()[:16]


def _cipher(key: Mapping[str, Any] | None, passphrase: bytes | None, path: Path) -> AESGCM | None:
    if key is None:
        return None
    if passphrase is None:
        raise KeyUnavailableError(f"backup {path} is encrypted; name its passphrase", key="passphrase")
    if not 2 <= key["scrypt"] <= _LARGEST_COST:
        raise _damaged(path, f"its key costs {key['scrypt']}; allowed is up to {_LARGEST_COST}")
    derived, check = _derive(passphrase, bytes.fromhex(key["salt"]), key["scrypt"])
    if not hmac.compare_digest(check, key["check"]):
        raise BackupDamagedError(f"backup {path} cannot be read: the passphrase is another one", path=str(path))
    return AESGCM(derived)


def _preamble(file: BinaryIO, path: Path) -> tuple[bytes, dict[str, Any]]:
    """The preamble and the fields of the header."""
    start = file.read(len(MAGIC) + 4)
    if not start.startswith(MAGIC) or len(start) < len(MAGIC) + 4:
        raise BackupDamagedError(f"{path} is no backup, or its beginning is damaged", path=str(path))
    length = int.from_bytes(start[len(MAGIC) :], "big")
    header, digest = file.read(min(length, _LARGEST_HEADER)), file.read(_DIGEST)
    if digest != hashlib.sha256(start + header).digest():
        raise _damaged(path, "its header differs from its checksum")
    fields: dict[str, Any] = json.loads(header)
    return start + header + digest, fields


def _header(fields: Mapping[str, Any], path: Path) -> Header:
    if fields["format"] > FORMAT:
        reason = f"format {fields['format']}, this version reads up to {FORMAT}"
        raise DataDirectoryError(f"backup {path} was written by a newer version ({reason})", path=str(path))
    created_at = datetime.fromisoformat(fields["created_at"])
    return Header(fields["format"], fields["product"], created_at, "key" in fields)


def _new_file(partial: Path, path: Path) -> BinaryIO:
    """A file that only we can read. Raises FileExistsError if `path` is taken, OSError if it cannot be made."""
    if path.exists():
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
    return os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")


def _make_durable(directory: Path) -> None:
    """Make the names in `directory` survive a power cut."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _damaged(path: Path, what: str) -> BackupDamagedError:
    return BackupDamagedError(f"backup {path} is damaged: {what}", path=str(path))
