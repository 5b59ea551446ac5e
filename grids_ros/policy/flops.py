"""How many floating-point operations an inference takes, by stage, every layer and every denoising step counted.

A multiply-add counts as two operations. Counted are matrix products, convolutions and attention; what works element by
element (norms, activations, the bilinear reading of K points) is not, as everywhere else.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from transformers import GemmaConfig, PI0Config

from grids_ros.policy.merging import remaining
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
    stem: as `PolicySpec` has it. merge: as `Engine` takes it.
    """

    config: PI0Config
    cameras: int
    text: int
    steps: int
    tokens: int | None = None
    sampler: SamplerConfig | None = None
    stem: Sequence[int] | None = None
    merge: int = 0

    @property
    def cells(self) -> int:
        vision = self.config.vlm_config.vision_config
        return (vision.image_size // vision.patch_size) ** 2

    @property
    def prefix(self) -> int:
        """Tokens before the state."""
        return self.cameras * (self.tokens or self.cells) + self.text


def transformers(work: Work) -> Flops:
    """Of transformers' own `sample_actions`."""
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
    """Of `policy/engine.py`."""
    config, n, width = work.config, work.config.chunk_size, work.config.dit_config.hidden_size
    language, expert = config.vlm_config.text_config, config.dit_config
    state = _linear(1, config.max_state_dim, width) + _extend(expert, 1, work.prefix + 1)
    step = (
        _linear(n, config.max_action_dim, width)
        + _linear(n, width, width)
        + _layers(expert, expert.num_hidden_layers, n, work.prefix + 1 + n)
        + _linear(n, width, config.max_action_dim)
    )
    return Flops(**_seen(work), prefix=_extend(language, work.prefix, work.prefix), expert=state + work.steps * step)


def _linear(rows: int, inputs: int, outputs: int) -> int:
    return 2 * rows * inputs * outputs


def _layers(config: GemmaConfig, layers: int, tokens: int, keys: int) -> int:
    """Whole Gemma layers: so many tokens, each attending to so many keys."""
    width, heads = config.hidden_size, config.num_attention_heads * config.head_dim
    projections = _linear(tokens, width, heads) + _linear(tokens, heads, width) + _keys_values(config, tokens)
    return layers * (projections + 4 * tokens * keys * heads + 3 * _linear(tokens, width, config.intermediate_size))


def _extend(config: GemmaConfig, tokens: int, keys: int) -> int:
    """Keys and values of every layer: of the last, nothing else."""
    return _layers(config, config.num_hidden_layers - 1, tokens, keys) + _keys_values(config, tokens)


def _keys_values(config: GemmaConfig, tokens: int) -> int:
    return 2 * _linear(tokens, config.hidden_size, config.num_key_value_heads * config.head_dim)


def _seen(work: Work) -> dict[str, int]:
    """The stages of the images: all cameras."""
    vision, width = work.config.vlm_config.vision_config, work.config.vlm_config.projection_dim
    cells, inner = work.cells, vision.hidden_size
    layers = 0
    for before, after in itertools.pairwise(remaining(cells, vision.num_hidden_layers, work.merge)):
        layers += 4 * _linear(before, inner, inner) + 4 * before**2 * inner
        layers += 2 * _linear(after, inner, vision.intermediate_size)
        if work.merge:  # each token of one half compared with each of the other
            layers += _linear(before // 2, inner // vision.num_attention_heads, -(-before // 2))
    return {
        "vision": work.cameras * (_patches(work) + layers),
        "projector": work.cameras * _linear(cells, inner, width),
        "sampler": work.cameras * _sampler(work.sampler, work.tokens) if work.sampler else 0,
    }


def _patches(work: Work) -> int:
    vision = work.config.vlm_config.vision_config
    if not work.stem:
        return _linear(work.cells, vision.num_channels * vision.patch_size**2, vision.hidden_size)
    total, pixels = _linear(work.cells, work.stem[-1], work.stem[-1]), vision.image_size**2
    for before, after in zip((vision.num_channels, *work.stem), work.stem, strict=False):
        pixels //= 4
        total += _linear(pixels, 9 * before, after)
    return total


def _sampler(config: SamplerConfig, tokens: int) -> int:
    mlp = _linear(1, config.channels, COORDINATE_HIDDEN) + _linear(1, COORDINATE_HIDDEN, 2 * config.tokens)
    if not config.embed_coordinates:
        return mlp
    return mlp + _linear(tokens, 2, EMBEDDING_HIDDEN) + _linear(tokens, EMBEDDING_HIDDEN, config.channels)
