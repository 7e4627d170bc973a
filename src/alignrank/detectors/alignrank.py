"""YOLO-AlignRank: the base detector with cross-scale sampling, gated fusion and a loss that ranks boxes by quality.

Source: Li & Liu 2025, YOLO-AlignRank; only the abstract is public, the design is ours. With `head.sampling=none`,
`head.fusion=false` and no ranking loss it is its base, bit for bit; the parts begin as identities.

The NMS-free output chooses its best `head.candidates` cells first, and decodes only these. With `head.sampling=topk`
they are the one-to-many head's, those beside a better one later: the refinement, where it is on, corrects their scores,
trained one-to-many; then the suppression, trained one-to-one, lowers those of duplicates. Else they are those of a
one-to-one head (YOLOv10).

Shape letters: B images, A points over all levels, K chosen points, C classes, R bins, D width.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn.functional import silu

from alignrank.boxes import distances_to_xyxy, mutual_iou, outside_autocast
from alignrank.contracts import Choice, Predictions
from alignrank.detectors.alignrank_quality import BoxQuality, two_factor
from alignrank.detectors.alignrank_suppression import Suppression
from alignrank.detectors.postprocess import NonMaximumSuppression, TopK
from alignrank.detectors.yolo import (
    STRIDES,
    DecoupledHead,
    HeadConfig,
    YoloConfig,
    columns,
    dense_predictions,
    selection,
)
from alignrank.detectors.yolo_pyramid import build_pyramid
from alignrank.nn.bcdm import BidirectionalDynamicFusion
from alignrank.nn.cells import best_class, priorities
from alignrank.nn.conv import fold_norms
from alignrank.nn.csd import CrossScaleSampling, features_at
from alignrank.nn.grid import grid_points

CANDIDATES = 300


class AlignRankHeadConfig(HeadConfig):
    """The parts' switches and sizes."""

    sampling: Literal["none", "dense", "topk"] = "topk"
    """`dense` augments every cell's feature from other scales; `topk` takes the best cells, and `refine` theirs."""
    fusion: bool = True
    """Gated fusion of the levels in both directions (BCDM)."""
    width: int = Field(default=32, ge=4, le=8192, multiple_of=4)
    """Channels of sampling and fusion."""
    points: int = Field(default=4, ge=1, le=64)
    """Sampled places of a cell in each level and group."""
    groups: int = Field(default=4, ge=1, le=8192)
    """Of the sampling's channels; each has places of its own."""
    experts: int = Field(default=4, ge=1, le=64)
    """Kernels that a dynamic convolution of the fusion mixes."""
    candidates: Annotated[int, Field(ge=1, le=10_000)] | Literal["auto"] = "auto"
    """Cells that `topk` takes, and the NMS-free output decodes; `auto`: 300, for crowded training images up to 1000."""
    duplicate_iou: float = Field(default=0.75, gt=0, lt=1)
    """Overlap with a better candidate above which one of `topk` is a duplicate."""
    refine: bool = False
    """`topk` looks at its cells again, at sampled places; else their scores stay, and only duplicates are lowered."""
    consensus_iou: float = Field(default=0.0, ge=0, lt=1)
    """In evaluation, overlap above which candidates enter the mean that a kept box becomes; 0: off."""
    quality: float = Field(default=0.0, ge=0, le=4)
    """With `refine`, scores are multiplied by this power of how well the box is expected to fit; 0: off."""

    @model_validator(mode="after")
    def _quality_is_of_refined_cells(self) -> AlignRankHeadConfig:
        if self.quality and self.sampling_form != "topk":
            raise ValueError("quality multiplies refined scores and needs sampling=topk and refine=true")
        return self

    @property
    def sampling_form(self) -> Literal["dense", "topk"] | None:
        """How maps are sampled; None where they are not."""
        if self.sampling == "none" or (self.sampling == "topk" and not self.refine):
            return None
        return self.sampling


class AlignRankConfig(YoloConfig):
    """All sections."""

    head: AlignRankHeadConfig = AlignRankHeadConfig()


class Refinement(nn.Module):
    """Features [B,K,D] and class logits [B,K,C] of chosen cells -> better logits [B,K,C]; the same ones at first."""

    def __init__(self, width: int, num_classes: int) -> None:
        super().__init__()
        self.score = nn.Linear(num_classes, width)
        self.norm = nn.LayerNorm(width)
        self.hidden = nn.Linear(width, width)
        self.logits = nn.Linear(width, num_classes)
        nn.init.zeros_(self.logits.weight)
        nn.init.zeros_(self.logits.bias)

    def forward(self, features: Tensor, logits: Tensor) -> Tensor:
        x = self.norm(features) + self.score(logits.sigmoid())
        refined: Tensor = logits + self.logits(silu(self.hidden(silu(x))))
        return refined


class AlignRank(nn.Module):
    """images [B,3,H,W] float 0..1, sides multiples of 32 -> Predictions.

    Training: the main predictions are one-to-one, of all cells of the one-to-one head or of the K best cells;
    the auxiliary `one_to_many` beside them. Evaluation: `output` says which; the one-to-one output has
    K = min(candidates, A) points for each image, in the order they were chosen in, the one-to-many output all A.
    """

    stride = max(STRIDES)

    def __init__(self, config: AlignRankConfig) -> None:
        super().__init__()
        head = config.head
        self.backbone, self.neck = build_pyramid(config.model, config.neck)
        channels = self.neck.channels
        self.head = DecoupledHead(channels, config.num_classes, head)
        self.one_to_one = copy.deepcopy(self.head) if head.sampling != "topk" else None
        # The parts come last, so that a seed gives the base the same weights with and without them.
        self.fusion = (
            BidirectionalDynamicFusion(channels, width=head.width, experts=head.experts) if head.fusion else None
        )
        self.sampling: CrossScaleSampling | None = None
        self.refinement: Refinement | None = None
        self.suppression: Suppression | None = None
        self.quality: BoxQuality | None = None
        form = head.sampling_form
        if form is not None:
            # Refinement looks at the fused maps, which are narrow already.
            sampled = [head.width] * len(channels) if head.fusion and form == "topk" else channels
            self.sampling = CrossScaleSampling(
                sampled, width=head.width, points=head.points, groups=head.groups, form=form
            )
        if form == "topk":
            self.refinement = Refinement(head.width, config.num_classes)
        if head.sampling == "topk":
            self.suppression = Suppression(
                head.duplicate_iou, consensus=head.consensus_iou, agnostic=config.postprocess.agnostic
            )
            self.quality = BoxQuality(power=head.quality) if head.quality else None
        self.candidates = CANDIDATES if head.candidates == "auto" else head.candidates
        self.output: Literal["one_to_one", "one_to_many"] = "one_to_many" if config.postprocess.nms else "one_to_one"

    def forward(self, images: Tensor) -> Predictions:
        if not self.training and self.output == "one_to_one":
            return self.settle(self.choose(images).predictions)
        maps, sampled = self._maps(images)
        many = dense_predictions(self.head, maps)
        if not self.training:
            return many
        if self.one_to_one is not None:
            # It learns from fixed features: its sparse targets would disturb them (YOLOv10, 3.1).
            main = dense_predictions(self.one_to_one, [x.detach() for x in maps])
        else:
            assert many.distribution is not None
            logits, distribution = many.logits.detach(), many.distribution.detach()
            bins_of = partial(features_at, distribution.flatten(2).transpose(1, 2))
            unsuppressed = self._chosen(sampled, logits.transpose(1, 2), bins_of).predictions
            main = self.settle(unsuppressed)
            if self.refinement is not None:
                main.auxiliary["unsuppressed"] = unsuppressed
        main.auxiliary["one_to_many"] = many
        return main

    def choose(self, images: Tensor, cells: Tensor | None = None) -> Choice:
        """What evaluation's one-to-one output is made from by `settle`. cells [B,K]: these, whatever their scores."""
        maps, sampled = self._maps(images)
        head = self.head if self.one_to_one is None else self.one_to_one
        return self._chosen(sampled, columns(head.cls, maps), partial(head.box_of_cells, maps), cells)

    def settle(self, chosen: Predictions) -> Predictions:
        """Without duplicates, where the network suppresses them."""
        if self.suppression is None:
            return chosen
        with outside_autocast(chosen.logits):
            # What is a duplicate says nothing about how well a box fits: the refinement does not learn from it.
            logits, boxes = chosen.logits.detach(), chosen.boxes
            if self.quality is not None:
                assert chosen.quality is not None
                logits = two_factor(logits, chosen.quality.detach(), self.quality.power)
            if self.suppression.consensus and not self.training:
                logits, boxes = self.suppression.merge(logits, boxes)
            else:
                logits = self.suppression(logits, boxes)
        return Predictions(logits, boxes, chosen.points, chosen.strides, fixed_boxes=True)

    def _maps(self, images: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Those that cells are scored on, and those that the refinement samples from."""
        maps = sampled = self.neck(self.backbone(images))
        if self.fusion is not None:
            sampled = self.fusion.fuse(maps)
            maps = self.fusion.join(maps, sampled)
        if self.sampling is not None and self.sampling.form == "dense":
            maps = self.sampling(maps)
        return maps, sampled

    def _chosen(
        self,
        maps: Sequence[Tensor],
        logits: Tensor,
        bins_of: Callable[[Tensor], Tensor],
        cells: Tensor | None = None,
    ) -> Choice:
        """logits [B,C,A] of all cells, bins_of: cells [B,K] to their distribution [B,K,4R] -> the first K, or
        `cells`, refined if that is on.
        """
        priority = best_class(logits)
        if self.suppression is not None:  # a one-to-one head has one cell for an object: beside it begins another
            priority = priorities(priority, maps)
        if cells is None:
            cells = priority.topk(min(self.candidates, priority.shape[-1])).indices  # [B,K]
        chosen = features_at(logits, cells)
        bins = bins_of(cells).unflatten(-1, (4, -1))
        points, strides = (x[cells] for x in grid_points(maps, STRIDES))
        # The mean bin, as `expected_distances`; written out it is faster for few points in ONNX Runtime.
        shares = bins.softmax(-1)
        distances = (shares * torch.arange(bins.shape[-1], device=bins.device)).sum(-1)
        boxes = distances_to_xyxy(points, distances * strides)
        predictions = Predictions(chosen, boxes, points, strides)
        if self.refinement is not None:
            assert self.sampling is not None
            features = self.sampling.of_cells(maps, cells, boxes, STRIDES)
            with outside_autocast(logits):
                refined = self.refinement(features, chosen)
                quality = None
                if self.quality is not None:
                    quality = self.quality(refined, boxes, shares, strides, mutual_iou(boxes))
            predictions = Predictions(refined, boxes, points, strides, fixed_boxes=True, quality=quality)
        return Choice(cells, priority.gather(1, cells), predictions)

    def deploy(self) -> AlignRank:
        """In place, for inference only: drop what `output` does not use and fold batch norms."""
        if self.output == "one_to_many":
            self.one_to_one = self.refinement = self.suppression = self.quality = None
            if self.sampling is not None and self.sampling.form == "topk":
                self.sampling = None
        elif self.one_to_one is not None:
            self.head, self.one_to_one = self.one_to_one, None
        fold_norms(self)
        return self


def postprocess(config: AlignRankConfig) -> TopK | NonMaximumSuppression:
    """Top k, or NMS where the one-to-many output is asked for."""
    if config.postprocess.nms:
        return selection(config.postprocess, nms_free=False)
    return TopK(agnostic=config.postprocess.agnostic, consensus=config.head.consensus_iou)
