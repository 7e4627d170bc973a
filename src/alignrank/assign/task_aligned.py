"""Task-aligned assignment (Feng et al., TOOD, ICCV 2021), in the form YOLOv8 and YOLOv10 use.

Differences from the paper: the overlap is CIoU clamped at 0, and the top k are taken even when fewer
than k have a metric above 0 (those are positives with target score 0).

Shape letters: B images, A points, C classes, T objects (padded), R objects of all images (without padding), N pairs
of an object and a point inside its box.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from alignrank.boxes import aligned_ciou, at_least_float32

EPS = 1e-9
# Pairs of an object and a point looked at in one go, 16 MB for each array of numbers: 16 images with 1,000 objects each
# have 134 million at 640 px.
CHUNK = 1 << 22
Truth = tuple[Tensor, Tensor, Tensor]


@dataclass(slots=True)
class Assignment:
    """foreground [B,A] bool; gt_index [B,A] int64; labels [B,A] int64; boxes [B,A,4]; scores [B,A,C] in 0..1.

    Where not foreground, scores are 0 and the rest is unspecified.
    """

    foreground: Tensor
    gt_index: Tensor
    labels: Tensor
    boxes: Tensor
    scores: Tensor


@torch.no_grad()
def task_aligned(
    scores: Tensor,
    boxes: Tensor,
    points: Tensor,
    strides: Tensor,
    gt_labels: Tensor,
    gt_boxes: Tensor,
    gt_mask: Tensor,
    *,
    topk: int = 10,
    alpha: float = 0.5,
    beta: float = 6.0,
    min_side: float = 0.0,
) -> Assignment:
    """Assign each object its `topk` points of highest score^alpha * overlap^beta inside its box.

    scores [B,A,C] after sigmoid; boxes [B,A,4], points [A,2] or [B,A,2], strides [A,1], gt_boxes [B,T,4], input
    pixels; gt_labels [B,T] int64; gt_mask [B,T] bool, False on padding. `min_side` > 0 widens the
    candidate region of smaller objects to that many pixels. A point claimed twice goes to the object
    it overlaps most. Target scores are the metric, scaled so that an object's best equals its best overlap.

    Costs time of R*A, and memory of N, a few per cent of that, beyond what `CHUNK` bounds.
    """
    truth = (gt_labels, gt_boxes, gt_mask)
    return aligned_pairs(scores, boxes, points, truth, alpha=alpha, beta=beta, min_side=min_side).best(topk)


@torch.no_grad()
def aligned_pairs(
    scores: Tensor,
    boxes: Tensor,
    points: Tensor,
    truth: Truth,
    *,
    alpha: float,
    beta: float,
    min_side: float,
) -> AlignedPairs:
    """What `task_aligned` chooses from, for more than one choice. Arguments as there, truth: labels, boxes, mask."""
    gt_labels, gt_boxes, gt_mask = truth
    scores, boxes, gt_boxes = at_least_float32(scores), at_least_float32(boxes), at_least_float32(gt_boxes)
    objects = gt_mask.nonzero()
    row, point = _pairs_inside(points, objects[:, 0], gt_boxes[gt_mask], min_side)
    image, gt = objects[row].unbind(1)
    overlap = aligned_ciou(gt_boxes[image, gt], boxes[image, point]).clamp(min=0)
    metric = scores[image, point, gt_labels[image, gt]].pow(alpha) * overlap.pow(beta)
    num_images, num_points, _ = scores.shape
    place = image * num_points + point
    most = overlap.new_zeros(num_images * num_points).scatter_reduce_(0, place, overlap, "amax")
    winner = _first(gt, place, (overlap == most[place]) & (overlap > 0), (num_images, num_points))
    return AlignedPairs(gt, row, point, place, overlap, metric, winner, scores, (gt_labels, gt_boxes, gt_mask))


@dataclass(frozen=True, slots=True)
class AlignedPairs:
    """Of the pairs, sorted by row and point: object in its image, row among all objects, point, place among the points
    of all images [N] int64; overlap and metric [N]. winner [B,A]: the object that a point overlaps most. And what they
    are of.
    """

    gt: Tensor
    row: Tensor
    point: Tensor
    place: Tensor
    overlap: Tensor
    metric: Tensor
    winner: Tensor
    scores: Tensor
    truth: Truth

    @torch.no_grad()
    def best(self, topk: int) -> Assignment:
        """Each object with its best `topk` points."""
        gt_labels, gt_boxes, gt_mask = self.truth
        gt, place, scores = self.gt, self.place, self.scores
        num_images, num_points, _ = scores.shape
        num_objects = gt_mask.shape[1]
        if num_objects == 0:
            nothing = torch.zeros(num_images, num_points, dtype=torch.int64, device=scores.device)
            boxes = scores.new_zeros(num_images, num_points, 4)
            return Assignment(nothing.bool(), nothing, nothing, boxes, torch.zeros_like(scores))
        positive = _best_of_rows(self.metric, self.row, self.point, (int(gt_mask.sum()), num_points), topk)

        shape = num_images, num_points
        claims = torch.bincount(place[positive], minlength=num_images * num_points).view(shape)
        gt_index = torch.where(claims > 1, self.winner, _first(gt, place, positive, shape))
        foreground = claims > 0

        images = torch.arange(num_images, device=scores.device)[:, None]
        own = foreground.flatten()[place] & (gt == gt_index.flatten()[place])
        own_metric, own_overlap = (_spread(values[own], place[own], shape) for values in (self.metric, self.overlap))
        top_metric = _max_per_object(own_metric, gt_index, num_objects).gather(1, gt_index)
        top_overlap = _max_per_object(own_overlap, gt_index, num_objects).gather(1, gt_index)
        target = own_metric * top_overlap / (top_metric + EPS)

        labels = gt_labels.gather(1, gt_index)
        target_scores = torch.zeros_like(scores).scatter_(-1, labels[..., None], target[..., None])
        return Assignment(foreground, gt_index, labels, gt_boxes[images, gt_index], target_scores)


def _pairs_inside(points: Tensor, images: Tensor, gt_boxes: Tensor, min_side: float) -> tuple[Tensor, Tensor]:
    """Row and point [N] int64 of every point inside an object's (widened) box, in this order.

    images [R] and gt_boxes [R,4] of the objects.
    """
    step = max(CHUNK // max(points.shape[-2], 1), 1)
    rows, inside = [], []
    for first in range(0, max(len(images), 1), step):
        own = points if points.ndim == 2 else points[images[first : first + step]]
        row, point = _points_inside(own, gt_boxes[first : first + step], min_side).nonzero(as_tuple=True)
        rows.append(row + first)
        inside.append(point)
    return torch.cat(rows), torch.cat(inside)


def _points_inside(points: Tensor, gt_boxes: Tensor, min_side: float) -> Tensor:
    """[A,2] or [R,A,2], [R,4] -> [R,A] bool: strictly inside the (widened) box."""
    left_top, right_bottom = gt_boxes.split(2, -1)
    if min_side > 0:
        centre = (left_top + right_bottom) / 2
        half = ((right_bottom - left_top) / 2).clamp(min=min_side / 2)
        left_top, right_bottom = centre - half, centre + half
    x, y = points.unbind(-1)
    left, top = left_top[:, :1], left_top[:, 1:]
    right, bottom = right_bottom[:, :1], right_bottom[:, 1:]
    inside: Tensor = (x - left > EPS) & (right - x > EPS) & (y - top > EPS) & (bottom - y > EPS)
    return inside


def _best_of_rows(metric: Tensor, row: Tensor, point: Tensor, shape: tuple[int, int], topk: int) -> Tensor:
    """metric [N] of pairs sorted by row -> [N] bool, those among the best `topk` of their row.

    shape: (R, A). A row has 0 where it has no pair, and these places are chosen like others: of several zeros, which
    are taken is up to PyTorch's topk.
    """
    num_rows, num_points = shape
    step = max(CHUNK // num_points, 1)
    counts = torch.bincount(row, minlength=max(num_rows, 1)).split(step)
    sizes = torch.stack([count.sum() for count in counts]).tolist()
    chosen = []
    parts = zip(metric.split(sizes), (row % step).split(sizes), point.split(sizes), counts, strict=True)
    for values, rows, points, count in parts:
        dense = values.new_zeros(len(count), num_points)
        dense[rows, points] = values
        best = torch.zeros_like(dense, dtype=torch.bool).scatter_(1, dense.topk(min(topk, num_points)).indices, True)
        chosen.append(best[rows, points])
    return torch.cat(chosen)


def _first(gt: Tensor, place: Tensor, chosen: Tensor, shape: tuple[int, int]) -> Tensor:
    """Of the pairs `chosen` [N] at each of the places [N], the least object: [B,A] int64, 0 where there is none."""
    none = torch.iinfo(gt.dtype).max
    least = gt.new_full((shape[0] * shape[1],), none).scatter_reduce_(0, place[chosen], gt[chosen], "amin")
    return torch.where(least == none, 0, least).view(shape)


def _spread(values: Tensor, place: Tensor, shape: tuple[int, int]) -> Tensor:
    """values at places, at most one at each -> [B,A], 0 elsewhere."""
    return values.new_zeros(shape[0] * shape[1]).index_copy_(0, place, values).view(shape)


def _max_per_object(values: Tensor, gt_index: Tensor, num_objects: int) -> Tensor:
    """values [B,A] >= 0, gt_index [B,A] -> [B,T], the largest value assigned to each object."""
    return values.new_zeros(values.shape[0], num_objects).scatter_reduce_(1, gt_index, values, "amax")
