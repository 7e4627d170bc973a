"""RepPoints: a box is nine points that a cell sets; classes and better points come from the features there.

Source: Yang et al., RepPoints, ICCV 2019 (moments 3.2, two stages 3.3). VarifocalNet's table 5 tries its loss on it.

Shape letters: B images, A points over all levels, C classes, D width.
"""

from __future__ import annotations

from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from alignrank.boxes import at_least_float32, outside_autocast
from alignrank.config import Config
from alignrank.contracts import Predictions
from alignrank.detectors.class_weights import ClassWeights, check_kind
from alignrank.detectors.fine_options import fine_of
from alignrank.detectors.postprocess import NmsConfig
from alignrank.detectors.varifocalnet import PRIOR_BIAS, STRIDES, ConvGroupNorm, ModelConfig, NeckConfig, build_backbone
from alignrank.nn.deformable import DeformableConv, use_grid_sample
from alignrank.nn.fpn import FPN
from alignrank.nn.grid import cell_rows, grid_points

TAPS = 9
GRADIENT_MUL = 0.1  # of what the second stage sends back to the first points
TRANSFER_RATE = 0.01  # of the learning rate, for the two numbers that make spreads to half sides
LEAST_VARIANCE = 1e-6  # cells squared: where all points meet the root has no derivative


class HeadConfig(Config):
    """Outputs."""

    convs: int = Field(default=3, ge=1, le=6)
    """3x3 convolutions of each tower."""
    groups: int = Field(default=32, ge=1)
    """Of the group norms."""


class LossConfig(Config):
    """Kind and weights of the loss terms."""

    classification: Literal["vfl", "qfl", "focal", "ranksort"] = "focal"
    """Class loss; `vfl` (varifocal) and `qfl` learn the IoU of the box as score."""
    iou_weighted: bool = True
    """The varifocal loss weighs a positive by its IoU."""
    cls: float = Field(default=1.0, ge=0)
    """Weight of the class loss."""
    first: float = Field(default=0.5, ge=0)
    """Weight of the loss of boxes of the first points."""
    box: float = Field(default=1.0, ge=0)
    """Weight of the loss of boxes of the second points."""
    class_weights: ClassWeights = Field(default_factory=list)
    """How often the positives of each class count in the class loss, in the order of classes; []: once."""

    @model_validator(mode="after")
    def _weighable(self) -> Self:
        check_kind(self.class_weights, self.classification)
        return self


class AssignConfig(Config):
    """Of the second stage, by the IoU of the first box."""

    positive: float = Field(default=0.5, ge=0, le=1)
    """IoU from which a point is positive."""
    negative: float = Field(default=0.4, ge=0, le=1)
    """IoU below which it is negative."""


class RepPointsConfig(Config):
    """All sections."""

    num_classes: int = Field(default=80, ge=1)
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


class Head(nn.Module):
    """One head for all levels: map [B,D,H,W] -> class logits, first and second points [B,18,H,W] in cells, y before x,
    from the cell's own point.
    """

    regular: Tensor

    def __init__(self, width: int, num_classes: int, config: HeadConfig) -> None:
        super().__init__()
        self.cls_tower = nn.Sequential(*(ConvGroupNorm(width, config.groups) for _ in range(config.convs)))
        self.box_tower = nn.Sequential(*(ConvGroupNorm(width, config.groups) for _ in range(config.convs)))
        self.first_conv = nn.Conv2d(width, width, 3, padding=1)
        self.first = nn.Conv2d(width, 2 * TAPS, 1)
        self.second_conv, self.second = DeformableConv(width, width), nn.Conv2d(width, 2 * TAPS, 1)
        self.cls_conv, self.cls = DeformableConv(width, width), nn.Conv2d(width, num_classes, 1)
        for conv in (self.first_conv, self.first, self.second, self.cls):
            nn.init.normal_(conv.weight, std=0.01)
            assert conv.bias is not None
            nn.init.zeros_(conv.bias)
        nn.init.constant_(self.cls.bias, PRIOR_BIAS)  # type: ignore[arg-type]
        rows, columns = torch.meshgrid(torch.arange(-1.0, 2), torch.arange(-1.0, 2), indexing="ij")
        self.register_buffer("regular", torch.stack([rows, columns], -1).reshape(1, -1, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        boxes, classes = self.box_tower(x), self.cls_tower(x)
        first = at_least_float32(self.first(self.first_conv(boxes).relu()))
        # Places are read where the points are: the convolution adds the regular grid.
        offsets = (1 - GRADIENT_MUL) * first.detach() + GRADIENT_MUL * first - self.regular
        second = at_least_float32(self.second(self.second_conv(boxes, offsets).relu())) + first.detach()
        return self.cls(self.cls_conv(classes, offsets).relu()), first, second


class RepPoints(nn.Module):
    """images [B,3,H,W] float 0..1, sides multiples of 32 -> Predictions over all cells of five levels.

    `boxes` are of the second points, those of the auxiliary `first` of the first ones.
    """

    stride = 32

    def __init__(self, config: RepPointsConfig) -> None:
        super().__init__()
        backbone = build_backbone(config.model)
        self.backbone: nn.Module = backbone
        self.neck = FPN(
            backbone.channels, config.neck.width, bottom_up=config.neck.bottom_up, fine=fine_of(config.neck)
        )
        self.head = Head(config.neck.width, config.num_classes, config.head)
        self.transfer = nn.Parameter(torch.zeros(2))  # log of half a side over a spread, x and y

    def forward(self, images: Tensor) -> Predictions:
        maps = self.neck(self.backbone(images))
        logits, first, second = zip(*(self.head(x) for x in maps), strict=True)
        points, strides = grid_points(maps, STRIDES, shift=0.0)
        with outside_autocast(images):
            boxes = self.moments(cell_rows(second), points, strides)
            predictions = Predictions(cell_rows(logits), boxes, points, strides)
            if self.training:
                first_boxes = self.moments(cell_rows(first), points, strides)
                predictions.auxiliary["first"] = Predictions(predictions.logits, first_boxes, points, strides)
        return predictions

    def moments(self, taps: Tensor, points: Tensor, strides: Tensor) -> Tensor:
        """taps [B,A,18] cells, points [A,2] and strides [A,1] px -> boxes [B,A,4]: mean and spread of the nine."""
        places = taps.unflatten(-1, (TAPS, 2)).flip(-1)  # x before y
        spread = (places.var(-2) + LEAST_VARIANCE).sqrt()
        transfer = TRANSFER_RATE * self.transfer + (1 - TRANSFER_RATE) * self.transfer.detach()
        centre, half = points + places.mean(-2) * strides, spread * transfer.exp() * strides
        return torch.cat([centre - half, centre + half], -1)

    def deploy(self) -> RepPoints:
        """In place, for inference only: deformable convolutions become nine samplings, which every runtime has."""
        use_grid_sample(self)
        return self
