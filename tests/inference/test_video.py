"""Frames of a video as PyAV gives them, and what a frame is called."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from alignrank.inference import video
from alignrank.inference.entries import frame_index, frame_name
from alignrank.inference.video import Clip


@pytest.mark.parametrize(("rotation", "turns"), [(0, 0), (90, 1), (-90, 3), (180, 2)])
def test_frames_are_upright(rotation: int, turns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """FFmpeg's angle is counter-clockwise: telephones film on their side and say so."""
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    frame = SimpleNamespace(to_ndarray=lambda format: pixels, rotation=float(rotation), time=0.0)

    @contextmanager
    def opened(self: Any) -> Iterator[Any]:
        yield SimpleNamespace(decode=lambda stream: iter([frame])), SimpleNamespace()

    monkeypatch.setattr(Clip, "opened", opened)
    monkeypatch.setattr(video, "_rate_of", lambda stream: None)
    (image,) = Clip("a.mp4", "a.mp4").frames()
    np.testing.assert_array_equal(image.image, np.rot90(pixels, turns))


@pytest.mark.parametrize(
    ("name", "path", "index"),
    [
        (frame_name("a#1.mp4", 12), "a#1.mp4", 12),
        ("a.jpg", "a.jpg", None),
        ("7", None, None),
        ("7", "b.mp4", None),
        ("b.mp4#x", "b.mp4", None),
    ],
)
def test_the_index_of_a_frame(name: str, path: str | None, index: int | None) -> None:
    assert frame_index(name, path) == index
