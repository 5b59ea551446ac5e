"""A checkpoint with random weights, small enough to be made and loaded by every test that wants one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from grids_ros.policy import checkpoint, model, preprocess
from grids_ros.sampler import SamplerConfig

INSTRUCTIONS = ["lift the red cube", "lift the green cube", "lift the blue cube"]
TOKENS = 4


def save(folder: Path, width: int = 32) -> Path:
    """Write it; the folder."""
    torch.manual_seed(0)
    size = model.DemoSize(
        image_size=32,
        stem=(8, 16, 16),
        vision_layers=1,
        vision_mlp=32,
        width=width,
        mlp=32,
        layers=1,
        expert_width=32,
        expert_mlp=32,
        heads=1,
        head_dim=32,
    )
    tokenizer = preprocess.word_tokenizer(INSTRUCTIONS)
    spec = checkpoint.PolicySpec(("base", "wrist"), 12, 0.1, 2, size.stem, SamplerConfig(TOKENS, size.width))
    config = model.demo_config(size, tokenizer.get_vocab_size(), 12, preprocess.STATE_DIM, preprocess.ACTION_DIM)
    normalization = preprocess.Normalization(np.zeros(10), np.ones(10), np.zeros(7), np.full(7, 0.02))
    network = checkpoint.create(config, spec)
    checkpoint.save(checkpoint.Checkpoint(network, spec, tokenizer, normalization, {"steps": 0}), folder)
    return folder
