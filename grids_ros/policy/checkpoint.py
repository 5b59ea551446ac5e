"""A policy as one folder, that says everything needed to run it, and an error for every way it can be broken.

config.json           transformers' PI0Config
grids.json            sampler, stem, cameras in order, prompt length, chunk timing, what states and actions mean
model.safetensors     every tensor of the model, the sampler's included
tokenizer.json        of the `tokenizers` library
normalization.json    mean and standard deviation of states and actions
provenance.json       what it was trained on, how, and what it scored
"""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from tokenizers import Tokenizer
from transformers import PI0Config, PI0ForConditionalGeneration

from grids_ros.policy.grids import attach, tokens_per_camera
from grids_ros.policy.model import build
from grids_ros.policy.preprocess import ACTION_DIM, STATE_DIM, Normalization, Prompt
from grids_ros.sampler import SamplerConfig

# What the numbers mean. Checkpoints carry it, so that one of another convention is refused and not mistaken.
SPACES = {
    "state": "position 3 [m] | rotation matrix columns 1, 2 (6) | gripper opening 1 [m]; tool frame in base frame",
    "action": "translation 3 [m] | rotation vector 3 [rad] | gripper opening 1 [m]; "
    "of the target, relative to the measured tool pose at the observation, in base axes; gripper absolute",
}


class CheckpointError(ValueError):
    """A checkpoint that cannot be loaded: names the file or tensor, what was found and what was expected."""


@dataclass(frozen=True)
class PolicySpec:
    """What grids.json says beside transformers' configuration.

    cameras: names, in the order of the image tokens. prompt_length: text tokens. step_s: between the steps of a
    chunk [s]. denoising_steps: of the flow. stem: channels of the convolutional stem, or None. sampler: or None for
    the dense model.
    """

    cameras: tuple[str, ...]
    prompt_length: int
    step_s: float
    denoising_steps: int
    stem: tuple[int, ...] | None
    sampler: SamplerConfig | None

    def to_dict(self) -> dict:
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {**values, "sampler": self.sampler.to_dict() if self.sampler else None, "spaces": SPACES}

    @classmethod
    def from_dict(cls, values: dict) -> PolicySpec:
        """Raises ValueError for missing or unknown keys, or another meaning of states and actions."""
        expected = {f.name for f in fields(cls)} | {"spaces"}
        if set(values) != expected:
            raise ValueError(f"keys are {sorted(values)}, expected {sorted(expected)}")
        values = dict(values)
        spaces = values.pop("spaces")
        if spaces != SPACES:
            raise ValueError(f"states and actions mean {spaces}, this package speaks {SPACES}")
        if not values["cameras"]:
            raise ValueError("cameras is empty, expected at least one name")
        sampler, stem = values.pop("sampler"), values.pop("stem")
        return cls(
            **{**values, "cameras": tuple(values["cameras"])},
            stem=tuple(stem) if stem else None,
            sampler=SamplerConfig.from_dict(sampler) if sampler else None,
        )


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A loaded folder, or one about to be saved."""

    model: PI0ForConditionalGeneration
    spec: PolicySpec
    tokenizer: Tokenizer
    normalization: Normalization
    provenance: dict

    @property
    def budgets(self) -> tuple[int, ...]:
        """How many tokens per camera it was trained to see, in ascending order; more than one after nested training."""
        if self.spec.sampler is None:
            return (tokens_per_camera(self.model),)
        nested = self.provenance.get("stages", [{}])[-1].get("nested", ())
        return tuple(sorted({self.spec.sampler.tokens, *nested}))

    def prompt(self) -> Prompt:
        """How this policy's instructions become token ids."""
        return Prompt(
            tokenizer=self.tokenizer,
            length=self.spec.prompt_length,
            placeholders=len(self.spec.cameras) * tokens_per_camera(self.model),
            image_token=self.model.config.vlm_config.image_token_id,
        )


def create(config: PI0Config, spec: PolicySpec) -> PI0ForConditionalGeneration:
    """The model of these configurations, with random weights, in evaluation mode."""
    model = build(config, spec.stem)
    if spec.sampler:
        attach(model, spec.sampler)
    return model.eval()


def save(checkpoint: Checkpoint, folder: Path) -> None:
    """Write every file of the folder; an existing checkpoint there is replaced file by file, the weights last."""
    folder.mkdir(parents=True, exist_ok=True)
    normalization = {f.name: getattr(checkpoint.normalization, f.name).tolist() for f in fields(Normalization)}
    for name, values in (
        ("config.json", checkpoint.model.config.to_dict()),
        ("grids.json", checkpoint.spec.to_dict()),
        ("normalization.json", normalization),
        ("provenance.json", checkpoint.provenance),
    ):
        (folder / name).write_text(json.dumps(values, indent=2, default=str) + "\n")
    checkpoint.tokenizer.save(str(folder / "tokenizer.json"))
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in checkpoint.model.state_dict().items()}
    unfinished = folder / "model.safetensors.part"
    save_file(_untied(tensors), str(unfinished), metadata={"format": "pt"})
    unfinished.replace(folder / "model.safetensors")


def load(folder: Path | str) -> Checkpoint:
    """Read a checkpoint folder. Raises CheckpointError for every missing, broken or disagreeing piece."""
    folder = Path(folder)
    if not folder.is_dir():
        raise CheckpointError(f"checkpoint folder {folder} does not exist")
    names = (
        "config.json",
        "grids.json",
        "normalization.json",
        "provenance.json",
        "tokenizer.json",
        "model.safetensors",
    )
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise CheckpointError(f"checkpoint {folder} lacks {', '.join(missing)}; it needs {', '.join(names)}")
    try:
        spec = PolicySpec.from_dict(_json(folder / "grids.json"))
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{folder / 'grids.json'}: {error}") from error
    normalization = _normalization(folder / "normalization.json")
    try:
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    except Exception as error:  # noqa: BLE001 - tokenizers raises bare Exception for every kind of damage
        raise CheckpointError(f"{folder / 'tokenizer.json'} is no tokenizer: {error}") from error
    try:
        model = create(PI0Config.from_dict(_json(folder / "config.json")), spec)
    except (ValueError, TypeError, KeyError) as error:
        raise CheckpointError(f"{folder / 'config.json'} does not describe a model: {error}") from error
    _fill(model, folder / "model.safetensors")
    return Checkpoint(model, spec, tokenizer, normalization, _json(folder / "provenance.json"))


def _json(path: Path) -> dict:
    try:
        values = json.loads(path.read_text())
    except (ValueError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} is not JSON: {error}") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} holds a {type(values).__name__}, expected an object")
    return values


def _normalization(path: Path) -> Normalization:
    values = _json(path)
    sizes = {"state_mean": STATE_DIM, "state_std": STATE_DIM, "action_mean": ACTION_DIM, "action_std": ACTION_DIM}
    if set(values) != set(sizes):
        raise CheckpointError(f"{path} has keys {sorted(values)}, expected {sorted(sizes)}")
    arrays = {}
    for name, size in sizes.items():
        try:
            array = np.array(values[name], dtype=np.float64)
        except (ValueError, TypeError) as error:
            raise CheckpointError(f"{path}: {name} is no list of numbers: {error}") from error
        if array.shape != (size,) or not np.isfinite(array).all():
            raise CheckpointError(f"{path}: {name} has shape {array.shape}, expected ({size},) of finite numbers")
        if name.endswith("std") and (array <= 0.0).any():
            raise CheckpointError(f"{path}: {name} is not positive")
        arrays[name] = array
    return Normalization(**arrays)


def _untied(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Safetensors stores no shared memory: later names of one storage are copies."""
    seen: set[int] = set()
    result = {}
    for name, tensor in tensors.items():
        result[name] = tensor.clone() if tensor.data_ptr() in seen else tensor
        seen.add(tensor.data_ptr())
    return result


def _fill(model: PI0ForConditionalGeneration, path: Path) -> None:
    """Every tensor of the model from the file, and none beside: nothing is left at random values in silence."""
    own = model.state_dict()
    try:
        with safe_open(path, framework="pt") as file:
            found = set(file.keys())
            for what, names in (("lacks", set(own) - found), ("has unknown", found - set(own))):
                if names:
                    listed = ", ".join(sorted(names)[:5])
                    raise CheckpointError(f"{path} {what} {len(names)} tensors, among them {listed}")
            for name, tensor in own.items():
                shape = tuple(file.get_slice(name).get_shape())
                if shape != tuple(tensor.shape):
                    raise CheckpointError(f"{path}: {name} has shape {shape}, expected {tuple(tensor.shape)}")
                tensor.copy_(file.get_tensor(name))
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is truncated or no safetensors file: {error}") from error
    broken = [name for name, tensor in own.items() if tensor.is_floating_point() and not tensor.isfinite().all()]
    if broken:
        raise CheckpointError(f"{path}: {len(broken)} tensors hold NaN or infinity, among them {broken[0]}")
