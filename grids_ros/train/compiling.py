"""What training can have compiled: the vision tower, where much of the time goes to small operations on large maps.

The rest of PI0 appends to a cache of keys and values, which the compiler cannot follow, and its time is in matrix
products, which it would not make faster.
"""

from __future__ import annotations

import torch
from transformers import PI0ForConditionalGeneration


def compile_vision(model: PI0ForConditionalGeneration) -> None:
    """From now on, in place; the first step takes a minute more. On a CPU it needs a C++ compiler at that moment."""
    tower = model.model.vlm.vision_tower
    for part in (tower.embeddings.patch_embedding, tower.encoder):
        part.forward = torch.compile(part.forward)
