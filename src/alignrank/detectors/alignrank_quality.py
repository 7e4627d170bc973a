"""The second factor of AlignRank's score: how well a box fits, if it is one of an object.

A class probability says that there is an object; between two objects it hardly says which box fits better. A tiny
network tells that from what the detector knows of a box besides: how sure the distribution of each distance is, how
far the candidates around it agree, its form, its score. It learns on positives only: from all candidates it would learn
once more what an object is.

It learns the share of COCO's ten thresholds (IoU .5 to .95) that a box passes: P(object) x that share is what a
detection adds to the mean over thresholds. Class scores that learn from task-aligned targets hold a part of it
already, hence the power. All inputs are constants, so what it learns changes nothing else.

Shape letters: B images, K candidates, C classes, R bins, P positives.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from alignrank.boxes import aligned_iou

FEATURES = 15
AGREEING = 0.5  # IoU above which two candidates of a class speak of one object
FIRST = 3.0  # logit of an untrained network, above that of SURE: the factor is 1
SURE = 0.95  # share from which on the factor is 1
LEAST = 1e-3  # smallest factor, before the power
MOST = 30.0  # logit; in float32 its score is 1
_TINY = 1e-12  # a sum of weights may underflow
_BLUR = 0.1  # bins: added to a spread before its logarithm
_SIDE = 0.25  # strides: a shorter side counts as that


def passed_share(iou: Tensor) -> Tensor:
    """IoU [P] -> share [P] in 0..1 of the thresholds .5, .55 ... .95 that it passes, without steps: .5 gives .1."""
    return ((iou - 0.45) / 0.5).clamp(0, 1)


def two_factor(logits: Tensor, quality: Tensor, power: float = 1.0) -> Tensor:
    """Class logits [B,K,C] and quality [B,K,1], raw -> logits of probability x factor^power, of a factor of 1 the same.

    With p = sigmoid(z) and a factor f, logit(p f) = z + log f - log(1 + (1 - f) exp z).
    """
    factor = (quality.sigmoid() / SURE).clamp(LEAST, 1.0) ** power
    logits = logits.clamp(max=MOST)
    return logits + factor.log() - (1 + (1 - factor) * logits.exp()).log()


def box_features(logits: Tensor, boxes: Tensor, shares: Tensor, strides: Tensor, overlap: Tensor) -> Tensor:
    """Class logits [B,K,C], boxes [B,K,4] px, shares [B,K,4,R] of the bins of each distance, strides [B,K,1] px,
    overlap [B,K,K] IoU -> [B,K,15], each of order 1.

    Of each side its largest share, and the logarithm of its standard deviation over the box's side; logarithms of
    width, height (in strides) and stride; the best class logit; of the candidates of that class that overlap by more
    than `AGREEING`, itself among them, the sum of score x IoU (logarithm) and the mean of their IoUs, so weighted; the
    IoU with their consensus box, the mean box of these weights.
    """
    bins = torch.arange(shares.shape[-1], device=shares.device, dtype=shares.dtype)
    # Sums over bins and over candidates are products of matrices: an elementwise pass over [B,K,K] takes longer.
    mean, square = (shares @ torch.stack([bins, bins.square()], -1)).unbind(-1)  # [B,K,4]
    deviation = (square - mean.square()).clamp(min=0).sqrt()
    size = ((boxes[..., 2:] - boxes[..., :2]) / strides).clamp(min=_SIDE)
    spread = (deviation + _BLUR).log() - torch.cat([size, size], -1).log()
    best, labels = logits.max(-1)
    scores = best.sigmoid()[..., None]
    agreement = overlap * (labels[:, None] == labels[:, :, None]).to(overlap.dtype)
    agreement = agreement * (agreement > AGREEING).to(overlap.dtype)
    total, weighted = (agreement @ torch.cat([scores, scores * boxes], -1)).split([1, 4], -1)
    least = total.clamp(min=_TINY)
    mean_iou = (agreement * agreement @ scores) / least  # a Pow takes twice as long
    parts = [
        shares.amax(-1),
        spread,
        size.log(),
        (strides / 16).log(),
        best[..., None] / 4,
        total.log1p(),
        mean_iou,
        aligned_iou(boxes, weighted / least)[..., None],
    ]
    return torch.cat(parts, -1)


class BoxQuality(nn.Module):
    """`box_features`' inputs -> raw quality [B,K,1]; the same for all at first, where `two_factor` changes nothing.

    Its sigmoid is the share of thresholds that a positive's box is expected to pass. No gradient leaves through inputs.
    power: for `two_factor`.
    """

    def __init__(self, *, power: float = 1.0, width: int = 16) -> None:
        super().__init__()
        self.power = power
        self.hidden = nn.Linear(FEATURES, width)
        self.output = nn.Linear(width, 1)
        nn.init.zeros_(self.output.weight)
        nn.init.constant_(self.output.bias, FIRST)

    def forward(self, logits: Tensor, boxes: Tensor, shares: Tensor, strides: Tensor, overlap: Tensor) -> Tensor:
        features = box_features(logits.detach(), boxes.detach(), shares.detach(), strides, overlap.detach())
        raw: Tensor = self.output(silu(self.hidden(features)))
        return raw
