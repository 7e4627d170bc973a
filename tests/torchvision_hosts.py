"""Tiny detectors of torchvision with random weights, and state dicts as the library publishes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tiny_forms import tiny_torchvision
from torch import nn

from alignrank.contracts import Built
from alignrank.weights.recipe import Recipe, load_recipe

RECIPES = {
    "fcos_resnet50_fpn": "torchvision/fcos_resnet50_fpn",
    "retinanet_resnet50_fpn_v2": "torchvision/retinanet_resnet50_fpn_v2",
    "fasterrcnn_resnet50_fpn_v2": "torchvision/fasterrcnn_resnet50_fpn_v2",
}
HEADS = ("cls_logits", "bbox_reg", "bbox_pred", "cls_score")
DENSE = ("fcos_resnet50_fpn", "retinanet_resnet50_fpn_v2")


def tiny(name: str, num_classes: int = 3, **overrides: Any) -> Recipe:
    return load_recipe(RECIPES[name], num_classes=num_classes, overrides=tiny_torchvision(name) | overrides)


@torch.no_grad()
def shaken(built: Built) -> Built:
    """Weights that tell pictures and places apart, and scores around .5: heads begin at almost nothing."""
    generator = torch.Generator().manual_seed(3)
    for module in built.model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, generator=generator)
    for parameter in built.model.parameters():
        if parameter.requires_grad:
            parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
    for name, module in built.model.named_modules():
        if name.endswith("cls_logits"):
            module.bias -= module.bias.mean()
        if ".layer_blocks." in name and isinstance(
            module, nn.Conv2d
        ):  # maps grow in a backbone that has learnt nothing
            module.weight *= 0.01
        if name.endswith(HEADS):  # rounding, times sides of hundreds of pixels, must stay small
            module.weight *= 0.05
    return built


def write_published(path: Path, name: str, num_classes: int = 3) -> Any:
    """The library's state dict as safetensors; returns the library's network."""
    model = shaken(tiny(name, num_classes).build()).model.host.eval()
    save_file({key: value.contiguous() for key, value in model.state_dict().items()}, path)
    return model
