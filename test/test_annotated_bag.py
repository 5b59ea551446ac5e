"""The bag that `--write-bag` leaves: what it has of the original, where that is a range or in parts."""

from __future__ import annotations

import shutil

import pytest
from rosbags.typesys import Stores, get_typestore

from grids_ros.data.reader import BagReader
from grids_ros.data.writer import RawWriter, offered_qos
from grids_ros.datatypes import NANOSECONDS
from grids_ros.replay.annotated_bag import AnnotatedBag
from grids_ros.replay.ticks import BEFORE_NS, Span

STORE = get_typestore(Stores.ROS2_JAZZY)
TEXT, TRANSFORMS = "std_msgs/msg/String", "tf2_msgs/msg/TFMessage"
LATCHED = ("/tf_static", "/robot_description")


def seconds(value: float) -> int:
    return round(value * NANOSECONDS)


def write(path, said):
    """said: (second, topic, words) of each message; those on /tf_static name a frame."""
    with RawWriter(path) as bag:
        for at_s, topic, words in said:
            name = TRANSFORMS if topic == "/tf_static" else TEXT
            message = static(words) if name == TRANSFORMS else STORE.types[TEXT](words)
            qos = offered_qos(latched=topic in LATCHED)
            bag.write_raw(topic, name, seconds(at_s), STORE.serialize_cdr(message, name), qos)
    return path


def static(frame: str):
    new = STORE.types
    header = new["std_msgs/msg/Header"](new["builtin_interfaces/msg/Time"](0, 0), "base")
    origin = new["geometry_msgs/msg/Vector3"](0.0, 0.0, 0.0), new["geometry_msgs/msg/Quaternion"](0.0, 0.0, 0.0, 1.0)
    moved = new["geometry_msgs/msg/TransformStamped"](header, frame, new["geometry_msgs/msg/Transform"](*origin))
    return new[TRANSFORMS]([moved])


def copied(source_path, path, spans, instruction="") -> list[tuple[float, str, str]]:
    """(second, topic, words) of each message of the new bag."""
    with BagReader(source_path) as source, AnnotatedBag(path, "base", "tool", ["a"]) as new:
        new.originals(source, [Span(seconds(start), seconds(stop)) for start, stop in spans], instruction)
    with BagReader(path) as source:
        connections = [connection for held in source.topics.values() for connection in held]
        return [
            (at_ns / NANOSECONDS, c.topic, m.transforms[0].child_frame_id if c.msgtype == TRANSFORMS else m.data)
            for c, at_ns, m in source.messages(connections)
        ]


@pytest.fixture
def bag(tmp_path):
    """A minute of a topic that speaks every second, and what others said once or twice."""
    once = [(0, "/tf_static", "camera"), (1, "/tf_static", "tool"), (0, "/robot_description", "old")]
    once += [(2, "/robot_description", "new"), (3, "/ur/task", "lift"), (30, "/ur/task", "drop"), (2, "/log", "hello")]
    once += [(at, "/chatter", str(at)) for at in range(60)]
    return write(tmp_path / "bag", sorted(once))


def test_what_held_when_the_range_began_is_there_from_its_start_on(tmp_path, bag):
    said = copied(bag, tmp_path / "new", [(20, 22)], instruction="ur/task")
    start_s = 20 - BEFORE_NS / NANOSECONDS
    assert min(said)[0] == start_s
    assert {entry for entry in said if entry[1] != "/chatter"} == {
        (start_s, "/tf_static", "camera"),
        (start_s, "/tf_static", "tool"),
        (start_s, "/robot_description", "new"),
        (start_s, "/ur/task", "lift"),
    }


def test_what_was_said_between_two_ranges_holds_in_the_second(tmp_path, bag):
    said = copied(bag, tmp_path / "new", [(10, 12), (50, 52)], instruction="ur/task")
    assert [entry for entry in said if entry[1] == "/ur/task"] == [
        (8.0, "/ur/task", "lift"),
        (48.0, "/ur/task", "drop"),
    ]
    assert [entry for entry in said if entry[1] == "/robot_description"] == [(8.0, "/robot_description", "new")]


def test_parts_without_their_metadata_are_copied_as_one(tmp_path):
    (tmp_path / "parts").mkdir()
    said = [[(at, topic, str(at)) for at in span for topic in ("/chatter", "/log")] for span in (range(5), range(5, 9))]
    for part in (0, 1):
        (file,) = write(tmp_path / f"part_{part}", said[part]).glob("*.mcap")
        shutil.copy(file, tmp_path / "parts")
    assert sorted(copied(tmp_path / "parts", tmp_path / "new", [(0, 9)])) == sorted(said[0] + said[1])
