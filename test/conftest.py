"""What `make test` sets, for a pytest that was started by hand; and the fixtures of more than one file."""

import os
import signal
import sys

os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
os.environ.setdefault("MUJOCO_GL", "egl")

# A shell starts background jobs with Ctrl-C ignored, and so would every process be that a test starts and interrupts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

import pytest
from hypothesis import settings

# The same examples on every run, and no time limit on any: a commit that passes, passes again. Search for new ones
# with --hypothesis-profile=default.
settings.load_profile("ci")


@pytest.fixture(autouse=True)
def same_number_of_threads():
    """Each test computes with as many threads as the first: sums in another order end on other last digits."""
    torch = sys.modules.get("torch")
    if torch is not None and "OMP_NUM_THREADS" in os.environ:
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))


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


@pytest.fixture(scope="module")
def cluster():
    """A Ray cluster of two nodes with one processor each, on loopback; see ray_cluster."""
    ray = pytest.importorskip("ray")
    from ray_cluster import two_nodes

    with two_nodes() as nodes:
        yield nodes
        ray.shutdown()
