"""LeRobot data sets: read as the bags that they came from, written as lerobot reads them, and every trap named."""

from __future__ import annotations

import dataclasses
import hashlib
import http.server
import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import ClassVar

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from recording import CAMERAS, PERIOD, START, write_recording, write_step
from robots import BASE, FLANGE, HOME, JOINTS, panda, panda_urdf
from tiny import save_tiny

from grids_ros import cli
from grids_ros.convert.conventions import CONVENTIONS, Gripper
from grids_ros.data.lerobot.command import ExportOptions
from grids_ros.data.lerobot.command import run as export
from grids_ros.data.lerobot.dataset import ACTION, STATE, Dataset, DatasetError, located
from grids_ros.data.lerobot.export import DatasetWriter, Frame, Layout
from grids_ros.data.lerobot.meaning import Given, Meaning, speaks_of_poses
from grids_ros.data.lerobot.reader import LeRobotReader, frames_of
from grids_ros.data.reader import BagError
from grids_ros.data.recording import find_recordings, open_recording
from grids_ros.data.settings import chosen, find_topics, read
from grids_ros.data.writer import BagWriter
from grids_ros.datatypes import Pose
from grids_ros.options import RobotOptions
from grids_ros.policy import joints
from grids_ros.policy.preprocess import ImageFit
from grids_ros.policy.spaces import ABSOLUTE, MATRIX, RELATIVE, STEPS, VECTOR
from grids_ros.replay.__main__ import main as replay
from grids_ros.replay.ticks import Span, TickGenerator
from grids_ros.train import __main__ as training
from grids_ros.train.dataset import Window
from grids_ros.train.dataset_samples import dataset_samples
from grids_ros.train.frames import Prefetch

WORDS = ("lift the red cube", "lift the blue cube")
SETTINGS = read(None, {}, {})
PEERS = Path(__file__).parent / "peers" / "lerobot_dataset.py"


@pytest.fixture(scope="module")
def bag(tmp_path_factory):
    return write_recording(tmp_path_factory.mktemp("bag") / "bag", seconds=2.0, words=WORDS)


def made(bag, folder, **options):
    assert export(ExportOptions(bags=(bag,), out=folder, **options)) == 0
    return folder


@pytest.fixture(scope="module")
def pictures(bag, tmp_path_factory):
    """A set whose images lie in the tables: nothing is lost."""
    return made(bag, tmp_path_factory.mktemp("set") / "set", codec="png")


@pytest.fixture(scope="module")
def videos(bag, tmp_path_factory):
    return made(bag, tmp_path_factory.mktemp("video") / "set", codec="h264")


def images(folder, camera: str = "base", episode: int = 0) -> np.ndarray:
    dataset = Dataset(folder)
    return np.stack(list(frames_of(dataset, dataset.episodes[episode], f"observation.images.{camera}")))


SEEN = [(MATRIX, RELATIVE, "area"), (VECTOR, ABSOLUTE, "bilinear"), (VECTOR, STEPS, "antialias")]


@pytest.mark.parametrize("spaces", SEEN, ids=lambda s: f"{s[1].name} {s[2]}")
def test_samples_are_those_of_the_bag(bag, pictures, spaces):
    window = Window(CAMERAS, 40, 4, 0.1, *spaces[:2], image=ImageFit(spaces[2]))
    of_bag = training.read([bag], SETTINGS, window, 1)
    of_set = training.read([pictures], SETTINGS, window, 1)
    assert len(of_set) == len(of_bag) == 2 * 16
    np.testing.assert_allclose(of_set.states, of_bag.states, atol=1e-6)
    np.testing.assert_allclose(of_set.actions, of_bag.actions, atol=1e-6)
    np.testing.assert_array_equal(of_set.instructions, of_bag.instructions)
    np.testing.assert_array_equal(of_set.images[np.arange(len(of_set))], of_bag.images)
    both = training.read([bag, pictures], SETTINGS, window, 1)
    assert len(both) == 64 and len(np.unique(both.episodes)) == 4
    mixed = np.array([40, 3, 63, 0])
    np.testing.assert_array_equal(both.images[mixed], of_bag.images[mixed % 32])
    kept = both.rows(both.episodes > 1)
    np.testing.assert_array_equal(kept.images[np.arange(32)], of_bag.images)


def test_other_steps_than_the_frames_are_interpolated(bag, pictures):
    window = Window(CAMERAS, 32, 5, 0.15, MATRIX, RELATIVE)
    of_bag, of_set = (training.read([path], SETTINGS, window, 1) for path in (bag, pictures))
    known = {int(episode): of_bag.rows(of_bag.episodes == episode) for episode in (0, 1)}
    for episode, expected in known.items():
        mine = of_set.rows(of_set.episodes == episode)
        count = min(len(mine), len(expected))
        np.testing.assert_allclose(mine.actions[:count], expected.actions[:count], atol=1e-6)


def test_videos_come_back_nearly_the_same_and_at_random(bag, pictures, videos):
    apart = np.abs(images(videos).astype(int) - images(pictures)).mean()
    assert apart < 8
    window = Window(CAMERAS, 32, 4, 0.1)
    samples = training.read([videos], SETTINGS, window, 1)
    some = np.array([20, 3, 3, 31, 4, 0])
    whole = samples.images[np.arange(len(samples))]
    np.testing.assert_array_equal(samples.images[some], whole[some])
    assert len({image.tobytes() for image in whole[:, 0]}) >= len(whole) // 2  # both episodes show the same pictures


def test_episodes_of_one_video_file_are_found_by_their_times(videos):
    np.testing.assert_allclose(images(videos, episode=1), images(videos, episode=0), atol=40)
    dataset = Dataset(videos)
    assert dataset.episodes[1].videos["observation.images.base"].from_s == pytest.approx(1.9)
    assert dataset.episodes[1].videos["observation.images.base"].file.name == "file-000.mp4"


def ticks(path) -> list:
    with open_recording(path, SETTINGS) as source:
        topics = find_topics(source, SETTINGS, CAMERAS)
        generator = TickGenerator(source, topics, CAMERAS, SETTINGS.policy)
        return [tick for tick in generator.ticks(Span(source.start_ns, source.end_ns)) if tick.observation]


def test_replay_sees_the_frames_as_they_are(pictures):
    seen, frames = ticks(pictures), images(pictures)
    assert {tick.instruction for tick in seen} == set(WORDS) and {tick.episode for tick in seen} == {0, 1}
    first = [tick for tick in seen if tick.episode == 0]
    assert len(first) >= 8
    for tick in first:
        frame = round((tick.observation.stamp_ns - 10 * 10**9) / PERIOD)
        np.testing.assert_array_equal(tick.observation.images["base"], frames[frame])
        assert tick.observation.pose.position[1] == pytest.approx(0.05 * 0.1 * frame, abs=1e-6)
    with open_recording(pictures, SETTINGS) as reader:
        assert "without arrival times" in reader.notes[0] and not reader.loss


def test_messages_come_in_order_and_in_ranges(pictures):
    with LeRobotReader(pictures) as reader:
        everything = list(reader.events({topic: topic for topic in reader.topics}))
        times = [at for _, at, _ in everything]
        assert times == sorted(times) and times[0] == reader.start_ns and times[-1] == reader.end_ns - 1
        start, stop = times[20], times[150]
        some = list(reader.events({topic: topic for topic in reader.topics}, start, stop))
        assert [at for _, at, _ in some] == [at for at in times if start <= at < stop]


@pytest.mark.parametrize("name", [name for name, about in CONVENTIONS.items() if speaks_of_poses(about)])
def test_every_convention_comes_back(bag, tmp_path, name):
    if name == "libero-less-state":
        pytest.skip("openpi's own, of training: data is that of libero")
    folder = made(bag, tmp_path / "set", codec="png", robot=RobotOptions(convention=name))
    window = Window(CAMERAS, 32, 4, 0.1, MATRIX, RELATIVE)
    of_bag, of_set = (training.read([path], SETTINGS, window, 1) for path in (bag, folder))
    np.testing.assert_allclose(of_set.states, of_bag.states, atol=1e-5)
    atol = 0.03 if "libero" in name else 1e-5  # steps begin at the measured pose: the recorded targets lead it
    np.testing.assert_allclose(of_set.actions, of_bag.actions, atol=atol)


def test_gripper_numbers_become_metres():
    meaning = Meaning("absolute", CONVENTIONS["absolute"], *2 * [Gripper(0.0, 1.0, 0.08)])
    state = np.array([[0.4, 0.0, 0.2, 0.0, 0.0, 0.0, 0.5]])
    assert meaning.states(state)[2] == pytest.approx([0.04])
    chunk = meaning.chunk(0, Pose((0.4, 0.0, 0.2), (0.0, 0.0, 0.0, 1.0)), state, 0.1)
    assert chunk.gripper == pytest.approx([0.04])


def test_a_pause_ends_an_episode_and_nothing_is_filled_in(tmp_path):
    with BagWriter(tmp_path / "bag") as writer:
        writer.instruction(START - 1000, "lift it")
        writer.gripper_command(START - 1000, 0.08)
        for step in [*range(10), *range(20, 30)]:
            write_step(writer, START + step * PERIOD, step)
    dataset = Dataset(made(tmp_path / "bag", tmp_path / "set", codec="png"))
    assert [episode.length for episode in dataset.episodes] == [9, 9]


def changed(source, folder, change) -> Path:
    shutil.copytree(source, folder)
    change(folder)
    return folder


def of_info(**values):
    def change(folder):
        path = folder / "meta/info.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return change


def of_table(change_columns):
    """Rewrite the rows: a function of {column: list}."""

    def change(folder):
        (path,) = folder.glob("data/*/*.parquet")
        table = pq.read_table(path)
        columns = {name: table[name].to_pylist() for name in table.column_names}
        change_columns(columns)
        pq.write_table(pa.table(columns), path)

    return change


def cut(folder):
    for path in folder.glob("data/*/*.parquet"):
        path.write_bytes(path.read_bytes()[:-100])


def renamed(columns):
    columns["state"] = columns.pop(STATE)


def without_tasks(folder):
    (folder / "meta/tasks.parquet").unlink()
    path = folder / "meta/episodes/chunk-000/file-000.parquet"
    table = pq.read_table(path)
    pq.write_table(table.drop_columns(["tasks"]), path)


def late(columns):
    columns["timestamp"][5] += 0.2


def of_episodes(change_columns):
    """Rewrite what is known of the episodes."""

    def change(folder):
        path = folder / "meta/episodes/chunk-000/file-000.parquet"
        table = pq.read_table(path)
        columns = {name: table[name].to_pylist() for name in table.column_names}
        change_columns(columns)
        pq.write_table(pa.table(columns), path)

    return change


def of_feature(**values):
    """Other values of the state's entry in info.json; None drops one."""

    def change(folder):
        path = folder / "meta/info.json"
        info = json.loads(path.read_text())
        about = info["features"][STATE] | values
        info["features"][STATE] = {name: value for name, value in about.items() if value is not None}
        path.write_text(json.dumps(info))

    return change


def without_task_index(folder):
    path = folder / "meta/tasks.parquet"
    pq.write_table(pq.read_table(path).drop_columns(["task_index"]), path)


def of_state(value, row: int = 3):
    def change(columns):
        columns[STATE][row] = value(columns[STATE][row])

    return of_table(change)


def of_pictures(entry):
    def change(columns):
        for name in columns:
            if name.startswith("observation.images."):
                columns[name] = [entry] * len(columns[name])

    return of_table(change)


ROW = "file-000.parquet: row 0: "
DAMAGED = {
    "null length": (of_episodes(lambda c: c.update(length=[None] * 2)), ROW + "length is null, expected an integer"),
    "negative length": (of_episodes(lambda c: c.update(length=[-1, 39])), ROW + "length is -1, expected an integer"),
    "null task_index": (without_task_index, "tasks.parquet: task 0: task_index is missing"),
    "no dtype": (of_feature(dtype=None), f"info.json: features.{STATE}.dtype is missing"),
    "scalar shape": (of_feature(shape=7), f"info.json: features.{STATE}.shape is 7, expected a list"),
    "shape of two": (of_feature(shape=[2, 5]), rf"info.json: features.{STATE}.shape is \[2, 5\], expected one number"),
    "ragged state": (of_state(lambda row: row[:-1]), f"{STATE} has 9 numbers in row 3, expected 10"),
    "null state": (of_state(lambda row: None), f"{STATE} is null in row 3, expected 10 numbers"),
    "string state": (
        of_table(lambda c: c.update({STATE: ["x"] * len(c[STATE])})),
        f"file-000.parquet: {STATE} is of string, expected numbers",
    ),
    "string timestamp": (
        of_table(lambda c: c.update(timestamp=["x"] * len(c[STATE]))),
        "timestamp is of string, expected numbers",
    ),
    "missing picture": (
        of_pictures({"bytes": None, "path": "images/none.png"}),
        "observation.images.base of frame 0 of episode 0: cannot read .*images/none.png",
    ),
    "no picture": (of_pictures({"bytes": None, "path": None}), "is neither bytes nor a path"),
    "picture outside": (of_pictures({"bytes": None, "path": "../outside.png"}), "../outside.png leads out of the data"),
    "picture elsewhere": (of_pictures({"bytes": None, "path": "/etc/hostname"}), "/etc/hostname leads out of the data"),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_set_is_an_error_that_names_file_and_field(pictures, tmp_path, damage):
    change, why = DAMAGED[damage]
    folder = changed(pictures, tmp_path / "set", change)
    shutil.copy(Path(__file__), tmp_path / "outside.png")
    with pytest.raises(DatasetError, match=why):
        _ = dataset_samples(folder, SETTINGS, Window(CAMERAS, 32, 4, 0.1)).images[np.arange(2)]


ERRORS = {
    "never finalised": (cut, "it has no footer: the data set was never finalised"),
    "no episodes": (lambda folder: shutil.rmtree(folder / "meta/episodes"), "never finalised"),
    "renamed": (of_table(renamed), "no column observation.state, it has .*state: were features renamed?"),
    "fps of the table": (of_info(fps=20), "is at 1.8000 s, expected 0.9000 s at 20 fps"),
    "no fps": (of_info(fps=0), "fps is 0, expected a number"),
    "a late frame": (of_table(late), "frame 5 of episode 0 is at 0.7000 s, expected 0.5000 s"),
    "version": (of_info(codebase_version="v9"), "codebase_version is v9, expected one of v2.0, v2.1, v3.0"),
    "leads out": (of_info(data_path="../../{chunk_index}{file_index}.parquet"), "leads out of the data set"),
    "no data": (lambda folder: shutil.rmtree(folder / "data"), "lacks 1 data files"),
    "no info": (lambda folder: (folder / "meta/info.json").write_text("{"), "cannot read"),
    "no tasks": (without_tasks, "frames have no task; --instruction"),
}


@pytest.mark.parametrize("trap", ERRORS)
def test_a_trap_is_an_error_by_name(pictures, tmp_path, trap):
    change, why = ERRORS[trap]
    folder = changed(pictures, tmp_path / "set", change)
    with pytest.raises(DatasetError, match=why):
        dataset_samples(folder, SETTINGS, Window(CAMERAS, 32, 4, 0.1))


def nan(columns):
    columns[STATE][3][0] = float("nan")
    columns[ACTION][12][2] = float("inf")


def merged(columns):
    columns["index"] = [index if index < 10 else index + 50 for index in columns["index"]]


def restarted(columns):
    """As of two sets that lie in one without new numbers."""
    columns["index"] = columns["frame_index"]


def apart(columns):
    pairs = zip(columns["index"], columns["episode_index"], strict=True)
    columns["index"] = [index + 500 * episode for index, episode in pairs]


def still(columns):
    columns[STATE] = [[*row[:2], 0.5, *row[3:]] for row in columns[STATE]]
    columns[ACTION] = [[*row[:2], 0.0, *row[3:]] for row in columns[ACTION]]
    columns[STATE][3][2] = float("nan")


NOTES = {
    "merged, index restarts": (of_table(restarted), "`index` is not contiguous"),
    "merged, index apart": (of_table(apart), "`index` is not contiguous"),
    "constant but for a NaN": (of_table(still), r"numbers [\d, ]*2[\d, ]* of observation.state are constant"),
    "constant action": (of_table(still), r"numbers [\d, ]*2[\d, ]* of action are constant"),
    "NaN": (of_table(nan), "frames are left out: the state or an action is NaN or infinite"),
    "merged": (of_table(merged), "`index` is not contiguous"),
    "counts": (of_info(total_frames=99), "total_frames is 99, the episodes have 38"),
    "constant": (lambda folder: None, "numbers .* of observation.state are constant"),
}


@pytest.mark.parametrize("trap", NOTES)
def test_a_trap_is_a_note(pictures, tmp_path, capsys, trap):
    import re

    change, text = NOTES[trap]
    folder = changed(pictures, tmp_path / "set", change)
    samples = dataset_samples(folder, SETTINGS, Window(CAMERAS, 32, 4, 0.1))
    assert re.search(text, capsys.readouterr().err)
    assert np.isfinite(samples.states).all() and np.isfinite(samples.actions).all()
    assert len(samples) == {"NaN": 24, "constant but for a NaN": 28, "constant action": 28}.get(trap, 32)


def replayed(folder, out, capsys, *options) -> tuple[int, str, str]:
    checkpoint = save_tiny(out / "policy")
    arguments = [folder, "--checkpoint", checkpoint, "--out", out / "replay", "-p", "threads:=1", *options]
    capsys.readouterr()
    code = replay(list(map(str, arguments)))
    return code, *capsys.readouterr()


def test_replay_tells_what_the_numbers_mean_and_how_to_name_a_task(pictures, tmp_path, capsys):
    meaning = f"set: {STATE} (x, y, z, r11, r21, r31, r12, r22, r32, gripper): position 3 [m]"
    code, said, _ = replayed(pictures, tmp_path / "whole", capsys)
    assert code == 0 and meaning in said
    folder = changed(pictures, tmp_path / "set", without_tasks)
    code, said, warned = replayed(folder, tmp_path / "without", capsys)
    assert code == 3 and meaning in said and meaning not in warned
    assert "tasks are missing: task_index 0 has no text; --instruction says what was done" in warned
    assert replayed(folder, tmp_path / "named", capsys, "--instruction", WORDS[0])[0] == 0


def test_replay_notes_what_never_changes(pictures, tmp_path):
    folder = changed(pictures, tmp_path / "set", of_table(still))
    with open_recording(folder, SETTINGS) as reader:
        list(reader.events({"target_pose": "target_pose"}))
        constant = [note for note in reader.notes if "constant" in note]
    assert len(constant) == 2 and " of observation.state" in constant[0] and " of action" in constant[1]


def test_a_video_that_contradicts_its_set_is_named(videos, tmp_path):
    window = Window(CAMERAS, 32, 4, 0.1)
    folder = changed(videos, tmp_path / "other", lambda folder: None)
    for path, frames, rate, why in (
        (folder / "videos/observation.images.base/chunk-000/file-000.mp4", 30, 10, "is shorter than its episode"),
        (folder / "videos/observation.images.base/chunk-000/file-000.mp4", 120, 30, "30 frames per second.* states 10"),
    ):
        with av.open(str(path), "w") as container:
            stream = container.add_stream("libx264", rate=rate)
            stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p"
            for _ in range(frames):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((96, 128, 3), np.uint8), "rgb24")))
            container.mux(stream.encode())
        with pytest.raises(DatasetError, match=why):
            dataset_samples(folder, SETTINGS, window)
    path.write_bytes(b"no video")
    with pytest.raises(DatasetError, match="cannot read .*file-000.mp4"):
        dataset_samples(folder, SETTINGS, window)


def test_what_a_set_means_has_to_be_said(pictures, tmp_path):
    folder = changed(pictures, tmp_path / "set", of_info(grids_convention=None))
    with pytest.raises(DatasetError, match="does not say what its states and actions mean; --convention takes one of"):
        LeRobotReader(folder)
    with pytest.raises(DatasetError, match=r"observation.state has 10 numbers \(x, y, .*convention absolute has 7"):
        LeRobotReader(folder, Given("absolute"))
    with pytest.raises(DatasetError, match="'nonsense' is unknown"):
        LeRobotReader(folder, Given("nonsense"))
    assert LeRobotReader(folder, Given("grids")).meaning.name == "grids"


def test_other_units_are_refused_with_the_guess(pictures, tmp_path):
    def millimetres(columns):
        columns[STATE] = [[1000 * x for x in row[:3]] + row[3:] for row in columns[STATE]]

    folder = changed(pictures, tmp_path / "set", of_table(millimetres))
    with pytest.raises(DatasetError, match="joints, or millimetres?"):
        dataset_samples(folder, SETTINGS, Window(CAMERAS, 32, 4, 0.1))


def test_a_camera_that_the_set_lacks_is_named_and_one_of_another_name_is_remapped(pictures):
    window = Window(("top",), 32, 4, 0.1)
    with pytest.raises(BagError, match=r"no messages on camera/top/image_raw; it has camera/base/image_raw"):
        dataset_samples(pictures, SETTINGS, window)
    remapped = read(None, {}, {"camera/top/image_raw": "camera/wrist/image_raw"})
    assert dataset_samples(pictures, remapped, window).images.features == ("observation.images.wrist",)


def test_recordings_are_found_and_what_is_left_out_is_named(bag, pictures, tmp_path):
    shutil.copytree(bag, tmp_path / "all" / "bag")
    shutil.copytree(pictures, tmp_path / "all" / "set")
    shutil.copytree(bag, tmp_path / "all" / "cut.part")
    shutil.copytree(bag, tmp_path / "all" / "days" / "monday")
    found, left_out = find_recordings([tmp_path / "all"])
    assert [path.name for path in found] == ["bag", "set"]
    assert len(left_out) == 2 and "cut.part: it was never completed" in left_out[0] and "monday" in left_out[1]
    with pytest.raises(BagError, match="left out: .*monday"):
        find_recordings([tmp_path])


def test_an_existing_folder_is_never_exported_into(bag, pictures):
    with pytest.raises(SystemExit) as ended:
        cli.parse("export", [str(bag), "--out", str(pictures)])
    assert ended.value.code == 2


def test_a_failed_export_leaves_nothing(tmp_path, bag, monkeypatch):
    from grids_ros.data.lerobot.export import DatasetWriter

    def fail(self):
        raise BagError("disk full")

    monkeypatch.setattr(DatasetWriter, "_finish", fail)
    assert export(ExportOptions(bags=(bag,), out=tmp_path / "set", codec="png")) == 2
    assert not list(tmp_path.iterdir())


def test_batches_to_come_are_decoded_in_advance():
    asked = []

    def decode(step: int) -> np.ndarray:
        asked.append(step)
        return np.full(1, step)

    ahead = Prefetch(decode)
    assert [int(ahead.at(step)[0]) for step in range(5)] == list(range(5))
    assert sorted(asked)[:5] == list(range(5)) and len(asked) == len(set(asked)) <= 9
    assert int(ahead.at(100)[0]) == 100  # a resumed run begins anywhere


INTERPRETERS = [path for path in os.environ.get("GRIDS_LEROBOT", "").split(":") if path]
needs_lerobot = pytest.mark.skipif(not INTERPRETERS, reason="GRIDS_LEROBOT names no interpreter that has lerobot")


def by_lerobot(python: str, *arguments) -> None:
    command = [python, str(PEERS), *map(str, arguments)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=600, env={**os.environ, "PYTHONPATH": ""})
    assert ran.returncode == 0, ran.stderr[-2000:]


def frames_file(folder, path) -> dict:
    """The frames of a set, for lerobot to write."""
    dataset = Dataset(folder)
    columns: dict[str, list] = {name: [] for name in ("states", "actions", "tasks", "episodes", *CAMERAS)}
    for episode in dataset.episodes:
        rows = dataset.rows(episode)
        columns["states"] += list(rows.states)
        columns["actions"] += list(rows.actions)
        columns["tasks"] += list(rows.tasks)
        columns["episodes"] += [episode.index] * episode.length
        for camera in CAMERAS:
            columns[camera] += list(frames_of(dataset, episode, f"observation.images.{camera}"))
    arrays = {name: np.array(values) for name, values in columns.items()}
    np.savez(path, fps=int(dataset.fps), **arrays)
    return arrays


@needs_lerobot
@pytest.mark.parametrize("python", INTERPRETERS)
@pytest.mark.parametrize("kind", ["video", "image"])
def test_a_set_that_lerobot_wrote_is_read_as_the_bag_it_came_from(bag, pictures, tmp_path, python, kind):
    frames_file(pictures, tmp_path / "frames.npz")
    by_lerobot(python, "write", tmp_path / "frames.npz", tmp_path / "set", kind)
    settings = read(None, {}, {})
    settings = type(settings)(**{**settings.__dict__, "convention": "grids"})
    window = Window(CAMERAS, 32, 4, 0.1)
    of_bag, of_set = training.read([bag], settings, window, 1), training.read([tmp_path / "set"], settings, window, 1)
    np.testing.assert_allclose(of_set.states, of_bag.states, atol=1e-6)
    np.testing.assert_allclose(of_set.actions, of_bag.actions, atol=1e-6)
    np.testing.assert_array_equal(of_set.instructions, of_bag.instructions)
    apart = np.abs(of_set.images[np.arange(len(of_set))].astype(int) - of_bag.images)
    assert apart.max() == 0 if kind == "image" else apart.mean() < 8


@needs_lerobot
@pytest.mark.parametrize("codec", ["av1", "h264", "png"])
def test_lerobot_opens_what_is_exported(bag, pictures, tmp_path, codec):
    folder = made(bag, tmp_path / "set", codec=codec)
    expected = frames_file(pictures, tmp_path / "frames.npz")
    by_lerobot(INTERPRETERS[0], "read", folder, tmp_path / "out.npz")
    with np.load(tmp_path / "out.npz") as seen:
        np.testing.assert_allclose(seen["states"], expected["states"], atol=1e-6)
        np.testing.assert_allclose(seen["actions"], expected["actions"], atol=1e-6)
        np.testing.assert_array_equal(seen["tasks"], expected["tasks"])
        np.testing.assert_allclose(seen["state_mean"], expected["states"].mean(axis=0), atol=1e-6)
        for camera in CAMERAS:
            apart = np.abs(seen[camera].astype(int) - expected[camera])
            assert apart.max() <= 1 if codec == "png" else apart.mean() < 8


def jointed_set(folder, convention: str, degrees: bool = False, fps: float = 10.0):
    """A set of the Panda's joints: the numbers of a motion known beforehand. Angles, targets and openings of it.

    Of `droid-joints` they are absolute, as in every published set: openpi and lerobot subtract the state in training.
    """
    rng = np.random.default_rng(1)
    count, step = 24, 0.02
    angles = HOME + np.cumsum(rng.uniform(-step, step, (count, 7)), axis=0)
    targets = angles + rng.uniform(-step, step, (count, 7))
    openings = np.linspace(0.08, 0.0, count)
    unit = 180.0 / np.pi if degrees else 1.0
    told = {
        "joints": unit * targets,
        "droid-joints": unit * targets,
        "joint-velocities": unit * (targets - angles) * fps,
        "droid": (targets - angles) / 0.2,
    }[convention]
    names = (*JOINTS, "gripper")
    layout = Layout(fps, CAMERAS, names, names, convention, "png")
    image = np.zeros((48, 64, 3), np.uint8)
    with DatasetWriter(folder, layout) as writer:
        frames = [
            Frame(dict.fromkeys(CAMERAS, image), np.r_[unit * angles[i], openings[i]], np.r_[told[i], openings[i]])
            for i in range(count)
        ]
        writer.add_episode("lift the red cube", frames)
    return angles, targets, openings


def of_panda(**more):
    policy = {"robot_description": panda_urdf(), "base_frame": BASE, "tool_frame": FLANGE}
    settings = read(None, {}, {})
    return dataclasses.replace(settings, policy=dataclasses.replace(settings.policy, **policy), **more)


@pytest.mark.parametrize("convention", ["joints", "droid-joints", "joint-velocities", "droid"])
def test_a_set_of_joints_is_read_as_poses_and_as_joints(tmp_path, convention):
    angles, targets, openings = jointed_set(tmp_path / "set", convention)
    arm, settings = panda(), of_panda()
    samples = dataset_samples(tmp_path / "set", settings, Window(CAMERAS, 32, 3, 0.1, VECTOR, ABSOLUTE))
    positions, _ = arm.poses(angles)
    np.testing.assert_allclose(samples.states[:, :3], positions[: len(samples)], atol=1e-6)
    np.testing.assert_allclose(samples.states[:, -1], openings[: len(samples)], atol=1e-6)
    steps = convention in ("joint-velocities", "droid")
    first = angles[0] + np.cumsum((targets - angles)[:3], axis=0) if steps else targets[:3]
    np.testing.assert_allclose(samples.actions[0][:, :3], arm.poses(first)[0], atol=1e-5)
    spoken = Window(CAMERAS, 32, 3, 0.1, joints.JOINTS.of(JOINTS), joints.OFFSETS.of(JOINTS))
    samples = dataset_samples(tmp_path / "set", settings, spoken)
    np.testing.assert_allclose(samples.states[:, :7], angles[: len(samples)], atol=1e-6)
    np.testing.assert_allclose(samples.actions[0][:, :7], first - angles[0], atol=1e-5)


WITHOUT_DEGREES = {"poses": (VECTOR, ABSOLUTE), "joints": (joints.JOINTS.of(JOINTS), joints.OFFSETS.of(JOINTS))}


@pytest.mark.parametrize("spaces", WITHOUT_DEGREES)
def test_joints_in_degrees_without_degrees_are_refused(tmp_path, spaces):
    jointed_set(tmp_path / "set", "joints", degrees=True)
    window = Window(CAMERAS, 32, 3, 0.1, *WITHOUT_DEGREES[spaces])
    with pytest.raises(DatasetError, match=r"joint 3 is -1\d\d rad: are these degrees\? Give --degrees"):
        dataset_samples(tmp_path / "set", of_panda(), window)
    with pytest.raises(DatasetError, match="Give --degrees"), open_recording(tmp_path / "set", of_panda()) as reader:
        list(reader.events({"joint_states": "joint_states"}))


def of_joint(number: int, value: float):
    def change(columns):
        for name in (STATE, ACTION):
            columns[name] = [[*row[:number], value, *row[number + 1 :]] for row in columns[name]]

    return of_table(change)


def test_joints_beyond_the_limits_of_the_urdf_are_refused(tmp_path):
    jointed_set(tmp_path / "set", "joints")
    beyond, nearly = (changed(tmp_path / "set", tmp_path / str(value), of_joint(3, value)) for value in (0.5, 0.02))
    window = Window(CAMERAS, 32, 3, 0.1, VECTOR, ABSOLUTE)
    with pytest.raises(DatasetError, match=r"panda_joint4 is at 0.5 rad, its limits in the URDF are .* to -0.0\d"):
        dataset_samples(beyond, of_panda(), window)
    assert len(dataset_samples(nearly, of_panda(), window))


def as_degrees(columns):
    for name in (STATE, ACTION):
        columns[name] = [[*row[:3], *(180.0 + 10.0 * x for x in row[3:6]), row[6]] for row in columns[name]]


def around_nothing(columns):
    """Their mean is no turn at all."""
    for name in (STATE, ACTION):
        columns[name] = [[*row[:3], 90.0 * (-1) ** n, 0.0, 0.0, row[6]] for n, row in enumerate(columns[name])]


@pytest.mark.parametrize("change", [as_degrees, around_nothing])
def test_rotation_vectors_in_degrees_are_refused(bag, tmp_path, change):
    folder = made(bag, tmp_path / "set", codec="png", robot=RobotOptions(convention="absolute"))
    of_table(change)(folder)
    with pytest.raises(DatasetError, match=r"than a full turn: are these degrees\? expected radians"):
        dataset_samples(folder, SETTINGS, Window(CAMERAS, 32, 4, 0.1))


def of_names(names):
    def change(folder):
        path = folder / "meta/info.json"
        info = json.loads(path.read_text())
        for name in (STATE, ACTION):
            info["features"][name]["names"] = names
        path.write_text(json.dumps(info))

    return change


def test_names_of_another_convention_are_refused(bag, tmp_path):
    folder = made(bag, tmp_path / "set", codec="png", robot=RobotOptions(convention="absolute"))
    joint_names = changed(folder, tmp_path / "joints", of_names([f"joint_{n}.pos" for n in range(1, 7)] + ["gripper"]))
    with pytest.raises(DatasetError, match=r"states are of joints \(joint_1.pos, .*of tool poses.*--convention"):
        LeRobotReader(joint_names)
    with pytest.raises(DatasetError, match="states are x, y, z, rx, which are no joints"):
        LeRobotReader(folder, Given("joints", joints=JOINTS))


def test_offsets_in_the_place_of_positions_are_refused(tmp_path):
    jointed_set(tmp_path / "set", "droid-joints")

    def subtract(columns):
        columns[ACTION] = (np.array(columns[ACTION]) - np.array(columns[STATE])).tolist()

    folder = changed(tmp_path / "set", tmp_path / "offsets", of_table(subtract))
    with pytest.raises(DatasetError, match="rad from the states: are these offsets or velocities"):
        dataset_samples(folder, of_panda(), Window(CAMERAS, 32, 3, 0.1, VECTOR, ABSOLUTE))


def test_joints_in_degrees_and_under_other_names(tmp_path):
    angles, _, _ = jointed_set(tmp_path / "set", "joints", degrees=True)
    window = Window(CAMERAS, 32, 3, 0.1, joints.JOINTS.of(JOINTS[::-1]), joints.POSITIONS.of(JOINTS[::-1]))
    path = tmp_path / "set" / "meta" / "info.json"
    info = json.loads(path.read_text())
    info["features"][STATE]["names"] = [f"motor_{n}.pos" for n in range(8)]
    path.write_text(json.dumps(info))
    with pytest.raises(DatasetError, match="no joint motor_0.pos.*--set-joints names them as the URDF does"):
        dataset_samples(tmp_path / "set", of_panda(degrees=True), window)
    samples = dataset_samples(tmp_path / "set", of_panda(degrees=True, set_joints=JOINTS), window)
    np.testing.assert_allclose(samples.states[:, :7], angles[: len(samples), ::-1], atol=1e-5)


def test_a_set_of_joints_needs_the_robot_and_a_policy_of_joints_needs_joints(tmp_path, pictures):
    jointed_set(tmp_path / "set", "joints")
    with pytest.raises(
        DatasetError, match="speaks of joints, which takes the robot's URDF: -p robot_description:=FILE"
    ):
        dataset_samples(tmp_path / "set", SETTINGS, Window(CAMERAS, 32, 3, 0.1))
    spoken = Window(CAMERAS, 32, 3, 0.1, joints.JOINTS.of(JOINTS), joints.OFFSETS.of(JOINTS))
    with pytest.raises(DatasetError, match="the policy speaks of joints, and convention grids of this data set has no"):
        dataset_samples(pictures, SETTINGS, spoken)
    with pytest.raises(DatasetError, match="--degrees is of data sets of joints"):
        LeRobotReader(pictures, Given(degrees=True))


def openpi_names(folder):
    """As openpi's converters name features."""
    path = folder / "meta/info.json"
    info = json.loads(path.read_text())
    ours = {STATE: "state", ACTION: "actions", "observation.images.base": "image", "observation.images.wrist": "wrist"}
    info["features"] = {ours.get(name, name): about for name, about in info["features"].items()}
    info["features"]["state"]["names"] = [["x", "y", "z"], ["a", "b", "c", "d", "e", "f", "gripper"]]
    path.write_text(json.dumps(info))

    def rename(columns):
        for theirs, name in ours.items():
            columns[name] = columns.pop(theirs)

    of_table(rename)(folder)


def test_features_may_be_named_as_in_openpi_s_sets(pictures, tmp_path):
    folder = changed(pictures, tmp_path / "set", openpi_names)
    assert Dataset(folder).names("state")[:4] == ("x", "y", "z", "a")
    settings = read(None, {}, {"camera/base/image_raw": "camera/image/image_raw"})
    window = Window(CAMERAS, 32, 4, 0.1)
    renamed, plain = dataset_samples(folder, settings, window), dataset_samples(pictures, SETTINGS, window)
    np.testing.assert_array_equal(renamed.states, plain.states)
    np.testing.assert_array_equal(renamed.actions, plain.actions)
    np.testing.assert_array_equal(renamed.images[np.arange(4)], plain.images[np.arange(4)])


@pytest.mark.parametrize("name", ["meta/info.json", "meta/tasks.parquet", "data/chunk-000/file-000.parquet"])
def test_a_pointer_of_git_lfs_is_called_one(pictures, tmp_path, name):
    folder = changed(pictures, tmp_path / "set", lambda folder: None)
    (folder / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    with pytest.raises(DatasetError, match="is a pointer of Git LFS, not the file: `git lfs pull` fetches it"):
        dataset_samples(folder, SETTINGS, Window(CAMERAS, 32, 4, 0.1))


def test_the_contract_says_what_each_number_means(tmp_path, pictures):
    jointed_set(tmp_path / "set", "joints", degrees=True)
    with open_recording(tmp_path / "set", of_panda(degrees=True, gripper="0:1:0.08")) as reader:
        state, action = reader.notes[1:3]
    assert state.startswith("observation.state (panda_joint1, ") and "angles in degrees" in state
    assert "gripper 0 is closed, 1 is open by 0.08 m" in state
    assert "gripper 0 is closed, 1 is open by 0.08 m" in action
    meaning = Meaning("libero", CONVENTIONS["libero"])
    assert "1 is 0.05 m and 0.5 rad; gripper 1 is closed, -1 is open" in meaning.contract(Dataset(pictures))[1]


def test_a_preset_of_convert_fills_in_what_is_known(capsys):
    options = cli.parse("replay", ["bag", "--checkpoint", "models/demo", "--preset", "so101"])
    found = chosen(options.robot)
    assert (found.convention, found.gripper, found.degrees) == ("joints", "0:100:0.07", True)
    assert found.set_joints[0] == "shoulder_pan"
    options = cli.parse("replay", ["bag", "--checkpoint", "models/demo", "--preset", "droid", "--gripper", "1:0:0.08"])
    assert chosen(options.robot).gripper == "1:0:0.08" and chosen(options.robot).convention == "droid"
    options = cli.parse(
        "replay", ["bag", "--checkpoint", "models/demo", "--preset", "so101", "--convention", "absolute"]
    )
    poses = chosen(options.robot)
    assert (poses.convention, poses.set_joints, poses.degrees) == ("absolute", (), False)
    assert poses.gripper == "0:100:0.07", "the hand's numbers are those of the robot, whatever the rest is"


def of_options(*given):
    settings = chosen(cli.parse("replay", ["bag", "--checkpoint", "models/demo", *given]).robot)
    policy = {"robot_description": panda_urdf(), "base_frame": BASE, "tool_frame": FLANGE}
    return dataclasses.replace(settings, policy=dataclasses.replace(settings.policy, **policy))


PRESET = ("--preset", "droid", "--set-joints", *JOINTS)


def split(folder, renamed, lists):
    """Columns renamed, and new ones, of a feature's numbers [from, to); the folder."""
    path = folder / "meta/info.json"
    info = json.loads(path.read_text())
    info.pop("grids_convention")

    def change(columns):
        for name, (of, first, last, names) in lists.items():
            columns[name] = [row[first:last] for row in columns[of]]
            info["features"][name] = {"dtype": "float32", "shape": [last - first], "names": names}
        for old, new in renamed.items():
            columns[new] = columns.pop(old)
            info["features"][new] = info["features"].pop(old)

    of_table(change)(folder)
    path.write_text(json.dumps(info))
    return folder


def openpi_droid(folder):
    """As openpi's converter of DROID writes it: velocities, the state in two features."""
    lists = {
        "joint_position": (STATE, 0, 7, ["joint_position"]),
        "gripper_position": (STATE, 7, 8, ["gripper_position"]),
        "actions": (ACTION, 0, 8, ["actions"]),
    }
    cameras = {"base": "exterior_image_1_left", "wrist": "wrist_image_left"}
    renamed = {STATE: "unused", ACTION: "unused_too"}
    return split(folder, renamed | {f"observation.images.{ours}": theirs for ours, theirs in cameras.items()}, lists)


def test_openpi_s_droid_sets_are_read(tmp_path):
    angles, targets, openings = jointed_set(tmp_path / "set", "droid")
    folder = openpi_droid(tmp_path / "set")
    settings = of_options(*PRESET, "--gripper", "1:0:0.08")
    remaps = {
        f"camera/{ours}/image_raw": f"camera/{theirs}/image_raw"
        for ours, theirs in (("base", "exterior_image_1_left"), ("wrist", "wrist_image_left"))
    }
    settings = dataclasses.replace(settings, remaps=remaps)
    window = Window(CAMERAS, 32, 3, 0.1, joints.JOINTS.of(JOINTS), joints.OFFSETS.of(JOINTS))
    samples = dataset_samples(folder, settings, window)
    np.testing.assert_allclose(samples.states[:, :7], angles[: len(samples)], atol=1e-6)
    np.testing.assert_allclose(samples.states[:, 7], 0.08 * (1.0 - openings[: len(samples)]), atol=1e-6)
    asked = np.cumsum((targets - angles)[:3], axis=0)
    np.testing.assert_allclose(samples.actions[0][:, :7], asked, atol=1e-5)
    with open_recording(folder, settings) as reader:
        assert reader.notes[1].startswith("joint_position + gripper_position (no names): joint positions n")


def lerobot_droid(folder):
    """As lerobot's port of DROID writes it: `action` holds joint positions, velocities lie beside it."""
    names = {"axes": [f"joint_{n}" for n in range(7)]}
    lists = {
        "action.joint_velocity": (ACTION, 0, 7, names),
        "action.gripper_position": (ACTION, 7, 8, {"axes": ["gripper"]}),
    }
    split(folder, {}, lists)

    def absolute(columns):
        states, actions = np.array(columns[STATE]), np.array(columns[ACTION])
        columns[ACTION] = np.c_[states[:, :7] + 0.2 * actions[:, :7], actions[:, 7]].tolist()

    of_table(absolute)(folder)
    return folder


def test_lerobot_s_port_of_droid_is_read_by_the_features_that_are_named(tmp_path):
    angles, targets, _ = jointed_set(tmp_path / "set", "droid")
    folder = lerobot_droid(tmp_path / "set")
    window = Window(CAMERAS, 32, 3, 0.1, joints.JOINTS.of(JOINTS), joints.OFFSETS.of(JOINTS))
    with pytest.raises(DatasetError, match="the actions nearly equal the states .* --convention droid-joints"):
        dataset_samples(folder, of_options(*PRESET, "--gripper", "0:1:0.08"), window)
    features = ("--action-features", "action.joint_velocity", "action.gripper_position")
    samples = dataset_samples(folder, of_options(*PRESET, "--gripper", "0:1:0.08", *features), window)
    np.testing.assert_allclose(samples.actions[0][:, :7], np.cumsum((targets - angles)[:3], axis=0), atol=1e-5)
    positions = of_options(*PRESET, "--gripper", "0:1:0.08", "--convention", "droid-joints")
    samples = dataset_samples(folder, positions, window)
    np.testing.assert_allclose(samples.actions[0][:, :7], targets[:3] - angles[0], atol=1e-5)
    wrong = of_options(*PRESET, "--action-features", "action.nothing")
    with pytest.raises(
        DatasetError, match="--action-features is action.nothing: .* expected observation.state, action"
    ):
        dataset_samples(folder, wrong, window)


def test_velocities_beyond_droid_s_are_refused(tmp_path):
    jointed_set(tmp_path / "set", "droid")
    fast = [2.0, -2.0, *[0.0] * 5, 0.01]
    of_table(lambda columns: columns.update({ACTION: [fast] * len(columns[ACTION])}))(tmp_path / "set")
    with pytest.raises(DatasetError, match="29% of the velocities exceed 1"):
        dataset_samples(tmp_path / "set", of_panda(), Window(CAMERAS, 32, 3, 0.1))


def test_state_and_action_may_have_other_numbers_of_the_gripper(tmp_path):
    _, _, openings = jointed_set(tmp_path / "set", "joints")
    settings = of_panda(gripper_state="0:2:0.08", gripper_action="0:4:0.08")
    samples = dataset_samples(tmp_path / "set", settings, Window(CAMERAS, 32, 3, 0.1, VECTOR, ABSOLUTE))
    np.testing.assert_allclose(samples.states[:, -1], 0.04 * openings[: len(samples)], atol=1e-6)
    np.testing.assert_allclose(samples.actions[:, 0, -1], 0.02 * openings[: len(samples)], atol=1e-6)
    with open_recording(tmp_path / "set", settings) as reader:
        assert "gripper 0 is closed, 2 is open by 0.08 m" in reader.notes[1]
        assert "gripper 0 is closed, 4 is open by 0.08 m" in reader.notes[2]
    with pytest.raises(SystemExit):
        of_options("--gripper", "0:1:0.08", "--gripper-state", "0:1:0.08")


class Hub(http.server.SimpleHTTPRequestHandler):
    """What a client of the hub asks for one data set of one revision."""

    root = name = None
    asked: ClassVar[list] = []

    def log_message(self, *_):
        pass

    def files(self):
        return [path.relative_to(self.root).as_posix() for path in self.root.rglob("*") if path.is_file()]

    def do_HEAD(self):
        self.answer(False)

    def do_GET(self):
        self.answer(True)

    def answer(self, whole):
        Hub.asked.append(self.path)
        path, head = self.path.split("?")[0], {"X-Repo-Commit": "0" * 40}
        if path.startswith(f"/api/datasets/{self.name}"):
            listed = [{"rfilename": name} for name in self.files()]
            if "/tree/" in path:
                listed = [
                    {"type": "file", "path": n, "size": (self.root / n).stat().st_size, "oid": "0"}
                    for n in self.files()
                ]
                data = json.dumps(listed).encode()
            else:
                data = json.dumps({"id": self.name, "sha": "0" * 40, "siblings": listed}).encode()
            head["Content-Type"] = "application/json"
        elif path.startswith(f"/datasets/{self.name}/resolve/"):
            name = path.split("/", 6)[6]
            data = (self.root / name).read_bytes()
            head["ETag"] = f'"{hashlib.sha256(data).hexdigest()}"'
        else:
            self.send_error(404)
            return
        self.send_response(200)
        for key, value in {**head, "Content-Length": str(len(data))}.items():
            self.send_header(key, value)
        self.end_headers()
        if whole:
            self.wfile.write(data)


HUB_SCRIPT = """
import sys; sys.path.insert(0, sys.argv[1])
from pathlib import Path
from grids_ros.data.lerobot.dataset import Dataset, located
from grids_ros.data.recording import find_recordings
(found,), _ = find_recordings([Path("somebody/cubes")])
print(len(Dataset(found).episodes), located("somebody/cubes"))
"""


def test_a_set_of_the_hub_is_downloaded_when_its_name_is_given(pictures, tmp_path):
    Hub.root, Hub.name = pictures, "somebody/cubes"
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        place = {
            "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
            "HF_HOME": str(tmp_path),
            "HF_HUB_DISABLE_XET": "1",
        }
        command = [sys.executable, "-c", HUB_SCRIPT, str(Path(__file__).parents[1])]
        ran = subprocess.run(
            command, capture_output=True, text=True, env={**os.environ, **place}, timeout=100, cwd=tmp_path
        )
        assert ran.returncode == 0 and ran.stdout.startswith("2 "), ran.stderr[-2000:]
        asked = len(Hub.asked)
        offline = {**os.environ, **place, "HF_HUB_OFFLINE": "1"}
        again = subprocess.run(command, capture_output=True, text=True, env=offline, timeout=100, cwd=tmp_path)
        assert again.stdout == ran.stdout and len(Hub.asked) == asked, "the cache serves it without the network"
        server.shutdown()


def test_a_name_that_the_hub_does_not_have_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(DatasetError, match="somebody/nothing is no folder, and no data set that could be fetched"):
        located("somebody/nothing")


def test_replay_hears_the_joints_and_their_targets(tmp_path):
    angles, targets, _ = jointed_set(tmp_path / "set", "joints")
    with open_recording(tmp_path / "set", of_panda()) as reader:
        found = list(reader.events({topic: topic for topic in ("joint_states", "target_joint", "current_pose")}))
    states = [message for role, _, message in found if role == "joint_states"]
    asked = [message for role, _, message in found if role == "target_joint"]
    assert states[0].name[:7] == list(JOINTS) and len(states) == len(asked) == 24
    np.testing.assert_allclose([message.position[:7] for message in states], angles, atol=1e-6)
    np.testing.assert_allclose([message.position for message in asked], targets, atol=1e-6)
