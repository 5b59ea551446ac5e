"""The ament_python build: programs, and what lies in share/grids_ros. Dependencies and extras: pyproject.toml."""

from pathlib import Path
from xml.etree import ElementTree

from setuptools import find_packages, setup

NAME = "grids_ros"
MANIFEST = ElementTree.parse("package.xml").getroot()


def shared(folder: str) -> list[tuple[str, list[str]]]:
    """Every file below `folder`, to its place in share/grids_ros."""
    files: dict[str, list[str]] = {}
    for path in sorted(Path(folder).rglob("*")):
        if path.is_file():
            files.setdefault(f"share/{NAME}/{path.parent.as_posix()}", []).append(path.as_posix())
    return list(files.items())


setup(
    name=NAME,
    version=MANIFEST.findtext("version"),
    description=MANIFEST.findtext("description"),
    license=MANIFEST.findtext("license"),
    python_requires=">=3.10",
    packages=find_packages(include=[NAME, f"{NAME}.*"]),
    package_data={f"{NAME}.replay": ["*.j2"]},
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{NAME}"]),
        (f"share/{NAME}", ["package.xml"]),
        *shared("launch"),
        *shared("config"),
        *shared("models"),
    ],
    entry_points={
        "console_scripts": [
            "policy_node = grids_ros.ros.start:policy_node",
            "follower_node = grids_ros.ros.start:follower_node",
            "gripper_node = grids_ros.ros.start:gripper_node",
            "sim_node = grids_ros.ros.start:sim_node",
            "grids = grids_ros.__main__:main",
        ]
    },
)
