"""A node parameter: its default, description, unit and range, and the checks that follow from them.

A node's parameters are a frozen dataclass whose fields are made by `parameter`. A value of the wrong type or out of
range is refused with a message that names the valid values, an unknown name with the nearest known one.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, TypeVar

RENAMED = {
    "lead_translation": "max_tracking_error_translation",
    "lead_rotation": "max_tracking_error_rotation",
}
FOREIGN = ("use_sim_time", "start_type_description_service", "qos_overrides.")  # declared by rclpy itself

Default = bool | int | float | str | tuple[float, ...] | tuple[str, ...]
Values = TypeVar("Values")


class ParameterError(ValueError):
    """A parameter that is unknown, of the wrong type or out of range; the message says what is valid."""


@dataclass(frozen=True)
class Parameter:
    """One parameter. The default gives the type; `low` and `high` bound the number, or each number of an array.

    least: the smallest positive number that is taken, where 0.0 is taken as well; 0.0: any from `low` on.
    length: the number of elements that an array must have; 0 for one or more. choices: the only values, if given.
    pattern: regular expression of the only strings that are taken, if given; form: the same in words.
    word: a string that may stand in place of the number, if given. live: may be changed while the node is configured.
    group: heading of the parameters that follow, in the parameter file and the reference. hidden: the parameter file
    leaves it out, because the launch file sets it.
    """

    name: str
    default: Default
    description: str
    low: float | None = None
    high: float | None = None
    least: float = 0.0
    length: int = 0
    choices: tuple[str, ...] = ()
    pattern: str = ""
    form: str = ""
    word: str = ""
    live: bool = False
    unit: str = ""
    group: str = ""
    hidden: bool = False

    @property
    def expected(self) -> str:
        """What a valid value is, in words."""
        if self.choices:
            return f"one of {', '.join(self.choices)}"
        if self.pattern:
            return self.form
        kind = self.default[0] if isinstance(self.default, tuple) else self.default
        noun = {bool: "true or false", int: "an integer", float: f"a float such as {kind}", str: "a string"}[type(kind)]
        if self.low is not None:
            noun += f" in [{self.least or self.low:g}, {self.high:.12g}]{' ' * bool(self.unit)}{self.unit}"
        if self.least:
            noun += ", or 0.0"
        if self.word:
            noun += f", or {self.word}"
        if not isinstance(self.default, tuple):
            return noun
        return f"an array of {self.length or 'one or more'}, each {noun}"

    def check(self, value: object) -> Any:
        """`value`, arrays as tuples. Raises ParameterError."""
        if self.word and value == self.word:
            return value
        if not isinstance(self.default, tuple):
            self._check_one(value, self.default, value)
            return value
        if isinstance(value, (str, bytes)) or not isinstance(value, Sequence):
            raise self._refusal(value)
        elements = tuple(value)
        if not elements or (self.length and len(elements) != self.length):
            raise self._refusal(list(elements))
        for element in elements:
            self._check_one(element, self.default[0], list(elements))
        return elements

    def _check_one(self, value: Any, like: object, whole: object) -> None:
        if type(value) is not type(like):
            raise self._refusal(whole)
        if self.choices and value not in self.choices:
            raise self._refusal(whole)
        if self.pattern and not re.fullmatch(self.pattern, str(value)):
            raise self._refusal(whole)
        number: Any = value
        if self.low is not None and self.high is not None and not self.low <= number <= self.high:  # NaN fails as well
            raise self._refusal(whole)
        if self.least and 0.0 < number < self.least:
            raise self._refusal(whole)

    def _refusal(self, value: object) -> ParameterError:
        return ParameterError(f"parameter '{self.name}' is {value!r}, expected {self.expected}")


def parameter(default: Default, description: str, low: float | None = None, high: float | None = None, **more) -> Any:
    """A field of a dataclass of parameters. more: as `Parameter` has it."""
    return field(default=default, metadata={"parameter": Parameter("", default, description, low, high, **more)})


def table(of: type) -> tuple[Parameter, ...]:
    """The parameters of a dataclass, in the order of its fields."""
    return tuple(replace(each.metadata["parameter"], name=each.name) for each in fields(of))


def build(of: type[Values], values: Mapping[str, object], node: str) -> Values:
    """The dataclass with these values, and defaults for the others. Raises ParameterError."""
    for name in values:
        check_name(name, of, node)
    known = {each.name: each for each in table(of)}
    return of(**{name: known[name].check(value) for name, value in values.items() if name in known})


def check_name(name: str, of: type | Sequence[Parameter], node: str) -> None:
    """Raises ParameterError for a name that is no field of the dataclass `of`, with the nearest that is."""
    if name in RENAMED:
        raise ParameterError(f"parameter '{name}' of {node} is now called '{RENAMED[name]}'")
    known = [each.name for each in (table(of) if isinstance(of, type) else of)]
    if name not in known and not name.startswith(FOREIGN):
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(known)}"
        raise ParameterError(f"parameter '{name}' is unknown to {node}; {hint}")
