"""The parity gate: how far the detections of an exported file are from those of the network that it was made of.

Compared are the best `TOP` detections of each image, as `val` would count them, end to end. Detections may come in
another order where their scores are as good as equal, and another one may be chosen of two that are; both are
explained by ties, and are no difference. All else is.

Shape letters: N detections of the network, M of the file, of an image.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from alignrank.contracts import Selection, Thresholds
from alignrank.errors import ExportError
from alignrank.export.graph import Array
from alignrank.folders import replacing

TOP = 100
# Boxes that overlap by less are of different objects.
SAME = 0.5
# Of two boxes as near to a threshold of overlap the one counts as above, the other not.
NEAR = 0.01
SUFFIX = ".parity.json"


@dataclass(frozen=True, slots=True)
class Tolerance:
    """What a file may differ by. boxes: share of a box's largest coordinate, at least of 1 px; scores: absolute;
    differing, inversions: shares of the compared detections, and of the pairs of them with an order; ap: 0..1.
    """

    boxes: float
    scores: float
    differing: float
    inversions: float
    ap: float


# By the precision of the weights. 32 bits: the last digits, and one in a hundred for what no tie explains but nearly. 8
# bits: pairs of nearly equal scores change places by the hundred at hardly any AP, so there AP decides.
TOLERANCES = {
    "fp32": Tolerance(boxes=1e-3, scores=1e-4, differing=0.01, inversions=0.001, ap=0.001),
    "fp16": Tolerance(boxes=1e-2, scores=1e-2, differing=0.05, inversions=0.02, ap=0.005),
    "int8": Tolerance(boxes=5e-2, scores=0.15, differing=0.15, inversions=0.1, ap=0.01),
}


@dataclass(slots=True)
class Parity:
    """box_difference: the greatest, px of the picture; score_difference: the greatest. Both are of detections and their
    counterparts, which are of the same class and overlap; a tie has none. differing: detections of either side that no
    counterpart within tolerance and no tie explains. inversions: pairs of `pairs` that the file ranks the other way
    round. ap, of COCO, where there is ground truth.
    """

    images: int = 0
    detections: int = 0
    box_difference: float = 0.0
    score_difference: float = 0.0
    differing: int = 0
    pairs: int = 0
    inversions: int = 0
    ap: float | None = None
    ap_exported: float | None = None

    def add(
        self,
        expected: Selection,
        actual: Selection,
        tolerance: Tolerance,
        limits: Thresholds,
        candidates: Selection,
        *,
        ends: bool = False,
    ) -> None:
        """An image: boxes in pixels of the picture, best first. limits: that both were selected with. candidates: what
        the network's detections were selected from. ends: the file's list may end sooner, because fewer were.
        """
        ours, theirs = _rows(expected), _rows(actual)
        partner, apart = _partners(ours, theirs, tolerance)
        near = apart <= 1
        stays = near | _same_place(ours, theirs, partner, tolerance)
        stays &= ~_stands_at_end(ours, theirs, partner, apart)
        own = _partners(theirs, _rows(candidates), tolerance)[1] <= 1
        first = slice(0, TOP)
        self.images += 1
        self.detections += len(ours.scores[first])
        at_end, stands = _ties(ours, theirs, tolerance, limits, ends=ends)
        missing = ~(near | at_end | (stands & own).any(1))
        at_end, stands = _ties(theirs, ours, tolerance, limits)
        more = ~((_partners(theirs, ours, tolerance)[1] <= 1) | at_end | (stands.any(1) & own))
        self.differing += int(missing[first].sum() + more[first].sum())
        # What stands in for a tie is another box, which has its own place in the order.
        found = (partner >= 0)[first] & (stays | missing)[first]
        scores, others = ours.scores[first][found], theirs.scores[partner[first][found]]
        if not len(scores):
            return
        moved = np.abs(ours.boxes[first][found] - theirs.boxes[partner[first][found]])
        self.box_difference = max(self.box_difference, float(moved.max()))
        self.score_difference = max(self.score_difference, float(np.abs(scores - others).max()))
        ahead = scores[:, None] - scores[None] > 2 * TOLERANCES["fp32"].scores
        self.pairs += int(ahead.sum())
        self.inversions += int((ahead & (others[:, None] < others[None])).sum())

    def problem(self, tolerance: Tolerance) -> str | None:
        """What is above tolerance, in words; None if nothing is."""
        if self.differing > tolerance.differing * 2 * max(self.detections, 1):
            return f"{self.differing} detections differ on {self.images} images, where {self.detections} were compared"
        if self.inversions > tolerance.inversions * self.pairs:
            return f"{self.inversions} of {self.pairs} pairs of detections are ranked the other way round"
        if self.ap is not None and self.ap_exported is not None and self.ap - self.ap_exported > tolerance.ap:
            return f"its AP is {self.ap_exported:.4f}, that of the weights {self.ap:.4f}"
        return None

    def check(self, tolerance: Tolerance, what: str) -> None:
        """Raises ExportError if anything is above tolerance."""
        problem = self.problem(tolerance)
        if problem is not None:
            raise ExportError(
                f"export: {what} does not say what the weights say: {problem} (boxes by up to "
                f"{self.box_difference:.3g} px, scores by up to {self.score_difference:.3g}); not written",
                {"first_difference": None},
            )

    def to_dict(self) -> dict[str, Any]:
        """Figures by name."""
        return asdict(self)


def record_of(exported: Path) -> Path:
    """Where the comparison of an exported file lies."""
    return exported.with_name(exported.name + SUFFIX)


def write_record(exported: Path, record: Mapping[str, Any]) -> None:
    """As JSON beside an exported file."""
    with replacing(record_of(exported)) as beside:
        beside.write_text(json.dumps({"file": exported.name, **record}, indent=1) + "\n", encoding="utf-8")


@dataclass(slots=True)
class _Rows:
    """boxes [N,4], scores [N], labels [N]."""

    boxes: Array
    scores: Array
    labels: Array


def _rows(selection: Selection) -> _Rows:
    return _Rows(
        selection.boxes.double().cpu().numpy(), selection.scores.double().cpu().numpy(), selection.labels.cpu().numpy()
    )


def _partners(ours: _Rows, theirs: _Rows, tolerance: Tolerance) -> tuple[Array, Array]:
    """[N] int, the one of theirs that is most alike, -1: none overlaps; [N], its distance as a share of what is
    tolerated.
    """
    if not len(theirs.scores):
        return np.full(len(ours.scores), -1), np.full(len(ours.scores), np.inf)
    apart = np.abs(ours.boxes[:, None] - theirs.boxes).max(-1) / (tolerance.boxes * _largest(ours.boxes)[:, None])
    apart = np.maximum(apart, np.abs(ours.scores[:, None] - theirs.scores) / tolerance.scores)
    apart[(ours.labels[:, None] != theirs.labels)] = np.inf
    best = apart.argmin(1)
    one = np.arange(len(best))
    least = apart[one, best]
    alike = (least <= 1) | ((_overlaps(ours.boxes, theirs.boxes)[one, best] > SAME) & np.isfinite(least))
    return np.where(alike, best, -1), least


def _same_place(ours: _Rows, theirs: _Rows, partner: Array, tolerance: Tolerance) -> Array:
    """[N] bool, whether the box of the partner is within tolerance, whatever its score."""
    if not len(theirs.scores):
        return np.zeros(len(partner), dtype=bool)
    apart = np.abs(ours.boxes - theirs.boxes[partner]).max(-1, initial=0)
    same: Array = (partner >= 0) & (apart <= tolerance.boxes * _largest(ours.boxes))
    return same


def _stands_at_end(ours: _Rows, theirs: _Rows, partner: Array, apart: Array) -> Array:
    """[N] bool, which are as good as the last of theirs, and have the partner of another one of ours that is more like
    it: their own was left out.
    """
    if not len(theirs.scores):
        return np.zeros(len(partner), dtype=bool)
    last = ours.scores <= theirs.scores[-1] + 2 * TOLERANCES["fp32"].scores
    stands: Array = last & ((partner[:, None] == partner) & (apart < apart[:, None])).any(1)
    return stands


def _largest(boxes: Array) -> Array:
    """[N,4] -> [N], the largest coordinate, at least 1 px."""
    largest: Array = np.maximum(np.abs(boxes).max(-1, initial=0), 1)
    return largest


def _ties(
    ours: _Rows, theirs: _Rows, tolerance: Tolerance, limits: Thresholds, *, ends: bool = False
) -> tuple[Array, Array]:
    """[N] bool, which of ours are as good as the last of their list, where that is full or `ends`; [N,M] bool, which of
    theirs are as good and stand for the same object.
    """
    tie, count = 2 * tolerance.scores, len(theirs.scores)
    is_full = count >= min(TOP, limits.max_dets) or (ends and count > 0)
    at_end = ours.scores <= (theirs.scores[-1] + tie if is_full else -np.inf)
    stands = _overlaps(ours.boxes, theirs.boxes) > limits.iou - NEAR
    stands &= (theirs.scores >= ours.scores[:, None] - tie) & (theirs.labels == ours.labels[:, None])
    return at_end, stands


def _overlaps(boxes: Array, others: Array) -> Array:
    """[N,4], [M,4] -> IoU [N,M]."""
    sides = np.minimum(boxes[:, None, 2:], others[:, 2:]) - np.maximum(boxes[:, None, :2], others[:, :2])
    common = sides.clip(0).prod(-1)
    areas = [(some[:, 2:] - some[:, :2]).prod(-1) for some in (boxes, others)]
    overlaps: Array = common / np.maximum(areas[0][:, None] + areas[1] - common, 1e-9)
    return overlaps
