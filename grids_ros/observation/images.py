"""Any ROS image to uint8 RGB, shape (H, W, 3), without a copy where there need be none.

Messages are read by attribute (`height`, `width`, `encoding`, `step`, `is_bigendian`, `data`; or `format`,
`data`), so the same code decodes an rclpy message on the robot and a rosbags message in training and replay.
OpenCV converts Bayer and YUV. cv_bridge serves the encodings that OpenCV does not have: built against NumPy 1 it breaks
beside NumPy 2 (vision_opencv#535).
"""

from __future__ import annotations

import re

import cv2
import numpy as np

from grids_ros.observation.image_headers import Declared, declared
from grids_ros.observation.messages import cut

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
    "16UC3": ("u2", 3, (2, 1, 0)),
    "16UC4": ("u2", 4, (2, 1, 0)),
    "32FC1": ("f4", 1, (0, 0, 0)),
    "32FC3": ("f4", 3, (2, 1, 0)),
    "32FC4": ("f4", 4, (2, 1, 0)),
}
BAYER = {  # by the colours of the upper left four pixels, row by row
    "bayer_rggb": cv2.COLOR_BayerRGGB2RGB,
    "bayer_bggr": cv2.COLOR_BayerBGGR2RGB,
    "bayer_gbrg": cv2.COLOR_BayerGBRG2RGB,
    "bayer_grbg": cv2.COLOR_BayerGRBG2RGB,
}
PACKED_YUV = {  # 4:2:2, two bytes a pixel
    "uyvy": cv2.COLOR_YUV2RGB_UYVY,
    "yuv422": cv2.COLOR_YUV2RGB_UYVY,
    "yuyv": cv2.COLOR_YUV2RGB_YUYV,
    "yuv422_yuy2": cv2.COLOR_YUV2RGB_YUYV,
}
PLANAR_YUV = {  # a plane of luma, then one of chroma: half as wide and high, but for nv24
    "nv12": cv2.COLOR_YUV2RGB_NV12,
    "nv21": cv2.COLOR_YUV2RGB_NV21,
    "nv24": cv2.COLOR_YUV2RGB_NV12,
}
BRIDGED = ("bayer_", "yuv", "nv", "uyvy", "yuyv")  # prefixes of encodings that cv_bridge may decode
MAX_NAME = 200  # characters of an encoding or a format
MAX_SIDE = 16384  # a larger side is a corrupt header, not a camera
MAX_PIXELS = 1 << 26  # of one picture; a larger one is a decompression bomb, not a camera
# https://docs.ros.org/en/jazzy/p/sensor_msgs/msg/CompressedImage.html: ORIG_PIXFMT; CODEC compressed [PIXFMT]
_TRANSPORT = re.compile(r"\s*(\w+)\s*;\s*(\w+)\s+compressed\b\s*(\w*)\s*", re.IGNORECASE)
_DEPTH = re.compile(r"compressedDepth", re.IGNORECASE)
_CODECS = ("jpeg", "jpg", "png", "tiff", "webp")
_VIDEO = re.compile(r"\b(h\.?26[45]|hevc|av1|vp[89]|mpeg\w*|mp4|theora|ffmpeg|lib[xv]\w+)\b", re.IGNORECASE)
_DECODE = cv2.IMREAD_ANYDEPTH | cv2.IMREAD_IGNORE_ORIENTATION


class ImageError(ValueError):
    """An image that cannot be decoded: says what it is, and what would be accepted."""


def to_rgb(message) -> np.ndarray:
    """A sensor_msgs Image or CompressedImage (rclpy's or rosbags') to uint8 RGB, shape (H, W, 3).

    For `rgb8` the result is a view of the message's own data, `step` honoured. 16-bit values keep their upper
    byte; floats are taken to lie in [0, 1]. YUV is ITU-R BT.601 in limited range, as OpenCV and cv_bridge read it.
    Rows and columns stay as they are stored: an orientation in EXIF or TIFF turns nothing. Raises ImageError.
    """
    return _raw(message) if hasattr(message, "encoding") else _compressed(message)


def _compressed(message) -> np.ndarray:
    data, text = bytes(message.data), str(message.format)
    _check_name("format", text)
    if not data:
        raise ImageError("compressed image holds no bytes")
    original, stored = _pixel_formats(text)
    header = _checked_header(data, text)
    if header.orientation:
        data = _upright(data, *header.orientation)
    pattern = _pattern(original)
    mosaic = pattern is not None and not stored
    picture = _decompressed(data, text, cv2.IMREAD_GRAYSCALE if mosaic else cv2.IMREAD_COLOR)
    if mosaic and pattern is not None:
        return _eight_bits(_demosaiced(picture, pattern, original), original)
    picture = _eight_bits(picture, cut(text))
    # OpenCV gives BGR; what was compressed as rgb8 had its red where blue belongs
    return picture if stored.startswith("rgb") else cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)


def _check_name(kind: str, name: str) -> None:
    """Before anything is matched with it: that may take time by the square of its length."""
    if len(name) > MAX_NAME:
        raise ImageError(f"{kind} is {cut(name)}, expected at most {MAX_NAME} characters")


def _pixel_formats(text: str) -> tuple[str, str]:
    """The encoding of the raw image, and the order of colours that it was compressed in: "" where `format` has none.

    Raises ImageError for what is no single picture, or a form that image_transport does not document.
    """
    if _DEPTH.search(text):
        raise ImageError(
            f"format {cut(text)} is a depth image, expected colour: camera/image_raw/compressed or the like"
        )
    if _VIDEO.search(text):
        raise ImageError(f"format {cut(text)} is a video stream, expected pictures: jpeg, png, tiff or webp")
    if ";" not in text:
        return "", ""  # as bgr8 or mono8, by the number of channels
    match = _TRANSPORT.fullmatch(text)
    if not match or match[2].lower() not in _CODECS:
        raise ImageError(f"format {cut(text)}, expected jpeg, png, tiff, webp, or 'rgb8; jpeg compressed bgr8'")
    original, stored = match[1], match[3].lower()
    if stored and not re.fullmatch(r"(rgb|bgr)a?(8|16)|mono(8|16)", stored):
        raise ImageError(
            f"format {cut(text)} is compressed as {cut(stored)}, expected bgr8, rgb8, bgr16, rgb16 or mono8"
        )
    if original not in PLAIN and _pattern(original) is None and not stored:
        raise ImageError(
            f"format {cut(text)}: {cut(original)} is compressed as it is, expected a conversion such as bgr8"
        )
    return original, stored


def _checked_header(data: bytes, text: str) -> Declared:
    """Raises ImageError for a size that no camera has, before anything is decompressed."""
    try:
        header = declared(data)
    except ValueError as error:
        raise ImageError(f"compressed image ({cut(text)}) is damaged: {error}") from error
    if header is None:
        raise ImageError(
            f"compressed image ({cut(text)}, {len(data)} bytes) is no picture, expected JPEG, PNG, TIFF or WebP"
        )
    _check_size(header.width, header.height)
    return header


def _check_size(width: int, height: int) -> None:
    if not (0 < height <= MAX_SIDE and 0 < width <= MAX_SIDE):
        raise ImageError(f"image is {width}x{height}, expected each side in 1..{MAX_SIDE}")
    if width * height > MAX_PIXELS:
        raise ImageError(f"image is {width}x{height}, expected at most {MAX_PIXELS / 1e6:.0f} million pixels")


def _upright(data: bytes, at: int, order: str) -> bytes:
    """A TIFF with orientation 1: OpenCV turns TIFF whatever its flags."""
    return data[:at] + (1).to_bytes(2, "little" if order == "<" else "big") + data[at + 2 :]


def _decompressed(data: bytes, text: str, colours: int) -> np.ndarray:
    try:
        picture = cv2.imdecode(np.frombuffer(data, np.uint8), colours | _DECODE)
    except cv2.error as error:
        raise ImageError(f"compressed image ({cut(text)}) is damaged: {error.err}") from error
    if picture is None:
        raise ImageError(
            f"compressed image ({cut(text)}, {len(data)} bytes) is damaged, or no picture that OpenCV knows"
        )
    return picture


def _raw(message) -> np.ndarray:
    """A sensor_msgs Image."""
    encoding = message.encoding
    _check_name("encoding", encoding)
    if encoding in PLAIN:
        dtype, channels, order = PLAIN[encoding]
        pixels = _eight_bits(_rows(message, dtype, channels), encoding)
        return pixels if order == (0, 1, 2) and channels == 3 else pixels[:, :, order]
    if encoding in PACKED_YUV:
        return _packed(message)
    if encoding in PLANAR_YUV:
        return _planar(message)
    pattern = _pattern(encoding)
    if pattern is not None:
        mosaic = _rows(message, "u2" if encoding.endswith("16") else "u1", 1)[..., 0]
        return _eight_bits(_demosaiced(mosaic, pattern, encoding), encoding)
    if encoding.startswith(BRIDGED):
        return _bridged(message)
    accepted = (*PLAIN, *PACKED_YUV, *PLANAR_YUV, *(f"{name}{bits}" for name in BAYER for bits in (8, 16)))
    raise ImageError(f"encoding {cut(encoding)} is not one of {', '.join(accepted)}")


def _rows(message, dtype: str, channels: int, rows: int | None = None, width: int | None = None) -> np.ndarray:
    """The message's data as (rows, width, channels), a view; by default as many as the image has."""
    values = np.frombuffer(message.data, dtype=np.uint8)
    _check_size(message.width, message.height)
    rows, width = rows or message.height, width or message.width
    item = np.dtype(dtype).itemsize
    row, step = width * channels * item, message.step
    if step < row:
        raise ImageError(f"step is {step} bytes, a row of {width} {message.encoding} pixels takes {row}")
    needed = step * (rows - 1) + row
    if len(values) < needed:
        raise ImageError(f"data holds {len(values)} bytes, {rows} rows of step {step} need {needed}")
    return np.ndarray(
        (rows, width, channels),
        dtype=(">" if message.is_bigendian else "<") + dtype if item > 1 else dtype,
        buffer=values,
        strides=(step, channels * item, item),
    )


def _eight_bits(pixels: np.ndarray, name: str) -> np.ndarray:
    """uint16 to its upper byte, floats in [0, 1] to 0..255. Raises ImageError for other numbers."""
    if pixels.dtype == np.uint8:
        return pixels
    if pixels.dtype.kind == "u" and pixels.dtype.itemsize == 2:
        return (pixels >> 8).astype(np.uint8)
    if pixels.dtype.kind != "f":
        raise ImageError(f"{name} image holds {pixels.dtype}, expected uint8, uint16 or floats in [0, 1]")
    if not np.isfinite(pixels).all():
        raise ImageError(f"{name} image contains NaN or infinity")
    return (np.clip(pixels, 0.0, 1.0) * 255.0 + 0.5).astype(np.uint8)


def _pattern(encoding: str) -> int | None:
    """OpenCV's conversion of a Bayer encoding of 8 or 16 bits."""
    return BAYER.get(encoding.removesuffix("16").removesuffix("8")) if encoding.endswith(("8", "16")) else None


def _demosaiced(mosaic: np.ndarray, pattern: int, encoding: str) -> np.ndarray:
    """A Bayer mosaic (H, W), of uint8 or uint16, to RGB (H, W, 3). Raises ImageError."""
    height, width = mosaic.shape
    if min(height, width) < 3 or mosaic.dtype.kind != "u":
        raise ImageError(f"{encoding} image is {width}x{height} of {mosaic.dtype}, expected 3x3 or more, 8 or 16 bits")
    return cv2.cvtColor(np.ascontiguousarray(mosaic, mosaic.dtype.newbyteorder("=")), pattern)


def _packed(message) -> np.ndarray:
    """YUV 4:2:2 in one plane. Raises ImageError for an odd width."""
    if message.width % 2:
        raise ImageError(f"{message.encoding} image is {message.width} wide, expected an even number")
    return cv2.cvtColor(np.ascontiguousarray(_rows(message, "u1", 2)), PACKED_YUV[message.encoding])


def _planar(message) -> np.ndarray:
    """YUV in two planes, each row of luma `step` bytes long. Raises ImageError for odd sides."""
    encoding, width, height = message.encoding, message.width, message.height
    if encoding == "nv24":
        return _full_chroma(message)
    if width % 2 or height % 2:
        raise ImageError(f"{encoding} image is {width}x{height}, expected even sides")
    planes = _rows(message, "u1", 1, rows=height * 3 // 2)
    return cv2.cvtColor(np.ascontiguousarray(planes), PLANAR_YUV[encoding])


def _full_chroma(message) -> np.ndarray:
    """nv24, 4:4:4, which OpenCV has not: as the nv12 of twice the size in which every pixel stands four times."""
    width, height, step = message.width, message.height, message.step
    luma = _rows(message, "u1", 1)[..., 0]
    values = np.frombuffer(message.data, np.uint8)[step * height :]
    needed = 2 * step * (height - 1) + 2 * width
    if len(values) < needed:
        raise ImageError(f"data holds {len(values)} bytes of chroma, {height} rows of step {2 * step} need {needed}")
    chroma = np.ndarray((height, 2 * width), np.uint8, values, strides=(2 * step, 1))
    planes = np.concatenate([luma.repeat(2, axis=0).repeat(2, axis=1), chroma])
    return np.ascontiguousarray(cv2.cvtColor(planes, PLANAR_YUV["nv24"])[::2, ::2])


def _bridged(message) -> np.ndarray:
    try:
        from cv_bridge import CvBridge, CvBridgeError
    except ImportError as error:
        raise ImageError(
            f"encoding {cut(message.encoding)} needs cv_bridge (apt install ros-$ROS_DISTRO-cv-bridge): {error}"
        ) from error
    try:
        return CvBridge().imgmsg_to_cv2(message, desired_encoding="rgb8")
    except (CvBridgeError, ImportError, AttributeError, TypeError, ValueError) as error:
        # Beside its own error: numpy's for too few bytes, and, at the first image, what an extension built for another
        # numpy raises.
        raise ImageError(f"cv_bridge cannot decode {cut(message.encoding)}: {error}") from error
