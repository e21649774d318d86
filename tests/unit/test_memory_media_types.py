"""The kinds of media, told by their first bytes: real ones, hostile ones, and random ones."""

from __future__ import annotations

import itertools
import struct
import zlib
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mnemo_memory.domain.media_types import HEAD_BYTES, TYPES, TextCheck, canonical, check, detect, recognise
from mnemo_memory.domain.memory import Modality
from mnemocore.errors import UnsupportedMediaError

if TYPE_CHECKING:
    from collections.abc import Sequence

MIB = 1024 * 1024


def png(width: int = 1, height: int = 1) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + b"IHDR" + header + struct.pack(">I", zlib.crc32(header))


def riff(form: bytes, chunk: bytes) -> bytes:
    return b"RIFF" + struct.pack("<I", 100) + form + chunk + struct.pack("<I", 16) + bytes(16)


def ftyp(major: bytes, *compatible: bytes) -> bytes:
    content = major + bytes(4) + b"".join(compatible)
    return struct.pack(">I", 8 + len(content)) + b"ftyp" + content + b"\0\0\0\x08free"


def ebml(doctype: bytes, before: bytes = b"\x42\x86\x81\x01") -> bytes:
    elements = before + b"\x42\x82" + bytes([0x80 | len(doctype)]) + doctype
    return b"\x1a\x45\xdf\xa3" + bytes([0x80 | len(elements)]) + elements + b"\x18\x53\x80\x67"


def ogg(packet: bytes, flags: int = 2) -> bytes:
    return b"OggS\0" + bytes([flags]) + bytes(20) + b"\x01" + bytes([len(packet)]) + packet


def mp3(frames: int = 3, header: bytes = b"\xff\xfb\x90\x64", size: int = 417) -> bytes:
    return (header + bytes(size - 4)) * frames


def id3(size: int, version: int = 3, flags: int = 0) -> bytes:
    syncsafe = bytes([size >> 21 & 127, size >> 14 & 127, size >> 7 & 127, size & 127])
    return b"ID3" + bytes([version, 0, flags]) + syncsafe + bytes(size)


TAKEN = {
    "png": (png(), "image/png"),
    "jpeg of a camera": (b"\xff\xd8\xff\xe1\x00\x10Exif\0\0", "image/jpeg"),
    "jpeg of a file": (b"\xff\xd8\xff\xe0\x00\x10JFIF\0", "image/jpeg"),
    "jpeg of tables": (b"\xff\xd8\xff\xdb\x00\x43\0", "image/jpeg"),
    "gif 87": (b"GIF87a\x01\0\x01\0\x80\0\0", "image/gif"),
    "gif 89": (b"GIF89a\x01\0\x01\0\x80\0\0", "image/gif"),
    "webp": (riff(b"WEBP", b"VP8 "), "image/webp"),
    "webp, extended": (riff(b"WEBP", b"VP8X"), "image/webp"),
    "wav": (riff(b"WAVE", b"fmt "), "audio/wav"),
    "wav of a broadcaster": (riff(b"WAVE", b"bext"), "audio/wav"),
    "mp3": (mp3(), "audio/mpeg"),
    "mp3 of one frame": (mp3(1), "audio/mpeg"),
    "mp3 of one frame and a tag": (mp3(1) + b"TAG" + bytes(125), "audio/mpeg"),
    "mp3 of MPEG-2": (mp3(3, b"\xff\xf3\x90\x64", 261), "audio/mpeg"),
    "mp3 after a tag": (id3(20) + mp3(1), "audio/mpeg"),
    "mp3 after a tag and nothing": (id3(20) + bytes(10) + mp3(1), "audio/mpeg"),
    "mp3 after a large tag": (id3(HEAD_BYTES), "audio/mpeg"),
    "opus": (ogg(b"OpusHead\x01\x02"), "audio/ogg"),
    "vorbis": (ogg(b"\x01vorbis\0\0\0\0"), "audio/ogg"),
    "mp4": (ftyp(b"isom", b"isom", b"mp41"), "video/mp4"),
    "mp4 of a phone": (ftyp(b"mp42", b"mp42"), "video/mp4"),
    "mp4 of an unknown brand": (ftyp(b"XAVC", b"XAVC", b"mp42"), "video/mp4"),
    "webm": (ebml(b"webm"), "video/webm"),
    "webm, padded": (ebml(b"webm\0\0"), "video/webm"),
    "pdf": (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n", "application/pdf"),
    "pdf 2": (b"%PDF-2.0\r", "application/pdf"),
    "text": (b"Dear diary,\n\ttoday\r\n", "text/plain"),
    "text of the world": ("\ufeff\u6771\u4eac \U0001f98a na\u00efve".encode(), "text/plain"),
    "text of pages": (b"one\ftwo", "text/plain"),
    "text like a tag": (b"ID3 tags are old", "text/plain"),
    "text like a picture": (b"GIF89 was a format", "text/plain"),
    "text like a document": (b"%PDF-files begin with a percent sign", "text/plain"),
    "text like a box": (b"The ftyp box comes first", "text/plain"),
    "a web page": (b"<!DOCTYPE html><script>alert(1)</script>", "text/plain"),
    "a drawing in text": (b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>', "text/plain"),
}
REFUSED = {
    "nothing": (b"", ""),
    "matroska": (ebml(b"matroska"), "video/x-matroska"),
    "ebml of another sort": (ebml(b"other"), ""),
    "ebml without a type": (b"\x1a\x45\xdf\xa3\x80", ""),
    "ebml cut off": (ebml(b"webm")[:12], ""),
    "avi": (riff(b"AVI ", b"LIST"), "video/x-msvideo"),
    "riff of another sort": (riff(b"sfbk", b"LIST"), ""),
    "webp of another sort": (riff(b"WEBP", b"\0\0\0\0"), ""),
    "wav with a bad chunk": (riff(b"WAVE", b"\0\0\0\0"), ""),
    "a song of a shop": (ftyp(b"M4A ", b"M4A ", b"mp42"), "audio/mp4"),
    "a film of quicktime": (ftyp(b"qt  ", b"qt  "), "video/quicktime"),
    "a film of an old phone": (ftyp(b"3gp4", b"isom"), "video/3gpp"),
    "a photo of a phone": (ftyp(b"heic", b"mif1"), "image/heic"),
    "a box of nobody": (ftyp(b"ZZZZ"), ""),
    "a box that is too long": (b"\x00\xff\xff\xf0ftypisom" + bytes(4), ""),
    "a box of no length": (b"\0\0\0\0ftypisom" + bytes(4), ""),
    "a film in ogg": (ogg(b"\x80theora\x03"), "video/ogg"),
    "the midst of a sound": (ogg(b"OpusHead", flags=0), ""),
    "png without a header": (b"\x89PNG\r\n\x1a\n" + bytes(40), ""),
    "png without an area": (png(0, 5), ""),
    "png cut off": (png()[:20], ""),
    "gif without an area": (b"GIF89a\0\0\0\0\x80\0\0", ""),
    "jpeg cut off": (b"\xff\xd8\xff", ""),
    "jpeg of a marker without a length": (b"\xff\xd8\xff\xd9\x00\x10", ""),
    "mp3 of text": (b"\xff\xfb is no sound, and goes on like this for quite a while" * 20, ""),
    "mp3 of a lone header": (b"\xff\xfb\x90\x64", ""),
    "mp3 of a frame and rubbish": (mp3(1) + b"rubbish", ""),
    "mp3 of a reserved layer": (mp3(3, b"\xff\xf9\x90\x64"), ""),
    "mp3 of a bad bitrate": (mp3(3, b"\xff\xfb\xf0\x64"), ""),
    "mp3 of a bad rate": (mp3(3, b"\xff\xfb\x9c\x64"), ""),
    "flac after a tag": (id3(20) + b"fLaC\0\0\0\x22", "audio/flac"),
    "a tag and no sound": (id3(20), ""),
    "a tag that promises more": (id3(2000)[:100], ""),
    "a tag of the future": (id3(20, version=9) + mp3(1), ""),
    "text with a zero": (b"abc\0def", ""),
    "text with an escape": (b"\x1b[31mred\x1b[0m", ""),
    "text with a deletion": (b"abc\x7f", ""),
    "text with a high control": ("abc\x85def".encode(), ""),
    "text of windows": ("na\u00efve".encode("utf-16"), ""),
    "text of the west": ("na\u00efve".encode("latin-1"), ""),
    "text with half a character": ("na\u00ef".encode()[:-1], ""),
    "a program": (b"MZ\x90\0\x03\0\0\0", ""),
    "an archive": (b"PK\x03\x04\x14\0", ""),
}


@pytest.mark.parametrize(("data", "mime_type"), TAKEN.values(), ids=TAKEN)
def test_a_kind_that_is_taken(data: bytes, mime_type: str) -> None:
    head = data[:HEAD_BYTES]
    assert recognise(head) == mime_type
    assert check("", head) is check(mime_type, head) is TYPES[mime_type]


@pytest.mark.parametrize(("data", "name"), REFUSED.values(), ids=REFUSED)
def test_a_kind_that_is_refused(data: bytes, name: str) -> None:
    assert recognise(data[:HEAD_BYTES]) == name
    assert detect(data[:HEAD_BYTES]) is None
    for declared in ("", "image/png", "text/plain"):
        with pytest.raises(UnsupportedMediaError) as caught:
            check(declared, data[:HEAD_BYTES])
        assert caught.value.metadata["declared"] == declared
        assert caught.value.metadata["detected"] == name or not name


@pytest.mark.parametrize(
    ("declared", "data"),
    [
        ("audio/mp3", mp3()),
        ("image/jpg", TAKEN["jpeg of a file"][0]),
        ("audio/x-wav", TAKEN["wav"][0]),
        ("IMAGE/PNG", png()),
        (" text/plain; charset=utf-8", b"text"),
        ("text/markdown", b"# text"),
    ],
)
def test_a_kind_goes_by_many_names(declared: str, data: bytes) -> None:
    assert check(declared, data).mime_type == canonical(declared)


@pytest.mark.parametrize(
    ("declared", "data", "detected"),
    [
        ("image/png", mp3(), "audio/mpeg"),
        ("image/svg+xml", TAKEN["a drawing in text"][0], "text/plain"),
        ("text/html", TAKEN["a web page"][0], "text/plain"),
        ("audio/ogg", TAKEN["webm"][0], "video/webm"),
        ("application/octet-stream", png(), "image/png"),
        ("image/gif", b"GIF89a", "text/plain"),
        ("text/plain", TAKEN["pdf"][0], "application/pdf"),
    ],
)
def test_bytes_that_are_another_kind_than_declared(declared: str, data: bytes, detected: str) -> None:
    with pytest.raises(UnsupportedMediaError, match=detected) as caught:
        check(declared, data)
    assert caught.value.metadata == {"declared": declared, "detected": detected}


def test_of_a_file_that_is_two_things_the_first_counts() -> None:
    page = b"<script>alert(1)</script>"
    assert recognise(png() + page) == "image/png"
    assert recognise(TAKEN["gif 89"][0] + b"/*" + page) == "image/gif"
    assert recognise(page + png()) == ""
    assert recognise(page + b"%PDF-1.7\n") == "text/plain"


def test_every_kind_has_a_modality_and_a_limit() -> None:
    expected = {Modality.IMAGE: 10, Modality.AUDIO: 50, Modality.VIDEO: 100, Modality.DOCUMENT: 50}
    assert {kind.modality: kind.max_bytes // MIB for kind in TYPES.values()} == expected
    assert {mime_type for _, mime_type in TAKEN.values()} == set(TYPES)


@given(st.binary(max_size=200), st.sampled_from([data for data, _ in (*TAKEN.values(), *REFUSED.values())]))
def test_no_bytes_break_it(noise: bytes, known: bytes) -> None:
    for data in (noise, known + noise, known[: len(noise)], known[: len(noise)] + noise, known[:16] + noise):
        name = recognise(data[:HEAD_BYTES])
        assert detect(data[:HEAD_BYTES]) is TYPES.get(name)


@given(st.binary(min_size=4, max_size=2000))
def test_random_bytes_are_hardly_ever_a_sound(noise: bytes) -> None:
    assert recognise(b"\xff\xfb" + noise) in ("", "audio/mpeg")
    assert recognise(b"\xff\xfb" + b"the same words again and again " * 100 + noise) == ""


@given(st.text(), st.lists(st.integers(0, 400), max_size=6))
def test_text_is_text_however_it_is_cut(text: str, cuts: Sequence[int]) -> None:
    data = text.encode("utf-8", "surrogatepass")
    borders = [0, *sorted(cut for cut in cuts if cut < len(data)), len(data)]
    whole, pieces = TextCheck(), TextCheck()
    sound = whole.feed(data)
    for start, end in itertools.pairwise(borders):
        pieces.feed(data[start:end])
    controls = any((ord(char) < 32 and char not in "\t\n\r\f") or 0x7F <= ord(char) < 0xA0 for char in text)
    surrogates = any(0xD800 <= ord(char) < 0xE000 for char in text)
    assert (sound and whole.complete) == pieces.complete == (not controls and not surrogates)


def test_half_a_character_is_no_end() -> None:
    text = TextCheck()
    steps = [(text.feed(data), text.complete) for data in (b"caf\xc3", b"\xa9", b"\xc3\xc3", b"fine")]
    assert steps == [(True, False), (True, True), (False, False), (False, False)]
