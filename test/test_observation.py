"""Each stream is gated by its own age; nothing missing is filled in; time may go wrong in every way."""

from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grids_ros.datatypes import NANOSECONDS, Pose
from grids_ros.observation import AgeLimits, NotReady, ObservationBuffer

MS = NANOSECONDS // 1000
NOW = 100 * NANOSECONDS


def image(value=0, **changes):
    values = {"height": 2, "width": 2, "encoding": "rgb8", "step": 6, "is_bigendian": 0, "data": bytes([value]) * 12}
    return SimpleNamespace(**{**values, **changes})


def pose(x=0.0):
    return Pose((x, 0, 0), (0, 0, 0, 1))


def buffer(now=NOW, age_ms=10):
    """A buffer of two cameras in which everything is there and fresh."""
    filled = ObservationBuffer(("base", "wrist"), AgeLimits(cameras={"base": 0.2, "wrist": 0.5}))
    filled.instruction = "lift the red cube"
    for name in filled.cameras:
        filled.add_image(name, now - age_ms * MS, image())
    filled.add_pose(now - age_ms * MS, pose())
    filled.add_gripper(now - age_ms * MS, 0.04)
    return filled


def reasons(filled, now=NOW):
    with pytest.raises(NotReady) as caught:
        filled.observe(now)
    return caught.value.reasons


def test_a_complete_observation():
    observation = buffer().observe(NOW)
    assert observation.stamp_ns == NOW - 10 * MS
    assert set(observation.images) == {"base", "wrist"}
    assert observation.gripper == 0.04
    assert observation.instruction == "lift the red cube"


def test_an_empty_buffer_names_everything_that_is_missing():
    empty = ObservationBuffer(("base", "wrist"), AgeLimits(cameras={"base": 0.2, "wrist": 0.5}))
    text = "; ".join(reasons(empty))
    for part in (
        "no instruction",
        "'base': no image",
        "'wrist': no image",
        "current_pose: nothing",
        "gripper: nothing",
    ):
        assert part in text


def test_a_live_camera_does_not_mask_a_dead_one():
    filled = buffer()
    for step in range(1, 40):
        now = NOW + step * 50 * MS
        filled.add_image("wrist", now, image())
        filled.add_pose(now, pose())
        filled.add_gripper(now, 0.04)
        if step * 50 + 10 > 200:
            assert reasons(filled, now) == (f"camera 'base': {step * 0.05 + 0.01:.3f} s old, limit 0.2 s",)
        else:
            filled.observe(now)
    filled.add_image("base", now, image())
    filled.observe(now)


@pytest.mark.parametrize("stream", ["pose", "gripper"])
def test_proprioception_grows_old_by_itself(stream):
    filled = buffer()
    now = NOW + 600 * MS
    for name in filled.cameras:
        filled.add_image(name, now, image())
    if stream == "pose":
        filled.add_gripper(now, 0.04)
        assert reasons(filled, now)[0].startswith("current_pose: 0.610 s old")
    else:
        filled.add_pose(now, pose())
        assert reasons(filled, now)[0].startswith("gripper: 0.610 s old")


def test_a_camera_that_repeats_one_stamp_is_a_dead_camera():
    filled = buffer()
    for _ in range(10):
        filled.add_image("base", NOW - 10 * MS, image(9))
    assert filled.observe(NOW).images["base"].max() == 0
    assert "camera 'base'" in reasons(filled, NOW + 250 * MS)[0]


def test_a_stamp_in_the_future_is_refused_and_forgotten():
    filled = buffer()
    filled.add_image("base", NOW + 3600 * NANOSECONDS, image())
    assert "stamped 3600.000 s in the future" in reasons(filled)[0]
    filled.add_image("base", NOW - MS, image())
    filled.observe(NOW)


def test_a_clock_that_goes_back_starts_afresh():
    filled = buffer(now=NOW)
    early = 5 * NANOSECONDS
    for name in filled.cameras:
        filled.add_image(name, early, image())
    filled.add_pose(early, pose(3.0))
    filled.add_gripper(early, 0.01)
    observation = filled.observe(early)
    assert observation.pose.position[0] == 3.0 and observation.gripper == 0.01


def test_a_damaged_image_names_its_camera_and_is_survived():
    filled = buffer()
    filled.add_image("wrist", NOW - MS, image(step=1))
    assert reasons(filled)[0].startswith("camera 'wrist': step is 1 bytes")
    filled.add_image("wrist", NOW, image())
    filled.observe(NOW)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 90), min_size=1, max_size=20, unique=True), st.integers(0, 90))
def test_the_pose_is_the_one_nearest_to_the_images(ages_ms, image_age_ms):
    filled = ObservationBuffer(("base",), AgeLimits(cameras={"base": 0.2}))
    filled.instruction = "x"
    filled.add_image("base", NOW - image_age_ms * MS, image())
    filled.add_gripper(NOW, 0.0)
    for age in sorted(ages_ms, reverse=True):
        filled.add_pose(NOW - age * MS, pose(float(age)))
    chosen = filled.observe(NOW).pose.position[0]
    assert abs(chosen - image_age_ms) == min(abs(age - image_age_ms) for age in ages_ms)


def test_the_stamp_is_that_of_the_oldest_image():
    filled = buffer()
    filled.add_image("base", NOW - MS, image())
    assert filled.observe(NOW).stamp_ns == NOW - 10 * MS


def test_images_and_poses_too_far_apart_are_refused():
    filled = ObservationBuffer(("base",), AgeLimits(cameras={"base": 0.3}))
    filled.instruction = "x"
    filled.add_image("base", NOW - 200 * MS, image())
    filled.add_pose(NOW, pose())
    filled.add_gripper(NOW, 0.04)
    assert reasons(filled) == ("current_pose: nearest to the images is 0.200 s off, limit 0.1 s",)


def test_limits_and_cameras_must_agree():
    with pytest.raises(ValueError, match=r"no age limit for cameras \['wrist'\]"):
        ObservationBuffer(("base", "wrist"), AgeLimits(cameras={"base": 0.2}))
    with pytest.raises(ValueError, match="camera 'base' is 0.0 s, expected more than 0"):
        AgeLimits(cameras={"base": 0.0})
    with pytest.raises(KeyError, match="not one of"):
        buffer().add_image("left", NOW, image())
