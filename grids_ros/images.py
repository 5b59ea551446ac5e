"""Any ROS image to uint8 RGB, shape (H, W, 3), without a copy where there need be none.

Messages are read by attribute (`height`, `width`, `encoding`, `step`, `is_bigendian`, `data`; or `format`,
`data`), so the same code decodes an rclpy message on the robot and a rosbags message in training and replay.
cv_bridge is asked only for what it alone knows (Bayer, YUV): built against NumPy 1 it breaks beside NumPy 2
(vision_opencv#535).
"""

from __future__ import annotations

import cv2
import numpy as np

# encoding: (dtype, channels, channels in the order red, green, blue)
PLAIN = {
    "rgb8": ("u1", 3, (0, 1, 2)),
    "bgr8": ("u1", 3, (2, 1, 0)),
    "rgba8": ("u1", 4, (0, 1, 2)),
    "bgra8": ("u1", 4, (2, 1, 0)),
    "mono8": ("u1", 1, (0, 0, 0)),
    "8UC1": ("u1", 1, (0, 0, 0)),
    "8UC3": ("u1", 3, (2, 1, 0)),  # OpenCV's order, as cv_bridge assumes
    "8UC4": ("u1", 4, (2, 1, 0)),
    "rgb16": ("u2", 3, (0, 1, 2)),
    "bgr16": ("u2", 3, (2, 1, 0)),
    "rgba16": ("u2", 4, (0, 1, 2)),
    "bgra16": ("u2", 4, (2, 1, 0)),
    "mono16": ("u2", 1, (0, 0, 0)),
    "16UC1": ("u2", 1, (0, 0, 0)),
    "32FC1": ("f4", 1, (0, 0, 0)),
    "32FC3": ("f4", 3, (2, 1, 0)),
}
BRIDGED = ("bayer_", "yuv", "nv21", "nv24", "uyvy", "yuyv")  # prefixes that cv_bridge decodes
MAX_SIDE = 16384  # a larger side is a corrupt header, not a camera


class ImageError(ValueError):
    """An image that cannot be decoded: says what it is, and what would be accepted."""


def to_rgb(message) -> np.ndarray:
    """A sensor_msgs Image or CompressedImage (rclpy's or rosbags') to uint8 RGB, shape (H, W, 3).

    For `rgb8` the result is a view of the message's own data, `step` honoured. 16-bit values keep their upper
    byte; floats are taken to lie in [0, 1]. Raises ImageError.
    """
    return _plain(message) if hasattr(message, "encoding") else _compressed(message)


def _compressed(message) -> np.ndarray:
    buffer = np.frombuffer(message.data, dtype=np.uint8)
    if buffer.size == 0:
        raise ImageError("compressed image holds no bytes")
    try:
        bgr = cv2.imdecode(buffer, cv2.IMREAD_COLOR)
    except cv2.error as error:
        raise ImageError(f"compressed image ({message.format!r}) is damaged: {error.err}") from error
    if bgr is None:
        raise ImageError(f"compressed image ({message.format!r}, {buffer.size} bytes) is no picture that OpenCV knows")
    return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)


def _plain(message) -> np.ndarray:
    if message.encoding not in PLAIN:
        if message.encoding.startswith(BRIDGED):
            return _bridged(message)
        raise ImageError(f"encoding {message.encoding!r} is not one of {', '.join(PLAIN)}, Bayer or YUV")
    dtype, channels, order = PLAIN[message.encoding]
    values = np.frombuffer(message.data, dtype=np.uint8)
    height, width, step = message.height, message.width, message.step
    if not (0 < height <= MAX_SIDE and 0 < width <= MAX_SIDE):
        raise ImageError(f"image is {width}x{height}, expected each side in 1..{MAX_SIDE}")
    item = np.dtype(dtype).itemsize
    row = width * channels * item
    if step < row:
        raise ImageError(f"step is {step} bytes, a row of {width} {message.encoding} pixels takes {row}")
    needed = step * (height - 1) + row
    if len(values) < needed:
        raise ImageError(f"data holds {len(values)} bytes, {height} rows of step {step} need {needed}")
    byte_order = ">" if message.is_bigendian else "<"
    pixels = np.ndarray(
        (height, width, channels),
        dtype=byte_order + dtype if item > 1 else dtype,
        buffer=values,
        strides=(step, channels * item, item),
    )
    if dtype == "u2":
        pixels = (pixels >> 8).astype(np.uint8)
    elif dtype == "f4":
        if not np.isfinite(pixels).all():
            raise ImageError(f"{message.encoding} image contains NaN or infinity")
        pixels = (np.clip(pixels, 0.0, 1.0) * 255.0 + 0.5).astype(np.uint8)
    return pixels if order == (0, 1, 2) and channels == 3 else pixels[:, :, order]


def _bridged(message) -> np.ndarray:
    try:
        from cv_bridge import CvBridge, CvBridgeError
    except ImportError as error:
        raise ImageError(
            f"encoding {message.encoding!r} needs cv_bridge (apt install ros-$ROS_DISTRO-cv-bridge): {error}"
        ) from error
    try:
        return CvBridge().imgmsg_to_cv2(message, desired_encoding="rgb8")
    except (CvBridgeError, ImportError, AttributeError, TypeError, ValueError) as error:
        # Beside its own error: numpy's for too few bytes, and, at the first image, what an extension built for another
        # numpy raises.
        raise ImageError(f"cv_bridge cannot decode {message.encoding!r}: {error}") from error
