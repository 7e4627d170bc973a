"""What a window of a resized picture shows, from the pixels that it needs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from alignrank.data.letterbox import resize, resize_window
from alignrank.input_size import Fit

FITS = {"antialias": Fit(), "plain": Fit(antialias=False)}
rng = np.random.default_rng(0)


def picture(height: int, width: int) -> Tensor:
    """Noise, channels-last in memory, as pictures are decoded."""
    return torch.from_numpy(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).permute(2, 0, 1)


def weights(length: int, new: int, low: int, high: int, moved: float, antialias: bool) -> Tensor:
    """[high-low,length]: the triangle filter around the place that each pixel shows."""
    shrink = length / new
    places = (np.arange(low, high)[:, None] + 0.5 - moved) * shrink
    if not antialias:
        places = places.clip(0.5, length - 0.5)
    radius = max(shrink, 1.0) if antialias else 1.0
    triangle = np.clip(1 - np.abs(np.arange(length) + 0.5 - places) / radius, 0, None)
    return torch.from_numpy(triangle / triangle.sum(1, keepdims=True)).float()


@pytest.mark.parametrize("fit", FITS.values(), ids=FITS)
@pytest.mark.parametrize("zoom", [0.31, 0.5, 0.77, 1.3, 1.5, 4.0])
def test_it_is_the_picture_moved_by_less_than_a_pixel(fit: Fit, zoom: float) -> None:
    height, width = 47, 61
    pixels, shape = picture(height, width), (round(height * zoom), round(width * zoom))
    for _ in range(30):
        (x0, x1), (y0, y1) = (sorted(rng.choice(length + 1, 2, replace=False)) for length in reversed(shape))
        found, (right, down) = resize_window(pixels, shape, (x0, y0, x1, y1), fit)
        assert 0 <= right < 1
        assert 0 <= down < 1
        rows = weights(height, shape[0], y0, y1, down, fit.antialias)
        columns = weights(width, shape[1], x0, x1, right, fit.antialias)
        # Whole numbers after each of two passes.
        assert_close(found.float(), rows @ pixels.float() @ columns.T, atol=2.1 if fit.antialias else 1e-2, rtol=0)


@pytest.mark.parametrize("fit", FITS.values(), ids=FITS)
@pytest.mark.parametrize("zoom", [0.5, 0.77, 1.0, 1.3])
def test_from_the_pictures_own_corner_nothing_is_moved(fit: Fit, zoom: float) -> None:
    pixels, shape = picture(240, 320), (round(240 * zoom), round(320 * zoom))
    found, moved = resize_window(pixels, shape, (0, 0, 90, 50), fit)
    assert moved == (0, 0)
    assert_close(found, resize(pixels, shape, fit)[:, :50, :90], atol=1, rtol=0)


def test_pixels_that_are_not_shown_are_not_resized(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reason for it: the far side of a picture costs nothing."""
    seen: list[torch.Size] = []
    original = torch.nn.functional.interpolate

    def interpolate(pixels: Tensor, *arguments: object, **how: object) -> Tensor:
        seen.append(pixels.shape)
        return original(pixels, *arguments, **how)

    monkeypatch.setattr("alignrank.data.letterbox.interpolate", interpolate)
    resize_window(picture(240, 320), (360, 480), (300, 200, 360, 260), Fit())
    assert max(seen[0][-2:]) <= 40 + 2 * 2 + 1
