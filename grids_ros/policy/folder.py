"""A first look at a checkpoint's folder, with the standard library alone.

The launch file checks a folder before it starts a node, and may run under another interpreter than the nodes do.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from grids_ros.files import COMPLETE, current
from grids_ros.policy.errors import CheckpointError

CONFIGURATION, SETTINGS = "config.json", "grids.json"


def check_folder(folder: Path | str) -> tuple[str, ...]:
    """Names of the cameras of the checkpoint in `folder`, in its order.

    Checks that the folder exists, that its configuration is JSON, and that its weights open and are complete. Loading
    the checkpoint checks the rest. Raises CheckpointError.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise CheckpointError(f"checkpoint folder {folder} does not exist")
    settings, configuration = current(folder, SETTINGS), current(folder, CONFIGURATION)
    if not settings.is_file() and configuration.is_file():
        raise CheckpointError(f"{folder} has no {SETTINGS}: for a checkpoint of lerobot or openpi, run `grids convert`")
    _read(configuration)
    cameras = _read(settings).get("cameras")
    if not isinstance(cameras, list) or not cameras or not all(isinstance(name, str) for name in cameras):
        raise CheckpointError(f"{settings}: cameras is {cameras!r}, expected a list of names")
    weights = sorted({path.name for inside in (folder, folder / COMPLETE) for path in inside.glob("*.safetensors")})
    if not weights:
        raise CheckpointError(f"{folder} has no weights, expected model.safetensors")
    for name in weights:
        _check_complete(current(folder, name))
    return tuple(cameras)


def _read(path: Path) -> dict:
    try:
        values = json.loads(path.read_text())
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:  # one that is nested a thousand times
        raise CheckpointError(f"{path} is not JSON: {error}") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} is not a JSON object")
    return values


def _check_complete(path: Path) -> None:
    """Whether the header of a safetensors file describes as many bytes as the file has. Raises CheckpointError."""
    try:
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            size = os.fstat(file.fileno()).st_size
            header = json.loads(file.read(length)) if length <= size else {}
        header.pop("__metadata__", None)
        expected = 8 + length + max((entry["data_offsets"][1] for entry in header.values()), default=0)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, AttributeError, TypeError, LookupError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged: its header is not that of a safetensors file") from error
    if size != expected:
        raise CheckpointError(f"{path} is damaged or incomplete: it has {size} bytes, its header describes {expected}")
