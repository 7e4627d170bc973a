"""AP lost by kind of error at IoU .5: each kind is put right on its own, and AP50 is computed anew.

The kinds, and what putting right means, follow TIDE (Bolya et al., ECCV 2020); docs/rank-report.md says where the
order of the rules differs. Every false detection has one kind, the first that holds (s: best IoU with an object of
its class, o: with one of another class):

    duplicate       s >= .5: the object was found by another box       removed
    classification  o >= .5                                            takes that object's class
    localization    s >= .1                                            takes that object's box
    both            o >= .1                                            removed
    background      else                                               removed
    missed          objects neither found nor aimed at by a classification or localization error: not asked for

A box put right is true if its object was not found; of several that aim at one object, the best-scored one.

Shape letters: M counted detections, G objects, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from alignrank.metrics.average_precision import RECALLS, count_objects
from alignrank.metrics.calibration import counted_detections
from alignrank.metrics.inputs import Array
from alignrank.metrics.matching import Matching
from alignrank.metrics.overlaps import Overlaps, best_of_other_class

KINDS = ("classification", "localization", "both", "duplicate", "background", "missed")
FOREGROUND, BACKGROUND = 0.5, 0.1


@dataclass(frozen=True, slots=True)
class Errors:
    """count and ap_lost (points of AP50 won by putting the kind right, 0..1, None without ground truth) by kind."""

    count: dict[str, int]
    ap_lost: dict[str, float | None]

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """{kind: {count, ap_lost, share}}: share of the sum of what all kinds cost, None if they cost nothing."""
        total = sum(value or 0.0 for value in self.ap_lost.values())
        return {
            kind: {
                "count": self.count[kind],
                "ap_lost": lost,
                "share": None if lost is None or total <= 0 else lost / total,
            }
            for kind, lost in self.ap_lost.items()
        }


def errors(overlaps: Overlaps, matching: Matching) -> Errors:
    """From a matching that has the threshold .5, and the overlaps it was made from."""
    inputs = matching.inputs
    taken, _ = matching.at(FOREGROUND)
    dt = counted_detections(matching)
    gt, label = taken[dt], inputs.dt_category[dt]
    own, own_gt = overlaps.best_iou[dt], overlaps.best_gt[dt]
    other, other_gt = (values[dt] for values in best_of_other_class(inputs))
    kind = _kinds(gt >= 0, own, other)

    num_gt = count_objects(matching)[:, 0]
    found = np.zeros(len(inputs.gt_image) + 1, dtype=bool)  # the last stands for "no object", index -1
    found[gt[gt >= 0]] = True
    aimed = found[:-1] | inputs.gt_crowd
    aimed[other_gt[kind == KINDS.index("classification")]] = True
    aimed[own_gt[kind == KINDS.index("localization")]] = True
    missed = np.bincount(inputs.gt_category[~aimed], minlength=len(num_gt))

    base = _ap50(label, gt >= 0, num_gt)
    lost: dict[str, float | None] = {}
    for index, name in enumerate(KINDS):
        wrong = kind == index
        if name == "missed":
            fixed = _ap50(label, gt >= 0, num_gt - missed)
        elif name in ("classification", "localization"):
            aim = other_gt if name == "classification" else own_gt
            right = _first_per_object(np.flatnonzero(wrong & ~found[aim]), aim, inputs.dt_scores[dt])
            kept = ~wrong
            kept[right] = True
            true = gt >= 0
            true[right] = True
            new_label = label.copy()
            new_label[right] = inputs.gt_category[aim[right]]
            order = np.flatnonzero(kept)
            # Only a new class changes the order in which detections are accumulated.
            order = order[np.lexsort((inputs.dt_image[dt[order]], -inputs.dt_scores[dt[order]], new_label[order]))]
            fixed = _ap50(new_label[order], true[order], num_gt)
        else:
            fixed = _ap50(label[~wrong], gt[~wrong] >= 0, num_gt)
        lost[name] = None if base is None else 1.0 - base if fixed is None else fixed - base
    count = {name: int((kind == index).sum()) for index, name in enumerate(KINDS)} | {"missed": int(missed.sum())}
    return Errors(count, lost)


def _kinds(true: Array, own: Array, other: Array) -> Array:
    """[M] index into KINDS, -1 for true detections."""
    rules = [
        (true, -1),
        (own >= FOREGROUND, "duplicate"),
        (other >= FOREGROUND, "classification"),
        (own >= BACKGROUND, "localization"),
        (other >= BACKGROUND, "both"),
    ]
    chosen = [-1 if kind == -1 else KINDS.index(str(kind)) for _, kind in rules]
    result: Array = np.select([rule for rule, _ in rules], chosen, default=KINDS.index("background"))
    return result


def _first_per_object(rows: Array, aim: Array, scores: Array) -> Array:
    """Of the rows that aim at the same object, the best-scored one."""
    rows = rows[np.lexsort((rows, -scores[rows], aim[rows]))]
    first = np.ones(len(rows), dtype=bool)
    first[1:] = aim[rows[1:]] != aim[rows[:-1]]
    result: Array = np.sort(rows[first])
    return result


def _ap50(label: Array, true: Array, num_gt: Array) -> float | None:
    """Mean 101-point AP of classes with objects; rows by class, best score first. None if no class has any."""
    starts = np.searchsorted(label, np.arange(len(num_gt)))
    hits = np.flatnonzero(true)
    k = label[hits]
    before = np.r_[0, np.cumsum(true)]
    total = before[hits + 1] - before[starts[k]]
    seen = hits + 1 - starts[k]
    # A class without objects cannot have true detections.
    reached = np.searchsorted(RECALLS, total / num_gt[k], side="right") - 1
    precision = np.zeros((len(num_gt), len(RECALLS)))
    np.maximum.at(precision, (k, reached), total / seen)
    precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    return float(precision[num_gt > 0].mean()) if (num_gt > 0).any() else None
