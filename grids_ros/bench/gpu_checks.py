"""Whether the runtime is right on a GPU: against a CPU, recorded, beside other threads, again and again."""

from __future__ import annotations

import itertools
import platform
import threading
import time
from typing import Any

import torch
import transformers

from grids_ros.bench.gpu_subject import CAMERAS, PLAIN, Subject, difference
from grids_ros.policy.engine import Engine
from grids_ros.policy.grids import attached

LEAKS = 200  # recordings that are made and dropped
AGREE = 0.05  # of the actions' spread, as in policy/runner.py


def versions(subject: Subject) -> dict:
    found = {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
        "cuda": torch.version.cuda,
    }
    if subject.dry:
        return {**found, "device": "cpu"}
    properties = torch.cuda.get_device_properties(subject.device)
    capability = f"{properties.major}.{properties.minor}"
    memory = round(properties.total_memory / 2**30, 1)
    return {**found, "device": properties.name, "capability": capability, "memory_gib": memory}


def small_eager(subject: Subject) -> dict:
    """The demo's size in float32 and in bfloat16 on the device, beside float32 on the CPU with the same weights."""
    result = {}
    for dtype in (torch.float32, torch.bfloat16):
        exact, engine = subject.small("cpu", dtype, widen=True), subject.small(subject.device, dtype)
        apart = []
        for guided in (False, True):
            arguments = subject.arguments(subject.demo, guided=guided)
            apart.append(difference(engine.sample_actions(*arguments).cpu(), exact.sample_actions(*arguments)))
        result[str(dtype)] = {"free": apart[0], "guided": apart[1]}
        if max(apart) > (1e-2 if dtype == torch.float32 else AGREE):
            raise AssertionError(f"{dtype} on the device is not what float32 is on the CPU: {result}")
    return result


def small_recorded(subject: Subject) -> dict:
    """Each backend, for all text lengths, numbers of tokens, with RTC and without, on inputs never recorded."""
    result = {}
    for way in subject.ways()[:-1]:
        engine = subject.small(subject.device, torch.bfloat16, [way, PLAIN])
        plain, worst = subject.small(subject.device, torch.bfloat16, [PLAIN]), 0.0
        for tokens in (16, 4):
            for each in (engine, plain):
                wrapped: Any = attached(each.model)
                wrapped.sampler.use(tokens)
            _prepare_all(subject, engine, tokens)
            for words, guided in itertools.product(range(1, subject.demo.padded + 1), (False, True)):
                arguments = subject.arguments(subject.demo, tokens, 2, words, guided)
                worst = max(worst, difference(engine.sample_actions(*arguments), plain.sample_actions(*arguments)))
        result[way.name] = {"used": engine.backend, "largest_difference": worst}
        if engine.backend != way.name or worst > AGREE:
            raise AssertionError(f"backend {way.name!r} does not agree: {result}")
    return result


def _prepare_all(subject: Subject, engine: Engine, tokens: int) -> None:
    """For prompts of any length, with RTC and without."""
    lengths = engine.text_lengths(subject.demo.padded, CAMERAS * tokens)
    engine.prepare(
        [
            [subject.arguments(subject.demo, tokens, seed, words, guided) for seed in (0, 1)]
            for words, guided in itertools.product(lengths, (False, True))
        ]
    )


def other_device(subject: Subject) -> dict:
    """An engine on the last GPU while the first is the current one."""
    if subject.dry or torch.cuda.device_count() < 2:
        return {"left_out": "there is one device"}
    last = torch.device("cuda", torch.cuda.device_count() - 1)
    engine = subject.small(last, torch.bfloat16)
    engine.prepare([[subject.arguments(subject.demo, seed=seed) for seed in (0, 1)]])
    return {"device": str(last), "used": engine.backend}


def second_thread(subject: Subject) -> dict:
    """Recording while another thread allocates on the device."""
    engine, busy, allocated = subject.small(subject.device, torch.bfloat16), threading.Event(), [0]

    def allocate() -> None:
        while not busy.is_set():
            torch.empty(1 << 20, device=subject.device)
            allocated[0] += 1
            time.sleep(1e-3)

    thread = threading.Thread(target=allocate, daemon=True)
    thread.start()
    try:
        engine.prepare([[subject.arguments(subject.demo, seed=seed) for seed in (0, 1)]])
    finally:
        busy.set()
        thread.join()
    return {"used": engine.backend, "allocations": allocated[0]}


def leaks(subject: Subject) -> dict:
    """Recordings that are made and dropped: what stays allocated."""
    engine, used = subject.small(subject.device, torch.bfloat16), []
    for number in range(10 if subject.dry else LEAKS):
        engine._runner.forget()
        engine.prepare([[subject.arguments(subject.demo, seed=seed) for seed in (0, 1)]])
        if number in (4, 9, LEAKS - 1):
            used.append(subject.allocated())
    return {"recordings": number + 1, "used": engine.backend, "bytes_after_5_10_and_all": used}
