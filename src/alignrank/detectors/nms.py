"""Non-maximum suppression of each class: torchvision's operator, without torchvision's import."""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

# Above so many boxes NMS class by class is faster than one over all: by torchvision's measurements.
AT_ONCE = {"cpu": 1_000}
AT_ONCE_ELSEWHERE = 25_000


def batched_nms(boxes: Tensor, scores: Tensor, labels: Tensor, iou: float) -> Tensor:
    """boxes [N,4], scores [N], labels [N] -> indices [K] int64 of those kept, best first.

    A box is dropped where a better one of its label, which is kept, overlaps it by more than `iou`. The same as
    `torchvision.ops.batched_nms`, bit for bit.
    """
    nms = _operator()
    if len(boxes) > AT_ONCE.get(boxes.device.type, AT_ONCE_ELSEWHERE):
        keep = torch.zeros_like(scores, dtype=torch.bool)
        for label in labels.unique():
            of_label = (labels == label).nonzero()[:, 0]
            keep[of_label[nms(boxes[of_label], scores[of_label], iou)]] = True
        kept = keep.nonzero()[:, 0]
        return kept[scores[kept].sort(descending=True)[1]]
    if not len(boxes):
        return labels.new_empty(0, dtype=torch.int64)
    # Boxes of different labels are moved apart, where they cannot overlap.
    apart = boxes + (labels.to(boxes) * (boxes.max() + 1))[:, None]
    kept_apart: Tensor = nms(apart, scores, iou)
    return kept_apart


@cache
def _operator() -> torch._ops.OpOverloadPacket:
    """`torchvision::nms`. The package's import takes as long as torch's own (its models, through them a compiler); the
    operator is in a library of its own, which loads in 3 ms.
    """
    if not hasattr(torch.ops.torchvision, "nms"):
        spec = importlib.util.find_spec("torchvision")
        for library in sorted(Path(spec.origin).parent.glob("_C*")) if spec is not None and spec.origin else ():
            try:
                torch.ops.load_library(str(library))
            except OSError:  # of another form than that of this release
                continue
            if hasattr(torch.ops.torchvision, "nms"):
                break
        else:
            import torchvision  # noqa: F401 - where it keeps the operator elsewhere
    return torch.ops.torchvision.nms
