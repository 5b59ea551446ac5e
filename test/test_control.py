"""Chunks as functions of time, and a follower whose limits hold whatever it is fed."""

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation, Slerp

from grids_ros.control import rotation
from grids_ros.control.follower import Follower, FollowerConfig, HoldCause, Refused
from grids_ros.control.gripper import GripperHysteresis
from grids_ros.control.limits import BINDING, Limits, Motion, binding, follow, shortened, stopping, toward
from grids_ros.control.trajectory import JOINS, Join, Trajectory, gripper_at
from grids_ros.datatypes import NANOSECONDS, ActionChunk, Pose

MS = NANOSECONDS // 1000
UP = (0.0, 0.0, 0.0, 1.0)
LIMITS = Limits(
    workspace_min=(-0.5, -0.5, 0.0),
    workspace_max=(0.5, 0.5, 0.6),
    linear_speed=0.5,
    angular_speed=1.0,
    linear_acceleration=8.0,
    angular_acceleration=20.0,
    max_tracking_error_translation=0.1,
    max_tracking_error_rotation=0.5,
)
GRIPPER = GripperHysteresis(closed=0.0, close_below=0.03, open_above=0.05, open=0.08)
PERIOD_S = 0.01
SLACK = 1e-9


def chunk(stamp_ns=0, positions=((0.1, 0, 0.3), (0.2, 0, 0.3)), dt=0.1, quaternions=None, gripper=None):
    n = len(positions)
    return ActionChunk(
        stamp_ns=stamp_ns,
        times=dt * np.arange(1, n + 1),
        positions=positions,
        quaternions=np.tile(UP, (n, 1)) if quaternions is None else quaternions,
        gripper=np.full(n, 0.08) if gripper is None else gripper,
    )


def follower(**changes):
    return Follower(FollowerConfig(**{**{"limits": LIMITS, "gripper": GRIPPER, "period_s": PERIOD_S}, **changes}))


def angle(a: Pose, b: Pose) -> float:
    return float(
        np.linalg.norm((Rotation.from_quat(b.quaternion) * Rotation.from_quat(a.quaternion).inv()).as_rotvec())
    )


def pose_at(c, now_ns: int) -> Pose:
    return Trajectory.of_chunk(c).pose_at(now_ns)


coordinate = st.floats(-1.0, 1.0)
AT_ZERO = st.just(0)
points = st.tuples(coordinate, coordinate, coordinate)
quaternions = st.tuples(coordinate, coordinate, coordinate, coordinate).filter(lambda q: np.linalg.norm(q) > 0.1)


@st.composite
def poses(draw):
    q = np.array(draw(quaternions))
    return Pose(draw(points), q / np.linalg.norm(q))


@st.composite
def chunks(draw, stamp_ns=AT_ZERO):
    steps = draw(st.lists(poses(), min_size=1, max_size=5))
    return ActionChunk(
        stamp_ns=draw(stamp_ns),
        times=np.cumsum(draw(st.lists(st.floats(0.02, 0.3), min_size=len(steps), max_size=len(steps)))),
        positions=[p.position for p in steps],
        quaternions=[p.quaternion for p in steps],
        gripper=draw(st.lists(st.floats(-1, 1), min_size=len(steps), max_size=len(steps))),
    )


# --- a chunk as a function of time -------------------------------------------------------------------------------


def test_a_chunk_passes_through_its_steps_and_is_linear_between_them():
    c = chunk()
    for at_ms, x in ((-50, 0.0), (0, 0.0), (50, 0.05), (100, 0.1), (125, 0.125), (150, 0.15), (200, 0.2), (900, 0.2)):
        np.testing.assert_allclose(pose_at(c, at_ms * MS).position, (x, 0, 0.3), atol=1e-12)


def test_rotation_is_slerp():
    half_turn = Rotation.from_rotvec([0, 0, np.pi / 2])
    c = chunk(quaternions=[UP, half_turn.as_quat()])
    quarter = pose_at(c, 150 * MS).quaternion
    np.testing.assert_allclose(Rotation.from_quat(quarter).as_rotvec(), [0, 0, np.pi / 4], atol=1e-12)


@given(st.integers(1, 8), st.integers(0, 2**32 - 1), st.booleans(), st.lists(st.integers(-2000, 4000), min_size=1))
def test_many_instants_at_once_are_the_same_as_one_by_one(n, seed, lead_in, at_ms):
    random = np.random.default_rng(seed)
    times, turns = np.cumsum(random.uniform(0.02, 0.3, n)), Rotation.random(n, random).as_quat()
    trajectory = Trajectory(10**18, times, random.normal(size=(n, 3)), turns, lead_in)
    stamps = 10**18 + MS * np.array(at_ms)
    for stamp, position, quaternion in zip(stamps.tolist(), *trajectory.at(stamps), strict=True):
        pose = trajectory.pose_at(stamp)
        np.testing.assert_allclose(position, pose.position, atol=1e-12)
        assert angle(Pose(position, quaternion), pose) < 1e-7


def test_recorded_poses_are_scipys_slerp_hold_at_the_ends_and_cover_no_gap():
    stamps = 10**18 + np.array([0, 300, 1000, 1100]) * MS
    turns, positions = Rotation.random(4, random_state=1), np.random.default_rng(0).normal(size=(4, 3))
    recorded = Trajectory.of_stamps(stamps, positions, turns.as_quat())
    at = 10**18 + np.array([0, 100, 300, 770, 1050, 1100]) * MS
    moved, turned = recorded.at(at)
    slerp = Slerp((stamps - stamps[0]) / NANOSECONDS, turns)
    assert ((Rotation.from_quat(turned) * slerp((at - stamps[0]) / NANOSECONDS).inv()).magnitude() < 1e-9).all()
    np.testing.assert_allclose(moved[:, 0], np.interp(at - 10**18, stamps - 10**18, positions[:, 0]))
    np.testing.assert_allclose(recorded.at(10**18 + np.array([-1000, 9000]) * MS)[0], positions[[0, -1]])
    covered = recorded.covers(10**18 + np.array([-1, 0, 299, 301, 1050, 1101]) * MS, 300 * MS)
    assert covered.tolist() == [False, True, True, False, True, False]


def test_the_gripper_follows_the_step_being_travelled_to():
    c = chunk(gripper=[0.08, 0.0])
    assert [gripper_at(c, t * MS) for t in (0, 99, 100, 101, 200, 500)] == [0.08, 0.08, 0.08, 0.0, 0.0, 0.0]


@settings(max_examples=80, deadline=None)
@given(chunks(), poses(), st.floats(0.05, 0.5), st.floats(0.0, 1.0))
def test_a_join_starts_at_the_command_and_ends_on_the_chunk(c, command, duration, when):
    now = round(when * c.end_ns)
    join = Join.enter(c, command, now, duration)
    start = join.at(now)
    np.testing.assert_allclose(start.position, command.position, atol=1e-9)
    assert angle(start, command) < 1e-6
    end = now + round(duration * NANOSECONDS) + 1
    np.testing.assert_allclose(join.at(end).position, pose_at(c, end).position, atol=1e-9)


@settings(max_examples=50, deadline=None)
@given(poses(), poses(), st.floats(0, 2), st.floats(0, 2))
def test_toward_never_goes_further_than_allowed(start, goal, distance, turn):
    reached = toward(start, goal, distance, turn)
    assert np.linalg.norm(reached.position - start.position) <= distance + SLACK
    assert angle(start, reached) <= turn + 1e-6
    assert np.dot(reached.quaternion, start.quaternion) >= -SLACK


vectors = st.tuples(*[st.floats(-2.0, 2.0)] * 3).map(np.array)


@settings(max_examples=100, deadline=None)
@given(poses(), poses(), vectors)
def test_quaternion_arithmetic_agrees_with_scipy(a, b, vector):
    ra, rb = Rotation.from_quat(a.quaternion), Rotation.from_quat(b.quaternion)
    product = Rotation.from_quat(rotation.multiply(a.quaternion, b.quaternion))
    assert (product * (ra * rb).inv()).magnitude() < 1e-7
    turned = Rotation.from_quat(rotation.turn(a.quaternion, vector))
    assert (turned * (Rotation.from_rotvec(vector) * ra).inv()).magnitude() < 1e-7
    there = rotation.difference(b.quaternion, a.quaternion)
    assert np.linalg.norm(there) == pytest.approx((rb * ra.inv()).magnitude(), abs=1e-7)
    assert angle(Pose((0, 0, 0), rotation.turn(a.quaternion, there)), b) < 1e-7


@settings(max_examples=100, deadline=None)
@given(poses(), st.lists(st.tuples(poses(), vectors), min_size=1, max_size=4))
def test_quaternions_of_a_chunk_are_those_of_one_step_after_another(a, steps):
    goals, turns = np.stack([pose.quaternion for pose, _ in steps]), np.stack([vector for _, vector in steps])
    for goal, there in zip(goals, rotation.differences(goals, a.quaternion), strict=True):
        np.testing.assert_allclose(there, rotation.difference(goal, a.quaternion), atol=1e-9)
    for vector, turned in zip(turns, rotation.turned(a.quaternion, turns), strict=True):
        np.testing.assert_allclose(turned, rotation.turn(a.quaternion, vector), atol=1e-9)


# --- the follower ------------------------------------------------------------------------------------------------


def run(f, start_ns, ticks, measured=None, arm=None):
    """Tick `f` for `ticks` periods; `measured` is fixed, or the arm follows each command at once."""
    commands = []
    for i in range(ticks):
        now = start_ns + round(i * PERIOD_S * NANOSECONDS)
        f.measure(now, measured if measured is not None else arm)
        command = f.tick(now)
        if command is not None:
            arm = command.pose
        commands.append(command)
    return commands


HOME = Pose((0.1, 0.0, 0.3), UP)


def test_silence_before_the_first_chunk():
    assert run(follower(), 0, 5, HOME) == [None] * 5


def test_follows_a_chunk_then_holds_where_it_ended():
    f = follower(join="latest")
    f.measure(0, HOME)
    f.accept(chunk(positions=((0.1, 0, 0.3), (0.12, 0, 0.3), (0.12, 0, 0.3))), 0)
    commands = run(f, 0, 50, arm=HOME)
    assert [c.holding for c in commands] == [False] * 31 + [True] * 19
    assert commands[-1].reason == "chunk ended"
    np.testing.assert_allclose(commands[-1].pose.position, (0.12, 0, 0.3), atol=1e-12)
    assert len({tuple(c.pose.position) for c in commands[31:]}) == 1


def test_a_chunk_that_ends_in_mid_motion_is_braked_by_its_end():
    f = follower(join="latest")
    f.measure(0, HOME)
    f.accept(chunk(positions=[(0.1 + 0.03 * k, 0, 0.3) for k in range(1, 5)]), 0)
    xs = np.array([c.pose.position[0] for c in run(f, 0, 60, arm=HOME)])
    assert np.diff(xs)[20:35].min() == pytest.approx(3e-3, rel=1e-3)  # in full swing a moment before
    assert np.ptp(xs[41:]) < 1e-12, "at rest within a tick of the last step"
    assert (np.diff(xs) > -SLACK).all()


@pytest.mark.parametrize("join", JOINS)
def test_no_step_back_when_the_delay_changes_between_chunks(join):
    """openpi#393, Isaac-GR00T#272, lerobot#4223: chunks of one straight motion, arriving 0 to 300 ms late."""
    random = np.random.default_rng(0)
    f = follower(join=join, limits=Limits((-9,) * 3, (9,) * 3, 2.0, 3.0, 50.0, 50.0, 5.0, 3.0))
    arm, xs, due = Pose((0, 0, 0.3), UP), [], []
    for i in range(600):
        now = i * 10 * MS
        if i % 10 == 0:
            steps = [(0.1 * (now / NANOSECONDS + 0.1 * k), 0, 0.3) for k in range(1, 13)]
            due.append((now + int(random.integers(0, 300)) * MS, chunk(now, steps)))
        f.measure(now, arm)
        for arrival, late in [d for d in due if d[0] <= now]:
            due.remove((arrival, late))
            try:
                f.accept(late, now)
            except Refused as refusal:
                assert "not newer" in str(refusal)
        command = f.tick(now)
        if command:
            arm = command.pose
            xs.append(arm.position[0])
    steps = np.diff(xs)
    assert steps.min() > 0.0
    assert steps[50:].max() < 2.5 * np.median(steps)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 40), chunks(st.integers(0, 400).map(lambda ms: ms * MS))), max_size=6),
    poses(),
    st.lists(st.tuples(st.integers(0, 60), poses()), max_size=4),
    st.sets(st.integers(0, 60), max_size=3),
    st.sampled_from(JOINS),
)
def test_limits_hold_whatever_comes(arrivals, start, pushes, holds, join):
    """Speed and acceleration always, holds included; the box as soon as the arm is inside it; the tracking error
    whenever the arm is not pushed away."""
    f = follower(join=join)
    arm, inside = start, False
    path, turns = [], []
    started_inside = (np.clip(start.position, LIMITS.workspace_min, LIMITS.workspace_max) == start.position).all()
    pushed = dict(pushes)
    for tick in range(60):
        now = tick * 10 * MS
        arm = pushed.get(tick, arm)
        f.measure(now, arm)
        if tick in holds:
            f.hold("test")
        if tick - 3 in holds:
            f.release(now)
        for when, c in arrivals:
            if when == tick:
                try:
                    f.accept(c, now)
                except Refused:
                    pass
        command = f.tick(now)
        if command is None:
            continue
        path = path or [arm] * 2
        path.append(command.pose)
        turns.append(rotation.difference(path[-1].quaternion, path[-2].quaternion))
        box_error = np.maximum(
            np.subtract(LIMITS.workspace_min, command.pose.position),
            np.subtract(command.pose.position, LIMITS.workspace_max),
        ).max()
        inside = inside or box_error <= 0
        if inside:
            assert box_error <= 1e-7
        if started_inside and not pushed:
            assert np.linalg.norm(command.pose.position - arm.position) <= LIMITS.max_tracking_error_translation + 1e-7
    steps = np.diff([pose.position for pose in path], axis=0).reshape(-1, 3)
    assert (np.linalg.norm(steps, axis=1) <= LIMITS.linear_speed * PERIOD_S + SLACK).all()
    changes = np.diff(steps, axis=0)
    assert (np.linalg.norm(changes, axis=1) <= LIMITS.linear_acceleration * PERIOD_S**2 + SLACK).all()
    turns = np.reshape(turns, (-1, 3))
    assert (np.linalg.norm(turns, axis=1) <= LIMITS.angular_speed * PERIOD_S + 1e-6).all()
    twists = np.linalg.norm(np.diff(turns, axis=0, prepend=np.zeros((1, 3))), axis=1)[: len(turns)]
    assert (twists <= LIMITS.angular_acceleration * PERIOD_S**2 + 1e-6).all()


@settings(max_examples=30, deadline=None)
@given(
    chunks(),
    poses(),
    st.integers(1, 30),
    st.just(0.0) | st.floats(1e-3, 0.4),
    st.just(0.0) | st.floats(1e-3, 0.9),
    st.sampled_from((math.inf, 500.0)),
)
def test_speed_limits_lowered_in_motion_are_reached_by_braking(c, start, when, linear, angular, jerk):
    limits = dataclasses.replace(LIMITS, linear_jerk=jerk, angular_jerk=2 * jerk)
    f = follower(limits=limits)
    f.measure(0, start)
    f.accept(c, 0)
    before = run(f, 0, when, arm=start)
    f.set_speed_limits(linear, angular)
    path = [start] * 3 + [each.pose for each in (*before, *run(f, when * 10 * MS, 60, arm=before[-1].pose))]
    steps = np.diff([pose.position for pose in path], axis=0)
    turns = np.array([rotation.difference(b.quaternion, a.quaternion) for a, b in zip(path, path[1:], strict=False)])
    braked = 3 + when + f.config.averaged + 10  # ticks; from 0.5 m/s and 1 rad/s within the acceleration limits
    for moves, speed, change, slack in (
        (steps, linear, LIMITS.linear_acceleration, SLACK),
        (turns, angular, LIMITS.angular_acceleration, 1e-6),
    ):
        assert np.linalg.norm(moves[braked:], axis=1).max() <= speed * PERIOD_S + slack
        assert np.linalg.norm(np.diff(moves, axis=0), axis=1).max() <= change * PERIOD_S**2 + slack


def test_speed_limits_that_are_none_are_refused():
    f = follower()
    for linear, angular in ((-0.1, 0.5), (0.1, math.nan), (math.inf, 0.5)):
        with pytest.raises(ValueError, match="expected a finite value of at least 0"):
            f.set_speed_limits(linear, angular)
    assert f.config.limits == LIMITS


step = st.tuples(*[st.floats(-0.02, 0.02)] * 3).map(np.array)


@settings(max_examples=100, deadline=None)
@given(step, st.floats(1e-4, 1e-2))
def test_the_way_to_stop_is_what_braking_takes(last, change):
    way, moving = np.zeros(3), shortened(last, max(0.0, np.linalg.norm(last) - change))
    while np.linalg.norm(moving) > 0.0:
        way = way + moving
        moving = shortened(moving, max(0.0, np.linalg.norm(moving) - change))
    np.testing.assert_allclose(stopping(last, change), way, atol=1e-9)


@settings(max_examples=25, deadline=None)
@given(st.floats(0.0, 0.3), st.floats(0.01, 0.4))
def test_a_goal_that_stands_still_is_reached_without_passing_it(start, distance):
    f = follower(join="latest", limits=dataclasses.replace(LIMITS, max_tracking_error_translation=1.0))
    arm = Pose((start - 0.4, 0.0, 0.3), UP)
    goal = start - 0.4 + distance
    f.measure(0, arm)
    f.accept(chunk(positions=[(goal, 0.0, 0.3)] * 20), 0)
    xs = np.array([c.pose.position[0] for c in run(f, 0, 195, arm=arm)])
    assert np.diff(xs).min() >= -SLACK and xs.max() <= goal + 1e-9
    assert xs[-1] == pytest.approx(goal, abs=1e-6)


def test_zero_is_a_limit_like_any_other():
    still = Limits(LIMITS.workspace_min, LIMITS.workspace_max, 0.0, 0.0, 8.0, 20.0, 0.1, 0.5)
    f = follower(limits=still)
    f.measure(0, HOME)
    f.accept(chunk(positions=((0.4, 0.4, 0.4), (0.5, 0.5, 0.5))), 0)
    assert all(np.array_equal(c.pose.position, HOME.position) for c in run(f, 0, 15, HOME))
    flat = Limits((-0.5, 0.0, 0.0), (0.5, 0.0, 0.6), 0.5, 1.0, 8.0, 20.0, 0.1, 0.5)
    f = follower(limits=flat)
    f.measure(0, HOME)
    f.accept(chunk(positions=((0.1, 0.4, 0.3), (0.1, 0.4, 0.3))), 0)
    assert all(c.pose.position[1] == 0.0 for c in run(f, 0, 15, HOME))


def test_the_command_never_runs_further_ahead_than_the_tracking_error():
    f = follower()
    f.measure(0, HOME)
    f.accept(chunk(positions=((0.4, 0, 0.3), (0.5, 0, 0.3)), dt=0.5), 0)
    commands = run(f, 0, 90, HOME)
    ahead = [np.linalg.norm(c.pose.position - HOME.position) for c in commands]
    assert max(ahead) == pytest.approx(LIMITS.max_tracking_error_translation)


@settings(max_examples=60, deadline=None)
@given(poses(), poses(), poses(), poses(), st.booleans())
def test_no_limit_binds_exactly_when_the_command_is_the_goal(goal, last, other, measured, there):
    command = Pose(goal.position, -goal.quaternion) if there else other
    equal = np.allclose(goal.position, command.position, atol=1e-9) and angle(goal, command) < 1e-5
    assert (binding(goal, last, command, measured, LIMITS, PERIOD_S) == ()) == equal


WIDE = Limits((-9.0,) * 3, (9.0,) * 3, 1e3, 1e3, 1e6, 1e6, 9.0, 3.1)  # the goal is reached in one tick


@pytest.mark.parametrize(
    ("tight", "name"),
    [
        ({}, None),
        ({"max_tracking_error_translation": 0.05}, "tracking_error"),
        ({"max_tracking_error_rotation": 0.05}, "tracking_error"),
        ({"workspace_max": (9.0, 9.0, 0.4)}, "workspace"),
        ({"linear_speed": 1.0}, "speed"),
        ({"angular_speed": 1.0}, "speed"),
        ({"linear_acceleration": 5.0}, "acceleration"),
        ({"angular_acceleration": 5.0}, "acceleration"),
    ],
)
@settings(max_examples=20, deadline=None)
@given(st.tuples(coordinate, coordinate, st.floats(0.2, 1.0)), st.floats(0.2, 1.0))
def test_the_one_limit_that_is_tight_is_the_one_that_binds(tight, name, way, turned):
    limits = dataclasses.replace(WIDE, **tight)
    start = Pose((0.0, 0.0, 0.3), UP)
    goal = Pose(start.position + way, Rotation.from_euler("z", turned).as_quat())
    command = follow(Motion.at_rest(start), goal, goal, start, limits, PERIOD_S, 1.0).pose
    held_back = binding(goal, start, command, start, limits, PERIOD_S)
    assert held_back == ((name,) if name else ()) and set(held_back) <= set(BINDING)


def test_hold_is_at_once_and_lasts_until_released():
    f = follower()
    f.measure(0, HOME)
    f.accept(chunk(), 0)
    before = run(f, 0, 5, arm=HOME)[-1]
    f.hold("hold service")
    held = run(f, 50 * MS, 10, HOME)
    assert all(c.holding and c.reason == "hold service" for c in held)
    way = np.diff([c.pose.position[0] for c in (before, *held)])
    assert way[0] > 0.0 and (np.diff(way[:4]) < 0.0).all() and (way[4:] == 0.0).all()
    with pytest.raises(Refused, match="holding: hold service"):
        f.accept(chunk(60 * MS), 80 * MS)
    f.release(200 * MS)
    with pytest.raises(Refused, match="before the hold was released"):
        f.accept(chunk(190 * MS), 210 * MS)
    f.measure(210 * MS, HOME)
    f.accept(chunk(205 * MS), 210 * MS)
    assert not run(f, 210 * MS, 1, HOME)[0].holding


def test_what_is_wanted_of_the_hand_is_sent_anew_after_a_hold():
    """Somebody may have opened it meanwhile."""
    f = follower()
    f.measure(0, HOME)
    f.accept(chunk(gripper=[0.0, 0.0]), 0)
    assert [c.gripper for c in run(f, 0, 3, HOME)] == [0.0, None, None]
    f.hold("hold service")
    run(f, 30 * MS, 10, HOME)
    assert f.at_rest
    f.release(200 * MS)
    f.measure(210 * MS, HOME)
    f.accept(chunk(205 * MS, gripper=[0.0, 0.0]), 210 * MS)
    assert [c.gripper for c in run(f, 210 * MS, 3, HOME)] == [0.0, None, None]
    assert not f.at_rest


def test_a_stale_pose_holds_and_what_was_missed_is_not_made_up_in_one_leap():
    f = follower(join_s=0.2)
    f.measure(0, HOME)
    f.accept(chunk(positions=[(0.1 + 0.02 * k, 0, 0.3) for k in range(1, 13)]), 0)
    last = run(f, 0, 10, HOME)[-1]
    for i in range(10, 45):
        command = f.tick(i * 10 * MS)
    assert command.holding and "current_pose: 0.350 s old, limit 0.1 s" in command.reason
    f.measure(450 * MS, HOME)
    moving = f.tick(450 * MS)
    assert not moving.holding
    assert np.linalg.norm(moving.pose.position - command.pose.position) < 1e-3
    assert np.linalg.norm(command.pose.position - last.pose.position) < 0.03


@pytest.mark.parametrize(
    ("stamp_ms", "now_ms", "text"),
    [
        (0, 200, "every step has passed"),
        (500, 100, "0.400 s in the future"),
        (50, 60, "not newer"),
        (10, 60, "not newer"),
    ],
)
def test_refused_chunks_leave_the_current_one_in_place(stamp_ms, now_ms, text):
    f = follower()
    f.measure(60 * MS, HOME)
    current = chunk(50 * MS, positions=[(0.1, 0, 0.3)] * 12)
    f.accept(current, 60 * MS)
    f.measure(now_ms * MS, HOME)
    with pytest.raises(Refused, match=text):
        f.accept(chunk(stamp_ms * MS), now_ms * MS)
    assert f.chunk is current


def test_a_long_chunk_is_followed_for_as_long_as_its_observation_may_be_old_and_braked_by_then():
    f = follower(max_chunk_age_s=1.0)
    f.measure(0, HOME)
    f.accept(chunk(0, positions=[HOME.position + (0.01 * step, 0.0, 0.0) for step in range(1, 51)]), 0)
    commands = run(f, 0, 130, arm=HOME)
    assert [command.holding for command in commands] == [False] * 101 + [True] * 29
    x = np.array([command.pose.position[0] for command in commands])
    assert np.ptp(x[100:]) < 1e-9 and x[99] - HOME.position[0] == pytest.approx(0.1, abs=0.01)
    assert commands[-1].reason == "chunk was observed 1.290 s ago, limit 1 s"
    with pytest.raises(Refused, match="limit 1 s"):
        f.accept(chunk(200 * MS, positions=[(0.3, 0, 0.3)] * 50), 1300 * MS)


def test_no_chunk_is_followed_without_a_measured_pose():
    with pytest.raises(Refused, match="current_pose: nothing received yet"):
        follower().accept(chunk(), 0)


def test_a_clock_that_goes_back_is_survived():
    f = follower()
    f.measure(100 * NANOSECONDS, HOME)
    f.accept(chunk(100 * NANOSECONDS), 100 * NANOSECONDS)
    run(f, 100 * NANOSECONDS, 3, HOME)
    back = run(f, 5 * NANOSECONDS, 10, HOME)
    assert back[0].hold.cause is HoldCause.CLOCK_WENT_BACK and back[-1].reason == "no chunk"
    f.accept(chunk(5 * NANOSECONDS), 5 * NANOSECONDS + 100 * MS)
    assert not run(f, 5 * NANOSECONDS + 100 * MS, 1, HOME)[0].holding


def test_after_a_clock_that_went_back_the_arm_that_is_there_now_is_not_pulled_to_where_the_last_one_was():
    """A simulation that was reset with its clock: another pose, and a hand that was never told to open."""
    f = follower()
    f.measure(100 * NANOSECONDS, HOME)
    f.accept(chunk(100 * NANOSECONDS), 100 * NANOSECONDS)
    before = run(f, 100 * NANOSECONDS, 3, HOME)
    assert [command.gripper for command in before] == [GRIPPER.open, None, None]
    elsewhere = Pose(HOME.position + (0.2, 0.0, 0.0), HOME.quaternion)
    blind = [f.tick(5 * NANOSECONDS + i * 10 * MS) for i in range(10)]
    xs = np.array([command.pose.position[0] for command in (*before[-2:], *blind)])
    assert np.abs(np.diff(xs, n=2)).max() <= LIMITS.linear_acceleration * PERIOD_S**2 + SLACK, "it brakes"
    assert np.ptp(xs[-3:]) == 0.0, "and repeats its pose: the pose that was measured last is of another time"
    assert run(f, 5 * NANOSECONDS + 100 * MS, 2, elsewhere) == [None, None], "silent, as before the first chunk"
    f.accept(chunk(5 * NANOSECONDS), 5 * NANOSECONDS + 120 * MS)
    again = run(f, 5 * NANOSECONDS + 120 * MS, 2, elsewhere)
    assert np.linalg.norm(again[0].pose.position - elsewhere.position) < 0.01 and again[0].gripper == GRIPPER.open


@pytest.mark.parametrize("join", ["blend", "rtc"])
def test_a_chunk_that_comes_before_the_first_tick_of_a_clock_that_went_back_is_entered_where_the_arm_is(join):
    f = follower(join=join)
    f.measure(100 * NANOSECONDS, HOME)
    f.accept(chunk(100 * NANOSECONDS), 100 * NANOSECONDS)
    at = run(f, 100 * NANOSECONDS, 3, HOME)[-1].pose
    now_ns = 5 * NANOSECONDS
    f.measure(now_ns, at)
    ahead = chunk(now_ns, positions=[at.position + (0.01 * step, 0.0, 0.0) for step in range(1, 13)])
    f.accept(ahead, now_ns)
    commands = run(f, now_ns + 10 * MS, 100, at)
    assert sum(command.holding for command in commands) < 10
    goals = [command.wanted.position[0] - at.position[0] for command in commands if not command.holding]
    assert min(goals) > -0.01 and goals[-1] == pytest.approx(0.1, abs=0.01), "along the chunk, not a chunk behind it"


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-0.5, 0.5), min_size=1, max_size=40))
def test_gripper_commands_go_out_on_change_only_and_never_chatter(openings):
    last, sent = None, []
    for opening in openings:
        command = GRIPPER.command(opening, last)
        if command is not None:
            assert command in (GRIPPER.open, GRIPPER.closed) and command != last
            last = command
            sent.append(command)
    inside = [o for o in openings if not GRIPPER.close_below <= o <= GRIPPER.open_above]
    sides = [o > GRIPPER.open_above for o in inside]
    assert len(sent) == (1 + sum(a != b for a, b in zip(sides, sides[1:], strict=False)) if sides else 0)


@pytest.mark.parametrize(("fault", "again"), [("/gripper_command has 2 publishers", 0.08), ("", None)])
def test_after_a_second_publisher_the_gripper_is_told_again(fault, again):
    """Who else commanded the hand may have moved it."""
    f = follower()
    f.measure(0, HOME)
    f.accept(chunk(positions=[(0.1, 0, 0.3)] * 9), 0)
    assert [command.gripper for command in run(f, 0, 3, HOME)] == [0.08, None, None]
    for i in range(3, 10):
        f.measure(i * 10 * MS, HOME)
        f.tick(i * 10 * MS, fault)
    assert run(f, 100 * MS, 1, HOME)[0].gripper == again


def test_the_grippers_command_is_repeated_each_second_while_a_chunk_is_followed():
    """Who begins to listen later hears it."""
    f = follower(max_chunk_age_s=10.0)
    f.measure(0, HOME)
    f.accept(chunk(positions=[(0.1, 0, 0.3)] * 25, gripper=[0.08] * 15 + [0.0] * 10), 0)
    sent = [(i, c.gripper) for i, c in enumerate(run(f, 0, 400, HOME)) if c.gripper is not None]
    assert [opening for _, opening in sent] == [0.08, 0.08, 0.0] and sent[1][0] == 100, "not in the hold behind it"
    f.accept(chunk(4 * NANOSECONDS, positions=[(0.1, 0, 0.3)] * 2, gripper=[0.04] * 2), 4 * NANOSECONDS)
    assert run(f, 4 * NANOSECONDS, 1, HOME)[0].gripper == 0.0, "and once more when it goes on"


def test_the_follower_sends_each_gripper_change_once():
    f = follower()
    f.measure(0, HOME)
    f.accept(chunk(positions=[(0.1, 0, 0.3)] * 4, gripper=[0.08, 0.08, 0.0, 0.04]), 0)
    sent = [(i, c.gripper) for i, c in enumerate(run(f, 0, 60, HOME)) if c.gripper is not None]
    assert sent == [(0, 0.08), (21, 0.0)]


@pytest.mark.parametrize(
    ("build", "text"),
    [
        (lambda: Limits((0, 0, 1), (1, 1, 0), 1, 1, 1, 1, 1, 1), "lies above workspace_max"),
        (lambda: Limits((0, 0, 0), (1, 1, 1), -1, 1, 1, 1, 1, 1), "linear_speed is -1"),
        (lambda: Limits((0, 0, 0), (1, 1, np.nan), 1, 1, 1, 1, 1, 1), "workspace_max is"),
        (lambda: Limits((0, 0, 0), (1, 1, 1), 1, 1, 1, 1, 1, np.inf), "max_tracking_error_rotation is inf"),
        (lambda: Limits((0, 0, 0), (1, 1, 1), 1, 1, np.nan, 1, 1, 1), "linear_acceleration is nan"),
        (lambda: follower(limits=dataclasses.replace(LIMITS, linear_acceleration=0.01)), "make braking take 50 s"),
        (lambda: Limits((0, 0, 0), (1, 1, 1), 1, 1, 1e-306, 1, 1, 1), "linear_acceleration is 1e-306, .* 0.001, or 0"),
        (
            lambda: Limits((0, 0, 0), (1, 1, 1), 1, 1, 1, 1, 1, 1, 1e-306),
            "linear_jerk is 1e-306, expected at least 0.001",
        ),
        (lambda: follower(join="newest"), "'newest', expected one of latest, blend, rtc"),
        (lambda: GripperHysteresis(0.0, 0.05, 0.03, 0.08), "close_below < open_above"),
        (lambda: follower(period_s=0.0), "period_s is 0.0"),
        (lambda: follower(join_s=-1.0), "join_s is -1.0"),
        (lambda: follower().hold(""), "needs a reason"),
    ],
)
def test_configuration_out_of_range_is_refused(build, text):
    with pytest.raises(ValueError, match=text):
        build()


# --- measured poses that jump ------------------------------------------------------------------------------------


def drive_with(f, measured_at, ticks):
    """Commands of a follower that is fed new chunks along x; measured_at: tick and last command to a measured pose."""
    commands, arm = [], HOME
    for i in range(ticks):
        now = i * 10 * MS
        f.measure(now, measured_at(i, arm))
        if i % 10 == 0:
            ahead = [arm.position + (0.015 * step, 0.0, 0.0) for step in range(1, 13)]
            try:
                f.accept(chunk(now, positions=ahead), now)
            except Refused:
                pass
        command = f.tick(now)
        arm = command.pose if command else arm
        commands.append(command)
    return commands


def moved(pose, by):
    return Pose(pose.position + by, pose.quaternion)


@pytest.mark.parametrize(
    ("jump", "cause"),
    [
        ((0.0, 0.3, 0.0), HoldCause.TRACKING_ERROR),
        ((0.0, 0.0, 1.0), HoldCause.TRACKING_ERROR),
        ((0.0, 0.085, 0.0), HoldCause.POSE_JUMPED),  # within the tracking error, faster than any arm
    ],
)
@pytest.mark.parametrize("when", [lambda i: i == 30, lambda i: 30 <= i < 60, lambda i: 30 <= i < 60 and i % 2])
def test_a_measured_pose_that_jumps_brakes_and_holds_until_it_agrees_again(jump, cause, when):
    f = follower()
    commands = drive_with(f, lambda i, arm: moved(arm, jump) if when(i) else arm, 120)
    causes = [command.hold.cause if command.hold else None for command in commands]
    if when(30):
        assert causes[30] in (cause, HoldCause.POSE_JUMPED)
    held = [i for i, c in enumerate(causes) if c in (HoldCause.TRACKING_ERROR, HoldCause.POSE_JUMPED)]
    assert held and held[0] in (30, 31) and held[-1] < 85 and causes[-1] is None
    xyz = np.array([command.pose.position for command in commands])
    assert np.linalg.norm(np.diff(xyz, n=2, axis=0), axis=1).max() <= LIMITS.linear_acceleration * PERIOD_S**2 + SLACK
    assert np.abs(xyz[:, 1:] - HOME.position[1:]).max() < 0.01, "the target was not pulled after the measured pose"


def test_an_arm_that_is_blocked_at_the_tracking_error_is_no_fault_even_with_noise():
    f = follower()
    noise = np.random.default_rng(0)
    commands = drive_with(f, lambda i, arm: moved(HOME, noise.normal(scale=2e-4, size=3)), 200)
    assert all(command.hold is None for command in commands[:100])
    assert np.linalg.norm(commands[99].pose.position - HOME.position) == pytest.approx(0.1, abs=2e-3)


def test_in_a_dry_run_the_target_starts_anew_where_the_arm_went():
    f = follower(arm_obeys=False)
    commands = drive_with(f, lambda i, arm: moved(HOME, (0.0, 0.01 * max(0, i - 30), 0.0)), 120)
    errors = [abs(c.pose.position[1] - 0.01 * max(0, i - 30)) for i, c in enumerate(commands) if c and not c.holding]
    assert any(command is None for command in commands) and max(errors) <= 0.112


# --- where an activation starts ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("apart", "start"), [(0.08, "last"), (0.2, "measured")])
def test_the_first_command_continues_at_the_last_target_if_the_arm_is_near_it(apart, start):
    last = moved(HOME, (0.0, apart, 0.0))
    f = Follower(FollowerConfig(limits=LIMITS, gripper=GRIPPER, period_s=PERIOD_S), last=last)
    f.measure(0, HOME)
    assert f.tick(0) is None, "silent before the first chunk"
    f.accept(chunk(0, positions=[HOME.position] * 12), 0)
    first = f.tick(0).pose
    assert np.linalg.norm(first.position - (last if start == "last" else HOME).position) <= 0.5 * PERIOD_S


# --- a tick that raises ------------------------------------------------------------------------------------------


def test_a_tick_that_failed_brakes_and_the_next_chunk_is_followed_again():
    f = follower()
    f.measure(0, HOME)
    f.accept(chunk(0, positions=[HOME.position + (0.03 * step, 0.0, 0.0) for step in range(1, 13)]), 0)
    before = run(f, 0, 20, arm=HOME)
    failed = [f.fail("tick failed: a bug") for _ in range(20)]
    assert {command.hold.cause for command in failed} == {HoldCause.INTERNAL_ERROR}
    xs = np.array([command.pose.position[0] for command in (*before, *failed)])
    assert np.abs(np.diff(xs, n=2)).max() <= LIMITS.linear_acceleration * PERIOD_S**2 + SLACK
    assert np.ptp(xs[-3:]) == 0.0 and f.chunk is None
    at = failed[-1].pose
    f.measure(400 * MS, at)
    f.accept(chunk(400 * MS, positions=[at.position] * 12), 400 * MS)
    assert not f.tick(400 * MS).holding
    assert follower().fail("a bug") is None, "silent before the first command"


# --- jerk --------------------------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 40), chunks(st.integers(0, 400).map(lambda ms: ms * MS))), max_size=4),
    poses(),
    st.sets(st.integers(0, 70), max_size=3),
    st.sampled_from(JOINS),
    st.floats(100.0, 2000.0),
    st.floats(300.0, 4000.0),
)
def test_the_jerk_limit_holds_whatever_comes_and_so_do_the_others(arrivals, arm, holds, join, linear, angular):
    limits = dataclasses.replace(LIMITS, linear_jerk=linear, angular_jerk=angular)
    f = follower(join=join, limits=limits)
    path = []
    for tick in range(160):
        now = tick * 10 * MS
        f.measure(now, arm)
        if tick in holds or tick == 80:
            f.hold("test")
        if tick - 3 in holds and tick < 80:
            f.release(now)
        for when, c in arrivals:
            if when == tick:
                try:
                    f.accept(c, now)
                except Refused:
                    pass
        command = f.tick(now)
        if command is not None:
            path = path or [arm] * 3
            path.append(command.pose)
            arm = command.pose
    if not path:
        return
    steps = np.diff([pose.position for pose in path], axis=0)
    turns = np.array([rotation.difference(b.quaternion, a.quaternion) for a, b in zip(path, path[1:], strict=False)])
    for moves, speed, change, jerk, slack in (
        (steps, LIMITS.linear_speed, LIMITS.linear_acceleration, linear, SLACK),
        (turns, LIMITS.angular_speed, LIMITS.angular_acceleration, angular, 1e-6),
    ):
        for order, most in ((0, speed * PERIOD_S), (1, change * PERIOD_S**2), (2, jerk * PERIOD_S**3)):
            longest = np.linalg.norm(np.diff(moves, n=order, axis=0), axis=1).max()
            assert longest <= most + slack, ("speed", "acceleration", "jerk")[order]
    assert f.at_rest and np.array_equal(path[-1].position, path[-2].position), "it comes to rest"


def test_a_denormal_motion_comes_to_rest():
    f = follower()
    f.measure(0, Pose((0.1, 1e-188, 0.3), UP))
    f.accept(chunk(0, positions=[(0.1, 3e-188, 0.3)] * 3), 0)
    run(f, 0, 10, Pose((0.1, 1e-188, 0.3), UP))
    f.hold("test")
    run(f, 100 * MS, 10, Pose((0.1, 1e-188, 0.3), UP))
    assert f.at_rest


def test_a_jerk_limit_that_the_acceleration_keeps_anyway_changes_nothing():
    free, limited = follower(), follower(limits=dataclasses.replace(LIMITS, linear_jerk=1600.0, angular_jerk=4000.0))
    for f in (free, limited):
        f.measure(0, HOME)
        f.accept(chunk(0, positions=[HOME.position + (0.02 * step, 0.0, 0.0) for step in range(1, 13)]), 0)
    for a, b in zip(run(free, 0, 150, arm=HOME), run(limited, 0, 150, arm=HOME), strict=True):
        np.testing.assert_array_equal(a.pose.position, b.pose.position)


def test_a_jerk_limit_that_makes_braking_long_is_refused():
    with pytest.raises(ValueError, match="linear_jerk 5 .* at most 0.5 s"):
        follower(limits=dataclasses.replace(LIMITS, linear_jerk=5.0))
    with pytest.raises(ValueError, match="angular_jerk is 0"):
        dataclasses.replace(LIMITS, angular_jerk=0.0)
