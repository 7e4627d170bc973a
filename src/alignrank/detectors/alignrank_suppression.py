"""AlignRank's suppression: duplicates among all candidates at once, and consensus boxes of what is left.

Products and comparisons of masks [B,K,K], no loops over boxes: the exported graph holds them, and each pass takes its
time there.

Shape letters: B images, K candidates, C classes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from alignrank.boxes import mutual_iou, overlapping
from alignrank.detectors.consensus import step_to_mean

ROUNDS = 2
CERTAIN = 3.0  # logits: one in twenty
STRONGEST = 12.0  # logits: makes .99 to .0006
STRENGTH_RATE = 200.0  # one number has to get to 12 in a short training
FIRST = 100  # candidates: so many are no time


class Suppression(nn.Module):
    """Class logits [B,K,C] and boxes [B,K,4] -> the logits, those of duplicates lower by the same amount each.

    A duplicate overlaps a better candidate of its class, which is no duplicate itself, by more than `iou`. NMS decides
    that one box after another. Here all are compared at once, and compared again with what the first round found (a
    chain of more than three overlapping boxes can end differently). The amount is learned: it says how rarely such a
    candidate is an object's one positive after all. Above `CERTAIN`, evaluation lowers by `STRONGEST`: one in a hundred
    is right for a probability, but the ten duplicates of an object are no detections. What is left keeps its order.

    agnostic: in evaluation, better candidates of other classes count, too. consensus: overlap for `merge`, 0: off.
    """

    def __init__(self, iou: float, *, consensus: float = 0.0, agnostic: bool = False) -> None:
        super().__init__()
        self.iou, self.consensus, self.agnostic = iou, consensus, agnostic
        self.strength = nn.Parameter(torch.zeros(()))

    def forward(self, logits: Tensor, boxes: Tensor) -> Tensor:
        score, labels = logits.max(-1)
        better = _better(score) & self._together(labels)
        return self._lowered(logits, _single(better & (mutual_iou(boxes) > self.iou)))

    def merge(self, logits: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """The lowered logits [B,K,C], and the boxes [B,K,4], those of no duplicates merged with what overlaps them by
        more than `consensus`. Then each is compared with merged ones once more; every duplicate is lowered once.

        Boxes of the first half are merged, of `FIRST` at least, with all that overlap them. Candidates come in turn, so
        most of the other half are neighbours of better cells, and it is half of the time.
        """
        first = slice(max(FIRST, boxes.shape[1] // 2))
        score, labels = logits.max(-1)
        together, overlap = self._together(labels), mutual_iou(boxes)
        better = _better(score) & together
        single = _single(better & (overlap > self.iou))
        counted = overlap[:, first] * (together[:, first] & (overlap[:, first] > self.consensus)).to(overlap.dtype)
        merged = boxes[:, first] + single[:, first] * step_to_mean(boxes[:, first], score.sigmoid(), counted, boxes)
        boxes = torch.cat([merged, boxes[:, first.stop :]], 1)
        single = _single(better[..., first] & overlapping(boxes, merged, self.iou), single)
        return self._lowered(logits, single), boxes

    def _together(self, labels: Tensor) -> Tensor:
        """labels [B,K] -> [B,K,K], whether two candidates can be one object."""
        labels = labels.float()  # ONNX Runtime compares these in half the time of int64
        same = labels[:, None] == labels[:, :, None]
        return torch.ones_like(same) if self.agnostic and not self.training else same

    def _lowered(self, logits: Tensor, single: Tensor) -> Tensor:
        amount = STRONGEST * torch.tanh(STRENGTH_RATE * self.strength)
        if not self.training:
            amount = torch.where(amount > CERTAIN, STRONGEST, amount)
        return logits - amount * (1 - single).to(logits.dtype)


def _better(score: Tensor) -> Tensor:
    """score [B,K] -> [B,K,K], whether the column's candidate is better than the row's: of equal ones the first."""
    first = torch.ones(score.shape[1], score.shape[1], device=score.device).tril(-1) > 0
    return (score[:, None] > score[:, :, None]) | ((score[:, None] == score[:, :, None]) & first)


def _single(covered: Tensor, among: Tensor | None = None) -> Tensor:
    """covered [B,K,F], whether the column's candidate, of the first F, is better and overlaps the row's too much ->
    [B,K,1], 0 for duplicates, else 1. among [B,K,1]: 0 for those that were duplicates before, and count no more.

    A product counts the columns that make a row a duplicate: quicker than a masked maximum.
    """
    columns = covered.float()
    among = columns.new_ones(columns.shape[-2], 1) if among is None else among
    single = among
    for _ in range(1 + ROUNDS):
        single = (among - columns @ single[..., : columns.shape[-1], :]).relu()
    return single
