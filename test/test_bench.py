"""The bench's figures mean what they are called: on commands whose answer is known, and over the command line."""

import importlib
import pkgutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from grids_ros import bench, cli
from grids_ros.bench.realtime_metrics import (
    CommandedPath,
    hold_figures,
    jump_ratio,
    largest_step_mm,
    lateness_figures,
    period_figures,
    stage_figures,
    transition_figures,
)

MS = 1_000_000


def test_every_module_of_the_bench_can_be_imported():
    pytest.importorskip("rclpy", reason="the bench needs rclpy")
    names = [module.name for module in pkgutil.iter_modules(bench.__path__) if module.name != "__main__"]
    assert "realtime_bench" in names
    for name in names:
        importlib.import_module(f"grids_ros.bench.{name}")


@given(st.lists(st.integers(1, 4), min_size=5, max_size=50))
def test_ticks_that_are_left_out_are_counted_and_the_error_is_theirs(gaps):
    stamps = np.cumsum([0, *(10 * MS * gap for gap in gaps)])
    figures = period_figures(stamps, 0.01)
    assert figures["missed_ticks"] == sum(gaps) - len(gaps)
    assert figures["error_max_ms"] == pytest.approx(10.0 * (max(gaps) - 1))
    assert figures["commands"] == len(gaps) + 1


def test_what_the_stages_leave_of_an_image_on_its_way_is_a_wait_and_transport():
    figures = stage_figures([2.0, 30.0, 1.0, 2.0, 40.0, 1.5], [75.0, 80.0, 90.0])
    assert figures["wait"] == 28.0 and figures["chunk_transport"] == 5.5 and figures["total"] == 80.0
    assert sum(figures.values()) == pytest.approx(2 * figures["total"])


@given(st.lists(st.tuples(st.floats(0.0, 0.5), st.integers(0, 9)), min_size=1, max_size=50))
def test_lateness_is_that_of_the_loop_itself(ticks):
    late_s, missed = zip(*ticks, strict=True)
    figures = lateness_figures(late_s, missed)
    assert figures["ticks"] == len(ticks) and figures["missed_ticks"] == sum(missed)
    assert figures["late_p50_ms"] <= figures["late_p99_ms"] <= figures["late_max_ms"] + 1e-4
    assert figures["late_max_ms"] == pytest.approx(1e3 * max(late_s), abs=1e-4)


def line(jump_mm: float) -> CommandedPath:
    """1 mm per tick, four chunks of 40 ticks, a jump of so much more at each joint."""
    chunks = np.repeat(np.arange(4), 40)
    x = np.arange(160) * 1e-3 + chunks * jump_mm * 1e-3
    return CommandedPath(np.stack([x, 0 * x, 0 * x], axis=1), chunks)


@given(st.floats(0.0, 50.0))
def test_a_jump_is_measured_in_steps(jump_mm):
    figures = transition_figures([line(jump_mm)] * 2)
    assert figures["transitions"] == 6 and figures["median_step_mm"] == 1.0
    assert figures["position_jump"] == pytest.approx(1.0 + jump_mm, abs=2e-3)
    assert figures["velocity_jump"] == pytest.approx(jump_mm, abs=2e-3)


def test_the_ratio_is_the_worse_of_position_and_velocity():
    figures = {"latest": transition_figures([line(9.0)]), "rtc": transition_figures([line(1.0)])}
    assert jump_ratio(figures, "rtc") == pytest.approx(2.0 / 10.0)


@pytest.mark.parametrize("ticks", [0, 1, 7])
def test_a_hold_is_told_by_the_last_tick_that_moves_after_the_end(ticks):
    stamps = np.arange(30) * 10 * MS
    x = np.minimum(np.arange(30), 10 + ticks) * 1e-3
    figures = hold_figures(stamps, np.stack([x, 0 * x, 0 * x], axis=1), end_ns=100 * MS)
    assert figures == {"ticks_until_held": ticks, "commands_while_held": 19}
    assert largest_step_mm(np.stack([x, x, 0 * x], axis=1)) == pytest.approx(np.sqrt(2), abs=1e-3)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["dance"], "'dance', expected one of realtime"),
        (["realtime", "--seconds", "0"], "--seconds is 0"),
        (["realtime", "--checkpoint", "nowhere"], "nowhere, expected an existing folder"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, text, capsys):
    with pytest.raises(SystemExit):
        cli.parse("bench", arguments)
    assert text in capsys.readouterr().err
