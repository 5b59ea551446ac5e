"""grids view BAG: images, sampled points, chunk and target of a bag in Rerun, for those without RViz or Foxglove."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import numpy as np
from tyro.conf import Positional, arg

from grids_ros.options import Place, Range, UsageError

POSES = {"current_pose": (160, 160, 160), "target_pose": (255, 160, 0)}  # topic and colour [RGB]
LINE_STRIP, LINE_LIST, SPHERE_LIST = 4, 5, 7  # of visualization_msgs/Marker
TRACE = 300  # poses that are drawn as the way so far
JPEG_QUALITY = 85


@dataclass(frozen=True, kw_only=True)
class ViewOptions:
    """Show a bag in Rerun: images and overlays, sampled points, chunk, target and workspace, instruction, gripper.

    Needs the extra `view` (rerun-sdk). Exit codes: 0 shown or written; 2 an option or a bag that cannot be used.
    """

    bag: Positional[Annotated[Path, arg(metavar="BAG", help_behavior_hint="(required)")]]
    """a rosbag2: a folder or a file"""
    save: Annotated[Path | None, Place.OUT_FILE] = None
    """write a recording (.rrd) in place of opening the viewer"""
    base_frame: str = ""
    """frame in which everything is drawn; empty: that of the bag's poses"""
    table_height: Annotated[float, Range(-5, 5)] = 0.0
    """height of the table in the base frame [m]: sampled points are drawn on it where the bag has the camera's /tf"""


class Drawing:
    """The messages of a bag, as entities of a Rerun recording."""

    def __init__(self, rerun: ModuleType, base_frame: str, table_height: float):
        from grids_ros.observation.transforms import TransformBuffer

        self._rerun, self._base, self._table_height = rerun, base_frame, table_height
        rerun.log("world", rerun.ViewCoordinates.RIGHT_HAND_Z_UP, static=True)
        self._transforms = TransformBuffer()
        self._traces: dict[str, list[np.ndarray]] = {}
        self.left_out: dict[str, str] = {}  # topic to why its first message is not drawn

    def add(self, topic: str, at_ns: int, message: Any) -> None:
        """Draw one message at its time of reception [ns]; what cannot be drawn is noted by topic."""
        self._rerun.set_time("time", timestamp=np.datetime64(at_ns, "ns"))
        kind = message.__msgtype__.rpartition("/")[2]
        draw = getattr(self, f"_draw_{kind.lower()}", None)
        if draw is None:
            return
        try:
            draw(topic, message)
        except ValueError as error:
            self.left_out.setdefault(topic, str(error))

    def _draw_image(self, topic: str, message: Any) -> None:
        from grids_ros.observation.images import to_rgb

        path = topic.removesuffix("/compressed").removesuffix("/image_raw")
        self._rerun.log(path, self._rerun.Image(to_rgb(message)).compress(jpeg_quality=JPEG_QUALITY))

    _draw_compressedimage = _draw_image

    def _draw_tfmessage(self, topic: str, message: Any) -> None:
        from grids_ros.datatypes import Pose
        from grids_ros.observation.messages import to_ns

        for each in message.transforms:
            t, q = each.transform.translation, each.transform.rotation
            pose = Pose((t.x, t.y, t.z), (q.x, q.y, q.z, q.w))
            parent, child = each.header.frame_id, each.child_frame_id
            self._transforms.add(parent, child, to_ns(each.header.stamp), pose, topic.endswith("tf_static"))

    def _draw_posestamped(self, topic: str, message: Any) -> None:
        from grids_ros.observation.messages import to_pose

        name = topic.rpartition("/")[2]
        if name not in POSES:
            return
        self._base = self._base or message.header.frame_id
        pose = to_pose(message, self._base, name)
        trace = self._traces.setdefault(name, [])
        trace.append(pose.position)
        del trace[:-TRACE]
        rerun, path = self._rerun, f"world/{name}"
        axes = rerun.Transform3D(translation=pose.position, quaternion=rerun.Quaternion(xyzw=pose.quaternion))
        rerun.log(path, axes, rerun.TransformAxes3D(0.05))
        rerun.log(f"{path}_trace", rerun.LineStrips3D([np.array(trace)], colors=[POSES[name]], radii=0.002))

    def _draw_markerarray(self, topic: str, message: Any) -> None:
        for marker in message.markers:
            points = np.array([(p.x, p.y, p.z) for p in marker.points]).reshape(-1, 3)
            points = self._in_base(points, marker)
            colour = [round(255 * value) for value in (marker.color.r, marker.color.g, marker.color.b)]
            path, radius = f"world/{marker.ns}", marker.scale.x / 2
            if marker.type == SPHERE_LIST:
                self._rerun.log(path, self._rerun.Points3D(points, colors=[colour], radii=radius))
            elif marker.type in (LINE_STRIP, LINE_LIST):
                strips = [points] if marker.type == LINE_STRIP else list(points.reshape(-1, 2, 3))
                self._rerun.log(path, self._rerun.LineStrips3D(strips, colors=[colour], radii=radius))

    def _in_base(self, points: np.ndarray, marker: Any) -> np.ndarray:
        """Points (n, 3) of a marker in the base frame [m]. Raises ValueError where TF does not connect its frame.

        Sampled points in a camera's frame have no distance of their own: they go to the table.
        """
        from grids_ros.observation.messages import to_ns
        from grids_ros.observation.transforms import TransformError, rotate
        from grids_ros.visualisation.sampled_points import meet_table

        frame = marker.header.frame_id
        if frame == (self._base or frame):
            return points
        try:
            outer = self._transforms.lookup(self._base, frame, to_ns(marker.header.stamp))
        except TransformError:  # older than its last one by less than a period
            outer = self._transforms.lookup(self._base, frame, self._transforms.newest(self._base, frame))
        if marker.ns.startswith("sampled_points") and (points[:, 2] > 0.0).all():
            return meet_table(points / points[:, 2:], outer, self._table_height)
        return np.array([rotate(outer.quaternion, point) + outer.position for point in points]).reshape(-1, 3)

    def _draw_string(self, topic: str, message: Any) -> None:
        if topic.rpartition("/")[2] == "instruction":
            self._rerun.log("instruction", self._rerun.TextLog(message.data or "(empty: hold)"))

    def _draw_float64multiarray(self, topic: str, message: Any) -> None:
        if topic.rpartition("/")[2] == "gripper_command" and len(message.data):
            self._rerun.log("gripper_command", self._rerun.Scalars(message.data[0]))


def run(options: ViewOptions) -> int:
    """Show or write the bag; the exit code."""
    if find_spec("rerun") is None:
        raise UsageError("Rerun is not installed: pip install 'grids_ros[view]', or pip install rerun-sdk")
    import rerun

    from grids_ros.data.reader import BagError, BagReader

    try:
        with BagReader(options.bag) as bag:
            if not bag.topics:
                raise UsageError(f"{options.bag} holds no ROS 2 message")
            rerun.init("grids_ros", recording_id=options.bag.name)
            if options.save is not None:
                rerun.save(options.save, default_blueprint=_blueprint(list(bag.topics)))
            else:
                rerun.spawn(default_blueprint=_blueprint(list(bag.topics)))
            drawing = Drawing(rerun, options.base_frame, options.table_height)
            for topic, at_ns, message in _messages(bag):
                drawing.add(topic, at_ns, message)
            notes = [f"{topic}: not drawn: {why}" for topic, why in drawing.left_out.items()]
            for note in [*notes, *([bag.loss] if bag.loss else [])]:
                print(f"grids view: {note}", file=sys.stderr)
    except BagError as error:
        raise UsageError(str(error)) from error
    if options.save is not None:
        rerun.disconnect()
        print(f"{options.save}: open it with `rerun {options.save}`")
    return 0


def _messages(bag: Any) -> Iterator[tuple[str, int, Any]]:
    """Topic without its leading slash, time of reception [ns] and message; transforms that never change come first."""
    static = {topic: found for topic, found in bag.topics.items() if topic.endswith("tf_static")}
    others = {topic: found for topic, found in bag.topics.items() if topic not in static}
    for topics in (static, others):
        connections = [connection for found in topics.values() for connection in found]
        for connection, at_ns, message in bag.messages(connections) if connections else ():
            yield connection.topic.lstrip("/"), at_ns, message


def _blueprint(topics: list[str]) -> Any:
    """The scene beside the cameras; instruction and gripper below. An overlay stands in for its camera."""
    import rerun.blueprint as blueprint

    images = [topic for topic in topics if topic.removesuffix("/compressed").endswith("/image_raw")]
    names = sorted(topic.removesuffix("/compressed").removesuffix("/image_raw") for topic in images)
    overlays = [name for name in names if "overlay/" in name]
    cameras = [blueprint.Spatial2DView(origin=name, name=name) for name in overlays or names]
    scene = blueprint.Spatial3DView(origin="world", name="points, chunk and target")
    log = blueprint.TextLogView(origin="instruction", name="instruction")
    gripper = blueprint.TimeSeriesView(origin="gripper_command", name="gripper_command")
    upper = blueprint.Horizontal(scene, blueprint.Vertical(*cameras), column_shares=[2, 1]) if cameras else scene
    return blueprint.Blueprint(
        blueprint.Vertical(upper, blueprint.Horizontal(log, gripper), row_shares=[4, 1]), collapse_panels=True
    )
