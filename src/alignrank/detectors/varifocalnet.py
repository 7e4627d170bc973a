"""VarifocalNet and what it grew from: FCOS and ATSS, one network with parts on and off.

Source: Zhang et al., VarifocalNet, CVPR 2021 (architecture 3.3 to 3.5, recipe 4); Tian et al., FCOS, ICCV 2019; Zhang
et al., ATSS, CVPR 2020. With `head.star` the class score looks at nine points of the box that the cell has predicted,
with `head.refine` that box is scaled once more. With both and `loss.classification=vfl` it is VarifocalNet, whose class
score is the IoU-aware one (IACS). With neither and with `head.centreness` it is FCOS or ATSS, by `assign.kind`.

Shape letters: B images, L levels, A points over all levels, C classes, D width.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from alignrank.boxes import at_least_float32, distances_to_xyxy, outside_autocast
from alignrank.config import Config
from alignrank.contracts import Predictions
from alignrank.detectors.class_weights import ClassWeights, check_kind
from alignrank.detectors.fine_options import FineConfig, fine_of
from alignrank.detectors.postprocess import NmsConfig
from alignrank.errors import InputError
from alignrank.nn.csp import SCALES, CSPBackbone
from alignrank.nn.deformable import DeformableConv, ModulatedConv, star_offsets, use_grid_sample
from alignrank.nn.fpn import FPN
from alignrank.nn.grid import cell_rows, grid_points

STRIDES = (8, 16, 32, 64, 128)
# Upper end of the box sizes that a level is meant for; the last is twice the one before it. Distances are multiples.
REACH = (64.0, 128.0, 256.0, 512.0, 1024.0)
# Of class logits at first: a score of .01, as almost all places are negatives (Lin et al. 2017, section 3.3).
PRIOR_BIAS = -math.log((1 - 0.01) / 0.01)
# exp of more would only come from a diverging training: 1024 px * e^5.
LARGEST_EXPONENT = 5.0


class ModelConfig(Config):
    """Backbone."""

    backbone: str = "timm:resnet50"
    """`timm:NAME`, or `csp`."""
    size: Literal["t", "n", "s", "m", "l"] = "n"
    """Of `csp`."""
    pretrained: str = ""
    """Backbone weights, timm only: a file, or `hub` to download; empty: random."""
    freeze: int = Field(default=0, ge=0, le=5)
    """Stages that do not learn, from the stem on (2: stem and first stage)."""
    norm: Literal["learn", "fixed", "frozen"] = "learn"
    """Batch norms `learn`, keep their statistics (`fixed`), or keep everything (`frozen`)."""
    drop_path: float = Field(default=0.0, ge=0, lt=1)
    """Share of the deepest block's residuals that training leaves out, timm only."""
    checkpointing: bool = False
    """Training computes activations anew on the way back, for less memory, timm only."""


class NeckConfig(FineConfig):
    """Feature pyramid."""

    width: int = Field(default=256, ge=32, le=8192, multiple_of=32)
    """Channels of the pyramid, and of the head."""
    bottom_up: bool = False
    """A path from fine to coarse after the other."""


class HeadConfig(Config):
    """Outputs."""

    convs: int = Field(default=3, ge=1, le=6)
    """3x3 convolutions of each tower."""
    star: bool = True
    """Classes look at nine points of the predicted box."""
    refine: bool = True
    """Boxes are scaled once more."""
    centreness: bool = False
    """A third output that multiplies the score."""
    dcn: bool = False
    """The towers' last convolutions are deformable (v2)."""
    distances: Literal["reach", "stride"] = "reach"
    """In units of the level's reach, as the paper, or of its stride."""
    groups: int = Field(default=32, ge=1, le=8192)
    """Of the group norms."""


class LossConfig(Config):
    """Kind and weights of the loss terms."""

    classification: Literal["vfl", "qfl", "focal", "ranksort"] = "vfl"
    """Class loss; `vfl` (varifocal) and `qfl` learn the IoU of the box as score."""
    iou_weighted: bool = True
    """The varifocal loss weighs a positive by its IoU."""
    iou_floor: float = Field(default=0.0, ge=0, le=1)
    """A positive's target is not below this at first, which falls to 0; 0: off. Of `vfl` and `qfl`."""
    iou_floor_end: float = Field(default=0.5, gt=0, le=1)
    """Share of the training after which that floor is 0."""
    normalizer: Literal["positives", "targets"] = "positives"
    """The class loss is divided by the number of positives, or by the sum of their targets, of `vfl` and `qfl`."""
    cls: float = Field(default=1.0, ge=0)
    """Weight of the class loss."""
    box_weight: Literal["auto", "iou", "centreness"] = "auto"
    """Of each box in the box losses; `auto`: centreness for first boxes where it is predicted, else IoU."""
    box: float = Field(default=1.5, ge=0)
    """Weight of the loss of first boxes (GIoU)."""
    refine: float = Field(default=2.0, ge=0)
    """Weight of the loss of refined boxes (GIoU)."""
    class_weights: ClassWeights = Field(default_factory=list)
    """How often the positives of each class count in the class loss, in the order of classes; []: once."""

    @model_validator(mode="after")
    def _has_targets(self) -> LossConfig:
        if (self.iou_floor or self.normalizer == "targets") and self.classification not in ("vfl", "qfl"):
            raise ValueError("iou_floor and normalizer=targets need classification=vfl or qfl, which learn an IoU")
        check_kind(self.class_weights, self.classification)
        return self


class AssignConfig(Config):
    """Which point learns which object."""

    kind: Literal["atss", "fcos"] = "atss"
    """`atss`, or `fcos` by size and centre."""
    topk: int = Field(default=9, ge=1, le=10_000)
    """Candidates of each level, of `atss`."""
    radius: float = Field(default=1.5, gt=0)
    """From an object's centre, in strides, of `fcos`."""


class VarifocalNetConfig(Config):
    """All sections."""

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
    postprocess: NmsConfig = NmsConfig()
    """Selection of detections."""


class ConvGroupNorm(nn.Sequential):
    """3x3 convolution, group norm, ReLU."""

    def __init__(self, width: int, groups: int, *, deformable: bool = False) -> None:
        conv: nn.Module
        conv = ModulatedConv(width, width) if deformable else nn.Conv2d(width, width, 3, padding=1, bias=False)
        if isinstance(conv, nn.Conv2d):
            nn.init.normal_(conv.weight, std=0.01)
        super().__init__(conv, nn.GroupNorm(groups, width), nn.ReLU())


class Head(nn.Module):
    """One head for all levels: map [B,D,H,W] of a level -> class logits, first and refined distances, centreness."""

    def __init__(self, width: int, num_classes: int, config: HeadConfig, levels: int) -> None:
        super().__init__()
        self.config = config
        self.cls_tower = _tower(width, config)
        self.box_tower = _tower(width, config)
        # The box's own convolution; the refinement starts from the tower itself.
        self.box_conv = ConvGroupNorm(width, config.groups) if config.star or config.refine else None
        self.box = _output(width, 4)
        self.scale = nn.Parameter(torch.ones(levels))
        self.box_star = DeformableConv(width, width) if config.refine else None
        self.refine = _output(width, 4) if config.refine else None
        self.refine_scale = nn.Parameter(torch.ones(levels)) if config.refine else None
        self.cls_star = DeformableConv(width, width) if config.star else None
        self.cls = _output(width, num_classes, bias=PRIOR_BIAS)
        self.centreness = _output(width, 1) if config.centreness else None

    def forward(self, x: Tensor, level: int, stride: int, unit: float) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """unit: px of a distance of exp(0). Distances [B,4,H,W] are px, at least float32."""
        boxes, classes = self.box_tower(x), self.cls_tower(x)
        raw = self.box(boxes if self.box_conv is None else self.box_conv(boxes))
        distances = _exp(raw, self.scale[level]) * unit
        refined = distances
        if self.box_star is not None or self.cls_star is not None:
            # Outside of autocast: half a pixel is a sixteenth of a cell.
            offsets = star_offsets(distances, stride)
            if self.box_star is not None:
                assert self.refine is not None
                assert self.refine_scale is not None
                factors = _exp(self.refine(self.box_star(boxes, offsets).relu()), self.refine_scale[level])
                refined = factors * distances.detach()
            if self.cls_star is not None:
                classes = self.cls_star(classes, offsets).relu()
        return self.cls(classes), distances, refined, None if self.centreness is None else self.centreness(boxes)


def _tower(width: int, config: HeadConfig) -> nn.Sequential:
    last = config.convs - 1
    return nn.Sequential(
        *(ConvGroupNorm(width, config.groups, deformable=config.dcn and i == last) for i in range(config.convs))
    )


def _output(width: int, channels: int, bias: float = 0.0) -> nn.Conv2d:
    conv = nn.Conv2d(width, channels, 3, padding=1)
    nn.init.normal_(conv.weight, std=0.01)
    nn.init.constant_(conv.bias, bias)  # type: ignore[arg-type]
    return conv


def _exp(raw: Tensor, scale: Tensor) -> Tensor:
    with outside_autocast(raw):
        return (at_least_float32(raw) * scale).clamp(max=LARGEST_EXPONENT).exp()


class VarifocalNet(nn.Module):
    """images [B,3,H,W] float 0..1, sides multiples of 32 -> Predictions over all cells of five levels.

    `boxes` are the refined ones, those of the auxiliary `first` what they were before.
    """

    stride = 32

    def __init__(self, config: VarifocalNetConfig) -> None:
        super().__init__()
        self.config = config
        backbone = build_backbone(config.model)
        self.backbone: nn.Module = backbone
        self.neck = FPN(
            backbone.channels, config.neck.width, bottom_up=config.neck.bottom_up, fine=fine_of(config.neck)
        )
        self.head = Head(config.neck.width, config.num_classes, config.head, len(STRIDES))
        # ATSS has its anchors' centres at the cells' corners; FCOS looks from the middles.
        self.shift = 0.5 if config.assign.kind == "fcos" else 0.0

    def forward(self, images: Tensor) -> Predictions:
        maps = self.neck(self.backbone(images))
        units = REACH if self.config.head.distances == "reach" else tuple(map(float, STRIDES))
        levels = [self.head(x, i, STRIDES[i], units[i]) for i, x in enumerate(maps)]
        logits, first, refined, centreness = zip(*levels, strict=True)
        points, strides = grid_points(maps, STRIDES, shift=self.shift)
        with outside_autocast(images):
            boxes = distances_to_xyxy(points, cell_rows(refined))
            predictions = Predictions(cell_rows(logits), boxes, points, strides)
            if self.config.head.centreness:
                predictions.centreness = cell_rows(centreness)
            if self.training and self.config.head.refine:
                first_boxes = distances_to_xyxy(points, cell_rows(first))
                predictions.auxiliary["first"] = Predictions(predictions.logits, first_boxes, points, strides)
        return predictions

    def deploy(self) -> VarifocalNet:
        """In place, for inference only: deformable convolutions become nine samplings, which every runtime has."""
        use_grid_sample(self)
        return self


def build_backbone(config: ModelConfig) -> Any:
    """One of timm's, or the CSP backbone. Raises InputError for options that it does not have."""
    if config.backbone == "csp":
        of_timm = {"pretrained": "", "freeze": 0, "norm": "learn", "drop_path": 0.0, "checkpointing": False}
        wrong = [f"model.{field}" for field, off in of_timm.items() if getattr(config, field) != off]
        if wrong:
            raise InputError(f"{', '.join(wrong)}: for timm backbones only, and model.backbone is csp")
        return CSPBackbone(SCALES[config.size])
    from alignrank.nn.backbone import TimmPyramid, timm_name

    return TimmPyramid(
        timm_name(config.backbone),
        pretrained=config.pretrained,
        norm=config.norm,
        freeze=config.freeze,
        drop_path=config.drop_path,
        checkpointing=config.checkpointing,
    )
