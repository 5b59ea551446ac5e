"""The simulated arm: its kinematics against the data sheet's formula, its servo, its cameras and its objects."""

from __future__ import annotations

import os
import subprocess
import sys

import mujoco
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from grids_ros.datatypes import Pose
from grids_ros.sim import mujoco_model
from grids_ros.sim.scene import DOWN, FINGER_SPEED, Scene
from grids_ros.sim.servo import PERIOD_S, ArmServo
from grids_ros.sim.variation import Variation

# Franka's table of Denavit-Hartenberg parameters (Craig): a [m], d [m], alpha [rad]; the last row is the flange.
DH = (
    (0.0, 0.333, 0.0),
    (0.0, 0.0, -np.pi / 2),
    (0.0, 0.316, np.pi / 2),
    (0.0825, 0.0, np.pi / 2),
    (-0.0825, 0.384, -np.pi / 2),
    (0.0, 0.0, np.pi / 2),
    (0.088, 0.0, np.pi / 2),
    (0.0, 0.107, 0.0),
)


def forward_kinematics(joints: np.ndarray) -> np.ndarray:
    """Tool to base, shape (4, 4), by multiplying the table's transforms; the hand is turned by -45 degrees."""
    total = np.eye(4)
    for (a, d, alpha), theta in zip(DH, [*joints, 0.0], strict=True):
        about_x, about_z = np.eye(4), np.eye(4)
        about_x[:3, :3], about_x[0, 3] = Rotation.from_euler("x", alpha).as_matrix(), a
        about_z[:3, :3], about_z[2, 3] = Rotation.from_euler("z", theta).as_matrix(), d
        total = total @ about_x @ about_z
    tool = np.eye(4)
    tool[:3, :3], tool[2, 3] = Rotation.from_euler("z", -np.pi / 4).as_matrix(), 0.1034
    return total @ tool


@pytest.fixture(scope="module")
def shared() -> Scene:
    """One scene for all tests of the file: each resets it."""
    scene = Scene(image_size=96)
    yield scene
    scene.close()


@pytest.fixture
def scene(shared) -> Scene:
    shared.reset(3)
    return shared


@pytest.mark.parametrize(
    "xml", [mujoco_model.arm_xml(), mujoco_model.scene_xml(64, Variation())], ids=["servo", "scene"]
)
def test_kinematics_are_those_of_the_data_sheet(xml):
    arm = mujoco.MjModel.from_xml_string(xml)
    data = mujoco.MjData(arm)
    addresses = [arm.joint(name).qposadr[0] for name in mujoco_model.ARM_JOINTS]
    low, high = np.array(mujoco_model.POSITION_LIMITS).T
    np.testing.assert_allclose(
        np.array([arm.joint(name).range for name in mujoco_model.ARM_JOINTS]), np.stack([low, high], 1)
    )
    for joints in np.random.default_rng(0).uniform(low, high, (50, 7)):
        data.qpos[addresses] = joints
        mujoco.mj_kinematics(arm, data)
        expected = forward_kinematics(joints)
        np.testing.assert_allclose(data.site("tool").xpos, expected[:3, 3], atol=1e-9)
        np.testing.assert_allclose(data.site("tool").xmat.reshape(3, 3), expected[:3, :3], atol=1e-9)


def test_resets_repeat_and_differ_and_keep_objects_apart(shared):
    seen = set()
    for seed in range(40):
        shared.reset(seed)
        positions = shared.object_positions()
        assert set(positions) == {"red", "green", "blue", "bowl"}
        for first in positions:
            assert 0.35 < positions[first][0] < 0.70 and abs(positions[first][1]) < 0.25
            for second in positions:
                apart = np.linalg.norm(positions[first][:2] - positions[second][:2])
                assert first == second or apart > mujoco_model.CUBE_SIDE * np.sqrt(2)
        for colour in mujoco_model.COLOURS:
            assert positions[colour][2] == pytest.approx(mujoco_model.CUBE_SIDE / 2, abs=2e-3)
        assert shared.time_s == 0.0 and shared.gripper_opening() == pytest.approx(mujoco_model.MAX_OPENING, abs=2e-3)
        seen.add(tuple(positions["red"].round(4)))
    assert len(seen) == 40
    shared.reset(7)
    first = (shared.joint_positions(), *shared.object_positions().values())
    shared.step(Pose([0.5, 0.1, 0.3], DOWN), 0.0, 0.5)
    shared.reset(7)
    for before, after in zip(first, (shared.joint_positions(), *shared.object_positions().values()), strict=True):
        np.testing.assert_array_equal(before, after)


def test_the_arm_reaches_its_target_and_stays_there(scene):
    target = Pose([0.45, -0.12, 0.25], (Rotation.from_euler("z", 0.5) * Rotation.from_quat(DOWN)).as_quat())
    scene.step(target, None, 2.0)
    scene.step(None, None, 1.0)
    pose = scene.tool_pose()
    assert np.linalg.norm(pose.position - target.position) < 0.004
    turn = Rotation.from_quat(pose.quaternion) * Rotation.from_quat(target.quaternion).inv()
    assert turn.magnitude() < 0.02
    np.testing.assert_array_equal(scene.target_pose.position, target.position)


def test_a_distant_target_is_approached_within_the_joint_speeds(scene):
    scene.step(Pose([0.3, 0.5, 0.6], DOWN), None, 0.0)
    last = scene.joint_positions()[:7]
    moved = 0.0
    for _ in range(60):
        scene.step(None, None, PERIOD_S)
        joints = scene.joint_positions()[:7]
        speed = np.abs(joints - last) / PERIOD_S
        assert (speed < 1.15 * np.array(mujoco_model.VELOCITY_LIMITS)).all(), (
            "the arm lags its servo, it does not teleport"
        )
        moved, last = moved + np.abs(joints - last).sum(), joints
    assert moved > 0.5


def test_an_unreachable_target_leaves_the_arm_within_its_limits(scene):
    low, high = np.array(mujoco_model.POSITION_LIMITS).T
    for position in ([3.0, 0.0, 0.5], [0.0, 0.0, 0.1], [0.5, 0.0, -0.5]):
        scene.step(Pose(position, DOWN), None, 1.5)
        joints = scene.joint_positions()[:7]
        assert np.isfinite(joints).all()
        assert (joints > low - 0.02).all() and (joints < high + 0.02).all()
    scene.step(Pose([0.5, 0.0, 0.3], DOWN), None, 3.0)
    assert np.linalg.norm(scene.tool_pose().position - [0.5, 0.0, 0.3]) < 0.01, "it comes back from the limits"


def test_the_servo_alone_converges_from_home():
    target = Pose([0.5, 0.1, 0.2], DOWN)
    joints = ArmServo().solve(target, np.array(mujoco_model.HOME))
    np.testing.assert_allclose(forward_kinematics(joints)[:3, 3], target.position, atol=2e-3)


def test_steps_of_any_length_add_up(scene):
    for _ in range(90):
        scene.step(None, None, 1.0 / 30.0)
    assert scene.time_s == pytest.approx(3.0, abs=PERIOD_S)


def test_the_fingers_take_their_time_and_stay_in_their_range(scene):
    scene.step(None, -1.0, 0.4)
    assert scene.gripper_opening() == pytest.approx(mujoco_model.MAX_OPENING - 0.4 * FINGER_SPEED, abs=0.008)
    scene.step(None, None, 0.8)
    assert 0.0 <= scene.gripper_opening() < 0.002 and scene.gripper_target == 0.0
    scene.step(None, 5.0, 1.2)
    assert scene.gripper_opening() == pytest.approx(mujoco_model.MAX_OPENING, abs=0.002)


def test_a_push_moves_the_arm_but_never_asks_for_a_new_task(scene):
    before = scene.tool_pose().position
    scene.push(np.array([0.06, -0.05, 0.03]), 0.3, 0.5)
    moved = scene.tool_pose().position - before
    assert moved[0] > 0.02 and moved[1] < -0.015
    assert scene.gripper_target == mujoco_model.MAX_OPENING


@pytest.mark.parametrize("camera", mujoco_model.CAMERAS)
def test_a_cube_is_seen_where_intrinsics_and_extrinsics_say(scene, camera):
    """Projects each cube with K and the optical frame's pose, and looks at the colour of that pixel."""
    channel = {"red": 0, "green": 1, "blue": 2}
    seen = 0
    for seed in range(4):
        scene.reset(seed)
        view, matrix = scene.camera_pose(camera), scene.camera_intrinsics(camera)
        image = scene.render(camera).astype(int)
        for colour in mujoco_model.COLOURS:
            centre = scene.object_positions()[colour]
            ray = matrix @ Rotation.from_quat(view.quaternion).inv().apply(centre - view.position)
            assert ray[2] > 0.0, "in front of the camera"
            x, y = (ray[:2] / ray[2]).astype(int)
            if 2 <= x < 94 and 2 <= y < 94:
                pixel = image[y, x]
                visible = pixel.max() - pixel.min() > 60  # not hidden behind the white and grey of the arm
                seen += visible
                assert not visible or pixel.argmax() == channel[colour]
    assert seen >= (10 if camera == "base" else 3)


def test_images_change_with_the_scene_and_have_the_size_asked_for(scene):
    base, wrist = scene.render("base"), scene.render("wrist")
    assert base.shape == wrist.shape == (96, 96, 3) and base.dtype == np.uint8
    assert (base != wrist).any()
    assert scene.render("overview", (90, 160)).shape == (90, 160, 3)
    scene.reset(4)
    assert (scene.render("base") != base).any()
    scene.reset(3)
    np.testing.assert_array_equal(scene.render("base"), base)


def test_an_unknown_camera_is_refused_with_the_known_ones(scene):
    for call in (scene.render, scene.camera_intrinsics, scene.camera_pose):
        with pytest.raises(ValueError, match="no camera 'top'.*base, wrist, overview"):
            call("top")


def test_physics_works_without_opengl_and_the_first_image_says_what_is_missing():
    script = (
        "from grids_ros.sim.scene import RenderError, Scene\n"
        "scene = Scene(image_size=32)\n"
        "scene.step(None, None, 0.1)\n"
        "print('moves', scene.time_s > 0)\n"
        "try:\n    scene.render('base')\nexcept RenderError as error:\n    print(error)\n"
    )
    environment = {**os.environ, "MUJOCO_GL": "no-such-backend"}
    result = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=99)
    assert result.returncode == 0, result.stderr
    moves, message = result.stdout.strip().splitlines()
    assert moves == "moves True"
    assert "MUJOCO_GL is no-such-backend" in message and "libegl1" in message and "libosmesa6" in message
