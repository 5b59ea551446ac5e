"""Recordings of either kind, opened alike: rosbag2, and LeRobot data sets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from grids_ros.convert.conventions import Gripper
from grids_ros.data.damage import BagError
from grids_ros.data.lerobot.dataset import DatasetError, is_dataset, located
from grids_ros.data.lerobot.meaning import Given
from grids_ros.data.lerobot.reader import LeRobotReader
from grids_ros.data.metadata import NAME
from grids_ros.data.reader import STORAGE, BagReader, storage_files
from grids_ros.data.settings import Settings
from grids_ros.files import PART
from grids_ros.options import RobotOptions
from grids_ros.parameters import given_urdf
from grids_ros.policy.joints import RobotModel

Recording = BagReader | LeRobotReader
CACHES = (".git", "__pycache__")


def open_recording(path: Path, settings: Settings) -> Recording:
    """A bag or a data set, by its contents. Raises BagError."""
    path = located(path) if not path.exists() else path
    if not is_dataset(path):
        return BagReader(path)
    urdf = given_urdf(settings.policy)
    robot = RobotModel(urdf, settings.policy.base_frame, settings.policy.tool_frame) if urdf else None
    features = settings.state_features, settings.action_features
    return LeRobotReader(
        path,
        Given(settings.convention, *grippers_of(settings), robot, settings.set_joints, settings.degrees, *features),
        settings.policy.base_frame,
        tuple(settings.policy.finger_joints),
        settings.gripper_scale,
    )


def grippers_of(said: Settings | RobotOptions) -> tuple[Gripper | None, Gripper | None]:
    """The numbers of the gripper in states and in actions; None for openings in metres. Raises DatasetError."""
    return gripper_of(said.gripper_state or said.gripper), gripper_of(said.gripper_action or said.gripper)


def gripper_of(text: str) -> Gripper | None:
    """CLOSED:OPEN:METRES, the numbers of a gripper; None for "". Raises DatasetError."""
    if not text:
        return None
    try:
        closed, opened, metres = map(float, text.split(":"))
        return Gripper(closed, opened, metres)
    except ValueError as error:
        raise DatasetError(f"gripper {text!r}, expected CLOSED:OPEN:METRES such as 0:1:0.08: {error}") from error


def find_recordings(paths: Sequence[Path]) -> tuple[list[Path], list[str]]:
    """Each path that is a recording, and the recordings directly below each that is none.

    The second list names what looks like a recording and is left out, with the reason. Raises BagError when there is
    none.
    """
    found: list[Path] = []
    left_out: list[str] = []
    for path in paths:
        path = located(path) if not path.exists() else path
        if _is_recording(path):
            found.append(path)
            continue
        for folder in sorted(entry for entry in path.glob("*/") if entry.name not in CACHES):
            if folder.name.endswith(PART):
                left_out.append(f"{folder}: it was never completed")
            elif _is_recording(folder):
                found.append(folder)
            else:
                deeper = sorted({file.parent for kind in (NAME, "*.mcap", "*.db3") for file in folder.rglob(kind)})
                left_out += [f"{inner}: it lies deeper, give {inner.parent}" for inner in deeper]
    if not found:
        kinds = f"one with a {NAME}, {' or '.join(STORAGE)} files, or meta/info.json"
        named = f"; left out: {'; '.join(left_out)}" if left_out else ""
        raise BagError(f"no rosbag2 folder or LeRobot data set ({kinds}) in {', '.join(map(str, paths))}{named}")
    return found, left_out


def _is_recording(path: Path) -> bool:
    if path.is_file():
        return path.name.endswith(STORAGE)
    return path.is_dir() and (is_dataset(path) or (path / NAME).exists() or bool(storage_files(path)))
