"""Which detections follow one another: frames of a video, or pictures of a folder as they come."""

from __future__ import annotations

from pathlib import Path

from alignrank.contracts import Detections
from alignrank.inference.entries import frame_index

# Of pictures in memory.
IN_MEMORY = "images"


class Sequences:
    """Divides detections, in order, into sequences. name: of the sequence that the last ones are in: the video, or the
    folder of the pictures. number: their place in it, from 1.
    """

    def __init__(self) -> None:
        self.name, self.number = "", 0
        self._frames = False

    def begins(self, detections: Detections) -> bool:
        """Go on to an image; whether it is the first of a sequence. A video that comes twice is two of them."""
        index = frame_index(detections.source, detections.path)
        frames, before = index is not None, (self._frames, self.name)
        self._frames = frames
        if detections.path is None:
            self.name = IN_MEMORY
        else:
            self.name = detections.path if frames else str(Path(detections.path).parent)
        new = before != (frames, self.name) or index == 0 or not self.number
        self.number = index + 1 if index is not None else 1 if new else self.number + 1
        return new
