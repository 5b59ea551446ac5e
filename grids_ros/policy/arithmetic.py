"""Matrix products and attention, in the ways that a machine may be fast at, and layers fused without a copy.

Weights in bfloat16 multiply in one of three ways on a CPU. *Widened*: the weights stay as they are, half the size, and
become float32 a block at a time. A block stays in the cache between its widening and its use, and the product costs
about what it would with float32 weights. *Native*: activations in bfloat16 too. *Packed*: native, with the weights in
the order in which oneDNN's kernels read them, which a native product makes anew in every call.
A CPU with bfloat16 arithmetic (AVX512-BF16, AMX) does the latter two several times as fast as float32, any other one
ten times as slowly: `products` measures. In every case the residual sums, the norms and the softmax are float32.

FP8, of torchao, is a fourth way, for a GPU that has it: never chosen, only configured.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

BLOCK = 2**20  # weights that are widened at a time: 4 MiB in float32
PACKED_ROWS = 512  # that packed weights are laid out for: fewer are multiplied as fast as with a layout of their own
FP8 = torch.float8_e4m3fn


@dataclass(frozen=True)
class Products:
    """How a tower multiplies.

    dtype: of what is multiplied. packed: whether the weights are in oneDNN's own order. fused_attention: whether
    torch's fused kernel computes attention, and not two batched products. release: whether a layer's own weights go
    where a copy multiplies. reason: for the log, measured times included.
    """

    dtype: torch.dtype = torch.float32
    packed: bool = False
    fused_attention: bool = True
    release: bool = False
    reason: str = ""

    @property
    def activations(self) -> torch.dtype:
        """FP8 products round the activations themselves."""
        return torch.bfloat16 if self.dtype == FP8 else self.dtype

    def copies(self, stored: torch.dtype) -> bool:
        """Whether weights of this dtype are copied to be multiplied; where float32 multiplies, others are widened."""
        return self.packed or self.dtype not in (torch.float32, stored)


class Weights(NamedTuple):
    """Of a linear layer: weight (out, in), bias (out,). packed: whether the weight is in oneDNN's own order."""

    weight: Tensor
    bias: Tensor | None = None
    packed: bool = False


def linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    packed: bool = False,
    activation: Callable | None = None,
) -> Tensor:
    """x (..., in) times weight (out, in) transposed, plus bias (out,), in the dtype of x; then the activation.

    Differentiable in x alone where the weight is of another dtype, and not at all where it is packed.
    """
    if packed:
        name, algorithm = _POINTWISE.get(type(activation).__name__, _NONE)
        product = torch.ops.grids_ros.packed_linear if torch.compiler.is_compiling() else _packed_linear
        result = product(x, weight, bias, name, algorithm)
        return result if activation is None or name != "none" else activation(result)
    same = weight.dtype == x.dtype
    result = nn.functional.linear(x, weight, bias) if same else _Widened.apply(x, weight, bias)
    return result if activation is None else activation(result)


_NONE = ("none", "")
_POINTWISE = {"GELUTanh": ("gelu", "tanh"), "SiLUActivation": ("swish", "")}  # transformers' classes, oneDNN's names

# Inductor cannot compile a product with packed weights, so an operator of our own hides it.
_OPERATORS = torch.library.Library("grids_ros", "DEF")
_OPERATORS.define("packed_linear(Tensor x, Tensor weight, Tensor? bias, str name, str algorithm) -> Tensor")


def _packed_linear(x: Tensor, weight: Tensor, bias: Tensor | None, name: str, algorithm: str) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, name, [], algorithm)


_OPERATORS.impl("packed_linear", _packed_linear, "MkldnnCPU")


@torch.library.register_fake("grids_ros::packed_linear", lib=_OPERATORS)
def _shape_of_packed_linear(x: Tensor, weight: Tensor, _bias, _name: str, _algorithm: str) -> Tensor:
    return x.new_empty(*x.shape[:-1], weight.shape[0])


def gated(x: Tensor, weights: Sequence[Weights], activation: Callable) -> Tensor:
    """The activation of one product times another; weights of both, fused in one or packed in two."""
    if len(weights) == 1:
        gate, up = linear(x, *weights[0]).chunk(2, -1)
        return activation(gate) * up
    gate_weights, up_weights = weights
    return linear(x, *gate_weights, activation) * linear(x, *up_weights)


class _Widened(torch.autograd.Function):
    """The product with a weight of another dtype, in the dtype of x."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.weight = weight
        rows = x.reshape(-1, x.shape[-1])
        result = x.new_empty(len(rows), len(weight))
        for part, block in _blocks(weight, x.dtype):
            torch.mm(rows, block.T, out=result[:, part])
        if bias is not None:
            result += bias
        return result.view(*x.shape[:-1], len(weight))

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None]:
        rows = gradient.reshape(-1, gradient.shape[-1])
        result = rows.new_zeros(len(rows), ctx.weight.shape[1])
        for part, block in _blocks(ctx.weight, rows.dtype):
            result.addmm_(rows[:, part], block)
        return result.view(*gradient.shape[:-1], -1), None, None


def _blocks(weight: Tensor, dtype: torch.dtype):
    """Rows of the weight in turn, as a slice and in `dtype`; each overwrites the one before."""
    count, width = weight.shape
    rows = max(1, BLOCK // width)
    buffer = weight.new_empty(min(rows, count), width, dtype=dtype)
    for start in range(0, count, rows):
        part = slice(start, min(start + rows, count))
        yield part, buffer[: part.stop - start].copy_(weight[part])


def attention(queries: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None = None, fused: bool = True) -> Tensor:
    """Scaled dot-product attention, (B, heads, n, head_dim); bias, added to the scores, broadcasts to (B, heads, n,
    keys). fused: by torch's kernel. On a CPU without AMX two batched products take a third of its time in bfloat16."""
    if fused:
        return nn.functional.scaled_dot_product_attention(queries, keys, values, attn_mask=bias)
    scores = (queries * queries.shape[-1] ** -0.5) @ keys.mT
    if bias is not None:
        scores = scores + bias
    return torch.softmax(scores, -1, dtype=torch.float32).type_as(values) @ values


def attention_bias(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """What attention adds to its scores: 0 where mask (..., keys) is True, minus infinity elsewhere.

    Except on a CPU its rows start at multiples of 8 elements, as CUDA's memory-efficient kernel demands; it copies any
    other bias in every call.
    """
    *batch, keys = mask.shape
    step = 1 if mask.device.type == "cpu" else 8
    padded = mask.new_zeros((*batch, -(-keys // step) * step), dtype=dtype)
    padded[..., :keys].masked_fill_(~mask, float("-inf"))
    return padded[..., :keys]


# --- weights -----------------------------------------------------------------------------------------------------


def widen_all_but(module: nn.Module, kept: set[Tensor]) -> None:
    """Every parameter of `module` to float32, in place, but the `kept` ones."""
    for parameter in module.parameters():
        if parameter not in kept:
            parameter.data = parameter.data.float()


def fuse(*layers: nn.Linear) -> Weights:
    """Weight (sum of out, in) and bias (sum of out,), or None, of layers of one input as one.

    The layers' own parameters become views of the result: nothing is kept twice, and each goes on to work.
    """
    bias = None if layers[0].bias is None else _join([layer.bias for layer in layers])
    return Weights(_join([layer.weight for layer in layers]), bias)


def prepare(weights: Weights, products: Products) -> Weights:
    """For a tower of such products; a copy where `Products.copies`. Raises ValueError where FP8 cannot be had."""
    weight, bias, dtype = weights.weight.detach(), weights.bias, products.activations
    if products.copies(weight.dtype):
        weight = weight.to(dtype)
    if products.dtype == FP8:
        weight = _in_fp8(weight)
    if products.packed:
        weight = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), PACKED_ROWS)
    return Weights(weight, bias if bias is None else bias.detach().to(dtype), products.packed)


def release(module: nn.Module, products: Products) -> None:
    """Let go of the weights of linear layers that were prepared, where `Products.release` and copies multiply."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear) and products.release and products.copies(layer.weight.dtype):
            layer.weight.data = layer.weight.data.new_empty(0)


def check_fp8(device: torch.device) -> None:
    """Raises ValueError for a device without FP8 products, and where the package torchao is missing."""
    if device.type != "cuda":
        raise ValueError("FP8 products need a GPU of capability 8.9 (Ada) or more")
    if torch.cuda.get_device_capability(device) < (8, 9):
        raise ValueError(f"{torch.cuda.get_device_name(device)} has no FP8: it needs capability 8.9 (Ada) or more")
    _torchao()


def _torchao() -> Any:
    try:
        return importlib.import_module("torchao.quantization")
    except ImportError as error:
        raise ValueError(f"products in float8 need the package torchao: {error}") from error


def _in_fp8(weight: Tensor) -> Tensor:
    """Scaled row by row; on a GPU the product rounds the activations row by row as well, on a CPU it widens."""
    torchao, on_gpu = _torchao(), weight.device.type == "cuda"
    if on_gpu:
        check_fp8(weight.device)
        scheme = torchao.Float8DynamicActivationFloat8WeightConfig(granularity=torchao.PerRow())
    else:
        scheme = torchao.Float8WeightOnlyConfig()
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    layer.weight = nn.Parameter(weight.contiguous(), requires_grad=False)
    torchao.quantize_(layer, scheme)
    return layer.weight


def _join(parameters: list[Any]) -> Tensor:
    first, sizes = parameters[0], [len(parameter) for parameter in parameters]
    row_bytes = math.prod(first.shape[1:]) * first.element_size()
    ends = [first.data_ptr() + row_bytes * sum(sizes[:i]) for i in range(len(sizes))]
    storages = {parameter.untyped_storage().data_ptr() for parameter in parameters}
    if len(storages) == 1 and ends == [parameter.data_ptr() for parameter in parameters]:  # joined before
        return first.data.as_strided((sum(sizes), *first.shape[1:]), first.stride())
    whole = torch.cat([parameter.data for parameter in parameters])
    for parameter, part in zip(parameters, whole.split(sizes), strict=True):
        parameter.data = part
    return whole
