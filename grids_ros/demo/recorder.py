"""Every topic of the run into a rosbag2 (MCAP): the bytes as they came over the wire, never decoded here.

Subscriptions are drained a few times a second instead of one callback per message: recording some 500 messages a
second then takes little of the processor that the three nodes need.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PoseArray, PoseStamped
from rclpy.node import Node
from rclpy.qos import QoSProfile
from rosbags.interfaces import Qos, QosDurability, QosHistory, QosLiveliness, QosReliability, QosTime
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.rosbag2.enums import CompressionFormat, CompressionMode
from rosbags.typesys import Stores, get_typestore
from sensor_msgs.msg import CameraInfo, Image, JointState
from std_msgs.msg import Float64MultiArray, String
from trajectory_msgs.msg import JointTrajectory, MultiDOFJointTrajectory
from visualization_msgs.msg import MarkerArray

from grids_ros.data.bags import BAG_VERSION
from grids_ros.ros import qos
from grids_ros.ros.polling import Inbox

CAMERAS = ("base", "wrist")
_FOREVER = QosTime(9223372036, 854775807)
_PENDING = 500  # messages of one topic that may wait between two drains; images fewer
_PENDING_IMAGES = 20


@dataclass(frozen=True)
class Topic:
    """A topic of design.md: its name, relative; its type; the QoS with which it is published."""

    name: str
    type: type
    offered: QoSProfile

    @property
    def wanted(self) -> QoSProfile:
        """How to subscribe so that nothing is lost between two drains."""
        depth = _PENDING_IMAGES if self.type is Image else _PENDING
        return QoSProfile(depth=depth, reliability=self.offered.reliability, durability=self.offered.durability)


TOPICS = (
    *(Topic(f"camera/{name}/image_raw", Image, qos.NEWEST) for name in CAMERAS),
    *(Topic(f"camera/{name}/camera_info", CameraInfo, qos.NEWEST) for name in CAMERAS),
    *(Topic(f"overlay/{name}/image_raw", Image, qos.NEWEST) for name in CAMERAS),
    Topic("instruction", String, qos.LATCHED),
    Topic("current_pose", PoseStamped, qos.MEASURED),
    Topic("joint_states", JointState, qos.MEASURED),
    Topic("object_poses", PoseArray, qos.MEASURED),
    Topic("action_chunk", MultiDOFJointTrajectory, qos.CHUNK),
    Topic("gripper_chunk", JointTrajectory, qos.CHUNK),
    Topic("target_pose", PoseStamped, qos.COMMAND),
    Topic("gripper_command", Float64MultiArray, qos.COMMAND),
    Topic("sampled_points", MarkerArray, qos.COMMAND),
    Topic("/diagnostics", DiagnosticArray, qos.DIAGNOSTICS),
)


@dataclass(frozen=True)
class Recorded:
    """One message as it came: CDR bytes, and when it was received, in the system's clock [ns]."""

    topic: str
    received_ns: int
    data: bytes


class Tap(Inbox):
    """An inbox that hands out the bytes."""

    def drain(self) -> Iterable[tuple[int, bytes]]:
        while True:
            with self._subscription.handle:
                taken = self._subscription.handle.take_message(self._type, True)
            if taken is None:
                return
            data, info = taken
            yield info["received_timestamp"], data


class Recorder:
    """Records TOPICS from its making to `close`. A context manager."""

    def __init__(self, node: Node, path: Path):
        """path: the bag's folder, which must not exist."""
        self._writer = Writer(path, version=BAG_VERSION, storage_plugin=StoragePlugin.MCAP)
        self._writer.set_compression(CompressionMode.STORAGE, CompressionFormat.ZSTD)
        self._writer.open()
        types = get_typestore(Stores.ROS2_JAZZY)
        self._taps = {topic.name: Tap(node, topic.type, topic.name, topic.wanted) for topic in TOPICS}
        self._connections = {
            topic.name: self._writer.add_connection(
                node.resolve_topic_name(topic.name),
                message_type_name(topic.type),
                typestore=types,
                offered_qos_profiles=[bag_qos(topic.offered)],
            )
            for topic in TOPICS
        }

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def drain(self) -> list[Recorded]:
        """Write what has come since the last call; returns it, in the order of its reception."""
        new = [Recorded(name, at, data) for name, tap in self._taps.items() for at, data in tap.drain()]
        new.sort(key=lambda message: message.received_ns)
        for message in new:
            self._writer.write(self._connections[message.topic], message.received_ns, message.data)
        return new

    def close(self) -> None:
        """Finish the bag."""
        self._writer.close()


def message_type_name(message_type: type) -> str:
    """For example sensor_msgs/msg/Image."""
    package, kind, _ = message_type.__module__.split(".", 2)
    return f"{package}/{kind}/{message_type.__name__}"


def bag_qos(profile: QoSProfile) -> Qos:
    """As rosbag2 writes it down, so that `ros2 bag play` offers the same."""
    lease = profile.liveliness_lease_duration.nanoseconds
    return Qos(
        history=QosHistory(int(profile.history)),
        depth=profile.depth,
        reliability=QosReliability(int(profile.reliability)),
        durability=QosDurability(int(profile.durability)),
        deadline=_FOREVER,
        lifespan=_FOREVER,
        liveliness=QosLiveliness(int(profile.liveliness) or QosLiveliness.AUTOMATIC.value),
        liveliness_lease_duration=QosTime(*divmod(lease, 1_000_000_000)) if lease else _FOREVER,
        avoid_ros_namespace_conventions=False,
    )
