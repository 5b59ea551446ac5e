"""One inference, batch 1: operations, bytes, time, and how near they come to what the device can do.

Every row takes its turn in each round, in one process, so that whatever else the machine does falls on all of them
alike. In its turn it runs twice, and the second run counts: a robot repeats one inference, and what another row left in
the caches is not its own. transformers has two ways on a CPU. If one is far slower, it runs in the first round only,
for it slows down the row after it.
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

from grids_ros.bench import kernels, sizes
from grids_ros.policy.backbone import backbone_of
from grids_ros.policy.engine import Engine
from grids_ros.policy.grids import attach
from grids_ros.sampler import SamplerConfig
from research.model_bench import plot, roofline
from research.model_bench.contenders import GRIDS, Contender, ModelBench

OUTRUN = 1.5  # times as fast as the other of transformers' ways: the other is not run again
THEIRS = ", transformers"


def run(name: str, cameras: int, tokens: Sequence[int], runs: int, device: str, out: Path) -> int:
    """The bench; its exit code. The last line of output is the JSON that is also in OUT/model-<size>.json."""
    size = sizes.size(name)
    family, dtype = size.config.model_type, str(size.dtype).removeprefix("torch.")
    print(f"{family} of size {name} with random weights in {dtype}", flush=True)
    runner = ModelBench(size, sizes.make(size, device), cameras)
    print(f"Measuring {device}: reading and multiplying", flush=True)
    bounds = roofline.measure(device, runner.products.language.dtype)
    contenders = runner.contenders(sorted({*tokens, GRIDS}, reverse=True))
    print("\n".join(f"{tower}: {chosen.reason}" for tower, chosen in runner.products._asdict().items()), flush=True)
    difference = _measure(runner, contenders, runs)
    rows = {contender.name: _row(runner, contender, bounds) for contender in contenders}
    result = {
        **_promised(rows),
        "largest_difference": difference,
        "kernels": _kernels(size, cameras),
        "products": {tower: chosen.reason for tower, chosen in runner.products._asdict().items()},
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
    plot.draw(result, out / f"model-{name}.png")
    print(table(result))
    print(json.dumps(result))
    return 0


def _measure(runner: ModelBench, contenders: Sequence[Contender], runs: int) -> float:
    """Fill in the contenders' seconds. The largest difference between our actions and transformers' most exact."""
    started, actions, turns = time.monotonic(), {}, list(contenders)
    for number in range(-1, runs):  # the first round warms up
        for contender in turns:
            actions[contender.name] = runner.run(contender)
            runner.run(contender)
            del contender.seconds[-2]
            _progress(number, runs, contender.name, time.monotonic() - started)
        if number < 0:
            turns = [contender for contender in turns if not _outrun(contender, turns)]
    for contender in contenders:
        del contender.seconds[:-runs]
    if sys.stdout.isatty():
        print()
    exact = {name.split(",")[0]: name for name in actions if THEIRS in name}  # lent comes after native
    return max((float((actions[theirs] - actions[ours]).abs().max()) for ours, theirs in exact.items()), default=0.0)


def _outrun(contender: Contender, others: Sequence[Contender]) -> bool:
    """Whether it is transformers in a way that is slower by far than the other way."""
    return not contender.ours and any(
        contender.seconds[-1]["total"] > OUTRUN * other.seconds[-1]["total"]
        for other in others
        if not other.ours and other.sampler is contender.sampler
    )


def _progress(number: int, runs: int, row: str, elapsed_s: float) -> None:
    """A line that is written over again on a terminal; elsewhere one for each tenth of the runs, and each slow row."""
    phase = f"run {number + 1} of {runs}" if number >= 0 else "warming up"
    text = f"{phase}, {row}, {elapsed_s:.0f} s so far"
    if sys.stdout.isatty():
        print(f"\r\033[K{text}", end="", flush=True)
    elif runs < 20 or (number % (runs // 10) == 0 and row == "dense"):
        print(text, flush=True)


def _row(runner: ModelBench, contender: Contender, bounds: roofline.Bounds) -> dict[str, object]:
    """Everything about one row; times in milliseconds."""
    work, bytes_read = runner.work(contender), runner.bytes_read(contender)
    latency = {}
    for stage in contender.seconds[0]:
        samples = 1e3 * np.array([seconds[stage] for seconds in contender.seconds])
        latency[stage] = {"p50": _rounded(np.median(samples)), "p99": _rounded(np.percentile(samples, 99))}
    bound_ms = 1e3 * bounds.seconds(work, bytes_read)
    return {
        "runs": len(contender.seconds),
        "backend": contender.engine.backend if contender.engine else None,
        "parameters": runner.parameters(contender),
        "flops": {**asdict(work), "total": work.total},
        "bytes_read": {**bytes_read, "total": sum(bytes_read.values())},
        "latency_ms": latency,
        "roofline_ms": _rounded(bound_ms),
        "roofline_percent": _rounded(100.0 * bound_ms / latency["total"]["p50"]),
    }


def _promised(rows: dict[str, dict]) -> dict[str, float]:
    """GridS-16 in our runtime against transformers' dense and its GridS-16, each the faster of native and lent; or
    against our own, of a family that transformers has not."""
    ours = rows[f"GridS-{GRIDS}"]

    def fastest(name: str) -> dict:
        own = [row for row_name, row in rows.items() if row_name.startswith(f"{name}{THEIRS}")]
        own = own or [rows[name]]  # of a family that transformers has not: beside our own
        return min(own, key=lambda row: row["latency_ms"]["total"]["p50"])

    dense = fastest("dense")

    def ratio(*stages: str, theirs: dict = dense) -> float | None:
        if any(stage not in ours["latency_ms"] for stage in stages):
            return None  # inside a CUDA graph
        return _rounded(
            sum(theirs["latency_ms"][stage]["p50"] for stage in stages)
            / sum(ours["latency_ms"][stage]["p50"] for stage in stages)
        )

    return {
        "speedup_grids16_over_transformers_dense": ratio("total"),
        "speedup_grids16_over_transformers_grids16": ratio("total", theirs=fastest(f"GridS-{GRIDS}")),
        "prefix_speedup": ratio("read"),
        "images_and_prefix_speedup": ratio("see", "read"),
        "flops_ratio": _rounded(ours["flops"]["total"] / dense["flops"]["total"]),
    }


def _kernels(size: sizes.Size, cameras: int) -> dict[str, dict[str, int]]:
    """What one inference with GridS-16 launches on a GPU without compiling, counted on the meta device."""
    model = sizes.make(size, "meta")
    attach(
        model, SamplerConfig(tokens=GRIDS, channels=backbone_of(model.config.model_type).width(model.config))
    ).sampler.eval()
    engine, side = Engine(model, size.steps), size.config.vlm_config.vision_config.image_size
    chunk, found = (1, size.config.chunk_size, size.config.max_action_dim), {}
    for name in ("free", "guided"):
        with torch.device("meta"):
            ids = torch.zeros(1, size.text, dtype=torch.long)
            mask = torch.ones(1, cameras * GRIDS + size.text, dtype=torch.bool)
            drawn = (torch.empty(1, *chunk), torch.empty(chunk[1:])) if name == "guided" else (None, None)
            pixels, state = torch.empty(1, cameras, 3, side, side), torch.empty(1, size.config.max_state_dim)
            given = pixels, ids, mask, state, torch.empty(chunk), *drawn
        with torch.inference_mode():
            counted = kernels.count(engine._infer, *given)
        found[name] = {**asdict(counted), "total": counted.total}
    return found


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
    whose = "transformers'" if any(THEIRS in name for name in result["rows"]) else "our"
    unit, scale = ("GF", 1e9) if result["size"] != "demo" else ("MF", 1e6)
    bounds = result["bounds"]
    lines = [
        f"  {unit} and MB of weights read per inference; milliseconds, median of {result['runs']} runs; of 1 where "
        "transformers' other way is faster by far",
        f"  {'':<30}{'vision':>8}{'prefix':>8}{'expert':>8}{'total':>8}{'MB':>8}"
        f"{'see':>9}{'read':>9}{'act':>9}{'total':>9}{'p99':>9}{'roofline':>9}",
    ]
    for name, row in result["rows"].items():
        work, times = row["flops"], row["latency_ms"]
        counted = "".join(f"{work[stage] / scale:>8.1f}" for stage in ("vision", "prefix", "expert", "total"))
        taken = "".join(
            f"{times[stage]['p50'] if stage in times else float('nan'):>9.1f}" for stage in ("see", "read", "act")
        )
        lines.append(
            f"  {name:<30}{counted}{row['bytes_read']['total'] / 1e6:>8.0f}{taken}"
            f"{times['total']['p50']:>9.1f}{times['total']['p99']:>9.1f}{row['roofline_percent']:>8.0f}%"
        )
    lines += [
        f"  bounds: {bounds['bytes_per_s'] / 1e9:.1f} GB/s read, {bounds['flops_per_s'] / 1e9:.0f} GFLOP/s; weights in "
        f"bfloat16: torch's own product {bounds['native_flops_per_s'] / 1e9:.0f} GFLOP/s, "
        f"ours {bounds['widened_flops_per_s'] / 1e9:.0f}",
        f"  GridS-{GRIDS} over {whose} dense: {result['speedup_grids16_over_transformers_dense']} times as fast, "
        f"over its own GridS-{GRIDS}: {result['speedup_grids16_over_transformers_grids16']}; "
        f"prefix {result['prefix_speedup']}, {100 * result['flops_ratio']:.1f} % of its operations; "
        f"{result['kernels']['free']['total']} kernels, with RTC {result['kernels']['guided']['total']}; "
        f"actions differ by at most {result['largest_difference']:.1g}; "
        f"peak memory {result['peak_memory_bytes'] / 1e9:.1f} GB",
    ]
    return "\n".join(lines)
