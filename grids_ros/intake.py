"""From the messages of the policy's input topics to observations: one piece, for the node and for replay.

The node takes the messages from DDS and replay from a bag; what happens to them afterwards happens here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from grids_ros.datatypes import Observation
from grids_ros.messages import to_ns, to_opening, to_pose
from grids_ros.observation import AgeLimits, NotReady, ObservationBuffer
from grids_ros.parameters import ParameterError

COMPRESSED = "/compressed"
HISTORY = 1000  # messages of a stream that wait between two observations, the newest ones: a second of 1 kHz poses


def per_camera(name: str, values: Sequence, cameras: Sequence[str]) -> dict[str, object]:
    """Camera name to its value: one value serves all, else one each. Raises ParameterError for another number."""
    if len(values) == 1:
        values = tuple(values) * len(cameras)
    if len(values) != len(cameras):
        raise ParameterError(
            f"parameter '{name}' has {len(values)} entries, expected one, or one per camera of the checkpoint: "
            f"{', '.join(cameras)}"
        )
    return dict(zip(cameras, values, strict=True))


def image_topics(patterns: Sequence[str], cameras: Sequence[str]) -> dict[str, str]:
    """Camera name to image topic. Raises ParameterError when two cameras would share one."""
    by_camera = per_camera("camera_topics", patterns, cameras)
    topics = {name: pattern.replace("{name}", name) for name, pattern in by_camera.items()}
    if len(set(topics.values())) != len(topics) or not all(topics.values()):
        raise ParameterError(f"parameter 'camera_topics' gives {topics}, expected a topic of its own for each camera")
    return topics


def info_topic(image_topic: str) -> str:
    """Where the camera of this image topic publishes its CameraInfo."""
    raw = image_topic[: -len(COMPRESSED)] if image_topic.endswith(COMPRESSED) else image_topic
    namespace, slash, _ = raw.rpartition("/")
    return f"{namespace}{slash}camera_info"


class Intake:
    """Everything that an observation is made of, out of messages. To be used from one thread at a time."""

    def __init__(self, cameras: Sequence[str], settings: Mapping[str, object]):
        """settings: the policy node's parameters. Raises ParameterError when they do not fit the cameras."""
        limits = AgeLimits(
            cameras=per_camera("camera_max_age_s", settings["camera_max_age_s"], cameras),
            pose=settings["pose_max_age_s"],
            gripper=settings["gripper_max_age_s"],
            future=settings["max_future_s"],
        )
        self._base, self._fingers = settings["base_frame"], settings["finger_joints"]
        self._buffer = ObservationBuffer(cameras, limits)
        self._faults: dict[str, str] = {}
        self.frames = dict.fromkeys(cameras, "")

    def take(self, images: Mapping[str, object], poses: Iterable, joints: Iterable) -> list[str]:
        """What has come since the last call: each camera's newest image, and every pose and joint state in order.

        Returns what was refused, and why.
        """
        for name, message in images.items():
            self._buffer.add_image(name, to_ns(message.header.stamp), message)
            self.frames[name] = message.header.frame_id
        refused = [self._keep("current_pose", message, self._add_pose) for message in poses]
        refused += [self._keep("joint_states", message, self._add_joints) for message in joints]
        return [fault for fault in refused if fault]

    def observe(self, instruction: str, now_ns: int) -> Observation:
        """The Observation at `now_ns`. Raises NotReady with every reason, refused messages included."""
        self._buffer.instruction = instruction
        try:
            return self._buffer.observe(now_ns)
        except NotReady as error:
            faults = (f"refused: {fault}" for fault in self._faults.values() if fault)
            raise NotReady((*error.reasons, *faults)) from error

    def _keep(self, name: str, message, add) -> str:
        self._faults[name] = ""
        try:
            add(to_ns(message.header.stamp), message)
        except ValueError as error:
            self._faults[name] = str(error)
        return self._faults[name]

    def _add_pose(self, stamp_ns: int, message) -> None:
        self._buffer.add_pose(stamp_ns, to_pose(message, self._base, "current_pose"))

    def _add_joints(self, stamp_ns: int, message) -> None:
        opening = to_opening(message, self._fingers)
        if opening is not None:
            self._buffer.add_gripper(stamp_ns, opening)
