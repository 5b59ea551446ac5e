"""The figures of replay: each against a case whose answer is known."""

from __future__ import annotations

from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from recording import DOWN
from scipy.spatial.transform import Rotation

from grids_ros.control.defaults import FOLLOWER
from grids_ros.control.limits import BINDING
from grids_ros.datatypes import NANOSECONDS, ActionChunk, Pose
from grids_ros.parameters import PolicyParameters
from grids_ros.replay import metrics, sampling_motion
from grids_ros.replay.annotated_bag import _windows
from grids_ros.replay.episode_statistics import EpisodeStatistics, without_values
from grids_ros.replay.findings import BAD, FAIR, GOOD, findings
from grids_ros.replay.recorded_motion import KEPT_NS, RecordedMotion, Series
from grids_ros.replay.shadow_follower import ShadowFollower
from grids_ros.replay.summary import BaselineError, added, regressions
from grids_ros.replay.ticks import AFTER_NS, BEFORE_NS, Span

START = 100 * NANOSECONDS
STEPS = 12
TIMES = 0.1 * np.arange(1, STEPS + 1)


def stamped(ns: int, position, quaternion=DOWN, frame: str = "base"):
    """A PoseStamped, as far as it is read."""
    x, y, z = position
    qx, qy, qz, qw = quaternion
    return SimpleNamespace(
        header=SimpleNamespace(stamp=SimpleNamespace(sec=ns // NANOSECONDS, nanosec=ns % NANOSECONDS), frame_id=frame),
        pose=SimpleNamespace(
            position=SimpleNamespace(x=x, y=y, z=z), orientation=SimpleNamespace(x=qx, y=qy, z=qz, w=qw)
        ),
    )


ARM = PolicyParameters(finger_joints=("a", "b"), base_frame="base")
IN_WORLD = PolicyParameters(finger_joints=("a", "b"), base_frame="world")


def recorded_line(speed: float = 0.1, until_s: float = 2.0, gap=(9.0, 9.0)) -> RecordedMotion:
    """target_pose along y at `speed` [m/s], 100 Hz, without those inside `gap` [s]."""
    recorded = RecordedMotion(("target_pose", "gripper_command"), ARM)
    for tick in range(round(until_s * 100)):
        seconds = tick / 100
        if not gap[0] < seconds < gap[1]:
            ns = START + round(seconds * 1e9)
            recorded.add("target_pose", ns, stamped(ns, (0.5, speed * seconds, 0.3)))
    recorded.add("gripper_command", START, SimpleNamespace(data=[0.08]))
    return recorded


def chunk_along(speed: float = 0.1, offset=(0.0, 0.0, 0.0), turn_deg: float = 0.0, opening: float = 0.08, at=START):
    positions = np.array([0.5, 0.0, 0.3]) + np.outer(TIMES + (at - START) / 1e9, (0.0, speed, 0.0)) + offset
    turned = (Rotation.from_euler("z", turn_deg, degrees=True) * Rotation.from_quat(DOWN)).as_quat()
    return ActionChunk(at, TIMES, positions, np.tile(turned, (STEPS, 1)), np.full(STEPS, opening))


HOME = Pose((0.5, 0.0, 0.3), DOWN)


def test_a_chunk_that_is_the_recorded_motion_has_no_error_and_standing_still_has_its_length():
    errors = metrics.errors(chunk_along(), HOME, recorded_line())
    np.testing.assert_allclose(errors["position_mm"], 0.0, atol=1e-6)
    np.testing.assert_allclose(errors["rotation_deg"], 0.0, atol=1e-6)
    np.testing.assert_allclose(errors["gripper_mm"], 0.0)
    np.testing.assert_allclose(errors["still_mm"], 100.0 * TIMES)


def test_offsets_and_turns_are_measured_in_millimetres_and_degrees():
    errors = metrics.errors(chunk_along(offset=(0.003, 0.0, 0.004), turn_deg=7.0, opening=0.05), HOME, recorded_line())
    np.testing.assert_allclose(errors["position_mm"], 5.0)
    np.testing.assert_allclose(errors["rotation_deg"], 7.0)
    np.testing.assert_allclose(errors["gripper_mm"], 30.0)


def test_steps_that_the_recording_does_not_cover_count_for_nothing():
    beyond = metrics.errors(chunk_along(), HOME, recorded_line(until_s=0.62))["position_mm"]
    np.testing.assert_array_equal(np.isfinite(beyond), TIMES < 0.62)
    across = metrics.errors(chunk_along(), HOME, recorded_line(gap=(0.35, 0.75)))["position_mm"]
    np.testing.assert_array_equal(np.isfinite(across), (TIMES < 0.35) | (TIMES > 0.75))


def test_steps_after_the_end_of_the_episode_count_for_nothing():
    errors = metrics.errors(chunk_along(), HOME, recorded_line(), until_ns=START + 650_000_000)
    for name in ("position_mm", "rotation_deg", "gripper_mm", "still_mm"):
        np.testing.assert_array_equal(np.isfinite(errors[name]), TIMES < 0.65)


def test_jerk_is_the_third_derivative():
    assert metrics.jerk(np.outer(TIMES**2, (1.0, 2.0, 0.0)), TIMES) == pytest.approx(0.0, abs=1e-9)
    assert metrics.jerk(np.outer(TIMES**3, (0.0, 1.0, 0.0)), TIMES) == pytest.approx(6.0)
    assert np.isnan(metrics.jerk(np.zeros((3, 3)), TIMES[:3]))


def test_chunks_that_continue_each_other_agree_and_others_are_apart_by_what_they_are():
    later = START + 2 * NANOSECONDS // 10
    assert metrics.disagreement(chunk_along(at=later), chunk_along()) == pytest.approx((0.0, 0.0), abs=1e-5)
    apart = metrics.disagreement(chunk_along(at=later, offset=(0.0, 0.0, 0.02), turn_deg=3.0), chunk_along())
    assert apart == pytest.approx((20.0, 3.0))
    assert np.isnan(metrics.disagreement(chunk_along(at=START + 5 * NANOSECONDS), chunk_along())).all()


def test_a_series_forgets_what_is_old_and_starts_afresh_when_stamps_go_back():
    series = Series(1)
    for tick in range(200_000):
        series.add(tick * NANOSECONDS // 1000, (float(tick),))
    stamps, rows = series.all()
    assert rows[-1, 0] == 199_999 and KEPT_NS <= stamps[-1] - stamps[0] <= 3 * KEPT_NS
    series.add(int(stamps[-1]) - 5, (-1.0,))  # unsorted: passed over
    assert series.all()[1][-1, 0] == 199_999
    series.add(NANOSECONDS, (7.0,))  # a clock set anew
    np.testing.assert_array_equal(series.all()[1], [[7.0]])


def test_points_that_ride_on_the_picture_do_not_slip():
    generator = np.random.default_rng(0)
    scene = cv2.GaussianBlur(generator.integers(0, 255, (140, 140, 3)).astype(np.uint8), (0, 0), 3)
    scene = cv2.normalize(scene, None, 0, 255, cv2.NORM_MINMAX)
    flow = sampling_motion.OpticalFlow()
    assert flow.to(scene[10:106, 10:106]) is None
    moved = flow.to(scene[10:106, 7:103])  # the picture goes 3 px to the right
    points = np.array([[0.4, 0.4], [0.5, 0.6], [0.6, 0.5]])
    shift = np.array([3.0 / sampling_motion.FLOW_SIDE, 0.0])
    moving, picture, slip = sampling_motion.motion(points + shift, points, moved)
    assert moving == pytest.approx(3.0 / 96) and picture == pytest.approx(3.0 / 96, rel=0.15)
    assert slip < 0.2 * picture
    assert sampling_motion.motion(points, points, moved)[2] == pytest.approx(picture)
    flow.forget()
    assert flow.to(scene[:96, :96]) is None


def test_spread_and_collapse():
    corners = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    assert sampling_motion.spread(corners) == pytest.approx(np.sqrt(0.5)) and not sampling_motion.collapsed(corners)
    assert sampling_motion.spread(np.full((4, 2), 0.3)) == 0.0 and np.isnan(
        sampling_motion.spread(np.full((1, 2), 0.3))
    )
    assert sampling_motion.collapsed(np.array([[0.99, 0.99], [0.98, 0.97], [0.5, 0.5], [0.2, 0.3]]))
    assert not sampling_motion.collapsed(
        np.array([[0.99, 0.5], [0.98, 0.4], [0.5, 0.01], [0.2, 0.3]])
    )  # an edge is no corner


def shadowed(chunk: ActionChunk, poses_for_s: float = 1.0) -> ShadowFollower:
    """A second of the follower under one chunk, the arm standing at HOME."""
    shadow = ShadowFollower(FOLLOWER, "base", START)
    shadow.send(chunk, START)
    for tick in range(1, 11):
        now = START + tick * NANOSECONDS // 10
        times = [now - NANOSECONDS // 10 + part * 10_000_000 for part in range(10)]
        arrived = [("current_pose", at, stamped(at, HOME.position)) for at in times if at < START + poses_for_s * 1e9]
        shadow.run(now, arrived)
    return shadow


def test_the_shadow_says_which_limits_a_chunk_would_have_met():
    calm = shadowed(chunk_along(speed=0.02))
    assert calm.ticks == 100 and not calm.limited and not calm.held and not calm.refused
    fast = shadowed(chunk_along(speed=1.0))
    assert fast.limited["speed"] and fast.limited["tracking_error"] and not fast.limited["workspace"]
    assert fast.largest_cut_mm > 100.0
    assert shadowed(chunk_along(speed=0.3)).limited["acceleration"]  # it starts at rest
    low = shadowed(chunk_along(speed=0.0, offset=(0.0, 0.0, -0.30)))
    assert shadowed(chunk_along(speed=0.0, offset=(0.26, 0.0, 0.0))).limited["tracking_error"]
    assert low.limited["tracking_error"] and low.limited["any"] <= low.ticks


def test_the_limit_that_acts_most_often_is_named():
    for worst in BINDING:
        acted = statistics(10.0)
        acted.shadow_ticks = 10
        acted.limited.update({**dict.fromkeys(BINDING, 2), worst: 4, "any": 5})
        shares = acted.figures()["limits"]["share_of_ticks"]
        assert shares == {**dict.fromkeys(BINDING, 0.2), worst: 0.4, "any": 0.5}
        assert any(f"most often {worst}" in finding.text for finding in findings(acted.figures(), {}))


def test_the_shadow_holds_where_the_follower_would_and_counts_what_it_refuses():
    blind = shadowed(chunk_along(speed=0.02), poses_for_s=0.3)
    assert blind.held["current_pose: too old, limit 0.1 s"] > 50
    late = shadowed(chunk_along(at=START - 5 * NANOSECONDS))
    assert late.refused["chunk ended: every step has passed"] == 1
    ahead = "chunk is stamped 0.100 s in the future, limit 0.05 s"
    assert without_values(ahead) == "chunk is stamped in the future, limit 0.05 s"
    beyond = "joint j4 at {} is beyond its limits of -3.072 to -0.070"
    assert without_values(beyond.format("-3.147")) == without_values(beyond.format("0.021"))
    assert "limits of -3.072 to -0.070" in without_values(beyond.format("-3.147")), "the limits are no reading"
    off = "forward kinematics puts tool {} mm and {} rad from current_pose, expected at most 30 mm and 0.15 rad"
    assert without_values(off.format(41, "0.02")) == without_values(off.format(35, "0.20"))


def test_a_pause_in_the_recording_is_no_hold_of_the_followers():
    shadow = shadowed(chunk_along(speed=0.02))
    shadow.skip(START + 60 * NANOSECONDS)
    assert shadow.ticks == 100 and not shadow.held
    shadow.run(START + 61 * NANOSECONDS, [])
    assert shadow.ticks == 200 and sum(shadow.held.values()) == 100


def test_a_follower_that_never_gets_a_chunk_in_time_has_held_throughout():
    late = shadowed(chunk_along(at=START - 5 * NANOSECONDS))
    assert late.ticks == sum(late.held.values()) == 100
    made = statistics(10.0)
    made.shadow_ticks = late.ticks
    made.held.update(late.held)
    figures = made.figures()
    assert figures["limits"]["held_share"] == 1.0
    said = [finding for finding in findings(figures, {}) if "would have held" in finding.text]
    assert [finding.level for finding in said] == [BAD] and "no chunk could be followed" in said[0].text
    unknown = statistics(10.0).figures()
    assert unknown["limits"]["held_share"] is None and not any("limits" in f.text for f in findings(unknown, {}))


def test_targets_in_another_frame_are_no_reference():
    recorded = RecordedMotion(("target_pose",), IN_WORLD)
    recorded.add("target_pose", START, stamped(START, HOME.position))
    count, why = recorded.passed_over["target_pose"]
    assert count == 1 and "target_pose is in frame 'base', expected 'world'" in why
    assert "0 messages on target_pose have a pose that can be used" in recorded.why_unknown()
    measured = RecordedMotion(("current_pose",), IN_WORLD)
    measured.add("current_pose", START, stamped(START, HOME.position))
    assert measured.motion_at(np.array([START]))[2].tolist() == [False]


def test_targets_without_a_stamp_count_from_when_they_were_received():
    recorded = RecordedMotion(("target_pose",), ARM)
    for tick in range(100):
        recorded.add("target_pose", START + tick * 10_000_000, stamped(0, (0.01 * tick, 0.0, 0.3)))
    positions, _, known = recorded.motion_at(START + np.array([105_000_000, 2 * NANOSECONDS]))
    assert known.tolist() == [True, False] and positions[0, 0] == pytest.approx(0.105)


def test_a_grip_that_was_told_in_the_hands_own_numbers_is_read_in_metres():
    recorded = RecordedMotion(("target_pose", "gripper_command"), ARM, gripper_scale=12.5)
    for ns, told in ((START, 1.0), (START + 10**8, np.nan), (START + 2 * 10**8, 0.0)):
        recorded.add("gripper_command", ns, SimpleNamespace(data=[told]))
    np.testing.assert_allclose(recorded.grip_at(START + 10**8 * np.array([0, 1, 2])), [0.08, 0.08, 0.0])


def test_a_motion_that_is_known_nowhere_says_why():
    assert RecordedMotion(("target_pose",), ARM).why_unknown().startswith("0 messages on target_pose")
    sparse = RecordedMotion(("target_pose",), ARM)
    for tick in range(10):
        ns = START + tick * NANOSECONDS // 5
        sparse.add("target_pose", ns, stamped(ns, HOME.position))
    assert sparse.why_unknown() == "target_pose pauses 9 times for more than 0.15 s, in 10 messages"
    assert recorded_line().why_unknown() == "no chunk lies within the stamps of target_pose"


def test_overlapping_ranges_are_copied_once():
    seconds = lambda *span: Span(*(round(s * NANOSECONDS) for s in span))  # noqa: E731
    spans = [seconds(22, 30), seconds(10, 20), seconds(100, 101)]
    windows = [(start / NANOSECONDS, stop / NANOSECONDS) for start, stop in _windows(spans)]
    before, after = BEFORE_NS / NANOSECONDS, AFTER_NS / NANOSECONDS
    assert windows == [(10 - before, 30 + after), (100 - before, 101 + after)]


def statistics(position: float, still: float = 50.0) -> EpisodeStatistics:
    made = EpisodeStatistics()
    for name, row in (
        ("time_s", [0.0]),
        ("position_mm", [position, position]),
        ("still_mm", [still, still]),
        ("rotation_deg", [1.0, np.nan]),
    ):
        made.rows.add(name, row)
    return made


def test_tallies_add_up_and_unknown_steps_do_not_count():
    total = statistics(10.0)
    total += statistics(30.0)
    figures = total.figures()
    assert figures["inferences"] == 2 and figures["position_mm"]["mean"] == 20.0
    assert figures["rotation_deg"]["by_step"] == [1.0, None] and figures["jerk_m_s3"]["chunks"] is None
    with pytest.raises(ValueError, match="rows of 2"):
        total.rows.add("position_mm", [1.0])


def test_a_baseline_is_undercut_by_more_than_the_tolerance_only():
    def overall(position, label="a"):
        return {"overall": {label: statistics(position).figures()}}

    assert not regressions(overall(10.5), overall(10.0), tolerance=0.1)
    (worse, p95) = regressions(overall(12.0, "b"), overall(10.0), tolerance=0.1)
    assert worse == "b: position_mm.mean is 12, was 10" and "p95" in p95
    assert not regressions(overall(2.0), overall(10.0), tolerance=0.0)
    (lost, *_) = regressions({"overall": {"a": EpisodeStatistics().figures()}}, overall(10.0), 0.1)
    assert "could not be measured" in lost
    two = {"overall": {"x": {}, "y": {}}}
    with pytest.raises(BaselineError, match="the baseline has x, y; this run has a"):
        regressions(overall(1.0), two, 0.1)


@pytest.mark.parametrize(("silent", "level"), [(1, FAIR), (8, BAD)])
def test_ticks_that_gave_no_chunk_are_said_first_and_are_worse_than_a_baseline(silent, level):
    whole, part = statistics(10.0), statistics(10.0)
    whole.ticks = part.ticks = 10
    part.silent = silent
    part.not_ready.update({"camera 'wrist': no image yet": silent, "gripper: too old": 1})
    first = findings(part.figures(), {})[0]
    assert first.level == level and f"No chunk at {silent}0% of the ticks" in first.text and "'wrist'" in first.text
    assert "No chunk" not in findings(whole.figures(), {})[0].text
    sums = [added([half, whole]).figures()["no_chunk_share"] for half in (whole, part)]
    assert sums == [0.0, silent / 20]
    (worse,) = regressions({"overall": {"a": part.figures()}}, {"overall": {"a": whole.figures()}}, 0.1)
    assert worse.startswith("a: no_chunk_share is")


@pytest.mark.parametrize(("frames", "levels"), [(1, [GOOD]), (10, [FAIR]), (60, [BAD])])
def test_a_corner_is_worth_a_word_when_the_points_are_often_there(frames, levels):
    made = statistics(10.0)
    for frame in range(100):
        for name, value in (("collapsed", frame < frames), ("spread", 0.3), ("moved", 0.1), ("picture", 0.1)):
            made.rows.add(f"{name}/base", [value])
    said = [finding for finding in findings(made.figures(), {}) if "Camera base" in finding.text]
    assert [finding.level for finding in said] == levels


def test_a_single_point_looks_at_one_place_and_that_is_no_fault():
    made = statistics(10.0)
    for name, value in (("collapsed", 0.0), ("spread", sampling_motion.spread(np.array([[0.4, 0.6]])))):
        made.rows.add(f"{name}/base", [value])
    assert not any("Camera base" in finding.text for finding in findings(made.figures(), {}))


def test_findings_say_whether_the_policy_beats_an_arm_that_stands_still():
    assert findings(statistics(10.0).figures(), {})[0].level == GOOD
    worse = findings(statistics(60.0).figures(), {})[0]
    assert worse.level == BAD and "worse than doing nothing" in worse.text
    assert findings(EpisodeStatistics().figures(), {})[0].level == BAD


@pytest.mark.parametrize(("p99", "misses", "level"), [(80.0, 0, GOOD), (80.0, 1, FAIR), (300.0, 9, BAD)])
def test_one_late_inference_is_a_warning_and_a_policy_slower_than_its_rate_an_alarm(p99, misses, level):
    timings = {"inference_ms": {"p99": p99}, "deadline_misses": misses, "rate_hz": 5.0}
    assert findings(statistics(10.0).figures(), timings)[-1].level == level
