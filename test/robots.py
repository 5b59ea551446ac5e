"""A published model of the Franka Panda, out of the package example-robot-data; and a tiny policy of its joints."""

from __future__ import annotations

import dataclasses
import importlib.metadata
from pathlib import Path

import numpy as np
import pytest
from tiny import tiny

from grids_ros.kinematics import Kinematics
from grids_ros.policy import joints
from grids_ros.policy.checkpoint import create
from grids_ros.policy.joints import OFFSETS
from grids_ros.policy.preprocess import Normalization

BASE, FLANGE = "panda_link0", "panda_hand"
HOME = np.array([0.0, -0.38, 0.0, -2.45, 0.0, 2.07, 0.7854])  # [rad]
JOINTS = tuple(f"panda_joint{i}" for i in range(1, 8))


def panda_urdf() -> str:
    """The text of the URDF. Skips the test where the package is absent."""
    try:
        files = importlib.metadata.files("example-robot-data") or []
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("the Panda's URDF is in the package example-robot-data")
    path = next(file for file in files if file.name == "panda.urdf")
    return Path(path.locate()).read_text()


def panda() -> Kinematics:
    """Its seven joints, from its base to its hand."""
    return Kinematics(panda_urdf(), JOINTS, BASE, FLANGE)


def jointed(space=OFFSETS, spread=0.02, names=JOINTS):
    """The tiny policy, in joints of these names: its actions stay within a few hundredths of a radian of the arm."""
    plain = tiny(4)
    spec = dataclasses.replace(plain.spec, state=joints.JOINTS, action=space, joints=tuple(names), step_s=1.0 / 15.0)
    config = plain.model.config
    config.max_action_dim = 8
    middle = np.r_[HOME if space.kind == "position" else np.zeros(7), 0.06]
    normalization = Normalization(np.zeros(8), np.ones(8), middle, np.r_[np.full(7, spread), 0.01])
    return dataclasses.replace(plain, model=create(config, spec), spec=spec, normalization=normalization)
