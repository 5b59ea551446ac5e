"""How long a 640x480 image takes from publisher to callback, with FastDDS's default transports and with ours.

Two processes for each, since transports are chosen when a process starts: python -m grids_ros.bench.images
publish|listen SECONDS.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

import numpy as np
import rclpy
from sensor_msgs.msg import Image

from grids_ros.datatypes import NANOSECONDS
from grids_ros.ros import conversions, qos

HEIGHT, WIDTH, RATE_HZ = 480, 640, 20.0
TOPIC = "bench_image"
SETTLE_S = 3.0  # until publisher and subscriber have found each other
TRANSPORTS = {"default": "DEFAULT", "shipped": qos.FASTDDS_TRANSPORTS}


def latencies(seconds: float) -> dict[str, dict[str, float | int]]:
    """Transport to its figures."""
    return {name: _measure(transports, seconds) for name, transports in TRANSPORTS.items()}


def _measure(transports: str, seconds: float) -> dict[str, float | int]:
    environment = {**os.environ, "FASTDDS_BUILTIN_TRANSPORTS": transports}
    command = [sys.executable, "-m", "grids_ros.bench.images"]
    length = str(seconds + SETTLE_S)
    with subprocess.Popen([*command, "publish", length], env=environment) as publisher:
        heard = subprocess.run([*command, "listen", length], env=environment, stdout=subprocess.PIPE, check=True)
        publisher.wait()
    samples = 1e3 * np.array(json.loads(heard.stdout))
    if len(samples) == 0:
        raise RuntimeError(f"no image arrived with FASTDDS_BUILTIN_TRANSPORTS={transports}")
    return {
        "received": len(samples),
        "p50_ms": round(float(np.median(samples)), 3),
        "p99_ms": round(float(np.percentile(samples, 99)), 3),
    }


def publish(seconds: float) -> None:
    """Images at RATE_HZ, stamped when they are sent."""
    node = rclpy.create_node("bench_camera")
    publisher = node.create_publisher(Image, TOPIC, qos.NEWEST)
    picture = np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    message = conversions.from_rgb(picture, "camera", 0)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        message.header.stamp = node.get_clock().now().to_msg()
        publisher.publish(message)
        time.sleep(1.0 / RATE_HZ)


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
    while time.monotonic() < start + seconds:
        rclpy.spin_once(node, timeout_sec=0.1)
    print(json.dumps(samples))


def main() -> int:
    rclpy.init()
    {"publish": publish, "listen": listen}[sys.argv[1]](float(sys.argv[2]))
    rclpy.shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
