"""Which kinds of media are taken, and how the first bytes prove the kind."""

from __future__ import annotations

import codecs
import re
import struct
from dataclasses import dataclass
from typing import Final

from mnemo_memory.domain.memory import Modality
from mnemocore.errors import UnsupportedMediaError

HEAD_BYTES: Final = 4096
"""As many bytes from the beginning are enough to tell a kind. Fewer are taken for the whole."""

_MIB: Final = 1024 * 1024
_TEXT: Final = "text/plain"
UNKNOWN: Final = "of an unknown kind"
"""What the errors call bytes that no kind is proved of."""


@dataclass(frozen=True, slots=True)
class MediaType:
    """A kind of media that is taken: its MIME type, what a memory of it is made of, and its greatest size in bytes."""

    mime_type: str
    modality: Modality
    max_bytes: int

    @property
    def is_text(self) -> bool:
        """Whether every byte counts for the kind, not the first ones alone: check them with `TextCheck`."""
        return self.mime_type == _TEXT


_LIMITS: Final = {
    Modality.IMAGE: 10 * _MIB,
    Modality.AUDIO: 50 * _MIB,
    Modality.VIDEO: 100 * _MIB,
    Modality.DOCUMENT: 50 * _MIB,
}
_MODALITIES: Final = {
    "image/png": Modality.IMAGE,
    "image/jpeg": Modality.IMAGE,
    "image/gif": Modality.IMAGE,
    "image/webp": Modality.IMAGE,
    "audio/wav": Modality.AUDIO,
    "audio/mpeg": Modality.AUDIO,
    "audio/ogg": Modality.AUDIO,
    "video/mp4": Modality.VIDEO,
    "video/webm": Modality.VIDEO,
    "application/pdf": Modality.DOCUMENT,
    _TEXT: Modality.DOCUMENT,
}
TYPES: Final = {mime: MediaType(mime, modality, _LIMITS[modality]) for mime, modality in _MODALITIES.items()}
"""Every kind that is taken, by its MIME type."""

_ALIASES: Final = {
    "application/ogg": "audio/ogg",
    "application/x-pdf": "application/pdf",
    "audio/mp3": "audio/mpeg",
    "audio/opus": "audio/ogg",
    "audio/vnd.wave": "audio/wav",
    "audio/vorbis": "audio/ogg",
    "audio/wave": "audio/wav",
    "audio/x-mp3": "audio/mpeg",
    "audio/x-mpeg": "audio/mpeg",
    "audio/x-pn-wav": "audio/wav",
    "audio/x-wav": "audio/wav",
    "image/jpg": "image/jpeg",
    "image/pjpeg": "image/jpeg",
    "image/x-png": "image/png",
    "text/csv": _TEXT,
    "text/markdown": _TEXT,
    "text/x-markdown": _TEXT,
    "video/x-m4v": "video/mp4",
}


def check(declared: str, head: bytes) -> MediaType:
    """The kind that `head` proves: the first HEAD_BYTES, or all there are.

    `declared` is the MIME type it is said to have, empty for none; parameters such as a charset do not count. Raises
    UnsupportedMediaError if the bytes are of no kind that is taken, or of another kind than declared.
    """
    name = recognise(head)
    detected = TYPES.get(name)
    if detected is None:
        found = name or (UNKNOWN if head else "none at all")
        raise UnsupportedMediaError(
            f"the bytes are {found}; allowed are {', '.join(TYPES)}", declared=declared, detected=found
        )
    require_declared(declared, name)
    return detected


def require_declared(declared: str, mime_type: str) -> None:
    """Raise UnsupportedMediaError if `declared` is another kind than `mime_type`; an empty one is none."""
    if declared and canonical(declared) != mime_type:
        raise UnsupportedMediaError(declared=declared, detected=mime_type)


def canonical(declared: str) -> str:
    """A MIME type without parameters, in small letters, by its first name."""
    name = declared.partition(";")[0].strip().lower()
    return _ALIASES.get(name, name)


def detect(head: bytes) -> MediaType | None:
    """The kind that the first HEAD_BYTES (or all there are) prove; None if it is not taken."""
    return TYPES.get(recognise(head))


def recognise(head: bytes) -> str:
    """The MIME type that `head` proves, also of kinds that are not taken; empty if none."""
    for place, signature, name_of in _SIGNATURES:
        if head.startswith(signature, place) and (name := name_of(head)):
            return name
    text = TextCheck()
    return _TEXT if head and text.feed(head) and (len(head) >= HEAD_BYTES or text.complete) else ""


class TextCheck:
    """Whether bytes that come piece by piece are plain text.

    Plain text is valid UTF-8 without control characters other than tab, line feed, carriage return and form feed.
    """

    _CONTROLS: Final = bytes(sorted({*range(0x20), 0x7F} - set(b"\t\n\r\f")))
    _HIGH_CONTROL: Final = re.compile("[\x80-\x9f]")

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._sound = True

    def feed(self, data: bytes) -> bool:
        """Whether everything so far can be the beginning of plain text; once False it stays so."""
        self._sound = self._sound and self._is_text(data)
        return self._sound

    @property
    def complete(self) -> bool:
        """Whether everything so far is plain text: no character is cut off at the end."""
        return self._sound and not self._decoder.getstate()[0]

    def _is_text(self, data: bytes) -> bool:
        if len(data.translate(None, self._CONTROLS)) < len(data):
            return False
        try:
            text = self._decoder.decode(data)
        except UnicodeDecodeError:
            return False
        return text.isascii() or self._HIGH_CONTROL.search(text) is None


def _png(head: bytes) -> str:
    """A PNG begins with a header chunk of 13 bytes that names a picture with an area."""
    return "image/png" if head[8:16] == b"\0\0\0\x0dIHDR" and len(head) >= 33 and _area(head, ">II", 16) else ""


def _gif(head: bytes) -> str:
    return "image/gif" if head[3:6] in (b"87a", b"89a") and len(head) >= 13 and _area(head, "<HH", 6) else ""


def _jpeg(head: bytes) -> str:
    """After the start marker a JPEG has a marker of a segment with a length."""
    known = len(head) >= 6 and 0xC0 <= head[3] <= 0xFE and not 0xD0 <= head[3] <= 0xD9
    return "image/jpeg" if known and int.from_bytes(head[4:6], "big") >= 2 else ""


def _riff(head: bytes) -> str:
    if len(head) < 20:
        return ""
    form, chunk = head[8:12], head[12:16]
    if form == b"WEBP":
        return "image/webp" if chunk in (b"VP8 ", b"VP8L", b"VP8X") else ""
    if form == b"WAVE":
        return "audio/wav" if all(0x20 <= byte < 0x7F for byte in chunk) else ""
    return "video/x-msvideo" if form == b"AVI " else ""


_OGG_CODECS: Final = (b"OpusHead", b"\x01vorbis", b"\x7fFLAC", b"Speex   ")


def _ogg(head: bytes) -> str:
    """The first page of an Ogg file: version 0, the beginning of a stream, and a packet that names its codec."""
    if len(head) < 28 or head[4] != 0 or head[5] & ~0x06 or not head[5] & 0x02:
        return ""
    packet = head[27 + head[26] :]
    if packet.startswith(_OGG_CODECS):
        return "audio/ogg"
    return "video/ogg" if packet.startswith((b"\x80theora", b"fishead")) else ""


def _pdf(head: bytes) -> str:
    return "application/pdf" if re.match(rb"%PDF-[12]\.[0-9][ \t]*[\r\n%]", head) else ""


# ISO base media: MP4 and its relatives

_MP4_BRAND: Final = re.compile(rb"iso[2-9m]|mp4[12]|mp71|M4V[ HP]|avc1|cmf[2c]|dash|MSNV")
_OTHER_BRANDS: Final = {
    b"M4A ": "audio/mp4",
    b"M4B ": "audio/mp4",
    b"M4P ": "audio/mp4",
    b"qt  ": "video/quicktime",
    b"heic": "image/heic",
    b"heix": "image/heic",
    b"mif1": "image/heif",
    b"msf1": "image/heif",
    b"avif": "image/avif",
    b"avis": "image/avif",
    b"crx ": "image/x-canon-cr3",
    b"jp2 ": "image/jp2",
}


def _iso_media(head: bytes) -> str:
    """The box of file types: the major brand decides, and if nobody knows it, the compatible ones."""
    size = int.from_bytes(head[:4], "big")
    if size < 16 or size % 4 or size > min(len(head), HEAD_BYTES):
        return ""
    major = head[8:12]
    if major in _OTHER_BRANDS:
        return _OTHER_BRANDS[major]
    if major[:2] == b"3g":
        return "video/3gpp"
    brands = (major, *(head[place : place + 4] for place in range(16, size, 4)))
    return "video/mp4" if any(map(_MP4_BRAND.fullmatch, brands)) else ""


# EBML: WebM and Matroska

_EBML_DOCTYPE: Final = 0x4282


def _ebml(head: bytes) -> str:
    """The document type among the elements of an EBML header (RFC 8794)."""
    header = _vint(head, 4)
    if header is None:
        return ""
    place, end = header[1], header[1] + header[0]
    while place < min(end, len(head)):
        element = _element(head, place)
        if element is None:
            return ""
        number, start, stop = element
        if number == _EBML_DOCTYPE:
            doctype = head[start:stop].rstrip(b"\0") if stop <= min(end, len(head)) else b""
            return {b"webm": "video/webm", b"matroska": "video/x-matroska"}.get(doctype, "")
        place = stop
    return ""


def _element(data: bytes, place: int) -> tuple[int, int, int] | None:
    """The element at `place`: its id, and where its content begins and ends; None if it is cut off."""
    width = 9 - data[place].bit_length()
    size = _vint(data, place + width)
    if width > 4 or size is None:
        return None
    return int.from_bytes(data[place : place + width], "big"), size[1], size[1] + size[0]


def _vint(data: bytes, place: int) -> tuple[int, int] | None:
    """The number of variable width at `place`, and the place after it; None if it is cut off."""
    if place >= len(data) or not data[place]:
        return None
    width = 9 - data[place].bit_length()
    if place + width > len(data):
        return None
    return int.from_bytes(data[place : place + width], "big") & ((1 << 7 * width) - 1), place + width


# MPEG audio

_MPEG1: Final = 3
_BITRATES: Final = {  # kbit/s of layers II and III, by whether it is MPEG-1
    (True, 2): (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 2): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 3): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_RATES: Final = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}


def _id3(head: bytes) -> str:
    """A tag before the sound (ID3v2.2 to 2.4). What follows it within `head` must be a frame."""
    sane = len(head) > 10 and head[3] in (2, 3, 4) and head[4] != 0xFF and not head[5] & 0x0F
    if not sane or any(byte & 0x80 for byte in head[6:10]):
        return ""
    size = (head[6] << 21) | (head[7] << 14) | (head[8] << 7) | head[9]
    end = 10 + size + (10 if head[5] & 0x10 else 0)
    if end >= len(head):
        return "audio/mpeg" if len(head) >= HEAD_BYTES else ""
    sound = head[end:].lstrip(b"\0")
    if sound.startswith(b"fLaC"):
        return "audio/flac"
    cut_off = len(sound) < 4 and len(head) >= HEAD_BYTES
    return "audio/mpeg" if cut_off or _frame_bytes(sound) else ""


def _mpeg_audio(head: bytes) -> str:
    """MPEG audio begins with a whole frame, and what follows is another one of its sort, a tag or the end."""
    size = _frame_bytes(head)
    if not size or size > len(head):
        return ""
    following = head[size : size + 4]
    if len(following) < 4:
        return "" if following else "audio/mpeg"
    same_sort = following[1] & 0xFE == head[1] & 0xFE and following[2] & 0x0C == head[2] & 0x0C
    return "audio/mpeg" if following[:3] == b"TAG" or (same_sort and _frame_bytes(following)) else ""


def _frame_bytes(data: bytes) -> int:
    """The length of the frame of MPEG audio, layer II or III, whose header is at the beginning; 0 if there is none."""
    if len(data) < 4 or data[0] != 0xFF or data[1] & 0xE0 != 0xE0:
        return 0
    version, layer = data[1] >> 3 & 3, 4 - (data[1] >> 1 & 3)
    bitrate, rate = data[2] >> 4, data[2] >> 2 & 3
    if version == 1 or layer not in (2, 3) or bitrate in (0, 15) or rate == 3 or data[3] & 3 == 2:
        return 0
    samples = 72 if layer == 3 and version != _MPEG1 else 144
    kilobits = _BITRATES[version == _MPEG1, layer][bitrate]
    return samples * 1000 * kilobits // _RATES[version][rate] + (data[2] >> 1 & 1)


def _area(head: bytes, form: str, place: int) -> bool:
    width, height = struct.unpack_from(form, head, place)
    return bool(width and height)


_SIGNATURES: Final = (
    (0, b"\x89PNG\r\n\x1a\n", _png),
    (0, b"GIF8", _gif),
    (0, b"\xff\xd8\xff", _jpeg),
    (0, b"RIFF", _riff),
    (0, b"OggS", _ogg),
    (0, b"%PDF-", _pdf),
    (0, b"\x1a\x45\xdf\xa3", _ebml),
    (0, b"ID3", _id3),
    (4, b"ftyp", _iso_media),
    (0, b"\xff", _mpeg_audio),
)
