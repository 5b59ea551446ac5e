"""Policies of joints from recording to closed loop: the URDF, bags, training samples, evaluation."""

from __future__ import annotations

import dataclasses
import json
import re
from itertools import repeat
from types import SimpleNamespace

import mujoco
import numpy as np
import pinocchio
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from robots import JOINTS as PANDA
from robots import jointed, panda_urdf
from scipy.spatial.transform import Rotation

from grids_ros import cli
from grids_ros.convert.conventions import CONVENTIONS
from grids_ros.data.bags import read_episodes
from grids_ros.data.reader import BagError
from grids_ros.data.robot import robot_of
from grids_ros.data.settings import chosen
from grids_ros.data.topics import Topics
from grids_ros.data.writer import BagWriter
from grids_ros.datatypes import NANOSECONDS, ActionChunk, PolicyOutput, Pose
from grids_ros.evaluate.episode import EpisodeResult, Step, rollout
from grids_ros.kinematics import Kinematics
from grids_ros.parameters import ParameterError, PolicyParameters
from grids_ros.policy.checkpoint import save
from grids_ros.policy.errors import InputError
from grids_ros.policy.joints import OFFSETS
from grids_ros.policy.rtc import measured_joints
from grids_ros.replay import metrics
from grids_ros.replay.__main__ import main as replay
from grids_ros.replay.recorded_motion import RecordedMotion
from grids_ros.sim import mujoco_model
from grids_ros.sim.expert import Expert
from grids_ros.sim.record import record
from grids_ros.sim.scene import Scene
from grids_ros.sim.tasks import LIFT_TASKS
from grids_ros.sim.urdf import BASE, TOOL, arm_urdf, robot
from grids_ros.train import __main__ as train
from grids_ros.train.dataset import Window
from grids_ros.train.diagnosis import _Ends
from grids_ros.train.initial_checkpoint import SPOKEN, start_from
from grids_ros.train.loop import Trainer
from grids_ros.train.recipe import Recipe

LOW, HIGH = np.array(mujoco_model.POSITION_LIMITS).T
JOINTS = mujoco_model.ARM_JOINTS
postures = arrays(np.float64, 7, elements=st.floats(0.0, 1.0)).map(lambda share: LOW + share * (HIGH - LOW))


@pytest.fixture(scope="module")
def scene() -> Scene:
    return Scene(400, image_size=32)


@pytest.fixture(scope="module")
def bag(tmp_path_factory):
    path = tmp_path_factory.mktemp("joints") / "bag"
    record(path, LIFT_TASKS, [0, 1], 340, lambda kept: None, size=32)
    return path


def kinematics() -> Kinematics:
    return Kinematics(arm_urdf(), JOINTS, BASE, TOOL)


# --- the simulated arm's URDF --------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(postures)
def test_the_simulated_arm_is_where_its_urdf_says(scene, joints):
    scene._data.qpos[scene._joint_addresses[:7]] = joints
    scene.step(None, None, 0.0)
    placed, measured = kinematics().pose(joints), scene.tool_pose()
    np.testing.assert_allclose(placed.position, measured.position, atol=1e-9)
    assert abs(placed.quaternion @ measured.quaternion) == pytest.approx(1.0, abs=1e-9)


@settings(max_examples=20, deadline=None)
@given(postures)
def test_its_hand_is_that_of_the_published_panda(joints):
    ours = Kinematics(arm_urdf(), JOINTS, BASE, "hand").pose(joints)
    theirs = Kinematics(panda_urdf(), [f"panda_joint{i}" for i in range(1, 8)], "panda_link0", "panda_hand").pose(
        joints
    )
    np.testing.assert_allclose(ours.position, theirs.position, atol=1e-6)
    assert abs(ours.quaternion @ theirs.quaternion) == pytest.approx(1.0, abs=1e-9)


def test_viewers_see_the_simulated_arm_where_it_is(scene):
    """Every link, and every shape that MuJoCo has, fingers included."""
    scene.reset(3)
    scene.step(None, 0.03, 0.5)
    model = pinocchio.buildModelFromXML(arm_urdf())
    shapes = pinocchio.buildGeomFromUrdfString(model, arm_urdf(), pinocchio.VISUAL)
    data, seen = model.createData(), shapes.createData()
    measured = dict(zip(scene.joint_names, scene.joint_positions(), strict=True))
    joints = np.array([measured[name] for name in list(model.names)[1:]])
    pinocchio.framesForwardKinematics(model, data, joints)
    pinocchio.updateGeometryPlacements(model, data, shapes, seen)
    for name, pose in scene.link_poses().items():
        frame = data.oMf[model.getFrameId(name)]
        np.testing.assert_allclose(frame.translation, pose.position, atol=1e-9)
        assert abs(Rotation.from_matrix(frame.rotation).as_quat() @ pose.quaternion) == pytest.approx(1.0, abs=1e-9)
    drawn = np.array([placed.translation for placed in seen.oMg])
    arm = {scene._model.body(name).id for name in ("base", *mujoco_model.LINKS)}
    geoms = [index for index, body in enumerate(scene._model.geom_bodyid) if body in arm]
    for index in geoms:
        nearest = np.linalg.norm(drawn - scene._data.geom_xpos[index], axis=1).min()
        assert nearest < 1e-6, f"shape {index} of {scene._model.body(scene._model.geom_bodyid[index]).name}"
    capsules = sum(scene._model.geom_type[index] == mujoco.mjtGeom.mjGEOM_CAPSULE for index in geoms)
    assert len(drawn) == len(geoms) + 2 * capsules


# --- recorded ------------------------------------------------------------------------------------------------------


def test_recorded_target_joints_are_the_target_poses(bag):
    arm = kinematics()
    for episode in read_episodes(bag, Topics(joints=JOINTS)):
        np.testing.assert_array_equal(episode.joint_targets[0], episode.targets[0])
        positions, quaternions = arm.poses(episode.joint_targets[1])
        np.testing.assert_allclose(positions, episode.targets[1], atol=2e-4)
        turned = Rotation.from_quat(quaternions) * Rotation.from_quat(episode.targets[2]).inv()
        assert turned.magnitude().max() < 2e-3
        assert all(set(seen.joints) == set(JOINTS) for seen in episode.observations)


def test_without_target_joints_the_measured_ones_are_the_targets(bag):
    episode = next(read_episodes(bag, Topics(joints=JOINTS, target_joint="")))
    measured = dict(zip(episode.joint_targets[0].tolist(), episode.joint_targets[1], strict=True))
    for seen in episode.observations:
        np.testing.assert_array_equal(measured[seen.stamp_ns], [seen.joints[name] for name in JOINTS])


def window(space: str, **changes) -> Window:
    convention = CONVENTIONS[space]
    spaces = {"state": convention.state.of(JOINTS), "action": convention.action.of(JOINTS)}
    return Window(("base", "wrist"), 32, 6, 0.1, **{**spaces, "robot": robot(), **changes})


def options(bag, *more):
    return chosen(cli.parse("train", [str(bag), "--out", "out", *more]).robot)


@pytest.mark.parametrize("space", ["joints", "droid-joints", "droid", "joint-velocities"])
def test_training_samples_of_joints_lead_where_those_of_poses_do(bag, space):
    of_joints = train.read([bag], options(bag), window(space), 1)
    of_poses = train.read([bag], options(bag), window("grids", robot=None), 1)
    assert of_joints.states.shape[1] == of_joints.actions.shape[2] == 8 and len(of_joints) == len(of_poses)
    placed = kinematics().poses(of_joints.states[:, :7])[0]
    np.testing.assert_allclose(placed, of_joints.tools[:, :3], atol=1e-9)
    np.testing.assert_array_equal(of_joints.actions[..., 7], of_poses.actions[..., 6])
    checkpoint = train.new_checkpoint(of_joints, window(space), 4, 0)
    assert checkpoint.spec.joints == JOINTS and checkpoint.normalization.state_mean.shape == (8,)
    reached = _Ends(checkpoint, of_joints.states, of_joints.tools, robot()).of(of_joints.actions)
    wanted = of_poses.states[:, :3] + of_poses.actions[:, -1, :3]
    limit = 0.03 if space == "droid" else 1e-3  # DROID's velocities are cut off at 0.2 rad in a step
    np.testing.assert_allclose(reached, wanted, atol=limit)


@pytest.fixture(scope="module")
def of_joints(bag):
    return train.read([bag], options(bag), window("droid-joints"), 1)


def test_what_reads_and_writes_joints_starts_anew_and_all_else_is_taken_over(bag, of_joints):
    of_poses = train.read([bag], options(bag), window("grids", robot=None), 1)
    earlier = train.new_checkpoint(of_poses, window("grids", robot=None), 4, 0)
    ours = train.new_checkpoint(of_joints, window("droid-joints"), 4, 1)
    fresh = {name: tensor.clone() for name, tensor in ours.model.named_parameters()}
    start_from(earlier, ours)
    known = dict(earlier.model.named_parameters())
    for name, tensor in ours.model.named_parameters():
        source = fresh if any(part in name for part in SPOKEN) else known
        assert torch.equal(tensor, source[name]), name


def test_the_expert_alone_trains_where_that_is_asked(bag, tmp_path):
    given = cli.parse("train", [str(bag), "--out", "out", "--space", "droid-joints", "--joints", *JOINTS])
    whole = train.new_window(given, [bag], options(bag))
    data = train.read([bag], options(bag), whole, 1)
    checkpoint = train.new_checkpoint(data, whole, 4, 0)
    before = {name: tensor.clone() for name, tensor in checkpoint.model.state_dict().items()}
    trainer = Trainer(checkpoint, data, Recipe(steps=1, batch=2, warm_up=1, expert_only=True))
    list(trainer.run(tmp_path / "losses.jsonl", 1))
    moved = {name for name, tensor in checkpoint.model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert not any(name.startswith("model.vlm.") for name in moved)
    assert {"action_out_proj.weight", "embed_action_time.state_proj.weight"} < moved
    assert any(name.startswith("model.dit.layers.") for name in moved)
    assert "locations" not in (tmp_path / "losses.jsonl").read_text(), "what teaches to see is left out"


# --- refused -------------------------------------------------------------------------------------------------------


def bare(path, names=JOINTS):
    """A bag that does not say which robot it is of."""
    scene = Scene(1, image_size=32)
    with BagWriter(path) as bag:
        bag.instruction(1, "lift the red cube")
        for step in range(1, 12):
            stamp = step * 100_000_000
            for camera in scene.cameras:
                bag.image(camera, stamp, np.zeros((32, 32, 3), np.uint8))
            bag.current_pose(stamp, scene.tool_pose())
            fingers = mujoco_model.FINGER_JOINTS
            bag.joint_states(
                stamp, (*names, *fingers), [*scene.joint_positions()[: len(names)], 0.04, 0.04], np.zeros(0)
            )
    return path


def test_a_recording_without_a_urdf_is_refused_until_one_is_named(tmp_path):
    path = bare(tmp_path / "bag")
    with pytest.raises(
        BagError, match=r"needs the robot's URDF: .*bag has no robot_description .* --param robot_descr"
    ):
        robot_of([path], options(path))
    file = tmp_path / "robot.urdf"
    file.write_text(arm_urdf())
    assert robot_of([path], options(path, "-p", f"robot_description:={file}")) == robot()
    with pytest.raises(ParameterError, match="expected a URDF file"):
        robot_of([path], options(path, "-p", "robot_description:=nowhere.urdf"))


def test_the_urdf_of_a_recording_is_found(bag):
    assert robot_of([bag], options(bag)) == robot()


@pytest.mark.parametrize(
    ("names", "changes", "said"),
    [
        (JOINTS[:6], {}, "joint fr3_joint7: joint_states does not have it"),
        (JOINTS, {"robot": dataclasses.replace(robot(), tool="link7")}, r"forward kinematics puts link7 \d+ mm"),
        (JOINTS, {"robot": dataclasses.replace(robot(), tool="flange")}, "the URDF has no frame flange; it has"),
        (JOINTS, {"robot": dataclasses.replace(robot(), urdf=panda_urdf())}, "the URDF has no joint fr3_joint1"),
    ],
)
def test_joints_that_are_not_the_robot_s_are_refused_before_training(tmp_path, names, changes, said):
    path = bare(tmp_path / "bag", names)
    with pytest.raises(BagError, match=said):
        train.read([path], options(path), window("joints", **changes), 1)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--space", "joints"], "--joints is not given, expected the names"),
        (["--joints", "a"], "expected none: the space has no joints"),
        (["--space", "joints", "--joints", "a", "--from", "."], "those of --from"),
        (["--expert-only"], "without --start or --from there is nothing learnt to keep"),
        (["--expert-only", "--from", ".", "--lora", "4"], "both given"),
        (["--vision-layers", "1", "--from", "."], "with --from the model is that one"),
    ],
)
def test_options_that_do_not_go_together(arguments, said, capsys):
    with pytest.raises(SystemExit):
        cli.parse("train", ["bag", "--out", "out", *arguments])
    assert said in capsys.readouterr().err


# --- replay --------------------------------------------------------------------------------------------------------


def replayed(bag, tmp_path, *more, names=JOINTS) -> tuple[int, dict]:
    """The exit code of a replay of a small random policy of joints, and the figures that it wrote."""
    save(jointed(names=names), tmp_path / "policy")
    out = tmp_path / "out"
    given = ["--checkpoint", str(tmp_path / "policy"), "--out", str(out), "--latency", "0", *more]
    code = replay([str(bag), *given])
    summary = out / "summary.json"
    return code, json.loads(summary.read_text())["overall"]["policy"] if summary.exists() else {}


def test_a_policy_of_joints_is_scored_in_poses_and_in_joints(bag, tmp_path, capsys):
    code, figures = replayed(bag, tmp_path)
    assert code == 0 and figures["inferences"] > 20 and figures["no_chunk_share"] < 0.1
    assert figures["position_mm"]["mean"] > 1.0 and 0.1 < figures["joint_deg"]["mean"] < 20.0
    assert len(figures["joint_deg"]["by_step"]) == 6
    assert "deg in joints" in capsys.readouterr().out
    assert "Joint error" in (tmp_path / "out" / "report.html").read_text()


@pytest.mark.parametrize(
    ("names", "urdf", "said"),
    [
        (JOINTS, None, "it needs the robot's URDF"),
        (JOINTS, panda_urdf, "the URDF has no joint fr3_joint1, .* it has panda_joint1"),
        (PANDA, arm_urdf, "the URDF has no joint panda_joint1"),
    ],
)
def test_replay_says_what_a_policy_of_joints_lacks(tmp_path, capsys, names, urdf, said):
    path, more = bare(tmp_path / "bag"), []
    if urdf:
        (tmp_path / "robot.urdf").write_text(urdf())
        more = ["-p", f"robot_description:={tmp_path / 'robot.urdf'}"]
    assert replayed(path, tmp_path, *more, names=names)[0] == 2
    assert re.search(said, capsys.readouterr().err)


def test_joints_that_joint_states_lacks_are_named_in_the_report(tmp_path):
    path = bare(tmp_path / "bag", JOINTS[:6])
    (tmp_path / "robot.urdf").write_text(arm_urdf())
    code, figures = replayed(path, tmp_path, "-p", f"robot_description:={tmp_path / 'robot.urdf'}")
    assert code == 3 and list(figures["no_observation"]) == ["joint fr3_joint7: joint_states does not have it"]


def test_chunks_are_held_against_the_joints_that_the_arm_was_told():
    recorded = RecordedMotion(("target_pose", "target_joint"), PolicyParameters(), joints=("a", "b"))
    pose = SimpleNamespace(
        header=SimpleNamespace(stamp=None, frame_id="base"),
        pose=SimpleNamespace(
            position=SimpleNamespace(x=0.4, y=0.0, z=0.3), orientation=SimpleNamespace(x=1.0, y=0.0, z=0.0, w=0.0)
        ),
    )
    for step in [*range(1, 6), *range(10, 14)]:  # nothing is known between 0.5 s and 1 s
        at_ns = step * 100_000_000
        stamp = SimpleNamespace(sec=at_ns // NANOSECONDS, nanosec=at_ns % NANOSECONDS)
        pose.header.stamp = stamp
        recorded.add("target_pose", at_ns, pose)
        told = SimpleNamespace(header=SimpleNamespace(stamp=stamp), name=["b", "c", "a"], position=[2.0, 9.0, step])
        recorded.add("target_joint", at_ns, told)
        told.position = [7.0, 7.0, 7.0]
        recorded.add("joint_states", at_ns, told)
    times = np.array([50, 150, 450, 700, 1050, 2000]) * 1_000_000
    expected = np.array([[np.nan] * 2, [1.5, 2.0], [4.5, 2.0], [np.nan] * 2, [10.5, 2.0], [np.nan] * 2])
    np.testing.assert_allclose(recorded.joints_at(times, ("a", "b")), expected)
    where = np.tile((0.4, 0.0, 0.3), (2, 1)), np.tile((1.0, 0.0, 0.0, 0.0), (2, 1)), np.zeros(2)
    chunk = ActionChunk(100_000_000, np.array([0.1, 0.2]), *where, np.array([[2.0, 2.1], [3.0, 1.9]]))
    scored = metrics.errors(chunk, Pose(where[0][0], where[1][0]), recorded, joints=("a", "b"))
    np.testing.assert_allclose(scored["joint_deg"], np.degrees(0.05))
    assert "joint_deg" not in metrics.errors(chunk, Pose(where[0][0], where[1][0]), recorded)


# --- closed loop ---------------------------------------------------------------------------------------------------


class JointOracle:
    """The demonstrator, heard through joints and Pinocchio. stray: how often it asks for what no joint can do."""

    cameras, joints = ("base", "wrist"), JOINTS

    def __init__(self, scene, task, stray=0):
        self._scene, self._expert, self._stray, self.calls = scene, Expert(task), stray, 0
        self._space = OFFSETS.of(JOINTS).on(kinematics())

    def infer(self, observation, *, continuation=None):
        self.calls += 1
        if self._stray and self.calls % self._stray == 0:
            raise InputError("joint fr3_joint4 at 0.5 is beyond its limits")
        target, opening = self._expert.act(self._scene)
        measured = measured_joints(observation, self._space)
        targets = np.tile(self._scene.joints_at(target), (2, 1))
        nothing = np.zeros((2, 3)), np.zeros((2, 4)), np.full(2, opening)
        actions = self._space.to_actions(observation.pose, *nothing, measured, targets)
        return PolicyOutput(self._space.to_chunk(observation.stamp_ns, observation.pose, actions, 0.2, measured), {})


@pytest.mark.parametrize("stray", [0, 3])
def test_a_policy_of_joints_lifts_the_cube_through_forward_kinematics(scene, stray):
    oracle = JointOracle(scene, LIFT_TASKS[1], stray)
    *events, result = rollout(oracle, scene, LIFT_TASKS[1], 205, repeat(0.06))
    steps = [event for event in events if isinstance(event, Step)]
    assert isinstance(result, EpisodeResult) and result.success
    assert all(len(step.observation.joints) == 7 for step in steps)
    assert len(steps) < oracle.calls if stray else len(steps) == oracle.calls, "a refusal is no inference"
    assert isinstance(events[0].observation.pose, Pose)
