"""The simulated arm as a URDF: the frames, joints, limits and shapes of its MuJoCo model, for kinematics and RViz.

It has no masses. A URDF has no capsules: each is a cylinder between two spheres.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import lru_cache
from xml.etree.ElementTree import Element, SubElement, indent, tostring

import mujoco
import numpy as np
from scipy.spatial.transform import Rotation

from grids_ros.policy.joints import RobotModel
from grids_ros.sim import mujoco_model

BASE, TOOL = "base", "tool"  # its first link, and the one that is commanded, as the nodes call them
_FINGERS = {"effort": mujoco_model.GRIP_FORCE / 2, "velocity": 0.05}  # of each [N], [m/s]


@lru_cache(maxsize=4)
def arm_urdf(base: str = BASE, tool: str = TOOL) -> str:
    """The text: links from `base` to `tool` and to the fingers, and the joints between them."""
    arm = mujoco.MjModel.from_xml_string(mujoco_model.arm_xml(fingers=True))
    robot = Element("robot", name="grids_arm")
    _add_link(robot, base, arm, arm.body("base").id)
    for index in range(arm.body("base").id + 1, arm.nbody):
        body = arm.body(index)
        above = arm.body(body.parentid[0]).name
        _add_joint(robot, base if above == "base" else above, body.name, _origin(body.pos, body.quat), arm, index)
        _add_link(robot, body.name, arm, index)
    site = arm.site("tool")
    _add_joint(robot, "hand", tool, _origin(site.pos, site.quat))
    SubElement(robot, "link", name=tool)
    indent(robot)
    return tostring(robot, encoding="unicode") + "\n"


def robot() -> RobotModel:
    """The arm, for a policy of its joints."""
    return RobotModel(arm_urdf(), BASE, TOOL)


def _add_joint(robot: Element, parent: str, child: str, origin: dict[str, str], arm=None, body: int = 0) -> None:
    """What holds `child` at `origin` in `parent`: the joint of this body of the arm, or a fixed one."""
    joint = arm.joint(arm.body(body).jntadr[0]) if arm is not None and arm.body(body).jntnum[0] else None
    slides = joint is not None and joint.type[0] == mujoco.mjtJoint.mjJNT_SLIDE
    kind = "fixed" if joint is None else "prismatic" if slides else "revolute"
    added = SubElement(robot, "joint", name=joint.name if joint else f"{child}_fixed", type=kind)
    SubElement(added, "parent", link=parent)
    SubElement(added, "child", link=child)
    SubElement(added, "origin", origin)
    if joint is None:
        return
    lower, upper = joint.range
    limits = {"lower": lower, "upper": upper}
    if slides:
        limits |= _FINGERS
    else:
        number = mujoco_model.ARM_JOINTS.index(joint.name)
        limits |= {"effort": mujoco_model.TORQUE_LIMITS[number], "velocity": mujoco_model.VELOCITY_LIMITS[number]}
    SubElement(added, "axis", xyz=_numbers(joint.axis))
    SubElement(added, "limit", {key: _number(value) for key, value in limits.items()})


def _add_link(robot: Element, name: str, arm, body: int) -> None:
    link = SubElement(robot, "link", name=name)
    for index in range(arm.ngeom):
        geom = arm.geom(index)
        if geom.bodyid[0] != body:
            continue
        for offset, shape, sizes in _shapes(geom):
            visual = SubElement(link, "visual")
            turned = Rotation.from_quat(np.roll(geom.quat, -1))
            SubElement(visual, "origin", _origin(geom.pos + turned.apply([0.0, 0.0, offset]), geom.quat))
            SubElement(SubElement(visual, "geometry"), shape, sizes)
            material = SubElement(visual, "material", name="_".join(f"{round(255 * c)}" for c in geom.rgba[:3]))
            SubElement(material, "color", rgba=_numbers(geom.rgba.astype(float).round(3)))


def _shapes(geom) -> list[tuple[float, str, dict[str, str]]]:
    """Shapes of URDF that make up one of MuJoCo: how far each is displaced along z [m], its element and sizes."""
    radius, half = float(geom.size[0]), float(geom.size[1])
    if geom.type[0] == mujoco.mjtGeom.mjGEOM_BOX:
        return [(0.0, "box", {"size": _numbers(2 * geom.size)})]
    whole = (0.0, "cylinder", {"radius": _number(radius), "length": _number(2 * half)})
    if geom.type[0] == mujoco.mjtGeom.mjGEOM_CYLINDER:
        return [whole]
    return [whole, *((end, "sphere", {"radius": _number(radius)}) for end in (-half, half))]


def _origin(position: np.ndarray, quaternion: np.ndarray) -> dict[str, str]:
    """quaternion: wxyz, as MuJoCo has it. URDF turns about the fixed x, y and z axes, in this order."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Gimbal lock")  # one of the many that turn the same way will do
        turns = Rotation.from_quat(np.roll(quaternion, -1)).as_euler("xyz")
    return {"xyz": _numbers(position), "rpy": _numbers(turns)}


def _numbers(values: Sequence[float] | np.ndarray) -> str:
    return " ".join(_number(value) for value in values)


def _number(value: float) -> str:
    return f"{round(value, 12) + 0.0:.12g}"
