"""Every topic of the run into a rosbag2 (MCAP): the bytes as they came over the wire, never decoded here.

Subscriptions are drained a few times a second instead of one callback per message: recording some 500 messages a
second then takes little of the processor that the three nodes need.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PoseArray, PoseStamped
from rclpy.node import Node
from rclpy.qos import QoSProfile
from rclpy.serialization import deserialize_message
from rosbags.interfaces import Qos, QosDurability, QosHistory, QosLiveliness, QosReliability, QosTime
from sensor_msgs.msg import CameraInfo, Image, JointState
from std_msgs.msg import Float64MultiArray, String
from trajectory_msgs.msg import JointTrajectory, MultiDOFJointTrajectory
from visualization_msgs.msg import MarkerArray

from grids_ros.data.definitions import standard_types
from grids_ros.data.writer import RawWriter, offered_qos, qos_text
from grids_ros.datatypes import CAMERAS, Pose
from grids_ros.ros import qos
from grids_ros.ros.polling import Inbox

WRITER = "grids demo"  # as the metadata of its bag name it
TOOL_FRAME = "tool"  # the nodes' default
Mount = tuple[str, str, Pose]  # parent frame, child frame, pose of the child in its parent
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
class RecordedMessage:
    """One message as it came: CDR bytes, and when it was received, in the system's clock [ns]."""

    topic: str
    received_ns: int
    data: bytes


class Recorder:
    """Records TOPICS from its making to its end. A context manager."""

    def __init__(self, node: Node, path: Path, mounts: Sequence[Mount] = ()):
        """path: the bag's folder; once it is complete it replaces an earlier one of WRITER.

        mounts: frames of the cameras, written to /tf_static.
        """
        self._mounts, self._types = mounts, standard_types()
        self._writer = RawWriter(path, compressed=True, replace=True, by=WRITER)
        self._inboxes = {topic.name: Inbox(node, topic.type, topic.name, topic.wanted, raw=True) for topic in TOPICS}
        self._channels = {
            topic.name: (
                node.resolve_topic_name(topic.name),
                message_type_name(topic.type),
                qos_text([bag_qos(topic.offered)]),
            )
            for topic in TOPICS
        }

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *raised) -> None:
        self._writer.__exit__(*raised)

    def drain(self) -> list[RecordedMessage]:
        """Write what has come since the last call; returns it, in the order of its reception."""
        new = [
            RecordedMessage(name, at, data)
            for name, inbox in self._inboxes.items()
            for data, at in inbox.take_received()
        ]
        new.sort(key=lambda message: message.received_ns)
        for message in new:
            topic, msgtype, qos = self._channels[message.topic]
            self._writer.write_raw(topic, msgtype, message.received_ns, message.data, qos)
            if message.topic == "current_pose":
                self._write_transforms(message)
        return new

    def _write_transforms(self, message: RecordedMessage) -> None:
        """The tool in the base frame to /tf, and before it the cameras to /tf_static: the wheels have no tf2_msgs."""
        pose = deserialize_message(message.data, PoseStamped)
        p, q, stamp = pose.pose.position, pose.pose.orientation, pose.header.stamp
        if self._mounts:
            mounted = [self._transform((stamp.sec, stamp.nanosec), *mount) for mount in self._mounts]
            self._write_tf("/tf_static", message.received_ns, mounted, latched=True)
            self._mounts = ()
        tool = Pose((p.x, p.y, p.z), (q.x, q.y, q.z, q.w))
        moving = self._transform((stamp.sec, stamp.nanosec), pose.header.frame_id, TOOL_FRAME, tool)
        self._write_tf("/tf", message.received_ns, [moving], latched=False)

    def _write_tf(self, topic: str, at_ns: int, transforms: list, latched: bool) -> None:
        kind = "tf2_msgs/msg/TFMessage"
        data = self._types.serialize_cdr(self._types.types[kind](transforms), kind)
        self._writer.write_raw(topic, kind, at_ns, data, offered_qos(latched))

    def _transform(self, stamp: tuple[int, int], parent: str, child: str, pose: Pose):
        def new(name: str, *fields):
            return self._types.types[name](*fields)

        header = new("std_msgs/msg/Header", new("builtin_interfaces/msg/Time", *stamp), parent)
        translation = new("geometry_msgs/msg/Vector3", *pose.position.tolist())
        rotation = new("geometry_msgs/msg/Quaternion", *pose.quaternion.tolist())
        placed = new("geometry_msgs/msg/Transform", translation, rotation)
        return new("geometry_msgs/msg/TransformStamped", header, child, placed)


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
