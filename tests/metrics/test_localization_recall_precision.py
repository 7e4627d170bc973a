"""oLRP: hand-worked, against the reference implementation's figures, and against a plain double loop."""

from __future__ import annotations

from math import isnan, nan
from pathlib import Path

import numpy as np
import pytest
from cases import FAR, A, B, Box, C, D, Results, Truth, cut, diagnose, inputs, random_case

from alignrank.metrics import Diagnosis, evaluate, read_inputs
from alignrank.metrics.localization_recall_precision import localization_recall_precision
from alignrank.metrics.matching import match
from alignrank.metrics.overlaps import find_overlaps

COLUMNS = {"lrp": "olrp", "loc": "olrp_loc", "fp": "olrp_fp", "fn": "olrp_fn", "threshold": "lrp_opt_thr"}
SUMMARY = ("lrp", "lrp_loc", "lrp_fp", "lrp_fn", "lrp_small", "lrp_medium", "lrp_large")


@pytest.mark.parametrize("name", ["coco_0", "coco_small"])
def test_equals_the_reference_implementation(name: str, shared: Path) -> None:
    """The fixtures hold the executed figures of LRP-Error's `cocoeval.py`: [class, size, 1 | 10 | 100 detections]."""
    folder = shared / "fixtures"
    gt, dt = folder / f"{name}_gt.json", folder / f"{name}_dt.json"
    expected = np.load(folder / f"{name}_metrics.npz")
    metrics = evaluate(gt, dt)
    summary = [-1.0 if getattr(metrics, key) is None else getattr(metrics, key) for key in SUMMARY]
    np.testing.assert_allclose(summary, expected["lrp_stats19"][12:19], rtol=0, atol=1e-12)
    for m, max_dets in enumerate((1, 10, 100)):
        lrp = Diagnosis(read_inputs(gt, dt), max_dets=max_dets).lrp
        for ours, theirs in COLUMNS.items():
            reference = expected[theirs][:, :, m]
            reference = np.where(reference == -1, np.nan, reference)  # -1: no ground truth of that class and size
            np.testing.assert_allclose(getattr(lrp, ours), reference, rtol=0, atol=1e-12, err_msg=f"{ours} {max_dets}")


def test_hand_worked() -> None:
    """Objects A, B, C. By score: .9 A at IoU .8; .8 on nothing; .7 B at IoU .6; .65 C at IoU .75; .6 on nothing.

    LRP = (sum of (1 - IoU) / .5 + FP + FN) / (TP + FP + FN), with the detections scored at least s:
    s = .9:  (.2 / .5 + 0 + 2) / 3 = .8
    s = .8:  (.4 + 1 + 2) / 4 = .85
    s = .7:  (.4 + .4 / .5 + 1 + 1) / 4 = .8
    s = .65: (1.2 + .25 / .5 + 1 + 0) / 4 = .675, the minimum
    s = .6:  (1.7 + 2 + 0) / 5 = .74
    At .65: Loc = (.2 + .4 + .25) / 3 = .85 / 3, FP = 1 / 4, FN = 0.
    """
    found = [
        (1, 1, cut(A, 0.8), 0.9),
        (1, 1, FAR, 0.8),
        (1, 1, cut(B, 0.6), 0.7),
        (2, 1, FAR, 0.6),
        (2, 1, cut(C, 0.75), 0.65),
    ]
    row = diagnose([(1, 1, A), (1, 1, B), (2, 1, C)], found).metrics.per_class[1]
    assert row["lrp"] == pytest.approx(0.675, abs=1e-12)
    assert row["lrp_loc"] == pytest.approx(0.85 / 3, abs=1e-12)
    assert row["lrp_fp"] == pytest.approx(1 / 4, abs=1e-12)
    assert row["lrp_fn"] == 0
    assert row["threshold"] == 0.65


def test_classes_without_a_true_detection() -> None:
    """Class 1: A found at IoU .8: LRP = .2 / .5 = .4, Loc .2, FP 0, FN 0. Class 2: B, only a box elsewhere: LRP 1,
    FN 1, and no Loc, FP or threshold. Class 3: C, no detection: the same. Class 4: a detection, no object: nothing.

    Means over classes: lrp (.4 + 1 + 1) / 3 = .8; fn (0 + 1 + 1) / 3; loc .2 and fp 0 are those of class 1 alone.
    All objects are 100 px^2, small: lrp_small is lrp; nothing is medium or large.
    """
    objects = [(1, 1, A), (1, 2, B), (2, 3, C)]
    metrics = diagnose(objects, [(1, 1, cut(A, 0.8), 0.9), (1, 2, FAR, 0.8), (2, 4, FAR, 0.7)], classes=4).metrics
    assert metrics.lrp == pytest.approx(0.8, abs=1e-12)
    assert metrics.lrp_small == pytest.approx(0.8, abs=1e-12)
    assert metrics.lrp_fn == pytest.approx(2 / 3, abs=1e-12)
    assert metrics.lrp_loc == pytest.approx(0.2, abs=1e-12)
    assert metrics.lrp_fp == 0
    assert (metrics.lrp_medium, metrics.lrp_large) == (None, None)
    names = ("lrp", "lrp_loc", "lrp_fp", "lrp_fn", "threshold")
    for category in (2, 3):
        assert [metrics.per_class[category][name] for name in names] == [1, None, None, 1, None]
    assert [metrics.per_class[4][name] for name in names] == [None] * 5


@pytest.mark.parametrize(
    ("tau", "lrp", "loc", "fp", "fn", "threshold"),
    [
        (0.75, 14 / 15, 0.2, 0, 2 / 3, 0.9),
        (0.5, 2 / 3, 0.25, 0, 1 / 3, 0.8),
        (0.3, 11 / 21, 1.1 / 3, 0, 0, 0.7),
    ],
)
def test_other_thresholds(tau: float, lrp: float, loc: float, fp: float, fn: float, threshold: float) -> None:
    """Objects A, B, C; detections .9 A at IoU .8, .8 B at IoU .7, .7 C at IoU .4.

    tau .75: only A's counts. s = .9: (.2 / .25 + 0 + 2) / 3 = 2.8 / 3 = 14/15; s = .8: (.8 + 1 + 2) / 4 = .95; more FP
    cost more. Loc .2, FN 2/3.
    tau .5: .9: (.4 + 2) / 3 = .8; .8: (.4 + .6 + 1) / 3 = 2/3; .7: (1 + 1 + 1) / 4 = .75. Loc (.2 + .3) / 2, FN 1/3.
    tau .3: .9: (.2 / .7 + 2) / 3 = 16/21; .8: (.5 / .7 + 1) / 3 = 12/21; .7: (1.1 / .7) / 3 = 11/21. Loc 1.1 / 3.
    """
    found = [(1, 1, cut(A, 0.8), 0.9), (1, 1, cut(B, 0.7), 0.8), (1, 1, cut(C, 0.4), 0.7)]
    row = diagnose([(1, 1, A), (1, 1, B), (1, 1, C)], found, tau=tau).metrics.per_class[1]
    assert row["lrp"] == pytest.approx(lrp, abs=1e-12)
    assert row["lrp_loc"] == pytest.approx(loc, abs=1e-12)
    assert row["lrp_fp"] == fp
    assert row["lrp_fn"] == pytest.approx(fn, abs=1e-12)
    assert row["threshold"] == threshold


def test_weights_say_how_often_an_image_counts() -> None:
    """Image 1: A found at IoU .8, score .9. Image 2: B missed, a box on nothing scored .95.

    Once each: s = .95: 1 true; LRP at .9 = (.4 + 1 + 1) / 3 = .8. Weights 3, 1: (3 * .4 + 1 + 1) / 5 = .64, FP 1/4,
    FN 1/4. Weights 1, 0: .4. Weights 0, 1: objects and no true detection, 1. Weights 0, 0: no object, undefined.
    """
    case = inputs([(1, 1, A), (2, 1, B)], [(1, 1, cut(A, 0.8), 0.9), (2, 1, FAR, 0.95)])
    matching = match(find_overlaps(case), sizes=True)
    expected = [((1, 1), 0.8), ((3, 1), 0.64), ((1, 0), 0.4), ((0, 1), 1.0), ((0, 0), None)]
    for weights, lrp in expected:
        figures = localization_recall_precision(matching, weights=np.array(weights, dtype=float)).figures()
        assert figures["lrp"] == (None if lrp is None else pytest.approx(lrp, abs=1e-12)), weights
    three = localization_recall_precision(matching, weights=np.array([3.0, 1.0]))
    assert (three.fp[0, 0], three.fn[0, 0]) == (0.25, 0.25)


def test_options_are_checked() -> None:
    for tau in (-0.1, 1.0):
        with pytest.raises(ValueError, match="tau is"):
            diagnose([(1, 1, A)], [], tau=tau)
    with pytest.raises(ValueError, match=r"iou is 0\.3"):
        localization_recall_precision(match(find_overlaps(inputs([(1, 1, D)], []))), tau=0.3)


# The reference as a plain script: sort, match greedily, loop over thresholds. Shares nothing with the package.

RANGES = ((0, 1e10), (0, 32**2), (32**2, 96**2), (96**2, 1e10))
Outcome = tuple[float, int, bool, float]  # score, image, true, IoU


def plain_iou(a: Box, b: Box, crowd: bool) -> float:
    wide = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    high = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    shared = max(wide, 0) * max(high, 0)
    return shared / (a[2] * a[3] if crowd else a[2] * a[3] + b[2] * b[3] - shared)


def plain_match(objects: Results, found: Results, low: float, high: float, tau: float) -> tuple[int, list[Outcome]]:
    """One image and class: the number of objects to be found, and (score, image, true, IoU) of what counts."""
    ignored = [bool(o["iscrowd"]) or not low <= o["area"] <= high for o in objects]
    free = [True] * len(objects)
    outcome = []
    for d in found:
        chosen = None
        for wanted in (False, True):  # objects that count first
            best = tau
            for g, o in enumerate(objects):
                iou = plain_iou(d["bbox"], o["bbox"], bool(o["iscrowd"]))
                if ignored[g] == wanted and (free[g] or o["iscrowd"]) and iou >= best:
                    best, chosen = iou, (g, iou)
            if chosen is not None:
                break
        if chosen is None:
            if low <= d["bbox"][2] * d["bbox"][3] <= high:
                outcome.append((d["score"], d["image_id"], False, 0.0))
        else:
            free[chosen[0]] = False
            if not ignored[chosen[0]]:
                outcome.append((d["score"], d["image_id"], True, chosen[1]))
    return ignored.count(False), outcome


def plain_lrp(gt: Truth, dt: Results, category: int, size: int, tau: float, max_dets: int) -> list[float]:
    """lrp, loc, fp, fn, threshold of one class and size, NaN where undefined."""
    low, high = RANGES[size]
    total, rows = 0, []
    for image in gt["images"]:
        mine = {"image_id": image["id"], "category_id": category}
        objects = [o for o in gt["annotations"] if {key: o[key] for key in mine} == mine]
        found = sorted((d for d in dt if {key: d[key] for key in mine} == mine), key=lambda d: -d["score"])
        num, outcome = plain_match(objects, found[:max_dets], low, high, tau)
        total, rows = total + num, rows + outcome
    if not total:
        return [nan] * 5
    rows.sort(key=lambda row: -row[0])
    best = [1.0, nan, nan, 1.0, nan]
    for last in range(len(rows)):
        true = [row for row in rows[: last + 1] if row[2]]
        tp, fp, fn = len(true), last + 1 - len(true), total - len(true)
        lost = sum(1 - row[3] for row in true)
        lrp = (lost / (1 - tau) + fp + fn) / (tp + fp + fn)
        if tp and lrp < best[0] - 1e-13:
            best = [lrp, lost / tp, fp / (tp + fp), fn / total, rows[last][0]]
    return best


@pytest.mark.parametrize(("tau", "max_dets"), [(0.5, 100), (0.5, 2), (0.75, 100), (0.3, 100), (0.3, 2), (0.62, 100)])
@pytest.mark.parametrize("ties", [False, True])
def test_equals_a_plain_double_loop(tau: float, max_dets: int, ties: bool) -> None:
    true_ones = 0
    for seed in range(3):
        gt, dt = random_case(seed, ties=ties)
        lrp = Diagnosis(read_inputs(gt, dt), tau=tau, max_dets=max_dets).lrp
        for k, category in enumerate(gt["categories"]):
            for size in range(4):
                expected = plain_lrp(gt, dt, category["id"], size, tau, max_dets)
                ours = [float(getattr(lrp, name)[k, size]) for name in COLUMNS]
                np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-12, err_msg=f"{seed} {category} {size}")
                true_ones += not isnan(expected[4])
    assert true_ones > 12  # the cases have something to compare
