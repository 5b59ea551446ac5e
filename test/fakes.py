"""Fakes are held to what they stand for: `@stands_for(Real)` fails when the two take other arguments."""

import inspect


def stands_for(real, alone=()):
    """A decorator for a fake of `real`, a class or a Protocol.

    Every public method of the fake must be one of `real`, and take the arguments that it takes, by the same names and
    in the same order. alone: what the fake has for its test. Raises TypeError when the test's module is imported.
    """

    def held(fake):
        for name, method in vars(fake).items():
            if name.startswith("_") or name in alone or not inspect.isfunction(method):
                continue
            theirs = inspect.getattr_static(real, name, None)
            if not inspect.isfunction(theirs):
                raise TypeError(f"{fake.__name__}.{name} stands for nothing: {real.__name__} has no such method")
            ours, expected = _arguments(method), _arguments(theirs)
            if ours != expected:
                raise TypeError(f"{fake.__name__}.{name} takes {ours}, {real.__name__}.{name} takes {expected}")
        return fake

    return held


def _arguments(method):
    """Names, kinds, and which may be left out."""
    parameters = list(inspect.signature(method).parameters.values())[1:]
    return [(each.name, each.kind.description, each.default is not inspect.Parameter.empty) for each in parameters]
