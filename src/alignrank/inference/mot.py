"""Tracks as the text of the MOT challenge: a file for each sequence, a line for each object of a frame.

`frame,id,x,y,w,h,score,-1,-1,-1`: frames and ids from 1; left, top, width and height in px; -1 where the world's x, y
and z would be (https://motchallenge.net/instructions).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from alignrank.boxes import xyxy_to_xywh
from alignrank.contracts import Detections
from alignrank.inference.growing import GrowingFile
from alignrank.inference.sequences import Sequences


class MotFiles:
    """Writes them one image at a time; a file is called `.part` until its sequence has ended.

    new_path: of a sequence's name, a file that is not there yet.
    """

    def __init__(self, new_path: Callable[[str], Path]) -> None:
        self._new_path, self._sequences = new_path, Sequences()
        self._file: GrowingFile | None = None

    def add(self, detections: Detections) -> None:
        """The lines of one image, whose objects have ids."""
        assert detections.ids is not None
        if self._sequences.begins(detections):
            self.close()
            path = self._new_path(self._sequences.name)
            self._file = GrowingFile(path.with_name(f"{path.name}.part"))
        assert self._file is not None
        frame = self._sequences.number
        rows = zip(
            detections.ids.tolist(), xyxy_to_xywh(detections.boxes).tolist(), detections.scores.tolist(), strict=True
        )
        self._file.add("".join(
            f"{frame},{number},{','.join(f'{value:.2f}' for value in box)},{score:.6f},-1,-1,-1\n"
            for number, box, score in rows
        ))  # fmt: skip

    def close(self) -> None:
        """End the file of the last sequence."""
        file, self._file = self._file, None
        if file is not None:
            file.close()
            file.path.replace(file.path.with_suffix(""))
