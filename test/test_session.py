"""PolicySession: every transition, with the time given."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grids_ros.control.session import Inference, PolicySession, Skip
from grids_ros.control.token_budget import TokenBudget
from grids_ros.datatypes import NANOSECONDS, ActionChunk, Observation, Pose
from grids_ros.observation.buffer import NotReady

MS = NANOSECONDS // 1000
HOME = Pose((0.4, 0.0, 0.3), (1.0, 0.0, 0.0, 0.0))


def seen(stamp_ns: int):
    """An `observe` that always gives the observation of this stamp."""

    def observe(instruction: str, now_ns: int) -> Observation:
        if not instruction:
            raise NotReady(["no instruction"])
        return Observation(stamp_ns, {}, HOME, 0.08, instruction)

    return observe


def chunk(stamp_ns: int) -> ActionChunk:
    n = 12
    steps = np.tile(HOME.quaternion, (n, 1))
    return ActionChunk(stamp_ns, 0.1 * np.arange(1, n + 1), np.tile(HOME.position, (n, 1)), steps, np.zeros(n))


def session(join: str = "rtc", words: str = "lift it", **options) -> PolicySession:
    made = PolicySession(join, **options)
    made.instruct(words)
    return made


def infer(run: PolicySession, stamp_ms: int, delay_ms: int = 60) -> Inference:
    """One inference that ends with a chunk that is sent."""
    inference = run.begin(stamp_ms * MS, seen(stamp_ms * MS), follower=False)
    assert run.finish(inference, chunk(stamp_ms * MS), (stamp_ms + delay_ms) * MS)
    return inference


def test_without_an_instruction_nothing_begins():
    with pytest.raises(NotReady, match="no instruction"):
        PolicySession("latest").begin(0, seen(0))


def test_one_inference_at_a_time_and_each_observation_once():
    run = session()
    inference = run.begin(0, seen(0))
    assert run.busy and run.begin(MS, seen(MS)) is Skip.BUSY
    assert run.finish(inference, chunk(0), 60 * MS) and not run.busy
    assert run.begin(200 * MS, seen(0)) is Skip.USED_UP
    assert isinstance(run.begin(200 * MS, seen(200 * MS)), Inference)


def test_a_chunk_for_other_words_is_dropped_and_its_observation_may_be_used_again():
    run = session()
    inference = run.begin(0, seen(0))
    assert run.instruct("drop it") and not run.holds(inference)
    assert not run.finish(inference, chunk(0), 60 * MS)
    again = run.begin(200 * MS, seen(0))
    assert again.observation.instruction == "drop it" and again.continuation is None


def test_words_that_return_before_the_chunk_do_not_make_it_valid():
    run = session(words="lift it")
    inference = run.begin(0, seen(0))
    run.instruct("")
    run.instruct("lift it")
    assert not run.finish(inference, chunk(0), 60 * MS)


def test_the_same_words_again_change_nothing():
    run = session()
    inference = run.begin(0, seen(0))
    assert not run.instruct("  lift it ") and run.finish(inference, chunk(0), 60 * MS)


def test_rtc_goes_on_from_the_last_chunk_once_a_delay_is_known():
    run = session()
    first, second, third = infer(run, 0), infer(run, 200, 80), infer(run, 400, 80)
    assert first.continuation is None and second.continuation is None, "nothing to go on from, then no delay known"
    assert third.continuation.chunk.stamp_ns == 200 * MS and third.continuation.delay_s == pytest.approx(0.08)


def test_rtc_goes_on_while_the_follower_moves_and_not_while_it_stands_still():
    run = session()
    infer(run, 0), infer(run, 200)
    for x in (0.0, 1e-3):
        run.command(HOME.position + x, HOME.quaternion)
    going = run.begin(400 * MS, seen(400 * MS))
    assert going.continuation is not None
    run.finish(going, chunk(400 * MS), 460 * MS)
    run.command(HOME.position + 1e-3, HOME.quaternion)
    assert run.begin(600 * MS, seen(600 * MS)).continuation is None


def test_without_a_follower_nobody_stands_still():
    run = session()
    infer(run, 0), infer(run, 200)
    assert run.begin(400 * MS, seen(400 * MS), follower=False).continuation is not None


@pytest.mark.parametrize("join", ["latest", "blend"])
def test_other_joins_start_each_chunk_afresh(join):
    run = session(join)
    infer(run, 0), infer(run, 200)
    assert run.begin(400 * MS, seen(400 * MS), follower=False).continuation is None


def test_what_is_refused_may_be_tried_again_and_what_fails_may_not():
    run = session()
    run.refuse(run.begin(0, seen(0)))
    run.fail(run.begin(0, seen(0)))
    assert run.failures == 1 and run.begin(MS, seen(0)) is Skip.USED_UP
    infer(run, 200)
    assert run.failures == 0


def test_a_failure_after_the_chunk_was_sent_leaves_the_next_inference_alone():
    run = session()
    sent = infer(run, 0)
    running = run.begin(200 * MS, seen(200 * MS))
    run.fail(sent)
    assert run.busy and run.finish(running, chunk(200 * MS), 260 * MS)


def test_an_inference_ends_once():
    run = session()
    with pytest.raises(RuntimeError, match="ended already"):
        run.finish(infer(run, 0), chunk(0), 0)


def test_the_budget_is_that_with_which_the_inference_began():
    run = session(budget=TokenBudget((4, 16), 0.2))
    inference = run.begin(0, seen(0))
    assert inference.tokens == 16
    run.budget = TokenBudget((4,), 0.2)
    run.finish(inference, chunk(0), 60 * MS)
    assert run.account(inference, 0.5) == "" and run.begin(200 * MS, seen(200 * MS)).tokens == 4
    with pytest.raises(ValueError, match="join is 'soon', expected one of"):
        PolicySession("soon")


events = st.lists(
    st.one_of(
        st.tuples(st.just("instruct"), st.sampled_from(["", "lift it", "drop it"])),
        st.tuples(st.just("begin"), st.integers(0, 3)),
        st.tuples(st.sampled_from(["finish", "refuse", "fail"]), st.just(0)),
    ),
    max_size=40,
)


@settings(max_examples=200, deadline=None)
@given(events)
def test_no_order_of_events_sends_a_stale_chunk_or_one_stamp_twice(history):
    run, running, words, sent = PolicySession("rtc"), None, "", []
    for step, (event, value) in enumerate(history):
        now = step * 50 * MS
        if event == "instruct":
            run.instruct(value)
            words = value
        elif event == "begin":
            try:
                started = run.begin(now, seen(now - value * 50 * MS), follower=False)
            except NotReady:
                assert not words and running is None
                continue
            assert (started is Skip.BUSY) == (running is not None)
            running = started if isinstance(started, Inference) else running
        elif running is not None:
            if event == "finish":
                if run.finish(running, chunk(running.observation.stamp_ns), now):
                    assert running.observation.instruction == words
                    sent.append(running.observation.stamp_ns)
            else:
                getattr(run, event)(running)
            running = None
    assert all(one != other for one, other in zip(sent, sent[1:], strict=False))
