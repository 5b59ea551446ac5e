"""Matrix products for weights that are stored in half precision, and layers fused without a second copy.

A CPU without bfloat16 arithmetic multiplies bfloat16 matrices some ten times more slowly than float32 ones. So the
weights stay as they are, half the size, and are widened to float32 a block at a time: a block stays in the cache
between its widening and its use, and the product costs about what it would with float32 weights.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

BLOCK = 2**20  # weights that are widened at a time: 4 MiB in float32


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x (..., in) times weight (out, in) transposed, plus bias (out,), in the dtype of x; differentiable in x alone
    where the weight is of another dtype."""
    if weight.dtype == x.dtype:
        return nn.functional.linear(x, weight, bias)
    return _Widened.apply(x, weight, bias)


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


def widen_all_but(module: nn.Module, kept: set[nn.Parameter]) -> None:
    """Every parameter of `module` to float32, in place, but the `kept` ones."""
    for parameter in module.parameters():
        if parameter not in kept:
            parameter.data = parameter.data.float()


def fuse(*layers: nn.Linear) -> tuple[Tensor, Tensor | None]:
    """Weight (sum of out, in) and bias (sum of out,), or None, of layers of one input as one.

    The layers' own parameters become views of the result: nothing is kept twice, and each goes on to work.
    """
    bias = None if layers[0].bias is None else _join([layer.bias for layer in layers])
    return _join([layer.weight for layer in layers]), bias


def _join(parameters: list[nn.Parameter]) -> Tensor:
    first, sizes = parameters[0], [len(parameter) for parameter in parameters]
    ends = [first.data_ptr() + first[:1].nbytes * sum(sizes[:i]) for i in range(len(sizes))]
    if ends == [parameter.data_ptr() for parameter in parameters]:  # joined before
        return first.data.as_strided((sum(sizes), *first.shape[1:]), first.stride())
    whole = torch.cat([parameter.data for parameter in parameters])
    for parameter, part in zip(parameters, whole.split(sizes), strict=True):
        parameter.data = part
    return whole
