"""The quick faults of `make faults`: a follower process in full motion, over real DDS."""

from __future__ import annotations

import pytest

pytest.importorskip("rclpy", reason="the ROS layer needs rclpy")

import numpy as np
from faults.measure import LIMITS, PERIOD_S, REST, Target, extremes, moves_after, rests_after
from faults.rig import Rig
from faults.run import run
from faults.table import FAULTS

QUICK = [fault for fault in FAULTS if fault.quick]
STILL = np.array([1.0, 0.0, 0.0, 0.0])


@pytest.fixture(scope="module")
def rig(tmp_path_factory):
    made = Rig(tmp_path_factory.mktemp("faults") / "follower.log")
    yield made
    made.close()


@pytest.mark.parametrize("fault", QUICK, ids=[f"{fault.kind}: {fault.name}" for fault in QUICK])
def test_the_arm_brakes_within_its_limits_says_why_and_goes_on(rig, fault):
    outcome = run(rig, fault)
    assert outcome.problems == ()


def test_there_are_enough_faults_and_no_two_are_called_alike():
    assert len(FAULTS) >= 120
    assert len({(fault.kind, fault.name) for fault in FAULTS}) == len(FAULTS)


def line(xs, numbers=None) -> list[Target]:
    numbers = range(1, len(xs) + 1) if numbers is None else numbers
    return [Target(number, np.array([x, 0.0, 0.0]), STILL) for number, x in zip(numbers, xs, strict=True)]


def test_a_step_beyond_the_speed_is_found_and_a_lost_message_is_no_step():
    step = LIMITS.linear_speed * PERIOD_S
    assert extremes(line([0.0, 0.0, 1.01 * step, 1.01 * step])).within is False
    lost = extremes(line([0.0, 0.0005, 0.0015, 0.002], [1, 2, 4, 5]))
    assert lost.within and lost.lost == 1 and lost.step == pytest.approx(0.0005)
    assert extremes(line([0.0, 0.0, 0.002, 0.002])).acceleration == pytest.approx(0.002 / PERIOD_S**2)


def test_rest_and_motion_are_counted_in_ticks():
    moving = line([0.001 * i for i in range(10)] + [0.001 * 9] * (REST + 3) + [0.01, 0.011])
    assert rests_after(moving, 5) == 5
    assert moves_after(moving, 12) == 10 + REST + 3 + 1 - 12
    assert rests_after(moving[:10], 5) is None
