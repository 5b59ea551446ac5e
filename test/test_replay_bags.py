"""What replay reads: every way a rosbag2 is stored, and every way it may be broken."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest
import yaml
from recording import PERIOD, START, foreign, recompressed, write_recording, write_step
from rosbags.highlevel import AnyReader
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.rosbag2.enums import CompressionMode
from rosbags.typesys import Stores, get_typestore

from grids_ros.data.reader import BagError, BagReader
from grids_ros.data.settings import assignments, find_topics, mistyped_topics, read
from grids_ros.data.writer import BagWriter
from grids_ros.datatypes import NANOSECONDS
from grids_ros.parameters import ParameterError
from grids_ros.replay.ticks import Span, TickGenerator

CAMERAS = ("base", "wrist")


def seen(path, seconds=(0.0, 100.0), said=None, remaps=(), params=(), markers="") -> list:
    """The ticks within a range of the bag, without those that only complete the reference."""
    settings = read(None, assignments(params, "-p"), assignments(remaps, "-r"))
    settings = replace(settings, instruction=said or "", markers=markers)
    with BagReader(path) as source:
        topics = find_topics(source, settings, CAMERAS)
        start, stop = (min(source.end_ns, source.start_ns + round(s * 1e9)) for s in seconds)
        generator = TickGenerator(source, topics, CAMERAS, settings.policy)
        ticks = [tick for tick in generator.ticks(Span(start, stop, said)) if tick.now_ns <= stop]
        return [*ticks, source.loss]


def key(ticks) -> list:
    """What was seen, comparable."""
    return [
        (
            t.now_ns,
            t.episode,
            t.reasons,
            t.observation and (t.observation.stamp_ns, t.observation.images["base"].tobytes()),
        )
        for t in ticks
    ]


@pytest.fixture(scope="module")
def bag(tmp_path_factory):
    return write_recording(tmp_path_factory.mktemp("bag") / "bag", seconds=2.0, words=("lift", "drop"))


@pytest.fixture(scope="module")
def expected(bag):
    *ticks, loss = seen(bag)
    assert loss == "" and sum(t.observation is not None for t in ticks) > 15
    return key(ticks)


STORED = [(storage, mode) for storage in StoragePlugin for mode in CompressionMode]
STORED.remove((StoragePlugin.SQLITE3, CompressionMode.STORAGE))  # sqlite3 has no compression of its own


@pytest.mark.parametrize(("storage", "mode"), STORED, ids=lambda choice: choice.name)
def test_every_storage_and_compression_gives_the_same_observations(tmp_path, bag, expected, storage, mode):
    *ticks, _ = seen(recompressed(bag, tmp_path / "copy", mode, storage))
    assert key(ticks) == expected


@pytest.mark.parametrize("mode", [CompressionMode.NONE, CompressionMode.MESSAGE, CompressionMode.FILE])
def test_a_single_file_is_as_good_as_its_folder(tmp_path, bag, expected, mode):
    folder = recompressed(bag, tmp_path / "copy", mode)
    (file,) = (path for path in folder.iterdir() if path.name != "metadata.yaml")
    *ticks, _ = seen(file)
    assert key(ticks) == expected


def split(bag, path, at_ns):
    """The bag as two files with one metadata, as a recorder with a size limit leaves it."""
    path.mkdir()
    parts = []
    for index, (start, stop) in enumerate([(None, at_ns), (at_ns, None)]):
        part = path.parent / f"part_{index}"
        with AnyReader([bag]) as reader, Writer(part, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
            copies = {
                c.topic: writer.add_connection(
                    c.topic, c.msgtype, typestore=reader.typestore, offered_qos_profiles=c.ext.offered_qos_profiles
                )
                for c in reader.connections
            }
            for connection, stamp, data in reader.messages(start=start, stop=stop):
                writer.write(copies[connection.topic], stamp, data)
        shutil.move(part / f"part_{index}.mcap", path / f"part_{index}.mcap")
        parts.append(f"part_{index}.mcap")
    about = yaml.safe_load((bag / "metadata.yaml").read_text())
    about["rosbag2_bagfile_information"]["relative_file_paths"] = parts
    del about["rosbag2_bagfile_information"]["files"]
    (path / "metadata.yaml").write_text(yaml.safe_dump(about))
    return path


def test_split_bags_are_one_bag(tmp_path, bag, expected):
    path = split(bag, tmp_path / "split", START + 12 * PERIOD + 7)
    *ticks, _ = seen(path)
    assert key(ticks) == expected
    (path / "metadata.yaml").unlink()  # the recorder was killed: its files are all there is
    *ticks, loss = seen(path)
    assert key(ticks) == expected and loss == ""  # and each of them was closed


def test_an_sqlite3_bag_without_its_metadata_is_whole(tmp_path, bag, expected):
    copy = recompressed(bag, tmp_path / "copy", CompressionMode.NONE, StoragePlugin.SQLITE3)
    (copy / "metadata.yaml").unlink()
    *ticks, loss = seen(copy)
    assert key(ticks) == expected and loss == ""


def test_a_recording_that_broke_off_is_read_up_to_there_and_says_so(tmp_path, bag, expected):
    copy = tmp_path / "copy"
    shutil.copytree(bag, copy)
    (data,) = copy.glob("*.mcap")
    data.write_bytes(data.read_bytes()[: data.stat().st_size * 6 // 10])
    for metadata in (True, False):
        if not metadata:
            (copy / "metadata.yaml").unlink()
        *ticks, loss = seen(copy)
        count = sum(t.observation is not None for t in ticks)
        assert 5 < count < sum(entry[3] is not None for entry in expected)
        assert key(ticks)[:5] == expected[:5]
        assert "broken off" in loss


def test_damage_in_the_middle_is_passed_over_and_stated(tmp_path, bag, expected):
    copy = recompressed(bag, tmp_path / "copy", CompressionMode.STORAGE)
    (data,) = copy.glob("*.mcap")
    content = bytearray(data.read_bytes())
    middle = len(content) * 2 // 3
    content[middle : middle + 2000] = bytes(2000)
    data.write_bytes(content)
    *ticks, loss = seen(copy)
    assert key(ticks)[:5] == expected[:5] and key(ticks) != expected
    assert "chunk at byte" in loss and "is damaged" in loss


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: None, "does not exist"),
        (lambda path: path.mkdir(), "neither metadata.yaml nor .mcap nor .db3"),
        (lambda path: path.write_bytes(b"not a bag"), "expected a folder, or a file that ends in .mcap or .db3"),
        (lambda path: (path.mkdir(), (path / "a.mcap").write_bytes(b"nonsense, but long enough")), "cannot read"),
        (lambda path: (path.mkdir(), (path / "a.db3").write_bytes(b"nonsense")), "cannot read"),
    ],
    ids=["missing", "empty folder", "no bag", "no mcap", "no sqlite3"],
)
def test_what_is_no_bag_is_refused_with_the_reason(tmp_path, make, said):
    make(tmp_path / "bag")
    with pytest.raises(BagError, match=said):
        BagReader(tmp_path / "bag")


def test_a_missing_topic_is_named_with_what_the_bag_has(bag):
    with pytest.raises(BagError, match=r"no messages on arm/pose; it has .*image_raw/compressed \(sensor_msgs"):
        seen(bag, remaps=["current_pose:=/arm/pose"])


def test_a_topic_of_another_type_is_named_with_what_was_expected(bag):
    said = "joint_states is sensor_msgs/msg/JointState, expected geometry_msgs.*; it has .*image_raw/compressed"
    with pytest.raises(BagError, match=said):
        seen(bag, remaps=["current_pose:=joint_states"])


def test_a_topic_that_may_be_lacking_is_left_out_where_it_is_of_another_type(tmp_path):
    text = get_typestore(Stores.ROS2_JAZZY).types["std_msgs/msg/String"]
    with BagWriter(tmp_path / "bag") as writer:
        writer.instruction(START, "lift")
        write_step(writer, START, 0, targets=False)
        for topic in ("target_pose", "gripper_command"):
            writer.write(topic, START, text("none of yours"))
    with BagReader(tmp_path / "bag") as source:
        topics = find_topics(source, read(None, {}, {}), CAMERAS)
        assert not {"target_pose", "gripper_command"} & topics.keys() and "current_pose" in topics
        said = [
            "target_pose is std_msgs/msg/String, expected geometry_msgs/msg/PoseStamped",
            "gripper_command is std_msgs/msg/String, expected std_msgs/msg/Float64MultiArray",
        ]
        assert mistyped_topics(source, topics) == said
        with pytest.raises(BagError, match="target_pose is std_msgs/msg/String"):
            find_topics(source, read(None, {}, {"target_pose": "/target_pose"}), CAMERAS)


def test_stamps_of_another_clock_are_refused_with_how_far_they_are(tmp_path, bag):
    with AnyReader([bag]) as old, Writer(tmp_path / "late", version=8, storage_plugin=StoragePlugin.MCAP) as writer:
        copies = {c.id: writer.add_connection(c.topic, c.msgtype, typestore=old.typestore) for c in old.connections}
        for connection, at, data in old.messages():
            writer.write(copies[connection.id], at + 3600 * NANOSECONDS, data)
    with pytest.raises(BagError, match="current_pose is stamped 3600.0 s from its arrival.*--use-sim-time"):
        seen(tmp_path / "late")


def test_a_topic_cannot_serve_twice(bag):
    with pytest.raises(BagError, match="current_pose cannot be both current_pose and target_pose"):
        seen(bag, remaps=["target_pose:=current_pose"])


def test_a_bag_without_an_instruction_says_how_to_give_one(bag):
    with pytest.raises(BagError, match="--instruction"):
        seen(bag, remaps=["instruction:=/task"])
    *ticks, _ = seen(bag, said="lift the red cube", remaps=["instruction:=/task"])
    assert {t.instruction for t in ticks} == {"lift the red cube"} and {t.episode for t in ticks} == {0}


def test_another_robots_bag_needs_names_and_nothing_else(tmp_path):
    path = foreign(tmp_path / "bag")
    remaps = ["instruction:=/ur/task", "current_pose:=/ur/tcp", "joint_states:=/ur/joints"]
    remaps += ["camera/base/image_raw:=/zed/left/color", "camera/wrist/image_raw:=/hand/color"]
    *ticks, loss = seen(path, remaps=remaps, params=["base_frame:=ur_base_link", "finger_joints:=[finger, finger]"])
    ready = [t.observation for t in ticks if t.observation]
    assert len(ready) >= 14 and not loss
    assert ready[0].gripper == pytest.approx(0.08) and ready[0].images["base"].shape == (96, 128, 3)


def test_episodes_follow_the_instruction_and_a_range_knows_what_was_said_before_it(bag):
    *ticks, _ = seen(bag)
    assert [t.instruction for t in ticks if t.episode == 0][0] == "lift"
    assert {t.instruction for t in ticks if t.episode == 1} == {"drop"}
    assert all(not t.instruction and t.observation is None for t in ticks if t.episode == -1)
    assert [t.cut_ns for t in ticks if t.cut_ns and t.episode == -1] == [START + 20 * PERIOD - 1000]
    *ticks, _ = seen(bag, (3.4, 4.0))
    assert {(t.episode, t.instruction) for t in ticks} == {(0, "drop")}
    assert len(ticks) == 3 and all(t.observation for t in ticks)


def test_a_range_knows_the_opening_that_was_commanded_before_it(tmp_path):
    with BagWriter(tmp_path / "bag") as writer:
        for step in range(60):
            for at, opening in ((5, 0.08), (20, 0.03)):
                if step == at:
                    writer.gripper_command(START + step * PERIOD, opening)
            write_step(writer, START + step * PERIOD, step)
    for start, openings in ((5.0, [0.03]), (3.0, [0.08, 0.03]), (0.0, [0.08, 0.03])):
        *ticks, _ = seen(tmp_path / "bag", (start, start + 0.9), said="lift")
        arrived = [message.data[0] for t in ticks for role, _, message in t.arrived if role == "gripper_command"]
        assert arrived == openings[: len(arrived)] and (arrived or start == 0.0)


def test_a_pause_in_the_recording_is_passed_in_one_step(tmp_path):
    with BagWriter(tmp_path / "bag") as writer:
        for begins in (START, START + 600 * PERIOD):
            for step in range(10):
                write_step(writer, begins + step * PERIOD, step)
    *ticks, _ = seen(tmp_path / "bag", said="lift")
    (after,) = (tick for tick in ticks if tick.paused)
    assert len(ticks) < 15 and 0 <= START + 600 * PERIOD - after.now_ns < 2 * PERIOD


def test_markers_separate_episodes(tmp_path):
    text = get_typestore(Stores.ROS2_JAZZY).types["std_msgs/msg/String"]
    with BagWriter(tmp_path / "bag") as writer:
        for step in range(20):
            if step == 10:
                writer.write("cut", START + step * PERIOD - 1000, text("next"))
            write_step(writer, START + step * PERIOD, step)
    *ticks, _ = seen(tmp_path / "bag", said="lift", markers="/cut")
    assert [t.episode for t in ticks] == [0] * 4 + [1] * (len(ticks) - 4)
    assert [t.cut_ns for t in ticks if t.cut_ns] == [START + 10 * PERIOD - 1000]


def test_a_tick_sees_what_was_received_up_to_it_and_nothing_later(bag):
    *ticks, _ = seen(bag)
    for tick in ticks:
        assert all(received_ns <= tick.now_ns for _, received_ns, _ in tick.arrived)
        if tick.observation:
            assert 0 <= tick.now_ns - tick.observation.stamp_ns < PERIOD


class Looped(BagReader):
    """A bag that is played twice: the clock jumps back in the middle."""

    def messages(self, *arguments):
        for _ in range(2):
            yield from super().messages(*arguments)


def test_a_clock_that_jumps_back_starts_afresh_and_sees_the_same_again(bag):
    settings = read(None, {}, {})
    with Looped(bag) as source:
        topics = find_topics(source, settings, CAMERAS)
        generator = TickGenerator(source, topics, CAMERAS, settings.policy)
        ticks = list(generator.ticks(Span(source.start_ns, source.end_ns)))
    (back,) = (index for index, tick in enumerate(ticks) if tick.back)
    stamps = [[t.observation.stamp_ns for t in part if t.observation] for part in (ticks[:back], ticks[back:])]
    assert len(stamps[1]) > 15 and set(stamps[1]) <= set(stamps[0])


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ({"rate_hz": "0.0"}, r"'rate_hz' is 0.0, expected a float such as 5.0 in \[0.1, 100\]"),
        ({"finger_joint": "[a]"}, "did you mean 'finger_joints'"),
        ({"gripper_close_below": "0.06"}, "contradict"),
        ({"finger_joints": "[a, b"}, r"'finger_joints' is '\[a, b' is no YAML"),
        ({"base_frame": "{a: b}"}, "'base_frame' is '{a: b}', expected a value"),
        ({"grids_sim:seed": "1"}, "there is no node grids_sim, expected grids_policy or grids_follower"),
    ],
)
def test_parameters_are_held_to_the_nodes_own_table(overrides, said):
    with pytest.raises(ParameterError, match=said):
        read(None, overrides, {})


def test_the_parameter_file_of_the_nodes_is_read(tmp_path):
    file = tmp_path / "arm.yaml"
    file.write_text("/**/grids_policy: {ros__parameters: {rate_hz: 8.0}}\n/**/grids_follower: {ros__parameters: {}}\n")
    assert read(file, {}, {}).policy.rate_hz == 8.0
    assert (read(file, {}, {}).gripper_scale, read(file, {"gripper_scale": "12.5"}, {}).gripper_scale) == (1.0, 12.5)
    file.write_text("/**/grids_policy: {ros__parameters: {rate: 8.0}}\n")
    with pytest.raises(ParameterError, match="'rate' is unknown to grids_policy"):
        read(file, {}, {})
    file.write_text("other: {}\n")
    with pytest.raises(ParameterError, match="grids_policy or grids_follower"):
        read(file, {}, {})


@pytest.mark.parametrize("section", ["/left: {grids_policy: %s}", "/left/grids_policy: %s", "a: {b/grids_policy: %s}"])
def test_a_namespace_may_be_nested_or_written_out(tmp_path, section):
    file = tmp_path / "arm.yaml"
    file.write_text(section % "{ros__parameters: {rate_hz: 8.0}}")
    assert read(file, {}, {}).policy.rate_hz == 8.0


def test_what_a_file_says_to_all_nodes_holds_for_each(tmp_path):
    file = tmp_path / "arm.yaml"
    file.write_text(
        "/**: {ros__parameters: {base_frame: fr3_link0, pose_max_age_s: 0.2, use_sim_time: true}}\n"
        "/**/grids_policy: {ros__parameters: {pose_max_age_s: 0.3}}\n"
    )
    settings = read(file, {}, {})
    assert settings.policy.base_frame == "fr3_link0"
    assert (settings.policy.pose_max_age_s, settings.follower.max_pose_age_s) == (0.3, 0.2)


def test_the_rate_of_chunks_is_not_that_of_the_follower():
    settings = read(None, {"rate_hz": "10.0", "grids_follower:rate_hz": "50.0"}, {})
    assert (settings.policy.rate_hz, settings.follower.period_s) == (10.0, 0.02)
    settings = read(None, {"rate_hz": "10.0"}, {})
    assert (settings.policy.rate_hz, settings.follower.period_s) == (10.0, 0.01)


@pytest.mark.parametrize(
    ("remap", "said"),
    [
        ("target_pose:=/servo/typo", "no messages on servo/typo"),
        ("gripper_comand:=/x", "--remap of gripper_comand: expected one of camera/base/image_raw, .*gripper_command"),
    ],
)
def test_a_remap_that_leads_nowhere_is_refused_even_of_what_a_bag_may_lack(bag, remap, said):
    with pytest.raises(BagError, match=said):
        seen(bag, remaps=[remap])


@pytest.mark.parametrize("text", ["a", "a:=", ":=b", "a=b"])
def test_a_remap_that_is_none_is_refused(text):
    with pytest.raises(ValueError, match="expected from:=to"):
        assignments([text], "--remap")
