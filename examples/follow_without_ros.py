"""The follower without ROS: two chunks and a hold, every command within its limits."""

import numpy as np

from grids_ros.control.defaults import FOLLOWER
from grids_ros.control.follower import Follower
from grids_ros.datatypes import NANOSECONDS, ActionChunk, Pose

DOWN = (1.0, 0.0, 0.0, 0.0)  # the tool points down


def chunk(stamp_ns: int, start: np.ndarray, velocity: np.ndarray) -> ActionChunk:
    """One second of motion at a constant velocity [m/s]."""
    times = np.arange(1, 11) / 10
    positions = start + np.outer(times, velocity)
    return ActionChunk(stamp_ns, times, positions, np.tile(DOWN, (10, 1)), np.full(10, 0.08))


follower, now_ns, pose = Follower(FOLLOWER), NANOSECONDS, Pose((0.5, 0.0, 0.3), DOWN)
path = []
for tick in range(200):  # two seconds at 100 Hz
    follower.measure(now_ns, pose)
    if tick == 0:
        follower.accept(chunk(now_ns, pose.position, np.array([0.2, 0.0, 0.0])), now_ns)
    if tick == 60:  # the next chunk turns sharply; the command does not jump
        follower.accept(chunk(now_ns, pose.position, np.array([0.0, 0.2, 0.0])), now_ns)
    if tick == 120:
        follower.hold("an operator asked for it")
    command = follower.tick(now_ns)
    if command:
        pose = command.pose  # an ideal arm is where it was sent
        path.append(pose.position)
    now_ns += round(FOLLOWER.period_s * NANOSECONDS)

velocity = np.diff(path, axis=0) / FOLLOWER.period_s
acceleration = np.diff(velocity, axis=0) / FOLLOWER.period_s
fastest, hardest = np.linalg.norm(velocity, axis=1).max(), np.linalg.norm(acceleration, axis=1).max()
print(f"top speed {fastest:.3f} m/s (limit {FOLLOWER.limits.linear_speed})")
print(f"top acceleration {hardest:.2f} m/s^2 (limit {FOLLOWER.limits.linear_acceleration})")
print(f"after the hold it rests at {np.round(pose.position, 3)}")
assert fastest <= FOLLOWER.limits.linear_speed + 1e-6 and hardest <= FOLLOWER.limits.linear_acceleration + 1e-6
assert np.allclose(path[-1], path[-40])
