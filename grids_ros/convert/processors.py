"""lerobot's processor pipelines: every step, every key and every normalisation mode is known here, or refused by name.

Sources: lerobot 0.4.4 and 0.6.1, `processor/*.py` and `policies/{pi0,pi05,smolvla}/{configuration,processor}_*.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from grids_ros.convert.foreign import ConversionError
from grids_ros.policy.schema import Array, Choice, Flag, Integer, Object, Optional, Real, Rule, Table, Text

STATE, ACTION = "observation.state", "action"
MODES = ("MEAN_STD", "MIN_MAX", "QUANTILES", "QUANTILE10", "IDENTITY")
_NAME, _NUMBER = Text(r".{1,200}", "a name"), Real(-1e12, 1e12)
_FEATURE = Object(
    {"type": Choice(("VISUAL", "STATE", "ACTION")), "shape": Array(Integer(1, 65536), 1, 4)}, others=False
)
_FEATURES = Table(_NAME, _FEATURE)
_NORM_MAP = Object({kind: Choice(MODES) for kind in ("VISUAL", "STATE", "ACTION")}, {"VISUAL": "IDENTITY"})
_NORMALISER = Object(
    {
        "eps": Real(0.0, 1e-3),
        "features": _FEATURES,
        "norm_map": _NORM_MAP,
        "normalize_observation_keys": Optional(Array(_NAME)),
    },
    {"normalize_observation_keys": None},
)
_NOTHING = Object({})
STEPS = {  # name of a step: what its configuration may hold
    "rename_observations_processor": Object({"rename_map": Table(_NAME, _NAME)}, {"rename_map": {}}),
    "to_batch_processor": _NOTHING,
    "pi0_new_line_processor": _NOTHING,
    "smolvla_new_line_processor": _NOTHING,
    "pi05_prepare_state_tokenizer_processor_step": Object(
        {"max_state_dim": Integer(1, 4096), "task_key": Choice(("task",))}, {"max_state_dim": 32, "task_key": "task"}
    ),
    "tokenizer_processor": Object(
        {
            "max_length": Integer(1, 4096),
            "task_key": Choice(("task",)),
            "padding_side": Choice(("right",)),
            "padding": Choice(("max_length", "longest")),
            "truncation": Flag(),
            "tokenizer_name": Text(),
        },
        {
            "task_key": "task",
            "padding_side": "right",
            "padding": "max_length",
            "truncation": True,
            "tokenizer_name": "",
        },
    ),
    "device_processor": Object(
        {"device": Text(), "float_dtype": Optional(Choice(("float32",)))}, {"device": "cpu", "float_dtype": None}
    ),
    "normalizer_processor": _NORMALISER,
    "unnormalizer_processor": _NORMALISER,
    "relative_actions_processor": Object(
        {"enabled": Flag(), "exclude_joints": Array(_NAME), "action_names": Optional(Array(_NAME))},
        {"exclude_joints": (), "action_names": None},
    ),
    "absolute_actions_processor": Object({"enabled": Flag()}),
}
BEFORE = {  # the steps of each family's preprocessor, of which the first group must be there
    "pi0": (("pi0_new_line_processor", "tokenizer_processor"), ()),
    "pi05": (("pi05_prepare_state_tokenizer_processor_step", "tokenizer_processor"), ()),
    "smolvla": (("smolvla_new_line_processor", "tokenizer_processor"), ()),
}
OF_ALL = (
    "rename_observations_processor",
    "to_batch_processor",
    "device_processor",
    "normalizer_processor",
    "relative_actions_processor",
)
AFTER = ("unnormalizer_processor", "absolute_actions_processor", "device_processor")
ORDER = (  # of two steps that are both there, the first must come before the second
    ("relative_actions_processor", "normalizer_processor"),
    ("to_batch_processor", "pi05_prepare_state_tokenizer_processor_step"),
    ("normalizer_processor", "pi05_prepare_state_tokenizer_processor_step"),
    ("pi05_prepare_state_tokenizer_processor_step", "tokenizer_processor"),
    ("pi0_new_line_processor", "tokenizer_processor"),
    ("smolvla_new_line_processor", "tokenizer_processor"),
    ("unnormalizer_processor", "absolute_actions_processor"),
)

# Keys of config.json that change nothing at inference: training, devices, publishing.
INERT = {
    "type device use_amp push_to_hub repo_id private tags license pretrained_path pretrained_revision dtype",
    "gradient_checkpointing compile_model compile_mode freeze_vision_encoder train_expert_only train_state_proj",
    "n_action_steps rtc_config",
    "optimizer_lr optimizer_betas optimizer_eps optimizer_weight_decay optimizer_grad_clip_norm",
    "scheduler_warmup_steps scheduler_decay_steps scheduler_decay_lr use_cache load_vlm_weights vlm_model_name",
    "time_sampling_beta_alpha time_sampling_beta_beta time_sampling_scale time_sampling_offset",
    "paligemma_variant action_expert_variant relative_exclude_joints num_vlm_layers num_expert_layers",
    "expert_width_multiplier",
}
IGNORED = frozenset(key for keys in INERT for key in keys.split())
_COUNT = Integer(1, 65536)
CONFIG: dict[str, Rule] = {  # keys that are read, or that must have the value that the models here assume
    "n_obs_steps": Choice((1,)),
    "input_features": _FEATURES,
    "output_features": _FEATURES,
    "chunk_size": Integer(1, 4096),
    "max_state_dim": _COUNT,
    "max_action_dim": _COUNT,
    "num_inference_steps": Integer(1, 1000),
    "num_steps": Integer(1, 1000),
    "min_period": Real(1e-9, 1e6),
    "max_period": Real(1e-9, 1e6),
    "use_peft": Choice((False,)),
    "use_relative_actions": Flag(),
    "action_feature_names": Optional(Array(_NAME)),
    "image_resolution": Array(Integer(8, 4096), 2, 2),
    "resize_imgs_with_padding": Array(Integer(8, 4096), 2, 2),
    "empty_cameras": Integer(0, 16),
    "normalization_mapping": _NORM_MAP,
    "tokenizer_max_length": Integer(1, 4096),
    "adapt_to_pi_aloha": Choice((False,)),
    "use_delta_joint_actions_aloha": Choice((False,)),
    "add_image_special_tokens": Choice((False,)),
    "attention_mode": Choice(("cross_attn", "self_attn")),
    "prefix_length": Integer(-1, 0),
    "pad_language_to": Choice(("longest", "max_length")),
    "self_attn_every_n_layers": Integer(-1, 1000),
}


def check_config(config: dict) -> None:
    """Raises ConversionError that names a key of a policy's config.json that is unknown or has another value."""
    if config.get("use_peft"):
        raise ConversionError(
            "config.json: use_peft is true, an adapter that is not merged: merge it into its base before"
        )
    for key, value in config.items():
        if key in IGNORED:
            continue
        if key not in CONFIG:
            raise ConversionError(
                f"config.json: {key} is unknown, and so is what it does to the actions; expected keys of lerobot 0.4 "
                "to 0.6"
            )
        try:
            CONFIG[key].check(key, value)
        except ValueError as error:
            raise ConversionError(f"config.json: {error}") from error
    for key in ("input_features", "output_features"):
        if key not in config:
            raise ConversionError(f"config.json: {key} is missing")


def check_steps(steps: Any, name: str, family: str) -> dict[str, dict]:
    """The steps of a pipeline by their names, each once, with checked configurations.

    name: of the file; a postprocessor has other steps. Raises ConversionError that names the step and the key.
    """
    after = "post" in name
    required, more = ((), AFTER) if after else (BEFORE[family][0], OF_ALL)
    found: dict[str, dict] = {}
    for index, step in enumerate(steps if isinstance(steps, list) else [None]):
        if not isinstance(step, dict):
            raise ConversionError(f"{name}: steps[{index}] is {step!r}, expected a list of objects")
        kind = step.get("registry_name", step.get("class", "without a name"))
        if kind not in STEPS or kind not in (*required, *more):
            expected = ", ".join((*required, *more))
            raise ConversionError(f"{name}: step {kind!r} is not understood, expected some of {expected}")
        if kind in found:
            raise ConversionError(f"{name}: step {kind!r} stands there twice, expected it once")
        if strange := set(step) - {"registry_name", "class", "config", "state_file"}:
            raise ConversionError(f"{name}: step {kind!r} has {min(strange)!r}, which is not understood")
        try:
            checked = STEPS[kind].check("config", step.get("config", {}))
        except ValueError as error:
            raise ConversionError(f"{name}: step {kind!r}: {error}") from error
        found[kind] = {**step, "config": checked}
    if missing := [kind for kind in required if kind not in found]:
        raise ConversionError(f"{name} lacks the step {missing[0]!r}, which {family} has")
    _refuse_order(list(found), name)
    return found


def _refuse_order(kinds: list[str], name: str) -> None:
    for first, second in ORDER:
        if first in kinds and second in kinds and kinds.index(first) > kinds.index(second):
            raise ConversionError(f"{name}: step {second!r} stands before {first!r}, expected it after")


def check_agreement(config: Mapping, before: Mapping[str, dict], after: Mapping[str, dict]) -> None:
    """Raises ConversionError where a pipeline does otherwise than config.json says."""
    wanted = dict(config.get("normalization_mapping") or {})
    for name, steps in (("normalizer_processor", before), ("unnormalizer_processor", after)):
        if name not in steps:
            continue
        settings = steps[name]["config"]
        keys = settings["normalize_observation_keys"]
        if keys is not None and STATE not in keys:
            raise ConversionError(
                f"{name}: normalize_observation_keys is {list(keys)}, which leaves {STATE} as it is; expected it "
                "among them"
            )
        kind = {"normalizer_processor": "STATE", "unnormalizer_processor": "ACTION"}[name]
        if kind in wanted and settings["norm_map"][kind] != wanted[kind]:
            raise ConversionError(
                f"{name}: norm_map has {settings['norm_map'][kind]} for {kind}, config.json says {wanted[kind]}"
            )
        feature = STATE if kind == "STATE" else ACTION
        if feature not in settings["features"]:
            raise ConversionError(f"{name}: features lacks {feature}, so lerobot would not normalise it")
    relative = before.get("relative_actions_processor", {"config": {"enabled": False}})["config"]["enabled"]
    absolute = after.get("absolute_actions_processor", {"config": {"enabled": False}})["config"]["enabled"]
    if not relative == absolute == bool(config.get("use_relative_actions", False)):
        raise ConversionError(
            f"relative actions are {_switch(relative)} in the preprocessor, {_switch(absolute)} in the postprocessor "
            f"and {_switch(config.get('use_relative_actions', False))} in config.json, expected the same in all"
        )
    for theirs, ours in before.get("rename_observations_processor", {"config": {"rename_map": {}}})["config"][
        "rename_map"
    ].items():
        if "image" not in theirs or "image" not in ours:
            raise ConversionError(
                f"rename_observations_processor: rename_map has {theirs} to {ours}, expected names of images only"
            )


def _switch(on: bool) -> str:
    return "on" if on else "off"
