"""The bench of one inference, at a size that takes no time: rows that agree, figures that add up. No ROS."""

import dataclasses
import json
import subprocess
import sys

import pytest
import torch
from families import family
from tiny import SIZE

from grids_ros.bench import sizes
from grids_ros.policy.backbones.pi0 import demo_config
from research.flops import Flops
from research.model_bench import bench as model
from research.model_bench.command import parse
from research.model_bench.roofline import Bounds


def tiny_size(dtype):
    config = demo_config(dataclasses.replace(SIZE, image_size=64), 9, 6, 10, 7)  # 64 cells
    return sizes.Size(config, SIZE.stem, 2, 12, 5, dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_last_line_says_what_was_measured(dtype, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sizes, "size", lambda name: tiny_size(dtype))
    assert model.run("demo", 2, [4], 3, "cpu", tmp_path) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result == json.loads((tmp_path / "model-demo.json").read_text())
    assert (tmp_path / "model-demo.png").stat().st_size > 10_000
    assert {"speedup_grids16_over_transformers_dense", "prefix_speedup", "flops_ratio"} < set(result)
    counted = result["kernels"]
    assert 0 < counted["free"]["total"] < counted["guided"]["total"]
    assert result["largest_difference"] < 1e-3, "transformers and the runtime act alike, row by row"
    rows = result["rows"]
    names = ["dense", "GridS-16", "GridS-4", "fixed_grid-16", "average-16", "random_keep-16", "norm_top_k-16"]
    ways = ("native", "lent") if dtype == torch.bfloat16 else ("native",)
    assert set(rows) == {*names, *(f"{name}, transformers {way}" for name in names[:3] for way in ways)}
    theirs = min(rows[f"dense, transformers {way}"]["latency_ms"]["total"]["p50"] for way in ways)
    ours = rows["GridS-16"]["latency_ms"]["total"]["p50"]
    assert result["speedup_grids16_over_transformers_dense"] == pytest.approx(theirs / ours, rel=2e-3)
    for row in rows.values():
        assert row["flops"]["total"] == sum(row["flops"][field.name] for field in dataclasses.fields(Flops))
        assert set(row["latency_ms"]) == {"see", "read", "act", "total"}
        assert all(0.0 < times["p50"] <= times["p99"] for times in row["latency_ms"].values())
    ratio = rows["GridS-16"]["flops"]["total"] / rows["dense, transformers native"]["flops"]["total"]
    assert result["flops_ratio"] == pytest.approx(ratio, rel=1e-3)
    assert rows["GridS-16"]["parameters"] > rows["fixed_grid-16"]["parameters"] == rows["dense"]["parameters"]


@pytest.mark.parametrize("name", ["pi05", "smolvla"])
def test_families_that_transformers_has_not_are_measured_by_themselves(name, tmp_path, monkeypatch, capsys):
    config = family(name, None).model.config
    monkeypatch.setattr(sizes, "size", lambda name: sizes.Size(config, None, 2, 12, 5, torch.float32))
    assert model.run(name, 2, [4], 2, "cpu", tmp_path) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert {"dense", "GridS-16", "GridS-4", "average-16"} < set(result["rows"])
    assert not any("transformers" in row for row in result["rows"])
    dense, few = (result["rows"][row] for row in ("dense", "GridS-4"))
    assert few["flops"]["prefix"] < dense["flops"]["prefix"] and few["flops"]["vision"] == dense["flops"]["vision"]
    assert few["bytes_read"]["expert"] == dense["bytes_read"]["expert"] > 0


def test_it_needs_no_ros():
    code = "import sys, research.model_bench.command, research.model_bench.bench; print('rclpy' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ran.stdout.strip() == "False", ran.stderr


def test_a_stage_is_bound_by_the_slower_of_reading_and_computing():
    bounds = Bounds(bytes_per_s=10.0, flops_per_s=100.0, native_flops_per_s=1.0, widened_flops_per_s=1.0)
    work = Flops(vision=200, projector=0, sampler=0, prefix=100, expert=0)
    assert bounds.seconds(work, {"vision": 10, "prefix": 50}) == pytest.approx(2.0 + 5.0)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--cameras", "0"], "--cameras is 0, expected at least 1"),
        (["--runs", "0"], "--runs is 0, expected at least 1"),
        (["--tokens", "16", "257"], "--tokens 257: expected 1 to 256"),
        (["--size", "huge"], "invalid choice: 'huge'"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, text, capsys):
    with pytest.raises(SystemExit):
        parse(arguments)
    assert text in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "runs"),
    [([], 200), (["--size", "full"], 5), (["--size", "full", "--device", "cuda"], 200), (["--runs", "3"], 3)],
)
def test_a_large_model_on_a_cpu_runs_less_often(arguments, runs):
    assert parse(arguments).runs == runs
