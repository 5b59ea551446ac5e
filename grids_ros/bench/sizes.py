"""The two sizes of PI0 that are measured, with random weights: what they take does not depend on the values."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from transformers import PI0Config, PI0ForConditionalGeneration
from transformers.initialization import no_init_weights

from grids_ros.policy.model import DemoSize, build, demo_config
from grids_ros.policy.preprocess import ACTION_DIM, STATE_DIM


@dataclass(frozen=True)
class Size:
    """config, stem: as `build` takes them. steps: of the flow. padded: text tokens that transformers computes.
    text: tokens of the instruction among them. dtype: of the weights."""

    config: PI0Config
    stem: tuple[int, ...] | None
    steps: int
    padded: int
    text: int
    dtype: torch.dtype


def size(name: str) -> Size:
    """The shipped policy's, "demo", which hears "lift the red cube"; or the published, "full", told a long sentence."""
    if name == "full":
        return Size(PI0Config(), None, 10, 48, 16, torch.bfloat16)
    demo = DemoSize()
    return Size(demo_config(demo, 9, 12, STATE_DIM, ACTION_DIM), demo.stem, 5, 16, 5, torch.float32)


def make(of: Size, device: str) -> PI0ForConditionalGeneration:
    """The dense model in evaluation mode; each layer keeps about the variance of what comes in."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(of.dtype)
    try:
        with torch.device(device), no_init_weights():
            model = build(of.config, of.stem)
    finally:
        torch.set_default_dtype(before)
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            if parameter.ndim > 1:
                bound = (3.0 / parameter[0].numel()) ** 0.5
                nn.init.uniform_(parameter, -bound, bound)
            else:
                nn.init.constant_(parameter, float(isinstance(module, nn.LayerNorm | nn.GroupNorm)))
        if hasattr(module, "bias") and module.bias is not None:
            nn.init.zeros_(module.bias)
    return model.eval().requires_grad_(False)
