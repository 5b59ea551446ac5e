"""The MuJoCo model as text: a Franka arm with its true kinematics, a table, three cubes and a bowl.

Link offsets, joint limits and torque limits are those of Franka's data sheet (Panda and FR3 share the link offsets);
the outside is capsules, boxes and cylinders only, so that two views render within milliseconds without a GPU.
Lengths in metres, angles in radians. The world frame is the robot's base frame, with the table's top at z = 0.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.spatial.transform import Rotation

from grids_ros.datatypes import CAMERAS
from grids_ros.sim.variation import Distractor, Shift, Table, Variation

COLOURS = ("red", "green", "blue")
OBJECTS = (*COLOURS, "bowl")
VIEWS = (*CAMERAS, "overview")  # "overview" shows the whole arm, for people

ARM_JOINTS = tuple(f"fr3_joint{i}" for i in range(1, 8))
FINGER_JOINTS = ("fr3_finger_joint1", "fr3_finger_joint2")
LINKS = (*(f"link{i}" for i in range(1, 8)), "hand", "finger1", "finger2")  # the bodies that move, base to fingertip
POSITION_LIMITS = (
    (-2.8973, 2.8973),
    (-1.7628, 1.7628),
    (-2.8973, 2.8973),
    (-3.0718, -0.0698),
    (-2.8973, 2.8973),
    (-0.0175, 3.7525),
    (-2.8973, 2.8973),
)  # [rad]
VELOCITY_LIMITS = (2.175, 2.175, 2.175, 2.175, 2.61, 2.61, 2.61)  # [rad/s]
TORQUE_LIMITS = (87.0, 87.0, 87.0, 87.0, 12.0, 12.0, 12.0)  # [Nm]
HOME = (0.0, -0.38, 0.0, -2.45, 0.0, 2.07, 0.7854)  # tool pointing down over the middle of the workspace [rad]

CUBE_SIDE = 0.04
MAX_OPENING = 0.08  # between the fingers
GRIP_FORCE = 40.0  # of the pair of fingers [N]; Franka's hand gives up to 70 N
BOWL_RADIUS, BOWL_HEIGHT = 0.065, 0.035

# Stiffness [Nm/rad] and damping [Nms/rad] of the joint servos.
_STIFFNESS = (4500, 4500, 3500, 3500, 2000, 2000, 2000)
_DAMPING = (320, 320, 250, 250, 110, 110, 110)
_QUARTER = math.sqrt(0.5)
_PLUS_X, _MINUS_X = f"{_QUARTER} {_QUARTER} 0 0", f"{_QUARTER} {-_QUARTER} 0 0"  # wxyz, a quarter turn about x

_WHITE, _DARK, _GREY = "0.93 0.93 0.94 1", "0.20 0.22 0.25 1", "0.45 0.47 0.50 1"
_CUBE_COLOURS = {"red": "0.84 0.13 0.12 1", "green": "0.16 0.62 0.22 1", "blue": "0.13 0.32 0.82 1"}


def _capsule(start: str, end: str, radius: float, mass: float, colour: str = _WHITE) -> str:
    return f'<geom type="capsule" fromto="{start} {end}" size="{radius}" mass="{mass}" rgba="{colour}" class="look"/>'


def _disc(start: str, end: str, radius: float, colour: str = _DARK) -> str:
    return f'<geom type="cylinder" fromto="{start} {end}" size="{radius}" mass="0" rgba="{colour}" class="look"/>'


def _numbers(values) -> str:
    return " ".join(f"{value:.6f}" for value in values)


def _camera(name: str, position, target, fovy: float, shift: Shift, up=(0.0, 0.0, 1.0)) -> str:
    """A camera at `position` that looks at `target`, both in its parent's frame, with `up` upwards in the image.

    It is displaced by `shift` from there.
    """
    backward = np.subtract(position, target) / np.linalg.norm(np.subtract(position, target))
    right = np.cross(up, backward)
    right /= np.linalg.norm(right)
    axes = np.stack([right, np.cross(backward, right), backward], axis=1) @ Rotation.from_rotvec(shift.turn).as_matrix()
    place, turned = _numbers(np.add(position, shift.translation)), _numbers((*axes[:, 0], *axes[:, 1]))
    return f'<camera name="{name}" pos="{place}" xyaxes="{turned}" fovy="{fovy}"/>'


# Per link: where its frame lies in its parent's, and its shape in its own frame (the joint turns about z).
_LINKS = (
    (
        'pos="0 0 0.333"',
        _capsule("0 0 -0.10", "0 0 -0.02", 0.066, 2.7) + _disc("0 0 -0.196", "0 0 -0.180", 0.070),
    ),
    (f'quat="{_MINUS_X}"', _capsule("0 0 -0.055", "0 0 0.055", 0.066, 2.7) + _disc("0 0 -0.128", "0 0 0.128", 0.045)),
    (
        f'pos="0 -0.316 0" quat="{_PLUS_X}"',
        _capsule("0 0 -0.20", "0 0 -0.075", 0.060, 2.0)
        + _capsule("0.01 0 -0.06", "0.07 0 0", 0.058, 0.7)
        + _disc("0 0 -0.232", "0 0 -0.216", 0.068),
    ),
    (
        f'pos="0.0825 0 0" quat="{_PLUS_X}"',
        _capsule("0 0 -0.05", "0 0 0.05", 0.060, 1.8)
        + _capsule("-0.012 0.012 0", "-0.0825 0.085 0", 0.056, 0.6)
        + _disc("0 0 -0.116", "0 0 0.116", 0.042),
    ),
    (
        f'pos="-0.0825 0.384 0" quat="{_MINUS_X}"',
        _capsule("0 0 -0.26", "0 0.005 -0.19", 0.058, 1.2)
        + _capsule("0 0.07 -0.17", "0 0.075 -0.05", 0.030, 0.6)
        + _capsule("0 0.02 -0.19", "0 0.03 -0.02", 0.046, 0.6)
        + _disc("0 0 -0.285", "0 0 -0.270", 0.064),
    ),
    (
        f'quat="{_PLUS_X}"',
        _capsule("0 0 -0.06", "0 0 0.02", 0.050, 1.1)
        + _capsule("0 0 0.005", "0.085 0 0.005", 0.045, 0.4)
        + _disc("0 0 -0.116", "0 0 0.076", 0.036),
    ),
    (
        f'pos="0.088 0 0" quat="{_PLUS_X}"',
        _capsule("0 0 -0.045", "0 0 0.055", 0.045, 0.7) + _disc("0 0 0.085", "0 0 0.107", 0.040),
    ),
)


def _finger(index: int) -> str:
    turn = 'quat="0 0 0 1"' if index == 2 else ""
    return f"""
    <body name="finger{index}" pos="0 0 0.0584" {turn} gravcomp="1">
      <joint name="{FINGER_JOINTS[index - 1]}" type="slide" axis="0 1 0" range="0 0.04" armature="0.1" damping="10"/>
      <geom type="box" size="0.0105 0.009 0.012" pos="0 0.0145 0.010" mass="0.01" rgba="{_GREY}" class="look"/>
      <geom name="pad{index}" type="box" size="0.0105 0.007 0.0270" pos="0 0.007 0.0270" mass="0.015"
            rgba="{_DARK}" class="pad"/>
    </body>"""


def _hand(parts: str) -> str:
    return f"""
    <body name="hand" pos="0 0 0.107" quat="{math.cos(math.pi / 8)} 0 0 {-math.sin(math.pi / 8)}" gravcomp="1">
      <geom type="box" size="0.021 0.100 0.026" pos="0 0 0.034" mass="0.70" rgba="{_WHITE}" class="solid"/>
      <geom type="cylinder" size="0.034 0.010" pos="0 0 0.006" mass="0" rgba="{_GREY}" class="look"/>
      <geom type="box" size="0.016 0.098 0.003" pos="0 0 0.061" mass="0.03" rgba="{_DARK}" class="look"/>
      <geom type="box" size="0.008 0.018 0.010" pos="0.040 0 0.012" mass="0.05" rgba="{_DARK}" class="look"/>
      <site name="tool" pos="0 0 0.1034" size="0.004" rgba="0 0 0 0"/>
      {parts}
    </body>"""


def _arm(hand_parts: str) -> str:
    """The kinematic chain, nested from the base to the hand and what is mounted on it."""
    inner = _hand(hand_parts)
    for number in range(7, 0, -1):
        frame, shape = _LINKS[number - 1]
        low, high = POSITION_LIMITS[number - 1]
        torque = TORQUE_LIMITS[number - 1]
        inner = f"""
        <body name="link{number}" {frame} gravcomp="1">
          <joint name="{ARM_JOINTS[number - 1]}" axis="0 0 1" range="{low} {high}" armature="0.1" damping="1"
                 actuatorfrcrange="{-torque} {torque}"/>
          {shape}{inner}
        </body>"""
    base = (
        _capsule("-0.09 0 0.05", "0 0 0.06", 0.062, 1.0)
        + _capsule("0 0 0.06", "0 0 0.115", 0.066, 2.0)
        + _disc("0 0 0", "0 0 0.012", 0.095)
        + _disc("-0.10 0 0", "-0.10 0 0.012", 0.075)
    )
    return f'<body name="base">{base}{inner}</body>'


def _bowl() -> str:
    """A shallow bowl of nine parts: a round floor and eight walls that lean outwards."""
    walls = []
    lean, count = 0.35, 8
    for index in range(count):
        angle = 2 * math.pi * index / count
        x, y = BOWL_RADIUS * math.cos(angle), BOWL_RADIUS * math.sin(angle)
        walls.append(
            f'<geom type="box" size="0.003 0.0272 {BOWL_HEIGHT / 2}" pos="{x:.5f} {y:.5f} {BOWL_HEIGHT / 2 + 0.002}" '
            f'euler="{angle:.5f} {lean} 0" mass="0.02" rgba="0.96 0.82 0.47 1" class="solid"/>'
        )
    return f"""
    <body name="bowl" pos="0.5 0.3 0">
      <freejoint name="bowl"/>
      <geom type="cylinder" size="{BOWL_RADIUS - 0.008} 0.003" pos="0 0 0.003" mass="0.15" rgba="0.90 0.74 0.38 1"
            class="solid"/>
      {"".join(walls)}
    </body>"""


def _cube(colour: str) -> str:
    half = CUBE_SIDE / 2
    return f"""
    <body name="{colour}" pos="0.5 0 {half}">
      <freejoint name="{colour}"/>
      <geom name="{colour}" type="box" size="{half} {half} {half}" mass="0.05" rgba="{_CUBE_COLOURS[colour]}"
            class="cube"/>
    </body>"""


_DEFAULTS = """
  <compiler angle="radian" eulerseq="zyx" autolimits="true"/>
  <default>
    <default class="look"><geom contype="0" conaffinity="0" group="1"/></default>
    <default class="solid"><geom contype="1" conaffinity="1" condim="3" friction="0.8 0.005 0.0001"/></default>
    <default class="cube"><geom condim="4" friction="1 0.01 0.0001" solref="0.01 1"/></default>
    <default class="pad">
      <geom condim="4" friction="1.5 0.02 0.0001" solref="0.01 1" priority="1"/>
    </default>
  </default>"""


def arm_xml(fingers: bool = False) -> str:
    """The arm alone, without cameras: seven degrees of freedom, for inverse kinematics; `fingers` adds theirs."""
    parts = _finger(1) + _finger(2) if fingers else ""
    return f'<mujoco model="arm">{_DEFAULTS}<worldbody>{_arm(parts)}</worldbody></mujoco>'


def _actuators() -> str:
    parts = [
        f'<position name="{joint}" joint="{joint}" kp="{kp}" kv="{kv}" ctrlrange="{low} {high}"/>'
        for joint, kp, kv, (low, high) in zip(ARM_JOINTS, _STIFFNESS, _DAMPING, POSITION_LIMITS, strict=True)
    ]
    parts.append(
        f'<position name="gripper" tendon="opening" kp="2000" kv="60" ctrlrange="0 {MAX_OPENING}" '
        f'forcerange="{-GRIP_FORCE} {GRIP_FORCE}"/>'
    )
    return "".join(parts)


def _distractor(index: int, distractor: Distractor) -> str:
    return f"""
    <body name="distractor{index}" pos="0.5 0 {distractor.height}">
      <freejoint name="distractor{index}"/>
      <geom type="{distractor.shape}" size="{_numbers(distractor.size)}" mass="0.05"
            rgba="{_numbers(distractor.colour)} 1" class="solid"/>
    </body>"""


def _table(table: Table | None) -> tuple[str, str]:
    """The table's top, and the assets it needs."""
    top = '<geom name="table" type="box" size="0.52 0.60 0.02" pos="0.40 0 -0.02" class="solid" '
    wood = f'{top} rgba="0.78 0.69 0.57 1"/>'
    if table is None:
        return wood, ""
    first, second = (_numbers(colour) for colour in table.colours)
    if table.look == "mat":
        mat = '<geom type="box" size="0.25 0.36 0.0004" pos="0.50 0 0.0004" class="look" '
        return f'{wood}{mat} rgba="{first} 1"/>', ""
    pattern = {
        "checker": f'builtin="checker" rgb1="{first}" rgb2="{second}"',
        "speckled": f'builtin="flat" mark="random" random="0.25" rgb1="{first}" markrgb="{second}"',
    }[table.look]
    repeat = {"checker": "7 7", "speckled": "4 4"}[table.look]
    assets = f"""
  <asset>
    <texture name="cloth" type="2d" width="64" height="64" {pattern}/>
    <material name="cloth" texture="cloth" texrepeat="{repeat}" specular="0"/>
  </asset>"""
    return f'{top} material="cloth"/>', assets


def _wrist_camera(shift: Shift) -> str:
    return _camera("wrist", (0.072, 0.0, 0.010), (0.0, 0.0, 0.165), 68, shift, up=(1.0, 0.0, 0.0))


def scene_xml(image_size: int, variation: Variation) -> str:
    """Arm, table, cubes, bowl, lights and cameras; offscreen images up to image_size x image_size or 1280 x 720."""
    width, height = max(image_size, 1280), max(image_size, 720)
    light, shifts = variation.light, variation.cameras
    table, assets = _table(variation.table)
    return f"""
<mujoco model="grids_ros">{_DEFAULTS}{assets}
  <option timestep="0.002" integrator="implicitfast" cone="elliptic" impratio="10"/>
  <visual>
    <global offwidth="{width}" offheight="{height}"/>
    <quality shadowsize="0" offsamples="0" numslices="14" numstacks="8" numquads="1"/>
    <headlight ambient="{_numbers(light.ambient)}" diffuse="0.20 0.20 0.20" specular="0 0 0"/>
    <map znear="0.01" zfar="20"/>
    <rgba haze="0.80 0.84 0.88 1"/>
  </visual>
  <worldbody>
    <light pos="0.2 -0.8 2.0" dir="{_numbers(light.direction)}" directional="true" castshadow="false"
           diffuse="{_numbers(light.lamp)}" specular="0 0 0"/>
    {table}
    <geom type="box" size="0.50 0.58 0.02" pos="0.40 0 -0.06" rgba="0.55 0.47 0.38 1" class="look"/>
    <geom type="box" size="2.5 2.5 0.01" pos="0 0 -0.75" rgba="0.60 0.63 0.66 1" class="look"/>
    <geom type="box" size="0.01 3 2" pos="-1.2 0 0.8" rgba="0.83 0.86 0.88 1" class="look"/>
    {_camera("base", (1.20, 0.22, 0.62), (0.49, 0.0, 0.09), 37, shifts.get("base", Shift()))}
    {_camera("overview", (1.55, 0.95, 0.85), (0.25, 0.0, 0.30), 38, Shift())}
    {_arm(_finger(1) + _finger(2) + _wrist_camera(shifts.get("wrist", Shift())))}
    {"".join(_cube(colour) for colour in COLOURS)}
    {_bowl()}
    {"".join(_distractor(index, one) for index, one in enumerate(variation.distractors))}
  </worldbody>
  <tendon>
    <fixed name="opening">
      <joint joint="{FINGER_JOINTS[0]}" coef="1"/><joint joint="{FINGER_JOINTS[1]}" coef="1"/>
    </fixed>
  </tendon>
  <equality>
    <joint joint1="{FINGER_JOINTS[0]}" joint2="{FINGER_JOINTS[1]}" solimp="0.95 0.99 0.001" solref="0.005 1"/>
  </equality>
  <contact><exclude body1="hand" body2="finger1"/><exclude body1="hand" body2="finger2"/></contact>
  <actuator>{_actuators()}</actuator>
</mujoco>"""
