"""Parameters are written once: files generated from them, and files that give them read as rcl reads them."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grids_ros.data.settings import read
from grids_ros.parameters import NODES, FollowerParameters, ParameterError, build, table
from grids_ros.parameters.file import node_parameters, parse_value, read_sections

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    "name", ["config/franka_grids.yaml", "docs/reference/parameters.md", "docs/reference/commands.md"]
)
def test_what_is_generated_is_up_to_date(name):
    code = f"import sys; sys.path.insert(0, 'docs'); import generate; print(generate.FILES[{name!r}](), end='')"
    made = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert made == (ROOT / name).read_text(), f"run: python docs/generate.py ({name} is not what the code says)"


@pytest.mark.parametrize("node", NODES)
def test_the_generated_file_gives_every_node_its_defaults(node):
    values = node_parameters(ROOT / "config" / "franka_grids.yaml", node, "/somewhere")
    assert set(values) == {each.name for each in table(NODES[node]) if not each.hidden}
    assert replace(build(NODES[node], values, node)) == NODES[node]()


@pytest.mark.parametrize("node", NODES)
def test_every_parameter_is_described_and_every_number_bounded(node):
    for each in table(NODES[node]):
        assert each.description.endswith(".") and each.check(each.default) == each.default
        kind = each.default[0] if isinstance(each.default, tuple) else each.default
        assert type(kind) not in (int, float) or None not in (each.low, each.high)
        assert not each.name.endswith("_s") or each.unit == "s"
        assert not each.name.endswith("_hz") or each.unit == "Hz"


@given(st.floats(allow_nan=True, allow_infinity=True) | st.integers() | st.text() | st.none() | st.booleans())
def test_a_value_that_is_taken_is_a_float_within_its_range(value):
    try:
        taken = build(FollowerParameters, {"linear_speed": value}, "grids_follower").linear_speed
    except ParameterError as error:
        assert "linear_speed" in str(error) and "a float such as 0.5 in [0.001, 3] m/s, or 0.0" in str(error)
    else:
        assert type(taken) is float and (taken == 0.0 or 0.001 <= taken <= 3.0)


@pytest.mark.parametrize("name", ["linear_speed", "angular_speed", "linear_acceleration", "angular_acceleration"])
def test_a_limit_of_nothing_is_one_and_a_tiny_one_is_a_mistake(name):
    """A way divided by a tiny acceleration overflows, in the tick."""
    assert getattr(build(FollowerParameters, {name: 0.0}, "grids_follower"), name) == 0.0
    for tiny in (1.0e-306, 5e-324, 0.0009):
        with pytest.raises(ParameterError, match=rf"'{name}' is {tiny}, expected a float .* in \[0.001, .*, or 0.0"):
            build(FollowerParameters, {name: tiny}, "grids_follower")


PLAIN = "grids_policy: {ros__parameters: {a: 1}}"
FILES = {  # name: file
    "plain": PLAIN,
    "slash": "/" + PLAIN,
    "any": "/**: {ros__parameters: {a: 1}}",
    "any-without-slash": "'**': {ros__parameters: {a: 1}}",
    "one": "/*: {ros__parameters: {a: 1}}",
    "any-name": "/**/grids_policy: {ros__parameters: {a: 1}}",
    "one-name": "/*/grids_policy: {ros__parameters: {a: 1}}",
    "namespace-any": "/arm/**: {ros__parameters: {a: 1}}",
    "namespace-one": "/arm/*: {ros__parameters: {a: 1}}",
    "any-namespace": "/**/arm/grids_policy: {ros__parameters: {a: 1}}",
    "nested": "arm: {grids_policy: {ros__parameters: {a: 1}}}",
    "nested-any": "/**: {grids_policy: {ros__parameters: {a: 1}}}",
    "nested-slash": "/arm: {/grids_policy: {ros__parameters: {a: 1}}}",
    "two-arms": "left: {grids_policy: {ros__parameters: {a: 1}}}\narm: {grids_policy: {ros__parameters: {a: 2}}}",
    "other-node": "grids_follower: {ros__parameters: {a: 1}}",
    "twice": "grids_policy: {ros__parameters: {a: 1, b: 1}}\ngrids_policy: {ros__parameters: {a: 2}}",
    "two-spellings": PLAIN + "\n/**: {ros__parameters: {a: 2}}\n/grids_policy: {ros__parameters: {a: 3}}",
    "any-after-node": PLAIN + "\n/**: {ros__parameters: {a: 2}}",
    "any-before-node": "/**: {ros__parameters: {a: 2}}\n" + PLAIN,
    "any-around-node": "/**: {ros__parameters: {a: 1}}\n" + PLAIN + "\n/**: {ros__parameters: {a: 3}}",
    "one-after-node": PLAIN + "\n/*: {ros__parameters: {a: 2}}",
    "two-documents": PLAIN + "\n---\ngrids_policy: {ros__parameters: {a: 2}}",
    "dotted": "grids_policy: {ros__parameters: {a.b: 1, a: {b: 2, c: {d: 3}}}}",
    "merge-key": "grids_policy: {ros__parameters: {<<: {a: 1}}}",
    "keys-of-other-types": "grids_policy: {ros__parameters: {on: 1, 5: 2}}",
    "empty": "",
    "comment": "# nothing",
    "empty-map": "{}",
    "empty-parameters": "grids_policy: {ros__parameters: {}}",
    "windows-lines": PLAIN.replace(" {", "\r\n  {", 1) + "\r\n",
    "byte-order-mark": "\ufeff" + PLAIN,
    # refused
    "no-section": "a: 1",
    "list": "- a",
    "null-parameters": "grids_policy:\n  ros__parameters:\n",
    "scalar-parameters": "grids_policy: {ros__parameters: 5}",
    "list-parameters": "grids_policy: {ros__parameters: [1]}",
    "null-value": "grids_policy:\n  ros__parameters:\n    a:\n",
    "part-of-a-name": "/grids_*: {ros__parameters: {a: 1}}",
    "trailing-slash": "/grids_policy/: {ros__parameters: {a: 1}}",
    "two-slashes": "//grids_policy: {ros__parameters: {a: 1}}",
    "alias": "grids_policy: {ros__parameters: {a: &x 1, b: *x}}",
    "several-types": "grids_policy: {ros__parameters: {a: [1, 2.0]}}",
    "broken": "a: [",
    "rubbish": "\x00\x01",
    "tab": "grids_policy:\n\tros__parameters: {a: 1}",
}
# Jazzy's rcl refuses these, Kilted's takes them in a way that no reader would guess; they are refused with either.
REFUSED_ALWAYS = {
    "ros__parameters-twice": "grids_policy: {ros__parameters: {a: 1}, ros__parameters: {a: 2}}",
    "node-beside-parameters": "arm: {ros__parameters: {a: 9}, grids_policy: {ros__parameters: {a: 1}}}",
}
VALUES = (
    *("5", "5.0", "-5", "+5", "5.", ".5", "1e3", "1.e3", "1e-3", "-0", "010", "09", "0x10", "-0x10", "0x1p3", "0o10"),
    *(
        "1_000",
        "12:30",
        "1e",
        "1e999",
        "1e-400",
        "1e-310",
        "-1e-310",
        "2.3e-308",
        "2.2e-308",
        "99999999999999999999",
        "9223372036854775808",
        "1.5.2",
        "5f",
        "0b1",
    ),
    *("yes", "on", "y", "n", "N", "True", "TRUE", "tRue", "off", "null", "~", "2001-01-01", "a b", "=", "<<", "-", "."),
    *("'5'", '"true"', "''", "!!str 5", "!!str yes", "!!float 5", "!!int '5'", "!foo 5", "&x 5", "5 # five"),
    *(".inf", "-.inf", ".nan", ".NaN", "inf", "Infinity", "nan"),
    *("[1, 2]", "[a, b]", "[yes, no]", "[.5, 1e3]", "['1', '2']", "[[1]]", "[a, 1]", "[1, '2']"),
)
FILES |= {f"value {value}": f"grids_policy:\n  ros__parameters:\n    a: {value}\n" for value in VALUES}


@pytest.fixture(scope="module")
def rcl():
    """What a node in this namespace has, or None where rcl refuses the file."""
    rclpy = pytest.importorskip("rclpy", reason="rcl needs rclpy")
    from rclpy.impl.implementation_singleton import rclpy_implementation
    from rclpy.node import Node

    context = rclpy.Context()
    rclpy.init(context=context, args=[], domain_id=90 + os.getpid() % 10)

    def parameters(file, namespace):
        try:
            node = Node(
                "grids_policy",
                namespace=namespace,
                context=context,
                cli_args=["--ros-args", "--params-file", str(file)],
                automatically_declare_parameters_from_overrides=True,
                use_global_arguments=False,
                enable_rosout=False,
                start_parameter_services=False,
            )
        except rclpy_implementation.RCLInvalidROSArgsError:
            return None
        values = {name: each.value for name, each in node.get_parameters_by_prefix("").items()}
        node.destroy_node()
        return {name: value for name, value in values.items() if not name.startswith(("use_sim", "start_type"))}

    yield parameters
    context.shutdown()


def ours(file, namespace):
    try:
        return node_parameters(file, "grids_policy", namespace)
    except ParameterError:
        return None


@pytest.mark.parametrize("namespace", ["/", "/arm", "/a/arm"])
def test_parameter_files_are_read_as_rcl_reads_them(rcl, namespace, tmp_path):
    """Against rcl itself, name by name and type by type."""
    disagree = {}
    for name, text in FILES.items():
        file = tmp_path / "params.yaml"
        file.write_text(text, newline="")
        theirs, own = rcl(file, namespace), ours(file, namespace)
        if repr(theirs) != repr(own):  # 1 is not 1.0, and NaN is itself
            disagree[name] = f"rcl {theirs!r}, ours {own!r}"
    assert not disagree


@pytest.mark.parametrize("name", REFUSED_ALWAYS)
def test_a_file_that_distributions_read_differently_is_refused(name, tmp_path):
    file = tmp_path / "params.yaml"
    file.write_text(REFUSED_ALWAYS[name])
    with pytest.raises(ParameterError, match="params.yaml"):
        node_parameters(file, "grids_policy", "/arm")


@given(st.text(max_size=12))
def test_no_value_raises_anything_but_a_parameter_error(text):
    try:
        parse_value(text)
    except ParameterError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize(
    "text", [text for name, text in FILES.items() if name in ("broken", "rubbish", "list", "alias", "null-parameters")]
)
def test_a_file_that_is_refused_is_named(text, tmp_path):
    file = tmp_path / "arm.yaml"
    file.write_text(text)
    with pytest.raises(ParameterError, match="arm.yaml"):
        read_sections(file)
    for unreadable in (tmp_path, tmp_path / "none.yaml"):
        with pytest.raises(ParameterError, match=str(unreadable)):
            read_sections(unreadable)


ARMS = (("l", 8.0), ("r", 9.0))


def test_with_two_arms_replay_asks_which(tmp_path):
    file = tmp_path / "arms.yaml"
    file.write_text("\n".join(f"/{arm}/grids_policy: {{ros__parameters: {{rate_hz: {rate}}}}}" for arm, rate in ARMS))
    with pytest.raises(ParameterError, match="nodes in /l and /r: choose one with --namespace"):
        read(file, {}, {})
    assert [read(file, {}, {}, namespace).policy.rate_hz for namespace in ("l", "/r")] == [8.0, 9.0]
    with pytest.raises(ParameterError, match="arms.yaml: section '/l/grids_policy' is for no node in namespace /x"):
        read(file, {}, {}, "/x")


@pytest.mark.parametrize("section", ["grids_folower", "/**/grids_folower", "/left/grids_follower"])
def test_replay_refuses_a_section_that_no_node_reads(section, tmp_path):
    file = tmp_path / "arm.yaml"
    policy = "/right/grids_policy: {ros__parameters: {rate_hz: 5.0}}"
    file.write_text(f"{policy}\n{section}: {{ros__parameters: {{linear_speed: 0.05}}}}\n")
    with pytest.raises(ParameterError, match="grids_follower"):
        read(file, {}, {}, "/right")
