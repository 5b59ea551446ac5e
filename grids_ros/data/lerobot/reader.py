"""A LeRobot data set as a recording: its frames become the messages that a bag would hold, with the reader's members.

Episodes lie one behind the other in time, with a pause between them. Frames are on a grid: a frame's stamp is its
arrival, so a replay scores the frames as they are, without transport delays, and its notes say so.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation, Slerp

from grids_ros.data.lerobot.dataset import Dataset, DatasetError, Rows, located
from grids_ros.data.lerobot.meaning import Given, meaning_of
from grids_ros.data.lerobot.metadata import DatasetEpisode
from grids_ros.data.lerobot.plausible import check_plausible
from grids_ros.data.lerobot.video import VideoFile
from grids_ros.datatypes import NANOSECONDS, ActionChunk, Pose

START_NS = 10 * NANOSECONDS  # of the first frame
PAUSE_NS = 3 * NANOSECONDS  # between two episodes
MARGIN_NS = 1000  # by which an instruction comes before its first frame
SPACING_S = 0.1  # of the targets: between the frames of a slower set they are interpolated
TYPES = {
    "instruction": "std_msgs/msg/String",
    "current_pose": "geometry_msgs/msg/PoseStamped",
    "joint_states": "sensor_msgs/msg/JointState",
    "target_pose": "geometry_msgs/msg/PoseStamped",
    "gripper_command": "std_msgs/msg/Float64MultiArray",
}


@dataclass(frozen=True)
class Stream:
    """A topic of the recording; stands for a bag's Connection."""

    topic: str
    msgtype: str
    msgcount: int
    feature: str = ""


class LeRobotReader:
    """One data set, open for reading. A context manager. The members are BagReader's.

    topics: `camera/NAME/image_raw` for each `observation.images.NAME`, and the robot's own topics.
    """

    def __init__(
        self,
        path: Path | str,
        given: Given | None = None,
        base_frame: str = "base",
        fingers: Sequence[str] = ("fr3_finger_joint1", "fr3_finger_joint2"),
        gripper_scale: float = 1.0,
    ):
        """base_frame, fingers, gripper_scale: as the nodes would see the robot. Raises DatasetError."""
        given = given or Given()
        self.dataset = Dataset(located(path), given.state_features, given.action_features)
        self.path = self.dataset.path
        self.meaning = meaning_of(self.dataset, given)
        self._frame, self._fingers, self._scale = base_frame, tuple(fingers), gripper_scale
        self._joints = self.meaning.kinematics.joints if self.meaning.kinematics else ()
        self._period_ns = NANOSECONDS / self.dataset.fps
        self.passed_over: dict[str, tuple[int, str]] = {}
        self._starts = self._laid_out()
        frames = sum(episode.length for episode in self.dataset.episodes)
        streams = [
            Stream(f"camera/{name}/image_raw", "sensor_msgs/msg/Image", frames, key) for name, key in self._cameras()
        ]
        kinds = {**TYPES, **({"target_joint": "sensor_msgs/msg/JointState"} if self._joints else {})}
        streams += [Stream(topic, kind, frames) for topic, kind in kinds.items()]
        self.topics = {stream.topic: [stream] for stream in streams}
        self.connections = streams

    def close(self) -> None:
        """Nothing is kept open between two readings."""

    def __enter__(self) -> LeRobotReader:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    @property
    def notes(self) -> list[str]:
        return [*self.facts, *self.dataset.constant_notes()]

    @property
    def facts(self) -> list[str]:
        """The notes less what follows from all that was read."""
        version = self.dataset.info["codebase_version"]
        grid = f"a LeRobot data set ({version}): frames are on a grid of {self.dataset.fps:g} Hz"
        first = f"{grid}, without arrival times; convention {self.meaning.name}"
        return [first, *self.contract, *self.dataset.notes]

    @property
    def contract(self) -> list[str]:
        """What each number means, in words."""
        return self.meaning.contract(self.dataset)

    @property
    def damage(self) -> list[str]:
        return self.dataset.damage

    @property
    def broken(self) -> str:
        return "; ".join(self.damage)

    @property
    def loss(self) -> str:
        frames = [f"{count} frames are left out, the first: {why}" for count, why in self.passed_over.values()]
        return "; ".join([*self.damage, *frames])

    @property
    def start_ns(self) -> int:
        return START_NS - MARGIN_NS

    @property
    def end_ns(self) -> int:
        """Just after the last message."""
        return self._end_ns(len(self._starts) - 1) + 1 if self._starts else 0

    @property
    def empty(self) -> bool:
        return not any(episode.length for episode in self.dataset.episodes)

    def describe(self) -> str:
        """The topics, for an error."""
        return ", ".join(f"{topic} ({streams[0].msgtype})" for topic, streams in sorted(self.topics.items()))

    def messages(
        self, connections: Sequence[Stream], start_ns: int | None = None, stop_ns: int | None = None
    ) -> Iterator[tuple[Stream, int, object]]:
        """Stream, time [ns] and message, in order. start_ns is included, stop_ns is not. Raises DatasetError."""
        wanted = {stream.topic: stream for stream in connections}
        for index, episode in enumerate(self.dataset.episodes):
            if stop_ns is not None and self._starts[index] - MARGIN_NS >= stop_ns:
                return
            if start_ns is not None and self._end_ns(index) < start_ns:
                continue
            for at_ns, _, topic, message in self._of_episode(index, episode, wanted):
                if (start_ns is None or at_ns >= start_ns) and (stop_ns is None or at_ns < stop_ns):
                    yield wanted[topic], at_ns, message

    def events(
        self, topics: Mapping[str, str], start_ns: int | None = None, stop_ns: int | None = None
    ) -> Iterator[tuple[str, int, object]]:
        """Role, time [ns] and message, in order. topics: role to topic."""
        role_of = {topic: role for role, topic in topics.items()}
        wanted = [stream for topic in role_of for stream in self.topics[topic]]
        for stream, at_ns, message in self.messages(wanted, start_ns, stop_ns):
            yield role_of[stream.topic], at_ns, message

    def _cameras(self) -> list[tuple[str, str]]:
        return sorted(self.dataset.cameras.items())

    def _laid_out(self) -> list[int]:
        """When each episode begins [ns]."""
        starts, at_ns = [], START_NS
        for episode in self.dataset.episodes:
            starts.append(at_ns)
            at_ns += round(episode.length * self._period_ns) + PAUSE_NS
        return starts

    def _end_ns(self, index: int) -> int:
        return self._starts[index] + round(self.dataset.episodes[index].length * self._period_ns)

    def _of_episode(
        self, index: int, episode: DatasetEpisode, wanted: Mapping[str, Stream]
    ) -> Iterator[tuple[int, int, str, object]]:
        """Time, rank among those of one time, topic and message of an episode, in order."""
        rows = self.dataset.rows(episode)
        numbers = list(self._of_robot(index, rows, wanted))
        pictures = [self._of_camera(index, episode, stream) for stream in wanted.values() if stream.feature]
        yield from heapq.merge(sorted(numbers, key=lambda entry: entry[:2]), *pictures, key=lambda entry: entry[:2])

    def _of_robot(self, index: int, rows: Rows, wanted: Mapping[str, Stream]) -> Iterator[tuple[int, int, str, object]]:
        start_ns = self._starts[index]
        states = positions, quaternions, openings = self.meaning.states(rows.states)
        joints = self.meaning.joints(rows.states)
        check_plausible(self.dataset, self.meaning, rows, states)
        task = None
        for row in range(len(rows.timestamps)):
            at_ns = start_ns + round(row * self._period_ns)
            if rows.tasks[row] != task and "instruction" in wanted:
                task = rows.tasks[row]
                yield at_ns - MARGIN_NS, 0, "instruction", SimpleNamespace(data=task)
            header = self._header(at_ns)
            known = np.isfinite([*positions[row], *quaternions[row], openings[row]]).all()
            if not known:
                self._pass_over(f"{self.dataset.state} is NaN or infinite")
            elif "current_pose" in wanted:
                yield at_ns, 1, "current_pose", _pose_stamped(header, positions[row], quaternions[row])
            if known and "joint_states" in wanted:
                arm = [] if joints is None else joints[row].tolist()
                hand = [openings[row] / len(self._fingers)] * len(self._fingers)
                message = _joint_state(header, (*self._joints, *self._fingers), [*arm, *hand])
                yield at_ns, 2, "joint_states", message
            if known and np.isfinite(rows.actions[row]).all():
                pose, measured = Pose(positions[row], quaternions[row]), None if joints is None else joints[row]
                chunk = self.meaning.chunk(at_ns, pose, rows.actions[row : row + 1], 1.0 / self.dataset.fps, measured)
                yield from self._of_action(at_ns, pose, chunk, wanted)
            elif known:
                self._pass_over(f"{self.dataset.action} is NaN or infinite")
        if "instruction" in wanted:
            yield self._end_ns(index), 0, "instruction", SimpleNamespace(data="")

    def _of_action(
        self, at_ns: int, pose: Pose, chunk: ActionChunk, wanted: Mapping[str, Stream]
    ) -> Iterator[tuple[int, int, str, object]]:
        """The target at the end of a frame's step, and between the two poses where the step is long."""
        step_s = 1.0 / self.dataset.fps
        if "target_pose" in wanted:
            parts = max(1, int(np.ceil(step_s / SPACING_S - 1e-6)))
            ends = Rotation.from_quat([pose.quaternion, chunk.quaternions[0]])
            for part in range(1, parts + 1):
                share = part / parts
                place = pose.position + share * (chunk.positions[0] - pose.position)
                turn = chunk.quaternions[0] if part == parts else Slerp([0.0, 1.0], ends)(share).as_quat()
                due_ns = at_ns + round(share * self._period_ns)
                yield at_ns, 3, "target_pose", _pose_stamped(self._header(due_ns), place, turn)
        if "target_joint" in wanted:
            header = self._header(at_ns + round(self._period_ns))
            angles: Any = chunk.joints
            yield at_ns, 3, "target_joint", _joint_state(header, self._joints, angles[0].tolist())
        if "gripper_command" in wanted:
            message = SimpleNamespace(data=[float(chunk.gripper[0]) * self._scale])
            yield at_ns, 4, "gripper_command", message

    def _of_camera(self, index: int, episode: DatasetEpisode, stream: Stream) -> Iterator[tuple[int, int, str, object]]:
        name = stream.topic.split("/")[1]
        for row, image in enumerate(frames_of(self.dataset, episode, stream.feature)):
            at_ns = self._starts[index] + round(row * self._period_ns)
            yield at_ns, 5, stream.topic, image_message(image, self._header(at_ns, f"{name}_camera_optical_frame"))

    def _header(self, stamp_ns: int, frame: str = "") -> SimpleNamespace:
        sec, nanosec = divmod(int(stamp_ns), NANOSECONDS)
        return SimpleNamespace(stamp=SimpleNamespace(sec=sec, nanosec=nanosec), frame_id=frame or self._frame)

    def _pass_over(self, why: str) -> None:
        count, first = self.passed_over.get("frames", (0, why))
        self.passed_over["frames"] = (count + 1, first)


def frames_of(dataset: Dataset, episode: DatasetEpisode, feature: str) -> Iterator[np.ndarray]:
    """RGB frames (H, W, 3) of a camera, in order. Raises DatasetError."""
    if feature not in episode.videos:
        for data in dataset.pictures(episode, feature, range(episode.length)):
            yield picture(data, episode.data)
        return
    video = episode.videos[feature]
    with VideoFile(video.file) as file:
        file.check_rate(dataset.fps)
        times = video.from_s + np.arange(episode.length) / dataset.fps
        yield from file.frames(times, dataset.fps)


def picture(data: bytes, file: Path) -> np.ndarray:
    """An encoded picture of a table, RGB (H, W, 3). Raises DatasetError."""
    from grids_ros.observation.images import ImageError, to_rgb

    try:
        return to_rgb(SimpleNamespace(format="", data=data))
    except ImageError as error:
        raise DatasetError(f"{file}: {error}") from error


def image_message(rgb: np.ndarray, header: SimpleNamespace) -> SimpleNamespace:
    """A frame as a sensor_msgs/Image by its attributes."""
    height, width = rgb.shape[:2]
    data = np.ascontiguousarray(rgb).reshape(-1)
    return SimpleNamespace(
        header=header, height=height, width=width, encoding="rgb8", is_bigendian=0, step=3 * width, data=data
    )


def _joint_state(header: SimpleNamespace, names: Sequence[str], positions: Sequence[float]) -> SimpleNamespace:
    return SimpleNamespace(header=header, name=list(names), position=list(positions), velocity=[], effort=[])


def _pose_stamped(header: SimpleNamespace, position: np.ndarray, quaternion: np.ndarray) -> SimpleNamespace:
    place = SimpleNamespace(**dict(zip("xyz", map(float, position), strict=True)))
    turn = SimpleNamespace(**dict(zip("xyzw", map(float, quaternion), strict=True)))
    return SimpleNamespace(header=header, pose=SimpleNamespace(position=place, orientation=turn))
