"""The versions of Python that ROS 2 distributions bring, 3.10 to 3.14: syntax, pins, and what the installer takes."""

import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("version", ["py310", "py311", "py312", "py313", "py314"])
def test_every_file_parses_and_has_no_undefined_names(version):
    """Ruff knows the syntax of each version, and what became an error (a return in `finally`, as of 3.14)."""
    pytest.importorskip("ruff")
    command = [sys.executable, "-m", "ruff", "check", "--no-cache", "--target-version", version]
    checked = subprocess.run([*command, "--select", "E9,F,B012", "."], cwd=ROOT, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout


@pytest.mark.parametrize("distro", ["jazzy", "kilted"])
def test_every_package_has_one_pin_for_each_python(distro):
    lines = (ROOT / "requirements" / f"{distro}.txt").read_text().splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    for version in ("3.10", "3.11", "3.12", "3.13", "3.14"):
        environment = {"python_version": version, "python_full_version": f"{version}.0"}
        names = [pin.name for pin in pins if pin.marker is None or pin.marker.evaluate(environment)]
        assert len(names) == len(set(names)) > 200
        assert all(len(list(pin.specifier)) == 1 and next(iter(pin.specifier)).operator == "==" for pin in pins)


def test_the_installer_names_the_versions_that_it_takes(tmp_path):
    old = tmp_path / "python-too-old"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    command = ["requirements/install.sh", "jazzy", str(tmp_path / "venv")]
    environment = {"PATH": "/usr/bin:/bin", "PYTHON": str(old)}
    refused = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert refused.returncode == 1 and "no Python 3.10 to 3.14 found" in refused.stderr
    assert not (tmp_path / "venv").exists()
