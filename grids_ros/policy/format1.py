"""grids.json and provenance.json as they were before format 2, brought into it.

Spaces were found by their sentences. What a policy does was in part in its provenance: nested token counts,
instructions, and where it reads on average.
"""

from __future__ import annotations

from grids_ros.policy.schema import Array, Choice, Integer, Object
from grids_ros.policy.spec import COMMON, FORMAT

STATES = {
    "position 3 [m] | rotation matrix columns 1, 2 (6) | gripper opening 1 [m]; "
    "tool frame in base frame": "tool-matrix",
    "position 3 [m] | rotation vector 3 [rad] | gripper opening 1 [m]; tool frame in base frame": "tool-vector",
    "position 3 [m] | rotation vector 3 [rad] | half the gripper opening, and its negative 2 [m]; "
    "tool frame in base frame": "tool-fingers",
}
_STEPS = (
    "translation 3 [m] | rotation vector 3 [rad] | gripper opening 1 [m]; of the target, relative to the target of the "
    "step before, the first to the measured tool pose at the observation, in base axes; gripper absolute"
)
ACTIONS = {
    "translation 3 [m] | rotation vector 3 [rad] | gripper opening 1 [m]; of the target, relative to the measured tool "
    "pose at the observation, in base axes; gripper absolute": "tool-relative",
    "position 3 [m] | rotation vector 3 [rad] | gripper opening 1 [m]; of the target, in base frame": "tool-absolute",
    _STEPS: "tool-steps",
    f"{_STEPS}; less 0.05 of the measured position and 0.5 of the rotation vector": "tool-steps-less-state",
}
SCHEMA = Object(
    {**COMMON, "spaces": Object({"state": Choice(tuple(STATES)), "action": Choice(tuple(ACTIONS))})},
)
NESTED = Array(Integer(1, 65536), unique=True)


def upgraded(values: dict, provenance: dict) -> dict:
    """The content of a grids.json of format 2. Raises ValueError that names the key which is not valid."""
    SCHEMA.check("", values)
    kept = {name: value for name, value in values.items() if name != "spaces"}
    spaces = values["spaces"]
    sampler, stages = values["sampler"], provenance.get("stages")
    nested = (
        stages[-1].get("nested", []) if isinstance(stages, list) and stages and isinstance(stages[-1], dict) else []
    )
    budgets = (
        sorted({sampler["tokens"], *NESTED.check("provenance.json: stages[-1].nested", nested)}) if sampler else []
    )
    data, diagnosis = (provenance.get(name) for name in ("data", "diagnosis"))
    return {
        "format": FORMAT,
        **kept,
        "state": {"space": STATES[spaces["state"]], "version": 1},
        "action": {"space": ACTIONS[spaces["action"]], "version": 1},
        "image": {"filter": "area", "padding": -1.0, "anchor": "centre"},
        "token_budgets": budgets if len(budgets) > 1 else [],
        "instructions": data.get("instructions", []) if isinstance(data, dict) else [],
        "mean_coordinates": diagnosis.get("mean_coordinates") if isinstance(diagnosis, dict) else None,
    }
