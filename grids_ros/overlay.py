"""Where the policy looks, drawn onto what it sees."""

from __future__ import annotations

import cv2
import numpy as np

_FILL, _EDGE = (255, 190, 0), (20, 20, 20)
_SUBPIXEL = 4  # OpenCV's fixed-point bits


def draw(rgb: np.ndarray, coordinates: np.ndarray, caption: str | None = None) -> np.ndarray:
    """A copy of the image with a dot at each coordinate and the caption at its lower edge.

    rgb: uint8, shape (H, W, 3). coordinates: shape (K, 2), fractions of the image, x to the right, y down.
    Characters that OpenCV's font lacks are shown as question marks.
    """
    image = np.ascontiguousarray(rgb).copy()
    height, width = image.shape[:2]
    radius = max(2.0, min(height, width) / 64.0)
    unit = 1 << _SUBPIXEL
    # The fraction 0 is the left edge of the first pixel; OpenCV's coordinate 0 is that pixel's centre.
    centres = np.rint((np.asarray(coordinates) * (width, height) - 0.5) * unit).astype(int)
    for x, y in centres.tolist():
        for size, colour in ((radius + 1.0, _EDGE), (radius, _FILL)):
            cv2.circle(image, (x, y), round(size * unit), colour, cv2.FILLED, cv2.LINE_AA, _SUBPIXEL)
    if caption:
        _write(image, caption)
    return image


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
