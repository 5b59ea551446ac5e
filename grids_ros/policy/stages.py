"""One inference in three stages, as every family of models answers them to `policy/engine.py`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from grids_ros.policy.arithmetic import Products
from grids_ros.policy.towers import FLOAT32, Context, Decoder, Siglip

Velocity = Callable[[Tensor, int], Tensor]


class TowerProducts(NamedTuple):
    """How each tower multiplies; everything around the products is float32."""

    vision: Products = FLOAT32
    language: Products = FLOAT32
    expert: Products = FLOAT32


@dataclass(frozen=True, eq=False)
class Prefix:
    """What the action expert attends to.

    context: keys and values of every layer. lengths: (B, 1), tokens that are no padding. mask: (B, tokens), True for
    what is no padding, or None where there is none.
    """

    context: Context
    lengths: Tensor
    mask: Tensor | None

    def mask_for(self, tokens: int) -> Tensor | None:
        """(B, 1, 1, tokens in all) for `tokens` more after the prefix, none of them padding."""
        return None if self.mask is None else nn.functional.pad(self.mask, (0, tokens), value=True)[:, None, None]


class Stages(Protocol):
    """The stages of one model at a fixed number of denoising steps. towers: those that compute them."""

    towers: tuple[Siglip, Decoder, Decoder]

    def encode_images(self, pixels: Tensor) -> Tensor:
        """Image tokens (B, cameras * K, width) from pixels (B, cameras, 3, S, S)."""

    def prefill(self, image_tokens: Tensor, ids: Tensor, mask: Tensor | None, state: Tensor) -> Prefix:
        """The prefix of image tokens, text ids (B, T) and whatever of the state (B, state_dim) belongs to it.

        mask: (B, image tokens + T), True for what is no padding; or None where there is none.
        """

    def velocity_field(self, prefix: Prefix, state: Tensor, steps: int) -> Velocity:
        """The flow's velocity after the prefix, for chunks of so many steps.

        It takes noisy actions (B, steps, action_dim) and the number of the denoising step, and returns float32 of the
        actions' shape.
        """


class PaliGemmaStages:
    """`encode_images` and `prefill` of the models whose prefix is PaliGemma's."""

    def __init__(self, model: Any, products: TowerProducts):
        self._vlm = model.model.vlm
        self._vision = Siglip(self._vlm.vision_tower, products=products.vision)
        self._language = Decoder(self._vlm.language_model, products=products.language)

    def encode_images(self, pixels: Tensor) -> Tensor:
        tokens = self._vlm.multi_modal_projector(self._vision(pixels.flatten(0, 1)))
        return tokens.reshape(len(pixels), -1, tokens.shape[-1])

    def prefill(self, image_tokens: Tensor, ids: Tensor, mask: Tensor | None, state: Tensor) -> Prefix:
        return prefix_of(self._language, torch.cat((image_tokens, self._embed(ids)), 1), mask)

    def _embed(self, ids: Tensor) -> Tensor:
        """Text embeddings (B, T, width), scaled as Gemma wants them."""
        embedding = self._vlm.language_model.embed_tokens
        return embedding.weight[ids].float() * embedding.scalar_embed_scale


def prefix_of(language: Decoder, x: Tensor, mask: Tensor | None, visible: Tensor | None = None) -> Prefix:
    """The prefix of embedded tokens (B, T, width).

    mask: (B, T) as in `Stages.prefill`. visible: (T, T), which token (row) attends to which (column); None: all to all.
    """
    batch, length = x.shape[:2]
    if mask is None:
        positions = torch.arange(length, device=x.device).expand(batch, -1)
        attended = visible
    else:
        positions = mask.cumsum(-1) - 1
        attended = mask[:, None, None] if visible is None else mask[:, None, None] & visible
    context = language.context(x, language.rotation(x, positions), language.bias(attended))
    return Prefix(context, positions[:, -1:] + 1, mask)
