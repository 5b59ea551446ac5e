"""A training's state survives a kill at any instant, and one process at a time writes it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest
import torch
from recording import write_recording

from grids_ros import cli
from grids_ros.files import locked
from grids_ros.options import UNUSABLE
from grids_ros.train.options import STATE
from grids_ros.train.parallel import World
from grids_ros.train.state import read_facts, write_state

KILLED = """
import os, pathlib, sys, torch
from grids_ros.train.parallel import World
from grids_ros.train.state import write_state
number, last = [0], int(sys.argv[2])
def counted(call):
    def counting(*given, **more):
        number[0] += 1
        if number[0] == last: os.kill(os.getpid(), 9)
        return call(*given, **more)
    return counting
pathlib.Path.rename, os.replace = counted(pathlib.Path.rename), counted(os.replace)
if len(sys.argv) > 3:
    from grids_ros import files
    files._exchanged = lambda *_: False
write_state(pathlib.Path(sys.argv[1]), {"a": torch.ones(3)}, {"step": 2}, World())
"""


@pytest.mark.parametrize("how", [["1"], ["2"], ["1", "in two"], ["2", "in two"]])
def test_a_kill_between_renames_leaves_a_state_to_go_on_from(tmp_path, how):
    state = tmp_path / STATE
    write_state(state, {"a": torch.zeros(3)}, {"step": 1}, World())
    ended = subprocess.run([sys.executable, "-c", KILLED, str(state), *how], timeout=500)
    assert ended.returncode in (0, -signal.SIGKILL)
    cli.parse("train", ["bags", "--out", str(tmp_path), "--resume"])
    assert read_facts(state)["step"] == (1 if ended.returncode else 2)


def test_a_state_that_an_earlier_version_left_aside_is_taken_up(tmp_path):
    write_state(tmp_path / f"{STATE}.before", {"a": torch.zeros(3)}, {"step": 7}, World())
    cli.parse("train", ["bags", "--out", str(tmp_path), "--resume"])
    assert read_facts(tmp_path / STATE)["step"] == 7


@pytest.mark.parametrize("command", [["train", "BAG"], ["record", "--episodes", "1", "--workers", "1"]])
def test_a_second_process_is_refused_while_one_writes(tmp_path, capsys, command):
    bag, out = write_recording(tmp_path / "bag", seconds=1.0), tmp_path / "out"
    name, *given = [str(bag) if word == "BAG" else word for word in command]
    with locked(out):
        assert cli.call(name, [*given, "--out", str(out)]) == UNUSABLE
        assert os.listdir(out) == [".grids_ros.lock"]
    assert f"another process writes into {out}" in capsys.readouterr().err


def test_recording_keeps_files_that_it_did_not_write(tmp_path, capsys):
    (tmp_path / "record.json").write_text("[]")
    with pytest.raises(SystemExit):
        cli.parse("record", ["--out", str(tmp_path)])
    assert "holds a record.json that `record` did not write" in capsys.readouterr().err
