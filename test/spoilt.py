"""Every place in a JSON value, and what may stand there instead."""

from __future__ import annotations


def places(value, path=()):
    """The path of every key and element in a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in items:
        yield (*path, key)
        yield from places(each, (*path, key))


def other_values(value):
    """What a value is replaced by: null, NaN, infinity, a negative, a huge one, and other types."""
    yield from (
        None,
        float("nan"),
        float("inf"),
        -1,
        -0.5,
        10**30,
        1e300,
        10**5000,
        "x",
        "",
        [],
        {},
        [[]],
        True,
        False,
        0,
    )
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        yield from (str(value), [value], -value if value else -3)
    if isinstance(value, str):
        yield from (value + "\x00", [value], value * 5000)
    if isinstance(value, list) and value:
        yield from (value * 3, value[0])


def replaced(value, path, new):
    """A copy of a JSON value with another one at `path`."""
    if not path:
        return new
    result = dict(value) if isinstance(value, dict) else list(value)
    result[path[0]] = replaced(value[path[0]], path[1:], new)
    return result
