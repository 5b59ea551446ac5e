"""A node that ended has given its DDS participant back: before the exit handlers run, and if the process goes on."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from ros_harness import private_domain

from grids_ros.ros.managed import FAILED, REFUSED

ROOT = Path(__file__).resolve().parents[1]
PROGRAM = """
import importlib, os, pathlib, signal, sys, threading
node = importlib.import_module(sys.argv[1])  # takes seconds where it brings torch
threading.Timer(2.0, os.kill, (os.getpid(), signal.SIGTERM)).start()
code = node.main([])
threads = [(task / "comm").read_text().strip() for task in pathlib.Path("/proc/self/task").iterdir()]
assert not any(name.startswith(("dds.udp", "dds.ev")) for name in threads), threads
sys.exit(code)
"""

EMBEDDED = """
import gc, pathlib, sys
import rclpy
from rclpy.parameter import Parameter
from grids_ros.ros.follower_node import FollowerNode
from grids_ros.ros.policy_node import PolicyNode

def live(node_class, **settings):
    context = rclpy.Context()
    rclpy.init(context=context)
    overrides = [Parameter(name, value=value) for name, value in settings.items()]
    node = node_class(context=context, parameter_overrides=overrides)
    assert node.trigger_configure().name == node.trigger_activate().name == "SUCCESS"
    node.close()
    node.destroy_node()
    rclpy.shutdown(context=context)

live(PolicyNode, checkpoint=sys.argv[1])
live(FollowerNode)
live(PolicyNode, checkpoint=sys.argv[1])
gc.collect()
threads = [(task / "comm").read_text().strip() for task in pathlib.Path("/proc/self/task").iterdir()]
assert not any(name.startswith(("dds.udp", "dds.ev")) for name in threads), threads
"""


HANGS = """
import os, signal, sys, threading, time, types
from grids_ros.ros import policy_node
hung = threading.Event()
policy_node.PATIENCE_S = 0.2
class Fake:
    cameras, budgets, tokens_per_camera, products = ("base",), (4,), 4, {}
    backend, refused_backends = "eager", []
    joints, contract = (), "a fake"
    use_tokens = check_tokens = warm_up = lambda *_: None
    def infer(self, observation, **_):
        hung.set()
        time.sleep(1000.0)
policy_node.Policy.load = lambda *_, **__: Fake()
policy_node.PolicyInputs.observe = lambda *_: types.SimpleNamespace(stamp_ns=1)
def interrupt():
    hung.wait()
    os.kill(os.getpid(), signal.SIGINT)
threading.Thread(target=interrupt, daemon=True).start()
sys.exit(policy_node.main(["--ros-args", "-p", "checkpoint:=fake", "-p", "autostart:=true"]))
"""


def test_ctrl_c_ends_a_policy_whose_inference_hangs():
    environment = {**os.environ, "ROS_DOMAIN_ID": str(private_domain())}
    ran = subprocess.run(
        [sys.executable, "-c", HANGS], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60
    )
    assert ran.returncode == FAILED, ran.stderr
    assert "the inference under way has not ended within 0.2 s" in ran.stderr


def test_nodes_that_were_active_leave_nothing_behind_in_a_process_that_goes_on(checkpoint):
    environment = {**os.environ, "ROS_DOMAIN_ID": str(private_domain())}
    command = [sys.executable, "-c", EMBEDDED, str(checkpoint)]
    ran = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stderr


@pytest.mark.parametrize("node", ["policy_node", "follower_node", "sim_node"])
def test_no_dds_thread_outlives_the_node(node):
    environment = {**os.environ, "ROS_DOMAIN_ID": str(private_domain())}
    command = [sys.executable, "-c", PROGRAM, f"grids_ros.ros.{node}"]
    ran = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stderr


@pytest.mark.parametrize(
    ("arguments", "settings", "said"),
    [
        (["--params-file", "/nonexistent"], {}, "'--params-file /nonexistent'"),
        (["-r", "__ns:=9x"], {}, "'-r __ns:=9x'"),
        (["--log-level", "nonsense"], {}, "'--log-level nonsense'"),
        (["--nonsense"], {}, "['--nonsense']"),
        ([], {"ROS_LOG_DIR": "/proc/nowhere"}, "Failed to create log directory '/proc/nowhere'"),
        ([], {"HOME": "/proc/nowhere", "ROS_LOG_DIR": ""}, "Failed to create log directory '/proc/nowhere"),
    ],
)
def test_what_rcl_cannot_start_with_is_one_line_and_a_refusal(arguments, settings, said):
    environment = {**os.environ, "ROS_DOMAIN_ID": str(private_domain()), **settings}
    command = [sys.executable, "-m", "grids_ros.ros.follower_node", "--ros-args", *arguments]
    ran = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert ran.returncode == REFUSED
    last = ran.stderr.splitlines()[-1]
    assert last.startswith("cannot start: ") and said in last
    assert "Traceback" not in ran.stderr and ".c:" not in last and ".cpp:" not in last
