"""Real-Time Chunking: against the paper's formulas, and against what the arm will have done."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from inference import POSE, inputs, observation, ours
from scipy.spatial.transform import Rotation
from tiny import tiny

from grids_ros.control.continuity import QUANTILE, CommandMotion, Continuation, Continuity
from grids_ros.control.trajectory import Trajectory, gripper_at
from grids_ros.datatypes import NANOSECONDS, ActionChunk, Pose
from grids_ros.policy import rtc
from grids_ros.policy.rtc import Guidance, guidance_weight, previous_actions, soft_mask, steps_at
from grids_ros.policy.runtime import Policy
from grids_ros.policy.spaces import ABSOLUTE

MS = NANOSECONDS // 1000


def line(stamp_ns=0, steps=12, step_s=0.1, speed=(0.1, 0.0, 0.05)):
    """A chunk that moves and turns at constant rates."""
    times = step_s * np.arange(1, steps + 1)
    seconds = times[:, None] + stamp_ns / NANOSECONDS
    return ActionChunk(
        stamp_ns,
        times,
        POSE.position + seconds * np.asarray(speed),
        (Rotation.from_rotvec(seconds * [0.2, 0.1, -0.3]) * Rotation.from_quat(POSE.quaternion)).as_quat(),
        np.linspace(0.0, 0.08, steps),
    )


@given(st.integers(1, 12), st.integers(0, 2**32 - 1), st.lists(st.integers(-2_000, 4_000), min_size=1, max_size=12))
def test_many_instants_at_once_are_the_same_as_one_by_one(n, seed, at_ms):
    random = np.random.default_rng(seed)
    times, turns = np.cumsum(random.uniform(0.02, 0.3, n)), Rotation.random(n, random).as_quat()
    chunk = ActionChunk(10**18, times, random.normal(size=(n, 3)), turns, random.normal(size=n))
    stamps = 10**18 + MS * np.array(at_ms)
    positions, quaternions, gripper = steps_at(chunk, stamps, 0.1)
    for i, stamp in enumerate(stamps.tolist()):
        pose = Trajectory.of_chunk(chunk).pose_at(stamp)
        np.testing.assert_allclose(positions[i], pose.position, atol=1e-12)
        assert abs(quaternions[i] @ pose.quaternion) == pytest.approx(1.0, abs=1e-9)
        assert gripper[i] == gripper_at(chunk, stamp - 50 * MS), "an opening holds from one step to the next"


def test_the_hand_closes_where_it_would_have_and_not_earlier_with_every_chunk():
    """A chunk whose steps fall between those of the last can only round the time; over all phases that comes to 0."""
    openings = np.array([0.08] * 5 + [0.0] * 7)
    chunk = dataclasses.replace(line(0, steps=12), gripper=openings)
    closes_ms, moved_ms = 500, []
    for phase_ms in range(5, 100, 10):
        stamps = MS * (phase_ms + 100 * np.arange(1, 11))
        *_, gripper = steps_at(chunk, stamps, 0.1)
        first = int(np.argmax(gripper < 0.04))
        moved_ms.append(phase_ms + 100 * first - closes_ms)  # that step is travelled to from the one before it on
    assert max(map(abs, moved_ms)) <= 50 and np.mean(moved_ms) == pytest.approx(0.0)


# --- the mask and the weight -------------------------------------------------------------------------------------


@given(st.integers(1, 50).flatmap(lambda n: st.tuples(st.integers(0, n), st.integers(0, n), st.just(n))))
def test_the_mask_is_one_then_decays_then_is_zero(sizes):
    frozen, overlap, horizon = min(sizes[:2]), max(sizes[:2]), sizes[2]
    mask = soft_mask(frozen, overlap, horizon)
    assert (mask[:frozen] == 1.0).all() and (mask[overlap:] == 0.0).all()
    between = mask[frozen:overlap]
    assert ((between > 0.0) & (between < 1.0)).all() and (np.diff(between) < 0.0).all()


def test_the_mask_is_the_papers():
    """Equation 5 with d = 2 and H - s = 6: c_i = (6 - i) / (6 - 2 + 1), weight c_i (e^c_i - 1) / (e - 1)."""
    c = np.array([4, 3, 2, 1]) / 5
    np.testing.assert_allclose(soft_mask(2, 6, 8)[2:6], c * (np.exp(c) - 1) / (np.e - 1))


@given(st.floats(0.01, 1.0))
def test_the_weight_is_the_papers_and_bounded(t):
    tau = 1.0 - t
    r2 = t**2 / (tau**2 + t**2)
    wanted = min(rtc.MAX_GUIDANCE, t / (tau * r2)) if tau > 0 else rtc.MAX_GUIDANCE
    assert guidance_weight(t) == pytest.approx(wanted)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31), st.floats(0.05, 0.95))
def test_the_guided_velocity_of_a_linear_field_is_the_closed_form(seed, t):
    """With v(x) = M x the prediction is (1 - t M) x, and its Jacobian needs no autograd."""
    rng = np.random.default_rng(seed)
    matrix, x, target = (torch.from_numpy(rng.normal(size=size)) for size in ((3, 3), (1, 4, 3), (1, 4, 3)))
    weights = torch.from_numpy(rng.uniform(size=(4, 3)))
    have = Guidance(target[None], weights).velocity(lambda actions, _: actions @ matrix.T, x, t)
    jacobian = torch.eye(3, dtype=torch.float64) - t * matrix
    pull = ((target - x @ jacobian.T) * weights) @ jacobian
    torch.testing.assert_close(have, x @ matrix.T - guidance_weight(t) * pull)


@settings(max_examples=60, deadline=None)
@given(st.floats(0.0, 0.06), st.floats(0.0, 0.06), st.sampled_from([1.0, -1.0]))
def test_chunks_of_a_tool_that_points_down_join_whichever_way_its_turn_is_written(before, beyond, sign):
    """A turn of pi - before, as scipy writes it, and a policy that says pi + beyond, or its opposite: nearly the same
    orientation, and between them lies nothing else."""
    old = Rotation.from_rotvec([np.pi - before, 0.0, 0.0])
    chunk = ActionChunk(0, 0.1 * np.arange(1, 13), np.zeros((12, 3)), old.as_quat()[None].repeat(12, 0), np.zeros(12))
    now = dataclasses.replace(observation(), stamp_ns=100 * MS)
    actions, mask = previous_actions(Continuation(chunk, 0.3), now, 12, 0.1, ABSOLUTE)
    said = np.zeros((1, 12, 7))
    said[..., 3] = sign * (np.pi + beyond)
    weights = torch.from_numpy(np.tile(mask[:, None], 7))
    joined = Guidance(torch.from_numpy(ABSOLUTE.ways(actions))[:, None], weights).close(torch.from_numpy(said))[0]
    meant = Rotation.from_rotvec(joined[:, 3:6].numpy())
    assert (meant * old.inv()).magnitude().max() < before + beyond + 1e-6


# --- through the model -------------------------------------------------------------------------------------------


def guided(checkpoint, given_inputs, target, weights, steps=3):
    return ours(checkpoint.model, steps, Guidance(target[None], weights), **given_inputs)


def test_guidance_of_no_weight_is_plain_sampling_bit_for_bit():
    checkpoint = tiny(4)
    given_inputs = inputs(checkpoint)
    plain = ours(checkpoint.model, 3, **given_inputs)
    assert torch.equal(guided(checkpoint, given_inputs, torch.ones_like(plain), torch.zeros(6, 7)), plain)


def test_frozen_steps_are_met_and_the_free_ones_know_of_them():
    checkpoint = tiny(4)
    given_inputs = inputs(checkpoint)
    plain = ours(checkpoint.model, 3, **given_inputs)
    weights = torch.from_numpy(np.tile(soft_mask(2, 4, 6)[:, None], 7)).float()
    target = plain + 1.0
    have = guided(checkpoint, given_inputs, target, weights)
    torch.testing.assert_close(have[:, :2], target[:, :2])
    off = (have - target).abs().mean((0, 2))
    assert (off[2:4] < 1.0).all() and (have[:, 4:] != plain[:, 4:]).any()


def test_a_chunk_goes_on_from_the_one_before_and_tells_the_arm_the_same_poses():
    """In metres, through normalisation, and though the tool has moved between the two observations."""
    policy, before = Policy(tiny(4, horizon=10)), line(0)
    pose = Pose(POSE.position + (0.01, -0.02, 0.03), (Rotation.from_rotvec([0, 0.3, 0]) * _turn(POSE)).as_quat())
    now = dataclasses.replace(observation(), stamp_ns=230 * MS, pose=pose)
    chunk = policy.infer(now, continuation=Continuation(before, 0.31)).chunk
    for step in range(4):  # 310 ms in steps of 100 ms
        wanted = Trajectory.of_chunk(before).pose_at(now.stamp_ns + (step + 1) * 100 * MS)
        np.testing.assert_allclose(chunk.positions[step], wanted.position, atol=1e-5)
        assert (Rotation.from_quat(chunk.quaternions[step]) * _turn(wanted).inv()).magnitude() < 1e-5
    free = policy.infer(now).chunk
    assert np.abs(free.positions[:4] - chunk.positions[:4]).max() > 1e-3


def _turn(pose: Pose) -> Rotation:
    return Rotation.from_quat(pose.quaternion)


vectors = st.tuples(*[st.floats(-1.0, 1.0)] * 3)


@settings(max_examples=60, deadline=None)
@given(vectors, vectors, st.integers(1, 1100), st.floats(0.0, 0.6))
def test_the_previous_chunk_means_the_same_after_time_has_passed_and_the_tool_has_moved(shift, rotation, ms, delay):
    before = line(0)
    pose = Pose(POSE.position + shift, (Rotation.from_rotvec(rotation) * _turn(POSE)).as_quat())
    now = dataclasses.replace(observation(), stamp_ns=ms * MS, pose=pose)
    actions, mask = previous_actions(Continuation(before, delay), now, 12, 0.1)
    for i in range(12):
        wanted = Trajectory.of_chunk(before).pose_at(now.stamp_ns + (i + 1) * 100 * MS)
        np.testing.assert_allclose(pose.position + actions[i, :3], wanted.position, atol=1e-9)
        meant = Rotation.from_rotvec(actions[i, 3:6]) * _turn(pose)
        assert (meant * _turn(wanted).inv()).magnitude() < 1e-6
    covered = (1200 - ms) // 100
    assert (mask[covered:] == 0.0).all(), "what the previous chunk does not cover is free"
    assert (mask[6:] == 0.0).all() or (mask == 1.0).sum() > 6, "and so is the last half, unless it is executed"
    executed = np.arange(1, 13) * 0.1 < delay - 1e-6
    assert (mask[:covered][executed[:covered]] == 1.0).all()


# --- delays ------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(1, 900), min_size=2, max_size=30))
def test_the_delay_planned_for_was_measured_and_is_a_high_one(delays_ms):
    continuity, stamp_ns = Continuity(), 0
    for ms in delays_ms:
        stamp_ns += 200 * MS
        continuity.arrived(line(stamp_ns), stamp_ns + ms * MS)
    counted = [min(ms, 1000) / 1e3 for ms in delays_ms[1:]]  # the first has nothing before it
    assert continuity.delay_s in [pytest.approx(delay) for delay in counted]
    assert np.mean(np.array(counted) <= continuity.delay_s + 1e-9) >= QUANTILE


def test_a_chunk_that_takes_no_time_at_all_is_gone_on_from_too():
    continuity = Continuity()
    for ms in (0, 200):
        continuity.arrived(line(ms * MS), ms * MS)
    assert continuity.delay_s == 0.0


def test_no_more_is_counted_than_was_left_of_the_chunk_before():
    continuity = Continuity()
    continuity.arrived(line(0), 50 * MS)
    continuity.arrived(line(1000 * MS), 9000 * MS)  # the first ended at 1.2 s
    assert continuity.delay_s == pytest.approx(0.2)


def test_a_chunk_goes_on_only_from_one_that_is_being_followed():
    continuity = Continuity()
    at = lambda ms, offset=0.0, held=False: continuity.at(  # noqa: E731
        dataclasses.replace(
            observation(),
            stamp_ns=ms * MS,
            pose=Pose(POSE.position + np.array((0.1, 0.0, 0.05)) * ms / 1000 + offset, POSE.quaternion),
        ),
        held,
    )
    assert at(0) is None
    continuity.arrived(line(0), 50 * MS)
    assert at(200) is None, "no delay was measured yet"
    continuity.arrived(line(200 * MS), 280 * MS)
    going = at(400)
    assert going.chunk.stamp_ns == 200 * MS and going.delay_s == pytest.approx(0.08)
    assert at(1400) is None, "it has ended"
    assert at(400, offset=0.2) is None, "the arm is elsewhere"
    assert at(400, held=True) is None and at(400) is None, "what was planned while it was held is not gone on from"
    continuity.arrived(line(400 * MS), 480 * MS)
    assert at(600) is not None
    continuity.forget()
    assert at(600) is None


def test_a_follower_that_repeats_its_pose_stands_still():
    commands = CommandMotion()
    assert not commands.moved_since_last_call(), "none was sent"
    for x in (0.1, 0.1, 0.1 + 1e-9):
        commands.update((x, 0.0, 0.3), (1.0, 0.0, 0.0, 0.0))
    assert commands.moved_since_last_call() and not commands.moved_since_last_call()
    commands.update((0.1 + 1e-9, 0.0, 0.3), (1.0, 0.0, 0.0, 0.0))
    assert not commands.moved_since_last_call()
    commands.update((0.1 + 1e-9, 0.0, 0.3), (0.0, 1.0, 0.0, 0.0))
    assert commands.moved_since_last_call(), "a turn is motion too"
