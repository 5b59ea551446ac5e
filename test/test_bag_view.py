"""grids view: where the messages of a bag are drawn, and what is reported where Rerun is missing."""

from types import SimpleNamespace

import numpy as np
import pytest

from grids_ros import cli
from grids_ros.data.writer import BagWriter
from grids_ros.datatypes import NANOSECONDS, Pose
from grids_ros.visualisation import bag_view

DOWN = (1.0, 0.0, 0.0, 0.0)
CAMERA = Pose((0.5, 0.1, 1.0), DOWN)  # one metre above the table, looking down
STAMP_NS = 3 * NANOSECONDS


@pytest.fixture
def bag(tmp_path):
    """A second of poses, an image, the camera's transform, and two points that the camera sees."""
    with BagWriter(tmp_path / "bag") as writer:
        new, header = writer._new, writer._header
        t, q = CAMERA.position, CAMERA.quaternion
        transform = new(
            "geometry_msgs/msg/Transform",
            new("geometry_msgs/msg/Vector3", *map(float, t)),
            new("geometry_msgs/msg/Quaternion", *map(float, q)),
        )
        stamped = new("geometry_msgs/msg/TransformStamped", header(0), "base_camera_optical_frame", transform)
        writer.write("tf_static", 2 * STAMP_NS, new("tf2_msgs/msg/TFMessage", [stamped]))
        writer.image("base", STAMP_NS, np.full((48, 64, 3), 120, np.uint8))
        writer.instruction(STAMP_NS, "lift the red cube")
        for index in range(10):
            pose = Pose((0.4 + 0.01 * index, 0.0, 0.2), DOWN)
            writer.current_pose(STAMP_NS + index, pose)
            writer.target_pose(STAMP_NS + index, pose)
        writer.gripper_command(STAMP_NS, 0.04)
        for frame in ("base_camera_optical_frame", "unknown_frame"):
            points = [new("geometry_msgs/msg/Point", *point) for point in ((0.0, 0.0, 1.0), (0.1, 0.0, 1.0))]
            writer.write(
                "sampled_points" if frame.startswith("base") else "others", STAMP_NS, array(new, header, frame, points)
            )
    return tmp_path / "bag"


def array(new, header, frame, points):
    origin = new("geometry_msgs/msg/Pose", new("geometry_msgs/msg/Point", 0.0, 0.0, 0.0),
                 new("geometry_msgs/msg/Quaternion", 0.0, 0.0, 0.0, 1.0))  # fmt: skip
    colour, none = new("std_msgs/msg/ColorRGBA", 1.0, 0.5, 0.0, 1.0), np.zeros(0, np.uint8)
    marker = new(
        "visualization_msgs/msg/Marker",
        *(header(STAMP_NS, frame), "sampled_points/base", 0, bag_view.SPHERE_LIST, 0, origin),
        *(new("geometry_msgs/msg/Vector3", 0.03, 0.03, 0.03), colour),
        *(new("builtin_interfaces/msg/Duration", 2, 0), False, points, [], ""),
        new("sensor_msgs/msg/CompressedImage", header(0), "", none),
        *([], "", "", new("visualization_msgs/msg/MeshFile", "", none), False),
    )
    return new("visualization_msgs/msg/MarkerArray", [marker])


class Recorder(SimpleNamespace):
    """Stands in for Rerun: keeps what is logged. Every archetype is a tuple of its name and arguments."""

    def __init__(self):
        super().__init__(logged={}, ViewCoordinates=SimpleNamespace(RIGHT_HAND_Z_UP=None))

    def __getattr__(self, name):
        return lambda *args, **options: SimpleNamespace(name=name, args=args, compress=lambda **_: (name, *args))

    def log(self, path, *entities, static=False):
        self.logged.setdefault(path, []).append(entities)

    def set_time(self, name, timestamp):
        pass


def drawn(bag, **options):
    from grids_ros.data.reader import BagReader

    recorder = Recorder()
    drawing = bag_view.Drawing(recorder, options.get("base_frame", ""), 0.0)
    with BagReader(bag) as source:
        for message in bag_view._messages(source):
            drawing.add(*message)
    return recorder.logged, drawing


def test_sampled_points_of_a_camera_lie_on_the_table(bag):
    """The camera looks down from one metre: a ray with a slope of 0.1 is 99 mm beside it 1 cm over the table."""
    logged, _ = drawn(bag)
    (points,) = logged["world/sampled_points/base"][-1]
    np.testing.assert_allclose(points.args[0], [(0.5, 0.1, 0.01), (0.599, 0.1, 0.01)], atol=1e-9)


def test_every_stream_is_drawn_and_what_cannot_be_is_named(bag):
    logged, drawing = drawn(bag)
    assert {"camera/base", "instruction", "gripper_command", "world/target_pose", "world/current_pose"} <= set(logged)
    (strip,) = logged["world/target_pose_trace"][-1]
    assert strip.args[0][0].shape == (10, 3)
    assert set(drawing.left_out) == {"others"} and "unknown_frame" in drawing.left_out["others"]


def test_without_rerun_the_command_names_the_extra(bag, capsys, monkeypatch):
    monkeypatch.setattr(bag_view, "find_spec", lambda name: None)
    assert cli.main(["view", str(bag)]) == 2
    assert "pip install 'grids_ros[view]'" in capsys.readouterr().err


def test_a_recording_is_written(bag, tmp_path, capsys):
    pytest.importorskip("rerun", reason="rerun-sdk is an extra")
    assert cli.main(["view", str(bag), "--save", str(tmp_path / "bag.rrd")]) == 0
    assert (tmp_path / "bag.rrd").stat().st_size > 1000
    assert "others: not drawn" in capsys.readouterr().err


def test_a_folder_that_is_no_bag_is_refused(tmp_path, capsys):
    pytest.importorskip("rerun", reason="rerun-sdk is an extra")
    assert cli.main(["view", str(tmp_path)]) == 2
    assert "grids view:" in capsys.readouterr().err
