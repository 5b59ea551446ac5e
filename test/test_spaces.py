"""What actions and states mean: each meaning's two functions are inverse, and do what its words say."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from grids_ros.datatypes import Pose
from grids_ros.policy.spaces import (
    ABSOLUTE,
    ACTIONS,
    FINGERS,
    LIBERO_RADIANS,
    STATES,
    STEPS,
    STEPS_LESS_STATE,
    VECTOR,
    ActionSpace,
    StateSpace,
    turn_vectors,
)

POSES = [space for space in ACTIONS.values() if isinstance(space, ActionSpace)]
number = st.floats(-1.0, 1.0)
quaternion = st.tuples(*[number] * 4).filter(lambda q: np.linalg.norm(q) > 0.1).map(lambda q: q / np.linalg.norm(q))
position = st.tuples(*[number] * 3)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(POSES),
    quaternion,
    st.lists(st.tuples(position, quaternion), min_size=1, max_size=5),
)
def test_actions_and_chunks_are_inverse(space, start, targets):
    pose = Pose((0.4, -0.1, 0.2), start)
    positions, quaternions = (np.array(each) for each in zip(*targets, strict=True))
    gripper = np.linspace(0.0, 0.08, len(targets))
    chunk = space.to_chunk(5, pose, space.to_actions(pose, positions, quaternions, gripper), 0.1)
    assert chunk.stamp_ns == 5
    np.testing.assert_allclose(chunk.times, 0.1 * np.arange(1, len(targets) + 1))
    np.testing.assert_allclose(chunk.positions, positions, atol=1e-12)
    np.testing.assert_allclose(chunk.gripper, gripper)
    apart = Rotation.from_quat(chunk.quaternions) * Rotation.from_quat(quaternions).inv()
    assert apart.magnitude().max() < 1e-6


def test_steps_add_up_in_base_axes():
    pose = Pose((0.5, 0.0, 0.3), Rotation.from_euler("x", 180, degrees=True).as_quat())
    step = np.array([0.01, 0.0, 0.0, 0.0, 0.0, 0.1, 0.04])
    chunk = STEPS.to_chunk(0, pose, np.tile(step, (3, 1)), 0.1)
    np.testing.assert_allclose(chunk.positions[:, 0], [0.51, 0.52, 0.53])
    turned = Rotation.from_quat(chunk.quaternions) * Rotation.from_quat(pose.quaternion).inv()
    np.testing.assert_allclose(turned.as_rotvec(), [[0, 0, 0.1], [0, 0, 0.2], [0, 0, 0.3]], atol=1e-12)


def test_absolute_actions_do_not_depend_on_where_the_tool_is():
    action = np.array([[0.5, 0.1, 0.3, 3.0, 0.0, 0.0, 0.04]])
    chunks = [ABSOLUTE.to_chunk(0, Pose((x, 0, 0), (0, 0, 0, 1)), action, 0.1) for x in (0.0, 1.0)]
    np.testing.assert_array_equal(chunks[0].positions, chunks[1].positions)
    np.testing.assert_allclose(Rotation.from_quat(chunks[0].quaternions).as_rotvec(), [[3.0, 0.0, 0.0]])


@pytest.mark.parametrize("space", [space for space in STATES.values() if isinstance(space, StateSpace)])
def test_a_state_has_the_size_that_it_says_and_begins_with_the_position(space):
    state = space.encode(Pose((0.1, 0.2, 0.3), (1, 0, 0, 0)), 0.06)
    assert state.shape == (space.size,)
    np.testing.assert_array_equal(state[:3], [0.1, 0.2, 0.3])


def test_a_state_as_a_rotation_vector():
    turn = Rotation.from_rotvec([0.1, -0.2, 0.3])
    np.testing.assert_allclose(VECTOR.encode(Pose((0, 0, 0), turn.as_quat()), 0.06)[3:], [0.1, -0.2, 0.3, 0.06])


# --- which of the two rotation vectors ---------------------------------------------------------------------------


def quat_to_axis_angle(quaternion):
    """As LIBERO's states are made: the angle is 2 acos(w), from 0 to 2 pi (robosuite's transform_utils)."""
    axis, w = np.array(quaternion[:3]), quaternion[3]
    return axis * 2.0 * np.arccos(w) / np.sqrt(1.0 - w * w)


@settings(max_examples=60, deadline=None)
@given(quaternion.filter(lambda q: abs(q[3]) < 0.99), st.tuples(*[st.floats(-0.3, 0.3)] * 3))
def test_a_turn_is_written_as_data_nearby_has_it_whatever_the_sign_of_the_quaternion(seen, shift):
    recorded = quat_to_axis_angle(seen)
    for sign in (1.0, -1.0):
        written = turn_vectors(sign * seen, recorded + shift)
        np.testing.assert_allclose(written, recorded, atol=1e-6)


@pytest.mark.parametrize("space", [VECTOR, FINGERS])
def test_states_past_half_a_turn_are_those_that_the_policy_was_taught(space):
    tool = np.array([1.0, 0.0, 0.0, -0.03])
    tool /= np.linalg.norm(tool)
    mean = np.array([0.5, 0.0, 0.3, 3.1, 0.0, 0.0, 0.04, -0.04])[: space.size]
    state = space.about(mean, np.full(space.size, 0.3)).encode(Pose((0.5, 0.0, 0.3), tool), 0.06)
    np.testing.assert_allclose(state[3:6], quat_to_axis_angle(tool), atol=1e-9)
    assert state[3] > np.pi > abs(space.encode(Pose((0.5, 0.0, 0.3), tool), 0.06)[3])


@pytest.mark.parametrize("mean_x", [0.06, 1.0, 2.4])
def test_data_that_scipy_wrote_on_both_sides_stays_as_it_is(mean_x):
    """A tool that points down: (3.1, 0, 0) and (-3.1, 0, 0) in one set of data, whose mean is of no orientation."""
    deviation = np.array([0.1, 0.1, 0.1, np.sqrt(3.1**2 - mean_x**2), 0.1, 0.1, 0.01])
    space = VECTOR.about(np.array([0.5, 0.0, 0.3, mean_x, 0.0, 0.0, 0.04]), deviation)
    for written in (3.1, -3.1, -2.6):
        pose = Pose((0.5, 0.0, 0.3), Rotation.from_rotvec([written, 0.0, 0.0]).as_quat())
        np.testing.assert_allclose(space.encode(pose, 0.06)[3:6], [written, 0.0, 0.0], atol=1e-9)


def test_what_is_added_back_to_a_policy_s_actions_is_what_was_taken_away():
    """pi0_libero says steps less its state: one that says "stay" must not turn the tool over."""
    tool = np.array([1.0, 0.0, 0.0, -0.03])
    tool /= np.linalg.norm(tool)
    pose, state = Pose((0.5, 0.0, 0.3), tool), np.array([0.5, 0.0, 0.3, *quat_to_axis_angle(tool), 0.0])
    stay = -np.array([0.05, 0.05, 0.05, *[LIBERO_RADIANS] * 3, 0.0]) * state
    mean = np.array([0.5, 0.0, 0.3, 3.1, 0.0, 0.0, 0.0, 0.0])
    statistics = mean, np.full(8, 0.3)
    chunk = STEPS_LESS_STATE.about(statistics, statistics).to_chunk(0, pose, np.tile(stay, (3, 1)), 0.1)
    np.testing.assert_allclose(chunk.positions, np.tile(pose.position, (3, 1)), atol=1e-9)
    turned = Rotation.from_quat(chunk.quaternions) * Rotation.from_quat(tool).inv()
    assert turned.magnitude().max() < 1e-6


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(POSES), quaternion, quaternion)
def test_every_way_of_writing_an_action_means_the_same_chunk(space, start, target):
    pose = Pose((0.4, -0.1, 0.2), start)
    ways = space.ways(space.to_actions(pose, np.ones((1, 3)), np.array([target]), np.ones(1)))
    for actions in ways:
        turned = Rotation.from_quat(space.to_chunk(0, pose, actions, 0.1).quaternions[0])
        assert (turned * Rotation.from_quat(target).inv()).magnitude() < 1e-6
