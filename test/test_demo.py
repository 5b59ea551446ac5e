"""The demo, whole: three processes over DDS with a tiny policy; and what its figures mean."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from geometry_msgs.msg import PoseStamped
from ros_harness import private_domain, until
from rosbags.highlevel import AnyReader
from tiny import save_tiny, tiny

from grids_ros.bench import image_latency, realtime_bench
from grids_ros.datatypes import NANOSECONDS
from grids_ros.demo.episodes import trained_tasks
from grids_ros.demo.monitor import DemoEpisode, Monitor, TaskMonitor, control_rate, percentiles
from grids_ros.policy.checkpoint import save
from grids_ros.ros import qos
from grids_ros.sim.tasks import BOWL_TASKS, LIFT_TASKS, STACK_TASKS, TASKS

ROOT = Path(__file__).resolve().parents[1]
MS = NANOSECONDS // 1000
TOPICS = {
    "/instruction",
    "/current_pose",
    "/joint_states",
    "/action_chunk",
    "/gripper_chunk",
    "/target_pose",
    "/sampled_points",
    "/diagnostics",
    *(f"/{kind}/{name}/image_raw" for kind in ("camera", "overlay") for name in ("base", "wrist")),
}


def start(out, checkpoint, *arguments):
    command = [sys.executable, "-u", "-m", "grids_ros", "demo", "--checkpoint", str(checkpoint), "--out", str(out)]
    return subprocess.Popen(
        [*command, *arguments],
        cwd=ROOT,
        env={**os.environ, "ROS_DOMAIN_ID": str(private_domain()), "MUJOCO_GL": "egl"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=_heed_ctrl_c,
    )


def _heed_ctrl_c() -> None:
    """A shell's background job starts with SIGINT ignored, and so would what it starts."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def demo(out, checkpoint, *arguments):
    process = start(out, checkpoint, *arguments)
    said, _ = process.communicate(timeout=110)
    return process.returncode, said


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """What one episode of a policy that knows nothing leaves behind."""
    folder = tmp_path_factory.mktemp("demo")
    code, said = demo(folder / "out", save_tiny(folder / "checkpoint"), "--episodes", "1")
    assert code == 0, said
    assert "lift the red cube" in said and "4 tokens per camera" in said
    return folder / "out"


def test_the_summary_has_its_figures(out):
    summary = json.loads((out / "summary.json").read_text())
    assert summary["episodes"] == 1 and summary["successes"] == 0
    assert summary["tokens_per_camera"] == 4 and summary["chunks"] > 10
    for key, names in (
        ("control_rate_hz", {"mean", "p1"}),
        ("target_period_ms", {"p50", "p99"}),
        ("inference_ms", {"p50", "p99"}),
        ("chunk_age_ms", {"p50", "p99"}),
    ):
        assert set(summary[key]) == names and all(value > 0 for value in summary[key].values())
    assert summary["deadline_misses"] >= 0 and summary["problems"] == []


def test_the_bag_has_every_topic(out):
    with AnyReader([out / "bag"]) as reader:
        counts = {connection.topic: connection.msgcount for connection in reader.connections}
    assert set(counts) >= TOPICS | {"/tf", "/tf_static"}
    assert all(counts[topic] > 0 for topic in TOPICS)


def test_the_pictures_show_both_cameras(out):
    sheet = cv2.imread(str(out / "contact_sheet.png"))
    assert sheet is not None and sheet.shape[1] > 400 and sheet.std() > 10
    with av.open(str(out / "demo.mp4")) as video:
        frames = [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]
    assert len(frames) > 20 and frames[0].shape[1] > frames[0].shape[0]
    assert frames[0].std() > 10


def test_the_bag_offers_what_was_offered(out):
    """`ros2 bag play` must repeat the instruction to whoever comes late, and offer no more than the cameras do."""
    with AnyReader([out / "bag"]) as reader:
        offered = {connection.topic: connection.ext.offered_qos_profiles[0] for connection in reader.connections}
    assert offered["/instruction"].durability.name == "TRANSIENT_LOCAL"
    assert offered["/camera/base/image_raw"].reliability.name == "BEST_EFFORT"
    assert offered["/target_pose"].reliability.name == "RELIABLE"


def test_a_policy_that_does_not_come_up_fails_the_demo_and_says_why(tmp_path):
    (tmp_path / "empty").mkdir()
    code, said = demo(tmp_path / "out", tmp_path / "empty", "--episodes", "1")
    assert code == 1
    assert "lacks config.json" in said


def test_where_an_arm_is_already_nothing_is_started(tmp_path, ros):
    """crisp_controllers listen to target_pose: the demo's would move a real arm."""
    ros.publisher(PoseStamped, "current_pose", qos.MEASURED)
    code, said = demo(tmp_path / "out", save_tiny(tmp_path / "checkpoint"), "--episodes", "1")
    assert code == 1 and "/bench already use current_pose in ROS domain" in said and "Starting" not in said


def test_neither_is_anything_measured_there(tmp_path, ros, monkeypatch, capsys):
    """Images at 20 Hz load the robot's network as well."""
    ros.publisher(PoseStamped, "current_pose", qos.MEASURED)
    monkeypatch.setenv("ROS_DOMAIN_ID", str(private_domain()))
    monkeypatch.setattr(image_latency, "latencies", lambda seconds: pytest.fail("images were sent"))
    assert realtime_bench.run(save_tiny(tmp_path / "checkpoint"), 1.0, tmp_path / "out") == 1
    assert "/bench already use current_pose" in capsys.readouterr().err


def test_a_checkpoint_that_is_not_there_fails_before_anything_starts(tmp_path):
    code, said = demo(tmp_path / "out", tmp_path / "nowhere")
    assert code == 2 and "expected an existing folder" in said


@pytest.fixture
def running(tmp_path):
    """A demo in its first episode, and the processes that it started: program to process id."""
    process = start(tmp_path / "out", save_tiny(tmp_path / "checkpoint"), "--episodes", "1")
    try:
        for line in process.stdout:
            print(line, end="")  # shown if it fails
            if "the policy is active" in line:
                break
        assert process.poll() is None
        children = (Path("/proc") / str(process.pid) / "task" / str(process.pid) / "children").read_text().split()
        names = {next(word for word in command_line(pid) if word.endswith("_node")): int(pid) for pid in children}
        assert len(names) == 3
        yield process, names
    finally:
        process.kill()


def command_line(pid) -> list[str]:
    try:
        return (Path("/proc") / str(pid) / "cmdline").read_text().split("\0")
    except (FileNotFoundError, ProcessLookupError):  # gone, before or after the file was opened
        return []


def all_gone(pids) -> bool:
    return not any(command_line(pid) for pid in pids)


def test_ctrl_c_leaves_no_process(running):
    process, children = running
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 130 and "interrupted" in said
    assert all_gone(children.values())


def test_a_process_that_dies_is_named(running):
    process, children = running
    os.kill(children["grids_ros.ros.follower_node"], signal.SIGKILL)
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 1 and "follower ended with signal SIGKILL" in said
    assert all_gone(children.values())


def test_a_demo_that_is_killed_takes_its_processes_with_it(running):
    process, children = running
    process.kill()
    process.communicate(timeout=300)
    until(lambda: all_gone(children.values()), "the three processes end")


# --- what the figures mean ---------------------------------------------------------------------------------------


def positions(**moved):
    """Where objects are, by default apart on the table, (x, y, z) [m]."""
    rest = {"red": (0.4, 0.1, 0.02), "green": (0.5, 0.0, 0.02), "blue": (0.5, -0.1, 0.02), "bowl": (0.6, 0.1, 0.0)}
    return {name: np.array(where) for name, where in {**rest, **moved}.items()}


@pytest.mark.parametrize(
    ("task", "there"),
    [
        (LIFT_TASKS[0], (0.45, 0.1, 0.08)),
        (BOWL_TASKS[0], (0.61, 0.09, 0.03)),
        (STACK_TASKS[0], (0.505, 0.003, 0.06)),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_success_is_being_there_and_staying(task, there):
    task_monitor = TaskMonitor(task)
    away = (0.4, 0.1, 0.02)
    for ms, where in ((0, away), (100, there), (400, there), (500, away), (600, there), (1000, there)):
        task_monitor.update(ms * MS, positions(red=where))
    assert task_monitor.done_ns is None and task_monitor.wrong == ""
    task_monitor.update(1100 * MS, positions(red=there))
    assert task_monitor.done_ns == 1100 * MS


def test_another_cube_is_the_wrong_one():
    task_monitor = TaskMonitor(LIFT_TASKS[0])
    task_monitor.update(0, positions())
    task_monitor.update(MS, positions(blue=(0.5, -0.1, 0.08)))
    task_monitor.update(2 * MS, positions(green=(0.5, 0.0, 0.08), red=(0.4, 0.1, 0.08)))
    assert task_monitor.wrong == "blue"


def test_the_demo_asks_for_what_the_policy_was_taught(tmp_path):
    def asked(*families):
        words = [task.instruction for name in families for task in TASKS[name]]
        policy = tiny()
        save(dataclasses.replace(policy, spec=dataclasses.replace(policy.spec, instructions=tuple(words))), tmp_path)
        return trained_tasks(tmp_path)

    assert asked("lift") == asked() == LIFT_TASKS
    assert [task.name for task in asked("lift", "bowl", "stack")[:4]] == ["lift", "bowl", "stack", "lift"]


def test_rates_and_ages_of_an_episode():
    monitor = Monitor()
    monitor.begin(DemoEpisode(1, 7, TaskMonitor(LIFT_TASKS[0]), 0))
    monitor.chunk(5 * MS, 1000 * MS)
    for i in range(101):
        monitor.target((10 + 10 * i) * MS)
    monitor.end(2000 * MS)
    summary = monitor.summary()
    assert summary["control_rate_hz"] == {"mean": 100.0, "p1": 100.0}
    assert summary["target_period_ms"] == {"p50": 10.0, "p99": 10.0}
    assert summary["chunk_age_ms"]["p50"] == pytest.approx(500, abs=10)
    assert summary["chunks"] == 1 and summary["inference_ms"] == {"p50": None, "p99": None}


def test_a_hold_counts_once_and_only_after_motion():
    monitor = Monitor()
    monitor.begin(DemoEpisode(1, 7, TaskMonitor(LIFT_TASKS[0]), 0))
    for level, message in ((1, "holding: no chunk yet"), (0, "following"), (1, "holding: chunk ended"), (1, "holding")):
        monitor.diagnostics("grids_follower", level, message, {})
    assert monitor.episodes[0].holds == ["holding: chunk ended"]


def test_no_samples_are_no_figure():
    assert percentiles([]) == {"p50": None, "p99": None}
    assert control_rate([]) == {"mean": None, "p1": None}
