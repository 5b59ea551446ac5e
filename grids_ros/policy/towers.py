"""The three transformers of PI0 for inference: SigLIP sees, one Gemma reads, the other acts.

The weights are those of transformers' own modules, fused; what differs is what is left out. A context is what later
tokens attend to: for each layer the keys and values of all tokens before, each (B, K/V heads, tokens, head_dim).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import GemmaModel, SiglipVisionModel

from grids_ros.policy.arithmetic import fuse, linear
from grids_ros.policy.merging import Merged, remaining

attention = nn.functional.scaled_dot_product_attention
Context = list[tuple[Tensor, Tensor]]


class Siglip:
    """The vision tower without its head: pixels (B, 3, S, S) to features (B, cells, width).

    merge: so many tokens become part of others in each layer, see `merging`. Raises ValueError for too many.
    """

    def __init__(self, model: SiglipVisionModel, merge: int = 0):
        self._merge = merge
        remaining(model.embeddings.num_positions, len(model.encoder.layers), merge)
        self._embeddings, self._last_norm = model.embeddings, model.post_layernorm
        self._layers = model.encoder.layers
        self._fused = [fuse(*_qkv(layer.self_attn)) for layer in self._layers]

    def __call__(self, pixels: Tensor) -> Tensor:
        x = self._embeddings(pixels)
        merged = Merged.of(x) if self._merge else None
        for layer, qkv in zip(self._layers, self._fused, strict=True):
            heads = linear(layer.layer_norm1(x), *qkv).unflatten(-1, (3, layer.self_attn.num_heads, -1))
            queries, keys, values = heads.permute(2, 0, 3, 1, 4)
            bias = merged.attention_bias if merged else None
            seen = attention(queries, keys, values, attn_mask=bias).transpose(1, 2).flatten(2)
            x = x + _apply(layer.self_attn.out_proj, seen)
            if merged:
                merged = merged.with_tokens(x).merge(keys.mean(1), self._merge)
                x = merged.tokens
            hidden = layer.mlp.activation_fn(_apply(layer.mlp.fc1, layer.layer_norm2(x)))
            x = x + _apply(layer.mlp.fc2, hidden)
        x = self._last_norm(x)
        return merged.with_tokens(x).spread() if merged else x


@dataclass(frozen=True, eq=False)
class _Block:
    """The weights of a Gemma layer: norms (width,) as they multiply, the rest as `linear` takes them."""

    norm: Tensor
    qkv: tuple[Tensor, Tensor | None]
    out: nn.Linear
    mlp_norm: Tensor
    gate_up: tuple[Tensor, Tensor | None]
    down: nn.Linear


class Gemma:
    """Gemma layers in which every new token attends to the context and to all new ones."""

    def __init__(self, model: GemmaModel):
        self._rotary, self._activation = model.rotary_emb, model.layers[0].mlp.act_fn
        self._eps, self._last_norm = model.config.rms_norm_eps, 1.0 + model.norm.weight.data.float()
        self._heads, self._kv_heads = model.config.num_attention_heads, model.config.num_key_value_heads
        self._layers = [
            _Block(
                1.0 + layer.input_layernorm.weight.data.float(),
                fuse(*_qkv(layer.self_attn)),
                layer.self_attn.o_proj,
                1.0 + layer.post_attention_layernorm.weight.data.float(),
                fuse(layer.mlp.gate_proj, layer.mlp.up_proj),
                layer.mlp.down_proj,
            )
            for layer in model.layers
        ]

    def rotation(self, x: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines (B, n, 1, head_dim) of tokens at positions (B, n), in the dtype of x."""
        cos, sin = self._rotary(x, positions)
        return cos.unsqueeze(2), sin.unsqueeze(2)

    def extend(self, x: Tensor, rotation, mask: Tensor | None = None, context: Context | None = None) -> Context:
        """The context with the tokens x (B, n, width) appended.

        mask: (B, 1, 1, tokens in all), True where one may be attended to; None for everywhere. Of the last layer,
        whose output nobody reads, only keys and values are computed.
        """
        extended: Context = []
        for index, block in enumerate(self._layers):
            last = index == len(self._layers) - 1
            queries, keys, values = self._project(block, x, rotation, context[index] if context else None, last)
            extended.append((keys, values))
            if not last:
                x = self._finish(block, x, queries, keys, values, mask)
        return extended

    def __call__(self, x: Tensor, rotation, mask: Tensor | None, context: Context) -> Tensor:
        """The output, (B, n, width), for tokens x (B, n, width) after the context; mask as in `extend`."""
        for block, before in zip(self._layers, context, strict=True):
            x = self._finish(block, x, *self._project(block, x, rotation, before), mask)
        return self._normalize(x, self._last_norm)

    def _project(self, block: _Block, x: Tensor, rotation, before, keys_only: bool = False):
        """Queries (B, n, heads, head_dim), or None; all keys and values (B, K/V heads, tokens, head_dim)."""
        (weight, bias), width = block.qkv, 2 * self._kv_heads
        count = width if keys_only else self._heads + width
        rows = count * len(weight) // (self._heads + width)
        heads = linear(self._normalize(x, block.norm), weight[-rows:], bias if bias is None else bias[-rows:])
        heads = heads.unflatten(-1, (count, -1))
        turned, values = heads.split([count - self._kv_heads, self._kv_heads], dim=2)
        turned, values = _rotate(turned, rotation), values.transpose(1, 2)
        keys = turned[:, :, -self._kv_heads :].transpose(1, 2)
        if before is not None:
            keys, values = torch.cat((before[0], keys), 2), torch.cat((before[1], values), 2)
        return None if keys_only else turned[:, :, : self._heads], keys, values

    def _finish(self, block: _Block, x: Tensor, queries: Tensor, keys: Tensor, values: Tensor, mask) -> Tensor:
        """The rest of a layer. Heads that share keys and values are queries of one head: nothing is repeated."""
        batch, n = x.shape[:2]
        grouped = queries.unflatten(2, (self._kv_heads, -1)).transpose(1, 2)
        read = attention(grouped.flatten(2, 3), keys, values, attn_mask=mask)
        read = read.view(batch, self._kv_heads, n, -1, read.shape[-1]).transpose(1, 2).reshape(batch, n, -1)
        x = x + _apply(block.out, read)
        gate, up = linear(self._normalize(x, block.mlp_norm), *block.gate_up).chunk(2, -1)
        return x + _apply(block.down, self._activation(gate) * up)

    def _normalize(self, x: Tensor, scale: Tensor) -> Tensor:
        wide = x.float()
        return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self._eps) * scale).type_as(x)


def _qkv(attention: nn.Module) -> tuple[nn.Linear, nn.Linear, nn.Linear]:
    return attention.q_proj, attention.k_proj, attention.v_proj


def _apply(layer: nn.Linear, x: Tensor) -> Tensor:
    return linear(x, layer.weight, layer.bias)


def _rotate(x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """Rotary positions: x (B, n, heads, head_dim) by `Gemma.rotation`."""
    cos, sin = rotation
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat((-second, first), -1) * sin
