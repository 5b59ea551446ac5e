"""π0, as `backbone.Backbone` asks; and the small one of the demo, from a handful of sizes, with a convolutional stem.

Every line of transformers' PI0 is shared with the full size; only the patch embedding differs. Patches of 8 pixels
learnt from scratch stay blind for a thousand steps, three strided convolutions do not.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PI0Config, PI0ForConditionalGeneration, PI0Model
from transformers.modeling_outputs import BaseModelOutputWithPast

from grids_ros.policy.backbones import paligemma_config
from grids_ros.policy.backbones.flow_time import FlowTimeEmbedding
from grids_ros.policy.stages import PaliGemmaStages, Prefix, TowerProducts, Velocity
from grids_ros.policy.towers import Context, Decoder

# Gemma brings an embedding of words for the action expert, which is never shown a word: 0.5 GB at full size.
UNUSED = ("model.dit.embed_tokens",)
PROJECTOR = "model.vlm.multi_modal_projector"
TOWERS = ("model.vlm.vision_tower.encoder", "model.vlm.language_model", "model.dit")
# What a model call takes the prefix's keys and values as: transformers 5.24 renames it.
CACHE = next(name for name in ("cache", "past_key_values") if name in inspect.signature(PI0Model.forward).parameters)


@dataclass(frozen=True)
class DemoSize:
    """Sizes of the demo's PI0. Expert and language model share depth, heads and head width, as PI0 demands."""

    image_size: int = 128
    stem: tuple[int, ...] = (32, 64, 128)  # channels after each halving; the last is the vision width
    vision_layers: int = 2
    vision_mlp: int = 384
    width: int = 192
    mlp: int = 512
    layers: int = 3
    expert_width: int = 160
    expert_mlp: int = 512
    heads: int = 4
    head_dim: int = 64


class ConvStem(nn.Module):
    """Image to patches by strided convolutions: (B, 3, S, S) to (B, C, S / 2^n, S / 2^n)."""

    def __init__(self, channels: Sequence[int]):
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in zip((3, *channels[:-1]), channels, strict=False):
            layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.GroupNorm(8, after), nn.GELU()]
        layers.append(nn.Conv2d(channels[-1], channels[-1], 1))
        self.layers = nn.Sequential(*layers)

    @property
    def weight(self) -> Tensor:
        """SigLIP asks its patch embedding for the dtype of this."""
        first: Any = self.layers[0]
        return first.weight

    def forward(self, pixels: Tensor) -> Tensor:
        return self.layers(pixels.contiguous(memory_format=torch.channels_last))


def demo_config(size: DemoSize, vocabulary: int, horizon: int, state_dim: int, action_dim: int) -> PI0Config:
    """The PI0Config of the demo; the image placeholder is the id after the vocabulary's last."""
    shared = {
        "num_hidden_layers": size.layers,
        "num_attention_heads": size.heads,
        "num_key_value_heads": 1,
        "head_dim": size.head_dim,
        "vocab_size": vocabulary,
        "pad_token_id": 0,
    }
    return PI0Config(
        vlm_config={
            "model_type": "paligemma",
            "text_config": {
                "model_type": "gemma",
                "hidden_size": size.width,
                "intermediate_size": size.mlp,
                **shared,
            },
            "vision_config": {
                "model_type": "siglip_vision_model",
                "hidden_size": size.stem[-1],
                "intermediate_size": size.vision_mlp,
                "num_hidden_layers": size.vision_layers,
                "num_attention_heads": 4,
                "image_size": size.image_size,
                "patch_size": 2 ** len(size.stem),
                "vision_use_head": False,
            },
            "projection_dim": size.width,
            "image_token_id": vocabulary,
        },
        dit_config={
            "model_type": "gemma",
            "hidden_size": size.expert_width,
            "intermediate_size": size.expert_mlp,
            **shared,
        },
        chunk_size=horizon,
        max_state_dim=state_dim,
        max_action_dim=action_dim,
        num_inference_steps=5,
        loss_reduction="none",
    )


def configure(values: dict) -> PI0Config:
    """Of the content of config.json."""
    return PI0Config(**paligemma_config.checked("pi0", values))


def describe(config: PI0Config) -> dict:
    """The content of config.json; the inverse of `configure`."""
    return paligemma_config.schema("pi0").check("", config.to_dict())


def build(config: PI0Config, stem: Sequence[int] | None) -> PI0ForConditionalGeneration:
    """PI0 with random weights; `stem` replaces SigLIP's patches by a convolutional stem of these channels."""
    model = PI0ForConditionalGeneration(config)
    if stem:
        vision = config.vlm_config.vision_config
        if 2 ** len(stem) != vision.patch_size or stem[-1] != vision.hidden_size:
            raise ValueError(
                f"a stem of {list(stem)} channels makes patches of {2 ** len(stem)} px and width {stem[-1]}, "
                f"the vision configuration has {vision.patch_size} px and width {vision.hidden_size}"
            )
        model.model.vlm.vision_tower.embeddings.patch_embedding = ConvStem(stem)
    return model


def grid(config: PI0Config) -> tuple[int, int]:
    """Rows and columns of the vision encoder's feature map."""
    side = config.vlm_config.vision_config.image_size // config.vlm_config.vision_config.patch_size
    return side, side


def width(config: PI0Config) -> int:
    """Channels of that map, once projected."""
    return config.vlm_config.projection_dim


def image_token(config: PI0Config) -> int:
    """The id that holds the place of an image's token: no word's."""
    return config.vlm_config.image_token_id


def image_size(config: PI0Config) -> int:
    """Pixels of the square that an image is fitted into."""
    return config.vlm_config.vision_config.image_size


def image_scale(config: PI0Config) -> float:
    """What an image's tokens are multiplied by after the projector."""
    return 1.0


# --- training ------------------------------------------------------------------------------------------------------


def embed(model: PI0ForConditionalGeneration, ids: Tensor, pixels: Tensor) -> Tensor:
    """The prefix (B, L, width) of ids (B, L), placeholders first, and pixels (B, cameras, 3, S, S)."""
    present = torch.ones(pixels.shape[:2], dtype=torch.bool, device=pixels.device)
    return model.model.embed_prefix(ids, pixels, present)


def prefill(
    model: PI0ForConditionalGeneration, embedded: Tensor, mask: Tensor, state: Tensor
) -> BaseModelOutputWithPast:
    """The language model's output for (B, L, width) with the mask (B, L), and in it the keys and values."""
    return model.model.vlm(
        inputs_embeds=embedded,
        attention_mask=mask,
        position_ids=mask.cumsum(-1) - 1,
        token_type_ids=torch.zeros_like(mask),
        use_cache=True,
    )


def velocity(
    model: PI0ForConditionalGeneration,
    prefix: BaseModelOutputWithPast,
    mask: Tensor,
    state: Tensor,
    noisy: Tensor,
    times: Tensor,
) -> Tensor:
    """The flow's velocity (B * draws, n, action_dim) at noisy actions of that shape and times (B * draws,).

    prefix, mask, state: of B samples. The prefix is repeated for the draws and appended to, in place.
    """
    context, draws = prefix.past_key_values, len(noisy) // len(mask)
    context.batch_repeat_interleave(draws)
    return model(
        state=state.repeat_interleave(draws, 0),
        noise=noisy,
        timestep=times,
        attention_mask=mask.repeat_interleave(draws, 0),
        **{CACHE: context},
    ).logits


# --- inference -----------------------------------------------------------------------------------------------------


class Pi0Stages(PaliGemmaStages):
    """The state is the expert's first token, before the actions."""

    def __init__(self, model: PI0ForConditionalGeneration, steps: int, products: TowerProducts):
        super().__init__(model, products)
        self._state, self._expert = (
            model.embed_action_time.state_proj,
            Decoder(model.model.dit, products=products.expert),
        )
        self._time = FlowTimeEmbedding(model.embed_action_time, model.action_out_proj, steps)
        self.towers = self._vision, self._language, self._expert

    def velocity_field(self, prefix: Prefix, state: Tensor, steps: int) -> Velocity:
        return _Flow(self._expert, self._time, prefix, self._state(state).unsqueeze(1), steps)


class _Flow:
    """The flow's velocity after a prefix, see `Velocity`; its first step is 0.

    That step computes the state's keys and values beside the actions', from the same read of the expert's weights.
    """

    def __init__(self, expert: Decoder, time: FlowTimeEmbedding, prefix: Prefix, state: Tensor, steps: int):
        """state: embedded, (B, 1, width). steps: of a chunk."""
        self._expert, self._time, self._state = expert, time, state
        self._before = expert.cast(prefix.context)
        self._end = self._before[0][0].shape[2] + 1  # of prefix and state
        self._context: Context | None = None  # of both, once the first step has computed it
        positions = prefix.lengths + torch.arange(1 + steps, device=state.device)
        self._rotation = expert.rotation(state, positions)
        self._rotation_of_actions = self._rotation[0][:, 1:], self._rotation[1][:, 1:]
        self._mask = prefix.mask_for(1 + steps)
        self._bias = expert.bias(self._mask)

    def __call__(self, actions: Tensor, step: int) -> Tensor:
        x = self._time.enter(actions, step)
        if self._context is not None:
            return self._time.leave(self._expert(x, self._rotation_of_actions, self._bias, self._context)[0])
        assert step == 0
        bias = self._expert.bias(self._seen(1 + x.shape[1]))
        output, extended = self._expert(torch.cat((self._state, x), 1), self._rotation, bias, self._before)
        self._context = [(keys[:, :, : self._end], values[:, :, : self._end]) for keys, values in extended]
        return self._time.leave(output[:, 1:])

    def _seen(self, tokens: int) -> Tensor:
        """Which token of the first step (row) attends to which (column): the state to no action."""
        seen = torch.ones(tokens, self._end - 1 + tokens, dtype=torch.bool, device=self._state.device)
        seen[:1, self._end :] = False
        return seen if self._mask is None else self._mask & seen


def stages(model: PI0ForConditionalGeneration, steps: int, products: TowerProducts) -> Pi0Stages:
    """At so many denoising steps."""
    return Pi0Stages(model, steps, products)
