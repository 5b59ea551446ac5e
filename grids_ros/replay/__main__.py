"""grids replay BAG... --checkpoint DIR: a policy scored on recorded topics, open loop."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from tqdm import tqdm

from grids_ros import cli
from grids_ros.data.reader import STORAGE, BagError
from grids_ros.data.settings import chosen
from grids_ros.data.writer import require_replaceable
from grids_ros.options import refuse, require_apart
from grids_ros.parameters import AUTO, ParameterError
from grids_ros.pieces import ClusterError, Outcome, WorkerLost, Workers, outcomes
from grids_ros.replay.options import MEASURED, REPORT, SCORED_BAGS, SUMMARY, ReplayOptions

SCORED, WORSE, UNUSABLE, NOTHING, DAMAGED = range(5)


def jobs(options: ReplayOptions) -> list:
    """One Job for each bag. Raises ParameterError or CheckpointError for options that do not fit."""
    from grids_ros.replay.bag_replay import ReplayJob
    from grids_ros.replay.variants import variants

    settings = chosen(options.robot)
    wanted = settings.policy.tokens
    if wanted == AUTO:
        raise ParameterError(f"parameter 'tokens' is {AUTO}, which goes by the machine's speed: expected a number here")
    tokens = options.tokens or ([str(wanted)] if wanted else [])
    compared = tuple(variants(options.checkpoint, tokens, options.denoising_steps, options.precision))
    alone = len(options.bags) == 1
    return [
        ReplayJob(
            bag=bag,
            name=name,
            variants=compared,
            settings=settings,
            ranges=tuple(options.range),
            latency_s=options.latency,
            join=options.join,
            probe=options.other_instruction,
            threads=settings.policy.threads if alone else 1,
            film=options.out / ("overlay.mp4" if alone else f"overlay_{name}.mp4"),
            copy=options.out / ("bag" if alone else f"bag_{name}") if options.write_bag else None,
            alone=alone,
        )
        for bag, name in zip(options.bags, names(options.bags), strict=True)
    ]


def require_outputs(options: ReplayOptions, todo: Sequence) -> None:
    """Raises UsageError for an output that is, holds or lies in an input, BagError for a bag that is not replaced."""
    from grids_ros.replay.annotated_bag import WRITER

    written = [path for job in todo for path in (job.film, job.copy) if path is not None]
    inputs = [*options.bags, *options.checkpoint, options.baseline, options.robot.params_file]
    require_apart(
        [*written, *(options.out / name for name in (REPORT, SUMMARY, SCORED_BAGS))],
        [path for path in inputs if path is not None],
    )
    for job in todo:
        if job.copy is not None:
            require_replaceable(job.copy, WRITER)


def names(bags: Sequence[Path]) -> list[str]:
    """What each bag is called in what is written: as its file or folder, with numbers where two are called the same."""
    plain = [bag.stem if bag.suffix in STORAGE else bag.name for bag in bags]
    return plain if len(set(plain)) == len(plain) else [f"{count}_{name}" for count, name in enumerate(plain, 1)]


def replay_all(todo: Sequence, workers: Workers, out: Path | None = None) -> tuple[list, list[str]]:
    """Results in the order of the jobs, and what went wrong with bags. Raises CheckpointError or ClusterError.

    out: where results are kept until all are there, so that a second start goes on with the bags that are left.
    """
    from grids_ros.replay.bag_replay import replay
    from grids_ros.replay.finished import Finished

    if len(todo) == 1 and not workers.cluster:
        outcome = _here(replay, todo[0])
        return ([], [str(outcome.error)]) if outcome.error else ([outcome.result], [])
    finished = Finished(out) if out else None
    known = {index: finished.find(job) for index, job in enumerate(todo)} if finished else {}
    results, failures = {index: result for index, result in known.items() if result is not None}, []
    left = [index for index in range(len(todo)) if index not in results]
    with tqdm(total=len(todo), initial=len(results), desc="bags", unit="bag") as bar:
        for outcome in outcomes(replay, [todo[index] for index in left], workers):
            job = todo[left[outcome.index]]
            try:
                result = results[left[outcome.index]] = outcome.value()
                if finished:
                    finished.keep(job, result)
            except (BagError, WorkerLost) as error:
                failures.append(f"{job.bag}: {error}" if isinstance(error, WorkerLost) else str(error))
            bar.update()
    return [results[index] for index in sorted(results)], failures


def _here(replay: Callable, job: object) -> Outcome:
    """One bag in this process, with a progress bar of its own."""
    try:
        return Outcome(0, replay(job))
    except BagError as error:
        return Outcome(0, None, error)


def run(options: ReplayOptions) -> int:
    """Score every bag, write the report; see the options for the exit codes."""
    from grids_ros.policy.errors import CheckpointError
    from grids_ros.replay import summary as summaries
    from grids_ros.replay.finished import Finished
    from grids_ros.replay.html_report import write_report

    try:
        baseline = summaries.read_baseline(options.baseline) if options.baseline else None
        todo = jobs(options)
        require_outputs(options, todo)
        labels = [variant.label for variant in todo[0].variants]
        if baseline is not None:
            summaries.matched(labels, baseline)  # before the work, not after it
        results, failures = replay_all(todo, Workers(options.workers, options.cluster), options.out)
    except (BagError, CheckpointError, ClusterError, ParameterError, summaries.BaselineError) as error:
        return refuse(error)
    for failure in failures:
        print(failure, file=sys.stderr)
    if not results:
        return NOTHING
    latency = MEASURED if options.latency is None else f"{options.latency * 1e3:g} ms"
    summary = summaries.summarise(results, labels, todo[0].settings.policy.rate_hz, latency)
    summary["failures"] = failures
    summaries.write(summary, options.out / SUMMARY)
    worse = []
    if baseline is not None:
        worse = summaries.regressions(summary, baseline, options.tolerance)
    write_report(summary, results, options.out / REPORT, worse)
    if not failures:
        Finished(options.out).clear(todo)
    return _conclude(summary, results, worse, options.out)


def _conclude(summary: dict, results: Sequence, worse: Sequence[str], out: Path) -> int:
    """Say what came of it; the exit code."""
    scored = any(figures["scored_steps"] for figures in summary["overall"].values())
    told: set[str] = set()  # once, of sets that are alike
    for result in results:
        for line in result.contract:
            if line not in told:
                print(f"{result.name}: {line}")
            told.add(line)
        if result.loss:
            print(f"{result.name}: {result.loss}", file=sys.stderr)
        for note in () if scored else [note for note in result.notes if note not in result.contract]:
            print(f"{result.name}: {note}", file=sys.stderr)
    for label, figures in summary["overall"].items():
        position, rotation, still = (_said(figures[key]["mean"]) for key in ("position_mm", "rotation_deg", "still_mm"))
        joints = figures["joint_deg"]["mean"]
        spoken = "" if joints is None else f", {joints:.2f} deg in joints"
        print(f"{label}: {figures['inferences']} inferences, {position} mm and {rotation} deg off{spoken}", end="")
        print(f" (an arm that stands still: {still} mm)")
        for reason, count in figures["no_observation"].items():
            print(f"  no observation {count} times: {reason}")
    if len(results) > 1:
        from grids_ros.replay import summary as summaries

        for label in summary["overall"]:
            ranked = summaries.worst_first(summary, label)[:3]
            print(f"{label}, worst bags: " + ", ".join(f"{name} {_said(mean)} mm" for name, mean in ranked))
    for line in worse:
        print(f"worse than the baseline: {line}", file=sys.stderr)
    print(f"in {out}: report.html, summary.json" + ("" if len(results) > 1 else ", overlay.mp4"))
    if not scored or summary["failures"]:
        return NOTHING
    if worse:
        return WORSE
    return DAMAGED if any(result.loss for result in results) else SCORED


def _said(value: float | None) -> str:
    return "not known" if value is None else f"{value:.1f}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point."""
    return cli.call("replay", arguments)


if __name__ == "__main__":
    sys.exit(main())
