"""Detections of anything `Sources` can read, lazily and in batches; and their way into a folder of results."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, nullcontext
from csv import writer as csv_writer
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from alignrank.contracts import Batch, Detections, Frame, Postprocess, Targets, Thresholds
from alignrank.data.augment import letterbox
from alignrank.data.samples import Array
from alignrank.engine.device import half_dtype
from alignrank.engine.folders import make_folder
from alignrank.engine.progress import steps
from alignrank.engine.sides import check_side
from alignrank.engine.sources import Source, SourceImage, Sources, frame_rate, split_frame_name
from alignrank.engine.validate import network_input
from alignrank.errors import InputError, nearest

# A threshold for people who look at pictures.
THRESHOLDS = Thresholds(conf=0.25, iou=0.7, max_dets=300)
CSV_COLUMNS = ("source", "x0", "y0", "x1", "y1", "score", "label", "name")
# The JPEG format ends at 65535 pixels.
MAX_JPEG_SIDE = 65_500
_Prepared = tuple[Tensor, Frame, Array | None]


def predict(
    model: Any,
    postprocess: Postprocess,
    source: Source | Sources,
    *,
    names: Sequence[str],
    imgsz: int,
    device: torch.device,
    conf: float | None = None,
    iou: float | None = None,
    classes: Sequence[int | str] | None = None,
    max_dets: int | None = None,
    batch: int = 1,
    keep_images: bool = False,
    precision: str = "fp32",
    report_skipped: bool = True,
) -> Iterator[Detections]:
    """Detections of each image or frame in order, boxes in its own pixels, computed `batch` at a time when asked for.

    model: as it shall run (deployed, on `device`); put into evaluation mode. names: class names by label.
    imgsz: side of the network's input, px, a multiple of `model.stride`. conf, iou (thresholds in 0..1),
    max_dets: where not given the detector's own, else THRESHOLDS.
    classes: only these, by label or name. keep_images: detections carry their image, to be drawn on.
    precision: auto|fp32|bf16|fp16; half precision rounds scores to 3 digits, which ties ranks.
    What cannot be read is skipped, with a counted warning at the end if report_skipped.
    Raises InputError at once for sources and options that cannot be used, at the end if nothing could be read.
    """
    limits = (postprocess.thresholds or THRESHOLDS).replaced(conf, iou, max_dets)
    _check(conf=limits.conf, iou=limits.iou, max_dets=limits.max_dets, batch=batch)
    check_side(imgsz, model.stride)
    wanted = None if classes is None else class_labels(classes, names)
    sources = source if isinstance(source, Sources) else Sources(source)
    half = half_dtype(precision, device)
    model.eval()

    def prepare(item: SourceImage) -> _Prepared:
        # Writable for torch, channels last in memory for a fast resize.
        pixels = torch.from_numpy(np.require(item.image, requirements=["C", "W"])).permute(2, 0, 1)
        canvas, scale, offset = letterbox(pixels, imgsz)
        height, width = item.image.shape[:2]
        return canvas, Frame(item.name, (height, width), scale, offset), item.image if keep_images else None

    def detect(items: list[_Prepared]) -> Iterator[Detections]:
        canvases, frames, images = zip(*items, strict=True)
        inputs = Batch(torch.stack(canvases), [Targets.empty() for _ in items], list(frames)).to(device)
        with torch.no_grad(), torch.autocast(device.type, half) if half else nullcontext():
            predictions = model(network_input(inputs))
            selections = postprocess(
                predictions, conf=limits.conf, iou=limits.iou, max_dets=limits.max_dets, classes=wanted
            )
        for found, frame, image in zip(selections, frames, images, strict=True):
            boxes = frame.to_original(found.boxes.float()).cpu()
            yield Detections(boxes, found.scores.cpu(), found.labels.cpu(), names, frame.source, frame.size, image)

    def run() -> Generator[Detections, None, None]:
        with closing(sources.map(prepare)) as prepared:
            waiting: list[_Prepared] = []
            for item in prepared:
                waiting.append(item)
                if len(waiting) == batch:
                    yield from detect(waiting)
                    waiting = []
            if waiting:
                yield from detect(waiting)
        if report_skipped:
            sources.skips.report()

    return run()


def class_labels(classes: Sequence[int | str], names: Sequence[str]) -> list[int]:
    """Labels of classes given by label or name. Raises InputError for one that the model does not have."""
    labels = []
    for wanted in classes:
        text = str(wanted)
        if text in names:
            labels.append(list(names).index(text))
        elif text.isdecimal() and int(text) < len(names):
            labels.append(int(text))
        else:
            raise InputError(f"classes: unknown class {text!r}; {nearest(text, names)}; or 0 to {len(names) - 1}")
    if not labels:
        raise InputError(f"classes: none given; {nearest('', names)}")
    return labels


def _check(*, conf: float, iou: float, max_dets: int, batch: int) -> None:
    for option, share in (("conf", conf), ("iou", iou)):
        if not 0 <= share <= 1:
            raise InputError(f"{option}: must be from 0 to 1, got {share}")
    for option, number in (("max_dets", max_dets), ("batch", batch)):
        if number < 1:
            raise InputError(f"{option}: must be at least 1, got {number}")


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
        if self.out.exists():
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
