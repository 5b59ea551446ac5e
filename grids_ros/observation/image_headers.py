"""The size that a compressed image declares, read before anything is decompressed: PNG, JPEG, TIFF and WebP.

Sources: PNG (ISO/IEC 15948) 11.2.2; JPEG (ITU T.81) B.2.2; TIFF 6.0, section 2, and BigTIFF; WebP (RFC 9649) 2.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass

PNG, JPEG, WEBP = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", (b"RIFF", b"WEBP")
TIFF = {b"II*\0": "<", b"MM\0*": ">"}
BIG_TIFF = {b"II+\0": "<", b"MM\0+": ">"}
_WIDTH, _HEIGHT, _ORIENTATION = 256, 257, 274  # tags of TIFF
_NO_FRAME = (0xC4, 0xC8, 0xCC)  # of the markers 0xC0 to 0xCF of JPEG: tables
_ALONE = (0x01, *range(0xD0, 0xD9))  # markers of JPEG without a segment


@dataclass(frozen=True)
class Declared:
    """codec: "png", "jpeg", "tiff" or "webp". width, height [px]. orientation: where TIFF keeps it [byte], or None."""

    codec: str
    width: int
    height: int
    orientation: tuple[int, str] | None = None


def declared(data: bytes) -> Declared | None:
    """What the header of a compressed image declares; None for another codec.

    Raises ValueError for a header that breaks off or contradicts itself.
    """
    for starts, read in _READERS:
        if starts(data):
            try:
                return read(data)
            except (struct.error, IndexError) as error:
                raise ValueError("the header breaks off") from error
    return None


def _png(data: bytes) -> Declared:
    length, kind, width, height = struct.unpack_from(">I4sII", data, 8)
    if kind != b"IHDR" or length != 13:
        raise ValueError("the first chunk is not IHDR")
    return Declared("png", width, height)


def _jpeg(data: bytes) -> Declared:
    at = 2
    while True:
        at = data.index(b"\xff", at) if b"\xff" in data[at : at + 65536] else len(data)
        while data[at] == 0xFF:
            at += 1
        marker = data[at]
        at += 1
        if marker in (0x00, *_ALONE):
            continue
        if marker in (0xD9, 0xDA):
            raise ValueError("no frame header before the picture")
        if 0xC0 <= marker <= 0xCF and marker not in _NO_FRAME:
            height, width = struct.unpack_from(">HH", data, at + 3)
            return Declared("jpeg", width, height)
        (length,) = struct.unpack_from(">H", data, at)
        at += max(2, length)


def _tiff(data: bytes) -> Declared:
    big = data[:4] in BIG_TIFF
    order = (BIG_TIFF if big else TIFF)[data[:4]]
    at, count_format, entry, value_at = (8, "Q", 20, 12) if big else (4, "H", 12, 8)
    (at,) = struct.unpack_from(order + ("Q" if big else "I"), data, at)
    (count,) = struct.unpack_from(order + count_format, data, at)
    at += struct.calcsize(count_format)
    found: dict[int, int] = {}
    orientation = None
    for index in range(min(count, 4096)):
        place = at + index * entry
        tag, kind = struct.unpack_from(order + "HH", data, place)
        if tag == _ORIENTATION:
            orientation = (place + value_at, order)
        if tag in (_WIDTH, _HEIGHT):
            if tag in found or kind not in (1, 3, 4, 16):
                raise ValueError(f"tag {tag} stands twice or is of type {kind}")
            form = {1: "B", 3: "H", 4: "I", 16: "Q"}[kind]
            (found[tag],) = struct.unpack_from(order + form, data, place + value_at)
    if len(found) < 2:
        raise ValueError("no width and height")
    return Declared("tiff", found[_WIDTH], found[_HEIGHT], orientation)


def _webp(data: bytes) -> Declared:
    kind = data[12:16]
    if kind == b"VP8X":
        width, height = (int.from_bytes(data[at : at + 3], "little") + 1 for at in (24, 27))
    elif kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    elif kind == b"VP8 ":
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", data, 26))
    else:
        raise ValueError(f"the first chunk is {kind!r}")
    return Declared("webp", width, height)


_READERS: tuple[tuple[Callable[[bytes], bool], Callable[[bytes], Declared]], ...] = (
    (lambda data: data[:8] == PNG, _png),
    (lambda data: data[:3] == JPEG, _jpeg),
    (lambda data: data[:4] in TIFF or data[:4] in BIG_TIFF, _tiff),
    (lambda data: (data[:4], data[8:12]) == WEBP, _webp),
)
