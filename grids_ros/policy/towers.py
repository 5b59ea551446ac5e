"""The three transformers of a policy for inference: the vision encoder, the language model, the action expert.

The weights are those of transformers' own modules, fused; what differs is what is left out. A context is what later
tokens attend to: for each layer the keys and values of all tokens before, each (B, K/V heads, tokens, head_dim).

A tower multiplies in a dtype of its own, see `arithmetic`. What goes in and comes out, the residual sums and the norms
are float32. A layer is a function of tensors, so that `torch.compile` can take it as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Container
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import GemmaModel, LlamaModel

from grids_ros.policy.arithmetic import (
    Products,
    Weights,
    attention,
    attention_bias,
    fuse,
    gated,
    linear,
    prepare,
    release,
)

FLOAT32 = Products()
Context = list[tuple[Tensor, Tensor]]
Rotation = tuple[Tensor, Tensor]


class Layers(NamedTuple):
    """The functions that compute a layer, of all towers."""

    vision: Callable
    decoder: Callable
    keys: Callable
    crossing: Callable


class _Shape(NamedTuple):
    """What all layers of a tower share. dtype: of what is multiplied. fused_attention: see `Products`."""

    heads: int
    kv_heads: int
    eps: float
    activation: Callable[[Tensor], Tensor]
    dtype: torch.dtype
    fused_attention: bool


def _how(products: Products) -> tuple[torch.dtype, bool]:
    """The end of a `_Shape`."""
    return products.activations, products.fused_attention


class _VisionLayer(NamedTuple):
    """The weights of a SigLIP layer."""

    norm: tuple[Tensor, Tensor]
    qkv: Weights
    out: Weights
    mlp_norm: tuple[Tensor, Tensor]
    up: Weights
    down: Weights


class Siglip:
    """The vision tower without its head: pixels (B, 3, S, S) to features (B, cells, width)."""

    def __init__(
        self,
        model: Any,
        embed: Callable[[Tensor], Tensor] | None = None,
        products: Products = FLOAT32,
    ):
        """model: transformers' SigLIP or SmolVLM's. embed: in place of its patch embeddings."""
        self._embeddings, self._last_norm = embed or model.embeddings, model.post_layernorm
        layers = model.encoder.layers
        self._layers = [_vision_layer(layer, products) for layer in layers]
        heads = layers[0].self_attn.num_heads
        self._shape = _Shape(heads, heads, layers[0].layer_norm1.eps, layers[0].mlp.activation_fn, *_how(products))
        self.functions = EAGER

    def __call__(self, pixels: Tensor) -> Tensor:
        x = self._embeddings(pixels)
        for layer in self._layers:
            x = self.functions.vision(x, layer, self._shape)
        return self._last_norm(x)


def vision_layer(x: Tensor, weights: _VisionLayer, shape: _Shape) -> Tensor:
    """A SigLIP layer: x (B, n, width), float32."""
    width = x.shape[-1:]
    projected = linear(nn.functional.layer_norm(x, width, *weights.norm, shape.eps).to(shape.dtype), *weights.qkv)
    queries, keys, values = projected.unflatten(-1, (3, shape.heads, -1)).permute(2, 0, 3, 1, 4)
    seen = attention(queries, keys, values, fused=shape.fused_attention).transpose(1, 2).flatten(2)
    x = x + linear(seen, *weights.out)
    normalized = nn.functional.layer_norm(x, width, *weights.mlp_norm, shape.eps).to(shape.dtype)
    return x + linear(linear(normalized, *weights.up, shape.activation), *weights.down)


def _vision_layer(layer: Any, products: Products) -> _VisionLayer:
    norms = [
        (norm.weight.detach().float(), norm.bias.detach().float()) for norm in (layer.layer_norm1, layer.layer_norm2)
    ]
    prepared = _VisionLayer(
        norms[0],
        prepare(fuse(*_qkv(layer.self_attn)), products),
        _weights(layer.self_attn.out_proj, products),
        norms[1],
        _weights(layer.mlp.fc1, products),
        _weights(layer.mlp.fc2, products),
    )
    release(layer, products)
    return prepared


class Norm(NamedTuple):
    """What follows one normalisation by the root mean square: times `scale`, plus `shift`; `gate` multiplies what is
    added to the residual afterwards. Each (width,), float32, or None."""

    scale: Tensor
    shift: Tensor | None = None
    gate: Tensor | None = None


class Norms(NamedTuple):
    """Of a whole decoder: before attention and before the MLP of each layer, and the last one."""

    layers: list[tuple[Norm, Norm]]
    last: Norm

    @classmethod
    def of(cls, model: GemmaModel | LlamaModel) -> Norms:
        """Those of the model's weights, which Gemma stores less one."""
        offset = 1.0 if isinstance(model, GemmaModel) else 0.0

        def norm(module: Any) -> Norm:
            return Norm(offset + module.weight.data.float())

        layers = [(norm(layer.input_layernorm), norm(layer.post_attention_layernorm)) for layer in model.layers]
        return cls(layers, norm(model.norm))


class _Layer(NamedTuple):
    """The weights of a decoder's layer. keys: those rows of `qkv` that make keys and values, of the last layer.
    gate_up: of the MLP's gate and of what it lets through, see `gated`. crossing: weights of keys and of values, where
    `qkv` is queries alone because the layer attends to the context only, and projects its keys and values anew."""

    qkv: Weights
    keys: Weights | None
    out: Weights
    gate_up: tuple[Weights, ...]
    down: Weights
    crossing: tuple[Weights, Weights] | None = None


class Decoder:
    """Layers of a Gemma or a Llama in which every new token attends to the context and to the new ones."""

    def __init__(
        self,
        model: GemmaModel | LlamaModel,
        norms: Norms | None = None,
        crossing: Container[int] = (),
        products: Products = FLOAT32,
    ):
        """norms: where each call brings its own, any of them. crossing: layers that attend to the context only."""
        config, last = model.config, len(model.layers) - 1
        self._rotary, self._norms, self._dtype = model.rotary_emb, norms or Norms.of(model), products.activations
        self._shape = _Shape(
            config.num_attention_heads,
            config.num_key_value_heads,
            config.rms_norm_eps,
            model.layers[0].mlp.act_fn,
            *_how(products),
        )
        self._layers = [
            _layer(layer, products, crossing=index in crossing, last=index == last)
            for index, layer in enumerate(model.layers)
        ]
        self.functions = EAGER

    def rotation(self, x: Tensor, positions: Tensor) -> Rotation:
        """Cosines and sines (B, n, 1, head_dim) of tokens at positions (B, n), for `_rotate`. x: of their device."""
        cos, sin = self._rotary(x, positions)
        sin[..., : sin.shape[-1] // 2].neg_()
        return cos.unsqueeze(2).to(self._dtype), sin.unsqueeze(2).to(self._dtype)

    def bias(self, mask: Tensor | None) -> Tensor | None:
        """What `context` and calls take for a mask (..., n or 1, tokens in all), True where one may be attended to.

        With several rows each stands for all queries that share a key: they are queries of one head.
        """
        if mask is None:
            return None
        if mask.shape[-2] > 1:
            group = self._shape.heads // self._shape.kv_heads
            mask = mask.unsqueeze(-2).expand(*mask.shape[:-1], group, -1).flatten(-3, -2)
        return attention_bias(mask, self._dtype)

    def cast(self, context: Context) -> Context:
        """Another decoder's context in the dtype of this one's products."""
        return [(keys.to(self._dtype), values.to(self._dtype)) for keys, values in context]

    def context(self, x: Tensor, rotation: Rotation, bias: Tensor | None = None) -> Context:
        """The context that the tokens x (B, n, width) make.

        Of the last layer, whose output nobody reads, only keys and values are computed.
        """
        made: Context = []
        *others, (layer, norms) = zip(self._layers, self._norms.layers, strict=True)
        for each, around in others:
            x, keys, values = self.functions.decoder(x, each, around, rotation, None, bias, self._shape)
            made.append((keys, values))
        return [*made, self.functions.keys(x, layer, norms[0], rotation, self._shape)]

    def project_context(self, context: Context) -> Context:
        """The context with the keys and values of the crossing layers as their own projections make them."""
        return [
            self._cross(layer.crossing, *before) if layer.crossing else before
            for layer, before in zip(self._layers, self.cast(context), strict=True)
        ]

    def __call__(
        self,
        x: Tensor,
        rotation: Rotation,
        bias: Tensor | None,
        context: Context,
        norms: Norms | None = None,
        crossing: tuple[Rotation, Tensor | None] | None = None,
    ) -> tuple[Tensor, Context]:
        """The output, (B, n, width), for tokens x (B, n, width) after the context; and the context with x appended.

        norms: in place of the model's own. crossing: rotation and bias of the layers that attend to the context only;
        the second result leaves those layers out. Gradients pass the layers by: they follow the residual alone, see
        `rtc`.
        """
        norms = norms or self._norms
        extended: Context = []
        with torch.inference_mode():
            after = x
            for layer, around, before in zip(self._layers, norms.layers, context, strict=True):
                if layer.crossing:
                    assert crossing is not None  # a backbone with such layers hands it over
                    turned, seen = crossing
                    after = self.functions.crossing(after, layer, around, turned, before, seen, self._shape)
                else:
                    after, keys, values = self.functions.decoder(
                        after, layer, around, rotation, before, bias, self._shape
                    )
                    extended.append((keys, values))
        if x.requires_grad:
            after = after + (x - x.detach())
        return _normalize(after, norms.last, self._shape.eps), extended

    def _cross(self, projections: tuple[Weights, Weights], *before: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values (B, K/V heads, tokens, head_dim), projected anew."""
        keys, values = (
            linear(held.transpose(1, 2).flatten(2), *weights).unflatten(-1, (self._shape.kv_heads, -1)).transpose(1, 2)
            for weights, held in zip(projections, before, strict=True)
        )
        return keys, values


def decoder_layer(
    x: Tensor,
    weights: _Layer,
    norms: tuple[Norm, Norm],
    rotation: Rotation,
    before: tuple[Tensor, Tensor] | None,
    bias: Tensor | None,
    shape: _Shape,
) -> tuple[Tensor, Tensor, Tensor]:
    """A layer whose tokens x (B, n, width) attend to those `before` and to each other; and all keys and values."""
    projected = linear(_normalize(x, norms[0], shape.eps).to(shape.dtype), *weights.qkv)
    heads = projected.unflatten(-1, (shape.heads + 2 * shape.kv_heads, -1))
    turned, values = heads.split([shape.heads + shape.kv_heads, shape.kv_heads], dim=2)
    turned = _rotate(turned, rotation)
    keys, values = _append(before, turned[:, :, shape.heads :].transpose(1, 2), values.transpose(1, 2))
    return _finish(x, turned[:, :, : shape.heads], keys, values, weights, norms, bias, shape), keys, values


def layer_keys(x: Tensor, weights: _Layer, norm: Norm, rotation: Rotation, shape: _Shape) -> tuple[Tensor, Tensor]:
    """Keys and values of `decoder_layer` alone, where no tokens are before."""
    assert weights.keys is not None  # a layer that crosses keeps none
    projected = linear(_normalize(x, norm, shape.eps).to(shape.dtype), *weights.keys)
    keys, values = projected.unflatten(-1, (2 * shape.kv_heads, -1)).chunk(2, dim=2)
    return _rotate(keys, rotation).transpose(1, 2), values.transpose(1, 2)


def crossing_layer(
    x: Tensor,
    weights: _Layer,
    norms: tuple[Norm, Norm],
    rotation: Rotation,
    context: tuple[Tensor, Tensor],
    bias: Tensor | None,
    shape: _Shape,
) -> Tensor:
    """A layer whose tokens x (B, n, width) attend to the context's keys and values only."""
    queries = linear(_normalize(x, norms[0], shape.eps).to(shape.dtype), *weights.qkv)
    queries = _rotate(queries.unflatten(-1, (shape.heads, -1)), rotation)
    return _finish(x, queries, *context, weights, norms, bias, shape)


def _finish(x: Tensor, queries, keys, values, weights: _Layer, norms: tuple[Norm, Norm], bias, shape: _Shape) -> Tensor:
    """The rest of a layer. Heads that share keys and values are queries of one head: nothing is repeated."""
    batch, n = x.shape[:2]
    grouped = queries.unflatten(2, (shape.kv_heads, -1)).transpose(1, 2)
    read = attention(grouped.flatten(2, 3), keys, values, bias, shape.fused_attention)
    read = read.view(batch, shape.kv_heads, n, -1, read.shape[-1]).transpose(1, 2).reshape(batch, n, -1)
    x = _add(x, linear(read, *weights.out), norms[0])
    hidden = gated(_normalize(x, norms[1], shape.eps).to(shape.dtype), weights.gate_up, shape.activation)
    return _add(x, linear(hidden, *weights.down), norms[1])


EAGER = Layers(vision_layer, decoder_layer, layer_keys, crossing_layer)


@cache
def compiled() -> Layers:
    """The same functions, compiled by Inductor at their first call with each combination of shapes."""
    return Layers(*(torch.compile(function, fullgraph=True, dynamic=False) for function in EAGER))


@cache
def compiled_for_any_length() -> Layers:
    """The same, compiled for prompts of any length: a CPU computes them without their padding."""
    fixed = compiled()
    return Layers(fixed.vision, *map(_of_any_length, fixed[1:]))


def _of_any_length(function: Callable) -> Callable:
    """A compiled layer function of a decoder, whose numbers of tokens vary."""

    def call(x: Tensor, weights: _Layer, norms: Any, rotation: Rotation, *rest: Any):
        vary = [(given, 1) for given in (x, *rotation)]
        for given in rest:
            if type(given) is tuple:  # keys and values of what is before
                vary += [(held, 2) for held in given]
            elif isinstance(given, Tensor):  # the bias
                vary += [(given, given.ndim - 2), (given, given.ndim - 1)]
        for tensor, dimension in vary:
            torch._dynamo.maybe_mark_dynamic(tensor, dimension)
        return function(x, weights, norms, rotation, *rest)

    return call


def _append(before: tuple[Tensor, Tensor] | None, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    if before is None:
        return keys, values
    return torch.cat((before[0], keys), 2), torch.cat((before[1], values), 2)


def _normalize(x: Tensor, norm: Norm, eps: float) -> Tensor:
    scaled = nn.functional.rms_norm(x, x.shape[-1:], norm.scale, eps)
    return scaled if norm.shift is None else scaled + norm.shift


def _add(x: Tensor, part: Tensor, norm: Norm) -> Tensor:
    """The residual x with what a layer's attention or MLP made after `norm`."""
    return x + part if norm.gate is None else x + part * norm.gate


def _rotate(x: Tensor, rotation: Rotation) -> Tensor:
    """Rotary positions: x (B, n, heads, head_dim) by `Decoder.rotation`, whose sines hold the sign of the half that
    changes places."""
    cos, sin = rotation
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, -1), sin)


def _layer(layer: Any, products: Products, crossing: bool, last: bool) -> _Layer:
    queries, *keys_values = _qkv(layer.self_attn)
    gate, up = layer.mlp.gate_proj, layer.mlp.up_proj
    prepared = _Layer(
        prepare(fuse(queries) if crossing else fuse(queries, *keys_values), products),
        prepare(fuse(*keys_values), products) if last and not crossing else None,
        _weights(layer.self_attn.o_proj, products),
        (_weights(gate, products), _weights(up, products)) if products.packed else (prepare(fuse(gate, up), products),),
        _weights(layer.mlp.down_proj, products),
        (_weights(keys_values[0], products), _weights(keys_values[1], products)) if crossing else None,
    )
    release(layer, products)
    return prepared


def _weights(layer: nn.Linear, products: Products) -> Weights:
    return prepare(Weights(layer.weight, layer.bias), products)


def _qkv(attention: Any) -> tuple[nn.Linear, nn.Linear, nn.Linear]:
    return attention.q_proj, attention.k_proj, attention.v_proj
