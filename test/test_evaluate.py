"""Closed-loop evaluation: an episode runs what the robot runs, and the figures mean what they are called."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import repeat

import numpy as np
import pytest
from fakes import stands_for
from tiny import save_tiny

from grids_ros import cli
from grids_ros.control.defaults import FOLLOWER
from grids_ros.datatypes import ActionChunk, Observation, PolicyOutput
from grids_ros.evaluate import __main__ as program
from grids_ros.evaluate import episode
from grids_ros.evaluate.episode import EpisodeResult, Step, rollout
from grids_ros.evaluate.success_rates import summarise, wilson
from grids_ros.policy.runtime import Policy
from grids_ros.sim.expert import Expert
from grids_ros.sim.scene import Scene
from grids_ros.sim.tasks import BOWL_TASKS, LIFT_TASKS, STACK_TASKS, TASKS, Task, task_of

DELAY_S = 0.06
RED, GREEN, BLUE = LIFT_TASKS


@stands_for(Policy)
class Oracle:
    """Asks the scripted expert, and so lifts the cube of its own `task`, whatever it is told."""

    cameras = ("base", "wrist")
    joints = ()

    def __init__(self, scene: Scene, task: Task):
        self._scene, self._expert, self.seen, self.continuations = scene, Expert(task), [], []

    def infer(self, observation: Observation, seed=None, continuation=None) -> PolicyOutput:
        self.seen.append(observation)
        self.continuations.append(continuation)
        target, opening = self._expert.act(self._scene)
        times = np.array([0.1, 0.4])
        chunk = ActionChunk(
            observation.stamp_ns, times, [target.position] * 2, [target.quaternion] * 2, [opening, opening]
        )
        points = {name: np.full((4, 2), len(self.seen) % 2, float) for name in self.cameras}
        return PolicyOutput(chunk, points, {"total": 0.02})


@pytest.fixture(scope="module")
def scene() -> Scene:
    return Scene(image_size=32)


def result_of(policy: Oracle, scene: Scene, task: Task, seed: int) -> tuple[list[Step], EpisodeResult]:
    *events, result = rollout(policy, scene, task, seed, repeat(DELAY_S))
    return [event for event in events if isinstance(event, Step)], result


def test_lifting_the_named_cube_is_success_and_ends_the_episode(scene):
    policy = Oracle(scene, GREEN)
    steps, result = result_of(policy, scene, GREEN, 201)
    assert result.success and result.wrong == () and result.colour == "green" and result.seed == 201
    assert result.time_s < episode.LIMIT_S
    assert [step.observation for step in steps] == policy.seen
    assert {seen.instruction for seen in policy.seen} == {"lift the green cube"}
    assert len(result.inference_ms) == len(steps) and set(result.inference_ms) == {20.0}
    assert result.coordinates["wrist"].shape == (len(steps), 4, 2)


def test_inferences_are_a_fifth_of_a_second_apart_and_see_the_scene_of_their_stamp(scene):
    policy = Oracle(scene, RED)
    result_of(policy, scene, RED, 202)
    apart = np.diff([seen.stamp_ns for seen in policy.seen])
    assert set(apart.tolist()) == {200_000_000}
    moved = [np.linalg.norm(seen.pose.position - policy.seen[0].pose.position) for seen in policy.seen]
    assert moved[0] == 0.0 and max(moved) > 0.05
    assert not np.array_equal(policy.seen[0].images["wrist"], policy.seen[-1].images["wrist"])


def test_with_rtc_each_chunk_but_the_first_two_goes_on_from_the_last_for_the_delay(scene, monkeypatch):
    monkeypatch.setattr(episode, "LIMIT_S", 2.0)
    policy = Oracle(scene, RED)
    events = rollout(policy, scene, RED, 205, repeat(0.15), replace(FOLLOWER, join="rtc"))
    steps = [event for event in events if isinstance(event, Step)]
    assert policy.continuations[:2] == [None, None], "nothing to go on from, then no delay known"
    for last, continuation in zip(steps[1:], policy.continuations[2:], strict=False):
        assert continuation.chunk is last.output.chunk
        assert continuation.delay_s == pytest.approx(0.15)
    assert len(policy.continuations) > 5


def test_no_inference_starts_before_the_last_chunk_has_arrived(scene, monkeypatch):
    monkeypatch.setattr(episode, "LIMIT_S", 2.0)
    policy = Oracle(scene, RED)
    list(rollout(policy, scene, RED, 206, repeat(0.3)))
    assert set(np.diff([seen.stamp_ns for seen in policy.seen]).tolist()) == {400_000_000}


def test_lifting_another_cube_is_no_success_but_the_wrong_object(scene, monkeypatch):
    monkeypatch.setattr(episode, "LIMIT_S", 6.0)
    _, result = result_of(Oracle(scene, BLUE), scene, RED, 203)
    assert not result.success and result.wrong == ("blue",) and result.time_s >= 6.0


@pytest.mark.parametrize("task", [BOWL_TASKS[2], STACK_TASKS[3]], ids=lambda task: task.name)
def test_placing_in_the_bowl_or_on_a_cube_is_success(scene, task):
    policy = Oracle(scene, task)
    _, result = result_of(policy, scene, task, 207)
    assert result.success and result.wrong == () and result.colour == task.colour
    assert policy.seen[0].instruction == task.instruction


def test_the_right_cube_on_the_wrong_one_is_a_mistake(scene, monkeypatch):
    monkeypatch.setattr(episode, "LIMIT_S", 6.0)
    _, result = result_of(Oracle(scene, Task("stack", "red", "blue")), scene, Task("stack", "red", "green"), 208)
    assert not result.success and result.wrong == ("blue",)


@pytest.mark.parametrize("tasks", TASKS.values(), ids=TASKS)
def test_what_is_named_first_is_another_cube(tasks):
    assert all(program.named_first(tasks, i).colour != task.colour for i, task in enumerate(tasks))


def test_an_instruction_swapped_before_contact_counts_from_then_on(scene):
    class Obedient(Oracle):
        """Does what it was told last."""

        def infer(self, observation: Observation, continuation=None) -> PolicyOutput:
            if not self.seen or self.seen[-1].instruction != observation.instruction:
                self._expert = Expert(task_of(observation.instruction))
            return super().infer(observation, continuation)

    policy = Obedient(scene, RED)
    *_, result = rollout(policy, scene, BLUE, 209, repeat(DELAY_S), detour=episode.Detour(RED, 0.1))
    told = [seen.instruction for seen in policy.seen]
    assert told == sorted(told, reverse=True) and set(told) == {RED.instruction, BLUE.instruction}
    assert result.success and result.wrong == () and result.colour == "blue"


def test_a_policy_that_goes_on_with_what_it_was_told_first_fails(scene, monkeypatch):
    monkeypatch.setattr(episode, "LIMIT_S", 6.0)
    *_, result = rollout(Oracle(scene, RED), scene, BLUE, 210, repeat(DELAY_S), detour=episode.Detour(RED, 0.1))
    assert not result.success and result.wrong == ("red",)


def test_before_it_is_named_lifting_a_cube_is_a_mistake_and_no_success(scene, monkeypatch):
    """A policy that always lifts the blue cube never came near the red one: it was told of blue by nobody."""
    monkeypatch.setattr(episode, "LIMIT_S", 6.0)
    policy = Oracle(scene, BLUE)
    *_, result = rollout(policy, scene, BLUE, 209, repeat(DELAY_S), detour=episode.Detour(RED, 0.02))
    assert {seen.instruction for seen in policy.seen} == {RED.instruction}
    assert not result.success and result.wrong == ("blue",)


def test_a_chunk_that_comes_after_its_end_moves_nothing(scene, monkeypatch):
    monkeypatch.setattr(episode, "LIMIT_S", 1.0)
    policy = Oracle(scene, RED)
    *_, result = rollout(policy, scene, RED, 204, repeat(0.5))
    assert not result.success
    assert np.ptp([seen.pose.position for seen in policy.seen], axis=0).max() < 5e-3


@pytest.mark.parametrize(("successes", "episodes"), [(8, 10), (1, 30), (59, 60)])
def test_the_wilson_bounds_are_the_rates_that_lie_just_1_96_deviations_from_what_was_counted(successes, episodes):
    low, high = wilson(successes, episodes)
    assert 0.0 < low < successes / episodes < high < 1.0
    for rate in (low, high):
        deviation = np.sqrt(rate * (1.0 - rate) / episodes)
        assert abs(successes / episodes - rate) == pytest.approx(1.959964 * deviation)


def test_the_wilson_interval_of_all_or_nothing_is_not_a_point():
    assert wilson(0, 20)[0] == 0.0 and wilson(0, 20)[1] == pytest.approx(0.1611, abs=1e-4)
    assert wilson(20, 20)[1] == 1.0 and wilson(20, 20)[0] == pytest.approx(0.8389, abs=1e-4)


def finished(seed: int, colour: str, success: bool, wrong=(), time_s=4.0, points=((0.5, 0.5),)) -> EpisodeResult:
    return EpisodeResult(seed, colour, success, tuple(wrong), time_s, (10.0, 30.0), {"base": np.array([points], float)})


def test_the_summary_counts():
    summary = summarise(
        [
            finished(1, "red", True, time_s=3.0, points=((0.2, 0.5),)),
            finished(2, "green", False, wrong=("red", "blue"), time_s=15.0, points=((0.6, 0.5),)),
            finished(3, "red", True, wrong=("blue",), time_s=5.0, points=((0.2, 0.5),)),
            finished(4, "blue", False, time_s=15.0, points=((0.6, 0.5),)),
        ]
    )
    assert (summary["successes"], summary["episodes"], summary["success_rate"]) == (2, 4, 0.5)
    assert (summary["wrong_objects"], summary["wrong_object_rate"]) == (2, 0.5), "episodes, not cubes"
    assert summary["by_colour"] == {"blue": "0 of 1", "green": "0 of 1", "red": "2 of 2"}
    assert summary["time_to_success_s"] == 4.0, "failures do not count"
    assert summary["inference_ms"]["p50"] == 20.0
    assert summary["coordinate_motion"] == {"base": pytest.approx(0.1)}, "x moves by 0.2 about its mean, y stands still"
    assert summary["failed_seeds"] == [2, 4]


def test_no_success_at_all_is_told_without_a_time():
    assert summarise([finished(1, "red", False)])["time_to_success_s"] is None


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--episodes", "0"], "--episodes is 0"),
        (["--workers", "0"], "--workers is 0"),
        (["--delay", "-1"], "--delay is -1"),
        (["--delay", "nan"], "--delay is 'nan'"),
        (["--task", "dance"], "expected one of lift, bowl, stack"),
        (["--ood", "fog"], "distractors"),
        (["--join", "newest"], "'newest', expected one of latest, blend, rtc"),
        (["--card", "--seed", "0"], "expected seeds within 100000 to 499999"),
        (["--card", "--seed", "499990"], "expected seeds within 100000 to 499999"),
        (["--checkpoint", "nowhere"], "nowhere, expected an existing folder"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, text, capsys):
    with pytest.raises(SystemExit):
        cli.parse("evaluate", arguments)
    assert text in capsys.readouterr().err


def test_a_broken_checkpoint_is_named_before_any_process_starts(tmp_path, capsys, monkeypatch):
    folder = save_tiny(tmp_path / "policy")
    (folder / "normalization.json").unlink()
    monkeypatch.setattr(program, "evaluate", lambda options: pytest.fail("processes were started"))
    assert program.main(["--checkpoint", str(folder)]) == 2
    captured = capsys.readouterr()
    assert "normalization.json" in captured.err and not captured.out


@pytest.mark.parametrize(("seed", "said"), [("100000", False), ("99999", True), ("499999", False), ("500000", True)])
def test_scenes_that_may_have_been_trained_on_are_said(seed, said, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(program, "evaluate", lambda options: [finished(1, "red", True)])
    arguments = ["--checkpoint", str(save_tiny(tmp_path / "policy")), "--seed", seed, "--episodes", "1"]
    assert program.main(arguments) == 0
    assert ("trained on" in capsys.readouterr().err) == said


def test_another_number_of_tokens_is_refused(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(program, "evaluate", lambda options: pytest.fail("processes were started"))
    assert program.main(["--checkpoint", str(save_tiny(tmp_path / "policy")), "--tokens", "16"]) == 2
    assert "tokens is 16" in capsys.readouterr().err


def test_a_task_that_the_policy_was_never_taught_is_named(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(program, "evaluate", lambda options: pytest.fail("processes were started"))
    assert program.main(["--checkpoint", str(save_tiny(tmp_path / "policy")), "--task", "bowl"]) == 2
    captured = capsys.readouterr()
    assert "words this policy does not know: ['put', 'into', 'bowl']" in captured.err and not captured.out


@pytest.mark.slow
def test_the_program_plays_the_colours_in_turn_and_ends_with_one_line_of_json(tmp_path, capsys):
    """A random policy lifts nothing; that, too, must be said, and filmed."""
    import av

    films = tmp_path / "films"
    arguments = ["--checkpoint", str(save_tiny(tmp_path / "policy")), "--episodes", "2", "--workers", "2"]
    arguments += ["--seed", "7", "--tokens", "4", "--ood", "all", "--json", str(tmp_path / "result.json")]
    assert program.main([*arguments, "--video", str(films)]) == 0
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert summary == json.loads((tmp_path / "result.json").read_text())
    assert (summary["task"], summary["ood"], summary["tokens_per_camera"]) == ("lift", "all", 4)
    assert (summary["successes"], summary["episodes"], summary["failed_seeds"]) == (0, 2, [7, 8])
    assert summary["by_colour"] == {"green": "0 of 1", "red": "0 of 1"}
    assert summary["inference_ms"]["p50"] > 0.0 and set(summary["coordinate_motion"]) == {"base", "wrist"}
    assert [path.name for path in sorted(films.iterdir())] == ["7_red.mp4", "8_green.mp4"]
    with av.open(str(films / "7_red.mp4")) as film:
        frames = list(film.decode(video=0))
    assert len(frames) == int(episode.LIMIT_S * 5) and (frames[0].width, frames[0].height) == (896, 448)
