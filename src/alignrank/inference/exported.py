"""`export` with its parity gate: images through the network and through the file, before the file gets its name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from alignrank.boxes import xyxy_to_xywh
from alignrank.contracts import USUAL_THRESHOLDS, Batch, Frame, Selection, Targets, Thresholds
from alignrank.data.letterbox import letterbox
from alignrank.data.loader import EvaluationSet, evaluation_loader
from alignrank.data.opening import check_classes, open_split, opened
from alignrank.data.samples import Array, Split, spread
from alignrank.detectors import predictions_of
from alignrank.errors import ExportError, InputError
from alignrank.export.first_difference import located
from alignrank.export.formats import Format, export_weights, format_of
from alignrank.export.graph import Subject
from alignrank.export.options import PLAIN, ExportOptions
from alignrank.export.parity import TOLERANCES, Parity, Tolerance, write_record
from alignrank.export.runtimes import ExportedFile, open_exported
from alignrank.inference.drawn_scenes import drawn_scene
from alignrank.input_size import InputSize
from alignrank.metrics import average_precision, read_inputs
from alignrank.terminal.progress import say, steps, warn
from alignrank.weights.checkpoint import Checkpoint
from alignrank.weights.deployed import Deployed, SelectionOptions, deploy

# Of the data, spread over the split; and drawn ones where there is none.
NUM_IMAGES, NUM_DRAWN = 32, 8
BATCH = 4
# Of scores: a network that has learned nothing has none above a thousandth, and is compared, too.
LOWEST = 0.0


@dataclass(frozen=True, slots=True)
class Samples:
    """What the gate looks at. data: a data set, None for drawn scenes; split: of it. off: not at all."""

    data: str | None = None
    split: str = "val"
    off: bool = False


def export_checked(
    weights: Path | Checkpoint,
    format: str,
    *,
    options: ExportOptions = PLAIN,
    selection: SelectionOptions | None = None,
    out: str | Path | None = None,
    samples: Samples = Samples(),
) -> Path:
    """Export, compare on images, write the comparison beside the file, as FILE.parity.json. Returns the path.

    Raises InputError for what cannot be used, ExportError where the file says other things; of ONNX files it tells
    where that begins. The file is not left then, the comparison is.
    """
    row = format_of(format, options)
    if options.int8 and samples.data is None:
        raise InputError("int8: needs images like those that it will see, for the ranges of activations; give --data")
    split = None if samples.data is None else _few(open_split(samples.data, samples.split))
    made: list[tuple[Parity, dict[str, object]]] = []

    def check(loaded: Checkpoint, subject: Subject, path: Path, last: bool) -> None:
        if samples.off:
            return
        if not row.runs:
            warn(f"{row.name}: is converted and not run: only Apple's machines can, so it was not compared")
            return
        if split is not None:
            check_classes(loaded.path, loaded.classes, split)
        exported, tolerance = open_exported(path), TOLERANCES[options.precision]
        parity = compared(deploy(loaded, "cpu"), exported, split, tolerance)
        about: dict[str, object] = {"format": row.name, "recipe": loaded.recipe.name, "precision": options.precision}
        about |= {"imgsz": exported.size.imgsz, "tolerance": asdict(tolerance), "data": samples.data or "drawn"}
        try:
            parity.check(tolerance, row.name)
        except ExportError as error:
            if not last:  # to say where it differs takes as long as to export
                raise
            raise _located(error, row, subject, path, _two(split, exported.size), about | parity.to_dict()) from None
        made.append((parity, about))

    def calibration(size: InputSize) -> list[Array]:
        assert samples.data is not None
        few = _few(_training_split(samples.data, samples.split))
        with steps("reading images for ranges", None):
            return [image for batch in _batches(few, size) for image in np.split(_pixels(batch), len(batch.images))]

    path = export_weights(
        weights, format, options=options, selection=selection, out=out, calibration=calibration, check=check
    )
    for parity, about in made:
        write_record(path, {"passed": True, **about, **parity.to_dict()})
        say(in_words(parity))
    return path


def _located(
    error: ExportError, row: Format, subject: Subject, path: Path, images: torch.Tensor, figures: dict[str, object]
) -> ExportError:
    """The error with where the file begins to differ, if its format can tell, and with the figures for its record."""
    if hasattr(row.module, "first_difference_in"):
        found = row.module.first_difference_in(path, subject, images)
        error = located(str(error), found, precision=subject.options.precision)
    error.record |= figures
    return error


def in_words(parity: Parity) -> str:
    """One line."""
    ap = "" if parity.ap is None else f"; AP {parity.ap_exported:.4f}, of the weights {parity.ap:.4f}"
    return (
        f"compared {parity.detections} detections on {parity.images} images: boxes differ by up to "
        f"{parity.box_difference:.2g} px, scores by up to {parity.score_difference:.2g}; {parity.inversions} of "
        f"{parity.pairs} pairs change their order{ap}"
    )


@torch.inference_mode()
def compared(detector: Deployed, exported: ExportedFile, split: Split | None, tolerance: Tolerance) -> Parity:
    """Both on the same inputs, which are the file's: of the split's images, or of drawn ones."""
    limits = detector.postprocess.thresholds or USUAL_THRESHOLDS
    limits = replace(limits, conf=LOWEST, max_dets=min(limits.max_dets, exported.network.about.most))
    parity = Parity()
    results: tuple[list[dict[str, Any]], list[dict[str, Any]]] = ([], [])
    with steps("comparing the exported file", None):
        for batch in _drawn(exported.size) if split is None else _batches(split, exported.size):
            (ours, candidates), (theirs, _) = (_detections(of, batch, limits) for of in (detector, exported))
            for expected, actual, among, frame in zip(ours, theirs, candidates, batch.frames, strict=True):
                parity.add(expected, actual, tolerance, limits, among, ends=exported.network.about.suppresses)
                if split is not None:
                    for rows, selection in zip(results, (expected, actual), strict=True):
                        rows += _coco_rows(selection, frame.image_id, split)
    if split is not None and split.num_boxes:
        parity.ap, parity.ap_exported = (_ap(rows, split) for rows in results)
    return parity


def _detections(detector: Deployed, batch: Batch, limits: Thresholds) -> tuple[list[Selection], list[Selection]]:
    """Detections of each image, and what they were selected from; boxes in pixels of the pictures."""
    predictions = predictions_of(detector.network, batch.network_input(), batch)
    found = detector.postprocess(predictions, conf=limits.conf, iou=limits.iou, max_dets=limits.max_dets)
    among = detector.postprocess.candidates(predictions, conf=limits.conf)
    moved, moved_among = (
        [replace(one, boxes=frame.to_original(one.boxes)) for one, frame in zip(some, batch.frames, strict=True)]
        for some in (found, among)
    )
    return moved, moved_among


def _coco_rows(selection: Selection, image_id: int, split: Split) -> list[dict[str, Any]]:
    boxes, scores, labels = xyxy_to_xywh(selection.boxes).tolist(), selection.scores.tolist(), selection.labels.tolist()
    return [
        {"image_id": image_id, "category_id": split.category_ids[label], "bbox": box, "score": score}
        for box, score, label in zip(boxes, scores, labels, strict=True)
    ]


def _ap(rows: list[dict[str, Any]], split: Split) -> float | None:
    return average_precision(read_inputs(split.to_coco(), rows)).figures()["ap"]


def _training_split(data: str, otherwise: str) -> Split:
    """Of the data set, for what must not look at the images that are compared; of one without it the other split."""
    try:
        return open_split(data, "train")
    except InputError:
        return open_split(data, otherwise)


def _pixels(batch: Batch) -> Array:
    """[B,3,H,W] float32 0..1."""
    pixels: Array = batch.network_input(torch.contiguous_format).numpy()
    return pixels


def _few(split: Split) -> Split:
    return replace(split, samples=spread(split, NUM_IMAGES))


def _batches(split: Split, size: InputSize) -> Iterable[Batch]:
    return evaluation_loader(EvaluationSet(opened(split, size)), BATCH, workers=0)


def _two(split: Split | None, size: InputSize) -> torch.Tensor:
    """Two of the images that are compared, or one twice, as the network takes them."""
    first = next(iter(_drawn(size) if split is None else _batches(split, size))).network_input()
    return torch.cat([first, first])[:2]


def _drawn(size: InputSize) -> Iterator[Batch]:
    """Drawn scenes, wide and tall in turn, the same every time."""
    rng = np.random.default_rng(0)
    for i in range(NUM_DRAWN):
        height, width = (480, 640) if i % 2 else (640, 427)
        picture = torch.from_numpy(drawn_scene(rng, height, width)).permute(2, 0, 1)
        canvas, scale, offset = letterbox(picture, size)
        yield Batch(canvas[None], [Targets.empty()], [Frame(f"drawn {i}", (height, width), scale, offset)])
