"""How many floating-point operations an inference takes, by stage, every layer and every denoising step counted.

A multiply-add counts as two operations. Counted are matrix products, convolutions and attention; what works element by
element (norms, activations, the bilinear reading of K points) is not, as everywhere else.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from transformers import GemmaConfig, LlamaConfig, PretrainedConfig

from grids_ros.policy.backbone import backbone_of
from grids_ros.sampler import COORDINATE_HIDDEN, EMBEDDING_HIDDEN, SamplerConfig


@dataclass(frozen=True)
class Flops:
    """Of one inference, batch 1."""

    vision: int
    projector: int
    sampler: int
    prefix: int
    expert: int

    @property
    def total(self) -> int:
        return sum(asdict(self).values())


@dataclass(frozen=True)
class Work:
    """What is computed.

    config: of the model. cameras: how many. text: tokens of the prompt beside the image's, padding included where it is
    computed. steps: of the flow. tokens: per camera, None for every cell. sampler: None where none chooses them.
    stem: as `PolicySpec` has it.
    """

    config: PretrainedConfig
    cameras: int
    text: int
    steps: int
    tokens: int | None = None
    sampler: SamplerConfig | None = None
    stem: Sequence[int] | None = None

    @property
    def patches(self) -> int:
        """Tokens of the vision encoder for an image."""
        vision = self.config.vlm_config.vision_config
        return (vision.image_size // vision.patch_size) ** 2

    @property
    def cells(self) -> int:
        """Of the map that GridS samples."""
        return math.prod(backbone_of(self.config.model_type).grid(self.config))

    @property
    def prefix(self) -> int:
        """Tokens of images and text."""
        return self.cameras * (self.tokens or self.cells) + self.text


def transformers(work: Work) -> Flops:
    """Of transformers' own `sample_actions`, which is π0's."""
    config, n, width = work.config, work.config.chunk_size, work.config.dit_config.hidden_size
    language, expert = config.vlm_config.text_config, config.dit_config
    step = (
        _linear(1, config.max_state_dim, width)
        + _linear(n, config.max_action_dim, width)
        + _linear(n, 2 * width, width)
        + _linear(n, width, width)
        + _layers(expert, expert.num_hidden_layers, n + 1, work.prefix + n + 1)
        + _linear(n, width, config.max_action_dim)
    )
    prefix = _layers(language, language.num_hidden_layers, work.prefix, work.prefix)
    return Flops(**_seen(work), prefix=prefix, expert=work.steps * step)


def runtime(work: Work) -> Flops:
    """Of `policy/engine.py`, for every family."""
    prefix, expert = FAMILIES[work.config.model_type](work)
    return Flops(**_seen(work), prefix=prefix, expert=expert)


def _pi0(work: Work) -> tuple[int, int]:
    """Of prefix and expert. The state is a token of the expert, in the first step."""
    config, n, width = work.config, work.config.chunk_size, work.config.dit_config.hidden_size
    expert = config.dit_config
    state = _linear(1, config.max_state_dim, width) + _layers(expert, expert.num_hidden_layers, 1, work.prefix + 1 + n)
    step = (
        _linear(n, config.max_action_dim, width)
        + _linear(n, width, width)
        + _layers(expert, expert.num_hidden_layers, n, work.prefix + 1 + n)
        + _linear(n, width, config.max_action_dim)
    )
    return _extend(config.vlm_config.text_config, work.prefix, work.prefix), state + work.steps * step


def _pi05(work: Work) -> tuple[int, int]:
    """The state is text, and what the time does to the norms is known before an inference."""
    config, n, expert = work.config, work.config.chunk_size, work.config.dit_config
    step = (
        _linear(n, config.max_action_dim, expert.hidden_size)
        + _layers(expert, expert.num_hidden_layers, n, work.prefix + n)
        + _linear(n, expert.hidden_size, config.max_action_dim)
    )
    return _extend(config.vlm_config.text_config, work.prefix, work.prefix), work.steps * step


def _smolvla(work: Work) -> tuple[int, int]:
    """The state ends the prefix; some layers of the expert have no keys and values of actions."""
    config, n, expert = work.config, work.config.chunk_size, work.config.dit_config
    width, tokens, crossing = expert.hidden_size, work.prefix + 1, len(config.crossing())
    prefix = _linear(1, config.max_state_dim, config.vlm_config.text_config.hidden_size)
    prefix += _extend(config.vlm_config.text_config, tokens, tokens)
    kept = expert.num_key_value_heads * expert.head_dim
    step = (
        _linear(n, config.max_action_dim, width)
        + _linear(n, width, width)
        + _layers(expert, expert.num_hidden_layers - crossing, n, tokens + n)
        + _layers(expert, crossing, n, tokens)
        - crossing * _keys_values(expert, n)
        + _linear(n, width, config.max_action_dim)
    )
    return prefix, crossing * 2 * _linear(tokens, kept, kept) + work.steps * step


FAMILIES = {"pi0": _pi0, "pi05": _pi05, "smolvla": _smolvla}


def _linear(rows: int, inputs: int, outputs: int) -> int:
    return 2 * rows * inputs * outputs


def _layers(config: GemmaConfig | LlamaConfig, layers: int, tokens: int, keys: int) -> int:
    """Whole layers: so many tokens, each attending to so many keys."""
    width, heads = config.hidden_size, config.num_attention_heads * config.head_dim
    projections = _linear(tokens, width, heads) + _linear(tokens, heads, width) + _keys_values(config, tokens)
    return layers * (projections + 4 * tokens * keys * heads + 3 * _linear(tokens, width, config.intermediate_size))


def _extend(config: GemmaConfig | LlamaConfig, tokens: int, keys: int) -> int:
    """Keys and values of every layer: of the last, nothing else."""
    return _layers(config, config.num_hidden_layers - 1, tokens, keys) + _keys_values(config, tokens)


def _keys_values(config: GemmaConfig | LlamaConfig, tokens: int) -> int:
    return 2 * _linear(tokens, config.hidden_size, config.num_key_value_heads * config.head_dim)


def _seen(work: Work) -> dict[str, int]:
    """The stages of the images: all cameras."""
    vision, patches = work.config.vlm_config.vision_config, work.patches
    inner, width = vision.hidden_size, backbone_of(work.config.model_type).width(work.config)
    layer = 4 * _linear(patches, inner, inner) + 4 * patches**2 * inner
    layer += 2 * _linear(patches, inner, vision.intermediate_size)
    return {
        "vision": work.cameras * (_patches(work) + vision.num_hidden_layers * layer),
        "projector": work.cameras * _linear(patches, inner, width),  # of as many numbers, after a pixel shuffle too
        "sampler": work.cameras * _sampler(work.sampler, work.tokens) if work.sampler else 0,
    }


def _patches(work: Work) -> int:
    vision = work.config.vlm_config.vision_config
    if not work.stem:
        return _linear(work.patches, vision.num_channels * vision.patch_size**2, vision.hidden_size)
    total, pixels = _linear(work.patches, work.stem[-1], work.stem[-1]), vision.image_size**2
    for before, after in zip((vision.num_channels, *work.stem), work.stem, strict=False):
        pixels //= 4
        total += _linear(pixels, 9 * before, after)
    return total


def _sampler(config: SamplerConfig, tokens: int) -> int:
    mlp = _linear(1, config.channels, COORDINATE_HIDDEN) + _linear(1, COORDINATE_HIDDEN, 2 * config.tokens)
    if not config.embed_coordinates:
        return mlp
    return mlp + _linear(tokens, 2, EMBEDDING_HIDDEN) + _linear(tokens, EMBEDDING_HIDDEN, config.channels)
