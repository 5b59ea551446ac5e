"""The adaptive number of tokens, on devices whose latencies are known."""

from hypothesis import example, given
from hypothesis import strategies as st

from grids_ros.control.token_budget import BLOCK, FASTER, ROOM, TRIALS, TokenBudget

BUDGETS = (4, 8, 16)
DEADLINE_S = 0.2
ENOUGH = 20 * BLOCK  # for every decision that there is to be made
latencies = st.floats(0.001, 1.0)


def run(budget: TokenBudget, device: dict[int, float], inferences: int = ENOUGH, noise=lambda i: 1.0) -> list[int]:
    """The number of tokens of each inference on a device that takes device[tokens] seconds."""
    used = []
    for i in range(inferences):
        used.append(budget.tokens)
        budget.add(device[budget.tokens] * noise(i))
    return used


@given(st.lists(latencies, min_size=3, max_size=3))
def test_on_a_steady_device_it_comes_to_rest_at_a_number_that_exists(times):
    budget, device = TokenBudget(BUDGETS, DEADLINE_S), dict(zip(BUDGETS, times, strict=True))
    run(budget, device)
    rest = run(budget, device, 10 * BLOCK)
    assert set(rest) == {rest[0]} and rest[0] in BUDGETS


@given(st.lists(st.floats(0.001, DEADLINE_S), min_size=3, max_size=3))
def test_who_meets_the_deadline_keeps_every_token(times):
    assert set(run(TokenBudget(BUDGETS, DEADLINE_S), dict(zip(BUDGETS, times, strict=True)))) == {16}


@given(st.floats(1.01 * DEADLINE_S, 1.0), st.floats(FASTER + 0.01, 2.0), st.floats(FASTER + 0.01, 2.0))
def test_where_fewer_tokens_are_no_faster_it_finds_out_and_stays(slow, eight, four):
    budget = TokenBudget(BUDGETS, DEADLINE_S)
    used = run(budget, {16: slow, 8: slow * eight, 4: slow * four})
    assert used.count(8) == used.count(4) == TRIALS * BLOCK
    assert set(used[2 * TRIALS * 2 * BLOCK :]) == {16} and "no faster" in budget.reason


@given(st.floats(0.1, 0.85), st.floats(0.1, 0.85))
def test_when_the_deadline_is_missed_it_takes_the_largest_number_that_meets_it(eight, four):
    device = {16: 1.1 * DEADLINE_S, 8: 1.1 * DEADLINE_S * eight, 4: 1.1 * DEADLINE_S * eight * four}
    assert run(TokenBudget(BUDGETS, DEADLINE_S), device)[-1] == 8
    device = {16: 3.0 * DEADLINE_S, 8: 1.1 * DEADLINE_S, 4: 1.1 * DEADLINE_S * four}
    assert run(TokenBudget(BUDGETS, DEADLINE_S), device)[-1] == 4


def test_a_number_that_is_no_faster_is_passed_over_for_a_smaller_one_that_is():
    device = {16: 1.5 * DEADLINE_S, 8: 1.5 * DEADLINE_S, 4: 0.9 * DEADLINE_S}
    assert run(TokenBudget(BUDGETS, DEADLINE_S), device)[-1] == 4


@given(st.floats(1.2, 5.0), st.floats(0.1, 0.99))
def test_it_goes_up_again_when_the_load_is_gone_and_not_before(load, share):
    """share: of the room there is, what the largest number takes without the load."""
    budget, free = TokenBudget(BUDGETS, DEADLINE_S), share * ROOM * DEADLINE_S
    device = {16: free, 8: 0.7 * free, 4: 0.5 * free}
    burdened = {tokens: max(1.01 * DEADLINE_S, load * free) * time / free for tokens, time in device.items()}
    assert run(budget, burdened)[-1] < 16
    assert run(budget, device)[-1] == 16


@given(st.integers(0, 2**32), st.floats(0.2, 1.5))
@example(6138, 1.3671875)  # 8 tokens take 0.957 of the deadline
def test_noise_of_a_tenth_does_not_make_it_waver(seed, share):
    """Once settled it changes at most where a number's latency is the deadline itself, to within the noise."""
    import numpy as np

    random = np.random.default_rng(seed)
    device = {16: share * DEADLINE_S, 8: 0.7 * share * DEADLINE_S, 4: 0.5 * share * DEADLINE_S}
    budget = TokenBudget(BUDGETS, DEADLINE_S)
    run(budget, device, noise=lambda i: random.uniform(0.95, 1.05))
    settled = run(budget, device, noise=lambda i: random.uniform(0.95, 1.05))
    assert len(set(settled)) == 1 or any(abs(time / DEADLINE_S - 1.0) < 0.06 for time in device.values())


@given(st.lists(latencies, min_size=1, max_size=200), st.sampled_from(BUDGETS))
def test_a_number_that_was_asked_for_is_never_left(times, tokens):
    budget = TokenBudget((tokens,), DEADLINE_S)
    for latency in times:
        budget.add(latency)
        assert budget.tokens == tokens
