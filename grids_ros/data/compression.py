"""Decompression that ends where its result is longer than it may be, whatever the compressed bytes would become."""

from __future__ import annotations

import sys

import lz4.frame

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

LARGEST_CHUNK = 1 << 30  # bytes of an MCAP chunk; rosbag2's own are below 1 MB
LARGEST_MESSAGE = 1 << 28  # bytes
_LZ4_RATIO = 256  # no byte of LZ4 stands for more


def unpacked_zstd(data: bytes, limit: int) -> bytes:
    """The content of one or more zstd frames.

    Raises ValueError for more than `limit` bytes and for a frame that is cut off, ZstdError for what is no zstd.
    """
    parts: list[bytes] = []
    left = limit
    while data:
        frame = zstd.ZstdDecompressor()
        parts.append(frame.decompress(data, max_length=left + 1))
        left -= len(parts[-1])
        _check(left, limit, frame.eof)
        data = frame.unused_data
    return b"".join(parts)


def unpacked_lz4(data: bytes, limit: int) -> bytes:
    """The content of an LZ4 frame. Raises as `unpacked_zstd`; RuntimeError for what is no LZ4."""
    frame = lz4.frame.LZ4FrameDecompressor()
    content = frame.decompress(data, max_length=min(limit + 1, _LZ4_RATIO * len(data) + 1))
    _check(limit - len(content), limit, frame.eof)
    return content


def _check(left: int, limit: int, ended: bool) -> None:
    if left < 0:
        raise ValueError(f"it becomes more than {limit} bytes")
    if not ended:
        raise ValueError("its compressed data is cut off")
