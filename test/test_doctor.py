"""grids doctor: what it finds wrong, and what it says to do."""

from __future__ import annotations

import pytest

from grids_ros import doctor


@pytest.mark.parametrize(
    ("ages", "todo"),
    [
        ([0.02] * 60, ""),
        ([-0.5] * 60, "clock is ahead"),
        ([0.9] * 60, "camera_max_age_s"),
        ([], "QoS"),
    ],
)
def test_a_camera_that_cannot_be_used_is_named_with_what_to_do(ages, todo):
    finding = doctor.camera("camera/base/image_raw", ages, 3.0)
    assert bool(finding.todo) == bool(todo) and todo in finding.todo
    assert "20.0 Hz" in finding.found or not ages


def test_a_missing_module_and_a_missing_profile_are_named(monkeypatch):
    monkeypatch.setattr(doctor, "find_spec", lambda name: None)
    wrong = {finding.what: finding.todo for finding in doctor.installed() if finding.todo}
    assert set(wrong) == set(doctor.NEEDED)
    monkeypatch.setenv("RMW_IMPLEMENTATION", "rmw_fastrtps_cpp")
    for name in doctor.PROFILES:
        monkeypatch.delenv(name, raising=False)
    assert any("large images are lost" in finding.found and finding.todo for finding in doctor.middleware())
    monkeypatch.setenv(doctor.PROFILES[0], "/nowhere.xml")
    assert any("does not exist" in finding.found for finding in doctor.middleware())


def test_cameras_and_publishers_of_a_running_graph_are_found(ros):
    harness = pytest.importorskip("ros_harness")
    from rclpy.executors import SingleThreadedExecutor
    from rclpy.node import Node

    harness.Cameras(ros)
    harness.Arm(ros)
    node = Node("grids_doctor", context=ros.context)
    executor = SingleThreadedExecutor(context=ros.context)
    executor.add_node(node)
    harness.until(lambda: node.count_publishers("camera/wrist/image_raw"), "the cameras")
    found = {finding.what: finding for finding in (*doctor.cameras(node, executor, 1.0), *doctor.publishers(node))}
    executor.shutdown(timeout_sec=0.0)
    node.destroy_node()
    assert "Hz" in found["/camera/base/image_raw"].found and "Hz" in found["/camera/wrist/image_raw"].found
    assert "/bench" in found["current_pose"].found and not found["current_pose"].todo
    assert "nobody" in found["target_pose"].found
