"""The policy node over real DDS: when it publishes chunks, when it does not, and what it says then.

The policy itself is a stand-in that can be made to wait or to fail; test_ros_system.py runs a real one.
"""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
import torch
from fakes import stands_for
from hypothesis import given, settings
from hypothesis import strategies as st

from grids_ros.policy.runtime import Policy

pytest.importorskip("rclpy", reason="the ROS layer needs rclpy")

from geometry_msgs.msg import PoseStamped, Transform
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.serialization import serialize_message
from ros_harness import HOME, Arm, Cameras, Ros, altered_pose, say, undocumented, until
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import String
from trajectory_msgs.msg import JointTrajectory, MultiDOFJointTrajectory
from visualization_msgs.msg import MarkerArray

from grids_ros.datatypes import ActionChunk, PolicyOutput, Pose
from grids_ros.diagnostic_keys import KEYS, MODEL, OBSERVING, OVERHEAD, PREPROCESSING, percentile
from grids_ros.observation.images import ImageError, to_rgb
from grids_ros.policy.errors import InputError
from grids_ros.ros import conversions, display, policy_node, qos
from grids_ros.ros.inputs import SerializedImage
from grids_ros.ros.policy_statistics import STAGES, PolicyStatistics

NAME = "grids_policy"
COORDINATES = np.array([[0.5, 0.5], [0.0, 1.0]])


@stands_for(Policy)
class FakePolicy:
    """Moves 1 cm along y; keeps what it was shown. `gate` cleared makes it wait, `error` makes it fail.

    latencies_s: tokens to how long an inference takes with so many.
    """

    cameras = ("base", "wrist")
    tokens_per_camera, budgets = 2, (2,)
    products: dict[str, str] = {}
    joints: tuple[str, ...] = ()
    contract = "a fake"
    backend, refused_backends = "eager", ["backend 'recorded' is not used: it is off"]

    def __init__(self):
        self.seen, self.continuations = [], []
        self.gate = threading.Event()
        self.gate.set()
        self.error: Exception | None = None
        self.latencies_s: dict[int, float] = {}

    def warm_up(self) -> None:
        pass

    def use_tokens(self, tokens: int) -> None:
        self.tokens_per_camera = tokens

    def check_tokens(self, tokens: int) -> None:
        pass

    def infer(self, observation, seed=None, continuation=None) -> PolicyOutput:
        self.seen.append(observation)
        self.continuations.append(continuation)
        self.gate.wait(20.0)
        time.sleep(self.latencies_s.get(self.tokens_per_camera, 0.0))
        if self.error is not None:
            raise self.error
        n = 12
        positions = observation.pose.position + np.linspace(0.0, 1.0, n)[:, None] * (0.0, 0.01, 0.0)
        quaternions = np.tile(observation.pose.quaternion, (n, 1))
        chunk = ActionChunk(observation.stamp_ns, 0.1 * np.arange(1, n + 1), positions, quaternions, np.zeros(n))
        return PolicyOutput(chunk, dict.fromkeys(self.cameras, COORDINATES))


@pytest.fixture
def policy(monkeypatch):
    fake = FakePolicy()
    monkeypatch.setattr(policy_node.Policy, "load", lambda *args, **options: fake)
    yield fake
    fake.gate.set()


@pytest.fixture
def arm(ros):
    return Arm(ros)


@pytest.fixture
def cameras(ros):
    return Cameras(ros)


@pytest.fixture
def chunks(ros):
    return ros.collect(MultiDOFJointTrajectory, "action_chunk", qos.CHUNK)


@pytest.fixture
def node(ros, policy, arm, cameras, chunks):
    started = ros.start(policy_node.PolicyNode, checkpoint="fake", rate_hz=20.0)
    ros.activate(started)
    until(lambda: ros.diagnostics(NAME), "diagnostics")
    return started


def test_a_backend_that_failed_its_check_is_shown(node, policy):
    assert node.diagnostic_values()["Backend"] == f"eager; {policy.refused_backends[0]}"


def flowing(chunks) -> None:
    """Two more chunks."""
    count = len(chunks)
    until(lambda: len(chunks) >= count + 2, "chunks")


def silent(chunks, seconds: float = 0.4) -> bool:
    """No more chunks, once what was on its way has arrived."""
    time.sleep(0.1)
    count = len(chunks)
    time.sleep(seconds)
    return len(chunks) == count


def test_a_chunk_carries_the_stamp_of_its_oldest_image_and_is_paired_with_its_gripper(ros, node, policy, chunks):
    grippers = ros.collect(JointTrajectory, "gripper_chunk", qos.CHUNK)
    say(ros, "lift the red cube")
    flowing(chunks)
    until(lambda: any(g.header.stamp == chunks[-1].header.stamp for g in grippers), "the gripper's half")
    gripper = next(g for g in grippers if g.header.stamp == chunks[-1].header.stamp)
    chunk = conversions.to_chunk(chunks[-1], gripper, "base", "tool")
    observation = next(o for o in policy.seen if o.stamp_ns == chunk.stamp_ns)
    assert chunks[-1].header.frame_id == "base" and chunks[-1].joint_names == ["tool"]
    assert np.allclose(chunk.positions[-1], observation.pose.position + (0.0, 0.01, 0.0))
    assert observation.instruction == "lift the red cube"
    assert observation.gripper == pytest.approx(0.08)


def test_without_an_instruction_there_is_no_chunk_and_an_empty_one_ends_them(ros, node, chunks):
    ros.wait_for_reason(NAME, "no instruction")
    assert not chunks
    instruction = say(ros, "lift the red cube")
    flowing(chunks)
    instruction.publish(String(data="  "))
    ros.wait_for_reason(NAME, "no instruction")
    assert silent(chunks)


def test_words_arrive_whole_whatever_their_length_and_alphabet(ros, node, policy, chunks):
    instruction = say(ros, "lift")
    for text in ("подними красный куб 🟥", "lift the red cube and then " * 2000):
        instruction.publish(String(data=text))
        until(lambda text=text: policy.seen and policy.seen[-1].instruction == text.strip(), "the instruction")
    flowing(chunks)


def test_an_instruction_that_the_policy_refuses_is_a_reason_and_the_next_one_is_followed(ros, node, policy, chunks):
    policy.error = InputError("instruction has 900 tokens, at most 48 fit")
    instruction = say(ros, "x" * 3000)
    ros.wait_for_reason(NAME, "900 tokens")
    assert not chunks
    policy.error = None
    instruction.publish(String(data="lift the red cube"))
    flowing(chunks)


def test_a_new_instruction_drops_the_chunk_that_is_being_computed_for_the_old_one(ros, node, policy, chunks):
    instruction = say(ros, "lift the red cube")
    flowing(chunks)
    policy.gate.clear()
    begun = len(policy.seen)
    until(lambda: len(policy.seen) > begun, "an inference that waits")
    assert silent(chunks, 0.1)
    before = len(chunks)
    instruction.publish(String(data="lift the blue cube"))
    until(lambda: node.diagnostic_values()["Instruction"] == "lift the blue cube", "the new instruction")
    policy.gate.set()
    flowing(chunks)
    obedient = {seen.stamp_ns for seen in policy.seen if seen.instruction == "lift the blue cube"}
    assert {conversions.to_ns(chunk.header.stamp) for chunk in chunks[before:]} <= obedient
    assert node.diagnostic_values()["Chunks dropped"] == 1


def test_with_rtc_chunks_go_on_from_the_last_and_a_new_instruction_starts_afresh(ros, policy, arm, cameras, chunks):
    node = ros.start(policy_node.PolicyNode, checkpoint="fake", rate_hz=20.0, join="rtc")
    ros.activate(node)
    instruction = say(ros, "lift the red cube")
    going = until(lambda: [c for c in policy.continuations if c], "a chunk that goes on from another")
    published = {conversions.to_ns(chunk.header.stamp) for chunk in chunks}
    assert going[0].chunk.stamp_ns in published and 0.0 < going[0].delay_s < 1.2
    instruction.publish(String(data="lift the blue cube"))
    until(lambda: policy.seen[-1].instruction == "lift the blue cube", "the new instruction")
    first = [seen.instruction for seen in policy.seen].index("lift the blue cube")
    until(lambda: len(policy.continuations) > first, "its inference")
    assert policy.continuations[first] is None


@pytest.mark.parametrize("topic", ["target_pose", "/servo_node/pose_target_cmds"])
def test_nothing_goes_on_from_what_a_held_follower_does_not_follow(ros, policy, arm, cameras, chunks, topic):
    """Chunk after chunk would run further ahead of the arm, which made it good in one move when it was released.

    Under MoveIt Servo's name as well, which the README has target_pose remapped to.
    """
    remap = ["--ros-args", "-r", f"target_pose:={topic}"]
    node = ros.start(policy_node.PolicyNode, cli_args=remap, checkpoint="fake", rate_hz=20.0, join="rtc")
    target = ros.bench.create_publisher(PoseStamped, topic, qos.COMMAND)
    until(lambda: node.count_publishers(topic), "the follower's publisher")
    ros.activate(node)
    say(ros, "lift the red cube")

    def send(move_m: float) -> list:
        """A second of commands at 100 Hz, each further by so much; what was gone on from in the second half."""
        for tick in range(100):
            if tick == 50:
                begun = len(policy.continuations)
            pose = Pose(HOME.position + np.array((0.0, move_m * tick, 0.0)), HOME.quaternion)
            target.publish(conversions.from_pose_stamped(pose, "base", ros.now_ns()))
            time.sleep(0.01)
        return policy.continuations[begun:]

    flowing(chunks)
    held, followed = send(0.0), send(1e-4)
    assert len(held) > 3 and not any(held)
    assert len(followed) > 3 and all(followed[1:])


def test_an_inference_that_is_late_is_counted_and_never_queued(ros, node, policy, chunks):
    say(ros, "lift the red cube")
    flowing(chunks)
    policy.gate.clear()
    misses = node.diagnostic_values()["Deadline misses"]
    until(lambda: node.diagnostic_values()["Deadline misses"] >= misses + 5, "deadline misses")
    ros.wait_for_reason(NAME, "the inference has not ended for")
    begun = len(policy.seen)
    policy.gate.set()
    until(lambda: len(policy.seen) > begun, "the next inference")
    ros.wait_for_reason(NAME, "publishing chunks")
    newest = policy.seen[-1]
    assert ros.now_ns() - newest.stamp_ns < 0.3e9  # a fresh observation, not one that waited in a queue


def test_an_inference_that_hangs_stops_no_deactivation_and_keeps_the_next_away(ros, node, policy, chunks, monkeypatch):
    monkeypatch.setattr(policy_node, "PATIENCE_S", 0.3)
    say(ros, "lift the red cube")
    flowing(chunks)
    policy.gate.clear()
    begun = len(policy.seen)
    until(lambda: len(policy.seen) > begun, "an inference that waits")
    assert ros.under_test.do(node.trigger_deactivate).name == "SUCCESS"
    assert ros.under_test.do(node.trigger_activate).name == "FAILURE"
    ros.wait_for_reason(NAME, "the inference from before still has not ended")
    count = len(chunks)
    policy.gate.set()
    until(lambda: not node._lingers(), "its end")
    assert len(chunks) == count, "what it still says is not published"
    assert ros.under_test.do(node.trigger_activate).name == "SUCCESS"
    flowing(chunks)


def test_a_camera_slower_than_the_policy_makes_no_chunk_twice(ros, policy, arm, chunks):
    """The follower refuses a second chunk of the same stamp, and nothing may go on from one that was refused."""
    Cameras(ros, rate_hz=7.0)
    node = ros.start(policy_node.PolicyNode, checkpoint="fake", rate_hz=20.0)
    ros.activate(node)
    say(ros, "lift the red cube")
    until(lambda: len(chunks) >= 8, "chunks")
    stamps = [conversions.to_ns(chunk.header.stamp) for chunk in chunks]
    assert len(set(stamps)) == len(stamps) and len(policy.seen) <= len(stamps) + 2
    ros.wait_for_reason(NAME, "publishing chunks")


def test_images_that_stand_still_with_the_clock_are_told_of(ros, node, policy, cameras, chunks, monkeypatch):
    """A simulation that is paused: nothing grows old, and nothing is new."""
    say(ros, "lift the red cube")
    flowing(chunks)
    last = policy.seen[-1]
    monkeypatch.setattr(node._configured.inputs, "observe", lambda *_: last)
    ros.wait_for_reason(NAME, "s no newer image of every camera")


def test_threads_of_an_earlier_configure_do_not_stay(ros, policy):
    own = torch.get_num_threads()
    node = ros.start(policy_node.PolicyNode, checkpoint="fake", threads=own + 1)
    assert node.trigger_configure().name == "SUCCESS" and torch.get_num_threads() == own + 1
    assert node.trigger_cleanup().name == "SUCCESS"
    node.set_parameters([Parameter("threads", value=0)])
    assert node.trigger_configure().name == "SUCCESS" and torch.get_num_threads() == own


def test_of_parameters_that_are_set_at_once_none_is_taken_when_one_is_refused(ros, node, policy):
    policy.budgets = (1, 2)
    both = [Parameter("tokens", value=1), Parameter("rate_hz", value=10.0)]
    refused = node.set_parameters_atomically(both)
    assert not refused.successful and "'rate_hz' is read on configure" in refused.reason
    assert node.diagnostic_values()["Tokens reason"] == "no deadline was missed"
    assert node.get_parameter("tokens").value == 0 and node._configured.budget.tokens == 2
    assert node.set_parameters_atomically(both[:1]).successful and node._configured.budget.tokens == 1


@pytest.mark.parametrize(("faster", "settled"), [(True, 2), (False, 4)])
def test_tokens_auto_goes_where_chunks_are_in_time_or_learns_that_nothing_helps(
    ros, policy, arm, cameras, chunks, faster, settled
):
    policy.budgets, policy.tokens_per_camera = (2, 4), 4
    policy.latencies_s = {4: 0.12, 2: 0.01 if faster else 0.12}  # a chunk is wanted every 50 ms
    node = ros.start(policy_node.PolicyNode, checkpoint="fake", rate_hz=20.0, tokens="auto")
    ros.activate(node)
    say(ros, "lift the red cube")
    until(lambda: node.diagnostic_values()["Tokens per camera"] == 2, "fewer tokens on trial", 20.0)
    said = "4 missed the deadline" if faster else "fewer are no faster"
    until(lambda: said in node.diagnostic_values()["Tokens reason"], "a decision", 20.0)
    flowing(chunks)
    until(lambda: node.diagnostic_values()["Tokens per camera"] == settled, "the number decided on", 20.0)
    assert node.set_parameters_atomically([Parameter("tokens", value=2)]).successful
    until(lambda: node.diagnostic_values()["Tokens reason"] == "no deadline was missed", "a number that was set")
    flowing(chunks)
    assert node.diagnostic_values()["Tokens per camera"] == 2
    assert node.set_parameters_atomically([Parameter("tokens", value="auto")]).successful
    refused = node.set_parameters_atomically([Parameter("tokens", value="some")])
    assert not refused.successful and "an integer in [0, 4096], or auto" in refused.reason


def _set(**fields):
    def change(message):
        for name, value in fields.items():
            setattr(message, name, value)
        return message

    return change


class RepeatsOneStamp:
    """A driver that hangs: the picture goes on being sent, with the stamp of the first."""

    def __init__(self):
        self._stamp = None

    def __call__(self, message):
        self._stamp = self._stamp or message.header.stamp
        message.header.stamp = self._stamp
        return message


def _later(message):
    message.header.stamp.sec += 3
    return message


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_set(step=10), "step is 10 bytes"),
        (_set(height=4000), "rows of step"),
        (_set(height=0, width=0), "image is 0x0"),
        (_set(encoding="rgb9"), "encoding 'rgb9' is not one of rgb8"),
        (_set(encoding=""), "encoding '' is not one of"),
        (_set(data=b""), "data holds 0 bytes"),
        (lambda message: None, "camera 'wrist': 0"),
        (RepeatsOneStamp(), "old, limit 0.3 s"),
        (_later, "in the future"),
    ],
    ids=["step", "size", "empty size", "encoding", "no encoding", "no bytes", "stops", "repeats", "future"],
)
def test_a_bad_camera_is_named_stops_the_chunks_and_is_forgiven(ros, node, cameras, chunks, change, said):
    say(ros, "lift the red cube")
    flowing(chunks)
    cameras.change["wrist"] = change
    status = ros.wait_for_reason(NAME, said)
    assert "camera 'wrist'" in status.message and "camera 'base'" not in status.message
    assert silent(chunks)
    del cameras.change["wrist"]
    until(lambda: not silent(chunks, 0.1), "chunks again", 10.0)
    ros.wait_for_reason(NAME, "publishing chunks")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_set(data=b""), "no bytes"),
        (_set(data=b"\x89PNG not really"), "no picture"),
    ],
)
def test_a_bad_compressed_image_is_named_and_forgiven(ros, policy, arm, chunks, change, said):
    cameras = Cameras(ros, compressed=True)
    topics = ["camera/base/image_raw/compressed", "camera/wrist/image_raw/compressed"]
    ros.activate(ros.start(policy_node.PolicyNode, checkpoint="fake", rate_hz=20.0, camera_topics=topics))
    say(ros, "lift the red cube")
    flowing(chunks)
    assert policy.seen[-1].images["base"].shape == (24, 32, 3)
    cameras.change["base"] = change
    ros.wait_for_reason(NAME, said)
    assert silent(chunks)
    del cameras.change["base"]
    flowing(chunks)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda m: setattr(m.pose.position, "z", float("nan")), "position contains NaN"),
        (lambda m: setattr(m.pose.orientation, "z", 0.5), "not normalised"),
        (lambda m: setattr(m.header, "frame_id", "map"), "frame 'map', expected 'base'"),
        (lambda m: setattr(m.header.stamp, "sec", m.header.stamp.sec + 2), "current_pose: stamped"),
    ],
)
def test_a_bad_pose_is_named_stops_the_chunks_and_is_forgiven(ros, node, arm, chunks, change, said):
    say(ros, "lift the red cube")
    flowing(chunks)
    arm.pose_message = altered_pose(arm, change)
    ros.wait_for_reason(NAME, said)
    assert silent(chunks)
    arm.pose_message = arm.honest_pose
    until(lambda: not silent(chunks, 0.1), "chunks again", 10.0)


def test_a_gripper_that_is_never_heard_of_is_not_made_up(ros, policy, arm, cameras, chunks):
    ros.activate(ros.start(policy_node.PolicyNode, checkpoint="fake", rate_hz=20.0, finger_joints=["another_finger"]))
    say(ros, "lift the red cube")
    ros.wait_for_reason(NAME, "gripper: nothing received yet")
    assert not policy.seen and not chunks


def test_an_inference_that_fails_costs_its_observation_and_is_logged_once(ros, node, policy, chunks, monkeypatch):
    say(ros, "lift the red cube")
    flowing(chunks)
    logged = []
    monkeypatch.setattr(type(node.get_logger()), "error", lambda self, message, **_: logged.append(message))
    policy.error = ZeroDivisionError("a bug")
    status = ros.wait_for_reason(NAME, "inference failed: ZeroDivisionError: a bug")
    assert status.level == b"\x02"
    until(lambda: node.diagnostic_values()["Inferences failed"] >= 3, "more failures")
    policy.error = None
    failed = [seen.stamp_ns for seen in policy.seen[-3:]]
    ros.wait_for_reason(NAME, "publishing chunks")
    flowing(chunks)
    assert len([message for message in logged if "Traceback" in message]) == 1
    assert len(set(failed)) == 3, "each failure used up its observation"
    assert ros.under_test.error is None


def test_many_failures_in_a_row_end_the_process(ros, node, policy, monkeypatch):
    monkeypatch.setattr(policy_node, "MAX_FAILURES", 3)
    policy.error = ZeroDivisionError("a bug")
    say(ros, "lift the red cube")
    until(lambda: node.exit_code == 1, "the end")
    assert len(policy.seen) == 3


@pytest.fixture
def elsewhere(ros):
    """Another process, as far as DDS can tell."""
    other = Ros()
    yield other
    other.close()


def test_two_nodes_that_publish_instructions_are_named_and_nothing_is_done(ros, node, chunks, elsewhere):
    """Even if both have one name, as when a launch file was started twice."""
    say(ros, "lift the red cube")
    flowing(chunks)
    publisher = say(elsewhere, "lift the blue cube")
    ros.wait_for_reason(NAME, "instruction: published by 2 nodes, expected one: /bench, /bench")
    assert silent(chunks)
    elsewhere.bench.destroy_publisher(publisher)
    flowing(chunks)


@pytest.mark.parametrize("compressed", [True, False], ids=["compressed", "raw"])
def test_the_type_of_image_that_is_published_is_subscribed_to(ros, policy, arm, chunks, elsewhere, compressed):
    topics = [f"eye/{name}{'' if compressed else '/compressed'}" for name in ("base", "wrist")]
    Cameras(elsewhere, compressed=compressed, topics=topics)
    ros.activate(ros.start(policy_node.PolicyNode, checkpoint="fake", rate_hz=20.0, camera_topics=topics))
    say(ros, "lift the red cube")
    flowing(chunks)
    assert policy.seen[-1].images["base"].shape == (24, 32, 3)


def test_publishers_that_cannot_be_heard_are_named(ros, policy, cameras, chunks, elsewhere):
    ros.activate(ros.start(policy_node.PolicyNode, checkpoint="fake", rate_hz=20.0))
    volatile = QoSProfile(depth=1, durability=DurabilityPolicy.VOLATILE)
    ros.publisher(String, "instruction", volatile).publish(String(data="lift the red cube"))
    elsewhere.publisher(Transform, "current_pose", qos.MEASURED)
    ros.wait_for_reason(NAME, "/bench publishes /instruction with a QoS that does not match")
    ros.wait_for_reason(NAME, "/current_pose as geometry_msgs/msg/Transform, expected geometry_msgs/msg/PoseStamped")
    assert not chunks


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda m: setattr(m.pose.position, "x", 1e38), "current_pose has 1e+38 m"),
        (lambda m: setattr(m.pose.position, "x", 1.7e308), "current_pose has 1.7e+308 m"),
        (lambda m: setattr(m.pose.orientation, "w", 1.7e308), "not normalised"),
    ],
)
def test_absurd_poses_end_nothing(ros, node, arm, chunks, change, said):
    say(ros, "lift the red cube")
    flowing(chunks)
    arm.pose_message = altered_pose(arm, change)
    ros.wait_for_reason(NAME, said)
    arm.pose_message = arm.honest_pose
    flowing(chunks)


def test_sampled_points_lie_where_the_camera_says_and_the_overlay_is_drawn_only_when_watched(
    ros, node, policy, monkeypatch
):
    drawn = []
    monkeypatch.setattr(
        display.overlay, "draw", lambda image, at, caption=None: drawn.append(caption) or np.array(image)
    )
    infos = ros.publisher(CameraInfo, "camera/base/camera_info", qos.NEWEST)
    matrix = np.array([[40.0, 0.0, 16.0], [0.0, 20.0, 12.0], [0.0, 0.0, 1.0]])
    ros.bench.create_timer(
        0.05, lambda: infos.publish(conversions.from_intrinsics(matrix, 24, 32, "base_camera_optical_frame"))
    )
    points = ros.collect(MarkerArray, "sampled_points", qos.COMMAND)
    say(ros, "lift the red cube")

    def placed():
        by_namespace = {marker.ns: marker for marker in (points[-1].markers if points else ())}
        marker = by_namespace.get("sampled_points/base")
        # the second token is at the image's lower left corner: (0 - 16) / 40 and (24 - 12) / 20 at 1 m
        if marker is not None and np.allclose((marker.points[1].x, marker.points[1].y), (-0.4, 0.6)):
            return by_namespace
        return None

    markers = until(placed, "points placed by CameraInfo")
    assert set(markers) == {"action_chunk", "sampled_points/base", "sampled_points/wrist"}
    centre = markers["sampled_points/base"].points[0]
    assert (centre.x, centre.y, centre.z) == (0.0, 0.0, 1.0)
    assert markers["sampled_points/base"].header.frame_id == "base_camera_optical_frame"
    assert markers["action_chunk"].header.frame_id == "base" and len(markers["action_chunk"].points) == 12
    assert not drawn
    overlays = ros.collect(Image, "overlay/wrist/image_raw", qos.NEWEST)
    until(lambda: overlays, "an overlay")
    assert set(drawn) == {"lift the red cube"}
    assert overlays[0].encoding == "rgb8" and (overlays[0].height, overlays[0].width) == (24, 32)


def test_deactivated_it_is_silent_and_goes_on_when_activated_again(ros, node, chunks):
    say(ros, "lift the red cube")
    flowing(chunks)
    assert node.trigger_deactivate().name == "SUCCESS"
    assert silent(chunks)
    assert node.count_publishers("action_chunk") == 0, "the follower would take it for a second policy"
    assert node.trigger_cleanup().name == "SUCCESS"
    ros.activate(node)  # the instruction is latched: nobody has to say it again
    flowing(chunks)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"checkpoint": ""}, "'checkpoint' is empty"),
        (
            {"camera_topics": ["a", "b", "c"]},
            "3 entries, expected one, or one per camera of the checkpoint",
        ),
        ({"camera_topics": ["image"]}, "a topic of its own for each camera"),
        ({"camera_max_age_s": [0.1, 0.1, 0.1]}, "'camera_max_age_s' has 3 entries"),
    ],
)
def test_settings_that_cannot_work_fail_the_configuration_with_the_cause(ros, policy, settings, said):
    node = ros.start(policy_node.PolicyNode, **{"checkpoint": "fake", **settings})
    assert node.trigger_configure().name == "FAILURE"
    ros.wait_for_reason(NAME, said)


def test_a_name_that_is_no_topic_is_refused_before_the_checkpoint_is_loaded(ros):
    node = ros.start(
        policy_node.PolicyNode, checkpoint="/nowhere", camera_topics=["/front camera/image", "/wrist/image"]
    )
    assert node.trigger_configure().name == "FAILURE"
    ros.wait_for_reason(NAME, "'camera_topics' has '/front camera/image', expected a ROS name")


@settings(deadline=None)
@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])), st.integers(0, 9), st.booleans())
def test_an_image_is_read_without_a_copy_as_rclpy_reads_it(words, width, big):
    message = Image(height=2, width=width, encoding=words[::-1], is_bigendian=int(big), step=3 * width)
    message.header.frame_id, message.data = words, bytes(range(6 * width))
    image = SerializedImage(Image, serialize_message(message))
    for name in ("height", "width", "encoding", "is_bigendian", "step"):
        assert getattr(image, name) == getattr(message, name)
    assert bytes(image.data) == bytes(message.data) and image.header.frame_id == words


@pytest.mark.parametrize("end", [20, 30, 40, 60])
def test_an_image_that_ends_early_is_refused(end):
    message = Image(height=4, width=4, encoding="rgb8", step=12, data=bytes(48))
    with pytest.raises(ImageError, match="ends early"):
        _ = SerializedImage(Image, serialize_message(message)[:end]).data


@pytest.mark.parametrize("end", [20, 26, 33, 38])
def test_a_compressed_image_that_is_cut_behind_its_header_is_an_error_of_its_camera(end):
    message = CompressedImage(format="jpeg", data=bytes(48))
    message.header.frame_id = "camera"
    image = SerializedImage(CompressedImage, serialize_message(message)[:end])
    with pytest.raises(ImageError, match=f"image of {end} bytes cannot be decoded"):
        to_rgb(image)


def test_the_stages_of_an_inference_but_the_model_are_its_overhead():
    statistics = PolicyStatistics()
    statistics.began_s = time.perf_counter() - 1.0
    output = PolicyOutput(
        ActionChunk(0, [0.1], [HOME.position], [HOME.quaternion], [0.0]), {}, {"preprocess": 0.125, "model": 0.25}
    )
    statistics.sent(output, statistics.began_s + 0.5)
    values = {name: statistics.values()[percentile(name, 50)] for name in (*STAGES, OVERHEAD)}
    assert values[OBSERVING] == pytest.approx(500.0)
    assert values[PREPROCESSING] == pytest.approx(125.0) and values[MODEL] == pytest.approx(250.0)
    assert values[OVERHEAD] == pytest.approx(sum(values[name] for name in STAGES) - values[MODEL])


def test_the_diagnostics_have_the_keys_of_the_reference(ros, node, chunks):
    say(ros, "lift the red cube")
    flowing(chunks)
    assert set(node.diagnostic_values()) == set(KEYS[NAME])


def test_the_reference_names_its_topics_and_their_profiles(node):
    assert undocumented(node) == []
