"""How long a 640x480 image takes from publisher to callback: by default, and as the nodes of this package do it.

That is with the profile config/fastdds.xml, and with memory that is used again. Two processes for each, since both
are settled when a process starts: python -m grids_ros.bench.image_latency publish|listen SECONDS default|shipped.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from rclpy.executors import SingleThreadedExecutor
from sensor_msgs.msg import Image

from grids_ros import memory
from grids_ros.datatypes import NANOSECONDS
from grids_ros.interruption import shielded
from grids_ros.ros import conversions, qos

HEIGHT, WIDTH, RATE_HZ = 480, 640, 20.0
TOPIC = "bench_image"
SETTLE_S = 3.0  # until publisher and subscriber have found each other
PROFILE_VARIABLES = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")  # of FastDDS 2, of 3


def profile() -> Path:
    """The shipped one, in a source tree or where colcon installed it. Raises FileNotFoundError."""
    roots = Path(__file__).resolve().parents
    folders = [roots[2] / "config", *(root / "share" / "grids_ros" / "config" for root in roots)]
    for folder in folders:
        if (folder / "fastdds.xml").exists():
            return folder / "fastdds.xml"
    raise FileNotFoundError(f"fastdds.xml is in none of {', '.join(map(str, folders))}")


def latencies(seconds: float) -> dict[str, dict[str, float | int]]:
    """Of both ways, "default" and "shipped"."""
    plain = {name: value for name, value in os.environ.items() if name not in PROFILE_VARIABLES}
    shipped = {**plain, **dict.fromkeys(PROFILE_VARIABLES, str(profile()))}
    return {"default": _measure("default", plain, seconds), "shipped": _measure("shipped", shipped, seconds)}


def _measure(way: str, environment: Mapping[str, str], seconds: float) -> dict[str, float | int]:
    command = [sys.executable, "-m", "grids_ros.bench.image_latency"]
    publish = [*command, "publish", str(seconds + 2 * SETTLE_S), way]
    listen = [*command, "listen", str(seconds + SETTLE_S), way]
    with ExitStack() as ends:
        with shielded():
            publisher = ends.enter_context(_killed_at_the_end(publish, env=environment))
            listener = ends.enter_context(_killed_at_the_end(listen, env=environment, stdout=subprocess.PIPE))
        heard, _ = listener.communicate()
        if listener.returncode:
            raise subprocess.CalledProcessError(listener.returncode, listen)
        publisher.wait()
    samples = 1e3 * np.array(json.loads(heard))
    if len(samples) == 0:
        raise RuntimeError("no image arrived")
    return {
        "arrived": round(len(samples) / (seconds * RATE_HZ), 3),
        "p50_ms": round(float(np.median(samples)), 3),
        "p99_ms": round(float(np.percentile(samples, 99)), 3),
    }


@contextmanager
def _killed_at_the_end(command: Sequence[str], **options: Any) -> Iterator[subprocess.Popen]:
    """Start a process with Popen's options. At the end it is killed if it still runs."""
    with subprocess.Popen(command, **options) as process:
        try:
            yield process
        finally:
            process.kill()


def publish(seconds: float) -> None:
    """Images at RATE_HZ, stamped when they are sent."""
    node = rclpy.create_node("bench_camera")
    publisher = node.create_publisher(Image, TOPIC, qos.NEWEST)
    picture = np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    message = conversions.from_rgb(picture, "camera", 0)
    next_s = time.monotonic()
    end = next_s + seconds
    while time.monotonic() < end:
        message.header.stamp = node.get_clock().now().to_msg()
        publisher.publish(message)
        next_s += 1.0 / RATE_HZ
        time.sleep(max(0.0, next_s - time.monotonic()))


def listen(seconds: float) -> None:
    """Print the latency of each image after SETTLE_S as JSON [s]."""
    node = rclpy.create_node("bench_viewer")
    samples: list[float] = []
    start = time.monotonic()

    def on_image(message: Image) -> None:
        latency_ns = node.get_clock().now().nanoseconds - conversions.to_ns(message.header.stamp)
        if time.monotonic() > start + SETTLE_S:
            samples.append(latency_ns / NANOSECONDS)

    node.create_subscription(Image, TOPIC, on_image, qos.NEWEST)
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    while time.monotonic() < start + seconds:
        executor.spin_once(timeout_sec=0.1)
    print(json.dumps(samples))


def main() -> int:
    if sys.argv[3] == "shipped":
        memory.reuse()
    rclpy.init()
    {"publish": publish, "listen": listen}[sys.argv[1]](float(sys.argv[2]))
    rclpy.shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
