"""Loopback only, and a ROS domain for each pytest worker: tests that run at the same time must not hear each other."""

from __future__ import annotations

import os

worker = os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")
base = int(os.environ.get("ROS_DOMAIN_ID", "50"))
os.environ["ROS_DOMAIN_ID"] = str(1 + (base + int(worker)) % 101)  # DDS ports end soon after domain 101
os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
os.environ.setdefault("MUJOCO_GL", "egl")
