"""A new bag: the original topics as they were, and beside them what the nodes would have published.

With several variants each has a namespace of its own, such as /demo_K_4/action_chunk.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from rosbags.interfaces import Connection, QosDurability
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.rosbag2.enums import CompressionFormat, CompressionMode
from rosbags.typesys import Stores, get_typestore

from grids_ros import overlay
from grids_ros.data.bags import BAG_VERSION
from grids_ros.data.source import BagError, Source
from grids_ros.datatypes import NANOSECONDS, ActionChunk, PolicyOutput
from grids_ros.messages import GRIPPER_JOINT
from grids_ros.replay.ticks import AFTER_NS, BEFORE_NS, Span, Tick
from grids_ros.shown import COLOURS, LIFETIME_S, SPHERE_M, on_plane

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


def _latched(connections: Sequence[Connection]) -> bool:
    """Whether a topic's publishers keep what they said for those who come later."""
    offered = [profile for connection in connections for profile in connection.ext.offered_qos_profiles]
    return any(profile.durability is QosDurability.TRANSIENT_LOCAL for profile in offered)


def _within(
    source: Source, connections: Sequence[Connection], windows: Sequence[tuple[int, int]], latched: bool
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


class Annotated:
    """A bag that grows tick by tick. A context manager."""

    def __init__(self, path: Path, base_frame: str, tool_frame: str, labels: Sequence[str]):
        """Raises BagError when `path` exists."""
        if path.exists():
            raise BagError(f"{path} exists already; remove it, or choose another --out")
        self._base, self._tool = base_frame, tool_frame
        self._spaces = {label: re.sub(r"\W+", "_", label) + "/" if len(labels) > 1 else "" for label in labels}
        self._store = get_typestore(Stores.ROS2_JAZZY)
        self._connections: dict[str, object] = {}
        self._writer = Writer(path, version=BAG_VERSION, storage_plugin=StoragePlugin.MCAP)
        self._writer.set_compression(CompressionMode.STORAGE, CompressionFormat.ZSTD)

    def __enter__(self) -> Annotated:
        self._writer.open()
        return self

    def __exit__(self, *_) -> None:
        self._writer.close()

    def add(self, tick: Tick, outputs: Mapping[str, PolicyOutput], frames: Mapping[str, str]) -> None:
        """What was inferred at a tick, by label. frames: camera to the frame of its images."""
        for label, output in outputs.items():
            space, stamp_ns = self._spaces[label], tick.observation.stamp_ns
            poses, gripper = self._chunk(output.chunk)
            self._write(f"{space}action_chunk", tick.now_ns, poses)
            self._write(f"{space}gripper_chunk", tick.now_ns, gripper)
            spheres = [
                self._spheres(index, name, points, self._header(stamp_ns, frames[name]))
                for index, (name, points) in enumerate(output.coordinates.items())
            ]
            self._write(f"{space}sampled_points", tick.now_ns, self._new("visualization_msgs/msg/MarkerArray", spheres))
            for name, points in output.coordinates.items():
                drawn = overlay.draw(tick.observation.images[name], points, caption=tick.instruction)
                image = self._image(drawn, self._header(stamp_ns, frames[name]))
                self._write(f"{space}overlay/{name}/image_raw", tick.now_ns, image)

    def originals(self, source: Source, spans: Sequence[Span], instruction: str) -> None:
        """Copy the bag's messages of these spans, but for topics that were made anew. instruction: its topic, or ""."""
        made = {connection.topic for connection in self._connections.values()}
        for topic, connections in source.held.items():
            if f"/{topic}" not in made:
                self._copy(source, connections, _windows(spans), topic == instruction or _latched(connections))

    def _copy(
        self, source: Source, connections: Sequence[Connection], windows: Sequence[tuple[int, int]], latched: bool
    ) -> None:
        """One topic, which has several connections where a bag is split and its metadata lost."""
        copies: dict[str, Connection] = {}
        for connection, at_ns, data in _within(source, connections, windows, latched):
            if connection.msgtype not in copies:
                copies[connection.msgtype] = self._connection_like(connection, source)
            self._writer.write(copies[connection.msgtype], at_ns, data)

    def _connection_like(self, connection: Connection, source: Source) -> Connection:
        return self._writer.add_connection(
            connection.topic,
            connection.msgtype,
            typestore=source.types,
            offered_qos_profiles=connection.ext.offered_qos_profiles,
        )

    def _write(self, topic: str, at_ns: int, message) -> None:
        if topic not in self._connections:
            self._connections[topic] = self._writer.add_connection(
                f"/{topic}", message.__msgtype__, typestore=self._store
            )
        data = self._store.serialize_cdr(message, message.__msgtype__)
        self._writer.write(self._connections[topic], at_ns, data)

    def _new(self, name: str, *fields):
        return self._store.types[name](*fields)

    def _header(self, stamp_ns: int, frame: str):
        return self._new("std_msgs/msg/Header", self._time("Time", stamp_ns), frame)

    def _time(self, kind: str, ns: int):
        return self._new(f"builtin_interfaces/msg/{kind}", *divmod(int(ns), NANOSECONDS))

    def _chunk(self, chunk: ActionChunk) -> tuple:
        """`action_chunk` and `gripper_chunk`, as the policy node publishes them."""
        header = self._header(chunk.stamp_ns, self._base)
        poses, gripper, none = [], [], np.zeros(0)
        for seconds, position, quaternion, opening in zip(
            chunk.times, chunk.positions, chunk.quaternions, chunk.gripper, strict=True
        ):
            due = self._time("Duration", round(float(seconds) * NANOSECONDS))
            moved = self._new("geometry_msgs/msg/Vector3", *map(float, position))
            turned = self._new("geometry_msgs/msg/Quaternion", *map(float, quaternion))
            transform = self._new("geometry_msgs/msg/Transform", moved, turned)
            poses.append(self._new("trajectory_msgs/msg/MultiDOFJointTrajectoryPoint", [transform], [], [], due))
            point = (np.array([float(opening)]), none, none, none, due)
            gripper.append(self._new("trajectory_msgs/msg/JointTrajectoryPoint", *point))
        return (
            self._new("trajectory_msgs/msg/MultiDOFJointTrajectory", header, [self._tool], poses),
            self._new("trajectory_msgs/msg/JointTrajectory", header, [GRIPPER_JOINT], gripper),
        )

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
