"""The one writer of rosbag2: MCAP with checksums, as `ros2 bag play` of Humble and later reads it.

The bag is written beside its path, as `<name>.part`, and takes its name once it is complete. After an exception, or
when the process is killed, what was written stays there: it can be read, and never looks whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import yaml
from mcap.writer import CompressionType, Writer
from rosbags.interfaces import Qos, QosDurability, QosHistory, QosLiveliness, QosReliability, QosTime
from rosbags.rosbag2.metadata import dump_qos_v8, parse_qos

from grids_ros.data.damage import DAMAGE, BagError
from grids_ros.data.definitions import MSG, standard_types
from grids_ros.data.metadata import NAME, WRITTEN_BY, read_metadata
from grids_ros.data.reader import Connection
from grids_ros.data.topics import FRAME, Topics
from grids_ros.datatypes import NANOSECONDS, Pose
from grids_ros.files import complete, part_of, remove, require_writable

BAG_VERSION = 8  # of the metadata: the latest that Humble reads, which wants QoS profiles as a text
_PNG_LEVEL = 1  # lossless either way; higher levels cost much time for little space
_FOREVER = QosTime(9223372036, 854775807)
_RELIABLE = ("instruction", "target_pose", "target_joint", "gripper_command", "robot_description")


def qos_text(profiles: Sequence[Qos]) -> str:
    """QoS profiles as a bag keeps them."""
    return dump_qos_v8(list(profiles))


def offered_qos(latched: bool = False, reliable: bool = True) -> str:
    """The profile that `ros2 bag play` should offer again, as text."""
    profile = Qos(
        history=QosHistory.KEEP_LAST,
        depth=1,
        reliability=QosReliability.RELIABLE if reliable else QosReliability.BEST_EFFORT,
        durability=QosDurability.TRANSIENT_LOCAL if latched else QosDurability.VOLATILE,
        deadline=_FOREVER,
        lifespan=_FOREVER,
        liveliness=QosLiveliness.AUTOMATIC,
        liveliness_lease_duration=_FOREVER,
        avoid_ros_namespace_conventions=False,
    )
    return qos_text([profile])


def require_replaceable(path: Path, by: str) -> None:
    """Raises BagError for anything at `path` but a bag that `by` wrote, with no other files in its folder."""
    if not (path.exists() or path.is_symlink()):
        return
    metadata = read_metadata(path) if path.is_dir() and not path.is_symlink() else None
    if metadata is None or metadata.written_by != by:
        raise BagError(f"{path} was not written by {by} and is not replaced: move it, or take another folder")
    if others := sorted({entry.name for entry in path.iterdir()} - {NAME, *metadata.files}):
        raise BagError(f"{path} holds {others[0]}, which {by} did not write: move it, or take another folder")


class RawWriter:
    """A rosbag2 out of serialised messages. A context manager. All stamps are nanoseconds.

    path: the bag's folder. compressed: chunks in LZ4. by: who writes it, as its metadata keep it. replace: an earlier
    bag that `by` wrote at `path` stays until this one is complete, and is replaced by it. Anything else that exists is
    a BagError. Raises OutputError for a path that cannot be written.
    """

    def __init__(self, path: Path, compressed: bool = False, replace: bool = False, by: str = "grids_ros"):
        self._path, self._by = Path(path), by
        if self._path.exists() and not replace:
            raise BagError(f"{path} exists already; give the bag a folder of its own")
        require_replaceable(self._path, by)
        require_writable(self._path)
        self._part = part_of(self._path)
        remove(self._part)
        self._part.mkdir()
        self._name = f"{self._path.name}_0.mcap"
        self._file = (self._part / self._name).open("wb")
        compression = CompressionType.LZ4 if compressed else CompressionType.NONE
        self._writer = Writer(self._file, compression=compression, enable_data_crcs=True)
        self._writer.start(profile="ros2", library="grids_ros")
        self._schemas: dict[tuple[str, str], int] = {}
        self._channels: dict[tuple[str, str], int] = {}
        self._topics: dict[int, dict] = {}
        self._span_ns: tuple[int, int] | None = None

    def __enter__(self):
        return self

    def __exit__(self, kind, *_) -> None:
        self._writer.finish()
        self._file.close()
        (self._part / NAME).write_text(yaml.safe_dump(self._metadata(), sort_keys=False))
        if kind is None:
            complete(self._part, self._path)

    def write_raw(self, topic: str, msgtype: str, at_ns: int, data: bytes | memoryview, qos: str = "") -> None:
        """CDR bytes of one of ROS 2's own messages, on a topic that begins with a slash."""
        if (topic, msgtype) not in self._channels:
            types = standard_types()
            definition, _ = types.generate_msgdef(msgtype, ros_version=2)
            self._add_channel(topic, msgtype, definition, MSG, types.hash_rihs01(msgtype), qos or offered_qos())
        self._add(self._channels[topic, msgtype], at_ns, data)

    def copy(self, connection: Connection, at_ns: int, data: bytes) -> None:
        """A message of another bag, as it is."""
        key = (connection.topic, connection.msgtype)
        if key not in self._channels:
            self._add_channel(
                *key, connection.definition, connection.encoding, connection.digest, _same(connection.qos)
            )
        self._add(self._channels[key], at_ns, data)

    @property
    def written(self) -> set[str]:
        """The topics so far."""
        return {topic for topic, _ in self._channels}

    def _add_channel(self, topic: str, msgtype: str, definition: str, encoding: str, digest: str, qos: str) -> None:
        if (msgtype, definition) not in self._schemas:
            schema = self._writer.register_schema(msgtype, encoding or MSG, definition.encode())
            self._schemas[msgtype, definition] = schema
        metadata = {"offered_qos_profiles": qos, "topic_type_hash": digest}
        channel = self._writer.register_channel(topic, "cdr", self._schemas[msgtype, definition], metadata)
        self._channels[topic, msgtype] = channel
        self._topics[channel] = {
            "topic_metadata": {
                "name": topic,
                "type": msgtype,
                "serialization_format": "cdr",
                "offered_qos_profiles": qos,
                "type_description_hash": digest,
            },
            "message_count": 0,
        }

    def _add(self, channel: int, at_ns: int, data: bytes | memoryview) -> None:
        at_ns = int(at_ns)
        self._writer.add_message(channel, at_ns, bytes(data), at_ns)
        self._topics[channel]["message_count"] += 1
        first_ns, last_ns = self._span_ns or (at_ns, at_ns)
        self._span_ns = min(first_ns, at_ns), max(last_ns, at_ns)

    def _metadata(self) -> dict:
        first_ns, last_ns = self._span_ns or (0, 0)
        total = sum(topic["message_count"] for topic in self._topics.values())
        span = {
            "duration": {"nanoseconds": last_ns - first_ns},
            "starting_time": {"nanoseconds_since_epoch": first_ns},
            "message_count": total,
        }
        about = {
            "version": BAG_VERSION,
            "storage_identifier": "mcap",
            **span,
            "topics_with_message_count": list(self._topics.values()),
            "compression_format": "",
            "compression_mode": "",
            "relative_file_paths": [self._name],
            "files": [{"path": self._name, **span}],
            "custom_data": {WRITTEN_BY: self._by},
            "ros_distro": "jazzy",
        }
        return {"rosbag2_bagfile_information": about}


class BagWriter(RawWriter):
    """A rosbag2 with the topics of a demonstration.

    topics: what each of them is called. The rest is as of RawWriter.
    """

    def __init__(
        self,
        path: Path,
        topics: Topics | None = None,
        compressed: bool = False,
        replace: bool = False,
        by: str = "grids_ros",
    ):
        super().__init__(path, compressed, replace, by)
        self._names = topics or Topics()
        self._store = standard_types()

    def _new(self, name: str, *fields):
        return self._store.types[name](*fields)

    def _header(self, stamp_ns: int, frame: str = FRAME):
        stamp = self._new("builtin_interfaces/msg/Time", *divmod(int(stamp_ns), NANOSECONDS))
        return self._new("std_msgs/msg/Header", stamp, frame)

    def write(self, topic: str, stamp_ns: int, message) -> None:
        """Any message of ROS 2's own types on any topic."""
        latched = topic in (self._names.instruction, self._names.robot_description)
        qos = offered_qos(latched=latched, reliable=topic.lstrip("/") in _RELIABLE)
        data = self._store.serialize_cdr(message, message.__msgtype__)
        self.write_raw(f"/{topic.lstrip('/')}", message.__msgtype__, stamp_ns, data, qos)

    def image(self, camera: str, stamp_ns: int, rgb: np.ndarray) -> None:
        """uint8 RGB (H, W, 3), written as PNG: nothing is lost."""
        _, png = cv2.imencode(".png", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_PNG_COMPRESSION, _PNG_LEVEL])
        header = self._header(stamp_ns, f"{camera}_camera_optical_frame")
        message = self._new("sensor_msgs/msg/CompressedImage", header, "png", png.reshape(-1))
        self.write(self._names.cameras[camera], stamp_ns, message)

    def instruction(self, stamp_ns: int, words: str) -> None:
        """The task from now on; empty ends the episode."""
        self.write(self._names.instruction, stamp_ns, self._new("std_msgs/msg/String", words))

    def current_pose(self, stamp_ns: int, pose: Pose) -> None:
        """The measured tool pose in the base frame."""
        self._pose(self._names.current_pose, stamp_ns, pose)

    def target_pose(self, stamp_ns: int, pose: Pose) -> None:
        """The commanded tool pose in the base frame, from now on."""
        self._pose(self._names.target_pose, stamp_ns, pose)

    def _pose(self, topic: str, stamp_ns: int, pose: Pose) -> None:
        message = self._new("geometry_msgs/msg/PoseStamped", self._header(stamp_ns), self._pose_message(pose))
        self.write(topic, stamp_ns, message)

    def _pose_message(self, pose: Pose):
        return self._new(
            "geometry_msgs/msg/Pose",
            self._new("geometry_msgs/msg/Point", *map(float, pose.position)),
            self._new("geometry_msgs/msg/Quaternion", *map(float, pose.quaternion)),
        )

    def joint_states(self, stamp_ns: int, names: Sequence[str], positions, velocities) -> None:
        """Positions of the arm [rad] and the fingers [m], and their velocities."""
        values = (np.asarray(positions, np.float64), np.asarray(velocities, np.float64), np.zeros(0))
        message = self._new("sensor_msgs/msg/JointState", self._header(stamp_ns), list(names), *values)
        self.write(self._names.joint_states, stamp_ns, message)

    def target_joint(self, stamp_ns: int, names: Sequence[str], positions) -> None:
        """The commanded joint positions [rad], from now on."""
        values = np.asarray(positions, np.float64), np.zeros(0), np.zeros(0)
        message = self._new("sensor_msgs/msg/JointState", self._header(stamp_ns), list(names), *values)
        self.write(self._names.target_joint, stamp_ns, message)

    def robot_description(self, stamp_ns: int, urdf: str) -> None:
        """The robot's URDF."""
        self.write(self._names.robot_description, stamp_ns, self._new("std_msgs/msg/String", urdf))

    def gripper_command(self, stamp_ns: int, opening: float) -> None:
        """The commanded opening between the fingers [m]."""
        layout = self._new("std_msgs/msg/MultiArrayLayout", [], 0)
        message = self._new("std_msgs/msg/Float64MultiArray", layout, np.array([opening], np.float64))
        self.write(self._names.gripper_command, stamp_ns, message)

    def object_poses(self, stamp_ns: int, poses: Sequence[Pose]) -> None:
        """Poses of the objects, in their order: labels for training, which no robot has."""
        message = self._new(
            "geometry_msgs/msg/PoseArray", self._header(stamp_ns), [self._pose_message(pose) for pose in poses]
        )
        self.write(self._names.object_poses, stamp_ns, message)


def _same(qos: str) -> str:
    """Profiles of any version of rosbag2, as this one writes them; "" where they cannot be read."""
    try:
        return qos_text(parse_qos(qos))
    except DAMAGE:
        return ""
