"""The models that are measured, with random weights: what they take does not depend on the values."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from transformers import PI0Config, PretrainedConfig, PreTrainedModel
from transformers.initialization import no_init_weights
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from grids_ros.policy.backbone import backbone_of
from grids_ros.policy.backbones.pi0 import DemoSize, demo_config
from grids_ros.policy.backbones.pi05 import Pi05Config
from grids_ros.policy.backbones.smolvla import SmolVLAConfig
from grids_ros.policy.preprocess import ACTION_DIM, STATE_DIM

NOISE = 1_000_003  # random numbers, over and over: billions would take minutes; prime, so that no two rows are equal


@dataclass(frozen=True)
class Size:
    """config, stem: as `build` takes them. steps: of the flow. padded: text tokens that transformers computes.
    text: tokens of the instruction among them. dtype: of the weights."""

    config: PretrainedConfig
    stem: tuple[int, ...] | None
    steps: int
    padded: int
    text: int
    dtype: torch.dtype


def size(name: str) -> Size:
    """The shipped policy's, "demo", which hears "lift the red cube"; or a published one, told a long sentence: π0's,
    "full", "pi05" with the state in its prompt, or "smolvla"."""
    published = {
        "full": Size(PI0Config(), None, 10, 48, 16, torch.bfloat16),
        "pi05": Size(Pi05Config(), None, 10, 200, 73, torch.bfloat16),
        "smolvla": Size(SmolVLAConfig(), None, 10, 48, 16, torch.bfloat16),
    }
    if name in published:
        return published[name]
    demo = DemoSize()
    return Size(demo_config(demo, 9, 12, STATE_DIM, ACTION_DIM), demo.stem, 5, 16, 5, torch.float32)


def make(of: Size, device: str) -> PreTrainedModel:
    """The dense model in evaluation mode; each layer keeps about the variance of what comes in."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(of.dtype)
    try:
        with torch.device(device), no_init_weights():
            model = backbone_of(of.config.model_type).build(of.config, of.stem)
    finally:
        torch.set_default_dtype(before)
    model.eval().requires_grad_(False)
    noise = torch.randn(NOISE, dtype=of.dtype, device=device)
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.ndim > 1:
                for part in parameter.view(-1).split(NOISE):
                    torch.mul(noise[: len(part)], parameter[0].numel() ** -0.5, out=part)
            else:
                is_scale = name == "weight" and isinstance(module, nn.LayerNorm | nn.GroupNorm | LlamaRMSNorm)
                parameter.fill_(float(is_scale))
    return model
