"""An exported file's metadata, read: `metadata.py` the other way round."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from alignrank.contracts import USUAL_THRESHOLDS, Postprocess, Thresholds
from alignrank.detectors.postprocess import NmsConfig, NonMaximumSuppression, TopK
from alignrank.errors import InputError
from alignrank.export.metadata import ROUNDING
from alignrank.input_size import Fit, InputSize


@dataclass(frozen=True, slots=True)
class Described:
    """names by label; recipe: its name; size: of the input, `rect` where the graph takes canvases of any shape; stride;
    most: rows of an image that it gives at most; level_points: see `metadata.Shapes`; one_image: a batch of one alone;
    suppresses: NMS is within, of so many candidates that its list can end before that of others.
    """

    names: tuple[str, ...]
    recipe: str
    size: InputSize
    stride: int
    most: int
    level_points: tuple[int, ...]
    one_image: bool
    suppresses: bool
    postprocess: Postprocess


def described(about: Mapping[str, str], path: Path) -> Described:
    """Raises InputError where it is not alignrank's, or damaged."""
    if not {"names", "imgsz", "preprocessing", "output"} <= set(about):
        raise InputError(
            f"{path}: holds no metadata of alignrank, which says how pictures become its input; such files are those "
            "that `alignrank export` writes"
        )
    try:
        names, imgsz, given, made = (json.loads(about[key]) for key in ("names", "imgsz", "preprocessing", "output"))
        sides = next(name for name, words in ROUNDING.items() if words == given["rounding"])
        size = InputSize.of(
            tuple(imgsz) if isinstance(imgsz, list) else int(imgsz),
            rect=False,
            step=int(given["stride"]),
            fit=Fit(sides, bool(given["antialias"]), given["align"] == 0),
        )
        return Described(
            tuple(str(name) for name in names),
            about.get("recipe", ""),
            replace(size, rect=bool(given["rect"]) and sides != "stretch"),
            int(given["stride"]),
            int(made["outputs"]["boxes"]["shape"][1]),
            tuple((made["nms"] or {}).get("level_points", ())),
            given["batch"] == 1,
            bool(made.get("suppressed")),
            _postprocess(made),
        )
    except (KeyError, TypeError, ValueError, AttributeError, StopIteration, RecursionError) as error:
        raise InputError(f"{path}: its metadata is damaged ({type(error).__name__} {error}); export it again") from None


def _postprocess(made: dict[str, Any]) -> Postprocess:
    nms, conf, max_dets = made["nms"], float(made["conf"]), int(made["max_dets"])
    iou = float((nms or made.get("suppressed") or {"iou": USUAL_THRESHOLDS.iou})["iou"])
    thresholds = Thresholds(conf, iou, max_dets)
    if nms is None:
        found: TopK | NonMaximumSuppression = TopK()
    else:
        found = NonMaximumSuppression(
            NmsConfig(
                per_level=nms["per_level"] or 0,
                pairs=nms.get("pairs", False),
                soft=nms["soft"],
                consensus=nms.get("consensus", 0.0),
                agnostic=not nms["class_wise"],
            )
        )
    # Files of 0.1.0 do not say whether they are the detector's own.
    own = made.get("own_thresholds", thresholds != USUAL_THRESHOLDS)
    found.thresholds = thresholds if own else None
    return found
