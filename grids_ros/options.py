"""Command lines: each command's options are a frozen dataclass, which tyro reads and `read` checks before any work.

A field's type is int, float, str, bool, Path or a Literal, one of these or None, or a tuple of them. `Range` and
`Place` in its annotation say which values are valid. What cannot be used ends the command with one line and exit
code 2.
"""

from __future__ import annotations

import ast
import difflib
import errno
import inspect
import io
import math
import re
import stat
import sys
import tempfile
import textwrap
from collections.abc import Iterable, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass, fields, is_dataclass
from enum import Enum
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import tyro
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

UNUSABLE = 2  # exit code for an option or a file that cannot be used
LARGEST = 2**31 - 1  # of an integer
LONGEST = 60  # characters of a value that a message repeats

Options = TypeVar("Options")


class UsageError(ValueError):
    """An option or a file that cannot be used; the message names it and what would be valid."""


def refuse(reason: object) -> int:
    """Print one line to stderr; the exit code."""
    print(" ".join(str(reason).split()), file=sys.stderr)
    return UNUSABLE


@dataclass(frozen=True)
class Range:
    """Bounds of a number, or of each number of a tuple. NaN and infinity are never valid.

    exclusive: `low` itself is not valid. below: `high` itself is not valid.
    """

    low: float = -math.inf
    high: float = math.inf
    exclusive: bool = False
    below: bool = False

    def __contains__(self, value: float) -> bool:
        above = value > self.low if self.exclusive else value >= self.low
        return above and (value < self.high if self.below else value <= self.high)

    def __str__(self) -> str:
        if self.high == math.inf:
            return f"{'more than' if self.exclusive else 'at least'} {self.low:g}"
        brackets = "(" if self.exclusive else "[", ")" if self.below else "]"
        return f"a value in {brackets[0]}{self.low:g}, {self.high:.12g}{brackets[1]}"


class Place(Enum):
    """What a path must be before the work begins."""

    FOLDER = "an existing folder"
    FILE = "an existing file"
    OUT_FOLDER = "a folder that can be written"
    OUT_FILE = "a file that can be written"


COUNT = Range(1, 1_000_000)
WORKERS = Range(1, 1024)
SEED = Range(0, LARGEST)


Cluster = Annotated[str, tyro.conf.arg(metavar="ADDRESS")]
"""Of a Ray cluster, HOST:PORT or `auto`; empty: processes of this machine."""


@dataclass(frozen=True, kw_only=True)
class RobotOptions:
    """How a command is told of another robot: the same for all that read bags."""

    params_file: Annotated[Path | None, Place.FILE] = None
    """parameter file as the nodes take it; default: the nodes' defaults"""
    namespace: str | None = None
    """namespace of the nodes that the parameter file is for; default: the one that it names, or /"""
    param: Annotated[
        tuple[str, ...], tyro.conf.arg(aliases=["-p"], metavar="NAME:=VALUE"), tyro.conf.UseAppendAction
    ] = ()
    """one parameter of the nodes"""
    remap: Annotated[tuple[str, ...], tyro.conf.arg(aliases=["-r"], metavar="FROM:=TO"), tyro.conf.UseAppendAction] = ()
    """topic name in the bag"""
    instruction: str = ""
    """what was done, in place of the bag's instruction topic"""
    markers: Annotated[str, tyro.conf.arg(metavar="TOPIC")] = ""
    """each message on it begins an episode"""
    preset: Literal["droid", "libero", "so101"] | None = None
    """of a LeRobot data set: what is known of this robot and its data, as of convert"""
    convention: str = ""
    """meaning of a LeRobot data set's states and actions, as of convert"""
    gripper: Annotated[str, tyro.conf.arg(metavar="CLOSED:OPEN:METRES")] = ""
    """of a LeRobot data set: its numbers when closed and open, and the opening then [m]"""
    gripper_state: Annotated[str, tyro.conf.arg(metavar="CLOSED:OPEN:METRES")] = ""
    """the same for states alone"""
    gripper_action: Annotated[str, tyro.conf.arg(metavar="CLOSED:OPEN:METRES")] = ""
    """the same for actions alone"""
    state_features: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME ...")] = ()
    """of a LeRobot data set: the features that make a state, one behind the other; default: the usual names"""
    action_features: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME ...")] = ()
    """the same for an action"""
    set_joints: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME ...")] = ()
    """of a LeRobot data set of joints: their names in the URDF, in order; default: those that the set has"""
    degrees: bool = False
    """the angles of a LeRobot data set of joints are in degrees"""

    def check(self) -> None:
        """Raises UsageError for options that contradict each other."""
        if self.gripper and (self.gripper_state or self.gripper_action):
            raise UsageError("--gripper is for states and actions, expected it or --gripper-state and --gripper-action")


def read(kind: type[Options], command: str, arguments: Sequence[str]) -> Options:
    """The options in `arguments`. kind: a dataclass; its method `check`, if it has one, raises UsageError.

    Ends the process: with 0 after --help, with 2 and one line for what cannot be used.
    """
    prog, said = f"grids {command}", io.StringIO()
    try:
        _refuse_twice(kind, arguments)
        with redirect_stderr(said):
            options, unknown = tyro.cli(
                kind,
                prog=prog,
                args=list(arguments),
                return_unknown_args=True,
                registry=_REGISTRY,
                config=(tyro.conf.FlagCreatePairsOff, tyro.conf.OmitArgPrefixes),
            )
        if unknown:
            raise UsageError(f"unknown option {' '.join(map(_short, unknown))}{_nearest(kind, unknown[0])}")
        _check(options)
    except UsageError as error:
        raise SystemExit(refuse(f"{prog}: {error}")) from error
    except SystemExit as ended:
        if ended.code:
            refuse(f"{prog}: {_one_line(said.getvalue())}")
        raise
    return options


def _one_line(box: str) -> str:
    """The text in tyro's box, without its title, its rules, and the help that follows them."""
    lines = [re.sub("\x1b\\[[0-9;]*m", "", line) for line in box.splitlines()]  # it is in colour on some terminals
    rows = [line.strip("│ ") for line in lines if not line.startswith(("╭", "╰"))]
    rules = [place for place, row in enumerate(rows) if row and not row.strip("─-")]
    if len(rows) == len(lines):  # without UTF-8 the title is a row
        rows, rules = rows[2:], [place - 2 for place in rules[1:]]
    text = " ".join(row for row in rows[: rules[0] if rules else None] if row)
    for theirs, ours in _WORDS.items():
        text = re.sub(theirs, ours, text)
    return text or " ".join(box.split())


_WORDS = {  # tyro's, in ours
    r"^Error parsing (?:-\w/)?(\S+)(?: \.\.\.)?: '": r"\1 is '",
    r"^Error parsing (?:-\w/)?(\S+)(?: \.\.\.)?:": r"\1:",
    r"^Missing from [^:]*: (\S+).*": r"\1 is required",
    r"^Missing value for argument '(\S+)'\. Expected (\d+) values\.": r"\1: expected \2 value(s)",
}


# Names


def hints(kind: type) -> dict[str, tuple[Any, tuple]]:
    """Field to its type and its annotations."""
    annotated = get_type_hints(kind, include_extras=True)
    found = {}
    for field in fields(kind):
        hint = annotated[field.name]
        found[field.name] = get_args(hint)[:1] + (hint.__metadata__,) if hasattr(hint, "__metadata__") else (hint, ())
    return found


def _flags(kind: type) -> dict[str, tuple[str, bool]]:
    """What may stand on the command line, to the field and whether it may be repeated."""
    flags: dict[str, tuple[str, bool]] = {}
    for name, (of, notes) in hints(kind).items():
        if isinstance(of, type) and is_dataclass(of):
            flags |= _flags(of)
            continue
        for each in (flag(kind, name), *(alias for note in notes for alias in getattr(note, "aliases", None) or ())):
            flags[each] = name, tyro.conf.UseAppendAction in notes
    return flags


def flag(kind: type, name: str) -> str:
    """The name of a field on the command line; a positional one has the name that its help gives it."""
    notes = hints(kind)[name][1]
    configured = [note for note in notes if hasattr(note, "aliases")]
    if tyro.conf.Positional in notes:
        return next((note.metavar.split()[0] for note in configured if note.metavar), name.upper())
    renamed = next((note.name for note in configured if note.name), None)
    return f"--{renamed or name}".replace("_", "-")


def metavar(kind: type, name: str) -> str:
    """What stands for the value of a field in its help; empty for a flag."""
    of, notes = hints(kind)[name]
    if of is bool or tyro.conf.Positional in notes:
        return ""
    given = next((note.metavar for note in notes if getattr(note, "metavar", None)), None)
    spec = _rule(PrimitiveTypeInfo(of, get_origin(of), set(), None))
    return given or (spec.metavar if spec else "TEXT")


def described(kind: type, name: str) -> str:
    """The documentation of a field: the string below it."""
    source = textwrap.dedent(inspect.getsource(kind))
    definition: Any = ast.parse(source).body[0]
    lines = definition.body
    for field, below in zip(lines, lines[1:], strict=False):
        named = isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and field.target.id == name
        if named and isinstance(below, ast.Expr):
            return " ".join(str(getattr(below.value, "value", "")).split())
    return ""


def _nearest(kind: type, token: str) -> str:
    near = difflib.get_close_matches(token.partition("=")[0], [name for name in _flags(kind) if name[0] == "-"], n=1)
    return f", did you mean {near[0]}?" if near else f"; expected {', '.join(sorted(_flags(kind)))}"


def _refuse_twice(kind: type, arguments: Sequence[str]) -> None:
    """Raises UsageError for an option that is given twice: which one counts would be a guess."""
    known, seen = _flags(kind), set()
    for token in arguments:
        if token == "--":
            return
        head = token.partition("=")[0].replace("_", "-")
        if token.startswith("-") and head in known:
            name, repeatable = known[head]
            if name in seen and not repeatable:
                raise UsageError(f"{head} is given twice")
            seen.add(name)


# Values


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."


def _check(options: Any) -> None:
    """Raises UsageError for a value outside its range, a path that is not what it must be, and what `check` finds."""
    for name, (_, notes) in hints(type(options)).items():
        value, called = getattr(options, name), flag(type(options), name)
        if is_dataclass(value):
            _check(value)
            continue
        for each in value if isinstance(value, tuple) else (value,):
            for note in notes:
                if isinstance(note, Range) and each is not None and each not in note:
                    raise UsageError(f"{called} is {each:g}, expected {note}")
                if isinstance(note, Place) and each is not None:
                    check_place(called, each, note)
        if tyro.conf.Positional in notes and value == ():
            raise UsageError(f"{called} is required")
    if hasattr(options, "check"):
        options.check()


def check_place(called: str, path: Path, place: Place) -> None:
    """Raises UsageError for a path that is not what it must be."""
    reason = ""
    try:
        if place in (Place.OUT_FOLDER, Place.OUT_FILE):
            _probe(path, place)
        elif place is Place.FILE:
            _require_regular(path)  # to open a pipe would wait for somebody who writes
            with path.open("rb") as file:
                file.read(1)
        else:
            next(path.iterdir(), None)
    except (OSError, ValueError) as error:  # ValueError: a null character
        reason = getattr(error, "strerror", None) or str(error)
    if reason:
        raise UsageError(f"{called} is {path}, expected {place.value} ({reason})")


def require_apart(outputs: Iterable[Path], inputs: Iterable[Path]) -> None:
    """Raises UsageError for an output that is, holds or lies in what the command reads."""
    read = [(path, path.resolve()) for path in inputs]
    for output in outputs:
        target = output.resolve()
        for path, source in read:
            within = source in target.parents or any(_same(above, source) for above in target.parents)
            holds = target in source.parents or any(_same(target, above) for above in source.parents)
            if target == source or _same(target, source) or within or holds:
                relation = "lies in" if within else "holds" if holds else "is"
                raise UsageError(f"the output {output} {relation} the input {path}, expected another --out")


def _same(one: Path, other: Path) -> bool:
    """Whether two paths lead to one file or folder; False where either is not there."""
    try:
        return one.samefile(other)
    except OSError:
        return False


def _probe(path: Path, place: Place) -> None:
    """Raises OSError where this cannot be written. Creates nothing that stays."""
    if place is Place.OUT_FILE and _is_there(path):
        _require_regular(path)  # what is written takes the place of this file: never that of a device
    folder = path if place is Place.OUT_FOLDER else path.parent
    nearest = next(each for each in (folder, *folder.absolute().parents) if _is_there(each))
    with tempfile.TemporaryFile(dir=nearest):
        pass


def _is_there(path: Path) -> bool:
    """Whether there is anything at a path, a link to nowhere included. Raises OSError where nothing can be."""
    try:
        path.lstat()
    except FileNotFoundError:
        return False
    return True


def _require_regular(path: Path) -> None:
    """Raises OSError for what is no file on a disk: a folder, a pipe, a device, a link to nowhere."""
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "Is a directory" if stat.S_ISDIR(mode) else "not a regular file")


def _number(kind: type, text: str) -> float:
    noun = "an integer" if kind is int else "a number"
    try:
        value = kind(text)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{_short(text)!r}, expected {noun}") from error
    if not math.isfinite(value) or (kind is int and abs(value) > LARGEST):
        raise ValueError(f"{_short(text)!r}, expected {noun}, finite and no larger than {LARGEST}")
    return value


def _value(kind: Any, text: str) -> object:
    """Raises ValueError that names the valid values."""
    if kind in (int, float):
        return _number(kind, text)
    if kind is Path and not text:
        raise ValueError("'', expected a path")
    if get_origin(kind) is Literal and text not in get_args(kind):
        raise ValueError(f"{_short(text)!r}, expected one of {', '.join(get_args(kind))}")
    return Path(text) if kind is Path else text


def _metavar(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return "{" + ",".join(get_args(kind)) + "}"
    return {int: "INT", float: "NUMBER", str: "TEXT", Path: "PATH"}[kind]


def _rule(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec | None:
    """How tyro reads the types that options have; None leaves a type to tyro."""
    parts = [info.type]
    if info.type_origin in (Union, UnionType):
        parts = [part for part in get_args(info.type) if part is not NoneType]
    kind = parts[0]
    count: int | Literal["*"] = 1
    many = get_origin(kind) is tuple
    if many:
        inner = get_args(kind)
        kind = inner[0]
        count = "*" if inner[-1] is Ellipsis else len(inner)
    if many and tyro.conf.UseAppendAction in info.markers:
        return None  # one value each time, which comes here again
    if len(parts) > 1 or not (kind in (int, float, str, Path) or get_origin(kind) is Literal):
        return None

    def shown(value: Any) -> list[str]:
        if value is None or value in ((), ""):
            return ["none"]
        return [str(each) for each in value] if many else [str(value)]

    def build(texts: list[str]) -> Any:
        if not texts:
            raise ValueError("expected at least one value")
        values = tuple(_value(kind, text) for text in texts)
        return values if many else values[0]

    return PrimitiveConstructorSpec(
        nargs=count,
        metavar=" ".join([_metavar(kind)] * count) if isinstance(count, int) else f"{_metavar(kind)} ...",
        instance_from_str=build,
        is_instance=lambda value: True,
        str_from_instance=shown,
    )


_REGISTRY = ConstructorRegistry()
_REGISTRY.primitive_rule(_rule)
