"""Where a checkpoint comes from: a folder, or a repository on the Hugging Face hub that the user names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError

from grids_ros.convert.foreign import ConversionError
from grids_ros.hub import announce, is_hub_id, no_hub_id
from grids_ros.policy.schema import Object, Table, Text, parse_json
from grids_ros.policy.weights import LazyTensor, stored

WEIGHT_MAP = Object({"weight_map": Table(Text(), Text())}, others=True)


def local(source: str, files: tuple[str, ...] = ("*.json", "*.safetensors")) -> Path:
    """The folder of a source. A hub id is downloaded: only these files of its top level, and no code is ever run.

    Raises ConversionError for what is neither a folder nor to be had.
    """
    if Path(source).exists():
        return Path(source)
    if not is_hub_id(source):
        raise ConversionError(no_hub_id(source))
    announce(source, "repository")
    return _fetched(source, allow_patterns=list(files), ignore_patterns=["*/*"])


def checkpoint_folder(source: str) -> Path:
    """As `local`; of openpi's layout its statistics as well, and its JAX weights where it has no other ones."""
    folder = local(source)
    if folder == Path(source) or names_features(folder / "config.json"):
        return folder
    weights = [] if any(folder.glob("*.safetensors")) else ["params/*"]
    return _fetched(source, allow_patterns=["assets/*norm_stats.json", *weights])


def names_features(path: Path) -> bool:
    """Whether a config.json is of a lerobot policy."""
    return path.is_file() and "input_features" in json_of(path)


def _fetched(source: str, allow_patterns: list[str], ignore_patterns: list[str] | None = None) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(source, allow_patterns=allow_patterns, ignore_patterns=ignore_patterns))
    except (OSError, ValueError) as error:  # all of the hub's errors are one of them
        reason = str(error).strip().splitlines()[0]
        raise ConversionError(f"there is no folder {source}, and the hub does not give it: {reason}") from error


def tensors_of(folder: Path) -> Mapping[str, LazyTensor]:
    """Of model.safetensors, or of the files that model.safetensors.index.json lists. Raises ConversionError."""
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.is_file():
        files = [single]
    elif index.is_file():
        try:
            listed = WEIGHT_MAP.check("", json_of(index))["weight_map"]
        except ValueError as error:
            raise ConversionError(f"{index}: {error}") from error
        files = [inside(folder, name) for name in sorted(set(listed.values()))]
    else:
        raise ConversionError(f"{folder} has neither model.safetensors nor model.safetensors.index.json")
    return {name: tensor for path in files for name, tensor in tensors_in(path).items()}


def tensors_in(path: Path) -> Mapping[str, LazyTensor]:
    """Of one safetensors file. Raises ConversionError for one that is missing or broken."""
    try:
        return stored(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise ConversionError(f"{path} is missing, truncated or no safetensors file: {error}") from error


def json_of(path: Path) -> dict:
    """Of a JSON file that holds an object. Raises ConversionError for any other."""
    try:
        return parse_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConversionError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ConversionError(f"{path} is not valid JSON of an object: {error}") from error


def inside(folder: Path, name: str) -> Path:
    """A file that a checkpoint's JSON names. Raises ConversionError for a path that leaves its folder."""
    if not isinstance(name, str) or Path(name).name != name or name in ("", ".", ".."):
        raise ConversionError(f"{folder} names the file {name!r}, expected a plain name inside the folder")
    return folder / name
