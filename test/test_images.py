"""Decoding against images whose pixels are known; every damaged image is named, never guessed."""

import sys
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grids_ros.images import PLAIN, ImageError, to_rgb


def message(encoding, pixels, padding=0, bigendian=False):
    """sensor_msgs/Image by attribute, its rows padded by `padding` bytes of rubbish."""
    if pixels.dtype.itemsize > 1:
        pixels = pixels.astype(pixels.dtype.newbyteorder(">" if bigendian else "<"))
    rows = pixels.reshape(pixels.shape[0], -1).view(np.uint8)
    rows = np.concatenate([rows, np.full((len(rows), padding), 0xAB, np.uint8)], axis=1)
    return SimpleNamespace(
        height=pixels.shape[0],
        width=pixels.shape[1],
        encoding=encoding,
        step=rows.shape[1],
        is_bigendian=int(bigendian),
        data=rows.tobytes(),
    )


@settings(max_examples=120, deadline=None)
@given(
    st.sampled_from(sorted(PLAIN)),
    st.integers(1, 6),
    st.integers(1, 6),
    st.integers(0, 9),
    st.booleans(),
    st.integers(0, 2**31),
)
def test_every_plain_encoding_step_and_byte_order(encoding, height, width, padding, bigendian, seed):
    dtype, channels, order = PLAIN[encoding]
    rgb = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    if channels == 1:
        rgb[:] = rgb[..., :1]
    stored = np.zeros((height, width, channels), np.uint8)
    for colour, channel in enumerate(order):
        stored[..., channel] = rgb[..., colour]
    if dtype == "u2":
        stored = stored.astype(np.uint16) * 257
    elif dtype == "f4":
        stored = (stored / 255.0).astype(np.float32)
    np.testing.assert_array_equal(to_rgb(message(encoding, stored, padding, bigendian)), rgb)


def test_rgb8_is_a_view_of_the_message():
    image = message("rgb8", np.zeros((4, 5, 3), np.uint8))
    image.data = bytearray(image.data)
    decoded = to_rgb(image)
    image.data[0] = 7
    assert decoded[0, 0, 0] == 7


def test_compressed_images():
    rgb = np.zeros((8, 9, 3), np.uint8)
    rgb[:, :4] = (250, 10, 20)
    _, png = cv2.imencode(".png", rgb[..., ::-1])
    np.testing.assert_array_equal(to_rgb(SimpleNamespace(format="png", data=png.tobytes())), rgb)
    _, jpeg = cv2.imencode(".jpg", np.full((16, 16, 3), (20, 10, 250), np.uint8))
    decoded = to_rgb(SimpleNamespace(format="jpeg", data=jpeg.tobytes()))
    assert np.abs(decoded.astype(int) - (250, 10, 20)).max() < 8


def damaged(**changes):
    image = message("rgb8", np.zeros((4, 5, 3), np.uint8))
    for name, value in changes.items():
        setattr(image, name, value)
    return image


@pytest.mark.parametrize(
    ("image", "text"),
    [
        (damaged(step=14), "step is 14 bytes, a row of 5 rgb8 pixels takes 15"),
        (damaged(data=b""), "data holds 0 bytes, 4 rows of step 15 need 60"),
        (damaged(data=b"x" * 59), "data holds 59 bytes"),
        (damaged(height=0), "5x0"),
        (damaged(width=2**31), "expected each side in"),
        (damaged(encoding="hsv8"), "encoding 'hsv8' is not one of rgb8, bgr8"),
        (damaged(encoding=""), "encoding '' is not one of"),
        (message("32FC1", np.full((2, 2, 1), np.nan, np.float32)), "NaN"),
        (SimpleNamespace(format="jpeg", data=b""), "no bytes"),
        (SimpleNamespace(format="jpeg", data=b"not a picture"), "no picture"),
    ],
)
def test_damage_is_named(image, text):
    with pytest.raises(ImageError, match=text):
        to_rgb(image)


@pytest.mark.parametrize("error", [AttributeError("_ARRAY_API not found"), TypeError("buffer is too small")])
def test_what_cv_bridge_raises_is_about_the_image(monkeypatch, error):
    """cv_bridge asks its extension only when an image comes, and numpy for the bytes of it."""

    class CvBridge:
        def imgmsg_to_cv2(self, message, desired_encoding):
            raise error

    bridge = SimpleNamespace(CvBridge=CvBridge, CvBridgeError=type("CvBridgeError", (TypeError,), {}))
    monkeypatch.setitem(sys.modules, "cv_bridge", bridge)
    with pytest.raises(ImageError, match=f"cannot decode 'bayer_rggb8': {error}"):
        to_rgb(damaged(encoding="bayer_rggb8"))


def test_bayer_says_that_cv_bridge_is_missing():
    try:
        import cv_bridge  # noqa: F401
    except ImportError:
        with pytest.raises(ImageError, match="needs cv_bridge"):
            to_rgb(damaged(encoding="bayer_rggb8"))
    else:
        raw = message("bayer_rggb8", np.zeros((4, 4, 1), np.uint8))
        assert to_rgb(raw).shape == (4, 4, 3)
