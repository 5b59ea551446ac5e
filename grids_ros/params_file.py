"""Parameter files as ROS 2 takes them. Imports next to nothing: the launch file reads them, too."""

from __future__ import annotations

from collections.abc import Iterator

VALUES = "ros__parameters"


def sections(content: object, name: str = "") -> Iterator[tuple[str, dict]]:
    """Of the YAML of a file: node name, without its namespace, and parameters of every section, in the file's order.

    Namespaces may be nested or written out.
    """
    if isinstance(content, dict):
        if VALUES in content:
            yield name, content[VALUES] or {}
        for key, inside in content.items():
            if key != VALUES:
                yield from sections(inside, str(key).rpartition("/")[2])
