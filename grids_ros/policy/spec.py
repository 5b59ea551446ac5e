"""grids.json: everything that a policy does beside its model's configuration, as data with types and bounds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace

from grids_ros.policy.grids import OTHER_SAMPLERS, TokenSamplerConfig, sampler_from_dict
from grids_ros.policy.joints import JointActions, JointState
from grids_ros.policy.preprocess import ANCHORS, FILTERS, ImageFit
from grids_ros.policy.prompt import PromptFormat
from grids_ros.policy.schema import Array, Choice, Flag, Integer, Object, Optional, Real, Rule, Table, Text, refusal
from grids_ros.policy.spaces import ACTIONS, MATRIX, RELATIVE, STATES, Actions, States
from grids_ros.sampler import BORDERS, SamplerConfig

FORMAT = 2  # of grids.json; 1 had no "format", and see format1.py
JOINT = Text(r"[^\s]{1,200}", "a joint's name without spaces")
CAMERA = Text(r"[A-Za-z][A-Za-z0-9_]{0,63}", "a name of letters, digits and _, as in a topic")
_TOKENS, _CHANNELS = Integer(1, 65536), Integer(1, 32768)

SAMPLER = Object(
    {
        "tokens": _TOKENS,
        "channels": _CHANNELS,
        "align_corners": Flag(),
        "layer_norm": Flag(),
        "margin": Real(0.0, 0.499),
        "noise": Real(0.0, 100.0),
        "embed_coordinates": Flag(),
        "border": Choice(BORDERS),
        "layer_norm_epsilon": Real(1e-12, 1e-2),
    },
    defaults={"border": "replicate", "layer_norm_epsilon": 1e-5},  # what they were before there was a choice
)


class _Sampler:
    """The configuration of GridS, or of a sampler that `grids.OTHER_SAMPLERS` knows by a key of its own."""

    def check(self, key: str, value: object) -> TokenSamplerConfig:
        if not isinstance(value, dict):
            raise refusal(key, value, "an object")
        if any(name in value for name in ("pruner", *OTHER_SAMPLERS)):
            return sampler_from_dict(value)
        return SamplerConfig(**SAMPLER.check(key, value))


class _Space:
    """A space by name and version, joint actions with a binary gripper or not; its description decides nothing."""

    def __init__(self, spaces: Mapping[str, States] | Mapping[str, Actions]):
        self._spaces = spaces
        rules: dict[str, Rule] = {"space": Text(), "version": Integer(1, 10**6), "description": Text()}
        self._rule = Object(
            {**rules, "binary_gripper_m": Optional(Real(1e-3, 1.0))}, {"description": "", "binary_gripper_m": None}
        )

    def check(self, key: str, value: object) -> States | Actions:
        named = self._rule.check(key, value)
        space = self._spaces.get(named["space"])
        if space is None or space.version != named["version"]:
            known = ", ".join(f"{one.name} version {one.version}" for one in self._spaces.values())
            raise ValueError(f"{key} is {named['space']!r} version {named['version']}, expected one of: {known}")
        if (opening_m := named["binary_gripper_m"]) is None:
            return space
        if not isinstance(space, JointActions):
            raise ValueError(f"{key}.binary_gripper_m is {opening_m:g}, expected none: {space.name} is no joint action")
        return replace(space, binary_m=opening_m)


_POINT = Array(Real(0.0, 1.0), 2, 2)
COMMON: dict[str, Rule] = {
    "cameras": Array(CAMERA, 1, 16, unique=True),
    "prompt_length": Integer(1, 4096),
    "step_s": Real(1e-3, 10.0),
    "denoising_steps": Integer(1, 1000),
    "stem": Optional(Array(Integer(1, 4096), 1, 8)),
    "sampler": Optional(_Sampler()),
}
SCHEMA = Object(
    {
        "format": Choice((FORMAT,)),
        **COMMON,
        "state": _Space(STATES),
        "action": _Space(ACTIONS),
        "image": Object({"filter": Choice(FILTERS), "padding": Choice((-1.0, -3.0)), "anchor": Choice(ANCHORS)}),
        "prompt": Object(
            {"clean": Flag(), "line_break": Flag(), "state": Flag(), "state_width": Integer(0, 4096)},
            defaults=asdict(PromptFormat()),
        ),
        "joints": Array(JOINT, 0, 64, unique=True),
        "token_budgets": Array(_TOKENS, unique=True),
        "instructions": Array(Text(r"(?s).{1,1000}", "a text of 1 to 1000 characters"), 0, 10**5),
        "mean_coordinates": Optional(Table(CAMERA, Array(_POINT, 1, 65536))),
        "files": Optional(Table(Text(), Text(r"[0-9a-f]{64}", "a SHA-256 digest"))),
    },
    defaults={"files": None, "prompt": asdict(PromptFormat()), "joints": ()},
)


@dataclass(frozen=True)
class PolicySpec:
    """The content of grids.json.

    cameras: names, in the order of the image tokens. prompt_length: text tokens. step_s: between the steps of a
    chunk [s]. denoising_steps: of the flow. stem: channels of the convolutional stem, or None. sampler: GridS, or what
    it is compared with, or None for the dense model. state, action: what the numbers mean. image: how camera images
    are fitted. prompt: how the text of a prompt is made. token_budgets: tokens per camera that it was trained to take,
    ascending; empty for the sampler's alone. instructions: those that it was trained with, where they are known.
    mean_coordinates: camera to (K, 2), where GridS reads on average, in the sampler's terms; None where nobody
    measured it. joints: names of the robot's joints, where state or action has joints, in their order.
    Raises ValueError for token budgets or mean coordinates that do not fit the sampler and the cameras.
    """

    cameras: tuple[str, ...]
    prompt_length: int
    step_s: float
    denoising_steps: int
    stem: tuple[int, ...] | None
    sampler: TokenSamplerConfig | None
    state: States = MATRIX
    action: Actions = RELATIVE
    image: ImageFit = field(default_factory=ImageFit)
    prompt: PromptFormat = field(default_factory=PromptFormat)
    token_budgets: tuple[int, ...] = ()
    instructions: tuple[str, ...] = ()
    mean_coordinates: Mapping[str, tuple] | None = None
    joints: tuple[str, ...] = ()

    def __post_init__(self):
        spoken = [name for name in ("state", "action") if isinstance(getattr(self, name), JointState | JointActions)]
        if bool(spoken) != bool(self.joints):
            raise ValueError(
                f"joints is {list(self.joints)}, expected "
                + (f"the names that {spoken[0]} is made of" if spoken else "none: neither state nor action has joints")
            )
        for name in spoken:
            object.__setattr__(self, name, getattr(self, name).of(self.joints))
        most = self.sampler.tokens if self.sampler else 0
        if self.token_budgets and max(self.token_budgets) != most:
            raise ValueError(f"token_budgets is {list(self.token_budgets)}, expected up to the sampler's {most} tokens")
        for camera, points in (self.mean_coordinates or {}).items():
            if camera not in self.cameras or len(points) != most:
                raise ValueError(
                    f"mean_coordinates.{camera} has {len(points)} points, expected {most} for each of "
                    f"{', '.join(self.cameras)}"
                )
        if self.mean_coordinates is not None and set(self.mean_coordinates) != set(self.cameras):
            raise ValueError(
                f"mean_coordinates has {', '.join(self.mean_coordinates) or 'no camera'}, expected "
                f"{', '.join(self.cameras)}"
            )

    def to_dict(self) -> dict:
        """As JSON; `from_dict` is its inverse."""
        return {
            "format": FORMAT,
            "cameras": list(self.cameras),
            "prompt_length": self.prompt_length,
            "step_s": self.step_s,
            "denoising_steps": self.denoising_steps,
            "stem": list(self.stem) if self.stem else None,
            "sampler": self.sampler.to_dict() if self.sampler else None,
            **{name: _space(getattr(self, name)) for name in ("state", "action")},
            "image": asdict(self.image),
            "prompt": asdict(self.prompt),
            "joints": list(self.joints),
            "token_budgets": list(self.token_budgets),
            "instructions": list(self.instructions),
            "mean_coordinates": {
                camera: [list(point) for point in points] for camera, points in self.mean_coordinates.items()
            }
            if self.mean_coordinates is not None
            else None,
        }

    @classmethod
    def from_dict(cls, values: dict) -> PolicySpec:
        """Raises ValueError that names the key, for one that is missing or unknown, or a value that is not valid."""
        checked = SCHEMA.check("", values)
        return cls(
            **{name: checked[name] for name in checked if name not in ("format", "files", "image", "prompt")},
            image=ImageFit(**checked["image"]),
            prompt=PromptFormat(**checked["prompt"]),
        )


def _space(space: States | Actions) -> dict:
    named = {"space": space.name, "version": space.version, "description": space.description}
    if isinstance(space, JointActions) and space.binary_m is not None:
        named["binary_gripper_m"] = space.binary_m
    return named
