"""Non-maximum suppression in products and comparisons alone, for graphs that leave PyTorch: no loop in them.

The best candidates are compared with each other at once. A box goes where a better one of its class, which stays,
overlaps it by more than a threshold; who stays is found in rounds, each from what the last one found. A round settles
one more link of every chain of overlapping boxes: what is greedy NMS's, is found exactly up to `ROUNDS` links.

Shape letters: B images, A points, C classes, N candidates, K selected.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from alignrank.boxes import mutual_iou
from alignrank.detectors.consensus import step_to_mean
from alignrank.detectors.postprocess import NonMaximumSuppression, best_of_parts

# Of an image. All are compared with all: their square is what it costs, 1,000 take 2 % of a nano detector's time.
CANDIDATES = 1000
ROUNDS = 12


@dataclass(frozen=True, slots=True)
class MaskedNms:
    """What `NonMaximumSuppression` does, with a fixed overlap, for the best `candidates` (point, class) pairs.

    iou, consensus, agnostic, per_level, pairs: as there. level_points: points of each level, for `per_level`.
    stable: of equal scores those of the first points go first, as ONNX has it; PyTorch leaves that open, which is
    faster.
    """

    iou: float
    consensus: float = 0.0
    agnostic: bool = False
    per_level: int = 0
    pairs: bool = False
    level_points: tuple[int, ...] = ()
    candidates: int = CANDIDATES
    stable: bool = False

    @classmethod
    def of(cls, nms: NonMaximumSuppression, *, iou: float, level_points: tuple[int, ...]) -> MaskedNms:
        """The same as `nms`, which must not be soft: that is one box after another."""
        assert not nms.soft
        return cls(iou, nms.consensus, nms.agnostic, nms.per_level, nms.pairs, level_points)

    def __call__(self, scores: Tensor, boxes: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
        """scores [B,A,C] in 0..1, boxes [B,A,4] -> boxes [B,K,4], scores [B,K], labels [B,K], best first; K at most k.

        Where fewer stay, the last rows have the score 0.
        """
        if self.per_level and self.level_points:
            scores = best_of_parts(scores, self.level_points, self.per_level, pairs=self.pairs)
        boxes, scores, labels = self._best(scores, boxes)
        together = (labels[:, None] == labels[:, :, None]).to(scores.dtype)
        if self.agnostic:
            together = torch.ones_like(together)
        overlap = mutual_iou(boxes)
        stays = self._kept(overlap, together)
        if self.consensus:
            counted = overlap * together * (overlap > self.consensus).to(overlap.dtype)
            boxes = boxes + stays[..., None] * step_to_mean(boxes, scores, counted)
            stays = self._kept(mutual_iou(boxes), together * stays[:, None] * stays[:, :, None]) * stays
        best, order = self._top(scores * stays, k)
        return boxes.gather(1, order[..., None].expand(-1, -1, 4)), best, labels.gather(1, order)

    def _best(self, scores: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The candidates: boxes [B,N,4], scores [B,N] and labels [B,N], best first. Of so many points at most."""
        classes = scores.shape[-1]
        _, points = self._top(scores.amax(-1), self.candidates)
        scores = scores.gather(1, points[..., None].expand(-1, -1, classes)).flatten(1)
        best, pairs = self._top(scores, self.candidates)
        points = points.gather(1, (pairs // classes).long())  # as in `top_k`
        return boxes.gather(1, points[..., None].expand(-1, -1, 4)), best, (pairs % classes).long()

    def _top(self, scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """scores [B,N] -> the best [B,K] and their places, K at most k."""
        k = min(k, scores.shape[1])
        if self.stable:
            best, places = scores.sort(descending=True, stable=True)
            return best[:, :k], places[:, :k]
        best, places = scores.topk(k)
        return best, places

    def _kept(self, overlap: Tensor, together: Tensor) -> Tensor:
        """overlap and together [B,N,N], best first -> [B,N], 1 for those that stay, else 0."""
        # Row: a candidate; column: a better one. Of truth values, because converters store it: 1 MB, not 4.
        order = torch.arange(overlap.shape[-1], device=overlap.device)
        better = order[:, None] > order
        hits = ((overlap > self.iou) & better).to(together.dtype) * together
        kept = torch.ones_like(hits[..., :1])
        for _ in range(ROUNDS):
            kept = (hits @ kept < 0.5).to(hits.dtype)
        return kept[..., 0]
