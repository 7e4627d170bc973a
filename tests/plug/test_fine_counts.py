"""Parameters and FLOPs of hosts with FINE, beside the paper's: docs/plug.md has the table.

All on the meta device: nothing is computed. A MAC is two FLOPs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import detection
from transformers import (
    PreTrainedModel,
    RTDetrConfig,
    RTDetrForObjectDetection,
    RTDetrResNetConfig,
    RTDetrV2Config,
    RTDetrV2ForObjectDetection,
)

from alignrank.plug import add_fine, remove_fine

# Attention (queries, keys, values, output), a feed-forward of 2 C, two norms, twice, at 256 channels.
ADDED = 2 * (8 * 256**2 + 11 * 256)


def rt_detr(depth: int, config: type[Any], kind: type[PreTrainedModel]) -> Any:
    """As the published checkpoints of ResNet 18 and 50 are configured, for COCO's 80 classes."""
    options: dict[str, Any] = {}
    backbone: dict[str, Any] = {}
    if depth == 18:
        backbone = {"layer_type": "basic", "depths": [2, 2, 2, 2], "hidden_sizes": [64, 128, 256, 512]}
        options = {"encoder_in_channels": [128, 256, 512], "decoder_layers": 3, "hidden_expansion": 0.5}
    stages = RTDetrResNetConfig(out_features=["stage2", "stage3", "stage4"], **backbone)
    with torch.device("meta"):
        return kind(config(backbone_config=stages, num_labels=80, **options)).eval()


def torchvision_detector(name: str) -> Any:
    with torch.device("meta"):
        return getattr(detection, name)(weights=None, weights_backbone=None).eval()


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def affine(model: nn.Module, kind: str) -> int:
    """Scales and shifts of the batch norms of a class, parameters or not."""
    norms = [module for module in model.modules() if type(module).__name__.endswith(kind)]
    assert norms
    return sum(norm.weight.numel() + norm.bias.numel() for norm in norms)


def flops(call: Callable[[Tensor], Any], side: int) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad(), torch.device("meta"):
        call(torch.empty(1, 3, side, side))
    return int(counter.get_total_flops())


@pytest.mark.parametrize(
    ("name", "host", "total"),
    [
        ("fasterrcnn_resnet50_fpn", 41_755_286, 42.809),
        ("fcos_resnet50_fpn", 32_269_600, 33.324),
        ("maskrcnn_resnet50_fpn", 44_401_393, 45.456),
        ("retinanet_resnet50_fpn", 34_014_999, 35.069),
    ],
)
def test_parameters_in_torchvision(name: str, host: int, total: float) -> None:
    """As the library counts its pretrained weights: the backbone's norms are frozen, and no parameters."""
    model = torchvision_detector(name)
    frozen = affine(model.backbone.body, "BatchNorm2d")
    assert parameters(model) - frozen == host
    assert parameters(add_fine(model)) - frozen == host + ADDED
    assert round((host + ADDED) / 1e6, 3) == total


@pytest.mark.parametrize(
    ("depth", "host", "with_affine", "with_fine"),
    [(18, 20_174_608, 20_184_464, 21.239), (50, 42_891_372, 42_944_620, 43.999)],
)
def test_parameters_of_rt_detr(depth: int, host: int, with_affine: int, with_fine: float) -> None:
    """The paper's 21.2 and 44.0 are had with the scales and shifts of frozen norms counted."""
    model = rt_detr(depth, RTDetrConfig, RTDetrForObjectDetection)
    assert parameters(model) == host
    assert host + affine(model, "FrozenBatchNorm2d") == with_affine
    assert parameters(add_fine(model)) == host + ADDED
    assert round((with_affine + ADDED) / 1e6, 3) == with_fine


@pytest.mark.parametrize("depth", [18, 50])
def test_rt_detr_v2_gains_the_same(depth: int) -> None:
    model = rt_detr(depth, RTDetrV2Config, RTDetrV2ForObjectDetection)
    before = parameters(model)
    assert parameters(add_fine(model)) - before == ADDED


@pytest.mark.parametrize(
    ("variant", "added"),
    [
        ("paper", ADDED),
        ("equations", 2 * (4 * 256**2 + 4 * 256)),
        ("prerelease", 2 * (12 * 256**2 + 13 * 256 + 16)),
    ],
)
def test_parameters_of_the_variants(variant: Any, added: int) -> None:
    model = torchvision_detector("fcos_resnet50_fpn")
    before = parameters(model)
    assert parameters(add_fine(model, variant=variant)) - before == added


@pytest.mark.parametrize(("depth", "host", "total"), [(18, 61.51, 62.68), (50, 137.84, 139.01)])
def test_flops_of_rt_detr(depth: int, host: float, total: float) -> None:
    """FLOPs at 640 x 640; both modules are +1.167 G."""
    model = rt_detr(depth, RTDetrConfig, RTDetrForObjectDetection)
    before = flops(model, 640)
    after = flops(add_fine(model), 640)
    assert (round(before / 1e9, 2), round(after / 1e9, 2)) == (host, total)
    assert round((after - before) / 1e9, 3) == 1.167


@pytest.mark.parametrize(
    ("options", "added"),
    [
        ({"attention": "vanilla"}, 17.96),
        ({"attention": "vanilla", "variant": "equations"}, 13.76),
        ({"attention": "linear"}, 6.90),
        ({"attention": "area"}, 9.60),
        ({"attention": "window"}, 7.26),
        ({"variant": "equations"}, 0.75),
        ({"variant": "prerelease"}, 1.27),
    ],
)
def test_flops_of_what_it_is_compared_with(options: dict[str, Any], added: float) -> None:
    """In the encoder of RT-DETR at 640 x 640: levels of 80, 40 and 20 cells."""
    encoder = rt_detr(18, RTDetrConfig, RTDetrForObjectDetection).model.encoder

    def call(_: Tensor) -> None:
        encoder([torch.empty(1, 256, side, side) for side in (80, 40, 20)])

    before = flops(call, 640)
    assert round((flops_with(encoder, call, 640, **options) - before) / 1e9, 2) == added


def flops_with(model: nn.Module, call: Callable[[Tensor], Any], side: int, **options: Any) -> int:
    """The same with FINE, which then goes out again."""
    add_fine(model, **options)
    counted = flops(call, side)
    remove_fine(model)
    return counted


@pytest.mark.parametrize("name", ["fasterrcnn_resnet50_fpn", "retinanet_resnet50_fpn", "fcos_resnet50_fpn"])
def test_macs_in_torchvision(name: str) -> None:
    """MACs at 800 x 800: the paper has +1.1 G for Faster and Mask R-CNN, and +1.4 G for the two others."""
    backbone = torchvision_detector(name).backbone
    before = flops(backbone, 800)
    assert round((flops_with(backbone, backbone, 800) - before) / 2e9, 3) == 1.055


@pytest.mark.parametrize(("ratio", "pool", "added"), [(1, 1, 18.92), (4, 1, 1.58), (1, 2, 2.19), (4, 2, 0.25)])
def test_macs_of_pooling(ratio: int, pool: int, added: float) -> None:
    """Faster R-CNN at 800 x 800, both fusions pooled by the same factor (the paper's figure 5).

    Rests at the border are tokens of their own here. Without them, figures are 1.56, 2.18 and 0.22 in the second to
    the fourth of the cases.
    """
    backbone = torchvision_detector("fasterrcnn_resnet50_fpn").backbone
    before = flops(backbone, 800)
    assert round((flops_with(backbone, backbone, 800, ratio=ratio, pools=(pool, pool)) - before) / 2e9, 2) == added
