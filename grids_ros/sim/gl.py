"""mujoco, imported whether or not the OpenGL library is there: only images need it.

mujoco loads the library that MUJOCO_GL names as soon as it is imported, and fails with whatever the loader says. Here
the failure is kept for the first image, so that physics, training and everything else work without OpenGL.
"""

from __future__ import annotations

import importlib
import os
import sys

_NEEDS = {
    "egl": "libegl1 and libgl1-mesa-dri",
    "osmesa": "libosmesa6",
    "glfw": "libglfw3, libgl1 and a display",
}
_IMPORT_ERRORS = (ImportError, AttributeError, OSError, RuntimeError)  # what PyOpenGL and mujoco raise


class RenderError(RuntimeError):
    """Images cannot be rendered; the message says in one line which library is missing."""


def explain(cause: BaseException) -> RenderError:
    """The failure in one line: the backend, what it needs, and what else there is."""
    backend = os.environ.get("MUJOCO_GL", "not set")
    choices = "; ".join(f"MUJOCO_GL={name} needs {needs}" for name, needs in _NEEDS.items())
    reason = " ".join(str(cause).split())
    return RenderError(f"cannot render, MUJOCO_GL is {backend}: {choices}. Cause: {reason}")


def _load() -> BaseException | None:
    """Import mujoco, where it is installed; what kept OpenGL from loading, or None."""
    if sys.platform == "linux":
        os.environ.setdefault("MUJOCO_GL", "egl")  # works with and without a display
    try:
        importlib.import_module("mujoco")
    except _IMPORT_ERRORS as error:
        if isinstance(error, ModuleNotFoundError) and error.name == "mujoco":
            return None  # not installed: who needs it says so
        wanted = os.environ.get("MUJOCO_GL")
        if wanted is None:
            raise
        os.environ["MUJOCO_GL"] = "disable"
        importlib.import_module("mujoco")  # fails again when it is not OpenGL that is missing
        os.environ["MUJOCO_GL"] = wanted
        return error
    return None


_failure = _load()


def require() -> None:
    """Raise RenderError when OpenGL did not load."""
    if _failure is not None:
        raise explain(_failure) from _failure
