"""An action space of your own: UMI's, where each target is relative to the observed tool pose, in the tool's own axes.

Checkpoints do not record what their numbers mean. A space is two functions, from target poses to actions and back.
Registered, it is a `--convention` of `grids convert` and a space that `grids.json` may name. To have it in every
process, write it in grids_ros/policy/spaces.py and grids_ros/convert/conventions.py.
"""

import numpy as np
from scipy.spatial.transform import Rotation

from grids_ros.convert.conventions import CONVENTIONS, Convention
from grids_ros.datatypes import NANOSECONDS, ActionChunk, Pose
from grids_ros.policy.spaces import ACTIONS, MATRIX, ActionSpace


def to_tool_axes(pose, positions, quaternions, gripper, around):
    """Targets (n, 3) [m], (n, 4) xyzw in the base frame, openings (n,) [m] to actions (n, 7)."""
    observed = Rotation.from_quat(pose.quaternion)
    moves = observed.inv().apply(positions - pose.position)
    turns = (observed.inv() * Rotation.from_quat(quaternions)).as_rotvec()
    return np.concatenate([moves, turns, np.reshape(gripper, (-1, 1))], axis=1)


def from_tool_axes(stamp_ns, pose, actions, step_s, around):
    """Actions (n, 7) to the chunk of target poses in the base frame."""
    observed = Rotation.from_quat(pose.quaternion)
    turns = observed * Rotation.from_rotvec(actions[:, 3:6])
    times = step_s * np.arange(1, len(actions) + 1)
    return ActionChunk(stamp_ns, times, pose.position + observed.apply(actions[:, :3]), turns.as_quat(), actions[:, 6])


UMI = ActionSpace(
    "umi-relative",
    "translation 3 [m] | rotation vector 3 [rad] | gripper opening 1 [m]; of the target, relative to the tool pose at "
    "the observation, in tool axes; gripper absolute",
    to_tool_axes,
    from_tool_axes,
)
ACTIONS[UMI.name] = UMI
CONVENTIONS["umi"] = Convention("targets relative to the observed tool pose, in tool axes", MATRIX, UMI)

# The tool points down and is turned by 90 degrees about the vertical. Ten steps of 1 cm along its own z axis go down.
pose = Pose((0.5, 0.0, 0.3), (Rotation.from_euler("z", 90, degrees=True) * Rotation.from_quat((1, 0, 0, 0))).as_quat())
actions = np.zeros((10, 7))
actions[:, 2], actions[:, 6] = 0.01 * np.arange(1, 11), 0.08
chunk = UMI.to_chunk(NANOSECONDS, pose, actions, step_s=0.1)
print(f"{UMI.name}: the last of {len(actions)} targets lies at {np.round(chunk.positions[-1], 3)} m in the base frame")
assert np.allclose(chunk.positions[-1], (0.5, 0.0, 0.2))

# The two functions must be inverses, or a policy trained through one is executed through another.
draw = np.random.default_rng(0)
actions = draw.uniform(-1.0, 1.0, (10, 7)) * [0.1, 0.1, 0.1, 0.5, 0.5, 0.5, 0.04] + [0, 0, 0, 0, 0, 0, 0.04]
chunk = UMI.to_chunk(NANOSECONDS, pose, actions, step_s=0.1)
back = UMI.to_actions(pose, chunk.positions, chunk.quaternions, chunk.gripper)
print(f"there and back: off by at most {np.abs(back - actions).max():.1e}")
assert np.allclose(back, actions)
