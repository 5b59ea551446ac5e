"""python openpi_oracle.py OUT OPENPI, in an environment with openpi's dependencies: its PyTorch models.

OPENPI: a checkout; transformers carries its replacements, as its README asks. For each OUT/openpi-<model>/ as its
converter to PyTorch leaves it, and OUT/openpi-<model>.npz with what its own transforms and code make of one
observation: pi0, pi05 and pi05_libero, with the transforms of LIBERO.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent))
import common
from common import CAMERAS, HORIZON, STEPS, TASK
from lerobot_oracle import SMALL, VISION

STATE = np.array([0.45, 0.10, 0.35, 2.8, 0.2, -0.1, 0.015, -0.015], np.float32)  # the last two: fingers
CHANGES = {name: SMALL[name] for name in ('CONFIG_MAPPING["paligemma"]()', "257152", "2048", "= 4304")}


def stand_in(checkout: Path) -> None:
    """Small sizes, and a tokenizer that is at hand."""
    for part in ("src", "packages/openpi-client/src"):
        sys.path.insert(0, str(checkout / part))
    for name in ("nms", "qnms"):  # torchvision's operators are of another build
        torch.library.define(f"torchvision::{name}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    common.rewrite({"openpi.models_pytorch.gemma_pytorch": CHANGES})
    assert VISION


class Pieces:
    """The tokenizer behind SentencePiece's interface."""

    def __init__(self):
        self._own = common.paligemma_tokenizer()

    def encode(self, text: str, add_bos: bool = False) -> list[int]:
        return self._own.encode(text, add_special_tokens=add_bos).ids


def statistics(quantiles: bool) -> dict:
    """openpi's, of eight numbers of state and seven of actions."""
    from openpi.shared.normalize import NormStats

    own, result = common.statistics(), {}
    for theirs, ours in (("state", "observation.state"), ("actions", "action")):
        kept = {name: own[ours][name].astype(float) for name in ("mean", "std", "q01", "q99")}
        if theirs == "state":
            wide = {"mean": [0.02, -0.02], "std": [0.01, 0.01], "q01": [0.0, -0.04], "q99": [0.04, 0.0]}
            kept = {name: np.concatenate([values[:6], wide[name]]) for name, values in kept.items()}
        else:
            kept |= {"mean": 0 * kept["mean"], "std": 0 * kept["std"] + 0.4}
            kept |= {"q01": 0 * kept["q01"] - 0.9, "q99": 0 * kept["q99"] + 0.8}
        result[theirs] = NormStats(**kept)
    return result


def transform(width: int, config, stats: dict) -> dict:
    """One observation of images of this width through openpi's own transforms of LIBERO."""
    from openpi import transforms
    from openpi.models.tokenizer import PaligemmaTokenizer
    from openpi.policies.libero_policy import LiberoInputs

    tokenizer = PaligemmaTokenizer.__new__(PaligemmaTokenizer)
    tokenizer._max_len, tokenizer._tokenizer = config.max_token_len, Pieces()
    images = common.observation(width)
    data = {
        "observation/image": images[CAMERAS[0]],
        "observation/wrist_image": images[CAMERAS[1]],
        "observation/state": STATE,
        "prompt": TASK,
    }
    return transforms.compose(
        [
            LiberoInputs(model_type=config.model_type),
            transforms.Normalize(stats, use_quantiles=config.pi05),
            transforms.ResizeImages(224, 224),
            transforms.TokenizePrompt(tokenizer, discrete_state_input=config.discrete_state_input),
            transforms.PadStatesAndActions(config.action_dim),
        ]
    )(data)


def make(name: str, out: Path) -> None:
    """One model: its folder and its outputs."""
    import safetensors.torch
    from openpi.models.model import Observation
    from openpi.models.pi0_config import Pi0Config
    from openpi.models_pytorch.pi0_pytorch import PI0Pytorch
    from openpi.shared import normalize
    from openpi.transforms import Unnormalize

    plain, width = common.sized(name)
    is_pi05 = plain != "pi0"
    config = Pi0Config(
        dtype="float32",
        paligemma_variant="dummy",
        action_expert_variant="dummy",
        action_horizon=HORIZON,
        pi05=is_pi05,
        discrete_state_input=False if plain == "pi05_libero" else None,
        pytorch_compile_mode=None,
    )
    torch.manual_seed(5)
    model = PI0Pytorch(config).eval()
    common.shake(model)
    folder, stats = out / f"openpi-{name}", statistics(is_pi05)
    folder.mkdir(exist_ok=True)
    safetensors.torch.save_model(model, str(folder / "model.safetensors"))
    kept = ("action_dim", "action_horizon", "paligemma_variant", "action_expert_variant")
    values = {each: getattr(config, each) for each in kept} | {"precision": "float32"}
    (folder / "config.json").write_text(json.dumps(values, indent=2))
    normalize.save(folder / "assets" / "physical-intelligence" / "libero", stats)
    common.paligemma_tokenizer().save(str(folder / "tokenizer.json"))
    data = transform(width, config, stats)
    batch = jax_free(data)
    seen = watch(model)
    with torch.no_grad():
        actions = model.sample_actions("cpu", Observation.from_dict(batch), noise=common.noise(), num_steps=STEPS)
    chunk = Unnormalize(stats, use_quantiles=is_pi05)({"state": STATE, "actions": actions[0].numpy()[:, :7]})["actions"]
    common.save(
        out / f"openpi-{name}.npz",
        **{f"image_{n}": image for n, image in common.observation(width).items()},
        state=STATE,
        task=TASK,
        noise=common.noise(),
        ids=batch["tokenized_prompt"],
        mask=batch["tokenized_prompt_mask"],
        normalized_state=data["state"][: len(STATE)],
        actions=actions[..., :7],
        chunk=chunk,
        **seen,
    )
    print(folder.name, {n: tuple(a.shape) for n, a in seen.items()}, float(actions.abs().mean()))


def jax_free(data: dict) -> dict:
    """A batch of one, in PyTorch."""
    if isinstance(data, dict):
        return {name: jax_free(value) for name, value in data.items()}
    return torch.from_numpy(np.asarray(data))[None]


def watch(model) -> dict[str, torch.Tensor]:
    """Filled while it infers: what its own methods are given and give back."""
    seen: dict[str, torch.Tensor] = {}
    embed, denoise = model.embed_prefix, model.denoise_step

    def embed_prefix(images, *rest):
        seen["pixels"] = torch.stack(list(images), 1)
        result = embed(images, *rest)
        seen["prefix"] = result[0]
        return result

    def denoise_step(*arguments):
        result = denoise(*arguments)
        seen.setdefault("velocity", result)
        return result

    model.embed_prefix, model.denoise_step = embed_prefix, denoise_step
    return seen


if __name__ == "__main__":
    stand_in(Path(sys.argv[2]))
    target = Path(sys.argv[1])
    target.mkdir(parents=True, exist_ok=True)
    for each in sys.argv[3:] or ("pi0", "pi05", "pi05_libero", f"pi05{common.WIDE}"):
        make(each, target)
