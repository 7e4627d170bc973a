"""`export`: weights in another format."""

from __future__ import annotations

from pathlib import Path

from alignrank.errors import InputError, nearest
from alignrank.export.onnx import export_onnx
from alignrank.folders import new_file
from alignrank.input_size import ImageSize
from alignrank.weights import checkpoint
from alignrank.weights.catalog import is_recipe
from alignrank.weights.checkpoint import Checkpoint
from alignrank.weights.deployed import SelectionOptions, deploy
from alignrank.weights.untrained import of_recipe

FORMATS = ("onnx",)


def export_weights(
    weights: Path | Checkpoint,
    format: str,
    *,
    imgsz: ImageSize | None = None,
    out: str | Path | None = None,
    selection: SelectionOptions | None = None,
) -> Path:
    """Write weights in another format, beside them or to `out`, after comparing the two. Returns the path.

    weights: also the name of a recipe, for random ones; they go to RECIPE.onnx in the working folder.
    """
    if selection is not None and selection.tta:
        raise InputError("tta: is of predict and val; an exported file sees one image")
    if format not in FORMATS:
        raise InputError(f"format: {format!r} is not supported; {nearest(format, FORMATS)}")
    if isinstance(weights, Path):
        weights = of_recipe(str(weights)) if is_recipe(weights) else checkpoint.load(weights)
    detector = deploy(weights, "cpu", selection=selection).resized(imgsz)
    beside = (
        weights.path.with_suffix(".onnx") if weights.path.is_file() else Path(f"{Path(weights.recipe.name).name}.onnx")
    )
    return export_onnx(
        detector.network,
        detector.postprocess,
        new_file(out if out is not None else beside, "out"),
        imgsz=detector.size,
        names=detector.classes,
        recipe=detector.recipe,
    )
