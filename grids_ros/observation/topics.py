"""The topics of the policy's inputs: their names, from the node's parameters and the checkpoint's cameras."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TypeVar

from grids_ros.observation.messages import cut
from grids_ros.parameters import ROS_NAME, ROS_NAME_FORM, ParameterError

COMPRESSED = "/compressed"
Value = TypeVar("Value")
HISTORY = 1000  # messages of a stream that wait between two observations, the newest ones: a second of 1 kHz poses


def per_camera(name: str, values: Sequence[Value], cameras: Sequence[str]) -> dict[str, Value]:
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


def check_names(topics: Iterable[str]) -> None:
    """Raises ParameterError for a pattern or a topic that ROS does not take."""
    for topic in topics:
        if not re.fullmatch(ROS_NAME, topic.replace("{name}", "name")):
            raise ParameterError(f"parameter 'camera_topics' has {cut(topic)}, expected {ROS_NAME_FORM}")


def info_topic(image_topic: str) -> str:
    """Where the camera of this image topic publishes its CameraInfo."""
    raw = image_topic[: -len(COMPRESSED)] if image_topic.endswith(COMPRESSED) else image_topic
    namespace, slash, _ = raw.rpartition("/")
    return f"{namespace}{slash}camera_info"
