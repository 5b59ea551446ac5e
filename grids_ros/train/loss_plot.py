"""A plot of a training from its log."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

SMOOTHING = 25  # steps


def plot_losses(log: Path, picture: Path) -> None:
    """The terms of losses.jsonl over the steps, smoothed, as a PNG; a dashed line where another stage begins."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    lines = [json.loads(line) for line in log.read_text().splitlines()]
    terms = [set(line) - {"step", "seconds"} for line in lines]
    names = list(dict.fromkeys(name for line in lines for name in line if name in set.union(*terms)))
    begins = [line["step"] for line, before, now in zip(lines[1:], terms, terms[1:], strict=False) if now != before]
    figure, axes = plt.subplots(1, len(names), figsize=(4 * len(names), 3), layout="constrained", sharex=True)
    for axis, name in zip(np.atleast_1d(axes), names, strict=True):
        steps, values = np.array([(line["step"], line[name]) for line in lines if name in line]).T
        width = min(SMOOTHING, len(values))
        axis.plot(steps, values, color="0.85")
        axis.plot(steps[width - 1 :], np.convolve(values, np.ones(width) / width, "valid"), color="tab:blue")
        axis.set(title=name, xlabel="step", yscale="log" if values.min() > 0.0 else "linear")
        for step in begins:
            axis.axvline(step, color="tab:red", linestyle="--", linewidth=1)
    figure.savefig(picture, dpi=100)
    plt.close(figure)
