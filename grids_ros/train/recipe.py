"""How to train: one stage of it, and its learning rate."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Recipe:
    """How to train.

    batch: samples of one update, those of all processes and parts together. shift [px]: images are moved by up to that
    much, which metric labels only bear when small. nested: each step sees only so many tokens per camera, one of these
    or all, at random; so that a prefix of them suffices as well.

    distil: the sampler alone trains, and the dense model teaches it; see `distillation`. readout: weight of its second
    term. expert_only: what sees and reads stays as it is, and the action expert alone trains. lora: rank of the updates
    that train in place of the weights; 0 trains all of them. accumulate: parts of a
    batch that are computed one after the other. bf16: compute in bfloat16, the weights stay in float32. recompute: the
    layers' activations in the backward pass, which saves their memory. average: save a moving
    average of the weights, which takes a copy of them.
    """

    steps: int
    batch: int = 32
    learning_rate: float = 1e-3
    warm_up: int = 100
    clip: float = 1.0
    decay: float = 0.998
    shift: int = 3
    locations: float = 1.0
    attraction: float = 50.0
    seed: int = 0
    nested: tuple[int, ...] = ()
    distil: bool = False
    readout: float = 1.0
    expert_only: bool = False
    lora: int = 0
    accumulate: int = 1
    bf16: bool = False
    recompute: bool = False
    average: bool = True

    def rate(self, step: int) -> float:
        """The learning rate: linear warm-up, then a cosine to a hundredth. step: from 0 in each stage."""
        if step < self.warm_up:
            return self.learning_rate * (step + 1) / self.warm_up
        progress = (step - self.warm_up) / max(1, self.steps - self.warm_up)
        return self.learning_rate * (0.01 + 0.99 * 0.5 * (1.0 + np.cos(np.pi * min(1.0, progress))))
