"""The kernels of one inference, counted on the meta device: no GPU is needed, and nothing is computed.

Every operation that is no view launches one kernel. torch's fused attention and norm are one each, as on CUDA; on the
meta device they would fall apart into their formulas. What a CUDA graph could not record is an error: a wait for a
value, or a tensor that comes from the CPU.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

PRODUCTS = {"mm", "addmm", "bmm", "baddbmm", "convolution", "convolution_backward"}
FREE = {
    "empty",
    "empty_like",
    "empty_strided",
    "new_empty",
    "new_empty_strided",
    "_unsafe_view",
    "detach",
    "_reshape_alias",
}
BACKWARD_KERNELS = 3  # of fused attention: the sums of gradient and output, then keys and values, then queries


@dataclass(frozen=True)
class Kernels:
    """How many of each kind. conversions: from one dtype to another."""

    products: int
    attention: int
    conversions: int
    others: int

    @property
    def total(self) -> int:
        return self.products + self.attention + self.conversions + self.others


class NotRecordable(RuntimeError):
    """An operation that no CUDA graph can hold."""


def count(function: Callable, *arguments) -> Kernels:
    """Of `function`, which is given meta tensors. Raises NotRecordable for a host wait or an upload."""
    walk = Walk()
    with ExitStack() as stack:
        stack.enter_context(patch.object(nn.functional, "scaled_dot_product_attention", walk.attention))
        stack.enter_context(patch.object(nn.functional, "rms_norm", walk.rms_norm))
        stack.enter_context(walk)
        function(*arguments)
    found = walk.found
    products = sum(found[name] for name in PRODUCTS)
    attention, conversions = found["attention"], found["_to_copy"]
    return Kernels(products, attention, conversions, found.total() - products - attention - conversions)


class Walk(TorchDispatchMode):
    """Counts operations by name as they are dispatched."""

    def __init__(self):
        super().__init__()
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        name = function.overloadpacket.__name__
        if name in ("_local_scalar_dense", "is_nonzero", "nonzero", "equal", "item"):
            raise NotRecordable(f"{name} waits for a value of the device")
        with self:  # inference mode dispatches composites as they are
            result = function.decompose(*arguments, **(options or {}))
        if result is not NotImplemented:
            return result
        result = function(*arguments, **(options or {}))
        inputs = [leaf for leaf in tree_leaves((arguments, options)) if isinstance(leaf, Tensor)]
        outputs = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        if any(tensor.device.type == "cpu" and tensor.ndim for tensor in inputs + outputs):
            raise NotRecordable(f"{name} brings a tensor of {inputs or outputs} from the CPU")
        if name not in FREE and not _is_view(function):
            self.found[name] += 1
        return result

    def attention(self, queries: Tensor, keys: Tensor, values: Tensor, attn_mask: Tensor | None = None, **_) -> Tensor:
        """As CUDA's fused kernels: a mask of bool is converted first, an unaligned bias copied."""
        if attn_mask is not None and attn_mask.dtype == torch.bool:
            self.found["mask"] += 3
        elif attn_mask is not None and any(stride % 8 for stride in attn_mask.stride()[:-1]):
            self.found["mask"] += 1
        return _Fused.apply(self, "attention", BACKWARD_KERNELS, queries.new_empty(0), queries, keys, values)

    def rms_norm(self, x: Tensor, shape, weight: Tensor | None = None, eps: float | None = None) -> Tensor:
        return _Fused.apply(self, "rms_norm", 2, x.new_empty(0), x)


class _Fused(torch.autograd.Function):
    """One kernel with the shape of its first input."""

    @staticmethod
    def forward(ctx, walk: Walk, name: str, backward_kernels: int, like: Tensor, *inputs: Tensor) -> Tensor:
        ctx.walk, ctx.name, ctx.kernels, ctx.inputs = walk, name, backward_kernels, inputs
        walk.found[name] += 1
        return inputs[0].new_empty(inputs[0].shape)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        ctx.walk.found[ctx.name] += ctx.kernels
        return None, None, None, None, *(torch.empty_like(tensor) for tensor in ctx.inputs)


def _is_view(function) -> bool:
    returned = [value.alias_info for value in function._schema.returns]
    return any(alias is not None and not alias.is_write for alias in returned)
