"""Messages between a benchmark's process and ours: JSON, then the arrays that it names. No pickle.

One message: 4 bytes length of the header (big endian), the header, and the bytes of each array in order. The header is
{"body": ..., "arrays": [[dtype, shape], ...]}; {"array": i} stands in the body for the i-th array. NumPy and the
standard library only: the file is read by two Python environments.
"""

from __future__ import annotations

import json
import struct
from typing import BinaryIO

import numpy as np

MAX_HEADER = 1 << 20
MAX_ARRAY = 1 << 28  # bytes
DTYPES = ("uint8", "float32", "float64", "int64", "bool")


class WireError(ConnectionError):
    """The other side is gone, or sends what is no message."""


def send(stream: BinaryIO, body: object) -> None:
    """Write one message: JSON values, and NumPy arrays anywhere among them. Raises WireError."""
    arrays: list[np.ndarray] = []

    def replace(value: object) -> object:
        if isinstance(value, np.ndarray):
            if value.dtype.name not in DTYPES:
                raise WireError(f"array of {value.dtype}, expected one of {', '.join(DTYPES)}")
            arrays.append(np.ascontiguousarray(value))
            return {"array": len(arrays) - 1}
        if isinstance(value, dict):
            return {str(key): replace(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [replace(item) for item in value]
        return value

    body = replace(body)
    header = json.dumps({"body": body, "arrays": [[a.dtype.name, list(a.shape)] for a in arrays]}).encode()
    try:
        stream.write(struct.pack(">I", len(header)) + header)
        for array in arrays:
            stream.write(array.tobytes())
        stream.flush()
    except (OSError, ValueError) as error:
        raise WireError(f"the other process is gone: {error}") from error


def receive(stream: BinaryIO) -> object:
    """Read one message. Raises WireError."""
    (length,) = struct.unpack(">I", _read(stream, 4))
    if length > MAX_HEADER:
        raise WireError(f"a header of {length} bytes, expected at most {MAX_HEADER}")
    try:
        header = json.loads(_read(stream, length))
        arrays = [_array(stream, dtype, shape) for dtype, shape in header["arrays"]]
        return _restore(header["body"], arrays)
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise WireError(f"what came is no message: {error}") from error


def _read(stream: BinaryIO, count: int) -> bytes:
    data = stream.read(count)
    if data is None or len(data) < count:
        raise WireError("the other process has ended")
    return data


def _array(stream: BinaryIO, dtype: str, shape: list[int]) -> np.ndarray:
    if dtype not in DTYPES:
        raise ValueError(f"array of {dtype!r}")
    size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
    if not 0 <= size <= MAX_ARRAY:
        raise ValueError(f"array of {size} bytes")
    return np.frombuffer(_read(stream, size), dtype).reshape(shape)


def _restore(value: object, arrays: list[np.ndarray]) -> object:
    if isinstance(value, dict):
        if set(value) == {"array"}:
            return arrays[value["array"]]
        return {key: _restore(item, arrays) for key, item in value.items()}
    if isinstance(value, list):
        return [_restore(item, arrays) for item in value]
    return value
