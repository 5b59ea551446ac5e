"""Replay against the running node: the bag's messages over DDS give the observations and chunks that replay gives."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="the ROS layer needs rclpy")

from geometry_msgs.msg import PoseStamped
from recording import PERIOD, START, write_recording
from ros_harness import Ros, chunk_messages, until
from rosbags.highlevel import AnyReader
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CompressedImage, JointState
from std_msgs.msg import String
from tiny import save_tiny
from trajectory_msgs.msg import JointTrajectory, MultiDOFJointTrajectory

from grids_ros.data.reader import BagReader
from grids_ros.data.settings import find_topics, read
from grids_ros.policy.runtime import Policy
from grids_ros.replay.ticks import Span, TickGenerator
from grids_ros.ros import conversions, policy_node, qos

STEPS = 8
TYPES = {
    "/instruction": (String, qos.LATCHED),
    "/current_pose": (PoseStamped, qos.MEASURED),
    "/joint_states": (JointState, qos.MEASURED),
    "/camera/base/image_raw/compressed": (CompressedImage, qos.NEWEST),
    "/camera/wrist/image_raw/compressed": (CompressedImage, qos.NEWEST),
}


def replayed(bag, checkpoint) -> dict:
    """Stamp to (observation, chunk), from replay's own generator."""
    policy, settings = Policy.load(checkpoint), read(None, {"rate_hz": "20.0"}, {})
    found = {}
    with BagReader(bag) as source:
        topics = find_topics(source, settings, policy.cameras)
        for tick in TickGenerator(source, topics, policy.cameras, settings.policy).ticks(
            Span(source.start_ns, source.end_ns)
        ):
            if tick.observation is not None:
                sent = chunk_messages(policy.infer(tick.observation).chunk)
                found[tick.observation.stamp_ns] = (tick.observation, conversions.to_chunk(*sent, "base", "tool"))
    return found


def played(bag, checkpoint, monkeypatch) -> dict:
    """The same from the node, fed with the bag's bytes and with /clock, as `ros2 bag play --clock` would."""
    seen = {}
    infer = Policy.infer
    monkeypatch.setattr(Policy, "infer", lambda self, now, **how: _remember(seen, now, infer(self, now, **how)))
    ros = Ros()
    try:
        publishers = {topic: ros.publisher(*_of(topic)) for topic in TYPES}
        clock = ros.publisher(Clock, "/clock", qos.CLOCK)
        chunks = ros.collect(MultiDOFJointTrajectory, "action_chunk", qos.CHUNK)
        grippers = ros.collect(JointTrajectory, "gripper_chunk", qos.CHUNK)
        node = ros.start(
            policy_node.PolicyNode,
            checkpoint=str(checkpoint),
            rate_hz=50.0,
            join="latest",  # rtc goes on from the chunk before it by delays that differ from run to run
            use_sim_time=True,
            camera_topics=["camera/{name}/image_raw/compressed"],
        )
        ros.activate(node)
        until(
            lambda: all(p.get_subscription_count() for p in (*publishers.values(), clock)), "the node's subscriptions"
        )
        for step, messages in enumerate(_by_step(bag)):
            for topic, data in messages:
                publishers[topic].publish(data)
            now_ns = START + step * PERIOD + PERIOD - 1_000_000
            stamp = START + step * PERIOD

            def arrived(stamp=stamp, now_ns=now_ns):
                clock.publish(Clock(clock=conversions.to_stamp(now_ns)))
                return any(conversions.to_ns(chunk.header.stamp) == stamp for chunk in chunks)

            until(arrived, f"the chunk of step {step}")
    finally:
        ros.close()
    pairs = {conversions.to_ns(g.header.stamp): g for g in grippers}
    return {
        stamp: (seen[stamp], conversions.to_chunk(poses, pairs[stamp], "base", "tool"))
        for poses in chunks
        if (stamp := conversions.to_ns(poses.header.stamp)) in pairs
    }


def _of(topic: str) -> tuple:
    message_type, profile = TYPES[topic]
    return message_type, topic, profile


def _remember(seen: dict, observation, output):
    seen[observation.stamp_ns] = observation
    return output


def _by_step(bag) -> list[list[tuple[str, bytes]]]:
    steps: list[list] = [[] for _ in range(STEPS)]
    with AnyReader([bag]) as reader:
        wanted = [connection for connection in reader.connections if connection.topic in TYPES]
        for connection, at_ns, data in reader.messages(wanted):
            step = max(0, (at_ns - START) // PERIOD)
            if step < STEPS:
                steps[step].append((connection.topic, bytes(data)))
    return steps


def test_live_and_replayed_observations_and_chunks_are_equal_bit_for_bit(tmp_path, monkeypatch):
    checkpoint = save_tiny(tmp_path / "checkpoint")
    bag = write_recording(tmp_path / "bag", seconds=STEPS / 10, pause=False)
    expected = replayed(bag, checkpoint)
    live = played(bag, checkpoint, monkeypatch)
    assert len(live) >= STEPS - 1 and set(live) <= set(expected)
    for stamp, (observation, chunk) in live.items():
        wanted, wanted_chunk = expected[stamp]
        assert (observation.instruction, observation.gripper) == (wanted.instruction, wanted.gripper)
        for camera, image in wanted.images.items():
            np.testing.assert_array_equal(observation.images[camera], image)
        np.testing.assert_array_equal(observation.pose.position, wanted.pose.position)
        np.testing.assert_array_equal(observation.pose.quaternion, wanted.pose.quaternion)
        np.testing.assert_array_equal(chunk.positions, wanted_chunk.positions)
        np.testing.assert_array_equal(chunk.quaternions, wanted_chunk.quaternions)
        np.testing.assert_array_equal(chunk.gripper, wanted_chunk.gripper)
