"""The package as others meet it: built by colcon, imported without ROS."""

import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# What may import rclpy: the nodes, and the demo that drives them.
EDGE = ("grids_ros.bench", "grids_ros.ros", "grids_ros.demo")


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


@pytest.mark.parametrize(
    "name", ["policy_node", "follower_node", "sim_node", "record", "train", "convert", "evaluate", "replay"]
)
def test_ros2_run_finds_every_program(prefix, name):
    program = prefix / "lib" / "grids_ros" / name
    assert os.access(program, os.X_OK)


def test_the_reports_template_is_installed(prefix):
    assert list(prefix.glob("lib/python*/site-packages/grids_ros/replay/report.html.j2"))


def test_an_installed_program_runs(prefix):
    packages = next((prefix / "lib").glob("python*/site-packages"))
    activated = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PYTHONPATH": str(packages), "PATH": activated}
    program = prefix / "lib" / "grids_ros" / "record"
    assert program.read_text().startswith("#!/usr/bin/env python3\n"), "the interpreter of a virtual environment, too"
    ran = subprocess.run([program, "--help"], env=environment, capture_output=True, text=True, cwd=prefix)
    assert ran.returncode == 0 and "--episodes" in ran.stdout, ran.stderr


def test_the_bench_finds_the_installed_profile(prefix):
    pytest.importorskip("rclpy", reason="the bench needs rclpy")
    packages = next((prefix / "lib").glob("python*/site-packages"))
    environment = {**os.environ, "PYTHONPATH": str(packages)}
    command = [sys.executable, "-c", "from grids_ros.bench import images; print(images.profile())"]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=prefix)
    assert ran.stdout.strip() == str(prefix / "share" / "grids_ros" / "config" / "fastdds.xml"), ran.stderr


def test_the_manifest_and_the_build_agree():
    manifest = ElementTree.parse(ROOT / "package.xml").getroot()
    assert manifest.get("format") == "3"
    assert manifest.findtext("export/build_type") == "ament_python"
    version = manifest.findtext("version")
    assert f'version="{version}"' in (ROOT / "setup.py").read_text()
    assert f"\n{version} (" in (ROOT / "CHANGELOG.rst").read_text()


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
    assert refused.returncode == 2 and "unknown command 'fly', expected one of demo" in refused.stderr
