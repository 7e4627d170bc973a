"""`export`: weights in another format."""

from __future__ import annotations

from pathlib import Path

from alignrank.errors import InputError, nearest
from alignrank.export.onnx import export_onnx
from alignrank.folders import new_file
from alignrank.input_size import ImageSize
from alignrank.weights.catalog import weights_file
from alignrank.weights.deployed import deploy

FORMATS = ("onnx",)


def export_weights(
    weights: Path, format: str, *, imgsz: ImageSize | None = None, out: str | Path | None = None, nms: bool = False
) -> Path:
    """Write weights in another format, beside them or to `out`, after comparing the two. Returns the path."""
    if format not in FORMATS:
        raise InputError(f"format: {format!r} is not supported; {nearest(format, FORMATS)}")
    detector = deploy(weights, "cpu", nms=nms).resized(imgsz)
    path = new_file(out if out is not None else weights_file(weights).with_suffix(".onnx"), "out")
    return export_onnx(
        detector.network,
        detector.postprocess,
        path,
        imgsz=detector.size.imgsz,
        names=detector.classes,
        recipe=detector.recipe,
    )
