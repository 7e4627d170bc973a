"""A second implementation: plain loops that share nothing with the package but its entry, on random and real data.

Real results: ALIGNRANK_BLOODCELLS_DETECTIONS names a COCO results file of any detector on the val split of the shared
bloodcells data. Average precision is checked against pycocotools and faster-coco-eval.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cases import Box, Results, Truth, random_case

from alignrank.metrics import Diagnosis, average_precision, evaluate, read_inputs

FIGURES = (
    "spearman",
    "kendall",
    "pearson",
    "spearman_true",
    "misranked",
    "best_box_missed",
    "iou_lost",
    "ap_oracle",
    "ap_lost_ranking",
)


def coco_ap(library: str, gt: Truth, dt: Results, max_dets: int = 100) -> dict[str, np.ndarray]:
    """precision [T,R,K,A] and recall [T,K,A,M] of `pycocotools` or `faster_coco_eval`."""
    if library == "pycocotools":
        coco = pytest.importorskip("pycocotools.coco").COCO
        evaluator = pytest.importorskip("pycocotools.cocoeval").COCOeval
    else:
        module = pytest.importorskip("faster_coco_eval")
        coco, evaluator = module.COCO, module.COCOeval_faster
    with contextlib.redirect_stdout(io.StringIO()):
        truth = coco()
        truth.dataset = json.loads(json.dumps(gt))
        truth.createIndex()
        evaluation = evaluator(truth, truth.loadRes(json.loads(json.dumps(dt))), "bbox")
        evaluation.params.maxDets = [1, 10, max_dets]
        evaluation.evaluate()
        evaluation.accumulate()
    return {"precision": evaluation.eval["precision"][..., 2], "recall": evaluation.eval["recall"]}


def mean_precision(gt: Truth, dt: Results) -> float:
    precision = coco_ap("pycocotools", gt, dt)["precision"][:, :, :, 0]
    return float(precision[precision > -1].mean())


def plain_iou(a: Box, b: Box) -> float:
    ax1, ay1, bx1, by1 = a[0] + a[2], a[1] + a[3], b[0] + b[2], b[1] + b[3]
    shared = max(min(ax1, bx1) - max(a[0], b[0]), 0) * max(min(ay1, by1) - max(a[1], b[1]), 0)
    return shared / (a[2] * a[3] + b[2] * b[3] - shared)


def ranks(values: list[float]) -> list[float]:
    """1 for the least; the mean of their places for equal ones."""
    return [sum(v < value for v in values) + (sum(v == value for v in values) + 1) / 2 for value in values]


def pearson(a: list[float], b: list[float]) -> float:
    mean_a, mean_b = sum(a) / len(a), sum(b) / len(b)
    pairs = [(x - mean_a, y - mean_b) for x, y in zip(a, b, strict=True)]
    return sum(x * y for x, y in pairs) / (sum(x * x for x, _ in pairs) * sum(y * y for _, y in pairs)) ** 0.5


def kendall(a: list[float], b: list[float]) -> float:
    agree = apart_a = apart_b = 0
    for i in range(len(a)):
        for j in range(i):
            x, y = a[i] - a[j], b[i] - b[j]
            agree += (x * y > 0) - (x * y < 0)
            apart_a += x != 0
            apart_b += y != 0
    return agree / (apart_a * apart_b) ** 0.5


def plain_script(gt: Truth, dt: Results, max_dets: int = 100) -> dict[str, float]:
    """Correlations over candidates, Spearman over true detections, order among candidates, AP lost to ranking."""
    groups: dict[Any, tuple[Results, Results]] = {}
    for record in gt["annotations"]:
        groups.setdefault((record["image_id"], record["category_id"]), ([], []))[0].append(record)
    for record in dt:
        groups.setdefault((record["image_id"], record["category_id"]), ([], []))[1].append(record)

    scores, ious, true_scores, true_ious = [], [], [], []
    wrong = pairs = missed = lost = objects_with_candidates = 0.0
    keys: dict[int, tuple[float, float]] = {}  # of each detection: best IoU, score
    for objects, found in groups.values():
        single = [o for o in objects if not o["iscrowd"]]
        overlap = {id(d): [plain_iou(d["bbox"], o["bbox"]) for o in single] for d in found}
        for d in found:
            keys[id(d)] = (max(overlap[id(d)], default=0.0), d["score"])
        found = sorted(found, key=lambda d: -d["score"])[:max_dets]

        free = [True] * len(single)
        for d in found:
            best, chosen = 0.5, -1
            for g, iou in enumerate(overlap[id(d)]):
                if free[g] and iou >= best:
                    best, chosen = iou, g
            if chosen >= 0:
                free[chosen] = False
                true_scores.append(d["score"])
                true_ious.append(best)

        candidates: list[list[tuple[float, float]]] = [[] for _ in single]
        for d in found:
            if single and max(overlap[id(d)]) >= 0.5:
                best = max(overlap[id(d)])
                candidates[overlap[id(d)].index(best)].append((best, d["score"]))
                scores.append(d["score"])
                ious.append(best)
        for own in filter(None, candidates):
            for i, (iou, score) in enumerate(own):
                for other_iou, other_score in own[:i]:
                    if abs(iou - other_iou) > 0.05:
                        pairs += 1
                        if score == other_score:
                            wrong += 0.5
                        elif (score > other_score) != (iou > other_iou):
                            wrong += 1
            top = max(iou for iou, _ in own)
            chosen_ious = [iou for iou, score in own if score == max(s for _, s in own)]
            good = sum(iou > top - 1e-9 for iou in chosen_ious)
            missed += 0 if good == len(chosen_ious) else 0.5 if good else 1
            lost += top - sum(chosen_ious) / len(chosen_ious)
            objects_with_candidates += 1

    # Perfect ranking: by IoU, of equal ones by score. The place in that order is the new score.
    place = {key: float(n) for n, key in enumerate(sorted(set(keys.values())))}
    perfect = [{**d, "score": place[keys[id(d)]]} for d in dt]
    ap, ap_oracle = mean_precision(gt, dt), mean_precision(gt, perfect)
    return {
        "spearman": pearson(ranks(scores), ranks(ious)),
        "kendall": kendall(scores, ious),
        "pearson": pearson(scores, ious),
        "spearman_true": pearson(ranks(true_scores), ranks(true_ious)),
        "misranked": wrong / pairs if pairs else 0.0,
        "best_box_missed": missed / objects_with_candidates,
        "iou_lost": lost / objects_with_candidates,
        "ap_oracle": ap_oracle,
        "ap_lost_ranking": ap_oracle - ap,
    }


def check(gt: Truth, dt: Results) -> dict[str, float]:
    rank, expected = evaluate(gt, dt).rank, plain_script(gt, dt)
    assert {name: rank[name] for name in FIGURES} == pytest.approx(expected, rel=0, abs=1e-6)
    return expected


@pytest.mark.parametrize("whole", [False, True], ids=["continuous", "on a grid"])
@pytest.mark.parametrize("ties", [False, True], ids=["distinct", "ties"])
@pytest.mark.parametrize("seed", range(3))
def test_random_cases(seed: int, ties: bool, whole: bool) -> None:
    figures = check(*random_case(seed, ties=ties, whole=whole))
    assert 0 < figures["misranked"] < 1
    assert figures["ap_lost_ranking"] > 0


@pytest.fixture
def bloodcells(shared: Path) -> Truth:
    """The val split: 60 images, 908 objects of three classes."""
    path = shared / "data" / "bloodcells" / "annotations" / "val.json"
    if not path.is_file():
        pytest.skip(f"no bloodcells data at {path} (set ALIGNRANK_SHARED to the folder that holds data/)")
    return json.loads(path.read_text())


def test_real_ground_truth_with_jittered_boxes(bloodcells: Truth) -> None:
    """Two boxes an object, moved by up to a quarter of a side or so, scored by fit and chance; some misnamed."""
    rng = np.random.default_rng(0)
    dt: Results = []
    for record in bloodcells["annotations"]:
        box = np.array(record["bbox"])
        for _ in range(2):
            moved = box + rng.normal(0, 0.08, 4) * np.tile(box[2:], 2)
            moved[2:] = moved[2:].clip(min=2)
            score = 0.6 * plain_iou(moved.tolist(), record["bbox"]) + 0.4 * rng.random()
            category = record["category_id"] if rng.random() < 0.9 else int(rng.integers(1, 4))
            row = {"image_id": record["image_id"], "category_id": category, "bbox": moved.round(2).tolist()}
            dt.append({**row, "score": round(score, 3)})
    figures = check(bloodcells, dt)
    assert 0.2 < figures["spearman"] < 0.9
    assert figures["ap_lost_ranking"] > 0.02


def test_a_real_detector(bloodcells: Truth) -> None:
    name = os.environ.get("ALIGNRANK_BLOODCELLS_DETECTIONS")
    if not name:
        pytest.skip("no results of a real detector (set ALIGNRANK_BLOODCELLS_DETECTIONS to a COCO results file)")
    check(bloodcells, json.loads(Path(name).read_text()))


@pytest.mark.parametrize("library", ["pycocotools", "faster_coco_eval"])
@pytest.mark.parametrize("max_dets", [100, 12])
@pytest.mark.parametrize(
    "options",
    [{}, {"ties": True}, {"ties": True, "whole": True}, {"images": 2, "most": 90, "ties": True, "whole": True}],
    ids=["distinct", "ties", "grid", "crowded"],
)
def test_average_precision_equals_other_implementations(library: str, max_dets: int, options: dict[str, Any]) -> None:
    for seed in range(2):
        gt, dt = random_case(seed + 20, **options)
        result = average_precision(read_inputs(gt, dt), max_dets=max_dets)
        expected = coco_ap(library, gt, dt, max_dets)
        np.testing.assert_allclose(result.precision, expected["precision"], rtol=0, atol=1e-12)
        recall = expected["recall"]
        np.testing.assert_allclose(result.recall, recall[..., 2], rtol=0, atol=1e-12)
        for allowance, ours in enumerate(result.fewer):
            np.testing.assert_allclose(ours, recall[..., allowance].mean(0), rtol=0, atol=1e-12)


def test_the_crowded_case_is_cut_by_the_allowance() -> None:
    """Otherwise 12 detections an image and class would not differ from 100."""
    inputs = read_inputs(*random_case(20, images=2, most=90, ties=True, whole=True))
    assert len(Diagnosis(inputs).matching.order) > len(Diagnosis(inputs, max_dets=12).matching.order) + 10
