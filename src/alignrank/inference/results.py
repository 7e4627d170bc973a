"""Detections on their way into a folder: pictures, videos, JSON and CSV, of tracks also MOT's text."""

from __future__ import annotations

import io
import json as json_format
import os
from collections.abc import Callable, Iterable
from contextlib import ExitStack, suppress
from csv import writer as csv_writer
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

from PIL import Image

from alignrank.contracts import Detections
from alignrank.errors import InputError
from alignrank.folders import is_free, make_folder
from alignrank.inference.addresses import ADDRESS
from alignrank.inference.drawn_video import DrawnVideo
from alignrank.inference.entries import frame_index
from alignrank.inference.growing import GrowingFile
from alignrank.inference.mot import MotFiles
from alignrank.inference.places import rate_of_file
from alignrank.inference.signals import Signals
from alignrank.inference.sources import Sources
from alignrank.terminal.progress import say, shown
from alignrank.terminal.works import Rate, Work

CSV_COLUMNS = ("source", "x0", "y0", "x1", "y1", "score", "label", "name")
# The JPEG format ends at 65535 pixels.
MAX_JPEG_SIDE = 65_500
# Of the stem of a name, so that a number and an ending still fit: file systems end at 255.
MAX_STEM_BYTES = 200


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
    sources: Sources | None = None,
) -> Written:
    """Drain `detections` into a new folder (see ResultWriter), with progress. sources: where they come from.

    Raises InputError if the folder holds something. If no detections come, nothing is written. Whatever ends it early
    (Ctrl-C, SIGTERM, an error), the results so far are whole, and it is said where they are.
    """
    rate_of = rate_of_file if sources is None else sources.rate_of
    writer = ResultWriter(out, pictures=pictures, json=json, csv=csv, video=video, rate_of=rate_of)
    with Signals() as signals:
        try:
            _drain(detections, writer, signals, None if sources is None else sources.count)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f"interrupted: {writer.kept}") from None
        except BaseException as error:
            if writer.images:
                say(f"{'terminated' if isinstance(error, SystemExit) else 'stopped by an error'}: {writer.kept}")
            raise
    return Written(writer.images, writer.objects, writer.out)


def _drain(detections: Iterable[Detections], writer: ResultWriter, signals: Signals, total: int | None) -> None:
    with ExitStack() as stack:
        stack.callback(_held, signals, writer.close)
        # The threads that read ahead end before the files are closed.
        stack.callback(getattr(detections, "close", lambda: None))
        work, rate = stack.enter_context(shown(Work("predicting", total))), Rate()
        for found in detections:
            _held(signals, writer.add, found)
            work.advance(None if found.ids is None else f"tracking, {rate.step():.1f} frames a second")


def _held(signals: Signals, function: Callable[..., None], *arguments: Any) -> None:
    with signals.held():
        function(*arguments)


class ResultWriter:
    """Writes detections one by one, in constant memory, into a folder that is created with the first.

    pictures: drawn images (the detections must carry them), of the images' sizes; frames of a video or an animation
    become one drawn video at its frame rate and without sound, or single pictures with video=False and of a TIFF's
    pages. json: predictions.json, a list of `to_dict`. csv: predictions.csv, one line for each object. Detections with
    ids also become MOT's text, see `mot`. These files are whole after each image and end in `.part` until `close`, or
    until their sequence has ended. rate_of: frames a second by `Detections.path`, None: pages.
    Raises InputError if the folder holds something already or cannot be made.
    """

    def __init__(
        self,
        out: str | Path,
        *,
        pictures: bool = True,
        json: bool = True,
        csv: bool = True,
        video: bool = True,
        rate_of: Callable[[str], Fraction | None] = rate_of_file,
    ) -> None:
        self.out = Path(out)
        self._is_new = not self.out.exists()
        if not is_free(self.out):
            raise InputError(f"out: {self.out} exists already; name a new folder")
        self.images = self.objects = 0
        self._pictures, self._want_json, self._want_csv, self._want_video = pictures, json, csv, video
        self._rate_of = rate_of
        self._files: list[GrowingFile] = []
        self._mot = MotFiles(lambda name: self._new_path(_stem(name), ".txt"))
        self._json: GrowingFile | None = None
        self._csv: GrowingFile | None = None
        self._video: DrawnVideo | None = None
        self._video_of: str | None = None
        self._copies: dict[tuple[str, str], int] = {}
        self._begun = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def kept(self) -> str:
        """What there is, in words."""
        if not self.images:
            return "nothing was written"
        first = "the first image" if self.images == 1 else f"the first {self.images} images"
        return f"results of {first} are in {self.out}"

    def close(self) -> None:
        """Finish the files, whatever of them can be finished; without a single image they and the folder go away."""
        with ExitStack() as stack:
            if not self.images and self._begun:
                stack.callback(self._remove)
            for file in self._files:
                stack.callback(_finish, file)
            self._files = []
            stack.callback(self._mot.close)
            stack.callback(self._end_video)

    def add(self, detections: Detections) -> None:
        """Write one image's detections; all files of the folder, or none, have them then."""
        ids = () if detections.ids is None else ("ids",)
        if not self._begun:
            self._begin((*CSV_COLUMNS, "id") if ids else CSV_COLUMNS)
        try:
            if self._pictures:
                self._draw(detections)
            row = detections.to_dict()
            if self._json is not None:
                self._json.add(json_format.dumps(row))
            if self._csv is not None:
                columns = (row[key] for key in ("boxes", "scores", "labels", "names", *ids))
                rows = zip(*columns, strict=True)
                self._csv.add(_lines([[detections.source, *box, *others] for box, *others in rows]))
            if ids:
                self._mot.add(detections)
        except BaseException:
            for file in self._files:
                file.back_to(self.images)
            raise
        self.images += 1
        self.objects += len(detections)

    def _begin(self, columns: tuple[str, ...]) -> None:
        try:
            make_folder(self.out, "out")
            self._begun = True
            if self._want_json:
                self._json = self._open("predictions.json", head="[\n", between=",\n", tail="\n]\n")
            if self._want_csv:
                self._csv = self._open("predictions.csv", head=_lines([columns]))
        except OSError as error:
            raise InputError(f"out: {self.out} cannot be written ({error.strerror or error})") from None

    def _open(self, name: str, **parts: str) -> GrowingFile:
        self._files.append(GrowingFile(self.out / f"{name}.part", **parts))
        return self._files[-1]

    def _draw(self, detections: Detections) -> None:
        path, index = detections.path, frame_index(detections.source, detections.path)
        drawn = detections.plot()
        rate = None if path is None or index is None or not self._want_video else self._rate_of(path)
        if path is None or index is None or rate is None:
            name = _stem(detections.source) if path is None else _stem(path)
            stem = name if index is None else f"{name}-{index:06d}"
            suffix = ".jpg" if max(drawn.shape) <= MAX_JPEG_SIDE else ".png"
            Image.fromarray(drawn).save(self._new_path(stem, suffix), quality=92)
            return
        if self._video is None or self._video_of != path or index == 0:
            self._end_video()
            self._video, self._video_of = DrawnVideo(self._new_path(_stem(path), ".mp4"), rate), path
        self._video.add(drawn)

    def _end_video(self) -> None:
        video, self._video = self._video, None
        if video is not None:
            video.close()

    def _remove(self) -> None:
        with suppress(OSError):
            for name in ("predictions.json", "predictions.csv"):
                (self.out / name).unlink(missing_ok=True)
            if self._is_new:
                self.out.rmdir()

    def _new_path(self, stem: str, suffix: str) -> Path:
        """A file of the folder that is not there yet: sources from several folders can share a name."""
        path = self.out / f"{stem}{suffix}"
        while path.exists():
            self._copies[stem, suffix] = self._copies.get((stem, suffix), 1) + 1
            path = self.out / f"{stem}-{self._copies[stem, suffix]}{suffix}"
        return path


def _finish(file: GrowingFile) -> None:
    file.close()
    file.path.replace(file.path.with_suffix(""))


def _lines(rows: Iterable[Iterable[Any]]) -> str:
    """As CSV."""
    text = io.StringIO(newline="")
    csv_writer(text).writerows(rows)
    return text.getvalue()


def _stem(source: str) -> str:
    """What pictures of a source are called: of an address the name in it, else its host."""
    if ADDRESS.match(source):
        parts = urlsplit(source)
        source = Path(parts.path).name or parts.hostname or ""
    stem = Path(source.replace("\0", "")).stem
    if not stem.strip("."):
        return "image"
    encoded = os.fsencode(stem)
    return stem if len(encoded) <= MAX_STEM_BYTES else encoded[:MAX_STEM_BYTES].decode(errors="ignore")
