"""The quality of service of every topic, in one place."""

from __future__ import annotations

from dataclasses import dataclass

from rclpy.duration import Duration
from rclpy.qos import DurabilityPolicy, HistoryPolicy, LivelinessPolicy, QoSProfile, ReliabilityPolicy

from grids_ros.observation.topics import HISTORY

CHUNK_LEASE_S = 1.0  # a policy that was killed no longer counts as a publisher after this long


def _profile(depth: int, reliability: ReliabilityPolicy, durability=DurabilityPolicy.VOLATILE, **others) -> QoSProfile:
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST, depth=depth, reliability=reliability, durability=durability, **others
    )


NEWEST = _profile(1, ReliabilityPolicy.BEST_EFFORT)  # camera information, and images that are shown
IMAGES = _profile(10, ReliabilityPolicy.BEST_EFFORT)  # the policy's: all of them, to pair the cameras
MEASURED = _profile(10, ReliabilityPolicy.BEST_EFFORT)  # current_pose, joint_states: as published
MEASURED_HISTORY = _profile(HISTORY, ReliabilityPolicy.BEST_EFFORT)  # a second of 1 kHz poses, to pair with images
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


@dataclass(frozen=True)
class Use:
    """Topics with one profile. direction: seen from the nodes of this package."""

    profile: QoSProfile
    direction: str
    topics: tuple[str, ...]


USES = (  # for the reference page; a test holds the nodes to it
    Use(IMAGES, "policy in", ("camera/<name>/image_raw",)),
    Use(NEWEST, "policy in", ("camera/<name>/camera_info",)),
    Use(LATCHED, "policy and follower in", ("instruction", "robot_description")),
    Use(MEASURED_HISTORY, "policy in", ("current_pose", "joint_states", "target_pose")),
    Use(NEWEST, "follower in", ("current_pose",)),
    Use(CHUNK, "policy to follower", ("action_chunk", "gripper_chunk")),
    Use(COMMAND, "out", ("target_pose", "gripper_command", "sampled_points")),
    Use(COMMAND, "out, with dry_run", ("target_pose_preview", "gripper_command_preview")),
    Use(COMMAND, "gripper node in", ("gripper_command",)),
    Use(LATCHED, "out", ("policy_contract", "workspace")),
    Use(NEWEST, "out", ("overlay/<name>/image_raw",)),
    Use(DIAGNOSTICS, "out", ("/diagnostics",)),
)
