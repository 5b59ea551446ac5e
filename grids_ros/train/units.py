"""The layers of a model as units: what is gathered, and what is computed again, layer by layer.

A layer of the language model or the expert appends its keys and values to a cache. Gradient checkpointing would append
them twice, and FSDP sees only a module's inputs and outputs. So each such layer runs inside a `Unit`, which takes the
cache's content as tensors and returns what the layer appends.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from grids_ros.policy.backbone import backbone_of


class Unit(nn.Module):
    """One layer, without side effects. recompute: its activations in the backward pass, in place of keeping them."""

    def __init__(self, layer: nn.Module, recompute: bool):
        super().__init__()
        self.layer, self._recompute, self._layer_forward = layer, recompute, layer.forward

    def forward(self, hidden: Tensor, before: tuple[Tensor, Tensor] | None, options: dict):
        """Output (B, L, width), keys and values that are new. before: keys and values of the cache."""
        if self._recompute:
            return checkpoint(self._run, hidden, before, options, use_reentrant=False)
        return self._run(hidden, before, options)

    def _run(self, hidden: Tensor, before: tuple[Tensor, Tensor] | None, options: dict):
        slot = _Slot(before)
        return self._layer_forward(hidden, past_key_values=slot, **options), *slot.added


class _Slot:
    """One layer's share of a cache, as far as attention asks: what was there before, and what is added."""

    def __init__(self, before: tuple[Tensor, Tensor] | None):
        self._before = before

    def update(self, keys: Tensor, values: Tensor, _layer: int) -> tuple[Tensor, Tensor]:
        self.added = keys, values
        if self._before is None:
            return keys, values
        return torch.cat((self._before[0], keys), -2), torch.cat((self._before[1], values), -2)


def in_units(model: PreTrainedModel, recompute: bool) -> list[nn.Module]:
    """Let every layer run as a unit from now on, in place; the units, in the order of the layers.

    Units hold the layers that the model holds, and no parameters of their own.
    """
    vision, language, expert = map(model.get_submodule, backbone_of(model.config.model_type).TOWERS)
    for layer in vision.layers if recompute else ():
        layer.forward = _again(layer.forward)
    caching = [_wrapped(layer, layer.self_attn.layer_idx, recompute) for layer in (*language.layers, *expert.layers)]
    return [*vision.layers, *caching]


def _again(forward: Callable) -> Callable:
    def recomputed(*inputs, **options):
        return checkpoint(forward, *inputs, use_reentrant=False, **options)

    return recomputed


def _wrapped(layer: nn.Module, index: int, recompute: bool) -> Unit:
    unit = Unit(layer, recompute)

    def forward(hidden_states: Tensor, past_key_values, **options) -> Tensor:
        held = past_key_values.layers[index] if index < len(past_key_values.layers) else None
        before = (held.keys, held.values) if held is not None and held.get_seq_length() else None
        output, keys, values = unit(hidden_states, before, options)
        past_key_values.update(keys, values, index)
        return output

    layer.forward = forward
    return unit
