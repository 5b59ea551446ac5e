"""Measured poses by way of TF: in another frame than the base's, or from TF alone.

Where tf2_msgs is not installed, there is no TF: `pose_source: tf` is refused, and so are poses in another frame.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Sequence
from typing import Any

from geometry_msgs.msg import PoseStamped
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.serialization import deserialize_message

from grids_ros.datatypes import Pose
from grids_ros.observation.messages import to_ns, to_pose
from grids_ros.observation.transforms import MAX_FRAMES, TransformBuffer, TransformError, compose
from grids_ros.parameters import FollowerParameters, PolicyParameters
from grids_ros.ros import conversions
from grids_ros.ros.polling import Inbox

try:
    from tf2_msgs.msg import TFMessage
except ImportError:  # it comes with a ROS 2 installation, not with the wheels
    TFMessage = None

_PENDING = 100
MAX_TRANSFORMS = 500  # of a message, and of those that the control loop takes between two ticks
MAX_BYTES = 512 * MAX_TRANSFORMS  # of a message: a transform takes 100, and its frames' names
TOLD_S = 5.0  # how long a reason is told after its message
TF = QoSProfile(depth=_PENDING)
TF_STATIC = QoSProfile(depth=_PENDING, durability=DurabilityPolicy.TRANSIENT_LOCAL)
TF_TYPE, POSE_TYPE = "tf2_msgs/msg/TFMessage", "geometry_msgs/msg/PoseStamped"


def count_transforms(data: bytes) -> int:
    """The number of transforms in a TFMessage, read without decoding it. Raises ValueError for too many of them."""
    if len(data) > MAX_BYTES:
        raise ValueError(f"has {len(data)} bytes, at most {MAX_BYTES} are taken")
    if len(data) < 8:
        raise ValueError(f"has {len(data)} bytes, expected a TFMessage")
    (count,) = struct.unpack_from("<I" if data[1] & 1 else ">I", data, 4)
    if count > MAX_TRANSFORMS:
        raise ValueError(f"has {count} transforms, at most {MAX_TRANSFORMS} are taken")
    return count


def _within(messages: Sequence[tuple[int, bytes]], most: int) -> Sequence[tuple[int, bytes]]:
    """The first ones of these that hold at most so many transforms together. The number of each stands before it."""
    total = 0
    for index, (count, _) in enumerate(messages):
        total += count
        if total > most:
            return messages[:index]
    return messages


class TransformListener:
    """What /tf and /tf_static say. Costs nothing until `update` is called."""

    def __init__(self, node: Node, most: int = MAX_TRANSFORMS):
        """most: transforms that one `update` takes. Raises ValueError where tf2_msgs is not installed."""
        if TFMessage is None:
            raise ValueError("package tf2_msgs is not installed: install it, or set pose_source to topic")
        self.buffer, self._most = TransformBuffer(), most
        self._moving = Inbox(node, TFMessage, "/tf", TF, raw=True)
        self._static = Inbox(node, TFMessage, "/tf_static", TF_STATIC, raw=True)
        self.topic = self._moving.topic
        self._waiting: list[tuple[int, bytes]] = []  # static ones, with their numbers of transforms
        self._fault, self._told_s = "", 0.0

    @property
    def fault(self) -> str:
        """What was not taken lately, and why; else empty."""
        return self._fault if time.monotonic() - self._told_s < TOLD_S else ""

    def update(self) -> TransformBuffer:
        """The buffer, with what has come. Transforms that are no poses are passed over."""
        dropped = self.buffer.dropped
        for data in self._next_static():
            self._add(data, static=True)
        for data in self._newest_moving():
            self._add(data, static=False)
        if self.buffer.dropped > dropped:
            self._tell(f"more than {MAX_FRAMES} frames: those heard of least recently are dropped")
        return self.buffer

    def _next_static(self) -> list[bytes]:
        """The first messages that hold as many as are taken; the others wait, for each is said once."""
        self._waiting += self._counted(self._static)
        taken = _within(self._waiting, self._most)
        self._waiting = self._waiting[len(taken) :][:_PENDING]
        return [data for _, data in taken]

    def _newest_moving(self) -> list[bytes]:
        """The newest messages that hold as many as are taken, oldest first."""
        waiting = self._counted(self._moving)
        taken = _within(waiting[::-1], self._most)
        if len(taken) < len(waiting):
            self._tell(f"{self.topic}: more than {self._most} transforms at once: the oldest are dropped")
        return [data for _, data in reversed(taken)]

    def _counted(self, inbox: Inbox) -> list[tuple[int, bytes]]:
        """Number of transforms and bytes of each message that waits and is not too long."""
        found = []
        for data in inbox.take():
            try:
                found.append((count_transforms(data), data))
            except ValueError as error:
                self._tell(f"{inbox.topic}: {error}")
        return found

    def _add(self, data: bytes, static: bool) -> None:
        try:
            message = deserialize_message(data, TFMessage)
        except (ValueError, RuntimeError) as error:  # RMWError is a RuntimeError
            self._tell(f"{(self._static if static else self._moving).topic}: {error}")
            return
        for transform in message.transforms:
            self._add_one(transform, static)

    def _tell(self, fault: str) -> None:
        self._fault, self._told_s = f"TF: {fault}", time.monotonic()

    def _add_one(self, message, static: bool) -> None:
        t, q = message.transform.translation, message.transform.rotation
        try:
            pose = Pose((t.x, t.y, t.z), (q.x, q.y, q.z, q.w))
            self.buffer.add(message.header.frame_id, message.child_frame_id, to_ns(message.header.stamp), pose, static)
        except ValueError:
            return  # another node's transform, which this one may never need

    def destroy(self) -> None:
        self._moving.destroy()
        self._static.destroy()


class PoseInbox:
    """Poses of the tool in the base frame, as an Inbox of PoseStamped.

    `pose_source` is topic: those of current_pose; one in another frame is transformed where TF connects that frame
    with the base at its stamp, and handed on as it came where TF does not, to be refused by its reader.
    `pose_source` is tf: that of tool_frame in base_frame, once for each new stamp.
    """

    def __init__(self, node: Node, settings: PolicyParameters | FollowerParameters, profile: QoSProfile):
        """Raises ValueError for TF where tf2_msgs is not installed."""
        self._base, self._tool = settings.base_frame, settings.tool_frame
        from_tf = settings.pose_source == "tf"
        self._listener = TransformListener(node) if from_tf or TFMessage is not None else None
        self._poses = None if from_tf else Inbox(node, PoseStamped, "current_pose", profile)
        self._last_ns = -1
        named: Any = self._listener if from_tf else self._poses
        self.topic: str = named.topic
        self.message_type, self.qos = (TFMessage, TF) if from_tf else (PoseStamped, profile)
        self.type_name = TF_TYPE if from_tf else POSE_TYPE
        self.many = from_tf  # whether more than one publisher is fine

    @property
    def fault(self) -> str:
        """What of TF was not taken lately, and why; else empty."""
        return self._listener.fault if self._listener is not None else ""

    def take_received(self) -> list[tuple[PoseStamped, int]]:
        """What is new, oldest first, each with the time at which it was received [ns] by the system's clock."""
        if self._poses is None:
            return [(message, time.time_ns()) for message in self._from_tf()]
        return [(self._in_base(message), received_ns) for message, received_ns in self._poses.take_received()]

    def take(self) -> list[PoseStamped]:
        """The same without the times."""
        return [message for message, _ in self.take_received()]

    def newest(self):
        """The last message that is waiting, or None."""
        if self._poses is None:
            return next(iter(self._from_tf()), None)
        message = self._poses.newest()
        return None if message is None else self._in_base(message)

    def _from_tf(self) -> list:
        if self._listener is None:
            return []
        buffer = self._listener.update()
        try:
            stamp_ns = buffer.newest(self._base, self._tool)
            if stamp_ns == self._last_ns:
                return []
            pose = buffer.lookup(self._base, self._tool, stamp_ns)
            message = conversions.from_pose_stamped(pose, self._base, stamp_ns)
        except ValueError:  # not connected yet: the reader's age limit reports that nothing comes
            return []
        self._last_ns = stamp_ns
        return [message]

    def _in_base(self, message: PoseStamped) -> PoseStamped:
        frame = message.header.frame_id
        if frame == self._base or self._listener is None:
            return message
        stamp_ns = to_ns(message.header.stamp)
        try:
            outer = self._listener.update().lookup(self._base, frame, stamp_ns)
            pose = compose(outer, to_pose(message, frame, "current_pose"))
            return conversions.from_pose_stamped(pose, self._base, stamp_ns)
        except ValueError:
            return message

    def destroy(self) -> None:
        """Unsubscribe."""
        for inbox in (self._poses, self._listener):
            if inbox is not None:
                inbox.destroy()


def camera_pose(buffer: TransformBuffer, base: str, frame: str, stamp_ns: int) -> Pose | None:
    """Pose of a camera at a time, or its newest one; None where TF does not know it."""
    try:
        return buffer.lookup(base, frame, stamp_ns)
    except TransformError:
        pass
    try:
        return buffer.lookup(base, frame, buffer.newest(base, frame))
    except TransformError:
        return None
