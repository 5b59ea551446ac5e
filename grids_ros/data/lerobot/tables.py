"""The files of a LeRobot data set: JSON, and parquet by columns. A damaged one is an error that names it."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from grids_ros.data.damage import BagError, first_line
from grids_ros.policy.schema import Rule

POINTER = b"version https://git-lfs"
KEPT_TABLES = 8  # parquet files whose numbers are kept in memory
KEPT_GROUPS = 8  # row groups of pictures that are kept
KEPT_PLACES = 256  # episodes of which is known where they lie


class DatasetError(BagError):
    """A LeRobot data set that cannot be used: says what is wrong with which file."""


def checked(path: Path, rule: Rule, value: object, where: str = "") -> Any:
    """What a rule makes of a value in a file. where: in it, for the error. Raises DatasetError."""
    try:
        return rule.check("", value)
    except ValueError as error:
        raise DatasetError(f"{path}: {where}{error}") from error


def read_json(path: Path) -> object:
    """Raises DatasetError."""
    _refuse_pointer(path)
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise _unreadable(path, error) from error


def read_lines(path: Path) -> list[object]:
    """One value per line. Raises DatasetError."""
    _refuse_pointer(path)
    try:
        return [json.loads(line) for line in path.read_text().splitlines() if line.strip()]
    except (OSError, ValueError, RecursionError) as error:
        raise _unreadable(path, error) from error


def column_names(path: Path) -> tuple[str, ...]:
    """Of a parquet file. Raises DatasetError."""
    return _names(path, path.stat().st_mtime_ns)


def read_table(path: Path, columns: tuple[str, ...] | None = None) -> pa.Table:
    """A parquet file, or some columns of it. Raises DatasetError, and names what a missing footer means."""
    file = _opened(path)
    try:
        return file.read(columns=columns)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise _unreadable(path, error) from error


def numbers_of(path: Path, columns: tuple[str, ...]) -> pa.Table:
    """Columns of a parquet file, of the last ones kept in memory. Raises DatasetError."""
    return _kept(path, path.stat().st_mtime_ns, columns)


def places_of(path: Path, episode: int) -> np.ndarray:
    """The rows of an episode in a parquet file: all of them where it does not say. Raises DatasetError."""
    return _places(path, path.stat().st_mtime_ns, episode)


def cell(path: Path, column: str, row: int) -> object:
    """One value of a parquet file; of the file its row group and column are read. Raises DatasetError."""
    changed_ns = path.stat().st_mtime_ns
    ends = _group_ends(path, changed_ns)
    number = int(np.searchsorted(ends, row, side="right"))
    return _group(path, changed_ns, number, column)[row - (ends[number - 1] if number else 0)].as_py()


def matrix(table: pa.Table, name: str, path: Path, width: int) -> np.ndarray:
    """A column of numbers or of lists of them, (n, width) float64. Raises DatasetError for anything else.

    path: where the table is from. A null among numbers is NaN.
    """
    column = table[name].combine_chunks()
    lists = isinstance(column, (pa.ListArray, pa.FixedSizeListArray, pa.LargeListArray))
    kind = column.type.value_type if lists else column.type
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
        raise DatasetError(f"{path}: {name} is of {column.type}, expected numbers")
    if lists:
        if column.null_count:
            row = column.is_null().to_pylist().index(True)
            raise DatasetError(f"{path}: {name} is null in row {row}, expected {width} numbers")
        counts = pc.list_value_length(column).to_numpy()
        column = column.flatten()
    else:
        counts = np.ones(len(column), np.int64)
    if (counts != width).any():
        row = int((counts != width).argmax())
        raise DatasetError(f"{path}: {name} has {counts[row]} numbers in row {row}, expected {width}")
    return column.to_numpy(zero_copy_only=False).astype(np.float64).reshape(-1, width)


def _opened(path: Path) -> pq.ParquetFile:
    _refuse_pointer(path)
    try:
        return pq.ParquetFile(path, memory_map=True)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> DatasetError:
    text = first_line(error)
    if path.suffix == ".parquet" and ("footer" in text or "magic" in text.lower()):
        text = "it has no footer: the data set was never finalised (lerobot's `finalize()`)"
    return DatasetError(f"cannot read {path}: {text}")


def _refuse_pointer(path: Path) -> None:
    """Raises DatasetError for what Git LFS leaves in the place of a file."""
    try:
        with open(path, "rb") as file:
            start = file.read(len(POINTER))
    except OSError as error:
        raise _unreadable(path, error) from error
    if start == POINTER:
        raise DatasetError(f"{path} is a pointer of Git LFS, not the file: `git lfs pull` fetches it")


@lru_cache(maxsize=KEPT_PLACES)
def _names(path: Path, changed_ns: int) -> tuple[str, ...]:
    return tuple(_opened(path).schema_arrow.names)


@lru_cache(maxsize=KEPT_TABLES)
def _kept(path: Path, changed_ns: int, columns: tuple[str, ...]) -> pa.Table:
    return read_table(path, columns)


@lru_cache(maxsize=KEPT_PLACES)
def _places(path: Path, changed_ns: int, episode: int) -> np.ndarray:
    if "episode_index" not in _names(path, changed_ns):
        return np.arange(_opened(path).metadata.num_rows)
    which = matrix(_kept(path, changed_ns, ("episode_index",)), "episode_index", path, 1)
    return np.flatnonzero(which[:, 0] == episode)


@lru_cache(maxsize=KEPT_PLACES)
def _group_ends(path: Path, changed_ns: int) -> np.ndarray:
    about = _opened(path).metadata
    return np.cumsum([about.row_group(number).num_rows for number in range(about.num_row_groups)])


@lru_cache(maxsize=KEPT_GROUPS)
def _group(path: Path, changed_ns: int, number: int, column: str) -> pa.ChunkedArray:
    file = _opened(path)
    try:
        return file.read_row_group(number, columns=[column])[column]
    except (OSError, ValueError, pa.ArrowException) as error:
        raise _unreadable(path, error) from error
