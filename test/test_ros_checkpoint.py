"""The policy node with a real policy, tiny and untrained: checkpoints that are broken, and words that reach it."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="the ROS layer needs rclpy")

from rclpy.node import Node
from rclpy.parameter import Parameter
from robots import BASE, FLANGE, HOME, JOINTS, jointed, panda, panda_urdf
from ros_harness import Arm, Cameras, say, until
from sensor_msgs.msg import JointState
from std_msgs.msg import Header, String
from tiny import save_tiny, tiny
from trajectory_msgs.msg import MultiDOFJointTrajectory

from grids_ros.parameters import PolicyParameters
from grids_ros.policy.checkpoint import save
from grids_ros.policy.engine import Engine
from grids_ros.policy.joints import RobotModel
from grids_ros.ros import conversions, qos, robot_model
from grids_ros.ros.policy_node import PolicyNode

NAME = "grids_policy"


def _lacks_weights(folder):
    (folder / "model.safetensors").unlink()


def _truncated(folder):
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])


def _half_written(folder):
    config = folder / "config.json"
    config.write_text(config.read_text()[:100])


def _of_another_shape(folder):
    save_tiny(folder / "other", tokens=8)
    shutil.copy(folder / "other" / "model.safetensors", folder / "model.safetensors")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (shutil.rmtree, "does not exist"),
        (_lacks_weights, "lacks model.safetensors"),
        (_truncated, "model.safetensors"),
        (_half_written, "config.json is not JSON"),
        (_of_another_shape, "expected"),
    ],
)
def test_a_broken_checkpoint_fails_the_configuration_and_a_whole_one_then_works(
    ros, checkpoint, tmp_path, damage, said
):
    folder = tmp_path / "copy"
    shutil.copytree(checkpoint, folder)
    damage(folder)
    node = ros.start(PolicyNode, checkpoint=str(folder))
    assert node.trigger_configure().name == "FAILURE"
    status = ros.wait_for_reason(NAME, said)
    assert status.level == b"\x02" and str(folder) in status.message
    shutil.copytree(checkpoint, folder, dirs_exist_ok=True)
    ros.activate(node)
    ros.wait_for_reason(NAME, "no instruction")


@pytest.mark.parametrize(
    ("setting", "said"),
    [({"tokens": 7}, "tokens is 7"), ({"device": "cuda:99"}, "'cuda:99' cannot be used")],
)
def test_what_the_checkpoint_or_the_machine_cannot_do_fails_the_configuration(ros, checkpoint, setting, said):
    node = ros.start(PolicyNode, checkpoint=str(checkpoint), **setting)
    assert node.trigger_configure().name == "FAILURE"
    ros.wait_for_reason(NAME, said)


def test_the_instruction_reaches_the_token_ids_and_a_strange_one_is_refused(ros, checkpoint, monkeypatch):
    ids = []
    sample = Engine.sample_actions

    def recording(engine, pixels, input_ids, *rest):
        ids.append(tuple(input_ids[0].tolist()))
        return sample(engine, pixels, input_ids, *rest)

    monkeypatch.setattr(Engine, "sample_actions", recording)
    Arm(ros)
    Cameras(ros)
    chunks = ros.collect(MultiDOFJointTrajectory, "action_chunk", qos.CHUNK)
    node = ros.start(PolicyNode, checkpoint=str(checkpoint), rate_hz=20.0, threads=1)
    ros.activate(node)
    assert node.diagnostic_values()["Tokens per camera"] == 4
    instruction = say(ros, "lift the red cube")
    until(lambda: len(chunks) > 2, "chunks")
    red = ids[-1]
    instruction.publish(String(data="lift the blue cube"))
    until(lambda: ids[-1] != red, "other token ids")
    assert sum(a != b for a, b in zip(red, ids[-1], strict=True)) == 1  # one word was changed, one id is
    for text, said in (("подними красный куб", "does not know"), ("lift the red cube " * 50, "tokens")):
        instruction.publish(String(data=text))
        ros.wait_for_reason(NAME, said)
    count = len(chunks)
    instruction.publish(String(data="lift the red cube"))
    until(lambda: len(chunks) > count, "chunks again")
    assert ids[-1] == red


def test_the_number_of_tokens_changes_between_two_chunks_and_a_wrong_one_is_refused(ros, tmp_path):
    save(tiny(4, budgets=(2, 4)), tmp_path / "nested")
    Arm(ros)
    Cameras(ros)
    chunks = ros.collect(MultiDOFJointTrajectory, "action_chunk", qos.CHUNK)
    node = ros.start(PolicyNode, checkpoint=str(tmp_path / "nested"), rate_hz=20.0, threads=1)
    ros.activate(node)
    say(ros, "lift the red cube")
    until(lambda: len(chunks) > 2, "chunks")
    refused = node.set_parameters_atomically([Parameter("tokens", value=3)])
    assert not refused.successful and "trained with 2 or 4" in refused.reason
    for tokens, used in ((2, 2), (0, 4)):
        assert node.set_parameters_atomically([Parameter("tokens", value=tokens)]).successful
        until(lambda used=used: node.diagnostic_values()["Tokens per camera"] == used, "the new number")
        count = len(chunks)
        until(lambda count=count: len(chunks) > count + 1, "chunks with it")


def test_the_contract_is_published_for_whoever_comes_later(ros, checkpoint):
    node = ros.start(PolicyNode, checkpoint=str(checkpoint))
    assert node.trigger_configure().name == "SUCCESS"
    contracts = ros.collect(String, "policy_contract", qos.LATCHED)
    until(lambda: contracts, "the contract")
    assert contracts[0].data == (checkpoint / "contract.txt").read_text()
    assert "0  x [m]" in contracts[0].data and "cameras" in contracts[0].data


@pytest.mark.parametrize(
    ("description", "base", "said"),
    [
        ("", BASE, "nothing came on robot_description within 0.5 s"),
        ("/nowhere/arm.urdf", BASE, "expected a URDF file"),
        ("<robot", BASE, "robot_description is no URDF"),
        ("text", "base", "the URDF has no frame base"),
        ("text", BASE, None),
        ("file", BASE, None),
    ],
)
def test_a_policy_of_joints_needs_the_urdf_of_its_robot(ros, tmp_path, monkeypatch, description, base, said):
    save(jointed(), tmp_path / "jointed")
    monkeypatch.setattr(robot_model, "WAIT_S", 0.5)
    (tmp_path / "arm.urdf").write_text(panda_urdf())
    given = {"text": panda_urdf(), "file": str(tmp_path / "arm.urdf")}.get(description, description)
    frames = {"base_frame": base, "tool_frame": FLANGE}
    node = ros.start(PolicyNode, checkpoint=str(tmp_path / "jointed"), robot_description=given, **frames)
    assert node.trigger_configure().name == ("FAILURE" if said else "SUCCESS")
    if said:
        ros.wait_for_reason(NAME, said)


def test_a_urdf_comes_from_the_latched_topic(ros):
    ros.publisher(String, "robot_description", qos.LATCHED).publish(String(data="<robot/>"))
    node = Node("asking", context=ros.context)
    assert robot_model.robot_model(node, PolicyParameters()) == RobotModel("<robot/>", "base", "tool")
    node.destroy_node()


class JointedArm(Arm):
    """An arm that stands still at its home, in joints and in the pose of its flange."""

    def __init__(self, ros, kinematics):
        self.names = (*JOINTS, "fr3_finger_joint1", "fr3_finger_joint2")
        super().__init__(ros)
        self.pose = kinematics.pose(HOME)
        self.pose_message = lambda: conversions.from_pose_stamped(self.pose, BASE, ros.now_ns())

    def _publish(self):
        self._pose_publisher.publish(self.pose_message())
        at = dict(zip(JOINTS, HOME, strict=True))
        joints = JointState(header=Header(stamp=conversions.to_stamp(self._ros.now_ns())), name=list(self.names))
        joints.position = [float(at.get(name, 0.04)) for name in self.names]
        self._joint_publisher.publish(joints)


def test_a_policy_of_joints_moves_on_measured_joints_and_names_one_that_is_missing(ros, tmp_path):
    arm = panda()
    save(jointed(), tmp_path / "jointed")
    Cameras(ros)
    robot = JointedArm(ros, arm)
    chunks = ros.collect(MultiDOFJointTrajectory, "action_chunk", qos.CHUNK)
    node = ros.start(
        PolicyNode,
        checkpoint=str(tmp_path / "jointed"),
        robot_description=panda_urdf(),
        base_frame=BASE,
        tool_frame=FLANGE,
        rate_hz=10.0,
        threads=1,
    )
    ros.activate(node)
    say(ros, "lift the red cube")
    until(lambda: chunks, "a chunk of poses")
    first = chunks[0].points[0].transforms[0].translation
    assert np.linalg.norm(np.array([first.x, first.y, first.z]) - arm.pose(HOME).position) < 0.1
    robot.names = (*JOINTS[:6], "fr3_finger_joint1", "fr3_finger_joint2")
    ros.wait_for_reason(NAME, "joint panda_joint7")
