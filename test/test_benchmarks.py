"""Benchmarks of others: the wire, actions that mean what the chunk means, the score; LIBERO itself where it is."""

import io
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fakes import stands_for
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.spatial.transform import Rotation
from tiny import save_tiny

from grids_ros import cli
from grids_ros.benchmarks import actions, client, evaluate
from grids_ros.benchmarks.client import ENVIRONMENT, BenchmarkError, BenchmarkProcess, Description, State
from grids_ros.benchmarks.evaluate import BenchmarkEpisode, Worker, rollout, summarise
from grids_ros.benchmarks.options import BenchmarkOptions, BenchmarkRecordOptions, family_of
from grids_ros.benchmarks.record_demonstrations import record_task
from grids_ros.benchmarks.server import wire
from grids_ros.benchmarks.settings import begin
from grids_ros.data.bags import read_episodes
from grids_ros.datatypes import ActionChunk, PolicyOutput, Pose
from grids_ros.options import UsageError
from grids_ros.policy.runtime import Policy

LIBERO = Path(os.environ.get(ENVIRONMENT, ".venv/libero/bin/python"))
needs_libero = pytest.mark.skipif(not LIBERO.exists(), reason="no environment of LIBERO (make libero)")
START = Pose((0.4, 0.1, 1.0), (1.0, 0.0, 0.0, 0.0))

# The wire

leaves = st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.text(max_size=8)
leaves |= arrays(np.float64, st.integers(0, 5), elements=st.floats(-1e9, 1e9)) | arrays(np.uint8, (2, 3))
bodies = st.recursive(leaves, lambda b: st.lists(b, max_size=3) | st.dictionaries(st.text("abc", min_size=1), b))


def equal(a, b):
    if isinstance(a, np.ndarray):
        return isinstance(b, np.ndarray) and a.dtype == b.dtype and a.shape == b.shape and (a == b).all()
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(equal, a, b))
    return a == b


@given(st.lists(bodies, min_size=1, max_size=3))
def test_what_is_sent_arrives(messages):
    stream = io.BytesIO()
    for message in messages:
        wire.send(stream, message)
    stream.seek(0)
    assert all(equal(message, wire.receive(stream)) for message in messages)


@given(st.binary(max_size=60), st.integers(0, 40))
def test_rubbish_and_cuts_are_wire_errors(rubbish, cut):
    stream = io.BytesIO()
    wire.send(stream, {"x": np.arange(3.0)})
    for data in (b"\0\0\0\x20" + rubbish, stream.getvalue()[:cut]):
        with pytest.raises(wire.WireError):
            wire.receive(io.BytesIO(data))


# Actions

units = st.floats(-1.0, 1.0)
steps = st.lists(st.tuples(*[units] * 6, st.booleans()), min_size=1, max_size=8)


@given(steps)
def test_per_step_actions_come_back_as_they_were(rows):
    wanted = np.array([[*row[:6], actions.CLOSE if row[6] else actions.OPEN] for row in rows])
    positions = START.position + np.cumsum(actions.METRES * wanted[:, :3], axis=0)
    turn, quaternions = Rotation.from_quat(START.quaternion), []
    for row in wanted:
        turn = Rotation.from_rotvec(actions.RADIANS * row[3:6]) * turn
        quaternions.append(turn.as_quat())
    openings = np.where(wanted[:, 6] == actions.CLOSE, 0.0, 0.08)
    chunk = ActionChunk(0, 0.05 * np.arange(1, len(rows) + 1), positions, np.array(quaternions), openings)
    np.testing.assert_allclose(actions.per_step(chunk, START), wanted, atol=1e-9)


@given(st.tuples(*[units] * 6))
def test_the_controller_is_told_to_go_where_the_chunk_is(row):
    action = np.array([*row, actions.OPEN])
    target = actions.target_of(action, START)
    chunk = ActionChunk(0, [0.1], target.position[None], target.quaternion[None], [0.08])
    np.testing.assert_allclose(actions.at_time(chunk, START, 100_000_000), action, atol=1e-9)


# The score


@stands_for(BenchmarkProcess)
class Benchmark:
    """A task that succeeds once the tool has moved 102 mm along x: BenchmarkProcess without a simulator."""

    description = Description(("push",), 20.0, 40, 50, ("agentview", "robot0_eye_in_hand"), (), {"mujoco": "none"})

    def __init__(self):
        self.steps = []

    def reset(self, task, state):
        self.pose = START
        return self._state()

    def step(self, action):
        self.steps.append(action)
        self.pose = actions.target_of(np.clip(action, -1, 1), self.pose)
        return self._state()

    def render(self, camera, size):
        return np.full((size, size, 3), 7, np.uint8)

    def _state(self):
        moved = self.pose.position[0] - START.position[0]
        return State(self.pose, 0.08, np.zeros(7), bool(moved > 0.102), "push")


@stands_for(Policy)
class Pusher:
    """A policy that moves along x by 5 mm a step of 0.05 s."""

    cameras = ("base", "wrist")
    chunk_size, per_step_actions = 8, False

    def __init__(self):
        self.seen = []

    def infer(self, observation, seed=None, continuation=None):
        self.seen.append(observation)
        positions = observation.pose.position + np.outer(np.arange(1, 9), [0.005, 0.0, 0.0])
        quaternions = np.tile(observation.pose.quaternion, (8, 1))
        chunk = ActionChunk(observation.stamp_ns, 0.05 * np.arange(1, 9), positions, quaternions, np.full(8, 0.08))
        return PolicyOutput(chunk, {}, {"total": 0.01})


def options(tmp_path, **changes):
    made = BenchmarkOptions(
        benchmark="libero_object",
        checkpoint=tmp_path,
        out=tmp_path / "out",
        image_size=32,
        cameras=Benchmark.description.cameras,
    )
    return replace(made, **changes)


@pytest.mark.parametrize("per_step", [True, False])
def test_an_episode_ends_with_success_and_observes_as_often_as_it_should(per_step, tmp_path):
    benchmark, policy = Benchmark(), Pusher()
    worker = Worker(policy, benchmark, options(tmp_path, replan_steps=5), per_step)
    result = rollout(worker, 0, 3, limit=40)
    assert result.success and result.steps == len(benchmark.steps) == 21
    assert [o.stamp_ns for o in policy.seen] == [n * 250_000_000 for n in range(5)]
    assert set(policy.seen[0].images) == {"base", "wrist"} and policy.seen[0].instruction == "push"


def test_an_episode_without_success_ends_at_the_limit(tmp_path):
    result = rollout(Worker(Pusher(), Benchmark(), options(tmp_path), True), 0, 0, limit=10)
    assert not result.success and result.steps == 10


def test_results_of_other_settings_or_weights_are_not_mixed(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"one")
    begin(tmp_path / "out", evaluate._settings(options(tmp_path)))
    begin(tmp_path / "out", evaluate._settings(options(tmp_path)))
    with pytest.raises(UsageError, match="results with replan_steps 5, this run has 8: choose another --out"):
        begin(tmp_path / "out", evaluate._settings(options(tmp_path, replan_steps=8)))
    (tmp_path / "model.safetensors").write_bytes(b"trained on")
    with pytest.raises(UsageError, match="results with weights sha256 .*: choose another --out"):
        begin(tmp_path / "out", evaluate._settings(options(tmp_path)))


def test_settings_of_an_earlier_version_are_other_settings(tmp_path):
    begin(tmp_path, {"seed": 0, "gone": 1})
    with pytest.raises(UsageError, match="results with gone 1, this run has None"):
        begin(tmp_path, {"seed": 0})


def test_a_line_that_was_cut_is_no_result_and_the_next_one_is_whole(tmp_path):
    first, second = (BenchmarkEpisode(0, state, True, 20, 3.0, "push") for state in (1, 2))
    lines = [json.dumps(vars(one)) + "\n" for one in (first, second)]
    path = tmp_path / evaluate.EPISODES
    assert evaluate._done(path) == {}
    path.write_text(lines[0] + lines[1][:20])
    assert evaluate._done(path) == {(0, 1): first}
    with path.open("a") as log:
        log.write(lines[1])
    assert evaluate._done(path) == {(0, 1): first, (0, 2): second}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"episodes_per_task": 51}, "--episodes-per-task is 51, a task of libero_object has 50 initial states"),
        ({"tasks": (1,)}, "--tasks is 1, libero_object has 0 to 0"),
        ({"cameras": ("top", "side")}, "--cameras is 'top', libero_object has agentview, robot0_eye_in_hand"),
        ({"actions": "step", "replan_steps": 9}, "--replan-steps is 9, a chunk has 8 actions"),
    ],
)
def test_what_a_benchmark_or_a_policy_lacks_is_refused_before_the_work(changes, told, tmp_path):
    with pytest.raises(UsageError, match=told):
        evaluate._check(options(tmp_path, **changes), Benchmark.description, Pusher())


@pytest.mark.parametrize("option", ["--tasks 0 0", "--cameras a a"])
def test_what_is_named_twice_is_refused(option, tmp_path, capsys):
    with pytest.raises(SystemExit):
        cli.parse("evaluate", ["--benchmark", "libero_object", "--checkpoint", str(tmp_path), *option.split()])
    assert "expected each one once" in capsys.readouterr().err


def test_the_episodes_of_a_task_are_played_together_for_its_scene_is_slow_to_make(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(evaluate, "_rollout_all", lambda _, todo: asked.extend(todo) or [])
    monkeypatch.setattr(evaluate, "write_sheet", lambda *_: None)
    made = options(tmp_path, tasks=(3, 1), episodes_per_task=2)
    made.out.mkdir()
    assert evaluate._score(made, Benchmark.description, {}) == 0
    assert asked == [(3, 0), (3, 1), (1, 0), (1, 1)]


def test_counts_add_up():
    played = [BenchmarkEpisode(task, state, task == 0, 10, 1.0, "x") for task in (0, 1) for state in range(4)]
    summary = summarise(played, ("a", "b"), {})
    assert (summary["successes"], summary["episodes"]) == (4, 8)
    assert [row["successes"] for row in summary["tasks"].values()] == [4, 0]
    assert summary["wilson_95"][0] < 0.5 < summary["wilson_95"][1]


@pytest.mark.parametrize("suite", ["libero", "meta_world", ""])
def test_an_unknown_benchmark_is_refused(suite):
    with pytest.raises(UsageError, match="expected a suite of libero"):
        family_of(suite)


@pytest.mark.parametrize("form", [["--benchmark", "libero_object"], ["--benchmark=libero_object"]])
def test_the_option_benchmark_chooses_the_benchmarks_options(form, tmp_path):
    made = cli.parse(
        "evaluate", [*form, "--checkpoint", str(tmp_path), "--episodes-per-task", "3", "--tasks", "0", "4"]
    )
    assert isinstance(made, BenchmarkOptions) and (made.episodes_per_task, made.tasks) == (3, (0, 4))
    assert isinstance(cli.parse("record", [*form, "--out", str(tmp_path)]), BenchmarkRecordOptions)
    with pytest.raises(SystemExit) as ended:
        cli.parse("evaluate", ["--benchmark", "robocasa", "--checkpoint", str(tmp_path)])
    assert ended.value.code == 2


def test_a_missing_environment_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv(ENVIRONMENT, str(tmp_path / "none"))
    with pytest.raises(BenchmarkError, match="make libero"):
        BenchmarkProcess("libero", "libero_object")


# LIBERO itself


@needs_libero
@pytest.mark.timeout(600)
def test_the_expert_succeeds_on_a_placement_and_the_fixed_states_are_the_benchmarks():
    with BenchmarkProcess("libero", "libero_object", LIBERO) as process:
        assert len(process.description.tasks) == 10 and process.description.limit_steps == 280
        first, again, other = process.reset(0, 0), process.reset(0, 0), process.reset(0, 1)
        np.testing.assert_allclose(first.pose.position, again.pose.position, atol=1e-6)
        with pytest.raises(BenchmarkError, match="initial state 50, task 0 has 0 to 49"):
            process.reset(0, 50)
        image = process.render("agentview", 64)
        assert image.shape == (64, 64, 3) and image.std() > 10.0
        state = process.randomize(0, 3)
        advice = process.expert(restart=True)
        begun = advice.places
        for _ in range(280):
            state = process.step(advice.action)
            if state.success:
                break
            advice = process.expert()
        soup, basket = advice.places - begun
        assert np.linalg.norm(soup) > 0.1 > 10.0 * np.linalg.norm(basket), "what it moves, and where it goes"
        assert state.success and "alphabet soup" in state.instruction
        assert other.instruction == first.instruction


@needs_libero
def test_an_unknown_suite_is_named_by_the_process():
    for name, told in (
        ("libero_nothing", "unknown suite 'libero_nothing', expected one of .*libero_object"),
        ("libero_object_env", "its files are not in this installation of LIBERO"),
    ):
        with pytest.raises(BenchmarkError, match=told):
            BenchmarkProcess("libero", name, LIBERO)


@needs_libero
def test_a_call_that_does_not_come_back_ends(monkeypatch):
    with BenchmarkProcess("libero", "libero_object", LIBERO) as process:
        monkeypatch.setattr(client, "LONGEST_CALL_S", 0.05)
        with pytest.raises(BenchmarkError, match="reset took more than 0.05 s"):
            process.reset(0, 0)


def has(package):
    """Whether the benchmarks' environment holds a package."""
    return bool(list(LIBERO.parent.parent.glob(f"lib/python*/site-packages/{package}")))


@pytest.mark.skipif(not has("metaworld"), reason="no Meta-World in the benchmarks' environment (make libero)")
@pytest.mark.timeout(600)
def test_metaworlds_own_experts_solve_its_tasks_through_our_actions():
    """Seven numbers of LIBERO's layout say all that its four do, to the expert's success."""
    with BenchmarkProcess("metaworld", "metaworld_mt10", LIBERO) as process:
        assert len(process.description.tasks) == 10 and process.description.limit_steps == 500
        with pytest.raises(BenchmarkError, match="initial state 50, a task has 0 to 49"):
            process.reset(0, 50)
        won = 0
        for task in range(10):
            state = process.reset(task, 0)
            np.testing.assert_array_equal(state.pose.position, process.reset(task, 0).pose.position)
            advice = process.expert(restart=True)
            for _ in range(500):
                state = process.step(advice.action)
                if state.success:
                    break
                advice = process.expert()
            won += state.success
        assert won >= 9 and state.instruction and "-" not in state.instruction
        assert process.render("corner2", 64).std() > 10.0


@needs_libero
@pytest.mark.timeout(900)
def test_a_small_checkpoint_is_scored_end_to_end(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv(ENVIRONMENT, str(LIBERO))
    monkeypatch.setattr("tiny.INSTRUCTIONS", ["pick up the alphabet soup and place it in the basket"])
    made = options(tmp_path, checkpoint=save_tiny(tmp_path / "tiny"), tasks=(0,), episodes_per_task=1, workers=1)
    assert evaluate.run(made) == 0
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (summary["episodes"], summary["successes"]) == (1, 0) and "refused" not in summary
    assert (made.out / "sheet.png").stat().st_size > 10_000 and (made.out / "task0-state0.mp4").exists()
    monkeypatch.setattr(evaluate, "_rollout_all", lambda _, todo: [] if not todo else pytest.fail("played again"))
    assert evaluate.run(made) == 0


@needs_libero
@pytest.mark.timeout(900)
def test_a_recorded_demonstration_is_read_back(tmp_path, monkeypatch):
    monkeypatch.setenv(ENVIRONMENT, str(LIBERO))
    made = BenchmarkRecordOptions(benchmark="libero_object", out=tmp_path, episodes_per_task=1, tasks=(0,), workers=1)
    counts = record_task(made, 0)
    assert counts["episodes"] == 1 and not list(tmp_path.glob("*.part"))
    (episode,) = read_episodes(tmp_path / "task00")
    assert episode.instruction == "pick up the alphabet soup and place it in the basket"
