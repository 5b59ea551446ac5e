"""Is the policy blind? A low loss alone proves nothing: it may come from the state.

The same held-out samples are shown as they are, with another instruction, with an empty one, and with the images of
other samples. A policy that sees and reads does worse in each of the last three. With GridS they are shown once more
while every camera is read where it is read on average: a policy does worse so if it looks, and as well if its sampler
has learnt a fixed grid.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch

from grids_ros.files import write_whole
from grids_ros.policy.checkpoint import Checkpoint
from grids_ros.policy.engine import Engine
from grids_ros.policy.grids import attached
from grids_ros.policy.preprocess import ACTION_DIM, pad, to_pixels
from grids_ros.sampler import GridSampler
from grids_ros.train.card import write_card
from grids_ros.train.dataset import Samples

CHUNK = 32  # samples at a time
SAMPLES = 400  # of those that there are, about so many


@torch.inference_mode()
def predict(checkpoint: Checkpoint, images, states, instructions) -> tuple[np.ndarray, np.ndarray | None]:
    """Actions (N, n, 7), and coordinates (N, cameras, K, 2) or None, of the model in evaluation mode."""
    model, prompt, normalization = checkpoint.model.eval(), checkpoint.prompt(), checkpoint.normalization
    config, engine = model.config, Engine(model, checkpoint.spec.denoising_steps)
    actions, points = [], []
    for first in range(0, len(states), CHUNK):
        part = slice(first, first + CHUNK)
        encoded = [prompt.encode(str(text)) for text in instructions[part]]
        ids, masks = (torch.from_numpy(np.stack(column)) for column in zip(*encoded, strict=False))
        state = torch.from_numpy(pad(normalization.normalize_state(states[part]), config.max_state_dim))
        start = torch.zeros(len(state), config.chunk_size, config.max_action_dim)  # as at run time
        result = engine.sample_actions(to_pixels(images[part]), ids, masks, state, start)
        actions.append(normalization.denormalize_actions(result[..., :ACTION_DIM].cpu().numpy()))
        if engine.coordinates is not None:
            points.append(engine.coordinates.unflatten(0, (len(state), -1)).cpu().numpy())
    return np.concatenate(actions), np.concatenate(points) if points else None


def diagnose(checkpoint: Checkpoint, samples: Samples, rows: np.ndarray, seed: int = 0) -> dict:
    """Position error [mm] of the chunk's last step under each condition, and how far the coordinates move.

    `fixed_coordinates`, of GridS only: at each camera's mean over the samples.
    `coordinate_motion`: standard deviation of each coordinate over the samples, averaged over points, as a fraction
    of the feature map's width, by camera. `mean_coordinates`, of GridS only: (K, 2) by camera, in the sampler's terms.
    """
    rng = np.random.default_rng(seed)
    images, states, instructions = samples.images[rows], samples.states[rows], samples.instructions[rows]
    taught = checkpoint.provenance.get("data", {}).get("instructions", ())
    known = np.unique([*samples.instructions, *taught])
    others = [rng.choice(known[known != text]) if len(known) > 1 else text for text in instructions]
    shuffled = rng.permutation(len(rows))
    conditions = {
        "wrong_instruction": (images, others),
        "no_instruction": (images, [""] * len(rows)),
        "shuffled_images": (images[shuffled], instructions),
    }
    actions, points = predict(checkpoint, images, states, instructions)
    shown = {"right": actions}
    for name, (seen, said) in conditions.items():
        shown[name], _ = predict(checkpoint, seen, states, said)
    wrapped = attached(checkpoint.model)
    if wrapped and isinstance(wrapped.sampler, GridSampler):
        wrapped.sampler.hold(torch.from_numpy(points.mean(axis=0)).to(checkpoint.model.device))
        shown["fixed_coordinates"], _ = predict(checkpoint, images, states, instructions)
        wrapped.sampler.hold(None)
    error = {name: actions[:, -1, :3] - samples.actions[rows][:, -1, :3] for name, actions in shown.items()}
    mean_mm = {name: round(1e3 * float(np.linalg.norm(e, axis=-1).mean()), 2) for name, e in error.items()}
    report: dict = {"samples": len(rows), "last_step_error_mm": mean_mm}
    if points is not None:
        motion = points.std(axis=0).mean(axis=(1, 2))
        report["coordinate_motion"] = {
            camera: round(float(value), 4) for camera, value in zip(checkpoint.spec.cameras, motion, strict=True)
        }
    if "fixed_coordinates" in shown:
        mean = points.mean(axis=0).astype(float).round(4).tolist()
        report["mean_coordinates"] = dict(zip(checkpoint.spec.cameras, mean, strict=True))
    return report


def keep(checkpoint: Checkpoint, folder: Path, samples: Samples) -> dict:
    """Diagnose a checkpoint and write the result into its folder's provenance and card."""
    report = diagnose(checkpoint, samples, np.arange(0, len(samples), max(1, len(samples) // SAMPLES)))
    checkpoint.provenance["diagnosis"] = report
    write_whole(folder / "provenance.json", json.dumps(checkpoint.provenance, indent=2) + "\n")
    write_card(checkpoint, folder / "README.md")
    return report
