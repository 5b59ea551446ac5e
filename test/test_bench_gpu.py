"""The GPU's bench on a machine without one: its steps run, and each stands alone."""

import json

import pytest
import torch
from tiny import SIZE

from grids_ros.bench import gpu, gpu_checks, sizes
from grids_ros.policy.backbones.pi0 import demo_config


@pytest.fixture
def bench(tmp_path, monkeypatch):
    """Of a size that takes no time: 16 cells, so the numbers of tokens are fewer as well."""
    config = demo_config(SIZE, 9, 6, 10, 7)
    monkeypatch.setattr(sizes, "size", lambda name: sizes.Size(config, SIZE.stem, 2, 3, 2, torch.float32))
    return gpu.GpuBench("cpu", "demo", tmp_path, runs=1)


@pytest.mark.slow
def test_every_step_runs_and_agrees(bench, capsys):
    assert bench.run() == 0, capsys.readouterr().out
    found = json.loads((bench.out / "gpu.json").read_text())
    assert found["small_recorded"]["recorded"] == {"used": "recorded", "largest_difference": 0.0}
    assert found["full_grids16_rtc"]["backend"] == "recorded"
    assert {"see", "read", "act"} == set(found["full_dense"]["stages_ms_not_recorded"])
    assert found["transformers_dense"]["latency_ms"]["p50"] > 0.0
    assert found["kernels_by_time"]["counted_on_meta"]["guided"]["total"] > 0


def test_a_step_that_fails_is_kept_and_the_next_one_runs(bench):
    bench.step("broken", lambda subject: 1 / 0)
    bench.step("versions", gpu_checks.versions)
    found = json.loads((bench.out / "gpu.json").read_text())
    assert found["broken"]["error"] == "ZeroDivisionError: division by zero" and "torch" in found["versions"]


def test_no_step_begins_after_the_time_is_up(bench):
    bench._end = 0.0
    bench.step("late", lambda subject: pytest.fail("it ran"))
    assert bench.found["late"]["left_out"] == "the time was up"


def test_without_a_gpu_it_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.run(tmp_path, dry=False) == 2
    assert "no CUDA device; --dry" in capsys.readouterr().err
