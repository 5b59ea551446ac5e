"""metadata.yaml of a rosbag2: what it states of the files beside it. Any key may be missing."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import yaml

NAME = "metadata.yaml"
WRITTEN_BY = "grids_ros_written_by"  # key of its custom data


@dataclass(frozen=True)
class Metadata:
    """files: names, in order. counts: messages by topic; None where it does not count. note: why it was not read.

    written_by: the command of this package that wrote the bag; "" for any other program.
    """

    files: tuple[str, ...] = ()
    counts: Counter[str] | None = None
    total: int | None = None
    qos: dict[str, str] = field(default_factory=dict)
    note: str = ""
    written_by: str = ""


def read_metadata(folder: Path) -> Metadata | None:
    """What a bag's metadata.yaml states; None without one."""
    path = folder / NAME
    if not path.exists():
        return None
    try:
        content = yaml.load(path.read_text(), Loader=_LOADER)
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        return Metadata(note=f"{NAME} cannot be read ({str(error).splitlines()[0]}): the files are read without it")
    about = content.get("rosbag2_bagfile_information") if isinstance(content, dict) else None
    if not isinstance(about, dict):
        return Metadata(
            note=f"{NAME} is {'empty' if content is None else 'of another kind'}: the files are read without it"
        )
    listed = about.get("relative_file_paths")
    listed = listed if isinstance(listed, list) else []
    files = tuple(PurePosixPath(name).name for name in listed if isinstance(name, str))
    counts, qos = _topics(about.get("topics_with_message_count"))
    total = about.get("message_count")
    custom = about.get("custom_data")
    written_by = custom.get(WRITTEN_BY) if isinstance(custom, dict) else None
    by = written_by if isinstance(written_by, str) else ""
    return Metadata(files, counts, total if isinstance(total, int) else None, qos, written_by=by)


_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def _topics(entries: object) -> tuple[Counter[str] | None, dict[str, str]]:
    """Messages by topic, and the QoS profiles of each topic as text."""
    if not isinstance(entries, list):
        return None, {}
    counts: Counter[str] = Counter()
    qos: dict[str, str] = {}
    for entry in entries:
        about = entry.get("topic_metadata") if isinstance(entry, dict) else None
        if not isinstance(about, dict) or not isinstance(about.get("name"), str):
            return None, {}
        if not isinstance(entry.get("message_count"), int):
            return None, qos
        counts[about["name"]] += entry["message_count"]
        profiles = about.get("offered_qos_profiles") or ""
        qos[about["name"]] = profiles if isinstance(profiles, str) else yaml.safe_dump(profiles)
    return counts, qos
