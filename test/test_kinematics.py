"""Joints to tool poses: Pinocchio on a published URDF, against MuJoCo's kinematics of our own model; and refusals."""

import mujoco
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from robots import BASE, FLANGE, JOINTS, panda, panda_urdf
from scipy.spatial.transform import Rotation

from grids_ros.kinematics import JointLimitError, Kinematics, KinematicsError
from grids_ros.sim import mujoco_model
from grids_ros.sim.variation import Variation

LOW, HIGH = np.array(mujoco_model.POSITION_LIMITS).T
angles = st.tuples(*[st.floats(float(a), float(b)) for a, b in mujoco_model.POSITION_LIMITS]).map(np.array)


@pytest.fixture(scope="module")
def arm():
    return panda()


@pytest.fixture(scope="module")
def simulation():
    """MuJoCo's pose of our tool for joint angles."""
    compiled = mujoco.MjModel.from_xml_string(mujoco_model.scene_xml(64, Variation()))
    data, tool = mujoco.MjData(compiled), compiled.site("tool").id
    places = [compiled.joint(name).qposadr[0] for name in mujoco_model.ARM_JOINTS]

    def pose(q):
        data.qpos[places] = q
        mujoco.mj_kinematics(compiled, data)
        return data.site_xpos[tool].copy(), Rotation.from_matrix(data.site_xmat[tool].reshape(3, 3))

    return pose


@settings(max_examples=60, deadline=None)
@given(angles)
def test_pinocchio_and_mujoco_put_the_tool_in_one_place(arm, simulation, q):
    """The published URDF ends at the hand, our tool is between the fingertips: 103.4 mm along the hand's z axis."""
    pose, (place, turn) = arm.pose(q), simulation(q)
    tip = pose.position + Rotation.from_quat(pose.quaternion).apply([0.0, 0.0, 0.1034])
    np.testing.assert_allclose(tip, place, atol=1e-6)
    assert (Rotation.from_quat(pose.quaternion) * turn.inv()).magnitude() < 1e-6


@settings(max_examples=30, deadline=None)
@given(st.lists(angles, min_size=1, max_size=5))
def test_a_row_of_joints_is_the_poses_one_by_one(arm, rows):
    places, turns = arm.poses(np.array(rows))
    for row, place, turn in zip(rows, places, turns, strict=True):
        np.testing.assert_array_equal(arm.pose(row).position, place)
        np.testing.assert_allclose(arm.pose(row).quaternion, turn / np.linalg.norm(turn))


@settings(max_examples=30, deadline=None)
@given(angles, st.permutations(range(7)))
def test_joints_are_found_by_name_in_any_order(arm, q, order):
    shuffled = Kinematics(panda_urdf(), [JOINTS[i] for i in order], BASE, FLANGE)
    np.testing.assert_allclose(shuffled.pose(q[list(order)]).position, arm.pose(q).position, atol=1e-12)
    named = dict(zip(JOINTS, q, strict=True)) | {"other": 3.0}
    np.testing.assert_array_equal(shuffled.read(named), q[list(order)])


def test_limits_are_those_of_the_urdf(arm):
    assert [(one.lower, one.upper) for one in arm.limits][3] == pytest.approx((-3.0718, -0.0698))
    arm.check_limits(np.array([mujoco_model.HOME]))
    for index in range(7):
        beyond = np.array([mujoco_model.HOME, mujoco_model.HOME])
        beyond[1, index] = arm.limits[index].upper + 0.01
        with pytest.raises(JointLimitError, match=f"joint {JOINTS[index]} at .* is beyond its limits of"):
            arm.check_limits(beyond)


CONTINUOUS = """<robot name="r"><link name="a"/><link name="b"/><joint name="turn" type="continuous">
<parent link="a"/><child link="b"/><axis xyz="0 0 1"/><origin xyz="0 0 1"/></joint><link name="c"/>
<joint name="arm" type="fixed"><parent link="b"/><child link="c"/><origin xyz="1 0 0"/></joint></robot>"""


def test_a_continuous_joint_turns_on_and_on():
    wheel = Kinematics(CONTINUOUS, ["turn"], "a", "c")
    for angle in (0.5, 0.5 + 2 * np.pi, 50.0):
        np.testing.assert_allclose(wheel.pose([angle]).position, [np.cos(angle), np.sin(angle), 1.0], atol=1e-9)
    wheel.check_limits(np.array([[1e3]]))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"joints": ["panda_joint1", "fr3_joint2"]}, r"no joint fr3_joint2; it has panda_joint1, panda_joint2"),
        ({"joints": []}, "the joints are none, expected one or more"),
        ({"joints": ["panda_joint1"] * 2}, "each once"),
        ({"joints": ["panda_joint1", "panda_finger_joint1"]}, "joint panda_finger_joint1 does not move panda_hand"),
        ({"tool": "tcp"}, "no frame tcp; it has .*panda_hand"),
        ({"base": "world2"}, "no frame world2; it has"),
        ({"urdf": "<robot"}, "robot_description is no URDF"),
        ({"urdf": ""}, "robot_description is no URDF"),
        ({"urdf": "{}"}, "robot_description is no URDF"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(change, said):
    given_ = {"urdf": panda_urdf(), "joints": JOINTS, "base": BASE, "tool": FLANGE, **change}
    with pytest.raises(KinematicsError, match=said):
        Kinematics(**given_)


def test_numbers_that_are_no_joints_are_refused(arm):
    for positions in (np.zeros((2, 6)), np.full((1, 7), np.nan), np.zeros(7)):
        with pytest.raises(KinematicsError, match="shape|NaN"):
            arm.poses(positions)
    with pytest.raises(KinematicsError, match="joint_states lacks panda_joint2.*it has panda_joint1"):
        arm.read({"panda_joint1": 0.0})
    with pytest.raises(KinematicsError, match="cannot be read"):
        Kinematics.from_file("/nowhere.urdf", JOINTS, BASE, FLANGE)
