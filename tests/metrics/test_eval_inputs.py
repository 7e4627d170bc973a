"""Broken COCO files: each fails with one sentence naming file, field and value; odd legal ones work."""

from __future__ import annotations

import copy
import importlib.util
import os
from pathlib import Path
from typing import Any

import pytest

from alignrank.errors import InputError
from alignrank.metrics import evaluate, read_inputs

SHARED = Path(os.environ.get("ALIGNRANK_SHARED", Path(__file__).resolve().parents[3] / "shared"))
STAGE = SHARED / "bad_inputs" / "stage.py"
LEGAL = {"eval_empty": (0.0, 0.0), "eval_duplicates": (0.945, 1.0), "eval_many_per_image": (1.0, 1.0)}  # AP, AR100


def stage_module() -> Any:
    spec = importlib.util.spec_from_file_location("bad_inputs_stage", STAGE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


CASES = [c for c in stage_module().load() if c["family"] == "eval"] if STAGE.is_file() else []


@pytest.mark.skipif(not CASES, reason=f"no broken inputs at {STAGE} (set ALIGNRANK_SHARED)")
@pytest.mark.parametrize("case", CASES, ids=[case["id"] for case in CASES])
def test_manifest(case: dict[str, Any], tmp_path: Path) -> None:
    folder = stage_module().stage(case, tmp_path)
    gt, dt = folder / case["ground_truth"], folder / case["entry"]
    if case["expect"]["outcome"] == "ok":
        metrics = evaluate(gt, dt)
        assert (metrics.ap, metrics.ar100) == pytest.approx(LEGAL[case["id"]], abs=5e-4)
        return
    with pytest.raises(InputError) as caught:
        evaluate(gt, dt)
    for word in case["expect"]["message_names"]:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)


GT: dict[str, Any] = {
    "images": [{"id": 1}, {"id": 2}],
    "categories": [{"id": 1, "name": "a"}],
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 10, 10]},
        {"id": 2, "image_id": 2, "category_id": 1, "bbox": [0, 0, 10, 10], "area": 90, "iscrowd": 1},
    ],
}
DT: list[dict[str, Any]] = [{"image_id": 1, "category_id": 1, "bbox": [0, 0, 10, 10], "score": 0.5}]


@pytest.mark.parametrize(
    ("list_name", "field", "value", "words"),
    [
        ("dt", "score", True, ["detection 0", "score", "true"]),
        ("dt", "score", None, ["score", "null"]),
        ("dt", "score", float("inf"), ["score", "Infinity"]),
        ("dt", "score", 10**400, ["score"]),
        ("dt", "bbox", None, ["bbox", "null"]),
        ("dt", "bbox", [0, 0, "3", 4], ["bbox", '"3"']),
        ("dt", "bbox", [0, 0, -3, 4], ["bbox", "-3", "width >= 0"]),
        ("dt", "bbox", [0, 0, [3], 4], ["bbox"]),
        ("dt", "image_id", [1], ["image_id", "[1]"]),
        ("dt", "image_id", True, ["image_id", "true"]),
        ("dt", "image_id", None, ["image_id", "null"]),
        ("dt", "category_id", "1", ["category_id", '"1"']),
        ("annotations", "id", 2, ["annotation 1", "id", "is 2", "earlier"]),
        ("annotations", "id", None, ["annotation 0", "id", "null"]),
        ("annotations", "area", -1, ["area", "-1"]),
        ("annotations", "area", float("nan"), ["area", "NaN"]),
        ("annotations", "iscrowd", 2, ["iscrowd", "is 2"]),
        ("annotations", "iscrowd", [1], ["iscrowd", "[1]"]),
        ("annotations", "image_id", 9, ["image_id", "is 9"]),
        ("annotations", "category_id", 9, ["category_id", "is 9"]),
        ("images", "id", 2, ["image 1", "id", "is 2"]),
        ("categories", "id", 1.5, ["category 0", "id", "1.5"]),
    ],
)
def test_bad_field(list_name: str, field: str, value: Any, words: list[str]) -> None:
    gt, dt = copy.deepcopy(GT), copy.deepcopy(DT)
    (dt if list_name == "dt" else gt[list_name])[0][field] = value
    with pytest.raises(InputError) as caught:
        read_inputs(gt, dt)
    for word in [*words, "<detections>" if list_name == "dt" else "<ground truth>"]:
        assert word in str(caught.value)


@pytest.mark.parametrize(("field", "value"), [("score", None), ("score", True), ("bbox", [0, 0, "3", 4]), ("bbox", 7)])
def test_the_bad_record_is_named_and_not_the_first(field: str, value: Any) -> None:
    """The third detection is at fault; the two before it are good."""
    detections = [*copy.deepcopy(DT * 2), {**DT[0], field: value}]
    with pytest.raises(InputError, match="detection 2 "):
        read_inputs(GT, detections)


def test_wrong_kind_of_file(tmp_path: Path) -> None:
    (tmp_path / "text.json").write_bytes(b"\xff\xfe not json")
    cases: list[tuple[Any, Any, str]] = [
        (GT, tmp_path / "none.json", "none.json: cannot be read .No such file"),
        (GT, tmp_path, "is not a file"),
        (GT, tmp_path / "text.json", "not valid JSON"),
        (GT, [1], "detection 0 .* is 1, expected an object"),
        (GT, GT, "looks like a ground-truth file"),
        (DT, DT, "not a COCO ground truth"),
        ({"images": []}, DT, "not a COCO ground truth"),
    ]
    for gt, dt, message in cases:
        with pytest.raises(InputError, match=message):
            read_inputs(gt, dt)
    with pytest.raises(ValueError, match="dt is missing"):
        evaluate(GT)


def test_read_once_evaluate_twice() -> None:
    inputs = read_inputs(GT, DT)
    assert inputs.gt_area.tolist() == [100, 90]
    assert inputs.gt_crowd.tolist() == [False, True]
    assert evaluate(inputs).ap == evaluate(GT, DT).ap == 1.0
    with pytest.raises(ValueError, match="dt must be left out"):
        evaluate(inputs, DT)
