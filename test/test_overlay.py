"""The overlay: dots where the coordinates say, and nothing else touched."""

from __future__ import annotations

import numpy as np
import pytest

from grids_ros.overlay import draw


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
