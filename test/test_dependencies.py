"""What is imported is declared, and what is declared is imported: extras of pyproject.toml, packages of package.xml."""

import ast
import re
import sys
import xml.etree.ElementTree as ElementTree
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
BASE = "dependencies"
# Which modules an extra is for; the longest prefix counts.
OF_EXTRA = {
    BASE: ("",),
    "robot": (
        *("chunk_bytes", "convert", "doctor", "kinematics", "observation", "policy", "ros", "sampler", "visualisation"),
    ),
    "replay": ("data", "replay"),
    "train": ("train",),
    "sim": ("bench", "benchmarks", "demo", "evaluate", "sim", "ros.sim_node", "train.keypoint_labels"),
    "view": ("visualisation.bag_view",),
}
OWNERS = {f"grids_ros.{name}".rstrip("."): extra for extra, names in OF_EXTRA.items() for name in names}
OPTIONAL = {"ray": "cluster", "orbax": "jax", "torchao": "float8"}  # imported where used, with an error that names them
# Modules of another name than their distribution, where the installed files do not tell; "": nothing to install.
NAMED = {
    "backports": "backports-zstd",
    "compression": "",  # Python 3.14's own
    "cv_bridge": "",  # ROS 2's, where it is
    "orbax": "orbax-checkpoint",
    "pinocchio": "pin",
    "rerun": "rerun-sdk",
}
BY_NAME = {"daqp": "sim"}  # chosen as `solver="daqp"`, never imported
SIMULATOR = Path("grids_ros/benchmarks/server")  # runs in an environment of its own, requirements/libero.txt
DISTRIBUTIONS = packages_distributions()


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def distribution(module: str) -> str:
    names = DISTRIBUTIONS.get(module, [module])
    return NAMED[module] if module in NAMED else canonical(module if module in names else names[0])


def modules() -> dict[str, ast.Module]:
    paths = [path.relative_to(ROOT) for path in sorted((ROOT / "grids_ros").rglob("*.py"))]
    paths = [path for path in paths if SIMULATOR not in path.parents]
    names = [".".join(path.with_suffix("").parts).removesuffix(".__init__") for path in paths]
    return {name: ast.parse((ROOT / path).read_text()) for name, path in zip(names, paths, strict=True)}


MODULES = modules()
ROS = {  # messages and client libraries: those of package.xml
    each.text for each in ElementTree.parse(ROOT / "package.xml").getroot().findall("exec_depend") if each.text
}


def imports(tree: ast.AST, everywhere: bool) -> set[str]:
    """Dotted names that a module imports: at its top, or also inside of functions."""
    found = set()
    for node in ast.walk(tree) if everywhere else ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            found |= {argument.value for argument in node.args if isinstance(argument, ast.Constant)}
        elif isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue  # for the type checker alone
        elif not everywhere and isinstance(node, ast.If | ast.Try):
            found |= imports(node, everywhere)
    return found


def foreign(name: str, everywhere: bool) -> set[str]:
    """Top-level names of libraries outside of this package, ROS 2 and the standard library."""
    names = {each.split(".")[0] for each in imports(MODULES[name], everywhere)}
    return {each for each in names if each not in sys.stdlib_module_names and each not in ROS and each != "grids_ros"}


def owner(module: str) -> str:
    parts = module.split(".")
    return next(OWNERS[key] for n in range(len(parts), 0, -1) if (key := ".".join(parts[:n])) in OWNERS)


def brought(module: str, seen: set[str]) -> set[str]:
    """Libraries that come with an import of this module: its own, and those of the modules that it imports."""
    seen.add(module)
    libraries = foreign(module, everywhere=False)
    for name in imports(MODULES[module], everywhere=False):
        if name in MODULES and name not in seen:
            libraries |= brought(name, seen)
    return libraries


def listed(extra: str) -> set[str]:
    """Distributions of one list, without the extras that it includes."""
    lines = PROJECT["dependencies"] if extra == BASE else PROJECT["optional-dependencies"][extra]
    names = [re.match(r"[\w.-]+", line).group() for line in lines]
    return {canonical(name) for name in names} - {"grids-ros"}


def available(extra: str) -> set[str]:
    """Distributions of one list, and of those that it includes."""
    found = listed(BASE) | (listed(extra) if extra != BASE else set())
    for line in PROJECT["optional-dependencies"].get(extra, ()):
        if line.startswith("grids_ros["):
            for included in re.search(r"\[(.*)\]", line).group(1).split(","):
                found |= available(included.strip())
    return found


@pytest.mark.parametrize("extra", sorted(set(OWNERS.values())))
def test_an_extra_declares_what_its_modules_import(extra):
    for module in MODULES:
        if owner(module) != extra:
            continue
        libraries = foreign(module, everywhere=True) | brought(module, set())
        needed = {distribution(name) for name in libraries if name not in OPTIONAL} - {""}
        assert needed <= available(extra), f"{module} needs {sorted(needed - available(extra))} in {extra}"


@pytest.mark.parametrize("extra", sorted({*OWNERS.values(), *OPTIONAL.values()}))
def test_an_extra_declares_nothing_that_none_of_its_modules_imports(extra):
    used = {distribution(name) for module in MODULES if owner(module) == extra for name in foreign(module, True)}
    used |= {distribution(name) for name, of in OPTIONAL.items() if of == extra}
    used |= {name for name, of in BY_NAME.items() if of == extra}
    unused = listed(extra) - used
    assert not unused, f"{extra} declares {sorted(unused)}"


def test_every_module_that_an_extra_is_for_exists():
    assert set(OWNERS) <= set(MODULES) | {"grids_ros"}


def test_optional_libraries_are_imported_inside_of_functions_alone():
    everywhere = {name for module in MODULES for name in foreign(module, everywhere=True)}
    for name in OPTIONAL:
        assert name in everywhere
        assert all(name not in foreign(module, everywhere=False) for module in MODULES)


def test_the_solver_is_chosen_by_the_name_of_its_package():
    assert 'solver="daqp"' in (ROOT / "grids_ros" / "sim" / "servo.py").read_text()


def test_package_xml_declares_what_the_nodes_import():
    trees = [*MODULES.values(), *(ast.parse(path.read_text()) for path in (ROOT / "launch").glob("*.py"))]
    names = {name.split(".")[0] for tree in trees for name in imports(tree, everywhere=True)}
    ours = {name for name in ROS if not name.startswith("python3-")}
    assert ours <= names, f"declared and not imported: {sorted(ours - names)}"
    of_ros = {
        name
        for name in names
        if re.fullmatch(r"rclpy|launch(_ros)?|ament_index_python|\w+_(msgs|srvs|interfaces)", name)
    }
    assert of_ros <= ours, f"imported and not declared: {sorted(of_ros - ours)}"


def test_every_version_of_an_extra_is_pinned():
    for distro in ("jazzy", "kilted"):
        lines = (ROOT / "requirements" / f"{distro}.txt").read_text().splitlines()
        pinned = {canonical(line.split("==")[0]) for line in lines if "==" in line and not line.startswith("#")}
        assert available("dev") <= pinned
