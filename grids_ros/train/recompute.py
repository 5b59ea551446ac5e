"""Gradient checkpointing: what happens inside a layer is computed again in the backward pass, not remembered.

transformers' own breaks on PI0, whose layers append to a cache of keys and values: computed twice, they would append
twice. Here a layer under the checkpoint gets the cache's content as tensors and gives back what it would append.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PI0ForConditionalGeneration


def recompute_layers(model: PI0ForConditionalGeneration) -> None:
    """From now on, in place: the layers of the vision encoder, the language model and the expert."""
    vlm = model.model.vlm
    for layer in vlm.vision_tower.encoder.layers:
        _wrap(layer)
    for layer in (*vlm.language_model.layers, *model.model.dit.layers):
        _wrap_caching(layer, layer.self_attn.layer_idx)


def _wrap(layer: nn.Module) -> None:
    forward = layer.forward

    def recomputed(*inputs, **options):
        return checkpoint(forward, *inputs, use_reentrant=False, **options)

    layer.forward = recomputed


def _wrap_caching(layer: nn.Module, index: int) -> None:
    forward = layer.forward

    def inner(hidden: Tensor, before: tuple[Tensor, Tensor] | None, options: dict):
        slot = _Slot(before)
        return forward(hidden, past_key_values=slot, **options), *slot.added

    def recomputed(hidden: Tensor, past_key_values, **options) -> Tensor:
        held = past_key_values.layers[index] if index < len(past_key_values.layers) else None
        before = (held.keys, held.values) if held is not None and held.get_seq_length() else None
        output, keys, values = checkpoint(inner, hidden, before, options, use_reentrant=False)
        past_key_values.update(keys, values, index)
        return output

    layer.forward = recomputed


class _Slot:
    """One layer's share of a cache, as far as attention asks: what was there before, and what is added."""

    def __init__(self, before: tuple[Tensor, Tensor] | None):
        self._before = before

    def update(self, keys: Tensor, values: Tensor, _layer: int) -> tuple[Tensor, Tensor]:
        self.added = keys, values
        if self._before is None:
            return keys, values
        return torch.cat((self._before[0], keys), -2), torch.cat((self._before[1], values), -2)
