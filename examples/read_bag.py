"""Read a rosbag2 without ROS: its topics, and the observations that the policy node would have had.

    python examples/read_bag.py [BAG]

Without a bag the script writes a small one first: two cameras at 10 Hz, a pose at 100 Hz, three seconds.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np

from grids_ros.data.bags import read_episodes
from grids_ros.data.reader import BagReader
from grids_ros.data.topics import Topics
from grids_ros.data.writer import BagWriter
from grids_ros.datatypes import NANOSECONDS, Pose

DOWN = (1.0, 0.0, 0.0, 0.0)  # xyzw: the tool points down


def write_small_bag(folder: Path) -> Path:
    """The tool moves along x at 0.1 m/s; the wrist image comes 20 ms after the base image."""
    with BagWriter(folder / "bag") as bag:
        bag.instruction(0, "lift the red cube")
        for milliseconds in range(0, 3000, 10):
            now_ns = milliseconds * 1_000_000
            bag.current_pose(now_ns, Pose((0.4 + 1e-4 * milliseconds, 0.0, 0.3), DOWN))
            bag.joint_states(now_ns, ["fr3_finger_joint1", "fr3_finger_joint2"], [0.04, 0.04], [0.0, 0.0])
            if milliseconds % 100 == 0:
                bag.image("base", now_ns, np.full((48, 64, 3), 90, np.uint8))
            if milliseconds % 100 == 20:
                bag.image("wrist", now_ns, np.full((48, 64, 3), 160, np.uint8))
    return folder / "bag"


def topics_of(bag: BagReader) -> Topics:
    """A camera for each image topic camera/NAME/...; a bag without targets has its measured poses as targets."""
    images = {name: found[0].msgtype for name, found in bag.topics.items() if name.startswith("camera/")}
    cameras = {name.split("/")[1]: name for name, kind in images.items() if kind.endswith("Image")}
    absent = {name: "" for name in ("target_pose", "gripper_command") if name not in bag.topics}
    return Topics(cameras=cameras, **absent)


def describe(path: Path) -> int:
    """Print what the bag holds; the number of observations in it."""
    with BagReader(path) as bag:
        print(f"{path.name}: {(bag.end_ns - bag.start_ns) / NANOSECONDS:.1f} s")
        for topic, connections in sorted(bag.topics.items()):
            print(f"  /{topic:<32} {sum(c.msgcount for c in connections):>5} x {connections[0].msgtype}")
        topics = topics_of(bag)
    observations = 0
    for episode in read_episodes(path, topics):
        observations += len(episode.observations)
        print(f"{episode.instruction!r}: {len(episode.observations)} observations")
        for each in episode.observations[:3]:
            offsets = ", ".join(
                f"{camera} {(stamp_ns - each.stamp_ns) / 1e6:+.0f} ms"
                for camera, stamp_ns in each.image_stamps_ns.items()
            )
            x, y, z = each.pose.position
            print(f"  at {each.stamp_ns / NANOSECONDS:.2f} s: tool at ({x:.3f}, {y:.3f}, {z:.3f}) m; images {offsets}")
    return observations


if __name__ == "__main__":
    if len(sys.argv) > 1:
        describe(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as folder:
            assert describe(write_small_bag(Path(folder))) > 20
