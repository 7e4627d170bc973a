"""Geometry of xyxy boxes, and the only conversions to and from other forms.

Everything computes in at least float32 and keeps float64. Shape letters: n, m boxes; P pairs.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor


def at_least_float32(x: Tensor) -> Tensor:
    """float64 stays; everything else becomes float32."""
    return x if x.dtype == torch.float64 else x.float()


def outside_autocast(x: Tensor) -> AbstractContextManager[Any]:
    """The tensors' own precision, on the device of `x`. The meta device, where only shapes are, knows no autocast.

    Where autocast is off already there is nothing to do: an exporter would take each context for a graph of its own.
    """
    on = not x.is_meta and torch.is_autocast_enabled(x.device.type)
    return torch.autocast(x.device.type, enabled=False) if on else nullcontext()


def area(boxes: Tensor) -> Tensor:
    """[...,4] -> [...], px^2."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def _intersection_and_union(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    side = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp(min=0)
    intersection = side[..., 0] * side[..., 1]
    return intersection, area(a) + area(b) - intersection


def _enclosing_side(a: Tensor, b: Tensor) -> Tensor:
    return (torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])).clamp(min=0)


def _iou(a: Tensor, b: Tensor, eps: float) -> Tensor:
    intersection, union = _intersection_and_union(a, b)
    return intersection / (union + eps)


def _giou(a: Tensor, b: Tensor, eps: float) -> Tensor:
    intersection, union = _intersection_and_union(a, b)
    side = _enclosing_side(a, b)
    enclosing = side[..., 0] * side[..., 1]
    return intersection / (union + eps) - (enclosing - union) / (enclosing + eps)


def _ciou(a: Tensor, b: Tensor, eps: float) -> Tensor:
    """Complete IoU (Zheng et al. 2020, eq. 10): IoU - rho^2/c^2 - alpha*v, alpha a constant of the gradient."""
    intersection, union = _intersection_and_union(a, b)
    iou = intersection / (union + eps)
    side = _enclosing_side(a, b)
    diagonal2 = side.square().sum(-1) + eps
    centre_gap2 = (a[..., :2] + a[..., 2:] - b[..., :2] - b[..., 2:]).square().sum(-1) / 4
    width_a, height_a = (a[..., 2:] - a[..., :2]).unbind(-1)
    width_b, height_b = (b[..., 2:] - b[..., :2]).unbind(-1)
    # atan2 is defined for a height of 0, where the quotient is not.
    v = (4 / math.pi**2) * (torch.atan2(width_b, height_b) - torch.atan2(width_a, height_a)).square()
    with torch.no_grad():
        alpha = v / (1 - iou + v + eps)
    return iou - centre_gap2 / diagonal2 - alpha * v


def aligned_iou(a: Tensor, b: Tensor, *, eps: float = 1e-7) -> Tensor:
    """[n,4],[n,4] -> [n] in 0..1; 0 for pairs without area."""
    return _iou(at_least_float32(a), at_least_float32(b), eps)


def aligned_giou(a: Tensor, b: Tensor, *, eps: float = 1e-7) -> Tensor:
    """[n,4],[n,4] -> [n] in -1..1 (Rezatofighi et al. 2019)."""
    return _giou(at_least_float32(a), at_least_float32(b), eps)


def aligned_ciou(a: Tensor, b: Tensor, *, eps: float = 1e-7) -> Tensor:
    """[n,4],[n,4] -> [n], at most 1 (Zheng et al. 2020)."""
    return _ciou(at_least_float32(a), at_least_float32(b), eps)


def pairwise_iou(a: Tensor, b: Tensor) -> Tensor:
    """[n,4],[m,4] -> [n,m] in 0..1; 0 for pairs without area."""
    intersection, union = _intersection_and_union(at_least_float32(a)[:, None], at_least_float32(b)[None])
    return _ratio(intersection, union)


def pairwise_share(a: Tensor, b: Tensor) -> Tensor:
    """[n,4],[m,4] -> [n,m] in 0..1: how much of each `a` lies in each `b`; 0 for those without area."""
    a = at_least_float32(a)[:, None]
    intersection, _ = _intersection_and_union(a, at_least_float32(b)[None])
    return _ratio(intersection, area(a))


def mutual_iou(boxes: Tensor, *, eps: float = 1e-7) -> Tensor:
    """[...,n,4] -> [...,n,n] in 0..1; 0 for pairs without area."""
    intersection, area, across = _intersections(boxes, boxes)
    return intersection / (area + across - intersection + eps)


def overlapping(a: Tensor, b: Tensor, iou: float) -> Tensor:
    """[...,n,4],[...,m,4] -> [...,n,m], whether the IoU is above `iou`: intersection (1 + iou) > iou (a + b)."""
    intersection, *areas = _intersections(a, b)
    first, second = (area * (iou / (1 + iou)) for area in areas)
    return intersection > first + second


def _intersections(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """[...,n,4],[...,m,4] -> intersections [...,n,m] and areas [...,n,1] and [...,1,m], px^2.

    In planes, and with few operations: exported graphs are slow on (x, y), and each takes its time in them.
    """
    # min(a, b) = -max(-a, -b), to the bit; ONNX Runtime's Min takes five times as long as its Max.
    signs = a.new_tensor([1.0, 1.0, -1.0, -1.0])
    columns = (at_least_float32(a) * signs).split(1, -1)  # [...,n,1] of each side
    rows = (at_least_float32(b) * signs).mT.split(1, -2)  # [...,1,m]
    left, top, right, bottom = (torch.maximum(x, y) for x, y in zip(columns, rows, strict=True))
    # Sides are negative here, and their products positive.
    intersection = (left + right).clamp(max=0) * (top + bottom).clamp(max=0)
    areas = ((x1 + x2) * (y1 + y2) for x1, y1, x2, y2 in (columns, rows))
    return intersection, *areas


def pairwise_giou(a: Tensor, b: Tensor) -> Tensor:
    """[n,4],[m,4] -> [n,m] in -1..1; pairs without area count as IoU 0."""
    a, b = at_least_float32(a)[:, None], at_least_float32(b)[None]
    intersection, union = _intersection_and_union(a, b)
    side = _enclosing_side(a, b)
    enclosing = side[..., 0] * side[..., 1]
    return _ratio(intersection, union) - _ratio(enclosing - union, enclosing)


def _ratio(part: Tensor, whole: Tensor) -> Tensor:
    """part / whole, 0 where whole is 0."""
    return torch.where(whole > 0, part / torch.where(whole > 0, whole, 1), 0)


# Conversions: labels in, a head's private form, results out.


def xywh_to_xyxy(boxes: Tensor) -> Tensor:
    """[...,4] left, top, width, height (COCO) -> xyxy."""
    return torch.cat([boxes[..., :2], boxes[..., :2] + boxes[..., 2:]], -1)


def xyxy_to_xywh(boxes: Tensor) -> Tensor:
    """[...,4] xyxy -> left, top, width, height (COCO)."""
    return torch.cat([boxes[..., :2], boxes[..., 2:] - boxes[..., :2]], -1)


def cxcywh_to_xyxy(boxes: Tensor) -> Tensor:
    """[...,4] centre, size -> xyxy."""
    half = boxes[..., 2:] / 2
    return torch.cat([boxes[..., :2] - half, boxes[..., :2] + half], -1)


def xyxy_to_cxcywh(boxes: Tensor) -> Tensor:
    """[...,4] xyxy -> centre, size."""
    return torch.cat([(boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]], -1)


def distances_to_xyxy(points: Tensor, distances: Tensor) -> Tensor:
    """points [...,2], distances [...,4] (l,t,r,b) in the points' units -> xyxy."""
    left_top, right_bottom = distances.split(2, -1)
    return torch.cat([points - left_top, points + right_bottom], -1)


def mirrored(boxes: Tensor, width: Tensor | float) -> Tensor:
    """[...,4] xyxy in a picture `width` wide -> where they are in its mirror image, left to right."""
    left, top, right, bottom = boxes.unbind(-1)
    return torch.stack([width - right, top, width - left, bottom], -1)


def xyxy_to_distances(points: Tensor, boxes: Tensor) -> Tensor:
    """points [...,2], boxes [...,4] xyxy -> distances (l,t,r,b), negative outside the box."""
    return torch.cat([points - boxes[..., :2], boxes[..., 2:] - points], -1)


# Of exp in a decoded side: a box is at most 62.5 times its anchor (as Fast R-CNN's descendants have it).
LARGEST_LOG = math.log(1000 / 16)


def deltas_to_xyxy(anchors: Tensor, deltas: Tensor) -> Tensor:
    """anchors [...,4] xyxy, deltas [...,4] -> xyxy (Girshick et al. 2014, eq. 1 to 4): shifts of the centre in the
    anchor's sides, logarithms of the factors of its sides.
    """
    centre, side = xyxy_to_cxcywh(anchors).split(2, -1)
    shift, factor = deltas.split(2, -1)
    return cxcywh_to_xyxy(torch.cat([centre + shift * side, side * factor.clamp(max=LARGEST_LOG).exp()], -1))


def xyxy_to_deltas(anchors: Tensor, boxes: Tensor) -> Tensor:
    """anchors, boxes [...,4] xyxy with area -> deltas [...,4], the inverse of `deltas_to_xyxy`."""
    centre, side = xyxy_to_cxcywh(anchors).split(2, -1)
    box_centre, box_side = xyxy_to_cxcywh(boxes).split(2, -1)
    return torch.cat([(box_centre - centre) / side, (box_side / side).log()], -1)
