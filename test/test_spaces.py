"""What actions and states mean: each meaning's two functions are inverse, and do what its words say."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from grids_ros.datatypes import Pose
from grids_ros.policy.spaces import ABSOLUTE, ACTIONS, STATES, STEPS, VECTOR

number = st.floats(-1.0, 1.0)
quaternion = st.tuples(*[number] * 4).filter(lambda q: np.linalg.norm(q) > 0.1).map(lambda q: q / np.linalg.norm(q))
position = st.tuples(*[number] * 3)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(list(ACTIONS.values())),
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


@pytest.mark.parametrize("space", STATES.values())
def test_a_state_has_the_size_that_it_says_and_begins_with_the_position(space):
    state = space.encode(Pose((0.1, 0.2, 0.3), (1, 0, 0, 0)), 0.06)
    assert state.shape == (space.size,)
    np.testing.assert_array_equal(state[:3], [0.1, 0.2, 0.3])


def test_a_state_as_a_rotation_vector():
    turn = Rotation.from_rotvec([0.1, -0.2, 0.3])
    np.testing.assert_allclose(VECTOR.encode(Pose((0, 0, 0), turn.as_quat()), 0.06)[3:], [0.1, -0.2, 0.3, 0.06])
