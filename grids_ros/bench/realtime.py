"""The three processes in five conditions, images, and the joints of chunks: a table, a JSON, a picture.

Every figure that is promised is a ratio of two that were measured in this run, on this machine. Periods are those
between the stamps of `target_pose`, which the follower sets as it publishes. `bare` is a loop beside it that only
keeps time: what that loop lacks, the machine took.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from grids_ros.bench import images, joints
from grids_ros.bench.conditions import Bench
from grids_ros.bench.figures import joint_figures, jump_ratio
from grids_ros.bench.plots import draw
from grids_ros.control.defaults import FOLLOWER
from grids_ros.demo.conductor import Conductor, DemoError
from grids_ros.demo.monitor import Monitor
from grids_ros.demo.processes import ProcessDied, Processes
from grids_ros.demo.run import host

EPISODES = 6  # for the joints
IMAGES_S = 10.0
LOADS = ("inference", "hog")


def run(checkpoint: Path, seconds: float, out: Path) -> int:
    """The bench; its exit code. The last line of output is the JSON that is also in OUT/realtime.json."""
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    for name in images.PROFILE_VARIABLES:
        os.environ.setdefault(name, str(images.profile()))
    out.mkdir(parents=True, exist_ok=True)
    monitor = Monitor()
    try:
        with Processes(out / "logs") as processes, Conductor(processes, monitor) as conductor:
            conductor.alone()
            print("Images: 640x480 from publisher to callback", flush=True)
            transports = images.latencies(IMAGES_S)
            print(f"Three processes in five conditions; logs in {out / 'logs'}", flush=True)
            bench = Bench(processes, conductor, monitor, checkpoint)
            conditions = bench.run_all(seconds)
            problems = processes.stop()
    except (DemoError, ProcessDied) as error:
        print(f"bench failed: {error}", file=sys.stderr)
        return 1
    print(f"The joints of chunks, {EPISODES} episodes for each way to join", flush=True)
    paths = joints.paths(checkpoint, EPISODES)
    joined = {join: joint_figures(episodes) for join, episodes in paths.items()}
    result = summarise(conditions, transports, joined)
    (out / "realtime.json").write_text(json.dumps(result, indent=2) + "\n")
    draw({name: bench.stamps[name] for name in ("idle", *LOADS)}, paths, FOLLOWER.period_s, out / "realtime.png")
    print(table(result))
    for problem in problems:
        print(f"bench failed: {problem}", file=sys.stderr)
    print(json.dumps(result))
    return 1 if problems else 0


def summarise(conditions: Mapping, transports: Mapping, joined: Mapping) -> dict[str, object]:
    """What is promised, and what it comes from."""
    idle, shipped = conditions["idle"], transports["shipped"]
    return {
        "period_p99_ratio": {load: round(conditions[load]["error_p99_ms"] / idle["error_p99_ms"], 3) for load in LOADS},
        "missed_ticks": {name: conditions[name]["missed_ticks"] for name in ("idle", *LOADS)},
        "bare_error_p99_ms": {name: conditions[name]["bare"]["error_p99_ms"] for name in ("idle", *LOADS)},
        "bare_missed_ticks": {name: conditions[name]["bare"]["missed_ticks"] for name in ("idle", *LOADS)},
        "chunk_jump_ratio": {f"{join}_over_latest": jump_ratio(joined, join) for join in ("blend", "rtc")},
        "image_latency_ratio": round(transports["default"]["p50_ms"] / shipped["p50_ms"], 2),
        "image_to_chunk_overhead_ms": round(shipped["p50_ms"] + conditions["inference"]["overhead_ms"], 2),
        "ticks_until_held": conditions["killed"]["ticks_until_held"],
        "conditions": conditions,
        "image_latency": transports,
        "joints": joined,
        "host": host(),
    }


def table(result: Mapping) -> str:
    """For the terminal."""
    heads = ("period p50", "error p99", "error max", "missed", "bare p99", "bare missed")
    lines = [f"  {'condition':<12}" + "".join(f"{head:>12}" for head in heads) + "   [ms]"]
    for name, figures in result["conditions"].items():
        if "period_p50_ms" in figures:
            bare = figures["bare"]
            lines.append(
                f"  {name:<12}{figures['period_p50_ms']:>12.3f}{figures['error_p99_ms']:>12.3f}"
                f"{figures['error_max_ms']:>12.3f}{figures['missed_ticks']:>12}"
                f"{bare['error_p99_ms']:>12.3f}{bare['missed_ticks']:>12}"
            )
    killed, late = result["conditions"]["killed"], result["conditions"]["late"]
    lines.append(
        f"  killed -9: held {killed['ticks_until_held']} ticks after the chunk's last step, went on when restarted, "
        f"largest step {killed['largest_step_mm']} mm"
    )
    lines.append(f"  late by a horizon: largest step {late['largest_step_mm']} mm; {late['last_refusal']}")
    for name, figures in result["image_latency"].items():
        lines.append(f"  640x480, {name} transports: {figures['p50_ms']} ms, {100 * figures['arrived']:.0f} % arrived")
    lines.append(f"  {'join':<12} {'position':>10} {'velocity':>10}   jump at a joint, in median steps")
    for name, figures in result["joints"].items():
        lines.append(f"  {name:<12} {figures['position_jump']:>10.2f} {figures['velocity_jump']:>10.2f}")
    return "\n".join(lines)
