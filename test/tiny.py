"""A policy of a few thousand weights, random but complete, for tests."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from grids_ros.datatypes import Observation, Pose
from grids_ros.policy.backbones.pi0 import DemoSize, demo_config
from grids_ros.policy.checkpoint import WEIGHTS, Checkpoint, create, save, seal
from grids_ros.policy.preprocess import ACTION_DIM, STATE_DIM, Normalization, word_tokenizer
from grids_ros.policy.spec import PolicySpec
from grids_ros.policy.weights import LazyTensor, write
from grids_ros.sampler import SamplerConfig
from research.pruners import BaselineConfig

SIZE = DemoSize(
    image_size=32,
    stem=(8, 16, 32),
    vision_layers=1,
    vision_mlp=32,
    width=32,
    mlp=32,
    layers=2,
    expert_width=32,
    expert_mlp=32,
    heads=2,
    head_dim=16,
)
INSTRUCTIONS = [f"lift the {colour} cube" for colour in ("red", "green", "blue")]


def tiny(
    tokens: int | None = 4,
    cameras=("base", "wrist"),
    seed: int = 0,
    horizon: int = 6,
    pruner: str = "grids",
    budgets=(),
) -> Checkpoint:
    """A checkpoint in memory; tokens=None is the dense model. Actions stay within a few millimetres of the tool."""
    torch.manual_seed(seed)
    sampler = SamplerConfig(tokens=tokens, channels=SIZE.width, layer_norm=True, margin=0.02) if tokens else None
    if pruner != "grids":
        sampler = BaselineConfig(pruner, tokens, SIZE.width, seed=seed)
    spec = PolicySpec(tuple(cameras), 12, 0.1, 2, SIZE.stem, sampler, token_budgets=budgets)
    tokenizer = word_tokenizer(INSTRUCTIONS)
    config = demo_config(SIZE, tokenizer.get_vocab_size(), horizon, STATE_DIM, ACTION_DIM)
    scale = np.array([2e-3] * 6 + [1e-2])
    normalization = Normalization(np.zeros(STATE_DIM), np.ones(STATE_DIM), np.array([0.0] * 6 + [0.06]), scale)
    return Checkpoint(create(config, spec), spec, tokenizer, normalization, {"steps": 0})


def save_tiny(folder: Path, **options) -> Path:
    """The same, as a folder."""
    save(tiny(**options), folder)
    return folder


def put_weights(folder: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Other weights into a checkpoint folder, as `save` would have written them."""
    new = folder / "new"  # the tensors may be views of the file that is replaced
    written = write(new, {name: LazyTensor.of(tensor) for name, tensor in tensors.items()})
    new.replace(folder / WEIGHTS)
    values = json.loads((folder / "grids.json").read_text())
    values["files"][WEIGHTS] = written
    values["files"]["grids.json"] = seal(values)
    (folder / "grids.json").write_text(json.dumps(values))


def reseal(folder: Path) -> None:
    """Let grids.json name the files as they are, after a change by hand."""
    values = json.loads((folder / "grids.json").read_text())
    for name in set(values["files"]) - {WEIGHTS, "grids.json"}:
        values["files"][name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    values["files"]["grids.json"] = seal(values)
    (folder / "grids.json").write_text(json.dumps(values))


def observation(instruction: str = INSTRUCTIONS[0], cameras=("base", "wrist")) -> Observation:
    """Something to infer on: noise in every camera."""
    rng = np.random.default_rng(0)
    images = {name: rng.integers(0, 256, (48, 64, 3), dtype=np.uint8) for name in cameras}
    return Observation(7, images, Pose((0.5, 0.1, 0.3), (1.0, 0.0, 0.0, 0.0)), 0.08, instruction)


def rich(seed=0):
    """A checkpoint in which every key of grids.json has a value."""
    policy, points = tiny(4, seed=seed, budgets=(2, 4)), ((0.25, 0.5),) * 4
    spec = dataclasses.replace(
        policy.spec, instructions=tuple(INSTRUCTIONS), mean_coordinates={"base": points, "wrist": points}
    )
    facts = {"steps": 3, "stages": [{"from_step": 0, "seed": 0, "nested": [2]}], "data": {"instructions": ["a"]}}
    return dataclasses.replace(policy, spec=spec, provenance=facts)
