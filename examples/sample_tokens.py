"""GridS alone: read 16 tokens from a feature map, at coordinates that the map itself predicts."""

import torch

from grids_ros.sampler import GridSampler, SamplerConfig

torch.manual_seed(0)
features = torch.randn(2, 16, 16, 256)  # two cameras, 16 x 16 cells, 256 channels

sampler = SamplerConfig(tokens=16, channels=256, layer_norm=True, margin=0.02).build()
tokens, coordinates = sampler(features)

print(f"{features.shape[1] * features.shape[2]} cells per camera become {tokens.shape[1]} tokens of {tokens.shape[2]}")
print("the first four points of camera 0, as fractions (x right, y down):")
print(coordinates[0, :4].detach().numpy().round(3))

# The points are differentiable: a loss on the tokens moves them.
tokens.square().mean().backward()
moved = sampler.coordinate_mlp[-1].weight.grad.abs().max()
print(f"gradient on the coordinate MLP: up to {moved:.1e}")
assert isinstance(sampler, GridSampler) and coordinates.shape == (2, 16, 2) and moved > 0
