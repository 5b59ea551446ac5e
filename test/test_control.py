"""Chunks as functions of time, and a follower whose limits hold whatever it is fed."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from grids_ros.control import rotation
from grids_ros.control.follower import Follower, FollowerConfig, Refused
from grids_ros.control.gripper import GripperHysteresis
from grids_ros.control.limits import BINDING, Limits, Motion, binding, follow, shortened, stopping, toward
from grids_ros.control.timeline import JOINS, Join, gripper_at, pose_at
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
    lead_translation=0.1,
    lead_rotation=0.5,
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
    """Speed and acceleration always, holds included; the box as soon as the arm is inside it; the lead whenever the
    arm is not pushed away."""
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
            assert np.linalg.norm(command.pose.position - arm.position) <= LIMITS.lead_translation + 1e-7
    steps = np.diff([pose.position for pose in path], axis=0).reshape(-1, 3)
    assert (np.linalg.norm(steps, axis=1) <= LIMITS.linear_speed * PERIOD_S + SLACK).all()
    changes = np.diff(steps, axis=0)
    assert (np.linalg.norm(changes, axis=1) <= LIMITS.linear_acceleration * PERIOD_S**2 + SLACK).all()
    turns = np.reshape(turns, (-1, 3))
    assert (np.linalg.norm(turns, axis=1) <= LIMITS.angular_speed * PERIOD_S + 1e-6).all()
    twists = np.linalg.norm(np.diff(turns, axis=0, prepend=np.zeros((1, 3))), axis=1)[: len(turns)]
    assert (twists <= LIMITS.angular_acceleration * PERIOD_S**2 + 1e-6).all()


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
    f = follower(join="latest", limits=dataclasses.replace(LIMITS, lead_translation=1.0))
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


def test_the_command_never_runs_further_ahead_than_the_lead():
    f = follower()
    f.measure(0, HOME)
    f.accept(chunk(positions=((0.4, 0, 0.3), (0.5, 0, 0.3)), dt=0.5), 0)
    commands = run(f, 0, 90, HOME)
    ahead = [np.linalg.norm(c.pose.position - HOME.position) for c in commands]
    assert max(ahead) == pytest.approx(LIMITS.lead_translation)


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
        ({"lead_translation": 0.05}, "lead"),
        ({"lead_rotation": 0.05}, "lead"),
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
    assert run(f, 5 * NANOSECONDS, 2, HOME)[-1].reason == "no chunk"
    f.accept(chunk(5 * NANOSECONDS), 5 * NANOSECONDS + 20 * MS)
    assert not run(f, 5 * NANOSECONDS + 20 * MS, 1, HOME)[0].holding


def test_after_a_clock_that_went_back_the_arm_that_is_there_now_is_not_pulled_to_where_the_last_one_was():
    """A simulation that was reset with its clock: another pose, and a hand that was never told to open."""
    f = follower()
    f.measure(100 * NANOSECONDS, HOME)
    f.accept(chunk(100 * NANOSECONDS), 100 * NANOSECONDS)
    before = run(f, 100 * NANOSECONDS, 3, HOME)
    assert [command.gripper for command in before] == [GRIPPER.open, None, None]
    elsewhere = Pose(HOME.position + (0.2, 0.0, 0.0), HOME.quaternion)
    assert f.tick(5 * NANOSECONDS) is None, "the pose that was measured last is of another time"
    assert run(f, 5 * NANOSECONDS + 10 * MS, 2, elsewhere) == [None, None], "silent, as before the first chunk"
    f.accept(chunk(5 * NANOSECONDS), 5 * NANOSECONDS + 30 * MS)
    again = run(f, 5 * NANOSECONDS + 30 * MS, 2, elsewhere)
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
    goals = [command.wanted.position[0] - at.position[0] for command in run(f, now_ns + 10 * MS, 100, at)]
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
        (lambda: Limits((0, 0, 0), (1, 1, 1), 1, 1, 1, 1, 1, np.inf), "lead_rotation is inf"),
        (lambda: Limits((0, 0, 0), (1, 1, 1), 1, 1, np.nan, 1, 1, 1), "linear_acceleration is nan"),
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
