"""Who publishes what: other publishers of a topic, wrong types, qualities of service that do not match."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rclpy.node import Node
from rclpy.qos import QoSCompatibility, QoSProfile, qos_check_compatible

_NAMELESS = ("", "_NODE_NAME_UNKNOWN_", "_CREATED_BY_BARE_DDS_APP_")


@dataclass(frozen=True)
class Heard:
    """A topic that a node subscribes to. topic: its name in the graph. kind: as in `std_msgs/msg/String`.

    many: whether more than one publisher is fine.
    """

    topic: str
    kind: str
    profile: QoSProfile
    many: bool = False


def kind_of(message_type) -> str:
    """A message class as the graph names it, as in `std_msgs/msg/String`."""
    return f"{message_type.__module__.split('.')[0]}/msg/{message_type.__name__}"


def published_kinds(node: Node, topic: str) -> set[str]:
    """The types that are published on a topic."""
    return {info.topic_type for info in node.get_publishers_info_by_topic(topic)}


def publishers(node: Node, topic: str) -> list[str]:
    """Full names of the nodes that publish on a topic, one per publisher, sorted."""
    return sorted(_full_name(info) for info in node.get_publishers_info_by_topic(topic))


def publishing_nodes(node: Node, topic: str) -> list[str]:
    """Full names of the nodes that publish on a topic, one per node, sorted. Two processes may use one name."""
    nodes = {(_full_name(info), bytes(info.endpoint_gid[:12])) for info in node.get_publishers_info_by_topic(topic)}
    return sorted(name for name, _ in nodes)


def rivals(node: Node, topic: str, commanded: str) -> str:
    """Who else publishes on a topic that only `node` may publish on, in words; else empty. Cheap while alone.

    commanded: what is commanded there, in words.
    """
    if node.count_publishers(topic) <= 1:
        return ""
    names = publishers(node, topic)
    own = node.get_fully_qualified_name()
    if own in names:
        names.remove(own)
    if not names:
        return ""
    return f"{topic} has {len(names) + 1} publishers, also {', '.join(names)}: only one may command {commanded}"


def faults(node: Node, heard: Sequence[Heard]) -> list[str]:
    """What keeps messages of these topics from arriving, or makes them those of two sources, in words."""
    found = []
    for topic in heard:
        infos = node.get_publishers_info_by_topic(topic.topic)
        for info in infos:
            name = _full_name(info)
            if info.topic_type != topic.kind:
                found.append(f"{name} publishes {topic.topic} as {info.topic_type}, expected {topic.kind}")
                continue
            compatible, reason = qos_check_compatible(info.qos_profile, topic.profile)
            if compatible == QoSCompatibility.ERROR:
                found.append(f"{name} publishes {topic.topic} with a QoS that does not match: {_short(reason)}")
        if len(infos) > 1 and not topic.many:
            names = ", ".join(sorted(_full_name(info) for info in infos))
            found.append(f"{topic.topic} has {len(infos)} publishers: {names}")
    return found


def _full_name(info) -> str:
    if info.node_name in _NAMELESS:
        return "a node without a name"
    return f"{info.node_namespace.rstrip('/')}/{info.node_name}"


def _short(reason: str) -> str:
    return reason.removeprefix("ERROR: ").strip().rstrip(";")
