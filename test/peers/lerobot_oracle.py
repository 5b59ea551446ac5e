"""python lerobot_oracle.py OUT, in an environment with lerobot 0.4 or 0.6: its pi0, pi05 and smolvla.

For each OUT/lerobot-<version>-<policy>/ as its own save_pretrained leaves it, and OUT/lerobot-<version>-<policy>.npz
with what its own code makes of one observation.
"""

from __future__ import annotations

import sys
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import torch

sys.path.insert(0, str(Path(__file__).parent))
import common
from common import CAMERAS, HORIZON, STATE, STEPS, TASK

VISION = {
    "model_type": "siglip_vision_model",
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 16,
    "vision_use_head": False,
}
DEPTH = "depth=18,\n            mlp_dim="
SMALL = {  # of pi0 and pi05: what is written into their code, and what stands there instead
    'CONFIG_MAPPING["paligemma"]()': f'CONFIG_MAPPING["paligemma"](vision_config={VISION})',
    "257152": "420",
    "2048": "64",
    "= 4304": "= 96",
    "width=1024": "width=48",
    f"{DEPTH}4096": "depth=2, mlp_dim=80",
    f"{DEPTH}16_384": "depth=2, mlp_dim=96",
    "head_dim=256": "head_dim=16",
}
SMOLVLM = {
    "text_config": {
        "model_type": "llama",
        "hidden_size": 192,
        "intermediate_size": 128,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "head_dim": 64,  # as every SmolVLM2 has, for no shape tells
        "num_hidden_layers": 6,
        "vocab_size": 400,
        "rms_norm_eps": 1e-5,
        "rope_theta": 100000.0,
        "pad_token_id": 2,
    },
    "vision_config": {
        "hidden_size": 128,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 512,
        "patch_size": 16,
    },
    "scale_factor": 4,
    "image_token_id": 3,
    "pad_token_id": 2,
}


def stand_in() -> None:
    """Small sizes, and tokenizers that are at hand, in place of what lerobot would download."""
    if "+cpu" in torch.__version__:  # torchvision's operators are of another build
        for name in ("nms", "qnms"):
            torch.library.define(f"torchvision::{name}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    common.rewrite({f"lerobot.policies.{name}.modeling_{name}": SMALL for name in ("pi0", "pi05")})
    import transformers

    def tokenizer(name, **_):
        if "paligemma" in name:
            own, pad, bos = common.paligemma_tokenizer(), "<pad>", "<bos>"
        else:
            own, pad, bos = common.smollm_tokenizer(), "<|im_end|>", None
        return transformers.PreTrainedTokenizerFast(tokenizer_object=own, pad_token=pad, bos_token=bos)

    small = transformers.SmolVLMConfig(**SMOLVLM)
    small.text_config.attention_bias, small.text_config.mlp_bias = False, False
    ids = SimpleNamespace(tokenizer=SimpleNamespace(fake_image_token_id=4, global_image_token_id=5))
    transformers.AutoTokenizer.from_pretrained = tokenizer
    transformers.AutoConfig.from_pretrained = lambda name, **_: small
    transformers.AutoProcessor.from_pretrained = lambda name, **_: ids


def make(name: str, out: Path) -> None:
    """One policy: its folder and its outputs."""
    plain, width = common.sized(name)
    policy, before, after = build(plain, width)
    folder = out / f"lerobot-{version('lerobot').rpartition('.')[0]}-{name}"
    policy.save_pretrained(folder)
    before.save_pretrained(folder)
    after.save_pretrained(folder)
    own = common.smollm_tokenizer() if plain == "smolvla" else common.paligemma_tokenizer()
    own.save(str(folder / "tokenizer.json"))
    images = common.observation(width)
    observed = {f"observation.images.{n}": torch.from_numpy(i).permute(2, 0, 1) / 255.0 for n, i in images.items()}
    batch = before({**observed, "observation.state": torch.from_numpy(STATE), "task": TASK})
    seen = watch(policy)
    actions = policy.predict_action_chunk(dict(batch), noise=common.noise())
    common.save(
        out / f"{folder.name}.npz",
        **{f"image_{n}": image for n, image in images.items()},
        state=STATE,
        task=TASK,
        noise=common.noise(),
        ids=batch["observation.language.tokens"],
        mask=batch["observation.language.attention_mask"],
        normalized_state=batch["observation.state"],
        actions=actions,
        chunk=after(actions),
        **seen,
    )
    print(folder.name, {n: tuple(a.shape) for n, a in seen.items()}, float(actions.abs().mean()))


def build(name: str, width: int):
    """The policy with random weights, for images of this width, and its processors."""
    if name == "pi0":
        from lerobot.policies.pi0.configuration_pi0 import PI0Config as Config
        from lerobot.policies.pi0.modeling_pi0 import PI0Policy as Policy
        from lerobot.policies.pi0.processor_pi0 import make_pi0_pre_post_processors as processors
    elif name == "pi05":
        from lerobot.policies.pi05.configuration_pi05 import PI05Config as Config
        from lerobot.policies.pi05.modeling_pi05 import PI05Policy as Policy
        from lerobot.policies.pi05.processor_pi05 import make_pi05_pre_post_processors as processors
    else:
        from lerobot.policies.smolvla.configuration_smolvla import SmolVLAConfig as Config
        from lerobot.policies.smolvla.modeling_smolvla import SmolVLAPolicy as Policy
        from lerobot.policies.smolvla.processor_smolvla import make_smolvla_pre_post_processors as processors
    from lerobot.configs.types import FeatureType, PolicyFeature

    image = PolicyFeature(FeatureType.VISUAL, (3, 480, width))
    own = {"num_steps": STEPS, "num_vlm_layers": 4, "load_vlm_weights": False} if name == "smolvla" else {}
    config = Config(
        input_features={
            **{f"observation.images.{camera}": image for camera in CAMERAS},
            "observation.state": PolicyFeature(FeatureType.STATE, (7,)),
        },
        output_features={"action": PolicyFeature(FeatureType.ACTION, (7,))},
        chunk_size=HORIZON,
        n_action_steps=HORIZON,
        device="cpu",
        **(own or {"num_inference_steps": STEPS}),
    )
    torch.manual_seed(5)
    policy = Policy(config).eval()
    common.shake(policy)
    stats = {k: {n: torch.from_numpy(a) for n, a in v.items()} for k, v in common.statistics().items()}
    return policy, *processors(config, stats)


def watch(policy) -> dict[str, torch.Tensor]:
    """Filled while it infers: what its own methods are given and give back."""
    seen: dict[str, torch.Tensor] = {}
    model = policy.model
    embed, denoise = model.embed_prefix, model.denoise_step

    def embed_prefix(images, *rest, **options):
        seen["pixels"] = torch.stack(list(images), 1)
        result = embed(images, *rest, **options)
        seen["prefix"] = result[0]
        return result

    def denoise_step(*arguments, **options):
        result = denoise(*arguments, **options)
        seen.setdefault("velocity", result)
        return result

    model.embed_prefix, model.denoise_step = embed_prefix, denoise_step
    return seen


if __name__ == "__main__":
    stand_in()
    target = Path(sys.argv[1])
    target.mkdir(parents=True, exist_ok=True)
    for each in sys.argv[2:] or ("pi0", "pi05", "smolvla", f"pi05{common.WIDE}", f"smolvla{common.WIDE}"):
        make(each, target)
