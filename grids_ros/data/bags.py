"""The episodes of a bag.

Stamps are those of the messages' headers (acquisition), in nanoseconds; messages without a header count from when the
bag received them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from grids_ros.control.defaults import CAMERA_MAX_AGE_S
from grids_ros.data.reader import BagError, BagReader, Connection
from grids_ros.data.topics import Topics
from grids_ros.datatypes import NANOSECONDS
from grids_ros.observation.buffer import IMAGE, JOINTS, POSE, AgeLimits, NotReady, ObservationBuffer, Snapshot
from grids_ros.observation.messages import to_commanded, to_joints, to_ns, to_opening, to_places, to_pose

MAX_GAP_NS = 150_000_000  # between two targets that belong together
APART_NS = NANOSECONDS  # between stamp and arrival: more is no delay but another clock, as a simulation's
ROLES: tuple[str, ...] = (
    *("instruction", "marker", "current_pose", "joint_states", "target_pose", "target_joint"),
    *("gripper_command", "object_poses"),
)
JOINT_ROWS = ("target_joint", "measured_joints")
IMAGE_TYPES = ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage")


@dataclass(frozen=True, eq=False)
class Episode:
    """What happened under one instruction. Stamps are int64 [ns] and never decrease; poses are in the base frame.

    observations: what the policy node sees during the episode, each once, in order: see `observation.buffer`.
    poses, targets: stamps (n,), positions (n, 3) [m], quaternions (n, 4) xyzw; measured, and asked of the arm. In a bag
    without `target_pose` the targets are the poses.
    grippers, gripper_commands: stamps (n,), openings (n,) [m]; measured, and asked of the hand. The commands begin with
    the one that held when the episode began, where there was one.
    objects: stamps (n,), positions (n, objects, 3) [m]; empty where the bag has none. joint_targets: stamps (n,),
    positions (n, joints) [rad or m] of `Topics.joints`, asked of the arm; in a bag without `target_joint` the measured
    ones. passed_over: by topic, messages that no node would take (NaN, a quaternion that is none, a finger without a
    position, another number of objects), with the last one's fault; by "observation", how often there was none, with
    the last reason.
    """

    instruction: str
    observations: Sequence[Snapshot]
    poses: tuple[np.ndarray, np.ndarray, np.ndarray]
    grippers: tuple[np.ndarray, np.ndarray]
    targets: tuple[np.ndarray, np.ndarray, np.ndarray]
    gripper_commands: tuple[np.ndarray, np.ndarray]
    objects: tuple[np.ndarray, np.ndarray]
    joint_targets: tuple[np.ndarray, np.ndarray] = field(default_factory=lambda: (np.zeros(0, np.int64), np.zeros(0)))
    passed_over: Mapping[str, tuple[int, str]] = field(default_factory=dict)


def pass_over(passed_over: dict[str, tuple[int, str]], role: str, fault: str, count: int = 1) -> None:
    """Count what no node would take, see `Episode.passed_over`."""
    passed_over[role] = (passed_over.get(role, (0, ""))[0] + count, fault)


def told(passed_over: Mapping[str, tuple[int, str]]) -> str:
    """What was passed over, in words; "" for nothing."""
    return "; ".join(f"{count} of {name} passed over, as: {fault}" for name, (count, fault) in passed_over.items())


class _Collector:
    """The messages of one episode as they come."""

    def __init__(self, instruction: str):
        self.instruction = instruction
        self.observations: list[Snapshot] = []
        self.rows: dict[str, list] = {
            name: []
            for name in ("current_pose", "target_pose", "joint_states", "gripper_command", "object_poses", *JOINT_ROWS)
        }
        self.passed_over: dict[str, tuple[int, str]] = {}

    def add(self, role: str, row: tuple) -> None:
        """row: stamp and value."""
        self.rows[role].append(row)

    def episode(self, targets: str, joint_targets: str) -> Episode:
        """targets, joint_targets: whose rows are the targets."""
        return Episode(
            self.instruction,
            self.observations,
            _poses(self.rows["current_pose"]),
            _table(self.rows["joint_states"]),
            _poses(self.rows[targets]),
            _table(self.rows["gripper_command"]),
            _table(self.rows["object_poses"], shape=(0, 3)),
            _table(self.rows[joint_targets]),
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
    stamps, positions, quaternions = (column[new] for column in poses)
    return stamps, positions, quaternions


def stamped_ns(message, received_ns: int) -> int:
    """The header's stamp; publishers that leave it zero count from when the bag received the message."""
    header = getattr(message, "header", None)
    return (to_ns(header.stamp) if header else 0) or received_ns


def _values(message, role: str, topics: Topics):
    """The numbers in a message, by what it is for; None when there are none, as in the arm's own joint states.

    Raises ValueError for numbers that no node would take.
    """
    if role == "object_poses":
        return to_places(message)
    if role == "gripper_command":
        return to_commanded(message, topics.gripper_scale)
    if role == "joint_states":
        return to_opening(message, topics.fingers)
    if role in JOINT_ROWS:
        return _joints(message, topics.joints, role)
    pose = to_pose(message, topics.base_frame, role)
    return (*pose.position, *pose.quaternion)


def _joints(message, names: Sequence[str], role: str) -> list[float] | None:
    """Positions of these joints, in their order; None in a message of other joints alone. Raises ValueError."""
    found = to_joints(message, names)
    missing = [name for name in names if name not in found]
    if missing and role == "target_joint":
        raise ValueError(f"{role} lacks {', '.join(missing)}; it has {', '.join(message.name) or 'no joint'}")
    return None if missing else [found[name] for name in names]


def _connections(source: BagReader, topics: Topics) -> dict[str, list[Connection]]:
    """Role ("image:<camera>" or a field of Topics) to the connections of its topic. Raises BagError."""
    roles = {f"image:{name}": topic for name, topic in topics.cameras.items()}
    for name in ROLES:
        roles[name] = "" if name == "target_joint" and not topics.joints else getattr(topics, name)
    held = source.topics
    found = {role: held.get(topic.lstrip("/"), []) for role, topic in roles.items()}
    missing = [topic for role, topic in roles.items() if topic and not found[role] and role != "object_poses"]
    if missing:
        raise BagError(f"{source.path} has no topic {', '.join(missing)}; it has {source.describe()}")
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
    with BagReader(path) as source:
        found = _connections(source, topics)
        role_of = {connection.topic: role for role, connections in found.items() for connection in connections}
        wanted = [connection for connections in found.values() for connection in connections]
        reading = _Reading(topics)
        for connection, received_ns, message in _undamaged(source, wanted):
            role, ended = role_of[connection.topic], None
            if role in ("instruction", "marker"):
                ended = reading.turn(role, received_ns, message)
            else:
                reading.take(role, received_ns, message)
            if ended is not None:
                yield _counted(ended, source, role_of)
        last = reading.end()
        if last is not None:
            yield _counted(last, source, role_of)


def _counted(episode: Episode, source: BagReader, role_of: Mapping[str, str]) -> Episode:
    """The episode with what could not be deserialised since the one before."""
    spoilt, source.passed_over = source.passed_over, {}
    passed_over = dict(episode.passed_over)
    for topic, (count, why) in spoilt.items():
        passed_over[role_of[topic]] = (count + passed_over.get(role_of[topic], (0, ""))[0], why)
    return replace(episode, passed_over=passed_over)


class _Reading:
    """What is known of a bag while it is read: the episode that is under way, and what holds on into the next.

    The observations are those of a policy node that received the bag's messages at the times at which they were logged.
    Where stamps are of another clock than the log, as a simulation's, arrival is put on the clock of the stamps by the
    latest pose, which then counts as received at its stamp.
    """

    def __init__(self, topics: Topics):
        self._topics = topics
        self._asked: list[tuple] = []  # arrival and value of the latest gripper_command
        self._objects: int | None = None  # how many the first object_poses has
        self._late_ns = 0  # from the stamp of the latest pose to its arrival: gripper_command has no stamp of its own
        limits = topics.ages or AgeLimits(cameras=dict.fromkeys(topics.cameras, CAMERA_MAX_AGE_S))
        self._buffer = ObservationBuffer(
            tuple(topics.cameras), limits, topics.base_frame, topics.fingers, topics.joints
        )
        self._seen: Snapshot | None = None
        self._arrived_ns = 0
        self._begin(topics.given_instruction)

    def _begin(self, words: str) -> None:
        self._current = _Collector(words) if words else None
        if self._current is not None:
            for at_ns, value in self._asked:
                self._current.add("gripper_command", (at_ns - self._late_ns, value))
            with suppress(NotReady):  # what the node has seen last is the first that it sees under these words
                self._current.observations.append(self._buffer.check(words, self._arrived_ns - self._late_ns))

    def end(self) -> Episode | None:
        """The episode under way, if there is one."""
        self._observe()
        targets = "target_pose" if self._topics.target_pose else "current_pose"
        joints = "target_joint" if self._topics.target_joint else "measured_joints"
        return self._current.episode(targets, joints) if self._current is not None else None

    def turn(self, role: str, received_ns: int, message) -> Episode | None:
        """An instruction or a marker: the episode that it ends."""
        self._observe()
        self._arrived_ns = received_ns
        holds = self._current.instruction if self._current is not None else ""
        words = message.data.strip() if role == "instruction" else holds
        if role == "instruction" and words == holds:
            return None
        ended = self.end()
        self._begin(words)
        return ended

    def take(self, role: str, received_ns: int, message) -> None:
        """Any other message."""
        if received_ns != self._arrived_ns:
            self._observe()
            self._arrived_ns = received_ns
        refused = self._buffer.add(role, message, received_ns) if role in (POSE, JOINTS) or IMAGE in role else ""
        if refused and self._current is not None:
            pass_over(self._current.passed_over, role, refused)
        if refused or IMAGE in role:
            return
        self._add(role, received_ns, message)
        if role == JOINTS and self._topics.joints:
            self._add("measured_joints", received_ns, message)

    def _add(self, role: str, received_ns: int, message) -> None:
        """The numbers in a message, if it has any; what no node would take is counted."""
        try:
            row = _row(message, role, received_ns - self._late_ns, self._topics)
            if role == "object_poses" and row is not None:
                self._check_count(len(row[1]))
        except ValueError as fault:
            if self._current is not None:
                pass_over(self._current.passed_over, role, str(fault))
            return
        if row is None:
            return
        if role == "current_pose":
            self._late_ns = received_ns - row[0] if abs(received_ns - row[0]) > APART_NS else 0
        if role == "gripper_command":
            self._asked = [(received_ns, row[1])]
        if self._current is not None:
            self._current.add(role, row)

    def _check_count(self, objects: int) -> None:
        """Raises ValueError for another number of objects than the first message has."""
        if self._objects is None:
            self._objects = objects
        elif objects != self._objects:
            raise ValueError(f"object_poses has {objects} poses, the first one has {self._objects}")

    def _observe(self) -> None:
        """What has become complete with the messages that arrived last."""
        snapshot, before = self._buffer.align(), self._seen
        self._seen = snapshot
        if self._current is None or snapshot is None or snapshot is before:
            return
        try:
            self._buffer.check(self._current.instruction, self._arrived_ns - self._late_ns)
        except NotReady as reason:
            pass_over(self._current.passed_over, "observation", str(reason))
        else:
            self._current.observations.append(snapshot)


def _undamaged(source: BagReader, wanted: list[Connection]) -> Iterator[tuple[Connection, int, object]]:
    """Connection, time of arrival [ns] and message, in order. Raises BagError where the files are damaged."""
    for entry in source.messages(wanted):
        if source.broken:
            break
        yield entry
    if source.broken:
        raise BagError(f"{source.path} is damaged: {source.broken}")


def _row(message, role: str, received_ns: int, topics: Topics) -> tuple | None:
    """Stamp and value; None for a message without one."""
    value = _values(message, role, topics)
    return (stamped_ns(message, received_ns), value) if value is not None else None
