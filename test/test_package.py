"""The package as others meet it: built by colcon, imported without ROS."""

import ast
import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from fakes import stands_for

ROOT = Path(__file__).resolve().parents[1]
# What may import rclpy: the nodes, and the demo that drives them.
EDGE = ("grids_ros.bench", "grids_ros.ros", "grids_ros.demo")
OFFLINE = {"bench", "benchmarks", "convert", "data", "demo", "evaluate", "replay", "sim", "train"}


@pytest.fixture(scope="module")
def prefix(tmp_path_factory):
    """Where a real `colcon build` of this checkout installed the package."""
    folder = tmp_path_factory.mktemp("colcon")
    command = [sys.executable, "-m", "colcon", "--log-base", str(folder / "log"), "build"]
    command += ["--build-base", str(folder / "build"), "--install-base", str(folder / "install")]
    command += ["--base-paths", str(ROOT), "--packages-select", "grids_ros"]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    built = subprocess.run(command, cwd=folder, env={**os.environ, "PATH": path}, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    return folder / "install" / "grids_ros"


def test_colcon_installs_launch_config_models_and_the_index(prefix):
    share = prefix / "share" / "grids_ros"
    assert (prefix / "share" / "ament_index" / "resource_index" / "packages" / "grids_ros").exists()
    assert (share / "package.xml").exists()
    for folder in ("launch", "config", "models"):
        ours = {path.relative_to(ROOT) for path in (ROOT / folder).rglob("*") if path.is_file()}
        assert ours
        assert all((share / path).read_bytes() == (ROOT / path).read_bytes() for path in ours)


@pytest.mark.parametrize("name", ["policy_node", "follower_node", "sim_node", "grids"])
def test_ros2_run_finds_every_program(prefix, name):
    program = prefix / "lib" / "grids_ros" / name
    assert os.access(program, os.X_OK)


def test_the_reports_template_is_installed(prefix):
    assert list(prefix.glob("lib/python*/site-packages/grids_ros/replay/report.html.j2"))


def test_an_installed_program_runs(prefix):
    packages = next((prefix / "lib").glob("python*/site-packages"))
    activated = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PYTHONPATH": str(packages), "PATH": activated}
    program = prefix / "lib" / "grids_ros" / "grids"
    assert program.read_text().startswith("#!/usr/bin/env python3\n"), "the interpreter of a virtual environment, too"
    ran = subprocess.run([program, "record", "--help"], env=environment, capture_output=True, text=True, cwd=prefix)
    assert ran.returncode == 0 and "--episodes" in ran.stdout, ran.stderr


def test_the_bench_finds_the_installed_profile(prefix):
    pytest.importorskip("rclpy", reason="the bench needs rclpy")
    packages = next((prefix / "lib").glob("python*/site-packages"))
    environment = {**os.environ, "PYTHONPATH": str(packages)}
    command = [sys.executable, "-c", "from grids_ros.bench import image_latency; print(image_latency.profile())"]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=prefix)
    assert ran.stdout.strip() == str(prefix / "share" / "grids_ros" / "config" / "fastdds.xml"), ran.stderr


def test_the_manifest_and_the_build_agree():
    manifest = ElementTree.parse(ROOT / "package.xml").getroot()
    assert manifest.get("format") == "3"
    assert manifest.findtext("export/build_type") == "ament_python"
    assert f"\n{manifest.findtext('version')} (" in (ROOT / "CHANGELOG.rst").read_text()


def test_the_environment_has_the_command():
    """`make setup` installs the checkout in place, so that the commands of the README work as they stand."""
    program = Path(sys.executable).parent / "grids"
    ran = subprocess.run([program, "--help"], cwd=ROOT.parent, capture_output=True, text=True)
    assert ran.returncode == 0 and "usage: grids COMMAND" in ran.stdout, ran.stderr


def test_the_core_imports_no_ros():
    """In a fresh interpreter, every module but the edge, the entry points included."""
    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in sorted((ROOT / "grids_ros").rglob("*.py"))
    ]
    core = [name for name in modules if not name.startswith(EDGE)]
    assert len(core) > 20
    code = f"import importlib, sys\nfor name in {core!r}: importlib.import_module(name)\nprint('rclpy' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.strip() == "False"


def test_the_robot_imports_nothing_that_works_offline():
    """In a fresh interpreter, the nodes of a robot: no bags, training, simulation, evaluation or research."""
    pytest.importorskip("rclpy", reason="the nodes need rclpy")
    nodes = ("policy_node", "follower_node", "gripper_node")
    code = "import importlib, sys\n"
    code += f"for name in {nodes!r}: importlib.import_module(f'grids_ros.ros.{{name}}')\n"
    code += "print(*{name.split('.')[1] for name in sys.modules if name.startswith('grids_ros.')})\n"
    code += "print(any(name.split('.')[0] == 'research' for name in sys.modules))"
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    packages, research = ran.stdout.splitlines()
    assert not set(packages.split()) & OFFLINE and research == "False"
    assert {"control", "observation", "policy", "ros"} <= set(packages.split())


def test_a_fake_that_takes_other_arguments_is_refused():
    class Real:
        def infer(self, observation, seed=None): ...

    with pytest.raises(TypeError, match="infer takes"):

        @stands_for(Real)
        class Other:
            def infer(self, observation): ...

    with pytest.raises(TypeError, match="stands for nothing: Real has no such method"):

        @stands_for(Real)
        class More:
            def predict(self, observation): ...


def test_no_test_imports_another():
    """What tests share is in helpers, whose names do not begin with test_."""
    for path in sorted([*(ROOT / "test").rglob("*.py"), *(ROOT / "research" / "test").rglob("*.py")]):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not [name for name in names if name.split(".")[-1].startswith("test_")], path


def test_who_has_an_arm_needs_no_simulation():
    """Everything but the simulated arm, and what plays or records in it, does without MuJoCo."""
    programs = (
        "train.__main__",
        "train.diagnose",
        "train.loop",
        "replay.__main__",
        "convert.__main__",
        "policy.runtime",
    )
    code = "import importlib, sys\nsys.modules.update(mujoco=None, mink=None)\n"
    code += f"for name in {programs!r}: importlib.import_module(f'grids_ros.{{name}}')"
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr


def test_the_command_line_names_its_commands_and_refuses_others():
    def call(*arguments):
        return subprocess.run([sys.executable, "-m", "grids_ros", *arguments], cwd=ROOT, capture_output=True, text=True)

    assert all(
        name in call("--help").stdout for name in ("demo", "sim", "record", "train", "convert", "evaluate", "replay")
    )
    refused = call("fly")
    assert refused.returncode == 2 and "unknown command 'fly', expected one of replay" in refused.stderr


CARRY_ON = {  # whatever is raised: why the handler does not raise it itself
    "ros/control_loop.py": "keeps the arm safe: the tick brakes, and too many in a row end the process",
    "ros/managed.py": "keeps the arm safe: a callback costs its message; and the transition fails",
    "ros/inference.py": "hands it to the executor's thread",
    "ros/periodic_thread.py": "hands it to whoever started the thread",
    "pieces.py": "hands it to the process that waits for the result",
    "bench/gpu.py": "the step's result is that it failed, and so is the exit code",
}


def broad_handlers(path: Path) -> int:
    """How many handlers of every exception there are in a file that do not end in a `raise`."""
    handlers = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ExceptHandler)]
    broad = [
        handler
        for handler in handlers
        if handler.type is None or {n.id for n in ast.walk(handler.type) if isinstance(n, ast.Name)} & BROAD
    ]
    return sum(not any(isinstance(node, ast.Raise) for node in ast.walk(handler)) for handler in broad)


BROAD = {"Exception", "BaseException"}


def test_an_unexpected_error_ends_the_work_but_where_an_arm_is_kept_safe():
    package = ROOT / "grids_ros"
    found = {path.relative_to(package).as_posix() for path in package.rglob("*.py") if broad_handlers(path)}
    assert found == set(CARRY_ON)
