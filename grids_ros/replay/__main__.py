"""python -m grids_ros replay BAG... --checkpoint DIR: a policy scored on recorded topics, open loop.

exit codes: 0 scored; 1 worse than the baseline; 2 an option, parameter or checkpoint that cannot be used;
3 a bag that cannot be replayed, or nothing in it to score; 4 scored, but a part of a bag could not be read.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from functools import partial
from multiprocessing import get_context
from pathlib import Path

from tqdm import tqdm

from grids_ros.data.settings import add_options, chosen
from grids_ros.data.source import STORAGE, BagError
from grids_ros.parameters import AUTO, ParameterError

SCORED, WORSE, UNUSABLE, NOTHING, DAMAGED = range(5)
MEASURED = "measured"


def seconds(text: str) -> tuple[float, float]:
    """ "12:30" to (12.0, 30.0); either side may be left out."""
    start, sign, stop = text.partition(":")
    try:
        span = float(start or 0.0), float(stop or "inf")
    except ValueError:
        span = 0.0, 0.0
    if not sign or not 0.0 <= span[0] < span[1]:
        raise argparse.ArgumentTypeError(
            f"{text!r}, expected START:STOP in seconds from the bag's start, such as 12:30"
        )
    return span


def delay(text: str) -> float | None:
    """Milliseconds to seconds; None for "measured"."""
    if text == MEASURED:
        return None
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0.0 <= value < 60_000.0:
        raise argparse.ArgumentTypeError(f"{text!r}, expected milliseconds such as 80, or {MEASURED!r}")
    return value / 1e3


def positive(text: str) -> int:
    """A number from 1 up."""
    if not (text.isdigit() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"{text!r}, expected a number from 1 up")
    return int(text)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    usage, _, codes = __doc__.partition("\n\n")
    parser = argparse.ArgumentParser(prog="python -m grids_ros replay", description=usage, epilog=codes)
    add = parser.add_argument
    add("bags", nargs="+", type=Path, metavar="BAG", help="rosbag2 folder or file")
    add("--checkpoint", nargs="+", type=Path, required=True, metavar="DIR", help="folder, or several to compare")
    add("--tokens", nargs="+", default=[], metavar="K", help="compare at these, such as: 16 4 dense")
    add(
        "--denoising-steps", nargs="+", type=positive, default=[], metavar="N", help="compare at these, such as: 10 5 2"
    )
    add("--out", type=Path, default=Path("out/replay"), help="folder (default: %(default)s)")
    add_options(parser)
    add("--range", action="append", default=[], type=seconds, metavar="START:STOP", help="[s]; repeatable")
    add("--latency", type=delay, default=0.0, metavar="MS", help="chunks' delay, or 'measured'; default 0")
    add("--other-instruction", default="", help="to probe with; default: others of the training data")
    add("--write-bag", action="store_true", help="also a bag with chunks, sampled points and overlays")
    add("--baseline", type=Path, help="summary.json that must not be undercut")
    add("--tolerance", type=float, default=0.1, help="how much worse is too much (default: %(default)s)")
    add("--workers", type=int, default=os.cpu_count(), help="processes at most (default: %(default)s)")
    options = parser.parse_args(arguments)
    if options.workers < 1:
        parser.error(f"--workers is {options.workers}, expected at least 1")
    if not options.tolerance >= 0.0:
        parser.error(f"--tolerance is {options.tolerance}, expected at least 0")
    return options


def jobs(options: argparse.Namespace) -> list:
    """One Job for each bag. Raises ParameterError or CheckpointError for options that do not fit."""
    from grids_ros.replay.bag import Job
    from grids_ros.replay.variants import variants

    settings = chosen(options)
    wanted = settings.policy["tokens"]
    if wanted == AUTO:
        raise ParameterError(f"parameter 'tokens' is {AUTO}, which goes by the machine's speed: expected a number here")
    tokens = options.tokens or ([str(wanted)] if wanted else [])
    compared = tuple(variants(options.checkpoint, tokens, options.denoising_steps))
    alone = len(options.bags) == 1
    return [
        Job(
            bag=bag,
            name=name,
            variants=compared,
            settings=settings,
            ranges=tuple(options.range),
            latency_s=options.latency,
            probe=options.other_instruction,
            threads=settings.policy["threads"] if alone else 1,
            film=options.out / ("overlay.mp4" if alone else f"overlay_{name}.mp4"),
            copy=options.out / ("bag" if alone else f"bag_{name}") if options.write_bag else None,
            place=place,
        )
        for place, (bag, name) in enumerate(zip(options.bags, names(options.bags), strict=True))
    ]


def names(bags: Sequence[Path]) -> list[str]:
    """What each bag is called in what is written: as its file or folder, with numbers where two are called the same."""
    plain = [bag.stem if bag.suffix in STORAGE else bag.name for bag in bags]
    return plain if len(set(plain)) == len(plain) else [f"{count}_{name}" for count, name in enumerate(plain, 1)]


def run(todo: Sequence, workers: int) -> tuple[list, list[str]]:
    """Results in the order of the jobs, and what went wrong with bags. Raises CheckpointError."""
    from grids_ros.replay.bag import replay

    results, failures = [], []
    with ExitStack() as stack:
        if len(todo) == 1:
            calls = [partial(replay, todo[0])]
        else:
            context = get_context("spawn")
            lock = (context.RLock(),)  # one terminal for all progress bars
            pool = stack.enter_context(ProcessPoolExecutor(min(workers, len(todo)), context, tqdm.set_lock, lock))
            calls = [pool.submit(replay, job).result for job in todo]
        for call in calls:
            try:
                results.append(call())
            except BagError as error:
                failures.append(str(error))
    return results, failures


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; see the module for the exit codes."""
    from grids_ros.policy.errors import CheckpointError
    from grids_ros.replay import summary as summaries
    from grids_ros.replay.report import write_report

    options = parse(sys.argv[1:] if arguments is None else arguments)
    try:
        baseline = summaries.read_baseline(options.baseline) if options.baseline else None
        todo = jobs(options)
        labels = [variant.label for variant in todo[0].variants]
        if baseline is not None:
            summaries.matched(labels, baseline)  # before the work, not after it
        options.out.mkdir(parents=True, exist_ok=True)
        results, failures = run(todo, options.workers)
    except (CheckpointError, ParameterError, summaries.BaselineError) as error:
        print(error, file=sys.stderr)
        return UNUSABLE
    for failure in failures:
        print(failure, file=sys.stderr)
    if not results:
        return NOTHING
    latency = MEASURED if options.latency is None else f"{options.latency * 1e3:g} ms"
    summary = summaries.summarise(results, labels, todo[0].settings.policy["rate_hz"], latency)
    summary["failures"] = failures
    summaries.write(summary, options.out / "summary.json")
    worse = []
    if baseline is not None:
        worse = summaries.regressions(summary, baseline, options.tolerance)
    write_report(summary, results, options.out / "report.html", worse)
    return _conclude(summary, results, worse, options.out)


def _conclude(summary: dict, results: Sequence, worse: Sequence[str], out: Path) -> int:
    """Say what came of it; the exit code."""
    scored = any(figures["scored_steps"] for figures in summary["overall"].values())
    for result in results:
        if result.loss:
            print(f"{result.name}: {result.loss}", file=sys.stderr)
        for note in () if scored else result.notes:
            print(f"{result.name}: {note}", file=sys.stderr)
    for label, figures in summary["overall"].items():
        position, rotation, still = (_said(figures[key]["mean"]) for key in ("position_mm", "rotation_deg", "still_mm"))
        print(f"{label}: {figures['inferences']} inferences, {position} mm and {rotation} deg off", end="")
        print(f" (an arm that stands still: {still} mm)")
        for reason, count in figures["no_observation"].items():
            print(f"  no observation {count} times: {reason}")
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


if __name__ == "__main__":
    sys.exit(main())
