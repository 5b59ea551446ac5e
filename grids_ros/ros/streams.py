"""The policy's inputs over DDS: subscriptions that are drained into an Intake by whoever infers."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence

from geometry_msgs.msg import PoseStamped
from rclpy.node import Node
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, JointState

from grids_ros.control.continuity import Standstill
from grids_ros.datatypes import Observation
from grids_ros.intake import COMPRESSED, Intake, image_topics, info_topic
from grids_ros.ros import qos
from grids_ros.ros.polling import Inbox


class Streams:
    """Everything that an observation is made of, except the instruction; and whether the follower moves the arm.

    A robot sends its pose up to a thousand times a second: `keep_up` takes in what has come, so that an observation
    need not wait for it. It may be called from another thread than `observe`.
    """

    def __init__(self, node: Node, cameras: Sequence[str], settings: Mapping[str, object]):
        """Raises ValueError for parameters that do not fit the cameras."""
        topics = image_topics(settings["camera_topics"], cameras)
        self._intake, self._lock = Intake(cameras, settings), threading.Lock()
        self._logger = node.get_logger()
        self.frames = self._intake.frames
        self._infos: dict[str, CameraInfo] = {}
        self._pose = Inbox(node, PoseStamped, "current_pose", qos.MEASURED_HISTORY)
        self._joints = Inbox(node, JointState, "joint_states", qos.MEASURED_HISTORY)
        self._targets = Inbox(node, PoseStamped, "target_pose", qos.MEASURED_HISTORY)
        self._commands, self._node = Standstill(), node
        self._images, self._info_inboxes = {}, {}
        for name, topic in topics.items():
            message_type = CompressedImage if topic.endswith(COMPRESSED) else Image
            self._images[name] = Inbox(node, message_type, topic, qos.NEWEST)
            self._info_inboxes[name] = Inbox(node, CameraInfo, info_topic(topic), qos.NEWEST)

    def observe(self, instruction: str, now_ns: int) -> Observation:
        """The Observation at `now_ns`, as Intake's."""
        newest = {name: inbox.newest() for name, inbox in self._images.items()}
        images = {name: message for name, message in newest.items() if message is not None}
        with self._lock:
            self._take(images)
            return self._intake.observe(instruction, now_ns)

    def held(self) -> bool:
        """Whether there is a follower, and it had not moved its command between the last two observations.

        To be asked once after each `observe`, which has taken in what came until then.
        """
        with self._lock:
            still = self._commands.since()
        return still and self._node.count_publishers(self._targets.topic) > 0

    def info(self, name: str) -> CameraInfo | None:
        """The newest of a camera; None before the first. Not read with the observation: no action waits for it."""
        self._infos[name] = self._info_inboxes[name].newest() or self._infos.get(name)
        return self._infos[name]

    def keep_up(self) -> None:
        """Take in the poses, the joints and the commands that have come."""
        with self._lock:
            self._take({})

    def _take(self, images: Mapping[str, object]) -> None:
        for fault in self._intake.take(images, self._pose.take(), self._joints.take()):
            self._logger.warning(f"ignored: {fault}", throttle_duration_sec=5.0)
        for message in self._targets.take():
            p, q = message.pose.position, message.pose.orientation
            self._commands.see((p.x, p.y, p.z), (q.x, q.y, q.z, q.w))

    def destroy(self) -> None:
        """Unsubscribe from everything."""
        for inbox in (self._pose, self._joints, self._targets, *self._images.values(), *self._info_inboxes.values()):
            inbox.destroy()
