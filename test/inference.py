"""One inference of a tiny policy: its inputs, our loop and transformers' own."""

import numpy as np
import torch
from families import restless
from tiny import SIZE

from grids_ros.datatypes import Observation, Pose
from grids_ros.policy.backbones.pi0 import build, demo_config
from grids_ros.policy.engine import Engine
from grids_ros.policy.grids import attach
from grids_ros.sampler import SamplerConfig

POSE = Pose((0.5, 0.1, 0.3), (1.0, 0.0, 0.0, 0.0))


def observation(instruction="lift the red cube", seed=0, shape=(48, 64)):
    rng = np.random.default_rng(seed)
    images = {name: rng.integers(0, 256, (*shape, 3), dtype=np.uint8) for name in ("base", "wrist")}
    return Observation(7, images, POSE, 0.08, instruction)


def inputs(checkpoint, batch=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    prompt = checkpoint.prompt()
    ids, mask = (torch.from_numpy(np.tile(array, (batch, 1))) for array in prompt.encode("lift the red cube"))
    size = SIZE.image_size
    return {
        "pixels": torch.randn(batch, 2, 3, size, size, generator=generator),
        "input_ids": ids,
        "attention_mask": mask,
        "state": torch.randn(batch, 10, generator=generator),
        "noise": torch.randn(batch, 6, 7, generator=generator),
    }


def ours(model, steps, guidance=None, **given_inputs):
    with torch.no_grad():
        return Engine(model, steps).sample_actions(**given_inputs, guidance=guidance)


def transformers_own(model, pixels, steps, **rest):
    present = torch.ones(pixels.shape[:2], dtype=torch.bool)
    return model.sample_actions(pixel_values=pixels, pixel_attention_mask=present, num_steps=steps, **rest)


def shared_heads(kv_heads):
    """A tiny model whose queries share this many key and value heads."""
    config = demo_config(SIZE, 9, 6, 10, 7).to_dict()
    for part in (config["vlm_config"]["text_config"], config["dit_config"]):
        part.update(num_attention_heads=4, num_key_value_heads=kv_heads)
    torch.manual_seed(0)
    model = build(type(demo_config(SIZE, 9, 6, 10, 7)).from_dict(config), SIZE.stem).eval()
    attach(model, SamplerConfig(tokens=4, channels=SIZE.width))
    return restless(model)
