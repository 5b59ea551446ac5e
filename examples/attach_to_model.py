"""GridS on transformers' PI0: attach it, compare the lengths of the prompt, detach it again."""

import torch

from grids_ros.policy.backbones.pi0 import DemoSize, build, demo_config
from grids_ros.policy.grids import attach, detach, tokens_per_camera
from grids_ros.sampler import SamplerConfig

torch.manual_seed(0)
size = DemoSize()
model = build(demo_config(size, vocabulary=32, horizon=12, state_dim=10, action_dim=7), size.stem).eval()
pixels = torch.randn(1, 3, size.image_size, size.image_size)


def image_tokens() -> torch.Tensor:
    """The tokens that the language model sees of one image."""
    vision = model.model.vlm.vision_tower(pixels).last_hidden_state
    return model.model.vlm.multi_modal_projector(vision)


with torch.no_grad():
    dense = image_tokens()
    attach(model, SamplerConfig(tokens=16, channels=size.width, layer_norm=True, margin=0.02))
    pruned = image_tokens()
    print(f"dense: {dense.shape[1]} tokens per camera; with GridS: {pruned.shape[1]} ({tokens_per_camera(model)})")
    detach(model)
    assert torch.equal(image_tokens(), dense), "without the sampler the model is transformers' own again"
