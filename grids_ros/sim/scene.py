"""The simulated Franka: physics, the Cartesian servo, camera images and the state that tasks look at."""

from __future__ import annotations

import os

import mujoco
import numpy as np
from scipy.spatial.transform import Rotation

from grids_ros.datatypes import Pose
from grids_ros.sim import mujoco_model
from grids_ros.sim.gl import RenderError, explain, require
from grids_ros.sim.servo import PERIOD_S, ArmServo
from grids_ros.sim.variation import DISTRACTED, Region, Variation, draw
from grids_ros.visualisation.shapes import Shape

# llvmpipe's own threads get in the way of everything else on a small machine; users may set their own number.
os.environ.setdefault("LP_NUM_THREADS", "1")

FINGER_SPEED = 0.1  # of the opening while the hand opens or closes [m/s]
DOWN = np.array([1.0, 0.0, 0.0, 0.0])  # xyzw: the tool's z axis points at the table, its x axis forwards

_CUBE_DISTANCE, _DISTRACTOR_DISTANCE, _BOWL_DISTANCE = 0.085, 0.10, 0.125  # least distance between centres [m]
_START_LOW, _START_HIGH = np.array([0.38, -0.16, 0.17]), np.array([0.58, 0.16, 0.32])
_START_YAW = 0.4  # [rad]
_SETTLE_S = 0.1
_REACHED = 40  # periods of the servo, each of which corrects a sixth of the error

__all__ = ["DOWN", "FINGER_SPEED", "RenderError", "Scene"]


class Scene:
    """A Franka at the edge of a table with a red, a green and a blue cube and a bowl.

    All poses are of the tool frame (between the fingertips, z out of the gripper) in the base frame, metres.
    The first image needs an OpenGL driver; everything else does not.
    """

    joint_names = (*mujoco_model.ARM_JOINTS, *mujoco_model.FINGER_JOINTS)
    cameras = mujoco_model.CAMERAS

    def __init__(self, seed: int = 0, image_size: int = 224, ood: str | None = None):
        """ood: how every scene is to differ from those of demonstrations, one of variation.KINDS; None: not at all."""
        self.image_size = image_size
        self._ood = ood
        self._servo, self._solver = ArmServo(), ArmServo()
        self._renderers: dict[tuple[int, int], mujoco.Renderer] = {}
        self._build(Variation())
        self.reset(seed)

    def _build(self, variation: Variation) -> None:
        """Compile the model, and look up where things are in it."""
        self.close()
        self.variation = variation
        self._model = mujoco.MjModel.from_xml_string(mujoco_model.scene_xml(self.image_size, variation))
        self._data = mujoco.MjData(self._model)
        self._substeps = round(PERIOD_S / self._model.opt.timestep)
        self._tool = self._model.site("tool").id
        self._pads = tuple(self._model.geom(f"pad{i}").id for i in (1, 2))
        self._joint_addresses = np.array([self._model.joint(name).qposadr[0] for name in self.joint_names])
        self._velocity_addresses = np.array([self._model.joint(name).dofadr[0] for name in self.joint_names])

    def reset(self, seed: int) -> None:
        """A new scene: objects anywhere in the workspace without overlap, the arm above them. Repeatable."""
        if self._ood is not None:
            self._build(draw(self._ood, seed))
        rng = np.random.default_rng(seed)
        mujoco.mj_resetData(self._model, self._data)
        self._place_objects(rng, np.random.default_rng([seed, 1]))
        yaw = rng.uniform(-_START_YAW, _START_YAW)
        tilt = rng.normal(0.0, 0.04, 2)
        start = Pose(
            rng.uniform(_START_LOW, _START_HIGH),
            (Rotation.from_euler("zyx", [yaw, *tilt]) * Rotation.from_quat(DOWN)).as_quat(),
        )
        joints = self._servo.solve(start, np.array(mujoco_model.HOME))
        self._opening_target = mujoco_model.MAX_OPENING
        self._data.qpos[self._joint_addresses] = [*joints, *[mujoco_model.MAX_OPENING / 2] * 2]
        self._data.ctrl[:] = [*joints, self._opening_target]
        mujoco.mj_forward(self._model, self._data)
        self._target, self._gripper_goal, self._owed_s = self.tool_pose(), mujoco_model.MAX_OPENING, 0.0
        self.step(None, None, _SETTLE_S)
        self._data.time = 0.0

    def _place_objects(self, rng: np.random.Generator, rng_of_distractors: np.random.Generator) -> None:
        """Draws of their own for distractors: the rest of the scene is the same with and without them."""
        placed: list[tuple[np.ndarray, float]] = []  # centre and the distance that it asks for
        region = self.variation.region
        self._place("bowl", 0.0, _BOWL_DISTANCE, region, placed, rng)
        for name in mujoco_model.COLOURS:
            self._place(name, mujoco_model.CUBE_SIDE / 2, _CUBE_DISTANCE, region, placed, rng)
        for index, one in enumerate(self.variation.distractors):
            name = f"distractor{index}"
            self._place(name, one.height, _DISTRACTOR_DISTANCE, DISTRACTED, placed, rng_of_distractors)

    def _place(self, name: str, height: float, reach: float, region: Region, placed: list, rng) -> None:
        """Somewhere in the region, at any heading, clear of what is placed already."""
        while True:
            centre = rng.uniform(region.low, region.high)
            clear = all(np.linalg.norm(centre - other) > max(reach, theirs) for other, theirs in placed)
            if clear and centre in region:
                break
        placed.append((centre, reach))
        yaw = rng.uniform(-np.pi, np.pi)
        address = self._model.joint(name).qposadr[0]
        self._data.qpos[address : address + 7] = [*centre, height, np.cos(yaw / 2), 0, 0, np.sin(yaw / 2)]

    def step(self, target: Pose | None, gripper: float | None, duration_s: float) -> None:
        """Advance time by `duration_s` while the arm follows `target` and the hand goes to `gripper` [m].

        None keeps the last target. Durations need not be multiples of the servo's period: the rest is carried over.
        """
        if target is not None:
            self._target = target
        if gripper is not None:
            self._gripper_goal = float(np.clip(gripper, 0.0, mujoco_model.MAX_OPENING))
            if self._gripper_goal > self._opening_target:  # a squeezing hand opens from where its fingers are
                self._opening_target = min(self._gripper_goal, max(self._opening_target, self.gripper_opening()))
        self._owed_s += duration_s
        while self._owed_s > PERIOD_S / 2:
            self._owed_s -= PERIOD_S
            stride = FINGER_SPEED * PERIOD_S
            self._opening_target += np.clip(self._gripper_goal - self._opening_target, -stride, stride)
            self._data.ctrl[:7] = self._servo.advance(self._target)
            self._data.ctrl[7] = self._opening_target
            mujoco.mj_step(self._model, self._data, self._substeps)
        mujoco.mj_kinematics(self._model, self._data)  # sites and bodies as of now, not as of the last step's start

    def push(self, translation: np.ndarray, yaw: float, duration_s: float) -> None:
        """Disturb the arm: drive it to its present pose moved by `translation` (3,) [m] and turned by `yaw` [rad]."""
        pose = self.tool_pose()
        turned = Rotation.from_euler("z", yaw) * Rotation.from_quat(pose.quaternion)
        self.step(Pose(pose.position + translation, turned.as_quat()), None, duration_s)

    def shove(self, name: str, velocity: np.ndarray, spin: float) -> None:
        """Disturb an object: it slides off at `velocity` (2,) [m/s] over the table, turning at `spin` [rad/s]."""
        address = self._model.joint(name).dofadr[0]
        self._data.qvel[address : address + 2] += velocity
        self._data.qvel[address + 5] += spin

    @property
    def time_s(self) -> float:
        """Since the reset [s]."""
        return float(self._data.time)

    @property
    def target_pose(self) -> Pose:
        """What the arm follows now."""
        return self._target

    @property
    def gripper_target(self) -> float:
        """The opening that was last asked for [m]."""
        return self._gripper_goal

    def tool_pose(self) -> Pose:
        """The measured pose."""
        matrix = self._data.site_xmat[self._tool].reshape(3, 3)
        return Pose(self._data.site_xpos[self._tool], Rotation.from_matrix(matrix).as_quat())

    def link_poses(self) -> dict[str, Pose]:
        """Where the links of the arm are, in the base frame, by the names of its URDF."""
        bodies = {name: self._data.body(name) for name in mujoco_model.LINKS}
        return {name: Pose(body.xpos, np.roll(body.xquat, -1)) for name, body in bodies.items()}

    def joints_at(self, target: Pose) -> np.ndarray:
        """Where the arm's joints come to rest as it follows `target` from here, (7,) [rad]."""
        return self._solver.solve(target, self._servo.joints, _REACHED)

    def gripper_opening(self) -> float:
        """Measured, between the fingers [m]."""
        return float(self._data.qpos[self._joint_addresses[7:]].sum())

    def joint_positions(self) -> np.ndarray:
        """Shape (9,): seven arm joints [rad] and two fingers [m], in the order of `joint_names`."""
        return self._data.qpos[self._joint_addresses].copy()

    def joint_velocities(self) -> np.ndarray:
        """Shape (9,) [rad/s] and [m/s], in the order of `joint_names`."""
        return self._data.qvel[self._velocity_addresses].copy()

    def object_positions(self) -> dict[str, np.ndarray]:
        """Centre of each cube and of the bowl's foot, shape (3,) [m]."""
        return {name: self._data.body(name).xpos.copy() for name in mujoco_model.OBJECTS}

    def distractor_positions(self) -> np.ndarray:
        """Centre of each distractor, shape (n, 3) [m]."""
        count = len(self.variation.distractors)
        return np.array([self._data.body(f"distractor{index}").xpos for index in range(count)]).reshape(-1, 3)

    def object_quaternions(self) -> dict[str, np.ndarray]:
        """Orientation of each object in the base frame, xyzw."""
        return {name: np.roll(self._data.body(name).xquat, -1) for name in mujoco_model.OBJECTS}

    def shapes(self) -> list[Shape]:
        """The table's top, the cubes and the bowl. They stay the same until the next reset."""
        bodies = {self._model.body(name).id: name for name in mujoco_model.OBJECTS}
        table = self._model.geom("table").id
        shapes = []
        for index, body in enumerate(self._model.geom_bodyid):
            if body not in bodies and index != table:
                continue
            geom = self._model.geom(index)
            box = geom.type[0] == mujoco.mjtGeom.mjGEOM_BOX
            size = 2.0 * (geom.size if box else geom.size[[0, 0, 1]])
            pose = Pose(geom.pos, np.roll(geom.quat, -1))
            red, green, blue = (float(part) for part in geom.rgba[:3])
            shapes.append(Shape(bodies.get(int(body), ""), box, size, pose, (red, green, blue)))
        return shapes

    def object_speed(self, name: str) -> float:
        """How fast the object's centre moves [m/s]."""
        address = self._model.joint(name).dofadr[0]
        return float(np.linalg.norm(self._data.qvel[address : address + 3]))

    def _touching(self, colour: str) -> int:
        """How many fingers touch this cube."""
        cube = self._model.geom(colour).id
        touching: set[int] = set()
        for pair in self._data.contact.geom:
            if cube in pair:
                touching.update(int(geom) for geom in pair if geom in self._pads)
        return len(touching)

    def grasped(self, colour: str) -> bool:
        """Whether both fingers touch this cube."""
        return self._touching(colour) == 2

    def touched(self, colour: str) -> bool:
        """Whether a finger touches this cube."""
        return self._touching(colour) > 0

    def _renderer(self, height: int, width: int) -> mujoco.Renderer:
        if (height, width) not in self._renderers:
            require()
            try:
                self._renderers[height, width] = mujoco.Renderer(self._model, height, width)
            except (ImportError, AttributeError, OSError, RuntimeError, mujoco.FatalError) as error:
                raise explain(error) from error
        return self._renderers[height, width]

    def render(self, camera: str, size: tuple[int, int] | None = None) -> np.ndarray:
        """The camera's image, uint8 RGB, shape (H, W, 3). Cameras: base, wrist, overview; `size` is (H, W).

        Raises RenderError when OpenGL is missing, ValueError for an unknown camera.
        """
        self._check_camera(camera)
        renderer = self._renderer(*(size or (self.image_size, self.image_size)))
        renderer.update_scene(self._data, camera)
        flags = renderer.scene.flags
        flags[mujoco.mjtRndFlag.mjRND_SHADOW] = flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = False
        return renderer.render()

    def _check_camera(self, camera: str) -> None:
        if camera not in mujoco_model.VIEWS:
            raise ValueError(f"no camera {camera!r}; the scene has {', '.join(mujoco_model.VIEWS)}")

    def camera_intrinsics(self, camera: str) -> np.ndarray:
        """K, shape (3, 3) [px], of the square image."""
        self._check_camera(camera)
        fovy = np.deg2rad(self._model.camera(camera).fovy[0])
        focal = self.image_size / 2 / np.tan(fovy / 2)
        centre = self.image_size / 2
        return np.array([[focal, 0.0, centre], [0.0, focal, centre], [0.0, 0.0, 1.0]])

    def camera_pose(self, camera: str) -> Pose:
        """Pose of the camera's optical frame (REP-103: z forwards, x right, y down) in the base frame."""
        self._check_camera(camera)
        mujoco.mj_camlight(self._model, self._data)
        view = self._data.camera(camera)
        matrix = view.xmat.reshape(3, 3) * np.array([1.0, -1.0, -1.0])  # MuJoCo looks along -z with y upwards
        return Pose(view.xpos, Rotation.from_matrix(matrix).as_quat())

    def close(self) -> None:
        """Free the renderers."""
        for renderer in self._renderers.values():
            renderer.close()
        self._renderers.clear()
