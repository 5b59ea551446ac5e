"""Recording: real bags from the real scene, clean labels, the same bag for the same seed."""

from __future__ import annotations

import json
import os
import shutil
import signal
from types import SimpleNamespace

import numpy as np
import pytest
from fakes import stands_for

from grids_ros.data.bags import read_episodes
from grids_ros.data.writer import BagWriter
from grids_ros.datatypes import NANOSECONDS, ActionChunk, PolicyOutput
from grids_ros.evaluate import episode as closed_loop
from grids_ros.observation.images import to_rgb
from grids_ros.pieces import Outcome, outcomes
from grids_ros.policy.runtime import Policy
from grids_ros.sim import mujoco_model
from grids_ros.sim import record as recorder
from grids_ros.sim.disturbance import Detour, Push, Shove, knock, plan, stray
from grids_ros.sim.prelude import detoured
from grids_ros.sim.record import Demonstration, main, record
from grids_ros.sim.scene import Scene
from grids_ros.sim.tasks import BOWL_TASKS, LIFT_INSTRUCTIONS, LIFT_TASKS, STACK_TASKS, in_place
from grids_ros.sim.variation import Variation


@pytest.fixture(scope="module")
def bag(tmp_path_factory):
    path = tmp_path_factory.mktemp("record") / "bag"
    heard = []
    record(path, LIFT_TASKS, [0, 1, 2], 300, heard.append, size=48)
    return path, heard


def test_each_colour_is_demonstrated_and_ends_lifted(bag):
    path, heard = bag
    episodes = list(read_episodes(path))
    assert heard == [True] * 3
    assert [episode.instruction for episode in episodes] == list(LIFT_INSTRUCTIONS)
    for index, episode in enumerate(episodes):
        heights = episode.objects[1][:, index, 2]  # the labels' order is that of model.OBJECTS
        assert mujoco_model.OBJECTS[index] in episode.instruction
        assert heights[0] == pytest.approx(mujoco_model.CUBE_SIDE / 2, abs=2e-3) and heights[-1] > 0.1
        assert episode.objects[1].shape[1:] == (4, 3)


def test_images_poses_and_labels_share_their_stamps_at_ten_hertz(bag):
    for episode in read_episodes(bag[0]):
        stamps = np.array([seen.stamp_ns for seen in episode.observations])
        assert all(set(seen.image_stamps_ns.values()) == {seen.stamp_ns} for seen in episode.observations)
        for other in (episode.poses[0], episode.grippers[0], episode.objects[0]):
            np.testing.assert_array_equal(stamps, other)
        apart = np.diff(stamps)
        assert (apart[:-1] % (NANOSECONDS // 10) == 0).all() and apart[-1] > 0, "the last image closes the episode"
        assert to_rgb(episode.observations[0].images["wrist"][1]).shape == (48, 48, 3)
        assert (np.diff(episode.targets[0]) >= NANOSECONDS // 20 - 1).all()
        assert (np.diff(episode.gripper_commands[1]) != 0.0).all(), "commands are sent on change only"


def test_demonstrations_have_the_usual_scene_and_no_variation(bag):
    first = next(read_episodes(bag[0]))
    scene = Scene(300, 48)
    assert scene.variation == Variation()
    for camera in mujoco_model.CAMERAS:
        np.testing.assert_array_equal(to_rgb(first.observations[0].images[camera][1]), scene.render(camera))
    scene.close()


def test_the_same_seed_gives_the_same_bag(bag, tmp_path):
    record(tmp_path / "again", LIFT_TASKS, [0], 300, lambda kept: None, size=48)
    (again,) = read_episodes(tmp_path / "again")
    first = next(read_episodes(bag[0]))
    for name in ("poses", "targets", "grippers", "gripper_commands", "objects"):
        for one, other in zip(getattr(first, name), getattr(again, name), strict=True):
            np.testing.assert_array_equal(one, other)
    for one, other in zip(first.observations, again.observations, strict=True):
        for camera in mujoco_model.CAMERAS:
            np.testing.assert_array_equal(to_rgb(one.images[camera][1]), to_rgb(other.images[camera][1]))


def test_a_push_leaves_a_gap_in_the_targets_and_the_next_one_starts_from_where_the_arm_is(tmp_path):
    scene = Scene(image_size=32)
    scene.reset(301)
    push = Push(0.5, False, np.array([0.0, 0.08, 0.05]), 0.3, 0.5, None)
    demonstration = Demonstration(scene, LIFT_TASKS[0], NANOSECONDS, [push])
    assert demonstration.run()
    with BagWriter(tmp_path / "bag") as bag:
        demonstration.write(bag)
    (episode,) = read_episodes(tmp_path / "bag")
    stamps, positions, _ = episode.targets
    gaps = np.flatnonzero(np.diff(stamps) > 0.15 * NANOSECONDS)
    assert len(gaps) == 1
    after = gaps[0] + 1
    assert stamps[after] - stamps[gaps[0]] == pytest.approx(0.55 * NANOSECONDS, rel=0.05)
    measured = episode.poses[1][np.searchsorted(episode.poses[0], stamps[after])]
    assert np.linalg.norm(positions[after] - measured) < 0.05
    moved = positions[after] - positions[gaps[0]]
    assert moved[1] > 0.03, "the arm was pushed in +y meanwhile"
    scene.close()


def test_a_demonstration_that_fails_is_left_out_and_reported(tmp_path, monkeypatch):
    monkeypatch.setattr(recorder, "LIMIT_S", 0.5)
    heard = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recorder, "plan", lambda rng, task: [])
        record(tmp_path / "bag", LIFT_TASKS, [0, 1], 300, heard.append, size=16)
    assert heard == [False, False]


def test_placing_is_recorded_until_the_cube_is_let_go(tmp_path):
    tasks = (BOWL_TASKS[1], STACK_TASKS[4])
    record(tmp_path / "bag", tasks, [0, 1], 310, lambda kept: None, size=16)
    episodes = list(read_episodes(tmp_path / "bag"))
    assert [episode.instruction for episode in episodes] == [task.instruction for task in tasks]
    for task, episode in zip(tasks, episodes, strict=True):
        cube, target = (episode.objects[1][:, mujoco_model.OBJECTS.index(name)] for name in task.objects)
        assert in_place(cube[-1], task.onto, target[-1]) and not in_place(cube[0], task.onto, target[0])
        assert {0.0, mujoco_model.MAX_OPENING} == set(episode.gripper_commands[1])
        assert episode.gripper_commands[1][-1] == mujoco_model.MAX_OPENING
        assert episode.poses[1][-1, 2] > cube[-1, 2] + 0.05, "the hand has gone up again"


def test_a_shoved_object_leaves_a_gap_too(tmp_path):
    scene = Scene(image_size=16)
    scene.reset(302)
    shove = Shove(0.4, "red", np.array([0.0, -0.7]), 3.0)
    demonstration = Demonstration(scene, LIFT_TASKS[0], NANOSECONDS, [shove])
    assert demonstration.run()
    with BagWriter(tmp_path / "bag") as bag:
        demonstration.write(bag)
    (episode,) = read_episodes(tmp_path / "bag")
    assert (np.diff(episode.targets[0]) > 0.15 * NANOSECONDS).sum() == 1
    red = episode.objects[1][:, 0]
    slid = red[np.searchsorted(episode.objects[0], 1.9 * NANOSECONDS)] - red[0]
    assert -0.06 < slid[1] < -0.01 and abs(slid[0]) < 0.01


def test_a_stacked_cube_that_is_knocked_down_is_stacked_again(tmp_path):
    scene, task = Scene(70_000, 16), STACK_TASKS[0]
    scene.reset(70_000)
    falls = next(filter(None, (knock(np.random.default_rng(seed), task) for seed in range(9))))
    demonstration = Demonstration(scene, task, NANOSECONDS, knock=falls)
    assert demonstration.run()
    with BagWriter(tmp_path / "bag") as bag:
        demonstration.write(bag)
    scene.close()
    (episode,) = read_episodes(tmp_path / "bag")
    cube, target = (episode.objects[1][:, mujoco_model.OBJECTS.index(name)] for name in task.objects)
    stacked = [in_place(one, task.onto, other) for one, other in zip(cube, target, strict=True)]
    fallen = stacked.index(False, stacked.index(True))
    assert cube[fallen, 2] < 0.8 * mujoco_model.CUBE_SIDE + target[fallen, 2] and stacked[-1]
    assert episode.poses[1][fallen, 2] >= falls.risen_m - 0.01, "seen from where a policy would take it for done"
    assert (np.diff(episode.targets[0]) > 0.15 * NANOSECONDS).sum() == 1


def test_half_of_the_stacks_are_knocked_down_and_nothing_else():
    def events(task):
        return [knock(np.random.default_rng(seed), task) for seed in range(200)]

    assert not any(events(BOWL_TASKS[0])) and not any(events(LIFT_TASKS[0]))
    assert 70 < sum(map(bool, events(STACK_TASKS[0]))) < 130


def test_a_change_of_mind_is_recorded_from_the_new_instruction_on(tmp_path):
    scene, (red, green, _) = Scene(7, 64), LIFT_TASKS
    scene.reset(7)
    home = scene.tool_pose().position
    demonstration = Demonstration(scene, red, NANOSECONDS, prelude=detoured(Detour(green, 0.08)))
    assert demonstration.run()
    with BagWriter(tmp_path / "bag") as bag:
        demonstration.write(bag)
    scene.close()
    (episode,) = read_episodes(tmp_path / "bag")
    start, positions = episode.poses[0][0], episode.poses[1]
    assert episode.instruction == red.instruction and start > NANOSECONDS
    at = episode.objects[1][0][mujoco_model.OBJECTS.index("green")]
    assert np.linalg.norm(positions[0] - at) <= 0.08 < np.linalg.norm(home - at)
    assert episode.targets[0][0] == start == episode.observations[0].stamp_ns


@stands_for(Policy)
class Driven:
    """A policy that moves the tool on by `step` [m/s], with the fingers open."""

    cameras = ("base", "wrist")
    joints = ()

    def __init__(self, step):
        self._step = np.array(step)

    def infer(self, observation, seed=None, continuation=None):
        times, pose = 0.1 * np.arange(1, 13), observation.pose
        positions, quaternions = pose.position + times[:, None] * self._step, np.tile(pose.quaternion, (12, 1))
        opening = np.full(12, mujoco_model.MAX_OPENING)
        return PolicyOutput(ActionChunk(observation.stamp_ns, times, positions, quaternions, opening), {})


def test_what_a_policy_leaves_undone_is_taken_over_and_only_that_is_recorded(tmp_path):
    heard = []
    record(tmp_path / "bag", LIFT_TASKS, [0, 1], 320, heard.append, 48, Driven([0.0, 0.05, -0.02]))
    episodes = list(read_episodes(tmp_path / "bag"))
    assert heard == [True, True] and [e.instruction for e in episodes] == [t.instruction for t in LIFT_TASKS[:2]]
    scene = Scene(320, 48)
    for number, episode in enumerate(episodes):
        scene.reset(320 + number)
        moved = episode.poses[1][0] - scene.tool_pose().position
        assert moved[1] > 0.03, "it begins where the policy went to"
        cube = episode.objects[1][:, mujoco_model.OBJECTS.index(LIFT_TASKS[number].colour)]
        assert cube[-1, 2] > cube[0, 2] + 0.04
    scene.close()


def test_what_a_policy_does_by_itself_is_no_demonstration(tmp_path, monkeypatch):
    heard, done = [], SimpleNamespace(update=lambda scene: scene.time_s > 0.5)
    monkeypatch.setattr(closed_loop, "SuccessMonitor", lambda task: done)
    record(tmp_path / "bag", LIFT_TASKS, [0, 1], 320, heard.append, 48, Driven([0.0, 0.05, 0.0]))
    assert heard == [False, False]


@pytest.mark.parametrize("task", [LIFT_TASKS[1], STACK_TASKS[0]])
def test_another_cube_of_the_same_task_is_named_at_first_in_some_episodes(task):
    drawn = [stray(np.random.default_rng([0, number]), task) for number in range(200)]
    strayed = [detour for detour in drawn if detour]
    assert 30 < len(strayed) < 90
    assert {detour.task.colour for detour in strayed} == set(mujoco_model.COLOURS) - {task.colour}
    assert all(detour.task.name == task.name and 0.03 <= detour.until_m <= 0.15 for detour in strayed)


@pytest.mark.parametrize("task", [LIFT_TASKS[0], STACK_TASKS[0]], ids=lambda task: task.name)
def test_disturbances_are_drawn_from_the_seed_in_the_order_of_their_times(task):
    pushes, shoved = [], set()
    for seed in range(200):
        events, again = (plan(np.random.default_rng(seed), task) for _ in range(2))
        assert [event.after_s for event in events] == sorted(event.after_s for event in again)
        pushes.append(sum(isinstance(event, Push) for event in events))
        shoved.update(event.name for event in events if isinstance(event, Shove))
    assert 70 < pushes.count(0) < 130 and set(pushes) == {0, 1, 2}
    assert shoved == set(task.objects), "only what the task is about"


def test_the_command_records_in_processes_and_a_second_start_goes_on_with_what_is_left(tmp_path, capfd, monkeypatch):
    out = tmp_path / "demonstrations"
    arguments = ["--out", str(out), "--episodes", "2", "--workers", "2", "--seed", "300", "--image-size", "32"]
    assert main(arguments) == 0
    words = sorted(episode.instruction for path in out.glob("part_*") for episode in read_episodes(path))
    assert words == ["lift the green cube", "lift the red cube"]
    assert "2 demonstrations" in capfd.readouterr().out
    with pytest.raises(SystemExit):
        main([*arguments[:-1], "16"])
    assert "was begun with image_size 32, not 16: expected the same options" in capfd.readouterr().err
    progress = json.loads((out / "record.json").read_text())
    lost = next(path for path in out.glob("part_*") if words[0] in [e.instruction for e in read_episodes(path)])
    shutil.rmtree(lost)
    (out / "record.json").write_text(json.dumps(progress | {"done": [0], "kept": 1}))
    asked = []
    monkeypatch.setattr(recorder, "outcomes", lambda *given: asked.append(given[1]) or outcomes(*given))
    assert main(arguments) == 0
    assert [piece.numbers for piece in asked[0]] == [(1,)], "the first is done"
    again = sorted(episode.instruction for path in out.glob("part_*") for episode in read_episodes(path))
    assert again == words and json.loads((out / "record.json").read_text()) == progress | {"done": [0, 1]}


def test_ctrl_c_ends_with_the_episodes_under_way(tmp_path, monkeypatch, capfd):
    options = ["--out", str(tmp_path / "out"), "--episodes", "60", "--workers", "1", "--image-size", "16"]

    def in_this_process(work, pieces, workers):
        for index, piece in enumerate(pieces):
            yield Outcome(index, work(piece))

    def pretended(path, tasks, numbers, seed, report, size, policy, stopped):
        path.mkdir()
        for number in numbers:
            if stopped():
                return
            report(True)
            if number == 30:
                os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(recorder, "outcomes", in_this_process)
    monkeypatch.setattr(recorder, "record", pretended)
    assert main(options) == 130
    assert "the same command goes on with the rest" in capfd.readouterr().err
    known = json.loads((tmp_path / "out" / "record.json").read_text())
    assert known["done"] == list(range(31)) and known["kept"] == 31 and not (tmp_path / "out" / "stop").exists()
    assert main(options) == 0
    assert sorted(json.loads((tmp_path / "out" / "record.json").read_text())["done"]) == list(range(60))


def test_all_tasks_get_as_many_episodes(tmp_path):
    out = tmp_path / "all"
    arguments = ["--task", "all", "--episodes", "3", "--workers", "1", "--seed", "320", "--image-size", "16"]
    assert main(["--out", str(out), *arguments]) == 0
    words = [episode.instruction for episode in read_episodes(out / "part_000")]
    assert words == ["lift the red cube", "put the red cube into the bowl", "stack the red cube on the green cube"]


@pytest.mark.parametrize(("seed", "episodes"), [(100_000, 1), (99_999, 2), (499_999, 1)])
def test_scenes_kept_for_evaluation_are_not_shown(tmp_path, seed, episodes, capfd):
    with pytest.raises(SystemExit):
        main(["--out", str(tmp_path / "out"), "--seed", str(seed), "--episodes", str(episodes)])
    assert "100000 to 499999 are kept for `evaluate`" in capfd.readouterr().err


@pytest.mark.parametrize("option", ["--episodes", "--workers", "--image-size"])
def test_counts_below_one_are_refused(tmp_path, option, capfd):
    with pytest.raises(SystemExit):
        main(["--out", str(tmp_path / "out"), option, "0"])
    assert f"{option} is 0, expected a value in [1, " in capfd.readouterr().err
