"""Where sampled coordinates are drawn in space."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from grids_ros.datatypes import Pose
from grids_ros.observation.transforms import inverse, rotate
from grids_ros.visualisation.sampled_points import DEPTH_M, FARTHEST_M, SPHERE_M, on_plane, on_table

INFO = SimpleNamespace(width=640, height=480, k=[600.0, 0.0, 320.0, 0.0, 600.0, 240.0, 0.0, 0.0, 1.0])
DOWN = Rotation.from_euler("x", 180, degrees=True)


def project(points: np.ndarray, camera: Pose) -> np.ndarray:
    """Fractions of the image (K, 2) of points (K, 3) in the base frame."""
    back = inverse(camera)
    local = np.array([back.position + rotate(back.quaternion, point) for point in points])
    pixels = local[:, :2] / local[:, 2:] * 600.0 + (320.0, 240.0)
    return pixels / (640.0, 480.0)


@given(st.integers(0, 2**32 - 1), st.floats(-0.2, 0.4), st.floats(0.1, 1.0), st.floats(-0.5, 0.5))
def test_points_lie_on_the_table_under_the_pixels_that_they_were_read_at(seed, table, above, tilt):
    rng = np.random.default_rng(seed)
    tilted = Rotation.from_rotvec(tilt * rng.normal(size=3) / 3) * DOWN
    camera = Pose((*rng.normal(size=2), table + above), tilted.as_quat())
    coordinates = rng.uniform(size=(8, 2))
    points = on_table(coordinates, INFO, camera, table)
    assert np.allclose(project(points, camera), coordinates, atol=1e-9)
    assert (points[:, 2] >= table + SPHERE_M / 2 - 1e-9).all(), "no sphere hangs under the table, or is sunk in it"
    depths = np.array([rotate(inverse(camera).quaternion, point - camera.position)[2] for point in points])
    near = depths < FARTHEST_M - 1e-9
    assert np.allclose(points[near, 2], table + SPHERE_M / 2, atol=1e-9)


def test_a_ray_that_never_meets_the_table_ends_at_the_farthest_depth():
    camera = Pose((0.0, 0.0, 1.0), Rotation.identity().as_quat())  # looks up
    points = on_table(np.array([[0.5, 0.5]]), INFO, camera, 0.0)
    assert np.allclose(points, [[0.0, 0.0, 1.0 + FARTHEST_M]])


def test_without_a_pose_points_lie_on_a_plane_and_without_camera_info_the_camera_has_53_degrees():
    assert np.allclose(on_plane(np.array([[0.5, 0.5], [1.0, 0.5]]), INFO)[1], [320 / 600 * DEPTH_M, 0.0, DEPTH_M])
    assert on_plane(np.array([[1.0, 0.5]]), None)[0] == pytest.approx([0.5, 0.0, DEPTH_M])


def test_the_workspace_box_has_twelve_edges_along_the_axes():
    markers = pytest.importorskip("grids_ros.ros.markers", reason="the ROS layer needs rclpy")
    marker = markers.workspace((0.25, -0.4, 0.0), (0.75, 0.4, 0.6), "base")
    ends = np.array([(point.x, point.y, point.z) for point in marker.points]).reshape(12, 2, 3)
    edges = np.abs(ends[:, 1] - ends[:, 0])
    assert sorted(edges.sum(axis=1).round(6)) == [0.5] * 4 + [0.6] * 4 + [0.8] * 4
    assert ((edges > 1e-9).sum(axis=1) == 1).all() and marker.header.frame_id == "base"
