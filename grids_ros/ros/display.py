"""What RViz and the viewers of overlays see of an inference."""

from __future__ import annotations

import numpy as np
from rclpy.node import Node
from sensor_msgs.msg import Image
from visualization_msgs.msg import MarkerArray

from grids_ros.datatypes import Observation, PolicyOutput
from grids_ros.parameters import PolicyParameters
from grids_ros.ros import conversions, markers, qos, tf
from grids_ros.ros.inputs import PolicyInputs
from grids_ros.visualisation import overlay, sampled_points

MAX_TRANSFORMS = 10_000  # since the inference before: no action waits for them


class PolicyDisplay:
    """Publishes `sampled_points` and `overlay/NAME/image_raw` for the cameras of the policy."""

    def __init__(self, node: Node, inputs: PolicyInputs, settings: PolicyParameters):
        self._node, self._inputs = node, inputs
        self._base_frame, self._table_height = settings.base_frame, settings.table_height
        self._transforms = tf.TransformListener(node, MAX_TRANSFORMS) if tf.TFMessage is not None else None
        self._points = node.create_publisher(MarkerArray, "sampled_points", qos.COMMAND)
        self._overlays = {
            name: node.create_publisher(Image, f"overlay/{name}/image_raw", qos.NEWEST) for name in inputs.cameras
        }

    def show(self, observation: Observation, output: PolicyOutput) -> None:
        """Publish the markers of one inference, and the overlays that somebody watches."""
        stamp_ns, frames = observation.stamp_ns, self._inputs.frames
        drawn = [markers.chunk_path(output.chunk, self._base_frame)]
        for index, (name, coordinates) in enumerate(output.coordinates.items()):
            points, frame = self._place(name, coordinates, stamp_ns)
            drawn.append(markers.sampled_points(index, name, points, frame, stamp_ns))
        self._points.publish(MarkerArray(markers=drawn))
        for name, publisher in self._overlays.items():
            if publisher.get_subscription_count() > 0 and name in output.coordinates:
                image = observation.images[name]
                overlaid = overlay.draw(image, output.coordinates[name], caption=observation.instruction)
                publisher.publish(conversions.from_rgb(overlaid, frames[name], stamp_ns))

    def _place(self, name: str, coordinates: np.ndarray, stamp_ns: int) -> tuple[np.ndarray, str]:
        """Where a camera's sampled points are drawn (K, 3) [m], and the frame: on the table where TF knows the camera.

        Otherwise on a plane in front of the camera.
        """
        frame, info = self._inputs.frames[name], self._inputs.info(name)
        known = self._transforms.update() if self._transforms is not None else None
        camera = tf.camera_pose(known, self._base_frame, frame, stamp_ns) if known is not None else None
        if camera is None:
            return sampled_points.on_plane(coordinates, info), frame
        return sampled_points.on_table(coordinates, info, camera, self._table_height), self._base_frame

    def destroy(self) -> None:
        """Take publishers and subscriptions back."""
        if self._transforms is not None:
            self._transforms.destroy()
        for publisher in (self._points, *self._overlays.values()):
            self._node.destroy_publisher(publisher)
