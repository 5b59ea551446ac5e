"""Is the policy blind? A low loss alone proves nothing: it may come from the state.

The same held-out samples are shown as they are, with another instruction, with an empty one, and with the images of
other samples. A policy that sees and reads does worse in each of the last three. With GridS they are shown once more
while every camera is read where it is read on average: a policy does worse so if it looks, and as well if its sampler
has learnt a fixed grid.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from grids_ros.datatypes import Pose
from grids_ros.policy.checkpoint import Checkpoint, save_notes
from grids_ros.policy.engine import Engine
from grids_ros.policy.grids import attached
from grids_ros.policy.joints import JointActions, RobotModel
from grids_ros.policy.preprocess import pad, padded_pixels
from grids_ros.sampler import GridSampler
from grids_ros.train.dataset import Samples

if TYPE_CHECKING:
    from grids_ros.kinematics import Kinematics

CHUNK = 32  # samples at a time
SAMPLES = 400  # of those that there are, about so many


@torch.inference_mode()
def predict(
    checkpoint: Checkpoint, engine: Engine, images, states, instructions, sizes: np.ndarray
) -> tuple[np.ndarray, np.ndarray | None]:
    """Actions (N, n, 7), and coordinates (N, cameras, K, 2) or None.

    engine: of the checkpoint's model. sizes: of the images, as `Samples` holds them.
    """
    config, prompt, normalization = checkpoint.model.config, checkpoint.prompt(), checkpoint.normalization
    actions, points = [], []
    for first in range(0, len(states), CHUNK):
        part = slice(first, first + CHUNK)
        normalized = normalization.normalize_state(states[part])
        encoded = [prompt.encode(str(text), row) for text, row in zip(instructions[part], normalized, strict=True)]
        ids, masks = (torch.from_numpy(np.stack(column)) for column in zip(*encoded, strict=False))
        state = torch.from_numpy(pad(normalized, config.max_state_dim))
        start = torch.zeros(len(state), config.chunk_size, config.max_action_dim)  # as at run time
        pixels = padded_pixels(images[part], sizes[part], checkpoint.spec.image)
        result = engine.sample_actions(pixels, ids, masks, state, start)
        actions.append(normalization.denormalize_actions(result[..., : checkpoint.spec.action.size].cpu().numpy()))
        if engine.coordinates is not None:
            points.append(engine.coordinates.unflatten(0, (len(state), -1)).cpu().numpy())
    return np.concatenate(actions), np.concatenate(points) if points else None


def diagnose(
    checkpoint: Checkpoint, samples: Samples, rows: np.ndarray, seed: int = 0, robot: RobotModel | None = None
) -> dict:
    """Position error [mm] of the chunk's last step under each condition, and how far the coordinates move.

    robot: of a policy of joints, whose chunks it turns into tool poses.
    `fixed_coordinates`, of GridS only: at each camera's mean over the samples.
    `coordinate_motion`: standard deviation of each coordinate over the samples, averaged over points, as a fraction
    of the feature map's width, by camera. `mean_coordinates`, of GridS only: (K, 2) by camera, in the sampler's terms.
    """
    rng = np.random.default_rng(seed)
    images, states, instructions = samples.images[rows], samples.states[rows], samples.instructions[rows]
    sizes = samples.sizes[rows]
    known = np.unique([*samples.instructions, *checkpoint.spec.instructions])
    others = [rng.choice(known[known != text]) if len(known) > 1 else text for text in instructions]
    shuffled = rng.permutation(len(rows))
    conditions = {
        "wrong_instruction": (images, sizes, others),
        "no_instruction": (images, sizes, [""] * len(rows)),
        "shuffled_images": (images[shuffled], sizes[shuffled], instructions),
    }
    engine = Engine(checkpoint.model.eval(), checkpoint.spec.denoising_steps)  # one serves all
    actions, points = predict(checkpoint, engine, images, states, instructions, sizes)
    shown = {"right": actions}
    for name, (seen, seen_sizes, said) in conditions.items():
        shown[name], _ = predict(checkpoint, engine, seen, states, said, seen_sizes)
    wrapped = attached(checkpoint.model)
    if wrapped and points is not None and isinstance(wrapped.sampler, GridSampler):
        wrapped.sampler.hold(torch.from_numpy(points.mean(axis=0)).to(checkpoint.model.device))
        shown["fixed_coordinates"], _ = predict(checkpoint, engine, images, states, instructions, sizes)
        wrapped.sampler.hold(None)
    ends = _Ends(checkpoint, states, samples.tools[rows], robot)
    truth = ends.of(samples.actions[rows])
    error = {name: ends.of(actions) - truth for name, actions in shown.items()}
    mean_mm = {name: round(1e3 * float(np.linalg.norm(e, axis=-1).mean()), 2) for name, e in error.items()}
    report: dict = {"samples": len(rows), "last_step_error_mm": mean_mm}
    if points is not None:
        motion = points.std(axis=0).mean(axis=(1, 2))
        report["coordinate_motion"] = {
            camera: round(float(value), 4) for camera, value in zip(checkpoint.spec.cameras, motion, strict=True)
        }
    if points is not None and "fixed_coordinates" in shown:
        mean = points.mean(axis=0).astype(float).round(4).tolist()
        report["mean_coordinates"] = dict(zip(checkpoint.spec.cameras, mean, strict=True))
    return report


class _Ends:
    """Where the tool is after chunks of actions that begin at these states (N, numbers) and tool poses (N, 7)."""

    def __init__(self, checkpoint: Checkpoint, states: np.ndarray, tools: np.ndarray, robot: RobotModel | None):
        self._space, self._step_s = checkpoint.spaces[1], checkpoint.spec.step_s
        self._states, self._tools = states, tools
        self._kinematics: Kinematics | None = None
        if isinstance(self._space, JointActions):
            from grids_ros.kinematics import Kinematics

            assert robot is not None  # a policy of joints is read with one
            self._kinematics = Kinematics(robot.urdf, self._space.joints, robot.base, robot.tool)

    def of(self, actions: np.ndarray) -> np.ndarray:
        """Actions (N, n, numbers) to positions of the last step (N, 3) [m] in the base frame."""
        if self._kinematics and isinstance(self._space, JointActions):
            space = self._space
            measured = self._states[:, : len(self._space.joints)]
            pairs = zip(measured, actions, strict=True)
            last = [space.to_joints(q, a, self._step_s)[-1] for q, a in pairs]
            return self._kinematics.poses(np.stack(last))[0]
        poses = [Pose(tool[:3], tool[3:]) for tool in self._tools]
        chunks = [self._space.to_chunk(0, pose, a, self._step_s) for pose, a in zip(poses, actions, strict=True)]
        return np.stack([chunk.positions[-1] for chunk in chunks])


def keep(checkpoint: Checkpoint, folder: Path, samples: Samples, robot: RobotModel | None = None) -> dict:
    """Diagnose a checkpoint and write the result into its folder: grids.json, provenance and card."""
    rows = np.arange(0, len(samples), max(1, len(samples) // SAMPLES))
    report = diagnose(checkpoint, samples, rows, robot=robot)
    checkpoint.provenance["diagnosis"] = report
    if mean := report.get("mean_coordinates"):
        checkpoint = replace(checkpoint, spec=replace(checkpoint.spec, mean_coordinates=mean))
    save_notes(checkpoint, folder)
    return report
