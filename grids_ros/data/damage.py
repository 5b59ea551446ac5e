"""What goes wrong in a recording: the error, and the exceptions that damaged files cause in the libraries below."""

from __future__ import annotations

import sqlite3
import struct
import sys

from mcap.exceptions import McapError
from mcap.stream_reader import CRCValidationError
from rosbags.serde import SerdeError
from rosbags.typesys import TypesysError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

# Checksums, decompressors, databases, and parsers that meet arbitrary bytes.
DAMAGE = (
    *(McapError, CRCValidationError, zstd.ZstdError, sqlite3.Error, SerdeError, TypesysError),
    *(OSError, EOFError, struct.error, ValueError, LookupError, TypeError, AttributeError),
    *(RuntimeError, AssertionError, ArithmeticError, MemoryError),
)


LAST_NS = 2**63 - 1  # of a log time: rosbag2 has signed numbers


class BagError(ValueError):
    """A recording that cannot be read, or that lacks a topic: says which, and what the recording holds."""


def first_line(error: BaseException) -> str:
    """An exception's message, cut to a line."""
    return (str(error) or type(error).__name__).splitlines()[0][:300]
