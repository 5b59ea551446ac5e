"""Bags: what is written is read back, by our reader and by rosbags', whatever the storage and the topic names."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from recording import recompressed
from rosbags.highlevel import AnyReader
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.rosbag2.enums import CompressionMode
from rosbags.typesys import Stores, get_typestore
from step_bag import CAMERAS, DOWN, NAMES, START, STEP, picture, pose, write_bag, write_step

from grids_ros.data.bags import read_episodes
from grids_ros.data.reader import BagError
from grids_ros.data.topics import Topics
from grids_ros.data.writer import BagWriter
from grids_ros.datatypes import NANOSECONDS, Pose
from grids_ros.observation.images import to_rgb


@pytest.mark.parametrize("storage", list(StoragePlugin), ids=lambda plugin: plugin.name.lower())
def test_episodes_come_back_as_they_were_written(tmp_path, storage):
    write_bag(tmp_path / "written")
    recompressed(tmp_path / "written", tmp_path / "bag", CompressionMode.NONE, storage)
    episodes = list(read_episodes(tmp_path / "bag"))
    assert [episode.instruction for episode in episodes] == ["lift the red cube", "lift the blue cube"]
    for index, episode in enumerate(episodes):
        stamps = START + index * 5 * STEP + np.arange(4) * STEP
        before = [stamps[0] - STEP] * index  # what was seen last when the second instruction came
        assert [seen.stamp_ns for seen in episode.observations] == [*before, *stamps.tolist()]
        for step, seen in enumerate(episode.observations[index:]):
            np.testing.assert_array_equal(seen.pose.position, pose(step).position)
            assert seen.gripper == pytest.approx(0.03 + 0.001 * step)
            for camera in CAMERAS:
                np.testing.assert_array_equal(to_rgb(seen.images[camera][1]), picture(camera, step))
        np.testing.assert_array_equal(episode.poses[0], stamps)
        np.testing.assert_allclose(episode.poses[1], [pose(step).position for step in range(4)])
        np.testing.assert_allclose(episode.poses[2], [DOWN] * 4)
        np.testing.assert_allclose(episode.targets[1], [pose(step + 1).position for step in range(4)])
        np.testing.assert_allclose(episode.grippers[1], 0.03 + 0.001 * np.arange(4))
        held = index  # from the episode before: the hand is still closed
        np.testing.assert_array_equal(episode.gripper_commands[0], [START + 3 * STEP] * held + [stamps[0], stamps[3]])
        np.testing.assert_array_equal(episode.gripper_commands[1], [0.0] * held + [0.08, 0.0])
        assert episode.objects[1].shape == (4, 2, 3)


def test_a_hand_that_was_told_in_its_own_numbers_is_read_in_metres(tmp_path):
    """As the follower's gripper_scale has it: 12.5 makes 1 of 0.08 m."""
    write_bag(tmp_path / "bag", words=("lift the red cube",))
    (episode,) = read_episodes(tmp_path / "bag", Topics(gripper_scale=0.08))
    np.testing.assert_allclose(episode.gripper_commands[1], [1.0, 0.0])


def test_rosbags_reads_it_with_the_types_that_the_bag_carries(tmp_path):
    write_bag(tmp_path / "bag")
    with AnyReader([tmp_path / "bag"]) as reader:
        counts = {connection.topic: connection.msgcount for connection in reader.connections}
        stamps = [stamp for _, stamp, _ in reader.messages()]
        for connection, _, raw in reader.messages():
            message = reader.deserialize(raw, connection.msgtype)
            if connection.topic == "/camera/wrist/image_raw/compressed":
                assert message.header.frame_id == "wrist_camera_optical_frame" and message.format == "png"
            if connection.topic == "/target_pose":
                assert message.header.frame_id == "base"
    assert counts["/camera/base/image_raw/compressed"] == counts["/current_pose"] == 10
    assert counts["/instruction"] == counts["/gripper_command"] == 4
    assert stamps == sorted(stamps)


def test_topics_are_configurable_and_a_leading_slash_makes_no_difference(tmp_path):
    topics = Topics(cameras={name: f"/robot/{name}/colour" for name in CAMERAS}, current_pose="/robot/pose")
    write_bag(tmp_path / "bag", topics=topics)
    bare = Topics(cameras={name: f"robot/{name}/colour" for name in CAMERAS}, current_pose="robot/pose")
    for chosen in (topics, bare):
        assert [len(episode.observations) for episode in read_episodes(tmp_path / "bag", chosen)] == [4, 5]


def test_a_missing_topic_is_named_beside_those_that_are_there(tmp_path):
    write_bag(tmp_path / "bag")
    topics = Topics(cameras={"base": "camera/base/image_raw/compressed", "top": "camera/top/image_raw"})
    with pytest.raises(BagError, match=r"no topic camera/top/image_raw; it has .*camera/base.*CompressedImage.*joint"):
        next(read_episodes(tmp_path / "bag", topics))
    with pytest.raises(BagError, match="current_pose is geometry_msgs/msg/PoseStamped, expected sensor_msgs/msg/Image"):
        next(read_episodes(tmp_path / "bag", Topics(cameras={"base": "current_pose"})))


def test_the_objects_labels_may_be_missing(tmp_path):
    write_bag(tmp_path / "bag")
    episodes = list(read_episodes(tmp_path / "bag", Topics(object_poses="not_there")))
    assert len(episodes) == 2 and all(len(episode.objects[0]) == 0 for episode in episodes)


def test_what_was_asked_of_the_hand_before_the_instruction_still_holds(tmp_path):
    """`gripper_command` is sent on change only: a hand that was opened long ago is silent when the task begins."""
    with BagWriter(tmp_path / "bag") as bag:
        bag.gripper_command(START - 9 * STEP, 0.0)
        bag.gripper_command(START - 8 * STEP, 0.08)
        bag.instruction(START - 1000, "lift it")
        for step in range(3):
            write_step(bag, START + step * STEP, step)
    (episode,) = read_episodes(tmp_path / "bag")
    assert [list(column) for column in episode.gripper_commands] == [[START - 8 * STEP], [0.08]]


def test_a_bag_without_targets_is_read_as_one_whose_arm_was_asked_for_what_it_did(tmp_path):
    write_bag(tmp_path / "bag")
    topics = Topics(target_pose="", gripper_command="")
    for episode in read_episodes(tmp_path / "bag", topics):
        for target, pose_ in zip(episode.targets, episode.poses, strict=True):
            np.testing.assert_array_equal(target, pose_)
        assert len(episode.gripper_commands[0]) == 0


def test_what_was_done_may_be_said_in_place_of_the_topic_and_markers_begin_episodes(tmp_path):
    with BagWriter(tmp_path / "bag") as bag:
        for step in range(6):
            if step in (1, 4):
                bag.gripper_command(START + step * STEP - 10, 0.08)  # any topic will do as a marker
            write_step(bag, START + step * STEP, step)
    topics = Topics(instruction="", gripper_command="", marker="gripper_command", given_instruction="lift it")
    episodes = list(read_episodes(tmp_path / "bag", topics))
    assert [(episode.instruction, len(episode.poses[0])) for episode in episodes] == [("lift it", n) for n in (1, 3, 2)]


def test_what_no_node_would_take_is_passed_over(tmp_path):
    """A second pose of one stamp, as of a follower faster than /clock; quaternions and fingers that are none."""
    with BagWriter(tmp_path / "bag") as bag:
        bag.instruction(START - 1000, "lift it")
        for step in range(3):
            write_step(bag, START + step * STEP, step)
        bag.target_pose(START + 2 * STEP, pose(50))
        for x in (0.0, 2.0, np.nan):
            broken = SimpleNamespace(position=(0.4, 0.0, 0.2), quaternion=(x, 0.0, 0.0, 0.0))
            bag.current_pose(START + 3 * STEP, broken)
        bag.joint_states(START + 3 * STEP, NAMES, [0.1, np.nan, 0.03], [0.0] * 3)
        bag.gripper_command(START + 3 * STEP, np.nan)
    (episode,) = read_episodes(tmp_path / "bag")
    assert len(episode.poses[0]) == len(episode.targets[0]) == len(episode.grippers[0]) == 3
    np.testing.assert_array_equal(episode.targets[1][-1], pose(3).position)
    assert len(episode.gripper_commands[0]) == 0
    passed_over = {name: count for name, (count, _) in episode.passed_over.items()}
    assert passed_over == {"current_pose": 3, "joint_states": 1, "gripper_command": 1}


def test_what_is_asked_of_the_hand_is_put_on_the_clock_of_the_stamps(tmp_path):
    """Recorded from a simulation: stamps count from its start, and only the arrival of a command is known."""
    wall = 1_700_000_000 * NANOSECONDS
    with BagWriter(tmp_path / "bag") as bag:
        real = bag.write
        bag.write = lambda topic, stamp_ns, message: real(topic, wall + stamp_ns, message)
        bag.gripper_command(START - 9000, 0.0)  # before anything tells the clocks apart
        bag.current_pose(START - 5000, pose(0))
        bag.instruction(START - 1000, "lift it")
        for step in range(3):
            write_step(bag, START + step * STEP, step)
        bag.gripper_command(START + 2 * STEP + 5000, 0.08)
    (episode,) = read_episodes(tmp_path / "bag")
    assert episode.gripper_commands[0].tolist() == [START - 9000, START + 2 * STEP + 5000]
    assert episode.gripper_commands[1].tolist() == [0.0, 0.08]


def test_poses_in_another_frame_are_passed_over_and_counted(tmp_path):
    write_bag(tmp_path / "bag", words=("lift it",))
    (episode,) = read_episodes(tmp_path / "bag", Topics(base_frame="world"))
    for name in ("current_pose", "target_pose"):
        count, why = episode.passed_over[name]
        assert count == 4 and "in frame 'base', expected 'world'" in why
    assert len(episode.targets[0]) == 0


def test_what_is_no_bag_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "metadata.yaml").write_text("rosbag2_bagfile_information: [")
    for name in ("nowhere", "empty", "broken"):
        with pytest.raises(BagError, match=name):
            next(read_episodes(tmp_path / name))


def test_an_existing_folder_is_never_written_into(tmp_path):
    with pytest.raises(BagError, match="exists already"):
        BagWriter(tmp_path)


def test_a_repeated_instruction_continues_its_episode_and_another_one_ends_it(tmp_path):
    with BagWriter(tmp_path / "bag") as bag:
        bag.gripper_command(START - STEP, 0.08)
        for step, words in enumerate(["lift it", "lift it", " lift it ", "drop it"]):
            bag.instruction(START + step * STEP - 1000, words)
            write_step(bag, START + step * STEP, step)
    episodes = list(read_episodes(tmp_path / "bag"))
    assert [(episode.instruction, len(episode.poses[0])) for episode in episodes] == [("lift it", 3), ("drop it", 1)]


def test_raw_images_are_read_and_those_without_a_stamp_are_passed_over_and_counted(tmp_path):
    """As a driver would record them: uncompressed, BGR, with padded rows; one has a header that nobody filled in."""
    store = get_typestore(Stores.ROS2_HUMBLE)
    rows = np.zeros((8, 40), np.uint8)
    rows[:, :36] = picture("base", 0)[..., ::-1].reshape(8, 36)
    topics = Topics(cameras={"base": "camera/base/image_raw"})
    with BagWriter(tmp_path / "bag", topics) as bag:
        bag.instruction(START, "lift it")
        write_rest(bag)
        bag.joint_states(START, NAMES, [0.1, 0.02, 0.03], [0.0] * 3)
        for stamp in (START, 0):
            time = store.types["builtin_interfaces/msg/Time"](*divmod(stamp, NANOSECONDS))
            header = store.types["std_msgs/msg/Header"](time, "")
            image = store.types["sensor_msgs/msg/Image"](header, 8, 12, "bgr8", 0, 40, rows.reshape(-1))
            bag.write("camera/base/image_raw", START + 7, image)
    (episode,) = read_episodes(tmp_path / "bag", topics)
    (seen,) = episode.observations
    np.testing.assert_array_equal(to_rgb(seen.images["base"][1]), picture("base", 0))
    count, fault = episode.passed_over["image:base"]
    assert count == 1 and "stamp of zero" in fault


def write_rest(bag: BagWriter) -> None:
    bag.current_pose(START, pose(0))
    bag.target_pose(START, pose(0))
    bag.gripper_command(START, 0.0)
    bag.joint_states(START, NAMES[:1], [0.1], [0.0])  # the arm's own message, without fingers


def test_joint_states_without_fingers_say_nothing_about_the_gripper(tmp_path):
    with BagWriter(tmp_path / "bag") as bag:
        bag.instruction(START, "lift it")
        for camera in CAMERAS:
            bag.image(camera, START, picture(camera, 0))
        write_rest(bag)
        bag.joint_states(START + STEP, NAMES, [0.1, 0.02, 0.03], [0.0] * 3)
    (episode,) = read_episodes(tmp_path / "bag")
    assert episode.grippers[0].tolist() == [START + STEP] and episode.grippers[1] == pytest.approx([0.05])


def test_episodes_are_read_one_at_a_time(tmp_path):
    """The first episode is there before the end of the bag has been looked at."""
    store = get_typestore(Stores.ROS2_JAZZY)
    path = tmp_path / "bag"
    write_bag(path)
    damaged = tmp_path / "damaged"
    with AnyReader([path]) as reader, Writer(damaged, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        copies = {
            connection.id: writer.add_connection(connection.topic, connection.msgtype, typestore=store)
            for connection in reader.connections
        }
        for connection, stamp, raw in reader.messages():
            late = stamp > START + 6 * STEP and connection.topic == "/current_pose"
            writer.write(copies[connection.id], stamp, bytes(raw)[:8] if late else raw)
    episodes = read_episodes(damaged)
    assert next(episodes).instruction == "lift the red cube"
    second = next(episodes)
    count, why = second.passed_over["current_pose"]
    assert (len(second.poses[0]), count) == (2, 2) and why


def test_a_recording_that_broke_off_is_refused_by_name(tmp_path):
    write_bag(tmp_path / "bag")
    (data,) = (tmp_path / "bag").glob("*.mcap")
    data.write_bytes(data.read_bytes()[: data.stat().st_size // 2])
    with pytest.raises(BagError, match="bag"):
        list(read_episodes(tmp_path / "bag"))


def test_object_poses_of_another_number_are_passed_over(tmp_path):
    with BagWriter(tmp_path / "bag") as bag:
        bag.instruction(START - 1000, "lift")
        bag.gripper_command(START, 0.08)
        for step in range(6):
            write_step(bag, START + step * STEP, step)
        at = START + 3 * STEP
        unknown = np.full(3, np.nan)
        for places in ([pose(1)] * 3, [], [pose(1), (np.inf, 0.0, 0.0)], [(1.0, np.nan, 0.0)] * 2, [pose(1), unknown]):
            message = bag._new(
                "geometry_msgs/msg/PoseArray", bag._header(at), [bag._pose_message(pose(1)) for _ in places]
            )
            for entry, place in zip(message.poses, places, strict=True):
                if not isinstance(place, Pose):
                    entry.position.x, entry.position.y, entry.position.z = place
            bag.write("object_poses", at, message)
    (episode,) = read_episodes(tmp_path / "bag")
    assert episode.objects[1].shape == (7, 2, 3) and len(episode.observations) == 6
    assert dict(episode.passed_over) == {"object_poses": (4, "object_poses: a position is NaN in part, or infinite")}
