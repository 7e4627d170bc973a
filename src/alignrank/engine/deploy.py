"""Using trained weights: predictions into a folder, and export."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from alignrank.contracts import Detections, Postprocess
from alignrank.detectors import DETECTORS, deployed
from alignrank.engine import checkpoint
from alignrank.engine.device import choose_device
from alignrank.engine.folders import new_file, new_run_folder
from alignrank.engine.predict import class_labels, predict, write_results
from alignrank.engine.progress import say
from alignrank.engine.skipped import say_processed
from alignrank.engine.sources import Source, Sources
from alignrank.errors import InputError, nearest
from alignrank.nn.pan import split_top_down

FORMATS = ("onnx",)


@dataclass(slots=True)
class Deployed:
    """A network ready to run on `device`, and all that its outputs need to be understood."""

    network: Any
    postprocess: Postprocess
    classes: tuple[str, ...]
    imgsz: int
    recipe: str
    device: torch.device

    def detect(self, source: Source | Sources, *, imgsz: int | None = None, **options: Any) -> Iterator[Detections]:
        """`predict` with this network, at the size it was trained for unless `imgsz` is given; options are its own."""
        return predict(
            self.network,
            self.postprocess,
            source,
            names=self.classes,
            imgsz=self.imgsz if imgsz is None else imgsz,
            device=self.device,
            **options,
        )


def deploy(
    weights: Path | checkpoint.Checkpoint, device: str | torch.device = "auto", *, nms: bool = False
) -> Deployed:
    """Load weights for inference: unused head dropped, norms folded. Raises InputError for unusable files.

    nms: the one-to-many output and NMS, also where there is an NMS-free output.
    """
    chosen = choose_device(device) if isinstance(device, str) else device
    loaded = weights if isinstance(weights, checkpoint.Checkpoint) else checkpoint.load(weights)
    if nms:
        loaded = loaded.with_nms()
    network = split_top_down(deployed(loaded.build_model())).to(chosen).to(memory_format=torch.channels_last)
    recipe = loaded.recipe
    postprocess = DETECTORS[recipe.detector].postprocess(recipe.architecture)
    return Deployed(network, postprocess, loaded.classes, recipe.train.imgsz, recipe.name, chosen)


def predict_to_folder(
    sources: Sequence[str],
    weights: Path,
    *,
    conf: float | None,
    iou: float | None,
    classes: str | None,
    max_dets: int | None,
    imgsz: int | None,
    batch: int,
    device: str,
    out: str | None,
    pictures: bool,
    collect: bool,
    nms: bool = False,
) -> dict[str, Any]:
    """Detect in everything `sources` name and write the results to a new folder.

    classes: names or labels separated by commas. Returns {images, processed, skipped}; the detections of
    `images` only if `collect`, else the memory is constant.
    """
    folder = new_run_folder(out, "predict")
    detector = deploy(weights, device, nms=nms)
    wanted = None if classes is None else class_labels([c.strip() for c in classes.split(",")], detector.classes)
    opened = Sources(list(sources))
    found = detector.detect(
        opened,
        imgsz=imgsz,
        conf=conf,
        iou=iou,
        classes=wanted,
        max_dets=max_dets,
        batch=batch,
        keep_images=pictures,
        report_skipped=False,
    )
    images: list[dict[str, Any]] = []

    def collected() -> Iterator[Detections]:
        for detections in found:
            if collect:
                images.append(detections.to_dict())
            yield detections

    written = write_results(collected(), folder, pictures=pictures, total=opened.count)
    say(f"results are in {written.out}")
    say_processed(written.images, written.objects, opened.skips.items)
    return {"images": images, "processed": written.images, "skipped": {"image": 0} | opened.skips.counts}


def export_weights(
    weights: Path, format: str, *, imgsz: int | None = None, out: str | Path | None = None, nms: bool = False
) -> Path:
    """Write weights in another format, beside them or to `out`, after comparing the two. Returns the path."""
    from alignrank.engine.export import export_onnx

    if format not in FORMATS:
        raise InputError(f"format: {format!r} is not supported; {nearest(format, FORMATS)}")
    detector = deploy(weights, "cpu", nms=nms)
    path = new_file(out if out is not None else checkpoint.weights_file(weights).with_suffix(".onnx"), "out")
    return export_onnx(
        detector.network,
        detector.postprocess,
        path,
        imgsz=detector.imgsz if imgsz is None else imgsz,
        names=detector.classes,
        recipe=detector.recipe,
    )
