"""provenance.json as the card and the contract read it: of which types its values are.

It decides nothing of what a policy does. A spoilt one is refused where it is to be written again, before the work.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from grids_ros.files import current
from grids_ros.policy.errors import CheckpointError
from grids_ros.policy.schema import Array, Integer, Object, Optional, Real, Rule, Table, Text, read_json

PROVENANCE = "provenance.json"
_COUNT, _REAL, _TEXT = Integer(0, 10**15), Real(-1e15, 1e15), Text()


class _Any:
    """Whatever it is."""

    def check(self, key: str, value: object) -> object:
        return value


class _Known:
    """An object whose keys may all be missing; those without a rule hold anything."""

    def __init__(self, rules: Mapping[str, Rule], needed: tuple[str, ...] = ()):
        defaults = {name: None for name in rules if name not in needed}
        self._rule = Object(rules, defaults, others=True)

    def check(self, key: str, value: object) -> dict:
        return self._rule.check(key, value)


_DATA: Rule = _Known({"episodes": _COUNT, "samples": _COUNT, "instructions": Array(_TEXT, 0, 10**5)})
_STAGES: Rule = Array(Table(_TEXT, _Any()), 1, 10**5)
_MEASURED = Table(_TEXT, Optional(_REAL))
_EVALUATION = _Known(
    {
        "task": _TEXT,
        "ood": Optional(_TEXT),
        "first_seed": _COUNT,
        "episodes": _COUNT,
        "tokens_per_camera": _COUNT,
        "join": _TEXT,
        "delay_ms": _REAL,
        "swap_m": Optional(_REAL),
        "successes": _COUNT,
        "wilson_95": Array(_REAL, 2, 2),
        "wrong_objects": _COUNT,
        "time_to_success_s": Optional(_REAL),
    }
)
_EVALUATIONS: Rule = Array(_EVALUATION, 0, 10**5)
_EARLIER: dict[str, Rule] = {"data": _DATA, "stages": _STAGES, "steps": _COUNT}
SCHEMA = _Known(
    {
        **_EARLIER,
        "parameters": Optional(_COUNT),
        "hardware": _TEXT,
        "converted": _Known(
            {
                **dict.fromkeys(("from", "kind", "convention"), _TEXT),
                "normalisation": Optional(_TEXT),
                "assumed": Array(_TEXT, 0, 10**4),
            },
            ("from", "kind", "convention"),
        ),
        "diagnosis": _Known({"samples": _COUNT, "last_step_error_mm": _MEASURED, "coordinate_motion": _MEASURED}),
        "start": _Known(_EARLIER),
        "averaged": _Known({"share": _REAL, "with": _Known(_EARLIER)}, ("share", "with")),
        "distilled_from": _Known({**_EARLIER, "name": _TEXT, "evaluations": _EVALUATIONS}, ("name",)),
        "evaluations": _EVALUATIONS,
    }
)


def read_provenance(folder: Path) -> dict:
    """provenance.json of a checkpoint's folder; empty without one.

    Raises CheckpointError for one that is spoilt: it names the key.
    """
    path = current(folder, PROVENANCE)
    if not path.is_file():
        return {}
    provenance = read_json(path)
    try:
        SCHEMA.check("", provenance)
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}; mend the file, or remove it") from error
    return provenance
