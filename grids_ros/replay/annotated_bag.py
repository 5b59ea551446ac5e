"""A new bag: the original topics as they were, and beside them what the nodes would have published.

With several variants each has a namespace of its own, such as /demo_K_4/action_chunk.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from grids_ros.chunk_bytes import gripper_to_bytes, poses_to_bytes
from grids_ros.data.definitions import standard_types
from grids_ros.data.reader import BagReader, Connection
from grids_ros.data.writer import RawWriter
from grids_ros.datatypes import NANOSECONDS, PolicyOutput
from grids_ros.replay.ticks import AFTER_NS, BEFORE_NS, Span, Tick
from grids_ros.visualisation import overlay
from grids_ros.visualisation.sampled_points import COLOURS, LIFETIME_S, SPHERE_M, on_plane

POSES, OPENINGS = "trajectory_msgs/msg/MultiDOFJointTrajectory", "trajectory_msgs/msg/JointTrajectory"
WRITER = "grids replay"  # as the metadata of its bags name it
SPHERE_LIST = 7  # visualization_msgs/Marker.SPHERE_LIST
TRANSFORMS = "tf2_msgs/msg/TFMessage"  # latched ones add up: each speaks of frames of its own


def _windows(spans: Sequence[Span]) -> list[tuple[int, int]]:
    """What is copied for these spans, in order [ns]; windows that overlap are one, so that nothing is there twice."""
    windows: list[tuple[int, int]] = []
    for span in sorted(spans, key=lambda span: span.start_ns):
        start_ns, stop_ns = max(0, span.start_ns - BEFORE_NS), span.stop_ns + AFTER_NS
        if windows and start_ns <= windows[-1][1]:
            start_ns, stop_ns = windows[-1][0], max(windows.pop()[1], stop_ns)
        windows.append((start_ns, stop_ns))
    return windows


def _within(
    source: BagReader, connections: Sequence[Connection], windows: Sequence[tuple[int, int]], latched: bool
) -> Iterator[tuple[Connection, int, bytes]]:
    """A topic's messages in these windows; of a latched one also what was said before a window and holds in it.

    That is given the window's start as its time.
    """
    last_ns = None
    for start_ns, stop_ns in windows:
        if latched:
            before = source.raw(connections, last_ns, start_ns)
            for connection, _, data in deque(before, maxlen=None if connections[0].msgtype == TRANSFORMS else 1):
                yield connection, start_ns, data
        yield from source.raw(connections, start_ns, stop_ns)
        last_ns = stop_ns


class AnnotatedBag:
    """A bag that grows tick by tick. A context manager."""

    def __init__(self, path: Path, base_frame: str, tool_frame: str, labels: Sequence[str]):
        """An earlier bag of WRITER at `path` stays until this one is complete. Raises BagError or OutputError."""
        self._base, self._tool = base_frame, tool_frame
        self._spaces = {label: re.sub(r"\W+", "_", label) + "/" if len(labels) > 1 else "" for label in labels}
        self._store = standard_types()
        self._writer = RawWriter(path, compressed=True, replace=True, by=WRITER)

    def __enter__(self) -> AnnotatedBag:
        self._writer.__enter__()
        return self

    def __exit__(self, *raised) -> None:
        self._writer.__exit__(*raised)

    def add(self, tick: Tick, outputs: Mapping[str, PolicyOutput], frames: Mapping[str, str]) -> None:
        """The outputs of a tick, by label. frames: camera to the frame of its images."""
        observation = tick.observation
        assert observation is not None  # the outputs were inferred on it
        for label, output in outputs.items():
            space, stamp_ns, now_ns = f"/{self._spaces[label]}", observation.stamp_ns, tick.now_ns
            poses, gripper = (
                poses_to_bytes(output.chunk, self._base, self._tool),
                gripper_to_bytes(output.chunk, self._base),
            )
            self._writer.write_raw(f"{space}action_chunk", POSES, now_ns, poses)
            self._writer.write_raw(f"{space}gripper_chunk", OPENINGS, now_ns, gripper)
            spheres = [
                self._spheres(index, name, points, self._header(stamp_ns, frames[name]))
                for index, (name, points) in enumerate(output.coordinates.items())
            ]
            self._write(f"{space}sampled_points", now_ns, self._new("visualization_msgs/msg/MarkerArray", spheres))
            for name, points in output.coordinates.items():
                drawn = overlay.draw(observation.images[name], points, caption=tick.instruction)
                image = self._image(drawn, self._header(stamp_ns, frames[name]))
                self._write(f"{space}overlay/{name}/image_raw", now_ns, image)

    def originals(self, source: BagReader, spans: Sequence[Span], instruction: str) -> None:
        """Copy the bag's messages of these spans, but for topics that were made anew. instruction: its topic, or ""."""
        made, windows = self._writer.written, _windows(spans)
        for topic in sorted({connection.topic for connection in source.connections} - made):
            connections = [connection for connection in source.connections if connection.topic == topic]
            latched = topic.lstrip("/") == instruction or any(connection.latched for connection in connections)
            for connection, at_ns, data in _within(source, connections, windows, latched):
                self._writer.copy(connection, at_ns, data)

    def _write(self, topic: str, at_ns: int, message) -> None:
        self._writer.write_raw(
            topic, message.__msgtype__, at_ns, self._store.serialize_cdr(message, message.__msgtype__)
        )

    def _new(self, name: str, *fields):
        return self._store.types[name](*fields)

    def _header(self, stamp_ns: int, frame: str):
        return self._new("std_msgs/msg/Header", self._time("Time", stamp_ns), frame)

    def _time(self, kind: str, ns: int):
        return self._new(f"builtin_interfaces/msg/{kind}", *divmod(int(ns), NANOSECONDS))

    def _image(self, rgb: np.ndarray, header):
        height, width = rgb.shape[:2]
        return self._new("sensor_msgs/msg/Image", header, height, width, "rgb8", 0, 3 * width, rgb.reshape(-1))

    def _spheres(self, index: int, name: str, coordinates: np.ndarray, header):
        """As the policy node draws them for a camera without CameraInfo."""
        point, vector = self._store.types["geometry_msgs/msg/Point"], self._store.types["geometry_msgs/msg/Vector3"]
        pose = self._new(
            "geometry_msgs/msg/Pose",
            point(0.0, 0.0, 0.0),
            self._new("geometry_msgs/msg/Quaternion", 0.0, 0.0, 0.0, 1.0),
        )
        colour = self._new("std_msgs/msg/ColorRGBA", *COLOURS[index % len(COLOURS)], 1.0)
        mesh = self._new("visualization_msgs/msg/MeshFile", "", np.zeros(0, np.uint8))
        texture = self._new("sensor_msgs/msg/CompressedImage", self._header(0, ""), "", np.zeros(0, np.uint8))
        return self._store.types["visualization_msgs/msg/Marker"](
            header=header,
            ns=f"sampled_points/{name}",
            id=0,
            type=SPHERE_LIST,
            action=0,
            pose=pose,
            scale=vector(SPHERE_M, SPHERE_M, SPHERE_M),
            color=colour,
            lifetime=self._time("Duration", LIFETIME_S * NANOSECONDS),
            frame_locked=False,
            points=[point(*place) for place in on_plane(coordinates, None).tolist()],
            colors=[],
            texture_resource="",
            texture=texture,
            uv_coordinates=[],
            text="",
            mesh_resource="",
            mesh_file=mesh,
            mesh_use_embedded_materials=False,
        )
