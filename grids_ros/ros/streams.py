"""The policy's inputs over DDS: subscriptions to an ObservationBuffer, drained by whoever infers."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence

from geometry_msgs.msg import PoseStamped
from rclpy.node import Node
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, JointState

from grids_ros.observation import AgeLimits, NotReady, ObservationBuffer
from grids_ros.ros import conversions, qos
from grids_ros.ros.polling import Inbox

COMPRESSED = "/compressed"


def per_camera(name: str, values: Sequence, cameras: Sequence[str]) -> dict[str, object]:
    """Camera name to its value: one value serves all, else one each. Raises ValueError for another number."""
    if len(values) == 1:
        values = tuple(values) * len(cameras)
    if len(values) != len(cameras):
        raise ValueError(
            f"parameter '{name}' has {len(values)} entries, expected one, or one per camera of the checkpoint: "
            f"{', '.join(cameras)}"
        )
    return dict(zip(cameras, values, strict=True))


def image_topics(patterns: Sequence[str], cameras: Sequence[str]) -> dict[str, str]:
    """Camera name to image topic. Raises ValueError when two cameras would share one."""
    by_camera = per_camera("camera_topics", patterns, cameras)
    topics = {name: pattern.replace("{name}", name) for name, pattern in by_camera.items()}
    if len(set(topics.values())) != len(topics) or not all(topics.values()):
        raise ValueError(f"parameter 'camera_topics' gives {topics}, expected a topic of its own for each camera")
    return topics


def info_topic(image_topic: str) -> str:
    """Where the camera of this image topic publishes its CameraInfo."""
    raw = image_topic[: -len(COMPRESSED)] if image_topic.endswith(COMPRESSED) else image_topic
    namespace, slash, _ = raw.rpartition("/")
    return f"{namespace}{slash}camera_info"


class Streams:
    """Everything that an observation is made of, except the instruction.

    A robot sends its pose up to a thousand times a second: `keep_up` takes in what has come, so that an observation
    need not wait for it. It may be called from another thread than `observe`.
    """

    def __init__(self, node: Node, cameras: Sequence[str], settings: Mapping[str, object]):
        """Raises ValueError for parameters that do not fit the cameras."""
        limits = AgeLimits(
            cameras=per_camera("camera_max_age_s", settings["camera_max_age_s"], cameras),
            pose=settings["pose_max_age_s"],
            gripper=settings["gripper_max_age_s"],
            future=settings["max_future_s"],
        )
        topics = image_topics(settings["camera_topics"], cameras)
        self._lock = threading.Lock()
        self._logger = node.get_logger()
        self._base, self._fingers = settings["base_frame"], settings["finger_joints"]
        self._buffer = ObservationBuffer(cameras, limits)
        self._faults: dict[str, str] = {}
        self.frames = dict.fromkeys(cameras, "")
        self.infos: dict[str, CameraInfo] = {}
        self._pose = Inbox(node, PoseStamped, "current_pose", qos.MEASURED_HISTORY)
        self._joints = Inbox(node, JointState, "joint_states", qos.MEASURED_HISTORY)
        self._images, self._info_inboxes = {}, {}
        for name, topic in topics.items():
            message_type = CompressedImage if topic.endswith(COMPRESSED) else Image
            self._images[name] = Inbox(node, message_type, topic, qos.NEWEST)
            self._info_inboxes[name] = Inbox(node, CameraInfo, info_topic(topic), qos.NEWEST)

    def observe(self, instruction: str, now_ns: int):
        """The Observation at `now_ns`. Raises NotReady with every reason, refused messages included."""
        self.keep_up()
        with self._lock:
            self._take_images()
            self._buffer.instruction = instruction
            try:
                return self._buffer.observe(now_ns)
            except NotReady as error:
                faults = (f"refused: {fault}" for fault in self._faults.values() if fault)
                raise NotReady((*error.reasons, *faults)) from error

    def keep_up(self) -> None:
        """Take in the measured poses and joints that have come."""
        with self._lock:
            for message in self._pose.take():
                self._keep("current_pose", message, self._add_pose)
            for message in self._joints.take():
                self._keep("joint_states", message, self._add_joints)

    def _take_images(self) -> None:
        for name, inbox in self._images.items():
            message = inbox.newest()
            if message is not None:
                self._buffer.add_image(name, conversions.to_ns(message.header.stamp), message)
                self.frames[name] = message.header.frame_id
        for name, inbox in self._info_inboxes.items():
            self.infos[name] = inbox.newest() or self.infos.get(name)

    def _keep(self, name: str, message, add) -> None:
        try:
            add(conversions.to_ns(message.header.stamp), message)
        except ValueError as error:
            self._logger.warning(f"ignored: {error}", throttle_duration_sec=5.0)
            self._faults[name] = str(error)
        else:
            self._faults[name] = ""

    def _add_pose(self, stamp_ns: int, message: PoseStamped) -> None:
        self._buffer.add_pose(stamp_ns, conversions.to_pose(message, self._base, "current_pose"))

    def _add_joints(self, stamp_ns: int, message: JointState) -> None:
        opening = conversions.to_opening(message, self._fingers)
        if opening is not None:
            self._buffer.add_gripper(stamp_ns, opening)

    def destroy(self) -> None:
        """Unsubscribe from everything."""
        for inbox in (self._pose, self._joints, *self._images.values(), *self._info_inboxes.values()):
            inbox.destroy()
