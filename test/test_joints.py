"""Policies of joints: spaces whose two functions are inverse, chunks by forward kinematics, refusals by name."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from robots import BASE, FLANGE, HOME, JOINTS, jointed, panda, panda_urdf
from scipy.spatial.transform import Rotation
from tiny import observation, tiny

from grids_ros.control.continuity import Continuation
from grids_ros.datatypes import NANOSECONDS, Pose
from grids_ros.policy.checkpoint import load, save
from grids_ros.policy.errors import CheckpointError, InputError
from grids_ros.policy.joints import DROID, OFFSETS, POSITIONS, VELOCITIES, RobotModel
from grids_ros.policy.rtc import previous_actions
from grids_ros.policy.runtime import Policy
from grids_ros.policy.spec import PolicySpec

STEP_S = 1.0 / 15.0
ROBOT = ("urdf", BASE, FLANGE)
SPACES = (POSITIONS, OFFSETS, DROID, VELOCITIES)
steps = st.integers(1, 6).flatmap(lambda n: arrays(np.float64, (n, 7), elements=st.floats(-0.03, 0.03)))


@pytest.fixture(scope="module")
def arm():
    return panda()


@pytest.mark.parametrize("space", SPACES, ids=lambda space: space.name)
@settings(max_examples=25, deadline=None)
@given(moves=steps)
def test_actions_and_joints_are_inverse_and_a_chunk_is_forward_kinematics(arm, space, moves):
    bound, targets = space.of(JOINTS).on(arm), HOME + np.cumsum(moves, axis=0)
    gripper = np.linspace(0.0, 0.08, len(moves))
    pose = arm.pose(HOME)
    nothing = np.zeros((len(moves), 3)), np.zeros((len(moves), 4))
    actions = bound.to_actions(pose, *nothing, gripper, measured=HOME, targets=targets, step_s=STEP_S)
    assert actions.shape == (len(moves), bound.size) == (len(moves), 8)
    chunk = bound.to_chunk(5, pose, actions, STEP_S, HOME)
    np.testing.assert_allclose(chunk.joints, targets, atol=1e-12)
    np.testing.assert_allclose(chunk.positions, arm.poses(targets)[0], atol=1e-9)
    np.testing.assert_allclose(chunk.times, STEP_S * np.arange(1, len(moves) + 1))
    np.testing.assert_array_equal(chunk.gripper, gripper)


@given(arrays(np.float64, (4, 7), elements=st.floats(-3.0, 3.0)))
def test_droid_s_velocities_are_clipped_as_openpi_s_client_does(velocities):
    """openpi's client clips to 1, after which DROID's own limit of a row's largest to 1 never acts; 1 is 0.2 rad."""
    expected = HOME.copy()
    for row, reached in zip(
        velocities, DROID.of(JOINTS).to_joints(HOME, np.c_[velocities, np.zeros(4)], STEP_S), strict=True
    ):
        expected = expected + 0.2 * np.clip(row, -1.0, 1.0)
        np.testing.assert_allclose(reached, expected)


@pytest.mark.parametrize("space", (DROID, OFFSETS), ids=lambda space: space.name)
def test_a_gripper_that_is_open_or_closed_is_told_nothing_between(arm, space):
    """DROID's clients: 1, closed, where the number is more than 0.5; else 0, open."""
    numbers = np.array([0.0, 0.3, 0.5, 0.501, 0.8, 1.0])
    actions = np.c_[np.zeros((6, 7)), 0.085 * (1.0 - numbers)]
    bound = space.of(JOINTS).on(arm)
    chunk = dataclasses.replace(bound, binary_m=0.085).to_chunk(0, arm.pose(HOME), actions, STEP_S, HOME)
    np.testing.assert_array_equal(chunk.gripper, [0.085, 0.085, 0.085, 0.0, 0.0, 0.0])
    np.testing.assert_array_equal(bound.to_chunk(0, arm.pose(HOME), actions, STEP_S, HOME).gripper, actions[:, -1])


def test_velocities_in_radians_per_second_are_no_droid_velocities():
    actions = np.c_[np.full((3, 7), 0.3), np.zeros(3)]
    reached = VELOCITIES.of(JOINTS).to_joints(HOME, actions, STEP_S)
    np.testing.assert_allclose(reached[-1], HOME + 3 * 0.3 * STEP_S)
    np.testing.assert_allclose(DROID.of(JOINTS).to_joints(HOME, actions, STEP_S)[-1], HOME + 3 * 0.3 * 0.2)


@pytest.mark.parametrize(
    ("pose", "measured", "targets", "said"),
    [
        (None, None, HOME, "no positions of the joints panda_joint1, panda_joint2"),
        (None, HOME[:6], HOME, "no positions of the joints"),
        (
            Pose((0.5, 0.0, 0.3), (1, 0, 0, 0)),
            HOME,
            HOME,
            r"forward kinematics puts panda_hand \d+ mm and .* rad from curr",
        ),
        (
            None,
            HOME,
            HOME + np.eye(7)[3] * 3.0,
            r"joint panda_joint4 at 0.550 is beyond its limits of -3.072 to -0.070",
        ),
    ],
)
def test_what_cannot_be_followed_is_refused_by_name(arm, pose, measured, targets, said):
    bound = POSITIONS.of(JOINTS).on(arm)
    with pytest.raises(ValueError, match=said):
        bound.to_chunk(0, pose or arm.pose(HOME), np.r_[targets, 0.04][None], STEP_S, measured)


def test_without_a_robot_there_is_no_chunk():
    with pytest.raises(ValueError, match="needs the robot's URDF"):
        POSITIONS.of(JOINTS).to_chunk(0, Pose((0, 0, 0), (0, 0, 0, 1)), np.zeros((1, 8)), STEP_S, HOME)


# --- a policy ------------------------------------------------------------------------------------------------------


def seen(arm, q=HOME, **changes):
    plain = observation()
    facts = {"pose": arm.pose(q), "joints": dict(zip(JOINTS, q, strict=True)), **changes}
    return dataclasses.replace(plain, **facts)


@pytest.fixture(scope="module", params=SPACES, ids=lambda space: space.name)
def policy(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("jointed")
    save(jointed(request.param), folder)
    return Policy.load(folder, robot=RobotModel(panda_urdf(), BASE, FLANGE))


def test_a_policy_of_joints_gives_poses_of_its_joints(policy, arm):
    policy.warm_up()
    assert policy.joints == JOINTS
    chunk = policy.infer(seen(arm), seed=1).chunk
    assert chunk.joints.shape == (6, 7) and np.abs(chunk.joints - HOME).max() > 1e-4
    np.testing.assert_allclose(chunk.positions, arm.poses(chunk.joints)[0], atol=1e-9)
    assert policy.try_out().shape == (6, 8)


def test_the_measured_joints_reach_the_actions(policy, arm):
    away = HOME + 0.3 * np.eye(7)[0]
    one, other = (policy.infer(seen(arm, q), seed=1).chunk.joints - q for q in (HOME, away))
    assert not np.array_equal(one, other)


def test_what_an_observation_lacks_is_named(policy, arm):
    some = dict.fromkeys(JOINTS[:5], 0.0)
    with pytest.raises(InputError, match="joint_states lacks panda_joint6, panda_joint7"):
        policy.infer(seen(arm, joints=some))
    with pytest.raises(InputError, match="forward kinematics puts panda_hand"):
        policy.infer(seen(arm, pose=Pose((0.2, 0.4, 0.3), (1, 0, 0, 0))))


def test_rtc_goes_on_in_the_policy_s_own_joints(policy, arm):
    first = policy.infer(seen(arm), seed=1).chunk
    delay_s = 2 * STEP_S
    later = dataclasses.replace(seen(arm, first.joints[0]), stamp_ns=first.stamp_ns + round(STEP_S * NANOSECONDS))
    second = policy.infer(later, seed=2, continuation=Continuation(first, delay_s)).chunk
    np.testing.assert_allclose(second.joints[:2], first.joints[1:3], atol=2e-4)
    np.testing.assert_allclose(second.positions[:2], first.positions[1:3], atol=5e-4)


def test_the_previous_chunk_is_read_at_the_new_one_s_times(arm):
    space = OFFSETS.of(JOINTS).on(arm)
    line = HOME + np.arange(1, 7)[:, None] * 0.01
    zeros = np.zeros((6, 3)), np.zeros((6, 4)), np.zeros(6)
    chunk = space.to_chunk(0, arm.pose(HOME), space.to_actions(None, *zeros, measured=HOME, targets=line), STEP_S, HOME)
    half = dataclasses.replace(seen(arm, HOME), stamp_ns=round(1.5 * STEP_S * NANOSECONDS))
    actions, weights = previous_actions(Continuation(chunk, STEP_S), half, 6, STEP_S, space)
    np.testing.assert_allclose(actions[:3, 0], [0.025, 0.035, 0.045], atol=1e-6)
    assert weights[0] == 1.0


def test_a_folder_of_joints_says_so_and_needs_a_robot(tmp_path):
    save(jointed(), tmp_path)
    assert load(tmp_path).spec.joints == JOINTS
    with pytest.raises(CheckpointError, match="policy of joints .panda_joint1, .*needs the robot's URDF"):
        Policy.load(tmp_path)
    with pytest.raises(CheckpointError, match="no joint panda_joint1"):
        Policy.load(tmp_path, robot=RobotModel('<robot name="r"><link name="a"/></robot>', "a", "a"))


def test_joints_are_named_where_a_space_has_them_and_nowhere_else():
    values = jointed().spec.to_dict()
    assert PolicySpec.from_dict({**values, "stem": values["stem"]}).action.joints == JOINTS
    with pytest.raises(ValueError, match=r"joints is \[\], expected the names that state is made of"):
        PolicySpec.from_dict({**values, "joints": []})
    with pytest.raises(ValueError, match="expected none: neither state nor action has joints"):
        PolicySpec.from_dict({**tiny().spec.to_dict(), "joints": list(JOINTS)})


def test_a_folder_says_whether_its_gripper_is_binary_and_an_old_one_s_is_not():
    spec = jointed(DROID).spec
    values = spec.to_dict()
    assert "binary_gripper_m" not in values["action"] and PolicySpec.from_dict(values).action.binary_m is None
    binary = dataclasses.replace(spec, action=dataclasses.replace(spec.action, binary_m=0.08)).to_dict()
    read = PolicySpec.from_dict(binary)
    assert read.action.binary_m == 0.08 and read.to_dict() == binary and read.action.joints == JOINTS
    poses = tiny().spec.to_dict()
    with pytest.raises(ValueError, match="action.binary_gripper_m is 0.08, expected none: tool-relative is no joint"):
        PolicySpec.from_dict({**poses, "action": {**poses["action"], "binary_gripper_m": 0.08}})


def test_a_turn_of_the_first_joint_turns_the_tool_about_the_base(arm):
    chunk = OFFSETS.of(JOINTS).on(arm).to_chunk(0, arm.pose(HOME), np.r_[0.5, np.zeros(6), 0.04][None], STEP_S, HOME)
    turned = Rotation.from_rotvec([0, 0, 0.5]).apply(arm.pose(HOME).position.copy())
    np.testing.assert_allclose(chunk.positions[0], turned, atol=1e-9)
