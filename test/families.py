"""Tiny policies of every family, random but complete, for tests."""

from __future__ import annotations

import numpy as np
import torch
from tiny import INSTRUCTIONS, tiny

from grids_ros.policy.backbone import backbone_of
from grids_ros.policy.backbones.pi05 import Pi05Config
from grids_ros.policy.backbones.smolvla import SmolVLAConfig
from grids_ros.policy.checkpoint import Checkpoint, create
from grids_ros.policy.preprocess import STATE_DIM, Normalization, frame, word_tokenizer
from grids_ros.policy.prompt import PromptFormat
from grids_ros.policy.spec import PolicySpec
from grids_ros.sampler import SamplerConfig

FAMILIES = ("pi0", "pi05", "smolvla")
CAMERAS = ("base", "wrist")
CELLS = 16  # of each family's map
_SHARED = {"chunk_size": 6, "max_state_dim": 12, "max_action_dim": 8, "num_inference_steps": 2}


def pi05_values(words: int) -> dict:
    """The config.json of a π0.5 with two layers."""
    gemma = {
        "model_type": "gemma",
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 16,
        "vocab_size": words,
        "pad_token_id": 0,
    }
    vision = {
        "model_type": "siglip_vision_model",
        "hidden_size": 32,
        "intermediate_size": 40,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "image_size": 32,
        "patch_size": 8,
        "vision_use_head": False,
    }
    return {
        **_SHARED,
        "model_type": "pi05",
        "vlm_config": {
            "model_type": "paligemma",
            "text_config": {**gemma, "hidden_size": 32, "intermediate_size": 48},
            "vision_config": vision,
            "projection_dim": 32,
            "image_token_id": words,
        },
        "dit_config": {**gemma, "hidden_size": 24, "intermediate_size": 36},
        "loss_reduction": "none",
    }


def smolvla_values(words: int, every: int = 2) -> dict:
    """The config.json of a SmolVLA with four layers, whose connector makes 4 by 4 tokens of 8 by 8 patches."""
    llama = {
        "model_type": "llama",
        "num_hidden_layers": 4,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "vocab_size": words,
        "rms_norm_eps": 1e-5,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0},
        "pad_token_id": 0,
    }
    vision = {
        "hidden_size": 32,
        "intermediate_size": 40,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "image_size": 32,
        "patch_size": 4,
    }
    return {
        **_SHARED,
        "model_type": "smolvla",
        "vlm_config": {
            "model_type": "smolvlm",
            "text_config": {**llama, "hidden_size": 48, "intermediate_size": 64},
            "vision_config": vision,
            "scale_factor": 2,
            "image_token_id": words,
        },
        "dit_config": {**llama, "hidden_size": 36, "intermediate_size": 40},
        "self_attention_every": every,
    }


def restless(model):
    """No weight at its initial value: a norm of scale one or a bias of zero would hide a mistake."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model


def family(name: str, tokens: int | None = 4, seed: int = 0, every: int = 2) -> Checkpoint:
    """A checkpoint in memory; tokens=None is the dense model. every: of SmolVLA, see its configuration."""
    if name == "pi0":
        return tiny(tokens, seed=seed)
    torch.manual_seed(seed)
    tokenizer, length, prompt = word_tokenizer(INSTRUCTIONS), 12, PromptFormat(line_break=True)
    if name == "pi05":
        numbers = " ".join(map(str, range(-1, 256)))
        tokenizer, length = word_tokenizer([*INSTRUCTIONS, f"Task: , State: {numbers};\nAction:"]), 40
        frame(tokenizer, "[BOS]")
        prompt = PromptFormat(clean=True, state=True)
    values = {"pi05": pi05_values, "smolvla": lambda words: smolvla_values(words, every)}[name]
    values = values(tokenizer.get_vocab_size())
    del values["model_type"]
    config = {"pi05": Pi05Config, "smolvla": SmolVLAConfig}[name](**values)
    width = backbone_of(name).width(config)
    sampler = SamplerConfig(tokens=tokens, channels=width, align_corners=name == "pi05") if tokens else None
    spec = PolicySpec(CAMERAS, length, 0.1, 2, None, sampler, prompt=prompt)
    scale = np.array([2e-3] * 6 + [1e-2])
    normalization = Normalization(np.zeros(STATE_DIM), np.ones(STATE_DIM), np.array([0.0] * 6 + [0.06]), scale)
    return Checkpoint(create(config, spec), spec, tokenizer, normalization, {"steps": 0})


def inputs(checkpoint: Checkpoint, words=(5, 3), cameras: int = 2, seed: int = 0) -> dict[str, torch.Tensor]:
    """Random pixels, ids of prompts of these lengths, state and noise, for the checkpoint's model."""
    generator = torch.Generator().manual_seed(seed)
    prompt, config, batch = checkpoint.prompt(), checkpoint.model.config, len(words)
    placeholders = cameras * prompt.placeholders // len(checkpoint.spec.cameras)
    ids = torch.randint(1, 9, (batch, placeholders + prompt.length), generator=generator)
    ids[:, :placeholders] = prompt.image_token
    mask = (torch.arange(ids.shape[1]) < placeholders + torch.tensor(words)[:, None]).long()
    return {
        "pixels": torch.randn(batch, cameras, 3, 32, 32, generator=generator),
        "input_ids": torch.where(mask.bool(), ids, 0),
        "attention_mask": mask,
        "state": torch.randn(batch, config.max_state_dim, generator=generator),
        "noise": torch.randn(batch, config.chunk_size, config.max_action_dim, generator=generator),
    }


@torch.no_grad()
def eager(model, pixels, input_ids, attention_mask, state, noise, steps: int) -> torch.Tensor:
    """The actions by the plain model that training uses: no context is kept, nothing is known beforehand."""
    backbone = backbone_of(model.config.model_type)
    for step in range(steps):
        embedded = backbone.embed(model, input_ids, pixels)
        prefix = backbone.prefill(model, embedded, attention_mask, state)
        times = torch.full((len(noise),), 1.0 - step / steps)
        noise = noise - backbone.velocity(model, prefix, attention_mask, state, noise, times) / steps
    return noise
