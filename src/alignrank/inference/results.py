"""Detections on their way into a folder: pictures, videos, JSON and CSV."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from csv import writer as csv_writer
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import numpy as np
from PIL import Image

from alignrank.contracts import Detections
from alignrank.data.samples import Array
from alignrank.errors import InputError
from alignrank.folders import is_free, make_folder
from alignrank.inference.sources import frame_rate, split_frame_name
from alignrank.terminal.progress import steps

CSV_COLUMNS = ("source", "x0", "y0", "x1", "y1", "score", "label", "name")
# The JPEG format ends at 65535 pixels.
MAX_JPEG_SIDE = 65_500


@dataclass(frozen=True, slots=True)
class Written:
    """What was written: images (or frames) and objects in them, and the folder."""

    images: int
    objects: int
    out: Path


def write_results(
    detections: Iterable[Detections],
    out: str | Path,
    *,
    pictures: bool = True,
    json: bool = True,
    csv: bool = True,
    video: bool = True,
    total: int | None = None,
) -> Written:
    """Drain `detections` into a new folder (see ResultWriter), with progress; `total` is `Sources.count`.

    Raises InputError if the folder exists. If no detections come, nothing is written.
    """
    with ResultWriter(out, pictures=pictures, json=json, csv=csv, video=video) as writer:
        with steps("predicting", total) as advance:
            for found in detections:
                writer.add(found)
                advance()
        return Written(writer.images, writer.objects, writer.out)


class ResultWriter:
    """Writes detections one by one, in constant memory, into a folder that is created with the first.

    pictures: drawn images (the detections must carry them); frames of a video become one drawn video at its
    frame rate and without sound, or single pictures with video=False. json: predictions.json, a list of
    `Detections.to_dict`. csv: predictions.csv, one line for each object. The last two end in `.part` until
    all is well. Raises InputError if the folder exists already or cannot be made.
    """

    def __init__(
        self, out: str | Path, *, pictures: bool = True, json: bool = True, csv: bool = True, video: bool = True
    ) -> None:
        self.out = Path(out)
        if not is_free(self.out):
            raise InputError(f"out: {self.out} exists already; name a new folder")
        self.images = self.objects = 0
        self._pictures, self._want_json, self._want_csv, self._want_video = pictures, json, csv, video
        self._files = ExitStack()
        self._parts: list[Path] = []
        self._json: IO[str] | None = None
        self._csv: Any = None
        self._video: _VideoWriter | None = None
        self._copies: dict[str, int] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._video is not None:
            self._video.close()
        if self._json is not None:
            self._json.write("\n]\n")
        self._files.close()
        if kind is None:
            for part in self._parts:
                part.replace(part.with_suffix(""))

    def add(self, detections: Detections) -> None:
        """Write one image's detections."""
        if not self.images:
            self._begin()
        if self._json is not None:
            self._json.write(("[\n" if not self.images else ",\n") + detections.to_json())
        if self._csv is not None:
            row = detections.to_dict()
            for box, score, label, name in zip(row["boxes"], row["scores"], row["labels"], row["names"], strict=True):
                self._csv.writerow([detections.source, *box, score, label, name])
        if self._pictures:
            self._draw(detections)
        self.images += 1
        self.objects += len(detections)

    def _begin(self) -> None:
        try:
            make_folder(self.out, "out")
            self._json = self._open("predictions.json") if self._want_json else None
            self._csv = csv_writer(self._open("predictions.csv")) if self._want_csv else None
        except OSError as error:
            raise InputError(f"out: {self.out} cannot be written ({error.strerror or error})") from None
        if self._csv is not None:
            self._csv.writerow(CSV_COLUMNS)

    def _open(self, name: str) -> IO[str]:
        self._parts.append(self.out / f"{name}.part")
        # A file name need not be UTF-8, but results are.
        file = self._parts[-1].open("w", encoding="utf-8", newline="", errors="backslashreplace")
        return self._files.enter_context(file)

    def _draw(self, detections: Detections) -> None:
        frame = split_frame_name(detections.source)
        if frame is None or not self._want_video:
            stem = Path(detections.source).stem if frame is None else f"{frame[0].stem}-{frame[1]:06d}"
            drawn = detections.plot()
            suffix = ".jpg" if max(drawn.shape) <= MAX_JPEG_SIDE else ".png"
            Image.fromarray(drawn).save(self._new_path(stem, suffix), quality=92)
            return
        if self._video is None or self._video.source != frame[0] or frame[1] == 0:
            if self._video is not None:
                self._video.close()
            self._video = _VideoWriter(frame[0], self._new_path(frame[0].stem, ".mp4"))
        self._video.add(detections.plot())

    def _new_path(self, stem: str, suffix: str) -> Path:
        """A file of the folder that is not there yet: sources from several folders can share a name."""
        path = self.out / f"{stem}{suffix}"
        while path.exists():
            self._copies[stem] = self._copies.get(stem, 1) + 1
            path = self.out / f"{stem}-{self._copies[stem]}{suffix}"
        return path


class _VideoWriter:
    """H.264 (MPEG-4 where FFmpeg has no encoder for it) in an mp4 file, frame by frame."""

    def __init__(self, source: Path, path: Path) -> None:
        import av

        self.source = source
        self._rate = frame_rate(source).limit_denominator(1001)
        self._container = av.open(str(path), "w")
        self._codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
        self._stream: Any = None
        self._count = 0

    def add(self, image: Array) -> None:
        """Append [H,W,3] uint8; the first one's size is the video's."""
        import av

        # 4:2:0 colour needs even sides.
        image = np.pad(image, ((0, image.shape[0] % 2), (0, image.shape[1] % 2), (0, 0)), "edge")
        if self._stream is None:
            self._stream = self._container.add_stream(self._codec, rate=self._rate, options={"preset": "veryfast"})
            self._stream.height, self._stream.width = image.shape[:2]
            self._stream.pix_fmt = "yuv420p"
        frame = av.VideoFrame.from_ndarray(image, format="rgb24")
        frame = frame.reformat(width=self._stream.width, height=self._stream.height, format="yuv420p")
        frame.pts, frame.time_base = self._count, 1 / self._rate
        self._count += 1
        self._container.mux(self._stream.encode(frame))

    def close(self) -> None:
        """Write what the encoder still holds, and the file's index."""
        if self._stream is not None:
            self._container.mux(self._stream.encode())
        self._container.close()
