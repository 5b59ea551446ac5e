"""The policy node with a real policy, tiny and untrained: checkpoints that are broken, and words that reach it."""

from __future__ import annotations

import shutil

import pytest

pytest.importorskip("rclpy", reason="the ROS layer needs rclpy")

from rclpy.parameter import Parameter
from ros_harness import Arm, Cameras, say, until
from std_msgs.msg import String
from tiny import save_tiny, tiny
from trajectory_msgs.msg import MultiDOFJointTrajectory

from grids_ros.policy.checkpoint import save
from grids_ros.policy.engine import Engine
from grids_ros.ros import qos
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
    [({"tokens": 7}, "tokens is 7"), ({"device": "abacus"}, "'abacus' cannot be used")],
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
    assert node.diagnostic_values()["tokens_per_camera"] == 4
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
    policy = tiny(4)
    policy.provenance["stages"] = [{"nested": [2]}]
    save(policy, tmp_path / "nested")
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
        until(lambda used=used: node.diagnostic_values()["tokens_per_camera"] == used, "the new number")
        count = len(chunks)
        until(lambda count=count: len(chunks) > count + 1, "chunks with it")
