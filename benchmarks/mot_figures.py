"""MOTA and IDF1 of tracks against known truth, for `tracking.py`.

MOTA: Bernardin & Stiefelhagen 2008, "Evaluating multiple object tracking performance: the CLEAR MOT metrics". IDF1:
Ristani et al. 2016, "Performance measures and a data set for multi-target, multi-camera tracking".

Shape letters: T true objects of a frame, N tracked ones.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from alignrank.boxes import pairwise_iou

Frame = tuple[Sequence[int], Tensor]  # ids [N], boxes [N,4]
IOU = 0.5


@dataclass(frozen=True, slots=True)
class MotFigures:
    """mota: 1 - (misses + false + switches) / objects, at most 1. idf1: 0..1, of the best one-to-one choice of a track
    for each true object over all frames.
    """

    mota: float
    idf1: float
    objects: int
    misses: int
    false: int
    switches: int


def mot_figures(truth: Sequence[Frame], found: Sequence[Frame], iou: float = IOU) -> MotFigures:
    """truth and found: frame by frame. A box is of an object from this overlap on."""
    objects = misses = false = switches = 0
    last: dict[int, int] = {}  # the track that an object had when it was seen last
    together: Counter[tuple[int, int]] = Counter()
    for (true_ids, true_boxes), (ids, boxes) in zip(truth, found, strict=True):
        overlap = pairwise_iou(true_boxes.reshape(-1, 4), boxes.reshape(-1, 4))
        fits = overlap >= iou
        together.update((true_ids[i], ids[j]) for i, j in fits.nonzero().tolist())
        pairs = _pairs(true_ids, ids, overlap, fits, last)
        for i, j in pairs:
            switches += last.get(true_ids[i], ids[j]) != ids[j]
            last[true_ids[i]] = ids[j]
        objects += len(true_ids)
        misses += len(true_ids) - len(pairs)
        false += len(ids) - len(pairs)
    all_found = sum(len(ids) for ids, _ in found)
    idf1 = 2 * _shared(together) / max(objects + all_found, 1)
    return MotFigures(1 - (misses + false + switches) / max(objects, 1), idf1, objects, misses, false, switches)


def _pairs(
    true_ids: Sequence[int], ids: Sequence[int], overlap: Tensor, fits: Tensor, last: dict[int, int]
) -> list[tuple[int, int]]:
    """(true, tracked) of a frame: pairs of before that still fit, then those of the rest with most overlap in all."""
    place = {number: j for j, number in enumerate(ids)}
    kept = [(i, place[last[number]]) for i, number in enumerate(true_ids) if last.get(number) in place]
    kept = [(i, j) for i, j in kept if fits[i, j]]
    gain = torch.where(fits, overlap, 0.0)
    for i, j in kept:
        gain[i, :] = gain[:, j] = 0
    rows, columns = linear_sum_assignment(gain.numpy(), maximize=True)
    return kept + [(i, j) for i, j in zip(rows.tolist(), columns.tolist(), strict=True) if gain[i, j] > 0]


def _shared(together: Counter[tuple[int, int]]) -> int:
    """Frames in which objects are with their tracks, of the best one-to-one choice."""
    rows, columns = (sorted({pair[axis] for pair in together}) for axis in (0, 1))
    frames = torch.zeros(len(rows), len(columns))
    for (i, j), count in together.items():
        frames[rows.index(i), columns.index(j)] = count
    return int(frames[linear_sum_assignment(frames.numpy(), maximize=True)].sum())
