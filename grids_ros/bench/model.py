"""One inference, batch 1: operations, bytes, time, and how near they come to what the device can do.

Every row runs once in each round, in one process, so that whatever else the machine does falls on all of them alike.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
import transformers

from grids_ros.bench import model_plot, roofline, sizes
from grids_ros.bench.contenders import GRIDS, Arena, Contender

WARM_UPS = 1


def run(name: str, cameras: int, tokens: Sequence[int], merge: int, runs: int, device: str, out: Path) -> int:
    """The bench; its exit code. The last line of output is the JSON that is also in OUT/model-<size>.json."""
    size = sizes.size(name)
    print(f"Measuring {device}: reading and multiplying", flush=True)
    bounds = roofline.measure(device, torch.float32 if device == "cpu" else size.dtype)
    print(f"PI0 of size {name} with random weights in {str(size.dtype).removeprefix('torch.')}", flush=True)
    try:
        arena = Arena(size, sizes.make(size, device), cameras, merge)
    except ValueError as error:
        print(f"bench failed: {error}", file=sys.stderr)
        return 1
    contenders = arena.contenders(sorted({*tokens, GRIDS}, reverse=True))
    difference = _measure(arena, contenders, runs)
    rows = {contender.name: _row(arena, contender, bounds) for contender in contenders}
    result = {
        **_promised(rows),
        "largest_difference": difference,
        "size": name,
        "cameras": cameras,
        "text_tokens": {"transformers": size.padded, "runtime": size.text},
        "denoising_steps": size.steps,
        "runs": runs,
        "bounds": asdict(bounds),
        "peak_memory_bytes": _peak_memory(device),
        "host": _host(device),
        "rows": rows,
    }
    out.mkdir(parents=True, exist_ok=True)
    (out / f"model-{name}.json").write_text(json.dumps(result, indent=2) + "\n")
    model_plot.draw(result, out / f"model-{name}.png")
    print(table(result))
    print(json.dumps(result))
    return 0


def _measure(arena: Arena, contenders: Sequence[Contender], runs: int) -> float:
    """Fill in the contenders' seconds. The largest difference between transformers' actions and ours."""
    started, actions = time.monotonic(), {}
    for number in range(-WARM_UPS, runs):
        for contender in contenders:
            actions[contender.name] = arena.run(contender)
            _progress(number, runs, contender.name, time.monotonic() - started)
    for contender in contenders:
        del contender.seconds[:-runs]
    if sys.stdout.isatty():
        print()
    own = " transformers"
    pairs = [(name, name.removesuffix(f",{own}")) for name in actions if name.endswith(own)]
    return max(float((actions[theirs] - actions[ours]).abs().max()) for theirs, ours in pairs)


def _progress(number: int, runs: int, row: str, elapsed_s: float) -> None:
    """A line that is written over again on a terminal; elsewhere one for each tenth of the runs, and each slow row."""
    phase = f"run {number + 1} of {runs}" if number >= 0 else "warming up"
    text = f"{phase}, {row}, {elapsed_s:.0f} s so far"
    if sys.stdout.isatty():
        print(f"\r\033[K{text}", end="", flush=True)
    elif runs < 20 or (number % (runs // 10) == 0 and row == "dense"):
        print(text, flush=True)


def _row(arena: Arena, contender: Contender, bounds: roofline.Bounds) -> dict[str, object]:
    """Everything about one row; times in milliseconds."""
    work, bytes_read = arena.work(contender), arena.bytes_read(contender)
    latency = {}
    for stage in contender.seconds[0]:
        samples = 1e3 * np.array([seconds[stage] for seconds in contender.seconds])
        latency[stage] = {"p50": _rounded(np.median(samples)), "p99": _rounded(np.percentile(samples, 99))}
    bound_ms = 1e3 * bounds.seconds(work, bytes_read)
    return {
        "parameters": arena.parameters(contender),
        "flops": {**asdict(work), "total": work.total},
        "bytes_read": {**bytes_read, "total": sum(bytes_read.values())},
        "latency_ms": latency,
        "roofline_ms": _rounded(bound_ms),
        "roofline_percent": _rounded(100.0 * bound_ms / latency["total"]["p50"]),
    }


def _promised(rows: dict[str, dict]) -> dict[str, float]:
    """GridS-16 in our runtime against transformers' dense."""
    theirs, ours = rows["dense, transformers"], rows[f"GridS-{GRIDS}"]

    def ratio(*stages: str) -> float | None:
        if any(stage not in ours["latency_ms"] for stage in stages):
            return None  # inside a CUDA graph
        return _rounded(
            sum(theirs["latency_ms"][stage]["p50"] for stage in stages)
            / sum(ours["latency_ms"][stage]["p50"] for stage in stages)
        )

    return {
        "speedup_grids16_over_transformers_dense": ratio("total"),
        "prefix_speedup": ratio("read"),
        "images_and_prefix_speedup": ratio("see", "read"),
        "flops_ratio": _rounded(ours["flops"]["total"] / theirs["flops"]["total"]),
    }


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")


def _peak_memory(device: str) -> int:
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _host(device: str) -> dict[str, object]:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    on_cuda = torch.device(device).type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if on_cuda else names[0] if names else platform.machine(),
        "cores_used": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def table(result: dict) -> str:
    """For the terminal."""
    unit, scale = ("GF", 1e9) if result["size"] == "full" else ("MF", 1e6)
    bounds = result["bounds"]
    lines = [
        f"  {unit} and MB of weights read per inference; milliseconds, median of {result['runs']} runs",
        f"  {'':<26}{'vision':>8}{'prefix':>8}{'expert':>8}{'total':>8}{'MB':>8}"
        f"{'see':>9}{'read':>9}{'act':>9}{'total':>9}{'p99':>9}{'roofline':>9}",
    ]
    for name, row in result["rows"].items():
        work, times = row["flops"], row["latency_ms"]
        counted = "".join(f"{work[stage] / scale:>8.1f}" for stage in ("vision", "prefix", "expert", "total"))
        taken = "".join(
            f"{times[stage]['p50'] if stage in times else float('nan'):>9.1f}" for stage in ("see", "read", "act")
        )
        lines.append(
            f"  {name:<26}{counted}{row['bytes_read']['total'] / 1e6:>8.0f}{taken}"
            f"{times['total']['p50']:>9.1f}{times['total']['p99']:>9.1f}{row['roofline_percent']:>8.0f}%"
        )
    lines += [
        f"  bounds: {bounds['bytes_per_s'] / 1e9:.1f} GB/s read, {bounds['flops_per_s'] / 1e9:.0f} GFLOP/s; weights in "
        f"bfloat16: torch's own product {bounds['native_flops_per_s'] / 1e9:.0f} GFLOP/s, "
        f"ours {bounds['widened_flops_per_s'] / 1e9:.0f}",
        f"  GridS-{GRIDS} over transformers' dense: {result['speedup_grids16_over_transformers_dense']} times as fast, "
        f"prefix {result['prefix_speedup']}, {100 * result['flops_ratio']:.1f} % of its operations; "
        f"actions differ by at most {result['largest_difference']:.1g}; "
        f"peak memory {result['peak_memory_bytes'] / 1e9:.1f} GB",
    ]
    return "\n".join(lines)
