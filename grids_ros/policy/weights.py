"""Tensors in safetensors files, one at a time: a model of gigabytes is read and written without a second copy.

The library checks a file; the bytes are read here, straight to where they belong. Its own tensors are views of the
mapped file, and a copy of them leaves both in memory until the file is closed (measured: twice the file).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

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
PART = 2**24  # bytes that are read or written together


@dataclass(frozen=True)
class Lazy:
    """A tensor that is made when it is asked for: by `read()`, or into one of its shape and dtype by `fill`."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    fill: Callable[[Tensor], None]

    @classmethod
    def of(cls, tensor: Tensor) -> Lazy:
        """Of a tensor that is there already."""
        return cls(tensor.dtype, tuple(tensor.shape), lambda into: into.copy_(tensor))

    def read(self) -> Tensor:
        tensor = torch.empty(self.shape, dtype=self.dtype)
        self.fill(tensor)
        return tensor


def stored(path: Path) -> dict[str, Lazy]:
    """What a safetensors file holds, by name.

    Raises SafetensorError or OSError for a file that is truncated or none, ValueError for a dtype that is not in
    `DTYPES`.
    """
    with safe_open(path, framework="pt"):
        pass  # the library's checks: the header, and that the tensors fill the file
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    header.pop("__metadata__", None)
    unknown = {entry["dtype"] for entry in header.values()} - set(DTYPES)
    if unknown:
        raise ValueError(f"{path} holds tensors of {', '.join(sorted(unknown))}, expected {', '.join(DTYPES)}")
    return {
        name: Lazy(DTYPES[entry["dtype"]], tuple(entry["shape"]), _reader(path, 8 + length + entry["data_offsets"][0]))
        for name, entry in header.items()
    }


def write(path: Path, tensors: Mapping[str, Lazy]) -> None:
    """A safetensors file of these, each made when its turn comes. It appears under its name once it is complete."""
    header, end = {"__metadata__": {"format": "pt"}}, 0
    for name, tensor in tensors.items():
        start, end = end, end + tensor.dtype.itemsize * torch.Size(tensor.shape).numel()
        header[name] = {"dtype": CODES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)  # the format wants the tensors aligned
    unfinished = path.with_name(path.name + ".part")
    with open(unfinished, "wb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        for tensor in tensors.values():
            for part in _bytes(tensor.read()):
                file.write(part)
    unfinished.replace(path)


def finite(tensor: Tensor) -> bool:
    """No NaN and no infinity in it: its extremes tell, and finding them takes no memory."""
    return tensor.numel() == 0 or bool(torch.stack(tensor.aminmax()).isfinite().all())


def _reader(path: Path, offset: int) -> Callable[[Tensor], None]:
    def fill(tensor: Tensor) -> None:
        if tensor.device.type != "cpu" or not tensor.is_contiguous():
            own = torch.empty(tensor.shape, dtype=tensor.dtype)
            fill(own)
            tensor.copy_(own)
            return
        with open(path, "rb", buffering=0) as file:
            file.seek(offset)
            for part in _bytes(tensor):
                if file.readinto(part) != len(part):
                    raise OSError(f"{path} ended while it was read")

    return fill


def _bytes(tensor: Tensor):
    """The memory of a contiguous CPU tensor, in parts."""
    whole = memoryview(tensor.detach().reshape(-1).view(torch.uint8).numpy())
    for start in range(0, len(whole), PART):
        yield whole[start : start + PART]
