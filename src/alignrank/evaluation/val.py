"""Evaluating saved weights on a split, with the files and pictures people look at."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch

from alignrank.contracts import Batch
from alignrank.data.decode import decode
from alignrank.data.loader import EvaluationSet, evaluation_loader
from alignrank.data.opening import check_classes, open_split, opened
from alignrank.data.samples import Split, spread
from alignrank.detectors import DETECTORS
from alignrank.device import choose_device
from alignrank.evaluation.options import ValOptions
from alignrank.evaluation.oracle import Correction, correction
from alignrank.evaluation.rank_report import report_content
from alignrank.evaluation.tiled import validate_tiled
from alignrank.evaluation.validate import Validation, validate
from alignrank.export.runtimes import open_exported, refuse_options
from alignrank.folders import make_folder, new_run_folder
from alignrank.metrics import Metrics, confusion_matrix, operating_curves
from alignrank.metrics.inputs import Id
from alignrank.report import curves, pictures
from alignrank.report.html import write_html
from alignrank.terminal.progress import counted, say, steps
from alignrank.weights import checkpoint
from alignrank.weights.catalog import is_exported
from alignrank.weights.checkpoint import Checkpoint
from alignrank.weights.deployed import Deployed, deploy
from alignrank.weights.recipe import Recipe
from alignrank.weights.untrained import untrained

NUM_PICTURES = 8
# Confidence of boxes in pictures and in the confusion matrix: what `predict` shows.
SHOWN_CONF = 0.25
REPORT = "report.html"


def val_to_folder(
    weights: Path | Checkpoint | Recipe,
    data: str,
    options: ValOptions,
    *,
    split: str = "val",
    out: str | Path | None = None,
    device: str = "auto",
) -> Metrics:
    """Evaluate weights on one split of a data set; plots and results in the new folder `out`, if given.

    weights: of a recipe, random ones.
    """
    with nullcontext() if out is None else new_run_folder(out, "val") as folder:
        chosen = choose_device(device)
        opened_split = open_split(data, split)
        result = val(weights, opened_split, options, device=chosen)
        if folder is not None:
            try:
                write_evaluation(result, opened_split, folder)
            except BaseException:
                say(f"{folder}: holds a part of the results only")
                raise
            say(f"results, plots and pictures are in {folder}")
    return result.metrics


def val(weights: Path | Checkpoint | Recipe, split: Split, options: ValOptions, *, device: torch.device) -> Validation:
    """Evaluate weights (of a recipe, random ones; also an exported file), as deployed, on `split`.

    Raises InputError where the two do not belong together.
    """
    if isinstance(weights, Path) and is_exported(weights):
        exported = open_exported(weights, device)
        refuse_options(weights, options.selection, oracle=options.oracle)
        check_classes(exported.path, exported.classes, split)
        return _validated(exported, split, options)
    if isinstance(weights, Recipe):
        loaded = untrained(weights.for_classes(len(split.classes)), split.classes)
    else:
        loaded = weights if isinstance(weights, Checkpoint) else checkpoint.load(weights)
    check_classes(loaded.path, loaded.classes, split)
    correct = None
    if options.oracle:
        recipe = options.selection.of(loaded).recipe.without_pretrained()
        correct = correction(options.oracle, DETECTORS[recipe.detector].criterion(recipe.architecture))
    return _validated(deploy(loaded, device, selection=options.selection), split, options, correct)


def _validated(detector: Deployed, split: Split, options: ValOptions, correct: Correction | None = None) -> Validation:
    detector = detector.resized(options.imgsz, options.rect)
    if options.tiling is not None:
        return validate_tiled(detector, split, options, options.tiling)
    with batches_of(split, detector, options.batch) as batches:
        return validate(detector.network, detector.postprocess, batches, split, options, correct=correct)


@contextmanager
def batches_of(split: Split, detector: Deployed, batch: int) -> Iterator[Iterable[Batch]]:
    """The images of a split as the detector takes them, on its device; progress is shown until the block ends."""
    loader = evaluation_loader(EvaluationSet(opened(split, detector.size)), batch, workers=0)
    with steps("evaluating", len(loader)) as advance:
        yield counted((batch.to(detector.device) for batch in loader), advance)


def write_evaluation(result: Validation, split: Split, out: Path) -> None:
    """Into `out`: metrics.json, detections.json (COCO results), the rank report, plots, and a sheet of pictures."""
    make_folder(out, "out")
    with steps("writing results, plots and pictures", None):
        _write_evaluation(result, split, out)


def _write_evaluation(result: Validation, split: Split, out: Path) -> None:
    (out / "metrics.json").write_text(json.dumps(result.metrics.to_dict(), indent=1) + "\n", encoding="utf-8")
    (out / "detections.json").write_text(json.dumps(result.results), encoding="utf-8")
    inputs = result.diagnosis.inputs
    points = operating_curves(inputs)
    names = [str(name) for name in split.classes]
    curves.plot_precision_recall(points.recalls, points.precision_at_recall, names, out / "precision_recall.png")
    curves.plot_f1(points.thresholds, points.precision, points.recall, points.f1, names, out / "f1.png")
    curves.plot_confusion(confusion_matrix(inputs, conf=SHOWN_CONF), names, out / "confusion.png")
    _write_comparison(result.results, split, out / "val_predictions.jpg")
    path_of: dict[Id, Path] = {sample.image_id: sample.image for sample in split.samples}
    files = [path_of.get(image_id) for image_id in inputs.image_ids]
    content = report_content({out.name: result.diagnosis}, title=f"Rank report: {out.name}", images=files)
    write_html(content, out / REPORT)


def _write_comparison(results: list[dict[str, Any]], split: Split, path: Path) -> None:
    """Ground truth beside predictions for images spread over the split."""
    found = defaultdict(list)
    label_of = {category: label for label, category in enumerate(split.category_ids)}
    for row in results:
        if row["score"] >= SHOWN_CONF:
            x, y, w, h = row["bbox"]
            found[row["image_id"]].append(((x, y, x + w, y + h), row["score"], label_of[row["category_id"]]))
    samples = spread(split, NUM_PICTURES)
    detections = []
    for sample in samples:
        rows = found[sample.image_id]
        boxes = np.array([row[0] for row in rows], dtype=np.float32).reshape(-1, 4)
        detections.append((boxes, np.array([row[1] for row in rows]), np.array([row[2] for row in rows], dtype=int)))
    pictures.compare_sheet(
        [decode(sample.image) for sample in samples],
        [(sample.boxes, sample.labels) for sample in samples],
        detections,
        split.classes,
        path,
        captions=[sample.image.name for sample in samples],
        tile=480,
    )
