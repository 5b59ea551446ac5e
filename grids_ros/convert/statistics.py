"""What --statistics names in place of a checkpoint's own: a file, or a data set that is measured here.

A checkpoint's mode of normalisation decides which statistics count. Where its actions are differences from the state,
so are those that it was normalised by: openpi and lerobot take them over whole chunks, after the subtraction.
Sources: openpi `scripts/compute_norm_stats.py`, lerobot `datasets/compute_stats.py` (`compute_relative_action_stats`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from grids_ros.convert import lerobot, openpi
from grids_ros.convert.conventions import CONVENTIONS, Convention, Units, normalization
from grids_ros.convert.foreign import ConversionError, ForeignCheckpoint, Scale, scale_of
from grids_ros.convert.lerobot import ACTION, STATE
from grids_ros.convert.source import json_of
from grids_ros.policy.checkpoint import read_normalization
from grids_ros.policy.errors import CheckpointError
from grids_ros.policy.preprocess import Normalization
from grids_ros.policy.spaces import RELATIVE

if TYPE_CHECKING:
    from grids_ros.data.lerobot.dataset import Dataset

QUANTILES = {"q01": 0.01, "q10": 0.1, "q90": 0.9, "q99": 0.99}
FORMS = (
    f"expected statistics of {STATE} and {ACTION} (lerobot's stats.json), norm_stats (openpi's), or state_mean and its "
    "like (normalization.json)"
)


@dataclass(frozen=True)
class Source:
    """Where statistics are, as the user names it. state, action: features of a data set; empty: the usual ones."""

    path: Path
    state: tuple[str, ...] = ()
    action: tuple[str, ...] = ()


def normalized(
    foreign: ForeignCheckpoint, convention: Convention, units: Units, source: Source | None
) -> tuple[ForeignCheckpoint, Normalization]:
    """The checkpoint with the statistics that count, and what becomes of them here. source: None for its own.

    Raises ConversionError for statistics that lack what the checkpoint's mode needs, or are of other numbers.
    """
    if source is None:
        return foreign, normalization(foreign, convention, units)
    named = source.path
    if not named.is_file():
        foreign = _of_dataset(replace(foreign, statistics=str(named)), convention, units, source)
        return foreign, normalization(foreign, convention, units)
    foreign, values = replace(foreign, statistics=str(named)), json_of(named)
    if "state_mean" in values:
        return foreign, _own(named, convention, units)
    foreign = _of_file(foreign, convention, named, values)
    return foreign, normalization(foreign, convention, units)


def _own(path: Path, convention: Convention, units: Units) -> Normalization:
    state, action = convention.state.of(units.joints), convention.action.of(units.joints)
    try:
        return read_normalization(path, state.size, action.size)
    except CheckpointError as error:
        raise ConversionError(str(error)) from error


def _of_file(foreign: ForeignCheckpoint, convention: Convention, path: Path, values: dict) -> ForeignCheckpoint:
    if "norm_stats" in values:
        states, actions = openpi.norm_stats(path, values, foreign.modes, foreign.least)
        return replace(foreign, states=states, actions=actions)
    if missing := [feature for feature in (STATE, ACTION) if not isinstance(values.get(feature), dict)]:
        raise ConversionError(f"{path} has no {missing[0]}; {FORMS}")
    if convention.less_state:
        raise ConversionError(
            f"{path} is of a data set's actions as they stand. This checkpoint's actions are differences from the "
            "state, and it was normalised by the statistics of those; expected the data set itself (--statistics "
            "FOLDER), or openpi's norm_stats.json"
        )
    states, actions = (
        scale_of(mode, values[feature], foreign.least, feature, str(path))
        for mode, feature in zip(foreign.modes, (STATE, ACTION), strict=True)
    )
    foreign = replace(foreign, states=states, actions=actions)
    if (info := path.with_name("info.json")).is_file():
        of_states, of_actions = lerobot.data_set_names(info)
        foreign = replace(foreign, state_names=of_states, action_names=of_actions)
    return foreign


# --- of a data set ---------------------------------------------------------------------------------------------------


def _of_dataset(foreign: ForeignCheckpoint, convention: Convention, units: Units, source: Source) -> ForeignCheckpoint:
    """With the exact statistics over all frames of a LeRobot data set, and its names of the numbers."""
    from grids_ros.data.lerobot.dataset import Dataset, DatasetError, is_dataset, located

    try:
        path = located(source.path)
        if not is_dataset(path):
            raise ConversionError(
                f"--statistics is {source.path}, expected a file with statistics or a LeRobot data set"
            )
        dataset = Dataset(path, source.state, source.action)
        states, actions = _measured(dataset, foreign, convention, units)
    except DatasetError as error:
        raise ConversionError(f"--statistics: {error}") from error
    names: dict[str, Any] = {"state_names": dataset.state.names, "action_names": dataset.action.names}
    return replace(foreign, states=states, actions=actions, **names)


def _measured(
    dataset: Dataset, foreign: ForeignCheckpoint, convention: Convention, units: Units
) -> tuple[Scale, Scale]:
    if convention.action is RELATIVE:
        raise ConversionError(
            "--statistics: actions of convention grids are relative to the pose at the observation, which a set's rows "
            "are not; expected a normalization.json of `grids train`"
        )
    pairs = [(rows.states, rows.actions) for rows in map(dataset.rows, dataset.episodes)]
    if not pairs:
        raise ConversionError(f"--statistics: {dataset.path} has no episodes")
    if convention.of_joints:
        _check_actions(dataset, pairs, convention, units)
    count, size = (values.shape[1] for values in pairs[0])
    kept = [_kept([states[:, number] for states, _ in pairs] for number in range(count))]
    if convention.less_state:
        steps, whole = foreign.chunk or 1, foreign.kind == "lerobot"  # openpi repeats an episode's last action
        kept.append(_kept(_differences(pairs, number, steps, whole, number < size - 1) for number in range(size)))
    else:
        kept.append(_kept([actions[:, number] for _, actions in pairs] for number in range(size)))
    state, action = (
        scale_of(mode, one, foreign.least, feature, str(dataset.path))
        for mode, one, feature in zip(foreign.modes, kept, map(str, (dataset.state, dataset.action)), strict=True)
    )
    return state, action


def _check_actions(dataset: Dataset, pairs: Sequence[tuple], convention: Convention, units: Units) -> None:
    """Raises ConversionError for a set whose actions are of another convention: DROID's sets hold two kinds."""
    from grids_ros.data.lerobot.meaning import Meaning
    from grids_ros.data.lerobot.plausible import check_actions

    name = next(name for name, each in CONVENTIONS.items() if each == convention)
    meaning = Meaning(name, convention, degrees=units.degrees)
    for states, actions in pairs:
        finite = np.isfinite(np.column_stack([states, actions])).all(axis=1)
        try:
            check_actions(meaning, states[finite, :-1], actions[finite, :-1])
        except ConversionError as error:
            raise ConversionError(
                f"--statistics: {dataset.path}: {dataset.action}: {error}. --action-features names another feature"
            ) from error


def _differences(
    pairs: Sequence[tuple[np.ndarray, np.ndarray]], number: int, steps: int, whole: bool, less: bool
) -> Iterator[np.ndarray]:
    """One number of every chunk of each episode, (frames * steps,). less: without the state at the chunk's start.

    whole: of chunks that end within their episode.
    """
    for states, actions in pairs:
        starts = np.arange(len(actions) - steps + 1 if whole else len(actions))
        index = np.minimum(starts[:, None] + np.arange(steps), len(actions) - 1)
        chunks = actions[index, number]
        yield (chunks - states[starts, number, None] if less else chunks).ravel()


def _kept(columns: Iterator[Iterable[np.ndarray]]) -> dict[str, np.ndarray]:
    """Every statistic that a mode may need, (numbers,) each. columns: of each number, its values in parts."""
    found: dict[str, list[float]] = {}
    for parts in columns:
        values = np.concatenate([part[np.isfinite(part)] for part in parts])
        if not len(values):
            raise ConversionError("--statistics: the data set has no finite numbers, or no episode as long as a chunk")
        own = {"mean": values.mean(), "std": values.std(), "min": values.min(), "max": values.max()}
        own |= dict(zip(QUANTILES, np.quantile(values, list(QUANTILES.values())), strict=True))
        for name, value in own.items():
            found.setdefault(name, []).append(float(value))
    return {name: np.array(values) for name, values in found.items()}
