"""What a checkpoint says about itself: a plot of its training and a card."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from grids_ros.files import write_whole
from grids_ros.policy.checkpoint import Checkpoint, load

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


def write_card(checkpoint: Checkpoint, path: Path) -> None:
    """README.md of a checkpoint folder, from its provenance."""
    facts, spec = checkpoint.provenance, checkpoint.spec
    tokens = spec.sampler.label if spec.sampler else "dense"
    origin = _converted(facts["converted"]) if "converted" in facts else _trained(facts)
    lines = [
        f"# {tokens} policy, {facts['parameters'] / 1e6:.1f} M parameters",
        "",
        f"- Cameras, in order: {', '.join(spec.cameras)}; tokens per camera: {tokens}",
        f"- Chunk: {checkpoint.model.config.chunk_size} steps of {spec.step_s} s; {spec.denoising_steps} denoising",
        f"- State: {spec.state.meaning}",
        f"- Action: {spec.action.meaning}",
        *origin,
    ]
    if "diagnosis" in facts:
        errors = facts["diagnosis"]["last_step_error_mm"]
        lines += [
            "",
            f"Error of the chunk's last step on {facts['diagnosis']['samples']} held-out samples, when shown:",
            "",
        ]
        lines += ["| condition | error [mm] |", "|---|---|"]
        lines += [f"| {name.replace('_', ' ')} | {error} |" for name, error in errors.items()]
        motion = facts["diagnosis"].get("coordinate_motion")
        if motion:
            told = ", ".join(f"{camera} {value}" for camera, value in motion.items())
            lines += ["", f"Motion of the sampled coordinates across images, as a fraction of the width: {told}."]
    if "start" in facts:
        words, steps = "; ".join(facts["start"]["data"]["instructions"]), facts["start"]["steps"]
        lines += ["", f"It started from a checkpoint of {steps} steps, trained on: {words}."]
    lines += _averaged(facts.get("averaged"))
    lines += _distilled(facts.get("distilled_from"))
    lines += _closed_loop(facts.get("evaluations", []), spec.sampler.tokens if spec.sampler else None)
    write_whole(path, "\n".join(lines) + "\n")


def _trained(facts: dict) -> list[str]:
    return [
        f"- Instructions: {'; '.join(facts['data']['instructions'])}",
        f"- Data: {facts['data']['episodes']} episodes, {facts['data']['samples']} samples",
        f"- Training: {facts['steps']} steps, seed {facts['stages'][-1]['seed']}, on {facts['hardware']}",
        *(f"  - from step {stage['from_step']}: {_settings(stage)}" for stage in facts["stages"]),
    ]


def _converted(facts: dict) -> list[str]:
    return [f"- Converted from {facts['from']} ({facts['kind']}), convention {facts['convention']}"]


def _averaged(facts: dict | None) -> list[str]:
    if facts is None:
        return []
    steps = f" of {facts['with']['steps']} steps" if "steps" in facts["with"] else ""
    return [
        "",
        f"Its weights and statistics are {facts['share']:g} of this training's, the rest a checkpoint's{steps}; an "
        "average that `python -m grids_ros average` made.",
    ]


def _distilled(dense: dict | None) -> list[str]:
    if dense is None:
        return []
    steps = f" of {dense['steps']} steps" if "steps" in dense else ""
    words = f", trained on: {'; '.join(dense['data']['instructions'])}" if "data" in dense else ""
    lines = ["", f"It was distilled from the dense policy `{dense['name']}`{steps}{words}."]
    return lines + [
        f"In closed loop, join {one['join']}, delay {one['delay_ms']:g} ms, that one had {one['successes']} successes "
        f"in {one['episodes']} scenes of `{one['task']}`{_swapped(one)}."
        for one in dense.get("evaluations", [])
        if not one["ood"]
    ]


def _settings(stage: dict) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in stage.items() if name != "from_step")


def _closed_loop(evaluations: list[dict], trained: int | None) -> list[str]:
    """trained: tokens per camera that are not worth a word."""
    if not evaluations:
        return []
    lines = ["", "## Closed loop, on scenes that no demonstration has", ""]
    lines += ["| task | scenes | join, delay | successes | 95 % interval | wrong object | median time |"]
    lines += ["|---|---|---|---|---|---|---|"]
    for one in evaluations:
        low, high = (f"{100 * bound:.0f}" for bound in one["wilson_95"])
        tokens = one["tokens_per_camera"]
        fewer = f", {tokens} tokens" if trained and tokens != trained else ""
        took = f"{one['time_to_success_s']} s" if one["time_to_success_s"] is not None else ""
        lines.append(
            f"| {one['task']}{fewer}{_swapped(one)} | {one['ood'] or 'as recorded'}, from seed {one['first_seed']} | "
            f"{one['join']}, {one['delay_ms']:g} ms | {one['successes']} of {one['episodes']} | {low} to {high} % | "
            f"{one['wrong_objects']} | {took} |"
        )
    return lines


def _swapped(evaluation: dict) -> str:
    near_m = evaluation.get("swap_m")
    return f", another cube named first, until {100 * near_m:g} cm from it" if near_m else ""


def record_evaluation(folder: Path, evaluation: dict) -> None:
    """Add what a checkpoint scored in closed loop to its provenance.json and its card; the same question replaces."""
    checkpoint = load(folder)
    asked = ("task", "ood", "first_seed", "episodes", "tokens_per_camera", "join", "delay_ms", "swap_m")
    earlier = checkpoint.provenance.get("evaluations", [])
    others = [one for one in earlier if any(one.get(name) != evaluation.get(name) for name in asked)]
    checkpoint.provenance["evaluations"] = [*others, evaluation]
    write_whole(folder / "provenance.json", json.dumps(checkpoint.provenance, indent=2) + "\n")
    write_card(checkpoint, folder / "README.md")
