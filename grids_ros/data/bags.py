"""rosbag2 in and out, without ROS: the writer of demonstrations, and the one reader of every recording.

Reads MCAP and sqlite3, raw and compressed images, simulated and real arms. Stamps are those of the messages' headers
(acquisition), in nanoseconds; messages without a header count from when the bag received them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import cv2
import numpy as np
from rosbags.interfaces import Connection, Qos, QosDurability, QosHistory, QosLiveliness, QosReliability, QosTime
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from grids_ros.data.source import BagError, Source
from grids_ros.datatypes import NANOSECONDS, Pose
from grids_ros.messages import check_frame, to_commanded, to_ns, to_opening, to_pose

FRAME = "base"
BAG_VERSION = 8  # of the metadata: the latest that Humble reads, which wants QoS profiles as a text
_PNG_LEVEL = 1  # lossless either way; higher levels cost much time for little space
_FOREVER = QosTime(9223372036, 854775807)
MAX_GAP_NS = 150_000_000  # between two targets that belong together
APART_NS = NANOSECONDS  # between stamp and arrival: more is no delay but another clock, as a simulation's
ROLES = ("instruction", "marker", "current_pose", "joint_states", "target_pose", "gripper_command", "object_poses")
IMAGE_TYPES = ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage")


def _default_cameras() -> Mapping[str, str]:
    return MappingProxyType({name: f"camera/{name}/image_raw/compressed" for name in ("base", "wrist")})


@dataclass(frozen=True)
class Topics:
    """Where things are in a bag; a leading '/' makes no difference.

    cameras: camera name to its topic, of Image or CompressedImage. fingers: the joints of `joint_states` whose sum is
    the opening [m]. gripper_scale: what an opening of 1 m is in `gripper_command`. base_frame: of all poses. marker:
    each of its messages begins an episode. said: the instruction, in place of the topic. A bag may lack `object_poses`;
    "" says that it has none of the others.
    """

    cameras: Mapping[str, str] = field(default_factory=_default_cameras)
    instruction: str = "instruction"
    current_pose: str = "current_pose"
    joint_states: str = "joint_states"
    target_pose: str = "target_pose"
    gripper_command: str = "gripper_command"
    object_poses: str = "object_poses"
    marker: str = ""
    said: str = ""
    fingers: tuple[str, ...] = ("fr3_finger_joint1", "fr3_finger_joint2")
    gripper_scale: float = 1.0
    base_frame: str = FRAME


@dataclass(frozen=True, eq=False)
class Episode:
    """What happened under one instruction. Stamps are int64 [ns] and never decrease; poses are in the base frame.

    images: per camera, (stamp, message) in order; `grids_ros.images.to_rgb` decodes the message.
    poses, targets: stamps (n,), positions (n, 3) [m], quaternions (n, 4) xyzw; measured, and asked of the arm. In a bag
    without `target_pose` the targets are the poses.
    grippers, gripper_commands: stamps (n,), openings (n,) [m]; measured, and asked of the hand. The commands begin with
    the one that held when the episode began, where there was one.
    objects: stamps (n,), positions (n, objects, 3) [m]; empty where the bag has none. passed_over: by topic, messages
    that no node would take (NaN, a quaternion that is none, a finger without a position), with the last one's fault.
    """

    instruction: str
    images: Mapping[str, Sequence[tuple[int, object]]]
    poses: tuple[np.ndarray, np.ndarray, np.ndarray]
    grippers: tuple[np.ndarray, np.ndarray]
    targets: tuple[np.ndarray, np.ndarray, np.ndarray]
    gripper_commands: tuple[np.ndarray, np.ndarray]
    objects: tuple[np.ndarray, np.ndarray]
    passed_over: Mapping[str, tuple[int, str]] = field(default_factory=dict)


class _Collector:
    """The messages of one episode as they come."""

    def __init__(self, instruction: str, cameras: Sequence[str]):
        self.instruction = instruction
        self.images: dict[str, list] = {name: [] for name in cameras}
        self.rows: dict[str, list] = {
            name: [] for name in ("current_pose", "target_pose", "joint_states", "gripper_command", "object_poses")
        }
        self.passed_over: dict[str, tuple[int, str]] = {}

    def pass_over(self, role: str, fault: str) -> None:
        """A message that no node would take."""
        count, _ = self.passed_over.get(role, (0, ""))
        self.passed_over[role] = (count + 1, fault)

    def add(self, role: str, row: tuple) -> None:
        """row: stamp and value; of an image, the message."""
        (self.images[role.removeprefix("image:")] if role.startswith("image:") else self.rows[role]).append(row)

    def episode(self, targets: str) -> Episode:
        """targets: whose rows are the targets."""
        return Episode(
            self.instruction,
            {name: sorted(images, key=lambda image: image[0]) for name, images in self.images.items()},
            _poses(self.rows["current_pose"]),
            _table(self.rows["joint_states"]),
            _poses(self.rows[targets]),
            _table(self.rows["gripper_command"]),
            _table(self.rows["object_poses"], shape=(0, 3)),
            self.passed_over,
        )


def _table(rows: list[tuple], shape: tuple[int, ...] = ()) -> tuple[np.ndarray, np.ndarray]:
    """Stamps and values of (stamp, value) rows, in the order of their stamps; `shape` is a value's when none came."""
    rows = sorted(rows, key=lambda row: row[0])
    stamps = np.array([row[0] for row in rows], dtype=np.int64)
    return stamps, np.array([row[1] for row in rows], dtype=np.float64).reshape(len(rows), *_shape_of(rows, shape))


def _shape_of(rows: list[tuple], shape: tuple[int, ...]) -> tuple[int, ...]:
    return np.shape(rows[0][1]) if rows else shape


def _poses(rows: list[tuple]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    stamps, values = _table(rows, shape=(7,))
    return _once((stamps, values[:, :3], values[:, 3:]))


def _once(poses: tuple[np.ndarray, np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Without what repeats a stamp, as of a publisher that is faster than its clock."""
    new = np.diff(poses[0], prepend=-1) > 0
    return tuple(column[new] for column in poses)


def stamped_ns(message, received_ns: int) -> int:
    """The header's stamp; publishers that leave it zero count from when the bag received the message."""
    header = getattr(message, "header", None)
    return (to_ns(header.stamp) if header else 0) or received_ns


def _values(message, role: str, topics: Topics):
    """The numbers in a message, by what it is for; None when there are none, as in the arm's own joint states.

    Raises ValueError for numbers that no node would take.
    """
    if role == "object_poses":
        return [(pose.position.x, pose.position.y, pose.position.z) for pose in message.poses]
    if role == "gripper_command":
        return to_commanded(message, topics.gripper_scale)
    if role == "joint_states":
        return to_opening(message, topics.fingers)
    pose = to_pose(message, topics.base_frame, role)
    return (*pose.position, *pose.quaternion)


def _connections(source: Source, topics: Topics) -> dict[str, list[Connection]]:
    """Role ("image:<camera>" or a field of Topics) to the connections of its topic. Raises BagError."""
    roles = {f"image:{name}": topic for name, topic in topics.cameras.items()}
    for name in ROLES:
        roles[name] = getattr(topics, name)
    held = source.held
    found = {role: held.get(topic.lstrip("/"), []) for role, topic in roles.items()}
    missing = [topic for role, topic in roles.items() if topic and not found[role] and role != "object_poses"]
    if missing:
        raise BagError(f"{source.path} has no topic {', '.join(missing)}; it has {source.described()}")
    for role, connections in found.items():
        if role.startswith("image:") and connections[0].msgtype not in IMAGE_TYPES:
            raise BagError(
                f"{source.path}: {roles[role]} is {connections[0].msgtype}, expected {' or '.join(IMAGE_TYPES)}"
            )
    return found


def read_episodes(path: Path, topics: Topics | None = None) -> Iterator[Episode]:
    """Each episode of a rosbag2, in order; one in memory at a time.

    A non-empty `instruction` begins an episode, the next one, an empty one or the bag's end closes it; so does a
    marker, which begins the next under the same words. Messages outside episodes are passed over; so are repetitions
    of the instruction that holds already. Raises BagError, for a damaged bag as well: nobody should train on half of
    what was recorded without knowing it.
    """
    topics = topics or Topics()
    with Source(path) as source:
        found = _connections(source, topics)
        role_of = {connection.topic: role for role, connections in found.items() for connection in connections}
        wanted = [connection for connections in found.values() for connection in connections]
        reading = _Reading(topics)
        for connection, received_ns, message in _undamaged(source, wanted):
            role, ended = role_of[connection.topic], None
            if role in ("instruction", "marker"):
                ended = reading.turn(role, message)
            else:
                try:
                    reading.take(role, received_ns, message)
                except ValueError as error:
                    raise BagError(f"{source.path}: {error}") from error
            if ended is not None:
                yield ended
        last = reading.end()
        if last is not None:
            yield last


class _Reading:
    """What is known of a bag while it is read: the episode that is under way, and what holds on into the next."""

    def __init__(self, topics: Topics):
        self._topics = topics
        self._asked: list[tuple] = []  # arrival and value of the latest gripper_command
        self._late_ns = 0  # from the stamp of the latest pose to its arrival: gripper_command has no stamp of its own
        self._begin(topics.said)

    def _begin(self, words: str) -> None:
        self._current = _Collector(words, tuple(self._topics.cameras)) if words else None
        if self._current is not None:
            for at_ns, value in self._asked:
                self._current.add("gripper_command", (at_ns - self._late_ns, value))

    def end(self) -> Episode | None:
        """The episode under way, if there is one."""
        targets = "target_pose" if self._topics.target_pose else "current_pose"
        return self._current.episode(targets) if self._current is not None else None

    def turn(self, role: str, message) -> Episode | None:
        """An instruction or a marker: the episode that it ends."""
        holds = self._current.instruction if self._current is not None else ""
        words = message.data.strip() if role == "instruction" else holds
        if role == "instruction" and words == holds:
            return None
        ended = self.end()
        self._begin(words)
        return ended

    def take(self, role: str, received_ns: int, message) -> None:
        """Any other message. Raises ValueError for a pose in another frame."""
        if role in ("current_pose", "target_pose"):
            check_frame(role, message.header, self._topics.base_frame)
        try:
            row = _row(message, role, received_ns - self._late_ns, self._topics)
        except ValueError as fault:
            if self._current is not None:
                self._current.pass_over(role, str(fault))
            return
        if row is None:
            return
        if role == "current_pose":
            self._late_ns = received_ns - row[0] if abs(received_ns - row[0]) > APART_NS else 0
        if role == "gripper_command":
            self._asked = [(received_ns, row[1])]
        if self._current is not None:
            self._current.add(role, row)


def _undamaged(source: Source, wanted: list[Connection]) -> Iterator[tuple[Connection, int, object]]:
    """Connection, time of arrival [ns] and message, in order. Raises BagError where the bag is damaged."""
    for entry in source.messages(wanted):
        if source.loss:
            break
        yield entry
    if source.loss:
        raise BagError(f"{source.path} is damaged: {source.loss}")


def _row(message, role: str, received_ns: int, topics: Topics) -> tuple | None:
    """Stamp and value; None for a message without one."""
    value = message if role.startswith("image:") else _values(message, role, topics)
    return (stamped_ns(message, received_ns), value) if value is not None else None


def _qos(latched: bool, reliable: bool) -> Qos:
    """As `ros2 bag play` should offer it again."""
    return Qos(
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


_RELIABLE = ("instruction", "target_pose", "gripper_command")


class BagWriter:
    """A rosbag2 with the topics of a demonstration; a context manager. All stamps are nanoseconds.

    path: the bag's folder, which must not exist (BagError). storage: StoragePlugin.MCAP or SQLITE3.
    """

    def __init__(self, path: Path, topics: Topics | None = None, storage: StoragePlugin = StoragePlugin.MCAP):
        self._topics = topics or Topics()
        self._store = get_typestore(Stores.ROS2_JAZZY)
        self._types = self._store.types
        self._connections: dict[str, Connection] = {}
        if Path(path).exists():
            raise BagError(f"{path} exists already; give the bag a folder of its own")
        self._writer = Writer(Path(path), version=BAG_VERSION, storage_plugin=storage)

    def __enter__(self) -> BagWriter:
        self._writer.open()
        return self

    def __exit__(self, *_) -> None:
        self._writer.close()

    def _new(self, name: str, *fields):
        return self._types[name](*fields)

    def _header(self, stamp_ns: int, frame: str = FRAME):
        stamp = self._new("builtin_interfaces/msg/Time", *divmod(int(stamp_ns), NANOSECONDS))
        return self._new("std_msgs/msg/Header", stamp, frame)

    def write(self, topic: str, stamp_ns: int, message) -> None:
        """Any message of the type store on any topic."""
        if topic not in self._connections:
            qos = _qos(latched=topic == self._topics.instruction, reliable=topic in _RELIABLE)
            self._connections[topic] = self._writer.add_connection(
                topic if topic.startswith("/") else f"/{topic}",
                message.__msgtype__,
                typestore=self._store,
                offered_qos_profiles=[qos],
            )
        self._writer.write(
            self._connections[topic], int(stamp_ns), self._store.serialize_cdr(message, message.__msgtype__)
        )

    def image(self, camera: str, stamp_ns: int, rgb: np.ndarray) -> None:
        """uint8 RGB (H, W, 3), written as PNG: nothing is lost."""
        _, png = cv2.imencode(".png", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_PNG_COMPRESSION, _PNG_LEVEL])
        header = self._header(stamp_ns, f"{camera}_camera_optical_frame")
        message = self._new("sensor_msgs/msg/CompressedImage", header, "png", png.reshape(-1))
        self.write(self._topics.cameras[camera], stamp_ns, message)

    def instruction(self, stamp_ns: int, words: str) -> None:
        """What to do from now on; empty ends the episode."""
        self.write(self._topics.instruction, stamp_ns, self._new("std_msgs/msg/String", words))

    def current_pose(self, stamp_ns: int, pose: Pose) -> None:
        """Measured."""
        self._pose(self._topics.current_pose, stamp_ns, pose)

    def target_pose(self, stamp_ns: int, pose: Pose) -> None:
        """Asked of the arm from now on."""
        self._pose(self._topics.target_pose, stamp_ns, pose)

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
        """Arm [rad] and fingers [m], and how fast they move."""
        values = (np.asarray(positions, np.float64), np.asarray(velocities, np.float64), np.zeros(0))
        message = self._new("sensor_msgs/msg/JointState", self._header(stamp_ns), list(names), *values)
        self.write(self._topics.joint_states, stamp_ns, message)

    def gripper_command(self, stamp_ns: int, opening: float) -> None:
        """Opening between the fingers [m]."""
        layout = self._new("std_msgs/msg/MultiArrayLayout", [], 0)
        message = self._new("std_msgs/msg/Float64MultiArray", layout, np.array([opening], np.float64))
        self.write(self._topics.gripper_command, stamp_ns, message)

    def object_poses(self, stamp_ns: int, poses: Sequence[Pose]) -> None:
        """Of the objects, in their order: labels for training, which no robot has."""
        message = self._new(
            "geometry_msgs/msg/PoseArray", self._header(stamp_ns), [self._pose_message(pose) for pose in poses]
        )
        self.write(self._topics.object_poses, stamp_ns, message)
