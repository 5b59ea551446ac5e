"""The simulated arm as a node: the topics of a real one, so that nothing upstream knows the difference.

Physics, rendering (an OpenGL context belongs to one thread) and publishing share the executor's thread: a tick with
two images takes less than its 10 ms, and a late tick advances physics by the time that has really passed.
"""

from __future__ import annotations

import time

from geometry_msgs.msg import PoseArray, PoseStamped, TransformStamped, Vector3
from rcl_interfaces.msg import SetParametersResult
from rclpy.node import Node
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, Image, JointState
from std_msgs.msg import Float64MultiArray, Header, String
from std_srvs.srv import Trigger
from visualization_msgs.msg import MarkerArray

from grids_ros.datatypes import CAMERAS, NANOSECONDS, Pose
from grids_ros.parameters import ROBOT, ParameterError, SimParameters, table
from grids_ros.ros import conversions, markers, parameters, qos
from grids_ros.ros.managed import STEADY, run
from grids_ros.ros.polling import Inbox
from grids_ros.ros.start import leave
from grids_ros.sim.scene import RenderError, Scene
from grids_ros.sim.urdf import arm_urdf

OBJECTS = ("red", "green", "blue", "bowl")  # order of object_poses
MAX_STEP_S = 0.1  # a stall longer than this is not caught up with


class SimNode(Node):
    """Steps the scene in real time. Publishes from the start; there is nothing to configure."""

    def __init__(self, **options):
        """Raises ParameterError, and RenderError where OpenGL is missing."""
        super().__init__("grids_sim", automatically_declare_parameters_from_overrides=True, **options)
        parameters.declare(self, SimParameters)
        self.settings = parameters.read(self, SimParameters)
        self._next_seed = self.settings.seed + 1
        self.add_on_set_parameters_callback(self._on_set_parameters)
        self._scene = Scene(self.settings.seed, self.settings.image_size)
        self._publish_everything()
        self._target_inbox = Inbox(self, PoseStamped, "target_pose", qos.COMMAND)
        self._gripper_inbox = Inbox(self, Float64MultiArray, "gripper_command", qos.COMMAND)
        self.create_service(Trigger, "reset", self._on_reset)
        self._clock_ns = 0
        self._last = time.perf_counter()
        self._next_frame = self._last
        for camera in CAMERAS:
            self._scene.render(camera)  # the first image takes long, and says what is missing
        self.create_timer(1.0 / self.settings.rate_hz, self._tick, clock=STEADY)

    def _publish_everything(self) -> None:
        self._pose_publisher = self.create_publisher(PoseStamped, "current_pose", qos.MEASURED)
        self._joint_publisher = self.create_publisher(JointState, "joint_states", qos.MEASURED)
        self._object_publisher = self.create_publisher(PoseArray, "object_poses", qos.MEASURED)
        self._shape_publisher = self.create_publisher(MarkerArray, "object_shapes", qos.LATCHED)
        base, shapes = self.settings.base_frame, self._scene.shapes()
        drawn = [markers.shape(i, one, object_frame(one.body) if one.body else base) for i, one in enumerate(shapes)]
        self._shape_publisher.publish(MarkerArray(markers=drawn))
        urdf = arm_urdf(self.settings.base_frame, self.settings.tool_frame)
        self._robot_publisher = self.create_publisher(String, ROBOT, qos.LATCHED)
        self._robot_publisher.publish(String(data=urdf))
        self._camera_publishers, self._infos = {}, {}
        for name in CAMERAS:
            self._camera_publishers[name] = (
                self.create_publisher(Image, f"camera/{name}/image_raw", qos.NEWEST),
                self.create_publisher(CameraInfo, f"camera/{name}/camera_info", qos.NEWEST),
            )
            size = self.settings.image_size
            matrix = self._scene.camera_intrinsics(name)
            self._infos[name] = conversions.from_intrinsics(matrix, size, size, optical_frame(name))
        publish_clock = self.settings.publish_clock
        self._clock_publisher = self.create_publisher(Clock, "/clock", qos.CLOCK) if publish_clock else None
        try:
            from tf2_msgs.msg import TFMessage
        except ImportError as error:
            self._tf_publisher = None
            self.get_logger().info(f"no /tf: {error} (it comes with a ROS 2 installation; only RViz needs it here)")
        else:
            self._tf_message = TFMessage
            self._tf_publisher = self.create_publisher(TFMessage, "/tf", 100)

    def close(self) -> None:
        """Free the renderers."""
        self._scene.close()

    def _now(self) -> int:
        return self._clock_ns if self._clock_publisher else self.get_clock().now().nanoseconds

    def _tick(self) -> None:
        now = time.perf_counter()
        elapsed = min(now - self._last, MAX_STEP_S)
        self._last = now
        self._scene.step(self._wanted_pose(), self._wanted_opening(), elapsed)
        if self._clock_publisher:
            self._clock_ns += round(elapsed * NANOSECONDS)
            self._clock_publisher.publish(Clock(clock=conversions.to_stamp(self._clock_ns)))
        stamp_ns = self._now()
        self._publish_state(stamp_ns)
        if now >= self._next_frame:
            period = 1.0 / self.settings.camera_rate_hz
            self._next_frame = max(self._next_frame + period, now)
            self._publish_images(stamp_ns)

    def _wanted_pose(self) -> Pose | None:
        message = self._target_inbox.newest()
        if message is None:
            return None
        try:
            return conversions.to_pose(message, self.settings.base_frame, "target_pose")
        except ValueError as error:
            self.get_logger().warning(f"ignored: {error}", throttle_duration_sec=5.0)
            return None

    def _wanted_opening(self) -> float | None:
        message = self._gripper_inbox.newest()
        if message is None:
            return None
        if len(message.data) != 1 or not message.data[0] >= 0.0:
            warning = f"ignored: gripper_command is {list(message.data)}, expected one opening [m]"
            self.get_logger().warning(warning, throttle_duration_sec=5.0)
            return None
        return message.data[0]

    def _publish_state(self, stamp_ns: int) -> None:
        scene, base = self._scene, self.settings.base_frame
        pose = scene.tool_pose()
        self._pose_publisher.publish(conversions.from_pose_stamped(pose, base, stamp_ns))
        joints = JointState(header=Header(stamp=conversions.to_stamp(stamp_ns)), name=list(scene.joint_names))
        joints.position = [float(value) for value in scene.joint_positions()]
        joints.velocity = [float(value) for value in scene.joint_velocities()]
        self._joint_publisher.publish(joints)
        if self._tf_publisher:
            frames = {self.settings.tool_frame: pose}
            frames.update({optical_frame(name): scene.camera_pose(name) for name in CAMERAS})
            self._publish_tf(frames, stamp_ns)

    def _publish_tf(self, frames: dict[str, Pose], stamp_ns: int) -> None:
        if self._tf_publisher is None:
            return
        transforms = [_transform(frame, self.settings.base_frame, at, stamp_ns) for frame, at in frames.items()]
        self._tf_publisher.publish(self._tf_message(transforms=transforms))

    def _publish_images(self, stamp_ns: int) -> None:
        stamp = conversions.to_stamp(stamp_ns)
        for name, (image_publisher, info_publisher) in self._camera_publishers.items():
            image = self._scene.render(name)
            image_publisher.publish(conversions.from_rgb(image, optical_frame(name), stamp_ns))
            self._infos[name].header.stamp = stamp
            info_publisher.publish(self._infos[name])
        positions, quaternions = self._scene.object_positions(), self._scene.object_quaternions()
        placed = {name: Pose(positions[name], quaternions[name]) for name in OBJECTS}
        objects = PoseArray(header=Header(stamp=stamp, frame_id=self.settings.base_frame))
        objects.poses = [conversions.from_pose(pose) for pose in placed.values()]
        self._object_publisher.publish(objects)
        if self._tf_publisher:  # for viewers
            frames = {object_frame(name): pose for name, pose in placed.items()}
            self._publish_tf({**frames, **self._scene.link_poses()}, stamp_ns)

    def _on_set_parameters(self, changes: list) -> SetParametersResult:
        """The seed may be set at any time, for the next reset; the rest is read at the start."""
        known = {parameter.name: parameter for parameter in table(SimParameters)}
        for change in changes:
            if change.name == "seed":
                try:
                    known["seed"].check(change.value)
                except ParameterError as error:
                    return SetParametersResult(successful=False, reason=str(error))
                self._next_seed = change.value
            elif change.name in known:
                reason = f"parameter '{change.name}' is read when the node starts"
                return SetParametersResult(successful=False, reason=reason)
        return SetParametersResult(successful=True)

    def _on_reset(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        """A new scene; commands from before are forgotten."""
        seed, self._next_seed = self._next_seed, self._next_seed + 1
        self._scene.reset(seed)
        self._target_inbox.take()
        self._gripper_inbox.take()
        self._last = time.perf_counter()
        self.get_logger().info(f"reset: scene {seed}")
        response.success, response.message = True, f"scene {seed}"
        return response


def optical_frame(camera: str) -> str:
    """Frame id of a camera's images."""
    return f"{camera}_camera_optical_frame"


def object_frame(name: str) -> str:
    """Frame id of one of OBJECTS."""
    return f"{name}_object"


def _transform(child: str, parent: str, pose: Pose, stamp_ns: int) -> TransformStamped:
    message = TransformStamped(header=Header(stamp=conversions.to_stamp(stamp_ns), frame_id=parent))
    message.child_frame_id = child
    placed = conversions.from_pose(pose)
    message.transform.translation = Vector3(x=placed.position.x, y=placed.position.y, z=placed.position.z)
    message.transform.rotation = placed.orientation
    return message


def main(args=None) -> int:
    """Entry point."""
    return run(SimNode, args, refusals=(ParameterError, RenderError))


if __name__ == "__main__":
    leave(main())
