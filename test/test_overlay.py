"""The overlay: dots where the coordinates say, and nothing else touched."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from grids_ros.observation.images import to_rgb
from grids_ros.visualisation.overlay import draw


@pytest.mark.parametrize(("x", "y"), [(0.5, 0.25), (0.9, 0.1), (0.2, 0.8)])
def test_a_dot_is_centred_on_its_coordinate(x, y):
    image = np.zeros((120, 200, 3), np.uint8)
    drawn = draw(image, np.array([[x, y]]))
    assert not image.any()  # the original is left alone
    rows, columns = np.nonzero(drawn[:, :, 0] > 100)
    assert np.mean(columns) + 0.5 == pytest.approx(200 * x, abs=0.5)
    assert np.mean(rows) + 0.5 == pytest.approx(120 * y, abs=0.5)
    assert len(rows) < 100


def test_corners_long_captions_and_other_alphabets_are_drawn_without_an_error():
    image = np.zeros((64, 48, 3), np.uint8)
    drawn = draw(image, np.array([[0.0, 0.0], [1.0, 1.0]]), caption="подними красный куб " * 50)
    assert drawn.shape == image.shape and drawn[-3:].any() and drawn[:3, :3].any()


def test_each_coordinate_has_a_colour_of_its_own_and_keeps_it():
    points = np.stack(np.meshgrid([0.2, 0.5, 0.8], [0.3, 0.7]), axis=-1).reshape(-1, 2)
    image = np.full((100, 100, 3), 128, np.uint8)

    def colours(at):
        return [tuple(draw(image, at)[int(y * 100), int(x * 100)]) for x, y in at]

    assert len(set(colours(points))) == len(points)
    assert colours(points) == colours(1.0 - points)


def test_size_enlarges_the_picture_but_not_where_the_dots_lie():
    drawn = draw(np.zeros((60, 80, 3), np.uint8), np.array([[0.75, 0.25]]), size=240)
    assert drawn.shape == (240, 320, 3)
    rows, columns = np.nonzero(drawn[:, :, 0] > 100)
    assert (np.mean(columns) + 0.5, np.mean(rows) + 0.5) == pytest.approx((240, 60), abs=0.5)


@pytest.mark.parametrize("encoding", ["rgb8", "bgr8", "bgra8", "rgba8", "mono8"])
def test_whatever_the_camera_sends_can_be_drawn_on(encoding):
    """Decoding is a view where it can be, in an order that OpenCV does not draw on."""
    channels = {"mono8": 1, "bgra8": 4, "rgba8": 4}.get(encoding, 3)
    data = np.full((48, 64, channels), 77, np.uint8).tobytes()
    message = SimpleNamespace(encoding=encoding, height=48, width=64, step=64 * channels, is_bigendian=0, data=data)
    drawn = draw(to_rgb(message), np.array([[0.5, 0.5]]), caption="lift")
    assert drawn.shape == (48, 64, 3) and (drawn[24, 32] != 77).any() and (drawn[0, 0] == 77).all()


def test_the_dense_model_has_no_coordinates_and_no_dots():
    image = np.full((60, 80, 3), 77, np.uint8)
    assert (draw(image, np.empty((0, 2))) == image).all()
