"""The table as pictures: rates and differences with their intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from research.comparison.plan import DENSE, FEW, OURS, PAIRS
from research.comparison.results import MARGIN, Results, Which, in_distribution, out_of_distribution

COLOURS = {DENSE: "0.35", OURS: "tab:blue", FEW: "tab:cyan", "grids-1": "tab:purple"}
OTHER = "tab:orange"  # the pruners that GridS is compared with
Key = str | tuple[str, str]  # a variant, or a pair of them: the first less the second
Panel = tuple[str, list[tuple[Key, float, float, float]]]  # title; key, value, low, high, as fractions


def draw(results: Results, labels: Mapping[str, str], folder: Path) -> dict[str, str]:
    """Write what can be drawn; the file name of each picture."""
    plan = results.plan
    tasks = [(t, lambda cell, t=t: in_distribution(cell) and cell.task == t) for t in plan.tasks]
    kinds = [(k, lambda cell, k=k: cell.kind == k) for k in plan.kinds]
    pictures = {
        "success": _rates(results, [*tasks, ("all tasks", in_distribution)] if len(tasks) > 1 else tasks),
        "ood": _rates(results, [*kinds, ("every kind", out_of_distribution)] if len(kinds) > 1 else kinds),
        "difference": _less(
            results, [("in distribution", in_distribution), ("out of distribution", out_of_distribution)]
        ),
    }
    told: dict[Key, str] = {**labels, **{pair: " less ".join(labels[name] for name in pair) for pair in PAIRS}}
    drawn = {name: [panel for panel in panels if panel[1]] for name, panels in pictures.items()}
    for name, panels in drawn.items():
        (folder / f"{name}.png").unlink(missing_ok=True)
        if panels:
            _picture(panels, told, name == "difference", folder / f"{name}.png")
    return {name: f"{name}.png" for name, panels in drawn.items() if panels}


def _rates(results: Results, columns: Sequence[tuple[str, Which]]) -> list[Panel]:
    panels = []
    for title, which in columns:
        counts = [(variant, results.count(variant, which)) for variant in results.plan.variants]
        panels.append((title, [(name, count.rate, *count.interval) for name, count in counts if count]))
    return panels


def _less(results: Results, columns: Sequence[tuple[str, Which]]) -> list[Panel]:
    panels = []
    for title, which in columns:
        found = [(pair, results.difference(*pair, which)) for pair in PAIRS]
        panels.append((title, [(pair, *difference.interval) for pair, difference in found if difference]))
    return panels


def _picture(panels: Sequence[Panel], labels: Mapping[Key, str], differences: bool, picture: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    names = [name for name in labels if any(name == row[0] for _, rows in panels for row in rows)][::-1]
    columns = min(4, len(panels))
    lines = -(-len(panels) // columns)
    beside = 2.7 if differences else 1.6  # of the names
    size = (beside + 2.6 * columns, lines * (1.0 + 0.3 * len(names)))
    figure, grid = plt.subplots(
        lines, columns, figsize=size, layout="constrained", sharex=True, sharey=True, squeeze=False
    )
    for index, axis in enumerate(grid.flat):
        axis.tick_params(labelbottom=index + columns >= len(panels))  # with nothing below
        if index >= len(panels):
            axis.axis("off")
    for axis, (title, rows) in zip(grid.flat, panels, strict=False):
        for name, value, low, high in rows:
            y, colour = names.index(name), COLOURS.get(name[0] if differences else name, OTHER)
            axis.plot([100 * low, 100 * high], [y, y], color=colour, linewidth=2)
            axis.plot(100 * value, y, "o", color=colour, markersize=5)
        axis.set(title=title, yticks=range(len(names)), yticklabels=[labels[name] for name in names])
        axis.set_ylim(-0.6, len(names) - 0.4)
        axis.grid(axis="x", color="0.9")
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
        if differences:
            axis.axvline(0.0, color="0.2", linewidth=1)
            axis.axvline(-100 * MARGIN, color="0.5", linewidth=1, linestyle=":")
        else:
            axis.set_xlim(-3, 103)
    figure.supxlabel(
        "difference in success [points], 95 % intervals; dotted: the margin of “no worse”"
        if differences
        else "success [%], 95 % intervals",
        fontsize="medium",
    )
    figure.savefig(picture, dpi=110)
    plt.close(figure)
