"""python grids_oracle.py OUT CHECKOUT, in an environment with JAX, flax and torch: the GridS authors' samplers.

CHECKOUT: of Fediory/Grid-Sampler. Writes OUT/grids-<variant>.npz: a sampler's weights by their names, feature maps
(B, H, W, C), and its tokens and coordinates. One of the points is at each end of the unit square.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent))
import common

WIDTH, TOKENS, SIDE = 24, 6, 8
MARGIN = 0.05


def module(path: Path):
    """A file of the checkout by itself."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def features() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(3, SIDE, SIDE, WIDTH)).astype(np.float32)


def weights(norm: bool = False) -> dict[str, np.ndarray]:
    """By the names of PyTorch: a Linear's is (out, in)."""
    rng = np.random.default_rng(1)
    sizes = {"scout_mlp.0": (512, WIDTH), "scout_mlp.2": (2 * TOKENS, 512)}
    sizes |= {"coord_encoder.0": (256, 2), "coord_encoder.2": (WIDTH, 256)}
    result = {}
    for name, (rows, columns) in sizes.items():
        result[f"{name}.weight"] = rng.normal(size=(rows, columns)).astype(np.float32) / columns**0.5
        result[f"{name}.bias"] = rng.normal(size=rows).astype(np.float32)
    result["scout_mlp.2.bias"][:2] = (40.0, -40.0)  # the sigmoid gives exactly 1 and 0
    if norm:
        result |= {
            "input_norm.weight": np.full(WIDTH, 1.1, np.float32),
            "input_norm.bias": np.full(WIDTH, 0.1, np.float32),
        }
    return result


def in_torch(sampler: torch.nn.Module, channels_first: bool) -> tuple:
    own = weights()
    sampler.load_state_dict({name: torch.from_numpy(array) for name, array in own.items()})
    given = torch.from_numpy(features())
    with torch.no_grad():
        result = sampler(given.permute(0, 3, 1, 2) if channels_first else given)
    return own, *(result if isinstance(result, tuple) else (result,))


def in_jax(sampler, norm: bool) -> tuple:
    own, params = weights(norm), {}
    for name in ("scout_mlp", "coord_encoder"):
        params[name] = {
            f"layers_{index}": {"kernel": own[f"{name}.{index}.weight"].T, "bias": own[f"{name}.{index}.bias"]}
            for index in (0, 2)
        }
    if norm:
        params["input_norm"] = {"scale": own["input_norm.weight"], "bias": own["input_norm.bias"]}
    return own, *map(np.asarray, sampler.apply({"params": params}, features()))


def main(out: Path, checkout: Path) -> None:
    core, fork = checkout / "core_idea", checkout / "lerobot/src/lerobot/policies/active_token_sampler.py"
    options = {"vision_dim": WIDTH, "num_tokens": TOKENS}
    made = {
        "pytorch": in_torch(module(core / "grid_pytorch.py").ActiveTokenSamplerTorch(**options), False),
        "fork": in_torch(module(fork).ActiveTokenSampler(**options), True),
        "jax": in_jax(module(core / "grid_jax.py").ActiveTokenSampler(**options), False),
        "new": in_jax(module(core / "grid_new.py").ActiveTokenSampler(**options, coordinate_margin=MARGIN), True),
        "openpi": in_jax(module(checkout / "openpi/src/openpi/models/grid.py").ActiveTokenSampler(**options), False),
    }
    for name, (own, tokens, *coordinates) in made.items():
        extra = {"coordinates": coordinates[0]} if coordinates else {}
        kept = {f"weight/{each}": array for each, array in own.items()}
        common.save(out / f"grids-{name}.npz", features=features(), tokens=tokens, **kept, **extra)
        print(name, np.shape(tokens))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
