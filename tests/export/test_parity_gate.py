"""The parity gate on detections made by hand: what is a difference, and what ties explain."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from alignrank.contracts import Selection, Thresholds
from alignrank.errors import ExportError
from alignrank.export.parity import TOLERANCES, Parity, write_record

LIMITS, FULL = Thresholds(0.001, 0.7, 300), TOLERANCES["fp32"]


def selection(*rows: tuple[float, float, int]) -> Selection:
    """(left edge, score, label); boxes are 20 x 20 px."""
    left = torch.tensor([row[0] for row in rows])
    boxes = torch.stack([left, left * 0, left + 20, left * 0 + 20], -1)
    return Selection(boxes, torch.tensor([row[1] for row in rows]), torch.tensor([row[2] for row in rows]))


def parity(
    ours: Selection,
    theirs: Selection,
    limits: Thresholds = LIMITS,
    precision: str = "fp32",
    candidates: Selection | None = None,
) -> Parity:
    """candidates: of the network; where not given, its detections."""
    made = Parity()
    made.add(ours, theirs, TOLERANCES[precision], limits, ours if candidates is None else candidates)
    return made


OURS = selection((0, 0.9, 0), (100, 0.8, 1), (200, 0.5, 0))


def test_the_same() -> None:
    found = parity(OURS, OURS)
    assert (found.images, found.detections, found.differing, found.pairs, found.inversions) == (1, 3, 0, 3, 0)
    assert (found.box_difference, found.score_difference) == (0.0, 0.0)
    assert found.problem(FULL) is None


@pytest.mark.parametrize(
    ("theirs", "differing", "box", "score", "inversions"),
    [
        (selection((0, 0.9, 0), (102, 0.8, 1), (200, 0.5, 0)), 2, 2.0, 0.0, 0),
        (selection((0, 0.9, 0), (100, 0.8, 1), (200, 0.45, 0)), 2, 0.0, 0.05, 0),
        (selection((100, 0.95, 1), (0, 0.9, 0), (200, 0.5, 0)), 2, 0.0, 0.15, 1),
        (selection((0, 0.9, 0), (100, 0.8, 0), (200, 0.5, 0)), 2, 0.0, 0.0, 0),
        (selection((0, 0.9, 0), (200, 0.5, 0)), 1, 0.0, 0.0, 0),
    ],
    ids=["a box moved", "a score moved", "another order", "another class", "one missing"],
)
def test_true_differences(theirs: Selection, differing: int, box: float, score: float, inversions: int) -> None:
    """Each counts on both sides; one that is missing on one."""
    found = parity(OURS, theirs)
    assert (found.differing, found.inversions) == (differing, inversions)
    assert found.box_difference == pytest.approx(box, abs=1e-4)
    assert found.score_difference == pytest.approx(score, abs=1e-6)
    with pytest.raises(ExportError, match=r"onnx does not say what the weights say: .* not written"):
        found.check(FULL, "onnx")


def test_ties_are_no_difference() -> None:
    """Of two boxes with one score that stand for one object either may stay: 2 px of 20 apart, their IoU is .82."""
    ours = selection((0, 0.9, 0))

    def differing(other: tuple[float, float, int], *candidates: tuple[float, float, int]) -> int:
        return parity(ours, selection(other), candidates=selection((0, 0.9, 0), *candidates)).differing

    assert differing((2, 0.9, 0), (2, 0.9, 0)) == 0
    assert differing((2, 0.9, 0)) == 2, "none of the network's: a box that has moved"
    assert differing((2, 0.8, 0), (2, 0.8, 0)) == 1, "the worse one stayed"
    assert differing((6, 0.9, 0), (6, 0.9, 0)) == 2, "of another object: IoU .54"
    first, other = selection((0, 0.5, 0), (50, 0.5, 0)), selection((50, 0.5, 0), (0, 0.5, 0))
    assert (parity(first, other).pairs, parity(first, other).inversions) == (0, 0)


def test_ties_at_the_end_of_a_full_list() -> None:
    """One of two equal ones is the last that is kept; where a list is not full, something is missing."""
    ours, theirs = selection((0, 0.9, 0), (100, 0.5, 0)), selection((0, 0.9, 0), (200, 0.5, 0))
    every = selection((0, 0.9, 0), (100, 0.5, 0), (200, 0.5, 0))
    assert parity(ours, theirs, Thresholds(0.001, 0.7, 2), candidates=every).differing == 0
    assert parity(ours, theirs, candidates=every).differing == 2


def test_what_stands_for_a_tie_at_the_end_has_a_place_of_its_own() -> None:
    """In 8 bits a box 1 px off, with .1 more, would do for the one that the file left out for one with its score."""
    ours = selection((0, 0.9, 0), (100, 0.6, 0), (50, 0.55, 0), (101, 0.5, 0))
    theirs, limits = selection((0, 0.9, 0), (100, 0.6, 0), (50, 0.55, 0), (300, 0.5, 0)), Thresholds(0.001, 0.9, 4)
    every = selection((0, 0.9, 0), (100, 0.6, 0), (50, 0.55, 0), (101, 0.5, 0), (300, 0.5, 0))
    found = parity(ours, theirs, limits, "int8", every)
    assert (found.differing, found.pairs, found.inversions) == (0, 3, 0)
    assert (found.box_difference, found.score_difference) == (0.0, 0.0)
    overtaken = selection((0, 0.9, 0), (100, 0.6, 0), (101, 0.56, 0), (50, 0.55, 0))
    found = parity(ours, overtaken, limits, "int8", every)
    assert (found.pairs, found.inversions) == (6, 1), "their own one, in another place"


def test_half_precision_may_differ_more() -> None:
    theirs = selection((0.15, 0.895, 0), (100.15, 0.803, 1), (200.15, 0.5, 0))
    assert parity(OURS, theirs, precision="fp16").problem(TOLERANCES["fp16"]) is None
    assert parity(OURS, theirs).problem(FULL) is not None


def test_nothing_found() -> None:
    nothing = Selection(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64))
    assert parity(nothing, nothing).problem(FULL) is None
    assert parity(nothing, OURS).differing == 3
    assert parity(OURS, nothing).problem(FULL) is not None


def test_lost_ap() -> None:
    found = parity(OURS, OURS)
    found.ap, found.ap_exported = 0.5, 0.4985
    assert found.problem(TOLERANCES["fp16"]) is None
    assert found.problem(FULL) == "its AP is 0.4985, that of the weights 0.5000"
    found.ap_exported = 0.6
    assert found.problem(FULL) is None


def test_it_is_written(tmp_path: Path) -> None:
    write_record(tmp_path / "m.onnx", {"format": "onnx", **parity(OURS, OURS).to_dict()})
    written = json.loads((tmp_path / "m.onnx.parity.json").read_text())
    assert [written[key] for key in ("file", "format", "detections", "ap")] == ["m.onnx", "onnx", 3, None]
