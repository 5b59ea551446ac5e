"""From asynchronous streams to one Observation, or the reasons why there is none.

Each stream is gated by its own age: one live camera never masks a dead one, and nothing missing is filled in.
The newest message of each camera is kept undecoded, and decoded only when an observation is asked for.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from grids_ros.datatypes import NANOSECONDS, Observation, Pose
from grids_ros.images import ImageError, to_rgb

HISTORY_NS = 2 * NANOSECONDS  # how far back poses are kept for pairing with an image


class NotReady(Exception):
    """No observation can be made now; `reasons` names every stream at fault and what is wrong with it."""

    def __init__(self, reasons: Sequence[str]):
        super().__init__("; ".join(reasons))
        self.reasons = tuple(reasons)


@dataclass(frozen=True)
class AgeLimits:
    """How old each stream may be when it is used, and how far a stamp may lie in the future [s].

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


class ObservationBuffer:
    """The newest image of each camera, a short history of poses and gripper openings, and the instruction.

    Stamps are those of the messages, in nanoseconds of the clock that `observe` is asked with. A message whose
    stamp is not newer than the last one of its stream is ignored, so a camera that repeats a stamp grows old;
    a clock that jumps back by more than the history (a restarted simulation, a looped bag) starts afresh.
    """

    def __init__(self, cameras: Sequence[str], limits: AgeLimits):
        """Raises ValueError when a camera has no age limit."""
        missing = set(cameras) - set(limits.cameras)
        if missing:
            raise ValueError(f"no age limit for cameras {sorted(missing)}; limits name {sorted(limits.cameras)}")
        self.cameras = tuple(cameras)
        self.limits = limits
        self.instruction = ""
        self._images: dict[str, tuple[int, object]] = {}
        self._poses: deque[tuple[int, Pose]] = deque()
        self._grippers: deque[tuple[int, float]] = deque()

    def add_image(self, name: str, stamp_ns: int, message) -> None:
        """Keep a sensor_msgs Image or CompressedImage, undecoded. KeyError for a camera that is not configured."""
        if name not in self.cameras:
            raise KeyError(f"camera {name!r} is not one of {self.cameras}")
        last = self._images.get(name)
        if last is None or _advances(stamp_ns, last[0]):
            self._images[name] = (stamp_ns, message)

    def add_pose(self, stamp_ns: int, pose: Pose) -> None:
        """Keep a measured tool pose in the base frame."""
        _append(self._poses, stamp_ns, pose)

    def add_gripper(self, stamp_ns: int, opening: float) -> None:
        """Keep a measured gripper opening [m]."""
        _append(self._grippers, stamp_ns, opening)

    def observe(self, now_ns: int) -> Observation:
        """The observation at `now_ns`. Raises NotReady with every reason at once, not only the first."""
        reasons = []
        if not self.instruction:
            reasons.append("no instruction")
        images, stamps = {}, []
        for name in self.cameras:
            if name not in self._images:
                reasons.append(f"camera {name!r}: no image yet")
                continue
            stamp_ns, message = self._images[name]
            fault = self._fault(f"camera {name!r}", stamp_ns, now_ns, self.limits.cameras[name])
            if fault:
                reasons.append(fault)
                continue
            try:
                images[name] = to_rgb(message)
                stamps.append(stamp_ns)
            except ImageError as error:
                reasons.append(f"camera {name!r}: {error}")
        for name, history, limit in (
            ("current_pose", self._poses, self.limits.pose),
            ("gripper", self._grippers, self.limits.gripper),
        ):
            fault = self._fault(name, history[-1][0], now_ns, limit) if history else f"{name}: nothing received yet"
            if fault:
                reasons.append(fault)
        if reasons:
            raise NotReady(reasons)

        stamp_ns = min(stamps)
        pose_ns, pose = _nearest(self._poses, stamp_ns)
        if abs(pose_ns - stamp_ns) > self.limits.pose * NANOSECONDS:
            apart = abs(pose_ns - stamp_ns) / NANOSECONDS
            raise NotReady([f"current_pose: nearest to the images is {apart:.3f} s off, limit {self.limits.pose:g} s"])
        return Observation(stamp_ns, images, pose, _nearest(self._grippers, stamp_ns)[1], self.instruction)

    def _fault(self, name: str, stamp_ns: int, now_ns: int, limit: float) -> str | None:
        age = (now_ns - stamp_ns) / NANOSECONDS
        if age > limit:
            return f"{name}: {age:.3f} s old, limit {limit:g} s"
        if -age > self.limits.future:
            return f"{name}: stamped {-age:.3f} s in the future, limit {self.limits.future:g} s"
        return None


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


def _nearest(history: deque, stamp_ns: int) -> tuple:
    return min(history, key=lambda entry: abs(entry[0] - stamp_ns))
