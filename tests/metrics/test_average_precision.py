"""COCO's twelve figures: hand-worked, against the fixtures, and against pycocotools."""

from __future__ import annotations

import contextlib
import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alignrank.metrics import average_precision, evaluate, read_inputs

SHARED = Path(os.environ.get("ALIGNRANK_SHARED", Path(__file__).resolve().parents[3] / "shared"))
TWELVE = (
    *("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large"),
    *("ar1", "ar10", "ar100", "ar_small", "ar_medium", "ar_large"),
)


def ground_truth(boxes: list[tuple[int, int, list[float]]], images: int = 2, classes: int = 2) -> dict[str, Any]:
    """(image, category, xywh) rows -> a COCO dictionary, ids from 1."""
    return {
        "images": [{"id": i, "width": 200, "height": 200} for i in range(1, images + 1)],
        "categories": [{"id": k, "name": f"c{k}"} for k in range(1, classes + 1)],
        "annotations": [
            {"id": i, "image_id": image, "category_id": k, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
            for i, (image, k, box) in enumerate(boxes, start=1)
        ],
    }


def detection(image: int, category: int, box: list[float], score: float) -> dict[str, Any]:
    return {"image_id": image, "category_id": category, "bbox": box, "score": score}


def random_case(seed: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """12 images, 5 classes of which one has no object and one no detection; crowds, ties, duplicates."""
    rng = np.random.default_rng(seed)
    boxes: list[tuple[int, int, list[float]]] = []
    found = []
    for image in range(1, 13):
        for _ in range(rng.integers(0, 9)):
            box = [*rng.uniform(0, 300, 2), *rng.uniform(4, 160, 2)]
            category = int(rng.integers(1, 5))
            boxes.append((image, category, box))
            for _ in range(rng.integers(0, 4)):
                label = category if rng.random() < 0.8 else int(rng.integers(1, 6))
                if label != 4:
                    moved = (np.array(box) + rng.normal(0, 4, 4)).clip(min=0.5).tolist()
                    found.append(detection(image, label, moved, float(np.round(rng.random(), 2))))
    gt = ground_truth(boxes, images=12, classes=5)
    for annotation in gt["annotations"]:
        annotation["iscrowd"] = int(rng.random() < 0.1)
    return gt, found


def pycocotools_figures(gt: dict[str, Any], dt: list[dict[str, Any]], max_dets: int = 100) -> list[float]:
    """The twelve figures of the reference, undefined ones -1."""
    coco = pytest.importorskip("pycocotools.coco")
    cocoeval = pytest.importorskip("pycocotools.cocoeval")
    with contextlib.redirect_stdout(io.StringIO()):
        truth = coco.COCO()
        truth.dataset = json.loads(json.dumps(gt))
        truth.createIndex()
        evaluation = cocoeval.COCOeval(truth, truth.loadRes(json.loads(json.dumps(dt))), "bbox")
        evaluation.params.maxDets = [1, 10, max_dets]
        evaluation.evaluate()
        evaluation.accumulate()
    p, r = evaluation.eval["precision"], evaluation.eval["recall"]
    parts = [p[..., 0, 2], p[0, ..., 0, 2], p[5, ..., 0, 2], *(p[..., a, 2] for a in (1, 2, 3))]
    parts += [*(r[..., 0, m] for m in range(3)), *(r[..., a, 2] for a in (1, 2, 3))]
    return [float(part[part > -1].mean()) if (part > -1).any() else -1.0 for part in parts]


def ours(gt: Any, dt: Any, **options: int) -> list[float]:
    metrics = evaluate(gt, dt, **options).to_dict()
    return [-1.0 if metrics[name] is None else metrics[name] for name in TWELVE]


@pytest.mark.parametrize("name", ["coco_0", "coco_small"])
def test_equals_the_fixtures(name: str) -> None:
    folder = SHARED / "fixtures"
    if not folder.is_dir():
        pytest.skip(f"no fixtures at {folder} (set ALIGNRANK_SHARED)")
    gt, dt = folder / f"{name}_gt.json", folder / f"{name}_dt.json"
    expected = np.load(folder / f"{name}_metrics.npz")
    np.testing.assert_allclose(ours(gt, dt), expected["coco_stats"], rtol=0, atol=1e-12)
    result = average_precision(read_inputs(gt, dt))
    np.testing.assert_allclose(result.precision, expected["precision"][..., 2], rtol=0, atol=1e-12)
    np.testing.assert_allclose(result.recall, expected["recall"][..., 2], rtol=0, atol=1e-12)
    assert list(result.category_ids) == expected["cat_ids"].tolist()


@pytest.mark.parametrize("max_dets", [100, 12])
@pytest.mark.parametrize("seed", range(3))
def test_equals_pycocotools(seed: int, max_dets: int) -> None:
    gt, dt = random_case(seed)
    np.testing.assert_allclose(ours(gt, dt, max_dets=max_dets), pycocotools_figures(gt, dt, max_dets), atol=1e-12)


def test_hand_worked() -> None:
    """Class 1: two objects A, B; detections by score: .9 on A exactly, .8 on nothing, .7 on B at IoU .6.

    At IoU .50, .55, .60: hits 1, 0, 1 -> precision 1, 1/2, 2/3; recall 1/2, 1/2, 1. Interpolated: 1 for the
    51 recalls 0 ... .50, 2/3 for the 50 above: (51 + 50 * 2/3) / 101 = 253/303.
    At the seven thresholds above .60: hits 1, 0, 0 -> 1 for 51 recalls, then 0: 51/101.
    B is 100 x 100, its box shares the left 60 columns: IoU 60/100 (in float .6 >= .6 holds).
    Class 2 has no ground truth and stays out. Both objects are large (> 96^2): small, medium undefined.
    By size COCO leaves out unmatched detections of another size (the miss is 20 x 20, B's box 60 x 100):
    AP large is 1 at the first three thresholds, 51/101 at the other seven.
    AR100 = (3 * 1 + 7 * 1/2) / 10 = .65; AR1 (A and B lie in different images, and the best in B's
    image is the miss) = 1/2.
    """
    gt = ground_truth([(1, 1, [0, 0, 100, 100]), (2, 1, [50, 50, 100, 100])])
    dt = [
        detection(1, 1, [0, 0, 100, 100], 0.9),
        detection(2, 1, [0, 0, 20, 20], 0.8),
        detection(2, 1, [50, 50, 60, 100], 0.7),
        detection(2, 2, [50, 50, 100, 100], 0.6),
    ]
    metrics = evaluate(gt, dt)
    assert metrics.ap50 == pytest.approx(253 / 303, abs=1e-12)
    assert metrics.ap75 == pytest.approx(51 / 101, abs=1e-12)
    assert metrics.ap == pytest.approx((3 * 253 / 303 + 7 * 51 / 101) / 10, abs=1e-12)
    assert metrics.ap_large == pytest.approx((3 + 7 * 51 / 101) / 10, abs=1e-12)
    assert metrics.ap_small is None
    assert metrics.ap_medium is None
    assert (metrics.ar1, metrics.ar100) == (pytest.approx(0.5), pytest.approx(0.65))
    assert metrics.per_class[1]["name"] == "c1"
    assert metrics.per_class[1]["ap"] == metrics.ap
    assert metrics.per_class[2]["ap"] is None


@pytest.mark.filterwarnings("error")
def test_perfect_detections_with_annotation_id_zero() -> None:
    gt = ground_truth([(1, 1, [0, 0, 50, 50]), (1, 2, [60, 60, 20, 20]), (2, 1, [5, 5, 120, 120])])
    for i, annotation in enumerate(gt["annotations"]):
        annotation["id"] = i
    dt = [detection(a["image_id"], a["category_id"], a["bbox"], 0.5) for a in gt["annotations"]]
    assert ours(gt, dt)[:6] == pytest.approx([1.0] * 6)


@pytest.mark.filterwarnings("error")
def test_no_detections_and_no_ground_truth() -> None:
    gt = ground_truth([(1, 1, [0, 0, 50, 50])])
    assert evaluate(gt, []).ap == 0.0
    assert evaluate(gt, []).ar100 == 0.0
    nothing = evaluate(ground_truth([]), [detection(1, 1, [0, 0, 5, 5], 0.5)])
    assert nothing.ap is None
    assert evaluate({"images": [], "annotations": [], "categories": []}, []).to_dict()["per_class"] == {}


def test_order_of_records_does_not_matter() -> None:
    gt, dt = random_case(7)
    rng = np.random.default_rng(0)
    for i, record in enumerate(dt):
        record["score"] += i * 1e-6  # no ties
    shuffled = {key: [records[i] for i in rng.permutation(len(records))] for key, records in gt.items()}
    np.testing.assert_allclose(ours(shuffled, [dt[i] for i in rng.permutation(len(dt))]), ours(gt, dt), atol=1e-12)


def test_text_ids_and_inputs_left_unchanged() -> None:
    gt, dt = random_case(2)
    expected = ours(gt, dt)
    for record in gt["annotations"] + dt:
        record["image_id"] = f"{record['image_id']:03d}"
    for image in gt["images"]:
        image["id"] = f"{image['id']:03d}"
    before = json.dumps([gt, dt])
    assert ours(gt, dt) == expected
    assert json.dumps([gt, dt]) == before


def test_max_dets() -> None:
    """Twelve objects, each found: with at most 4 detections an image, 4 of 12 are recalled."""
    gt = ground_truth([(1, 1, [15.0 * i, 0, 10, 10]) for i in range(12)])
    dt = [detection(1, 1, a["bbox"], 0.9) for a in gt["annotations"]]
    metrics = evaluate(gt, dt, max_dets=4)
    assert metrics.ar100 == pytest.approx(4 / 12)
    assert metrics.ar10 == metrics.ar100
    assert metrics.ar1 == pytest.approx(1 / 12)
    with pytest.raises(ValueError, match="max_dets is 0"):
        evaluate(gt, dt, max_dets=0)


def test_quiet_and_serialisable(capfd: pytest.CaptureFixture[str]) -> None:
    gt, dt = random_case(1)
    text = json.dumps(evaluate(gt, dt).to_dict(), allow_nan=False)
    assert set(TWELVE) < set(json.loads(text))
    assert capfd.readouterr() == ("", "")
    curve = average_precision(read_inputs(gt, dt)).curve(0.75)
    assert curve.shape == (5, 101)
    with pytest.raises(ValueError, match=r"iou is 0\.52"):
        average_precision(read_inputs(gt, dt)).curve(0.52)


def test_one_detection_an_image_is_the_least() -> None:
    """With one of two right boxes counted, recall is 1/2: 51 of 101 recall points have precision 1. None is refused."""
    gt = ground_truth([(1, 1, [0, 0, 10, 10]), (1, 1, [50, 50, 10, 10])], images=1, classes=1)
    dt = [detection(1, 1, [0, 0, 10, 10], 0.9), detection(1, 1, [50, 50, 10, 10], 0.8)]
    found = average_precision(read_inputs(gt, dt), max_dets=1)
    assert found.figures()["ap"] == pytest.approx(51 / 101)
    with pytest.raises(ValueError, match="max_dets is 0"):
        average_precision(read_inputs(gt, dt), max_dets=0)
