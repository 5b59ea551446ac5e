"""The policy's inputs over DDS: subscriptions that are drained, in order of arrival, into an ObservationBuffer."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

from geometry_msgs.msg import PoseStamped
from rclpy.node import Node
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, JointState
from std_msgs.msg import String

from grids_ros.datatypes import NANOSECONDS, Observation
from grids_ros.observation.buffer import IMAGE, JOINTS, POSE, NotReady, ObservationBuffer
from grids_ros.observation.images import ImageError
from grids_ros.observation.messages import check_camera_info
from grids_ros.observation.topics import COMPRESSED, check_names, image_topics, info_topic
from grids_ros.parameters import PolicyParameters
from grids_ros.ros import conversions, graph, qos
from grids_ros.ros.diagnostics import Window
from grids_ros.ros.polling import Inbox
from grids_ros.ros.tf import PoseInbox

TARGET = "target_pose"
IMAGES = 100  # over which their transport is reported
STEPPED_NS = NANOSECONDS  # a message received later than now by more was stamped before the system's clock was set


class SerializedImage:
    """An Image or CompressedImage as bytes, read when more than its header is needed.

    Cameras send more images than the policy uses. Deserialising one copies its pixels, so those of an Image in plain
    CDR (OMG, DDS-XTypes 1.3, 7.4.3.3) are a view of the bytes. What is framed otherwise is deserialised. Bytes that end
    early raise ImageError where a field is read.
    """

    def __init__(self, message_type, data: bytes):
        """Raises ValueError for bytes that hold no header."""
        self._type, self._data = message_type, data
        self._message: Any = None
        try:
            order = "<" if data[1] & 1 else ">"  # CDR: four bytes of encapsulation, then the header's members
            sec, nanosec, length = struct.unpack_from(f"{order}iII", data, 4)
            frame_id = data[16 : 16 + max(length, 1) - 1].decode("utf-8", "replace")
        except (struct.error, IndexError) as error:
            raise ValueError(f"image of {len(data)} bytes has no header") from error
        self.header = SimpleNamespace(stamp=SimpleNamespace(sec=sec, nanosec=nanosec), frame_id=frame_id)

    def __getattr__(self, name: str):
        if self._message is None:
            plain = self._type is Image and self._data[0] == 0 and self._data[1] in (0, 1)
            self._message = _view(self._data) if plain else self._decoded()
        return getattr(self._message, name)

    def _decoded(self) -> Any:
        try:
            return deserialize_message(self._data, self._type)
        except (ValueError, RuntimeError) as error:  # RMWError is a RuntimeError
            raise ImageError(f"image of {len(self._data)} bytes cannot be decoded: {error}") from error


def _view(data: bytes) -> SimpleNamespace:
    """The fields of a sensor_msgs/Image in plain CDR behind its header. Raises ImageError for one that ends early."""
    order, body = "<" if data[1] else ">", memoryview(data)[4:]
    try:
        (length,) = struct.unpack_from(f"{order}I", body, 8)  # of frame_id, behind the stamp
        at = 12 + length + -length % 4
        height, width, length = struct.unpack_from(f"{order}III", body, at)
        encoding = bytes(body[at + 12 : at + 12 + max(length, 1) - 1]).decode("utf-8", "replace")
        at += 12 + length
        is_bigendian = body[at]
        at += 1 + -(at + 1) % 4
        step, length = struct.unpack_from(f"{order}II", body, at)
    except (struct.error, IndexError) as error:
        raise ImageError(f"image of {len(data)} bytes ends early") from error
    pixels = body[at + 8 : at + 8 + length]
    if len(pixels) < length:
        raise ImageError(f"image of {len(data)} bytes ends early, its data alone has {length}")
    return SimpleNamespace(
        height=height, width=width, encoding=encoding, is_bigendian=is_bigendian, step=step, data=pixels
    )


class PolicyInputs:
    """Everything that an observation is made of, the instruction included; and the commands of the follower.

    A robot sends its pose up to a thousand times a second: `drain` takes in what has come, so that an observation
    need not wait for it. To be used from one thread, but for `info` and `frames`.
    """

    def __init__(
        self,
        node: Node,
        cameras: Sequence[str],
        settings: PolicyParameters,
        on_instruction: Callable[[str], None],
        joints: Sequence[str] = (),
    ):
        """on_instruction: called with the words of each message. joints: those that observations hold.

        Raises ValueError for unfit parameters.
        """
        topics = image_topics(settings.camera_topics, cameras)
        check_names(topics.values())
        self._buffer = ObservationBuffer.of(settings, cameras, joints)
        self._logger, self._node = node.get_logger(), node
        self.cameras, self.frames = self._buffer.cameras, self._buffer.frames
        self._infos: dict[str, CameraInfo] = {}
        self.transport = Window(IMAGES)  # from the stamp of each image to its reception [s]
        self._inboxes: dict[str, Inbox | PoseInbox] = {
            POSE: PoseInbox(node, settings, qos.MEASURED_HISTORY),
            JOINTS: Inbox(node, JointState, JOINTS, qos.MEASURED_HISTORY),
            TARGET: Inbox(node, PoseStamped, TARGET, qos.MEASURED_HISTORY),
        }
        for name, topic in topics.items():
            message_type = CompressedImage if topic.endswith(COMPRESSED) else Image
            self._inboxes[IMAGE + name] = Inbox(node, message_type, topic, qos.IMAGES, raw=True)
        self._info_inboxes = {
            name: Inbox(node, CameraInfo, info_topic(topic), qos.NEWEST) for name, topic in topics.items()
        }
        self._on_instruction = on_instruction
        self._instructions = node.create_subscription(String, "instruction", self._hear, qos.LATCHED)
        self._waiting: list[tuple[int, str, object]] = []  # received while the topics before them were being drained
        self._conflict = ""  # why the instruction is not to be trusted
        self._unmatched: tuple[str, ...] = ()

    def observe(self, instruction: str, now_ns: int) -> Observation:
        """The observation at `now_ns`, as ObservationBuffer's. Raises NotReady, which names publishers at fault."""
        if self._conflict:
            raise NotReady([self._conflict])
        try:
            return self._buffer.observe(instruction, now_ns)
        except NotReady as error:
            poses = self._inboxes[POSE]
            unheard = [poses.fault] if isinstance(poses, PoseInbox) and poses.fault else []
            raise NotReady([*error.reasons, *self._unmatched, *unheard]) from error

    def followed(self) -> bool:
        """Whether somebody commands the arm."""
        return self._node.count_publishers(self._inboxes[TARGET].topic) > 0

    def info(self, name: str) -> CameraInfo | None:
        """The newest of a camera; None before the first. Not read with the observation: no action waits for it."""
        message = self._info_inboxes[name].newest()
        if message is not None:
            try:
                check_camera_info(message)
            except ValueError as error:
                self._logger.warning(f"ignored: camera_info of {name!r}: {error}", throttle_duration_sec=5.0)
            else:
                self._infos[name] = message
        return self._infos.get(name)

    def drain(self) -> list[PoseStamped]:
        """Take in what has come. Returns the follower's commands, oldest first."""
        until_ns, self._waiting = time.time_ns(), [*self._waiting, *self._received()]
        ready = [entry for entry in self._waiting if not 0 < entry[0] - until_ns < STEPPED_NS]
        self._waiting = [entry for entry in self._waiting if 0 < entry[0] - until_ns < STEPPED_NS]
        commands = []
        for received_ns, role, message in sorted(ready, key=lambda entry: entry[0]):
            if role == TARGET:
                commands.append(message)
                continue
            refused = self._buffer.add(role, message, received_ns)
            if refused:
                self._logger.warning(f"ignored: {refused}", throttle_duration_sec=5.0)
        return commands

    def _received(self) -> list[tuple[int, str, object]]:
        """Time of reception, role and message of all that waits, topic by topic."""
        found = []
        for role, inbox in self._inboxes.items():
            for message, received_ns in inbox.take_received():
                if role.startswith(IMAGE):
                    try:
                        message = SerializedImage(inbox.message_type, message)
                    except ValueError as error:
                        self._logger.warning(f"ignored: {inbox.topic}: {error}", throttle_duration_sec=5.0)
                        continue
                    self.transport.add((received_ns - conversions.to_ns(message.header.stamp)) / NANOSECONDS)
                found.append((received_ns, role, message))
        return found

    def _hear(self, message: String) -> None:
        self.check_instruction()
        self._on_instruction(message.data)

    def check_instruction(self) -> None:
        """Two nodes that publish instructions contradict each other sooner or later: nothing is done meanwhile."""
        speakers = graph.publishing_nodes(self._node, self._instructions.topic_name)
        conflict = len(speakers) > 1
        said = f"instruction: published by {len(speakers)} nodes, expected one: {', '.join(speakers)}"
        self._conflict = said if conflict else ""

    def check_publishers(self) -> None:
        """Look for publishers that cannot be heard, and subscribe to the type of image that is published."""
        self.check_instruction()
        for role in [role for role in self._inboxes if role.startswith(IMAGE)]:
            self._follow_type(role)
        heard = [
            graph.Heard(inbox.topic, graph.kind_of(inbox.message_type), inbox.qos, many=role in (JOINTS, TARGET))
            for role, inbox in self._inboxes.items()
        ]
        heard.append(graph.Heard(self._instructions.topic_name, graph.kind_of(String), qos.LATCHED, many=True))
        self._unmatched = tuple(graph.faults(self._node, heard))

    def _follow_type(self, role: str) -> None:
        """A topic may carry Image or CompressedImage, whatever its name promises."""
        inbox = self._inboxes[role]
        kinds = graph.published_kinds(self._node, inbox.topic)
        other = Image if inbox.message_type is CompressedImage else CompressedImage
        if graph.kind_of(inbox.message_type) not in kinds and graph.kind_of(other) in kinds:
            self._logger.info(f"{inbox.topic} carries {graph.kind_of(other)}: subscribing to that")
            topic = inbox.topic
            inbox.destroy()
            self._inboxes[role] = Inbox(self._node, other, topic, qos.IMAGES, raw=True)

    def destroy(self) -> None:
        """Unsubscribe from everything."""
        for inbox in (*self._inboxes.values(), *self._info_inboxes.values()):
            inbox.destroy()
        self._node.destroy_subscription(self._instructions)
