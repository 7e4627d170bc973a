"""The base detector: a backbone and neck of choice, decoupled head with DFL, one or two sets of outputs.

Sources: YOLOv8's published table (widths, depths, blocks, head); Wang et al. 2024 (YOLOv10) for the parts
that the `decoupled`, `compact`, `attention`, `separable` and `dual` switches turn on. Backbones and necks:
`alignrank.detectors.yolo_pyramid`.
Differences: boxes leave the head in input pixels, not in strides; a model knows no loss.

Shape letters: B images, L levels, A points over all levels, C classes, R bins of a distance.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn.functional import linear

from alignrank.boxes import at_least_float32, distances_to_xyxy, outside_autocast
from alignrank.config import Config
from alignrank.contracts import Predictions
from alignrank.detectors.class_weights import ClassWeights, check_kind
from alignrank.detectors.postprocess import NonMaximumSuppression, TopK
from alignrank.detectors.yolo_pyramid import ModelConfig, NeckConfig, build_pyramid
from alignrank.nn.cells import patches_at
from alignrank.nn.conv import ConvNormAct, depthwise, fold_norms
from alignrank.nn.grid import cell_rows, grid_points

STRIDES = (8, 16, 32)
# Prior of the class bias: about 5 objects in an image of this side.
PRIOR_OBJECTS, PRIOR_SIDE = 5, 640


class HeadConfig(Config):
    """Outputs."""

    separable: bool = False
    """Cheap class branch: depthwise and pointwise convolutions (YOLOv10)."""
    dual: bool = False
    """A one-to-one head, which needs no NMS, beside the one-to-many one."""
    bins: int = Field(default=16, ge=2, le=64)
    """Of the distribution of each distance (DFL)."""
    box_width: int = Field(default=0, ge=0, le=8192)
    """Channels of the box branch; 0: as many as YOLOv8 has."""
    separable_boxes: bool = False
    """The first convolution of the box branch is cheap."""


class LossConfig(Config):
    """Kind and weights of the loss terms; align and rank act inside of the class term (`losses.ranking`), consensus
    inside of the box term (`losses.consensus_box`)."""

    classification: Literal["vfl", "qfl", "focal", "bce", "ranksort"] = "bce"
    """Class loss; `vfl` and `qfl` learn the quality of the box as score."""
    box: float = Field(default=7.5, ge=0)
    """Weight of the box loss (CIoU)."""
    cls: float = Field(default=0.5, ge=0)
    """Weight of the class loss."""
    dfl: float = Field(default=1.5, ge=0)
    """Weight of the loss of the distances' distributions."""
    align: float = Field(default=0.0, ge=0)
    """Weight of list alignment, inside of the class term: scores of an object's candidates follow their quality."""
    rank: float = Field(default=0.0, ge=0)
    """Weight of pairwise ranking, inside of the class term: a better candidate of an object scores higher."""
    align_scope: Literal["object", "class"] = "object"
    """What `align` makes one list: the candidates of an object, or those of all objects of a class in an image."""
    rank_scope: Literal["object", "class", "both"] = "object"
    """Whom `rank` compares: candidates of one object, of different objects of a class in the whole batch, or both."""
    rank_across: Literal["all", "best"] = "all"
    """Which candidates `rank` compares with those of other objects: all, or the best-scored one of each object."""
    consensus: float = Field(default=0.0, ge=0)
    """Weight of the consensus, inside of the box term: CIoU of the mean box of an object's candidates."""
    consensus_to: Literal["scores", "boxes", "both"] = "both"
    """What learns from `consensus`: the scores, which say who counts in the mean, the boxes, or both."""
    quality: float = Field(default=1.0, ge=0)
    """Weight of the loss of alignrank's `head.quality`; nothing else learns from it."""
    tau: float = Field(default=1.0, gt=0)
    """Temperature of the scores in `align` and `consensus`."""
    beta: float = Field(default=1.0, ge=0)
    """Exponent of the quality in `align`."""
    mu: float = Field(default=1.0, ge=0)
    """Margin of a pair in `rank`, in parts of its difference of quality."""
    delta: float = Field(default=0.05, ge=0)
    """Pairs whose qualities differ by less are not ranked."""
    o2o_pairs: Literal["chosen", "all"] = "chosen"
    """What `rank` orders in a one-to-one output: an object's chosen candidate above its others, or all of them."""
    fade_start: float = Field(default=0.05, ge=0, le=1)
    """Fraction of the training at which `align`, `rank` and `consensus` begin: boxes are noise before."""
    fade_end: float = Field(default=0.1, ge=0, le=1)
    """Fraction of the training from which on they count in full."""
    class_weights: ClassWeights = Field(default_factory=list)
    """How often the positives of each class count in the class loss, in the order of classes; []: once."""

    @model_validator(mode="after")
    def _weighable(self) -> Self:
        check_kind(self.class_weights, self.classification)
        return self


class AssignConfig(Config):
    """Task-aligned assignment: score^alpha * IoU^beta."""

    topk: int = Field(default=10, ge=1, le=10_000)
    """Candidates of an object for the one-to-many head; the one-to-one head takes 1."""
    alpha: float = Field(default=0.5, ge=0)
    """Exponent of the score."""
    beta: float = Field(default=6.0, ge=0)
    """Exponent of the IoU."""
    min_side: float = Field(default=0.0, ge=0)
    """Objects with a shorter side, px of the input, are enlarged to it for the test whether a point is inside."""


class PostprocessConfig(Config):
    """Selection of detections."""

    nms: bool = False
    """Take the one-to-many output and NMS, also where there is an NMS-free one."""
    consensus: float = Field(default=0.0, ge=0, lt=1)
    """With NMS: overlap above which candidates enter the mean that a kept box becomes; 0: off."""
    agnostic: bool = False
    """Suppression across classes: one object, one class."""


class YoloConfig(Config):
    """All sections of the base detector."""

    num_classes: int = Field(default=80, ge=1, le=100_000)
    """Of the data set; set from its class names when a training begins."""
    model: ModelConfig = ModelConfig()
    """Backbone."""
    neck: NeckConfig = NeckConfig()
    """Feature pyramid."""
    head: HeadConfig = HeadConfig()
    """Outputs."""
    loss: LossConfig = LossConfig()
    """Loss terms and their weights."""
    assign: AssignConfig = AssignConfig()
    """Which point learns which object."""
    postprocess: PostprocessConfig = PostprocessConfig()
    """Selection of detections."""


class DecoupledHead(nn.Module):
    """Per level, a box branch (4*R channels) and a class branch (C channels)."""

    def __init__(self, channels: Sequence[int], num_classes: int, config: HeadConfig) -> None:
        super().__init__()
        bins = config.bins
        box_width = config.box_width or max(16, channels[0] // 4, 4 * bins)
        cls_width = max(channels[0], min(num_classes, 100))
        self.bins = bins
        self.box = nn.ModuleList(
            nn.Sequential(
                *_box_entry(c, box_width, config.separable_boxes),
                ConvNormAct(box_width, box_width, 3),
                nn.Conv2d(box_width, 4 * bins, 1),
            )
            for c in channels
        )
        self.cls = nn.ModuleList(
            nn.Sequential(*_class_tower(c, cls_width, config.separable), nn.Conv2d(cls_width, num_classes, 1))
            for c in channels
        )
        self._set_biases(num_classes)

    def _set_biases(self, num_classes: int) -> None:
        for box, cls, stride in zip(self.box, self.cls, STRIDES, strict=True):
            nn.init.constant_(box[-1].bias, 1.0)  # type: ignore[index]
            prior = PRIOR_OBJECTS / num_classes / (PRIOR_SIDE / stride) ** 2
            nn.init.constant_(cls[-1].bias, math.log(prior))  # type: ignore[index]

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """L maps [B,*,H,W] -> logits [B,A,C] and distribution [B,A,4,R], both at least float32."""
        logits = cell_rows([branch(x) for branch, x in zip(self.cls, maps, strict=True)])
        distances = cell_rows([branch(x) for branch, x in zip(self.box, maps, strict=True)])
        return logits, distances.unflatten(-1, (4, self.bins))

    def box_of_cells(self, maps: Sequence[Tensor], cells: Tensor) -> Tensor:
        """The distribution [B,K,4R] of cells [B,K] alone, as `forward` has it but for rounding. Most of a branch is its
        last 3x3 convolution, which for the best few cells of an image is next to nothing.
        """
        entered = []
        for branch, x in zip(self.box, maps, strict=True):
            for layer in list(branch)[:-2]:  # type: ignore[call-overload]
                x = layer(x)
            entered.append(x)
        patches, level = patches_at(entered, cells)
        found = [_of_patches(branch[-2], branch[-1], patches) for branch in self.box]  # type: ignore[index]
        chosen = found[0]
        for number, other in enumerate(found[1:], 1):
            chosen = torch.where(level == number, other, chosen)
        return at_least_float32(chosen)


def _of_patches(layer: ConvNormAct, last: nn.Conv2d, patches: Tensor) -> Tensor:
    """patches [B,K,9D] as `patches_at` has them -> what the two say of the cells in their middle, [B,K,4R]."""
    weight = layer.conv.weight.permute(0, 2, 3, 1).flatten(1)
    found = linear(patches, weight, layer.conv.bias)
    found = layer.act(layer.norm(found.flatten(0, 1)[..., None, None]).reshape_as(found))
    return linear(found, last.weight.flatten(1), last.bias)


def _box_entry(in_channels: int, width: int, separable: bool) -> list[nn.Module]:
    return (
        [depthwise(in_channels), ConvNormAct(in_channels, width)] if separable else [ConvNormAct(in_channels, width, 3)]
    )


def _class_tower(in_channels: int, width: int, separable: bool) -> list[nn.Module]:
    if separable:
        return [depthwise(in_channels), ConvNormAct(in_channels, width), depthwise(width), ConvNormAct(width, width)]
    return [ConvNormAct(in_channels, width, 3), ConvNormAct(width, width, 3)]


def columns(branches: nn.ModuleList, maps: Sequence[Tensor]) -> Tensor:
    """`cell_rows` of what a branch says, as [B,D,A], as convolutions leave it: no copy where few cells are wanted."""
    return at_least_float32(torch.cat([branch(x).flatten(2) for branch, x in zip(branches, maps, strict=True)], 2))


def expected_distances(distribution: Tensor) -> Tensor:
    """[...,R] raw logits -> [...] mean bin. A softmax and a dot product in one: no [..,R] result is kept."""
    bins = torch.arange(distribution.shape[-1], device=distribution.device, dtype=distribution.dtype)
    return distribution.softmax(-1) @ bins


class Yolo(nn.Module):
    """images [B,3,H,W] float 0..1, sides multiples of 32 -> Predictions.

    With a dual head, `output` says which one makes the main predictions in evaluation; the other is then
    not computed. In training both are, the one-to-many one as the auxiliary `one_to_many`.
    """

    stride = max(STRIDES)

    def __init__(self, config: YoloConfig) -> None:
        super().__init__()
        head = config.head
        self.backbone, self.neck = build_pyramid(config.model, config.neck)
        self.head = DecoupledHead(self.neck.channels, config.num_classes, head)
        self.one_to_one: DecoupledHead | None = copy.deepcopy(self.head) if head.dual else None
        self.output: Literal["one_to_one", "one_to_many"] = (
            "one_to_one" if head.dual and not config.postprocess.nms else "one_to_many"
        )

    def forward(self, images: Tensor) -> Predictions:
        maps = self.neck(self.backbone(images))
        if self.one_to_one is None or (not self.training and self.output == "one_to_many"):
            return dense_predictions(self.head, maps)
        # The one-to-one head learns from fixed features: its sparse targets would disturb them (YOLOv10, 3.1).
        main = dense_predictions(self.one_to_one, [x.detach() for x in maps])
        if self.training:
            main.auxiliary["one_to_many"] = dense_predictions(self.head, maps)
        return main

    def deploy(self) -> Yolo:
        """In place, for inference only: drop the head that `output` does not use and fold batch norms."""
        if self.one_to_one is not None:
            if self.output == "one_to_one":
                self.head = self.one_to_one
            self.one_to_one = None
        fold_norms(self)
        return self


def dense_predictions(head: DecoupledHead, maps: Sequence[Tensor]) -> Predictions:
    """What `head` says of every cell."""
    logits, distribution = head(maps)
    points, strides = grid_points(maps, STRIDES)
    # Decoded outside autocast: half precision has half-pixel steps above 512.
    with outside_autocast(logits):
        boxes = distances_to_xyxy(points, expected_distances(distribution) * strides)
    return Predictions(logits, boxes, points, strides, distribution)


def postprocess(config: YoloConfig) -> TopK | NonMaximumSuppression:
    """Top k where the main output is one-to-one, NMS otherwise."""
    return selection(config.postprocess, nms_free=config.head.dual and not config.postprocess.nms)


def selection(config: PostprocessConfig, *, nms_free: bool) -> TopK | NonMaximumSuppression:
    """Top k or NMS with the section's options."""
    if nms_free:
        return TopK(agnostic=config.agnostic, consensus=config.consensus)
    return NonMaximumSuppression(consensus=config.consensus, agnostic=config.agnostic)
