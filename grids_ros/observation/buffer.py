"""From asynchronous streams to one Observation, or the reasons why there is none.

The buffer takes messages in order of arrival and is asked at an instant. The robot, replay and training use it alike,
so the same recording gives the same observations everywhere.

Which messages belong together (the alignment rule):

- The stamp of an observation is that of the newest image of the camera that lags behind the others.
- Every other camera contributes the image nearest to that stamp, before or after it, among those that have arrived.
- The pose is interpolated between the measured poses around that stamp. So is the gripper opening; where no later one
  is known, the last one is taken.
- An observation is made when every camera, the pose and the gripper have reached its stamp, and then stays as it is.
  Whoever asks later gets the same one, until the next is complete. A slow gripper is waited for no longer than
  `GRIPPER_WAIT_NS`.

An age is known to the policy's consumer, because a chunk counts from its observation's stamp. A skew between images,
or between image and pose, is known to nobody. So the rule keeps the skew small, at half a period of the faster camera,
and accepts the age of the slower one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from grids_ros.control.trajectory import Trajectory
from grids_ros.datatypes import NANOSECONDS, Observation, Pose
from grids_ros.observation.images import ImageError, to_rgb
from grids_ros.observation.messages import to_joints, to_ns, to_opening, to_pose
from grids_ros.observation.topics import per_camera
from grids_ros.parameters import PolicyParameters

HISTORY_NS = 2 * NANOSECONDS  # how far back poses and openings are kept; a stream that goes back by more starts anew
GRIPPER_WAIT_NS = NANOSECONDS // 20  # how far the openings may lag behind the poses before nothing waits for them
MAX_IMAGES = 64  # of each camera, undecoded, that wait for the other cameras
IMAGE, POSE, JOINTS = "image:", "current_pose", "joint_states"  # roles: IMAGE is followed by the camera's name


class NotReady(Exception):
    """There is no observation now; `reasons` names every stream at fault and what is wrong with it."""

    def __init__(self, reasons: Sequence[str]):
        super().__init__("; ".join(reasons))
        self.reasons = tuple(reasons)


@dataclass(frozen=True)
class AgeLimits:
    """How old the newest message of each stream may be, and how far a stamp may lie in the future [s].

    cameras: camera name to limit. Raises ValueError for a limit that is not positive.
    """

    cameras: Mapping[str, float]
    pose: float = 0.1
    gripper: float = 0.5
    future: float = 0.05

    def __post_init__(self):
        limits = {"pose": self.pose, "gripper": self.gripper, "future": self.future}
        limits.update({f"camera {name!r}": limit for name, limit in self.cameras.items()})
        for name, limit in limits.items():
            if not limit > 0.0:
                raise ValueError(f"age limit of {name} is {limit} s, expected more than 0")

    @classmethod
    def of(cls, parameters: PolicyParameters, cameras: Sequence[str]) -> AgeLimits:
        """From the policy node's parameters. Raises ParameterError when they do not fit the cameras."""
        return cls(
            cameras=per_camera("camera_max_age_s", parameters.camera_max_age_s, cameras),
            pose=parameters.pose_max_age_s,
            gripper=parameters.gripper_max_age_s,
            future=parameters.max_future_s,
        )


@dataclass(frozen=True, eq=False)
class Snapshot:
    """Messages that belong together, images still undecoded.

    stamp_ns: see the module. images: camera to (stamp [ns], message). pose: of the tool at the stamp. gripper: opening
    at the stamp [m]. joints: joint name to position at the stamp [rad or m], of those that the buffer keeps.
    """

    stamp_ns: int
    images: Mapping[str, tuple[int, object]]
    pose: Pose
    gripper: float
    joints: Mapping[str, float] = field(default_factory=dict)

    @property
    def image_stamps_ns(self) -> dict[str, int]:
        """Camera to the stamp of its image [ns]."""
        return {name: stamp_ns for name, (stamp_ns, _) in self.images.items()}


class ObservationBuffer:
    """Short histories of every input stream, and the newest `snapshot` of what belongs together.

    Stamps are those of the messages, in nanoseconds of the clock that `observe` is given. A message whose stamp is not
    newer than the last one of its stream is ignored, so a camera that repeats a stamp grows old. A stream that jumps
    back by more than its history (a restarted simulation, a looped bag) starts anew. One thread at a time.
    """

    def __init__(
        self,
        cameras: Sequence[str],
        limits: AgeLimits,
        base_frame: str = "base",
        finger_joints: Sequence[str] = ("fr3_finger_joint1", "fr3_finger_joint2"),
        joints: Sequence[str] = (),
    ):
        """base_frame: of every pose. finger_joints: whose positions add up to the opening [m]. joints: those that
        observations hold, for a policy of joints.

        Raises ValueError when a camera has no age limit.
        """
        missing = set(cameras) - set(limits.cameras)
        if missing:
            raise ValueError(f"no age limit for cameras {sorted(missing)}; limits name {sorted(limits.cameras)}")
        self.cameras = tuple(cameras)
        self.limits = limits
        self.frames = dict.fromkeys(self.cameras, "")
        self.snapshot: Snapshot | None = None
        self._base_frame, self._finger_joints = base_frame, tuple(finger_joints)
        self._images: dict[str, deque[tuple[int, object]]] = {name: deque() for name in self.cameras}
        self._poses: deque[tuple[int, Pose]] = deque()
        self._openings: deque[tuple[int, float]] = deque()
        self._joints: dict[str, deque[tuple[int, float]]] = {name: deque() for name in joints}
        self._refused: dict[str, str] = {}
        self._arrival_ns: int | None = None  # of the messages that have not been aligned yet
        self._aligned_ns: int | None = None  # up to which stamp messages have been aligned
        self._apart = ""  # why what has come since then does not belong together
        self._decoded: tuple[Snapshot, Mapping[str, np.ndarray]] | None = None

    @classmethod
    def of(cls, parameters: PolicyParameters, cameras: Sequence[str], joints: Sequence[str] = ()) -> ObservationBuffer:
        """From the policy node's parameters. Raises ParameterError when they do not fit the cameras."""
        limits = AgeLimits.of(parameters, cameras)
        return cls(cameras, limits, parameters.base_frame, parameters.finger_joints, joints)

    def add(self, role: str, message, arrival_ns: int) -> str:
        """Take one message, in order of arrival. Returns why it is refused, or "".

        role: "current_pose", "joint_states", or "image:" and the camera's name; KeyError for another camera.
        message: read by attribute, rclpy's or rosbags'. arrival_ns: when it was received. Messages of one arrival time
        count together, whatever their order.
        """
        self._refused[role] = ""
        try:
            stamp_ns = to_ns(message.header.stamp)
            if stamp_ns == 0:
                raise ValueError(f"{role.removeprefix(IMAGE)} has a stamp of zero: its publisher leaves it empty")
            if role == POSE:
                self.add_pose(to_pose(message, self._base_frame, POSE), stamp_ns, arrival_ns)
            elif role == JOINTS:
                self.add_joints(to_joints(message, self._joints), stamp_ns, arrival_ns)
                opening = to_opening(message, self._finger_joints)
                if opening is not None:
                    self.add_opening(opening, stamp_ns, arrival_ns)
            else:
                self.add_image(role.removeprefix(IMAGE), message, stamp_ns, arrival_ns)
                self.frames[role.removeprefix(IMAGE)] = message.header.frame_id
        except ValueError as error:
            self._refused[role] = str(error)
        return self._refused[role]

    def add_pose(self, pose: Pose, stamp_ns: int, arrival_ns: int) -> None:
        """Take a measured pose of the tool in the base frame, in order of arrival."""
        self._advance(arrival_ns)
        _append(self._poses, stamp_ns, pose)

    def add_opening(self, opening: float, stamp_ns: int, arrival_ns: int) -> None:
        """Take a measured gripper opening [m], in order of arrival."""
        self._advance(arrival_ns)
        _append(self._openings, stamp_ns, opening)

    def add_joints(self, positions: Mapping[str, float], stamp_ns: int, arrival_ns: int) -> None:
        """Take measured positions [rad or m] of joints that the buffer keeps, in order of arrival."""
        if positions:
            self._advance(arrival_ns)
        for name, position in positions.items():
            _append(self._joints[name], stamp_ns, position)

    def add_image(self, name: str, message, stamp_ns: int, arrival_ns: int) -> None:
        """Take an image, in order of arrival. It is decoded when an observation needs it.

        message: sensor_msgs Image or CompressedImage, read by attribute. KeyError for an unknown camera.
        """
        if name not in self._images:
            raise KeyError(f"camera {name!r} is not one of {self.cameras}")
        self._advance(arrival_ns)
        history = self._images[name]
        if history and not _advances(stamp_ns, history[-1][0]):
            return
        if history and stamp_ns < history[-1][0]:
            history.clear()
        history.append((stamp_ns, message))
        if len(history) > MAX_IMAGES:
            history.popleft()

    def _advance(self, arrival_ns: int) -> None:
        """Align what has arrived before `arrival_ns`."""
        if self._arrival_ns not in (None, arrival_ns):
            self.align()
        self._arrival_ns = arrival_ns

    def align(self) -> Snapshot | None:
        """Make a new snapshot of everything that has arrived, if one is complete; the newest there is."""
        self._arrival_ns, self._apart = None, ""
        stamp_ns = self._complete_until()
        if stamp_ns is None or (self._aligned_ns is not None and not _advances(stamp_ns, self._aligned_ns)):
            return self.snapshot
        images = {name: _nearest(history, stamp_ns) for name, history in self._images.items()}
        self._apart = self._too_far_apart(stamp_ns, images)
        if self._apart:
            return self.snapshot
        self._aligned_ns = stamp_ns
        for history in self._images.values():
            while len(history) > 1 and history[1][0] <= stamp_ns:
                history.popleft()
        if self.snapshot and self.snapshot.image_stamps_ns == {name: stamp for name, (stamp, _) in images.items()}:
            return self.snapshot
        joints = {name: _opening_at(history, stamp_ns) for name, history in self._joints.items() if history}
        self.snapshot = Snapshot(
            stamp_ns, images, _pose_at(self._poses, stamp_ns), _opening_at(self._openings, stamp_ns), joints
        )
        return self.snapshot

    def _complete_until(self) -> int | None:
        """The newest stamp of the lagging camera that pose and gripper have reached [ns]; None before there is one."""
        if not self._poses or not self._openings:
            return None
        pose_ns, opening_ns = self._poses[-1][0], self._openings[-1][0]
        reached_ns, newest = min(pose_ns, max(opening_ns, pose_ns - GRIPPER_WAIT_NS)), []
        for history in self._images.values():
            stamp_ns = next((stamp_ns for stamp_ns, _ in reversed(history) if stamp_ns <= reached_ns), None)
            if stamp_ns is None:
                return None
            newest.append(stamp_ns)
        return min(newest)

    def _too_far_apart(self, stamp_ns: int, images: Mapping[str, tuple[int, object]]) -> str:
        """Which stream has nothing near enough to `stamp_ns`, or ""."""
        nearest_ns, _ = _nearest(self._poses, stamp_ns)
        apart = [(POSE, nearest_ns, self.limits.pose)]
        longest = max(self.limits.cameras[name] for name in self.cameras)
        apart += [(f"camera {name!r}", image_ns, longest) for name, (image_ns, _) in images.items()]
        apart.append(("gripper", _nearest(self._openings, stamp_ns)[0], self.limits.gripper))
        for name, other_ns, limit in apart:
            seconds = abs(other_ns - stamp_ns) / NANOSECONDS
            if seconds > limit:
                return f"{name}: nearest to the images is {seconds:.3f} s off, limit {limit:g} s"
        return ""

    def observe(self, instruction: str, now_ns: int) -> Observation:
        """The observation at `now_ns`. Raises NotReady with every reason, refused messages included."""
        snapshot = self.check(instruction, now_ns)
        images, stamps = self._decode(snapshot), snapshot.image_stamps_ns
        return Observation(
            snapshot.stamp_ns, images, snapshot.pose, snapshot.gripper, instruction, stamps, snapshot.joints
        )

    def check(self, instruction: str, now_ns: int) -> Snapshot:
        """The snapshot that the observation at `now_ns` would be made of. Raises NotReady, but for damaged images."""
        self.align()
        reasons = [] if instruction else ["no instruction"]
        reasons += self._stale(now_ns)
        if not reasons:
            reasons += self._unaligned(now_ns)
        if reasons:
            raise NotReady((*reasons, *(f"refused: {fault}" for fault in self._refused.values() if fault)))
        assert self.snapshot is not None  # or `_unaligned` had said so
        return self.snapshot

    def _unaligned(self, now_ns: int) -> list[str]:
        """Why streams that are all alive give no observation."""
        snapshot, longest = self.snapshot, max(self.limits.cameras.values())
        if self._apart:
            return [self._apart]
        if snapshot is None:
            return [f"{POSE}, gripper: older than every image"]
        age_s = (now_ns - snapshot.stamp_ns) / NANOSECONDS
        if age_s > longest:
            return [f"images: the newest that belong together are {age_s:.3f} s old, limit {longest:g} s"]
        return []

    def _stale(self, now_ns: int) -> list[str]:
        """Every stream from which nothing has come, or whose newest message is too old or in the future."""
        streams: list[tuple[str, Sequence, float, str]] = [
            (f"camera {name!r}", self._images[name], self.limits.cameras[name], "no image yet") for name in self.cameras
        ]
        streams.append((POSE, self._poses, self.limits.pose, "nothing received yet"))
        streams.append(("gripper", self._openings, self.limits.gripper, "nothing received yet"))
        absent = "joint_states does not have it"
        streams += [(f"joint {name}", history, self.limits.pose, absent) for name, history in self._joints.items()]
        reasons = []
        for name, history, limit, missing in streams:
            fault = self._age_fault(history[-1][0], now_ns, limit) if history else missing
            reasons += [f"{name}: {fault}"] if fault else []
        return reasons

    def _age_fault(self, stamp_ns: int, now_ns: int, limit: float) -> str:
        age = (now_ns - stamp_ns) / NANOSECONDS
        if age > limit:
            return f"{age:.3f} s old, limit {limit:g} s"
        if -age > self.limits.future:
            return f"stamped {-age:.3f} s in the future, limit {self.limits.future:g} s"
        return ""

    def _decode(self, snapshot: Snapshot) -> Mapping[str, np.ndarray]:
        """The images of a snapshot, decoded once. Raises NotReady."""
        if self._decoded is None or self._decoded[0] is not snapshot:
            images, reasons = {}, []
            for name, (_, message) in snapshot.images.items():
                try:
                    images[name] = to_rgb(message)
                except ImageError as error:
                    reasons.append(f"camera {name!r}: {error}")
            if reasons:
                raise NotReady(reasons)
            self._decoded = snapshot, images
        return self._decoded[1]


def _advances(stamp_ns: int, last_ns: int) -> bool:
    return stamp_ns > last_ns or stamp_ns < last_ns - HISTORY_NS


def _append(history: deque, stamp_ns: int, value) -> None:
    if history and not _advances(stamp_ns, history[-1][0]):
        return
    if history and stamp_ns < history[-1][0]:
        history.clear()
    history.append((stamp_ns, value))
    while history[0][0] < stamp_ns - HISTORY_NS:
        history.popleft()


def _around(history: deque, stamp_ns: int) -> tuple[tuple | None, tuple | None]:
    """The last entry stamped at or before `stamp_ns`, and the first after it."""
    after = None
    for entry in reversed(history):
        if entry[0] <= stamp_ns:
            return entry, after
        after = entry
    return None, after


def _nearest(history: deque, stamp_ns: int) -> tuple:
    """The entry whose stamp is nearest; the earlier of two that are equally near."""
    before, after = _around(history, stamp_ns)
    if before is None or after is None:
        return history[0] if before is None else before
    return before if stamp_ns - before[0] <= after[0] - stamp_ns else after


def _pose_at(history: deque, stamp_ns: int) -> Pose:
    """Linear in position, slerp in rotation; the nearest outside of the history."""
    before, after = _around(history, stamp_ns)
    if before is None or after is None or before[0] == stamp_ns:
        return _nearest(history, stamp_ns)[1]
    stamps_ns, poses = np.array([before[0], after[0]]), (before[1], after[1])
    positions, quaternions = (np.stack([getattr(pose, name) for pose in poses]) for name in ("position", "quaternion"))
    return Trajectory.of_stamps(stamps_ns, positions, quaternions).pose_at(stamp_ns)


def _opening_at(history: deque, stamp_ns: int) -> float:
    """The opening at `stamp_ns` [m], linear; the nearest outside of the history."""
    before, after = _around(history, stamp_ns)
    if before is None or after is None or before[0] == stamp_ns:
        return _nearest(history, stamp_ns)[1]
    return float(np.interp(stamp_ns - before[0], (0, after[0] - before[0]), (before[1], after[1])))
