"""What must hold for any input: order and ids mean nothing, perfect is perfect, nothing is defined, weights repeat."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cases import FAR, A, B, Results, Truth, random_case, results, truth

from alignrank.metrics import Diagnosis, evaluate, read_inputs
from alignrank.metrics.duplicates import OVERLAPS, duplicates

TOP = (
    *("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large"),
    *("ar1", "ar10", "ar100", "ar_small", "ar_medium", "ar_large"),
    *("lrp", "lrp_loc", "lrp_fp", "lrp_fn", "lrp_small", "lrp_medium", "lrp_large"),
)
OF_OBJECTS = ("spearman", "kendall", "pearson", "misranked", "best_box_missed", "iou_lost")
RANK = (
    *OF_OBJECTS,
    *(
        "spearman_true",
        "spearman_true_class_mean",
        "misranked_nms65",
        "ap_oracle",
        "ap_lost_ranking",
        "ap_lost_within",
        "ap_lost_between",
        "ap_lost_false",
        "ap_suppressed",
        "ap_lost_duplicates",
        "duplicates_70",
        "duplicates_90",
        "laece",
    ),
)
PER_CLASS = {"name", "ap", "lrp", "lrp_loc", "lrp_fp", "lrp_fn", "threshold"}


def flat(value: Any, path: str = "") -> dict[str, Any]:
    """Nested dictionaries -> {path: value}."""
    if not isinstance(value, dict):
        return {path: value}
    return {key: item for name, inner in value.items() for key, item in flat(inner, f"{path}/{name}").items()}


def assert_same(ours: dict[str, Any], expected: dict[str, Any], tolerance: float = 1e-12) -> None:
    """Equal up to `tolerance`, and None in the same places."""
    ours, expected = flat(ours), flat(expected)
    assert list(ours) == list(expected)
    for path, value in expected.items():
        close = pytest.approx(value, rel=tolerance, abs=tolerance) if isinstance(value, float) else value
        assert ours[path] == close, path


@pytest.mark.parametrize("seed", range(4))
def test_order_of_records_means_nothing(seed: int) -> None:
    gt, dt = random_case(seed)
    rng = np.random.default_rng(seed)
    shuffled = {key: [records[i] for i in rng.permutation(len(records))] for key, records in gt.items()}
    turned = evaluate(shuffled, [dt[i] for i in rng.permutation(len(dt))])
    assert_same(turned.to_dict(), evaluate(gt, dt).to_dict())


def renamed(gt: Truth, dt: Results, image: Any, category: Any, annotation: Any) -> tuple[Truth, Results]:
    """Each kind of id through its function."""
    gt, dt = copy.deepcopy(gt), copy.deepcopy(dt)
    for record in gt["images"]:
        record["id"] = image(record["id"])
    for record in gt["categories"]:
        record["id"] = category(record["id"])
    for record in gt["annotations"]:
        record["id"] = annotation(record["id"])
    for record in gt["annotations"] + dt:
        record["image_id"], record["category_id"] = image(record["image_id"]), category(record["category_id"])
    return gt, dt


@pytest.mark.parametrize("ties", [False, True])
def test_ids_mean_nothing(ties: bool) -> None:
    """Annotation ids from 0, image ids from 0, class ids with a hole before them; and text of the same order."""
    gt, dt = random_case(3, ties=ties)
    expected = evaluate(gt, dt).to_dict()
    shifted = evaluate(*renamed(gt, dt, lambda i: i - 1, lambda k: k + 70, lambda n: n - 1)).to_dict()
    expected["per_class"] = {k + 70: row for k, row in expected["per_class"].items()}
    assert_same(shifted, expected)
    text = evaluate(*renamed(gt, dt, lambda i: f"{i:03}", lambda k: f"class {k}", lambda n: f"{n}")).to_dict()
    expected["per_class"] = {f"class {k - 70}": row for k, row in expected["per_class"].items()}
    assert_same(text, expected)


def test_figures_of_order_depend_on_the_order_of_scores_alone() -> None:
    """Scores squared and halved: only thresholds, Pearson, LaECE and the point at a fixed score may change."""
    gt, dt = random_case(5)
    lower = [{**row, "score": row["score"] ** 2 / 2} for row in dt]
    before, after = evaluate(gt, dt), evaluate(gt, lower)
    for metrics in (before, after):
        metrics.rank.pop("pearson")
        metrics.rank.pop("laece")
    assert_same(after.scalars(), before.scalars())
    assert_same(after.errors, before.errors)
    best, best_lower = (metrics.operating_points["best"] or {} for metrics in (before, after))
    assert best_lower.pop("threshold") == pytest.approx((best.pop("threshold") or 0) ** 2 / 2)
    assert best_lower == best


def perfect(gt: Truth) -> Results:
    """The box of each object that is no crowd region, with scores of no order."""
    rows = [a for a in gt["annotations"] if not a["iscrowd"]]
    scores = np.random.default_rng(0).permutation(len(rows)) / len(rows)
    return [
        {"image_id": a["image_id"], "category_id": a["category_id"], "bbox": a["bbox"], "score": float(score)}
        for a, score in zip(rows, scores, strict=True)
    ]


def crowded_truth(seed: int, whole: bool) -> Truth:
    """Objects on one another, three of them twice in the same place, crowd regions."""
    gt, _ = random_case(seed, images=4, most=25, whole=whole)
    first = gt["annotations"]
    assert any(a["iscrowd"] for a in first)
    copies = [{**a, "id": len(first) + n} for n, a in enumerate([a for a in first if not a["iscrowd"]][:3], start=1)]
    return {**gt, "annotations": first + copies}


@pytest.mark.parametrize("whole", [False, True], ids=["continuous", "on a grid"])
@pytest.mark.parametrize("seed", range(3))
def test_perfect_detections(seed: int, whole: bool) -> None:
    """By size it need not be so: of objects on one another COCO prefers a worse one of the size asked for."""
    gt = crowded_truth(seed, whole)
    metrics = evaluate(gt, perfect(gt))
    for name in ("ap", "ap50", "ap75", "ar100"):
        assert getattr(metrics, name) == pytest.approx(1, abs=1e-12), name
    for name in ("lrp", "lrp_loc", "lrp_fp", "lrp_fn"):
        assert getattr(metrics, name) == pytest.approx(0, abs=1e-12), name
    zeros = ("misranked", "misranked_nms65", "best_box_missed", "iou_lost", "ap_lost_ranking", "ap_lost_within")
    zeros += ("ap_lost_between", "ap_lost_false", "ap_lost_duplicates")
    for name in zeros:
        assert metrics.rank[name] == pytest.approx(0, abs=1e-12), name
    assert metrics.rank["ap_oracle"] == metrics.rank["ap_suppressed"] == pytest.approx(1, abs=1e-12)
    for kind, row in metrics.errors.items():
        assert (row["count"], row["ap_lost"]) == (0, pytest.approx(0, abs=1e-12)), kind
    best = metrics.operating_points["best"]
    assert best is not None
    assert (best["fp"], best["fn"], best["f1"]) == (0, 0, 1)
    for row in metrics.per_class.values():
        assert row["ap"] in (None, pytest.approx(1, abs=1e-12))
        assert row["lrp"] in (None, pytest.approx(0, abs=1e-12))


@pytest.mark.parametrize("seed", range(3))
def test_figures_lie_in_their_range(seed: int) -> None:
    """Fractions in 0..1, without rounding below or above; differences of AP and correlations in -1..1."""
    gt, dt = random_case(seed)
    for found in (dt, perfect(gt)):
        for name, value in evaluate(gt, found).scalars().items():
            signed = any(word in name for word in ("lost_", "spearman", "kendall", "pearson"))
            assert value is None or (-1 if signed else 0) <= value <= 1, (name, value)


NOTHING: Truth = {"images": [], "annotations": [], "categories": []}
ONE = results([(1, 1, A, 0.9)])
EMPTY = {
    "an image without objects": (truth([(1, 1, A)], classes=1), ONE),
    "detections in an image without objects": (
        truth([(1, 1, A)], classes=1),
        results([(1, 1, A, 0.9), (2, 1, A, 0.8)]),
    ),
    "a class without detections": (truth([(1, 1, A), (1, 2, B)]), ONE),
    "no detections": (truth([(1, 1, A)]), []),
    "no true detections": (truth([(1, 1, A)]), results([(1, 1, FAR, 0.9)])),
    "no ground truth": (truth([]), ONE),
    "crowd regions alone": (truth([(1, 1, A, True)]), ONE),
    "neither": (truth([]), []),
    "no images": (truth([], images=0), []),
    "no categories": (truth([], classes=0), []),
    "nothing": (NOTHING, []),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", EMPTY)
def test_every_figure_is_defined_or_none(name: str) -> None:
    """No NaN, no warning, no exception; also for the data weighted 0."""
    gt, dt = EMPTY[name]
    diagnosis = Diagnosis(read_inputs(gt, dt))
    figures = diagnosis.metrics.to_dict()
    json.dumps(figures, allow_nan=False)
    scalars = diagnosis.metrics.scalars()
    assert_same(diagnosis.resampled(np.ones(len(gt["images"])))[0], scalars)
    absent, rows = diagnosis.resampled(np.zeros(len(gt["images"])))
    assert set(absent.values()) <= {None}
    assert all(row == {"ap": None, "lrp": None} for row in rows.values())
    if not any(not a["iscrowd"] for a in gt["annotations"]):
        assert set(scalars.values()) == {None}
        assert {row["ap_lost"] for row in figures["errors"].values()} == {None}
        assert figures["operating_points"]["best"] is None


@pytest.mark.filterwarnings("error")
def test_values_where_little_is_there() -> None:
    """One object found exactly, a second image empty: all is well. A false box there, scored less: LRP stays 0 at .9,
    the recall of 1 is reached at precision 1; LaECE (.1 + .8) / 2 = .45.
    """
    for name, laece in (("an image without objects", 0.1), ("detections in an image without objects", 0.45)):
        metrics = evaluate(*EMPTY[name])
        assert (metrics.ap, metrics.ap_small, metrics.ap_large) == (pytest.approx(1), pytest.approx(1), None), name
        assert (metrics.lrp, metrics.per_class[1]["threshold"]) == (0, 0.9)
        assert [metrics.rank[key] for key in OF_OBJECTS] == [None, None, None, 0, 0, 0]
        assert (metrics.rank["duplicates_70"], metrics.rank["laece"]) == (0, pytest.approx(laece))
    # Class 1 perfect, class 2 with an object and no detection: AP and LRP are means of 1 and 0, 0 and 1.
    metrics = evaluate(*EMPTY["a class without detections"])
    assert (metrics.ap, metrics.lrp, metrics.lrp_loc, metrics.lrp_fn) == pytest.approx((0.5, 0.5, 0, 0.5))
    assert (metrics.per_class[2]["ap"], metrics.per_class[2]["lrp"], metrics.per_class[2]["threshold"]) == (0, 1, None)
    for name in ("no detections", "no true detections"):
        metrics = evaluate(*EMPTY[name])
        assert (metrics.ap, metrics.ar100, metrics.lrp, metrics.lrp_fn, metrics.lrp_loc) == (0, 0, 1, 1, None), name
        assert [metrics.rank[key] for key in OF_OBJECTS] == [None] * 6
        assert (metrics.rank["ap_oracle"], metrics.rank["ap_lost_ranking"], metrics.rank["ap_suppressed"]) == (0, 0, 0)
        assert (metrics.rank["duplicates_70"], metrics.errors["missed"]["ap_lost"]) == (None, 1)
        assert metrics.operating_points["best"] is None
    assert evaluate(*EMPTY["no detections"]).rank["laece"] is None
    assert evaluate(*EMPTY["no true detections"]).rank["laece"] == pytest.approx(0.9)


def test_dictionary_of_two_files_has_the_documented_keys(tmp_path: Path) -> None:
    """The names of DESIGN.md, section 4, as JSON."""
    gt, dt = random_case(0)
    (tmp_path / "gt.json").write_text(json.dumps(gt))
    (tmp_path / "dt.json").write_text(json.dumps(dt))
    figures = evaluate(tmp_path / "gt.json", str(tmp_path / "dt.json")).to_dict()
    assert_same(figures, evaluate(gt, dt).to_dict(), tolerance=0)
    text = json.loads(json.dumps(figures, allow_nan=False))
    assert set(TOP) | {"per_class", "rank"} <= set(text)
    assert all(text[name] is None or isinstance(text[name], float) for name in TOP)
    assert set(RANK) <= set(text["rank"])
    assert [int(key) for key in text["per_class"]] == [1, 2, 3, 4, 5, 6]
    for row in text["per_class"].values():
        assert set(row) >= PER_CLASS
    assert set(text["rank_by_size"]) == {"small", "medium", "large"}
    assert {kind for row in text["rank_by_size"].values() for kind in row} == set(OF_OBJECTS)
    assert text["max_dets"] == 100


def test_ids_of_numpy_can_be_written() -> None:
    """Ids taken from an array or a table are accepted; the figures must be ready for JSON all the same."""
    gt = truth([(1, 1, A)])
    for record in gt["images"] + gt["categories"]:
        record["id"] = np.int64(record["id"])
    assert set(json.loads(json.dumps(evaluate(gt, ONE).to_dict()))["per_class"]) == {"1", "2"}


def repeated(gt: Truth, dt: Results, times: list[int]) -> tuple[Truth, Results]:
    """Each image as often as `times` says, copies with fresh ids; 0 times is without it."""
    copies: Truth = {"images": [], "categories": gt["categories"], "annotations": []}
    found: Results = []
    for image, count in zip(gt["images"], times, strict=True):
        for _ in range(count):
            number = len(copies["images"]) + 1
            copies["images"].append({**image, "id": number})
            for record in gt["annotations"]:
                if record["image_id"] == image["id"]:
                    fresh = {"id": len(copies["annotations"]) + 1, "image_id": number}
                    copies["annotations"].append({**record, **fresh})
            found += [{**row, "image_id": number} for row in dt if row["image_id"] == image["id"]]
    return copies, found


OPTIONS = [{}, {"tau": 0.3, "max_dets": 3}, {"tau": 0.75, "gap": 0.1}]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_equal_weights_change_nothing(seed: int, ties: bool, options: dict[str, Any]) -> None:
    gt, dt = random_case(seed, ties=ties)
    diagnosis = Diagnosis(read_inputs(gt, dt), **options)
    for weight in (1.0, 2.0):
        figures, rows = diagnosis.resampled(np.full(len(gt["images"]), weight))
        assert_same(figures, diagnosis.metrics.scalars())
        expected = {k: {"ap": row["ap"], "lrp": row["lrp"]} for k, row in diagnosis.metrics.per_class.items()}
        assert_same(rows, expected)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("images", [3, 10])
@pytest.mark.parametrize("seed", range(6))
def test_weights_are_repeated_images(seed: int, images: int, options: dict[str, Any]) -> None:
    """Copies of a detection tie with one another alone, and with each the precision of a true one only rises, so the
    best precision is that after the last copy, which is what a weight counts. Thresholds of duplicates stay those of
    the whole data: the copied data must be asked with them. So do the places of first boxes, on which the border of two
    parts of lost AP depends, not their sum.
    """
    gt, dt = random_case(seed, images=images)
    times = np.random.default_rng(seed + images).integers(0, 3, images)
    diagnosis = Diagnosis(read_inputs(gt, dt), **options)
    copies = Diagnosis(read_inputs(*repeated(gt, dt, times.tolist())), **options)
    figures, rows = diagnosis.resampled(times.astype(float))
    expected = copies.metrics.scalars()
    again = duplicates(copies.matching, diagnosis.lrp.threshold[:, 0])
    expected |= {f"rank.duplicates_{round(100 * iou)}": again.rate(iou) for iou in OVERLAPS}
    for values in (figures, expected):
        between, false = (values.pop(f"rank.ap_lost_{part}") for part in ("between", "false"))
        values["both"] = None if between is None or false is None else between + false
    assert_same(figures, expected, tolerance=1e-9)
    per_class = {k: {"ap": row["ap"], "lrp": row["lrp"]} for k, row in copies.metrics.per_class.items()}
    assert_same(rows, per_class, tolerance=1e-9)
