"""What a fault is, and the ways to inject one."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import rclpy
from builtin_interfaces.msg import Time
from geometry_msgs.msg import PoseStamped
from lifecycle_msgs.srv import ChangeState
from rclpy.context import Context
from rclpy.node import Node
from rclpy.parameter import Parameter
from rosgraph_msgs.msg import Clock
from std_msgs.msg import String

from faults.rig import ROOT, Rig
from grids_ros.datatypes import NANOSECONDS

Inject = Callable[[Rig], object]  # a context manager: the fault lasts as long as its block


@dataclass(frozen=True)
class Fault:
    """One row.

    said: a part of what /diagnostics say meanwhile; empty: nothing is expected. holds: the target must come to rest.
    turns: how long the fault lasts, in hundredths of a second of the driver's clock. ends: the process ends.
    quick: part of `make test`.
    """

    kind: str
    name: str
    inject: Inject
    said: str = ""
    holds: bool = True
    turns: int = 170
    ends: bool = False
    quick: bool = False


# --- injections --------------------------------------------------------------------------------------------------


def setting(**attributes) -> Inject:
    """Attributes of the rig, set meanwhile."""

    @contextmanager
    def inject(rig: Rig) -> Iterator[None]:
        for name, value in attributes.items():
            setattr(rig, name, value)
        yield
        rig.restore()

    return inject


def chunk(change: Callable) -> Inject:
    """Every chunk, changed: change(poses, gripper)."""
    return setting(change_chunk=change)


def pose(change: Callable) -> Inject:
    """Every measured pose, changed: change(message)."""

    def changed(message: PoseStamped, turn: int) -> PoseStamped:
        change(message)
        return message

    return setting(change_pose=changed)


def pose_at(change: Callable, when: Callable[[int], bool]) -> Inject:
    """Some measured poses, changed: those whose number since the begin of the fault is so."""

    @contextmanager
    def inject(rig: Rig) -> Iterator[None]:
        first = rig.turns + 1

        def changed(message: PoseStamped, turn: int) -> PoseStamped:
            if when(turn - first):
                change(message)
            return message

        rig.change_pose = changed
        yield
        rig.restore()

    return inject


def clock(sec: int, nanosec: int = 0) -> Inject:
    """Such a time on /clock."""
    return setting(change_clock=lambda now_ns: Clock(clock=Time(sec=sec, nanosec=nanosec)))


@contextmanager
def jumped_clock(rig: Rig, by_s: float) -> Iterator[None]:
    rig.jump(round(by_s * NANOSECONDS))
    yield


def jump_clock(by_s: float) -> Inject:
    return lambda rig: jumped_clock(rig, by_s)


def doing(action: Callable[[Rig], object], after: Callable[[Rig], object] | None = None) -> Inject:
    """Something that is done once, and what is done at the end."""

    @contextmanager
    def inject(rig: Rig) -> Iterator[None]:
        action(rig)
        yield
        if after is not None:
            after(rig)

    return inject


def publishing(message_type, topic: str, profile, message=None, every: int = 1, copies: int = 1) -> Inject:
    """Another node that publishes a message, bytes, or nothing on a topic. message may be made from the rig."""

    @contextmanager
    def inject(rig: Rig) -> Iterator[None]:
        context = Context()
        rclpy.init(context=context, domain_id=rig.context.get_domain_id())
        node = Node("intruder", context=context)
        made = [node.create_publisher(message_type, topic, profile) for _ in range(copies)]

        def each_turn() -> None:
            if message is not None and rig.turns % every == 0:
                for publisher in made:
                    publisher.publish(message(rig) if callable(message) else message)

        rig.each_turn = each_turn
        yield
        rig.restore()
        node.destroy_node()
        rclpy.shutdown(context=context)

    return inject


@contextmanager
def second_follower(rig: Rig) -> Iterator[None]:
    """The follower, started twice."""
    options = ["--ros-args", "-p", "autostart:=true", "-p", "use_sim_time:=true"]
    command = [sys.executable, "-m", "grids_ros.ros.follower_node", *options]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    yield
    process.terminate()
    process.wait(30)


def transitions(*numbers: int, label: str = "") -> Inject:
    """Requests for these transitions, one after the other."""
    return doing(lambda rig: [rig.transition(number, label) for number in numbers])


@contextmanager
def deactivated(rig: Rig) -> Iterator[None]:
    rig.transition(4)
    yield
    rig.transition(3)


@contextmanager
def cleaned_up(rig: Rig) -> Iterator[None]:
    for number in (4, 2):
        rig.transition(number)
    yield
    for number in (1, 3):
        rig.transition(number)


@contextmanager
def crowd(rig: Rig) -> Iterator[None]:
    """Four requests at once."""
    client = rig.node.create_client(ChangeState, "grids_follower/change_state")
    rig.wait(client.service_is_ready, "change_state")
    futures = []
    for number in (1, 2, 3, 3):
        request = ChangeState.Request()
        request.transition.id = number
        futures.append(client.call_async(request))
    rig.wait(lambda: all(future.done() for future in futures), "answers")
    rig.node.destroy_client(client)
    yield


def instruct(*texts: str) -> Inject:
    """These instructions in turn; a good one at the end."""

    @contextmanager
    def inject(rig: Rig) -> Iterator[None]:
        def each_turn() -> None:
            if rig.turns % 10 == 0:
                rig.instruction.publish(String(data=texts[rig.turns // 10 % len(texts)]))

        each_turn() if rig.turns % 10 == 0 else rig.instruction.publish(String(data=texts[0]))
        rig.each_turn = each_turn
        yield
        rig.restore()
        rig.instruction.publish(String(data="lift the red cube"))

    return inject


def signalled(*numbers: int) -> Inject:
    return doing(lambda rig: [rig.process.send_signal(number) for number in numbers])


def stopped(rig: Rig):
    return doing(
        lambda rig: rig.process.send_signal(signal.SIGSTOP), lambda rig: rig.process.send_signal(signal.SIGCONT)
    )(rig)


def parameter(name: str, value) -> Inject:
    return doing(lambda rig: rig.set_parameter(Parameter(name, value=value)))
