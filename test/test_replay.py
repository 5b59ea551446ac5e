"""`python -m grids_ros replay` from the command line to its files, and every way it may end."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import av
import cv2
import numpy as np
import pytest
from recording import CAMERAS, DOWN, PERIOD, SPEED, START, foreign, picture, write_recording, write_step
from rosbags.highlevel import AnyReader
from rosbags.typesys import Stores, get_typestore
from tiny import tiny

from grids_ros import cli
from grids_ros.data.reader import BagReader
from grids_ros.data.settings import find_topics, read
from grids_ros.data.writer import BagWriter
from grids_ros.datatypes import Observation, Pose
from grids_ros.parameters import ParameterError
from grids_ros.pieces import outcomes
from grids_ros.policy.checkpoint import save
from grids_ros.policy.errors import CheckpointError
from grids_ros.policy.runtime import Policy
from grids_ros.replay import __main__ as replay_command
from grids_ros.replay.__main__ import DAMAGED, NOTHING, SCORED, UNUSABLE, WORSE, jobs, main, names
from grids_ros.replay.bag_replay import replay as run_bag
from grids_ros.replay.finished import Finished
from grids_ros.replay.options import SCORED_BAGS
from grids_ros.replay.overlay_video import REPORT_FRAMES, OverlayVideo
from grids_ros.replay.policy_process import InferenceRequest, PolicyProcess, load
from grids_ros.replay.replayed_session import ReplayedSession
from grids_ros.replay.ticks import Span, Tick, TickGenerator
from grids_ros.replay.variants import Variant, variants

HORIZON = 6  # of the tiny policy
HOME = Pose((0.45, 0.0, 0.3), DOWN)
PROBED = ("--other-instruction", "lift the green cube")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    nested, folder = tiny(budgets=(2, 4)), tmp_path_factory.mktemp("checkpoint") / "tiny"
    save(nested, folder)
    return folder


@pytest.fixture(scope="module")
def bag(tmp_path_factory):
    words = ("lift the red cube", "lift the blue cube")
    return write_recording(tmp_path_factory.mktemp("bag") / "arm", seconds=3.0, words=words)


def replay(out, *arguments) -> tuple[int, dict]:
    """Exit code and summary; an empty one where none was written."""
    code = main([*map(str, arguments), "--out", str(out), "-p", "threads:=1"])
    path = out / "summary.json"
    return code, json.loads(path.read_text()) if path.exists() else {}


@pytest.fixture(scope="module")
def scored(tmp_path_factory, bag, checkpoint):
    """One plain run that several tests look at."""
    out = tmp_path_factory.mktemp("out")
    code, summary = replay(
        out, bag, "--checkpoint", checkpoint, "--write-bag", "--other-instruction", "lift the green cube"
    )
    assert code == SCORED
    return out, summary


def test_the_summary_has_both_episodes_and_what_standing_still_would_cost(scored):
    _, summary = scored
    (about,) = summary["bags"]
    assert [episode["instruction"] for episode in about["episodes"]] == ["lift the red cube", "lift the blue cube"]
    assert about["reference"] == "target_pose" and not about["loss"] and not about["notes"]
    overall = summary["overall"]["tiny"]
    assert overall["inferences"] == 29 and len(summary["episodes"]["tiny"]) == 2
    first = summary["episodes"]["tiny"][0]["still_mm"]["by_step"]
    np.testing.assert_allclose(first, 1e3 * SPEED * 0.1 * np.arange(1, HORIZON + 1), rtol=1e-3)
    assert overall["instruction"]["change_mm"] > 0.0
    assert set(overall["coordinates"]) == {"base", "wrist"}


def test_what_was_recorded_after_an_episode_is_not_held_against_its_chunks(scored):
    _, summary = scored
    stamps = np.arange(1, 29, 2)  # of the first episode's observations, tenths of a second; it lasts for three seconds
    due = stamps[:, None] + np.arange(1, HORIZON + 1)
    first = summary["episodes"]["tiny"][0]
    assert first["inferences"] == len(stamps) and first["scored_steps"] == (due < 30).sum() < due.size


def test_the_report_is_one_file_that_asks_for_nothing_else(scored):
    out, _ = scored
    page = (out / "report.html").read_text()
    assert page.count("<svg") == 4 and "data:image/jpeg;base64," in page
    assert not re.search(r"""(src|href)=["']?(?!data:)\w*[:/]""", page) and "@import" not in page
    for words in ("lift the blue cube", "standing still", "/camera/base/image_raw/compressed"):
        assert words in page


def test_the_video_has_a_frame_for_every_inference(scored):
    out, summary = scored
    with av.open(str(out / "overlay.mp4")) as video:
        frames = sum(1 for _ in video.decode(video=0))
    assert frames == summary["overall"]["tiny"]["inferences"]


def test_the_new_bag_has_the_original_messages_and_the_chunks_of_the_policy(scored, bag, checkpoint):
    out, _ = scored
    with AnyReader([bag]) as old, AnyReader([out / "bag"]) as new:
        originals = {connection.topic for connection in old.connections}
        made = {connection.topic for connection in new.connections} - originals
        assert made == {
            "/action_chunk",
            "/gripper_chunk",
            "/sampled_points",
            "/overlay/base/image_raw",
            "/overlay/wrist/image_raw",
        }

        def content(reader):
            return sorted((c.topic, at, bytes(data)) for c, at, data in reader.messages() if c.topic in originals)

        assert content(old) == content(new)
        chunks = {}
        for connection, _, data in new.messages([c for c in new.connections if c.topic == "/action_chunk"]):
            message = new.deserialize(data, connection.msgtype)
            moved = [point.transforms[0].translation for point in message.points]
            chunks[message.header.stamp.sec * 10**9 + message.header.stamp.nanosec] = [(v.x, v.y, v.z) for v in moved]
    policy = Policy.load(checkpoint)
    seen = observations(bag, policy.cameras)
    assert {observation.stamp_ns for observation in seen} == set(chunks)
    chunk = policy.infer(seen[7]).chunk
    np.testing.assert_array_equal(chunks[chunk.stamp_ns], chunk.positions)


def observations(bag, cameras) -> list:
    """What a policy is shown of a bag, at the nodes' defaults."""
    settings = read(None, {}, {})
    with BagReader(bag) as source:
        generator = TickGenerator(source, find_topics(source, settings, cameras), cameras, settings.policy)
        ticks = generator.ticks(Span(source.start_ns, source.end_ns))
        return [tick.observation for tick in ticks if tick.observation]


def test_the_same_bag_twice_gives_the_same_summary(tmp_path, scored, bag, checkpoint):
    _, again = replay(tmp_path, bag, "--checkpoint", checkpoint, *PROBED)
    first = dict(scored[1])
    del first["timings"], again["timings"]
    assert first == again


def test_token_counts_and_the_dense_model_are_compared_side_by_side(tmp_path, bag, checkpoint):
    code, summary = replay(tmp_path, bag, "--checkpoint", checkpoint, "--tokens", "4", "2", "dense", "--range", "0:1.5")
    assert code == SCORED and set(summary["overall"]) == {"tiny K=4", "tiny K=2", "tiny dense"}
    assert summary["overall"]["tiny dense"]["coordinates"] == {} and summary["overall"]["tiny K=2"]["coordinates"]
    page = (tmp_path / "report.html").read_text()
    assert all(label in page for label in summary["overall"])


def test_fewer_denoising_steps_are_held_against_the_first_column(tmp_path, bag, checkpoint):
    steps = ["--denoising-steps", "3", "1"]
    code, summary = replay(tmp_path, bag, "--checkpoint", checkpoint, *steps)
    three, one = (summary["overall"][f"tiny {count} steps"] for count in (3, 1))
    assert code == SCORED and three["from_first"] == {"mm": None, "deg": None}
    policies = [Policy.load(checkpoint, denoising_steps=count) for count in (3, 1)]
    pairs = [[p.infer(seen).chunk.positions for p in policies] for seen in observations(bag, policies[0].cameras)]
    apart_mm = [1e3 * np.linalg.norm(more - fewer, axis=1).mean() for more, fewer in pairs]
    assert one["from_first"]["mm"] == pytest.approx(np.mean(apart_mm), rel=1e-3)
    assert "From the first column" in (tmp_path / "report.html").read_text()


DEFAULTS = read(None, {}, {}).policy  # of the policy node's parameters


def test_fewer_tokens_are_the_first_of_the_coordinates(checkpoint):
    observations = Policy.load(checkpoint), load(Variant("two", checkpoint, "2"), DEFAULTS)[0]
    assert [policy.tokens_per_camera for policy in observations] == [4, 2]
    four, two = (policy.infer(_observation()).coordinates["base"] for policy in observations)
    np.testing.assert_allclose(two, four[:2], atol=1e-6)


def test_what_the_nodes_parameters_say_of_tokens_is_scored(checkpoint, monkeypatch, tmp_path):
    """The report is of the policy that would run, not of the checkpoint as it is."""
    given = ["bag", "--checkpoint", str(checkpoint), "--out", str(tmp_path), "-p", "tokens:=2"]
    (job,) = jobs(cli.parse("replay", given))
    (variant,) = job.variants
    assert variant.tokens == "2" and variant.label.endswith("K=2")
    with pytest.raises(ParameterError, match="'tokens' is auto"):
        jobs(cli.parse("replay", [*given, "-p", "tokens:=auto"]))


def test_precisions_are_compared_and_reach_the_policy(checkpoint):
    found = variants([checkpoint], precisions=["auto", "bfloat16"])
    assert [variant.label for variant in found] == [f"{checkpoint.name} auto", f"{checkpoint.name} bfloat16"]
    policy, _ = load(found[1], DEFAULTS)
    assert all("bfloat16 products" in reason for reason in policy.products.values())


def test_policies_whose_process_ends_are_named(checkpoint):
    with PolicyProcess([Variant("tiny", checkpoint)], DEFAULTS, 1) as policies:
        policies.submit(_observation(), {"tiny": InferenceRequest()})
        assert policies.replies()["tiny"].output.chunk.positions.shape == (HORIZON, 3)
        assert policies.replies() == {}
        (process,) = multiprocessing.active_children()
        process.kill()
        process.join()
        with pytest.raises(CheckpointError, match="the process of tiny ended with -9"):
            policies.submit(_observation(), {"tiny": InferenceRequest()})


def _observation():
    images = {camera: picture(camera, 3) for camera in ("base", "wrist")}
    return Observation(0, images, Pose((0.4, 0.0, 0.3), (1.0, 0.0, 0.0, 0.0)), 0.08, "lift the red cube")


def test_a_delay_costs_the_ticks_that_come_while_the_policy_is_busy(tmp_path, bag, checkpoint):
    _, at_once = replay(tmp_path / "a", bag, "--checkpoint", checkpoint, "--range", "0:2.9")
    _, late = replay(tmp_path / "b", bag, "--checkpoint", checkpoint, "--range", "0:2.9", "--latency", "500")
    assert at_once["overall"]["tiny"]["inferences"] == 14 and at_once["overall"]["tiny"]["missed_ticks"] == 0
    assert late["overall"]["tiny"]["inferences"] == 5 and late["overall"]["tiny"]["missed_ticks"] == 9


def test_a_baseline_passes_itself_and_fails_what_is_worse(tmp_path, scored, bag, checkpoint, capsys):
    out, summary = scored
    arguments = [bag, "--checkpoint", checkpoint, "--range", "0:6", "--tolerance", "0.2"]
    assert replay(tmp_path / "a", *arguments, "--baseline", out / "summary.json")[0] == SCORED
    summary = json.loads(json.dumps(summary))
    summary["overall"]["tiny"]["position_mm"]["mean"] /= 2.0
    (tmp_path / "better.json").write_text(json.dumps(summary))
    assert replay(tmp_path / "b", *arguments, "--baseline", tmp_path / "better.json")[0] == WORSE
    assert "worse than the baseline: tiny: position_mm.mean is" in capsys.readouterr().err
    assert "Worse than the baseline" in (tmp_path / "b" / "report.html").read_text()
    (tmp_path / "other.json").write_text("{}")
    assert replay(tmp_path / "c", *arguments, "--baseline", tmp_path / "other.json")[0] == UNUSABLE


def test_a_camera_that_is_dead_for_an_episode_is_said_first_and_is_worse_than_a_baseline(tmp_path, checkpoint):
    for name, last in (("whole", CAMERAS), ("dead", CAMERAS[:1])):
        with BagWriter(tmp_path / name) as writer:
            for episode, cameras in enumerate((CAMERAS, last)):
                at = START + episode * 20 * PERIOD
                writer.instruction(at - 1000, ("lift the red cube", "lift the blue cube")[episode])
                for step in range(20):
                    write_step(writer, at + step * PERIOD, step, cameras)
    given = ["--checkpoint", checkpoint, "-p", "camera_max_age_s:=[0.15]"]
    code, summary = replay(tmp_path / "a", tmp_path / "whole", *given)
    assert code == SCORED and summary["overall"]["tiny"]["no_chunk_share"] < 0.1
    code, summary = replay(tmp_path / "b", tmp_path / "dead", *given, "--baseline", tmp_path / "a" / "summary.json")
    assert code == WORSE and 0.4 < summary["overall"]["tiny"]["no_chunk_share"] <= 0.5
    first = re.search(r'<ul class="findings"><li class="\w+">(.*?)</li>', (tmp_path / "b" / "report.html").read_text())
    assert first[1].startswith("No chunk at") and "wrist" in first[1]


def test_commands_of_another_type_are_noted_and_the_rest_is_scored(tmp_path, checkpoint):
    text = get_typestore(Stores.ROS2_JAZZY).types["std_msgs/msg/String"]
    with BagWriter(tmp_path / "bag") as writer:
        writer.instruction(START - 1000, "lift the red cube")
        writer.write("gripper_command", START, text("open"))
        for step in range(10):
            write_step(writer, START + step * PERIOD, step)
    code, summary = replay(tmp_path / "out", tmp_path / "bag", "--checkpoint", checkpoint)
    assert code == SCORED and summary["overall"]["tiny"]["gripper_mm"]["mean"] is not None
    said = "gripper_command is std_msgs/msg/String, expected std_msgs/msg/Float64MultiArray: left out"
    assert said in summary["bags"][0]["notes"]


def test_targets_too_sparse_to_go_by_are_nothing_to_score(tmp_path, checkpoint, capsys):
    with BagWriter(tmp_path / "bag") as writer:
        writer.instruction(START - 1000, "lift the red cube")
        for step in range(10):
            write_step(writer, START + step * PERIOD, step, targets=False)
            if step % 2 == 0:
                writer.target_pose(START + step * PERIOD, HOME)
    code, summary = replay(tmp_path / "out", tmp_path / "bag", "--checkpoint", checkpoint)
    said = "no step of any chunk could be scored: target_pose pauses 4 times for more than 0.15 s, in 5 messages"
    assert code == NOTHING and summary["overall"]["tiny"]["inferences"] and said in summary["bags"][0]["notes"]
    assert said in capsys.readouterr().err


def test_a_pause_in_the_recording_is_no_time_that_the_follower_holds(tmp_path, checkpoint):
    with BagWriter(tmp_path / "bag") as writer:
        writer.instruction(START - 1000, "lift the red cube")
        for begins in (START, START + 600 * PERIOD):
            for step in range(15):
                write_step(writer, begins + step * PERIOD, step)
    _, summary = replay(tmp_path / "out", tmp_path / "bag", "--checkpoint", checkpoint)
    assert summary["overall"]["tiny"]["limits"]["held_share"] < 0.5


def test_ranges_know_the_gripper_command_from_before_them_in_any_order(tmp_path, bag, checkpoint):
    spans = ["--range", "2.4:2.9", "--range", "4.6:5.1"]
    given = [bag, "--checkpoint", checkpoint]
    _, forth = replay(tmp_path / "a", *given, *spans)
    _, back = replay(tmp_path / "b", *given, *spans[2:], *spans[:2])
    for entry, other in zip(forth["episodes"]["tiny"], back["episodes"]["tiny"][::-1], strict=True):
        assert entry["gripper_mm"]["mean"] is not None and entry["gripper_mm"] == other["gripper_mm"]
        assert entry["position_mm"] == other["position_mm"]


def test_a_camera_faster_than_the_inferences_is_followed_from_one_to_the_next(tmp_path, checkpoint):
    texture = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 255, (96, 128, 3)).astype(np.uint8), (0, 0), 3)
    texture = cv2.normalize(texture, None, 0, 255, cv2.NORM_MINMAX)
    with BagWriter(tmp_path / "bag") as writer:
        writer.instruction(START - 1000, "lift the red cube")
        for step in range(20):
            at = START + step * PERIOD
            write_step(writer, at, step, CAMERAS[1:] if step % 2 == 0 else ())
            writer.image("base", at, np.roll(texture, 4 * step, axis=1))
    _, summary = replay(tmp_path / "out", tmp_path / "bag", "--checkpoint", checkpoint, "-p", "rate_hz:=10.0")
    figures = summary["overall"]["tiny"]
    assert figures["inferences"] in (9, 10)
    assert figures["coordinates"]["base"]["picture"] == pytest.approx(8 / 128, rel=0.15)
    with av.open(str(tmp_path / "out" / "overlay.mp4")) as video:
        assert sum(1 for _ in video.decode(video=0)) == figures["inferences"]


def test_bags_of_one_name_are_told_apart(tmp_path, bag, checkpoint):
    copy = shutil.copytree(bag, tmp_path / bag.name)
    given = [str(bag), str(copy), "--checkpoint", str(checkpoint), "--out", str(tmp_path), "--range", "0:0.5"]
    options = cli.parse("replay", given)
    todo = jobs(options)
    assert [job.name for job in todo] == ["1_arm", "2_arm"] and len({job.film for job in todo}) == 2
    assert run_bag(todo[1]).name == "2_arm"
    assert names([Path("a/run.1"), Path("run.2.mcap")]) == ["run.1", "run.2"]


def test_several_bags_run_in_processes_and_a_bad_one_does_not_hide_the_good_ones(tmp_path, bag, checkpoint, capfd):
    copy = shutil.copytree(bag, tmp_path / "copy")
    (tmp_path / "empty").mkdir()
    code, summary = replay(
        tmp_path / "out",
        bag,
        copy,
        tmp_path / "empty",
        "--checkpoint",
        checkpoint,
        "--range",
        "0:1.5",
        "--workers",
        "2",
    )
    assert code == NOTHING and "empty is no rosbag2" in capfd.readouterr().err
    assert [about["name"] for about in summary["bags"]] == ["arm", "copy"]
    one, two = (entry["position_mm"] for entry in summary["episodes"]["tiny"])
    assert one == two
    assert {path.name for path in (tmp_path / "out").glob("*.mp4")} == {"overlay_arm.mp4", "overlay_copy.mp4"}


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_second_start_goes_on_with_the_bags_that_are_left(tmp_path, bag, checkpoint, monkeypatch, capfd):
    copy, out = shutil.copytree(bag, tmp_path / "copy"), tmp_path / "out"
    asked = [bag, copy, "--checkpoint", checkpoint, "--range", "0:1", "--workers", "1"]
    begun = []

    def watched(work, pieces, workers):
        begun.append([piece.name for piece in pieces])
        for outcome in outcomes(work, pieces, workers):
            yield outcome
            if len(begun) == 1:
                raise KeyboardInterrupt

    monkeypatch.setattr(replay_command, "outcomes", watched)
    assert replay(out, *asked)[0] == 130
    assert "1 bags are scored, a second start goes on with the others" in capfd.readouterr().err
    _, summary = replay(out, *asked)
    assert begun[0] == ["arm", "copy"] and len(begun[1]) == 1
    kept, fresh = (entry["position_mm"] for entry in summary["episodes"]["tiny"])
    assert kept == fresh and not (out / SCORED_BAGS).exists(), "the report holds them all"


def test_a_result_of_other_options_or_files_is_not_used(tmp_path, bag, checkpoint):
    copy = shutil.copytree(bag, tmp_path / "copy")
    given = [str(copy), "--checkpoint", str(checkpoint), "--out", str(tmp_path / "out"), "--range", "0:1"]
    (job,), finished = jobs(cli.parse("replay", given)), Finished(tmp_path / "out")
    result = run_bag(job)
    finished.keep(job, result)
    known = finished.find(job)
    assert known is not None and known.overlay_frames == result.overlay_frames
    for label, episodes in result.statistics.items():
        for number, one in episodes.items():
            assert known.statistics[label][number].figures() == one.figures()
    assert finished.find(dataclasses.replace(job, latency_s=0.1)) is None
    (next(copy.glob("*.mcap"))).touch()
    assert finished.find(job) is None, "the bag has changed"


def test_another_robots_bag_is_scored_against_its_measured_motion(tmp_path, checkpoint):
    remaps = ["instruction:=/ur/task", "current_pose:=/ur/tcp", "joint_states:=/ur/joints"]
    remaps += ["camera/base/image_raw:=/zed/left/color", "camera/wrist/image_raw:=/hand/color"]
    options = [text for remap in remaps for text in ("-r", remap)]
    options += ["-p", "base_frame:=ur_base_link", "-p", "finger_joints:=[finger, finger]"]
    code, summary = replay(tmp_path / "out", foreign(tmp_path / "bag"), "--checkpoint", checkpoint, *options)
    (about,) = summary["bags"]
    assert code == SCORED and about["reference"] == "current_pose"
    assert any("measured motion" in note for note in about["notes"])
    assert summary["overall"]["tiny"]["gripper_mm"]["mean"] is not None


def test_a_broken_off_bag_is_scored_as_far_as_it_goes(tmp_path, bag, checkpoint, capsys):
    copy = shutil.copytree(bag, tmp_path / "copy")
    (data,) = copy.glob("*.mcap")
    data.write_bytes(data.read_bytes()[: data.stat().st_size * 7 // 10])
    code, summary = replay(tmp_path / "out", copy, "--checkpoint", checkpoint)
    assert code == DAMAGED and summary["overall"]["tiny"]["inferences"] > 5
    assert "broken off" in summary["bags"][0]["loss"] and "broken off" in capsys.readouterr().err
    assert "could not be read whole" in (tmp_path / "out" / "report.html").read_text()


def test_images_of_changing_size_are_scored_and_noted(tmp_path, checkpoint):
    with BagWriter(tmp_path / "bag") as bag:
        bag.instruction(START - 1000, "lift the red cube")
        bag.gripper_command(START - 500, 0.08)
        for step in range(20):
            write_step(bag, START + step * PERIOD, step)
            if step == 10:
                for name in CAMERAS:
                    bag.image(
                        name, START + step * PERIOD + PERIOD // 2, picture(name, step)[: 48 if name == "base" else 96]
                    )
    code, summary = replay(tmp_path / "out", tmp_path / "bag", "--checkpoint", checkpoint, "-p", "rate_hz:=10.0")
    assert code == SCORED
    assert summary["bags"][0]["notes"] == ["images of camera 'base' changed size: 128x48, 128x96"]


def test_an_instruction_that_the_policy_does_not_know_is_named_and_nothing_is_scored(tmp_path, bag, checkpoint, capsys):
    code, summary = replay(tmp_path / "out", bag, "--checkpoint", checkpoint, "--instruction", "dance")
    assert code == NOTHING
    assert "words this policy does not know: ['dance']" in capsys.readouterr().out
    assert "Nothing was inferred" in (tmp_path / "out" / "report.html").read_text()


def test_what_cannot_be_used_is_said_in_one_line(tmp_path, bag, checkpoint, capsys):
    def refused(*arguments) -> tuple[int, str]:
        try:
            code, _ = replay(tmp_path / "out", *arguments)
        except SystemExit as ended:  # of what the command line itself says
            code = ended.code
        return code, capsys.readouterr().err

    with BagWriter(tmp_path / "silent"):
        pass
    others = tmp_path / "others.json"
    others.write_text('{"version": 1, "overall": {"x": {}, "y": {}}}')
    front = ("-r", "camera/base/image_raw:=/front")
    joints = ("-r", "camera/base/image_raw:=joint_states")
    for expected, said, arguments in (
        (UNUSABLE, "nowhere, expected an existing folder", [bag, "--checkpoint", tmp_path / "nowhere"]),
        (UNUSABLE, "trained with 2 or 4", [bag, "--checkpoint", checkpoint, "--tokens", "8"]),
        (UNUSABLE, "compared with itself", [bag, "--checkpoint", checkpoint, checkpoint]),
        (UNUSABLE, "expected from:=to", [bag, "--checkpoint", checkpoint, "--remap", "a=b"]),
        (UNUSABLE, "is no YAML", [bag, "--checkpoint", checkpoint, "-p", "finger_joints:=[a, b"]),
        (UNUSABLE, "the baseline has x, y; this run has tiny", [bag, "--checkpoint", checkpoint, "--baseline", others]),
        (UNUSABLE, "'rate_hz' is 'fast'", [bag, "--checkpoint", checkpoint, "-p", "rate_hz:=fast"]),
        (NOTHING, "silent is empty", [tmp_path / "silent", "--checkpoint", checkpoint]),
        (NOTHING, "begins after the end", [bag, "--checkpoint", checkpoint, "--range", "100:"]),
        (NOTHING, "no messages on front", [bag, "--checkpoint", checkpoint, *front]),
        (NOTHING, "expected sensor_msgs/msg/Image or", [bag, "--checkpoint", checkpoint, *joints]),
    ):
        code, error = refused(*arguments)
        assert (code, said in error) == (expected, True), error
        assert "Traceback" not in error
    assert not (tmp_path / "out" / "overlay.mp4").exists()  # refused before the work, not after it


@pytest.mark.parametrize(
    "option", ["--range=5:2", "--denoising-steps=0", "--latency=-1", "--workers=0", "--tolerance=nan"]
)
def test_an_option_that_makes_no_sense_is_refused(option, bag, checkpoint, capsys):
    with pytest.raises(SystemExit) as ended:
        main([str(bag), "--checkpoint", str(checkpoint), option])
    assert ended.value.code == UNUSABLE and "expected" in capsys.readouterr().err


def test_the_pictures_kept_for_the_report_are_bounded_however_long_the_bag(tmp_path):
    with OverlayVideo(tmp_path / "film.mp4", 5.0, ("base",), ("a",), 0) as film:
        for number in range(10 * REPORT_FRAMES):
            seen = SimpleNamespace(images={"base": picture("base", number % 20)[:32, :32]})
            film.add(SimpleNamespace(now_ns=number, observation=seen, instruction="lift", episode=0), {})
        film.wait()
        assert film.frames == 10 * REPORT_FRAMES and REPORT_FRAMES // 2 <= len(film.overlay_frames) < REPORT_FRAMES
        times = np.array([frame.time_s for frame in film.overlay_frames])
        assert np.allclose(np.diff(times), np.diff(times)[0])


@pytest.mark.parametrize(
    ("rate_hz", "camera_hz", "latency_s", "inferences"), [(20, 10, 0.12, 67), (10, 5, 0.25, 34), (5, 10, 0.05, 50)]
)
def test_of_a_slow_camera_it_infers_as_often_as_the_node(rate_hz, camera_hz, latency_s, inferences):
    """In ten seconds: from each image once, and never while busy; a tick that was missed uses no image up."""
    session, asked = ReplayedSession(latency_s, ()), []
    chunk = SimpleNamespace(stamp_ns=0, end_ns=0)
    for i in range(10 * rate_hz):
        now_ns = round(1e9 * i / rate_hz)
        stamp_ns = round(1e9 * (i * camera_hz // rate_hz) / camera_hz)
        seen = SimpleNamespace(stamp_ns=stamp_ns)
        tick = Tick(now_ns, 0, "lift", (), seen, (), {}, instructions=((0, "lift"),) if i == 0 else ())
        session_step = session.at(tick)
        if session_step.inference is not None:
            asked.append(stamp_ns)
            session.completed(session_step, SimpleNamespace(output=SimpleNamespace(chunk=chunk, latency_s={})))
    assert len(asked) == len(set(asked)) == inferences
