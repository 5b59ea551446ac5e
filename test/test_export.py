"""`grids export` says what it passes over, and one spoilt message costs no more than itself."""

from __future__ import annotations

import sqlite3

import numpy as np
import pytest
from recording import DOWN, PERIOD, START, foreign, write_step

from grids_ros.cli import call
from grids_ros.data.lerobot.reader import LeRobotReader
from grids_ros.data.writer import BagWriter
from grids_ros.datatypes import Pose
from grids_ros.options import UNUSABLE


def test_an_image_that_cannot_be_decoded_ends_its_episode_and_is_counted(tmp_path, capsys):
    path = tmp_path / "bag"
    with BagWriter(path) as bag:
        bag.instruction(START - 1000, "lift the red cube")
        bag.gripper_command(START - 500, 0.08)
        for step in range(20):
            at = START + step * PERIOD
            write_step(bag, at, step, cameras=("wrist",) if step == 8 else ("base", "wrist"))
            if step == 8:
                nonsense = np.frombuffer(b"nonsense", np.uint8)
                header = bag._header(at, "base_camera_optical_frame")
                message = bag._new("sensor_msgs/msg/CompressedImage", header, "png", nonsense)
                bag.write(bag._names.cameras["base"], at, message)
            if step in (3, 5):
                bag.target_pose(at + 1, Pose([1e9, 0.0, 0.0], DOWN))
    assert call("export", [str(path), "--out", str(tmp_path / "set"), "--codec", "png"]) == 0
    said = capsys.readouterr()
    assert "bag: 2 of target_pose passed over, as: the position of target_pose has 1e+09 m" in said.err
    assert "1 of observation passed over, as: " in said.err
    with LeRobotReader(tmp_path / "set") as source:
        assert source.loss == ""
    assert "of 2 episodes" in said.out


def test_a_bag_that_lost_a_time_of_reception_is_refused(tmp_path, capsys):
    path = foreign(tmp_path / "bag", seconds=2.0)
    database = sqlite3.connect(next(path.glob("*.db3")))
    database.execute("PRAGMA writable_schema = 1")
    database.execute("UPDATE sqlite_master SET sql = replace(sql, 'NOT NULL', '')")
    database.commit()
    database.close()
    database = sqlite3.connect(next(path.glob("*.db3")))
    database.execute("UPDATE messages SET timestamp = NULL WHERE id = 10")
    database.commit()
    database.close()
    remaps = ["instruction:=/ur/task", "current_pose:=/ur/tcp", "joint_states:=/ur/joints"]
    remaps += ["camera/base/image_raw:=/zed/left/color", "camera/wrist/image_raw:=/hand/color"]
    given = [text for remap in remaps for text in ("-r", remap)]
    given += ["-p", "finger_joints:=[finger, finger]", "-p", "base_frame:=ur_base_link"]
    assert call("export", [str(path), "--out", str(tmp_path / "set"), "--codec", "png", *given]) == UNUSABLE
    assert "is damaged: " in (said := capsys.readouterr().err) and "no valid time of reception" in said


@pytest.mark.parametrize("at_ns", [2**63 + 5])
def test_a_bag_with_a_log_time_beyond_what_rosbag2_holds_is_refused(tmp_path, capsys, at_ns):
    with BagWriter(tmp_path / "bag") as bag:
        bag.instruction(START - 1000, "lift the red cube")
        for step in range(5):
            write_step(bag, START + step * PERIOD, step)
        bag.gripper_command(at_ns, 0.08)
    assert call("export", [str(tmp_path / "bag"), "--out", str(tmp_path / "set"), "--codec", "png"]) == UNUSABLE
    assert "have log times beyond 2^63 ns" in capsys.readouterr().err
