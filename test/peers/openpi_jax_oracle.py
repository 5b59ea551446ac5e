"""python openpi_jax_oracle.py OUT OPENPI, in an environment with openpi's dependencies: its JAX models.

For each OUT/openpi-jax-<model>/ as its training leaves it (Orbax's `params`, `assets`), and OUT/openpi-jax-<model>.npz
with what its own transforms and code make of one observation: pi0 and pi05, with the transforms of LIBERO.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
import common
import openpi_oracle
from common import HORIZON, STEPS, TASK

SMALL = {
    "openpi.models.siglip": {
        '"So400m": 1152': '"So400m": 64',
        '"So400m": 27': '"So400m": 2',
        '"So400m": 4304': '"So400m": 96',
    },
    "openpi.models.gemma": {"257_152": "420"},
}


def make(name: str, out: Path) -> None:
    """One model: its folder and its outputs."""
    import jax
    import orbax.checkpoint as ocp
    from flax import nnx
    from openpi.models.model import Observation, preprocess_observation
    from openpi.models.pi0_config import Pi0Config
    from openpi.shared import normalize
    from openpi.transforms import Unnormalize

    is_pi05 = name == "pi05"
    variants = {"paligemma_variant": "dummy", "action_expert_variant": "dummy"}
    config = Pi0Config(dtype="float32", action_horizon=HORIZON, pi05=is_pi05, **variants)
    model = config.create(jax.random.key(5))
    rng = np.random.default_rng(11)
    shaken = jax.tree.map(lambda a: a + 0.05 * rng.normal(size=a.shape).astype(a.dtype), nnx.state(model))
    nnx.update(model, shaken)
    model.eval()
    folder, stats = out / f"openpi-jax-{name}", openpi_oracle.statistics(is_pi05)
    folder.mkdir(exist_ok=True)
    ocp.PyTreeCheckpointer().save((folder / "params").resolve(), {"params": shaken.to_pure_dict()}, force=True)
    normalize.save(folder / "assets" / "physical-intelligence" / "libero", stats)
    common.paligemma_tokenizer().save(str(folder / "tokenizer.json"))
    data = openpi_oracle.transform(640, config, stats)
    seen = Observation.from_dict(jax.tree.map(lambda each: jax.numpy.asarray(each)[None], data))
    noise = common.noise().numpy()
    start = jax.numpy.asarray(noise)
    once, whole = (model.sample_actions(jax.random.key(0), seen, num_steps=n, noise=start) for n in (1, STEPS))
    ready = preprocess_observation(None, seen, train=False)
    actions = np.asarray(whole)
    common.save(
        out / f"{folder.name}.npz",
        **{f"image_{n}": image for n, image in common.observation().items()},
        state=openpi_oracle.STATE,
        task=TASK,
        noise=noise,
        ids=seen.tokenized_prompt,
        mask=seen.tokenized_prompt_mask,
        normalized_state=data["state"][: len(openpi_oracle.STATE)],
        pixels=np.stack([np.moveaxis(np.asarray(image), -1, 1) for image in ready.images.values()], 1),
        prefix=model.embed_prefix(ready)[0],
        velocity=noise - np.asarray(once),
        actions=actions[..., :7],
        chunk=Unnormalize(stats, use_quantiles=is_pi05)({"state": openpi_oracle.STATE, "actions": actions[0, :, :7]})[
            "actions"
        ],
    )
    print(folder.name, actions.shape, float(np.abs(actions).mean()))


if __name__ == "__main__":
    openpi_oracle.stand_in(Path(sys.argv[2]))
    common.rewrite(SMALL)
    target = Path(sys.argv[1])
    target.mkdir(parents=True, exist_ok=True)
    for each in sys.argv[3:] or ("pi0", "pi05"):
        make(each, target)
