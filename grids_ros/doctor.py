"""grids doctor: what a robot needs, what it has, and what to do about the difference."""

from __future__ import annotations

import os
import resource
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Annotated

from grids_ros.options import Range

PROFILES = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")
NEEDED = {  # module to what needs it, and how to install it
    "torch": ("the policy", "pip install torch"),
    "transformers": ("the policy", "pip install transformers"),
    "tokenizers": ("the policy", "pip install tokenizers"),
    "safetensors": ("the policy", "pip install safetensors"),
    "cv2": ("images", "apt install python3-opencv"),
    "rclpy": ("the nodes", "source /opt/ros/$ROS_DISTRO/setup.bash"),
}
OPTIONAL = {
    "tf2_msgs": "TF: poses in other frames, points on the table in RViz",
    "franka_msgs": "gripper:=franka",
    "control_msgs": "gripper:=action",
    "launch_ros": "ros2 launch",
    "mujoco": "sim:=true",
    "cv_bridge": "image encodings that OpenCV does not convert",
}
CAMERA_TYPES = ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage")


@dataclass(frozen=True, kw_only=True)
class DoctorOptions:
    """Check this machine and the running ROS graph. Sends nothing but subscriptions.

    Exit codes: 0 nothing is wrong; 1 something is, and the line says what to do.
    """

    seconds: Annotated[float, Range(0.5, 60.0)] = 3.0
    """for how long the cameras are watched [s]"""


@dataclass(frozen=True)
class Finding:
    """One line of the report. todo: what to do; empty where nothing is wrong."""

    what: str
    found: str
    todo: str = ""

    def __str__(self) -> str:
        mark = "!!" if self.todo else "ok"
        return f"{mark} {self.what:<22} {self.found}" + (f"\n      -> {self.todo}" if self.todo else "")


def installed() -> Iterator[Finding]:
    """Python modules, those that are needed and those that are not."""
    version = ".".join(map(str, sys.version_info[:3]))
    yield Finding("python", f"{version} ({sys.executable})")
    for module, (what, todo) in NEEDED.items():
        missing = find_spec(module) is None
        yield Finding(module, f"missing; {what} needs it" if missing else "installed", todo if missing else "")
    for module, what in OPTIONAL.items():
        found = "installed" if find_spec(module) else "not installed"
        yield Finding(module, f"{found} (optional: {what})")


def device() -> Iterator[Finding]:
    """Where a policy can run."""
    if find_spec("torch") is None:
        return
    torch = import_module("torch")
    if torch.cuda.is_available():
        yield Finding("device", f"cuda: {torch.cuda.get_device_name(0)}")
    else:
        yield Finding("device", f"cpu only, {os.cpu_count()} cores (a GPU: install its driver and PyTorch with CUDA)")


def middleware() -> Iterator[Finding]:
    """The RMW implementation and FastDDS's profile."""
    name = os.environ.get("RMW_IMPLEMENTATION", "")
    yield Finding("RMW", name or "the distribution's default (RMW_IMPLEMENTATION is not set)")
    if name not in ("", "rmw_fastrtps_cpp"):
        return
    profile = next((os.environ[key] for key in PROFILES if os.environ.get(key)), "")
    if not profile:
        todo = f"export {PROFILES[0]} ({PROFILES[1]} for FastDDS 3) as config/fastdds.xml, for the cameras too"
        yield Finding("FastDDS profile", "none: large images are lost", todo)
    elif not os.path.isfile(profile):
        yield Finding("FastDDS profile", f"{profile} does not exist", f"correct {PROFILES[0]}")
    else:
        yield Finding("FastDDS profile", profile)
    yield Finding("ROS domain", os.environ.get("ROS_DOMAIN_ID", "0 (ROS_DOMAIN_ID is not set)"))


def real_time() -> Iterator[Finding]:
    """Whether the follower may be scheduled as real-time, and may lock its memory."""
    todo = "set it in /etc/security/limits.d and log in again (docs/how-to: real time)"
    allowed = os.geteuid() == 0 or resource.getrlimit(resource.RLIMIT_RTPRIO)[1] >= 40
    yield Finding("SCHED_FIFO", "allowed" if allowed else "not allowed", "" if allowed else f"rtprio 40: {todo}")
    unlimited = os.geteuid() == 0 or resource.getrlimit(resource.RLIMIT_MEMLOCK)[0] == resource.RLIM_INFINITY
    yield Finding(
        "locked memory", "allowed" if unlimited else "limited", "" if unlimited else f"memlock unlimited: {todo}"
    )


def graph(seconds: float) -> Iterator[Finding]:
    """Cameras with their rate and age, and who publishes the topics of which there must be one publisher."""
    import rclpy
    from rclpy.executors import SingleThreadedExecutor

    context = rclpy.Context()
    rclpy.init(context=context)
    executor = SingleThreadedExecutor(context=context)
    node = rclpy.create_node("grids_doctor", context=context)
    executor.add_node(node)
    try:
        _spin(executor, 1.0)
        yield from cameras(node, executor, seconds)
        yield from publishers(node)
    finally:
        executor.shutdown(timeout_sec=0.0)
        node.destroy_node()
        rclpy.shutdown(context=context)


def _spin(executor, seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        executor.spin_once(timeout_sec=0.05)


def cameras(node, executor, seconds: float) -> Iterator[Finding]:
    """Each image topic: its rate, and how old its images arrive, which holds the offset of its clock."""
    from sensor_msgs import msg

    from grids_ros.ros import qos

    ages: dict[str, list[float]] = {}
    for topic, types in node.get_topic_names_and_types():
        if types[0] not in CAMERA_TYPES or "overlay/" in topic:
            continue
        seen = ages.setdefault(topic, [])

        def on_image(message, seen=seen) -> None:
            stamp = message.header.stamp
            seen.append(node.get_clock().now().nanoseconds / 1e9 - stamp.sec - stamp.nanosec / 1e9)

        node.create_subscription(getattr(msg, types[0].rpartition("/")[2]), topic, on_image, qos.NEWEST)
    _spin(executor, seconds)
    if not ages:
        yield Finding("cameras", "none seen", "start the cameras, or check ROS_DOMAIN_ID and the network")
    for topic, seen in ages.items():
        yield camera(topic, seen, seconds)


def camera(topic: str, ages: list[float], seconds: float) -> Finding:
    """ages: of each image on arrival [s]."""
    if not ages:
        return Finding(topic, "no image arrives", "compare QoS (`ros2 topic info -v`), and see the FastDDS profile")
    age = sorted(ages)[len(ages) // 2]
    found = f"{len(ages) / seconds:.1f} Hz, {1e3 * age:.0f} ms old on arrival"
    if age < -0.001:
        return Finding(topic, found, "its clock is ahead of this machine's: synchronise them with chrony or PTP")
    if age > 0.3:
        return Finding(topic, found, "older than camera_max_age_s: synchronise the clocks, or shorten the pipeline")
    return Finding(topic, found)


def publishers(node) -> Iterator[Finding]:
    """Who commands the arm, and who measures it."""
    for topic, wanted in (("target_pose", (0, 1)), ("current_pose", (1,)), ("instruction", (0, 1))):
        infos = node.get_publishers_info_by_topic(node.resolve_topic_name(topic))
        names = ", ".join(f"{info.node_namespace.rstrip('/')}/{info.node_name}" for info in infos) or "nobody"
        todo = ""
        if len(infos) not in wanted:
            todo = "leave one publisher" if infos else "start the arm's driver, or remap its topic"
        yield Finding(topic, f"published by {names}", todo)


def run(options: DoctorOptions) -> int:
    """Print the report; the exit code."""
    wrong = 0
    checks = [installed(), device(), middleware(), real_time()]
    if find_spec("rclpy") is not None:
        checks.append(graph(options.seconds))
    for check in checks:
        for finding in check:
            print(finding, flush=True)
            wrong += bool(finding.todo)
    print(f"{wrong} to mend" if wrong else "nothing to mend")
    return 1 if wrong else 0
