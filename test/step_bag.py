"""Bags of a few steps, whose every value is known from the step's number."""

from __future__ import annotations

import numpy as np

from grids_ros.data.writer import BagWriter
from grids_ros.datatypes import NANOSECONDS, Pose

START = 5 * NANOSECONDS
STEP = NANOSECONDS // 10
NAMES = ("fr3_joint1", "fr3_finger_joint1", "fr3_finger_joint2")
CAMERAS = ("base", "wrist")
DOWN = [1.0, 0.0, 0.0, 0.0]


def picture(camera: str, step: int) -> np.ndarray:
    return np.random.default_rng([CAMERAS.index(camera), step]).integers(0, 256, (8, 12, 3), dtype=np.uint8)


def pose(step: int) -> Pose:
    return Pose([0.4 + 0.01 * step, 0.0, 0.2], DOWN)


def write_step(bag: BagWriter, stamp: int, step: int) -> None:
    for camera in CAMERAS:
        bag.image(camera, stamp, picture(camera, step))
    bag.current_pose(stamp, pose(step))
    bag.joint_states(stamp, NAMES, [0.1, 0.02, 0.01 + 0.001 * step], [0.0, 0.0, 0.0])
    bag.target_pose(stamp, pose(step + 1))
    bag.object_poses(stamp, [pose(10), pose(20)])


def write_bag(path, words=("lift the red cube", "lift the blue cube"), steps: int = 4, **options) -> None:
    """Episodes of `steps` each, with a step that belongs to none between them."""
    with BagWriter(path, **options) as bag:
        stamp = START
        for text in words:
            bag.instruction(stamp - 1000, text)
            bag.gripper_command(stamp, 0.08)
            for step in range(steps):
                write_step(bag, stamp, step)
                stamp += STEP
            bag.gripper_command(stamp - STEP, 0.0)
            bag.instruction(stamp - 1000, "")
            write_step(bag, stamp, 99)
            stamp += STEP
