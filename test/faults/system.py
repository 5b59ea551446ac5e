"""The three processes at work: simulated arm, policy and follower. See processes.py for the faults.

The shipped checkpoint lifts a cube. The driver hands on the arm's clock, what it measures and what its cameras see, so
that a fault can change it on the way; the commands of the follower reach the arm directly.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

from geometry_msgs.msg import PoseStamped
from lifecycle_msgs.srv import ChangeState
from rcl_interfaces.srv import SetParametersAtomically
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, Image, JointState
from std_msgs.msg import String
from std_srvs.srv import Trigger

from faults.measure import moves_after, speed_at_end
from faults.rig import FAST, MOTION_S, RESTART, ROOT, STARTS_S, Rig
from grids_ros.datatypes import CAMERAS
from grids_ros.ros import qos
from grids_ros.ros.conversions import to_ns, to_stamp
from grids_ros.ros.polling import Inbox

CHECKPOINT = ROOT / "models" / "demo"
TASK = "lift the red cube"
PARTS = ("sim", "policy", "follower")
# The arm's clock goes on in steps of up to 0.1 s where the machine is busy, and is handed on.
PATIENT = ("use_sim_time:=true", "autostart:=true", "pose_max_age_s:=0.3", "max_future_s:=0.3")
SETTINGS = {
    "sim": ("camera_rate_hz:=10.0", "publish_clock:=true"),
    "policy": (*PATIENT, "camera_max_age_s:=[0.6]", f"checkpoint:={CHECKPOINT}", "threads:=1"),
    "follower": PATIENT,
}
TRIES = 4  # scenes, until one brings the arm into motion


class System(Rig):
    """Call `turn` as a Rig's. `processes`: of the PARTS, by name; `process` is the follower's."""

    def __init__(self, log: Path):
        super().__init__(log)
        self.node.destroy_publisher(self.poses)
        self.node.destroy_publisher(self.gripper)
        self.processes: dict[str, subprocess.Popen] = {}
        images = [(Image, f"camera/{name}/image_raw", qos.IMAGES) for name in CAMERAS]
        infos = [(CameraInfo, f"camera/{name}/camera_info", qos.IMAGES) for name in CAMERAS]
        relayed = [
            *images,
            *infos,
            (JointState, "joint_states", qos.MEASURED),
            (PoseStamped, "current_pose", qos.NEWEST),
        ]
        self._remapped = ["/clock:=arm/clock", *(f"{topic}:=arm/{topic}" for _, topic, _ in relayed)]
        self._arm_clock = Inbox(self.node, Clock, "arm/clock", qos.CLOCK)
        self._offset_ns = 0  # of the clock that all hear from that of the arm
        self._relays = [self._relay(*each) for each in relayed]

    def _relay(self, kind, topic: str, profile) -> tuple:
        """What the arm says on a topic, and where the others hear it."""
        inbox = Inbox(self.node, kind, f"arm/{topic}", profile)
        return inbox, self.pose if topic == "current_pose" else self.node.create_publisher(kind, topic, qos.MEASURED)

    def restore(self) -> None:
        super().restore()
        self.change_image: Callable | None = None  # of Image; None keeps it back
        self.change_joints: Callable | None = None  # of JointState
        self.change_info: Callable | None = None  # of CameraInfo

    def start(self) -> None:
        """Whichever of the three processes does not run."""
        for part in PARTS:
            if not self._runs(part):
                self.start_part(part)
        self.say(TASK)
        seen = len(self.said)
        self.wait(lambda: any(text == "publishing chunks" for text in self.said[seen:]), "a chunk", 2 * STARTS_S)

    def start_part(self, part: str) -> None:
        """One process, anew."""
        remapped = self._remapped if part == "sim" else ()
        self.processes[part] = self._start(f"{part}_node", *SETTINGS[part], remapped=remapped)
        if part == "follower":
            self.process = self.processes[part]
            self.count_anew()

    def _runs(self, part: str) -> bool:
        return part in self.processes and self.processes[part].poll() is None

    def running(self) -> bool:
        return all(self._runs(part) for part in PARTS)

    def problems(self) -> list[str]:
        codes = {part: process.poll() for part, process in self.processes.items()}
        return [f"the {part} process ended with {code}" for part, code in codes.items() if code is not None]

    def hears(self, name: str) -> bool:
        return name.endswith(("grids_follower", "grids_policy"))

    def say(self, instruction: str) -> None:
        """An instruction to all."""
        self.instruction.publish(String(data=instruction))

    def is_active(self, seen: int) -> bool:
        """The follower follows a chunk of the policy."""
        return any(text.startswith("following") for text in self.said[seen:])

    def prepare(self) -> None:
        """A new scene, and the arm in full motion towards the cube. Raises TimeoutError."""
        for _ in range(TRIES - 1):
            self.new_scene()
            try:
                self._speed_up()
                return
            except TimeoutError:
                continue  # this scene's cube is near the arm
        self.new_scene()
        self._speed_up()

    def _speed_up(self) -> None:
        seen = len(self.said)
        fast = lambda: self.is_active(seen) and speed_at_end(self.targets) >= FAST  # noqa: E731
        self.wait(fast, "full motion", MOTION_S / 3)

    def new_scene(self) -> None:
        """The arm is back where it begins. The follower is inactive meanwhile: nothing else may move an arm."""
        self.say("")
        self.transition(4)
        self.hear()
        self._numbers += RESTART  # the next target is where the arm is then
        self.call(Trigger, "reset", Trigger.Request())
        self.transition(3)
        self.say(TASK)

    def resume(self) -> None:
        """The follower follows, and the target moves again; in a new scene where this one is done."""
        ended = self.targets[-1].number
        seen = len(self.said)
        moved = lambda: self.is_active(seen) and moves_after(self.targets, ended) is not None  # noqa: E731
        try:
            self.wait(moved, "motion", MOTION_S / 3)
        except TimeoutError:
            self.prepare()

    def close(self) -> None:
        for process in self.processes.values():
            if process.poll() is None:
                process.terminate()
        for process in self.processes.values():
            process.wait(STARTS_S)
        super().close()

    def ask(self, node: str, number: int):
        """A lifecycle transition of a node."""
        request = ChangeState.Request()
        request.transition.id = number
        return self.call(ChangeState, f"grids_{node}/change_state", request)

    def set_on(self, node: str, parameter):
        """A parameter of a node."""
        request = SetParametersAtomically.Request(parameters=[parameter.to_parameter_msg()])
        return self.call(SetParametersAtomically, f"grids_{node}/set_parameters_atomically", request)

    def jump(self, by_ns: int) -> None:
        self._offset_ns += by_ns

    def _advance(self) -> bool:
        message = self._arm_clock.newest()
        if message is None:
            return False
        self.now_ns = to_ns(message.clock) + self._offset_ns
        return True

    def _publish_pose(self) -> None:
        """Hand on what the arm has said."""
        changes = {Image: self.change_image, CameraInfo: self.change_info, JointState: self.change_joints}
        for inbox, publisher in self._relays:
            change = changes.get(inbox.message_type)
            if inbox.message_type is PoseStamped and self.change_pose is not None:
                change = lambda message: self.change_pose(message, self.turns)  # noqa: E731
            for message in inbox.take():
                message.header.stamp = to_stamp(to_ns(message.header.stamp) + self._offset_ns)
                changed = change(message) if change is not None else message
                if changed is not None:
                    publisher.publish(changed)

    def _publish_chunk(self) -> None:
        """Chunks come from the policy."""
