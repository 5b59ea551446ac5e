"""grids bench gpu: the runtime on one GPU, checked and measured. No ROS.

Each step stands alone: one that fails says why in the JSON, which is written after every step, and the next one runs.
Steps that would end after the limit are left out. `--dry` runs all of them on the CPU at the demo's size, where a
recording calls its function again. Needs torch, transformers and what `grids_ros.policy` imports.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from grids_ros.bench import gpu_checks as checks
from grids_ros.bench import gpu_latency as latency
from grids_ros.bench.gpu_subject import Subject

LIMIT_S = 9 * 60.0
RUNS = 30
TOKENS = (64, 16, 4)


class GpuBench:
    """The steps, and what they found so far."""

    def __init__(self, device: str, size: str, out: Path, limit_s: float = LIMIT_S, runs: int = RUNS):
        self.subject, self.out = Subject(device, size, runs), out
        self._end = time.monotonic() + limit_s
        self.found: dict[str, dict] = {}

    def run(self) -> int:
        """All steps; how many failed."""
        for check in (
            checks.versions,
            checks.small_eager,
            checks.small_recorded,
            checks.other_device,
            checks.second_thread,
        ):
            self.step(check.__name__, check)
        for tokens in (16, None, *(count for count in TOKENS if count != 16)):
            self.step(f"full_{_name(tokens)}", latency.full, tokens)
        self.step("full_grids16_rtc", latency.full, 16, guided=True)
        self.step("full_grids16_not_compiled", latency.full, 16, compile_layers=False)
        self.step("full_grids16_5_steps", latency.full, 16, steps=5)
        for tokens in (16, None):
            self.step(f"transformers_{_name(tokens)}", latency.transformers_own, tokens)
        self.step("kernels_by_time", latency.kernels_by_time)
        self.step("leaks", checks.leaks)
        self.step("full_grids16_fp8", latency.fp8)
        return sum("error" in result for result in self.found.values())

    def step(self, name: str, measure: Callable[..., dict], *arguments, **options) -> None:
        """Run one, keep what it found or why it failed, write the file."""
        started = time.monotonic()
        if started > self._end:
            result: dict = {"left_out": "the time was up"}
        else:
            try:
                result = measure(self.subject, *arguments, **options)
            except Exception as error:  # noqa: BLE001 - a step that fails is a result, and the next one runs
                result = {"error": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()}
        result["seconds"] = round(time.monotonic() - started, 2)
        self.found[name] = result
        gc.collect()
        if not self.subject.dry:
            torch.cuda.empty_cache()
        self.out.mkdir(parents=True, exist_ok=True)
        (self.out / "gpu.json").write_text(json.dumps(self.found, indent=2) + "\n")
        shown = {key: value for key, value in result.items() if key not in ("traceback", "kernels")}
        print(f"{name}: {json.dumps(shown)}", flush=True)


def _name(tokens: int | None) -> str:
    return "dense" if tokens is None else f"grids{tokens}"


def run(out: Path, dry: bool, device: str = "cuda") -> int:
    """The bench; its exit code: 0, or 1 when a step failed, or 2 without a GPU. The last line is OUT/gpu.json."""
    if not dry and not torch.cuda.is_available():
        print("bench gpu: torch finds no CUDA device; --dry runs the steps on the CPU", file=sys.stderr)
        return 2
    bench = GpuBench("cpu" if dry else device, "demo" if dry else "full", out, runs=3 if dry else RUNS)
    failed = bench.run()
    print(json.dumps(bench.found))
    return 1 if failed else 0


def main(arguments: Sequence[str] | None = None) -> int:
    """python -m grids_ros.bench.gpu, for an environment without the command line's libraries."""
    parser = argparse.ArgumentParser(prog="python -m grids_ros.bench.gpu", description=__doc__.splitlines()[0])
    parser.add_argument("--dry", action="store_true", help="on the CPU at the demo's size")
    parser.add_argument("--out", type=Path, default=Path("out/bench"), help="folder (default: %(default)s)")
    options = parser.parse_args(arguments)
    return run(options.out, options.dry)


if __name__ == "__main__":
    sys.exit(main())
