"""lerobot's π0 folders: config.json, the two processors with their statistics, model.safetensors.

Sources: lerobot `policies/pi0/configuration_pi0.py`, `processor_pi0.py`, `processor/normalize_processor.py` and
`processor/pipeline.py`. A processor is a list of steps, each with a name and, where it keeps tensors, their file.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from grids_ros.convert.found import ConversionError, Found, Scale, between, standard
from grids_ros.convert.names import plain
from grids_ros.convert.source import json_of, tensors_in, tensors_of

IMAGES, STATE, ACTION = "observation.images.", "observation.state", "action"
MODES = ("MEAN_STD", "MIN_MAX", "QUANTILES", "QUANTILE10", "IDENTITY")


def recognises(folder: Path) -> bool:
    """A config.json that names a lerobot policy."""
    path = folder / "config.json"
    return path.is_file() and "input_features" in json_of(path)


def read(folder: Path) -> Found:
    """Raises ConversionError for another policy than π0, or what has no counterpart here."""
    config = json_of(folder / "config.json")
    if config.get("type") != "pi0":
        raise ConversionError(f"{folder} is a lerobot policy of type {config.get('type')!r}, expected 'pi0'")
    if config.get("use_relative_actions"):
        raise ConversionError(
            f"{folder} has use_relative_actions: its rotations are differences of single numbers, which no follower "
            "can add up; train with absolute actions, or relative to the pose as the README says"
        )
    if (mode := config.get("normalization_mapping", {}).get("VISUAL", "IDENTITY")) != "IDENTITY":
        raise ConversionError(f"{folder} normalises its images by {mode}, expected IDENTITY, as π0 does")
    before, after = _steps(folder, "policy_preprocessor.json"), _steps(folder, "policy_postprocessor.json")
    return Found(
        kind="lerobot",
        tensors=plain(tensors_of(folder)),
        cameras=_cameras(config, before.get("rename_observations_processor", {})),
        action_names=tuple(config.get("action_feature_names") or ()),
        states=_scale(folder, before.get("normalizer_processor"), STATE, "STATE"),
        actions=_scale(folder, after.get("unnormalizer_processor"), ACTION, "ACTION"),
        chunk=config.get("chunk_size", 50),
        prompt_length=config.get("tokenizer_max_length", 48),
        denoising_steps=config.get("num_inference_steps", 10),
        periods=(config.get("min_period", 4e-3), config.get("max_period", 4.0)),
        tokenizer=before.get("tokenizer_processor", {}).get("config", {}).get("tokenizer_name", "not named"),
    )


def _steps(folder: Path, name: str) -> dict[str, dict]:
    """The steps of a processor by their names."""
    path = folder / name
    if not path.is_file():
        raise ConversionError(
            f"{folder} lacks {name}, which says how states and actions are normalised; lerobot before 0.4 wrote none, "
            "and has a migration script for it"
        )
    return {step.get("registry_name", step.get("class", "?")): step for step in json_of(path).get("steps", [])}


def _cameras(config: dict, renaming: dict) -> dict[str, str]:
    """Image features in order, each with the name that the robot's camera had in the data set."""
    earlier = {theirs: own for own, theirs in renaming.get("config", {}).get("rename_map", {}).items()}
    features = [name for name, feature in config["input_features"].items() if feature.get("type") == "VISUAL"]
    real = [name for name in features if not name.startswith(f"{IMAGES}empty_camera_")]  # nothing is ever seen there
    return {_last(name): _last(earlier.get(name, name)) for name in real}


def _last(feature: str) -> str:
    return feature.removeprefix(IMAGES).removeprefix("observation.")


def _scale(folder: Path, step: dict | None, feature: str, kind: str) -> Scale | None:
    """How a feature is normalised, or None where no statistics are kept: lerobot then leaves it as it is."""
    if step is None or "state_file" not in step:
        return None
    mode, least = step["config"].get("norm_map", {}).get(kind, "IDENTITY"), step["config"].get("eps", 1e-8)
    kept = {
        name.removeprefix(f"{feature}."): tensor.read().double().numpy().ravel()
        for name, tensor in tensors_in(folder / step["state_file"]).items()
        if name.startswith(f"{feature}.")
    }
    if not kept:
        return None
    try:
        return _of_mode(mode, kept, least)
    except KeyError as error:
        raise ConversionError(f"{step['state_file']} lacks {feature}.{error.args[0]}, which {mode} needs") from error


def stats(values: dict) -> tuple[Scale, Scale]:
    """Of states and actions, from the content of a data set's meta/stats.json. Raises ConversionError."""
    try:
        return tuple(standard(values[name]["mean"], values[name]["std"], 1e-8) for name in (STATE, ACTION))
    except (KeyError, TypeError) as error:
        raise ConversionError(
            f"the statistics lack {error}; expected mean and std of {STATE} and {ACTION} (lerobot's stats.json), "
            "norm_stats (openpi's), or state_mean and its like (normalization.json)"
        ) from error


def _of_mode(mode: str, kept: dict[str, np.ndarray], least: float) -> Scale:
    if mode == "MEAN_STD":
        return standard(kept["mean"], kept["std"], least)
    if mode == "IDENTITY":
        size = len(next(iter(kept.values())))
        return Scale(np.zeros(size), np.ones(size))
    if mode not in MODES:
        raise ConversionError(f"normalisation {mode!r} is not known, expected one of {', '.join(MODES)}")
    low, high = {"MIN_MAX": ("min", "max"), "QUANTILES": ("q01", "q99"), "QUANTILE10": ("q10", "q90")}[mode]
    return between(kept[low], kept[high], least * (kept[low] == kept[high]))
