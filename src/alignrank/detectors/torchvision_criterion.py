"""The losses of torchvision's detectors: the library's own matching and losses, called as its models call them; with
ranking losses where the recipe has them (`plug.torchvision_loss`).

What the library divides by a count of one process is divided here by the mean over all processes; a single process has
the library's figures. RetinaNet's are means over images, which several processes average in any case.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from alignrank.boxes import outside_autocast
from alignrank.contracts import LossTerms, Predictions, Targets
from alignrank.detectors.hosted import drawn
from alignrank.detectors.torchvision_host import TorchvisionConfig
from alignrank.detectors.torchvision_stages import LibraryTruth, truth_of
from alignrank.losses.normalizer import shared_normalizer
from alignrank.plug.torchvision_loss import RankedLoss
from alignrank.plug.torchvision_models import ARCHITECTURES, library_model

# The library's terms by our names.
NAMES = {
    "classification": "cls",
    "bbox_regression": "box",
    "bbox_ctrness": "centreness",
    "align": "align",
    "rank": "rank",
}
# Terms that are means over all processes already.
_SHARED = ("align", "rank")


class TorchvisionCriterion:
    """(Predictions, targets of every image) -> LossTerms: cls and box, of FCOS centreness, too; with two stages
    proposals_cls and proposals_box beside them. All of them have the library's weight, 1. With ranking losses also
    align and rank.

    In evaluation two stages have the terms of all proposals, not of a sample.
    """

    def __init__(self, config: TorchvisionConfig) -> None:
        # Matching and losses are methods of the network's parts, and use no weights.
        with torch.device("meta"):
            self.library = library_model(config.model.form, config.num_channels)
        self.two_stages = ARCHITECTURES[config.model.architecture].two_stages
        self.channels = torch.tensor(config.library_channels)
        self.loss = config.loss
        if not self.two_stages:
            self.head = self.library.head
            self.library.head = _Matched()

    def __call__(
        self, predictions: Predictions, targets: Sequence[Targets], *, alone: bool = False, progress: float = 1.0
    ) -> LossTerms:
        assert predictions.raw is not None
        truth = truth_of(targets, predictions.raw["anchors"], self.channels)
        with outside_autocast(predictions.boxes):
            if self.two_stages:
                parts = self._two_stages(predictions.raw, truth, alone)
            else:
                parts = self._dense(predictions.raw, truth, progress, alone)
        return LossTerms(torch.stack(list(parts.values())).sum(), parts)

    def matched(self, raw: Mapping[str, Any], truth: LibraryTruth) -> list[Tensor]:
        """Of a dense head: for each image [A] int64, the number of the object that an anchor learns; below 0 none."""
        anchors = [raw["anchors"]] * len(truth)
        counts = [raw["counts"]] if "bbox_ctrness" in raw else []
        found: list[Tensor] = self.library.compute_loss(truth, raw, anchors, *counts)
        return found

    def _dense(self, raw: Mapping[str, Any], truth: LibraryTruth, progress: float, alone: bool) -> dict[str, Tensor]:
        matched = self.matched(raw, truth)
        loss = RankedLoss(self.head, self.loss, progress, alone)
        terms = loss(truth, raw, [raw["anchors"]] * len(truth), matched)
        factor: Tensor | float = 1.0
        if "bbox_ctrness" in raw:  # all of them are divided by the positives of the batch
            factor = _shared(sum((found >= 0).sum() for found in matched), alone)
        return {NAMES[name]: value if name in _SHARED else value * factor for name, value in terms.items()}

    def _two_stages(self, raw: Mapping[str, Any], truth: LibraryTruth, alone: bool) -> dict[str, Tensor]:
        return self._of_proposals(raw, truth, alone) | self._of_second_stage(raw, truth, alone)

    def _of_proposals(self, raw: Mapping[str, Any], truth: LibraryTruth, alone: bool) -> dict[str, Tensor]:
        rpn, anchors = self.library.rpn, [raw["anchors"]] * len(truth)
        labels, boxes = rpn.assign_targets_to_anchors(anchors, truth)
        regression = rpn.box_coder.encode(boxes, anchors)
        sampler = _Counted(rpn.fg_bg_sampler)
        rpn.fg_bg_sampler = sampler
        try:
            with drawn(raw["seed"], raw["anchors"].device):
                cls, box = rpn.compute_loss(raw["objectness"], raw["deltas"], labels, regression)
        finally:
            rpn.fg_bg_sampler = sampler.of
        factor = _shared(sampler.count, alone)
        return {"proposals_cls": cls * factor, "proposals_box": box * factor}

    def _of_second_stage(self, raw: Mapping[str, Any], truth: LibraryTruth, alone: bool) -> dict[str, Tensor]:
        from torchvision.models.detection.roi_heads import fastrcnn_loss

        second, proposals = self.library.roi_heads, raw["proposals"]
        boxes = [image["boxes"] for image in truth]
        objects, labels = second.assign_targets_to_proposals(proposals, boxes, [image["labels"] for image in truth])
        none = raw["regression"].new_zeros(1, 4)
        matched = [(of if len(of) else none)[chosen] for of, chosen in zip(boxes, objects, strict=True)]
        regression = second.box_coder.encode(matched, proposals)
        known = torch.cat(labels) >= 0  # between two thresholds a proposal is neither
        cls, box = fastrcnn_loss(
            raw["class_logits"][known],
            raw["regression"][known],
            [torch.cat(labels)[known]],
            [torch.cat(regression)[known]],
        )
        factor = _shared(known.sum(), alone)
        return {"cls": cls * factor, "box": box * factor}


class _Matched(nn.Module):
    """In the place of a head: gives back what has been matched."""

    def compute_loss(self, truth: Any, raw: Any, anchors: Any, matched: list[Tensor]) -> list[Tensor]:
        return matched


class _Counted:
    """The library's sampler, and how many it has chosen."""

    def __init__(self, of: Any) -> None:
        self.of, self.count = of, torch.zeros(())

    def __call__(self, labels: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        positive, negative = self.of(labels)
        self.count = sum(mask.sum() for mask in (*positive, *negative))
        found: tuple[list[Tensor], list[Tensor]] = positive, negative
        return found


def _shared(count: Any, alone: bool) -> Tensor:
    """What changes a division by this process's count into one by the mean of all."""
    of_process: Tensor = count.float()[None]
    return of_process.clamp(min=1)[0] / shared_normalizer(of_process, alone=alone)[0]
