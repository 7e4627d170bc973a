"""Small videos for tests: to look at, and what is in them."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from finder import scene


def clip(path: Path, frames: int, size: tuple[int, int] = (90, 60), rate: Fraction = Fraction(10)) -> Path:
    """A video (width, height) of `scene`."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=rate, options={"qscale": "2"})
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        for _ in range(frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(scene(size[1], size[0]), format="rgb24")))
        container.mux(stream.encode())
    return path


def frames_of(path: Path) -> tuple[Fraction, list[np.ndarray[Any, Any]]]:
    """Mean rate and frames [H,W,3]."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        return stream.average_rate, [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
