"""What `make test` sets, for a pytest that was started by hand; and the fixtures of more than one file."""

import os

os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
os.environ.setdefault("MUJOCO_GL", "egl")

import pytest
from hypothesis import settings

# The same examples on every run, and no time limit on any: a commit that passes, passes again. Search for new ones
# with --hypothesis-profile=default.
settings.load_profile("ci")


@pytest.fixture
def ros():
    """Real DDS; see ros_harness."""
    from ros_harness import Ros  # here, for most tests need no ROS

    world = Ros()
    yield world
    world.close()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """The folder of a tiny policy with random weights."""
    from tiny import save_tiny

    return save_tiny(tmp_path_factory.mktemp("checkpoint"))
