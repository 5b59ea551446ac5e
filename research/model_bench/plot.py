"""The bench of one inference as a picture: operations and time of each row, by stage."""

from __future__ import annotations

from pathlib import Path

COLOURS = {"vision": "tab:blue", "prefix": "tab:orange", "expert": "tab:green"}
STAGES = {"vision": ("vision", "projector", "sampler"), "prefix": ("prefix",), "expert": ("expert",)}
TIMED = {"vision": "see", "prefix": "read", "expert": "act"}


def draw(result: dict, picture: Path) -> None:
    """result: of the bench."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    names = list(result["rows"])[::-1]
    figure, (operations, times) = plt.subplots(
        1, 2, figsize=(12, 0.6 + 0.36 * len(names)), layout="constrained", sharey=True
    )
    for y, name in enumerate(names):
        row, ours = result["rows"][name], "transformers" not in name
        left = [0.0, 0.0]
        for stage, colour in COLOURS.items():
            work = sum(row["flops"][part] for part in STAGES[stage]) / 1e9
            taken = row["latency_ms"].get(TIMED[stage], {"p50": 0.0})["p50"]
            for axis, index, value in ((operations, 0, work), (times, 1, taken)):
                label = stage if y == 0 else None
                axis.barh(y, value, left=left[index], color=colour, alpha=1.0 if ours else 0.45, label=label)
                left[index] += value
        operations.annotate(f" {_short(left[0])}", (left[0], y), va="center")
        total = row["latency_ms"]["total"]["p50"]
        times.annotate(f" {_short(total)}   {row['roofline_percent']:.0f} %", (left[1], y), va="center")
    operations.set(yticks=range(len(names)), yticklabels=names, xlabel="operations of one inference [GFLOP]")
    times.set(xlabel="median time of one inference [ms]; share of the roofline")
    for axis in (operations, times):
        axis.margins(x=0.22)
        axis.spines[["top", "right"]].set_visible(False)
    operations.legend(loc="lower right", frameon=False)
    figure.savefig(picture, dpi=110)
    plt.close(figure)


def _short(value: float) -> str:
    """Three digits, or all before the point."""
    return f"{value:.0f}" if value >= 100.0 else f"{value:.3g}"
