"""How long the runtime takes on a GPU, by stage and by kernel, beside transformers."""

from __future__ import annotations

import importlib.util
import time
from dataclasses import asdict

import torch

from grids_ros.bench import kernels, sizes
from grids_ros.bench.gpu_subject import CAMERAS, PLAIN, Subject
from grids_ros.policy.arithmetic import FP8
from grids_ros.policy.engine import Engine
from grids_ros.policy.grids import attach
from grids_ros.policy.towers import EAGER, compiled
from grids_ros.sampler import SamplerConfig


def full(
    subject: Subject,
    tokens: int | None,
    guided: bool = False,
    steps: int | None = None,
    compile_layers: bool = True,
    products: torch.dtype | None = None,
) -> dict:
    """Latency of one inference, and of its stages launched one by one; memory."""
    model = subject.full_model(tokens)
    ways = subject.ways()
    if not compile_layers:
        ways = [way for way in ways if "compiled" not in way.name]
    started = time.monotonic()
    engine = Engine(model, steps or subject.size.steps, ways=ways, products=products)
    given = [subject.arguments(subject.size, tokens, seed=seed, guided=guided) for seed in (0, 1)]
    engine.prepare([given])
    ready_s = time.monotonic() - started
    if not subject.dry:
        torch.cuda.reset_peak_memory_stats(subject.device)
    latency = subject.latency(lambda: engine.sample_actions(*given[1]).cpu())
    return {
        "backend": engine.backend,
        "products": {tower: chosen.reason for tower, chosen in engine.products._asdict().items()},
        "ready_s": round(ready_s, 2),
        "latency_ms": latency,
        "stages_ms_not_recorded": subject.stages(engine, given[1]),
        "memory_gib": round(subject.allocated() / 2**30, 2),
    }


def fp8(subject: Subject) -> dict:
    """As `full` with 16 tokens."""
    if importlib.util.find_spec("torchao") is None:
        return {"left_out": "torchao is not installed"}
    return full(subject, 16, products=FP8)


def transformers_own(subject: Subject, tokens: int | None) -> dict:
    """transformers' `sample_actions` as its users run it, the whole model in the dtype of its weights."""
    model, dtype = subject.full_model(tokens), subject.size.dtype
    widened = {parameter: parameter.data for parameter in model.parameters() if parameter.dtype != dtype}
    pixels, ids, mask, state, noise, _ = subject.arguments(subject.size, tokens)
    given = {
        "pixel_values": pixels.to(subject.device, dtype),
        "input_ids": ids.to(subject.device),
        "attention_mask": mask.to(subject.device),
        "state": state.to(subject.device, dtype),
        "noise": noise.to(subject.device, dtype),
        "pixel_attention_mask": torch.ones(1, CAMERAS, dtype=torch.bool, device=subject.device),
        "num_steps": subject.size.steps,
    }
    try:
        for parameter, wide in widened.items():
            parameter.data = wide.to(dtype)
        with torch.no_grad():
            return {"latency_ms": subject.latency(lambda: model.sample_actions(**given).cpu(), subject.runs // 3)}
    finally:
        for parameter, wide in widened.items():
            parameter.data = wide


def kernels_by_time(subject: Subject) -> dict:
    """Of one inference that is not recorded, its layers compiled and not; beside the count of the meta device."""
    engine = Engine(subject.full_model(16), subject.size.steps, ways=[PLAIN])
    arguments, result = subject.arguments(subject.size, 16), {"counted_on_meta": _counted(subject)}
    for name, layers in (("plain", lambda: EAGER), ("compiled", compiled)):
        if subject.dry and name == "compiled":
            continue
        with torch.inference_mode():  # compiles, which a call of the engine never does
            engine._runner._call(layers(), engine._inputs(*arguments))
        engine._runner._layers = layers()
        for _ in range(2):
            engine.sample_actions(*arguments).cpu()
        activities = [torch.profiler.ProfilerActivity.CPU]
        if not subject.dry:
            activities.append(torch.profiler.ProfilerActivity.CUDA)
        with torch.profiler.profile(activities=activities) as profile:
            engine.sample_actions(*arguments).cpu()
        result[name] = _table(subject, profile)
    return result


def _table(subject: Subject, profile) -> dict:
    """Launches in all, and what takes the most time."""
    spent = "self_cpu_time_total" if subject.dry else "self_device_time_total"
    events = [event for event in profile.key_averages() if getattr(event, spent, 0) > 0]
    events.sort(key=lambda event: -getattr(event, spent))
    launched = [event for event in profile.key_averages() if "LaunchKernel" in event.key]
    return {
        "launches": sum(event.count for event in launched),
        "total_ms": round(sum(getattr(event, spent) for event in events) / 1e3, 3),
        "kernels": [(event.key[:90], event.count, round(getattr(event, spent) / 1e3, 3)) for event in events[:25]],
    }


def _counted(subject: Subject) -> dict:
    """On the meta device, for the full size or the dry run's."""
    model = sizes.make(subject.size, "meta")
    attach(model, SamplerConfig(tokens=16, channels=model.config.vlm_config.projection_dim)).sampler.eval()
    engine, result = Engine(model, subject.size.steps), {}
    for guided in (False, True):
        *inputs, guidance = subject.arguments(subject.size, 16, guided=guided, words=subject.size.padded)
        pixels, ids, mask, state, noise = inputs
        drawn = (guidance.targets, guidance.weights) if guidance else (None, None)
        real = (pixels, ids[:, CAMERAS * 16 :], mask.bool(), state, noise, *drawn)
        given = [tensor if tensor is None else tensor.to("meta") for tensor in real]
        with torch.inference_mode():
            counted = kernels.count(engine._infer, *given)
        result["guided" if guided else "free"] = {**asdict(counted), "total": counted.total}
    return result
