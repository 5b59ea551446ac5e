"""The table as Markdown, with plots beside it: every word of a finding comes from an interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from grids_ros.files import write_whole
from research.comparison.comparison_plots import draw
from research.comparison.plan import AS_RECORDED, DENSE, FEW, OTHERS, OURS, PAIRS, RIVALS, Cell
from research.comparison.results import (
    MARGIN,
    Count,
    Difference,
    Results,
    Which,
    in_distribution,
    out_of_distribution,
    overall,
)

LABELS = {DENSE: "dense-256", OURS: "GridS-16", FEW: "GridS-4", "grids-1": "GridS-1"}
LABELS |= {
    name: f"{pruner.replace('_', ' ')}, {tokens}"
    for tokens, ours in ((16, OURS), (4, FEW))
    for name, pruner in zip(RIVALS[ours], OTHERS, strict=True)
}
EMPTY = "–"


def write(results: Results, path: Path) -> None:
    """The report, and its plots in a folder of its name."""
    plots = path.with_suffix("")
    plots.mkdir(parents=True, exist_ok=True)
    pictures = {name: f"{plots.name}/{file}" for name, file in draw(results, LABELS, plots).items()}
    write_whole(path, markdown(results, pictures))


def markdown(results: Results, pictures: Mapping[str, str]) -> str:
    """pictures: paths of those that `draw` made."""
    sections = {
        "head": _head(results),
        "claims": _claims(results),
        "success": _success(results),
        "ood": _unlike(results),
        "difference": _differences(results),
        "trainings": _trainings(results),
        "refused": _refused(results),
        "missing": _missing(results),
        "short": _short(results),
    }
    for name, picture in pictures.items():
        sections[name] += ["", f"![{sections[name][0].lstrip('# ')}]({picture})"]
    return "\n\n".join("\n".join(lines) for lines in sections.values() if lines) + "\n"


def _head(results: Results) -> list[str]:
    settings, plan = results.settings[0], results.plan
    several = len(results.settings) > 1
    labelled = results.scenes.labelled
    attraction = ", and `attraction`, a loss that draws its points to the objects" if labelled else ""
    trained = "is to be trained" if results.missing else "is trained"
    seeds = "one seed" if plan.seeds == 1 else f"{plan.seeds} seeds"
    data = "on the same data each" if several else "on the same data"
    short = f", {len(results.short)} of them with fewer episodes than planned" if results.short else ""
    again = " Tables of other starts share scenes: intervals over several are a little too narrow." if several else ""
    return [
        "# What pruning costs",
        "",
        f"Written by `python -m research compare` from {len(results.cells)} of {len(plan.cells())} cells{short}; "
        f"nothing in it by hand. Every variant {trained} from {seeds}, {_starts(results)}, {data}, for "
        f"{settings.steps} steps of {settings.batch} samples, with the settings that `train` has for all. What GridS "
        f"has of its own (points that start on a grid, layer norm, a margin{attraction}) came out of trials; its "
        "rivals had none and are as published.",
        "",
        f"{results.scenes.told(settings, list(results.cells.values()))} "
        "Intervals are of 95 %: Wilson's for a rate, Newcombe's for a difference of paired rates (1998, method 10). "
        "Seeds are pooled: the intervals tell of new scenes, not of new trainings, and the counts of each seed stand "
        f"beside them.{again}",
    ]


def _starts(results: Results) -> str:
    """What the variants begin with: of each table, and how many of the seeds are its."""
    told, first = [], 0
    for settings, seeds in zip(results.settings, results.seeds, strict=True):
        lineage = _lineage(results, range(first, first + seeds))
        weights = f"the weights of `{settings.start}`{lineage}" if settings.start else "random weights"
        which = f"seed {first}" if seeds == 1 else f"seeds {first} to {first + seeds - 1}"
        told.append(f"{which} with {weights}" if len(results.settings) > 1 else weights)
        first += seeds
    return f"beginning {'' if len(told) > 1 else 'with '}{' and '.join(told)}"


def _lineage(results: Results, seeds: range) -> str:
    """What a common start was trained as, the latest first: a trunk remembers what read it."""
    found = (facts.get("start") for training, facts in results.trainings.items() if training.seed in seeds)
    told, start = [], next(found, None)
    while start:
        told.append(f"{start['steps']} steps{' as ' + start['tokens'] if 'tokens' in start else ''}")
        start = start.get("start")
    return f" ({', before that '.join(told)})" if told else ""


def _claims(results: Results) -> list[str]:
    lines = ["## Findings", ""]
    verdict = results.no_worse(OURS, DENSE, in_distribution)
    lines.append(
        f"- In distribution, is {LABELS[OURS]} no worse than {LABELS[DENSE]}? **{_capital(verdict)}.** "
        f"{_told(results, OURS, DENSE, in_distribution)} "
        f"(yes: the interval lies above −{100 * MARGIN:g} points and not below 0; no: it lies below 0; and no training "
        "by itself says otherwise.)"
    )
    for ours, rivals in RIVALS.items():
        if met := [name for name in rivals if name in results.plan.variants]:
            lines += _better_than_each(results, ours, met)
    return lines


def _better_than_each(results: Results, ours: str, rivals: Sequence[str]) -> list[str]:
    verdicts = {name: results.better(ours, name, out_of_distribution) for name in rivals}
    lines = [
        f"- Out of distribution, is {LABELS[ours]} better than each other pruner here to as many tokens? "
        f"**{_capital(overall(list(verdicts.values())))}.** (yes: each interval lies above 0; no: one does not reach "
        "above it; and no training by itself says otherwise.)"
    ]
    for name, verdict in verdicts.items():
        lines.append(f"  - Better than {LABELS[name]}: {verdict}. {_told(results, ours, name, out_of_distribution)}")
    return lines


def _capital(word: str) -> str:
    return word[0].upper() + word[1:]


def _told(results: Results, name: str, other: str, which: Which) -> str:
    """One less another: pooled, then by seed, for trainings differ by more than scenes do."""
    difference = results.difference(name, other, which)
    if difference is None:
        return "There are no cells to compare yet."
    ours, theirs = difference.ours, difference.theirs
    part = "" if ours.cells == ours.planned else f", from {ours.cells} of {ours.planned} cells"
    pooled = f"{ours.successes} of {ours.episodes} against {theirs.successes} of {theirs.episodes}"
    return f"{pooled}: {_points(difference)}{part}; by seed {_by_seed(results, name, other, which)}."


def _by_seed(results: Results, name: str, other: str, which: Which) -> str:
    found = results.by_seed(name, other, which)
    return " and ".join(_signed(one.interval[0]) if one else EMPTY for one in found)


def _points(difference: Difference) -> str:
    value, low, high = map(_signed, difference.interval)
    return f"{value} points ({low} to {high})"


def _signed(share: float) -> str:
    return f"{100 * share:+.1f}".replace("-", "−")


def _success(results: Results) -> list[str]:
    lines = ["## Success in distribution", ""]
    tasks: list[tuple[str, Which]] = [
        (name, lambda cell, name=name: in_distribution(cell) and cell.task == name) for name in results.plan.tasks
    ]
    columns = [*tasks, ("all tasks", in_distribution)] if len(tasks) > 1 else tasks
    return lines + _counts(results, columns, wrong=in_distribution)


def _unlike(results: Results) -> list[str]:
    if not results.plan.kinds:
        return []
    several = len(results.plan.tasks) > 1
    lines = [f"## Success out of distribution, {'all tasks' if several else results.plan.tasks[0]}", ""]
    kinds: list[tuple[str, Which]] = [
        (f"`{name}`", lambda cell, name=name: cell.kind == name) for name in results.plan.kinds
    ]
    columns = [*kinds, ("every kind", out_of_distribution)] if len(kinds) > 1 else kinds
    return lines + _counts(results, columns, wrong=out_of_distribution)


def _counts(results: Results, columns: Sequence[tuple[str, Which]], wrong: Which) -> list[str]:
    mistakes = results.scenes.labelled
    lines = _header(["variant", *(name for name, _ in columns), *(["wrong object"] if mistakes else [])])
    for variant in results.plan.variants:
        row = [LABELS[variant]]
        for _, which in columns:
            seeds = [
                results.count(variant, lambda c, which=which, seed=seed: which(c) and c.training.seed == seed)
                for seed in range(results.plan.seeds)
            ]
            row.append(_rate(results.count(variant, which), seeds))
        lines.append(_row([*row, *([_wrong(results.count(variant, wrong))] if mistakes else [])]))
    return lines


def _rate(count: Count | None, seeds: Sequence[Count | None]) -> str:
    if count is None:
        return EMPTY
    low, high = (100 * bound for bound in count.interval)
    each = " + ".join(str(one.successes) if one else EMPTY for one in seeds)
    part = "" if count.cells == count.planned else f", {count.cells} of {count.planned} cells"
    return f"{100 * count.rate:.1f} % ({low:.1f} to {high:.1f})<br>{each} of {count.episodes}{part}"


def _wrong(count: Count | None) -> str:
    if count is None:
        return EMPTY
    return _rate(Count(count.wrong, count.episodes, 0, 1, 1), [Count(count.wrong, count.episodes, 0, 1, 1)])


def _differences(results: Results) -> list[str]:
    pairs = [pair for pair in PAIRS if set(pair) <= set(results.plan.variants)]
    if not pairs:
        return []
    columns = [("in distribution", in_distribution), ("out of distribution", out_of_distribution)]
    lines = ["## Differences in success", "", *_header(["variant", "less", *(name for name, _ in columns)])]
    for pair in pairs:
        found = [results.difference(*pair, which) for _, which in columns]
        lines.append(_row([*(LABELS[name] for name in pair), *(_points(one) if one else EMPTY for one in found)]))
    return lines


def _trainings(results: Results) -> list[str]:
    if not results.trainings:
        return []
    lines = ["## Trainings", ""]
    lines += _header(["variant", "seed", "steps × batch", "parameters", "episodes", "wall-clock", "threads"])
    for training, facts in results.trainings.items():
        row = [LABELS[training.variant], training.seed, f"{facts['steps']} × {facts['batch']}"]
        row += [
            f"{facts['parameters'] / 1e6:.2f} M",
            facts["data"]["episodes"],
            f"{facts['wall_clock_s'] / 60:.1f} min",
        ]
        lines.append(_row([*row, f"{facts['threads']} on {facts['cores']} cores"]))
    return lines


def _refused(results: Results) -> list[str]:
    """Episodes that a policy refused, which count as failures."""
    lines = [
        f"- {LABELS[cell.training.variant]}, seed {cell.training.seed}, {_place(cell.task, cell.kind)}: "
        f"{facts['refused']} of {facts['episodes']} episodes, as: {facts['reasons'][0]}"
        for cell, facts in results.cells.items()
        if facts.get("refused")
    ]
    return ["## Refused", "", "These episodes count as failures.", "", *lines] if lines else []


def _missing(results: Results) -> list[str]:
    cells = results.missing
    lines = ["## Missing", "", f"{len(cells)} cells are not there yet:", ""]
    return [*lines, *_by_training(results, dict.fromkeys(cells, ""))] if cells else []


def _short(results: Results) -> list[str]:
    cells = results.short
    planned = f"{results.episodes} episodes {results.scenes.of}"
    lines = ["## Fewer episodes than planned", "", f"{len(cells)} cells are to have {planned}, and have fewer:", ""]
    told = {cell: f" ({episodes})" for cell, episodes in cells.items()}
    return [*lines, *_by_training(results, told)] if cells else []


def _by_training(results: Results, cells: Mapping[Cell, str]) -> list[str]:
    """A line for each training that has some of the cells, and what is said of each after its name."""
    lines = []
    for training in results.plan.trainings():
        told = [_place(cell.task, cell.kind) + said for cell, said in cells.items() if cell.training == training]
        if told:
            lines.append(f"- {LABELS[training.variant]}, seed {training.seed}: {', '.join(told)}")
    return lines


def _place(task: str, kind: str) -> str:
    return f"{task} in distribution" if kind == AS_RECORDED else f"{task} `{kind}`"


def _header(names: Sequence[str]) -> list[str]:
    return [_row(names), "|" + "---|" * len(names)]


def _row(values: Sequence) -> str:
    return "| " + " | ".join(map(str, values)) + " |"
