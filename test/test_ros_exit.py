"""A node that was asked to end has given its DDS participant back before the process's exit handlers run."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from ros_harness import private_domain

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


@pytest.mark.parametrize("node", ["policy_node", "follower_node", "sim_node"])
def test_no_dds_thread_outlives_the_node(node):
    environment = {**os.environ, "ROS_DOMAIN_ID": str(private_domain())}
    command = [sys.executable, "-c", PROGRAM, f"grids_ros.ros.{node}"]
    ran = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stderr
