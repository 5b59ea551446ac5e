"""Tensors in safetensors files: read by the library, written one at a time, so that none of them is in memory twice.

The library's tensors are views of the mapped file: whoever writes into that file changes a running policy, or ends its
process with a bus error. So each is copied out of a mapping of its own, which then goes. A model that takes the copies
over as they are (`assign=True`) holds its weights once.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
CODES = {dtype: code for code, dtype in DTYPES.items()}
PART = 2**24  # bytes that are read, hashed and written together
DIGEST = "sha256"  # the entry of a file's metadata that holds the digest of its tensors' bytes, in their order


@dataclass(frozen=True)
class LazyTensor:
    """A tensor that `read()` makes: from a file, or from others."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    read: Callable[[], Tensor]

    @classmethod
    def of(cls, tensor: Tensor) -> LazyTensor:
        """Of a tensor that is there already."""
        return cls(tensor.dtype, tuple(tensor.shape), lambda: tensor)


def stored(path: Path) -> dict[str, LazyTensor]:
    """The tensors of a safetensors file, by name.

    Raises SafetensorError or OSError for a file that is truncated or none, ValueError for a dtype that is not in
    `DTYPES`.
    """

    def lazy(name: str, piece) -> LazyTensor:
        code, shape = piece.get_dtype(), tuple(piece.get_shape())
        if code not in DTYPES:
            raise ValueError(f"tensor {name} is of {code}, expected {', '.join(DTYPES)}")
        return LazyTensor(DTYPES[code], shape, lambda: _read(path, name, DTYPES[code], shape))

    with safe_open(path, framework="pt") as file:
        return {name: lazy(name, file.get_slice(name)) for name in file.keys()}  # noqa: SIM118 - it is no mapping


def load_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file. Raises as `stored` does."""
    return {name: tensor.read() for name, tensor in stored(path).items()}


def digest_of(path: Path) -> str | None:
    """The digest of its tensors that a file states, or None where it states none. Raises as `stored` does."""
    with safe_open(path, framework="pt") as file:
        return (file.metadata() or {}).get(DIGEST)


def write(path: Path, tensors: Mapping[str, LazyTensor]) -> str:
    """A safetensors file of these tensors, each made when its turn comes; returns the digest that it states."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt", DIGEST: "0" * 64}}
    end = 0
    for name, tensor in tensors.items():
        start, end = end, end + tensor.dtype.itemsize * torch.Size(tensor.shape).numel()
        header[name] = {"dtype": CODES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    digest = hashlib.sha256()
    with open(path, "wb") as file:
        file.write(_encoded(header))
        for tensor in tensors.values():
            for part in _bytes(tensor.read()):
                digest.update(part)
                file.write(part)
        header["__metadata__"][DIGEST] = digest.hexdigest()
        file.seek(0)
        file.write(_encoded(header))
    return digest.hexdigest()


def finite(tensor: Tensor) -> bool:
    """Whether it holds no NaN and no infinity; takes no memory."""
    return tensor.numel() == 0 or bool(torch.stack(tensor.aminmax()).isfinite().all())


def _encoded(header: dict) -> bytes:
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)  # the format wants the tensors aligned
    return len(encoded).to_bytes(8, "little") + encoded


def _read(path: Path, name: str, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    tensor = torch.empty(shape, dtype=dtype)
    if tensor.nbytes <= PART or len(shape) < 2:
        with safe_open(path, framework="pt") as file:
            return tensor.copy_(file.get_tensor(name))
    rows = max(1, PART // tensor[:1].nbytes)
    for start in range(0, len(tensor), rows):
        with safe_open(path, framework="pt") as file:  # a new mapping: what was copied leaves the memory
            tensor[start : start + rows] = file.get_slice(name)[start : start + rows]
    return tensor


def _bytes(tensor: Tensor):
    """The memory of a tensor, in parts."""
    flat = tensor.detach().cpu().flatten()
    if flat.stride(0) != 1:  # of one number, or none: it is contiguous for torch, and no array of bytes
        flat = torch.empty(len(flat), dtype=flat.dtype).copy_(flat)
    whole = memoryview(flat.view(torch.uint8).numpy().data)
    for start in range(0, len(whole), PART):
        yield whole[start : start + PART]
