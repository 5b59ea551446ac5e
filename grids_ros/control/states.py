"""The follower's four states and the one transition per tick, as pure functions: no clock, no memory of their own.

    Silent      nothing has been commanded yet: no target goes out
    Following   a chunk is followed within the limits
    Holding     the command brakes within the limits, then repeats its pose
    Relocating  the clock went back: the command brakes, until a pose of the new time says where the arm is

`tick` takes a state and the `Inputs` of an instant to the next state and the command. A chunk enters by `accepted`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from grids_ros.control.config import FollowerConfig
from grids_ros.control.limits import Motion, brake, follow
from grids_ros.control.measurement import Measurement
from grids_ros.control.reasons import Hold, HoldCause
from grids_ros.control.trajectory import Join, gripper_at
from grids_ros.datatypes import NANOSECONDS, ActionChunk, Pose

REPEAT_NS = NANOSECONDS  # after so long the gripper's command is sent again, for who began to listen later


@dataclass(frozen=True)
class Sent:
    """The last gripper command. opening: between the fingers [m]. at_ns: when it was sent."""

    opening: float
    at_ns: int


@dataclass(frozen=True, eq=False)
class Silent:
    """Nothing has been commanded yet. chunk: followed from the first tick that nothing forbids.

    last: the target of an earlier activation. The first command continues there if the arm is still near it.
    """

    chunk: ActionChunk | None = None
    last: Pose | None = None
    motion = None


@dataclass(frozen=True, eq=False)
class Following:
    """motion: the command of the last tick, at `tick_ns`. goal: the pose of `join` at that tick, before the limits.

    gripper: the command that was sent last, if one was.
    """

    motion: Motion
    join: Join
    goal: Pose
    tick_ns: int
    gripper: Sent | None

    @property
    def chunk(self) -> ActionChunk:
        return self.join.chunk


@dataclass(frozen=True, eq=False)
class Holding:
    """motion: the command of the last tick, braking or at rest. chunk: followed again when nothing forbids it any more.

    gripper: as in Following. None after a requested hold, and after a fault such as a second publisher of its command:
    somebody may have moved the hand meanwhile.
    """

    motion: Motion
    chunk: ActionChunk | None = None
    gripper: Sent | None = None


@dataclass(frozen=True, eq=False)
class Relocating:
    """motion: the command of the last tick, braking or at rest. chunk: one that came since the clock went back."""

    motion: Motion
    chunk: ActionChunk | None = None


State = Silent | Following | Holding | Relocating


@dataclass(frozen=True, eq=False)
class Inputs:
    """What the follower knows at one tick, beside its state.

    measured: the newest measured pose. request: why somebody wants a hold; empty: nobody does. fault: why nothing may
    be followed at this instant although nobody asked for a hold (the clock, a second publisher); empty: nothing.
    """

    now_ns: int
    measured: Measurement | None
    request: str = ""
    fault: str = ""


@dataclass(frozen=True, eq=False)
class Command:
    """What to tell the arm at one tick.

    pose: the target of the tool frame in the base frame. gripper: opening to send now [m], or None for nothing.
    hold: why no chunk is followed; None while one is. wanted: the pose of the chunk, before the limits; None in a hold.
    """

    pose: Pose
    gripper: float | None = None
    hold: Hold | None = None
    wanted: Pose | None = None

    @property
    def holding(self) -> bool:
        """No chunk is followed: the pose comes to rest, and then is the same again."""
        return self.hold is not None

    @property
    def reason(self) -> str:
        """Why it holds, in words; empty while a chunk is followed."""
        return self.hold.reason if self.hold else ""


def accepted(state: State, chunk: ActionChunk, config: FollowerConfig) -> State:
    """The state in which `chunk` has replaced whatever was followed.

    A command in motion belongs to the last tick: joined there, the next tick goes on instead of standing still.
    """
    if not isinstance(state, Following):
        return replace(state, chunk=chunk)
    join = Join.enter(chunk, state.motion.pose, state.tick_ns, config.fade_s)
    return replace(state, join=join, goal=join.at(state.tick_ns))


def dropped(state: State) -> State:
    """The state after a requested hold: no chunk is left, and nothing is known of the hand."""
    if isinstance(state, Following):
        return Holding(state.motion)
    if isinstance(state, Holding):
        return Holding(state.motion)
    return replace(state, chunk=None)


def clock_went_back(state: State) -> State:
    """The state after a clock that went back: a looped bag, a restarted simulation.

    Every earlier stamp is without meaning, the arm and the hand may be other ones.
    """
    return Silent() if isinstance(state, Silent) else Relocating(state.motion)


def tick(state: State, inputs: Inputs, config: FollowerConfig) -> tuple[State, Command | None, Hold | None]:
    """The next state, its command, and why no chunk is followed. No command means silence."""
    if isinstance(state, Relocating):
        return _relocate(state, inputs, config)
    hold = reason_to_hold(state, inputs, config)
    if hold is None:
        assert state.chunk is not None and inputs.measured is not None  # or that were the reason
        following, command = _follow(state, state.chunk, inputs.now_ns, inputs.measured.pose, config)
        return following, command, None
    if isinstance(state, Silent):
        return state, None, hold
    gripper = None if hold.cause is HoldCause.FAULT else state.gripper
    holding = Holding(brake(state.motion, config.limits, config.period_s), state.chunk, gripper)
    if hold.cause is HoldCause.TRACKING_ERROR and not config.arm_obeys and holding.motion.resting:
        return Silent(state.chunk), None, hold
    return holding, Command(holding.motion.command, hold=hold), hold


def reason_to_hold(state: State, inputs: Inputs, config: FollowerConfig) -> Hold | None:
    """Why no chunk may be followed; None if one may."""
    if inputs.request:
        return Hold(HoldCause.REQUESTED, inputs.request)
    if inputs.fault:
        return Hold(HoldCause.FAULT, inputs.fault)
    measured = inputs.measured
    hold = config.chunk_hold(state.chunk, inputs.now_ns) or config.measurement_hold(measured, inputs.now_ns)
    if hold is None and state.motion is not None and measured is not None:
        return config.tracking_hold(state.motion.command, measured.pose)
    return hold


def _relocate(state: Relocating, inputs: Inputs, config: FollowerConfig) -> tuple[State, Command | None, Hold | None]:
    hold = Hold(HoldCause.CLOCK_WENT_BACK, "the clock went back")
    motion = brake(state.motion, config.limits, config.period_s)
    measured = inputs.measured
    if measured is None or config.measurement_hold(measured, inputs.now_ns) or not state.motion.resting:
        return replace(state, motion=motion), Command(motion.command, hold=hold), hold
    if config.tracking_hold(motion.command, measured.pose):
        return tick(Silent(state.chunk), inputs, config)
    return tick(Holding(motion, state.chunk), inputs, config)


def _follow(
    state: Silent | Following | Holding, chunk: ActionChunk, now_ns: int, measured: Pose, config: FollowerConfig
) -> tuple[Following, Command]:
    if not isinstance(state, Following):
        state = _begin(state, chunk, now_ns, measured, config)
    goal = state.join.at(now_ns)
    left_s = (config.ends_ns(chunk) - now_ns) / NANOSECONDS
    motion = follow(state.motion, state.goal, goal, measured, config.limits, config.period_s, left_s)
    sent = _to_send(gripper_at(chunk, now_ns), state.gripper, now_ns, config)
    gripper = state.gripper if sent is None else Sent(sent, now_ns)
    return Following(motion, state.join, goal, now_ns, gripper), Command(motion.command, sent, wanted=goal)


def _to_send(wanted: float, last: Sent | None, now_ns: int, config: FollowerConfig) -> float | None:
    """The opening to send now [m]: on change, and again after `REPEAT_NS`; None: nothing."""
    if last is None:
        return config.gripper.command(wanted, None)
    changed = config.gripper.command(wanted, last.opening)
    return last.opening if changed is None and now_ns - last.at_ns >= REPEAT_NS else changed


def _begin(
    state: Silent | Holding, chunk: ActionChunk, now_ns: int, measured: Pose, config: FollowerConfig
) -> Following:
    """Enter the chunk now, from where the command is: what was missed while holding is not made up in one leap."""
    if isinstance(state, Silent):
        start, gripper = measured, None
        if state.last is not None and config.tracking_hold(state.last, measured) is None:
            start = state.last
        motion = Motion.at_rest(start, config.averaged)
    else:
        motion, gripper = state.motion, state.gripper
    join = Join.enter(chunk, motion.pose, now_ns, config.fade_s)
    return Following(motion, join, join.at(now_ns), now_ns, gripper)
