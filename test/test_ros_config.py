"""What is written down beside the code agrees with it: the parameter file, the RViz configuration, the messages."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml

pytest.importorskip("rclpy", reason="the ROS layer needs rclpy")

from hypothesis import given
from hypothesis import strategies as st
from ros_harness import chunk_messages
from scipy.spatial.transform import Rotation

from grids_ros import intake, parameters
from grids_ros.control import defaults
from grids_ros.datatypes import ActionChunk
from grids_ros.observation import AgeLimits
from grids_ros.parameters import follower_config
from grids_ros.ros import conversions

CONFIG = Path(__file__).parent.parent / "config"
TABLES = {"grids_policy": parameters.POLICY, "grids_follower": parameters.FOLLOWER, "grids_sim": parameters.SIM}
LEFT_TO_LAUNCH = {"checkpoint", "autostart", "publish_clock"}


@pytest.mark.parametrize("node", TABLES)
def test_the_parameter_file_names_every_parameter_with_its_default(node):
    written = yaml.safe_load((CONFIG / "franka_grids.yaml").read_text())[f"/**/{node}"]["ros__parameters"]
    table = {parameter.name: parameter for parameter in TABLES[node]}
    assert set(written) == set(table) - LEFT_TO_LAUNCH
    for name, value in written.items():
        assert table[name].check(value) == table[name].default


def test_the_defaults_of_the_follower_fit_together():
    config = follower_config({parameter.name: parameter.default for parameter in parameters.FOLLOWER})
    assert config.period_s == 0.01


def test_evaluation_without_ros_runs_with_the_defaults_of_the_nodes():
    assert (
        follower_config({parameter.name: parameter.default for parameter in parameters.FOLLOWER}) == defaults.FOLLOWER
    )
    policy = {parameter.name: parameter.default for parameter in parameters.POLICY}
    assert policy["rate_hz"] == defaults.CHUNK_RATE_HZ
    assert policy["camera_max_age_s"] == (defaults.CAMERA_MAX_AGE_S,)
    ages = AgeLimits({}, policy["pose_max_age_s"], policy["gripper_max_age_s"], policy["max_future_s"])
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
    tokens = next(parameter for parameter in parameters.POLICY if parameter.name == "tokens")
    assert [tokens.check(value) for value in (0, 8, "auto")] == [0, 8, "auto"]
    for wrong in ("8", "all", "", True, 8.0, -1):
        with pytest.raises(parameters.ParameterError, match=r"an integer in \[0, 4096\], or auto"):
            tokens.check(wrong)


def test_rviz_shows_the_topics_that_the_nodes_publish():
    displays = yaml.safe_load((CONFIG / "grids.rviz").read_text())["Visualization Manager"]["Displays"]
    topics = {display["Topic"]["Value"] for display in displays if "Topic" in display}
    assert topics == {
        "overlay/base/image_raw",
        "overlay/wrist/image_raw",
        "sampled_points",
        "target_pose",
        "current_pose",
    }


def test_camera_info_is_looked_for_beside_the_images():
    assert intake.info_topic("camera/base/image_raw") == "camera/base/camera_info"
    assert intake.info_topic("/d435/color/image_raw/compressed") == "/d435/color/camera_info"
    assert intake.info_topic("image") == "camera_info"


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
