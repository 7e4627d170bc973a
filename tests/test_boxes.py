"""Box geometry: hand-worked numbers, and properties over random boxes."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from alignrank import boxes as geometry

A = torch.tensor([[0.0, 0.0, 2.0, 2.0]], dtype=torch.float64)
B = torch.tensor([[1.0, 1.0, 3.0, 3.0]], dtype=torch.float64)


def random_boxes(count: int, *, dtype: torch.dtype = torch.float64) -> Tensor:
    corner, side = torch.rand(count, 2, dtype=dtype) * 50, torch.rand(count, 2, dtype=dtype) * 50 + 0.5
    return torch.cat([corner, corner + side], 1)


def test_worked_overlap() -> None:
    """2x2 boxes a pixel apart on the diagonal: intersection 1, union 4 + 4 - 1 = 7, enclosing 3 * 3 = 9.

    IoU = 1/7; GIoU = 1/7 - (9 - 7)/9. CIoU: the centres are (1,1) and (2,2), rho^2 = 2; the enclosing diagonal
    squared is 18; the shapes are equal, v = 0: 1/7 - 2/18.
    """
    for value, expected in [
        (geometry.aligned_iou(A, B), 1 / 7),
        (geometry.pairwise_iou(A, B)[0], 1 / 7),
        (geometry.aligned_giou(A, B), 1 / 7 - 2 / 9),
        (geometry.pairwise_giou(A, B)[0], 1 / 7 - 2 / 9),
        (geometry.aligned_ciou(A, B), 1 / 7 - 2 / 18),
    ]:
        assert value.item() == pytest.approx(expected, abs=1e-6)


def test_worked_ciou_of_another_shape() -> None:
    """A against 2 wide, 4 high at the same corner: IoU = 4/8; centres (1,1), (1,2): rho^2 = 1, diagonal^2 = 4 + 16.

    v = 4/pi^2 * (atan(2/4) - atan(2/2))^2, alpha = v / (1 - 1/2 + v); CIoU = 1/2 - 1/20 - alpha * v.
    """
    tall = torch.tensor([[0.0, 0.0, 2.0, 4.0]], dtype=torch.float64)
    v = 4 / math.pi**2 * (math.atan(0.5) - math.atan(1)) ** 2
    expected = 0.5 - 1 / 20 - v / (0.5 + v) * v
    assert geometry.aligned_ciou(A, tall).item() == pytest.approx(expected, abs=1e-6)
    assert geometry.aligned_ciou(tall, A).item() == pytest.approx(expected, abs=1e-6)


def test_worked_giou_of_distant_boxes() -> None:
    """Unit squares with 8 between them in x: no overlap, union 2, enclosing 10 * 1: GIoU = 0 - 8/10."""
    a, b = torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.tensor([[9.0, 0.0, 10.0, 1.0]])
    assert geometry.aligned_giou(a, b).item() == pytest.approx(-0.8)
    assert geometry.pairwise_giou(a, b).item() == pytest.approx(-0.8)


def test_boxes_without_area() -> None:
    """A point against itself and against a box: overlap 0, never NaN."""
    point = torch.tensor([[1.0, 1.0, 1.0, 1.0]])
    for other in (point, A.float()):
        assert geometry.pairwise_iou(point, other).item() == 0
        assert geometry.aligned_iou(point, other).item() == 0
        for function in (geometry.pairwise_giou, geometry.aligned_giou, geometry.aligned_ciou):
            assert function(point, other).isfinite().all()


@pytest.mark.parametrize("name", ["iou", "giou"])
def test_pairwise_agrees_with_aligned(name: str) -> None:
    a, b = random_boxes(7), random_boxes(5)
    pairwise = getattr(geometry, f"pairwise_{name}")(a, b)
    aligned = getattr(geometry, f"aligned_{name}")(a[:, None].expand(7, 5, 4), b[None].expand(7, 5, 4))
    assert pairwise.shape == (7, 5)
    assert_close(pairwise, aligned, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["iou", "giou", "ciou"])
def test_overlap_properties(name: str) -> None:
    """Symmetric; unchanged by moving and scaling both boxes; 1 exactly with itself; IoU bounds the others."""
    function: Callable[..., Tensor] = getattr(geometry, f"aligned_{name}")
    a, b = random_boxes(50), random_boxes(50)
    value = function(a, b)
    assert_close(function(b, a), value, rtol=0, atol=1e-9)
    assert_close(function(a * 3 + 17, b * 3 + 17), value, rtol=0, atol=1e-6)
    assert_close(function(a, a), torch.ones(50, dtype=a.dtype), rtol=0, atol=1e-6)
    assert (value <= geometry.aligned_iou(a, b) + 1e-9).all()
    assert value.std() > 0.1  # the boxes do differ


@pytest.mark.parametrize("name", ["aligned_iou", "aligned_giou", "aligned_ciou", "pairwise_iou", "pairwise_giou"])
def test_dtype_and_empty(name: str) -> None:
    function: Callable[..., Tensor] = getattr(geometry, name)
    assert function(A, B).dtype == torch.float64
    for low in (torch.float16, torch.bfloat16, torch.float32):
        assert function(A.to(low), B.to(low)).dtype == torch.float32
    none = torch.zeros(0, 4)
    assert function(none, none).shape == ((0, 0) if name.startswith("pairwise") else (0,))
    if name.startswith("pairwise"):
        assert function(none, A.float()).shape == (0, 1)


def test_half_precision_input_is_computed_in_float32() -> None:
    """In float16 the area of a 300 px square overflows (90,000 > 65,504); IoU with its left half is still 1/2."""
    square = torch.tensor([[0.0, 0.0, 300.0, 300.0]], dtype=torch.float16)
    half = torch.tensor([[0.0, 0.0, 150.0, 300.0]], dtype=torch.float16)
    assert geometry.aligned_iou(square, half).item() == pytest.approx(0.5)


def test_worked_conversions() -> None:
    """Left 1, top 2, width 3, height 4: right 4, bottom 6, centre (2.5, 4)."""
    xyxy = torch.tensor([[1.0, 2.0, 4.0, 6.0]])
    xywh = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    cxcywh = torch.tensor([[2.5, 4.0, 3.0, 4.0]])
    assert torch.equal(geometry.xywh_to_xyxy(xywh), xyxy)
    assert torch.equal(geometry.xyxy_to_xywh(xyxy), xywh)
    assert torch.equal(geometry.cxcywh_to_xyxy(cxcywh), xyxy)
    assert torch.equal(geometry.xyxy_to_cxcywh(xyxy), cxcywh)
    assert geometry.area(xyxy).item() == 12


def test_worked_distances() -> None:
    """From the point (2, 5): 1 to the left side, 3 to the top, 2 to the right, 1 to the bottom; outside negative."""
    box = torch.tensor([[1.0, 2.0, 4.0, 6.0]])
    point = torch.tensor([[2.0, 5.0]])
    distances = geometry.xyxy_to_distances(point, box)
    assert distances.tolist() == [[1, 3, 2, 1]]
    assert torch.equal(geometry.distances_to_xyxy(point, distances), box)
    assert geometry.xyxy_to_distances(torch.tensor([[0.0, 5.0]]), box).tolist() == [[-1, 3, 4, 1]]


ANCHOR = torch.tensor([[10.0, 20.0, 30.0, 60.0]], dtype=torch.float64)


def test_worked_deltas() -> None:
    """The anchor is 20 x 40 about (20, 40); the box, 40 x 10 about (25, 30).

    The centre moves by 5/20 and -10/40 of the sides; the sides are 2 and 1/4 of the anchor's.
    """
    box = torch.tensor([[5.0, 25.0, 45.0, 35.0]], dtype=torch.float64)
    deltas = torch.tensor([[0.25, -0.25, math.log(2), -math.log(4)]], dtype=torch.float64)
    assert_close(geometry.xyxy_to_deltas(ANCHOR, box), deltas)
    assert_close(geometry.deltas_to_xyxy(ANCHOR, deltas), box)
    assert torch.equal(geometry.deltas_to_xyxy(ANCHOR, torch.zeros_like(ANCHOR)), ANCHOR)
    assert torch.equal(geometry.xyxy_to_deltas(ANCHOR, ANCHOR), torch.zeros_like(ANCHOR))


def test_deltas_there_and_back() -> None:
    """Anchors of at least 1.5 px, boxes of at most 50.5: no factor is cut. Moving and scaling both changes nothing."""
    anchors, boxes = random_boxes(200), random_boxes(200)
    anchors[:, 2:] += 1
    deltas = geometry.xyxy_to_deltas(anchors, boxes)
    assert deltas[:, 2:].max() < geometry.LARGEST_LOG
    assert_close(geometry.deltas_to_xyxy(anchors, deltas), boxes)
    assert_close(geometry.xyxy_to_deltas(anchors * 3 + 17, boxes * 3 + 17), deltas)
    other = torch.randn(2, 200, 4, dtype=torch.float64)
    assert_close(geometry.xyxy_to_deltas(anchors, geometry.deltas_to_xyxy(anchors, other)), other)


def test_largest_decoded_side() -> None:
    """62.5 times the anchor's 20 x 40, about its centre (20, 40): 1,250 x 2,500. Small factors have no bound."""
    huge = geometry.deltas_to_xyxy(ANCHOR, torch.tensor([[0.0, 0.0, 1e4, 1e4]], dtype=torch.float64))
    assert_close(huge, torch.tensor([[20.0 - 625, 40.0 - 1250, 20.0 + 625, 40.0 + 1250]], dtype=torch.float64))
    below = torch.tensor([[0.0, 0.0, math.log(60), -math.log(100)]], dtype=torch.float64)
    expected = torch.tensor([[20.0 - 600, 40.0 - 0.2, 20.0 + 600, 40.0 + 0.2]], dtype=torch.float64)
    assert_close(geometry.deltas_to_xyxy(ANCHOR, below), expected)


def test_gradient_of_deltas() -> None:
    """Left = centre + shift * 20 - 20/2 * exp(factor): by the shift 20, by the factor -10 * 2 at log 2.

    Finite from -1e4 to 1e4, and 0 for a factor beyond the bound.
    """
    deltas = torch.tensor([[0.0, 0.0, math.log(2), 0.0]], dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(geometry.deltas_to_xyxy(ANCHOR, deltas)[0, 0], deltas)
    assert_close(gradient, torch.tensor([[20.0, 0.0, -20.0, 0.0]], dtype=torch.float64))
    for size in (-1e4, 1e4):
        extreme = torch.full((1, 4), size, requires_grad=True)
        boxes = geometry.deltas_to_xyxy(ANCHOR.float(), extreme)
        (gradient,) = torch.autograd.grad(boxes.square().sum(), extreme)
        assert boxes.isfinite().all()
        assert gradient.isfinite().all()
        assert gradient[0, 2:].tolist() == [0, 0]
        assert (gradient[0, :2] != 0).all()


def test_deltas_of_nothing() -> None:
    """No boxes, of one image or of three; leading dimensions of the deltas are kept."""
    for shape in [(0, 4), (3, 0, 4)]:
        none = torch.zeros(shape)
        assert geometry.deltas_to_xyxy(none, none).shape == shape
        assert geometry.xyxy_to_deltas(none, none).shape == shape
    assert geometry.deltas_to_xyxy(ANCHOR, torch.zeros(3, 1, 4)).shape == (3, 1, 4)


@pytest.mark.parametrize("iou", [0.0, 0.3, 0.75])
def test_overlapping_is_an_iou_above_the_threshold(iou: float) -> None:
    """Boxes without area, apart in x, in y and in both among them; 2 x 2 px, whose IoU is 1/7."""
    boxes = torch.stack([random_boxes(80), random_boxes(80)])
    boxes[1, :, 3] = boxes[1, :, 1]
    boxes[1, :40] = boxes[0, :40] + 1
    assert torch.equal(geometry.overlapping(boxes, boxes, iou), geometry.mutual_iou(boxes, eps=0).nan_to_num(0) > iou)
    assert geometry.overlapping(torch.cat([A, B]), B, 0.142).tolist() == [[True], [True]]
    assert geometry.overlapping(torch.cat([A, B]), B, 0.143).tolist() == [[False], [True]]


def test_share_of_a_box_within_others() -> None:
    """4 x 2 px: a half, all, nothing of it; 0 where it has no area."""
    boxes = torch.tensor([[0.0, 0, 4, 2], [1, 1, 1, 2]])
    others = torch.tensor([[2.0, -5, 9, 9], [-1, -1, 9, 9], [5, 0, 9, 2]])
    assert geometry.pairwise_share(boxes, others).tolist() == [[0.5, 1, 0], [0, 0, 0]]


def test_mirrored() -> None:
    """In a picture 10 px wide; twice is nothing."""
    box = torch.tensor([1.0, 2.0, 4.0, 8.0])
    assert geometry.mirrored(box, 10).tolist() == [6, 2, 9, 8]
    batch = random_boxes(6).reshape(2, 3, 4)
    widths = torch.tensor([100.0, 70.0], dtype=torch.float64)[:, None]
    turned = geometry.mirrored(batch, widths)
    assert_close(geometry.mirrored(turned, widths), batch)
    assert_close(geometry.area(turned), geometry.area(batch))
    assert turned[1, 0, 0] == 70 - batch[1, 0, 2]
