"""An option or a file that cannot be used ends every command with one line and exit code 2, before the work."""

import os
from dataclasses import is_dataclass

import pytest
import tyro
from recording import write_recording

from grids_ros import cli, options
from grids_ros.options import Place

TASTES = ("x", "", "nan", "inf", "-1", "0", "1e30", "9" * 30, "1.5", "\x00")
NUMBERS = (
    ("replay", "--workers"),
    ("train", "--batch"),
    ("evaluate", "--episodes"),
    ("record", "--image-size"),
    ("demo", "--episodes"),
    ("diagnose", "--workers"),
)
REST = {
    "replay": ["bag", "--checkpoint", "FOLDER"],
    "train": ["bag", "--out", "NEW"],
    "evaluate": ["--checkpoint", "FOLDER"],
    "record": ["--out", "NEW"],
    "demo": ["--checkpoint", "FOLDER", "--out", "NEW"],
    "diagnose": ["FOLDER", "bag"],
    "bench": ["--checkpoint", "FOLDER", "--out", "NEW"],
}
FOLDERS = tuple((name, "--checkpoint") for name in ("replay", "evaluate", "demo", "bench"))
OUTPUTS = (("record", "--out"), ("train", "--out"), ("demo", "--out"), ("evaluate", "--json"), ("bench", "--out"))


def refused(name, arguments, capsys):
    """What is printed; the options are not read."""
    with pytest.raises(SystemExit) as ended:
        cli.parse(name, arguments)
    error = capsys.readouterr().err
    assert ended.value.code == 2 and error.startswith(f"grids {name}: ") and error.count("\n") == 1, error
    return error


def rest(name, tmp_path, without=""):
    given = list(REST[name])
    if without in given:
        del given[given.index(without) : given.index(without) + 2]
    (tmp_path / "folder").mkdir(exist_ok=True)
    places = {"FOLDER": str(tmp_path / "folder"), "NEW": str(tmp_path / "new" / "out")}
    return [places.get(each, each) for each in given]


@pytest.mark.parametrize("value", TASTES, ids=repr)
@pytest.mark.parametrize(("name", "option"), NUMBERS)
def test_a_count_that_is_none_is_refused(name, option, value, tmp_path, capsys):
    error = refused(name, [*rest(name, tmp_path), option, value], capsys)
    assert option in error and "expected" in error
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("value", ["none", "file", "file/below", "n" * 300])
@pytest.mark.parametrize(("name", "option"), FOLDERS)
def test_a_folder_that_is_none_is_refused(name, option, value, tmp_path, capsys):
    (tmp_path / "file").write_text("text")
    error = refused(name, [*rest(name, tmp_path, option), option, str(tmp_path / value)], capsys)
    assert f"{option} is" in error and "expected an existing folder" in error


@pytest.mark.parametrize("value", ["file/below", "file/below/deeper", "n" * 300 + "/x"])
@pytest.mark.parametrize(("name", "option"), OUTPUTS)
def test_an_output_that_cannot_be_written_is_refused(name, option, value, tmp_path, capsys):
    (tmp_path / "file").write_text("text")
    error = refused(name, [*rest(name, tmp_path, option), option, str(tmp_path / value)], capsys)
    assert f"{option} is" in error and "that can be written" in error


@pytest.mark.parametrize("name", [name for name in REST if name != "bench"])
def test_an_option_twice_an_unknown_one_and_one_without_a_value_are_refused(name, tmp_path, capsys):
    given = rest(name, tmp_path)
    option = "--workers" if name not in ("train", "demo") else "--seed"
    assert "given twice" in refused(name, [*given, option, "3", option, "3"], capsys)
    assert "unknown option --wrokers" in refused(name, [*given, "--wrokers=3"], capsys)
    assert option in refused(name, [*given, option], capsys)


def test_an_interruption_ends_with_130_and_says_what_is_left(monkeypatch, tmp_path, capsys):
    import grids_ros.demo.options as demo

    def interrupted(options):
        raise KeyboardInterrupt

    monkeypatch.setattr(demo, "run", interrupted)
    assert cli.call("demo", rest("demo", tmp_path)) == 130
    assert "interrupted" in capsys.readouterr().err


# --- every path of every command ---------------------------------------------------------------------------------


def places():
    """(command, name on the command line, place, whether positional) of every path that has a place."""
    for name, command in {**cli.COMMANDS, **cli.WITH_BENCHMARK}.items():
        benchmark = command in cli.WITH_BENCHMARK.values()
        for kind, field in _fields(cli._found(command.options)):
            notes = options.hints(kind)[field][1]
            for place in (note for note in notes if isinstance(note, Place)):
                yield name, benchmark, options.flag(kind, field), place, tyro.conf.Positional in notes


def _fields(kind):
    for field, (of, _) in options.hints(kind).items():
        yield from _fields(of) if is_dataclass(of) else [(kind, field)]


UNUSABLE = {
    Place.FOLDER: ("empty", "binary", "nowhere", "link", "loop", "pipe", "binary/below"),
    Place.FILE: ("folder", "nowhere", "link", "loop", "pipe", "binary/below"),
    Place.OUT_FOLDER: ("empty", "binary", "link", "link/below", "loop", "pipe", "binary/below"),
    Place.OUT_FILE: ("folder", "link", "link/below", "loop", "pipe", "binary/below", "/dev/null"),
}
WORDS = {
    **{name: " ".join(words) for name, words in REST.items()},
    "convert": "FOLDER --out NEW --convention grids",
    "export": "bag --out NEW",
    "view": "bag",
    "doctor": "",
}
PLACES = list(dict.fromkeys(places()))


@pytest.fixture
def spoilt(tmp_path):
    """A folder with paths of every kind that cannot be used."""
    (tmp_path / "empty").touch()
    (tmp_path / "binary").write_bytes(bytes(range(256)))
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    os.mkfifo(tmp_path / "pipe")
    return tmp_path


@pytest.mark.parametrize(
    ("name", "benchmark", "option", "place", "positional"), PLACES, ids=[f"{p[0]} {p[2]}" for p in PLACES]
)
def test_a_path_that_cannot_be_used_is_refused(name, benchmark, option, place, positional, spoilt, capsys):
    for value in UNUSABLE[place]:
        path = str(spoilt / value)
        words = WORDS[name].replace("FOLDER", str(spoilt / "folder")).replace("NEW", str(spoilt / "new")).split()
        if positional:
            given = [path, *words[1:]]
        elif option in words:
            given = [path if before == option else word for before, word in zip(["", *words], words, strict=False)]
        else:
            given = [*words, option, path]
        given += ["--benchmark", "libero_object"] if benchmark else []
        error = refused(name, given, capsys)
        assert f"{option} is {path}, expected {place.value}" in error or f"{option} {path}" in error, error
        assert not (spoilt / "nowhere").exists() and not (spoilt / "new").exists()


SPOILT_CONTENT = {  # command: its words; SPOILT is a folder or a file whose content is of no use
    "replay": "BAG --checkpoint SPOILT --out NEW",
    "replay bag": "SPOILT --checkpoint CHECKPOINT --out NEW",
    "replay parameters": "BAG --checkpoint CHECKPOINT --out NEW --params-file FILE",
    "evaluate": "--checkpoint SPOILT --episodes 1",
    "record": "--policy SPOILT --out NEW",
    "train": "SPOILT --out NEW",
    "train from": "BAG --out NEW --from SPOILT",
    "train parameters": "BAG --out NEW --params-file FILE",
    "export": "SPOILT --out NEW",
    "diagnose": "SPOILT BAG",
    "diagnose bag": "CHECKPOINT SPOILT",
    "convert": "SPOILT --out NEW --convention grids",
    "convert statistics": "SPOILT --out NEW --convention grids --statistics FILE",
}


@pytest.mark.parametrize("content", [b"", bytes(range(256)), b"{" * 5000], ids=["empty", "binary", "braces"])
@pytest.mark.parametrize("what", SPOILT_CONTENT)
def test_content_of_no_use_is_one_line_before_the_work(what, content, checkpoint, recording, tmp_path, capsys):
    spoilt = tmp_path / "spoilt"
    spoilt.mkdir()
    for name in ("config.json", "grids.json", "model.safetensors", "metadata.yaml", "bag.mcap"):
        (spoilt / name).write_bytes(content)
    (tmp_path / "file").write_bytes(content or b"\x00")
    found = {"SPOILT": spoilt, "BAG": recording, "CHECKPOINT": checkpoint, "NEW": tmp_path / "new"}
    found["FILE"] = tmp_path / "file"
    words = [str(found.get(word, word)) for word in SPOILT_CONTENT[what].split()]
    capsys.readouterr()
    try:
        code = cli.main([what.split()[0], *words])
    except SystemExit as ended:
        code = ended.code
    error = capsys.readouterr().err
    assert code == (3 if what == "replay bag" else 2) and error.count("\n") == 1, error  # 3: a bag that cannot be read
    assert not (tmp_path / "new").exists()


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    """A short bag."""
    return write_recording(tmp_path_factory.mktemp("recording") / "bag", 1.0)
