"""Sampling points, drawn onto the images that the policy was given."""

from __future__ import annotations

import cv2
import numpy as np

_EDGE, _RING = (20, 20, 20), (255, 255, 255)
_RING_OPACITY = 0.35
_SUBPIXEL = 4  # OpenCV's fixed-point bits


def draw(rgb: np.ndarray, coordinates: np.ndarray, caption: str | None = None, size: int | None = None) -> np.ndarray:
    """A copy of the image with a dot at each coordinate and the caption at its lower edge.

    rgb: uint8, shape (H, W, 3). coordinates: shape (K, 2), fractions of the image, x to the right, y down; each
    keeps its colour from frame to frame. size: height that the image is brought to first [px]; None keeps it.
    Characters that OpenCV's font lacks are shown as question marks.
    """
    image = np.array(rgb, order="C") if size is None else _scaled(rgb, size)  # OpenCV draws on no other order
    height, width = image.shape[:2]
    radius = max(2.0, min(height, width) / 80.0)
    unit = 1 << _SUBPIXEL
    # The fraction 0 is the left edge of the first pixel; OpenCV's coordinate 0 is that pixel's centre.
    centres = np.rint((np.asarray(coordinates) * (width, height) - 0.5) * unit).astype(int).tolist()
    rings = image.copy()
    for centre in centres:
        cv2.circle(rings, centre, round(2.2 * radius * unit), _RING, round(radius / 3) or 1, cv2.LINE_AA, _SUBPIXEL)
    cv2.addWeighted(rings, _RING_OPACITY, image, 1.0 - _RING_OPACITY, 0.0, dst=image)
    for centre, colour in zip(centres, _colours(len(centres)), strict=True):
        for extent, fill in ((radius + 1.0, _EDGE), (radius, colour)):
            cv2.circle(image, centre, round(extent * unit), fill, cv2.FILLED, cv2.LINE_AA, _SUBPIXEL)
    if caption:
        _write(image, caption)
    return image


def _scaled(rgb: np.ndarray, height: int) -> np.ndarray:
    width = max(1, round(rgb.shape[1] * height / rgb.shape[0]))
    how = cv2.INTER_AREA if height < rgb.shape[0] else cv2.INTER_CUBIC
    return cv2.resize(np.ascontiguousarray(rgb), (width, height), interpolation=how)


def _colours(count: int) -> list[tuple[int, int, int]]:
    """From yellow by orange to violet, none of which blends into a table or a grey arm."""
    if not count:
        return []
    ramp = np.linspace(250, 70, count).astype(np.uint8).reshape(-1, 1)
    bgr = cv2.applyColorMap(ramp, cv2.COLORMAP_PLASMA)[:, 0]
    return [(int(red), int(green), int(blue)) for blue, green, red in bgr]


def _write(image: np.ndarray, caption: str) -> None:
    """White on a dark band; what does not fit is cut off."""
    height, width = image.shape[:2]
    font, scale = cv2.FONT_HERSHEY_SIMPLEX, max(0.3, height / 560.0)
    text = caption.encode("ascii", "replace").decode()
    (text_width, text_height), _ = cv2.getTextSize(text, font, scale, 1)
    fits = max(1, len(text) * (width - 4) // max(text_width, 1))
    text = text if len(text) <= fits else f"{text[: max(1, fits - 2)]}.."
    band = text_height + 6
    image[height - band :] //= 3
    cv2.putText(image, text, (2, height - 4), font, scale, (255, 255, 255), 1, cv2.LINE_AA)
