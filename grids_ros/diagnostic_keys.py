"""Keys of /diagnostics and their meaning, by node. Imports no ROS.

They read as those of diagnostic_updater's tasks: words, with the unit in brackets. The two frequencies are the keys of
its FrequencyStatus.
"""

from __future__ import annotations

ACTUAL_HZ, TARGET_HZ = "Actual frequency (Hz)", "Target frequency (Hz)"
TOKENS, TOKENS_REASON = "Tokens per camera", "Tokens reason"
INFERENCE, OVERHEAD, OBSERVATION_AGE = "Inference", "Overhead", "Observation age"  # percentiles
TRANSPORT, OBSERVING, PREPROCESSING, MODEL, SENDING = "Transport", "Observing", "Preprocessing", "Model", "Sending"
PERIOD, LATENESS, CHUNK_AGE = "Period", "Lateness", "Chunk age"  # percentiles
DEADLINE_MISSES, SCHEDULING, LAST_REFUSAL = "Deadline misses", "Scheduling", "Last refusal"


def percentile(name: str, percent: int) -> str:
    """Key of a percentile of times, in milliseconds."""
    return f"{name} p{percent} (ms)"


def _percentiles(name: str, meaning: str) -> dict[str, str]:
    return {percentile(name, 50): f"{meaning}, median", percentile(name, 99): "its 99th percentile"}


KEYS: dict[str, dict[str, str]] = {
    "grids_policy": {
        "Instruction": "the instruction in use",
        TOKENS: "visual tokens per camera",
        TOKENS_REASON: "why so many",
        ACTUAL_HZ: "chunks per second",
        TARGET_HZ: "`rate_hz`",
        **_percentiles(INFERENCE, "latency of an inference"),
        **_percentiles(OVERHEAD, "time of an inference outside the model"),
        **_percentiles(TRANSPORT, "an image from its stamp to its reception, by the system's clock"),
        **_percentiles(
            OBSERVING, "from the beginning of an inference to the policy: decoding, and the change of threads"
        ),
        **_percentiles(PREPROCESSING, "images, state and the previous chunk as the model takes them"),
        **_percentiles(MODEL, "the model alone"),
        **_percentiles(SENDING, "from the model to the published chunk"),
        **_percentiles(OBSERVATION_AGE, "age of the observation when the inference starts"),
        "Backend": "how an inference is launched; and every way that failed its check, with the reason",
        "Observation to chunk (ms)": "delay that Real-Time Chunking plans for",
        DEADLINE_MISSES: "ticks at which the previous inference had not ended",
        "Chunks published": "count since the activation",
        "Chunks dropped": "chunks not published, because the instruction changed or the node was deactivated meanwhile",
        "Inferences failed": "inferences that raised an exception",
    },
    "grids_follower": {
        ACTUAL_HZ: "rate of `target_pose` over ten seconds",
        TARGET_HZ: "`rate_hz`",
        **_percentiles(PERIOD, "time from one `target_pose` to the next"),
        **_percentiles(LATENESS, "lateness of a tick since the activation, by the follower's own clock, within 5 %"),
        "Lateness histogram": "ticks by lateness since the activation: `0.05:5912 0.1:31` means 5912 ticks at most "
        "0.05 ms late",
        "Missed ticks": "ticks that were skipped because the one before came too late",
        SCHEDULING: "whether `SCHED_FIFO` and locked memory are in effect",
        **_percentiles(CHUNK_AGE, "age of the chunk that is followed"),
        "Chunk age (ms)": "its age at this moment",
        "Chunks accepted": "count since the activation",
        "Chunks refused": "count since the activation",
        LAST_REFUSAL: "why the last chunk was refused",
        "Hold reason": "why the follower holds",
        "Topics": "publishers of another type, with a QoS that does not match, or one too many; a refused instruction",
    },
    "grids_gripper": {
        "Action type": "type of the action server in use",
        "Goal in flight (m)": "opening of the goal whose result has not come",
        "Goals sent": "count",
        "Goals failed": "count",
        "Last fault": "why the last goal failed",
    },
}
