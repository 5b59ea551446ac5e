"""What the frozen dataclasses let through, and what they say when they do not."""

import dataclasses

import numpy as np
import pytest

from grids_ros.datatypes import ActionChunk, Observation, Pose

UP = (0.0, 0.0, 0.0, 1.0)


def chunk(**changes):
    values = {"stamp_ns": 0, "times": [0.1, 0.2], "positions": np.zeros((2, 3)), "gripper": [0.0, 0.0]}
    values["quaternions"] = [UP, UP]
    return ActionChunk(**{**values, **changes})


@pytest.mark.parametrize(
    ("position", "quaternion", "text"),
    [
        ((0, 0), UP, r"position has shape \(2,\), expected \(3,\)"),
        ((0, 0, np.nan), UP, "position contains NaN"),
        ((0, 0, 0), (0, 0, 0, 0), "not normalised: norm 0"),
        ((0, 0, 0), (0, 0, 0, 1.01), "not normalised: norm 1.01"),
        ((0, 0, 0), (np.inf, 0, 0, 1), "quaternion contains NaN or infinity"),
    ],
)
def test_bad_poses_are_refused(position, quaternion, text):
    with pytest.raises(ValueError, match=text):
        Pose(position, quaternion)


def test_a_pose_is_normalised_copied_and_frozen():
    position = np.array([1.0, 2.0, 3.0])
    pose = Pose(position, (0, 0, 0, 1.0005))
    position[0] = 9.0
    assert pose.position[0] == 1.0
    assert np.linalg.norm(pose.quaternion) == pytest.approx(1.0, abs=1e-15)
    with pytest.raises(ValueError, match="read-only"):
        pose.position[0] = 9.0
    with pytest.raises(dataclasses.FrozenInstanceError):
        pose.position = position


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"times": []}, "at least one step"),
        ({"times": [0.0, 0.1]}, "positive and strictly increasing"),
        ({"times": [0.2, 0.1]}, "positive and strictly increasing"),
        ({"times": [0.1, np.nan]}, "times contains NaN"),
        ({"positions": np.zeros((3, 3))}, r"positions has shape \(3, 3\), expected \(2, 3\)"),
        ({"quaternions": [UP, (0, 0, 0, 2)]}, "not normalised: norm 2"),
        ({"gripper": [0.0]}, r"gripper has shape \(1,\), expected \(2,\)"),
    ],
)
def test_bad_chunks_are_refused(changes, text):
    with pytest.raises(ValueError, match=text):
        chunk(**changes)


def test_the_end_of_a_chunk_is_its_last_step():
    assert chunk(stamp_ns=5_000_000_000).end_ns == 5_200_000_000
    assert len(chunk()) == 2


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"instruction": ""}, "means hold"),
        ({"gripper": np.nan}, "gripper opening is NaN"),
        ({"images": {"wrist": np.zeros((4, 4), np.uint8)}}, r"'wrist' is uint8 \(4, 4\)"),
        ({"images": {"wrist": np.zeros((4, 4, 3))}}, "'wrist' is float64"),
    ],
)
def test_bad_observations_are_refused(changes, text):
    values = {
        "stamp_ns": 0,
        "images": {"wrist": np.zeros((4, 4, 3), np.uint8)},
        "pose": Pose((0, 0, 0), UP),
        "gripper": 0.0,
        "instruction": "lift",
    }
    with pytest.raises(ValueError, match=text):
        Observation(**{**values, **changes})
