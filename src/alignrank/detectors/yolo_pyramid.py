"""Backbones and necks of the base detector: which there are, their options, and the one place where they are chosen."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from alignrank.config import Config
from alignrank.detectors.fine_options import FineConfig, fine_of
from alignrank.errors import InputError
from alignrank.nn import yolov5, yolov6, yolov12
from alignrank.nn.csp import SCALES, CSPBackbone, Scale
from alignrank.nn.pan import PAN


class ModelConfig(Config):
    """Backbone."""

    backbone: str = "csp"
    """`csp` and `timm:NAME` have YOLOv8's neck; `yolov5`, `yolov6` and `yolov12` their own."""
    size: Literal["t", "n", "s", "m", "l"] = "n"
    """Width and depth of backbone (but timm's), neck and head; `yolov6` has `n` and `s`."""
    pretrained: str = ""
    """Backbone weights, timm only: a file, or `hub` to download; empty: random."""
    frozen_norm: bool = False
    """Batch norms of a timm backbone keep their statistics and parameters."""
    decoupled: bool = False
    """Downsampling by a pointwise and a depthwise convolution (YOLOv10)."""
    compact: bool = False
    """The last block is made of compact inverted blocks with large kernels (YOLOv10)."""
    attention: bool = False
    """Self-attention behind the coarsest stage (YOLOv10)."""
    light: bool = False
    """Bottlenecks of half the width at stride 8."""


class NeckConfig(FineConfig):
    """Feature pyramid."""

    compact: bool = False
    """The last block is made of compact inverted blocks with large kernels."""


@dataclass(frozen=True, slots=True)
class Family:
    """A backbone with a neck of its own: `backbone(scale)`, and `neck(channels, scale, fine=)` of its channels."""

    scales: Mapping[str, Scale]
    backbone: Callable[[Any], Any]
    neck: Callable[..., Any]


FAMILIES = {
    "yolov5": Family(yolov5.SCALES, yolov5.YOLOv5Backbone, yolov5.YOLOv5Neck),
    "yolov6": Family(yolov6.SCALES, yolov6.YOLOv6Backbone, yolov6.YOLOv6Neck),
    "yolov12": Family(yolov12.SCALES, yolov12.YOLOv12Backbone, yolov12.YOLOv12Neck),
}


def build_pyramid(model: ModelConfig, neck: NeckConfig) -> tuple[nn.Module, Any]:
    """Backbone and neck: images [B,3,H,W] -> maps of strides 8, 16, 32 with the neck's `channels`.

    Raises InputError for unknown backbones, and for options and sizes that a backbone does not have.
    """
    fine = fine_of(neck)
    if model.backbone not in FAMILIES:
        backbone = build_backbone(model)
        scale = SCALES[model.size]
        return backbone, PAN(backbone.channels, scale, decoupled=model.decoupled, compact_last=neck.compact, fine=fine)
    family = FAMILIES[model.backbone]
    _refuse_options(model, neck)
    if model.size not in family.scales:
        raise InputError(f"model.size: {model.backbone} has {', '.join(family.scales)}, got {model.size!r}")
    own = family.scales[model.size]
    backbone = family.backbone(own)
    return backbone, family.neck(backbone.channels, own, fine=fine)


def _refuse_options(model: ModelConfig, neck: NeckConfig) -> None:
    switches = ("pretrained", "frozen_norm", "decoupled", "compact", "attention", "light")
    wrong = [f"model.{name}" for name in switches if getattr(model, name)]
    wrong += ["neck.compact"] if neck.compact else []
    if wrong:
        raise InputError(f"{', '.join(wrong)}: not an option of model.backbone={model.backbone}")


def build_backbone(config: ModelConfig) -> Any:
    """The CSP backbone, or one of timm's. Raises InputError for options that it does not have."""
    scale = SCALES[config.size]
    if config.backbone == "csp":
        if config.pretrained or config.frozen_norm:
            raise InputError(
                "model.pretrained and model.frozen_norm are for timm backbones; set model.backbone=timm:NAME"
            )
        return CSPBackbone(
            scale,
            decoupled=config.decoupled,
            compact_last=config.compact,
            attention=config.attention,
            light=config.light,
        )
    from alignrank.nn.backbone import TimmBackbone, timm_name

    name = timm_name(config.backbone, others=("csp", *FAMILIES))
    return TimmBackbone(name, scale, pretrained=config.pretrained, frozen_norm=config.frozen_norm)
