"""lerobot's folders of π0, π0.5 and SmolVLA: config.json, the two processors with their statistics, model.safetensors.

Sources: lerobot `policies/*/{configuration,processor}_*.py`, `processor/normalize_processor.py` and
`processor/pipeline.py`. A processor is a list of steps, each with a name and, where it keeps tensors, their file.
"""

from __future__ import annotations

from pathlib import Path

from grids_ros.convert import processors
from grids_ros.convert.foreign import ConversionError, ForeignCheckpoint, Scale, scale_of
from grids_ros.convert.names import plain
from grids_ros.convert.smolvla import self_attention_every
from grids_ros.convert.source import inside, json_of, names_features, tensors_in, tensors_of
from grids_ros.policy.preprocess import ImageFit
from grids_ros.policy.prompt import PromptFormat

IMAGES, STATE, ACTION = "observation.images.", "observation.state", "action"
FAMILIES = {"pi0": 48, "pi05": 200, "smolvla": 48}  # tokens of a prompt, where config.json does not say


def recognises(folder: Path) -> bool:
    """A config.json that names a lerobot policy."""
    return names_features(folder / "config.json")


def read(
    folder: Path, version: str | None = None, state_in_prompt: bool | None = None, of_openpi: bool = False
) -> ForeignCheckpoint:
    """version: of lerobot, "0.4" or "0.5" for that and all later; None finds out as far as the folder tells.

    state_in_prompt: whether π0.5's prompt holds the state, None for lerobot's way. of_openpi: whether weights that
    lerobot has not trained are openpi's. Raises ConversionError for another policy than those of FAMILIES, or what has
    no counterpart here.
    """
    config = json_of(folder / "config.json")
    family = config.get("type")
    if not isinstance(family, str) or family not in FAMILIES:
        expected = ", ".join(map(repr, FAMILIES))
        raise ConversionError(f"{folder} is a lerobot policy of type {family!r}, expected one of {expected}")
    processors.check_config(config)
    every, size = self_attention_every(config) if family == "smolvla" else 0, _image_size(config)
    if (mode := config.get("normalization_mapping", {}).get("VISUAL", "IDENTITY")) != "IDENTITY":
        raise ConversionError(f"{folder} normalises its images by {mode}, expected IDENTITY")
    before = _steps(folder, "policy_preprocessor.json", family)
    after = _steps(folder, "policy_postprocessor.json", family)
    processors.check_agreement(config, before, after)
    state_names, action_names = _names(folder, config, before)
    is_port = of_openpi and not (folder / "train_config.json").is_file()  # lerobot leaves one where it trains
    is_04, notes = _version(config, family, version, is_port)
    is_smolvla, with_state = family == "smolvla", family == "pi05" and state_in_prompt is not False
    frame = (None, None) if is_smolvla else ("<bos>", None if with_state else "\n")
    padding = -3.0 if is_04 and not is_smolvla else -1.0
    return ForeignCheckpoint(
        family=family,
        kind="lerobot",
        tensors=plain(tensors_of(folder)),
        cameras=_cameras(config, before.get("rename_observations_processor", {})),
        state_names=state_names,
        action_names=action_names,
        states=_scale(folder, before.get("normalizer_processor"), STATE, "STATE"),
        actions=_scale(folder, after.get("unnormalizer_processor"), ACTION, "ACTION"),
        modes=_modes(before, after),
        least=(before.get("normalizer_processor", {"config": {}})["config"].get("eps", 1e-8), 0.0),
        chunk=config.get("chunk_size", 50),
        prompt_length=before["tokenizer_processor"]["config"]["max_length"],
        denoising_steps=config.get("num_steps" if is_smolvla else "num_inference_steps", 10),
        periods=(config.get("min_period", 4e-3), config.get("max_period", 4.0)),
        tokenizer=before.get("tokenizer_processor", {}).get("config", {}).get("tokenizer_name", "not named"),
        prompt=PromptFormat(
            clean=family == "pi05",
            line_break=is_smolvla,
            state=with_state,
            state_width=config.get("max_state_dim", 32) if with_state and is_04 else 0,
        ),
        frame=frame,
        image=ImageFit("bilinear", padding, "end" if is_smolvla else "centre"),
        self_attention_every=every,
        image_size=size,
        relative=_relative(config, before),
        notes=notes,
    )


def _version(config: dict, family: str, named: str | None, is_port: bool) -> tuple[bool, tuple[str, ...]]:
    """Whether weights were trained as lerobot 0.4 has it, and what is to be said of it.

    Its π0 and π0.5 pad images with -3 and the state of a prompt to 32 numbers; later ones and openpi do not. Newer keys
    tell later ones; without them it may be 0.5.0, too.
    """
    if family == "smolvla":
        return False, ()
    is_later = "use_relative_actions" in config
    if named and is_later and named == "0.4":
        raise ConversionError("--lerobot-version is 0.4, but config.json has use_relative_actions, a key of later ones")
    is_04 = not is_later if named is None else named == "0.4"
    if is_later or named:
        return is_04, ()
    if is_port:
        what = "images padded with -1" + (" and the bare state in the prompt" if family == "pi05" else "")
        return False, (
            f"taken for openpi's weights, which were trained with {what}; give --lerobot-version 0.4 if lerobot 0.4 "
            "trained them further",
        )
    what = "pads images with -3" + (" and the state in the prompt to 32 numbers" if family == "pi05" else "")
    return True, (f"taken for lerobot 0.4's, which {what}; give --lerobot-version 0.5 if it was trained with 0.5.0",)


def _modes(before: dict, after: dict) -> tuple[str, str]:
    """How states and actions are normalised."""

    def mode(steps: dict, name: str, kind: str) -> str:
        return steps[name]["config"]["norm_map"][kind] if name in steps else "IDENTITY"

    return mode(before, "normalizer_processor", "STATE"), mode(after, "unnormalizer_processor", "ACTION")


def _image_size(config: dict) -> int | None:
    """The side of the square that images are fitted into, where config.json has it. Raises ConversionError."""
    given = config.get("resize_imgs_with_padding" if config["type"] == "smolvla" else "image_resolution")
    if given is None and config["type"] == "smolvla":
        raise ConversionError("config.json: resize_imgs_with_padding is missing, expected the size of its vision tower")
    if given is None:
        return None
    if given[0] != given[1]:
        raise ConversionError(f"config.json: images are fitted into {given[0]} by {given[1]}, expected a square")
    return given[0]


def _relative(config: dict, before: dict) -> bool:
    """Whether actions are offsets from the state. Raises ConversionError where the gripper's number is one as well.

    Which numbers are, the processor's own names tell: without them lerobot takes all, and those beyond them too.
    """
    if not config.get("use_relative_actions"):
        return False
    settings = before["relative_actions_processor"]["config"]
    excluded, names = [token.lower() for token in settings["exclude_joints"]], settings["action_names"] or ()
    kept = [any(token in name.lower() for token in excluded) for name in names]
    numbers = config["output_features"].get(ACTION, {"shape": (len(names),)})["shape"][0]
    if not names or kept != [False] * (len(names) - 1) + [True] or numbers > len(names):
        raise ConversionError(
            f"use_relative_actions makes offsets of {', '.join(names) or 'all numbers, which have no names'} except "
            f"{', '.join(excluded) or 'none'}; expected all but the last, the gripper"
        )
    return True


def _names(folder: Path, config: dict, before: dict) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of the numbers of states and actions, as far as the checkpoint, or its data set's info.json, has them."""
    listed = before.get("relative_actions_processor", {"config": {}})["config"].get("action_names")
    states: tuple[str, ...] = ()
    actions = tuple(config.get("action_feature_names") or listed or ())
    for path in (folder / "info.json", folder / "meta" / "info.json"):
        if path.is_file():
            own, theirs = data_set_names(path)
            states, actions = states or own, actions or theirs
    return states, actions


def data_set_names(path: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of the numbers of states and actions in a data set's meta/info.json. Raises ConversionError."""
    features = json_of(path).get("features", {})

    def names(feature: str) -> tuple[str, ...]:
        found = features.get(feature, {}).get("names") if isinstance(features, dict) else None
        if isinstance(found, dict):  # lerobot 2: {"motors": [...]}
            found = next(iter(found.values()), None)
        return tuple(map(str, found)) if isinstance(found, list) else ()

    return names(STATE), names(ACTION)


def _steps(folder: Path, name: str, family: str) -> dict[str, dict]:
    """The steps of a processor by their names, every one understood."""
    path = folder / name
    if not path.is_file():
        raise ConversionError(
            f"{folder} lacks {name}, which says how states and actions are normalised; lerobot before 0.4 wrote none, "
            "and has a migration script for it"
        )
    return processors.check_steps(json_of(path).get("steps"), name, family)


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
        for name, tensor in tensors_in(inside(folder, step["state_file"])).items()
        if name.startswith(f"{feature}.")
    }
    return scale_of(mode, kept, (least, 0.0), feature, step["state_file"]) if kept else None
