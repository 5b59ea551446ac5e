"""The demo itself: bring everything up, run the episodes, take everything down, write what was seen."""

from __future__ import annotations

import json
import os
import platform
import shutil
import signal
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from lifecycle_msgs.msg import Transition
from rosbags.rosbag2.errors import WriterError

from grids_ros import diagnostic_keys as keys
from grids_ros.data.damage import BagError
from grids_ros.data.writer import require_replaceable
from grids_ros.datatypes import CAMERAS
from grids_ros.demo import demo_video
from grids_ros.demo.driver import START_S, DemoDriver, DemoError
from grids_ros.demo.monitor import DemoEpisode, Monitor, TaskMonitor
from grids_ros.demo.processes import ProcessDied, Processes, node_command
from grids_ros.demo.recorder import TOOL_FRAME, WRITER, Mount, Recorder
from grids_ros.files import part_of, write_whole
from grids_ros.interruption import INTERRUPTED
from grids_ros.observation.transforms import compose, inverse
from grids_ros.options import UsageError, refuse, require_apart
from grids_ros.policy.checkpoint import read_instructions
from grids_ros.ros.sim_node import optical_frame
from grids_ros.sim.scene import Scene
from grids_ros.sim.tasks import TASKS, Task, in_turn

EPISODE_S = 20.0  # an episode without success ends here
BASE_FRAME = "base"  # the nodes' default
REPORT = ("summary.json", "demo.mp4", "contact_sheet.png")
LINGER_S = 1.0  # how long the result is shown
PACKAGES = ("numpy", "torch", "transformers", "mujoco", "mink", "ros-rclpy", "rosbags")


class StatusLine:
    """One line that is written over again on a terminal; elsewhere a line every few seconds."""

    def __init__(self):
        self._terminal = sys.stdout.isatty()
        self._period_s = 0.2 if self._terminal else 5.0
        self._next = 0.0

    def show(self, text: Callable[[], str]) -> None:
        """If it is time for it."""
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + self._period_s
        if self._terminal:  # cut: a line that wraps cannot be written over
            print(f"\r\033[K{text()[: shutil.get_terminal_size().columns - 1]}", end="", flush=True)
        else:
            print(text(), flush=True)

    def done(self, text: str) -> None:
        """The last word on this line."""
        print(f"\r\033[K{text}" if self._terminal else text, flush=True)


def run(checkpoint: Path, episodes: int, seed: int, out: Path) -> int:
    """The demo; its exit code: 0 when every process came up, actions flowed and all shut down cleanly."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if not checkpoint.is_dir():
        print(f"demo: there is no checkpoint folder {checkpoint}", file=sys.stderr)
        return 2
    bag = out / "bag"
    try:
        require_apart((bag, *(out / name for name in (*REPORT, "logs"))), [checkpoint])
        require_replaceable(bag, WRITER)
    except (BagError, UsageError) as error:
        return refuse(f"grids demo: {error}")
    monitor = Monitor()
    problems: list[str] = []
    try:
        with Processes(out / "logs") as processes:
            try:
                run_episodes(processes, monitor, checkpoint, episodes, seed, bag)
            finally:
                print("Ending the processes", flush=True)
                problems += processes.stop()
    except (DemoError, ProcessDied, WriterError) as error:
        problems.append(str(error))
    except KeyboardInterrupt:
        print(f"demo: interrupted; {out} holds the logs, and in {part_of(bag).name} the bag so far", file=sys.stderr)
        return INTERRUPTED
    problems += [f"episode {e.number}: no actions came" for e in monitor.episodes if not e.chunks or not e.periods_ms]
    if monitor.episodes and monitor.episodes[-1].ended_ns:
        report(monitor, checkpoint, out, problems)
    for problem in problems:
        print(f"demo failed: {problem}", file=sys.stderr)
    return 1 if problems else 0


def run_episodes(processes: Processes, monitor: Monitor, checkpoint: Path, episodes: int, seed: int, bag: Path) -> None:
    """From the first process to the shutdown of the nodes. Raises DemoError, ProcessDied."""
    parameters: dict[str, dict[str, object]] = {
        "sim": {"seed": seed},
        "policy": {"autostart": "true", "checkpoint": checkpoint, "threads": 1},
        "follower": {"autostart": "true"},
    }
    with DemoDriver(processes, monitor) as driver:
        driver.require_empty_domain()
        print(f"Starting three processes; their logs are in {bag.parent / 'logs'}", flush=True)
        for name, values in parameters.items():
            processes.start(name, node_command(f"grids_ros.ros.{name}_node", **values))
        with Recorder(driver.node, bag, camera_mounts()) as recorder:
            driver.recorder = recorder
            wait_until_active(driver, processes, checkpoint)
            tasks = trained_tasks(checkpoint)
            for number in range(1, episodes + 1):
                if number > 1:
                    seed = new_scene(driver)
                run_episode(driver, monitor, tasks[(number - 1) % len(tasks)], number, episodes, seed)
            for node in ("policy", "follower"):
                driver.change_state(node, Transition.TRANSITION_DEACTIVATE)
                driver.change_state(node, Transition.TRANSITION_CLEANUP)
                driver.change_state(node, Transition.TRANSITION_UNCONFIGURED_SHUTDOWN)


def camera_mounts() -> list[Mount]:
    """Where the simulated cameras are: one beside the table, one on the hand."""
    with closing(Scene(0, 32)) as scene:
        on_hand = compose(inverse(scene.tool_pose()), scene.camera_pose("wrist"))
        beside = scene.camera_pose("base")
    return [(BASE_FRAME, optical_frame("base"), beside), (TOOL_FRAME, optical_frame("wrist"), on_hand)]


def wait_until_active(driver: DemoDriver, processes: Processes, checkpoint: Path) -> None:
    """Until the arm publishes and both lifecycle nodes have brought themselves to active."""
    started = time.monotonic()

    def done(text: str) -> None:
        print(f"  {time.monotonic() - started:5.1f} s  {text}", flush=True)

    wanted = {f"camera/{name}/image_raw" for name in CAMERAS} | {"current_pose", "joint_states", "object_poses"}
    if not driver.wait(lambda: wanted <= driver.seen, START_S):
        raise DemoError(f"the simulated arm does not publish {', '.join(sorted(wanted - driver.seen))}")
    done("the simulated arm publishes its cameras and its pose")
    for name, words in {"follower": f"follower is active; loading {checkpoint}", "policy": "policy is active"}.items():
        # Nothing that DDS might still announce of an earlier run can say this.
        if not driver.wait(partial(processes.said, name, f"grids_{name} is active"), START_S):
            raise DemoError(f"{name} is not active after {START_S:g} s; {processes.last_words(name)}")
        done(f"the {words}")


def trained_tasks(checkpoint: Path) -> tuple[Task, ...]:
    """What to ask for, in turn: the tasks whose every instruction the policy was trained on, or else to lift."""
    known = set(read_instructions(checkpoint))
    families = [name for name, tasks in TASKS.items() if known.issuperset(task.instruction for task in tasks)]
    return in_turn(families or ["lift"])


def new_scene(driver: DemoDriver) -> int:
    """A new scene, its seed. An active follower would pull the arm back to where it held it in the old one."""
    driver.change_state("follower", Transition.TRANSITION_DEACTIVATE)
    seed = driver.reset()
    driver.change_state("follower", Transition.TRANSITION_ACTIVATE)
    driver.spin_for(0.3)
    return seed


def run_episode(driver: DemoDriver, monitor: Monitor, task: Task, number: int, episodes: int, seed: int) -> None:
    """One episode: say what to do, watch, say that it is over."""
    episode = DemoEpisode(number, seed, TaskMonitor(task), driver.now_ns)
    monitor.begin(episode)
    driver.publish_instruction(episode.instruction)
    line, started = StatusLine(), time.monotonic()
    while time.monotonic() - started < EPISODE_S and episode.task_monitor.done_ns is None:
        driver.spin_once()
        line.show(lambda: progress(monitor, episode, episodes))
    driver.spin_for(LINGER_S)
    monitor.end(driver.now_ns)
    driver.publish_instruction("")
    row = episode.row()
    verdict = f"{task.done} after {row['time_to_success_s']:.1f} s" if row["success"] else f"not {task.done}"
    wrong = f", {row['wrong_object']} was lifted instead or as well" if row["wrong_object"] else ""
    line.done(f"{progress(monitor, episode, episodes)} | {verdict}{wrong}")


def progress(monitor: Monitor, episode: DemoEpisode, episodes: int) -> str:
    """The live line."""
    inference = monitor.value("grids_policy", keys.percentile(keys.INFERENCE, 50), "-")
    tokens = monitor.value("grids_policy", keys.TOKENS, "-")
    return (
        f"{episode.number}/{episodes}  {episode.instruction:<19} | control {monitor.live_rate_hz:5.1f} Hz"
        f" | inference {inference} ms | {tokens} tokens per camera | holds {len(episode.holds)}"
    )


def report(monitor: Monitor, checkpoint: Path, out: Path, problems: list[str]) -> None:
    """Write summary.json, the video and the contact sheet; print the table."""
    summary = {**monitor.summary(), "checkpoint": str(checkpoint), "problems": problems, "host": host()}
    write_whole(out / "summary.json", json.dumps(summary, indent=2) + "\n")
    print("Drawing the video and the contact sheet", flush=True)
    scenes = [
        demo_video.EpisodeCaption(
            e.number,
            e.instruction,
            e.started_ns,
            e.ended_ns,
            e.task_monitor.done_ns,
            e.task_monitor.task.done,
            wrong_words(e.task_monitor.wrong),
        )
        for e in monitor.episodes
        if e.ended_ns
    ]
    if not demo_video.make(out / "bag", scenes, CAMERAS, out / "demo.mp4", out / "contact_sheet.png"):
        problems.append("no overlay images came: there is no video")
    print(table(summary))
    print(f"In {out}: summary.json, demo.mp4, contact_sheet.png, bag/, logs/")


def wrong_words(colour: str) -> str:
    return f"{colour} was" if colour else ""


def table(summary: Mapping) -> str:
    """For the terminal."""

    def pair(key: str, unit: str) -> str:
        values = summary[key]
        return ", ".join(f"{name} {'-' if value is None else f'{value:.4g}'}" for name, value in values.items()) + unit

    rows = (
        ("succeeded", f"{summary['successes']} of {summary['episodes']}; wrong cube {summary['wrong_objects']}"),
        ("control rate", pair("control_rate_hz", " Hz")),
        ("target_pose period", pair("target_period_ms", " ms")),
        ("inference", pair("inference_ms", " ms")),
        ("age of the chunk in use", pair("chunk_age_ms", " ms")),
        ("chunks", summary["chunks"]),
        ("deadline misses", summary["deadline_misses"]),
        ("tokens per camera", summary["tokens_per_camera"]),
        ("holds while moving", summary["holds"]),
    )
    return "\n".join(f"  {name:<24} {value}" for name, value in rows)


def host() -> dict[str, object]:
    """What the figures were measured on."""
    names = [line.split(":", 1)[1].strip() for line in _cpuinfo() if line.startswith("model name")]
    return {
        "cpu": names[0] if names else platform.machine(),
        "cores_used": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        **{package: _version(package) for package in PACKAGES},
    }


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # rclpy of a ROS 2 installation is no Python distribution
        return "not from a wheel"
