"""The simulated arm; importing it works without OpenGL, see `gl`."""

from grids_ros.sim import gl as gl  # before anything imports mujoco
