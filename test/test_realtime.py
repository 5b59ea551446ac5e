"""The arithmetic of the periodic thread, and the thread, and a process that asks for real-time scheduling."""

import ctypes
import os
import resource
import subprocess
import sys
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("rclpy", reason="the ROS layer needs rclpy")

from grids_ros.ros import realtime
from grids_ros.ros.periodic_thread import PeriodicThread, next_tick


@given(st.integers(0, 10**6), st.floats(0, 1e6), st.floats(1e-3, 1.0), st.floats(0.0, 50.0))
def test_the_next_tick_lies_on_the_grid_ahead_and_is_the_first_that_does(n, start, period, periods_late):
    now = start + (n + periods_late) * period
    following = next_tick(n, start, period, now)
    slack = 1e-6 * period + 1e-9
    assert following > n
    assert start + following * period >= now - slack, "no burst: nothing that has passed is caught up with"
    assert following == n + 1 or start + (following - 1) * period < now + slack, "nothing is left out without need"


def test_the_metronome_ticks_until_it_is_stopped_and_says_what_it_missed():
    release, missed = threading.Event(), []

    def tick(late_s: float, gap: int) -> None:
        missed.append(gap)
        if len(missed) == 2:
            threading.Event().wait(0.055)  # a stall of several periods
        if len(missed) == 5:
            release.set()

    thread = PeriodicThread(0.01, lambda: None, tick, failed=lambda error: None, name="test")
    assert release.wait(20.0)
    thread.stop()
    count = len(missed)
    assert missed[2] >= 4 and not threading.Event().wait(0.03)
    assert len(missed) == count


def test_what_a_tick_raises_is_handed_over_and_ends_the_thread():
    failures, handed = [], threading.Event()

    def tick(late_s: float, missed: int) -> None:
        raise RuntimeError("a bug")

    def failed(error: BaseException) -> None:
        failures.append(error)
        handed.set()

    thread = PeriodicThread(0.005, lambda: None, tick, failed, "test")
    assert handed.wait(20.0)
    thread.stop()
    assert [str(error) for error in failures] == ["a bug"]


def test_a_process_without_the_limits_is_told_what_to_set():
    """In a process of its own, from which the rights were taken; it must go on."""
    code = (
        "import os, resource\n"
        "resource.setrlimit(resource.RLIMIT_RTPRIO, (0, 0))\n"
        "resource.setrlimit(resource.RLIMIT_MEMLOCK, (65536, 65536))\n"
        "if os.geteuid() == 0: os.setuid(65534)\n"
        "print(realtime.enter())\n"
    )
    prefix = "import sys; sys.path.insert(0, '.'); from grids_ros.ros import realtime\n"
    run = subprocess.run([sys.executable, "-c", prefix + code], capture_output=True, text=True, check=True)
    assert "rtprio 40" in run.stdout and "memlock unlimited" in run.stdout


def test_a_process_with_the_limits_is_real_time_in_all_its_threads():
    if os.geteuid() != 0 and resource.getrlimit(resource.RLIMIT_RTPRIO)[0] < realtime.PRIORITY:
        pytest.skip("this user may not schedule as real-time")
    code = (
        "import os, threading\nfrom grids_ros.ros import realtime\n"
        "said = realtime.enter()\npolicies = []\n"
        "thread = threading.Thread(target=lambda: policies.append(os.sched_getscheduler(0)))\n"
        "thread.start(); thread.join()\n"
        "print(said, policies == [os.SCHED_FIFO])\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    if "not scheduled" in run.stdout:
        pytest.skip(f"real-time scheduling is not to be had here: {run.stdout}")
    assert "SCHED_FIFO 40" in run.stdout and run.stdout.strip().endswith("True")


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="glibc's own")
def test_the_memory_of_one_image_serves_the_next():
    """Pages that the kernel must bring, while images as large as a camera's come and go."""
    code = (
        "import resource\nfrom grids_ros import memory\n"
        "def faults():\n"
        "    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "    for _ in range(50): [bytearray(b'x') * 921_600 for _ in range(4)]\n"
        "    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before\n"
        "plain = faults()\nmemory.reuse()\nfaults()\nprint(plain, faults())\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    plain, reused = map(int, run.stdout.split())
    assert plain > 10 * 50 and reused < 50, "pages of 4096 bytes, 900 for these four images"
