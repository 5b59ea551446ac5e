"""Updates of low rank in place of the weights (LoRA, arXiv 2106.09685), merged into them when a checkpoint is saved."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from transformers import PI0ForConditionalGeneration

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
TOWERS = ("model.vlm.language_model", "model.dit")


class LowRank(nn.Module):
    """For each projection of the language model and the expert: W x + up (down x), at first W x, for up is zero.

    The updates hang on the model's own layers, whose weights and names stay as they are. down: (rank, in); up: (out,
    rank). Raises ValueError for a rank below 1.
    """

    def __init__(self, model: PI0ForConditionalGeneration, rank: int):
        super().__init__()
        if rank < 1:
            raise ValueError(f"rank is {rank}, expected at least 1")
        self.down, self.up = nn.ParameterDict(), nn.ParameterDict()
        for name in projections(model):
            linear, key = model.get_submodule(name), _key(name)
            down = torch.randn(rank, linear.in_features) / linear.in_features**0.5
            self.down[key] = nn.Parameter(down.to(linear.weight))
            self.up[key] = nn.Parameter(linear.weight.new_zeros(linear.out_features, rank))
            linear.register_forward_hook(self._hook(key))

    def _hook(self, key: str):
        def add(_module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor:
            low = nn.functional.linear(inputs[0], self.down[key])
            return output + nn.functional.linear(low, self.up[key])

        return add


def projections(model: PI0ForConditionalGeneration) -> list[str]:
    """The names of the layers that are updated."""
    return [n for n, _ in model.named_modules() if n.startswith(TOWERS) and n.rpartition(".")[2] in PROJECTIONS]


def merged(name: str, weight: Tensor, updates: Mapping[str, Tensor]) -> Tensor:
    """The weight `name` of the model plus its update, where `updates`, the parameters of a LowRank, have one."""
    key = _key(name.removesuffix(".weight"))
    if f"up.{key}" not in updates:
        return weight
    return weight + updates[f"up.{key}"] @ updates[f"down.{key}"]


def _key(name: str) -> str:
    return name.replace(".", "/")  # no dot may be in a parameter's name
