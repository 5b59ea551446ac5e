"""One recording, three ways: training, replay and the live node's inputs give the same pairs of images and poses.

Cameras of different rates, with jitter, transport delays and drops; poses and openings fast and slow.
"""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest
from recording import DOWN, FINGERS

from grids_ros.data.bags import read_episodes
from grids_ros.data.reader import BagReader
from grids_ros.data.settings import find_topics, read, topics_of
from grids_ros.data.writer import BagWriter
from grids_ros.datatypes import NANOSECONDS, Pose
from grids_ros.replay.ticks import Span, TickGenerator

MS = NANOSECONDS // 1000
START = 100 * NANOSECONDS
SECONDS = 1.5
CAMERAS = ("base", "wrist")
RATES = [(30, 10, 1000), (30, 10, 30), (5, 15, 1000), (5, 15, 30)]
AGES = {"camera_max_age_s": "[0.6]", "rate_hz": "50.0"}


def position(stamp_ns: int) -> np.ndarray:
    """Where the arm is [m] at this time: it moves at 0.3 m/s."""
    return np.array([0.4, 0.3 * (stamp_ns - START) / NANOSECONDS - 0.3, 0.3])


def stream(rng, rate_hz: float, delay_ms: float, jitter_ms: float, drops: float) -> list[tuple[int, int]]:
    """Arrival and stamp [ns] of each message; a stream keeps its order."""
    found, arrival = [], 0
    for step in range(int(SECONDS * rate_hz)):
        stamp = START + round((step / rate_hz + rng.uniform(0, jitter_ms) / 1e3) * NANOSECONDS)
        arrival = max(arrival + 1, stamp + round((delay_ms + rng.exponential(jitter_ms)) * MS))
        if rng.random() >= drops:
            found.append((arrival, stamp))
    return found


def record(path, base_hz: float, wrist_hz: float, pose_hz: float):
    """A bag whose log times are times of arrival."""
    rng = np.random.default_rng([int(base_hz), int(wrist_hz), int(pose_hz)])
    images = {"base": stream(rng, base_hz, 20, 5, 0.1), "wrist": stream(rng, wrist_hz, 35, 8, 0.1)}
    poses, joints = stream(rng, pose_hz, 1, 1, 0.02), stream(rng, min(pose_hz, 100), 2, 1, 0.02)
    with BagWriter(path) as bag:
        bag.instruction(START - 1000, "lift the red cube")
        for name, entries in images.items():
            for arrival, stamp in entries:
                shade = np.full((4, 4, 3), (stamp // MS) % 251, np.uint8)
                delayed(bag, arrival, "image", name, stamp, shade)
        for arrival, stamp in poses:
            delayed(bag, arrival, "current_pose", stamp, Pose(position(stamp), DOWN))
            delayed(bag, arrival, "target_pose", stamp, Pose(position(stamp), DOWN))
        for arrival, stamp in joints:
            fingers = 0.02 + 0.01 * (stamp - START) / NANOSECONDS
            delayed(bag, arrival, "joint_states", stamp, FINGERS, [fingers] * 2, [0.0] * 2)
    return path


def delayed(bag: BagWriter, arrival: int, kind: str, *arguments) -> None:
    """Write one message that was logged when it arrived, later than its stamp."""
    write = bag.write
    try:
        bag.write = lambda topic, stamp_ns, message: write(topic, arrival, message)
        getattr(bag, kind)(*arguments)
    finally:
        del bag.write


def key(stamp_ns, image_stamps_ns, pose, gripper) -> tuple:
    """Everything that a pair is, to be compared bit for bit."""
    return stamp_ns, tuple(sorted(image_stamps_ns.items())), tuple(pose.position), tuple(pose.quaternion), gripper


def trained(path) -> list[tuple]:
    settings = read(None, AGES, {})
    (episode,) = read_episodes(path, topics_of(path, settings, CAMERAS))
    return [key(seen.stamp_ns, seen.image_stamps_ns, seen.pose, seen.gripper) for seen in episode.observations]


def replayed(path) -> list[tuple]:
    settings = read(None, AGES, {})
    with BagReader(path) as source:
        generator = TickGenerator(source, find_topics(source, settings, CAMERAS), CAMERAS, settings.policy)
        ticks = generator.ticks(Span(source.start_ns, source.end_ns))
        seen = [tick.observation for tick in ticks if tick.observation is not None]
    pairs = [key(o.stamp_ns, o.image_stamps_ns, o.pose, o.gripper) for o in seen]
    return [pair for index, pair in enumerate(pairs) if index == 0 or pair != pairs[index - 1]]


@pytest.fixture(scope="module", params=RATES, ids=lambda rates: "-".join(map(str, rates)))
def bag(request, tmp_path_factory):
    return record(tmp_path_factory.mktemp("recording") / "bag", *request.param)


def test_replay_sees_what_training_sees(bag):
    samples, ticks = trained(bag), replayed(bag)
    assert len(samples) > 5
    assert set(ticks) <= set(samples), "each observation of replay is a sample"
    assert len(ticks) > 0.8 * len(samples), "ticks of 50 Hz miss few of them"


def test_no_skew_is_larger_than_half_a_period_but_for_drops_and_no_pose_is_off(bag):
    settings = read(None, AGES, {})
    (episode,) = read_episodes(bag, topics_of(bag, settings, CAMERAS))
    skews = [np.ptp(list(seen.image_stamps_ns.values())) / MS for seen in episode.observations]
    stamps = [sorted({seen.image_stamps_ns[name] for seen in episode.observations}) for name in CAMERAS]
    slowest_ms = max(np.median(np.diff(of_one)) for of_one in stamps) / MS
    assert np.median(skews) <= slowest_ms / 2
    for seen in episode.observations:
        np.testing.assert_allclose(seen.pose.position, position(seen.stamp_ns), atol=2e-9)
        assert seen.gripper == pytest.approx(0.04 + 0.02 * (seen.stamp_ns - START) / NANOSECONDS, abs=1e-3)


def test_the_live_inputs_see_what_training_sees(bag):
    """Over DDS: each message is published and taken in before the next, so no timing decides."""
    pytest.importorskip("rclpy", reason="the ROS layer needs rclpy")
    assert live(bag) == trained(bag)


def live(path) -> list[tuple]:
    """The pairs that PolicyInputs makes of the bag's messages, as they become complete."""
    from geometry_msgs.msg import PoseStamped
    from ros_harness import Ros, until
    from sensor_msgs.msg import CompressedImage, JointState

    from grids_ros.ros import qos
    from grids_ros.ros.inputs import PolicyInputs

    types = {"/current_pose": (PoseStamped, qos.MEASURED), "/joint_states": (JointState, qos.MEASURED)}
    types |= {f"/camera/{name}/image_raw/compressed": (CompressedImage, qos.NEWEST) for name in CAMERAS}
    settings = replace(read(None, AGES, {}).policy, camera_topics=("camera/{name}/image_raw/compressed",))
    ros, pairs = Ros(), []
    try:
        inputs = PolicyInputs(ros.bench, CAMERAS, settings, lambda words: None)
        publishers = {topic: ros.publisher(kind, topic, profile) for topic, (kind, profile) in types.items()}
        until(lambda: all(p.get_subscription_count() for p in publishers.values()), "the subscriptions")
        taken = []
        add = inputs._buffer.add
        inputs._buffer.add = lambda *message: taken.append(add(*message))
        for arrival, topic, data in messages(path, types):
            count = len(taken)
            publishers[topic].publish(data)
            for _ in range(2000):  # faster than `until`, for thousands of messages
                inputs.drain()
                if len(taken) > count:
                    break
                time.sleep(0.001)
            assert len(taken) == count + 1, f"a message on {topic} has not come"
            snapshot = inputs._buffer.align()
            if snapshot is not None:
                seen = key(snapshot.stamp_ns, snapshot.image_stamps_ns, snapshot.pose, snapshot.gripper)
                if not pairs or pairs[-1] != seen:
                    inputs.observe("lift the red cube", arrival)
                    pairs.append(seen)
    finally:
        ros.close()
    return pairs


def messages(path, types) -> list[tuple[int, str, bytes]]:
    with BagReader(path) as source:
        held = [connection for connections in source.topics.values() for connection in connections]
        wanted = [connection for connection in held if f"/{connection.topic.lstrip('/')}" in types]
        return [(at, f"/{c.topic.lstrip('/')}", bytes(data)) for c, at, data in source.raw(wanted)]
