"""How a Franka is driven unless somebody says otherwise: evaluation runs with it, and the nodes' defaults equal it."""

from __future__ import annotations

from grids_ros.control.follower import FollowerConfig
from grids_ros.control.gripper import GripperHysteresis
from grids_ros.control.limits import Limits

CHUNK_RATE_HZ = 5.0  # how often the policy is asked
CAMERA_MAX_AGE_S = 0.3  # an older image is not used

FOLLOWER = FollowerConfig(
    limits=Limits(
        workspace_min=(0.25, -0.40, 0.005),
        workspace_max=(0.75, 0.40, 0.60),
        linear_speed=0.5,
        angular_speed=1.5,
        linear_acceleration=10.0,
        angular_acceleration=20.0,
        max_tracking_error_translation=0.10,
        max_tracking_error_rotation=0.50,
        linear_jerk=2000.0,
        angular_jerk=4000.0,
    ),
    gripper=GripperHysteresis(closed=0.0, close_below=0.03, open_above=0.05, open=0.08),
    period_s=0.01,
    join="rtc",
    join_s=0.2,
    max_pose_age_s=0.1,
    max_chunk_age_s=2.0,
    future_s=0.05,
)
