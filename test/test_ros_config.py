"""What is written down beside the code agrees with it: the parameter file, the RViz configuration, the messages."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import yaml

pytest.importorskip("rclpy", reason="the ROS layer needs rclpy")

from hypothesis import given
from hypothesis import strategies as st
from ros_harness import chunk_messages
from scipy.spatial.transform import Rotation

from grids_ros import parameters
from grids_ros.control import defaults
from grids_ros.datatypes import ActionChunk
from grids_ros.observation import topics
from grids_ros.observation.buffer import AgeLimits
from grids_ros.parameters import follower_config
from grids_ros.ros import conversions, markers

CONFIG = Path(__file__).parent.parent / "config"
TABLES = {node: parameters.table(of) for node, of in parameters.NODES.items()}


def test_the_defaults_of_the_follower_fit_together():
    config = follower_config(parameters.FollowerParameters())
    assert config.period_s == 0.01


def test_evaluation_without_ros_runs_with_the_defaults_of_the_nodes():
    assert follower_config(parameters.FollowerParameters()) == defaults.FOLLOWER
    policy = parameters.PolicyParameters()
    assert policy.rate_hz == defaults.CHUNK_RATE_HZ
    assert policy.camera_max_age_s == (defaults.CAMERA_MAX_AGE_S,)
    ages = AgeLimits({}, policy.pose_max_age_s, policy.gripper_max_age_s, policy.max_future_s)
    assert ages == AgeLimits({})


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
def test_every_default_is_valid_and_every_number_has_a_range(table):
    for parameter in table:
        assert parameter.check(parameter.default) == parameter.default
        kind = parameter.default[0] if isinstance(parameter.default, tuple) else parameter.default
        if type(kind) in (int, float):
            assert parameter.low is not None and parameter.high is not None
            for outside in (parameter.low - 1, parameter.high + 1):
                value = type(kind)(outside)
                with pytest.raises(parameters.ParameterError, match=f"'{parameter.name}'"):
                    parameter.check((value,) * (parameter.length or 1) if parameter.length else value)


def test_tokens_are_a_number_or_auto():
    tokens = next(parameter for parameter in TABLES["grids_policy"] if parameter.name == "tokens")
    assert [tokens.check(value) for value in (0, 8, "auto")] == [0, 8, "auto"]
    for wrong in ("8", "all", "", True, 8.0, -1):
        with pytest.raises(parameters.ParameterError, match=r"an integer in \[0, 4096\], or auto"):
            tokens.check(wrong)


SHOWN = {
    "overlay/base/image_raw",
    "overlay/wrist/image_raw",
    "sampled_points",
    "workspace",
    "target_pose",
    "target_pose_preview",
    "current_pose",
    "object_poses",
    "object_shapes",
}


def test_rviz_shows_the_topics_that_the_nodes_publish():
    displays = yaml.safe_load((CONFIG / "grids.rviz").read_text())["Visualization Manager"]["Displays"]
    assert {display["Topic"]["Value"] for display in displays if "Topic" in display} == SHOWN
    latched = {display["Topic"]["Value"] for display in displays if "Transient" in str(display.get("Topic"))}
    assert latched == {"workspace", "object_shapes"}
    robot = next(display for display in displays if display["Class"].endswith("/RobotModel"))
    assert robot["Enabled"] and robot["Description Topic"]["Value"] == parameters.ROBOT
    assert "Transient" in robot["Description Topic"]["Durability Policy"]


class Dock(NamedTuple):
    """A panel of a window. side: 0 left, 1 right. Sizes in px."""

    side: int
    width: int
    height: int
    open: bool


def docks(state: bytes) -> dict[str, Dock]:
    """The docks by name that QMainWindow::saveState wrote, in columns of one above the other.

    After the version: 0xfd, how many sides; then of each its number, width and height, 0xfc, orientation and how many
    docks; of each 0xfb, its name (length in bytes, UTF-16), flags, then position, size, minimum and maximum.
    """
    (sides,), at, found = struct.unpack_from(">xI", state, 8), 13, {}
    for _ in range(sides):
        side, width, _, count = struct.unpack_from(">3I2xI", state, at)
        at += 18
        for _ in range(count):
            assert state[at] == 0xFB
            (length,) = struct.unpack_from(">I", state, at + 1)
            name, at = state[at + 5 : at + 5 + length].decode("utf-16-be"), at + 5 + length
            flags, _, height = struct.unpack_from(">B2I", state, at)
            at += 17
            found[name] = Dock(side, width, height, bool(flags & 1))
    return found


def test_rviz_opens_with_images_that_can_be_seen():
    """Image docks have the names of their displays. Without a state of the window Qt makes them 145 px wide."""
    config = yaml.safe_load((CONFIG / "grids.rviz").read_text())
    geometry, displays = config["Window Geometry"], config["Visualization Manager"]["Displays"]
    images = [display["Name"] for display in displays if display["Class"].endswith("/Image")]
    found = docks(bytes.fromhex(geometry["QMainWindow State"]))
    assert set(found) == {*images, *(panel["Name"] for panel in config["Panels"])}
    assert all(found[name].open and found[name].width >= 480 and found[name].height >= 360 for name in images)
    left = [dock for dock in found.values() if dock.side == 0]
    assert sum(dock.height for dock in left) <= geometry["Height"] <= 870 and geometry["Width"] <= 1600, (
        "the window fits a screen of 1600x900"
    )


def test_rviz_opens_with_its_list_of_displays_folded_away():
    """RViz unfolds it again only where state, `collapsed` and the button of its side agree."""
    geometry = yaml.safe_load((CONFIG / "grids.rviz").read_text())["Window Geometry"]
    dock = docks(bytes.fromhex(geometry["QMainWindow State"]))["Displays"]
    assert dock.side == 1 and not dock.open and dock.width >= 300
    assert geometry["Displays"] == {"collapsed": True} and geometry["Hide Right Dock"]


def test_rviz_draws_in_the_frames_and_namespaces_of_the_markers():
    config = yaml.safe_load((CONFIG / "grids.rviz").read_text())["Visualization Manager"]
    assert config["Global Options"]["Fixed Frame"] == parameters.NODES["grids_policy"]().base_frame
    shown = {name for display in config["Displays"] for name in display.get("Namespaces", ())}
    drawn = [markers.sampled_points(0, name, np.zeros((1, 3)), "base", 0).ns for name in ("base", "wrist")]
    chunk = ActionChunk(0, np.array([0.1]), np.zeros((1, 3)), np.array([[1.0, 0.0, 0.0, 0.0]]), np.zeros(1))
    drawn += [markers.chunk_path(chunk, "base").ns, markers.workspace((0, 0, 0), (1, 1, 1), "base").ns]
    assert shown == {*drawn, markers.SCENE}


def test_foxglove_shows_the_same_topics_in_the_panels_of_its_layout():
    layout = json.loads((CONFIG / "grids.foxglove.json").read_text())
    panels = layout["configById"]
    images = {panel["imageMode"]["imageTopic"] for name, panel in panels.items() if name.startswith("Image!")}
    assert {topic.lstrip("/") for topic in (*images, *panels["3D!scene"]["topics"])} == SHOWN

    def leaves(node):
        return [node] if isinstance(node, str) else [*leaves(node["first"]), *leaves(node["second"])]

    assert sorted(leaves(layout["layout"])) == sorted(panels)


def test_camera_info_is_looked_for_beside_the_images():
    assert topics.info_topic("camera/base/image_raw") == "camera/base/camera_info"
    assert topics.info_topic("/d435/color/image_raw/compressed") == "/d435/color/camera_info"
    assert topics.info_topic("image") == "camera_info"


@given(st.integers(0, 2**31 * 10**9 - 1), st.integers(1, 20), st.integers(0, 2**32 - 1))
def test_a_chunk_survives_the_messages(stamp_ns, n, seed):
    rng = np.random.default_rng(seed)
    chunk = ActionChunk(
        stamp_ns,
        0.1 * np.arange(1, n + 1),
        rng.normal(size=(n, 3)),
        Rotation.random(n, rng).as_quat(),
        rng.uniform(0.0, 0.08, n),
    )
    back = conversions.to_chunk(*chunk_messages(chunk), "base", "tool")
    assert back.stamp_ns == chunk.stamp_ns
    for name in ("times", "positions", "quaternions", "gripper"):
        assert np.allclose(getattr(back, name), getattr(chunk, name), rtol=0.0, atol=1e-9)
