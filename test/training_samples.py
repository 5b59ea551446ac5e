"""Random samples of training data."""

import numpy as np
from tiny import INSTRUCTIONS, SIZE

from grids_ros.train.dataset import Samples


def samples(count=24, seed=0):
    rng = np.random.default_rng(seed)
    states = rng.normal(size=(count, 10))
    states[:, 3:9] = (1, 0, 0, 0, -1, 0)
    return Samples(
        images=rng.integers(0, 256, (count, 2, SIZE.image_size, SIZE.image_size, 3), dtype=np.uint8),
        states=states,
        actions=rng.normal(size=(count, 6, 7)) * 2e-3,
        objects=rng.uniform(0.3, 0.6, (count, 4, 3)),
        instructions=np.array([INSTRUCTIONS[i % 3] for i in range(count)]),
        episodes=np.arange(count) // 4,
        sizes=np.full((count, 2, 2), SIZE.image_size),
        tools=np.c_[states[:, :3], np.tile([1.0, 0.0, 0.0, 0.0], (count, 1))],
    )
