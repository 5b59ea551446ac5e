"""The faults of the three processes: each is stopped, killed and asked for what does not fit; its inputs are spoilt."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from rclpy.parameter import Parameter
from sensor_msgs.msg import CameraInfo, Image, JointState
from std_srvs.srv import Trigger

from faults.injections import Fault, Inject, clock, doing, instruct, jump_clock, setting
from faults.system import TASK, System
from faults.table import INF, LONG, NAN
from grids_ros.datatypes import CAMERAS

STARTS = 400  # turns that a process is given to start


def changed(change: Callable[[Image], object], camera: str = "") -> Inject:
    """Every image, or those of one camera, changed in place; `change` may return False to keep it back."""

    def each(message: Image) -> Image | None:
        if camera and not message.header.frame_id.startswith(camera):
            return message
        return None if change(message) is False else message

    return setting(change_image=each)


def image(**attributes) -> Inject:
    """Every image with these attributes."""
    return changed(lambda message: [setattr(message, name, value) for name, value in attributes.items()])


def fingers(*values: float) -> Inject:
    """joint_states with these positions of the fingers alone."""

    def change(message: JointState) -> JointState:
        message.name, message.velocity = ["fr3_finger_joint1", "fr3_finger_joint2"], []
        message.position = list(values)
        return message

    return setting(change_joints=change)


def _cut(message: Image) -> None:
    message.data = message.data[:100]


def _shifted(seconds: int) -> Callable[[Image], None]:
    def change(message: Image) -> None:
        message.header.stamp.sec += seconds

    return change


def _absurd_camera(message: CameraInfo) -> CameraInfo:
    message.k = [1e38, 0.0, -1.7e308, 0.0, 5e-324, NAN, 0.0, 0.0, INF]
    return message


def asked(node: str, *numbers: int, after: tuple[int, ...] = ()) -> Inject:
    """Lifecycle requests to a node, and those after the fault."""
    return doing(
        lambda rig: [rig.ask(node, number) for number in numbers],
        lambda rig: [rig.ask(node, number) for number in after],
    )


def _set(node: str, name: str, value) -> Inject:
    """A parameter of a node."""
    return doing(lambda rig: rig.set_on(node, Parameter(name, value=value)))


def stopped(part: str) -> Inject:
    """SIGSTOP, and SIGCONT afterwards."""
    return doing(
        lambda rig: rig.processes[part].send_signal(signal.SIGSTOP),
        lambda rig: rig.processes[part].send_signal(signal.SIGCONT),
    )


def ended(part: str, number: int) -> Inject:
    """A process that a signal ends, started again afterwards."""

    @contextmanager
    def inject(rig: System) -> Iterator[None]:
        rig.processes[part].send_signal(number)
        rig.wait(lambda: rig.processes[part].poll() is not None, f"the end of the {part} process")
        yield
        rig.start()

    return inject


@contextmanager
def shut_down(rig: System) -> Iterator[None]:
    """The policy's last transition; then another process."""
    rig.ask("policy", 7)
    yield
    rig.processes["policy"].terminate()
    rig.wait(lambda: rig.processes["policy"].poll() is not None, "the end of the policy process")
    rig.start()


def reset(rig: System) -> None:
    """The arm is somewhere else at once."""
    rig.call(Trigger, "reset", Trigger.Request())


def kept_back(message) -> None:
    return None


of_policy, of_camera = partial(Fault, "policy", turns=300), partial(Fault, "camera", turns=300)
of_sim, of_follower = partial(Fault, "arm process", turns=200), partial(Fault, "follower process", turns=200)
of_fingers, of_clock = partial(Fault, "fingers", turns=300), partial(Fault, "three clocks", turns=200)
of_words = partial(Fault, "words", turns=200)

PROCESSES: tuple[Fault, ...] = (
    of_camera("an encoding that does not exist", image(encoding="nonsense"), "nonsense"),
    of_camera("an image of 0 by 0", image(height=0, width=0), "0x0"),
    of_camera("an image of 60,000 by 60,000", image(height=60_000, width=60_000), "60000x60000"),
    of_camera("an image that ends early", changed(_cut), "holds 100 bytes"),
    of_camera("a step of 3 bytes", image(step=3), "step is 3 bytes"),
    of_camera("images 10 s in the future", changed(_shifted(10)), "future"),
    of_camera("images 10 s old", changed(_shifted(-10)), "old"),
    of_camera("no images", changed(lambda message: False), "old"),
    of_camera("one camera is dead", changed(lambda message: False, CAMERAS[1]), f"camera {CAMERAS[1]!r}"),
    of_camera("one camera sends nonsense", changed(_cut, CAMERAS[0]), "holds 100 bytes"),
    of_camera("a matrix of absurd numbers", setting(change_info=_absurd_camera), "", False),
    of_fingers("NaN", fingers(NAN, 0.04), "NaN"),
    of_fingers("1.7e308", fingers(1.7e308, 1.7e308), "joint_states"),
    of_fingers("in percent", fingers(40.0, 40.0), "percent"),
    of_fingers("one without a position", fingers(0.04), "positions"),
    of_fingers("none any more", setting(change_joints=kept_back), "old"),
    of_words("special tokens", instruct(f"{TASK} <image><eos><loc0001>"), "", False),
    of_words("100,000 letters", instruct(LONG), "", False),
    of_words("none", instruct(""), "instruction is empty"),
    of_words("control characters", instruct("\x00\x1b[2J\ufffe\r\n"), "", False),
    of_policy("activate when active", asked("policy", 3), "", False),
    of_policy("clean up and configure when active", asked("policy", 2, 1), "", False),
    of_policy("a transition that does not exist", asked("policy", 99, 255), "", False),
    of_policy("deactivated, activated", asked("policy", 4, after=(3,)), "inactive"),
    of_policy("cleaned up, configured, activated", asked("policy", 4, 2, after=(1, 3)), "unconfigured"),
    of_policy("shut down", shut_down, "shut down"),
    of_policy("tokens of a number that it has not", _set("policy", "tokens", 7), "", False),
    of_policy("SIGSTOP, SIGCONT", stopped("policy"), "chunk ended"),
    of_policy("SIGKILL, started again", ended("policy", signal.SIGKILL), "chunk ended"),
    of_policy("SIGTERM, started again", ended("policy", signal.SIGTERM), "chunk ended"),
    of_policy("SIGINT, started again", ended("policy", signal.SIGINT), "chunk ended"),
    of_sim("SIGSTOP, SIGCONT", stopped("sim"), "stood still", turns=300),
    of_sim("SIGKILL, started again", ended("sim", signal.SIGKILL), "stood still", turns=300),
    of_sim("SIGTERM, started again", ended("sim", signal.SIGTERM), "stood still", turns=300),
    of_sim("silent while its clock goes on", setting(change_pose=lambda message, turn: None), "current_pose"),
    of_sim("reset in motion", doing(reset), "current_pose jumped"),
    of_sim("a seed that is none", _set("sim", "seed", -1), "", False),
    of_sim("a rate, live", _set("sim", "rate_hz", 10.0), "", False),
    of_follower("SIGSTOP, SIGCONT", stopped("follower"), "", False),
    of_follower("SIGKILL, started again", ended("follower", signal.SIGKILL), "", False),
    of_follower("SIGTERM, started again", ended("follower", signal.SIGTERM), "the process is ending", False),
    of_follower("activate when active", asked("follower", 3), "", False),
    of_follower("deactivated, activated", asked("follower", 4, after=(3,)), "inactive", False),
    of_follower("cleaned up, configured, activated", asked("follower", 4, 2, after=(1, 3)), "unconfigured", False),
    of_clock("stands still", setting(change_clock=lambda now_ns: None), "stood still", turns=320),
    of_clock("negative", clock(-5), "/clock is -5 s, expected 0 to 2^31 s"),
    of_clock("zero", clock(0), ""),
    of_clock("back by 10 s", jump_clock(-10.0), "the clock went back", False),
    of_clock("forward by 1000 s", jump_clock(1000.0), "", False),
)
