"""The bench's figures mean what they are called: on commands whose answer is known, and over the command line."""

import importlib
import pkgutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from grids_ros import bench
from grids_ros.bench.__main__ import parse
from grids_ros.bench.figures import Path, hold_figures, joint_figures, jump_ratio, largest_step_mm, period_figures

MS = 1_000_000


def test_every_module_of_the_bench_can_be_imported():
    pytest.importorskip("rclpy", reason="the bench needs rclpy")
    names = [module.name for module in pkgutil.iter_modules(bench.__path__) if module.name != "__main__"]
    assert "realtime" in names
    for name in names:
        importlib.import_module(f"grids_ros.bench.{name}")


@given(st.lists(st.integers(1, 4), min_size=5, max_size=50))
def test_ticks_that_are_left_out_are_counted_and_the_error_is_theirs(gaps):
    stamps = np.cumsum([0, *(10 * MS * gap for gap in gaps)])
    figures = period_figures(stamps, 0.01)
    assert figures["missed_ticks"] == sum(gaps) - len(gaps)
    assert figures["error_max_ms"] == pytest.approx(10.0 * (max(gaps) - 1))
    assert figures["commands"] == len(gaps) + 1


def line(jump_mm: float) -> Path:
    """1 mm per tick, four chunks of 40 ticks, a jump of so much more at each joint."""
    chunks = np.repeat(np.arange(4), 40)
    x = np.arange(160) * 1e-3 + chunks * jump_mm * 1e-3
    return Path(np.stack([x, 0 * x, 0 * x], axis=1), chunks)


@given(st.floats(0.0, 50.0))
def test_a_jump_is_measured_in_steps(jump_mm):
    figures = joint_figures([line(jump_mm)] * 2)
    assert figures["joints"] == 6 and figures["median_step_mm"] == 1.0
    assert figures["position_jump"] == pytest.approx(1.0 + jump_mm, abs=2e-3)
    assert figures["velocity_jump"] == pytest.approx(jump_mm, abs=2e-3)


def test_the_ratio_is_the_worse_of_position_and_velocity():
    figures = {"latest": joint_figures([line(9.0)]), "rtc": joint_figures([line(1.0)])}
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
        ([], "required: bench"),
        (["dance"], "invalid choice: 'dance'"),
        (["realtime", "--seconds", "0"], "--seconds is 0"),
        (["realtime", "--checkpoint", "nowhere"], "nowhere does not exist"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, text, capsys):
    with pytest.raises(SystemExit):
        parse(arguments)
    assert text in capsys.readouterr().err
