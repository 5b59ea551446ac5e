"""Results of bags that are scored already, so that an interrupted replay of many goes on with the others.

A file NAME.json in OUT/.grids_replay_scored holds the result of one bag, and a digest of what it was scored with: the
bag's files, the checkpoints and the options. A result of anything else is not used.
"""

from __future__ import annotations

import hashlib
import json
from array import array
from base64 import b64decode, b64encode
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, fields, replace
from pathlib import Path

from grids_ros.files import write_whole
from grids_ros.replay.bag_replay import BagResult, EpisodeSpan, ReplayJob
from grids_ros.replay.episode_statistics import EpisodeStatistics, Table
from grids_ros.replay.options import SCORED_BAGS
from grids_ros.replay.overlay_video import OverlayFrame


class Finished:
    """The results that `out` holds."""

    def __init__(self, out: Path):
        self._folder = out / SCORED_BAGS

    def find(self, job: ReplayJob) -> BagResult | None:
        """The result of a job that was done before, or None."""
        try:
            content = json.loads(self._path(job).read_text())
            if content["digest"] == digest(job) and job.film.exists() and (job.copy is None or job.copy.exists()):
                return _result(content["result"])
        except (OSError, ValueError, KeyError, TypeError):
            return None  # cut off, or of another version: scored again
        return None

    def keep(self, job: ReplayJob, result: BagResult) -> None:
        """Raises OSError where it cannot be written."""
        self._folder.mkdir(parents=True, exist_ok=True)
        write_whole(self._path(job), json.dumps({"digest": digest(job), "result": _values(result)}))

    def clear(self, jobs: Sequence[ReplayJob]) -> None:
        """Remove what `keep` wrote of these jobs, and the folder once nothing else is in it."""
        for job in jobs:
            self._path(job).unlink(missing_ok=True)
        with suppress(OSError):  # it was never made, or holds something else
            self._folder.rmdir()

    def _path(self, job: ReplayJob) -> Path:
        return self._folder / f"{job.name}.json"


def digest(job: ReplayJob) -> str:
    """Of everything that a result depends on."""
    files = sorted(path for path in job.bag.rglob("*") if path.is_file()) if job.bag.is_dir() else [job.bag]
    seen = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    policies = [(variant.folder / "grids.json").read_text() for variant in job.variants]
    how = {field.name: getattr(job, field.name) for field in fields(job) if field.name not in ("film", "copy")}
    return hashlib.sha256(repr((how, seen, policies)).encode()).hexdigest()


def _values(result: BagResult) -> dict:
    """As JSON has them."""
    frames = [{**asdict(frame), "jpeg": b64encode(frame.jpeg).decode()} for frame in result.overlay_frames]
    statistics = {
        label: {str(number): _counts(one) for number, one in episodes.items()}
        for label, episodes in result.statistics.items()
    }
    kept = {field.name: getattr(result, field.name) for field in fields(result)}
    return {
        **kept,
        "episodes": [asdict(span) for span in result.episodes],
        "statistics": statistics,
        "overlay_frames": frames,
    }


def _counts(one: EpisodeStatistics) -> dict:
    rows = {name: _row(one.rows.get(name)) for name in one.rows.names()}
    return {field.name: getattr(one, field.name) for field in fields(one)} | {"rows": rows}


def _row(values) -> tuple[int, str]:
    return values.shape[1], b64encode(values.astype("<f4").tobytes()).decode()


def _result(values: Mapping) -> BagResult:
    statistics = {
        label: {int(number): _statistics(one) for number, one in episodes.items()}
        for label, episodes in values["statistics"].items()
    }
    frames = tuple(OverlayFrame(**{**frame, "jpeg": b64decode(frame["jpeg"])}) for frame in values["overlay_frames"])
    episodes, notes = tuple(EpisodeSpan(**span) for span in values["episodes"]), tuple(values["notes"])
    made = {"statistics": statistics, "overlay_frames": frames, "episodes": episodes, "notes": notes}
    return BagResult(**{**values, **made, "contract": tuple(values.get("contract", ()))})


def _statistics(values: Mapping) -> EpisodeStatistics:
    rows = Table()
    for name, (width, encoded) in values["rows"].items():
        numbers = array("f", b64decode(encoded))
        for first in range(0, len(numbers), width):
            rows.add(name, numbers[first : first + width])
    counters = {name: Counter(value) for name, value in values.items() if isinstance(value, dict) and name != "rows"}
    return replace(EpisodeStatistics(), **{**values, **counters, "rows": rows})
