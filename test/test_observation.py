"""One alignment rule: each stream is gated by its own age, what belongs together is aligned, nothing is filled in."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grids_ros.datatypes import NANOSECONDS, Pose
from grids_ros.observation.buffer import MAX_IMAGES, AgeLimits, NotReady, ObservationBuffer
from grids_ros.observation.messages import check_camera_info, cut

MS = NANOSECONDS // 1000
NOW = 100 * NANOSECONDS
WORDS = "lift the red cube"


def image(value=0, **changes):
    values = {"height": 2, "width": 2, "encoding": "rgb8", "step": 6, "is_bigendian": 0, "data": bytes([value]) * 12}
    return SimpleNamespace(**{**values, **changes})


def pose(x=0.0):
    return Pose((x, 0, 0), (0, 0, 0, 1))


def pose_message(stamp_ns, x=0.0, frame="base", quaternion=(0.0, 0.0, 0.0, 1.0)):
    position = SimpleNamespace(x=x, y=0.0, z=0.3)
    orientation = SimpleNamespace(**dict(zip("xyzw", quaternion, strict=True)))
    return SimpleNamespace(
        header=header(stamp_ns, frame), pose=SimpleNamespace(position=position, orientation=orientation)
    )


def joint_message(stamp_ns, *positions):
    names = ["fr3_finger_joint1", "fr3_finger_joint2"]
    return SimpleNamespace(header=header(stamp_ns), name=names, position=list(positions))


def header(stamp_ns, frame=""):
    return SimpleNamespace(
        stamp=SimpleNamespace(sec=stamp_ns // NANOSECONDS, nanosec=stamp_ns % NANOSECONDS), frame_id=frame
    )


def empty(cameras=("base", "wrist"), **limits):
    ages = {name: limit for name, limit in {"base": 0.2, "wrist": 0.5}.items() if name in cameras}
    return ObservationBuffer(cameras, AgeLimits(cameras=ages, **limits))


def feed(buffer, stamp_ns, value=0, cameras=None, arrival_ns=None):
    """Everything of one instant."""
    arrival_ns = arrival_ns or stamp_ns
    for name in cameras or buffer.cameras:
        buffer.add_image(name, image(value), stamp_ns, arrival_ns)
    buffer.add_pose(pose(), stamp_ns, arrival_ns)
    buffer.add_opening(0.04, stamp_ns, arrival_ns)


def filled(now=NOW, age_ms=10):
    """A buffer of two cameras in which everything is there and fresh."""
    buffer = empty()
    feed(buffer, now - age_ms * MS)
    return buffer


def reasons(buffer, now=NOW):
    with pytest.raises(NotReady) as caught:
        buffer.observe(WORDS, now)
    return caught.value.reasons


def test_a_complete_observation():
    observation = filled().observe(WORDS, NOW)
    assert observation.stamp_ns == NOW - 10 * MS
    assert observation.image_stamps_ns == {"base": NOW - 10 * MS, "wrist": NOW - 10 * MS}
    assert observation.gripper == 0.04 and observation.instruction == WORDS


def test_an_empty_buffer_names_everything_that_is_missing():
    with pytest.raises(NotReady) as caught:
        empty().observe("", NOW)
    text = "; ".join(caught.value.reasons)
    missing = ("no instruction", "'base': no image", "'wrist': no image", "current_pose: nothing", "gripper: nothing")
    assert all(part in text for part in missing)


def test_a_live_camera_does_not_mask_a_dead_one():
    buffer = filled()
    for step in range(1, 40):
        now = NOW + step * 50 * MS
        feed(buffer, now, cameras=["wrist"])
        if step * 50 + 10 > 200:
            assert reasons(buffer, now) == (f"camera 'base': {step * 0.05 + 0.01:.3f} s old, limit 0.2 s",)
        else:
            buffer.observe(WORDS, now)
    feed(buffer, now + MS, cameras=["base"])
    buffer.observe(WORDS, now + MS)


def test_a_camera_that_repeats_one_stamp_is_a_dead_camera():
    buffer = filled()
    for _ in range(10):
        buffer.add_image("base", image(9), NOW - 10 * MS, NOW)
    assert buffer.observe(WORDS, NOW).images["base"].max() == 0
    assert "camera 'base'" in reasons(buffer, NOW + 250 * MS)[0]


def test_a_stamp_in_the_future_is_refused_and_forgotten():
    buffer = filled()
    buffer.add_image("base", image(), NOW + 3600 * NANOSECONDS, NOW)
    assert "stamped 3600.000 s in the future" in reasons(buffer)[0]
    buffer.add_image("base", image(), NOW - MS, NOW)
    buffer.observe(WORDS, NOW)


def test_a_clock_that_goes_back_starts_afresh():
    buffer = filled()
    early = 5 * NANOSECONDS
    for name in buffer.cameras:
        buffer.add_image(name, image(), early, NOW + 1)
    buffer.add_pose(pose(3.0), early, NOW + 2)
    buffer.add_opening(0.01, early, NOW + 2)
    observation = buffer.observe(WORDS, early)
    assert observation.stamp_ns == early and observation.pose.position[0] == 3.0 and observation.gripper == 0.01


def test_one_stream_of_a_new_clock_is_never_paired_with_the_old_one():
    buffer = filled()
    early = 5 * NANOSECONDS
    buffer.add_image("base", image(), early, NOW + 1)
    buffer.add_pose(pose(3.0), early, NOW + 2)
    assert any("in the future" in reason for reason in reasons(buffer, early))


def test_a_damaged_image_names_its_camera_and_is_survived():
    buffer = filled()
    buffer.add_image("wrist", image(step=1), NOW - MS, NOW)
    feed(buffer, NOW - MS, cameras=["base"])
    assert reasons(buffer)[0].startswith("camera 'wrist': step is 1 bytes")
    feed(buffer, NOW, arrival_ns=NOW + 1)
    buffer.observe(WORDS, NOW)


def test_images_and_poses_too_far_apart_are_refused():
    buffer = ObservationBuffer(("base",), AgeLimits(cameras={"base": 0.3}))
    buffer.add_image("base", image(), NOW - 200 * MS, NOW)
    buffer.add_pose(pose(), NOW, NOW)
    buffer.add_opening(0.04, NOW, NOW)
    assert reasons(buffer) == ("current_pose: nearest to the images is 0.200 s off, limit 0.1 s",)


def test_an_image_waits_for_the_pose_of_its_stamp():
    """Poses at 30 Hz arrive after the image that they belong to; the pair before stays until then."""
    buffer = empty(("base",))
    feed(buffer, NOW - 40 * MS)
    buffer.add_image("base", image(1), NOW - 20 * MS, NOW - 5 * MS)
    assert buffer.observe(WORDS, NOW).stamp_ns == NOW - 40 * MS
    buffer.add_pose(pose(0.3), NOW - 10 * MS, NOW)
    buffer.add_opening(0.04, NOW - 10 * MS, NOW)
    observation = buffer.observe(WORDS, NOW)
    assert observation.stamp_ns == NOW - 20 * MS and observation.images["base"].max() == 1
    assert observation.pose.position[0] == pytest.approx(0.2), "two thirds of the way between the two poses"


@pytest.mark.parametrize(("period_ms", "lag_ms"), [(10, 20), (500, 50)])
def test_a_slow_gripper_is_waited_for_no_longer_than_its_limit(period_ms, lag_ms):
    """Openings at 2 Hz must not make the images as old as they are."""
    buffer = empty(("base",), gripper=1.0)
    newest = None
    for at in range(0, 2000, 10):
        now = NOW + at * MS
        buffer.add_image("base", image(), now, now)
        buffer.add_pose(pose(), now, now)
        if at % period_ms == 0:
            buffer.add_opening(at / 1000, now, now + 5 * MS)
        newest = buffer.align()
        assert at < 100 or now - newest.stamp_ns <= lag_ms * MS
    assert newest.gripper == pytest.approx((newest.stamp_ns - NOW) / NANOSECONDS, abs=period_ms / 1000)


def test_limits_and_cameras_must_agree():
    with pytest.raises(ValueError, match=r"no age limit for cameras \['wrist'\]"):
        ObservationBuffer(("base", "wrist"), AgeLimits(cameras={"base": 0.2}))
    with pytest.raises(ValueError, match="camera 'base' is 0.0 s, expected more than 0"):
        AgeLimits(cameras={"base": 0.0})
    with pytest.raises(KeyError, match="not one of"):
        filled().add_image("left", image(), NOW, NOW)


# --- alignment ---------------------------------------------------------------------------------------------------

stamps = st.lists(st.integers(0, 400), min_size=1, max_size=25, unique=True).map(sorted)


@settings(max_examples=150, deadline=None)
@given(stamps, stamps, stamps, st.data())
def test_a_snapshot_pairs_what_is_nearest_and_later_messages_never_change_it(base, wrist, poses, data):
    """Any stamps, any transport delay: nothing that arrives after a snapshot was made is nearer to its stamp."""
    streams = {"base": base, "wrist": wrist, "pose": poses}
    arrivals = []
    for name, own in streams.items():
        at = 0
        for stamp in own:
            at = max(at, stamp + data.draw(st.integers(0, 60)))  # a stream keeps its order
            arrivals.append((at, name, stamp))
    limits = AgeLimits(cameras={"base": 9.0, "wrist": 9.0}, pose=9.0, gripper=9.0)
    buffer = ObservationBuffer(("base", "wrist"), limits)
    made = []
    for at, name, stamp in sorted(arrivals):
        if name == "pose":
            buffer.add_pose(pose(float(stamp)), NOW + stamp * MS, NOW + at * MS)
            buffer.add_opening(stamp / 1000, NOW + stamp * MS, NOW + at * MS)
        else:
            buffer.add_image(name, stamp, NOW + stamp * MS, NOW + at * MS)
        snapshot = buffer.align()
        if snapshot is not None and (not made or made[-1] is not snapshot):
            made.append(snapshot)
    for snapshot in made:
        stamp = (snapshot.stamp_ns - NOW) // MS
        for name in ("base", "wrist"):
            chosen = snapshot.images[name][1]
            assert abs(chosen - stamp) == min(abs(other - stamp) for other in streams[name])
        if poses[0] <= stamp:
            assert snapshot.pose.position[0] == pytest.approx(stamp), "interpolated between the poses around it"
            assert snapshot.gripper == pytest.approx(stamp / 1000)
        assert stamp in (*base, *wrist)
    assert [s.stamp_ns for s in made] == sorted({s.stamp_ns for s in made}), "each is newer than the one before"
    assert len({tuple(s.image_stamps_ns.items()) for s in made}) == len(made), "no pair of images comes twice"


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0.0, 1.0))
def test_the_pose_between_two_measured_ones_lies_on_the_straight_line_and_the_shortest_arc(seed, share):
    from scipy.spatial.transform import Rotation, Slerp

    rng = np.random.default_rng(seed)
    turns = Rotation.random(2, random_state=rng)
    ends = [Pose(rng.uniform(-1, 1, 3), quaternion) for quaternion in turns.as_quat()]
    buffer, at = empty(("base",)), round(share * 100) * MS
    for index, end in enumerate(ends):
        buffer.add_pose(end, NOW + index * 100 * MS, NOW + 100 * MS)
        buffer.add_opening(0.04, NOW + index * 100 * MS, NOW + 100 * MS)
    buffer.add_image("base", image(), NOW + at, NOW + 100 * MS)
    found = buffer.align().pose
    share = at / (100 * MS)
    np.testing.assert_allclose(found.position, (1 - share) * ends[0].position + share * ends[1].position, atol=1e-12)
    wanted = Slerp([0, 1], turns)([share])[0]
    assert (Rotation.from_quat(found.quaternion) * wanted.inv()).magnitude() < 1e-6


def test_a_camera_that_stops_fills_no_memory():
    buffer = filled()
    for step in range(5 * MAX_IMAGES):
        feed(buffer, NOW + step * 10 * MS, cameras=["base"])
    assert len(buffer._images["base"]) == MAX_IMAGES


# --- adding messages -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("role", "message", "said"),
    [
        ("current_pose", pose_message(NOW, x=1e38), "expected at most 100 m"),
        ("current_pose", pose_message(NOW, x=float("nan")), "NaN"),
        ("current_pose", pose_message(NOW, quaternion=(1.7e308, 0.0, 0.0, 1.0)), "not normalised"),
        ("current_pose", pose_message(NOW, frame="map"), "frame 'map', expected 'base'"),
        ("current_pose", pose_message(NOW, frame="m" * 10_000), "expected 'base'"),
        ("current_pose", pose_message(0), "stamp of zero"),
        ("joint_states", joint_message(NOW, 40.0, 40.0), "are these millimetres or percent"),
        ("joint_states", joint_message(NOW, 1.7e308, 1.7e308), "joint_states"),
        ("joint_states", joint_message(NOW, -1e38, 0.0), "are these millimetres or percent"),
        ("image:base", SimpleNamespace(header=header(0), **vars(image())), "base has a stamp of zero"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_what_no_robot_measures_is_refused_where_it_comes_in_and_forgiven(role, message, said):
    buffer = filled()
    refused = buffer.add(role, message, NOW)
    assert said in refused and len(refused) < 300
    buffer.observe(WORDS, NOW)
    late = NOW + 600 * MS
    assert any(said in reason for reason in reasons(buffer, late)), "it is told for as long as it is the last message"
    feed(buffer, late)
    buffer.observe(WORDS, late)


@pytest.mark.parametrize("fields", [{"k": [1e38] + [0.0] * 8}, {"k": [float("nan")] * 9}, {"width": 2**31}])
def test_a_camera_info_of_no_camera_is_refused(fields):
    with pytest.raises(ValueError, match="expected"):
        check_camera_info(SimpleNamespace(**{"width": 640, "height": 480, "k": [500.0] * 9, **fields}))
    check_camera_info(SimpleNamespace(width=640, height=480, k=[0.0] * 9))


class Whole(str):
    """A text that must not be quoted whole: that takes time by the character."""

    def __repr__(self):
        raise AssertionError("quoted whole")


def test_a_foreign_text_is_cut_before_it_is_quoted():
    assert cut("left") == "'left'" and cut(["left", "right"]) == "['left', 'right']"
    assert cut(Whole("x" * 1000)) == f"'{'x' * 59}... (1000 characters)"
    assert cut([Whole("x" * 1000)]) == f"['{'x' * 58}... (1000 characters)"
    assert cut("\x01" * 1000).endswith("... (1000 characters)") and len(cut("\x01" * 1000)) < 90
