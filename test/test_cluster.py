"""Commands on a Ray cluster of two nodes: what they give is what this machine gives, also when a worker is killed."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from ray_cluster import wait_until
from recording import write_recording

from grids_ros.data.bags import read_episodes
from grids_ros.replay.__main__ import SCORED, main

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def grids(*arguments):
    """The command in a process of its own."""
    command = [sys.executable, "-m", "grids_ros", *map(str, arguments)]
    return subprocess.Popen(
        command, cwd=Path(__file__).parents[1], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def concluded(process):
    """Its exit code and what it said."""
    said, _ = process.communicate(timeout=240.0)
    return process.returncode, said


def untimed(out):
    summary = json.loads((out / "summary.json").read_text())
    del summary["timings"]
    return summary


def test_replay_gives_the_summary_of_this_machine_though_a_worker_is_killed(cluster, checkpoint, tmp_path):
    bags = [write_recording(tmp_path / name, seconds=seconds) for name, seconds in (("a", 2.0), ("b", 2.5), ("c", 1.5))]
    arguments = [*map(str, bags), "--checkpoint", str(checkpoint), "-p", "threads:=1", "--workers", "2"]
    assert main([*arguments, "--out", str(tmp_path / "here")]) == SCORED

    process = grids("replay", *arguments, "--out", tmp_path / "there", "--cluster", cluster.address)
    try:
        wait_until(lambda: cluster.kill_one_at_work() or process.poll() is not None)
        assert process.poll() is None, process.stdout.read()
        code, said = concluded(process)
    finally:
        process.kill()
    assert code == SCORED, said
    there = untimed(tmp_path / "there")
    assert there == untimed(tmp_path / "here") and [bag["name"] for bag in there["bags"]] == ["a", "b", "c"]


def test_record_writes_every_episode(cluster, tmp_path):
    out = tmp_path / "demonstrations"
    options = ("--episodes", "2", "--workers", "2", "--seed", "300", "--image-size", "32")
    process = grids("record", "--out", out, *options, "--cluster", cluster.address)
    try:
        code, said = concluded(process)
    finally:
        process.kill()
    assert code == 0, said
    words = sorted(episode.instruction for part in out.glob("part_*") for episode in read_episodes(part))
    assert words == ["lift the green cube", "lift the red cube"]
