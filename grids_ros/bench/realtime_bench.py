"""The three processes in five conditions, images, and the transitions between chunks: a table, a JSON, a picture.

Lateness and missed ticks are the follower's own, from its service `lateness`. `reference` is a loop beside it that
only keeps time: what that loop lacks, the machine took. `received` is what this process heard of `target_pose`, a busy
listener: what it lacks beyond the follower's missed ticks was lost on the way to it.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from grids_ros.bench import chunk_transitions, image_latency
from grids_ros.bench.conditions import Bench
from grids_ros.bench.realtime_metrics import jump_ratio, transition_figures
from grids_ros.bench.realtime_plots import draw
from grids_ros.control.defaults import FOLLOWER
from grids_ros.demo.driver import DemoDriver, DemoError
from grids_ros.demo.episodes import host
from grids_ros.demo.monitor import Monitor
from grids_ros.demo.processes import ProcessDied, Processes
from grids_ros.files import write_whole

EPISODES = 6  # for the transitions
IMAGES_S = 10.0
LOADS = ("inference", "busy_threads")


def run(checkpoint: Path, seconds: float, out: Path) -> int:
    """The bench; its exit code. The last line of output is the JSON that is also in OUT/realtime.json."""
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    for name in image_latency.PROFILE_VARIABLES:
        os.environ.setdefault(name, str(image_latency.profile()))
    out.mkdir(parents=True, exist_ok=True)
    monitor = Monitor()
    try:
        with Processes(out / "logs") as processes, DemoDriver(processes, monitor) as driver:
            driver.require_empty_domain()
            print("Images: 640x480 from publisher to callback", flush=True)
            transports = image_latency.latencies(IMAGES_S)
            print(f"Three processes in five conditions; logs in {out / 'logs'}", flush=True)
            bench = Bench(processes, driver, monitor, checkpoint)
            conditions = bench.run_all(seconds)
            problems = processes.stop()
    except (DemoError, ProcessDied) as error:
        print(f"bench failed: {error}", file=sys.stderr)
        return 1
    print(f"The transitions between chunks, {EPISODES} episodes for each way to join", flush=True)
    paths = chunk_transitions.paths(checkpoint, EPISODES)
    joined = {join: transition_figures(episodes) for join, episodes in paths.items()}
    result = summarise(conditions, transports, joined)
    write_whole(out / "realtime.json", json.dumps(result, indent=2) + "\n")
    draw({name: bench.stamps[name] for name in ("idle", *LOADS)}, paths, FOLLOWER.period_s, out / "realtime.png")
    print(table(result))
    for problem in problems:
        print(f"bench failed: {problem}", file=sys.stderr)
    print(json.dumps(result))
    return 1 if problems else 0


def summarise(conditions: Mapping, transports: Mapping, joined: Mapping) -> dict[str, object]:
    """What is promised, and what it comes from."""
    watched, shipped = ("idle", *LOADS), transports["shipped"]
    return {
        "late_p99_ms": {name: conditions[name]["late_p99_ms"] for name in watched},
        "missed_ticks": {name: conditions[name]["missed_ticks"] for name in watched},
        "reference_late_p99_ms": {name: conditions[name]["reference"]["late_p99_ms"] for name in watched},
        "reference_missed_ticks": {name: conditions[name]["reference"]["missed_ticks"] for name in watched},
        "lost_on_the_way": {name: conditions[name]["received"]["missed_ticks"] for name in watched},
        "chunk_jump_ratio": {f"{join}_over_latest": jump_ratio(joined, join) for join in ("blend", "rtc")},
        "image_latency_ratio": round(transports["default"]["p50_ms"] / shipped["p50_ms"], 2),
        "image_to_chunk_overhead_ms": round(shipped["p50_ms"] + conditions["inference"]["overhead_ms"], 2),
        "ticks_until_held": conditions["killed"]["ticks_until_held"],
        "conditions": conditions,
        "image_latency": transports,
        "transitions": joined,
        "host": host(),
    }


def table(result: Mapping) -> str:
    """For the terminal."""
    heads = ("late p50", "late p99", "late max", "missed", "ref. p99", "ref. missed", "received", "gaps")
    lines = [f"  {'condition':<12}" + "".join(f"{head:>12}" for head in heads) + "   [ms]"]
    for name, figures in result["conditions"].items():
        if "reference" in figures:
            reference, received = figures["reference"], figures["received"]
            lines.append(
                f"  {name:<12}{figures['late_p50_ms']:>12.3f}{figures['late_p99_ms']:>12.3f}"
                f"{figures['late_max_ms']:>12.3f}{figures['missed_ticks']:>12}"
                f"{reference['late_p99_ms']:>12.3f}{reference['missed_ticks']:>12}"
                f"{received['commands']:>12}{received['missed_ticks']:>12}"
            )
    killed, late = result["conditions"]["killed"], result["conditions"]["late_chunks"]
    lines.append(
        f"  killed -9: held {killed['ticks_until_held']} ticks after the chunk's last step, went on when restarted, "
        f"largest step {killed['largest_step_mm']} mm"
    )
    lines.append(f"  late by a horizon: largest step {late['largest_step_mm']} mm; {late['last_refusal']}")
    stages = result["conditions"]["inference"]["image_to_chunk_ms"]
    lines.append("  image to chunk: " + ", ".join(f"{name} {ms:.1f}" for name, ms in stages.items()) + " ms")
    for name, figures in result["image_latency"].items():
        lines.append(f"  640x480, {name} transports: {figures['p50_ms']} ms, {100 * figures['arrived']:.0f} % arrived")
    lines.append(f"  {'join':<12} {'position':>10} {'velocity':>10}   jump at a transition, in median steps")
    for name, figures in result["transitions"].items():
        lines.append(f"  {name:<12} {figures['position_jump']:>10.2f} {figures['velocity_jump']:>10.2f}")
    return "\n".join(lines)
