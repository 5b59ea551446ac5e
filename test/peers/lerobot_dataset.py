"""Run by lerobot's own interpreter: write frames as a data set, or dump what its loader reads.

    python lerobot_dataset.py write FRAMES.npz FOLDER [video|image]
    python lerobot_dataset.py read FOLDER OUT.npz

FRAMES.npz: states, actions, base, wrist (n, H, W, 3), episodes, tasks, fps. OUT.npz: the same, as lerobot gives them.
"""

import inspect
import sys
import types
from pathlib import Path

import numpy as np

# A CPU torch beside a torchvision of another build: its operators are neither there nor needed.
sys.modules.setdefault("torchvision._meta_registrations", types.ModuleType("torchvision._meta_registrations"))

import av  # noqa: E402
import torch  # noqa: E402
from lerobot.datasets import lerobot_dataset  # noqa: E402
from lerobot.datasets.lerobot_dataset import LeRobotDataset  # noqa: E402

CAMERAS = ("base", "wrist")


def decode(path, timestamps, tolerance_s, *_, **__):
    """In place of torchcodec and of torchvision's reader, which this environment lacks: (n, 3, H, W) in [0, 1]."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        known = [(float(frame.pts * stream.time_base), frame) for frame in container.decode(stream)]
    times = np.array([time for time, _ in known])
    nearest = [int(np.abs(times - at).argmin()) for at in timestamps]
    assert all(abs(times[index] - at) < tolerance_s for index, at in zip(nearest, timestamps, strict=True))
    images = np.stack([known[index][1].to_ndarray(format="rgb24") for index in nearest])
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255


lerobot_dataset.decode_video_frames = decode


def write(frames: str, folder: str, kind: str = "video") -> None:
    """One set out of a file of frames."""
    data = np.load(frames)
    names = {"observation.state": data["states"].shape[1], "action": data["actions"].shape[1]}
    features = {
        name: {"dtype": "float32", "shape": (size,), "names": [f"n{i}" for i in range(size)]}
        for name, size in names.items()
    }
    for camera in CAMERAS:
        shape = data[camera].shape[1:]
        features[f"observation.images.{camera}"] = {
            "dtype": kind,
            "shape": shape,
            "names": ["height", "width", "channels"],
        }
    made = LeRobotDataset.create(
        "peers/sim", fps=int(data["fps"]), features=features, root=folder, use_videos=kind == "video"
    )
    for episode in np.unique(data["episodes"]):
        for row in np.flatnonzero(data["episodes"] == episode):
            frame = {"observation.state": data["states"][row].astype(np.float32)}
            frame["action"] = data["actions"][row].astype(np.float32)
            frame |= {f"observation.images.{camera}": data[camera][row] for camera in CAMERAS}
            task = str(data["tasks"][row])
            if "task" in inspect.signature(made.add_frame).parameters:  # until 0.3
                made.add_frame(frame, task=task)
            else:
                made.add_frame(frame | {"task": task})
        made.save_episode()
    if hasattr(made, "finalize"):
        made.finalize()


def read(folder: str, out: str) -> None:
    """Everything that lerobot's loader gives."""
    known = LeRobotDataset("peers/sim", root=folder, video_backend="pyav")
    rows = [known[index] for index in range(len(known))]
    columns = {
        "states": np.stack([row["observation.state"].numpy() for row in rows]),
        "actions": np.stack([row["action"].numpy() for row in rows]),
        "episodes": np.array([int(row["episode_index"]) for row in rows]),
        "timestamps": np.array([float(row["timestamp"]) for row in rows]),
        "tasks": np.array([row["task"] for row in rows]),
        "fps": known.fps,
    }
    for camera in CAMERAS:
        key = f"observation.images.{camera}"
        if key in rows[0]:
            pixels = np.stack([row[key].numpy() for row in rows])
            columns[camera] = (pixels.transpose(0, 2, 3, 1) * 255).round().astype(np.uint8)
    mean = known.meta.stats["observation.state"]["mean"]
    np.savez(out, state_mean=np.asarray(mean), **columns)


if __name__ == "__main__":
    Path(sys.argv[3]).parent.mkdir(parents=True, exist_ok=True)
    {"write": write, "read": read}[sys.argv[1]](*sys.argv[2:])
