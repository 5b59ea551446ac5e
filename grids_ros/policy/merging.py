"""Token merging inside the vision tower: D. Bolya et al., Token Merging: Your ViT But Faster, arXiv 2210.09461.

In each layer, between attention and MLP, the tokens are split into two halves in turn; the tokens of the first half
that are most like one of the second join it. What is left goes on, and at the end each cell of the feature map takes
the features of the token that it has become a part of. This changes the actions.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn


@dataclass(frozen=True, eq=False)
class Merged:
    """Tokens, (B, N, C); how many cells each stands for, (B, N, 1); and each cell's token, (B, cells)."""

    tokens: Tensor
    sizes: Tensor
    owners: Tensor

    @classmethod
    def of(cls, tokens: Tensor) -> Merged:
        """Every cell a token of its own."""
        batch, cells = tokens.shape[:2]
        owners = torch.arange(cells, device=tokens.device).expand(batch, -1)
        return cls(tokens, torch.ones_like(tokens[..., :1]), owners)

    @property
    def attention_bias(self) -> Tensor:
        """Of (B, 1, 1, N): a token that stands for s cells is attended to as s equal ones would be."""
        return self.sizes.log().transpose(1, 2).unsqueeze(1)

    def merge(self, keys: Tensor, count: int) -> Merged:
        """With `count` fewer tokens, at most half of them. keys: (B, N, D), of the attention, say what is alike."""
        directions = nn.functional.normalize(keys, dim=-1)
        first, second = directions[:, ::2], directions[:, 1::2]
        likeness, partner = (first @ second.mT).max(-1)
        order = likeness.argsort(-1, descending=True)
        rank = order.argsort(-1)  # of each in the first half: those below `count` join their partner
        kept = first.shape[1] - count
        target = torch.empty_like(self.owners[:, : keys.shape[1]])
        target[:, ::2] = torch.where(rank < count, kept + partner, rank - count)
        target[:, 1::2] = kept + torch.arange(second.shape[1], device=keys.device)
        sizes = self._gathered(self.sizes, target, kept + second.shape[1])
        tokens = self._gathered(self.tokens * self.sizes, target, kept + second.shape[1]) / sizes
        return Merged(tokens, sizes, target.gather(1, self.owners))

    def with_tokens(self, tokens: Tensor) -> Merged:
        """The same cells, other features."""
        return replace(self, tokens=tokens)

    def spread(self) -> Tensor:
        """The features of every cell, (B, cells, C)."""
        return self.tokens.gather(1, self.owners.unsqueeze(-1).expand(-1, -1, self.tokens.shape[-1]))

    @staticmethod
    def _gathered(values: Tensor, target: Tensor, count: int) -> Tensor:
        """The sums of `values`, (B, N, C), that go to the same of `count` places."""
        batch, _, width = values.shape
        index = target.unsqueeze(-1).expand(-1, -1, width)
        return values.new_zeros(batch, count, width).scatter_add(1, index, values)


def remaining(cells: int, layers: int, count: int) -> list[int]:
    """How many tokens each layer is given, and, last, how many leave. Raises ValueError for more than can be merged."""
    given = [cells - layer * count for layer in range(layers + 1)]
    most = max(n for n in range(cells) if all((cells - layer * n) // 2 >= n for layer in range(layers)))
    if not 0 <= count <= most:
        raise ValueError(f"merge is {count}, expected 0 to {most} tokens in each of {layers} layers of {cells}")
    return given
