"""How an inference is launched: kernel by kernel, or recorded as one CUDA graph, its layers compiled or not.

Each way is checked before it is used, against the plain one, on inputs that it was not recorded with.
"""

from __future__ import annotations

import logging
import os
import shutil
import sysconfig
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from grids_ros.policy.graph import Capture, CudaCapture, Inputs, Outputs, Recordings
from grids_ros.policy.towers import EAGER, Layers, compiled, compiled_for_any_length

AGREE = 0.05  # of the spread of the outputs: bfloat16 kernels that add in another order stay well below
RECOMPILE_LIMIT = 1024  # of a layer function in a process: policies, prompts, numbers of tokens, kinds of step
UNPREPARED = "eager_on_recompile"  # what happens to inputs that no layer was compiled for
CACHE = "TORCHINDUCTOR_CACHE_DIR"  # where Inductor keeps what it compiled; by default a folder that reboots empty

log = logging.getLogger(__name__)


class Backend(NamedTuple):
    """One way to launch. layers: makes the layer functions. capture: records, or None."""

    name: str
    layers: Callable[[], Layers]
    capture: Capture | None = None


def backends(device: torch.device, bfloat16: bool) -> list[Backend]:
    """Those that a device may use, the fastest first. The last is always plain.

    bfloat16: whether all towers multiply in it: then compiling is worth some 20 s at the first start on a CPU.
    """
    plain = Backend("eager", lambda: EAGER)
    if device.type == "cpu" and bfloat16 and _compiles():
        return [Backend("compiled", compiled_for_any_length), plain]
    if device.type != "cuda":
        return [plain]
    capture = CudaCapture(device)
    return [Backend("compiled and recorded", compiled, capture), Backend("recorded", plain.layers, capture), plain]


class Runner:
    """Runs a function of tensors by the first backend that agrees with the plain one."""

    def __init__(self, function: Callable[..., Outputs], use: Callable[[Layers], None], ways: Sequence[Backend]):
        """use: sets the layer functions that the function calls from then on. ways: see `backends`."""
        self._function, self._use, self._ways = function, use, list(ways)
        self._recordings = Recordings()
        self._layers = EAGER
        self.refused: list[str] = []  # backends that failed or disagreed, and why

    @property
    def backend(self) -> str:
        """The name of the one in use."""
        return self._ways[0].name

    @property
    def records(self) -> bool:
        return self._ways[0].capture is not None

    def prepare(self, meaning: Hashable, pairs: Sequence[tuple[Inputs, Inputs]]) -> None:
        """Get ready for inputs of these shapes, two of each: one to record, another to check the recording with.

        A backend that fails or disagrees is logged and never used again; the next one takes its place.
        """
        while (problem := self._try(self._ways[0], meaning, pairs)) is not None:
            failed = self._ways.pop(0)
            self._recordings.clear()
            self.refused.append(f"backend {failed.name!r} is not used: {problem}; {self.backend!r} goes on")
            log.error(self.refused[-1])
        self._layers = EAGER if self.records else self._ways[0].layers()

    def __call__(self, meaning: Hashable, inputs: Inputs) -> Outputs:
        """The function's outputs. What nothing was prepared for runs as it is: nothing is recorded or compiled."""
        if self._recordings.holds(meaning, inputs):
            return self._recordings.replay(meaning, inputs)
        if self._layers is EAGER:
            return self._call(EAGER, inputs)
        with torch.compiler.set_stance(UNPREPARED):
            return self._call(self._layers, inputs)

    def forget(self) -> None:
        """Drop the recordings: what they mean has changed."""
        self._recordings.clear()

    def _call(self, layers: Layers, inputs: Inputs) -> Outputs:
        self._use(layers)
        return self._function(*inputs)

    def _try(self, way: Backend, meaning: Hashable, pairs: Sequence[tuple[Inputs, Inputs]]) -> str | None:
        """What is wrong with a backend, or None."""
        if len(self._ways) == 1:  # the plain one has nothing to agree with
            for pair in pairs:
                for inputs in pair:
                    self._call(way.layers(), inputs)
            return None
        from torch._dynamo.exc import FailOnRecompileLimitHit  # a second to import, for what compiles alone

        os.environ.setdefault(CACHE, str(_cache() / "grids_ros" / "inductor"))
        try:
            with torch._dynamo.config.patch(recompile_limit=RECOMPILE_LIMIT):
                found = (self._check(way, meaning, *pair) for pair in pairs)
                return next((problem for problem in found if problem), None)
        except (RuntimeError, OSError, AssertionError, FailOnRecompileLimitHit) as error:  # of compilers and CUDA
            return f"{type(error).__name__}: {error}".splitlines()[0]

    def _check(self, way: Backend, meaning: Hashable, first: Inputs, second: Inputs) -> str | None:
        if way.capture:
            self._use(way.layers())
            self._recordings.record(meaning, way.capture, self._function, first)
            have = self._recordings.replay(meaning, second)
        else:
            have = self._call(way.layers(), second)
        for number, (mine, plain) in enumerate(zip(have, self._call(EAGER, second), strict=True)):
            if plain is None or mine is None:
                continue
            off, spread = float((mine - plain).square().mean().sqrt()), float(plain.std())
            if not off <= AGREE * spread:
                return f"output {number} is off by {off:.3g}, its spread is {spread:.3g}"
        return None


def _compiles() -> bool:
    """Whether Inductor finds what its code for a CPU needs: a C++ compiler and Python's headers."""
    headers = Path(sysconfig.get_path("include")) / "Python.h"
    return shutil.which(os.environ.get("CXX", "g++")) is not None and headers.exists()


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
