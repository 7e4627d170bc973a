"""Evaluating saved weights on a split, with the files and pictures people look at."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from alignrank.data.decode import decode
from alignrank.data.loader import EvaluationSet, Images, TrainingSet, evaluation_loader
from alignrank.data.samples import Split
from alignrank.detectors import DETECTORS
from alignrank.drawing import draw_boxes
from alignrank.engine import checkpoint
from alignrank.engine.deploy import deploy
from alignrank.engine.folders import make_folder
from alignrank.engine.images import opened
from alignrank.engine.progress import steps
from alignrank.engine.rank_report import report_content
from alignrank.engine.recipe import Recipe
from alignrank.engine.validate import Validation, validate
from alignrank.errors import InputError
from alignrank.metrics import Metrics, confusion_matrix, operating_curves
from alignrank.metrics.inputs import Id
from alignrank.report import curves, pictures
from alignrank.report.html import write_html

NUM_PICTURES = 8
# Confidence of boxes in pictures and in the confusion matrix: what `predict` shows.
SHOWN_CONF = 0.25
REPORT = "report.html"


def evaluate_weights(
    weights: Path,
    split: Split,
    *,
    out: Path | None,
    device: torch.device,
    imgsz: int | None = None,
    batch: int = 16,
    conf: float | None = None,
    iou: float | None = None,
    max_dets: int | None = None,
    coco_max_dets: int = 100,
    nms: bool = False,
    oracle: str = "",
) -> Metrics:
    """The metrics of saved weights on `split`; with `out`, also its results, curves and pictures there.

    nms: of the one-to-many output, see `deploy`. oracle: a part to replace by ground truth, see `engine.oracle`.

    Raises InputError where weights and data do not belong together.
    """
    loaded = checkpoint.load(weights)
    if loaded.classes != split.classes:
        raise InputError(
            f"{weights}: was trained for the classes {', '.join(loaded.classes)[:200]}; "
            f"{split.source} has {', '.join(split.classes)[:200]}"
        )
    if nms:
        loaded = loaded.with_nms()
    correct = None
    if oracle:
        from alignrank.engine.oracle import correction  # knows losses, which plain evaluation does not need

        recipe = loaded.recipe.without_pretrained()
        correct = correction(oracle, DETECTORS[recipe.detector].build(recipe.architecture).criterion)
    detector = deploy(loaded, device)
    images = opened(split, detector.imgsz if imgsz is None else imgsz)
    loader = evaluation_loader(EvaluationSet(images), batch, workers=0)
    with steps("evaluating", len(loader)) as advance:
        result = validate(
            detector.network,
            detector.postprocess,
            loader,
            split,
            device=device,
            conf=conf,
            iou=iou,
            max_dets=max_dets,
            coco_max_dets=coco_max_dets,
            keep_candidates=True,
            correct=correct,
            advance=advance,
        )
    if out is not None:
        write_evaluation(result, split, out)
    return result.metrics


def write_evaluation(result: Validation, split: Split, out: Path) -> None:
    """Into `out`: metrics.json, detections.json (COCO results), the rank report, plots, and a sheet of pictures."""
    make_folder(out, "out")
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
    chosen = np.unique(np.linspace(0, len(split) - 1, NUM_PICTURES).round().astype(int))
    samples = [split.samples[i] for i in chosen.tolist()]
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


def write_training_sheet(split: Split, recipe: Recipe, path: Path, *, count: int = 16, augmented: bool = True) -> None:
    """A sheet of samples with their boxes, as augmented for training in the first epoch, or plain."""
    images = Images(split, recipe.train.imgsz)
    chosen = np.random.default_rng(recipe.train.seed).permutation(len(split))[:count].tolist()
    tiles, captions = [], []
    training = TrainingSet(images, recipe.augment, seed=recipe.train.seed, epochs=recipe.augment.plain_epochs + 1)
    plain = EvaluationSet(images)
    for index in chosen:
        pixels, targets, frame = training[0, index] if augmented else plain[index]
        image = pixels.permute(1, 2, 0).numpy()
        tiles.append(draw_boxes(image, targets.boxes.numpy(), targets.labels.numpy(), split.classes))
        captions.append(f"{Path(frame.source).name}: {len(targets.labels)} objects")
    pictures.sheet(tiles, path, captions=captions, tile=400)
