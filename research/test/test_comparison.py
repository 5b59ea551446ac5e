"""The table: published intervals, verdicts that follow from them, and work that goes on where it was cut off."""

import json
import os
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grids_ros import cli
from grids_ros.benchmarks import evaluate as scored_on_benchmark
from grids_ros.evaluate.options import FIRST_SEED
from grids_ros.evaluate.success_rates import newcombe, wilson
from grids_ros.pieces import Outcome
from grids_ros.sim.tasks import TASKS
from grids_ros.sim.variation import KINDS
from research.__main__ import COMMANDS
from research.comparison import command as program
from research.comparison import work as run
from research.comparison.page import markdown, write
from research.comparison.plan import (
    AS_RECORDED,
    DENSE,
    FEW,
    OTHERS,
    OURS,
    RIVALS,
    VARIANTS,
    Cell,
    Plan,
    Settings,
    Training,
)
from research.comparison.results import NO, UNDECIDED, YES, Count, Difference, overall, read
from research.comparison.scenes import SCENES, Libero, Simulation
from research.train import split as split_pruner

SETTINGS = Settings(("bag",), steps=10, batch=4, episodes=102, start=None)
PLAN = Plan((DENSE, OURS, *RIVALS[OURS]), 2, ("lift", "bowl"), ("light", "all"))
scenes = st.tuples(*[st.integers(0, 200)] * 4).filter(any)  # both succeed, the first, the second, neither

# --- intervals ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("successes", "episodes", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_as_published(successes, episodes, low, high):
    """R. G. Newcombe, Two-sided confidence intervals for the single proportion, 1998, table I, method 3."""
    assert wilson(successes, episodes) == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize(
    ("counts", "published"),
    [((36, 12, 2, 0), (0.0569, 0.3404)), ((18, 12, 2, 18), (0.0562, 0.3290)), ((53, 0, 0, 1), (-0.0729, 0.0729))],
)
def test_newcombe_as_published(counts, published):
    """R. G. Newcombe, Improved confidence intervals for the difference ... based on paired data, 1998, method 10."""
    assert newcombe(*counts)[1:] == pytest.approx(published, abs=1e-4)


@given(scenes)
def test_the_interval_of_a_difference_holds_it_lies_in_bounds_and_turns_with_the_sign(counts):
    both, first, second, neither = counts
    value, low, high = newcombe(*counts)
    assert -1.0 - 1e-12 <= low <= value <= high <= 1.0 + 1e-12
    assert newcombe(both, second, first, neither) == pytest.approx((-value, -high, -low))


@given(scenes)
def test_verdicts_agree_with_each_other(counts):
    both, first, second, neither = counts
    rates = [Count(both + n, sum(counts), 0, 1, 1) for n in (first, second)]
    one, other = Difference(*rates, both), Difference(*rates[::-1], both)
    assert one.interval == newcombe(*counts)
    if one.better == YES:
        assert one.no_worse == YES and other.better == NO and other.no_worse == NO
    if one.no_worse == NO:
        assert one.better == NO and other.better == YES


def test_scenes_in_which_both_fail_make_a_difference_surer():
    (_, low, _), (_, apart, _) = newcombe(60, 20, 5, 15), newcombe(45, 35, 20, 0)  # 80 and 65 of 100 in both
    assert low > apart


def test_every_yes_is_needed_and_one_no_is_enough():
    assert overall([YES, YES]) == YES and overall([YES, NO, UNDECIDED]) == NO and overall([YES, UNDECIDED]) == UNDECIDED


# --- the report --------------------------------------------------------------------------------------------------


def scored(successes, wrong=0, episodes=102):
    failed = list(range(successes, episodes))
    counts = {"successes": successes, "episodes": episodes, "wrong_objects": wrong, "failed_seeds": failed}
    return {**counts, "delay_ms": 60.0, "join": "blend"}


def fill(folder, rate, plan=PLAN, settings=SETTINGS):
    """The files of every cell for which `rate` gives a number of successes."""
    run.begin(folder, settings, plan)
    for cell in plan.cells():
        if (successes := rate(cell)) is not None:
            run.cell_file(folder, cell).write_text(json.dumps(scored(successes)))


def reported(folder, rate, plan=PLAN):
    """The text alone."""
    fill(folder, rate, plan)
    return markdown(read(folder), {})


def better_ood(cell):
    return {DENSE: 99, OURS: 100}.get(cell.training.variant, 60) - 10 * (cell.kind != AS_RECORDED)


def test_the_report_of_a_whole_table_decides(tmp_path):
    fill(tmp_path, better_ood)
    write(read(tmp_path), tmp_path / "docs" / "results.md")
    text = (tmp_path / "docs" / "results.md").read_text()
    assert "no worse than dense-256? **Yes.** 400 of 408 against 396 of 408: +1.0 points (" in text
    assert "each other pruner here to as many tokens? **Yes.**" in text and "- Better than average, 16: yes." in text
    low, high = (100 * bound for bound in wilson(200, 204))
    assert f"| GridS-16 | 98.0 % ({low:.1f} to {high:.1f})<br>100 + 100 of 204 |" in text
    assert "72 of 72 cells" in text and "## Missing" not in text
    assert text.count("; by seed +1.0 and +1.0.") == 1 and text.count("; by seed +39.2 and +39.2.") == len(OTHERS)
    for name in ("success", "ood", "difference"):
        assert (tmp_path / "docs" / "results" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert f"](results/{name}.png)" in text


def test_one_pruner_that_is_as_good_leaves_it_undecided_and_a_better_one_denies_it(tmp_path):
    for successes, verdict in ((90, "Undecided"), (101, "No")):
        text = reported(tmp_path, lambda c, s=successes: s if c.training.variant == "average" else better_ood(c))
        assert f"better than each other pruner here to as many tokens? **{verdict}.**" in text
        assert f"- Better than average, 16: {verdict.lower()}." in text and "- Better than fixed grid, 16: yes." in text


def test_four_tokens_are_compared_with_four_tokens(tmp_path):
    """GridS-4 beats every other pruner to 4 tokens, none of which is asked to beat those to 16."""

    def few(cell):
        return {**dict.fromkeys(RIVALS[FEW], 50), FEW: 80}.get(cell.training.variant, 95)

    plan = Plan(tuple(VARIANTS), 2, ("lift",), ("all",))
    fill(tmp_path, few, plan)
    write(read(tmp_path), tmp_path / "results.md")
    text = (tmp_path / "results.md").read_text()
    assert "is GridS-4 better than each other pruner here to as many tokens? **Yes.**" in text
    assert "- Better than random keep, 4: yes. 160 of 204 against 100 of 204: +29.4 points (" in text
    assert "| GridS-4 | random keep, 4 | +29.4 points (" in text and "| GridS-4 | random keep, 16 |" not in text
    assert "is GridS-16 better than each other pruner here to as many tokens? **Undecided.**" in text


def test_only_pruners_of_the_plan_are_asked_for(tmp_path):
    plan = Plan((DENSE, OURS, "fixed_grid", "average"), 2, ("lift",), ("all",))
    text = reported(tmp_path, better_ood, plan=plan)
    assert "each other pruner here to as many tokens? **Yes.**" in text
    assert "token learner" not in text and "GridS-4" not in text


def test_a_training_that_says_otherwise_leaves_it_undecided_however_sure_the_scenes_are(tmp_path):
    """One of two trainings of `average`, or of the dense policy, is better than GridS-16, the other much worse."""

    def torn(cell):
        if cell.training.variant in ("average", DENSE):
            return 101 if cell.training.seed else 40
        return better_ood(cell) - 10 * (cell.kind == AS_RECORDED)

    text = reported(tmp_path, torn)
    assert "no worse than dense-256? **Undecided.**" in text and "to as many tokens? **Undecided.**" in text
    assert "- Better than average, 16: undecided." in text and "- Better than fixed grid, 16: yes." in text


def test_no_two_cells_of_a_variant_share_a_scene():
    plan = Plan((OURS,), 3, tuple(TASKS), KINDS)
    firsts = sorted(Simulation().first_scene(SETTINGS, cell) for cell in plan.cells())
    assert firsts[0] == FIRST_SEED
    assert all(after - before >= SETTINGS.episodes for before, after in zip(firsts, firsts[1:], strict=False))
    of_two = [Simulation().first_scene(SETTINGS, Cell(Training(name, 1), "bowl", "all")) for name in (OURS, DENSE)]
    assert of_two[0] == of_two[1], "and all variants meet the same"


def test_a_report_of_a_part_compares_what_both_have_and_says_what_is_missing(tmp_path):
    def partly(cell):
        if cell.training.seed == 1 or cell.kind == "all" or (cell.training.variant, cell.task) == (DENSE, "bowl"):
            return None
        return better_ood(cell)

    text = reported(tmp_path, partly)
    assert "100 of 102 against 99 of 102" in text and "from 1 of 4 cells; by seed +1.0 and –." in text
    assert "<br>99 + – of 102, 1 of 4 cells |" in text
    missing = text[text.index("## Missing") :]
    assert f"{72 - 22} cells are not there yet" in missing
    assert "- dense-256, seed 0: bowl in distribution, bowl `light`, lift `all`, bowl `all`\n" in missing


def test_the_report_says_what_the_common_start_was_trained_as(tmp_path):
    settings = Settings(("bag",), steps=10, batch=4, episodes=102, start="dense_start, sha256 0123456789ab")
    fill(tmp_path, better_ood, settings=settings)
    start = {"steps": 400, "tokens": "dense", "start": {"steps": 2800, "tokens": "GridS-16", "start": {"steps": 9}}}
    facts = {"start": start, "steps": 10, "batch": 4, "parameters": 5e6, "data": {"episodes": 7}, "wall_clock_s": 60.0}
    path = run.training_file(tmp_path, Training(DENSE, 0))
    path.parent.mkdir()
    path.write_text(json.dumps({**facts, "threads": 2, "cores": 2}))
    told = "(400 steps as dense, before that 2800 steps as GridS-16, before that 9 steps), on the same data"
    assert f"beginning with the weights of `dense_start, sha256 0123456789ab` {told}" in markdown(read(tmp_path), {})


def test_tables_of_other_starts_are_told_together_each_seed_by_itself(tmp_path):
    for name, plan, ours in (("one", PLAN, 100), ("two", replace(PLAN, seeds=1), 90)):
        settings = replace(SETTINGS, data=(name,), start=f"{name}, sha256 01")
        fill(tmp_path / name, lambda cell, ours=ours: ours if cell.training.variant == OURS else 80, plan, settings)
    both = read(tmp_path / "one", tmp_path / "two")
    assert both.plan.seeds == 3 and len(both.cells) == 72 + 36 and not both.missing
    text = markdown(both, {})
    assert (
        "3 seeds, beginning seeds 0 to 1 with the weights of `one, sha256 01` and seed 2 with the weights of " in text
    )
    assert "580 of 612 against 480 of 612: +16.3 points (" in text and "; by seed +19.6 and +19.6 and +9.8." in text
    assert "share scenes" in text and "share scenes" not in markdown(read(tmp_path / "one"), {})


def test_tables_that_are_no_comparison_are_not_told_together(tmp_path):
    for name, steps in (("one", 10), ("two", 20)):
        fill(tmp_path / name, better_ood, settings=replace(SETTINGS, steps=steps))
    with pytest.raises(run.TableError, match="two has steps 20, .*one 10: they cannot be told together"):
        read(tmp_path / "one", tmp_path / "two")


def test_a_report_of_nothing_claims_nothing(tmp_path):
    fill(tmp_path, lambda cell: None)
    write(read(tmp_path), tmp_path / "results.md")
    text = (tmp_path / "results.md").read_text()
    assert text.count("There are no cells to compare yet.") == 1 + len(OTHERS) and text.count("**Undecided.**") == 2
    assert "Yes" not in text and ".png" not in text and not list(tmp_path.rglob("*.png"))


# --- the work ----------------------------------------------------------------------------------------------------


class Cut(Exception):
    """Stands for a kill."""


class Pretended:
    """In the place of `run.call`: writes what train and evaluate leave, and is cut off at the call that it is told."""

    def __init__(self, dies_at=None, saved=True):
        """saved: whether a training that is cut off had saved anything yet."""
        self.calls, self._dies_at, self._saved, self._count = [], dies_at, saved, count()

    def __call__(self, arguments, log, lock):
        name, *_ = arguments
        self.calls.append(arguments)
        dies = next(self._count) == self._dies_at
        if name == "evaluate":
            if dies:
                raise Cut
            return "some line\n" + json.dumps(scored(int(arguments[arguments.index("--seed") + 1]) % 100))
        out = log.parent
        assert "--resume" in arguments or not (out / "losses.jsonl").exists(), "train refuses another run's folder"
        if dies:
            (out / "losses.jsonl").write_text("")
        if self._saved or not dies:
            (out / "training").mkdir(exist_ok=True)
        if dies:
            raise Cut
        (out / "losses.jsonl").write_text("".join(json.dumps({"seconds": s}) + "\n" for s in (1.0, 2.5, 0.5, 2.0)))
        facts = {"data": {"episodes": 7}, "stages": [], "steps": 10, "parameters": 5, "diagnosis": {}, "versions": {}}
        (out / "provenance.json").write_text(json.dumps(facts))
        return ""


SMALL = Plan((DENSE, OURS), 2, ("lift",), ("all",))


def done(folder, pretended, monkeypatch):
    monkeypatch.setattr(run, "call", pretended)
    run.Work(folder, SETTINGS, [folder / "bag"], None, run.Machine(2, 3)).run(SMALL)


def contents(folder):
    """Of every JSON file, but for how long it took."""
    texts = {path.relative_to(folder): json.loads(path.read_text()) for path in sorted(folder.rglob("*.json"))}
    return {path: {**values, "wall_clock_s": 0} for path, values in texts.items()}


def test_work_that_is_cut_off_anywhere_ends_as_if_it_was_not(tmp_path, monkeypatch):
    whole = Pretended()
    done(tmp_path / "whole", whole, monkeypatch)
    assert [call[0] for call in whole.calls] == (["train", "evaluate"] * 2 + ["evaluate"] * 2) * 2
    for dies_at, interrupted in enumerate(whole.calls):
        folder = tmp_path / str(dies_at)
        with pytest.raises(Cut):
            done(folder, Pretended(dies_at), monkeypatch)
        before, again = contents(folder), Pretended()
        done(folder, again, monkeypatch)
        assert len(again.calls) == len(whole.calls) - dies_at, "nothing is done twice"
        assert ("--resume" in again.calls[0]) == (interrupted[0] == "train")
        after = contents(folder)
        assert after == contents(tmp_path / "whole") and before.items() <= after.items()


def test_a_training_that_was_cut_off_before_it_saved_anything_begins_again(tmp_path, monkeypatch):
    with pytest.raises(Cut):
        done(tmp_path, Pretended(0, saved=False), monkeypatch)
    again = Pretended()
    done(tmp_path, again, monkeypatch)
    assert "--resume" not in again.calls[0] and (tmp_path / "dense-0" / "training.json").exists()


def test_a_cluster_does_the_trainings_first_and_leaves_the_same_files(tmp_path, monkeypatch):
    done(tmp_path / "whole", Pretended(), monkeypatch)
    asked = []

    def backwards(work, pieces, workers):
        asked.append((workers.cluster, [type(job) for _, job in pieces]))
        return (Outcome(index, work(pieces[index])) for index in reversed(range(len(pieces))))

    monkeypatch.setattr(run, "outcomes", backwards)
    work = run.Work(tmp_path / "many", SETTINGS, [tmp_path / "bag"], None, run.Machine(2, 3), "10.0.0.1:6379")
    work.run(SMALL)
    assert asked == [("10.0.0.1:6379", [Training] * 4), ("10.0.0.1:6379", [Cell] * 8)]
    assert contents(tmp_path / "many") == contents(tmp_path / "whole")


def test_what_is_kept_says_what_it_took(tmp_path, monkeypatch):
    done(tmp_path, Pretended(), monkeypatch)
    trained = json.loads((tmp_path / "grids-16-1" / "training.json").read_text())
    assert (trained["variant"], trained["seed"], trained["steps"], trained["batch"]) == (OURS, 1, 10, 4)
    assert trained["wall_clock_s"] == 2.5 + 2.0 and trained["threads"] == 3 and trained["cores"] == os.cpu_count()
    scene = Simulation().first_scene(SETTINGS, Cell(Training(OURS, 1), "lift", "all"))
    cell = json.loads((tmp_path / "cells" / "grids-16-1-lift-all.json").read_text())
    assert cell["training"]["steps"] == 10 and cell["workers"] == 2 and cell["successes"] == scene % 100


def test_every_call_is_one_that_train_and_evaluate_understand(tmp_path, monkeypatch):

    (tmp_path / "dense").mkdir()
    pretended = Pretended()
    monkeypatch.setattr(run, "call", pretended)
    plan = Plan(tuple(VARIANTS), 1, ("stack",), KINDS)
    run.Work(tmp_path, SETTINGS, [tmp_path / "bag"], tmp_path / "dense", run.Machine(2, 3)).run(plan)
    seen = set()
    for name, *arguments in pretended.calls:
        if name == "train":
            own, rest = split_pruner(arguments)
            rest[rest.index("--out") + 1] = str(tmp_path / "new")  # the pretended run is there by now
            options = cli.parse("train", [argument for argument in rest if argument != "--resume"])
            seen.add((options.tokens, own.pruner))
            assert (options.attraction > 0.0) == (own.pruner == "grids"), "what GridS has of its own"
            assert options.start == tmp_path / "dense" and (options.steps, options.batch) == (10, 4)
        else:
            assert cli.parse("evaluate", arguments).checkpoint.is_dir()
    assert seen == {(k, "grids") for k in (0, 16, 4, 1)} | {(k, name) for k in (16, 4) for name in OTHERS}


def test_other_settings_are_refused_and_a_larger_plan_is_added(tmp_path):
    run.begin(tmp_path, SETTINGS, SMALL)
    with pytest.raises(run.TableError, match="was begun with steps 10, not 20: take another --out"):
        run.begin(tmp_path, Settings(("bag",), 20, 4, 102, None), SMALL)
    run.begin(tmp_path, SETTINGS, Plan(("grids-4",), 1, ("bowl",), ("light",)))
    assert run.read_plan(tmp_path)[1] == Plan((DENSE, OURS, "grids-4"), 2, ("lift", "bowl"), ("all", "light"))


def test_another_start_of_the_same_name_makes_another_table(tmp_path):
    names, start = set(), tmp_path / "start"
    start.mkdir()
    (start / "grids.json").write_text('{"sampler": null}')
    for weights in (b"one", b"two"):
        (start / "model.safetensors").write_bytes(weights)
        names.add(program.start_of(start))
    assert len(names) == 2 and all(name.startswith("start, sha256 ") for name in names)
    (start / "model.safetensors").unlink()
    with pytest.raises(run.TableError, match=r"model\.safetensors"):
        program.start_of(start)


def test_a_start_with_a_sampler_is_refused_for_one_variant_would_begin_with_it():
    with pytest.raises(run.TableError, match="it has a sampler of 16 tokens.*expected a dense one"):
        program.start_of(Path("models/demo"))


def test_two_never_work_on_one_folder(tmp_path):
    with run.alone(tmp_path):
        with pytest.raises(run.TableError, match="another process still works on"):
            with run.alone(tmp_path):
                pass
    with run.alone(tmp_path):
        pass


def test_a_job_that_fails_says_why(tmp_path):
    with run.alone(tmp_path) as lock, pytest.raises(run.TableError, match="unknown option --nothing"):
        run.call(["train", "bag", "--out", "x", "--nothing"], tmp_path / "log", (lock,))


def test_options_that_cannot_be_are_refused(tmp_path, capsys):
    for arguments, said in (
        (["--seeds", "0", "bag"], "--seeds is 0, expected at least 1"),
        ([], "nothing to do"),
        (["bag", "--variants", "magic"], "invalid choice: 'magic'"),
        (["bag", "--start", str(tmp_path / "none")], "there is no such folder"),
    ):
        with pytest.raises(SystemExit):
            program.parse([*arguments, "--out", str(tmp_path)])
        assert said in capsys.readouterr().err
    assert program.main(["--out", str(tmp_path), "--report", str(tmp_path / "r.md")]) == 1
    assert "no table was begun" in capsys.readouterr().err


# --- LIBERO ------------------------------------------------------------------------------------------------------

LIBERO = Settings(("bag",), steps=10, batch=4, episodes=20, start=None, scenes="libero")
SUITES = Plan((DENSE, OURS), 1, ("libero_object", "libero_spatial"), ("swap",))


def of_a_suite(failed):
    """What `evaluate --benchmark` prints at its end. failed: states of the second of two tasks."""
    tasks = {"one": {"failed_states": []}, "two": {"failed_states": failed}}
    counts = {"successes": 40 - len(failed), "episodes": 40, "versions": {"mujoco": "3.3.0"}}
    return {**counts, "tasks": tasks}


class OnLibero(Pretended):
    """The dense policy fails from one more initial state than GridS."""

    def __call__(self, arguments, log, lock):
        if arguments[0] == "train":
            return super().__call__(arguments, log, lock)
        self.calls.append(arguments)
        return json.dumps(of_a_suite([3, 7] if "dense-0" in str(log) else [7]))


def as_run(arguments, monkeypatch):
    """The options that `python -m research evaluate` passes on to the benchmark."""
    taken = []
    monkeypatch.setattr(scored_on_benchmark, "run", lambda options: taken.append(options) or 0)
    assert COMMANDS["evaluate"](arguments) == 0
    return taken[0]


def test_a_policy_that_refuses_is_told(tmp_path):
    fill(tmp_path, lambda cell: None, SUITES, LIBERO)
    cell = next(iter(SUITES.cells()))
    facts = {**of_a_suite([1]), "refused": 1, "reasons": ["unknown words: grab"]}
    run.cell_file(tmp_path, cell).write_text(json.dumps(Libero().facts(facts)))
    text = markdown(read(tmp_path), {})
    assert "- dense-256, seed 0, libero_object in distribution: 1 of 40 episodes, as: unknown words: grab" in text
    assert "wrong object" not in text and "attraction" not in text


def test_a_table_of_libero_is_scored_by_its_suites_and_pairs_its_states(tmp_path, monkeypatch):
    pretended = OnLibero()
    monkeypatch.setattr(run, "call", pretended)
    run.Work(tmp_path, LIBERO, [tmp_path / "bag"], None, run.Machine(2, 1)).run(SUITES)
    asked = [as_run(arguments, monkeypatch) for name, *arguments in pretended.calls if name == "evaluate"]
    assert [one.benchmark for one in asked[:2]] == ["libero_object", "libero_spatial"]
    assert {one.benchmark for one in asked[-4:]} == {"libero_object_swap", "libero_spatial_swap"}
    assert len({one.out for one in asked}) == 8 and {one.episodes_per_task for one in asked} == {20}
    results = read(tmp_path)
    difference = results.difference(OURS, DENSE, lambda cell: cell.task == "libero_object")
    assert (difference.ours.successes, difference.theirs.successes, difference.both) == (78, 76, 76)
    text = markdown(results, {})
    assert "first 20 fixed initial states of each task of a suite, MuJoCo 3.3.0" in text
    assert "libero_spatial" in text and "LIBERO-PRO" in text and "s where a cube" not in text


def of_states(episodes, failed):
    """A cell of two tasks. failed: states of the second one."""
    facts = {**of_a_suite(failed), "successes": 2 * episodes - len(failed), "episodes": 2 * episodes}
    return Libero().facts(facts)


def test_policies_are_compared_on_the_states_that_both_have_met(tmp_path):
    plan = replace(SUITES, tasks=("libero_object",), kinds=())
    fill(tmp_path, lambda cell: None, plan, LIBERO)
    for variant, facts in ((DENSE, of_states(5, [3, 4])), (OURS, of_states(20, [3, 7, 19]))):
        path = run.cell_file(tmp_path, Cell(Training(variant, 0), "libero_object", AS_RECORDED))
        path.write_text(json.dumps(facts))
    results = read(tmp_path)
    difference = results.difference(OURS, DENSE, lambda cell: True)
    counts = [(one.successes, one.episodes) for one in (difference.ours, difference.theirs)]
    assert counts == [(9, 10), (8, 10)] and difference.both == 8
    assert difference == Difference(Count(9, 10, 0, 1, 1), Count(8, 10, 0, 1, 1), 8)
    text = markdown(results, {})
    assert "<br>9 of 10 |" in text and "<br>8 of 10 |" in text, "rates are of the same states, too"
    assert "first 5 or 20 fixed initial states" in text and "differences those that both have met" in text
    assert "2 of 2 cells, 1 of them with fewer episodes than planned" in text
    assert "- dense-256, seed 0: libero_object in distribution (5)" in text and "## Missing" not in text


@given(st.integers(1, 20), st.sets(st.integers(0, 19)))
def test_the_first_states_of_a_cell_are_those_of_a_shorter_one(episodes, failed):
    first = Libero().first(of_states(20, sorted(failed)), episodes)
    shorter = of_states(episodes, sorted(state for state in failed if state < episodes))
    assert first == {name: shorter[name] for name in first}


def test_equal_policies_have_equal_rates_whatever_states_each_has_met(tmp_path):
    """In one suite the first has met more states, in the other the second; only the later states fail."""
    plan = replace(SUITES, kinds=())
    fill(tmp_path, lambda cell: None, plan, LIBERO)
    for cell in plan.cells():
        many = (cell.training.variant == OURS) == (cell.task == "libero_object")
        facts = of_states(20, list(range(10, 20))) if many else of_states(5, [])
        run.cell_file(tmp_path, cell).write_text(json.dumps(facts))
    results = read(tmp_path)
    assert results.count(OURS, lambda cell: True) == results.count(DENSE, lambda cell: True) == Count(20, 20, 0, 2, 2)
    fill(tmp_path / "five", lambda cell: None, plan, replace(LIBERO, episodes=5))
    assert read(tmp_path / "five", tmp_path).episodes == 20 and read(tmp_path / "five").episodes == 5


def test_a_table_of_libero_grows_by_states_and_no_other_does(tmp_path, monkeypatch):
    plan = replace(SUITES, tasks=("libero_object",), kinds=())
    few, many, asked = replace(LIBERO, episodes=5), replace(LIBERO, episodes=20), []

    def call(arguments, log, lock):
        if arguments[0] == "train":
            return Pretended()(arguments, log, lock)
        asked.append(int(arguments[arguments.index("--episodes-per-task") + 1]))
        return json.dumps({**of_a_suite([]), "successes": 2 * asked[-1], "episodes": 2 * asked[-1]})

    monkeypatch.setattr(run, "call", call)
    for settings in (few, many, few, many):
        run.Work(tmp_path, settings, [tmp_path / "bag"], None, run.Machine(2, 1)).run(plan)
    assert asked == [5, 5, 20, 20] and run.read_plan(tmp_path)[0] == many
    run.Work(tmp_path, few, [tmp_path / "bag"], None, run.Machine(2, 1)).run(replace(plan, variants=(DENSE, FEW)))
    assert asked[4:] == [5], "of a new variant, as many as this run was asked for"
    assert list(read(tmp_path).short.values()) == [5]
    run.begin(tmp_path / "other", SETTINGS, SMALL)
    with pytest.raises(run.TableError, match="was begun with episodes 102, not 204"):
        run.begin(tmp_path / "other", replace(SETTINGS, episodes=204), SMALL)


def test_a_cell_of_libero_fails_by_task_and_state():
    facts = Libero().facts(of_a_suite([0, 49]))
    assert facts["failed_seeds"] == [50, 99] and facts["wrong_objects"] == 0


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (
            ["--scenes", "libero", "--tasks", "lift"],
            "'lift', with --scenes libero expected of libero_object",
        ),
        (["--ood", "swap"], "--ood is 'swap', with --scenes simulation expected of"),
        (["--scenes", "libero", "--episodes", "51"], "--episodes is 51, a task of LIBERO has 50 initial states"),
    ],
)
def test_what_other_scenes_lack_is_refused_before_the_work(tmp_path, capsys, arguments, told):
    with pytest.raises(SystemExit):
        program.parse([str(tmp_path), "--out", str(tmp_path / "out"), *arguments])
    assert told in capsys.readouterr().err


def test_each_kind_of_scenes_has_its_own_defaults(tmp_path):
    for name, scenes in SCENES.items():
        options = program.parse([str(tmp_path), "--out", str(tmp_path / "out"), "--scenes", name])
        assert (options.episodes, tuple(options.tasks), tuple(options.ood)) == (
            scenes.episodes,
            scenes.tasks,
            scenes.usual,
        )
