"""The follower's own account of its lateness: counted exactly, told in percentiles, written as JSON."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grids_ros.ros.lateness import BOUNDS_MS, KEPT, Lateness

TICKS = st.lists(st.tuples(st.floats(0.0, 0.2), st.integers(0, 3)), min_size=1, max_size=1200)


@given(TICKS, st.floats(0.01, 1.0))
def test_a_percentile_is_that_of_the_series_within_five_percent(ticks, share):
    lateness = Lateness()
    for tick in ticks:
        lateness.add(*tick)
    exact_ms = 1e3 * next(
        late_s for rank, (late_s, _) in enumerate(sorted(ticks), 1) if rank >= share * len(ticks) - 1e-9
    )
    assert exact_ms <= lateness.percentile_ms(share) * (1.0 + 1e-9) <= max(1.0501 * exact_ms, 0.0010001)


@given(TICKS)
def test_histogram_and_series_count_every_tick(ticks):
    lateness = Lateness()
    for tick in ticks:
        lateness.add(*tick)
    told = json.loads(lateness.to_json())
    assert told["late_us"] == [round(1e6 * late_s) for late_s, _ in ticks]
    assert told["missed"] == [missed for _, missed in ticks]
    assert told["ticks"] == len(ticks) == sum(lateness.histogram().values())
    assert told["missed_ticks"] == lateness.missed == sum(missed for _, missed in ticks)
    within = sum(1e3 * late_s <= BOUNDS_MS[0] for late_s, _ in ticks)
    assert lateness.histogram()["0.05"] == within


def test_the_series_keeps_the_last_ticks_and_counts_all():
    lateness = Lateness()
    for number in range(KEPT + 3):
        lateness.add(1e-6 * number, 0)
    told = json.loads(lateness.to_json())
    assert told["ticks"] == KEPT + 3 and told["late_us"][0] == 3 and len(told["missed"]) == KEPT


def test_without_ticks_there_is_no_percentile():
    assert Lateness().percentile_ms(0.99) != Lateness().percentile_ms(0.99)
    assert json.loads(Lateness().to_json())["late_us"] == []


@pytest.mark.parametrize("late_s", [0.0, 5.0])
def test_what_is_on_time_or_hopelessly_late_has_a_bin(late_s):
    lateness = Lateness()
    lateness.add(late_s, 0)
    assert sum(lateness.histogram().values()) == 1 and lateness.percentile_ms(0.5) > 0.0
