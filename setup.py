"""The ament_python build: package, nodes, and what lies in share/grids_ros."""

from pathlib import Path

from setuptools import find_packages, setup

NAME = "grids_ros"


def shared(folder: str) -> list[tuple[str, list[str]]]:
    """Every file below `folder`, to its place in share/grids_ros."""
    files: dict[str, list[str]] = {}
    for path in sorted(Path(folder).rglob("*")):
        if path.is_file():
            files.setdefault(f"share/{NAME}/{path.parent.as_posix()}", []).append(path.as_posix())
    return list(files.items())


setup(
    name=NAME,
    version="0.1.0",
    packages=find_packages(include=[NAME, f"{NAME}.*"]),
    package_data={f"{NAME}.replay": ["*.j2"]},
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{NAME}"]),
        (f"share/{NAME}", ["package.xml"]),
        *shared("launch"),
        *shared("config"),
        *shared("models"),
    ],
    python_requires=">=3.10",
    install_requires=["setuptools"],
    zip_safe=True,
    maintainer="The grids_ros authors",
    maintainer_email="maintainers@grids-ros.invalid",
    description="GridS-pruned vision-language-action policies on a robot arm, in real time",
    license="Apache-2.0",
    entry_points={
        "console_scripts": [
            "policy_node = grids_ros.ros.policy_node:main",
            "follower_node = grids_ros.ros.follower_node:main",
            "sim_node = grids_ros.ros.sim_node:main",
            "record = grids_ros.data.record:main",
            "train = grids_ros.train.__main__:main",
            "convert = grids_ros.convert.__main__:main",
            "evaluate = grids_ros.evaluate.__main__:main",
            "replay = grids_ros.replay.__main__:main",
            "diagnose = grids_ros.train.diagnose:main",
            "average = grids_ros.train.average:main",
            "table = grids_ros.table.__main__:main",
            "bench = grids_ros.bench.__main__:main",
        ]
    },
)
