"""Parameter files and values by the rules of rcl, so that a replay reads what a node reads.

Source: rcl_yaml_param_parser (parse.c, parser.c) and rclpy's node, as of Jazzy. The rules that differ from YAML 1.1:
a section of the same name goes on with the first one; sections apply in the order of their first appearance, so `/**`
after a node overrules it; `*` is one part of a name and `**` any number; a name without wildcards is the full one; `y`
and `n` are booleans; 1e3 is a float; 1e999, 1e-310, 12:30, 1_000, null and dates are strings; an array holds one type;
aliases and values outside of `ros__parameters` are refused.
"""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml

from grids_ros.parameters.parameter import ParameterError

VALUES = "ros__parameters"
ANY, ONE = "**", "*"

_TRUE = frozenset("y Y yes Yes YES true True TRUE on On ON".split())
_FALSE = frozenset("n N no No NO false False FALSE off Off OFF".split())
_INTEGER = re.compile(r"[+-]?(0[xX][0-9a-fA-F]+|0[0-7]*|[1-9][0-9]*)")
_FLOAT = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_HEX_FLOAT = re.compile(r"[+-]?0[xX]([0-9a-fA-F]+\.?[0-9a-fA-F]*|\.[0-9a-fA-F]+)([pP][+-]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[+-]?(\.?inf|infinity)|[+-]?\.?nan", re.IGNORECASE)
_PART = re.compile(r"[A-Za-z_][A-Za-z0-9_]*|\*\*?")  # of a node's name


def node_parameters(file: Path, node: str, namespace: str = "/") -> dict[str, object]:
    """Name to value of what the file gives to a node, as `--params-file` does.

    Raises ParameterError for a file that rcl refuses.
    """
    return for_node(read_sections(file), node, namespace)


def for_node(sections: dict[str, dict[str, object]], node: str, namespace: str = "/") -> dict[str, object]:
    """What these sections give to a node; later ones overrule earlier ones."""
    name = "/".join(part for part in (*namespace.split("/"), node) if part)
    values: dict[str, object] = {}
    for pattern, given in sections.items():
        if _matches(pattern.removeprefix("/").split("/"), name.split("/")):
            values |= given
    return values


def namespaces(sections: dict[str, dict[str, object]], nodes: tuple[str, ...]) -> list[str]:
    """The namespaces, without wildcards, that sections of these nodes are written for."""
    found = {
        "/" + pattern.removeprefix("/").rpartition("/")[0]
        for pattern in sections
        if pattern.rpartition("/")[2] in nodes
    }
    return sorted(name for name in found if ONE not in name)


def check_sections(sections: dict[str, dict[str, object]], nodes: Sequence[str], namespace: str = "/") -> None:
    """Raises ParameterError for a section that none of these nodes reads: a limit in it would not hold.

    A file may be for several arms: a section of one of the nodes in another namespace is passed over where the file
    has one, without wildcards, of the same node in this namespace.
    """
    within = "/".join(part for part in ("", *namespace.split("/")) if part)
    names = {node: f"/{within}/{node}" if within else f"/{node}" for node in nodes}
    exact = {"/" + pattern.removeprefix("/") for pattern in sections}
    for pattern in sections:
        parts = pattern.removeprefix("/").split("/")
        if any(_matches(parts, name[1:].split("/")) for name in names.values()):
            continue
        if names.get(parts[-1]) in exact:
            continue
        near = difflib.get_close_matches(parts[-1], names, n=1)
        meant = f"did you mean '{names[near[0]]}' or '/{ANY}/{near[0]}'?" if near else ""
        hint = meant or f"nodes: {', '.join(names.values())}"
        raise ParameterError(f"section '{pattern}' is for no node in namespace /{within}; {hint}")


def read_sections(file: Path) -> dict[str, dict[str, object]]:
    """Name of each section, as the file writes it, to its parameters. Raises ParameterError."""
    sections: dict[str, dict[str, object]] = {}
    try:
        for document in yaml.compose_all(_without_aliases(file.read_text("utf-8-sig")), Loader=yaml.SafeLoader):
            for name, values in _sections(document, ""):
                sections.setdefault(name, {}).update(values)
    except OSError as error:
        raise ParameterError(f"{file} cannot be read: {error.strerror or error}") from error
    except (UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        raise ParameterError(f"cannot read parameters from {file}: {error}") from error
    except ParameterError as error:
        raise ParameterError(f"{file}: {error}") from error
    return sections


def parse_value(text: str) -> object:
    """What `-p name:=text` sets a parameter to: a scalar, or a list of scalars. Raises ParameterError."""
    try:
        node = yaml.compose(_without_aliases(text), Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise ParameterError(f"{text!r} is no YAML, expected a value such as 5.0 or [a, b]") from error
    if node is None or isinstance(node, yaml.MappingNode):
        raise ParameterError(f"{text!r}, expected a value such as 5.0 or [a, b]")
    return _value(node)


def _without_aliases(text: str) -> str:
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent):
            raise ParameterError(f"line {event.start_mark.line + 1}: an alias, *{event.anchor}; write the value out")
    return text


def _sections(node: yaml.Node | None, path: str) -> Iterator[tuple[str, dict[str, object]]]:
    if node is None:
        return
    if not isinstance(node, yaml.MappingNode):
        where = f"line {node.start_mark.line + 1}"
        raise ParameterError(f"{where}: a value before {VALUES}; expected /**/node: {VALUES}: ...")
    seen = False
    for key, inside in node.value:
        name = _key(key)
        if seen:
            raise ParameterError(f"line {key.start_mark.line + 1}: {name} beside {VALUES}, expected nothing else there")
        if name != VALUES:
            yield from _sections(inside, f"{path}/{name}" if path else name)
            continue
        seen = True
        if not path:
            raise ParameterError(f"{VALUES} without a node's name before it")
        for part in path.removeprefix("/").split("/"):
            if not _PART.fullmatch(part):
                raise ParameterError(f"{path} is no name of a node: {part!r}")
        if not isinstance(inside, yaml.MappingNode):
            raise ParameterError(f"line {key.start_mark.line + 1}: {VALUES} of {path} holds no parameters")
        yield path, dict(_parameters(inside, ""))


def _parameters(node: yaml.MappingNode, prefix: str) -> Iterator[tuple[str, object]]:
    for key, inside in node.value:
        name = f"{prefix}.{_key(key)}" if prefix else _key(key)
        if isinstance(inside, yaml.MappingNode):
            yield from _parameters(inside, name)
        else:
            yield name, _value(inside)


def _key(node: yaml.Node) -> str:
    if not isinstance(node, yaml.ScalarNode) or not node.value:
        raise ParameterError(f"line {node.start_mark.line + 1}: a name must be text")
    return node.value


def _value(node: yaml.Node) -> object:
    where = f"line {node.start_mark.line + 1}"
    if isinstance(node, yaml.SequenceNode):
        values: list[object] = []
        for each in node.value:
            value = _value(each)
            values += value if isinstance(value, list) else [value]  # rcl reads nested arrays as one
        if not values:
            raise ParameterError(f"{where}: an empty array, expected one or more values")
        if len({type(each) for each in values}) > 1:
            raise ParameterError(f"{where}: an array of several types, expected one: {values}")
        return values
    if not isinstance(node, yaml.ScalarNode):
        raise ParameterError(f"{where}: expected a value or a list of values")
    plain = not node.style and node.tag != "tag:yaml.org,2002:str" or _untagged(node)
    if plain and not node.value:
        raise ParameterError(f"{where}: no value")
    return _scalar(node.value) if plain else node.value


def _untagged(node: yaml.ScalarNode) -> bool:
    """Whether a plain scalar became a string because YAML takes it for one, rather than by a tag."""
    written = node.start_mark.buffer[node.start_mark.pointer : node.end_mark.pointer] if node.start_mark.buffer else ""
    return not node.style and not written.startswith("!!str")


def _scalar(text: str) -> object:
    """A plain scalar: boolean, integer, float or string."""
    if text in _TRUE or text in _FALSE:
        return text in _TRUE
    if _INTEGER.fullmatch(text):
        digits = text.lstrip("+-")
        value = int(digits, 16 if digits[:2] in ("0x", "0X") else 8 if digits[0] == "0" else 10)
        value = -value if text[0] == "-" else value
        if -(2**63) <= value < 2**63:
            return value
    if _FLOAT.fullmatch(text) or _HEX_FLOAT.fullmatch(text):
        number = float.fromhex(text) if _HEX_FLOAT.fullmatch(text) else float(text)
        lost = number == 0.0 and re.search("[1-9]", text.lower().partition("e")[0].removeprefix("0x"))
        denormal = 0.0 < abs(number) < sys.float_info.min
        return text if abs(number) == float("inf") or lost or denormal else number
    if _NOT_FINITE.fullmatch(text):
        return float(text.replace(".", ""))
    return text


def _matches(pattern: list[str], name: list[str]) -> bool:
    if not pattern:
        return not name
    if pattern[0] == ANY:
        return any(_matches(pattern[1:], name[skipped:]) for skipped in range(len(name) + 1))
    return bool(name) and pattern[0] in (ONE, name[0]) and _matches(pattern[1:], name[1:])
