"""From a message's definition to its deserialisation: each type by itself, so that one that fails spoils no other."""

from __future__ import annotations

from functools import lru_cache

from rosbags.typesys import Stores, get_types_from_idl, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from grids_ros.data.damage import DAMAGE, first_line

MSG, IDL = "ros2msg", "ros2idl"
_LINE = "=" * 80 + "\n"


@lru_cache(maxsize=1)
def standard_types() -> Typestore:
    """ROS 2's own messages, as Jazzy defines them."""
    return get_typestore(Stores.ROS2_JAZZY)


@lru_cache(maxsize=512)
def types_of(name: str, definition: str, encoding: str) -> Typestore:
    """The type store in which a type is defined: by the bag, or as ROS 2's own where the bag does not define it.

    Raises ValueError for a definition that cannot be parsed, or a type that nobody defines.
    """
    if not definition.strip():
        if name not in standard_types().fielddefs:
            raise ValueError(f"the bag has no definition of {name}")
        return standard_types()
    try:
        store = get_typestore(Stores.EMPTY)
        store.register(_parsed(name, definition, encoding))
        if name not in store.fielddefs:
            raise ValueError(f"it does not define {name}")
        store.generate_msgdef(name, ros_version=2)  # every type within is defined
    except DAMAGE as error:
        raise ValueError(f"the definition of {name} cannot be parsed: {first_line(error)}") from error
    return store


def _parsed(name: str, definition: str, encoding: str) -> dict:
    if encoding == MSG:
        return get_types_from_msg(definition, name)
    if encoding != IDL:
        raise ValueError(f"its encoding is {encoding!r}, expected {MSG} or {IDL}")
    types: dict = {}
    parts = definition.split(_LINE)[1:] if definition.startswith(f"{_LINE}IDL: ") else [f"\n{definition}"]
    for part in parts:
        types.update(get_types_from_idl(part.split("\n", 1)[1]))
    return types
