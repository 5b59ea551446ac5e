"""The choice of how a tower multiplies and attends: what this machine does fastest, measured when the policy is loaded.

bfloat16 changes the actions a little, so it must be `MARGIN` times as fast as float32, which is exact.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend

from grids_ros.policy.arithmetic import Products, Weights, attention, linear, prepare

SAMPLE = 2**23  # weights that a measurement multiplies by: 16 MiB in bfloat16, more than a core's own cache
REPEATS = 7  # the fastest counts: other work on the machine only ever adds time
MARGIN = 1.5  # so many times as fast must a way be to replace the one before it
PACKED_MARGIN = 1.1  # the same of packed weights, which change nothing in the actions
MEASURED_FROM = 2**25  # weights of a tower; below, its products take less time than what surrounds them
BFLOAT16, PACKED = Products(torch.bfloat16), Products(torch.bfloat16, packed=True)


class Scores(NamedTuple):
    """The attention of a tower: (1, heads, queries, head_dim) to as many heads of keys."""

    heads: int
    queries: int
    keys: int
    head_dim: int


def choose(tower: Any, rows: int, context: int, products: torch.dtype | Products | None = None) -> Products:
    """For the layers of a tower that is given `rows` tokens at a time after `context` others.

    products: their dtype, or how to multiply in full; None for the fastest.
    """
    if isinstance(products, Products):
        return products
    weights = [layer.weight for layer in tower.layers.modules() if isinstance(layer, nn.Linear)]
    stored, scores = "/".join(sorted({_name(weight.dtype) for weight in weights})), _scores(tower, rows, context)
    on_cpu, measured = weights[0].device.type == "cpu", sum(map(torch.numel, weights)) >= MEASURED_FROM
    if products is not None:
        found = Products(products, reason=f"{_name(products)} products, {stored} weights: as configured")
    elif not on_cpu and stored != "float32":
        found = Products(weights[0].dtype, reason=f"{stored} products and weights: the device's own")
    elif weights[0].is_meta or not measured:
        found = Products(reason=f"float32 products, {stored} weights: too small to measure")
    else:
        found = fastest(max(weights, key=torch.numel).detach(), rows)
    if on_cpu and measured:
        return attend(found, scores)
    return replace(found, reason=f"{found.reason}; {kernel(found, scores, weights[0].device)}")


def fastest(weight: Tensor, rows: int) -> Products:
    """The way that multiplies `rows` activations by the weight, (out, in), in the least time; a moment's work."""
    part = weight[: max(1, SAMPLE // weight.shape[1])].contiguous()
    ways = {"float32": Products(), "bfloat16": BFLOAT16}
    if part.device.type == "cpu" and packs():
        ways["bfloat16, packed"] = PACKED
    x = part.new_ones(rows, part.shape[1], dtype=torch.float32)
    taken_s = _seconds({name: _product(x, part, way) for name, way in ways.items()}, part.device)
    chosen = "float32"
    for name in list(ways)[1:]:
        if taken_s[name] * (MARGIN if chosen == "float32" else PACKED_MARGIN) < taken_s[chosen]:
            chosen = name
    times = ", ".join(f"{1e3 * seconds:.1f} ms in {name}" for name, seconds in taken_s.items())
    return replace(
        ways[chosen],
        reason=f"{chosen} products, {_name(weight.dtype)} weights: {rows} by {tuple(part.shape)} takes {times}",
    )


def _product(x: Tensor, weight: Tensor, way: Products) -> Callable[[], Tensor]:
    prepared = prepare(Weights(weight.clone()), way)  # its own, or one way would warm the cache for another
    return lambda: linear(x.to(way.dtype), *prepared)


def packs() -> bool:
    """Whether this torch can pack weights in bfloat16 here."""
    return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()


# --- attention ---------------------------------------------------------------------------------------------------


def attend(products: Products, scores: Scores) -> Products:
    """The same with the faster attention on a CPU; in float32 always torch's own."""
    if products.activations == torch.float32:
        return replace(products, reason=f"{products.reason}; attention by torch's kernel")
    keys = torch.ones(1, scores.heads, scores.keys, scores.head_dim, dtype=products.activations)
    queries = keys[:, :, :1].expand(-1, -1, scores.queries, -1).contiguous()
    ways = {"torch's kernel": True, "two batched products": False}
    taken_s = _seconds(
        {name: lambda fused=fused: attention(queries, keys, keys, fused=fused) for name, fused in ways.items()},
        keys.device,
    )
    fused, batched = taken_s.values()
    chosen = "two batched products" if batched * MARGIN < fused else "torch's kernel"
    times = ", ".join(f"{1e3 * seconds:.2f} ms by {name}" for name, seconds in taken_s.items())
    return replace(
        products,
        fused_attention=ways[chosen],
        reason=f"{products.reason}; attention by {chosen}: {tuple(scores)} takes {times}",
    )


def kernel(products: Products, scores: Scores, device: torch.device) -> str:
    """Which of torch's attention kernels a device chooses, with and without the bias of a padded prompt."""
    if device.type != "cuda":
        return "attention by torch's kernel"
    keys = torch.empty(1, scores.heads, scores.keys, scores.head_dim, dtype=products.activations, device=device)
    queries = keys.new_empty(1, scores.heads, scores.queries, scores.head_dim)
    bias = keys.new_zeros(1, 1, 1, -(-scores.keys // 8) * 8)[..., : scores.keys]
    plain, biased = (
        SDPBackend(torch._fused_sdp_choice(queries, keys, keys, mask)).name.lower() for mask in (None, bias)
    )
    return f"attention by torch's {plain}, with a bias by its {biased}"


def _scores(tower: Any, rows: int, context: int) -> Scores:
    """Heads that share keys are queries of one head, see `towers`."""
    first = tower.layers[0].self_attn
    heads = tower.config.num_attention_heads
    shared = getattr(tower.config, "num_key_value_heads", heads)
    return Scores(shared, rows * heads // shared, context + rows, first.head_dim)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _seconds(functions: dict[str, Callable], device: torch.device) -> dict[str, float]:
    """Of each function's fastest call; they take turns. On a CPU this is processor time: what else the machine does
    leaves it as it is."""
    on_cpu = device.type == "cpu"
    wait, clock = (_at_once, time.process_time) if on_cpu else (torch.cuda.synchronize, time.perf_counter)
    taken: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(REPEATS + 1):
        for name, function in functions.items():
            wait(device)
            started = clock()
            function()
            wait(device)
            taken[name].append(clock() - started)
    return {name: min(seconds[1:]) for name, seconds in taken.items()}  # the first call warms up


def _at_once(_device: torch.device) -> None:
    """A CPU has done what it was told."""
