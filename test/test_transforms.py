"""Transforms between frames: the algebra of poses, held against SciPy, and what a buffer knows and refuses."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation, Slerp

from grids_ros.datatypes import Pose
from grids_ros.observation.transforms import KEPT_NS, TransformBuffer, TransformError, compose, inverse, rotate

SECOND = 10**9
HERE = Pose((0.0, 0.0, 0.0), (0.0, 0.0, 0.0, 1.0))
seeds = st.integers(0, 2**32 - 1)


def random_pose(rng) -> Pose:
    return Pose(rng.normal(size=3), Rotation.random(random_state=rng).as_quat())


def matrix(pose: Pose) -> np.ndarray:
    made = np.eye(4)
    made[:3, :3], made[:3, 3] = Rotation.from_quat(pose.quaternion).as_matrix(), pose.position
    return made


@given(seeds)
def test_composing_and_inverting_is_matrix_algebra(seed):
    rng = np.random.default_rng(seed)
    a, b = random_pose(rng), random_pose(rng)
    assert np.allclose(matrix(compose(a, b)), matrix(a) @ matrix(b), atol=1e-12)
    assert np.allclose(matrix(inverse(a)), np.linalg.inv(matrix(a)), atol=1e-12)
    assert np.allclose(
        rotate(a.quaternion, b.position), Rotation.from_quat(a.quaternion).apply(b.position.copy()), atol=1e-12
    )


@given(seeds, st.integers(2, 8))
def test_the_way_between_any_two_frames_of_a_tree_is_the_product_of_its_transforms(seed, n):
    rng = np.random.default_rng(seed)
    buffer, in_root = TransformBuffer(), {"0": np.eye(4)}
    for child in range(1, n):
        parent, pose = str(rng.integers(child)), random_pose(rng)
        buffer.add(parent, str(child), SECOND, pose, static=bool(rng.integers(2)))
        in_root[str(child)] = in_root[parent] @ matrix(pose)
    target, source = (str(rng.integers(n)) for _ in range(2))
    found = matrix(buffer.lookup(target, source, SECOND))
    assert np.allclose(found, np.linalg.inv(in_root[target]) @ in_root[source], atol=1e-9)


@given(seeds, st.floats(0.0, 1.0))
def test_between_two_stamps_positions_are_linear_and_orientations_turn_evenly(seed, share):
    rng = np.random.default_rng(seed)
    a, b = random_pose(rng), random_pose(rng)
    buffer = TransformBuffer()
    buffer.add("base", "tool", SECOND, a)
    buffer.add("base", "tool", 2 * SECOND, b)
    at_ns = SECOND + round(share * SECOND)
    found, share = buffer.lookup("base", "tool", at_ns), (at_ns - SECOND) / SECOND
    assert np.allclose(found.position, (1 - share) * a.position + share * b.position, atol=1e-12)
    turned = Slerp([0.0, 1.0], Rotation.from_quat([a.quaternion, b.quaternion]))(share)
    assert (turned * Rotation.from_quat(found.quaternion).inv()).magnitude() < 1e-6


def test_nothing_is_extrapolated():
    buffer = TransformBuffer()
    buffer.add("base", "tool", SECOND, HERE)
    buffer.add("base", "tool", 2 * SECOND, HERE)
    for stamp_ns in (SECOND - 1, 2 * SECOND + 1):
        with pytest.raises(TransformError, match=r"only from 1\.000 to 2\.000 s"):
            buffer.lookup("base", "tool", stamp_ns)
    assert buffer.newest("base", "tool") == 2 * SECOND


def test_frames_that_are_not_connected_are_named_with_those_that_are_known():
    buffer = TransformBuffer()
    buffer.add("base", "tool", 0, HERE, static=True)
    buffer.add("map", "camera", 0, HERE, static=True)
    with pytest.raises(TransformError, match="'camera' with 'base'; known frames: base, camera, map, tool"):
        buffer.lookup("base", "camera", 0)
    with pytest.raises(TransformError, match="'nowhere'"):
        buffer.newest("base", "nowhere")
    for parent, child in (("", "tool"), ("base", ""), ("base", "base")):
        with pytest.raises(TransformError, match="expected two frames"):
            buffer.add(parent, child, 0, HERE)


def test_a_loop_is_refused_and_not_followed_for_ever():
    buffer = TransformBuffer()
    for parent, child in (("a", "b"), ("b", "c"), ("c", "a")):
        buffer.add(parent, child, 0, HERE, static=True)
    with pytest.raises(TransformError, match="loop"):
        buffer.lookup("a", "d", 0)


def test_a_clock_that_goes_back_starts_anew_and_old_transforms_are_forgotten():
    buffer = TransformBuffer()
    for second in range(100, 140):
        buffer.add("base", "tool", second * SECOND, HERE)
    with pytest.raises(TransformError):
        buffer.lookup("base", "tool", 101 * SECOND)
    assert len(buffer._edges["tool"].stamps) <= 2 * KEPT_NS // SECOND + 1
    buffer.add("base", "tool", SECOND, HERE)
    assert buffer.newest("base", "tool") == SECOND


def test_a_frame_may_get_another_parent():
    buffer = TransformBuffer()
    buffer.add("base", "tool", SECOND, HERE)
    buffer.add("base", "flange", SECOND, Pose((1.0, 0.0, 0.0), HERE.quaternion))
    buffer.add("flange", "tool", 2 * SECOND, HERE)
    buffer.add("base", "flange", 2 * SECOND, Pose((1.0, 0.0, 0.0), HERE.quaternion))
    assert buffer.lookup("base", "tool", 2 * SECOND).position[0] == 1.0
