"""The faults: what is injected into a follower in full motion, and what it must do. Add a row to add a fault."""

from __future__ import annotations

import signal
from functools import partial

from geometry_msgs.msg import PoseStamped
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rosgraph_msgs.msg import Clock
from std_msgs.msg import Float64MultiArray, String
from trajectory_msgs.msg import JointTrajectory, MultiDOFJointTrajectory

from faults.changes import (
    at,
    clock_ahead,
    displaced_pose,
    each,
    frame,
    honest_pose,
    jittering_clock,
    joints,
    moved,
    no_transforms,
    one_ns_off,
    opening,
    orientation,
    points,
    pose_frame,
    pose_stamp,
    position,
    quaternions,
    stamp,
    times,
    turned,
    two_transforms,
    velocities,
)
from faults.injections import (
    Fault,
    chunk,
    cleaned_up,
    clock,
    crowd,
    deactivated,
    doing,
    instruct,
    jump_clock,
    parameter,
    pose,
    pose_at,
    publishing,
    second_follower,
    setting,
    signalled,
    stopped,
    transitions,
)
from grids_ros.ros import qos

NAN, INF = float("nan"), float("inf")
of_chunk, of_pose, of_text = partial(Fault, "chunk"), partial(Fault, "pose"), partial(Fault, "instruction")
of_arm, of_hold = partial(Fault, "arm"), partial(Fault, "hold")
DISCOVERY = 400  # until another process is known to the follower
ENDING = "the process is ending"
LONG = "x" * 100_000
MASK = 2**31 - 1
SPURIOUS = b"\x00\x01\x00\x00" + b"\xff" * 64
CHUNK, GRIPPER = (MultiDOFJointTrajectory, "action_chunk"), (JointTrajectory, "gripper_chunk")
LOOSE = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)


def _numbers() -> list[Fault]:
    rows = []
    for label, value, said in (
        ("NaN", NAN, "NaN"),
        ("infinity", INF, "inf"),
        ("-infinity", -INF, "inf"),
        ("1e38", 1e38, "1e+38 m, expected at most 100 m"),
        ("-1.7e308", -1.7e308, "1.7e+308 m"),
        ("150 m", 150.0, "150 m, expected at most 100 m"),
    ):
        for step in (0, 11):
            quick = label in ("NaN", "1e38") and step == 0
            name = f"{label} in x of step {step}"
            rows.append(Fault("chunk", name, chunk(at(step, "translation", "x", value)), said, quick=quick))
    for label, value in (("NaN", NAN), ("1e200", 1e200), ("2", 2.0)):
        rows.append(Fault("chunk", f"{label} in a quaternion", chunk(at(3, "rotation", "w", value)), "chunk refused"))
    for label, value, said in (
        ("NaN", NAN, "NaN"),
        ("1e38", 1e38, "1e+38 m"),
        ("80 (percent)", 80.0, "percent"),
        ("-1.7e308", -1.7e308, "1.7e+308"),
    ):
        rows.append(Fault("chunk", f"{label} as an opening", chunk(opening(value)), said))
    return rows


def _chunks() -> list[Fault]:
    return [
        of_chunk("denormals in y", chunk(each("translation", "y", lambda v, i: 5e-324)), holds=False),
        of_chunk("denormal openings", chunk(opening(5e-324)), holds=False),
        of_chunk("zeros as quaternions", chunk(quaternions(lambda i: (0, 0, 0, 0))), "not normalised"),
        Fault(
            "chunk", "quaternions that flip their sign", chunk(quaternions(lambda i: ((-1) ** i, 0, 0, 0))), "", False
        ),
        of_chunk("half a turn in one step", chunk(quaternions(lambda i: (i % 2, (i + 1) % 2, 0, 0))), "", False),
        of_chunk("millimetres", chunk(each("translation", "x", lambda v, i: 1000 * v)), "are these millimetres?"),
        of_chunk("99 m away", chunk(each("translation", "x", lambda v, i: 99.0)), "", False),
        of_chunk("zeros as positions", chunk(each("translation", "x", lambda v, i: 0.0)), "", False),
        Fault(
            "chunk",
            "0.2 m back and forth",
            chunk(each("translation", "z", lambda v, i: v + 0.2 * (-1) ** i)),
            "",
            False,
        ),
        of_chunk("1 m in one step", chunk(each("translation", "z", lambda v, i: v + (i > 5))), "", False),
        of_chunk("below the box", chunk(each("translation", "z", lambda v, i: -0.5)), "", False, quick=True),
        of_chunk("above the box", chunk(each("translation", "z", lambda v, i: 2.0)), "", False),
        of_chunk("beside the box", chunk(each("translation", "y", lambda v, i: 2.0)), "", False),
        of_chunk("all steps at one time", chunk(times(lambda i: (0, 100_000_000))), "strictly increasing"),
        of_chunk("times that fall", chunk(times(lambda i: (12 - i, 0))), "strictly increasing"),
        of_chunk("negative times", chunk(times(lambda i: (i - 5, 0))), "strictly increasing"),
        of_chunk("steps 1 ns apart", chunk(times(lambda i: (1, i))), "", False),
        of_chunk("times of 68 years", chunk(times(lambda i: (MASK - 20 + i, 0))), "at most 1000 s"),
        Fault(
            "chunk", "other times for the gripper", chunk(times(lambda i: (i + 1, 0), False)), "same time_from_start"
        ),
        of_chunk("stamps 10 s in the future", chunk(stamp(10)), "in the future"),
        of_chunk("stamps 10 s in the past", chunk(stamp(-10)), "every step has passed"),
        of_chunk("negative stamps", chunk(stamp(-5, absolute=True)), "every step has passed"),
        of_chunk("the last stamp that there is", chunk(stamp(MASK, absolute=True)), "in the future"),
        of_chunk("nanoseconds beyond a second", chunk(stamp(0, 2**32 - 1)), "chunk"),
        of_chunk("the same stamp for ever", chunk(stamp(1000, 0, True)), "chunk"),
        of_chunk("another frame", chunk(frame("camera")), "frame 'camera', expected 'base'"),
        of_chunk("no frame", chunk(frame("")), "frame '', expected 'base'"),
        of_chunk("a frame of 100,000 letters", chunk(frame(LONG)), "(100000 characters)", quick=True),
        of_chunk("another joint", chunk(joints(["left"])), "['left'], expected ['tool']"),
        of_chunk("no joint", chunk(joints([])), "expected ['tool']"),
        of_chunk("a joint of 100,000 letters", chunk(joints([LONG])), "(100000 characters)"),
        of_chunk("no steps", chunk(points(0)), "at least one step"),
        of_chunk("one step", chunk(points(1)), "", False),
        of_chunk("1,001 steps", chunk(points(1001)), "1001 steps, at most 1000 are taken", quick=True),
        of_chunk("10,000 steps", chunk(points(10_000)), "bytes, at most 512000 are taken"),
        of_chunk("a million joints", chunk(joints(["a"] * 1_000_000)), "bytes, at most 512000 are taken"),
        of_chunk("more openings than poses", chunk(points(12, 13)), "same time_from_start"),
        of_chunk("fewer openings than poses", chunk(points(12, 3)), "same time_from_start"),
        of_chunk("two transforms in a step", chunk(two_transforms), "exactly one transform"),
        of_chunk("a step without a transform", chunk(no_transforms), "exactly one transform"),
        of_chunk("velocities as well", chunk(velocities), "", False),
        Fault(
            "chunk", "gripper_chunk is missing", setting(send_gripper=False), "without its gripper_chunk", quick=True
        ),
        of_chunk("action_chunk is missing", setting(send_poses=False), "without its action_chunk"),
        of_chunk("gripper_chunk 1 ns off", chunk(one_ns_off), "expected the same stamp"),
        of_chunk("100 chunks a second", setting(chunk_every=1), "", False),
        of_chunk("no chunks any more", setting(send_poses=False, send_gripper=False), "chunk ended", quick=True),
        of_chunk(
            "bytes that are none", publishing(*CHUNK, qos.CHUNK, SPURIOUS, 10), "publishers", False, turns=DISCOVERY
        ),
        of_chunk("a second policy", publishing(*CHUNK, qos.CHUNK), "2 publishers", turns=DISCOVERY),
        of_chunk("a second policy, gripper only", publishing(*GRIPPER, qos.CHUNK), "2 publishers", turns=DISCOVERY),
        Fault(
            "chunk",
            "a publisher without a lease",
            publishing(*CHUNK, qos.COMMAND),
            "QoS that does not match",
            False,
            turns=DISCOVERY,
        ),
        of_chunk(
            "a best-effort publisher", publishing(*CHUNK, LOOSE), "QoS that does not match", False, turns=DISCOVERY
        ),
        Fault(
            "chunk",
            "another type",
            publishing(String, "action_chunk", qos.COMMAND),
            "expected trajectory_msgs",
            False,
            turns=DISCOVERY,
        ),
    ]


def _poses() -> list[Fault]:
    once, other, third = (lambda n: 5 <= n < 8), (lambda n: n % 2 == 0), (lambda n: n % 3 == 0)
    rows = [
        of_pose(f"{label} in y", pose(position("y", value)), said, turns=60, quick=label == "1.7e308")
        for label, value, said in (
            ("NaN", NAN, "NaN"),
            ("infinity", INF, "inf"),
            ("1e38", 1e38, "1e+38 m"),
            ("1.7e308", 1.7e308, "1.7e+308 m"),
            ("450 (millimetres)", 450.0, "are these millimetres?"),
        )
    ]
    rows += [
        of_pose("denormals in z", pose(position("z", 5e-324)), "from the target", turns=60),
        of_pose("zeros as a quaternion", pose(orientation(0.0, 0.0, 0.0, 0.0)), "not normalised", turns=60),
        of_pose("NaN in a quaternion", pose(orientation(NAN, 0.0, 0.0, 0.0)), "NaN", turns=60),
        of_pose("1e200 in a quaternion", pose(orientation(1e200, 0.0, 0.0, 0.0)), "not normalised", turns=60),
        of_pose(
            "degrees for radians in a quaternion",
            pose(orientation(57.0, 0.0, 0.0, 0.0)),
            "not normal",
            turns=60,
        ),
        of_pose("another frame", pose(pose_frame("world")), "frame 'world'", turns=60),
        of_pose("no frame", pose(pose_frame("")), "frame ''", turns=60),
        of_pose("a frame of 100,000 letters", pose(pose_frame(LONG)), "(100000 characters)", turns=60),
        of_pose("5 s in the future", pose(pose_stamp(add=5)), "future", turns=60),
        of_pose("5 s in the past", pose(pose_stamp(add=-5)), "old", turns=60),
        of_pose("negative stamps", pose(pose_stamp(sec=-7)), "old", turns=60),
        of_pose("zero stamps", pose(pose_stamp(sec=0, nanosec=0)), "old", turns=60),
        of_pose("the last stamp that there is", pose(pose_stamp(sec=MASK)), "future", turns=60),
        of_pose("none any more", setting(change_pose=lambda message, turn: None), "old", turns=60, quick=True),
        of_pose("every fifth only", pose_at(pose_stamp(add=-5), lambda n: n % 5 > 0), "old", False, 60),
        of_pose("0.3 m away, for 30 ms", pose_at(moved(z=0.3), once), "m", turns=60, quick=True),
        of_pose("1 m away, for 30 ms", pose_at(moved(x=1.0), once), "m", turns=60),
        of_pose("0.085 m away, for 30 ms", pose_at(moved(z=0.085), once), "jumped", turns=60),
        of_pose("0.3 m away, every other", pose_at(moved(z=0.3), other), "jumped", turns=100, quick=True),
        of_pose("1 m away, every other", pose_at(moved(x=1.0), other), "jumped", turns=100),
        of_pose("1 m away, every third", pose_at(moved(y=1.0), third), "jumped", turns=100),
        of_pose("0.3 m away", pose(moved(z=0.3)), "from the target", turns=100),
        of_pose("1 m away", pose(moved(y=-1.0)), "from the target", turns=100),
        of_pose("turned by 1.5 rad, for 30 ms", pose_at(turned(1.5), once), "rad", turns=60),
        of_pose("turned by 0.4 rad, every other", pose_at(turned(0.4), other), "jumped", turns=100),
        of_pose("turned by 1.5 rad", pose(turned(1.5)), "rad from the target", turns=100),
        of_pose(
            "a second publisher, elsewhere",
            publishing(PoseStamped, "current_pose", qos.MEASURED, displaced_pose),
            "/intruder",
            turns=DISCOVERY,
        ),
        of_pose(
            "a second publisher, 5 times as fast",
            publishing(PoseStamped, "current_pose", qos.MEASURED, honest_pose, copies=5),
            "publishers",
            False,
            turns=DISCOVERY,
        ),
        of_pose(
            "bytes that are none",
            publishing(PoseStamped, "current_pose", qos.MEASURED, SPURIOUS),
            "publ",
            False,
            turns=DISCOVERY,
        ),
        of_pose(
            "another type", publishing(String, "current_pose", LOOSE), "expected geometry_msgs", False, turns=DISCOVERY
        ),
    ]
    return rows


def _clocks() -> list[Fault]:
    return [
        Fault("clock", "back by 1 s", jump_clock(-1.0), "the clock went back", False, turns=60, quick=True),
        Fault("clock", "back by 10 s", jump_clock(-10.0), "the clock went back", False, turns=60),
        Fault("clock", "back by 500 s", jump_clock(-500.0), "the clock went back", False, turns=60),
        Fault("clock", "forward by 1 s", jump_clock(1.0), "", False, turns=60),
        Fault("clock", "forward by 1000 s", jump_clock(1000.0), "", False, turns=60),
        Fault("clock", "negative", clock(-5), "/clock is -5 s, expected 0 to 2^31 s", turns=100, quick=True),
        Fault("clock", "the most negative", clock(-(2**31)), "expected 0 to 2^31 s", turns=100),
        Fault("clock", "beyond 2^31 s", clock(MASK, 2**32 - 1), "expected 0 to 2^31 s", turns=100),
        Fault("clock", "the last second that there is", clock(MASK, 0), "", turns=100),
        Fault("clock", "zero", clock(0), "", turns=100),
        Fault("clock", "stands still", setting(change_clock=lambda now_ns: None), "stood still", turns=320),
        Fault("clock", "back and forth by 30 ms", setting(change_clock=jittering_clock), "", False, turns=100),
        Fault(
            "clock",
            "a second one, 5 s ahead",
            publishing(Clock, "/clock", qos.CLOCK, clock_ahead),
            "",
            turns=DISCOVERY,
        ),
    ]


def _others() -> list[Fault]:
    target = (PoseStamped, "target_pose", qos.COMMAND)
    return [
        of_arm(
            "a second publisher of target_pose, silent",
            publishing(*target),
            "also /intruder",
            quick=True,
            turns=DISCOVERY,
        ),
        of_arm("two more publishers of target_pose", publishing(*target, copies=2), "3 publishers", turns=DISCOVERY),
        of_arm(
            "a best-effort publisher of target_pose", publishing(*target[:2], LOOSE), "also /intruder", turns=DISCOVERY
        ),
        of_arm(
            "another type on target_pose",
            publishing(String, "target_pose", qos.COMMAND),
            "also /intruder",
            turns=DISCOVERY,
        ),
        of_arm(
            "a second publisher of gripper_command",
            publishing(Float64MultiArray, "gripper_command", qos.COMMAND),
            "/gripper_command has 2 publishers, also /intruder",
            turns=DISCOVERY,
        ),
        of_arm("a second follower", second_follower, "also /grids_follower", turns=900),
        Fault(
            "hold", "the service", doing(lambda r: r.hold(True), lambda r: r.hold(False)), "hold service", quick=True
        ),
        of_hold("twice", doing(lambda r: (r.hold(True), r.hold(True)), lambda r: r.hold(False)), "hold service"),
        of_hold("released without a hold", doing(lambda r: r.hold(False)), "", False),
        of_text("empty", instruct(""), "the instruction is empty", quick=True),
        of_text("blanks", instruct(" \n\t "), "the instruction is empty"),
        of_text("100,000 letters", instruct(LONG), "at most 4096 are taken", False),
        of_text("special tokens", instruct("<image><eos><loc0001>"), "", False),
        of_text("one, and none, in turn", instruct("lift", "", "lift"), "the instruction is empty", False),
        of_text(
            "bytes that are none",
            publishing(String, "instruction", qos.LATCHED, SPURIOUS, 20),
            "2 publishers",
            False,
            turns=DISCOVERY,
        ),
        of_text(
            "a second speaker", publishing(String, "instruction", qos.LATCHED), "2 publishers", False, turns=DISCOVERY
        ),
        of_text(
            "volatile",
            publishing(String, "instruction", qos.COMMAND),
            "QoS that does not match",
            False,
            turns=DISCOVERY,
        ),
    ]


def _requests() -> list[Fault]:
    return [
        Fault("lifecycle", "activate when active", transitions(3), "", False, quick=True),
        Fault("lifecycle", "configure when active", transitions(1), "", False),
        Fault("lifecycle", "clean up when active", transitions(2), "", False),
        Fault("lifecycle", "a transition that does not exist", transitions(99, 255, 0), "", False),
        Fault("lifecycle", "internal transitions", transitions(10, 30, 60), "", False),
        Fault("lifecycle", "a label that does not exist", transitions(0, label="fly"), "", False),
        Fault("lifecycle", "a label of 100,000 letters", transitions(0, label=LONG), "", False),
        Fault("lifecycle", "four at once", crowd, "", False),
        Fault("lifecycle", "deactivated, activated", deactivated, "inactive", False, quick=True),
        Fault("lifecycle", "deactivated twice", transitions(4, 4, 3), "", False),
        Fault("lifecycle", "cleaned up, configured, activated", cleaned_up, "unconfigured", False),
        Fault("parameter", "use_sim_time, live", parameter("use_sim_time", False), "", False, quick=True),
        Fault("parameter", "rate_hz, live", parameter("rate_hz", 5.0), "", False),
        Fault("parameter", "an acceleration that is NaN", parameter("linear_acceleration", NAN), "", False),
        Fault("parameter", "one that does not exist", parameter("linear_sped", 1.0), "", False),
        Fault("process", "SIGSTOP, SIGCONT", stopped, "", False, turns=60),
        Fault("process", "SIGINT", signalled(signal.SIGINT), ENDING, False, ends=True, quick=True),
        Fault("process", "SIGTERM", signalled(signal.SIGTERM), ENDING, False, ends=True),
        Fault("process", "SIGINT and SIGTERM", signalled(signal.SIGINT, signal.SIGTERM), ENDING, False, ends=True),
        Fault("process", "SIGHUP", signalled(signal.SIGHUP), ENDING, False, ends=True),
        Fault("process", "SIGQUIT", signalled(signal.SIGQUIT), ENDING, False, ends=True),
        Fault("lifecycle", "shut down when active", transitions(7), "shut down", False, ends=True),
    ]


FAULTS: tuple[Fault, ...] = (*_numbers(), *_chunks(), *_poses(), *_clocks(), *_others(), *_requests())
