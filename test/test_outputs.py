"""No output takes the place of what it is made from, or of what somebody else wrote."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from recording import write_recording
from tiny import save_tiny

from grids_ros.cli import call
from grids_ros.data.metadata import NAME
from grids_ros.data.reader import BagError
from grids_ros.data.writer import BagWriter
from grids_ros.options import UNUSABLE, UsageError, require_apart
from grids_ros.replay.__main__ import SCORED
from grids_ros.replay.options import SCORED_BAGS


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("checkpoint") / "tiny", budgets=(2, 4))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def replay(bag: Path, checkpoint: Path, out: Path, *more: str) -> int:
    given = [str(bag), "--checkpoint", str(checkpoint), "--out", str(out), "--range", "0:0.5", "-p", "threads:=1"]
    return call("replay", [*given, *more])


def test_an_output_is_neither_an_input_nor_around_or_within_one(tmp_path):
    bag = tmp_path / "bags" / "one"
    bag.mkdir(parents=True)
    (bag / "file.mcap").touch()
    (tmp_path / "link").symlink_to(tmp_path / "bags")
    (tmp_path / "hard.mcap").hardlink_to(bag / "file.mcap")
    for output, relation in (
        (bag, "is"),
        (bag / "new" / "out", "lies in"),
        (tmp_path / "bags", "holds"),
        (tmp_path / "link" / "one", "is"),
        (tmp_path / "link" / "one" / "x", "lies in"),
        (tmp_path / "other" / ".." / "bags" / "one", "is"),
    ):
        with pytest.raises(UsageError, match=f"{relation} the input"):
            require_apart([output], [bag])
    with pytest.raises(UsageError, match="is the input"):
        require_apart([tmp_path / "hard.mcap"], [bag / "file.mcap"])
    require_apart([tmp_path / "bags" / "two", tmp_path / "on", tmp_path / "bags" / "one2"], [bag])


def test_replay_never_writes_over_its_bag(tmp_path, checkpoint, monkeypatch, capsys):
    write_recording(tmp_path / "bag", seconds=1.0)
    monkeypatch.chdir(tmp_path)
    before = contents(tmp_path)
    for bag, out, more in (
        ("bag", ".", ["--write-bag"]),
        ("bag/bag_0.mcap", ".", ["--write-bag"]),
        ("bag", "bag", []),
        ("bag", "bag/inner", []),
    ):
        assert replay(Path(bag), checkpoint, Path(out), *more) == UNUSABLE
        assert f"the input {bag}" in capsys.readouterr().err
    assert contents(tmp_path) == before
    assert replay(Path("bag"), checkpoint, checkpoint / "report") == UNUSABLE


def test_replay_replaces_the_bag_that_it_wrote_and_no_other(tmp_path, checkpoint, capsys):
    source, out = write_recording(tmp_path / "arm", seconds=1.0), tmp_path / "out"
    for _ in range(2):
        assert replay(source, checkpoint, out, "--write-bag") == SCORED
    assert replay(out / "bag", checkpoint, out, "--write-bag") == UNUSABLE
    (out / "bag" / "notes.txt").write_text("mine")
    assert replay(source, checkpoint, out, "--write-bag") == UNUSABLE
    assert "bag holds notes.txt, which grids replay did not write" in capsys.readouterr().err
    shutil.rmtree(out / "bag")
    write_recording(out / "bag", seconds=1.0)
    before = contents(out)
    assert replay(source, checkpoint, out, "--write-bag") == UNUSABLE
    assert "was not written by grids replay and is not replaced" in capsys.readouterr().err
    assert contents(out) == before


def test_a_bag_is_replaced_by_its_own_writer_alone(tmp_path):
    bag = tmp_path / "bag"
    write_recording(bag, seconds=0.2, by="one")
    write_recording(bag, seconds=0.2, by="one", replace=True)
    with pytest.raises(BagError, match="was not written by two"):
        BagWriter(bag, replace=True, by="two")
    text = (bag / NAME).read_text()
    (bag / NAME).write_text(text.replace("by: one", "by: [1]"))
    with pytest.raises(BagError, match="was not written by one"):
        BagWriter(bag, replace=True, by="one")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(BagError, match="was not written by one"):
        BagWriter(tmp_path / "file", replace=True, by="one")


def test_a_users_folder_scored_stays(tmp_path, checkpoint):
    bag, out = write_recording(tmp_path / "arm", seconds=1.0), tmp_path / "out"
    for name in ("scored", SCORED_BAGS):
        (out / name).mkdir(parents=True)
        (out / name / "notes.json").write_text("mine")
    assert replay(bag, checkpoint, out) == SCORED
    for name in ("scored", SCORED_BAGS):
        assert (out / name / "notes.json").read_text() == "mine"


def test_the_demo_keeps_its_bag_until_it_has_another_and_a_foreign_one_for_ever(tmp_path, checkpoint, monkeypatch):
    episodes = pytest.importorskip("grids_ros.demo.episodes")
    bag = write_recording(tmp_path / "bag", seconds=0.2)
    (tmp_path / "summary.json").write_text("{}")
    before = contents(tmp_path)
    assert episodes.run(checkpoint, 1, 0, tmp_path) == UNUSABLE
    assert contents(tmp_path) == before
    write_recording(tmp_path / "new", seconds=0.2, by="grids demo")
    shutil.rmtree(bag)
    (tmp_path / "new").rename(bag)
    metadata = bag / NAME
    metadata.write_text(metadata.read_text().replace("new_0", "bag_0"))
    (bag / "new_0.mcap").rename(bag / "bag_0.mcap")
    before = contents(tmp_path)

    def failing(*_):
        raise episodes.DemoError("nothing came up")

    monkeypatch.setattr(episodes, "run_episodes", failing)
    assert episodes.run(checkpoint, 1, 0, tmp_path) == 1
    assert contents(tmp_path) == before


def test_training_and_exporting_into_a_bag_are_refused(tmp_path, capsys):
    bag = write_recording(tmp_path / "arm", seconds=1.0)
    before = contents(bag)
    assert call("train", [str(bag), "--out", str(bag), "--steps", "1"]) == UNUSABLE
    assert "lies in the input" in capsys.readouterr().err
    assert call("export", [str(bag), "--out", str(bag / "set")]) == UNUSABLE
    assert "lies in the input" in capsys.readouterr().err
    assert contents(bag) == before


def test_training_replaces_no_readme_of_somebody_else(tmp_path, capsys):
    bag = write_recording(tmp_path / "arm", seconds=1.0)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "README.md").write_text("mine")
    with pytest.raises(SystemExit):
        call("train", [str(bag), "--out", str(tmp_path / "out"), "--steps", "1"])
    assert "holds README.md" in capsys.readouterr().err
    assert (tmp_path / "out" / "README.md").read_text() == "mine"
