"""python test/peers/parity.py PEERS [--write docs/parity.md]: what we compute against what the peers' own code does.

PEERS: the folder that the oracles of this directory wrote. The comparison is of float32 weights and products.
"""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from grids_ros.convert import sampler as samplers
from grids_ros.convert.__main__ import main as convert
from grids_ros.datatypes import Observation, Pose
from grids_ros.policy.backbone import backbone_of
from grids_ros.policy.checkpoint import load
from grids_ros.policy.engine import Engine
from grids_ros.policy.runtime import Policy
from grids_ros.policy.weights import LazyTensor
from grids_ros.sampler import GridSampler, SamplerConfig

STEPS = 5  # of every oracle
LEROBOT = ("--convention", "absolute", "--rate", "10", "--precision", "float32")
OPENPI = ("--convention", "libero", "--rate", "10", "--precision", "float32")
OPENPI += ("--cameras", "base_0_rgb=front", "left_wrist_0_rgb=wrist")
ORACLES = {
    **{f"lerobot-{version}-{name}": LEROBOT for version in ("0.6", "0.4") for name in ("pi0", "pi05", "smolvla")},
    "openpi-pi0": OPENPI,
    "openpi-pi05": OPENPI,
    "openpi-pi05_libero": (*OPENPI, "--prompt-state", "no"),
    **{f"lerobot-{version}-{name}-848x480": LEROBOT for version in ("0.6", "0.4") for name in ("pi05", "smolvla")},
    "openpi-pi05-848x480": OPENPI,
    **{f"openpi-jax-{name}": (*OPENPI, "--horizon", "8") for name in ("pi0", "pi05")},
}
BEGIN, END = "<!-- parity: written by test/peers/parity.py -->", "<!-- end of parity -->"


@dataclass(frozen=True)
class Parity:
    """Largest differences between ours and theirs.

    grey: of our pixels, in grey levels; mean_grey: on average. ids: whether the token ids are equal. state: of the
    normalised state. With their pixels: prefix: of embedded tokens; velocity: of the first step; actions: of the flow's
    result, normalised. whole: the same with our pixels. position_mm, rotation_rad: of the chunk then, where its actions
    are poses.
    """

    grey: float
    mean_grey: float
    ids: bool
    state: float
    prefix: float
    velocity: float
    actions: float
    whole: float
    position_mm: float | None
    rotation_rad: float | None


def compare(name: str, peers: Path, scratch: Path) -> Parity:
    """Of one oracle, converted into a folder of `scratch`."""
    if convert([str(peers / name), "--out", str(scratch / name), *ORACLES[name]]):
        raise ValueError(f"{name} is not converted")
    theirs = dict(np.load(peers / f"{name}.npz"))
    policy = Policy(load(scratch / name), denoising_steps=STEPS)
    policy._engine = engine = Engine(policy._model, STEPS, products=torch.float32)
    seen = observation(theirs)
    pixels, state = policy._pixels(seen), policy._state(seen)
    apart = (pixels - torch.from_numpy(theirs["pixels"])[:, : pixels.shape[1]]).abs() * 127.5
    ids, mask = (torch.from_numpy(part)[None] for part in policy._prompt.encode(seen.instruction, state))
    placeholders = policy._prompt.placeholders
    words = theirs["ids"][0][theirs["mask"][0] > 0].astype(int)
    own = ids[0, placeholders:][mask[0, placeholders:] > 0].numpy()
    given = _inputs(policy, theirs, ids, mask, state)
    actions, noise = torch.from_numpy(theirs["actions"]), given["noise"]
    with torch.no_grad():
        one = Engine(policy._model, 1, products=torch.float32).sample_actions(**given)
        result = engine.sample_actions(**given)
        whole = engine.sample_actions(**{**given, "pixels": pixels})
    chunk, position, rotation = policy.infer(seen, seed=0).chunk, None, None
    if name.startswith("lerobot"):
        position = 1e3 * np.linalg.norm(chunk.positions - theirs["chunk"][0, :, :3], axis=1).max()
        turned = Rotation.from_quat(chunk.quaternions) * Rotation.from_rotvec(theirs["chunk"][0, :, 3:6]).inv()
        rotation = turned.magnitude().max()
    return Parity(
        grey=float(apart.max()),
        mean_grey=float(apart.mean()),
        ids=len(own) == len(words) and bool((own == words).all()),
        state=float(np.abs(state - theirs["normalized_state"].ravel()[: len(state)]).max()),
        prefix=_prefix(policy, theirs, given),
        velocity=float((noise - one - torch.from_numpy(theirs["velocity"])).abs().max()),
        actions=float((result[..., :7] - actions).abs().max()),
        whole=float((whole[..., :7] - actions).abs().max()),
        position_mm=position,
        rotation_rad=rotation,
    )


def observation(theirs: dict[str, np.ndarray]) -> Observation:
    """Of an oracle's images and state."""
    images = {name.removeprefix("image_"): image for name, image in theirs.items() if name.startswith("image_")}
    images = {name: image.astype(np.uint8) for name, image in images.items()}
    state = theirs["state"].astype(float)
    gripper = state[6] if len(state) == 7 else state[6] - state[7]
    pose = Pose(state[:3], Rotation.from_rotvec(state[3:6]).as_quat())
    return Observation(7, images, pose, float(gripper), str(theirs["task"]))


def _inputs(policy: Policy, theirs, ids, mask, state) -> dict[str, torch.Tensor]:
    """Of the engine, with their pixels."""
    cameras, width = len(policy.cameras), policy._model.config.max_state_dim
    return {
        "pixels": torch.from_numpy(theirs["pixels"])[:, :cameras],
        "input_ids": ids,
        "attention_mask": mask,
        "state": torch.from_numpy(np.pad(state, (0, width - len(state))))[None],
        "noise": torch.from_numpy(theirs["noise"]),
    }


@torch.no_grad()
def _prefix(policy: Policy, theirs, given) -> float:
    """Of every token that is no padding, of a camera that is there."""
    model, prompt = policy._model, policy._prompt
    backbone = backbone_of(model.config.model_type)
    own = backbone.embed(model, given["input_ids"], given["pixels"])[0][given["attention_mask"][0] > 0]
    cells = prompt.placeholders // len(policy.cameras) * theirs["pixels"].shape[1]
    prefix, words = torch.from_numpy(theirs["prefix"])[0], int(theirs["mask"].sum())
    parts = [prefix[: prompt.placeholders], prefix[cells : cells + words]]
    if model.config.model_type == "smolvla":
        own = torch.cat((own, model.state_proj(given["state"])))
        parts.append(prefix[-1:])
    return float((own - torch.cat(parts)).abs().max())


AT_ONE = ("pytorch",)  # gives zeros at a coordinate of exactly 1, as the border's weights cancel
SAMPLERS = {  # variant: prefix of the names in a checkpoint, and the margin of its coordinates
    "jax": ("active_token_sampler", 0.0),
    "openpi": ("active_token_sampler", 0.0),
    "pytorch": ("active_token_sampler", 0.0),
    "new": ("active_token_sampler", 0.05),
    "fork": ("token_sampler", 0.0),
}


def compare_sampler(variant: str, peers: Path) -> tuple[np.ndarray, float]:
    """Largest differences of the tokens, by token, and of the coordinates, of the GridS authors' sampler and ours."""
    theirs = dict(np.load(peers / f"grids-{variant}.npz"))
    prefix, margin = SAMPLERS[variant]
    own = {n.removeprefix("weight/"): torch.from_numpy(a) for n, a in theirs.items() if n.startswith("weight/")}
    lazy = {name: LazyTensor.of(tensor) for name, tensor in own.items()}
    features = torch.from_numpy(theirs["features"])
    meant = samplers.VARIANTS[prefix]
    config = SamplerConfig(
        tokens=theirs["tokens"].shape[1],
        channels=features.shape[-1],
        align_corners=meant.align_corners,
        border=meant.border,
        layer_norm="input_norm.weight" in own,
        layer_norm_epsilon=1e-6,  # flax's
        margin=margin,
    )
    backbone = backbone_of("smolvla" if variant == "fork" else "pi05")
    scale = features.shape[-1] ** 0.5 if variant == "fork" else 1.0
    named = samplers.translate(prefix, lazy, config, backbone, scale)
    sampler = GridSampler(config).eval()
    state = {name.removeprefix(f"{backbone.PROJECTOR}.sampler."): tensor.read() for name, tensor in named.items()}
    sampler.load_state_dict(state)
    with torch.no_grad():
        tokens, coordinates = sampler(features)
    apart = (tokens - torch.from_numpy(theirs["tokens"])).abs().amax((0, 2)).numpy()
    where = theirs.get("coordinates", coordinates.numpy())
    return apart, float(np.abs(coordinates.numpy() - where).max())


def table(results: dict[str, Parity]) -> str:
    """As Markdown."""
    lines = [
        "| whose | pixels, grey levels: max, mean | token ids | state | prefix | velocity | actions "
        "| actions, our pixels | chunk: mm, rad |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, one in results.items():
        chunk = "" if one.position_mm is None else f"{one.position_mm:.2g}, {one.rotation_rad:.1g}"
        numbers = " | ".join(f"{v:.1g}" for v in (one.state, one.prefix, one.velocity, one.actions, one.whole))
        equal = "equal" if one.ids else "differ"
        lines.append(f"| {name} | {one.grey:.2g}, {one.mean_grey:.2g} | {equal} | {numbers} | {chunk} |")
    return "\n".join(lines)


def sampler_table(results: dict[str, tuple[np.ndarray, float]]) -> str:
    """As Markdown; of "pytorch" without the point at exactly 1."""
    lines = ["| GridS's sampler | tokens | coordinates |", "|---|---|---|"]
    for variant, (tokens, coordinates) in results.items():
        inside = tokens[1:] if variant in AT_ONE else tokens
        lines.append(f"| {variant} | {inside.max():.1g} | {coordinates:.1g} |")
    return "\n".join(lines)


def present(peers: Path) -> list[str]:
    """The oracles whose folder and outputs are there; those of JAX where Orbax is installed."""
    known = [name for name in ORACLES if (peers / name).is_dir() and (peers / f"{name}.npz").is_file()]
    return [name for name in known if "jax" not in name or importlib.util.find_spec("orbax")]


def main() -> None:
    """Entry point."""
    peers = Path(sys.argv[1])
    with TemporaryDirectory() as scratch:
        text = table({name: compare(name, peers, Path(scratch)) for name in present(peers)})
    known = [variant for variant in SAMPLERS if (peers / f"grids-{variant}.npz").is_file()]
    text += "\n\n" + sampler_table({variant: compare_sampler(variant, peers) for variant in known})
    print(text)
    if "--write" in sys.argv:
        page = Path(sys.argv[sys.argv.index("--write") + 1])
        before, _, rest = page.read_text().partition(BEGIN)
        page.write_text(f"{before}{BEGIN}\n{text}\n{END}{rest.partition(END)[2]}")


if __name__ == "__main__":
    main()
