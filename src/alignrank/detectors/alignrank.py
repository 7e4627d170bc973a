"""YOLO-AlignRank: the base detector with cross-scale sampling, gated fusion and a loss that ranks boxes by quality.

Source: Li & Liu 2025, YOLO-AlignRank; only the abstract is public, the design is ours. With `head.sampling=none`,
`head.fusion=false` and no ranking loss it is its base, bit for bit; the parts begin as identities.

There are two class branches, one-to-many and one-to-one, and one box branch: only scores have to suppress duplicates,
and boxes learn better from the many positives. In training both branches speak of every cell. In evaluation the
one-to-one branch scores all cells, and only the best `head.candidates` are decoded (and, with `head.sampling=topk`,
refined): selection comes before decoding.

Shape letters: B images, A points over all levels, K chosen points, C classes, R bins, D width.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention, silu

from alignrank.boxes import at_least_float32, distances_to_xyxy
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
    rows,
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
    compare (candidates attend to each other): parts of the refinement.
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
        self.heads = max(width // 16, 1)
        self.norm = nn.LayerNorm(width)
        self.score = nn.Linear(num_classes, width)
        self.qkv = nn.Linear(width, 3 * width) if compare else None
        self.attended = nn.Linear(width, width) if compare else None
        self.place = nn.Linear(4, width) if compare else None
        self.norm2 = nn.LayerNorm(width)
        self.hidden = nn.Linear(width, width)
        self.logits = nn.Linear(width, num_classes)
        self.distances = nn.Linear(width, 4) if boxes else None
        for last in (self.logits, self.distances):
            if last is not None:
                nn.init.zeros_(last.weight)
                nn.init.zeros_(last.bias)

    def forward(self, features: Tensor, logits: Tensor, place: Tensor) -> tuple[Tensor, Tensor | None]:
        """features [B,K,D]; logits [B,K,C] so far; place [B,K,4]: centre and log size, in units of the image."""
        x = self.norm(features + self.score(logits.sigmoid()))
        if self.qkv is not None:
            assert self.attended is not None
            assert self.place is not None
            x = x + self.attended(self._attention(self.qkv(x + self.place(place))))
        hidden = silu(self.hidden(self.norm2(x)))
        return self.logits(hidden), None if self.distances is None else self.distances(hidden)

    def _attention(self, qkv: Tensor) -> Tensor:
        num_images, count, _ = qkv.shape
        query, key, value = qkv.reshape(num_images, count, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        y = scaled_dot_product_attention(query, key, value)
        return y.transpose(1, 2).reshape(num_images, count, -1)


class AlignRank(nn.Module):
    """images [B,3,H,W] float 0..1, sides multiples of 32 -> Predictions.

    Training: the main predictions are one-to-one, of all cells, or of the refined K cells with those of all cells as
    `earlier`; `one_to_many` beside them. Evaluation: `output` says which one; the one-to-one output has
    K = min(candidates, A) points for each image, best first, the one-to-many output all A.
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
        self.one_to_one = copy.deepcopy(self.head.cls)  # class branches
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
        # One-to-one scores learn from fixed features: their sparse targets would disturb them (YOLOv10, 3.1).
        fixed, sampled = [x.detach() for x in maps], [x.detach() for x in sampled]
        if not self.training:
            return self._chosen(sampled, columns(self.one_to_one, fixed), columns(self.head.box, fixed))
        many = dense_predictions(self.head, maps)
        assert many.distribution is not None
        logits = rows(self.one_to_one, fixed)
        main = Predictions(logits, many.boxes.detach(), many.points, many.strides, fixed_boxes=True)
        if self.refinement is not None:
            distribution = many.distribution.detach().flatten(2).transpose(1, 2)
            earlier, main = main, self._chosen(sampled, logits.detach().transpose(1, 2), distribution)
            main.earlier = earlier
        main.one_to_many = many
        return main

    def _chosen(self, maps: Sequence[Tensor], logits: Tensor, distribution: Tensor) -> Predictions:
        """logits [B,C,A] and distribution [B,4R,A] of all cells -> predictions of the best K, refined if that is on."""
        count = min(self.candidates, logits.shape[-1])
        cells = logits.amax(1).topk(count).indices  # [B,K]
        chosen = _at(logits, cells)
        bins = _at(distribution, cells).unflatten(-1, (4, -1))
        points, strides = (x[cells] for x in grid_points(maps))
        with torch.autocast(logits.device.type, enabled=False):
            # The mean bin, as `expected_distances`; written out it is faster for few points in ONNX Runtime.
            distances = (bins.softmax(-1) * torch.arange(bins.shape[-1], device=bins.device)).sum(-1)
            if self.refinement is not None:
                assert self.sampling is not None
                boxes = distances_to_xyxy(points, distances * strides)
                features = self.sampling.of_cells(maps, cells, boxes, STRIDES)
                added, moved = self.refinement(features, chosen, _place(boxes, maps[0]))
                chosen = chosen + added
                distances = distances if moved is None else distances + moved
            boxes = distances_to_xyxy(points, distances * strides)
        moved_boxes = self.refinement is not None and self.refinement.distances is not None
        return Predictions(chosen, boxes, points, strides, fixed_boxes=not moved_boxes)

    def deploy(self) -> AlignRank:
        """In place, for inference only: drop what `output` does not use and fold batch norms."""
        if self.output == "one_to_many":
            self.one_to_one, self.refinement = nn.ModuleList(), None
            if self.sampling is not None and self.sampling.form == "topk":
                self.sampling = None
        else:
            self.head.cls = nn.ModuleList()
        fold_norms(self)
        return self


def _at(columns: Tensor, cells: Tensor) -> Tensor:
    """columns [B,D,A], cells [B,K] -> [B,K,D], at least float32."""
    picked = columns.gather(2, cells[:, None].expand(-1, columns.shape[1], -1))
    return at_least_float32(picked).transpose(1, 2)


def _place(boxes: Tensor, finest: Tensor) -> Tensor:
    """boxes [B,K,4] px -> [B,K,4]: centre and logarithm of the size, in units of the image."""
    size = boxes.new_tensor([finest.shape[-1], finest.shape[-2]]) * STRIDES[0]
    left_top, right_bottom = (boxes / size.repeat(2)).split(2, -1)
    return torch.cat([(left_top + right_bottom) / 2, (right_bottom - left_top).clamp(min=1e-3).log()], -1)


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
