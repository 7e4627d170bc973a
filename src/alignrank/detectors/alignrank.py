"""YOLO-AlignRank: the base detector with cross-scale sampling, gated fusion and a loss that ranks boxes by quality.

Source: Li & Liu 2025, YOLO-AlignRank; only the abstract is public, the design is ours. With `head.sampling=none`,
`head.fusion=false` and no ranking loss it is its base, bit for bit; the parts begin as identities.

The NMS-free output chooses its best `head.candidates` cells first, and decodes only these. Without refinement they are
those of a one-to-one head (YOLOv10). With `head.sampling=topk` they are the one-to-many head's, and the refinement,
which is trained one-to-one, suppresses duplicates among them, corrects scores and moves boxes.

Shape letters: B images, A points over all levels, K chosen points, C classes, R bins, D width.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import silu

from alignrank.boxes import at_least_float32, distances_to_xyxy, mutual_iou
from alignrank.contracts import Built, Predictions
from alignrank.detectors.postprocess import NonMaximumSuppression, TopK
from alignrank.detectors.yolo import (
    STRIDES,
    DecoupledHead,
    HeadConfig,
    YoloConfig,
    build_backbone,
    columns,
    dense_predictions,
    grid_points,
)
from alignrank.nn.bcdm import BidirectionalDynamicFusion
from alignrank.nn.conv import fold_norms
from alignrank.nn.csd import CrossScaleSampling
from alignrank.nn.csp import SCALES
from alignrank.nn.pan import PAN


class AlignRankHeadConfig(HeadConfig):
    """The parts' switches and sizes.

    sampling: `dense` augments every cell's feature, `topk` refines the `candidates` best cells; width: channels of
    sampling and fusion; points and groups of the sampling; experts of the fusion's convolutions; refine_boxes and
    compare (a candidate knows how much better ones overlap it): parts of the refinement.
    """

    sampling: Literal["none", "dense", "topk"] = "topk"
    fusion: bool = True
    width: int = Field(default=32, ge=4, multiple_of=4)
    points: int = Field(default=4, ge=1)
    groups: int = Field(default=4, ge=1)
    experts: int = Field(default=4, ge=1)
    candidates: int = Field(default=300, ge=1)
    refine_boxes: bool = True
    compare: bool = True


class AlignRankConfig(YoloConfig):
    """All sections."""

    head: AlignRankHeadConfig = AlignRankHeadConfig()


class Refinement(nn.Module):
    """Features of chosen cells -> what to add to their class logits [B,K,C] and distances [B,K,4]; zero at first."""

    def __init__(self, width: int, num_classes: int, *, boxes: bool, compare: bool) -> None:
        super().__init__()
        self.score = nn.Linear(num_classes, width)
        self.rivals = nn.Linear(3 * len(POWERS), width) if compare else None
        self.norm = nn.LayerNorm(width)
        self.hidden = nn.Linear(width, width)
        self.logits = nn.Linear(width, num_classes)
        self.distances = nn.Linear(width, 4) if boxes else None
        for last in (self.logits, self.distances):
            if last is not None:
                nn.init.zeros_(last.weight)
                nn.init.zeros_(last.bias)

    def forward(self, features: Tensor, logits: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor | None]:
        """features [B,K,D]; logits [B,K,C] so far, best first; boxes [B,K,4] px."""
        x = self.norm(features) + self.score(logits.sigmoid())
        if self.rivals is not None:
            overlap = better_overlaps(boxes, logits.argmax(-1))
            x = x + self.rivals(torch.cat([overlap.pow(power) for power in POWERS], -1))
        hidden = silu(self.hidden(silu(x)))
        return self.logits(hidden), None if self.distances is None else self.distances(hidden)


# Powers of an overlap: a linear layer can make a threshold between .5 and 1 of them.
POWERS = (1, 2, 4, 8)
# A candidate overlapped by more than this by a better one is probably a duplicate itself, and suppresses no other.
DUPLICATE, STEEPNESS = 0.65, 20.0


def better_overlaps(boxes: Tensor, labels: Tensor) -> Tensor:
    """boxes [B,K,4] and labels [B,K], best first -> [B,K,3]: the largest IoU with a better one of any class, of the
    same class, of the same class and not a duplicate itself.
    """
    earlier = torch.ones(boxes.shape[1], boxes.shape[1], device=boxes.device, dtype=boxes.dtype).tril(-1)
    overlap = mutual_iou(boxes) * earlier  # [B,K,K], row: candidate, column: a better one
    same = overlap * (labels[:, :, None] == labels[:, None]).to(overlap.dtype)
    largest = same.amax(-1)
    own = torch.sigmoid(STEEPNESS * (DUPLICATE - largest))
    return torch.stack([overlap.amax(-1), largest, (same * own[:, None]).amax(-1)], -1)


class AlignRank(nn.Module):
    """images [B,3,H,W] float 0..1, sides multiples of 32 -> Predictions.

    Training: the main predictions are one-to-one, of all cells of the one-to-one head or of the K refined cells;
    `one_to_many` beside them. Evaluation: `output` says which; the one-to-one output has K = min(candidates, A) points
    for each image, best first before refinement, the one-to-many output all A.
    """

    stride = max(STRIDES)

    def __init__(self, config: AlignRankConfig) -> None:
        super().__init__()
        model, head = config.model, config.head
        backbone = build_backbone(model)
        self.backbone: nn.Module = backbone
        self.neck = PAN(
            backbone.channels, SCALES[model.size], decoupled=model.decoupled, compact_last=config.neck.compact
        )
        channels = self.neck.channels
        self.head = DecoupledHead(channels, config.num_classes, head)
        self.one_to_one = copy.deepcopy(self.head) if head.sampling != "topk" else None
        # The parts come last, so that a seed gives the base the same weights with and without them.
        self.fusion = (
            BidirectionalDynamicFusion(channels, width=head.width, experts=head.experts) if head.fusion else None
        )
        self.sampling: CrossScaleSampling | None = None
        self.refinement: Refinement | None = None
        if head.sampling != "none":
            # Refinement looks at the fused maps, which are narrow already.
            sampled = [head.width] * len(channels) if head.fusion and head.sampling == "topk" else channels
            self.sampling = CrossScaleSampling(
                sampled, width=head.width, points=head.points, groups=head.groups, form=head.sampling
            )
        if head.sampling == "topk":
            self.refinement = Refinement(head.width, config.num_classes, boxes=head.refine_boxes, compare=head.compare)
        self.candidates = head.candidates
        self.output: Literal["one_to_one", "one_to_many"] = "one_to_many" if config.postprocess.nms else "one_to_one"

    def forward(self, images: Tensor) -> Predictions:
        maps = self.neck(self.backbone(images))
        sampled = maps
        if self.fusion is not None:
            sampled = self.fusion.fuse(maps)
            maps = self.fusion.join(maps, sampled)
        if self.sampling is not None and self.sampling.form == "dense":
            maps = self.sampling(maps)
        if not self.training and self.output == "one_to_many":
            return dense_predictions(self.head, maps)
        # One-to-one outputs learn from fixed features: their sparse targets would disturb them (YOLOv10, 3.1).
        fixed, sampled = [x.detach() for x in maps], [x.detach() for x in sampled]
        if not self.training:
            head = self.head if self.one_to_one is None else self.one_to_one
            return self._chosen(sampled, columns(head.cls, fixed), columns(head.box, fixed))
        many = dense_predictions(self.head, maps)
        if self.one_to_one is not None:
            main = dense_predictions(self.one_to_one, fixed)
        else:
            assert many.distribution is not None
            logits, distribution = many.logits.detach(), many.distribution.detach().flatten(2)
            main = self._chosen(sampled, logits.transpose(1, 2), distribution.transpose(1, 2))
        main.one_to_many = many
        return main

    def _chosen(self, maps: Sequence[Tensor], logits: Tensor, distribution: Tensor) -> Predictions:
        """logits [B,C,A] and distribution [B,4R,A] of all cells -> predictions of the best K, refined if that is on."""
        count = min(self.candidates, logits.shape[-1])
        cells = logits.amax(1).topk(count).indices  # [B,K]
        chosen = _at(logits, cells)
        bins = _at(distribution, cells).unflatten(-1, (4, -1))
        points, strides = (x[cells] for x in grid_points(maps))
        # The mean bin, as `expected_distances`; written out it is faster for few points in ONNX Runtime.
        distances = (bins.softmax(-1) * torch.arange(bins.shape[-1], device=bins.device)).sum(-1)
        boxes = distances_to_xyxy(points, distances * strides)
        if self.refinement is not None:
            assert self.sampling is not None
            features = self.sampling.of_cells(maps, cells, boxes, STRIDES)
            with torch.autocast(logits.device.type, enabled=False):
                added, moved = self.refinement(features, chosen, boxes)
            chosen = chosen + added
            boxes = boxes if moved is None else distances_to_xyxy(points, (distances + moved) * strides)
        fixed = self.refinement is not None and self.refinement.distances is None
        return Predictions(chosen, boxes, points, strides, fixed_boxes=fixed)

    def deploy(self) -> AlignRank:
        """In place, for inference only: drop what `output` does not use and fold batch norms."""
        if self.output == "one_to_many":
            self.one_to_one = self.refinement = None
            if self.sampling is not None and self.sampling.form == "topk":
                self.sampling = None
        elif self.one_to_one is not None:
            self.head, self.one_to_one = self.one_to_one, None
        fold_norms(self)
        return self


def _at(columns: Tensor, cells: Tensor) -> Tensor:
    """columns [B,D,A], cells [B,K] -> [B,K,D], at least float32."""
    picked = columns.gather(2, cells[:, None].expand(-1, columns.shape[1], -1))
    return at_least_float32(picked).transpose(1, 2)


def build_model(config: AlignRankConfig) -> AlignRank:
    """The network alone: what prediction and export need."""
    return AlignRank(config)


def build_postprocess(config: AlignRankConfig) -> TopK | NonMaximumSuppression:
    """Top k, or NMS where the one-to-many output is asked for."""
    return NonMaximumSuppression() if config.postprocess.nms else TopK()


def build(config: AlignRankConfig) -> Built:
    """Network, criterion and postprocess."""
    from alignrank.detectors.yolo_criterion import YoloCriterion

    return Built(build_model(config), YoloCriterion(config), build_postprocess(config))
