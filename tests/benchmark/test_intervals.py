"""`benchmarks/intervals.py`: differences of rows, and draws that are kept."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alignrank.metrics import Diagnosis, read_inputs

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def intervals() -> Any:
    spec = importlib.util.spec_from_file_location("intervals", ROOT / "benchmarks" / "intervals.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def judged(found: list[bool]) -> Diagnosis:
    """An image for each entry, with one object, which is found by its own box or is not."""
    images = [{"id": i, "width": 100, "height": 100, "file_name": f"{i}.jpg"} for i in range(len(found))]
    box = [10.0, 10.0, 40.0, 40.0]
    objects = [
        {"id": i + 1, "image_id": i, "category_id": 1, "bbox": box, "area": 1600.0, "iscrowd": 0}
        for i in range(len(found))
    ]
    truth = {"images": images, "annotations": objects, "categories": [{"id": 1, "name": "a"}]}
    detections = [{"image_id": i, "category_id": 1, "bbox": box, "score": 0.9} for i, one in enumerate(found) if one]
    return Diagnosis(read_inputs(truth, detections))


def test_a_row_against_itself_differs_by_nothing_and_rows_meet_the_same_draws(intervals: Any) -> None:
    half = intervals.drawn(judged([True, False] * 10))
    gaps = intervals.differences([[(half, half)]])
    assert gaps["ap"] == {"difference": 0, "low": 0, "high": 0}
    assert np.ptp(half[1:, intervals.FIGURES.index("ap")]) > 0.1  # images were drawn
    # The interval is that of the paired difference: all found against half found.
    whole = intervals.drawn(judged([True] * 20))
    gap = intervals.differences([[(half, whole)]])["ap"]
    assert gap["difference"] == pytest.approx(whole[0, 0] - half[0, 0], abs=1e-4)
    assert gap["low"] < gap["difference"] < gap["high"]


def test_sets_count_the_same_and_seeds_are_drawn_within_them(intervals: Any) -> None:
    shape = (1 + intervals.REPLICATES, len(intervals.FIGURES))
    zero, undefined = np.zeros(shape), np.full(shape, np.nan)
    one_seed, two_seeds = [(zero, zero + 0.3)], [(zero, zero + 0.1), (zero, zero - 0.3)]
    gap = intervals.differences([one_seed, two_seeds])["ap"]
    # .3, and -.1 as mean of two; a draw of seeds has both, the one twice, or the other twice.
    assert gap == {"difference": pytest.approx(0.1), "low": pytest.approx(0.0), "high": pytest.approx(0.2)}
    nothing = intervals.differences([[(zero, undefined)]])["lrp"]
    assert nothing == {"difference": None, "low": None, "high": None}


def test_draws_are_kept_until_detections_are_newer(intervals: Any, tmp_path: Path) -> None:
    file, detections = tmp_path / "draws" / "row-seed0.npz", tmp_path / "detections.json"
    assert intervals.kept(file, detections, lambda: pytest.fail("there is nothing to judge")) is None
    half = judged([True, False] * 4)
    detections.write_text("[]")
    first = intervals.kept(file, detections, lambda: half)
    assert np.allclose(first, intervals.drawn(half), atol=1e-4, equal_nan=True)
    assert np.isnan(first).any()  # as ap_small: there are no small objects
    again = intervals.kept(file, detections, lambda: pytest.fail("they are kept"))
    assert np.array_equal(first, again, equal_nan=True)
    detections.unlink()
    assert np.array_equal(first, intervals.kept(file, detections, lambda: half), equal_nan=True)
    detections.write_text("[]")
    later = file.stat().st_mtime + 10
    os.utime(detections, (later, later))
    newer = intervals.kept(file, detections, lambda: judged([True] * 8))
    assert newer[0, 0] > first[0, 0]
