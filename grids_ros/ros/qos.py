"""The quality of service of every topic, in one place."""

from __future__ import annotations

from rclpy.duration import Duration
from rclpy.qos import DurabilityPolicy, HistoryPolicy, LivelinessPolicy, QoSProfile, ReliabilityPolicy

CHUNK_LEASE_S = 1.0  # a policy that was killed no longer counts as a publisher after this long


def _profile(depth: int, reliability: ReliabilityPolicy, durability=DurabilityPolicy.VOLATILE, **others) -> QoSProfile:
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST, depth=depth, reliability=reliability, durability=durability, **others
    )


NEWEST = _profile(1, ReliabilityPolicy.BEST_EFFORT)  # images and camera information
MEASURED = _profile(10, ReliabilityPolicy.BEST_EFFORT)  # current_pose, joint_states: as published
MEASURED_HISTORY = _profile(1000, ReliabilityPolicy.BEST_EFFORT)  # a second of 1 kHz poses, to pair with images
COMMAND = _profile(1, ReliabilityPolicy.RELIABLE)  # target_pose, gripper_command, sampled_points
LATCHED = _profile(1, ReliabilityPolicy.RELIABLE, DurabilityPolicy.TRANSIENT_LOCAL)  # instruction
DIAGNOSTICS = _profile(10, ReliabilityPolicy.RELIABLE)
CLOCK = _profile(1, ReliabilityPolicy.BEST_EFFORT)

# action_chunk and gripper_chunk. DDS remembers a killed process for tens of seconds; the lease tells a policy that
# died from a second one that is alive. A publisher that offers no lease, or a longer one, does not match.
CHUNK = _profile(
    1,
    ReliabilityPolicy.RELIABLE,
    liveliness=LivelinessPolicy.AUTOMATIC,
    liveliness_lease_duration=Duration(seconds=CHUNK_LEASE_S),
)
