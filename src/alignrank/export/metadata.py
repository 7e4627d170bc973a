"""What an exported file says of itself: how a picture becomes its input, and what its outputs mean (docs/deploy.md)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from alignrank.contracts import USUAL_THRESHOLDS, Postprocess
from alignrank.detectors.masked_nms import MaskedNms
from alignrank.detectors.postprocess import MAX_CANDIDATES, NonMaximumSuppression
from alignrank.input_size import GREY, InputSize, Sides, Size
from alignrank.version import __version__

ROUNDING: dict[Sides, str] = {
    "nearest": "nearest, halves to even, at least 1",
    "floor": "down, at least 1",
    "detr": "the shorter side to the nearest, the longer one down, at least 1",
    "stretch": "none, every picture is of longer x shorter px",
}


@dataclass(frozen=True, slots=True)
class Shapes:
    """canvas: (height, width) of the input; stride: of the network; outputs: shapes by name, without the batch;
    level_points: points of each pyramid level, in order, empty where the network does not tell. dynamic: any height and
    width that suit the stride, `canvas` is an example. one_image: a batch of one alone. within: NMS in the graph.
    """

    canvas: Size
    stride: int
    outputs: dict[str, list[int]]
    level_points: Sequence[int]
    dynamic: bool = False
    one_image: bool = False
    within: MaskedNms | None = None


def metadata(
    shapes: Shapes, postprocess: Postprocess, *, size: InputSize, names: Sequence[str], recipe: str
) -> dict[str, str]:
    """By key, as ONNX holds it: text, JSON but for `recipe` and `version`."""
    nms = None
    if isinstance(postprocess, NonMaximumSuppression) and shapes.within is None:
        nms = _nms(postprocess, shapes.level_points)
    return {
        "names": json.dumps(list(names)),
        "imgsz": json.dumps(size.imgsz),
        "recipe": recipe,
        "nms_free": json.dumps(nms is None),
        "version": __version__,
        "preprocessing": json.dumps(_preprocessing(shapes, size)),
        "output": json.dumps(_output(shapes, postprocess, nms)),
    }


def _preprocessing(shapes: Shapes, size: InputSize) -> dict[str, Any]:
    fit = size.fit
    place = "upper left corner" if fit.corner else "centre, an odd pixel more at the right and bottom"
    return {
        "input": "images",
        "size": list(shapes.canvas),
        "stride": shapes.stride,
        "rect": shapes.dynamic,
        "batch": 1 if shapes.one_image else "any",
        "layout": "NCHW",
        "dtype": "float32",
        "channels": "RGB",
        "orientation": "EXIF applied",
        "shorter": size.side,
        "longer": size.longer,
        "keep_aspect": fit.sides != "stretch",
        "rounding": ROUNDING[fit.sides],
        "interpolation": "bilinear",
        "antialias": fit.antialias,
        "place": place,
        "align": 0.0 if fit.corner else 0.5,
        "padding": GREY,
        "scale": 1 / 255,
        "mean": [0.0, 0.0, 0.0],
        "std": [1.0, 1.0, 1.0],
    }


def _output(shapes: Shapes, postprocess: Postprocess, nms: dict[str, Any] | None) -> dict[str, Any]:
    thresholds = postprocess.thresholds or USUAL_THRESHOLDS
    meanings: dict[str, dict[str, Any]] = {
        "boxes": {"format": "xyxy", "unit": "pixels", "frame": "input", "clipped": False},
        "scores": {"range": [0, 1], "meaning": "what detections are ranked by, comparable over classes and images"},
        "labels": {"meaning": "place in names"},
    }
    batch: int | str = 1 if shapes.one_image else "batch"
    return {
        "outputs": {
            name: {
                "shape": [batch, *shape],
                "dtype": "int64" if name == "labels" else "float32",
                **meanings[name],
            }
            for name, shape in shapes.outputs.items()
        },
        "order": "best first" if nms is None else None,
        "to_picture": "(box - offset) / factor, clipped to the picture",
        "conf": thresholds.conf,
        "max_dets": thresholds.max_dets,
        "own_thresholds": postprocess.thresholds is not None,
        "nms": None if nms is None else {"iou": thresholds.iou, **nms},
        "suppressed": None if shapes.within is None else _within(shapes.within),
    }


def _within(nms: MaskedNms) -> dict[str, Any]:
    return {
        "iou": nms.iou,
        "class_wise": not nms.agnostic,
        **({"consensus": nms.consensus} if nms.consensus else {}),
        "candidates": nms.candidates,
        "per_level": nms.per_level or None,
        **({"pairs": True} if nms.pairs and nms.per_level else {}),
    }


def _nms(postprocess: NonMaximumSuppression, level_points: Sequence[int]) -> dict[str, Any]:
    pairs = bool(postprocess.pairs and postprocess.per_level and level_points)
    return {
        "class_wise": not postprocess.agnostic,
        "soft": postprocess.soft,
        **({"consensus": postprocess.consensus} if postprocess.consensus else {}),
        "candidates": postprocess.per_level * len(level_points) if pairs else MAX_CANDIDATES,
        "per_level": postprocess.per_level or None,
        **({"pairs": True} if pairs else {}),
        "level_points": list(level_points),
    }
