"""One goal in flight, no chatter, refusals reported: the goals of a gripper's action server, without ROS."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grids_ros.control.gripper_goals import GoalRules, GripperGoals, Outcome

RULES = GoalRules(largest=0.08, dead_band=0.005)


def goals() -> GripperGoals:
    return GripperGoals(RULES)


def test_a_wanted_opening_is_sent_once():
    one = goals()
    assert one.to_send(0.0) is None
    one.want(0.0)
    sent = one.to_send(0.0)
    assert (sent.opening, sent.closing) == (0.0, True)
    one.want(0.0)
    assert one.to_send(1.0) is None, "in flight"
    one.ended(Outcome.SUCCEEDED, 1.0)
    assert one.to_send(2.0) is None, "there already"
    one.want(0.08)
    assert one.to_send(3.0).closing is False


def test_what_differs_by_less_than_the_dead_band_is_the_same():
    one = goals()
    one.want(0.04)
    one.to_send(0.0)
    one.ended(Outcome.SUCCEEDED, 0.1)
    for opening in (0.042, 0.045, 0.036, 0.044):
        one.want(opening)
    assert one.to_send(1.0) is None
    one.want(0.050)
    assert one.to_send(1.0).opening == 0.050


def test_the_opposite_command_cancels_and_follows():
    one = goals()
    one.want(0.0)
    one.to_send(0.0)
    assert one.to_cancel(0.1) == ""
    one.want(0.08)
    assert one.to_send(0.1) is None, "never two in flight"
    assert "another opening" in one.to_cancel(0.1)
    assert one.to_cancel(0.2) == "", "once"
    one.ended(Outcome.CANCELED, 0.3)
    assert one.to_send(0.3).opening == 0.08


def test_back_to_the_first_command_while_it_is_canceled_sends_it_again():
    one = goals()
    one.want(0.0)
    one.to_send(0.0)
    one.want(0.08)
    one.to_cancel(0.1)
    one.want(0.0)
    one.ended(Outcome.CANCELED, 0.2)
    assert one.to_send(0.2).opening == 0.0


def test_a_rejected_goal_is_sent_again_after_a_pause_and_a_failed_one_is_not():
    one = goals()
    one.want(0.0)
    one.to_send(0.0)
    one.ended(Outcome.REJECTED, 0.0, "busy")
    assert one.fault == "busy" and one.to_send(0.5) is None
    assert one.to_send(1.1) is not None
    one.ended(Outcome.FAILED, 1.2, "blocked")
    assert one.fault == "blocked" and one.to_send(9.0) is None
    one.want(0.08)
    assert one.to_send(9.0) is not None
    one.ended(Outcome.SUCCEEDED, 9.1)
    assert one.fault == ""


def test_a_goal_without_a_result_is_canceled_and_reported():
    one = goals()
    one.want(0.0)
    one.to_send(0.0)
    assert one.to_cancel(9.9) == "" and "no result within 10 s" in one.to_cancel(10.1)
    one.ended(Outcome.CANCELED, 10.2)
    assert one.to_send(20.0) is None and "no result" in one.fault


@pytest.mark.parametrize("opening", [float("nan"), float("inf"), -0.001, 1.0, 80.0])
def test_what_no_gripper_can_do_is_refused(opening):
    one = goals()
    with pytest.raises(ValueError, match=r"expected 0 to 0\.08 m"):
        one.want(opening)
    assert one.to_send(0.0) is None


def test_rules_that_contradict_are_refused():
    with pytest.raises(ValueError, match="dead_band"):
        GoalRules(0.08, 0.08)
    with pytest.raises(ValueError, match="positive"):
        GoalRules(0.08, 0.005, retry_s=0.0)


@given(st.lists(st.one_of(st.floats(0.0, 0.08), st.sampled_from([*Outcome, "tick"])), max_size=60))
def test_never_two_goals_in_flight_and_the_last_wanted_opening_is_reached(events):
    one, now_s, flying, wanted = goals(), 0.0, 0, None
    for event in events:
        now_s += 0.3
        if isinstance(event, float):
            one.want(event)
            wanted = event
        elif isinstance(event, Outcome) and flying:
            one.ended(event, now_s)
            flying -= 1
        flying += one.to_send(now_s) is not None
        one.to_cancel(now_s)
        assert flying == (one.in_flight is not None) <= 1
    last = one.in_flight
    for _ in range(4):  # a server that now works
        now_s += 2.0
        if one.in_flight is not None:
            canceled = one.in_flight.opening != one._wanted.opening
            one.ended(Outcome.CANCELED if canceled else Outcome.SUCCEEDED, now_s)
        last = one.to_send(now_s) or last
    if wanted is not None and last is not None and not one.fault:
        assert abs(one._sent.opening - wanted) <= RULES.dead_band
