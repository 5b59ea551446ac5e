"""Real-Time Chunking: the new chunk agrees with what the arm will have done by the time it arrives.

K. Black, M. Y. Galliker, S. Levine: Real-Time Execution of Action Chunking Flow Policies, arXiv 2506.07339. While an
inference runs, the arm goes on with the previous chunk. Those steps are settled, the ones after them are likely; so
the flow is drawn toward them, by pseudo-inverse guidance (section 3.2), and fills in the rest. The paper's time runs
from noise (0) to actions (1), PI0's from noise (1) to actions (0): here t is PI0's, so the paper's tau is 1 - t.

The guidance acts through the Jacobian of the predicted actions. Here the expert's layers are left out of it, and the
error goes back along the residual around them: in closed loop no success and no smoothness was lost by that, and a
guided step costs little more than a free one, where the whole Jacobian doubles it (docs/validation.md).

A policy that is sure of itself predicts the same whatever the noise, its Jacobian is close to zero, and guidance alone
leaves most of the gap (measured: half). So what is left is closed at the end, by the same weights: the settled steps
are met exactly.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from grids_ros.control.continuity import Continuation
from grids_ros.control.trajectory import Trajectory
from grids_ros.datatypes import NANOSECONDS, ActionChunk, Observation
from grids_ros.policy.errors import InputError
from grids_ros.policy.spaces import RELATIVE, Actions, States

MAX_GUIDANCE = 5.0  # the paper's beta: bounds the guidance near pure noise, where its weight diverges
FREE = 0.5  # of a chunk, its end, is never bound: the paper's execution horizon


@dataclass(frozen=True, eq=False)
class Guidance:
    """What the flow is drawn to, in the model's normalised actions.

    targets: shape (ways, B, n, action_dim), each way of writing the same actions; every step is drawn to the nearest.
    weights: shape (n, action_dim), in [0, 1]; 0 leaves the flow alone.
    """

    targets: Tensor
    weights: Tensor

    def nearest(self, actions: Tensor) -> Tensor:
        """Of the targets, step by step, the one nearest to `actions`: (B, n, action_dim)."""
        if len(self.targets) == 1:
            return self.targets[0]
        apart = (self.targets - actions).square().sum(-1, keepdim=True)
        return self.targets.take_along_dim(apart.argmin(0, keepdim=True), 0)[0]

    def velocity(self, field: Callable[[Tensor, float], Tensor], actions: Tensor, t: float) -> Tensor:
        """The velocity of the guided flow at `actions`, shape (B, n, action_dim), and time t in (0, 1].

        field: the flow's own velocity, a function of actions and t. Equation 2 of the paper: the error of the
        predicted actions goes back through the Jacobian of that prediction.
        """
        with torch.inference_mode(False), torch.enable_grad():
            actions = actions.clone().requires_grad_(True)
            velocity = field(actions, t)
            predicted = actions - t * velocity
            with torch.no_grad():
                error = (self.nearest(predicted) - predicted) * self.weights
            (pull,) = torch.autograd.grad(predicted, actions, error)
        return velocity.detach() - guidance_weight(t) * pull

    def close(self, actions: Tensor) -> Tensor:
        """The flow's result, shape (B, n, action_dim), brought to the target by the weights."""
        return actions + self.weights * (self.nearest(actions) - actions)


def guidance_weight(t: float) -> float:
    """(1 - tau) / (tau r^2) with r^2 = (1 - tau)^2 / (tau^2 + (1 - tau)^2), at most MAX_GUIDANCE; tau = 1 - t."""
    tau = 1.0 - t
    return min(MAX_GUIDANCE, (tau * tau + t * t) / (tau * t)) if tau > 0.0 else MAX_GUIDANCE


def soft_mask(frozen: int, overlap: int, horizon: int) -> np.ndarray:
    """How firmly each step of the new chunk is bound to the previous one, shape (horizon,); equation 5 of the paper.

    frozen: steps that are executed while the inference runs: 1. overlap: steps that are bound at all, no fewer: from
    there on 0; in between an exponential decay.
    """
    step = np.arange(horizon)
    decay = (overlap - step) / (overlap - frozen + 1)
    likely = decay * np.expm1(decay) / math.expm1(1.0)
    return np.where(step < frozen, 1.0, np.where(step < overlap, likely, 0.0))


def previous_actions(
    continuation: Continuation, observation: Observation, horizon: int, step_s: float, space: Actions = RELATIVE
) -> tuple[np.ndarray, np.ndarray]:
    """The previous chunk as the new one would have to say it, and how firmly: (horizon, size) and (horizon,).

    Each step is read off the previous chunk at its own time, and put as actions of `space` from the pose, or the
    joints, measured now.
    """
    chunk = continuation.chunk
    steps_ns = observation.stamp_ns + np.rint(np.arange(1, horizon + 1) * step_s * NANOSECONDS).astype(np.int64)
    joints: dict[str, Any] = {"measured": measured_joints(observation, space), "targets": joints_at(chunk, steps_ns)}
    actions = space.to_actions(observation.pose, *steps_at(chunk, steps_ns, step_s), **joints, step_s=step_s)
    covered = int((steps_ns <= chunk.end_ns).sum())
    frozen = min(covered, math.ceil(continuation.delay_s / step_s - 1e-6))
    overlap = max(frozen, min(covered, horizon - round(FREE * horizon)))
    return actions, soft_mask(frozen, overlap, horizon)


def measured_joints(observation: Observation, space: States | Actions) -> np.ndarray | None:
    """The joints (n,) of a space in an observation; None for a space of poses. Raises InputError by name."""
    if missing := [name for name in space.joints if name not in observation.joints]:
        raise InputError(f"joint_states lacks {', '.join(missing)}, which the policy needs")
    return np.array([observation.joints[name] for name in space.joints]) if space.joints else None


def joints_at(chunk: ActionChunk, stamps_ns: np.ndarray) -> np.ndarray | None:
    """The chunk's joints (m, n) at these instants (m,) [ns], linear between its steps; None where it has none."""
    if chunk.joints is None:
        return None
    seconds = (np.asarray(stamps_ns) - chunk.stamp_ns) / NANOSECONDS
    return np.stack([np.interp(seconds, chunk.times, column) for column in chunk.joints.T], axis=1)


def steps_at(chunk: ActionChunk, stamps_ns: np.ndarray, step_s: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The chunk as steps of `step_s` that end at these instants (n,) [ns]: (n, 3), (n, 4), (n,).

    Poses are those of `Trajectory`. Openings are those of `gripper_at` in the middle of each step,
    for one holds from the step before to its own: read at the end, the hand would close earlier with every new chunk.
    """
    seconds, times, last = (stamps_ns - chunk.stamp_ns) / NANOSECONDS, chunk.times, len(chunk) - 1
    gripper = chunk.gripper[np.searchsorted(times, seconds - step_s / 2).clip(max=last)]
    return *Trajectory.of_chunk(chunk).at(stamps_ns), gripper
