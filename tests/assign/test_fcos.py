"""FCOS: cases worked by hand, and a plain loop over random objects."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from alignrank.assign import fcos
from alignrank.nn.grid import grid_points

STRIDES = [8.0, 16.0, 32.0, 64.0, 128.0]


def points_at(*rows: list[float], stride: float = 8.0) -> tuple[Tensor, Tensor]:
    """Points of one level and their strides, float64. A level that is alone is for all sizes."""
    points = torch.tensor(rows, dtype=torch.float64).reshape(-1, 2)
    return points, torch.full((len(points), 1), stride, dtype=torch.float64)


def boxes(*rows: list[float]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64).reshape(-1, 4)


def about(x: float, y: float, half_width: float, half_height: float) -> list[float]:
    return [x - half_width, y - half_height, x + half_width, y + half_height]


def assigned(points: tuple[Tensor, Tensor], gt_boxes: Tensor, **options: float) -> list[int]:
    """Indices of the objects; the labels, 100 more, are checked."""
    gt_index, labels = fcos(*points, gt_boxes, torch.arange(len(gt_boxes)) + 100, **options)
    assert torch.equal(labels, torch.where(gt_index >= 0, gt_index + 100, -1))
    return gt_index.tolist()


@pytest.mark.parametrize(
    ("reach", "levels"),
    [
        (0.5, [0]),
        (63.5, [0]),
        (64.0, [0, 1]),
        (64.5, [1]),
        (128.0, [1, 2]),
        (200.0, [2]),
        (256.0, [2, 3]),
        (300.0, [3]),
        (512.0, [3, 4]),
        (513.0, [4]),
        (9000.0, [4]),
    ],
)
def test_sizes_of_the_levels(reach: float, levels: list[int]) -> None:
    """One point of each level in the middle of an object: all four distances are half of its side.

    A level is for distances of 4 to 8 strides, both included: 64 to 128 px at stride 16; the finest from 0 on, the
    last without end.
    """
    points = torch.full((5, 2), 600.0, dtype=torch.float64), torch.tensor(STRIDES, dtype=torch.float64)[:, None]
    found = assigned(points, boxes(about(600, 600, reach, reach)))
    assert found == [0 if level in levels else -1 for level in range(5)]


@pytest.mark.parametrize("side", range(4))
def test_size_is_the_largest_distance(side: int) -> None:
    """20 px to three sides and 70 to the fourth: of strides 8 (to 64 px), 16 (64 to 128) and 32 it is the second's.

    The radius is large, as the point is 25 px from the centre.
    """
    distances = [20.0] * 4
    distances[side] = 70.0
    left, top, right, bottom = distances
    points = torch.full((3, 2), 100.0, dtype=torch.float64), torch.tensor(STRIDES[:3], dtype=torch.float64)[:, None]
    found = assigned(points, boxes([100 - left, 100 - top, 100 + right, 100 + bottom]), radius=9)
    assert found == [-1, 0, -1]


def test_centre_sampling() -> None:
    """An object of 100 px with its centre at 50, stride 8: below 12 px in x and in y, so a square and not a disc."""
    near = [[50.0, 50.0], [61.9, 50.0], [50.0, 38.1], [61.9, 38.1]]
    far = [[62.0, 50.0], [50.0, 38.0], [50.0, 62.1], [0.1, 50.0]]
    assert assigned(points_at(*near, *far), boxes([0, 0, 100, 100])) == [0] * 4 + [-1] * 4


def test_radius_is_in_strides() -> None:
    """15 px from the centre: 1.5 * 8 = 12 is too little, 2 * 8 and 1.5 * 16 are not."""
    gt_boxes = boxes([0, 0, 100, 100])
    assert assigned(points_at([65, 50]), gt_boxes) == [-1]
    assert assigned(points_at([65, 50]), gt_boxes, radius=2) == [0]
    assert assigned(points_at([65, 50], stride=16), gt_boxes) == [0]


@pytest.mark.parametrize(
    ("x", "y"), [(54.0, 50.0), (46.0, 50.0), (50.0, 46.0), (50.0, 54.0), (56.0, 50.0), (50.0, 44.0)]
)
def test_points_outside(x: float, y: float) -> None:
    """An object of 8 px about (50, 50): on its edge or beyond, though within the radius of 12 px."""
    assert assigned(points_at([x, y], [50, 50]), boxes(about(50, 50, 4, 4))) == [-1, 0]


@pytest.mark.parametrize("order", [[0, 1], [1, 0]])
def test_ambiguous_point_goes_to_the_smaller(order: list[int]) -> None:
    """Both about (50, 50): 20 x 20 has more area than 8 x 40, though its longest side is shorter.

    (57, 50) is inside the first alone, (50, 61) inside the second alone, and (50, 57) inside both.
    """
    gt_boxes = boxes(about(50, 50, 10, 10), about(50, 50, 4, 20))[order]
    square, tall = order.index(0), order.index(1)
    found = assigned(points_at([50, 50], [57, 50], [50, 61], [50, 57]), gt_boxes)
    assert found == [tall, square, tall, tall]


def test_the_smaller_must_want_the_point() -> None:
    """(30, 50) is inside both, but 20 px from the centre of the smaller: the radius of 12 leaves it to the larger.

    And of two levels at the centre of both the finer has the small object, the coarser the large one.
    """
    gt_boxes = boxes(about(30, 50, 40, 50), about(50, 50, 25, 10))
    assert assigned(points_at([30, 50], [50, 50]), gt_boxes) == [0, 1]
    points = torch.full((2, 2), 200.0, dtype=torch.float64), torch.tensor([[8.0], [16.0]], dtype=torch.float64)
    assert assigned(points, boxes(about(200, 200, 100, 100), about(200, 200, 50, 50))) == [1, 0]


def test_equal_objects() -> None:
    """The first has all points, of equal boxes and of boxes of equal area."""
    gt_boxes = boxes(about(50, 50, 5, 20), about(50, 50, 20, 5), about(50, 50, 5, 20))
    assert assigned(points_at([50, 50], [50, 60], [60, 50]), gt_boxes) == [0, 0, 1]


@pytest.mark.parametrize("count", [0, 3])
def test_no_objects(count: int) -> None:
    points, strides = points_at(*[[50, 50]] * count)
    gt_index, labels = fcos(points, strides, torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
    assert gt_index.tolist() == labels.tolist() == [-1] * count
    assert gt_index.dtype == labels.dtype == torch.int64


def test_no_points() -> None:
    gt_index, labels = fcos(*points_at(), boxes([0, 0, 8, 8]), torch.tensor([0]))
    assert gt_index.shape == labels.shape == (0,)


def test_object_without_points() -> None:
    """4 px between points that are 8 px apart; the other object has its point all the same."""
    assert assigned(points_at([4, 4], [12, 4]), boxes([6, 2, 10, 6], [0, 0, 8, 8])) == [1, -1]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_equals_plain_loop(seed: int) -> None:
    """Three levels of a 256 px image, 15 objects of whole pixels and sides of 4 to 203."""
    maps = [torch.zeros(1, 1, 256 // stride, 256 // stride) for stride in (8, 16, 32)]
    points, strides = grid_points(maps, (8, 16, 32))
    generator = torch.Generator().manual_seed(seed)
    corner = torch.randint(0, 150, (15, 2), generator=generator)
    side = torch.randint(2, 15, (15, 2), generator=generator).square() + torch.arange(15)[:, None] % 8
    gt_boxes = torch.cat([corner, corner + side], 1).float()
    expected = []
    for (x, y), (stride,) in zip(points.tolist(), strides.tolist(), strict=True):
        best, best_area = -1, float("inf")
        for index, (left, top, right, bottom) in enumerate(gt_boxes.tolist()):
            sides = [x - left, y - top, right - x, bottom - y]
            away = max(abs(x - (left + right) / 2), abs(y - (top + bottom) / 2))
            low, high = {8: (0, 64), 16: (64, 128), 32: (128, float("inf"))}[stride]
            area = (right - left) * (bottom - top)
            if min(sides) > 0 and away < 1.5 * stride and low <= max(sides) <= high and area < best_area:
                best, best_area = index, area
        expected.append(best)
    assert assigned((points, strides), gt_boxes) == expected
    assert len(set(expected)) > 5
    assert all((torch.tensor(expected)[strides[:, 0] == stride] >= 0).any() for stride in (8, 16, 32))


def test_half_precision() -> None:
    """Areas of 300 x 300 and 280 x 280 px do not fit float16; the smaller object is still the smaller."""
    points, strides = points_at([200, 200], stride=32)
    gt_boxes = boxes(about(200, 200, 150, 150), about(200, 200, 140, 140))
    assert assigned((points.half(), strides.half()), gt_boxes.half()) == [1]


@pytest.mark.parametrize("radius", [0.0, -1.0, float("nan")])
def test_wrong_radius(radius: float) -> None:
    with pytest.raises(ValueError, match="radius must be positive, got"):
        fcos(*points_at([50, 50]), boxes([0, 0, 100, 100]), torch.tensor([0]), radius=radius)
