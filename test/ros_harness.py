"""Real DDS for tests: a domain of this process's own, on loopback; nodes that spin; waits that are bounded."""

from __future__ import annotations

import gc
import os
import socket
import threading
import time
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path

os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
os.environ |= dict.fromkeys(  # of FastDDS 2 and of FastDDS 3; make sets the one that its distribution reads
    [name for name in ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE") if name in os.environ]
    or ["FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE"],
    str(Path(__file__).resolve().parents[1] / "config" / "fastdds.xml"),
)

import cv2
import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PoseStamped
from rclpy.context import Context
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import CompressedImage, Image, JointState
from std_msgs.msg import Float64MultiArray, Header, String
from trajectory_msgs.msg import JointTrajectory, MultiDOFJointTrajectory

from grids_ros import chunk_bytes
from grids_ros.datatypes import NANOSECONDS, ActionChunk, Pose
from grids_ros.ros import conversions, qos

WAIT_S = 120.0  # bound of every wait; a passing test takes a small part of it
HOME = Pose((0.45, 0.0, 0.30), (1.0, 0.0, 0.0, 0.0))
_DOMAINS = [20 + (os.getpid() + n) % 70 for n in range(70)]  # begin elsewhere: a killed process may have left nodes
_reserved: list[socket.socket] = []


def private_domain() -> int:
    """A ROS domain that no other test process on this machine uses; reserved until this process ends."""
    if not _reserved:
        for domain in _DOMAINS:
            claim = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            try:
                claim.bind(("127.0.0.1", 20_000 + domain))
            except OSError:
                claim.close()
                continue
            _reserved.append(claim)
            os.environ["ROS_DOMAIN_ID"] = str(domain)
            break
        else:
            raise RuntimeError("no free ROS domain")
    return int(os.environ["ROS_DOMAIN_ID"])


def chunk_messages(chunk: ActionChunk, base: str = "base", tool: str = "tool"):
    """`action_chunk` and `gripper_chunk` as whoever hears the policy node gets them."""
    poses = deserialize_message(chunk_bytes.poses_to_bytes(chunk, base, tool), MultiDOFJointTrajectory)
    return poses, deserialize_message(chunk_bytes.gripper_to_bytes(chunk, base), JointTrajectory)


def until(condition: Callable[[], object], what: str, timeout_s: float = WAIT_S):
    """The first true value of `condition`; AssertionError names `what` was waited for."""
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(0.005)
    raise AssertionError(f"not within {timeout_s:g} s: {what() if callable(what) else what}")


class Spinner:
    """Nodes in an executor in a thread. What a callback raises is kept in `error`."""

    def __init__(self, context: Context):
        self.executor = SingleThreadedExecutor(context=context)
        self.error: BaseException | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._spin, daemon=True)
        self._thread.start()

    def _spin(self) -> None:
        try:
            while not self._ended.is_set():
                self.executor.spin_once(timeout_sec=1.0)
        except ExternalShutdownException:
            pass
        except BaseException as error:  # noqa: BLE001 - looked at by the test
            self.error = error

    def do(self, action: Callable[[], object]):
        """What `action` returns or raises, called in this thread: an OpenGL context belongs to one."""
        task = self.executor.create_task(action)
        until(lambda: task.done() or self.error, "an action in the executor's thread", 60.0)
        return task.result()

    def stop(self) -> None:
        """End the thread. Call it before the nodes are destroyed: what DDS tears down must not be waited on."""
        self._ended.set()
        self.executor.wake()
        self._thread.join(WAIT_S)
        self.executor.shutdown(timeout_sec=0.0)


class Ros:
    """A context, the nodes under test, and `bench`: the node through which the test talks to them."""

    def __init__(self):
        self.context = Context()
        rclpy.init(context=self.context, domain_id=private_domain())
        self.under_test = Spinner(self.context)
        self._bench_spinner = Spinner(self.context)
        self.bench = Node("bench", context=self.context)
        self._bench_spinner.executor.add_node(self.bench)
        self._nodes: list = []
        self.statuses: list = []
        self.bench.create_subscription(
            DiagnosticArray, "/diagnostics", lambda array: self.statuses.extend(array.status), qos.DIAGNOSTICS
        )

    def start(self, node_class, cli_args=None, **settings):
        """A node under test with these parameters, spinning. cli_args: as on the command line."""
        overrides = [Parameter(name, value=value) for name, value in settings.items()]
        made = {"context": self.context, "parameter_overrides": overrides, "cli_args": cli_args}
        node = self.under_test.do(lambda: node_class(**made))
        self._nodes.append(node)
        self.under_test.executor.add_node(node)
        return node

    def activate(self, node) -> None:
        """Configure and activate a lifecycle node."""
        assert node.trigger_configure().name == "SUCCESS"
        assert node.trigger_activate().name == "SUCCESS"

    def publisher(self, message_type, topic: str, profile):
        """A publisher of the bench's."""
        return self.bench.create_publisher(message_type, topic, profile)

    def collect(self, message_type, topic: str, profile) -> list:
        """A list that grows by what is published."""
        messages: list = []
        self.bench.create_subscription(message_type, topic, messages.append, profile)
        return messages

    def diagnostics(self, node_name: str):
        """The last status of a node, or None."""
        return next((status for status in reversed(self.statuses) if status.name.endswith(node_name)), None)

    def wait_for_reason(self, node_name: str, text: str):
        """Until the diagnostics of a node, as of now, say `text`."""
        seen = len(self.statuses)

        def said():
            new = [status for status in self.statuses[seen:] if status.name.endswith(node_name)]
            last = new[-1] if new else None
            return last if last is not None and text in last.message else None

        def what() -> str:
            last = self.diagnostics(node_name)
            return f"{text!r} in the diagnostics of {node_name}, which say {last.message if last else None!r}"

        return until(said, what)

    def now_ns(self) -> int:
        """The clock of all nodes here."""
        return self.bench.get_clock().now().nanoseconds

    def close(self) -> None:
        """End everything, in the order in which a process of ours does: callbacks, nodes, context.

        A context that is shut down first takes each node's publisher of logs with it, under the threads that wait on
        the same participant: in one run of the whole suite that never ended.
        """
        try:
            for node in self._nodes:
                node.close() if self.under_test.error else self.under_test.do(node.close)
        finally:  # or what is left would command the arm of every later test
            self.under_test.stop()
            self._bench_spinner.stop()
            for node in (*self._nodes, self.bench):
                node.destroy_node()
            rclpy.shutdown(context=self.context)
        del self._nodes, self.bench, node
        gc.collect()  # a participant that stayed would keep its index; a process finds others by the low ones only


class Arm:
    """A perfect arm on the bench: it is where target_pose says. `pose_message` may be replaced by a test."""

    def __init__(self, ros: Ros, rate_hz: float = 100.0):
        self._ros = ros
        self.pose, self.opening = HOME, 0.08
        self.targets: list[PoseStamped] = []
        self.gripper_commands: list[float] = []
        self.pose_message: Callable[[], PoseStamped | None] = self.honest_pose
        self._pose_publisher = ros.publisher(PoseStamped, "current_pose", qos.MEASURED)
        self._joint_publisher = ros.publisher(JointState, "joint_states", qos.MEASURED)
        lossless = QoSProfile(depth=5000, reliability=qos.COMMAND.reliability)  # however late a busy machine reads
        ros.bench.create_subscription(PoseStamped, "target_pose", self._on_target, lossless)
        ros.bench.create_subscription(
            Float64MultiArray, "gripper_command", lambda m: self.gripper_commands.extend(m.data), qos.COMMAND
        )
        ros.bench.create_timer(1.0 / rate_hz, self._publish)

    def matched(self) -> bool:
        """Whether somebody hears its pose and somebody commands it."""
        return self._pose_publisher.get_subscription_count() > 0 and self._ros.bench.count_publishers("target_pose") > 0

    def honest_pose(self) -> PoseStamped:
        """current_pose as it is."""
        return conversions.from_pose_stamped(self.pose, "base", self._ros.now_ns())

    def _publish(self) -> None:
        message = self.pose_message()
        if message is not None:
            self._pose_publisher.publish(message)
        joints = JointState(header=Header(stamp=conversions.to_stamp(self._ros.now_ns())))
        joints.name, joints.position = ["fr3_finger_joint1", "fr3_finger_joint2"], [self.opening / 2] * 2
        self._joint_publisher.publish(joints)

    def _on_target(self, message: PoseStamped) -> None:
        self.targets.append(message)
        self.pose = conversions.to_pose(message, "base", "target_pose")

    def still(self, seconds: float = 0.3) -> bool:
        """Whether the target does not move, once it was braked, while it is watched for so long."""
        time.sleep(0.1)
        start = len(self.targets)
        before = self.pose.position
        time.sleep(seconds)
        return all(np.array_equal(_xyz(target), before) for target in self.targets[start:])


def altered_pose(arm: Arm, change: Callable) -> Callable[[], PoseStamped]:
    """A `pose_message` for the arm: the honest one after `change`."""

    def message() -> PoseStamped:
        pose = arm.honest_pose()
        change(pose)
        return pose

    return message


def changes_m(targets: list[PoseStamped], period_s: float = 0.01) -> np.ndarray:
    """Changes of the step between targets, shape (n,) [m]: acceleration times the period squared.

    Of three ticks in a row, by their stamps: on a busy machine a message may be overwritten before it is sent.
    """
    stamps = np.array([conversions.to_ns(target.header.stamp) for target in targets]) / NANOSECONDS
    path = np.array([_xyz(target) for target in targets]).reshape(-1, 3)
    near = np.abs(np.diff(stamps) - period_s) < 0.5 * period_s
    return np.linalg.norm(np.diff(path, n=2, axis=0), axis=1)[near[1:] & near[:-1]]


def _xyz(message: PoseStamped) -> np.ndarray:
    p = message.pose.position
    return np.array([p.x, p.y, p.z])


def chunk_to(arm: Arm, stamp_ns: int, move=(0.0, 0.05, 0.0), gripper: float = 0.08, steps: int = 12) -> ActionChunk:
    """From where the arm is by `move` [m], in `steps` of 0.1 s."""
    fractions = np.arange(1, steps + 1)[:, None] / steps
    return ActionChunk(
        stamp_ns,
        np.arange(1, steps + 1) * 0.1,
        arm.pose.position + fractions * np.asarray(move),
        np.tile(arm.pose.quaternion, (steps, 1)),
        np.full(steps, gripper),
    )


def say(ros: Ros, instruction: str):
    """A latched publisher of instructions that has said this; call its `publish` for more."""
    publisher = ros.publisher(String, "instruction", qos.LATCHED)
    publisher.publish(String(data=instruction))
    return publisher


class Cameras:
    """Cameras on the bench. `change[name]` may alter a message, or return None to keep it back."""

    def __init__(
        self, ros: Ros, names: tuple[str, ...] = ("base", "wrist"), compressed: bool = False, rate_hz=20.0, topics=()
    ):
        """topics: one for each camera, in place of the usual ones."""
        self._ros, self._compressed = ros, compressed
        self.change: dict[str, Callable] = {}
        suffix, message_type = ("/compressed", CompressedImage) if compressed else ("", Image)
        topics = topics or [f"camera/{name}/image_raw{suffix}" for name in names]
        self._publishers = {
            name: ros.publisher(message_type, topic, qos.NEWEST) for name, topic in zip(names, topics, strict=True)
        }
        self._picture = np.random.default_rng(0).integers(0, 255, (24, 32, 3), dtype=np.uint8)
        self._png = cv2.imencode(".png", self._picture[:, :, ::-1])[1].tobytes()
        ros.bench.create_timer(1.0 / rate_hz, self._publish)

    def _publish(self) -> None:
        now_ns = self._ros.now_ns()
        for name, publisher in self._publishers.items():
            frame = f"{name}_camera_optical_frame"
            if self._compressed:
                header = Header(stamp=conversions.to_stamp(now_ns), frame_id=frame)
                message = CompressedImage(header=header, format="png", data=self._png)
            else:
                message = conversions.from_rgb(self._picture, frame, now_ns)
            if name in self.change:
                message = self.change[name](message)
            if message is not None:
                publisher.publish(message)


OF_RCLPY = ("/rosout", "/parameter_events", "/tf", "/tf_static", "/clock")


def undocumented(node) -> list[str]:
    """Endpoints of the node whose topic, direction or profile is not in `qos.USES`, the source of the reference."""
    found = []
    for topic, _ in node.get_topic_names_and_types():
        if topic in OF_RCLPY or topic.endswith("/transition_event"):
            continue
        ways = {"out": node.get_publishers_info_by_topic(topic), "in": node.get_subscriptions_info_by_topic(topic)}
        ours = [(way, info) for way, infos in ways.items() for info in infos if info.node_name == node.get_name()]
        found += [f"{topic} {way}" for way, info in ours if not _documented(topic, way, info.qos_profile)]
    return found


def _documented(topic: str, way: str, profile) -> bool:
    """DDS tells everything of a profile but its depth."""
    return any(
        fnmatch(topic.lstrip("/"), name.replace("<name>", "*").lstrip("/"))
        for use in qos.USES
        if use.direction.split(",")[0].endswith(way) or use.profile == qos.CHUNK
        if (use.profile.reliability, use.profile.durability) == (profile.reliability, profile.durability)
        if (use.profile == qos.CHUNK) == (profile.liveliness_lease_duration == qos.CHUNK.liveliness_lease_duration)
        for name in use.topics
    )
