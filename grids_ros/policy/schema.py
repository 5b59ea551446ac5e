"""The JSON files of a checkpoint as data: which keys they hold, of which type, within which bounds.

A rule checks one value and returns it; a ValueError names the key, the value and what is valid. A key that no rule
names is refused, or left out where a rule says so: transformers writes many keys that no model here reads.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from grids_ros.policy.errors import CheckpointError

LONGEST = 60  # characters of a value that an error shows


class Rule(Protocol):
    """`check` returns a valid value, and raises ValueError for any other."""

    def check(self, key: str, value: Any) -> Any: ...


@dataclass(frozen=True)
class Integer:
    """An integer in [low, high]."""

    low: int
    high: int

    def check(self, key: str, value: object) -> int:
        if type(value) is not int or not self.low <= value <= self.high:
            raise refusal(key, value, f"an integer in [{self.low}, {self.high}]")
        return value


@dataclass(frozen=True)
class Real:
    """A finite number in [low, high]."""

    low: float
    high: float

    def check(self, key: str, value: Any) -> float:
        if type(value) not in (int, float) or not self.low <= value <= self.high:  # NaN is in no range
            raise refusal(key, value, f"a number in [{self.low:g}, {self.high:g}]")
        return float(value)


@dataclass(frozen=True)
class Flag:
    """true or false."""

    def check(self, key: str, value: object) -> bool:
        if type(value) is not bool:
            raise refusal(key, value, "true or false")
        return value


@dataclass(frozen=True)
class Text:
    """A string that matches `pattern` as a whole; `meaning` describes it in errors."""

    pattern: str = r"(?s).*"
    meaning: str = "a string"

    def check(self, key: str, value: object) -> str:
        if type(value) is not str or not re.fullmatch(self.pattern, value):
            raise refusal(key, value, self.meaning)
        return value


@dataclass(frozen=True)
class Choice:
    """One of these values, of their types."""

    values: tuple

    def check(self, key: str, value: object) -> object:
        for valid in self.values:
            if type(value) is type(valid) and value == valid:
                return value
        raise refusal(key, value, " or ".join(map(json.dumps, self.values)))


@dataclass(frozen=True)
class Optional:
    """null, or what another rule takes."""

    rule: Rule

    def check(self, key: str, value: object) -> object:
        return None if value is None else self.rule.check(key, value)


@dataclass(frozen=True)
class Array:
    """A list of `least` to `most` elements, each by `rule`; unique: no two are equal. Returns a tuple."""

    rule: Rule
    least: int = 0
    most: int = 4096
    unique: bool = False

    def check(self, key: str, value: object) -> tuple:
        if type(value) is not list or not self.least <= len(value) <= self.most:
            raise refusal(key, value, f"a list of {self.least} to {self.most} elements")
        checked = tuple(self.rule.check(f"{key}[{index}]", each) for index, each in enumerate(value))
        if self.unique and len(set(checked)) < len(checked):
            raise refusal(key, value, "a list without repetitions")
        return checked


@dataclass(frozen=True)
class Table:
    """An object of any keys that match `keys`, each value by `rule`."""

    keys: Text
    rule: Rule

    def check(self, key: str, value: object) -> dict:
        if type(value) is not dict:
            raise refusal(key, value, "an object")
        return {
            self.keys.check(f"a key of {key}", name): self.rule.check(f"{key}.{name}", each)
            for name, each in value.items()
        }


@dataclass(frozen=True)
class Object:
    """An object of these keys.

    fields: key to rule. defaults: what an absent key counts as; any other key must be there. others: whether keys
    without a rule are left out; otherwise they are refused.
    """

    fields: Mapping[str, Rule]
    defaults: Mapping[str, object] = field(default_factory=dict)
    others: bool = False

    def check(self, key: str, value: object) -> dict:
        if type(value) is not dict:
            raise refusal(key, value, "an object")
        inside = f"{key}." if key else ""
        if missing := [name for name in self.fields if name not in value and name not in self.defaults]:
            raise ValueError(f"{inside}{missing[0]} is missing, expected {', '.join(self.fields)}")
        if not self.others and (strange := set(value) - set(self.fields)):
            raise ValueError(f"{inside}{shown(min(strange))} is unknown, expected {', '.join(self.fields)}")
        return {
            name: rule.check(inside + name, value[name]) if name in value else self.defaults[name]
            for name, rule in self.fields.items()
        }


def refusal(key: str, value: object, expected: str) -> ValueError:
    """The error for a value that a rule does not take."""
    return ValueError(f"{key or 'the file'} is {shown(value)}, expected {expected}")


def shown(value: object) -> str:
    """A value as JSON has it, cut to `LONGEST` characters."""
    text = json.dumps(value, default=repr) if not isinstance(value, int) or abs(value) < 10**20 else "a huge integer"
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


def parse_json(text: str) -> dict:
    """The object that a JSON text holds.

    Raises ValueError for no JSON, NaN or infinity, a key that stands twice in one object, or anything but an object.
    """
    try:
        values = json.loads(text, object_pairs_hook=_object, parse_constant=_constant, parse_float=_float)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if not isinstance(values, dict):
        raise ValueError(f"it holds a {type(values).__name__}, expected an object")
    return values


def read_json(path: Path) -> dict:
    """The object in a JSON file of a checkpoint. Raises CheckpointError as `parse_json` does, and where none can be
    read."""
    try:
        return parse_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{path} is not JSON: {error}") from error
    except json.JSONDecodeError as error:
        raise CheckpointError(f"{path} is not JSON: {error}") from error
    except ValueError as error:
        raise CheckpointError(f"{path} is not valid: {error}") from error


def _object(pairs: Sequence[tuple[str, object]]) -> dict:
    values: dict = {}
    for key, value in pairs:
        if key in values:
            raise ValueError(f"key {shown(key)} stands twice in one object")
        values[key] = value
    return values


def _constant(name: str) -> float:
    raise ValueError(f"it holds {name}, expected finite numbers")


def _float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"it holds {text[:LONGEST]}, expected finite numbers")
    return value
