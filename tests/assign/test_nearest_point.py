"""One point for each object: the level of its size, then the nearest."""

from __future__ import annotations

import torch
from torch import Tensor

from alignrank.assign import nearest_point

# Stride 8: (0,0) (8,0) (16,0) (24,0). Stride 16: (0,0) (16,0). Stride 32: (0,0).
POINTS = torch.tensor([[0.0, 0], [8, 0], [16, 0], [24, 0], [0, 0], [16, 0], [0, 0]])
STRIDES = torch.tensor([8.0, 8, 8, 8, 16, 16, 32])[:, None]


def assigned(*boxes: list[float]) -> list[int]:
    labels = torch.arange(len(boxes)) + 5
    gt_index, given = nearest_point(POINTS, STRIDES, torch.tensor(boxes).reshape(-1, 4), labels)
    assert torch.equal(given, torch.where(gt_index >= 0, gt_index + 5, -1))
    return gt_index.tolist()


def box(x: float, y: float, width: float, height: float) -> list[float]:
    """By its centre."""
    return [x - width / 2, y - height / 2, x + width / 2, y + height / 2]


def test_levels_by_size() -> None:
    """sqrt(w h) / 4: 32 px is stride 8, 63 px still, 64 px stride 16; less than 8 and more than 32 go to the ends."""
    assert assigned(box(9, 1, 32, 32)) == [-1, 0, -1, -1, -1, -1, -1]
    assert assigned(box(9, 1, 63, 63)) == [-1, 0, -1, -1, -1, -1, -1]
    assert assigned(box(9, 1, 128, 32)) == [-1, -1, -1, -1, -1, 0, -1]  # 64 in the geometric mean; 9 is nearer to 16
    assert assigned(box(9, 1, 4, 4)) == [-1, 0, -1, -1, -1, -1, -1]
    assert assigned(box(9, 1, 900, 900)) == [-1, -1, -1, -1, -1, -1, 0]


def test_the_nearer_object_has_the_point() -> None:
    """Both want (8,0); distances are in sides: 4 px of 32 are less than 3 px of 16. The other one gets none."""
    assert assigned(box(5, 0, 16, 16), box(4.5, 0, 32, 32)) == [-1, 1, -1, -1, -1, -1, -1]
    assert assigned(box(8, 0, 32, 32), box(8, 0, 32, 32)) == [-1, 0, -1, -1, -1, -1, -1]


def test_nothing() -> None:
    assert assigned() == [-1] * 7
    none: Tensor = torch.zeros(0, 2)
    assert len(nearest_point(none, torch.zeros(0, 1), torch.ones(1, 4), torch.zeros(1, dtype=torch.int64))[0]) == 0
