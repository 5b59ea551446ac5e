"""Where a checkpoint comes from: a folder, or a repository on the Hugging Face hub that the user names."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError

from grids_ros.convert.found import ConversionError
from grids_ros.policy.weights import Lazy, stored

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def local(source: str, files: tuple[str, ...] = ("*.json", "*.safetensors")) -> Path:
    """The folder of a source. A hub id is downloaded: only these files of its top level, and no code is ever run.

    Raises ConversionError for what is neither a folder nor to be had.
    """
    if Path(source).exists():
        return Path(source)
    if not HUB_ID.fullmatch(source):
        raise ConversionError(f"{source} does not exist, and is no hub id of the form owner/name")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(source, allow_patterns=list(files), ignore_patterns=["*/*"]))
    except OSError as error:  # all of the hub's errors are, too
        reason = str(error).strip().splitlines()[0]
        raise ConversionError(f"there is no folder {source}, and the hub does not give it: {reason}") from error


def tensors_of(folder: Path) -> Mapping[str, Lazy]:
    """Of model.safetensors, or of the files that model.safetensors.index.json lists. Raises ConversionError."""
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.is_file():
        files = [single]
    elif index.is_file():
        files = [folder / name for name in sorted(set(json_of(index)["weight_map"].values()))]
    else:
        raise ConversionError(f"{folder} has neither model.safetensors nor model.safetensors.index.json")
    return {name: tensor for path in files for name, tensor in tensors_in(path).items()}


def tensors_in(path: Path) -> Mapping[str, Lazy]:
    """Of one safetensors file. Raises ConversionError for one that is missing or broken."""
    try:
        return stored(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise ConversionError(f"{path} is missing, truncated or no safetensors file: {error}") from error


def json_of(path: Path) -> dict:
    """Of a JSON file that holds an object. Raises ConversionError for any other."""
    try:
        values = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ConversionError(f"{path} is missing or no JSON: {error}") from error
    if not isinstance(values, dict):
        raise ConversionError(f"{path} holds a {type(values).__name__}, expected an object")
    return values
