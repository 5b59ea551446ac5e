"""README.md of a checkpoint folder: what grids.json and provenance.json hold, for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from grids_ros.policy.checkpoint import Checkpoint

COLUMNS = {"task", "ood", "first_seed", "episodes", "tokens_per_camera", "join", "delay_ms"} | {
    "successes",
    "wilson_95",
    "wrong_objects",
    "time_to_success_s",
}
SAID = {"task", "ood", "episodes", "join", "delay_ms", "successes"}  # of an evaluation of the dense policy


def card(checkpoint: Checkpoint) -> str:
    """The text of the card. Facts that the provenance lacks are left out."""
    facts, spec = checkpoint.provenance, checkpoint.spec
    tokens = spec.sampler.label if spec.sampler else "dense"
    count = facts.get("parameters") or sum(tensor.numel() for tensor in checkpoint.model.parameters())
    lines = [
        f"# {tokens} policy, {count / 1e6:.1f} M parameters",
        "",
        f"- Cameras, in order: {', '.join(spec.cameras)}; tokens per camera: {tokens}",
        f"- Chunk: {checkpoint.model.config.chunk_size} steps of {spec.step_s} s; {spec.denoising_steps} denoising",
        f"- State `{spec.state.name}`: {spec.state.description}",
        f"- Action `{spec.action.name}`: {spec.action.description}",
    ]
    if spec.instructions:
        lines.append(f"- Instructions: {'; '.join(spec.instructions)}")
    if "converted" in facts:
        lines += _converted(facts["converted"])
    if "stages" in facts and "data" in facts:
        lines += _trained(facts)
    if "diagnosis" in facts:
        lines += _diagnosed(facts["diagnosis"])
    if "start" in facts:
        lines += ["", f"It started from a checkpoint{_steps(facts['start'])}{_words(facts['start'])}."]
    lines += _averaged(facts.get("averaged"))
    lines += _distilled(facts.get("distilled_from"))
    lines += _closed_loop(facts.get("evaluations", []), spec.sampler.tokens if spec.sampler else None)
    return "\n".join(lines) + "\n"


def _diagnosed(facts: dict) -> list[str]:
    lines = ["", f"Error of the chunk's last step on {facts.get('samples', '?')} held-out samples, when shown:", ""]
    lines += ["| condition | error [mm] |", "|---|---|"]
    lines += [f"| {name.replace('_', ' ')} | {error} |" for name, error in facts.get("last_step_error_mm", {}).items()]
    if motion := facts.get("coordinate_motion"):
        values = ", ".join(f"{camera} {value}" for camera, value in motion.items())
        lines += ["", f"Motion of the sampled coordinates across images, as a fraction of the width: {values}."]
    return lines


def _trained(facts: dict) -> list[str]:
    data = facts["data"]
    return [
        f"- Data: {data.get('episodes', '?')} episodes, {data.get('samples', '?')} samples",
        f"- Training: {facts.get('steps', '?')} steps, seed {facts['stages'][-1].get('seed', '?')}, "
        f"on {facts.get('hardware', 'a machine that is not known')}",
        *(f"  - from step {stage.get('from_step', 0)}: {_settings(stage)}" for stage in facts["stages"]),
    ]


def _converted(facts: dict) -> list[str]:
    return [f"- Converted from {facts['from']} ({facts['kind']}), convention {facts['convention']}"]


def _averaged(facts: dict | None) -> list[str]:
    if facts is None:
        return []
    return [
        "",
        f"Its weights and statistics are {facts['share']:g} of this training's, the rest a checkpoint's"
        f"{_steps(facts['with'])}; an "
        "average that `python -m research average` made.",
    ]


def _distilled(dense: dict | None) -> list[str]:
    if dense is None:
        return []
    lines = ["", f"It was distilled from the dense policy `{dense['name']}`{_steps(dense)}{_words(dense)}."]
    return lines + [
        f"In closed loop, join {one['join']}, delay {one['delay_ms']:g} ms, that one had {one['successes']} successes "
        f"in {one['episodes']} scenes of `{one['task']}`{_swapped(one)}."
        for one in dense.get("evaluations", [])
        if one.keys() >= SAID and not one["ood"]
    ]


def _steps(facts: dict) -> str:
    return f" of {facts['steps']} steps" if "steps" in facts else ""


def _words(facts: dict) -> str:
    words = facts.get("data", {}).get("instructions")
    return f", trained on: {'; '.join(words)}" if words else ""


def _settings(stage: dict) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in stage.items() if name != "from_step")


def _closed_loop(evaluations: list[dict], trained: int | None) -> list[str]:
    """A table of the evaluations that have all of its columns. trained: tokens per camera that are not named."""
    evaluations = [one for one in evaluations if one.keys() >= COLUMNS]
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
