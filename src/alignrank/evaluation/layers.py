"""What each decoder layer of a trained detection transformer says, and what the whole costs.

Source: Pu et al., Rank-DETR, NeurIPS 2023: figures 2 to 5 and table 6.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from alignrank.contracts import Batch, Postprocess
from alignrank.data.decode import decode
from alignrank.data.opening import check_classes, open_split
from alignrank.data.samples import Sample, Split, spread
from alignrank.device import choose_device
from alignrank.errors import InputError
from alignrank.evaluation.cost import cost
from alignrank.evaluation.options import LayerOptions, ValOptions
from alignrank.evaluation.rank_report import detector_figures
from alignrank.evaluation.val import SHOWN_CONF, batches_of
from alignrank.evaluation.validate import Gathered, limits_of
from alignrank.folders import new_run_folder
from alignrank.metrics import CocoInputs, Diagnosis, read_inputs
from alignrank.report import layer_curves, pictures
from alignrank.report.content import DetectorFigures
from alignrank.terminal.progress import say, steps
from alignrank.weights import checkpoint
from alignrank.weights.checkpoint import Checkpoint
from alignrank.weights.deployed import deploy

# Boxes of a layer in a picture at most, the best; more would hide it.
MOST_SHOWN = 20


@dataclass(frozen=True, slots=True)
class Layer:
    """Figures and curves of what a layer says; for each picture its boxes [N,4] xyxy, scores [N] and labels [N]."""

    figures: DetectorFigures
    num_detections: int
    shown: list[pictures.ScoredObjects]

    def to_dict(self, number: int) -> dict[str, Any]:
        """For JSON; number: 1 for the first."""
        of = self.figures
        return {
            "layer": number,
            "detections": self.num_detections,
            "metrics": of.metrics,
            "density": {
                "edges": of.density_edges.tolist(),
                "matched": of.matched_density.tolist(),
                "unmatched": of.unmatched_density.tolist(),
            },
            "unmatched_iou": {"iou": of.unmatched_iou.tolist(), "share": of.unmatched_share.tolist()},
        }


def layers_to_folder(
    weights: Path | Checkpoint,
    data: str,
    options: LayerOptions,
    *,
    split: str = "val",
    out: str | Path | None = None,
    device: str = "auto",
) -> dict[str, Any]:
    """Evaluate every decoder layer on one split of a data set, and measure the network; returns what is in layers.json.

    Plots, pictures and layers.json are in the new folder `out`, else runs/layers. Raises InputError for weights of a
    detector without decoder layers.
    """
    loaded = weights if isinstance(weights, Checkpoint) else checkpoint.load(weights)
    chosen = choose_device(device)
    detector = deploy(loaded, chosen).resized(None)
    # Of the class: a network may hold a part of that name.
    if not callable(getattr(type(detector.network), "layers", None)):
        raise InputError(f"{loaded.path}: {loaded.recipe.name} has no decoder layers; use weights of a transformer")
    with new_run_folder(out, "layers") as folder:
        of_data = open_split(data, split)
        check_classes(loaded.path, loaded.classes, of_data)
        with batches_of(of_data, detector, options.batch) as batches:
            gathered = gather_layers(detector.network, detector.postprocess, batches)
        samples = spread(of_data, options.images)
        layers = _measured(gathered, of_data, samples, loaded.path)
        result: dict[str, Any] = {"weights": str(loaded.path), "data": data, "split": split, "num_images": len(of_data)}
        result["cost"] = cost(loaded, detector)
        try:
            with steps("writing results, plots and pictures", None):
                result |= _write(layers, of_data, samples, folder)
                text = json.dumps(result, indent=1)
                (folder / "layers.json").write_text(text + "\n", encoding="utf-8")
        except BaseException:
            say(f"{folder}: holds a part of the results only")
            raise
        say(f"results, plots and pictures are in {folder}")
    return {"out": str(folder), **result}


@torch.inference_mode()
def gather_layers(network: Any, postprocess: Postprocess, batches: Iterable[Batch]) -> list[Gathered]:
    """What each decoder layer detects, first to last, with the thresholds that `val` uses."""
    limits = limits_of(postprocess, ValOptions())
    gathered: list[Gathered] = []
    for batch in batches:
        said = network.layers(batch.network_input(), batch.sizes())
        gathered = gathered or [Gathered() for _ in said]
        for found, predictions in zip(gathered, said, strict=True):
            selections = postprocess(predictions, conf=limits.conf, iou=limits.iou, max_dets=limits.max_dets)
            found.add(selections, batch.frames)
    return gathered


def _measured(gathered: Iterable[Gathered], split: Split, samples: Sequence[Sample], weights: Path) -> list[Layer]:
    truth = read_inputs(split.to_coco(), [])
    layers = []
    for number, found in enumerate(gathered, start=1):
        inputs = found.inputs(truth, split)
        if not np.isfinite(inputs.dt_boxes).all():
            raise InputError(f"{weights}: boxes of layer {number} are not numbers; these weights are of no use")
        figures = detector_figures(f"layer {number}", Diagnosis(inputs, max_dets=ValOptions().coco_max_dets))
        shown = [_shown(inputs, split, sample) for sample in samples]
        layers.append(Layer(figures, len(inputs.dt_scores), shown))
    return layers


def _shown(inputs: CocoInputs, split: Split, sample: Sample) -> pictures.ScoredObjects:
    """The best detections of an image."""
    label_of = [split.category_ids.index(category) for category in inputs.category_ids]
    rows = np.flatnonzero(
        (inputs.dt_image == inputs.image_ids.index(sample.image_id)) & (inputs.dt_scores >= SHOWN_CONF)
    )
    rows = rows[np.argsort(-inputs.dt_scores[rows], kind="stable")][:MOST_SHOWN]
    corners, sides = inputs.dt_boxes[rows, :2], inputs.dt_boxes[rows, 2:]
    labels = np.array(label_of, dtype=np.int64)[inputs.dt_category[rows]]
    return np.concatenate([corners, corners + sides], 1), inputs.dt_scores[rows], labels


def _write(layers: Sequence[Layer], split: Split, samples: Sequence[Sample], folder: Path) -> dict[str, Any]:
    """Plots and pictures; what JSON says of them."""
    figures = [layer.figures for layer in layers]
    layer_curves.plot_densities(figures, folder / "densities.png")
    layer_curves.plot_unmatched(figures, folder / "unmatched_iou.png")
    layer_curves.plot_precision_recall(figures[-1], folder / "precision_recall.png")
    drawn = []
    for i, sample in enumerate(samples):
        path = folder / "pictures" / f"{i + 1}.jpg"
        pictures.layers_sheet(
            decode(sample.image),
            (sample.boxes, sample.labels),
            [layer.shown[i] for layer in layers],
            split.classes,
            path,
            title=sample.image.name,
        )
        drawn.append({"file": str(path.relative_to(folder)), "image": str(sample.image)})
    last = figures[-1]
    curves = {f"{iou:.2f}": [_number(value) for value in curve] for iou, curve in last.precision.items()}
    return {
        "layers": [layer.to_dict(number) for number, layer in enumerate(layers, start=1)],
        "precision_recall": {"recall": last.recalls.tolist(), "precision": curves},
        "pictures": drawn,
    }


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
