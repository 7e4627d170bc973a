"""Made-up content for the HTML report: plausible figures, drawn pictures."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from alignrank.report.content import (
    Crop,
    DetectorFigures,
    Difference,
    DrawnBox,
    MisrankedObject,
    OnlyOne,
    ReportContent,
    SizeGain,
)

SCALARS = (
    *("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large", "ar1", "ar10", "ar100"),
    *("ar_small", "ar_medium", "ar_large"),
    *("lrp", "lrp_loc", "lrp_fp", "lrp_fn", "lrp_small", "lrp_medium", "lrp_large"),
)
RANK = (
    *("spearman", "kendall", "pearson", "misranked", "best_box_missed", "iou_lost", "ap_oracle"),
    *("ap_lost_ranking", "ap_suppressed", "ap_lost_duplicates", "duplicates_70", "duplicates_90", "laece"),
)
NASTY = "</script><script>alert(1)</script>"
CLASSES = (
    *("person", "bicycle", "car", "motorcycle", "bus", "truck", "traffic light", "fire hydrant"),
    *("Stoppschild für Fußgänger", "信号機", "parking meter", "bench"),
)


def figures(name: str, *, seed: int, kinds: int = len(CLASSES), matched: int = 6000, **changes: Any) -> DetectorFigures:
    """A detector with plausible figures; classes beyond the named ones are numbered."""
    rng = np.random.default_rng(seed)
    scores = np.clip(rng.beta(2.2, 1.6, matched), 0, 1)
    ious = np.clip(0.62 + (0.12 + 0.08 * seed) * scores + rng.normal(0, 0.09, matched), 0.5, 0.995)
    recalls = np.linspace(0, 1, 101)
    edges = np.linspace(0, 1, 41)
    centres = (edges[:-1] + edges[1:]) / 2
    matched_density = np.histogram(scores, edges, density=True)[0] if matched else np.zeros(40)
    confidence = np.linspace(0.05, 0.95, 10)
    confidence[3] = np.nan
    names = [CLASSES[k] if k < len(CLASSES) else f"class {k}" for k in range(kinds)]
    values: dict[str, Any] = {
        "name": name,
        "metrics": metrics(rng, names, 0.03 * seed),
        "scores": scores,
        "ious": ious,
        "recalls": recalls,
        "precision": {
            iou: np.where(
                recalls > 1.3 - iou / 2 + 0.04 * seed, 0.0, (1.12 - iou / 4) * (1 - recalls ** (6 + seed - 4 * iou))
            ).clip(0, 1)
            for iou in (0.5, 0.75, 0.9)
        },
        "confidence": confidence,
        "quality": confidence * (0.6 + 0.1 * seed),
        "counts": (4000 * (1 - np.linspace(0, 0.97, 10)) ** 2).astype(np.int64),
        "density_edges": edges,
        "matched_density": matched_density,
        "unmatched_density": 40 * 0.22 * np.exp(-centres * 9) / np.exp(-centres * 9).sum() * 4.5,
        "unmatched_iou": np.sort(rng.beta(0.5, 1 + seed / 3, 9000)),
        "unmatched_share": np.arange(1, 9001) / 9000,
        "errors": {
            kind: {"count": int(rng.integers(20, 4000)), "ap_lost": float(rng.random() * 0.07)}
            for kind in ("classification", "localization", "both", "duplicate", "background", "missed")
        },
        "operating": {
            "chosen": operating_point(0.25, 4210, 1403, 990),
            "best": operating_point(0.41, 3990, 801, 1210),
        },
    }
    return DetectorFigures(**(values | changes))


def operating_point(threshold: float, tp: int, fp: int, fn: int) -> dict[str, Any]:
    rates = {"precision": tp / (tp + fp), "recall": tp / (tp + fn), "f1": 2 * tp / (2 * tp + fp + fn)}
    return {"threshold": threshold, "tp": tp, "fp": fp, "fn": fn, **rates}


def metrics(rng: np.random.Generator, names: Sequence[str], better: float) -> dict[str, Any]:
    plain: dict[str, Any] = {key: float(0.2 + 0.5 * rng.random() + better) for key in SCALARS}
    plain["rank"] = {key: float(0.05 + 0.4 * rng.random()) for key in RANK}
    plain["rank"]["ap_lost_duplicates"] = np.float32(0.0312)
    plain["ap_large"] = None
    plain |= {"max_dets": 100, "rank_before_nms": None, "errors": {}, "operating_points": {}}
    plain["per_class"] = {
        k + 1: {
            "name": name,
            "ap": float(rng.random()) if k != 4 else None,
            **{key: float(rng.random()) for key in ("ap50", "lrp", "lrp_loc", "lrp_fp", "lrp_fn", "threshold")},
            "spearman": float(rng.random()),
            "misranked": float(rng.random()),
        }
        for k, name in enumerate(names)
    }
    return plain


def picture(number: int, side: tuple[int, int] = (240, 180), noise: int = 0) -> bytes:
    """A drawn scene as JPEG; noise in 0..255 makes the file larger."""
    rng = np.random.default_rng(number)
    ground = np.full((side[1], side[0], 3), rng.integers(120, 220, 3), np.uint8)
    if noise:
        ground = (ground * 0.5 + rng.integers(0, noise, ground.shape)).astype(np.uint8)
    image = Image.fromarray(ground)
    ImageDraw.Draw(image).ellipse((60, 40, 170, 130), fill=tuple(int(v) for v in rng.integers(0, 255, 3)))
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=85)
    return stream.getvalue()


def crop(number: int, roles: Sequence[str], class_name: str, **changes: Any) -> Crop:
    boxes = {
        "object": DrawnBox((60, 40, 170, 130), "object", ""),
        "chosen": DrawnBox((75, 52, 200, 150), "chosen", "0.91"),
        "better": DrawnBox((58, 42, 168, 133), "better", "0.55"),
        "first": DrawnBox((62, 44, 180, 128), "first", "0.62"),
        "second": DrawnBox((62, 44, 180, 128), "second", "0.62"),
    }
    values = {"jpeg": picture(number), "width": 240, "height": 180, "image": f"val/scene_{number:06d}.jpg"}
    return Crop(boxes=[boxes[role] for role in roles], class_name=class_name, **(values | changes))


def misranked(number: int, class_name: str | None = None, **changes: Any) -> MisrankedObject:
    name = CLASSES[number % len(CLASSES)] if class_name is None else class_name
    piece = crop(number, ("object", "chosen", "better"), name, **changes)
    return MisrankedObject(piece, 0.91 - number / 500, 0.55, 0.62, 0.93 - number / 800)


def only_one(number: int) -> OnlyOne:
    by, correct = ("first", "second")[number % 2], number % 3 > 0
    piece = crop(number, ("object", by) if correct else (by,), CLASSES[number % 5])
    return OnlyOne(piece, by, correct, 0.62, 0.81 if correct else 0.12)


ERRORS = {
    "dt": operating_point(0.5, 1210, 403, 990),
    "dt2": operating_point(0.5, 2210, 200, 990),
    "difference": {"tp": 1000, "fp": -203, "fn": 0, "precision": 0.1668, "recall": 0.1406, "f1": 0.1521},
}
GAINS = {
    "ap": SizeGain(0.4, 0.42, 0.02, 0.05),
    "ap_small": SizeGain(0.2, 0.15, -0.05, -0.25),
    "ap_large": SizeGain(None, 0.1, None, None),
}


def content(number: int = 2, cards: int = 24, kinds: int = len(CLASSES), **changes: Any) -> ReportContent:
    """A whole report of one or two detectors, with `cards` mis-ranked objects each."""
    names = ("yolov8-s baseline, 100 epochs", "alignrank-s")[:number]
    both = [figures(name, seed=i + 1, kinds=kinds) for i, name in enumerate(names)]
    rng = np.random.default_rng(9)
    tables = [flat(detector.metrics) for detector in both]
    differences = {key: interval(tables[0][key], tables[-1][key], rng) for key in tables[0]}
    rows = [detector.metrics["per_class"] for detector in both]
    classes = {k: {key: interval(rows[0][k][key], rows[-1][k][key], rng) for key in ("ap", "lrp")} for k in rows[0]}
    values: dict[str, Any] = {
        "title": "street scenes, validation",
        "num_images": 5000,
        "num_objects": 36335,
        "num_detections": [182_311, 96_402][:number],
        "detectors": both,
        "differences": differences if number > 1 else {},
        "class_differences": classes if number > 1 else {},
        "detection_errors": ERRORS if number > 1 else {},
        "gains": GAINS if number > 1 else {},
        "notes": ["At most 100 detections per image and class count.", "All 12 classes."],
        "misranked": {name: [misranked(k + 5 * i) for k in range(cards)] for i, name in enumerate(names)},
        "num_misranked": {name: 812 - 300 * i for i, name in enumerate(names)},
        "only_one": [only_one(k) for k in range(12)] if number > 1 else [],
        "num_only_one": 140 if number > 1 else 0,
    }
    return ReportContent(**(values | changes))


def flat(figures: Mapping[str, Any]) -> dict[str, Any]:
    """Metrics under the names that differences have."""
    ranks = {f"rank.{key}": value for key, value in figures["rank"].items()}
    return {key: figures[key] for key in SCALARS} | ranks


def interval(first: float | None, second: float | None, rng: np.random.Generator) -> Difference:
    if first is None or second is None:
        return Difference(None, None, None)
    half = 0.02 + 0.1 * float(rng.random())
    return Difference(second - first, second - first - half, second - first + half)


EMPTY = np.zeros(0)
NOTHING: dict[str, Any] = {
    "metrics": {**dict.fromkeys(SCALARS), "rank": dict.fromkeys(RANK), "per_class": {}},
    **dict.fromkeys(("scores", "ious", "recalls", "confidence", "quality", "counts"), EMPTY),
    **dict.fromkeys(("density_edges", "matched_density", "unmatched_density"), EMPTY),
    **dict.fromkeys(("unmatched_iou", "unmatched_share"), EMPTY),
    "precision": {},
    "errors": {},
    "operating": {},
}
