"""RetinaNet: nine anchors a cell, two plain towers; a detector on which the class losses of VarifocalNet can be tried.

Source: Lin et al., Focal Loss for Dense Object Detection, ICCV 2017, section 4. Differences: the coarse levels are made
from P5, not from C5; towers begin with He's initialisation; a model knows no loss.

Shape letters: B images, L levels, A anchors over all levels, C classes, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from alignrank.boxes import deltas_to_xyxy, outside_autocast
from alignrank.config import Config
from alignrank.contracts import Predictions
from alignrank.detectors.class_weights import ClassWeights, check_kind
from alignrank.detectors.fine_options import fine_of
from alignrank.detectors.postprocess import NmsConfig
from alignrank.detectors.varifocalnet import PRIOR_BIAS, STRIDES, ModelConfig, NeckConfig, build_backbone
from alignrank.nn.fpn import FPN
from alignrank.nn.grid import cell_rows, grid_points

# Sides in strides, and heights in widths.
SIDES = tuple(4 * 2 ** (i / 3) for i in range(3))
SHAPES = (0.5, 1.0, 2.0)


class HeadConfig(Config):
    """Outputs."""

    convs: int = Field(default=4, ge=1, le=6)
    """3x3 convolutions of each tower."""


class LossConfig(Config):
    """Kind and weights of the loss terms."""

    classification: Literal["vfl", "qfl", "focal", "ranksort"] = "focal"
    """Class loss; `vfl` (varifocal) and `qfl` learn the IoU of the box as score."""
    iou_weighted: bool = True
    """The varifocal loss weighs a positive by its IoU."""
    cls: float = Field(default=1.0, ge=0)
    """Weight of the class loss."""
    box: float = Field(default=1.0, ge=0)
    """Weight of the box loss."""
    class_weights: ClassWeights = Field(default_factory=list)
    """How often the positives of each class count in the class loss, in the order of classes; []: once."""

    @model_validator(mode="after")
    def _weighable(self) -> Self:
        check_kind(self.class_weights, self.classification)
        return self


class AssignConfig(Config):
    """By the IoU of an anchor."""

    positive: float = Field(default=0.5, ge=0, le=1)
    """IoU from which an anchor is positive."""
    negative: float = Field(default=0.4, ge=0, le=1)
    """IoU below which it is negative."""


class RetinaNetConfig(Config):
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


def _branch(width: int, convs: int, outputs: int, bias: float) -> nn.Sequential:
    layers: list[nn.Module] = []
    for channels in [width] * convs + [outputs]:
        conv = nn.Conv2d(width, channels, 3, padding=1)
        # N(0, 0.01), the paper's, would let the signal of a narrow tower fade: its four layers have no norms.
        nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
        nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
        layers += [conv, nn.ReLU()]
    nn.init.normal_(conv.weight, std=0.01)
    nn.init.constant_(conv.bias, bias)  # type: ignore[arg-type]
    return nn.Sequential(*layers[:-1])


class RetinaNet(nn.Module):
    """images [B,3,H,W] float 0..1, sides multiples of 32 -> Predictions, `anchors` among them."""

    stride = 32

    def __init__(self, config: RetinaNetConfig) -> None:
        super().__init__()
        backbone = build_backbone(config.model)
        self.backbone: nn.Module = backbone
        width, each = config.neck.width, len(SIDES) * len(SHAPES)
        self.neck = FPN(backbone.channels, width, bottom_up=config.neck.bottom_up, fine=fine_of(config.neck))
        self.cls = _branch(width, config.head.convs, each * config.num_classes, PRIOR_BIAS)
        self.box = _branch(width, config.head.convs, each * 4, 0.0)
        self.num_classes = config.num_classes

    def forward(self, images: Tensor) -> Predictions:
        maps = self.neck(self.backbone(images))
        # The anchors of a cell one after another.
        logits = cell_rows([self.cls(x) for x in maps]).unflatten(-1, (-1, self.num_classes)).flatten(1, 2)
        deltas = cell_rows([self.box(x) for x in maps]).unflatten(-1, (-1, 4)).flatten(1, 2)
        anchors, strides = all_anchors(maps)
        with outside_autocast(images):
            return Predictions(logits, deltas_to_xyxy(anchors, deltas), strides=strides, anchors=anchors)


def all_anchors(maps: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """[A,4] px, in the order of the head's outputs: level, row, column, shape, side; and their strides [A,1]."""
    points, strides = grid_points(maps, STRIDES, shift=0.0)
    shape = torch.tensor(SHAPES, device=points.device).sqrt()
    unit = torch.stack([1 / shape, shape], -1)[:, None] * torch.tensor(SIDES, device=points.device)[:, None]  # [3,3,2]
    half = unit.reshape(1, -1, 2) * strides[:, None] / 2
    anchors = torch.cat([points[:, None] - half, points[:, None] + half], -1)  # [cells,9,4]
    return anchors.flatten(0, 1), strides.repeat_interleave(anchors.shape[1], 0)
