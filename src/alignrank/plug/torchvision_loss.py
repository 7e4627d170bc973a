"""Ranking losses in torchvision's FCOS and RetinaNet: varifocal loss in place of the library's focal loss, list
alignment and pairwise ranking beside its terms.

The head's own function does all the rest, with the library's matching: the places that are matched to an object are its
candidates. Nothing of the library is changed: other models see nothing of it.

Sources: Zhang et al., VarifocalNet, CVPR 2021; Li & Liu 2025, YOLO-AlignRank (`alignrank.losses.ranking`).

Shape letters: B images, A anchors (of FCOS points) over all levels, C classes, P candidates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from alignrank.boxes import at_least_float32, outside_autocast
from alignrank.config import apply_overrides, shown
from alignrank.errors import InputError
from alignrank.losses import class_loss
from alignrank.losses.candidates import Candidates, faded, rank_terms
from alignrank.losses.class_loss import fit_quality
from alignrank.losses.normalizer import shared_mean
from alignrank.losses.ranking import RankScope
from alignrank.plug.ranking import DenseConfig, DenseLossConfig

Truth = Sequence[Mapping[str, Tensor]]


def compute_loss(model: Any, **options: Any) -> RankedLoss:
    """A loss for a detector of torchvision, to be set on it: `model.head.compute_loss = compute_loss(model, ...)`.

    model: FCOS or RetinaNet. options: `section.field`, as in recipes, such as `**{"loss.classification": "vfl"}`;
    without any it is the library's loss, bit for bit. The dictionary of losses that the model returns then has `align`
    and `rank`, too. `del model.head.compute_loss` gives the library's back.

    Of a training's progress it knows what is said to it: set `progress` (0 to 1, at first 1: all counts in full) of
    the returned function for the fading in of `loss.align` and `loss.rank`. As the library, each process computes
    alone. Raises InputError for another model or unknown options.
    """
    from torchvision.models.detection import FCOS, RetinaNet

    if not isinstance(model, FCOS | RetinaNet):
        raise InputError(
            f"compute_loss: ranking losses are for torchvision's FCOS and RetinaNet, got {shown(type(model).__name__)}"
        )
    config = DenseConfig.parse(apply_overrides({}, options, where="compute_loss"), where="compute_loss")
    return RankedLoss(model.head, config.loss, alone=True)


@dataclass(slots=True)
class RankedLoss:
    """The loss of a head with ranking losses, called as the library calls it.

    head: the library's; progress: of the training, 0..1; alone: as in `shared_normalizer`.
    """

    head: Any
    config: DenseLossConfig
    progress: float = 1.0
    alone: bool = False

    def __call__(
        self, targets: Truth, head_outputs: Mapping[str, Tensor], anchors: Sequence[Tensor], matched_idxs: list[Tensor]
    ) -> dict[str, Tensor]:
        """targets: of each image `boxes` [T,4] px and `labels` [T]; head_outputs: `cls_logits` [B,A,C],
        `bbox_regression` [B,A,4], of FCOS also `bbox_ctrness` [B,A,1]; anchors: [A,4] px of each image; matched_idxs:
        [A] of each image, the number of the object, below 0 none -> the library's losses by its names.
        """
        library = type(self.head).compute_loss
        own = self.config.classification == "library"
        logits = head_outputs["cls_logits"]
        # The library's class loss cannot be left out; without a graph it costs a forward only.
        said = head_outputs if own else {**head_outputs, "cls_logits": logits.detach()}
        terms: dict[str, Tensor] = library(self.head, targets, said, anchors, matched_idxs)
        if self.config.is_off:
            return terms
        with outside_autocast(logits):
            logits = at_least_float32(logits)
            found, place = self._candidates(targets, head_outputs, anchors, matched_idxs)
            if not own:
                terms["classification"] = self._varifocal(logits, found, place, matched_idxs)
            return terms | self._ranking(found)

    def _candidates(
        self, targets: Truth, outputs: Mapping[str, Tensor], anchors: Sequence[Tensor], matched: list[Tensor]
    ) -> tuple[Candidates, Tensor]:
        """The matched places, and their numbers [P] in their images."""
        image, place = (torch.stack(matched) >= 0).nonzero(as_tuple=True)
        most = max((len(target["labels"]) for target in targets), default=0)
        number = torch.stack(matched)[image, place]
        kept = [found[found >= 0] for found in matched]
        labels = torch.cat([target["labels"][gt] for target, gt in zip(targets, kept, strict=True)])
        gt = torch.cat([target["boxes"][gt] for target, gt in zip(targets, kept, strict=True)])
        own = self._decoded(outputs["bbox_regression"].detach()[image, place], torch.stack(list(anchors))[image, place])
        quality = fit_quality(own, at_least_float32(gt), overlap="iou")
        logits = at_least_float32(outputs["cls_logits"])[image, place, labels]
        return Candidates(logits, quality, image * most + number, labels, image), place

    def _decoded(self, regression: Tensor, anchors: Tensor) -> Tensor:
        """What a head says at P anchors -> boxes [P,4] px."""
        regression, anchors = at_least_float32(regression), at_least_float32(anchors)
        if hasattr(self.head, "box_coder"):
            boxes: Tensor = self.head.box_coder.decode(regression, anchors)
            return boxes
        of_deltas: Tensor = self.head.regression_head.box_coder.decode_single(regression, anchors)
        return of_deltas

    def _varifocal(self, logits: Tensor, found: Candidates, place: Tensor, matched: list[Tensor]) -> Tensor:
        """Divided as the library's class loss is: by the batch's positives, in RetinaNet by those of each image."""
        quality = torch.zeros_like(logits)
        quality[found.images, place, found.labels] = found.quality.to(quality.dtype)
        ignored = getattr(self.head.classification_head, "BETWEEN_THRESHOLDS", None)
        if ignored is None:
            return class_loss("vfl", logits, quality) / max(1, len(place))
        losses = [
            class_loss("vfl", of_image[known], target[known]) / (number >= 0).sum().clamp(min=1)
            for of_image, target, number in zip(logits, quality, matched, strict=True)
            for known in [number != ignored]
        ]
        return torch.stack(losses).mean()

    def _ranking(self, found: Candidates) -> dict[str, Tensor]:
        """`align` and `rank`, those of them that have a weight."""
        loss = self.config
        fade = faded(self.progress, loss.fade_start, loss.fade_end)
        if not (fade and (loss.align or loss.rank)):
            return {}
        scope: RankScope = loss.rank_scope if loss.rank else "object"
        terms = rank_terms(found, loss, scope, align_scope=loss.align_scope, across=loss.rank_across, alone=self.alone)
        parts = {}
        if loss.align:
            parts["align"] = fade * loss.align * shared_mean(terms.align, terms.num_align, alone=self.alone)
        if loss.rank:
            parts["rank"] = fade * loss.rank * shared_mean(terms.rank, terms.num_rank, alone=self.alone)
        return parts
