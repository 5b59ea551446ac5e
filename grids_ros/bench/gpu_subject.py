"""What the steps of the GPU's bench share: models of two sizes, what they are given, and clocks."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from grids_ros.bench import sizes
from grids_ros.policy.engine import Engine
from grids_ros.policy.grids import attach, attached, detach
from grids_ros.policy.rtc import Guidance
from grids_ros.policy.runner import Backend, backends
from grids_ros.policy.towers import EAGER
from grids_ros.sampler import SamplerConfig

CAMERAS = 2
PLAIN = Backend("eager", lambda: EAGER)


class Subject:
    """What is measured on a device; without a GPU, `dry`, a recording calls its function again.

    size: of the model in full; `demo` is the small one. runs: of each measurement.
    """

    def __init__(self, device: str, size: str, runs: int):
        self.device, self.runs, self.size = torch.device(device), runs, sizes.size(size)
        self.dry = self.device.type != "cuda"
        self._model: Any = None

    @property
    def demo(self) -> sizes.Size:
        return sizes.size("demo")

    def ways(self) -> list[Backend]:
        """Those of the device. A dry recording calls its function again."""
        if not self.dry:
            return backends(self.device, bfloat16=True)
        return [Backend("recorded", PLAIN.layers, _call_again), PLAIN]

    def small(self, device, dtype: torch.dtype, ways: Sequence[Backend] | None = None, widen: bool = False) -> Engine:
        """Of the demo's size with GridS-16, the same weights every time. widen: to float32, after their rounding."""
        torch.manual_seed(0)
        model = sizes.make(self.demo, "cpu").to(dtype)
        attach(model, SamplerConfig(tokens=16, channels=model.config.vlm_config.projection_dim)).sampler.eval()
        if ways is None:
            ways = [PLAIN] if widen else self.ways()
        model = model.to(dtype).to(device, torch.float32 if widen else dtype).requires_grad_(False)
        return Engine(model, self.demo.steps, bucket=self.demo.padded if self.dry else None, ways=ways)

    def full_model(self, tokens: int | None) -> Any:
        """One model for all steps, with as many tokens per camera; None for all."""
        if self._model is None:
            self._model = sizes.make(self.size, str(self.device))
        if attached(self._model):
            detach(self._model)
        if tokens is not None:
            channels = self._model.config.vlm_config.projection_dim
            attach(self._model, SamplerConfig(tokens=tokens, channels=channels)).sampler.eval().requires_grad_(False)
        return self._model

    def arguments(
        self, size: sizes.Size, tokens: int | None = 16, seed: int = 0, words: int = 0, guided: bool = False
    ) -> tuple:
        """Of `Engine.sample_actions`."""
        random, config = torch.Generator().manual_seed(seed), size.config
        vision, words = config.vlm_config.vision_config, words or size.text
        placeholders = CAMERAS * (tokens or (vision.image_size // vision.patch_size) ** 2)
        ids = torch.randint(3, 9, (1, placeholders + size.padded), generator=random)
        ids[:, :placeholders] = config.vlm_config.image_token_id
        mask = (torch.arange(ids.shape[1]) < placeholders + words).long()[None]
        pixels = torch.rand(1, CAMERAS, 3, vision.image_size, vision.image_size, generator=random) * 2.0 - 1.0
        noise = torch.randn(1, config.chunk_size, config.max_action_dim, generator=random)
        state = torch.randn(1, config.max_state_dim, generator=random)
        targets = torch.randn(1, *noise.shape, generator=random)
        weights = torch.linspace(1.0, 0.0, config.chunk_size)[:, None].expand(noise.shape[1:])
        return pixels, ids, mask, state, noise, Guidance(targets, weights.contiguous()) if guided else None

    def latency(self, function: Callable[[], object], runs: int | None = None) -> dict[str, float]:
        """Until the result is on the CPU [ms]."""
        for _ in range(3):
            function()
        samples = []
        for _ in range(max(3, runs or self.runs)):
            started = time.perf_counter()
            function()
            samples.append(1e3 * (time.perf_counter() - started))
        samples.sort()
        return {"p50": round(statistics.median(samples), 3), "min": round(samples[0], 3), "max": round(samples[-1], 3)}

    def stages(self, engine: Engine, arguments: tuple) -> dict[str, float]:
        """Of see, read and act, launched kernel by kernel and waited for [ms]."""
        given: tuple[Any, ...] = engine._inputs(*arguments)
        pixels, ids, mask, state, noise, targets, weights = given
        guidance = None if targets is None else Guidance(targets, weights)
        found: dict[str, float] = {}

        @contextmanager
        def timed(stage: str):
            self.wait()
            started = time.perf_counter()
            yield
            self.wait()
            found[stage] = round(1e3 * (time.perf_counter() - started), 3)

        engine._use(EAGER)
        with torch.inference_mode():
            for _ in range(3):  # the last counts
                with timed("see"):
                    seen = engine.encode_images(pixels)
                with timed("read"):
                    prefix = engine.prefill(seen, ids, mask, state)
                with timed("act"):
                    engine.denoise(prefix, state, noise, guidance)
        return found

    def wait(self) -> None:
        if not self.dry:
            torch.cuda.synchronize(self.device)

    def allocated(self) -> int:
        return 0 if self.dry else torch.cuda.memory_allocated(self.device)


def _call_again(function: Callable, inputs: tuple) -> tuple[Callable[[], None], tuple]:
    """A recording for machines without a GPU, as `graph.Capture`."""
    outputs = function(*inputs)

    def replay() -> None:
        for old, new in zip(outputs, function(*inputs), strict=True):
            if old is not None:
                old.copy_(new)

    return replay, outputs


def difference(have: Tensor, wanted: Tensor) -> float:
    """Root mean square of the difference, in spreads of what is wanted."""
    return float(f"{float((have - wanted).square().mean().sqrt() / wanted.std()):.3g}")
