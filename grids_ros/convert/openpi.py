"""openpi's folders of π0 and π0.5, and those of the GridS authors: PyTorch ones, and JAX ones where Orbax is installed.

Sources: openpi `examples/convert_jax_model_to_pytorch.py`, `models/{pi0,gemma,siglip,model}.py`, `shared/normalize.py`,
`transforms.py`; Fediory/Grid-Sampler, the same files, for `action_active_sampler`. Layers are stacked in JAX: the first
axis of every array below `layers` or `encoderblock` counts them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from grids_ros.convert.foreign import ConversionError, ForeignCheckpoint, Scale, scale_of
from grids_ros.convert.names import EMBEDDING, EXPERT, PALIGEMMA, is_pi05
from grids_ros.convert.source import json_of, tensors_of
from grids_ros.policy.preprocess import ImageFit
from grids_ros.policy.prompt import PromptFormat
from grids_ros.policy.schema import Choice, Integer, Object, Text
from grids_ros.policy.weights import LazyTensor

CAMERAS = ("base_0_rgb", "left_wrist_0_rgb", "right_wrist_0_rgb")  # in this order, of every openpi model
LEAST = (1e-6, 1e-6)  # what openpi adds to a standard deviation, and to the difference of two quantiles
FLAX_EPSILON = 1e-6  # of flax's layer norm
_VARIANT = Text()  # decides nothing: sizes are read from the shapes
CONFIG = Object(
    {
        "action_dim": Integer(1, 4096),
        "action_horizon": Integer(1, 4096),
        "paligemma_variant": _VARIANT,
        "action_expert_variant": _VARIANT,
        "precision": Choice(("bfloat16", "float32")),
    },
    {
        "action_dim": 32,
        "action_horizon": None,
        "paligemma_variant": "gemma_2b",
        "action_expert_variant": "gemma_300m",
        "precision": "bfloat16",
    },
)
VISION = f"{PALIGEMMA}model.vision_tower.vision_model."
Move = Callable[[np.ndarray], np.ndarray]


def recognises(folder: Path) -> bool:
    """A JAX `params` folder, or PyTorch weights without lerobot's processors."""
    return (folder / "params").is_dir() or (folder / "model.safetensors").is_file()


def read(folder: Path, state_in_prompt: bool | None = None) -> ForeignCheckpoint:
    """state_in_prompt: whether π0.5's prompt holds the state (`discrete_state_input`); None for openpi's default, yes.

    Raises ConversionError for a folder with statistics of several data sets, or, of JAX, without Orbax.
    """
    in_jax = (folder / "params").is_dir()
    config = _config(folder / "config.json") if (folder / "config.json").is_file() else {}
    tensors = from_jax(*orbax_tree(folder / "params")) if in_jax else tensors_of(folder)
    pi05 = is_pi05(tensors)
    with_state = pi05 and state_in_prompt is not False
    modes = ("QUANTILES", "QUANTILES") if pi05 else ("MEAN_STD", "MEAN_STD")
    states, actions = statistics(folder, modes)
    note = (
        "the state is a part of the prompt; pi05_libero and others with discrete_state_input=False: --prompt-state no"
    )
    return ForeignCheckpoint(
        family="pi05" if pi05 else "pi0",
        kind="openpi, JAX" if in_jax else "openpi, PyTorch",
        tensors=tensors,
        cameras={name: name for name in CAMERAS},
        state_names=(),
        action_names=(),
        states=states,
        actions=actions,
        chunk=config.get("action_horizon"),
        prompt_length=200 if pi05 else 48,
        denoising_steps=10,
        periods=(4e-3, 4.0),
        tokenizer="paligemma_tokenizer.model, as google/paligemma-3b-pt-224 has it",
        prompt=PromptFormat(clean=True, state=with_state),
        frame=("<bos>", None if with_state else "\n"),
        image=ImageFit("antialias"),
        modes=modes,
        least=LEAST,
        epsilon=FLAX_EPSILON if in_jax else 1e-5,
        notes=(note,) if pi05 and state_in_prompt is None else (),
    )


def _config(path: Path) -> dict:
    """What openpi's converter to PyTorch writes. Raises ConversionError for any other key or value."""
    try:
        return CONFIG.check("", json_of(path))
    except ValueError as error:
        raise ConversionError(f"{path}: {error}") from error


def statistics(folder: Path, modes: tuple[str, str]) -> tuple[Scale | None, Scale | None]:
    """Of states and actions, from assets/<data set>/norm_stats.json; None where there are none."""
    files = sorted((folder / "assets").rglob("norm_stats.json"))
    if len(files) > 1:
        listed = ", ".join(str(path.parent.relative_to(folder)) for path in files)
        raise ConversionError(f"{folder} has statistics of several data sets: {listed}; name one with --statistics")
    return norm_stats(files[0], json_of(files[0]), modes, LEAST) if files else (None, None)


def norm_stats(path: Path, values: dict, modes: tuple[str, str], least: tuple[float, float]) -> tuple[Scale, Scale]:
    """Of the content of a norm_stats.json, by these modes. Raises ConversionError when it has another form."""
    of_all = values["norm_stats"] if isinstance(values.get("norm_stats"), dict) else {}
    kept = [of_all[name] for name in ("state", "actions") if isinstance(of_all.get(name), dict)]
    if len(kept) != 2:
        raise ConversionError(f"{path} has no statistics of state and actions; expected norm_stats of both")
    state, action = (
        scale_of(mode, one, least, name, str(path))
        for mode, one, name in zip(modes, kept, ("state", "actions"), strict=True)
    )
    return state, action


# --- JAX -----------------------------------------------------------------------------------------------------------


def orbax_tree(folder: Path) -> tuple[dict[str, tuple[int, ...]], Callable[[str], np.ndarray]]:
    """The arrays of a `params` folder: their shapes by name, as "PaliGemma/img/head/kernel", and what reads one.

    Raises ConversionError when Orbax is not installed.
    """
    try:
        import orbax.checkpoint as ocp
    except ImportError as error:
        raise ConversionError(
            "JAX weights are read by Orbax, which is missing: pip install orbax-checkpoint"
        ) from error
    reader = ocp.PyTreeCheckpointer()
    metadata = reader.metadata(folder.resolve())
    tree = getattr(metadata, "item_metadata", metadata)
    leaves = dict(_leaves(getattr(tree, "tree", tree)["params"]))

    def read_one(name: str) -> np.ndarray:
        path = ("params", *leaves[name][0])
        wanted, how = leaves[name][1], ocp.ArrayRestoreArgs(restore_type=np.ndarray)
        for key in reversed(path):
            wanted, how = {key: wanted}, {key: how}
        found = reader.restore(
            folder.resolve(), ocp.args.PyTreeRestore(item=wanted, restore_args=how, partial_restore=True)
        )
        for key in path:
            found = found[key]
        return np.asarray(found)

    return {name: tuple(leaf.shape) for name, (_, leaf) in leaves.items()}, read_one


def _leaves(tree: Mapping, path: tuple[str, ...] = ()):
    """(name, (path, leaf)); a last `value`, which nnx adds in training, is no part of a name."""
    for key, branch in tree.items():
        if isinstance(branch, Mapping):
            yield from _leaves(branch, (*path, key))
        else:
            whole = (*path, key)
            yield "/".join(whole[:-1] if key == "value" else whole), (whole, branch)


def from_jax(shapes: Mapping[str, tuple[int, ...]], read_one: Callable[[str], np.ndarray]) -> dict[str, LazyTensor]:
    """By openpi's PyTorch names, each array read when its turn comes; the layers of one array follow each other.

    Raises ConversionError for a name that has no counterpart.
    """
    read_one = lru_cache(maxsize=1)(read_one)
    result = {}
    for name, shape in shapes.items():
        for target, move, layer in _targets(name, shape):
            result[target] = _lazy(read_one, name, shape, move, layer)
    return result


def _lazy(read_one, name: str, shape: tuple[int, ...], move: Move, layer: int | None) -> LazyTensor:
    own = shape if layer is None else shape[1:]
    moved = move(np.broadcast_to(np.float32(0), own)).shape  # costs nothing: a view of one number

    def read() -> Tensor:
        array = read_one(name)
        part = move(array if layer is None else array[layer])
        return torch.from_numpy(np.ascontiguousarray(part, dtype=np.float32))

    return LazyTensor(torch.float32, moved, read)


def _targets(name: str, shape: tuple[int, ...]):
    """What becomes of one array: PyTorch name, how its numbers move, and the layer or None."""
    short, parts = name.removeprefix("PaliGemma/"), name.split("/")
    if short in SINGLE:
        yield (*SINGLE[short], None)
    elif short in STACKED:
        for layer in range(shape[0]):
            for target, move in STACKED[short]:
                yield target.format(layer), move, layer
    elif parts[0] != "PaliGemma" and parts[-1] in KINDS:
        kind, move = KINDS[parts[-1]]
        layers = [part.removeprefix("layers_") for part in parts[:-1]]  # of a sampler's MLP: layers_0 and layers_2
        yield ".".join([*layers, kind]).replace("action_active_sampler", "active_token_sampler"), move, None
    else:
        raise ConversionError(f"{name} has no counterpart in π0 or π0.5: π0-FAST and unmerged LoRAs are not supported")


def _same(array: np.ndarray) -> np.ndarray:
    return array


def _turned(array: np.ndarray) -> np.ndarray:
    return array.T


def _from_heads(array: np.ndarray) -> np.ndarray:
    """(heads, width of each, out) to (out, in)."""
    return array.reshape(-1, array.shape[-1]).T


def _to_heads(array: np.ndarray) -> np.ndarray:
    """(in, heads, width of each) to (out, in)."""
    return array.reshape(len(array), -1).T


def _part(*index: int) -> Move:
    return lambda array: array[index].T


KINDS = {"kernel": ("weight", _turned), "scale": ("weight", _same), "bias": ("bias", _same)}


def _gemma(prefix: str, suffix: str) -> dict[str, list[tuple[str, Move]]]:
    """The stacked arrays of a Gemma: the first has no suffix, π0's expert has _1."""
    row = prefix + "layers.{}."
    return {
        # (heads, in, width of each) to (out, in)
        f"attn/q_einsum{suffix}/w": [(f"{row}self_attn.q_proj.weight", lambda a: _to_heads(a.transpose(1, 0, 2)))],
        f"attn/kv_einsum{suffix}/w": [
            (f"{row}self_attn.k_proj.weight", _part(0, 0)),
            (f"{row}self_attn.v_proj.weight", _part(1, 0)),
        ],
        f"attn/attn_vec_einsum{suffix}/w": [(f"{row}self_attn.o_proj.weight", _from_heads)],
        f"mlp{suffix}/gating_einsum": [
            (f"{row}mlp.gate_proj.weight", _part(0)),
            (f"{row}mlp.up_proj.weight", _part(1)),
        ],
        f"mlp{suffix}/linear": [(f"{row}mlp.down_proj.weight", _turned)],
        f"pre_attention_norm{suffix}/scale": [(f"{row}input_layernorm.weight", _same)],
        f"pre_ffw_norm{suffix}/scale": [(f"{row}post_attention_layernorm.weight", _same)],
        **{
            f"{theirs}{suffix}/Dense_0/{kind}": [(f"{row}{ours}.dense.{KINDS[kind][0]}", KINDS[kind][1])]
            for theirs, ours in (
                ("pre_attention_norm", "input_layernorm"),
                ("pre_ffw_norm", "post_attention_layernorm"),
            )
            for kind in ("kernel", "bias")  # of π0.5's expert
        },
    }


def _siglip() -> dict[str, list[tuple[str, Move]]]:
    """The stacked arrays of the vision encoder."""
    row, attention = VISION + "encoder.layers.{}.", "MultiHeadDotProductAttention_0"
    result: dict[str, list[tuple[str, Move]]] = {}
    for name in ("query", "key", "value"):
        target = f"{row}self_attn.{name[0]}_proj."
        result[f"{attention}/{name}/kernel"] = [(f"{target}weight", _to_heads)]
        result[f"{attention}/{name}/bias"] = [(f"{target}bias", np.ravel)]
    result[f"{attention}/out/kernel"] = [(f"{row}self_attn.out_proj.weight", _from_heads)]
    result[f"{attention}/out/bias"] = [(f"{row}self_attn.out_proj.bias", _same)]
    for index in (0, 1):
        result[f"LayerNorm_{index}/scale"] = [(f"{row}layer_norm{index + 1}.weight", _same)]
        result[f"LayerNorm_{index}/bias"] = [(f"{row}layer_norm{index + 1}.bias", _same)]
        result[f"MlpBlock_0/Dense_{index}/kernel"] = [(f"{row}mlp.fc{index + 1}.weight", _turned)]
        result[f"MlpBlock_0/Dense_{index}/bias"] = [(f"{row}mlp.fc{index + 1}.bias", _same)]
    return result


SINGLE = {
    "img/embedding/kernel": (f"{VISION}embeddings.patch_embedding.weight", lambda a: a.transpose(3, 2, 0, 1)),
    "img/embedding/bias": (f"{VISION}embeddings.patch_embedding.bias", _same),
    "img/pos_embedding": (f"{VISION}embeddings.position_embedding.weight", lambda a: a.reshape(-1, a.shape[-1])),
    "img/Transformer/encoder_norm/scale": (f"{VISION}post_layernorm.weight", _same),
    "img/Transformer/encoder_norm/bias": (f"{VISION}post_layernorm.bias", _same),
    "img/head/kernel": (f"{PALIGEMMA}model.multi_modal_projector.linear.weight", _turned),
    "img/head/bias": (f"{PALIGEMMA}model.multi_modal_projector.linear.bias", _same),
    "llm/embedder/input_embedding": (EMBEDDING, _same),
    "llm/final_norm/scale": (f"{PALIGEMMA}model.language_model.norm.weight", _same),
    "llm/final_norm_1/scale": (f"{EXPERT}model.norm.weight", _same),
    "llm/final_norm_1/Dense_0/kernel": (f"{EXPERT}model.norm.dense.weight", _turned),
    "llm/final_norm_1/Dense_0/bias": (f"{EXPERT}model.norm.dense.bias", _same),
}
STACKED = {
    **{f"img/Transformer/encoderblock/{name}": targets for name, targets in _siglip().items()},
    **{f"llm/layers/{n}": t for n, t in _gemma(f"{PALIGEMMA}model.language_model.", "").items()},
    **{f"llm/layers/{n}": t for n, t in _gemma(f"{EXPERT}model.", "_1").items()},
}
