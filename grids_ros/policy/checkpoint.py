"""A policy as one folder, that says everything needed to run it, and an error for every way it can be broken.

config.json           transformers' configuration: PI0Config
grids.json            sampler, stem, cameras in order, prompt length, chunk timing, what states and actions mean
model.safetensors     every tensor of the model, the sampler's included
tokenizer.json        of the `tokenizers` library
normalization.json    mean and standard deviation of states and actions
provenance.json       what it was trained on, how, and what it scored
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from tokenizers import Tokenizer
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel
from transformers.initialization import no_init_weights

from grids_ros.files import write_whole
from grids_ros.policy.backbone import backbone_of
from grids_ros.policy.baselines import BaselineConfig
from grids_ros.policy.errors import CheckpointError
from grids_ros.policy.grids import attach, tokens_per_camera
from grids_ros.policy.preprocess import ACTION_DIM, BEGIN, Normalization, Prompt, frame
from grids_ros.policy.spaces import ACTIONS, MATRIX, RELATIVE, STATES, ActionSpace, StateSpace
from grids_ros.policy.weights import Lazy, finite, stored, write
from grids_ros.sampler import SamplerConfig


@dataclass(frozen=True)
class PolicySpec:
    """What grids.json says beside transformers' configuration.

    cameras: names, in the order of the image tokens. prompt_length: text tokens. step_s: between the steps of a
    chunk [s]. denoising_steps: of the flow. stem: channels of the convolutional stem, or None. sampler: GridS, or what
    it is compared with, or None for the dense model. state, action: what the numbers mean.
    """

    cameras: tuple[str, ...]
    prompt_length: int
    step_s: float
    denoising_steps: int
    stem: tuple[int, ...] | None
    sampler: SamplerConfig | BaselineConfig | None
    state: StateSpace = MATRIX
    action: ActionSpace = RELATIVE

    def to_dict(self) -> dict:
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        spaces = {"state": values.pop("state").meaning, "action": values.pop("action").meaning}
        return {**values, "sampler": self.sampler.to_dict() if self.sampler else None, "spaces": spaces}

    @classmethod
    def from_dict(cls, values: dict) -> PolicySpec:
        """Raises ValueError for missing or unknown keys, or another meaning of states and actions."""
        expected = {f.name for f in fields(cls)} - {"state", "action"} | {"spaces"}
        if set(values) != expected:
            raise ValueError(f"keys are {sorted(values)}, expected {sorted(expected)}")
        values = dict(values)
        meanings = values.pop("spaces")
        for what, spaces in (("state", STATES), ("action", ACTIONS)):
            if meanings.get(what) not in spaces:
                known = " or ".join(map(repr, spaces))
                raise ValueError(f"spaces: {what} means {meanings.get(what)!r}, this package speaks {known}")
            values[what] = spaces[meanings[what]]
        if not values["cameras"]:
            raise ValueError("cameras is empty, expected at least one name")
        sampler, stem = values.pop("sampler"), values.pop("stem")
        return cls(
            **{**values, "cameras": tuple(values["cameras"])},
            stem=tuple(stem) if stem else None,
            sampler=_sampler(sampler) if sampler else None,
        )


def _sampler(values: dict) -> SamplerConfig | BaselineConfig:
    """What only a baseline has is the name of its pruner."""
    return BaselineConfig.from_dict(values) if "pruner" in values else SamplerConfig.from_dict(values)


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A loaded folder, or one about to be saved."""

    model: PreTrainedModel
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

    @property
    def spaces(self) -> tuple[StateSpace, ActionSpace]:
        """What its states and actions mean, orientations written as in the data that it is normalised by."""
        known = self.normalization
        states, actions = (known.state_mean, known.state_std), (known.action_mean, known.action_std)
        return self.spec.state.about(*states), self.spec.action.about(states, actions)

    def prompt(self) -> Prompt:
        """How this policy's instructions become token ids."""
        return Prompt(
            tokenizer=self.tokenizer,
            length=self.spec.prompt_length,
            placeholders=len(self.spec.cameras) * tokens_per_camera(self.model),
            image_token=backbone_of(self.model.config.model_type).image_token(self.model.config),
        )


def create(config: PretrainedConfig, spec: PolicySpec) -> PreTrainedModel:
    """The model of these configurations, with random weights, in evaluation mode."""
    model = backbone_of(config.model_type).build(config, spec.stem)
    if spec.sampler:
        attach(model, spec.sampler)
    return model.eval()


def allocate(config: PretrainedConfig, spec: PolicySpec, dtype: torch.dtype, device: str) -> PreTrainedModel:
    """The model of these configurations, its weights not set: memory that nobody wrote to takes no room yet."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with no_init_weights(), torch.device(device):
            return create(config, spec)
    finally:
        torch.set_default_dtype(before)


def save(checkpoint: Checkpoint, folder: Path, weights: Mapping[str, Lazy] | None = None) -> None:
    """Write every file of the folder; an existing checkpoint there is replaced file by file, the weights last.

    weights: in place of the model's own, for one that is not in memory.
    """
    folder.mkdir(parents=True, exist_ok=True)
    normalization = {f.name: getattr(checkpoint.normalization, f.name).tolist() for f in fields(Normalization)}
    for name, values in (
        ("config.json", checkpoint.model.config.to_dict()),
        ("grids.json", checkpoint.spec.to_dict()),
        ("normalization.json", normalization),
        ("provenance.json", checkpoint.provenance),
    ):
        write_whole(folder / name, json.dumps(values, indent=2, default=str) + "\n")
    checkpoint.tokenizer.save(str(folder / "tokenizer.json"))
    if weights is None:
        weights = {name: Lazy.of(tensor) for name, tensor in checkpoint.model.state_dict().items()}
    write(folder / "model.safetensors", weights)


def load(folder: Path | str, device: str = "cpu") -> Checkpoint:
    """Read a checkpoint folder, its weights straight to a torch device: they are never in memory twice.

    Raises CheckpointError for every missing, broken or disagreeing piece.
    """
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
    normalization = read_normalization(folder / "normalization.json", spec.state.size)
    try:
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    except Exception as error:  # noqa: BLE001 - tokenizers raises bare Exception for every kind of damage
        raise CheckpointError(f"{folder / 'tokenizer.json'} is no tokenizer: {error}") from error
    if tokenizer.post_processor is None:  # a folder from before the tokenizer said what frames a prompt
        frame(tokenizer, BEGIN)
    weights = _stored(folder / "model.safetensors")
    dtype = next((tensor.dtype for tensor in weights.values()), torch.float32)
    try:
        values = _json(folder / "config.json")
        model = allocate(backbone_of(values.get("model_type")).configure(values), spec, dtype, device)
    except (ValueError, TypeError, KeyError) as error:
        raise CheckpointError(f"{folder / 'config.json'} does not describe a model: {error}") from error
    _fill(model, weights, folder / "model.safetensors")
    return Checkpoint(model, spec, tokenizer, normalization, _json(folder / "provenance.json"))


def _json(path: Path) -> dict:
    try:
        values = json.loads(path.read_text())
    except (ValueError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} is not JSON: {error}") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} holds a {type(values).__name__}, expected an object")
    return values


def read_normalization(path: Path, state_size: int) -> Normalization:
    """Of a normalization.json, for states of so many numbers. Raises CheckpointError for any other."""
    values = _json(path)
    sizes = {"state_mean": state_size, "state_std": state_size, "action_mean": ACTION_DIM, "action_std": ACTION_DIM}
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
        if name.endswith("std") and (array == 0.0).any():
            raise CheckpointError(f"{path}: {name} has a zero, which nothing can be divided by")
        arrays[name] = array
    return Normalization(**arrays)


def _stored(path: Path) -> dict[str, Lazy]:
    try:
        return stored(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path} is truncated or no safetensors file: {error}") from error


@torch.no_grad()
def _fill(model: PreTrainedModel, weights: dict[str, Lazy], path: Path) -> None:
    """Every tensor of the model from the file, and none beside: nothing is left at random values in silence."""
    for name in backbone_of(model.config.model_type).UNUSED:
        if f"{name}.weight" not in weights:
            owner, _, attribute = name.rpartition(".")
            setattr(model.get_submodule(owner), attribute, None)
    own, found = model.state_dict(keep_vars=True), set(weights)
    for what, names in (("lacks", set(own) - found), ("has unknown", found - set(own))):
        if names:
            raise CheckpointError(f"{path} {what} {len(names)} tensors, among them {', '.join(sorted(names)[:5])}")
    broken = []
    for name, tensor in own.items():
        if weights[name].shape != tuple(tensor.shape):
            expected = tuple(tensor.shape)
            raise CheckpointError(f"{path}: {name} has shape {weights[name].shape}, expected {expected}")
        _read_into(tensor, weights[name])
        broken += [] if finite(tensor) else [name]
    if broken:
        raise CheckpointError(f"{path}: {len(broken)} tensors hold NaN or infinity, among them {broken[0]}")


def _read_into(tensor: Tensor, stored: Lazy) -> None:
    if tensor.dtype != stored.dtype:  # a model of two precisions stays one
        tensor.data = torch.empty_like(tensor, dtype=stored.dtype)
    stored.fill(tensor.data)
